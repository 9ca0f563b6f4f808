"""What was decided about an item.

Decisions are only ever added; of one person about one clip the newest counts (the view
``review_standing``).  A random share of clips goes to a second person, who is not told; where
two differ, or somebody is unsure, a lead who is neither of them settles it (the view
``review_outcomes``).
"""

import datetime
import json
from dataclasses import dataclass, field
from typing import Literal

from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from earmark.desk import claims
from earmark.desk.accounts import Reviewer
from earmark.desk.claims import Claim, NotYours
from earmark.errors import EarmarkError
from earmark.selection import uniform

Verdict = Literal["reportable", "not reportable", "unsure", "skipped"]
VERDICTS: tuple[Verdict, ...] = ("reportable", "not reportable", "unsure", "skipped")

SKIP_REASONS = ("too distressing", "I know the speaker", "language I do not speak", "other")
MOST_NOTE = 4_000  # characters


class NothingToUndo(EarmarkError):
    """No decision can be taken back, or no longer."""


@dataclass(frozen=True)
class Judgement:
    """What a person says about a clip.

    Attributes:
        verdict: ``skipped`` leaves it to somebody else.
        categories: What it falls under, if reportable.
        transcript_wrong: The transcript is not what is said.
        not_speech: Nobody speaks.
        wrong_language: The language was mistaken.
        reason: Why it is skipped, one of :data:`SKIP_REASONS`; nothing else has one.
        note: In the person's own words.
    """

    verdict: Verdict
    categories: frozenset[str] = field(default_factory=frozenset)
    transcript_wrong: bool = False
    not_speech: bool = False
    wrong_language: bool = False
    reason: str | None = None
    note: str | None = None

    def __post_init__(self) -> None:
        """Check what a form may get wrong.

        Raises:
            EarmarkError: a part of it is not allowed, or doesn't fit another.
        """
        if self.verdict not in VERDICTS:
            raise EarmarkError(f"the verdict is none of {', '.join(VERDICTS)}")
        if (self.verdict == "skipped") != (self.reason is not None):
            raise EarmarkError("an item is skipped for a reason; choose one")
        if self.reason is not None and self.reason not in SKIP_REASONS:
            raise EarmarkError(f"the reason is none of {', '.join(SKIP_REASONS)}")
        if self.verdict == "reportable" and not self.categories:
            raise EarmarkError("a reportable item falls under a category; choose at least one")
        if self.note is not None and len(self.note) > MOST_NOTE:
            raise EarmarkError(f"a note has at most {MOST_NOTE:,} characters")


@dataclass(frozen=True)
class LastDecision:
    """What somebody decided last, with what the model had said.

    Attributes:
        id: In ``review_decisions``.
        audio_file_id: The clip.
        verdict: What was decided.
        categories: The person's.
        flag_score: The model's highest score; None for a control.
        flag_categories: Those under which the model flagged it, the highest score first.
        decided_at: When.
    """

    id: int
    audio_file_id: int
    verdict: str
    categories: list[str]
    flag_score: float | None
    flag_categories: list[str] | None
    decided_at: datetime.datetime

    @property
    def flag_category(self) -> str | None:
        """The category of the highest score."""
        return self.flag_categories[0] if self.flag_categories else None


