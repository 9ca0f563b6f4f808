"""What was decided about an item.

Decisions are only ever added; of one person about one clip the newest counts (the view
``review_standing``).  A random share of clips goes to a second person, who is not told; where
two differ, or somebody is unsure, a lead who is neither of them settles it (the view
``review_outcomes``).  People take back what they decided in the last day, and leads anything.
"""

import datetime
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from earmark.desk import claims, items
from earmark.desk.accounts import Reviewer
from earmark.desk.claims import Claim, Mode, NotYours
from earmark.errors import EarmarkError
from earmark.ingest.selection import uniform

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
        if self.verdict != "reportable" and self.categories:
            raise EarmarkError("only a reportable item falls under categories")
        if self.note is not None and len(self.note) > MOST_NOTE:
            raise EarmarkError(f"a note has at most {MOST_NOTE:,} characters")


@dataclass(frozen=True)
class LastDecision:
    """What somebody decided, with what the model had said.

    Attributes:
        id: In ``review_decisions``.
        audio_file_id: The clip.
        verdict: What was decided.
        categories: The person's.
        flag_score: The model's highest score; None for a control.
        flag_categories: Those under which the model flagged it, the highest score first.
        decided_at: When.
        counts: Whether it is the person's newest about the clip, and not undone.
        by_lead: Whether a lead took it back.
    """

    id: int
    audio_file_id: int
    verdict: str
    categories: list[str]
    flag_score: float | None
    flag_categories: list[str] | None
    decided_at: datetime.datetime
    counts: bool
    by_lead: bool


def decide(
    connection: Connection,
    reviewer: Reviewer,
    audio_file_id: int,
    judgement: Judgement,
    second_review_fraction: float,
) -> Claim:
    """Keep a decision, and take the clip out of the queue unless it is skipped.

    Said twice, as by a page that is sent again, it is kept once.

    Args:
        connection: To the database.
        reviewer: Who decided; the item is theirs.
        audio_file_id: The clip.
        judgement: What they say.
        second_review_fraction: Share of clips that go to a second person.

    Returns:
        The claim that the item was theirs by.

    Raises:
        NotYours: the item went to somebody else, or back to the queue.
        EarmarkError: a category is none of the policies that were shown.
    """
    with connection.cursor() as cursor:
        claims.one_at_a_time(cursor)
        claim = claims.held(connection, reviewer)
        if claim is None or claim.audio_file_id != audio_file_id:
            if said := _said_already(cursor, reviewer, audio_file_id, judgement):
                return said
            claims.refuse_if_erased(cursor, audio_file_id, reviewer)
            raise NotYours(
                "this item is not open for you any more: it was decided, put back, or went to "
                "somebody else. Nothing was kept of this decision"
            )
        if judgement.verdict == "skipped" and _stands(cursor, reviewer, audio_file_id):
            # A lead who looked at what they settled before: it stays settled.
            claims.release(connection, reviewer)
            return claim
        known = items.categories(cursor, audio_file_id, claim.policy)
        if unknown := judgement.categories - {*known}:
            raise EarmarkError(f"there is no category {', '.join(sorted(unknown))} in its policies")
        cursor.execute(_INSERT, {"reviewer": reviewer.id, **_columns(judgement)})
        claims.release(connection, reviewer)
        cursor.execute(
            "DELETE FROM review_drafts WHERE audio_file_id = %s AND (reviewer_id = %s OR %s)",
            [audio_file_id, reviewer.id, judgement.verdict != "skipped"],
        )
        if judgement.verdict != "skipped":
            if claim.round == "adjudication":
                cursor.execute(
                    "SELECT id FROM review_standing WHERE audio_file_id = %s "
                    "AND round = 'adjudication' AND reviewer_id <> %s",
                    [audio_file_id, reviewer.id],
                )
                overruled = [id for (id,) in cursor.fetchall()]
                cursor.execute(_TAKE_BACK, {"ids": overruled, "by": reviewer.id})
            cursor.execute("DELETE FROM review_begun WHERE audio_file_id = %s", [audio_file_id])
            if claim.round == "first":
                cursor.execute("SELECT mark_reviewed(%s)", [audio_file_id])
                _draw_second(cursor, audio_file_id, second_review_fraction)
            _keep_waiting(cursor, audio_file_id)
        return claim


