"""What each role of the database may do, and what it can't."""

from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
from desk_record import join
from desk_server import Browser, serving, write_config
from loaded_archive import Archive, query
from psycopg2.extensions import make_dsn

from earmark import cli
from earmark.driver import quarantine
from earmark.errors import EarmarkError, SetupError
from earmark.record import database, roles
from earmark.record.backup import backup, restore
from earmark.record.review_queue import health, review_queue
from earmark.volume import Volume

TABLES = ("archives", "audio_files", "transcripts", "classifications")
PEOPLE = {
    "loader": "earmark_writer",
    "desk": "earmark_reviewer",
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
    query(
        record, "TRUNCATE archives, audio_files, reviewers, review_draws RESTART IDENTITY CASCADE"
    )
    Archive(tmp_path, make_dsn(record, user="loader")).load()
    query(
        record,
        "INSERT INTO reviewers (name, role, password_hash) VALUES ('ada', 'reviewer', 'secret')",
    )
    return record


DECIDE = (
    "INSERT INTO review_decisions "
    "(audio_file_id, reviewer_id, round, chosen_by, verdict, claimed_at) "
    "VALUES (%s, 1, 'first', 'score', %s, now())"
)


def test_the_pipeline_can_do_all_its_work(loaded: str, tmp_path: Path) -> None:
    conninfo = make_dsn(loaded, user="loader")
    archive = Archive(tmp_path, conninfo)
    archive.members, archive.heard, archive.judged = archive.members[:2], archive.heard[:1], []
    query(loaded, DECIDE, 8, "undone")
    archive.load(policy="2026-12")
    assert query(loaded, "SELECT count(*) FROM audio_files") == [(3,)]
    query(conninfo, "DELETE FROM audio_files WHERE ordinal IS NULL")  # as an erasure would
    assert query(loaded, "SELECT FROM review_decisions") == []
    assert review_queue(conninfo, 10) == []
    assert health(conninfo).total_processed == 0
    quarantine.record(Volume(tmp_path), conninfo)


def test_the_desk_gives_items_out_and_keeps_what_was_decided(loaded: str) -> None:
    conninfo = make_dsn(loaded, user="desk")
    first, second = review_queue(conninfo, 10)
    for statement in (
        "INSERT INTO review_sessions (token_sha256, reviewer_id) VALUES ('x', 1)",
        "UPDATE review_sessions SET seen_at = now()",
        "INSERT INTO sign_in_failures (name, address) VALUES ('ada', '::1')",
        "DELETE FROM sign_in_failures",
        "INSERT INTO review_waiting (audio_file_id, round) VALUES (1, 'second')",
        "DELETE FROM review_waiting",
        "UPDATE reviewers SET hide_text = TRUE, muted = TRUE, opted_out = '{}', break_minutes = 5",
        "INSERT INTO review_access (reviewer_id, what) VALUES (1, 'page')",
        "SELECT facts FROM provenance",
        "SELECT text FROM policies",
    ):
        query(conninfo, statement)
    claim = (
        "INSERT INTO review_claims (audio_file_id, reviewer_id, round, chosen_by, expires_at) "
        "VALUES (%s, 1, 'first', 'score', now()) ON CONFLICT (audio_file_id) DO UPDATE "
        "SET expires_at = now()"
    )
    query(conninfo, claim, first.id)
    query(conninfo, claim, first.id)
    query(conninfo, DECIDE, first.id, "unsure")
    query(conninfo, "INSERT INTO second_reviews (audio_file_id, probability) VALUES (%s, 1)", 1)
    query(conninfo, "DELETE FROM review_claims")
    assert query(conninfo, "SELECT mark_reviewed(%s)", first.id) == [(True,)]
    assert review_queue(conninfo, 10) == [second]
    assert query(conninfo, "SELECT state FROM review_outcomes") == [("disputed",)]
    query(conninfo, DECIDE, first.id, "undone")
    assert query(conninfo, "SELECT return_to_review(%s)", first.id) == [(True,)]
    assert review_queue(conninfo, 10) == [first, second]


def test_the_served_desk_needs_no_more(loaded: str, tmp_path: Path) -> None:
    join(loaded, "ben", "cleo")
    join(loaded, "lea", role="lead")
    config = write_config(
        tmp_path,
        make_dsn(loaded, user="desk"),
        review={"sample": {"per_day": 50}},
        second_review_fraction=1,
    )
    with serving(config) as server:
        ben, cleo, lea = Browser(server.url), Browser(server.url), Browser(server.url)
        assert ben.sign_in("ben", "not his password").status_code == 401
        for browser, name in ((ben, "ben"), (cleo, "cleo"), (lea, "lea")):
            assert browser.sign_in(name).status_code == 303
        item = ben.submit("/claim").headers["location"].split("?")[0]
        assert ben.get(item).status_code == 200
        assert ben.submit(f"{item}/heartbeat").status_code == 200
        decision = {"verdict": "reportable", "categories": ["threats"]}
        assert ben.submit(f"{item}/decide", **decision).status_code == 303
        assert ben.submit("/undo").headers["location"] == item
        assert ben.submit(f"{item}/decide", **decision).status_code == 303
        assert ben.submit("/settings", hide_text="true", break_minutes="30").status_code == 303
        assert cleo.submit("/claim").headers["location"].split("?")[0] == item
        assert cleo.submit(f"{item}/decide", verdict="unsure").status_code == 303
        settling = {"mode": "adjudication"}
        assert lea.submit("/claim", **settling).headers["location"].split("?")[0] == item
        assert lea.submit(f"{item}/decide", **decision, **settling).status_code == 303
        for page in ("/", "/mine", "/settings", "/lead", "/lead/decisions", "/lead/access"):
            assert lea.get(page).status_code == 200, page
        assert len(lea.get("/lead/export?format=jsonl").text.splitlines()) == 5
        assert ben.submit("/sign-out").status_code == 303
    assert query(loaded, "SELECT state, verdict FROM review_outcomes") == [
        ("settled", "reportable")
    ]


def test_a_clip_leaves_the_queue_with_its_duplicates(loaded: str) -> None:
    conninfo = make_dsn(loaded, user="desk")
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


def test_what_was_decided_is_not_changed_by_the_owner_either(loaded: str) -> None:
    query(loaded, DECIDE, 1, "unsure")
    with pytest.raises(psycopg2.errors.RaiseException, match="only ever added to"):
        query(loaded, "UPDATE review_decisions SET verdict = 'not reportable'")


def test_an_analyst_reads_everything_but_how_people_sign_in(loaded: str) -> None:
    query(loaded, DECIDE, 1, "unsure")
    conninfo = make_dsn(loaded, user="analyst")
    for table in (*TABLES, "ra_queue", "review_decisions", "review_standing", "review_outcomes"):
        assert query(conninfo, f"SELECT count(*) > 0 FROM {table}") == [(True,)]
    assert query(conninfo, "SELECT id, name, role FROM reviewers") == [(1, "ada", "reviewer")]
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
TEMPORARY = ["CREATE TEMP TABLE mine ()"]
REVIEW = ["SELECT mark_reviewed(1)", "SELECT return_to_review(1)"]
ACCOUNTS = [
    "INSERT INTO reviewers (name, role, password_hash) VALUES ('eve', 'lead', '')",
    "UPDATE reviewers SET role = 'lead'",
    "UPDATE reviewers SET active = TRUE",
    "DELETE FROM reviewers",
]
REWRITE = [
    statement
    for table in ("review_decisions", "second_reviews", "review_access")
    for statement in (f"UPDATE {table} SET audio_file_id = 2", f"DELETE FROM {table}")
]
DECIDED = [
    DECIDE % (1, "'unsure'"),
    "INSERT INTO second_reviews (audio_file_id, probability) VALUES (1, 1)",
    "INSERT INTO review_access (reviewer_id, what) VALUES (1, 'page')",
    "INSERT INTO review_claims (audio_file_id, reviewer_id) VALUES (1, 1)",
    "INSERT INTO review_waiting (audio_file_id, round) VALUES (1, 'second')",
    "DELETE FROM review_waiting",
    "INSERT INTO review_sessions (token_sha256, reviewer_id) VALUES ('x', 1)",
]
SECRETS = [
    "SELECT password_hash FROM reviewers",
    "SELECT * FROM reviewers",
    "SELECT * FROM review_sessions",
    "SELECT * FROM sign_in_failures",
    "SELECT * FROM review_access",
    "SELECT * FROM review_claims",
]
FLAGS = ["SELECT refresh_flags(ARRAY[1])"]


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        (role, statement)
        for role, statements in {
            "loader": CHANGE_SCHEMA + REVIEW + ACCOUNTS + REWRITE + DECIDED,
            "desk": CHANGE_SCHEMA + WRITE + TEMPORARY + FLAGS + ACCOUNTS + REWRITE,
            "analyst": CHANGE_SCHEMA
            + WRITE
            + TEMPORARY
            + REVIEW
            + FLAGS
            + ACCOUNTS
            + REWRITE
            + DECIDED
            + SECRETS,
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
    loaded = (*TABLES, "provenance", "policies")
    draws = ("review_draws", "review_draw_archives", "review_strata", "review_sample")
    added = ("review_decisions", "second_reviews", "review_access", *draws)
    desk_alone = ("review_claims", "review_sessions", "review_drafts", "review_devices")
    views = ("ra_queue", "ra_waiting", "ra_controls", "review_standing", "review_outcomes",
             "review_sample_heard")  # fmt: skip
    some = ("sign_in_failures", "review_waiting", "review_begun", "review_links")
    read_whole = ("reviewers", *some, "_yoyo_log", "_yoyo_version")
    assert {(grantee, table): privileges for grantee, table, privileges in held} == {
        # Backups read all there is.
        **{("earmark_writer", table): read for table in (*read_whole, *added, *desk_alone)},
        **{("earmark_writer", table): write for table in loaded},
        **{("earmark_reviewer", table): read for table in (*loaded, "reviewers")},
        **{("earmark_reviewer", table): ["INSERT", "SELECT"] for table in added},
        **{("earmark_reviewer", table): write for table in desk_alone},
        **{("earmark_reviewer", table): ["DELETE", "INSERT", "SELECT"] for table in some},
        **{("earmark_analyst", table): read for table in (*loaded, "review_waiting")},
        **{("earmark_analyst", table): read for table in (*added[:2], *draws)},
        **{(group, view): read for group in roles.GRANTS for view in views},
        **{(group, "_yoyo_migration"): read for group in roles.GRANTS},
    }
    columns = query(
        record,
        "SELECT grantee, privilege_type::text, array_agg(column_name::text ORDER BY column_name) "
        "FROM information_schema.column_privileges WHERE table_name = 'reviewers' "
        "AND (grantee, privilege_type) IN (('earmark_reviewer', 'UPDATE'), "
        "('earmark_analyst', 'SELECT')) GROUP BY 1, 2 ORDER BY 1",
    )
    assert columns == [
        ("earmark_analyst", "SELECT", ["id", "name", "role"]),
        (
            "earmark_reviewer",
            "UPDATE",
            ["break_minutes", "hide_text", "muted", "opted_out", "password_hash"],
        ),
    ]


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
            for statement in REVIEW:
                with pytest.raises(SetupError, match="permission denied for function"):
                    query(make_dsn(conninfo, user="analyst"), statement)
        assert privileges(again) == privileges(loaded)
        assert len(review_queue(make_dsn(again, user="desk"), 10)) == 2
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


def test_migrating_grants_also_where_the_schema_is_up_to_date(
    record: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query(record, "REVOKE ALL ON ra_queue FROM earmark_reviewer")
    configfile = tmp_path / "config.yaml"
    configfile.write_text(f'database:\n  url: "{record}"\nvolume:\n  root: {tmp_path}\n')
    assert cli.main(["migrate", "--configfile", str(configfile)]) == 0
    assert "up to date" in capsys.readouterr().out
    assert query(make_dsn(record, user="desk"), "SELECT count(*) >= 0 FROM ra_queue") == [(True,)]


def test_only_the_owner_grants(record: str) -> None:
    with pytest.raises(SetupError, match="permission denied"):
        database.grant_roles(make_dsn(record, user="loader"))
