"""Who has which item open.

A claim is a row of ``review_claims``: one person an item, one item a person, until it expires.
Whatever changes a claim does so one at a time, under an advisory lock, so that nobody is given
what another one has just been given, kept or decided.  What is decided leaves the queue in the
transaction that keeps the decision; what is not goes back when its claim expires, as it never
left.
"""

from dataclasses import dataclass
from typing import Any, Literal

from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from earmark.desk.accounts import Reviewer
from earmark.errors import EarmarkError

Mode = Literal["score", "category", "control", "adjudication"]
MODES: tuple[Mode, ...] = ("score", "category", "control", "adjudication")

Round = Literal["first", "second", "adjudication"]


class NotYours(EarmarkError):
    """The item went to somebody else, or was decided."""


@dataclass(frozen=True)
class Claim:
    """An item that somebody has open.

    Attributes:
        audio_file_id: The clip.
        round: Whether it is the first person to hear it, the second, or a lead who settles.
    """

    audio_file_id: int
    round: Round


# Neither with somebody else now, nor decided or skipped by this person.
_FREE = """
    NOT EXISTS (
        SELECT FROM review_claims c
        WHERE c.audio_file_id = q.id AND c.reviewer_id <> %(me)s AND c.expires_at > now()
    )
    AND COALESCE((
        SELECT d.verdict FROM review_decisions d
        WHERE d.audio_file_id = q.id AND d.reviewer_id = %(me)s
        ORDER BY d.id DESC LIMIT 1
    ), 'undone') = 'undone'
"""

# In the views' own order: asked to sort, the planner would expect to read them whole.
_FIRST = {
    "score": f"""
        SELECT q.id FROM ra_queue q
        WHERE NOT q.flag_categories && %(opted_out)s AND {_FREE} LIMIT 1
    """,
    "category": f"""
        SELECT q.id FROM ra_queue q
        WHERE %(category)s = ANY (q.flag_categories)
          AND NOT q.flag_categories && %(opted_out)s AND {_FREE} LIMIT 1
    """,
    "control": f"SELECT q.id FROM ra_controls q WHERE {_FREE} LIMIT 1",
}

# Only what the person would be given in the first round as well: anything else would tell them
# that somebody has heard it.
_WAITING = f"""
    SELECT q.id
    FROM (
        SELECT af.id, w.round, w.since, COALESCE(af.queue_categories, '{{}}') AS flag_categories
        FROM review_waiting w JOIN audio_files af ON af.id = w.audio_file_id
    ) q
    WHERE q.round = %(round)s
      AND CASE %(mode)s
          WHEN 'score' THEN q.flag_categories <> '{{}}'
          WHEN 'category' THEN %(category)s = ANY (q.flag_categories)
          WHEN 'control' THEN q.flag_categories = '{{}}'
          ELSE TRUE
      END
      AND NOT q.flag_categories && %(opted_out)s
      AND {_FREE}
    ORDER BY q.since, q.id LIMIT 1
"""


def claim_next(
    connection: Connection,
    reviewer: Reviewer,
    mode: Mode,
    lease_seconds: float,
    category: str | None = None,
) -> Claim | None:
    """Give somebody the next item, or the one they have.

    Who is not a lead is first given what waits for a second person and fits what they ask for;
    nothing tells it apart. A lead sees everybody's decisions, and so can't be blind to the first.

    Args:
        connection: To the database.
        reviewer: Who asks.
        mode: The flagged clip with the highest score, the one of ``category``, an unflagged one
            that was drawn as a control, or (leads) one that is disputed.
        lease_seconds: How long it is theirs without a sign of life.
        category: For mode ``category``.

    Returns:
        None if there is nothing for them.
    """
    wanted = {
        "me": reviewer.id,
        "opted_out": reviewer.opted_out,
        "mode": mode,
        "category": category,
        "lease": lease_seconds,
    }
    with connection.cursor() as cursor:
        one_at_a_time(cursor)
        cursor.execute(
            "UPDATE review_claims SET expires_at = now() + %(lease)s * INTERVAL '1 second' "
            "WHERE reviewer_id = %(me)s RETURNING audio_file_id, round",
            wanted,
        )
        if held := cursor.fetchone():
            return Claim(*held)
        if mode == "adjudication":
            return _take(cursor, _WAITING, "adjudication", mode, wanted)
        if not reviewer.is_lead and (claim := _take(cursor, _WAITING, "second", "second", wanted)):
            return claim
        return _take(cursor, _FIRST[mode], "first", mode, wanted)


def one_at_a_time(cursor: Cursor) -> None:
    """Wait until nobody else changes claims; until the end of the transaction, nobody will."""
    cursor.execute("SELECT pg_advisory_xact_lock(hashtext('earmark claim'))")


def _take(
    cursor: Cursor, candidate: str, round_: Round, chosen_by: str, wanted: dict[str, Any]
) -> Claim | None:
    cursor.execute(candidate, wanted | {"round": round_})
    found = cursor.fetchone()
    if found is None:
        return None
    insert(cursor, found[0], round_, chosen_by, wanted["me"], wanted["lease"])
    return Claim(found[0], round_)


def insert(
    cursor: Cursor,
    audio_file_id: int,
    round_: Round,
    chosen_by: str,
    reviewer_id: int,
    lease_seconds: float,
) -> None:
    """Note a claim, in place of an expired one; the caller knows that nobody has the item."""
    cursor.execute(
        "INSERT INTO review_claims (audio_file_id, reviewer_id, round, chosen_by, expires_at) "
        "VALUES (%s, %s, %s, %s, now() + %s * INTERVAL '1 second') "
        "ON CONFLICT (audio_file_id) DO UPDATE SET reviewer_id = EXCLUDED.reviewer_id, "
        "round = EXCLUDED.round, chosen_by = EXCLUDED.chosen_by, "
        "claimed_at = EXCLUDED.claimed_at, expires_at = EXCLUDED.expires_at",
        [audio_file_id, reviewer_id, round_, chosen_by, lease_seconds],
    )


def heartbeat(
    connection: Connection, reviewer: Reviewer, audio_file_id: int, lease_seconds: float
) -> None:
    """Keep an item; one whose claim has expired too, as long as nobody else took it.

    Raises:
        NotYours: somebody else did, or it was decided.
    """
    with connection.cursor() as cursor:
        one_at_a_time(cursor)
        cursor.execute(
            "UPDATE review_claims SET expires_at = now() + %s * INTERVAL '1 second' "
            "WHERE audio_file_id = %s AND reviewer_id = %s",
            [lease_seconds, audio_file_id, reviewer.id],
        )
        if not cursor.rowcount:
            raise NotYours("this item is no longer yours: it went back to the queue")


def held(connection: Connection, reviewer: Reviewer) -> Claim | None:
    """What somebody has open."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT audio_file_id, round FROM review_claims WHERE reviewer_id = %s", [reviewer.id]
        )
        found = cursor.fetchone()
    return Claim(*found) if found else None


def release(connection: Connection, reviewer: Reviewer) -> None:
    """Give back what somebody has open."""
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM review_claims WHERE reviewer_id = %s", [reviewer.id])
