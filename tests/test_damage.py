"""What can't be read of a pending archive is made anew."""

from collections.abc import Callable
from pathlib import Path

import pytest
from example_receipt import example
from place import member

from earmark import locks, receipts
from earmark.driver.damage import forget_damaged, set_damaged_aside
from earmark.ingest.catalogue import Archive
from earmark.tables import (
    CLASSES,
    MANIFEST,
    TRANSCRIPTS,
    DamagedError,
    read_table,
    write_table,
)
from earmark.volume import Volume

ARCHIVE = Archive("a.tar", 3, 1_793_534_400 * 10**9)
DATE = ARCHIVE.date


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    """A volume with all files of an archive that is done."""
    volume = Volume(tmp_path)
    rows = [member("a.tar", n, DATE) | {"source_sha256": f"{n:064x}"} for n in range(20)]
    write_table(volume.manifest(DATE, "a.tar"), MANIFEST, rows, {})
    write_table(volume.transcripts("large-v2", DATE, "a.tar"), TRANSCRIPTS, [], {})
    write_table(volume.classes("2026-11", DATE, "a.tar"), CLASSES, [], {})
    receipts.write(volume.receipt(DATE, "a.tar"), example())
    return volume


def files(volume: Volume) -> list[Path]:
    found = sorted(path for path in volume.root.rglob("a.tar.*") if path.is_file())
    return [path for path in found if volume.state not in path.parents]


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def zero(content: bytes) -> bytes:
    return bytes(len(content))


@pytest.mark.parametrize("kind", ["manifests", "transcripts", "classes", "processed"])
@pytest.mark.parametrize("damage", [lambda _: b"", cut, zero, lambda _: b"garbage"])
def test_a_damaged_file_is_set_aside_and_the_others_stay(
    volume: Volume, kind: str, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    before = files(volume)
    assert len(before) == 4
    set_damaged_aside(volume, [ARCHIVE])
    assert files(volume) == before
    (path,) = [path for path in before if path.relative_to(volume.root).parts[0] == kind]
    content = damage(path.read_bytes())
    path.write_bytes(content)
    set_damaged_aside(volume, [ARCHIVE])
    assert files(volume) == [other for other in before if other != path]
    assert path.with_name(f".{path.name}.damaged").read_bytes() == content
    assert f"{path} is damaged" in caplog.text


def test_a_fetched_archive_that_is_cut_off_is_fetched_again(
    volume: Volume, caplog: pytest.LogCaptureFixture
) -> None:
    fetched = volume.incoming(ARCHIVE.name)
    fetched.parent.mkdir()
    fetched.write_bytes(bytes(ARCHIVE.bytes))
    set_damaged_aside(volume, [ARCHIVE])
    assert fetched.exists()
    fetched.write_bytes(bytes(ARCHIVE.bytes - 1))
    with locks.exclusive(volume.archive_lock(ARCHIVE.name)):  # at work
        set_damaged_aside(volume, [ARCHIVE])
    assert fetched.exists()
    set_damaged_aside(volume, [ARCHIVE])
    assert not fetched.exists()
    assert "it is fetched again" in caplog.text


def test_what_was_set_aside_of_tables_goes_once_they_are_made_anew(volume: Volume) -> None:
    paths = files(volume)
    for path in paths:
        content = path.read_bytes()
        path.write_bytes(cut(content))
        set_damaged_aside(volume, [ARCHIVE])
        path.write_bytes(content)
    other = volume.manifest(DATE, "b.tar").with_name(".b.tar.parquet.damaged")
    other.touch()
    forget_damaged(volume, ARCHIVE.name, DATE)
    kept = set(volume.root.rglob(".*.damaged"))
    assert kept == {other, volume.receipt(DATE, "a.tar").with_name(".a.tar.json.damaged")}
    assert files(volume) == paths


def test_nothing_of_an_archive_that_a_process_works_on_is_set_aside(volume: Volume) -> None:
    manifest = volume.manifest(DATE, "a.tar")
    manifest.write_bytes(b"")
    with locks.exclusive(volume.archive_lock("a.tar")):
        set_damaged_aside(volume, [ARCHIVE])
    assert manifest.exists()


def test_a_table_of_another_version_is_left_to_the_person_who_changed_versions(
    volume: Volume,
) -> None:
    manifest = volume.manifest(DATE, "a.tar")
    write_table(manifest, CLASSES, [], {})
    set_damaged_aside(volume, [ARCHIVE])
    assert manifest.exists()


def test_no_changed_byte_of_a_page_goes_unseen(volume: Volume) -> None:
    manifest = volume.manifest(DATE, "a.tar")
    content, table = manifest.read_bytes(), read_table(manifest, MANIFEST)
    footer = int.from_bytes(content[-8:-4], "little") + 8
    seen = 0
    for at in range(4, len(content) - footer, 7):
        manifest.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
        try:
            assert read_table(manifest, MANIFEST).equals(table)  # in a page's header
        except DamagedError:
            seen += 1
    assert seen > 20
