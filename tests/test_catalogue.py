"""The catalogue: which archives there are, and which of them are to be done."""

import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from earmark import catalogue, locks
from earmark.catalogue import Archive, discover, pending
from earmark.errors import EarmarkError
from earmark.volume import Volume

NOON = 1_793_534_400  # 2026-11-01 12:00 UTC


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume(tmp_path / "volume")


def put(source: Path, name: str, content: bytes = b"tar", modified: float = NOON) -> Path:
    path = source / name
    path.write_bytes(content)
    os.utime(path, (modified, modified))
    return path


def receive(volume: Volume, archive: Archive) -> None:
    receipt = volume.receipt(archive.date, archive.name)
    receipt.parent.mkdir(parents=True, exist_ok=True)
    receipt.write_text("{}")


def names(archives: list[Archive]) -> list[str]:
    return [archive.name for archive in archives]


def test_archives_are_listed_oldest_first_with_the_day_of_their_last_change(
    source: Path, volume: Volume
) -> None:
    put(source, "new.tar", modified=NOON)
    put(source, "old.tar.gz", modified=NOON - 86_400)
    archives = discover(source, volume)
    assert [(a.name, a.date) for a in archives] == [
        ("old.tar.gz", "2026-10-31"),
        ("new.tar", "2026-11-01"),
    ]


def test_what_is_hidden_or_no_file_is_no_archive(source: Path, volume: Volume) -> None:
    put(source, ".uploading.tar.Xy12")
    (source / "folder.tar").mkdir()
    assert discover(source, volume) == []


def test_jobs_read_what_the_driver_found(source: Path, volume: Volume) -> None:
    put(source, "a.tar")
    assert catalogue.read(volume) == []
    found = discover(source, volume)
    assert catalogue.read(volume) == found


def test_a_finished_or_quarantined_archive_is_not_pending(source: Path, volume: Volume) -> None:
    for name in ("done.tar", "bad.tar", "left.tar"):
        put(source, name)
    archives = discover(source, volume)
    receive(volume, archives[1])
    assert archives[1].name == "done.tar"
    volume.quarantine("bad.tar").parent.mkdir(parents=True)
    volume.quarantine("bad.tar").write_text("{}")
    assert names(pending(archives, volume, 0)) == ["left.tar"]


def test_an_archive_that_changed_a_moment_ago_is_left_for_later(
    source: Path, volume: Volume
) -> None:
    put(source, "settled.tar")
    (source / "growing.tar").write_bytes(b"half")
    assert names(pending(discover(source, volume), volume, latency_minutes=10)) == ["settled.tar"]


def test_an_archive_that_was_replaced_after_it_was_done_is_pending_again(
    source: Path, volume: Volume
) -> None:
    put(source, "a.tar")
    receive(volume, discover(source, volume)[0])
    put(source, "a.tar", b"another", modified=NOON + 86_400)
    assert names(pending(discover(source, volume), volume, 0)) == ["a.tar"]


def test_an_archive_that_was_replaced_on_the_same_day_is_pending_again(
    source: Path, volume: Volume
) -> None:
    put(source, "a.tar")
    receive(volume, discover(source, volume)[0])
    assert pending(discover(source, volume), volume, 0) == []
    put(source, "a.tar", b"grown", modified=NOON + 60)
    for _ in range(2):  # and stays so until it has been received again
        time.sleep(0.01)
        assert names(pending(discover(source, volume), volume, 0)) == ["a.tar"]
    receive(volume, discover(source, volume)[0])
    assert pending(discover(source, volume), volume, 0) == []


def test_a_lost_catalogue_does_not_make_finished_archives_pending(
    source: Path, volume: Volume
) -> None:
    put(source, "a.tar")
    receive(volume, discover(source, volume)[0])
    (volume.state / "catalogue.json").unlink()
    assert pending(discover(source, volume), volume, 0) == []


