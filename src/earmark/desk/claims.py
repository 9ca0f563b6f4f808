"""Who has which item open.

A claim is a row of ``review_claims``: one person an item, one item a person, until it expires.
Whatever changes a claim does so one at a time, under an advisory lock, so that nobody is given
what another one has just been given, kept or decided.  What is decided leaves the queue in the
transaction that keeps the decision; what is not goes back when its claim expires, as it never
left.
"""

import random
from dataclasses import astuple, dataclass
from itertools import product
from typing import Literal

from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from earmark.desk import items
from earmark.desk.accounts import Reviewer
from earmark.errors import EarmarkError

Mode = Literal["score", "category", "control", "adjudication"]
Round = Literal["first", "second", "adjudication"]


class NotYours(EarmarkError):
    """The item went to somebody else, or was decided."""


class Gone(NotYours):
    """The clip was erased."""


@dataclass(frozen=True)
class Claim:
    """An item that somebody has open.

    Attributes:
        audio_file_id: The clip.
        round: Whether it is the first person to hear it, the second, or a lead who settles.
        mode: What they asked for.
        category: Of mode ``category``.
        chosen_by: Why this item came up.
        asr: Speech recognition set of the transcript that they see.
        policy: Policy set that they see.
    """

    audio_file_id: int
    round: Round
    mode: Mode
    category: str | None
    chosen_by: str
    asr: str
    policy: str


_COLUMNS = "audio_file_id, round, mode, category, chosen_by, asr, policy"


# Neither with somebody else now, nor decided or skipped by this person; and heard by nobody.  In
# subqueries that can't become joins: beside one, the planner would read the whole queue, and for
# the second condition all decisions that stand, instead of taking the first that fits.
_FREE = """
    (
        SELECT count(*) FROM review_claims c
        WHERE c.audio_file_id = q.id AND c.reviewer_id <> %(me)s AND c.expires_at > now()
    ) = 0
    AND COALESCE((
        SELECT d.verdict FROM review_decisions d
        WHERE d.audio_file_id = q.id AND d.reviewer_id = %(me)s
        ORDER BY d.id DESC LIMIT 1
    ), 'undone') = 'undone'
    AND (%(once_more)s OR (
        SELECT count(*) FROM review_drafts p WHERE p.audio_file_id = q.id
        AND p.reviewer_id = %(me)s AND p.put_back_at > now() - INTERVAL '1 day'
    ) = 0)
"""
_UNHEARD = """
    (SELECT count(*) FROM review_standing s WHERE s.audio_file_id = q.id AND s.round = 'first') = 0
"""

# In the views' own order: asked to sort, the planner would expect to read them whole.
_FIRST = {
    "score": f"""
        SELECT q.id FROM ra_queue q
        WHERE NOT q.flag_categories && %(opted_out)s AND {_FREE} AND {_UNHEARD} LIMIT 1
    """,
    "category": f"""
        SELECT q.id FROM ra_queue q
        WHERE %(category)s = ANY (q.flag_categories)
          AND NOT q.flag_categories && %(opted_out)s AND {_FREE} AND {_UNHEARD} LIMIT 1
    """,
    "control": f"SELECT q.id FROM ra_controls q WHERE {_FREE} AND {_UNHEARD} LIMIT 1",
    "sample": f"""
        SELECT q.id
        FROM (
            SELECT af.id, s.place, COALESCE(af.queue_categories, '{{}}') AS flag_categories
            FROM review_sample s JOIN audio_files af ON af.id = s.audio_file_id
            WHERE s.draw_id = (SELECT max(id) FROM review_draws)
              AND af.opus_path IS NOT NULL AND af.status IN ('flagged', 'transcribed')
        ) q
        WHERE NOT q.flag_categories && %(opted_out)s AND {_FREE} AND {_UNHEARD}
        ORDER BY q.place LIMIT 1
    """,
}

# What somebody began and left, or had back, and the views show no more.
_BEGUN = f"""
    SELECT q.id
    FROM (
        SELECT af.id, b.since, af.waits_since,
            COALESCE(af.queue_categories, '{{}}') AS flag_categories,
            af.control AND af.status = 'transcribed' AND af.copied_from IS NULL AS is_control
        FROM review_begun b JOIN audio_files af ON af.id = b.audio_file_id
        WHERE af.created_at <= now() - INTERVAL '24 hours'
    ) q
    WHERE CASE %(mode)s
        WHEN 'score' THEN q.waits_since IS NOT NULL
        WHEN 'category' THEN q.waits_since IS NOT NULL AND %(category)s = ANY (q.flag_categories)
        WHEN 'control' THEN q.is_control
    END
    AND NOT q.flag_categories && %(opted_out)s AND {_FREE} AND {_UNHEARD}
    ORDER BY q.since, q.id LIMIT 1
"""

