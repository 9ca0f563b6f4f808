"""What each role of the database may do, and what it can't."""

from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
from psycopg2.extensions import make_dsn
from test_loading import Archive, query

from earmark import database, quarantine, roles
from earmark.backup import backup, restore
from earmark.errors import EarmarkError, SetupError
from earmark.review_queue import health, review_queue
from earmark.volume import Volume

TABLES = ("archives", "audio_files", "transcripts", "classifications")
PEOPLE = {
    "loader": "earmark_writer",
    "reviewer": "earmark_reviewer",
    "analyst": "earmark_analyst",
}


@pytest.fixture(scope="module")
def record(postgres: str) -> Iterator[str]:
    """A database that an ordinary role owns, and a role in each group."""
    connection = psycopg2.connect(postgres)
    connection.autocommit = True
    cursor = connection.cursor()
    cursor.execute("CREATE ROLE migrator LOGIN CREATEROLE")
    cursor.execute("CREATE ROLE stranger LOGIN")
    cursor.execute("CREATE DATABASE record OWNER migrator")
    owner = make_dsn(postgres, dbname="record", user="migrator")
    database.migrate(owner)
    assert database.grant_roles(owner, create=True) == list(roles.GRANTS)
    for name, group in PEOPLE.items():
        cursor.execute(f"CREATE ROLE {name} LOGIN IN ROLE {group}")
    yield owner
    cursor.execute("DROP DATABASE record WITH (FORCE)")
    for name in ("migrator", "stranger", *PEOPLE):
        cursor.execute(f"REASSIGN OWNED BY {name} TO CURRENT_USER; DROP OWNED BY {name}")
    for name in (*PEOPLE, *roles.GRANTS, "migrator", "stranger"):
        cursor.execute(f"DROP ROLE {name}")
    connection.close()


@pytest.fixture
def loaded(record: str, tmp_path: Path) -> str:
    """The same with one archive, which the pipeline's role loaded."""
    query(record, "TRUNCATE archives, audio_files RESTART IDENTITY CASCADE")
    Archive(tmp_path, make_dsn(record, user="loader")).load()
    return record


def test_the_pipeline_can_do_all_its_work(loaded: str, tmp_path: Path) -> None:
    conninfo = make_dsn(loaded, user="loader")
    archive = Archive(tmp_path, conninfo)
    archive.members, archive.heard, archive.judged = archive.members[:2], archive.heard[:1], []
    archive.load(policy="2026-12")
    assert query(loaded, "SELECT count(*) FROM audio_files") == [(2,)]
    assert review_queue(conninfo, 10) == []
    assert health(conninfo).total_processed == 0
    quarantine.record(Volume(tmp_path), conninfo)


def test_a_reviewer_sees_the_queue_and_takes_clips_out_of_it(loaded: str) -> None:
    conninfo = make_dsn(loaded, user="reviewer")
    first, second = review_queue(conninfo, 10)
    assert query(conninfo, "SELECT mark_reviewed(%s)", first.id) == [(True,)]
    assert review_queue(conninfo, 10) == [second]
    assert query(conninfo, "SELECT mark_reviewed(%s)", first.id) == [(False,)]
    assert query(loaded, "SELECT ordinal FROM audio_files WHERE status = 'reviewed'") == [
        (0,),
        (5,),  # its duplicate
    ]
    pending = query(loaded, "SELECT id FROM audio_files WHERE status = 'pending'")[0][0]
    assert query(conninfo, "SELECT mark_reviewed(%s)", pending) == [(False,)]


def test_an_analyst_reads_everything(loaded: str) -> None:
    conninfo = make_dsn(loaded, user="analyst")
    for table in (*TABLES, "ra_queue"):
        assert query(conninfo, f"SELECT count(*) > 0 FROM {table}") == [(True,)]
    assert health(conninfo).flagged_count == 2