def decide(
    connection: Connection,
    reviewer: Reviewer,
    audio_file_id: int,
    judgement: Judgement,
    second_review_fraction: float,
) -> None:
    """Keep a decision, and take the clip out of the queue unless it is skipped.

    Said twice, as by a page that is sent again, it is kept once.

    Args:
        connection: To the database.
        reviewer: Who decided; the item is theirs.
        audio_file_id: The clip.
        judgement: What they say.
        second_review_fraction: Share of clips that go to a second person.

    Raises:
        NotYours: the item went to somebody else, or back to the queue.
        EarmarkError: a category is none of the policies that were shown.
    """
    with connection.cursor() as cursor:
        claims.one_at_a_time(cursor)
        cursor.execute(
            "DELETE FROM review_claims WHERE audio_file_id = %s AND reviewer_id = %s "
            "RETURNING round, chosen_by, claimed_at",
            [audio_file_id, reviewer.id],
        )
        claim = cursor.fetchone()
        if claim is None:
            if _said_already(cursor, reviewer, audio_file_id, judgement):
                return
            raise NotYours(
                "this item is no longer yours: it went to somebody else, or back to the queue. "
                "Nothing was kept of this decision"
            )
        if unknown := judgement.categories - set(categories_of(cursor, audio_file_id)):
            raise EarmarkError(f"there is no category {', '.join(sorted(unknown))} in its policies")
        round_, chosen_by, claimed_at = claim
        cursor.execute(
            _INSERT,
            {
                "clip": audio_file_id,
                "reviewer": reviewer.id,
                "round": round_,
                "chosen_by": chosen_by,
                "verdict": judgement.verdict,
                "categories": _kept_categories(judgement),
                "transcript_wrong": judgement.transcript_wrong,
                "not_speech": judgement.not_speech,
                "wrong_language": judgement.wrong_language,
                "reason": judgement.reason,
                "note": judgement.note.replace("\0", "\ufffd") if judgement.note else None,
                "claimed_at": claimed_at,
            },
        )
        if judgement.verdict == "skipped":
            return
        if round_ == "first":
            cursor.execute("SELECT mark_reviewed(%s)", [audio_file_id])
            _draw_second(cursor, audio_file_id, second_review_fraction)
        _keep_waiting(cursor, audio_file_id)


_INSERT = """
    INSERT INTO review_decisions (
        audio_file_id, reviewer_id, round, chosen_by, verdict, categories, transcript_wrong,
        not_speech, wrong_language, reason, note, asr, policy, flag_score, flag_categories,
        claimed_at
    )
    SELECT
        af.id, %(reviewer)s, %(round)s, %(chosen_by)s, %(verdict)s, %(categories)s,
        %(transcript_wrong)s, %(not_speech)s, %(wrong_language)s, %(reason)s, %(note)s,
        a.asr, a.policy, af.queue_score, af.queue_categories, %(claimed_at)s
    FROM audio_files af LEFT JOIN archives a ON a.id = af.archive_id
    WHERE af.id = %(clip)s
"""


def undo(connection: Connection, reviewer: Reviewer, lease_seconds: float) -> Claim:
    """Take back somebody's last decision and give them the item again.

    An item that they have open meanwhile goes back to the queue.

    Args:
        connection: To the database.
        reviewer: Whose decision.
        lease_seconds: How long the item is theirs without a sign of life.

    Raises:
        NothingToUndo: there is none of today's, it was settled since, or somebody else has the
            item open now.
    """
    with connection.cursor() as cursor:
        claims.one_at_a_time(cursor)
        last = last_decision(connection, reviewer)
        if last is None:
            raise NothingToUndo("there is no decision of the last day to take back")
        cursor.execute("SELECT round FROM review_decisions WHERE id = %s", [last.id])
        round_ = cursor.fetchall()[0][0]
        cursor.execute(
            "SELECT EXISTS (SELECT FROM review_claims WHERE audio_file_id = %(clip)s "
            "AND reviewer_id <> %(me)s AND expires_at > now()), "
            "EXISTS (SELECT FROM review_standing WHERE audio_file_id = %(clip)s "
            "AND reviewer_id <> %(me)s AND array_position(%(rounds)s, round) "
            ">= array_position(%(rounds)s, %(round)s))",
            {
                "clip": last.audio_file_id,
                "me": reviewer.id,
                "round": round_,
                "rounds": ["first", "second", "adjudication"],
            },
        )
        is_taken, is_settled = cursor.fetchall()[0]
        if is_taken:
            raise NothingToUndo("somebody else has that item open now; try again later")
        if is_settled:
            raise NothingToUndo("somebody else has decided about that item since")
        claims.release(connection, reviewer)
        cursor.execute(
            "INSERT INTO review_decisions (audio_file_id, reviewer_id, round, chosen_by, verdict, "
            "asr, policy, flag_score, flag_categories, claimed_at) "
            "SELECT audio_file_id, reviewer_id, round, chosen_by, 'undone', asr, policy, "
            "flag_score, flag_categories, now() FROM review_decisions WHERE id = %s",
            [last.id],
        )
        cursor.execute("SELECT return_to_review(%s)", [last.audio_file_id])
        _keep_waiting(cursor, last.audio_file_id)
        claims.insert(cursor, last.audio_file_id, round_, "undo", reviewer.id, lease_seconds)
    return Claim(last.audio_file_id, round_)


