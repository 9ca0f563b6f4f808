"""Who works at the review desk: accounts, sign-in and sessions.

Passwords are kept as Argon2id hashes (RFC 9106), sessions as the SHA-256 of a random token
that only the browser has.
"""

import hashlib
import hmac
import ipaddress
import re
import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import psycopg2
from argon2 import PasswordHasher
from argon2.exceptions import VerificationError
from psycopg2.extensions import connection as Connection

from earmark.desk.connections import Connections
from earmark.errors import EarmarkError

Role = Literal["reviewer", "lead"]

LEAST_PASSWORD, MOST_PASSWORD = 12, 200
NAME = "[a-z0-9][a-z0-9._-]{0,63}"

#: Failed sign-ins after which more are refused, in so many minutes: of one name from one
#: address, and of one name from anywhere.  Of an address alone there is no limit, as it would
#: keep out everybody behind it.
MOST_FAILURES = 5
_MOST_OF_NAME = 50
FAILURE_MINUTES = 15
#: How long a browser is known after the last sign-in, and how long a link to a new password lasts.
DEVICE_DAYS = 180
LINK_HOURS = 24

_hasher = PasswordHasher()
#: Each takes 64 MiB, and anybody can ask for it.
_verifying = threading.BoundedSemaphore(2)

_COLUMNS = "r.id, r.name, r.role, r.hide_text, r.muted, r.opted_out, r.break_minutes"


class SignInRefused(EarmarkError):
    """Name and password don't fit, or too many have failed."""


class TooManyFailures(SignInRefused):
    """No further sign-in is tried for a while."""


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
    hashed = _hashed(password)
    with connection.cursor() as cursor:
        try:
            cursor.execute(
                "INSERT INTO reviewers (name, role, password_hash) VALUES (%s, %s, %s)",
                [name, role, hashed],
            )
        except psycopg2.errors.UniqueViolation:
            raise EarmarkError(f"there is a reviewer {name} already") from None


def set_password(connection: Connection, name: str, password: str) -> None:
    """Change a password, and end the sessions that were opened with the former one.

    Raises:
        EarmarkError: the password won't do, or there is no such account.
    """
    _change(connection, name, "password_hash = %s", _hashed(password))


def change_password(
    connections: Connections,
    reviewer: Reviewer,
    token: str,
    current: str,
    new: str,
    address: str,
    device: str,
) -> None:
    """Give somebody who is signed in another password; their other browsers are signed out.

    Args:
        connections: To the database.
        reviewer: Who.
        token: Of the session, which stays.
        current: The password until now; failures count as those of sign-ins.
        new: The password from now on.
        address: Where the request came from.
        device: The browser's secret.

    Raises:
        EarmarkError: the new password won't do.
        SignInRefused: the current one is wrong.
    """
    hashed = _hashed(new)
    try:
        _, checked = _checked(connections, reviewer.name, current, address, device)
    except TooManyFailures:
        raise
    except SignInRefused:
        raise SignInRefused("the current password is wrong; nothing was changed") from None
    with connections.transaction() as connection, connection.cursor() as cursor:
        # Somebody else may have set one, or ended the session, while these two were hashed.
        cursor.execute(
            "UPDATE reviewers SET password_hash = %s WHERE id = %s AND password_hash = %s "
            "AND EXISTS (SELECT FROM review_sessions WHERE token_sha256 = %s)",
            [hashed, reviewer.id, checked, _digest(token)],
        )
        if not cursor.rowcount:
            raise SignInRefused("the password was changed meanwhile; sign in again")
        cursor.execute(
            "DELETE FROM review_sessions WHERE reviewer_id = %s AND token_sha256 <> %s",
            [reviewer.id, _digest(token)],
        )
        cursor.execute(
            "DELETE FROM review_devices WHERE reviewer_id = %s AND token_sha256 <> %s",
            [reviewer.id, _digest(device)],
        )
        cursor.execute("DELETE FROM review_links WHERE reviewer_id = %s", [reviewer.id])


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
            [_digest(token), name, list(roles)],
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
            [_digest(token), LINK_HOURS],
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
    hashed = _hashed(password)
    with connections.transaction() as connection, connection.cursor() as cursor:
        # Whoever uses the same link at this moment waits here, and finds it used.
        cursor.execute("SELECT FROM reviewers WHERE name = %s FOR UPDATE", [name])
        linked_to(connection, token)
        _change(connection, name, "password_hash = %s", hashed)


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


def sign_in(connections: Connections, name: str, password: str, address: str, device: str) -> str:
    """Open a session, and know the browser from now on.

    An attempt counts as failed until it has succeeded, so that many at once help nobody. Those from
    a browser in which the person has signed in before are counted by themselves, so that nobody
    elsewhere can keep them out (OWASP, "Slow Down Online Guessing Attacks with Device Cookies").

    Args:
        connections: To the database.
        name: As it was typed.
        password: Likewise.
        address: Where the request came from.
        device: A random secret that only this browser has.

    Returns:
        The session's token.

    Raises:
        TooManyFailures: too many attempts have failed; try again later.
        SignInRefused: they don't fit, or the account is not active.
    """
    reviewer_id, _ = _checked(connections, name, password, address, device)
    token = secrets.token_urlsafe(32)
    with connections.transaction() as connection, connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM review_devices WHERE used_at < now() - %s * INTERVAL '1 day'",
            [DEVICE_DAYS],
        )
        cursor.execute(
            "INSERT INTO review_devices (token_sha256, reviewer_id) VALUES (%s, %s) "
            "ON CONFLICT (token_sha256, reviewer_id) DO UPDATE SET used_at = now()",
            [_digest(device), reviewer_id],
        )
        cursor.execute(
            "INSERT INTO review_sessions (token_sha256, reviewer_id) VALUES (%s, %s)",
            [_digest(token), reviewer_id],
        )
    return token


