"""Loose files, and files that a list names, as archives."""

import json
import os
import tarfile
import time
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from example_receipt import example
from hypothesis import given
from hypothesis import strategies as st
from place import member
from sounds import chirp, write_audio

from earmark import configuration, receipts
from earmark.errors import EarmarkError, UnavailableError
from earmark.ingest import catalogue
from earmark.ingest.encode import encode_archive
from earmark.ingest.fetch import FETCHING, fetch_archive
from earmark.ingest.loose_files import Cut, LooseFiles, forget
from earmark.ingest.source import Listed, LooseSource, source_of
from earmark.ingest.unpack import MEMBERS_FILE, unpack_archive
from earmark.locks import exclusive
from earmark.record import analysis
from earmark.settings import DiskSpaceLimits, EncodeSettings, TransferSettings
from earmark.tables import MANIFEST, MEMBERS, read_table, write_table
from earmark.volume import Volume

ROOM = DiskSpaceLimits(warn_percent=100, stop_fetching_percent=100, stop_encoding_percent=100)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "clips").mkdir()
    return tmp_path / "clips"


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    (tmp_path / "volume").mkdir()
    return Volume(tmp_path / "volume")


def put(path: Path, content: bytes = b"sound", age_seconds: float = 3600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    then = time.time() - age_seconds
    os.utime(path, (then, then))
    return path


def loose(folder: Path, volume: Volume, **options: Any) -> LooseSource:
    return LooseSource(LooseFiles(folder, options.pop("listing", None), volume, **options))


def fetched(source: LooseSource, volume: Volume) -> list[Path]:
    """Find all archives and fetch them."""
    found = catalogue.poll(source, volume, 0).archives
    for archive in found:
        with exclusive(volume.archive_lock(archive.name), FETCHING, 60) as lock:
            entry = volume.entry(archive.name)
            if entry.exists():
                fetch_archive(entry, source, volume, TransferSettings(), ROOM, lock)
    return [volume.incoming(archive.name) for archive in found]


def members(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive, encoding="utf-8") as tar:
        return {each.name: file.read() for each in tar if (file := tar.extractfile(each))}


def test_files_of_all_folders_become_an_archive_of_the_size_that_was_told(folder, volume):
    put(folder / "a.wav", b"one"), put(folder / "deep/er/b.mp3", os.urandom(5000), 7200)
    (archive,) = fetched(loose(folder, volume), volume)
    assert list(members(archive)) == ["deep/er/b.mp3", "a.wav"]  # the oldest first
    assert members(archive)["a.wav"] == b"one"


def test_a_file_that_comes_later_gets_a_new_archive_and_changes_none_that_is_there(folder, volume):
    put(folder / "a.wav")
    (first,) = fetched(loose(folder, volume), volume)
    before = first.read_bytes(), first.stat().st_mtime_ns
    put(folder / "b.wav", age_seconds=90_000)  # older than the one that is done
    again, second = sorted(fetched(loose(folder, volume), volume), key=lambda path: path != first)
    assert (again, (first.read_bytes(), first.stat().st_mtime_ns)) == (first, before)
    assert list(members(second)) == ["b.wav"]


def test_an_archive_takes_so_many_files_and_bytes_and_a_larger_file_stands_alone(folder, volume):
    for number in range(5):
        put(folder / f"{number}.wav", b"12345", 3600 - number)
    put(folder / "large.wav", bytes(100), 60)
    found = loose(folder, volume, most_files=3, most_bytes=10).files_of.cut()
    names = [[os.fsdecode(member.path) for member in cut.members] for cut in found]
    assert names == [["0.wav", "1.wav"], ["2.wav", "3.wav"], ["4.wav"], ["large.wav"]]
    assert len({cut.name for cut in found}) == 4


def test_a_file_that_was_changed_a_moment_ago_waits(folder, volume):
    put(folder / "old.wav"), put(folder / "growing.wav", age_seconds=5)
    (cut,) = loose(folder, volume, still_seconds=60).files_of.cut()
    assert [member.path for member in cut.members] == [b"old.wav"]


def test_an_archive_whose_file_changes_before_it_is_fetched_is_put_together_anew(folder, volume):
    put(folder / "a.wav"), put(folder / "b.wav", age_seconds=3000)
    source = loose(folder, volume)
    (old,) = source.files()
    put(folder / "b.wav", b"more of it", 10)
    assert source.find(old.name) is None
    (new,) = source.files()
    assert new.name != old.name
    (archive,) = fetched(source, volume)
    assert members(archive) == {"a.wav": b"sound", "b.wav": b"more of it"}


def test_a_file_that_vanishes_after_it_was_found_is_named_and_the_others_go_on(folder, volume):
    put(folder / "a.wav"), put(folder / "gone.wav")
    source = loose(folder, volume)
    (archive,) = catalogue.poll(source, volume, 0).archives
    (folder / "gone.wav").unlink()
    with pytest.raises(EarmarkError, match=r"gone\.wav has vanished"):
        source.copy(archive.name, volume.root / "partial", 60, [])
    (rest,) = fetched(source, volume)
    assert list(members(rest)) == ["a.wav"]


def test_files_of_a_done_archive_may_go_and_the_rest_is_not_taken_again(folder, volume):
    put(folder / "a.wav"), put(folder / "b.wav")
    (archive,) = fetched(loose(folder, volume), volume)
    (folder / "a.wav").unlink()
    assert loose(folder, volume).files() == []
    assert archive.exists()


def test_nothing_is_known_of_a_file_that_is_gone_from_a_done_archive(tmp_path, folder, volume):
    put(folder / "jane.wav"), put(folder / "other.wav")
    rows: list[dict[str, object]] = [
        {"path": "jane.wav", "said": "secret words"},
        {"path": "other.wav", "said": "hello"},
    ]
    source = loose(folder, volume, listing=write_list(tmp_path / "list.csv", rows))
    fetched(source, volume)
    (folder / "jane.wav").unlink()
    assert source.files() == []
    (cut,) = volume.cuts.iterdir()
    assert b"secret" not in cut.read_bytes()
    put(folder / "jane.wav", age_seconds=0)
    (new,) = source.files()  # neither the archive that is done nor the file that stayed
    source.copy(new.name, tmp_path / "new.tar", 60, [])
    assert list(members(tmp_path / "new.tar")) == ["jane.wav"]


def test_a_folder_that_is_not_mounted_for_a_while_makes_no_file_new(tmp_path, folder, volume):
    put(folder / "a.wav"), put(folder / "in/b.wav", age_seconds=60)
    source = loose(folder, volume)
    fetched(source, volume)
    before = source.files()
    folder.rename(tmp_path / "share")
    folder.mkdir()
    assert source.files() == []
    folder.rmdir()
    (tmp_path / "share").rename(folder)
    assert source.files() == before


def test_files_of_a_subfolder_that_cannot_be_read_for_a_while_are_not_taken_again(
    tmp_path, folder, volume
):
    put(folder / "a.wav"), put(folder / "in/b.wav", age_seconds=60)
    source = loose(folder, volume)
    fetched(source, volume)
    before = source.files()
    (folder / "in").rename(tmp_path / "away")
    (folder / "in").symlink_to("in")  # leads nowhere: the system says ELOOP, and not ENOENT
    assert source.files() == []
    (folder / "in").unlink()
    (tmp_path / "away").rename(folder / "in")
    assert source.files() == before


def test_a_file_that_comes_back_unchanged_is_not_taken_again(tmp_path, folder, volume):
    put(folder / "a.wav"), put(folder / "jane/b.wav", age_seconds=60)
    source = loose(folder, volume)
    fetched(source, volume)
    (archive,) = source.files()
    (folder / "jane").rename(tmp_path / "away")
    assert source.files() == []
    (path,) = volume.cuts.iterdir()
    kept = msgspec.json.decode(path.read_bytes(), type=Cut).members
    assert [member.path for member in kept] == [b"a.wav", b""]
    (tmp_path / "away").rename(folder / "jane")
    assert source.files() == []
    assert source.find(archive.name) is None
    put(folder / "jane/b.wav", b"other")
    (new,) = source.files()
    assert new.name != archive.name


def test_what_a_list_says_of_an_erased_clip_goes_and_its_archive_stays_what_it_is(
    tmp_path, folder, volume
):
    put(folder / "0.wav"), put(folder / "1.wav", age_seconds=60)
    rows: list[dict[str, object]] = [
        {"path": "0.wav", "said": "secret wörds"},
        {"path": "1.wav", "said": "hello"},
    ]
    source = loose(folder, volume, listing=write_list(tmp_path / "list.jsonl", rows))
    (archive,) = source.files()
    source.copy(archive.name, tmp_path / "before.tar", 60, [])
    forget(volume, archive.name, [0])
    source.copy(archive.name, tmp_path / "after.tar", 60, [])
    assert source.files() == [archive]
    assert b"secret" not in (volume.cuts / f"{archive.name}.json").read_bytes()
    before, after = (tmp_path / "before.tar", tmp_path / "after.tar")
    assert before.stat().st_size == after.stat().st_size == archive.bytes
    assert members(before) == members(after)
    assert b"secret" in before.read_bytes()
    assert b"secret" not in after.read_bytes()
    assert b"hello" in after.read_bytes()
    forget(volume, "of_another_source.tar", [0])


@pytest.mark.parametrize("damage", ["damaged", "damaged and erased from"])
def test_a_done_archive_whose_record_is_damaged_is_not_taken_again(folder, volume, damage):
    for number in range(3):
        put(folder / f"in/{number}.wav", b"sound" * (1 + number), age_seconds=3600 + number)
    source = loose(folder, volume)
    (archive,) = source.files()
    be_done(archive, source, volume)
    put(folder / "in/1.wav", b"another sound")
    put(folder / "new.wav")
    before = {each.name for each in source.files()}
    path = volume.cuts / f"{archive.name}.json"
    path.write_bytes(path.read_bytes()[:100])
    if damage == "damaged and erased from":
        forget(volume, archive.name, [0])
    assert {each.name for each in source.files()} == before
    assert archive.name not in before  # one of its files has changed


def test_a_done_archive_whose_record_is_damaged_is_the_one_it_was(folder, volume):
    put(folder / "a.wav"), put(folder / "b.wav", b"other", age_seconds=60)
    source = loose(folder, volume)
    (archive,) = before = source.files()
    be_done(archive, source, volume)
    (volume.cuts / f"{archive.name}.json").write_bytes(b"")
    assert source.files() == before


def test_files_of_a_damaged_record_whose_archive_is_not_done_are_taken_all_the_same(folder, volume):
    put(folder / "a.wav"), put(folder / "b.wav", b"other", age_seconds=60)
    source = loose(folder, volume)
    (archive,) = before = source.files()
    (volume.cuts / f"{archive.name}.json").write_bytes(b"\0garbage")
    with pytest.raises(EarmarkError, match=r"is damaged .*`earmark discover` makes it anew"):
        source.find(archive.name)
    assert source.files() == before


def be_done(archive: Listed, source: LooseSource, volume: Volume) -> None:
    """Leave what a run leaves of an archive."""
    cut = source.files_of.find(archive.name)
    assert cut is not None
    rows = [
        member(cut.name, ordinal, cut.date)
        | {"member": each.path.decode(), "source_bytes": each.bytes}
        for ordinal, each in enumerate(cut.members)
    ]
    write_table(volume.manifest(cut.date, cut.name), MANIFEST, rows, {})
    known = {"archive": cut.name, "date": cut.date}
    told = example(**known, bytes=cut.bytes, modified_ns=cut.modified_ns)
    receipts.write(volume.receipt(cut.date, cut.name), told)


def test_links_pipes_hidden_files_and_the_volume_are_left_out(tmp_path, folder):
    inside = Volume(folder / "volume")
    put(inside.root / "audio/x.opus"), put(folder / ".hidden.wav"), put(folder / ".git/y.wav")
    put(tmp_path / "outside/secret.wav")
    (folder / "link.wav").symlink_to(tmp_path / "outside/secret.wav")
    (folder / "linked").symlink_to(tmp_path / "outside")
    os.mkfifo(folder / "pipe.wav")
    put(folder / "a.wav")
    (cut,) = loose(folder, inside).files_of.cut()
    assert [member.path for member in cut.members] == [b"a.wav"]


def test_a_folder_that_becomes_a_link_is_not_followed_when_it_is_fetched(tmp_path, folder, volume):
    put(folder / "in/a.wav", b"sound"), put(tmp_path / "outside/a.wav", b"other")
    source = loose(folder, volume)
    (listed,) = source.files()
    (folder / "in").rename(tmp_path / "before")
    (folder / "in").symlink_to(tmp_path / "outside")
    with pytest.raises(EarmarkError, match=r"in/a\.wav has vanished or can't be read"):
        source.copy(listed.name, volume.root / "partial", 60, [])


HOSTILE = [
    b"-rf.wav", b"$(touch pwned).wav", b"a\nb.wav", b"caf\xe9\xff.wav", b"\xe2\x80\xae.wav",
    b"%n{a}*?.wav", b"n" * 250, b"\xf0\x9f\x94\xa5.wav",
]  # fmt: skip


def test_files_of_hostile_names_come_through_as_members_with_a_name_that_can_be_read(
    tmp_path, folder, volume
):
    for name in HOSTILE:
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(name)
    (archive,) = fetched(loose(folder, volume), volume)
    unpack_archive(archive, tmp_path / "unpacked")
    rows = read_table(tmp_path / "unpacked" / MEMBERS_FILE, MEMBERS).to_pylist()
    assert {row["status"] for row in rows} == {"ok"}
    contents = {(tmp_path / "unpacked" / row["file"]).read_bytes() for row in rows}
    assert contents == set(HOSTILE)
    assert r"caf\xe9\xff.wav" in {row["member"] for row in rows}


def test_a_folder_that_is_missing_is_said(tmp_path, volume):
    with pytest.raises(UnavailableError, match=r"nowhere cannot be used .* source\.directory"):
        loose(tmp_path / "nowhere", volume).files()


# A list


def write_list(path: Path, rows: list[dict[str, object]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        duckdb.from_arrow(pa.Table.from_pylist(rows)).write_csv(str(path))
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_what_a_list_says_of_a_file_reaches_the_manifest_and_can_be_grouped_by(
    tmp_path, folder, volume, suffix
):
    for number in range(3):
        write_audio(folder / f"{number}.wav", chirp(0.2, 16_000, number), 16_000)
    put(folder / "not listed.wav")
    source = loose(
        folder, volume,
        listing=write_list(
            tmp_path / f"list{suffix}",
            [
                {"path": "0.wav", "speaker": "Zoë", "site": 'a "b", c'},
                {"path": "1.wav", "speaker": "Zoë", "site": None},
                {"path": str(folder / "2.wav"), "speaker": "Bo", "site": None},
            ],
        ),
    )  # fmt: skip
    (archive,) = fetched(source, volume)
    date = catalogue.poll(source, volume, 0).archives[0].date
    manifest = volume.manifest(date, archive.name)
    unpack_archive(archive, tmp_path / "unpacked")
    audio = volume.audio(date, archive.name)
    encode_archive(
        tmp_path / "unpacked", audio, manifest, archive.name, volume.root, EncodeSettings(workers=1)
    )
    rows = {row["member"]: row for row in read_table(manifest, MANIFEST).to_pylist()}
    assert set(rows) == {"0.wav", "1.wav", "2.wav"}
    assert json.loads(rows["0.wav"]["metadata"]) == {"speaker": "Zoë", "site": 'a "b", c'}
    own = tmp_path / "by_speaker.sql"
    own.write_text(
        "SELECT metadata ->> 'speaker' AS speaker, count(*) AS clips FROM manifests "
        "GROUP BY speaker ORDER BY speaker"
    )
    assert analysis.run(own, volume.root).fetchall() == [("Bo", 1), ("Zoë", 2)]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("l.csv", "path\n../secret.wav\n", r"row 1 of .* names \.\./secret\.wav, .* not below"),
        ("l.csv", "path\n/etc/passwd\n", r"/etc/passwd, which is not below"),
        ("l.csv", "path\na.wav\n./a.wav\n", r"row 2 .* once more"),
        ("l.csv", "file\na.wav\n", r"row 1 of .* has no path"),
        ("l.csv", "path,x\na.wav\n", r"line 2 has another number of columns"),
        ("l.jsonl", '{"path": "a.wav"}\n[]\n', r"l\.jsonl \(source\.list\) can't be read"),
        ("l.jsonl", '{"path": 3}', r"row 1 of .* has no path"),
        ("l.parquet", "PAR1", r"l\.parquet \(source\.list\) can't be read"),
        ("l.txt", "a.wav", r"its name has to end in \.csv, \.jsonl or \.parquet"),
        ("l.jsonl", json.dumps({"path": "a", "x": "y" * 70_000}), r"bytes of metadata"),
        ("l.jsonl", f'{{"path": "a", "x": "{"ö" * 40_000}"}}', r"80008 bytes of metadata"),
        ("l.jsonl", f'{{"path": "a", "x": {"[" * 5000 + "]" * 5000}}}', r"nested|recurs"),
        ("l.jsonl", f'{{"path": "a", "x": {"[" * 100 + "]" * 100}}}', r"row 1 .* nested"),
        ("l.csv", ",path,x\n0,a.wav\n", r"line 2 has another number of columns"),
        ("l.csv", ",path\n0,a.wav,x\n", r"line 2 has another number of columns"),
    ],
)
def test_a_list_that_cannot_be_taken_says_why(tmp_path, folder, volume, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(EarmarkError, match=message):
        loose(folder, volume, listing=tmp_path / name).files()


def test_the_index_that_pandas_writes_into_a_list_is_no_metadata(tmp_path, folder, volume):
    put(folder / "a.wav")
    (tmp_path / "l.csv").write_text(",path,speaker\n0,a.wav,Bo\n")
    (cut,) = loose(folder, volume, listing=tmp_path / "l.csv").files_of.cut()
    assert [member.metadata for member in cut.members] == ['{"speaker":"Bo"}']


def test_files_of_a_list_that_are_not_there_are_told_and_the_rest_is_taken(
    tmp_path, folder, volume, caplog
):
    put(folder / "a.wav")
    (tmp_path / "l.csv").write_text("path\na.wav\ngone.wav\n")
    (cut,) = loose(folder, volume, listing=tmp_path / "l.csv").files_of.cut()
    assert [member.path for member in cut.members] == [b"a.wav"]
    assert "1 of the files" in caplog.text
    assert "gone.wav among them" in caplog.text


def test_what_any_tar_says_of_its_members_is_taken_only_as_a_json_object(unpack_metadata):
    assert unpack_metadata('{"a": [1, "\u202e"]}') == '{"a": [1, "\\u202e"]}'
    for bad in ("[1]", "{", "NaN", '{"a": NaN}', "[" * 100_000, "", "null"):
        assert unpack_metadata(bad) is None


@given(st.binary(max_size=200).filter(lambda value: b"\0" not in value))
def test_whatever_stands_there_is_an_object_or_nothing(value):
    from earmark.ingest.tarheaders import metadata

    found = metadata(value)
    assert found is None or (found.isascii() and isinstance(json.loads(found), dict))


@pytest.fixture
def unpack_metadata(tmp_path):
    def unpack(value: str) -> str | None:
        with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
            info = tarfile.TarInfo("a.wav")
            info.pax_headers = {"EARMARK.metadata": value}
            tar.addfile(info)
        unpack_archive(tmp_path / "a.tar", tmp_path / "unpacked")
        (row,) = read_table(tmp_path / "unpacked" / MEMBERS_FILE, MEMBERS).to_pylist()
        assert row["status"] == "ok"
        return row["metadata"]

    return unpack


# The configuration


def test_the_configuration_names_loose_files_and_refuses_to_delete_them(tmp_path):
    source = {"kind": "files", "directory": str(tmp_path / "clips")}
    made = source_of(configuration.resolve({"source": source}))
    assert str(made) == f"loose files below {tmp_path / 'clips'}"
    with pytest.raises(EarmarkError, match=r"source\.delete_after.* deletes no loose files"):
        configuration.resolve({"source": source | {"delete_after": True}})
    with pytest.raises(EarmarkError, match=r"source\.list' is missing"):
        configuration.resolve({"source": source | {"kind": "list"}})


@pytest.mark.parametrize(
    ("below", "is_taken"),
    [
        ("volume", False), ("volume/audio", False), ("volume/state/cuts", False),
        ("link", False), ("volume/clips", True), ("", True), ("volumes", True),
    ],
)  # fmt: skip
def test_what_earmark_writes_itself_is_no_source(tmp_path, volume, below, is_taken):
    (tmp_path / "link").symlink_to(volume.root / "audio")
    config = {
        "volume": {"root": str(volume.root)},
        "source": {"kind": "files", "directory": str(tmp_path / below)},
    }
    if is_taken:
        configuration.resolve(config)
        return
    with pytest.raises(EarmarkError, match=r"source\.directory.*keeps its own files"):
        configuration.resolve(config)
