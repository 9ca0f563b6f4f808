"""Accounts of the review desk: passwords, sessions, and sign-ins that are refused."""

import secrets
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import yaml
from desk_record import PASSWORD, ask, join
from psycopg2.extensions import parse_dsn

from earmark.desk import accounts
from earmark.desk import sign_in as signing_in
from earmark.desk.connections import Connections
from earmark.desk.sign_in import SignInRefused, TooManyFailures
from earmark.errors import EarmarkError


@pytest.fixture
def desk(migrated_database: str) -> Iterator[Connections]:
    connections = Connections(migrated_database, 8)
    ask(connections, "TRUNCATE sign_in_failures")
    join(migrated_database, "ada")
    yield connections
    connections.close()


def who(desk: Connections, token: str, hours: float = 10, minutes: float = 60) -> str | None:
    with desk.transaction() as connection:
        found = signing_in.reviewer_of(connection, token, hours, minutes, attended=True)
    return found.name if found else None


def sign_in(
    desk: Connections,
    password: str = PASSWORD,
    name: str = "ada",
    at: str = "::1",
    device: str = "",
) -> str:
    return signing_in.sign_in(desk, name, password, at, device or secrets.token_urlsafe())


def test_a_session_is_whose_it_is_until_it_is_ended(desk):
    token = sign_in(desk, name=" Ada ")
    assert who(desk, token) == "ada"
    with desk.transaction() as connection:
        signing_in.sign_out(connection, token)
    assert who(desk, token) is None


def test_each_sign_in_has_a_token_of_its_own_which_the_database_does_not_hold(desk):
    first, second = sign_in(desk), sign_in(desk)
    assert first != second
    stored = str(ask(desk, "SELECT s::text FROM review_sessions s"))
    assert first not in stored


@pytest.mark.parametrize("column", ["created_at", "seen_at"])
def test_sessions_end_by_age_and_by_idleness(desk, column):
    token = sign_in(desk)
    ask(desk, f"UPDATE review_sessions SET {column} = now() - INTERVAL '2 hours'")
    assert who(desk, token, hours=1, minutes=60) is None


def test_what_a_page_does_by_itself_keeps_no_session_alive(desk):
    token = sign_in(desk)
    ask(desk, "UPDATE review_sessions SET seen_at = now() - INTERVAL '50 minutes'")
    with desk.transaction() as connection:
        signing_in.reviewer_of(connection, token, 10, 60, attended=False)
    old = "SELECT seen_at < now() - INTERVAL '49 minutes' FROM review_sessions"
    assert ask(desk, old) == [(True,)]
    assert who(desk, token) == "ada"
    assert ask(desk, old) == [(False,)]


@pytest.mark.parametrize("name", ["ada", "nobody", "", "a\0b", "'; DROP TABLE reviewers; --"])
def test_what_does_not_fit_is_refused_in_the_same_words(desk, name):
    with pytest.raises(SignInRefused, match="name and password do not fit together"):
        sign_in(desk, "wrong", name)


def test_a_disabled_account_is_out_at_once_and_its_item_is_free(desk, migrated_database):
    token = sign_in(desk)
    with desk.transaction() as connection:
        accounts.set_active(connection, "ada", False)
    assert who(desk, token) is None
    with pytest.raises(SignInRefused):
        sign_in(desk)
    with desk.transaction() as connection:
        accounts.set_active(connection, "ada", True)
    assert who(desk, sign_in(desk)) == "ada"
    assert who(desk, token) is None


def test_another_password_ends_the_sessions_of_the_former_one(desk):
    token = sign_in(desk)
    with desk.transaction() as connection:
        accounts.set_password(connection, "ada", "another long password")
    assert who(desk, token) is None
    with pytest.raises(SignInRefused):
        sign_in(desk)
    assert who(desk, sign_in(desk, "another long password")) == "ada"
    assert ask(desk, "SELECT password_hash LIKE '$argon2id$%%' FROM reviewers") == [(True,)]


def test_many_failures_are_followed_by_refusals_even_of_the_right_password(desk):
    for _ in range(signing_in.MOST_FAILURES):
        with pytest.raises(SignInRefused, match="do not fit"):
            sign_in(desk, "wrong")
    with pytest.raises(TooManyFailures):
        sign_in(desk)
    sign_in(desk, at="192.0.2.7")  # a colleague elsewhere is not shut out
    ask(desk, "UPDATE sign_in_failures SET failed_at = failed_at - INTERVAL '16 minutes'")
    sign_in(desk)
    assert ask(desk, "SELECT count(*) FROM sign_in_failures WHERE address = '::1'") == [(0,)]


def test_trying_many_at_once_does_not_get_round_the_limit(desk):
    def attempt(_: int) -> type[Exception]:
        with pytest.raises(SignInRefused) as refusal:
            sign_in(desk, "wrong")
        return refusal.type

    with ThreadPoolExecutor(8) as pool:
        refusals = list(pool.map(attempt, range(24)))
    assert refusals.count(SignInRefused) == signing_in.MOST_FAILURES


