"""Who works at the review desk: accounts, and links by which people choose their passwords."""

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import psycopg2
from psycopg2.extensions import connection as Connection

from earmark.desk.connections import Connections
from earmark.desk.passwords import digest, hashed
from earmark.errors import EarmarkError

Role = Literal["reviewer", "lead"]

#: A name, as a pattern.
NAME = "[a-z0-9][a-z0-9._-]{0,63}"
#: How long a link to a new password lasts.
LINK_HOURS = 24


@dataclass(frozen=True)
class Reviewer:
    """Somebody who may sign in.

    Attributes:
        id: In the table ``reviewers``.
        name: For signing in, and in the log of decisions.
        role: A lead may also adjudicate, and see what all do.
        hide_text: Transcripts stay hidden until asked for.
        muted: Audio starts muted.
        opted_out: Categories whose items this person is never given.
        break_minutes: Minutes of work after which a break is suggested.
    """

    id: int
    name: str
    role: Role
    hide_text: bool
    muted: bool
    opted_out: list[str]
    break_minutes: int

    @property
    def is_lead(self) -> bool:
        """Whether this is a lead."""
        return self.role == "lead"


@dataclass(frozen=True)
class Account:
    """An account, as ``earmark reviewer list`` shows it."""

    name: str
    role: Role
    active: bool
    decisions: int  # of all time, undone ones too


def check_free(connection: Connection, name: str) -> None:
    """Check that an account can have a name.

    Raises:
        EarmarkError: it can't be a name, or is taken.
    """
    if not re.fullmatch(NAME, name):
        raise EarmarkError(
            f"{name!r} can't be a name; expected up to 64 lower-case letters, digits, '.', '_' "
            "and '-', the first a letter or digit"
        )
    if any(account.name == name for account in accounts(connection)):
        raise EarmarkError(f"there is a reviewer {name} already")


def add(connection: Connection, name: str, password: str, role: Role) -> None:
    """Make an account.

    Args:
        connection: Of a role that owns the schema; the desk's own may not.
        name: Lower-case letters, digits, dots, hyphens and underscores; not there yet.
        password: At least 12 characters.
        role: What it may do.

    Raises:
        EarmarkError: name or password won't do, or the name is taken.
    """
    check_free(connection, name)
    kept = hashed(password)
    with connection.cursor() as cursor:
        try:
            cursor.execute(
                "INSERT INTO reviewers (name, role, password_hash) VALUES (%s, %s, %s)",
                [name, role, kept],
            )
        except psycopg2.errors.UniqueViolation:
            raise EarmarkError(f"there is a reviewer {name} already") from None


def set_password(connection: Connection, name: str, password: str) -> None:
    """Change a password, and end the sessions that were opened with the former one.

    Raises:
        EarmarkError: the password won't do, or there is no such account.
    """
    _change(connection, name, "password_hash = %s", hashed(password))


def make_link(
    connection: Connection, name: str, roles: Sequence[Role] = ("reviewer", "lead")
) -> str:
    """Make a secret by which a person can choose a password, once and within a day.

    Args:
        connection: To the database.
        name: Whose password.
        roles: Who it may be for.

    Returns:
        The secret, which is kept nowhere.

    Raises:
        EarmarkError: there is no such account, it is disabled, or of another role.
    """
    token = secrets.token_urlsafe(32)
    with connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM review_links WHERE made_at < now() - %s * INTERVAL '1 hour'", [LINK_HOURS]
        )
        cursor.execute(
            "INSERT INTO review_links (token_sha256, reviewer_id) "
            "SELECT %s, id FROM reviewers WHERE name = %s AND active AND role = ANY (%s)",
            [digest(token), name, list(roles)],
        )
        if not cursor.rowcount:
            raise EarmarkError(
                f"there is no {' or '.join(roles)} {name} who may sign in; "
                "`earmark reviewer list` shows all accounts"
            )
    return token


def linked_to(connection: Connection, token: str) -> str:
    """The name of the account that a link is for.

    Raises:
        EarmarkError: it was used, is too old, or never was one.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT r.name FROM review_links l JOIN reviewers r ON r.id = l.reviewer_id "
            "WHERE l.token_sha256 = %s AND r.active "
            "AND l.made_at > now() - %s * INTERVAL '1 hour'",
            [digest(token), LINK_HOURS],
        )
        found = cursor.fetchone()
    if found is None:
        raise EarmarkError("this link was used, or is too old; ask for another one")
    return str(found[0])


def use_link(connections: Connections, token: str, password: str) -> None:
    """Set the password of the account that a link is for, and end the link.

    Raises:
        EarmarkError: the link is no longer good, or the password won't do.
    """
    with connections.transaction() as connection:
        name = linked_to(connection, token)
    kept = hashed(password)
    with connections.transaction() as connection, connection.cursor() as cursor:
        # Whoever uses the same link at this moment waits here, and finds it used.
        cursor.execute("SELECT FROM reviewers WHERE name = %s FOR UPDATE", [name])
        linked_to(connection, token)
        _change(connection, name, "password_hash = %s", kept)


def set_role(connection: Connection, name: str, role: Role) -> None:
    """Make somebody a lead, or no longer; they have to sign in again.

    Raises:
        EarmarkError: there is no such account.
    """
    _change(connection, name, "role = %s", role)


def set_active(connection: Connection, name: str, active: bool) -> None:
    """Let somebody in again, or no longer: sessions end and an open item goes back at once.

    Raises:
        EarmarkError: there is no such account.
    """
    _change(connection, name, "active = %s", active)


def accounts(connection: Connection) -> list[Account]:
    """All accounts, by name."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT name, role, active, "
            "(SELECT count(*) FROM review_decisions WHERE reviewer_id = r.id) "
            "FROM reviewers r ORDER BY name"
        )
        return [Account(*row) for row in cursor.fetchall()]


def change_settings(
    connection: Connection,
    reviewer: Reviewer,
    *,
    hide_text: bool,
    muted: bool,
    opted_out: list[str],
    break_minutes: int,
) -> None:
    """Keep what a person chose for themselves; break_minutes in 5..240."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE reviewers SET hide_text = %s, muted = %s, opted_out = %s, break_minutes = %s "
            "WHERE id = %s",
            [hide_text, muted, opted_out, break_minutes, reviewer.id],
        )


def _change(connection: Connection, name: str, assignment: str, value: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE reviewers SET {assignment} WHERE name = %s RETURNING id", [value, name]
        )
        found = cursor.fetchone()
        if found is None:
            raise EarmarkError(f"there is no reviewer {name}; `earmark reviewer list` shows all")
        cursor.execute("DELETE FROM review_sessions WHERE reviewer_id = %s", found)
        cursor.execute("DELETE FROM review_claims WHERE reviewer_id = %s", found)
        cursor.execute("DELETE FROM review_devices WHERE reviewer_id = %s", found)
        cursor.execute("DELETE FROM review_links WHERE reviewer_id = %s", found)