def _stands(cursor: Cursor, reviewer: Reviewer, audio_file_id: int) -> bool:
    cursor.execute(
        "SELECT FROM review_standing WHERE audio_file_id = %s AND reviewer_id = %s",
        [audio_file_id, reviewer.id],
    )
    return cursor.fetchone() is not None


_INSERT = """
    INSERT INTO review_decisions (
        audio_file_id, reviewer_id, round, chosen_by, verdict, categories, transcript_wrong,
        not_speech, wrong_language, reason, note, asr, policy, claimed_at, flag_score,
        flag_categories, heard
    )
    SELECT
        audio_file_id, reviewer_id, round, chosen_by, %(verdict)s, %(categories)s,
        %(transcript_wrong)s, %(not_speech)s, %(wrong_language)s, %(reason)s, %(note)s, asr,
        policy, claimed_at, flagged.*,
        (
            SELECT CASE WHEN af.opus_path IS NOT NULL THEN COALESCE(draft.heard, '[]') END
            FROM audio_files af LEFT JOIN review_drafts draft
                ON draft.audio_file_id = af.id AND draft.reviewer_id = %(reviewer)s
            WHERE af.id = claim.audio_file_id
        )
    FROM review_claims claim
    CROSS JOIN LATERAL (
        SELECT max(c.flag_score),
            array_agg(c.flag_category ORDER BY c.flag_score DESC NULLS LAST, c.flag_category)
        FROM classifications c
        WHERE c.audio_file_id = claim.audio_file_id AND c.policy = claim.policy AND c.flagged
    ) flagged
    WHERE reviewer_id = %(reviewer)s
"""


def undo(
    connection: Connection,
    reviewer: Reviewer,
    lease_seconds: float,
    audio_file_id: int | None = None,
) -> Claim:
    """Take back one of somebody's decisions of the last day and give them the item again.

    An item that they have open meanwhile goes back to the queue.

    Args:
        connection: To the database.
        reviewer: Whose decision.
        lease_seconds: How long the item is theirs without a sign of life.
        audio_file_id: The clip that it is about; None for the newest decision that counts.

    Raises:
        NothingToUndo: there is none of the last day, or somebody else has decided about the
            item since, or has it open now.
    """
    with connection.cursor() as cursor:
        claims.one_at_a_time(cursor)
        last = last_decision(connection, reviewer, audio_file_id)
        if last is None:
            raise NothingToUndo("there is no decision of the last day to take back")
        clip = last.audio_file_id
        cursor.execute(
            "SELECT round, chosen_by, asr, policy FROM review_decisions WHERE id = %s", [last.id]
        )
        round_, chosen_by, asr, policy = cursor.fetchall()[0]
        cursor.execute(
            "SELECT FROM review_claims WHERE audio_file_id = %(clip)s "
            "AND reviewer_id <> %(me)s AND expires_at > now() UNION ALL "
            "SELECT FROM review_standing WHERE audio_file_id = %(clip)s "
            "AND reviewer_id <> %(me)s AND array_position(%(rounds)s, round) "
            ">= array_position(%(rounds)s, %(round)s)",
            {
                "clip": clip,
                "me": reviewer.id,
                "round": round_,
                "rounds": ["first", "second", "adjudication"],
            },
        )
        if cursor.fetchone() is not None:
            # Why not, would tell whether it went to a second person.
            raise NothingToUndo(
                "this decision can't be taken back any more by yourself; a lead can overrule it"
            )
        held = claims.held(connection, reviewer)
        mode: Mode = "adjudication" if round_ == "adjudication" else "score"
        if chosen_by in ("category", "control"):
            mode = chosen_by
        again = Claim(clip, round_, mode, None, chosen_by, asr, policy)
        if held is not None:
            again = replace(again, mode=held.mode, category=held.category)
        claims.release(connection, reviewer)
        cursor.execute(
            "INSERT INTO review_drafts (audio_file_id, reviewer_id, heard) "
            "SELECT audio_file_id, reviewer_id, heard FROM review_decisions "
            "WHERE id = %s AND heard IS NOT NULL ON CONFLICT DO NOTHING",
            [last.id],
        )
        cursor.execute(_TAKE_BACK, {"ids": [last.id], "by": None})
        _return(cursor, clip)
        claims.insert(cursor, reviewer, again, lease_seconds)
    return again