def last_decision(connection: Connection, reviewer: Reviewer) -> LastDecision | None:
    """What somebody decided last and may take back: of the last day, and not undone."""
    found = decisions_of(connection, reviewer, 1)
    return found[0] if found and found[0].verdict != "undone" else None


def decisions_of(connection: Connection, reviewer: Reviewer, most: int) -> list[LastDecision]:
    """What somebody decided in the last 24 hours, the newest first; undone ones too."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id, audio_file_id, verdict, categories, flag_score, flag_categories, "
            "decided_at FROM review_decisions "
            "WHERE reviewer_id = %s AND decided_at > now() - INTERVAL '24 hours' "
            "ORDER BY id DESC LIMIT %s",
            [reviewer.id, most],
        )
        return [LastDecision(*row) for row in cursor.fetchall()]


def categories_of(cursor: Cursor, audio_file_id: int) -> list[str]:
    """Categories of the policies by which a clip was judged, in order of their names."""
    cursor.execute(
        "SELECT p.facts ->> 'policy_sha256', af.queue_categories "
        "FROM audio_files af LEFT JOIN archives a ON a.id = af.archive_id "
        "LEFT JOIN provenance p ON p.archive_id = a.id AND p.kind = 'classifications' "
        "AND p.name = a.policy WHERE af.id = %s",
        [audio_file_id],
    )
    hashes, flagged = cursor.fetchone() or (None, None)
    return sorted({*json.loads(hashes or "{}"), *(flagged or [])})


def _kept_categories(judgement: Judgement) -> list[str]:
    return sorted(judgement.categories) if judgement.verdict == "reportable" else []


def _said_already(
    cursor: Cursor, reviewer: Reviewer, audio_file_id: int, judgement: Judgement
) -> bool:
    cursor.execute(
        "SELECT verdict, categories FROM review_decisions "
        "WHERE audio_file_id = %s AND reviewer_id = %s ORDER BY id DESC LIMIT 1",
        [audio_file_id, reviewer.id],
    )
    return cursor.fetchone() == (judgement.verdict, _kept_categories(judgement))


def _draw_second(cursor: Cursor, audio_file_id: int, fraction: float) -> None:
    """Draw a clip for a second person, by its content: who undoes a decision draws the same."""
    cursor.execute("SELECT source_sha256 FROM audio_files WHERE id = %s", [audio_file_id])
    content = cursor.fetchall()[0][0] or str(audio_file_id)
    if uniform(content, "second review") < fraction:
        cursor.execute(
            "INSERT INTO second_reviews (audio_file_id, probability) VALUES (%s, %s) "
            "ON CONFLICT DO NOTHING",
            [audio_file_id, fraction],
        )


def _keep_waiting(cursor: Cursor, audio_file_id: int) -> None:
    """Note whether a clip waits for another person, and in which round."""
    cursor.execute("DELETE FROM review_waiting WHERE audio_file_id = %s", [audio_file_id])
    cursor.execute(
        "INSERT INTO review_waiting (audio_file_id, round) "
        "SELECT audio_file_id, CASE state WHEN 'disputed' THEN 'adjudication' ELSE 'second' END "
        "FROM review_outcomes WHERE audio_file_id = %s AND state <> 'settled'",
        [audio_file_id],
    )
