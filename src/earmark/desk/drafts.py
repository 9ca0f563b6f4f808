"""What somebody has written and ticked about an item that they have not decided yet.

Kept for each person and item while the page is open, so that a reload, a closed tab, an ended
session or an item put back loses no word; it is gone with the decision, and with the clip.
"""

from dataclasses import asdict, dataclass

from psycopg2.extensions import connection as Connection

from earmark.desk import items
from earmark.desk.accounts import Reviewer
from earmark.errors import EarmarkError

#: Characters of a note that is not finished: more than may be decided with, so that who pastes too
#: much can shorten it.
MOST_DRAFT = 10_000


@dataclass(frozen=True)
class Draft:
    """A form that is not sent yet.

    Attributes:
        note: In the person's own words.
        categories: Those ticked; None where the person has ticked nothing by themselves.
        transcript_wrong: The transcript is not what is said.
        not_speech: Nobody speaks.
        wrong_language: The language was mistaken.
    """

    note: str
    categories: list[str] | None
    transcript_wrong: bool
    not_speech: bool
    wrong_language: bool


def keep(connection: Connection, reviewer: Reviewer, audio_file_id: int, draft: Draft) -> None:
    """Keep a draft in place of the one before; the caller knows that the item is the person's.

    Raises:
        EarmarkError: the note is longer than :data:`MOST_DRAFT`, or too many are ticked.
    """
    if len(draft.note) > MOST_DRAFT:
        raise EarmarkError(f"the draft of a note has at most {MOST_DRAFT:,} characters")
    kept = asdict(draft) | {"categories": sorted(set(draft.categories or ()))}
    if len(kept["categories"]) > 200 or any(len(each) > 200 for each in kept["categories"]):
        raise EarmarkError("these are no categories")
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO review_drafts (audio_file_id, reviewer_id, {', '.join(kept)}) "
            f"VALUES (%s, %s, {', '.join(['%s'] * len(kept))}) "
            "ON CONFLICT (audio_file_id, reviewer_id) DO UPDATE SET "
            + ", ".join(f"{name} = EXCLUDED.{name}" for name in kept),
            [audio_file_id, reviewer.id, *kept.values()],
        )


def begun(connection: Connection, reviewer: Reviewer, audio_file_id: int) -> Draft | None:
    """What somebody begins from: their draft, or else what they undid; None if neither."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT note, categories, transcript_wrong, not_speech, wrong_language "
            "FROM review_drafts WHERE audio_file_id = %s AND reviewer_id = %s "
            "AND categories IS NOT NULL",
            [audio_file_id, reviewer.id],
        )
        if found := cursor.fetchone():
            return Draft(*found)
    if former := items.undone(connection, reviewer, audio_file_id):
        return Draft(
            former.note or "",
            former.categories if former.verdict == "reportable" else None,
            former.transcript_wrong,
            former.not_speech,
            former.wrong_language,
        )
    return None


def note_put_back(connection: Connection, reviewer: Reviewer, audio_file_id: int) -> None:
    """Note that somebody put an item back; what they wrote about it stays."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO review_drafts (audio_file_id, reviewer_id, put_back_at) "
            "VALUES (%s, %s, now()) ON CONFLICT (audio_file_id, reviewer_id) DO UPDATE "
            "SET put_back_at = EXCLUDED.put_back_at",
            [audio_file_id, reviewer.id],
        )