def test_failures_with_other_names_keep_nobody_at_the_same_address_out(desk):
    for number in range(41):
        with pytest.raises(SignInRefused, match="do not fit"):
            sign_in(desk, "wrong", f"name{number}")
    assert who(desk, sign_in(desk)) == "ada"


def test_a_name_that_is_tried_from_many_addresses_is_refused(desk):
    for number in range(50):
        with pytest.raises(SignInRefused, match="do not fit"):
            sign_in(desk, "wrong", at=f"192.0.2.{number}")
    with pytest.raises(TooManyFailures):
        sign_in(desk, at="198.51.100.1")


def test_who_signed_in_here_before_is_kept_out_by_nobody_elsewhere(desk):
    sign_in(desk, device="ada's laptop")
    for number in range(50):
        with pytest.raises(SignInRefused, match="do not fit"):
            sign_in(desk, "wrong", at=f"192.0.2.{number // 5}")
    with pytest.raises(TooManyFailures):
        sign_in(desk, at="198.51.100.1")
    assert who(desk, sign_in(desk, device="ada's laptop")) == "ada"
    with pytest.raises(TooManyFailures):
        sign_in(desk, at="198.51.100.1", device="another laptop")


def test_a_known_browser_may_not_guess_without_end_either(desk):
    sign_in(desk, device="ada's laptop")
    for _ in range(signing_in.MOST_FAILURES):
        with pytest.raises(SignInRefused, match="do not fit"):
            sign_in(desk, "wrong", device="ada's laptop")
    with pytest.raises(TooManyFailures):
        sign_in(desk, device="ada's laptop")
    assert who(desk, sign_in(desk)) == "ada"  # on another browser


def test_a_browser_is_known_to_who_signed_in_there_alone_and_until_the_password_changes(desk):
    sign_in(desk, device="shared")
    assert ask(desk, "SELECT octet_length(token_sha256) FROM review_devices") == [(32,)]
    with desk.transaction() as connection:
        accounts.add(connection, "ben", PASSWORD, "reviewer")
        accounts.set_password(connection, "ada", PASSWORD + "2")
    assert ask(desk, "SELECT * FROM review_devices") == []
    sign_in(desk, name="ben", device="shared")
    for _ in range(signing_in.MOST_FAILURES):
        with pytest.raises(SignInRefused, match="do not fit"):
            sign_in(desk, "wrong", device="shared")
    assert ask(desk, "SELECT DISTINCT address FROM sign_in_failures") == [("::1",)]


def change(desk: Connections, token: str, current: str, new: str) -> None:
    with desk.transaction() as connection:
        reviewer = signing_in.reviewer_of(connection, token, 1, 60, attended=True)
    assert reviewer is not None
    signing_in.change_password(desk, reviewer, token, current, new, "::1", "here")


def test_people_change_their_own_password_and_other_browsers_are_signed_out(desk):
    here, elsewhere = sign_in(desk, device="here"), sign_in(desk)
    with pytest.raises(SignInRefused, match="the current password is wrong"):
        change(desk, here, "wrong", "a new and long one")
    with pytest.raises(EarmarkError, match="12 to 200 characters"):
        change(desk, here, PASSWORD, "short")
    change(desk, here, PASSWORD, "a new and long one")
    assert (who(desk, here), who(desk, elsewhere)) == ("ada", None)
    assert who(desk, sign_in(desk, "a new and long one")) == "ada"


def test_a_password_that_its_owner_set_meanwhile_is_not_overwritten(desk, monkeypatch):
    token, checked = sign_in(desk), signing_in._checked

    def while_the_owner_sets_one(*arguments: Any) -> tuple[int, str]:
        found = checked(*arguments)
        with desk.transaction() as connection:
            accounts.set_password(connection, "ada", "what the owner chose")
        return found

    monkeypatch.setattr(signing_in, "_checked", while_the_owner_sets_one)
    with pytest.raises(SignInRefused, match="changed meanwhile"):
        change(desk, token, PASSWORD, "a new and long one")
    monkeypatch.undo()
    assert who(desk, sign_in(desk, "what the owner chose")) == "ada"


def link(desk: Connections, name: str = "ada", *roles: accounts.Role) -> str:
    with desk.transaction() as connection:
        return accounts.make_link(connection, name, roles or ("reviewer", "lead"))


def test_a_link_lets_a_person_choose_a_password_once_that_nobody_else_knows(desk):
    session, token = sign_in(desk), link(desk)
    assert token not in str(ask(desk, "SELECT l::text FROM review_links l"))
    accounts.use_link(desk, token, "a new and long one")
    assert who(desk, session) is None
    assert who(desk, sign_in(desk, "a new and long one")) == "ada"
    with pytest.raises(EarmarkError, match="this link was used"):
        accounts.use_link(desk, token, "a third and long one")