# Likewise of the sample, whose newest draw alone is given out.
_BEGUN_OF_SAMPLE = f"""
    SELECT q.id
    FROM (
        SELECT af.id, b.since, COALESCE(af.queue_categories, '{{}}') AS flag_categories
        FROM review_begun b JOIN audio_files af ON af.id = b.audio_file_id
        WHERE af.waits_since IS NULL AND af.status = 'transcribed' AND af.opus_path IS NOT NULL
          AND EXISTS (SELECT FROM review_sample s WHERE s.audio_file_id = af.id)
    ) q
    WHERE NOT q.flag_categories && %(opted_out)s AND {_FREE} AND {_UNHEARD}
    ORDER BY q.since, q.id LIMIT 1
"""

# Whatever else waits, the oldest first, in the order of an index.
_WAITS = f"""
    SELECT q.id
    FROM (
        SELECT id, waits_since, queue_score, queue_categories AS flag_categories
        FROM audio_files WHERE waits_since IS NOT NULL
    ) q
    WHERE NOT q.flag_categories && %(opted_out)s AND {_FREE} AND {_UNHEARD} {{and_so}}
    ORDER BY q.waits_since, q.queue_score DESC NULLS LAST, q.id LIMIT 1
"""
_OLDER = {
    "score": _WAITS.format(and_so=""),
    "category": _WAITS.format(and_so="AND %(category)s = ANY (q.flag_categories)"),
    "control": f"""
        SELECT q.id FROM audio_files q
        WHERE q.control AND q.status = 'transcribed' AND q.copied_from IS NULL
          AND {_FREE} AND {_UNHEARD}
        ORDER BY q.created_at, q.id LIMIT 1
    """,
}

# Second reviews: only what the person would be given in the first round as well, as anything else
# would tell them that somebody has heard it.  Leads also settle what waits for a second person in
# vain.  Who had to do with a clip in another round, even if they undid it, is neither.
_WAITING = f"""
    SELECT q.id
    FROM (
        SELECT af.id, w.round, w.since, COALESCE(af.queue_categories, '{{}}') AS flag_categories,
            EXISTS (SELECT FROM review_sample s WHERE s.audio_file_id = af.id) AS is_sampled,
            w.round = 'second'
            AND (af.opus_path IS NULL OR w.since < now() - %(patience)s * INTERVAL '1 day')
                AS in_vain
        FROM review_waiting w JOIN audio_files af ON af.id = w.audio_file_id
    ) q
    WHERE CASE %(mode)s
        WHEN 'adjudication' THEN q.round = 'adjudication' OR q.in_vain
        WHEN 'score' THEN q.flag_categories <> '{{}}' OR q.is_sampled
        WHEN 'category' THEN %(category)s = ANY (q.flag_categories)
        WHEN 'control' THEN q.flag_categories = '{{}}'
    END
    AND (%(mode)s = 'adjudication' OR q.round = 'second' AND NOT q.in_vain)
    AND NOT q.flag_categories && %(opted_out)s
    AND NOT EXISTS (
        SELECT FROM review_decisions d
        WHERE d.audio_file_id = q.id AND d.reviewer_id = %(me)s AND d.round <> %(round)s
    )
    AND {_FREE}
    ORDER BY q.since, q.id LIMIT 1
"""

#: Days after which a clip that waits for a second person is one for a lead to settle.
PATIENCE_DAYS = 7