def reopen(connection: Connection, lead: Reviewer, audio_file_id: int) -> None:
    """Take back all that was decided about a clip, so that it waits as if nobody had heard it.

    Args:
        connection: To the database.
        lead: Who does it, which the record says.
        audio_file_id: The clip.

    Raises:
        NothingToUndo: no decision stands, or somebody else has the item open now.
    """
    with connection.cursor() as cursor:
        claims.one_at_a_time(cursor)
        _refuse_if_open(cursor, lead, audio_file_id)
        cursor.execute(
            "SELECT id FROM review_standing WHERE audio_file_id = %s ORDER BY id", [audio_file_id]
        )
        ids = [id for (id,) in cursor.fetchall()]
        if not ids:
            raise NothingToUndo(f"there is no decision about item {audio_file_id} to take back")
        cursor.execute("DELETE FROM review_claims WHERE audio_file_id = %s", [audio_file_id])
        cursor.execute(_TAKE_BACK, {"ids": ids, "by": lead.id})
        _return(cursor, audio_file_id)
        claims.note_begun(cursor, audio_file_id)


def overrule(
    connection: Connection, lead: Reviewer, audio_file_id: int, lease_seconds: float
) -> Claim:
    """Give a lead any decided clip to settle, though it be settled already.

    What was decided stands until the lead decides.  An item that they have open meanwhile goes
    back to the queue.

    Raises:
        NothingToUndo: no first decision stands, the lead decided about the clip in another round,
            or somebody else has the item open now.
    """
    with connection.cursor() as cursor:
        claims.one_at_a_time(cursor)
        _refuse_if_open(cursor, lead, audio_file_id)
        cursor.execute(
            "SELECT reviewer_id, round, asr, policy FROM review_standing WHERE audio_file_id = %s",
            [audio_file_id],
        )
        standing = cursor.fetchall()
        if any(who == lead.id and round_ != "adjudication" for who, round_, *_ in standing):
            raise NothingToUndo(
                "you decided about this item yourself; reopen it, or let another lead settle it"
            )
        shown = [(asr, policy) for _, round_, asr, policy in standing if round_ == "first"]
        if not shown:
            raise NothingToUndo(f"there is no decision about item {audio_file_id} to overrule")
        claims.release(connection, lead)
        claim = Claim(
            audio_file_id, "adjudication", "adjudication", None, "adjudication", *shown[0]
        )
        claims.insert(cursor, lead, claim, lease_seconds)
    return claim


def _refuse_if_open(cursor: Cursor, lead: Reviewer, audio_file_id: int) -> None:
    cursor.execute(
        "SELECT r.name FROM review_claims c JOIN reviewers r ON r.id = c.reviewer_id "
        "WHERE c.audio_file_id = %s AND c.reviewer_id <> %s AND c.expires_at > now()",
        [audio_file_id, lead.id],
    )
    if found := cursor.fetchone():
        raise NothingToUndo(f"{found[0]} has item {audio_file_id} open now; try again later")