def test_a_link_that_two_use_at_once_is_good_for_one_of_them(desk):
    token = link(desk)

    def use(password: str) -> bool:
        try:
            accounts.use_link(desk, token, password)
        except EarmarkError:
            return False
        return True

    waiting = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with ThreadPoolExecutor(2) as threads:
        with desk.transaction() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT FROM reviewers WHERE name = 'ada' FOR UPDATE")
            both = [threads.submit(use, f"a new and long one {number}") for number in range(2)]
            while ask(desk, waiting) != [(2,)]:
                assert not any(each.done() for each in both)
        assert sorted(each.result() for each in both) == [False, True]


@pytest.mark.parametrize("how", ["old", "unknown", "disabled", "another password since"])
def test_a_link_that_is_no_longer_good_changes_nothing(desk, how):
    token = link(desk)
    if how == "old":
        ask(desk, "UPDATE review_links SET made_at = now() - INTERVAL '25 hours'")
    elif how == "unknown":
        token = "x" * 43
    with desk.transaction() as connection:
        if how == "disabled":
            accounts.set_active(connection, "ada", False)
        elif how == "another password since":
            accounts.set_password(connection, "ada", PASSWORD)
    before = ask(desk, "SELECT password_hash FROM reviewers")
    with pytest.raises(EarmarkError, match="ask for another one"):
        accounts.use_link(desk, token, "a new and long one")
    assert ask(desk, "SELECT password_hash FROM reviewers") == before


def test_a_link_is_made_for_an_account_that_is_there_and_of_a_role_that_is_meant(desk):
    with pytest.raises(EarmarkError, match="no reviewer or lead eve"):
        link(desk, "eve")
    with desk.transaction() as connection:
        accounts.set_role(connection, "ada", "lead")
    with pytest.raises(EarmarkError, match="no reviewer ada"):
        link(desk, "ada", "reviewer")
    with desk.transaction() as connection:
        accounts.set_active(connection, "ada", False)
    with pytest.raises(EarmarkError, match="who may sign in"):
        link(desk)


@pytest.mark.parametrize("name", ["", "Ada", "a b", "-ada", "a" * 65, "ädä", "a\n"])
def test_names_are_plain(desk, name):
    with desk.transaction() as connection, pytest.raises(EarmarkError, match="can't be a name"):
        accounts.add(connection, name, PASSWORD, "reviewer")


@pytest.mark.parametrize("length", [0, 11, 201])
def test_passwords_have_a_length(desk, length):
    with desk.transaction() as connection, pytest.raises(EarmarkError, match="12 to 200"):
        accounts.add(connection, "ben", "x" * length, "reviewer")


# --- the command ------------------------------------------------------------------------


@pytest.fixture
def configfile(migrated_database: str, tmp_path: Path) -> str:
    found = parse_dsn(migrated_database)
    url = f"postgresql://{found['user']}@/{found['dbname']}?host={found['host']}"
    url += f"&port={found['port']}" if "port" in found else ""
    file = tmp_path / "config.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "volume": {"root": str(tmp_path)},
                "source": {"kind": "folder", "directory": str(tmp_path)},
                "database": {"url": url},
            }
        )
    )
    return str(file)


def reviewer(configfile: str, *arguments: str, said: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["earmark", "reviewer", *arguments, "--configfile", configfile],
        input=said, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_accounts_are_made_changed_and_listed_by_the_command(desk, configfile):
    assert reviewer(configfile, "add", "lea", "--lead", said=PASSWORD + "\n").returncode == 0
    done = reviewer(configfile, "add", "lea", said=PASSWORD + "\n")
    assert (done.returncode, done.stderr) == (2, "earmark: there is a reviewer lea already\n")
    assert sign_in(desk, name="lea")
    done = reviewer(configfile, "password", "lea", said="short\n")
    assert done.returncode == 2
    assert "12 to 200" in done.stderr
    assert "short" not in done.stderr
    assert reviewer(configfile, "role", "ada", "lead").returncode == 0
    assert ask(desk, "SELECT role FROM reviewers WHERE name = 'ada'") == [("lead",)]
    assert reviewer(configfile, "disable", "ada").returncode == 0
    done = reviewer(configfile, "disable", "nobody")
    assert "no reviewer nobody" in done.stderr
    listed = reviewer(configfile, "list").stdout
    assert "ada" in listed
    assert "lead" in listed
    assert "argon2" not in listed


def test_a_database_without_the_schema_says_what_to_do(configfile, migrated_database):
    with psycopg2.connect(migrated_database) as connection, connection.cursor() as cursor:
        cursor.execute("ALTER TABLE reviewers RENAME TO elsewhere")
    connection.close()
    try:
        done = reviewer(configfile, "list")
    finally:
        with psycopg2.connect(migrated_database) as connection, connection.cursor() as cursor:
            cursor.execute("ALTER TABLE elsewhere RENAME TO reviewers")
        connection.close()
    assert done.returncode == 2
    assert "earmark migrate" in done.stderr