def claim_next(
    connection: Connection,
    reviewer: Reviewer,
    mode: Mode,
    lease_seconds: float,
    category: str | None = None,
    sample_share: float = 0.0,
) -> Claim | None:
    """Give somebody the next item, or the one they have.

    Who is not a lead is first given what waits for a second person and fits what they ask for;
    nothing tells it apart. A lead sees everybody's decisions, and so can't be blind to the first.
    Then comes what somebody began more than a day ago and left, what was loaded in the last day,
    and what is older: nothing stops waiting because time passes.

    Args:
        connection: To the database.
        reviewer: Who asks.
        mode: The flagged clip with the highest score, the one of ``category``, an unflagged one
            that was drawn as a control, or (leads) one that is disputed.
        lease_seconds: How long it is theirs without a sign of life.
        category: For mode ``category``.
        sample_share: With which probability it is, in mode ``score``, the next one of the day's
            sample; with none of the other kind left, it always is.

    Returns:
        None if there is nothing for them.
    """
    wanted = {
        "me": reviewer.id,
        "opted_out": reviewer.opted_out,
        "mode": mode,
        "category": category,
        "patience": PATIENCE_DAYS,
    }
    with connection.cursor() as cursor:
        one_at_a_time(cursor)
        cursor.execute(
            "UPDATE review_claims SET expires_at = clock_timestamp() + %s * INTERVAL '1 second' "
            f"WHERE reviewer_id = %s RETURNING {_COLUMNS}",
            [lease_seconds, reviewer.id],
        )
        if held := cursor.fetchone():
            return Claim(*held)
        rounds: list[tuple[str, Round, str]] = [(_WAITING, "adjudication", "adjudication")]
        if mode != "adjudication":
            rounds = [(sql, "first", mode) for sql in (_BEGUN, _FIRST[mode], _OLDER[mode])]
            if mode == "score":
                rounds.insert(1, (_BEGUN_OF_SAMPLE, "first", "sample"))
            if mode == "score" and sample_share:
                # By chance, as a pattern could be learnt.
                turn = 0 if random.random() < sample_share else len(rounds)
                rounds.insert(turn, (_FIRST["sample"], "first", "sample"))
            if not reviewer.is_lead:
                rounds.insert(0, (_WAITING, "second", "second"))
        # What they put back comes again only where nothing else is left.
        cursor.execute(
            "SELECT FROM review_drafts WHERE reviewer_id = %s "
            "AND put_back_at > now() - INTERVAL '1 day' LIMIT 1",
            [reviewer.id],
        )
        turns = (False, True) if cursor.fetchone() is not None else (False,)
        for once_more, (candidate, round_, chosen_by) in product(turns, rounds):
            cursor.execute(candidate, wanted | {"round": round_, "once_more": once_more})
            if found := cursor.fetchone():
                asr, policy = items.sets_of(cursor, found[0])
                claim = Claim(found[0], round_, mode, category, chosen_by, asr, policy)
                insert(cursor, reviewer, claim, lease_seconds)
                return claim
    return None


def one_at_a_time(cursor: Cursor) -> None:
    """Wait until nobody else changes claims; until the end of the transaction, nobody will.

    ``now()`` is the transaction's beginning, before that wait: what is told by it to have expired
    has, and what is given a time from now on is given it by ``clock_timestamp()``.
    """
    cursor.execute("SELECT pg_advisory_xact_lock(hashtext('earmark claim'))")


def insert(cursor: Cursor, reviewer: Reviewer, claim: Claim, lease_seconds: float) -> None:
    """Note a claim, in place of an expired one; the caller knows that nobody has the item."""
    cursor.execute("DELETE FROM review_claims WHERE audio_file_id = %s", [claim.audio_file_id])
    cursor.execute(
        f"INSERT INTO review_claims (reviewer_id, expires_at, {_COLUMNS}) "
        "VALUES (%s, clock_timestamp() + %s * INTERVAL '1 second', %s, %s, %s, %s, %s, %s, %s)",
        [reviewer.id, lease_seconds, *astuple(claim)],
    )
    if claim.round == "first":
        note_begun(cursor, claim.audio_file_id)


def note_begun(cursor: Cursor, audio_file_id: int) -> None:
    """Note that a clip waits until it is decided, however old it becomes."""
    cursor.execute(
        "INSERT INTO review_begun (audio_file_id) VALUES (%s) ON CONFLICT DO NOTHING",
        [audio_file_id],
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
            "UPDATE review_claims SET expires_at = clock_timestamp() + %s * INTERVAL '1 second' "
            "WHERE audio_file_id = %s AND reviewer_id = %s",
            [lease_seconds, audio_file_id, reviewer.id],
        )
        if not cursor.rowcount:
            refuse_if_erased(cursor, audio_file_id, reviewer)
            raise NotYours(
                "this item is not open for you any more: it was decided, put back, or went to "
                "somebody else"
            )


def refuse_if_erased(cursor: Cursor, audio_file_id: int, reviewer: Reviewer) -> None:
    """Tell somebody that a clip which they once opened was erased.

    Raises:
        Gone: it was erased.
    """
    cursor.execute(
        "SELECT FROM review_access WHERE audio_file_id = %(clip)s AND reviewer_id = %(me)s "
        "AND NOT EXISTS (SELECT FROM audio_files WHERE id = %(clip)s) LIMIT 1",
        {"clip": audio_file_id, "me": reviewer.id},
    )
    if cursor.fetchone() is not None:
        raise Gone("this clip was erased, with all that was written about it")


def held(connection: Connection, reviewer: Reviewer) -> Claim | None:
    """What somebody has open."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {_COLUMNS} FROM review_claims WHERE reviewer_id = %s", [reviewer.id]
        )
        found = cursor.fetchone()
    return Claim(*found) if found else None


def release(connection: Connection, reviewer: Reviewer) -> None:
    """Give back what somebody has open."""
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM review_claims WHERE reviewer_id = %s", [reviewer.id])