_OF_LAST_DAY = "d.decided_at > now() - INTERVAL '24 hours'"
#: Of somebody's decisions those that they can take back, if nobody else came after them.
_UNDOABLE = (
    "d.verdict <> 'undone' AND NOT EXISTS (SELECT FROM review_decisions later "
    "WHERE later.audio_file_id = d.audio_file_id AND later.reviewer_id = d.reviewer_id "
    "AND later.id > d.id)"
)
_TAKE_BACK = """
    INSERT INTO review_decisions (
        audio_file_id, reviewer_id, round, chosen_by, verdict, asr, policy, flag_score,
        flag_categories, claimed_at, undone_by
    )
    SELECT audio_file_id, reviewer_id, round, chosen_by, 'undone', asr, policy, flag_score,
        flag_categories, now(), %(by)s
    FROM review_decisions WHERE id = ANY (%(ids)s) ORDER BY id
"""


def _return(cursor: Cursor, audio_file_id: int) -> None:
    """Let a clip wait again for whom it lacks now."""
    cursor.execute("SELECT return_to_review(%s)", [audio_file_id])
    _keep_waiting(cursor, audio_file_id)


def last_decision(
    connection: Connection, reviewer: Reviewer, audio_file_id: int | None = None
) -> LastDecision | None:
    """What somebody decided last and may take back: of the last day, and not undone.

    Args:
        connection: To the database.
        reviewer: Who.
        audio_file_id: The clip that it is about; None for any.
    """
    about = f"AND {_UNDOABLE} AND d.audio_file_id = COALESCE(%(clip)s, d.audio_file_id)"
    found = _decisions_of(connection, reviewer, 1, about, audio_file_id)
    return found[0] if found else None


def decisions_of(connection: Connection, reviewer: Reviewer, most: int) -> list[LastDecision]:
    """What somebody decided in the last 24 hours, the newest first; undone ones too."""
    return _decisions_of(connection, reviewer, most)


def _decisions_of(
    connection: Connection,
    reviewer: Reviewer,
    most: int,
    only: str = "",
    audio_file_id: int | None = None,
) -> list[LastDecision]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT d.id, d.audio_file_id, d.verdict, d.categories, "
            # Who only skipped a clip may be given it again if they undo it.
            "CASE WHEN d.verdict IN ('skipped', 'undone') THEN NULL ELSE d.flag_score END, "
            "CASE WHEN d.verdict IN ('skipped', 'undone') THEN NULL ELSE d.flag_categories END, "
            f"d.decided_at, {_UNDOABLE}, d.undone_by IS NOT NULL FROM review_decisions d "
            f"WHERE d.reviewer_id = %(me)s AND {_OF_LAST_DAY} {only} "
            "ORDER BY d.id DESC LIMIT %(most)s",
            {"me": reviewer.id, "most": most, "clip": audio_file_id},
        )
        return [LastDecision(*row) for row in cursor.fetchall()]


def _columns(judgement: Judgement) -> dict[str, Any]:
    """A judgement as the table has it."""
    note = judgement.note.replace("\0", "\ufffd") if judgement.note else None
    return asdict(judgement) | {"categories": sorted(judgement.categories), "note": note}


def _said_already(
    cursor: Cursor, reviewer: Reviewer, audio_file_id: int, judgement: Judgement
) -> Claim | None:
    """The claim of somebody's newest decision about a clip, if it was this one."""
    said = _columns(judgement)
    cursor.execute(
        f"SELECT round, chosen_by, asr, policy, {', '.join(said)} FROM review_decisions "
        "WHERE audio_file_id = %s AND reviewer_id = %s ORDER BY id DESC LIMIT 1",
        [audio_file_id, reviewer.id],
    )
    newest = cursor.fetchone()
    if newest is None or newest[4:] != tuple(said.values()):
        return None
    round_, chosen_by, asr, policy = newest[:4]
    return Claim(audio_file_id, round_, "score", None, chosen_by, asr, policy)


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
