"""Erasing a clip: nothing of it is left, everything else is, and it doesn't come back."""

import csv
import json
import os
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from erasing import DATE, SECRET, WORDS, Erasing
from place import Place, member

from earmark import cli, configuration
from earmark.checkpoints import Checkpoint
from earmark.driver.retention import sweep
from earmark.driver.work import Work
from earmark.errors import EarmarkError
from earmark.files import set_aside
from earmark.ingest.catalogue import poll
from earmark.ingest.encode import encode_archive
from earmark.ingest.loose_files import Cut, Member
from earmark.ingest.source import FolderSource
from earmark.record import database, embedded_server, erasure, spill
from earmark.record.database import connect
from earmark.record.erasure import (
    Erased,
    Found,
    Upload,
    clip_in_archive,
    clip_in_database,
    erase,
    withhold,
)
from earmark.record.load import load_archive
from earmark.settings import EncodeSettings, RetentionSettings
from earmark.speech.deduplication import DeduplicationIndex
from earmark.tables import (
    MANIFEST,
    MEMBERS,
    TRANSCRIPTS,
    read_provenance,
    read_table,
    write_table,
)


@pytest.fixture
def erasing(tmp_path: Path, volume: Path, migrated_database: str) -> Erasing:
    return Erasing(Place(tmp_path, volume), migrated_database)


def test_all_uploads_of_a_content_are_found(erasing: Erasing) -> None:
    sha256, found = erasing.find()
    assert sha256 == SECRET
    assert found.uploads == [
        *(Upload("a.tar", DATE, 1), Upload("a.tar", DATE, 4), Upload("b.tar", DATE, 0))
    ]
    assert found.formerly == []


def test_nothing_of_it_is_left_anywhere(erasing: Erasing) -> None:
    before = erasing.traces(WORDS)
    assert {"audio_files", "transcripts", "classifications", "ra_queue"} < set(before)
    assert {f"manifests/date={DATE}/a.tar.parquet", "incoming/b.tar"} < set(before)
    assert any(re.fullmatch(r"reports/.*/queue\.csv", each) for each in before)
    assert erasing.erase() == ["a.tar", "b.tar"]
    assert erasing.traces(WORDS) == []


