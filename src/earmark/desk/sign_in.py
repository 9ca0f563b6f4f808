"""Signing in to the review desk: sessions, known browsers, and guesses that are refused."""

import hashlib
import hmac
import ipaddress
import secrets

from psycopg2.extensions import connection as Connection

from earmark.desk.accounts import Reviewer
from earmark.desk.connections import Connections
from earmark.desk.passwords import digest, fits, hashed, nobodys_hash
from earmark.errors import EarmarkError

#: Failed sign-ins after which more are refused, in so many minutes: of one name from one
#: address, and of one name from anywhere.  Of an address alone there is no limit, as it would
#: keep out everybody behind it.
MOST_FAILURES = 5
_MOST_OF_NAME = 50
FAILURE_MINUTES = 15
#: How long a browser is known after the last sign-in.
DEVICE_DAYS = 180

_COLUMNS = "r.id, r.name, r.role, r.hide_text, r.muted, r.opted_out, r.break_minutes"


class SignInRefused(EarmarkError):
    """Name and password don't fit, or too many have failed."""


class TooManyFailures(SignInRefused):
    """No further sign-in is tried for a while."""


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
            [digest(device), reviewer_id],
        )
        cursor.execute(
            "INSERT INTO review_sessions (token_sha256, reviewer_id) VALUES (%s, %s)",
            [digest(token), reviewer_id],
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
    nobody = nobodys_hash()
    with connections.transaction() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext('earmark sign in'))")
        cursor.execute("DELETE FROM sign_in_failures WHERE failed_at < now() - INTERVAL '1 hour'")
        cursor.execute(
            "SELECT FROM review_devices d JOIN reviewers r ON r.id = d.reviewer_id "
            "WHERE d.token_sha256 = %s AND r.name = %s",
            [digest(device), name],
        )
        is_known = cursor.fetchone() is not None
        origin = f"device {digest(device).hex()[:32]}" if is_known else subscriber(address)
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
    if not fits(password, expected) or reviewer_id is None:
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
            {"token": digest(token), "hours": session_hours, "minutes": idle_minutes},
        )
        found = cursor.fetchone()
        if found is None:
            return None
        *columns, is_stale = found
        if is_stale and attended:
            cursor.execute(
                "UPDATE review_sessions SET seen_at = now() WHERE token_sha256 = %s",
                [digest(token)],
            )
    return Reviewer(*columns)


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
            [digest(token)],
        )


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
    kept = hashed(new)
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
            [kept, reviewer.id, checked, digest(token)],
        )
        if not cursor.rowcount:
            raise SignInRefused("the password was changed meanwhile; sign in again")
        cursor.execute(
            "DELETE FROM review_sessions WHERE reviewer_id = %s AND token_sha256 <> %s",
            [reviewer.id, digest(token)],
        )
        cursor.execute(
            "DELETE FROM review_devices WHERE reviewer_id = %s AND token_sha256 <> %s",
            [reviewer.id, digest(device)],
        )
        cursor.execute("DELETE FROM review_links WHERE reviewer_id = %s", [reviewer.id])


def csrf_token(secret: str) -> str:
    """What a form must send along to show that one of our pages made it.

    Args:
        secret: The session's token, or of a visitor without a session another secret that only
            the browser has (OWASP, "Cross-Site Request Forgery Prevention": HMAC-based tokens).
    """
    return hmac.new(secret.encode(), b"earmark csrf", hashlib.sha256).hexdigest()
