"""Files that a power cut leaves whole, under the name that they were given."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sounds import chirp, write_audio

from earmark import files
from earmark.files import final_name, make_folder, partial_path, partials_of, whole
from earmark.ingest.encode import encode_archive
from earmark.ingest.unpack import MEMBERS_FILE
from earmark.settings import EncodeSettings
from earmark.tables import MEMBERS, write_table


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What was made to last and what was renamed, in order."""
    told: list[tuple[str, str]] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        fsync(descriptor)
        told.append(("synced", str(Path(f"/proc/self/fd/{descriptor}").readlink())))

    def renamed(path: Path, target: Any) -> Path:
        told.append(("named", str(target)))
        return replace(path, target)

    monkeypatch.setattr(files, "_named", set())
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    return told


def test_a_file_has_its_bytes_on_disk_before_its_name_and_its_name_before_it_is_told_of(
    tmp_path: Path, steps: list[tuple[str, str]]
) -> None:
    path = tmp_path / "date=2026-11-01" / "a.json"
    with whole(path) as partial:
        partial.write_text("{}")
    assert steps == [
        ("synced", str(tmp_path.parent)),  # whoever made tmp_path may have been killed before
        ("synced", str(tmp_path)),  # which has got a new folder
        ("synced", str(partial)),
        ("named", str(path)),
        ("synced", str(path.parent)),
    ]


def test_the_name_of_a_folder_is_on_disk_before_anything_in_it_whoever_made_it(
    tmp_path: Path, steps: list[tuple[str, str]]
) -> None:
    folder = tmp_path / "made"
    folder.mkdir()  # by a process that was killed then
    for name in ("a", "b"):
        with whole(folder / name) as partial:
            partial.touch()
    assert steps[0] == ("synced", str(tmp_path))
    assert steps.count(("synced", str(tmp_path))) == 1


def test_all_opus_files_are_on_disk_before_the_manifest_that_names_them(
    tmp_path: Path, steps: list[tuple[str, str]]
) -> None:
    unpacked, audio = tmp_path / "unpacked", tmp_path / "audio" / "a.tar"
    unpacked.mkdir()
    write_audio(unpacked / "0.wav", chirp(0.2))
    row = {"ordinal": 0, "member": "x", "file": "0.wav", "sha256": "0" * 64, "status": "ok"}
    row |= {"bytes": (unpacked / "0.wav").stat().st_size}
    write_table(unpacked / MEMBERS_FILE, MEMBERS, [row], {"archive_status": "ok"})
    steps.clear()
    manifest = tmp_path / "manifest.parquet"
    encode_archive(unpacked, audio, manifest, "a.tar", tmp_path, EncodeSettings(workers=1))
    assert (audio / "000000.opus").exists()
    assert steps.index(("synced", str(audio))) < steps.index(("named", str(manifest)))


def test_a_folder_is_made_with_those_above_it(tmp_path: Path, steps: list[tuple[str, str]]) -> None:
    make_folder(tmp_path / "a" / "b" / "c")
    assert steps == [
        ("synced", str(folder))
        for folder in (tmp_path.parent, tmp_path, tmp_path / "a", tmp_path / "a" / "b")
    ]


NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=40
).filter(lambda name: name not in (".", ".."))


@given(NAMES)
def test_the_final_name_of_what_is_half_written_is_told_for_any_name(name: str) -> None:
    assert final_name(partial_path(Path("/x") / name).name) == name


def test_what_is_half_written_of_one_name_is_not_of_another(tmp_path: Path) -> None:
    for name in ("a", "a.1", "a.1.partial", "b"):
        partial_path(tmp_path / name).touch()
    assert partials_of(tmp_path / "a.1") == [partial_path(tmp_path / "a.1")]
    assert partials_of(tmp_path / "nowhere" / "a") == []