def test_everything_else_stays_as_it_was(erasing: Erasing) -> None:
    tables = ("audio_files", "transcripts", "classifications")
    of_others = "SELECT * FROM {0} t WHERE t::text NOT LIKE '%{1}%' AND t::text NOT LIKE '%{2}%'"
    before = {t: erasing.rows(of_others.format(t, WORDS, SECRET)) for t in tables}
    files = [path for path in erasing.volume.root.rglob("*.parquet") if path.stem != "queue"]
    ages = {path: path.stat().st_mtime_ns for path in files}
    told = {path: read_provenance(path) for path in erasing.files}
    erasing.erase()
    for table, rows in before.items():
        assert sorted(erasing.rows(f"SELECT * FROM {table}")) == sorted(rows)
        assert len(rows) == 4
    assert {path: path.stat().st_mtime_ns for path in ages} == ages
    assert {path: read_provenance(path) for path in erasing.files} == told
    rows = read_table(erasing.volume.manifest(DATE, "a.tar"), MANIFEST).to_pylist()
    assert [row["ordinal"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["status"] for row in rows] == ["ok", "skipped", "ok", "ok", "skipped"]
    assert rows[1]["error"] == "erased"
    assert {rows[1][key] for key in ("source_sha256", "opus_path", "duration_seconds")} == {None}
    assert erasing.rows("SELECT name, ok, skipped FROM archives ORDER BY name") == [
        *(("a.tar", 3, 2), ("b.tar", 1, 1))
    ]


def test_the_log_says_what_was_erased_and_nothing_of_what_it_was(erasing: Erasing) -> None:
    erasing.erase()
    said = (erasing.volume.root / "logs" / "erasures.log").read_text()
    lines = said.splitlines()
    assert len(lines) == 3
    assert re.fullmatch(r"20\S+ erased clip 1 of a\.tar of 2026-11-02, for .+", lines[0])
    assert WORDS not in said
    assert SECRET not in said


def test_loading_again_does_not_bring_it_back(erasing: Erasing) -> None:
    erasing.erase()
    receipt = erasing.volume.receipt(DATE, "b.tar")
    load_archive(*erasing.files, receipt, erasing.conninfo, "b.tar", DATE, "large-v2", "2026-11")
    assert erasing.traces(WORDS) == []
    assert erasing.rows("SELECT count(*) FROM audio_files WHERE archive_source = 'b.tar'") == [(1,)]


def test_an_upload_that_comes_later_is_left_out(erasing: Erasing, tmp_path: Path) -> None:
    erasing.erase()
    unpacked = tmp_path / "unpacked"
    (unpacked).mkdir()
    (unpacked / "0").write_text(WORDS)
    row = {"ordinal": 0, "member": f"{WORDS}.mp3", "file": "0", "bytes": 32, "sha256": SECRET}
    write_table(unpacked / "members.parquet", MEMBERS, [row | {"status": "ok"}], {})
    encode_archive(
        unpacked,
        audio_folder=erasing.volume.audio(DATE, "late.tar"),
        manifest=erasing.volume.manifest(DATE, "late.tar"),
        archive="late.tar",
        volume_root=erasing.volume.root,
        settings=EncodeSettings(workers=1),
        erased=Erased(erasing.volume),
    )
    (late,) = read_table(erasing.volume.manifest(DATE, "late.tar"), MANIFEST).to_pylist()
    assert (late["status"], late["error"], late["member"]) == ("skipped", "erased", "")
    assert erasing.traces(WORDS) == []


def test_what_a_killed_stage_kept_is_gone_too(erasing: Erasing) -> None:
    folder = erasing.volume.checkpoint("a.tar", "transcribe_audio")
    parts = Checkpoint(folder, TRANSCRIPTS, "0" * 32, 0)
    parts.add([{"archive": "a.tar", "ordinal": 1, "text": WORDS, "status": "ok"}])
    assert any("state/parts" in each for each in erasing.traces(WORDS))
    erasing.erase()
    assert erasing.traces(WORDS) == []


def test_what_a_killed_question_laid_down_is_gone_too_and_that_of_a_living_one_stays(
    erasing: Erasing,
) -> None:
    with spill.room(erasing.volume) as living:
        killed = erasing.volume.spilled / "killed" / "duckdb_temp_storage-0.tmp"
        killed.parent.mkdir()
        killed.write_text(WORDS)
        erasing.erase()
        assert erasing.traces(WORDS) == []
        assert Path(living).exists()


@pytest.mark.parametrize("by", ["another", "none", "driver"])
@pytest.mark.parametrize("step", ["_erase_rows", "_erase_from_reports", "_erase_files", "_log"])
def test_an_erasure_that_was_cut_off_is_finished_by_the_next_one_and_by_a_driver(
    erasing: Erasing, monkeypatch: pytest.MonkeyPatch, step: str, by: str
) -> None:
    done = getattr(erasure, step)

    def cut(*arguments: Any) -> None:
        done(*arguments)
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(erasure, step, cut)
        with pytest.raises(OSError, match="Input/output"):
            erasing.erase()
    assert erasing.traces(WORDS)
    option = ["--configfile", str(erasing.place.file)]
    assert cli.main(["doctor", *option]) == 1
    if by == "another":
        cli.main(["erase", *option, "a.tar", "1", "--yes"])  # says that it was erased before
    elif by == "none":
        assert cli.main(["erase", *option, "--yes"]) == 0
    else:
        Work(configuration.read(erasing.place.file), lambda: ()).begin()
    assert erasing.traces(WORDS) == []
    assert list(Erased(erasing.volume).unfinished()) == []


def test_a_clip_that_is_not_there_is_told(erasing: Erasing) -> None:
    volume = erasing.volume
    with pytest.raises(EarmarkError, match=r"no manifest of c\.tar"):
        clip_in_archive(volume, "c.tar", 0)
    with pytest.raises(EarmarkError, match=r"no manifest of \*"):
        clip_in_archive(volume, "*", 0)
    with pytest.raises(EarmarkError, match=r"a\.tar of 2026-11-02 has no clip 7; it has 5"):
        clip_in_archive(volume, "a.tar", 7)
    with pytest.raises(EarmarkError, match="no clip 4711 in audio_files"):
        clip_in_database(erasing.conninfo, 4711)
    write_table(volume.manifest("2026-11-03", "a.tar"), MANIFEST, [], {})
    with pytest.raises(EarmarkError, match="several days: 2026-11-02, 2026-11-03; give --date"):
        clip_in_archive(volume, "a.tar", 1)
    assert clip_in_archive(volume, "a.tar", 1, DATE) == (SECRET, Found([Upload("a.tar", DATE, 1)]))


def test_an_archive_that_is_not_loaded_yet_is_found_too(erasing: Erasing) -> None:
    erasing.volume.receipt(DATE, "b.tar").unlink()
    with connect(erasing.conninfo) as connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM archives WHERE name = 'b.tar'")
    assert Upload("b.tar", DATE, 0) in erasing.find()[1].uploads
    erasing.erase()
    assert [each for each in erasing.traces(WORDS) if not each.startswith("incoming")] == []


def test_a_content_that_was_being_encoded_meanwhile_goes_before_it_is_heard_or_loaded(
    erasing: Erasing,
) -> None:
    """An encode that began before the erasure ends after it."""
    manifest = erasing.volume.manifest(DATE, "b.tar")
    files = [path.read_bytes() for path in erasing.files]
    opus = erasing.volume.root / read_table(manifest, MANIFEST)["opus_path"][0].as_py()
    erasing.erase()
    for path, content in zip((*erasing.files, opus), (*files, WORDS.encode()), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    withhold(erasing.volume, "b.tar", DATE)
    receipt = erasing.volume.receipt(DATE, "b.tar")
    load_archive(*erasing.files, receipt, erasing.conninfo, "b.tar", DATE, "large-v2", "2026-11")
    assert erasing.traces(WORDS) == []


def test_rows_that_came_while_the_erasure_waited_go_too(erasing: Erasing) -> None:
    sha256, found = erasing.find()
    receipt = erasing.volume.receipt(DATE, "b.tar")
    with connect(erasing.conninfo) as connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM archives WHERE name = 'b.tar'")
    load_archive(*erasing.files, receipt, erasing.conninfo, "b.tar", DATE, "large-v2", "2026-11")
    list(erase(erasing.volume, erasing.conninfo, sha256, found))
    assert erasing.traces(WORDS) == []


def test_an_archive_that_was_encoded_anew_loses_the_content_and_not_its_old_place(
    erasing: Erasing,
) -> None:
    sha256, found = erasing.find()
    erasing.load("b.tar", [64 * "b", SECRET, 64 * "c"])
    list(erase(erasing.volume, erasing.conninfo, sha256, found))
    assert erasing.traces(WORDS) == []
    rows = read_table(erasing.volume.manifest(DATE, "b.tar"), MANIFEST).to_pylist()
    assert [row["status"] for row in rows] == ["ok", "skipped", "ok"]


def test_a_reviewed_clip_without_a_place_in_its_archive_goes_too(erasing: Erasing) -> None:
    with connect(erasing.conninfo) as connection, connection.cursor() as cursor:
        cursor.execute(
            "UPDATE audio_files SET status = 'reviewed' "
            "WHERE source_sha256 = %s AND archive_source = 'b.tar' RETURNING id",
            [SECRET],
        )
        ((id,),) = cursor.fetchall()
    erasing.load("b.tar", [64 * "d", 64 * "b"])
    assert clip_in_database(erasing.conninfo, id) == (SECRET, Found([]))
    erasing.erase()
    assert [each for each in erasing.traces(WORDS) if each != "incoming/b.tar"] == []


def test_what_people_decided_goes_too_and_who_opened_it_stays(erasing: Erasing) -> None:
    with connect(erasing.conninfo) as connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO reviewers (name, role, password_hash) VALUES ('ada', 'reviewer', '')"
        )
        cursor.execute(
            "INSERT INTO review_decisions "
            "(audio_file_id, reviewer_id, round, chosen_by, verdict, note, claimed_at) "
            "SELECT id, 1, 'first', 'score', 'unsure', original_filename, now() FROM audio_files"
        )
        cursor.execute("INSERT INTO second_reviews SELECT id, 0.1 FROM audio_files")
        cursor.execute("INSERT INTO review_waiting SELECT id, 'second' FROM audio_files")
        cursor.execute("INSERT INTO review_begun SELECT id FROM audio_files")
        cursor.execute(
            "INSERT INTO review_drafts (audio_file_id, reviewer_id, note) "
            "SELECT id, 1, original_filename FROM audio_files"
        )
        cursor.execute(
            "INSERT INTO review_access (reviewer_id, audio_file_id, what) "
            "SELECT 1, id, 'audio' FROM audio_files"
        )
        cursor.execute("SELECT mark_reviewed(id) FROM audio_files")
        cursor.execute(
            "INSERT INTO review_claims "
            "(audio_file_id, reviewer_id, round, chosen_by, expires_at) SELECT min(id), 1, "
            "'second', 'second', now() FROM audio_files WHERE source_sha256 = %s",
            [SECRET],
        )
    before = erasing.rows("SELECT FROM review_access")
    erasing.erase()
    assert erasing.traces(WORDS) == []
    assert erasing.rows("SELECT FROM review_claims") == []
    ((clips,),) = erasing.rows("SELECT count(*) FROM audio_files")
    for table in (
        "review_decisions",
        "second_reviews",
        "review_waiting",
        "review_begun",
        "review_drafts",
    ):
        assert erasing.rows(f"SELECT count(*) FROM {table}") == [(clips,)]
    assert erasing.rows("SELECT FROM review_access") == before
    assert len(before) == clips + 3


def test_the_parts_of_an_archive_with_a_longer_name_stay(erasing: Erasing) -> None:
    other = erasing.volume.checkpoint("a.tar.gz", "transcribe_audio")
    parts = Checkpoint(other, TRANSCRIPTS, "0" * 32, 0)
    parts.add([{"archive": "a.tar.gz", "ordinal": 1, "text": "other", "status": "ok"}])
    erasing.erase()
    assert list(other.rglob("*.parquet"))


def test_long_texts_and_damaged_reports_stop_no_erasure(erasing: Erasing) -> None:
    with connect(erasing.conninfo) as connection, connection.cursor() as cursor:
        cursor.execute(
            "UPDATE transcripts SET transcript_text = transcript_text || repeat('x', 200000)"
        )
    erasing.report()
    damaged = erasing.volume.root / "reports" / "2026-01-01"
    damaged.mkdir()
    (damaged / "queue.parquet").write_text(WORDS)
    (damaged / "queue.csv").write_text(WORDS)
    erasing.erase()
    assert erasing.traces(WORDS) == []


# What was replaced since


OTHERS = [f"{n + 7:064x}" for n in range(5)]


def state_of(erasing: Erasing) -> tuple[dict[str, bytes], list[tuple[Any, ...]]]:
    """All that the volume and the database hold of a.tar but the fetched archive."""
    files = {
        str(path): path.read_bytes()
        for folder in ("audio", "manifests", "transcripts", "classes")
        for path in (erasing.volume.root / folder).rglob("*")
        if path.is_file() and "a.tar" in str(path)
    }
    rows = "SELECT to_jsonb(f) FROM audio_files f WHERE archive_source = 'a.tar' ORDER BY ordinal"
    return files, erasing.rows(rows)


def test_an_archive_that_does_not_hold_the_content_any_more_loses_nothing(
    erasing: Erasing, capsys: pytest.CaptureFixture[str]
) -> None:
    DeduplicationIndex(erasing.volume, "large-v2", DATE).publish("a.tar", {1: SECRET})
    erasing.load("a.tar", OTHERS)
    before = state_of(erasing)
    sha256, found = erasing.find("b.tar", 0)
    assert found.uploads == [Upload("b.tar", DATE, 0)]
    assert found.formerly == [Upload("a.tar", DATE, 1)]
    assert cli.main(["erase", "--configfile", str(erasing.place.file), "b.tar", "0", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [(row["archive"], row["what"][:8], row["member"]) for row in shown] == [
        ("b.tar", "the clip", f"{WORDS}.mp3"),
        ("a.tar", "what old", None),
    ]
    assert list(erase(erasing.volume, erasing.conninfo, sha256, found)) == ["b.tar"]
    assert state_of(erasing) == before


def test_of_an_archive_that_was_encoded_and_not_loaded_again_only_the_old_rows_go(
    erasing: Erasing,
) -> None:
    erasing.make("a.tar", OTHERS)
    before = state_of(erasing)
    _, found = erasing.find("b.tar", 0)
    assert Upload("a.tar", DATE, 1) in found.uploads  # in the database
    preview = erasure.describe(erasing.volume, SECRET, Upload("a.tar", DATE, 1))
    assert (preview["sha256"], preview["member"], preview["transcript"]) == (SECRET, None, None)
    list(erase(erasing.volume, erasing.conninfo, SECRET, found))
    files, rows = state_of(erasing)
    assert files == before[0]
    assert len(rows) == 3


def test_a_transcript_that_is_older_than_the_manifest_loses_what_once_stood_there(
    erasing: Erasing,
) -> None:
    DeduplicationIndex(erasing.volume, "large-v2", DATE).publish("a.tar", {1: SECRET})
    old = [path.read_bytes() for path in of_archive(erasing, "a.tar")]
    erasing.load("a.tar", OTHERS)
    manifest, *derived = of_archive(erasing, "a.tar")
    then = manifest.stat().st_mtime - 60
    for path, content in zip(derived, old[1:], strict=True):
        path.write_bytes(content)  # the archive is encoded again, and heard tomorrow
        os.utime(path, (then, then))
    list(erase(erasing.volume, erasing.conninfo, *erasing.find("b.tar", 0)))
    assert [each for each in erasing.traces(WORDS) if not each.startswith("incoming")] == []
    rows = read_table(manifest, MANIFEST).to_pylist()
    assert {row["status"] for row in rows} == {"ok"}
    assert read_table(derived[0], TRANSCRIPTS)["ordinal"].to_pylist() == [0, 2, 3]


def test_a_queue_of_an_old_report_loses_what_once_stood_in_a_replaced_archive(
    erasing: Erasing,
) -> None:
    DeduplicationIndex(erasing.volume, "large-v2", DATE).publish("a.tar", {1: SECRET})
    queue = next(erasing.volume.root.glob("reports/*/queue.csv"))
    assert queue.read_text().count(WORDS) > 1
    erasing.load("a.tar", OTHERS)
    _, found = erasing.find("b.tar", 0)
    list(erase(erasing.volume, erasing.conninfo, SECRET, found))
    assert WORDS not in queue.read_text()


def of_archive(erasing: Erasing, archive: str) -> tuple[Path, Path, Path]:
    volume = erasing.volume
    return (
        volume.manifest(DATE, archive),
        volume.transcripts("large-v2", DATE, archive),
        volume.classes("2026-11", DATE, archive),
    )


@pytest.mark.parametrize("date", [DATE, "2026-11-03"])
def test_another_archive_of_the_name_that_waits_for_its_next_stage_is_left_alone(
    erasing: Erasing, tmp_path: Path, date: str
) -> None:
    source = FolderSource(tmp_path / "source")
    source.folder.mkdir(exist_ok=True)
    (source.folder / "a.tar").write_text("another archive")
    noon = datetime.fromisoformat(f"{date}T12:00:00+00:00").timestamp()
    os.utime(source.folder / "a.tar", (noon, noon))
    receipt = erasing.volume.receipt(DATE, "a.tar")
    os.utime(receipt, (noon - 1, noon - 1))
    poll(source, erasing.volume, 0)
    fetched, unpacked = erasing.volume.incoming("a.tar"), erasing.volume.unpacked("a.tar")
    fetched.write_text("another archive")
    unpacked.mkdir(parents=True)
    erasing.erase()
    assert fetched.exists()
    assert unpacked.exists()


@pytest.mark.parametrize("note", [b"\xff garbage", b""])
def test_a_damaged_note_of_an_erasure_stops_no_other_and_its_content_is_looked_for_again(
    erasing: Erasing, capsys: pytest.CaptureFixture[str], note: bytes
) -> None:
    erased = erasing.volume.erased
    erased.mkdir(parents=True)
    (erased / SECRET).write_bytes(note)
    (erased / ".x.1.partial").write_bytes(b"{")
    (erased / "README").write_bytes(b"of a person")
    command = ["erase", "--configfile", str(erasing.place.file), "b.tar", "1", "--yes"]
    assert cli.main(command) == 0
    assert f"{erased / SECRET} is damaged" in capsys.readouterr().err
    assert erasing.traces(WORDS) == []
    assert Erased(erasing.volume).all() == {SECRET, 64 * "b"}


def test_a_file_that_cannot_be_erased_keeps_no_driver_from_its_work(
    erasing: Erasing, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied", "a.parquet")

    monkeypatch.setattr(erasure, "_erase_files", refuse)
    with pytest.raises(PermissionError):
        erasing.erase()
    Work(configuration.read(erasing.place.file), lambda: ()).begin()
    assert "is not finished: [Errno 13] Permission denied" in capsys.readouterr().err
    assert list(Erased(erasing.volume).unfinished())


@pytest.mark.parametrize("table", [0, 1, 2])
def test_a_damaged_table_stops_no_erasure_and_goes_if_it_may_hold_the_clip(
    erasing: Erasing, table: int, capsys: pytest.CaptureFixture[str]
) -> None:
    path, other = of_archive(erasing, "a.tar")[table], of_archive(erasing, "b.tar")[table]
    path.write_bytes(path.read_bytes()[:-10])
    command = ["erase", "--configfile", str(erasing.place.file), "b.tar", "0", "--yes"]
    assert cli.main(command) == 0
    assert f"{path} is removed" in capsys.readouterr().err
    assert not path.exists()
    assert other.exists()
    assert erasing.traces(WORDS) == []
    assert list(Erased(erasing.volume).unfinished()) == []


def test_a_damaged_table_of_an_archive_without_the_content_is_left_alone(erasing: Erasing) -> None:
    erasing.load("c.tar", [64 * "c"])
    paths = of_archive(erasing, "c.tar")
    for path in paths:
        path.write_bytes(path.read_bytes()[:-10])
    erasing.erase()
    assert all(path.exists() for path in paths)


def test_copies_of_damaged_tables_go_as_nobody_knows_what_is_in_them(erasing: Erasing) -> None:
    for path in of_archive(erasing, "a.tar")[1:]:
        content = path.read_bytes()
        set_aside(path, "not whole")
        path.write_bytes(content)
    assert len(list(erasing.volume.root.rglob(".*.damaged"))) == 2
    erasing.erase()
    assert list(erasing.volume.root.rglob(".*.damaged")) == []


def test_of_an_upload_that_comes_later_the_fetched_archive_goes_too_even_if_they_are_kept(
    erasing: Erasing,
) -> None:
    erasing.erase()
    erasing.load("b.tar", [SECRET, 64 * "b"])  # as a stage that began before the erasure would
    withhold(erasing.volume, "b.tar", DATE)
    receipt = erasing.volume.receipt(DATE, "b.tar")
    files = of_archive(erasing, "b.tar")
    load_archive(*files, receipt, erasing.conninfo, "b.tar", DATE, "large-v2", "2026-11")
    erasing.load("c.tar", [64 * "c"])
    sweep(erasing.volume, [], RetentionSettings(archives="keep"))
    assert [path.name for path in erasing.volume.incoming("").iterdir()] == ["c.tar"]


def test_backups_that_still_hold_it_are_named(
    erasing: Erasing, capsys: pytest.CaptureFixture[str]
) -> None:
    backup = erasing.volume.root / "backups" / "20261101T000000Z"
    backup.mkdir(parents=True)
    (backup / "toc.dat").touch()
    assert cli.main(["erase", "--configfile", str(erasing.place.file), "a.tar", "1"]) == 0
    assert re.search("1 backups .* the oldest of 20261101T000000Z", capsys.readouterr().err)


def test_the_command_only_shows_what_would_go_until_told_to_do_it(
    erasing: Erasing, capsys: pytest.CaptureFixture[str]
) -> None:
    ((id,),) = erasing.rows(
        f"SELECT id FROM audio_files WHERE source_sha256 = '{SECRET}' AND archive_source = 'b.tar'"
    )
    command = ["erase", "--configfile", str(erasing.place.file), "--json"]
    assert cli.main([*command, "--id", str(id)]) == 0
    (first, second, other) = json.loads(capsys.readouterr().out)
    assert (first["member"], first["transcript"]) == (f"{WORDS}.mp3", WORDS)
    assert first["sha256"] == SECRET
    assert (second["ordinal"], other["archive"]) == (4, "b.tar")
    assert erasing.traces(WORDS)
    assert cli.main([*command, "a.tar", "1", "--yes"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 3
    assert erasing.traces(WORDS) == []
    assert cli.main([*command, "a.tar", "1", "--yes"]) == 2
    assert "was erased before; see logs/erasures.log" in capsys.readouterr().err
    assert cli.main(command) == 2
    assert "name a clip" in capsys.readouterr().err
    with next(erasing.volume.root.glob("reports/*/queue.csv")).open(
        newline="", encoding="utf-8-sig"
    ) as file:
        assert len(list(csv.DictReader(file))) == 4


def test_what_a_list_says_of_an_upload_that_comes_later_goes_too(erasing: Erasing) -> None:
    erasing.erase()
    name = "files_2026-11-02_0123456789ab.tar"
    path = erasing.volume.cuts / f"{name}.json"
    path.parent.mkdir()
    said = '{"said":"hello"}', json.dumps({"said": WORDS})
    members = tuple(Member(b"%d.wav" % n, 5, 0, text) for n, text in enumerate(said))
    path.write_bytes(msgspec.json.encode(Cut(name, 5, 0, members)))
    (path.parent / f".{path.name}.damaged").write_text(WORDS)
    rows = [member(name, n, DATE) for n in range(2)]
    rows[1] |= {"status": "skipped", "error": "erased", "source_sha256": None}
    write_table(erasing.volume.manifest(DATE, name), MANIFEST, rows, {})
    withhold(erasing.volume, name, DATE)
    assert b"hello" in path.read_bytes()
    assert WORDS.encode() not in path.read_bytes()
    list(erase(erasing.volume, erasing.conninfo, 64 * "b", Found([])))
    assert erasing.traces(WORDS) == []


# What a server keeps of deleted rows


def test_an_embedded_server_keeps_nothing_of_it_in_any_file(tmp_path: Path, volume: Path) -> None:
    server = volume / "state/postgres"
    conninfo = embedded_server.use(server)
    database.migrate(conninfo)
    erasing = Erasing(Place(tmp_path, volume), conninfo)
    erasing.rows("CHECKPOINT; SELECT 1")
    assert any(WORDS.encode() in path.read_bytes() for path in files_of(server / "data/base"))
    erasing.place.configure(database={"url": None})
    option = ["--configfile", str(erasing.place.file)]
    assert cli.main(["erase", *option, "a.tar", "1", "--yes"]) == 0
    assert [path for path in files_of(server) if WORDS.encode() in path.read_bytes()] == []


def test_what_the_server_could_not_forget_is_forgotten_by_the_next_run(
    tmp_path: Path, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = volume / "state/postgres"
    conninfo = embedded_server.use(server)
    database.migrate(conninfo)
    erasing = Erasing(Place(tmp_path, volume), conninfo)
    erasing.rows("CHECKPOINT; SELECT 1")
    erasing.place.configure(database={"url": None})
    monkeypatch.setattr(database, "LOCK_SECONDS", 1)
    option = ["--configfile", str(erasing.place.file)]
    with connect(conninfo) as reader, reader.cursor() as cursor:
        cursor.execute("SELECT FROM provenance")  # reads for long, and keeps the table
        assert cli.main(["erase", *option, "a.tar", "1", "--yes"]) == 0
    assert erasing.volume.forgetting.exists()
    Work(configuration.read(erasing.place.file), lambda: ()).begin()
    assert not erasing.volume.forgetting.exists()
    assert [path for path in files_of(server) if WORDS.encode() in path.read_bytes()] == []


def test_one_erasure_that_cannot_be_finished_keeps_no_other_back(
    erasing: Erasing, monkeypatch: pytest.MonkeyPatch
) -> None:
    for sha256 in ("0" * 64, SECRET):
        Erased(erasing.volume).begin(sha256, Found([]))
    found = erasure.find

    def find(volume: Any, conninfo: str, sha256: str, known: Found) -> Found:
        if sha256.startswith("0"):
            raise OSError(5, "Input/output error")
        return found(volume, conninfo, sha256, known)

    monkeypatch.setattr(erasure, "find", find)
    with pytest.raises(OSError, match="Input/output"):
        erasure.finish_unfinished(erasing.volume, erasing.conninfo)
    assert erasing.traces(WORDS) == []
    assert [sha256 for sha256, _ in Erased(erasing.volume).unfinished()] == ["0" * 64]


def files_of(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_the_statistics_of_any_server_tell_nothing_of_it(erasing: Erasing) -> None:
    told = f"SELECT tablename, attname FROM pg_stats s WHERE s::text LIKE '%{WORDS}%'"
    assert ("transcripts", "transcript_text") in erasing.rows(f"ANALYZE; {told}")
    option = ["--configfile", str(erasing.place.file)]
    assert cli.main(["erase", *option, "a.tar", "1", "--yes"]) == 0
    assert erasing.rows(told) == []
