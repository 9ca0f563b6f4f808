"""Backups are worth what can be restored from them."""

import json
import os
import shutil
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from erasing import SECRET, WORDS, Erasing
from place import Place
from psycopg2.extensions import make_dsn

from earmark import cli
from earmark.errors import EarmarkError
from earmark.record.backup import backup, backups, restore
from earmark.record.database import connect, display, migrate, require_schema
from earmark.record.review_queue import review_queue

TABLES = ("archives", "audio_files", "transcripts", "classifications")


def rows(conninfo: str) -> dict[str, list[tuple[Any, ...]]]:
    with connect(conninfo) as connection, connection.cursor() as cursor:
        found = {}
        for table in TABLES:
            cursor.execute(f"SELECT * FROM {table} t ORDER BY t::text")
            found[table] = cursor.fetchall()
    return found


@pytest.fixture
def place(tmp_path: Path, volume: Path, migrated_database: str) -> Place:
    place = Place(tmp_path, volume)
    place.use(migrated_database)
    place.finish(migrated_database, "a.tar", flagged=3, clean=20, broken=2)
    place.finish(migrated_database, "b.tar", flagged=1, status="partial")
    return place


@pytest.fixture
def empty(postgres: str) -> Iterator[str]:
    """A database without anything, beside the one that is backed up."""
    conninfo = make_dsn(postgres, dbname="restored")
    for statement in ("DROP DATABASE IF EXISTS restored", "CREATE DATABASE restored"):
        _run(postgres, statement)
    yield conninfo
    _run(postgres, "DROP DATABASE restored WITH (FORCE)")


def _run(conninfo: str, statement: str) -> None:
    connection = psycopg2.connect(conninfo)
    connection.autocommit = True
    connection.cursor().execute(statement)
    connection.close()


def test_what_is_restored_is_what_was_there(
    place: Place, migrated_database: str, empty: str, tmp_path: Path
) -> None:
    before = rows(migrated_database)
    assert all(before.values())
    queue = review_queue(migrated_database, 100)
    made = backup(migrated_database, tmp_path / "backups", keep=7)
    place.finish(migrated_database, "later.tar", flagged=1)
    restore(empty, made)
    assert rows(empty) == before
    assert review_queue(empty, 100) == queue
    # It goes on from there: keys that are handed out next are new ones, and rules still hold.
    place.finish(empty, "c.tar", flagged=1)
    assert len(rows(empty)["audio_files"]) == len(before["audio_files"]) + 1
    with pytest.raises(psycopg2.errors.UniqueViolation):
        _run(
            empty,
            "INSERT INTO archives (name, date, status) SELECT name, date, status FROM archives",
        )


def test_a_database_in_use_is_not_overwritten(
    place: Place, migrated_database: str, tmp_path: Path
) -> None:
    made = backup(migrated_database, tmp_path / "backups", keep=7)
    before = rows(migrated_database)
    with pytest.raises(EarmarkError, match=r"holds \d+ tables already; restore into an empty"):
        restore(migrated_database, made)
    assert rows(migrated_database) == before


def test_the_oldest_go_and_what_a_killed_run_left_is_no_backup(
    place: Place, migrated_database: str, tmp_path: Path
) -> None:
    folder = tmp_path / "backups"
    for name in ("20250101T000000Z", "20250102T000000Z", "20250103T000000Z.partial"):
        (folder / name).mkdir(parents=True)
        (folder / name / "toc.dat").touch()
    (folder / "mine").mkdir()
    made = backup(migrated_database, folder, keep=2)
    assert backups(folder) == [folder / "20250102T000000Z", made]
    left = {path.name for path in folder.iterdir()} - {".lock"}
    assert left == {"20250102T000000Z", made.name, "mine"}