def test_an_entry_is_written_once_and_again_only_when_the_archive_changed(
    source: Path, volume: Volume
) -> None:
    put(source, "a.tar")
    discover(source, volume)
    first = volume.entry("a.tar").stat().st_mtime_ns
    discover(source, volume)
    assert volume.entry("a.tar").stat().st_mtime_ns == first
    put(source, "a.tar", b"grown", modified=NOON + 60)
    archives = discover(source, volume)
    assert volume.entry("a.tar").stat().st_mtime_ns > first
    receive(volume, archives[0])
    discover(source, volume)
    assert not volume.entry("a.tar").exists()


def test_the_catalogue_of_a_driver_at_work_is_left_alone(source: Path, volume: Volume) -> None:
    put(source, "a.tar")
    before = discover(source, volume)
    entry = volume.entry("a.tar").read_text()
    put(source, "a.tar", b"another", modified=NOON + 60)
    put(source, "b.tar")
    with locks.exclusive(volume.driver_lock):
        assert sorted(names(discover(source, volume))) == ["a.tar", "b.tar"]
        assert catalogue.read(volume) == before
        assert volume.entry("a.tar").read_text() == entry
        assert volume.entry("b.tar").exists()  # a dry run beside the driver can plan with it


def test_an_archive_that_is_being_worked_on_keeps_its_entry(source: Path, volume: Volume) -> None:
    path = put(source, "a.tar")
    before = discover(source, volume)
    volume.incoming("a.tar").parent.mkdir(parents=True)
    volume.incoming("a.tar").write_bytes(b"tar")
    path.unlink()
    assert discover(source, volume) == before
    put(source, "a.tar", b"another", modified=NOON + 86_400)
    assert discover(source, volume) == before


@pytest.mark.parametrize(
    "name",
    [
        "-rf.tar",
        "$(reboot).tar",
        "a,b.tar",
        "a'b.tar",
        'a"b.tar',
        "a\nb.tar",
        "{x}.tar",
        "a\\b.tar",
        "é.tar",
    ],
)
def test_a_name_that_could_mean_something_else_is_refused_and_recorded(
    source: Path, volume: Volume, name: str
) -> None:
    put(source, name)
    archives = discover(source, volume)
    assert archives[0].refused
    assert pending(archives, volume, 0) == []
    assert catalogue.read(volume) == archives


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(name=st.binary(min_size=1, max_size=80))
def test_any_name_is_either_taken_whole_or_refused(
    source: Path, volume: Volume, name: bytes
) -> None:
    if b"/" in name or b"\0" in name or name in (b".", b".."):
        return
    path = os.fsencode(source) + b"/" + name
    with open(path, "wb"):  # noqa: PTH123
        pass
    try:
        archives = discover(source, volume)
    finally:
        os.remove(path)  # noqa: PTH107
    for archive in archives:
        assert archive.refused or volume.incoming(archive.name).parent == volume.root / "incoming"
        assert archive.refused or os.fsencode(archive.name) == name


def test_a_source_folder_that_does_not_exist_is_named_with_the_remedy(
    tmp_path: Path, volume: Volume
) -> None:
    with pytest.raises(EarmarkError, match=r"nowhere cannot be listed .*source\.directory"):
        discover(tmp_path / "nowhere", volume)


@pytest.mark.parametrize("content", ["", "{", '{"archives": [{"name": "x"}]}', '{"archives": 3}'])
def test_a_damaged_catalogue_is_named(source: Path, volume: Volume, content: str) -> None:
    discover(source, volume)
    file = volume.state / "catalogue.json"
    file.write_text(content)
    with pytest.raises(EarmarkError, match=r"catalogue\.json is damaged"):
        catalogue.read(volume)


def test_the_catalogue_is_readable_by_people(source: Path, volume: Volume) -> None:
    put(source, "a.tar")
    discover(source, volume)
    content = json.loads((volume.state / "catalogue.json").read_text())
    assert content["archives"][0]["name"] == "a.tar"
    assert content["source"] == str(source)
