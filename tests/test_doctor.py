"""What doesn't fit together of archives that are done is found, and nothing else."""

import json
import os
import shlex
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pyarrow.compute as pc
import pytest
from erasing import DATE, Erasing
from place import Place

from earmark import cli, locks
from earmark.record.database import connect
from earmark.tables import CLASSES, MANIFEST, TRANSCRIPTS, read_table, store


@pytest.fixture
def archives(tmp_path: Path, volume: Path, migrated_database: str) -> Erasing:
    """Two archives that are done, and fit together."""
    place = Place(tmp_path, volume)
    place.configure(asr={"name": "large-v2"}, classify={"policy": "2026-11"})
    found = Erasing(place, migrated_database)
    for name in ("a.tar", "b.tar"):
        path = found.volume.manifest(DATE, name)
        table = read_table(path, MANIFEST)
        sizes = [
            None if opus is None else (found.volume.root / opus).stat().st_size
            for opus in table["opus_path"].to_pylist()
        ]
        place = table.schema.get_field_index("opus_bytes")
        store(table.set_column(place, MANIFEST.field(place), [sizes]), path)
    return found


def ask(archives: Erasing, capsys: pytest.CaptureFixture[str], *options: str) -> list[dict]:
    command = ["doctor", "--configfile", str(archives.place.file), "--json", *options]
    status = cli.main(command)
    told = json.loads(capsys.readouterr().out)
    assert status == (1 if told else 0)
    return told