def test_a_backup_that_breaks_off_leaves_the_database_empty_for_a_whole_one(
    place: Place, migrated_database: str, empty: str, tmp_path: Path
) -> None:
    made = backup(migrated_database, tmp_path / "backups", keep=7)
    broken = shutil.copytree(made, tmp_path / "broken")
    largest = max(broken.glob("*.dat.gz"), key=lambda file: file.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
    with pytest.raises(EarmarkError, match=r"(?s)may be damaged .* is empty again"):
        restore(empty, broken)
    restore(empty, made)
    assert rows(empty) == rows(migrated_database)


def test_what_was_erased_since_a_backup_is_erased_once_more_from_what_is_restored(
    volume: Path, migrated_database: str, empty: str, tmp_path: Path
) -> None:
    erasing = Erasing(Place(tmp_path, volume), migrated_database)
    made = backup(migrated_database, tmp_path / "backups", keep=7)
    erasing.erase()
    erasing.place.use(empty)
    configured = ["--configfile", str(erasing.place.file)]
    assert cli.main(["restore", *configured, str(made)]) == 0
    erasing.conninfo = empty
    assert erasing.traces(WORDS) == []
    assert erasing.rows(f"SELECT FROM audio_files WHERE source_sha256 = '{SECRET}'") == []


@pytest.mark.parametrize("other", ["a restore", "a migration"])
def test_a_restore_and_another_at_once_leave_one_whole_database(
    other: str, place: Place, migrated_database: str, empty: str, tmp_path: Path
) -> None:
    made = backup(migrated_database, tmp_path / "backups", keep=7)
    with ThreadPoolExecutor() as both:
        restoring = both.submit(restore, empty, made)
        second = (
            both.submit(migrate, empty)
            if other == "a migration"
            else (both.submit(restore, empty, made))
        )
        refused = [error for each in (restoring, second) if (error := each.exception())]
    assert len(refused) <= 1
    assert all("tables already; restore into an empty" in str(error) for error in refused)
    with connect(empty) as connection:
        require_schema(connection)


def test_a_damaged_backup_is_told_before_anything_is_restored(
    place: Place, migrated_database: str, empty: str, tmp_path: Path
) -> None:
    made = backup(migrated_database, tmp_path / "backups", keep=7)
    (made / "toc.dat").write_bytes(b"nonsense")
    with pytest.raises(EarmarkError, match="no backup that pg_restore can read"):
        restore(empty, made)
    with pytest.raises(EarmarkError, match="no backup that pg_restore can read"):
        restore(empty, tmp_path)


def test_the_password_is_on_no_command_line(
    place: Place, migrated_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pg_dump in front of the real one writes down how it was called."""
    said = tmp_path / "said"
    spy = tmp_path / "bin" / "pg_dump"
    spy.parent.mkdir()
    with connect(migrated_database) as connection:
        version = connection.server_version // 10_000
    spy.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && echo "pg_dump (PostgreSQL) {version}.0" && exit\n'
        f'echo "$@" > {said}\necho "$PGPASSWORD" >> {said}\nexit 1\n'
    )
    spy.chmod(spy.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{spy.parent}:{os.environ['PATH']}")
    with pytest.raises(EarmarkError, match="pg_dump failed"):
        backup(make_dsn(migrated_database, password="hunter2"), tmp_path / "backups", keep=1)
    line, password = said.read_text().splitlines()
    assert "hunter2" not in line
    assert password == "hunter2"
    assert backups(tmp_path / "backups") == []


def test_the_commands_back_up_list_and_restore(
    place: Place, migrated_database: str, empty: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = rows(migrated_database)
    assert cli.main(["backup", "--configfile", str(place.file), "--json"]) == 0
    ((listed),) = json.loads(capsys.readouterr().out)
    assert Path(listed["backup"]).parent == place.volume.root / "backups"
    assert listed["bytes"] > 1000
    place.configure(database={"url": display(empty)})
    kept = shutil.copytree(listed["backup"], place.file.parent / "kept")
    shutil.rmtree(place.volume.root)  # a new volume, whose folder nobody has made yet
    assert cli.main(["restore", "--configfile", str(place.file), str(kept)]) == 0
    assert rows(empty) == before
    assert cli.main(["restore", "--configfile", str(place.file), str(kept)]) == 2
    assert "already" in capsys.readouterr().err