def _checked(
    connections: Connections, name: str, password: str, address: str, device: str
) -> tuple[int, str]:
    """Check a password.

    Returns:
        The account's id, and the hash that the password fits.

    Raises:
        TooManyFailures: too many attempts have failed; try again later.
        SignInRefused: they don't fit, or the account is not active.
    """
    name = name.strip().lower()[:64].replace("\0", "")
    nobody = _nobodys_hash()
    with connections.transaction() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext('earmark sign in'))")
        cursor.execute("DELETE FROM sign_in_failures WHERE failed_at < now() - INTERVAL '1 hour'")
        cursor.execute(
            "SELECT FROM review_devices d JOIN reviewers r ON r.id = d.reviewer_id "
            "WHERE d.token_sha256 = %s AND r.name = %s",
            [_digest(device), name],
        )
        is_known = cursor.fetchone() is not None
        origin = f"device {_digest(device).hex()[:32]}" if is_known else subscriber(address)
        cursor.execute(
            "SELECT count(*) FILTER (WHERE address = %(origin)s), count(*) FROM sign_in_failures "
            "WHERE name = %(name)s AND failed_at > now() - %(minutes)s * INTERVAL '1 minute'",
            {"name": name, "origin": origin, "minutes": FAILURE_MINUTES},
        )
        failures = cursor.fetchall()[0][: 1 if is_known else 2]
        most = (MOST_FAILURES, _MOST_OF_NAME)[: len(failures)]
        if any(count >= limit for count, limit in zip(failures, most, strict=True)):
            raise TooManyFailures(
                f"too many sign-ins have failed; try again in {FAILURE_MINUTES} minutes"
            )
        cursor.execute("INSERT INTO sign_in_failures VALUES (%s, %s)", [name, origin])
        cursor.execute("SELECT id, password_hash FROM reviewers WHERE name = %s AND active", [name])
        found = cursor.fetchone()
    reviewer_id, expected = found or (None, nobody)
    try:
        with _verifying:
            _hasher.verify(expected, password[: MOST_PASSWORD + 1])
    except VerificationError:
        reviewer_id = None
    if reviewer_id is None:
        raise SignInRefused("name and password do not fit together")
    with connections.transaction() as connection, connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM sign_in_failures WHERE name = %s AND address = %s", [name, origin]
        )
    return int(reviewer_id), expected


def reviewer_of(
    connection: Connection, token: str, session_hours: float, idle_minutes: float, attended: bool
) -> Reviewer | None:
    """Whose session a token is; None if it has ended.

    Args:
        connection: To the database.
        token: From the browser.
        session_hours: Sessions end so long after the sign-in.
        idle_minutes: They also end so long after the last attended request.
        attended: Whether a person made this request, and not a page by itself.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {_COLUMNS}, s.seen_at < now() - INTERVAL '1 minute' "
            "FROM review_sessions s JOIN reviewers r ON r.id = s.reviewer_id "
            "WHERE s.token_sha256 = %(token)s AND r.active "
            "AND s.created_at > now() - %(hours)s * INTERVAL '1 hour' "
            "AND s.seen_at > now() - %(minutes)s * INTERVAL '1 minute'",
            {"token": _digest(token), "hours": session_hours, "minutes": idle_minutes},
        )
        found = cursor.fetchone()
        if found is None:
            return None
        *columns, is_stale = found
        if is_stale and attended:
            cursor.execute(
                "UPDATE review_sessions SET seen_at = now() WHERE token_sha256 = %s",
                [_digest(token)],
            )
    return Reviewer(*columns)


@cache
def _nobodys_hash() -> str:
    """A hash to verify for names that don't exist, so that time does not tell them apart."""
    return _hasher.hash(secrets.token_urlsafe())


def subscriber(address: str) -> str:
    """An address as far as it tells subscribers apart: of IPv6, each has 2⁶⁴ addresses or more."""
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if known.version == 4 or known.is_loopback:
        return address
    return str(ipaddress.ip_network((known, 64), strict=False))


def sign_out(connection: Connection, token: str) -> None:
    """End a session, and those that have ended by themselves long ago."""
    with connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM review_sessions WHERE token_sha256 = %s "
            "OR created_at < now() - INTERVAL '30 days'",
            [_digest(token)],
        )


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


def csrf_token(secret: str) -> str:
    """What a form must send along to show that one of our pages made it.

    Args:
        secret: The session's token, or of a visitor without a session another secret that only
            the browser has (OWASP, "Cross-Site Request Forgery Prevention": HMAC-based tokens).
    """
    return hmac.new(secret.encode(), b"earmark csrf", hashlib.sha256).hexdigest()


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _hashed(password: str) -> str:
    if not LEAST_PASSWORD <= len(password) <= MOST_PASSWORD:
        raise EarmarkError(
            f"a password has {LEAST_PASSWORD} to {MOST_PASSWORD} characters; this one has "
            f"{len(password)}"
        )
    with _verifying:
        return _hasher.hash(password)


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