WRITE = [
    statement
    for table, column in zip(TABLES, ("reason", "error", "error", "error"), strict=True)
    for statement in (
        f"INSERT INTO {table} DEFAULT VALUES",
        f"UPDATE {table} SET {column} = ''",
        f"DELETE FROM {table}",
    )
]
CHANGE_SCHEMA = [
    "CREATE TABLE mine ()",
    "CREATE FUNCTION mine() RETURNS INT LANGUAGE sql AS 'SELECT 1'",
    "CREATE SCHEMA mine",
    "CREATE INDEX ON audio_files (error)",
    "ALTER TABLE audio_files ADD COLUMN mine INT",
    "ALTER TABLE classifications DISABLE TRIGGER ALL",
    "DROP TABLE classifications",
    "DROP VIEW ra_queue",
    "TRUNCATE classifications",
    "INSERT INTO _yoyo_migration DEFAULT VALUES",
    "DELETE FROM _yoyo_migration",
    "CREATE ROLE mine",
    "SET ROLE migrator",
    "COPY audio_files TO '/tmp/mine'",
    "COPY audio_files FROM PROGRAM 'true'",
]
READ = [f"SELECT 1 FROM {table}" for table in TABLES]
TEMPORARY = ["CREATE TEMP TABLE mine ()"]
REVIEW = ["SELECT mark_reviewed(1)"]
FLAGS = ["SELECT refresh_flags(ARRAY[1])"]


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        (role, statement)
        for role, statements in {
            "loader": CHANGE_SCHEMA + REVIEW,
            "reviewer": CHANGE_SCHEMA + READ + WRITE + TEMPORARY + FLAGS,
            "analyst": CHANGE_SCHEMA + WRITE + TEMPORARY + REVIEW + FLAGS,
        }.items()
        for statement in statements
    ],
)
def test_no_role_can_do_more(loaded: str, role: str, statement: str) -> None:
    before = query(loaded, "SELECT to_jsonb(a) FROM audio_files a ORDER BY id")
    with pytest.raises(SetupError, match=r"permission denied|must be owner"):
        query(make_dsn(loaded, user=role), statement)
    assert query(loaded, "SELECT to_jsonb(a) FROM audio_files a ORDER BY id") == before


def test_each_group_holds_exactly_the_privileges_that_it_needs(record: str) -> None:
    held = query(
        record,
        "SELECT grantee, table_name, array_agg(privilege_type::text ORDER BY privilege_type) "
        "FROM information_schema.role_table_grants WHERE grantee = ANY (%s) GROUP BY 1, 2",
        list(roles.GRANTS),
    )
    read, write = ["SELECT"], ["DELETE", "INSERT", "SELECT", "UPDATE"]
    yoyo = ("_yoyo_migration", "_yoyo_log", "_yoyo_version")
    assert {(grantee, table): privileges for grantee, table, privileges in held} == {
        **{("earmark_writer", table): read for table in yoyo},
        **{("earmark_writer", table): write for table in (*TABLES, "provenance", "policies")},
        **{("earmark_analyst", table): read for table in (*TABLES, "provenance", "policies")},
        **{(group, view): read for group in roles.GRANTS for view in ("ra_queue", "ra_controls")},
        **{(group, "_yoyo_migration"): read for group in roles.GRANTS},
    }


def test_the_pipeline_backs_up_and_a_restored_database_has_the_same_rights(
    loaded: str, postgres: str, tmp_path: Path
) -> None:
    made = backup(make_dsn(loaded, user="loader"), tmp_path, keep=1)
    connection = psycopg2.connect(postgres)
    connection.autocommit = True
    connection.cursor().execute("CREATE DATABASE record_again OWNER migrator")
    again = make_dsn(loaded, dbname="record_again")
    try:
        restore(again, made)
        for conninfo in (loaded, again):
            with pytest.raises(SetupError, match="permission denied for function"):
                query(make_dsn(conninfo, user="analyst"), "SELECT mark_reviewed(1)")
        assert privileges(again) == privileges(loaded)
        assert len(review_queue(make_dsn(again, user="reviewer"), 10)) == 2
    finally:
        connection.cursor().execute("DROP DATABASE record_again WITH (FORCE)")
        connection.close()


def privileges(conninfo: str) -> list[tuple[object, ...]]:
    return query(
        conninfo,
        "SELECT relname, relacl::text FROM pg_class WHERE relnamespace = 'public'::regnamespace "
        "UNION ALL SELECT proname, proacl::text FROM pg_proc "
        "WHERE pronamespace = 'public'::regnamespace ORDER BY 1",
    )


def test_who_is_in_no_group_does_not_get_in(record: str) -> None:
    with pytest.raises(EarmarkError, match=r"can't reach .*stranger"):
        query(make_dsn(record, user="stranger"), "SELECT 1")


def test_granting_again_takes_back_what_was_granted_by_hand(record: str) -> None:
    query(record, "GRANT ALL ON audio_files TO earmark_analyst")
    database.grant_roles(record)
    with pytest.raises(SetupError, match="permission denied"):
        query(make_dsn(record, user="analyst"), "DELETE FROM audio_files")


def test_only_the_owner_grants(record: str) -> None:
    with pytest.raises(SetupError, match="permission denied"):
        database.grant_roles(make_dsn(record, user="loader"))