def test_archives_that_fit_together_are_well(
    archives: Erasing, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(archives, capsys) == []
    assert cli.main(["doctor", "--configfile", str(archives.place.file)]) == 0
    assert "2 archives are done, 0 don't fit together" in capsys.readouterr().out


def opus(archives: Erasing) -> Path:
    return archives.volume.audio(DATE, "a.tar") / "000000.opus"


def lose_audio(archives: Erasing) -> None:
    opus(archives).unlink()


def cut_audio(archives: Erasing) -> None:
    os.truncate(opus(archives), 3)


def lose_manifest(archives: Erasing) -> None:
    archives.volume.manifest(DATE, "a.tar").unlink()


def damage_receipt(archives: Erasing) -> None:
    archives.volume.receipt(DATE, "a.tar").write_text("{")


def drop(path: Path, schema) -> None:
    table = read_table(path, schema)
    store(table.filter(pc.not_equal(table["ordinal"], 0)), path)


def lose_receipt(archives: Erasing) -> None:
    archives.volume.receipt(DATE, "a.tar").unlink()


def lose_all_files(archives: Erasing) -> None:
    lose_receipt(archives)
    lose_manifest(archives)


def lose_transcript(archives: Erasing) -> None:
    drop(archives.volume.transcripts("large-v2", DATE, "a.tar"), TRANSCRIPTS)


def lose_class(archives: Erasing) -> None:
    drop(archives.volume.classes("2026-11", DATE, "a.tar"), CLASSES)


def lose_classes(archives: Erasing) -> None:
    archives.volume.classes("2026-11", DATE, "a.tar").unlink()


def lose_row(archives: Erasing) -> None:
    with connect(archives.conninfo) as connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM audio_files WHERE archive_source = 'a.tar' AND ordinal = 0")


def lose_archive(archives: Erasing) -> None:
    with connect(archives.conninfo) as connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM archives WHERE name = 'a.tar'")


@pytest.mark.parametrize(
    ("happens", "stage", "said"),
    [
        (lose_audio, "encode", "1 Opus files are missing"),
        (cut_audio, "encode", "1 Opus files have another size than the manifest says"),
        (lose_manifest, "encode", "is missing"),
        (damage_receipt, "load", "its receipt can't be read"),
        (lose_transcript, "transcribe", "its transcripts lack 1 clips and have 0 too many"),
        (lose_class, "classify", "its classes of scams lack 1 clips and have 0 too many"),
        (lose_classes, "classify", "is missing"),
        (lose_row, "load", "the database has 4 of its 5 clips"),
        (lose_archive, "load", "the database doesn't have it"),
        (lose_receipt, "load", "the database has it, and there is no receipt"),
    ],
)
def test_what_was_lost_since_is_told_with_what_mends_it(
    archives: Erasing,
    capsys: pytest.CaptureFixture[str],
    happens: Callable[[Erasing], None],
    stage: str,
    said: str,
) -> None:
    happens(archives)
    (told,) = ask(archives, capsys)
    assert told["archive"] == "a.tar"
    assert said in told["problem"]
    meant = f"'a.tar' --date {DATE} --stage {stage}"
    assert told["mend"] == f"earmark redo --configfile {archives.place.file} {meant}"
    assert ask(archives, capsys, "--date", "2020-01-01") == []
    if stage != "encode":  # which wants the archive at the source
        assert cli.main([*shlex.split(told["mend"])[1:], "--dry-run"]) == 0
        capsys.readouterr()
    with locks.exclusive(archives.volume.archive_lock("a.tar")):  # it is being made anew
        assert ask(archives, capsys) == []


def test_what_only_the_database_has_is_told(
    archives: Erasing, capsys: pytest.CaptureFixture[str]
) -> None:
    lose_all_files(archives)
    (told,) = ask(archives, capsys)
    assert (told["problem"], told["mend"]) == ("the database alone has it", None)


def test_what_was_to_be_done_again_and_was_replaced_is_told(
    archives: Erasing, capsys: pytest.CaptureFixture[str]
) -> None:
    lose_receipt(archives)
    archives.place.put("a.tar", age_seconds=86_400)  # of another day
    (archive,) = archives.place.poll().archives
    (told,) = ask(archives, capsys)
    assert told["problem"].endswith(
        f"the source has another archive of its name, of {archive.date}"
    )
    assert told["mend"] is None


def test_one_of_the_same_day_that_no_run_takes_is_told(
    archives: Erasing, capsys: pytest.CaptureFixture[str]
) -> None:
    lose_receipt(archives)
    archives.place.put("a.tar")
    day = datetime.fromisoformat(f"{DATE}T12:00:00+00:00").timestamp()
    os.utime(archives.place.source / "a.tar", (day, day))
    archives.place.poll()
    assert ask(archives, capsys) == []  # the next run does it
    archives.volume.quarantine("a.tar").parent.mkdir(exist_ok=True)
    archives.volume.quarantine("a.tar").write_text("{}")
    (told,) = ask(archives, capsys)
    assert told["problem"] == "the database has it, and there is no receipt"


def test_people_get_each_problem_and_each_command_in_one_line(
    archives: Erasing, capsys: pytest.CaptureFixture[str]
) -> None:
    lose_audio(archives)
    assert cli.main(["doctor", "--configfile", str(archives.place.file)]) == 1
    _, problem, command = capsys.readouterr().out.splitlines()
    assert problem == f"{DATE} a.tar: 1 Opus files are missing"
    assert shlex.split(command)[:4] == ["earmark", "redo", "--configfile", str(archives.place.file)]


def test_before_the_first_run_all_is_well(
    tmp_path: Path, volume: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = Place(tmp_path, volume)
    assert cli.main(["doctor", "--configfile", str(place.file)]) == 0
    assert "0 archives are done, 0 don't fit together" in capsys.readouterr().out


def test_what_was_erased_or_is_past_its_age_is_not_missed(
    archives: Erasing, capsys: pytest.CaptureFixture[str]
) -> None:
    archives.erase()
    assert ask(archives, capsys) == []
    archives.place.configure(retention={"audio_days": 1, "text_days": 1})
    for name in ("a.tar", "b.tar"):
        receipt = archives.volume.receipt(DATE, name)
        then = receipt.stat().st_mtime - 2 * 86_400
        os.utime(receipt, (then, then))
        lose = (archives.volume.transcripts("large-v2", DATE, name), opus(archives))
        for path in lose:
            path.unlink(missing_ok=True)
    assert ask(archives, capsys) == []
