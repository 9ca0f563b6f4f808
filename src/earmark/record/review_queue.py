"""What waits for a person, and how the last day went."""

import datetime
from dataclasses import dataclass

from psycopg2.extensions import cursor as Cursor

from earmark import SQL
from earmark.record.database import connect, require_schema


@dataclass(frozen=True)
class QueueItem:
    """A clip that a person should hear; the columns of the view ``ra_queue``."""

    id: int
    original_filename: str
    opus_path: str | None  # relative to volume.root
    transcript_text: str
    flag_score: float | None  # highest of the flagged categories, 0..1
    flag_category: str | None  # the category of that score
    created_at: datetime.datetime  # when it was first loaded
    archive: str | None
    duration_seconds: float | None
    language: str | None  # ISO 639-1
    confidence: float | None  # of the transcript, 0..1
    flag_categories: list[str | None]  # all that flagged it, highest score first
    languages: list[str] | None = None  # all of the clip, the largest share first
    compression_ratio: float | None = None  # of the text; above 2.4 it repeats itself
    no_speech_probability: float | None = None  # 0..1
    doubt: str | None = None  # why the text may not have been spoken; None if nothing is doubtful


@dataclass(frozen=True)
class Control:
    """An unflagged clip drawn for review; the columns of the view ``ra_controls``."""

    id: int
    original_filename: str
    opus_path: str | None  # relative to volume.root
    transcript_text: str
    review_probability: float  # with which it was drawn
    created_at: datetime.datetime  # when it was first loaded
    archive: str | None
    duration_seconds: float | None
    language: str | None  # ISO 639-1
    confidence: float | None  # of the transcript, 0..1
    languages: list[str] | None  # as in QueueItem, and so are the others
    compression_ratio: float | None
    no_speech_probability: float | None
    doubt: str | None


@dataclass(frozen=True)
class Health:
    """Clips and other members of the last 24 hours; the columns of ``sql/health.sql``."""

    flagged_count: int
    total_processed: int  # classified
    undecided_count: int  # some category has no answer
    pending_count: int  # kept, not transcribed
    failed_count: int
    not_taken_count: int  # members that are audio of a format that is not taken
    not_audio_count: int  # members that are no audio


def review_queue(conninfo: str, limit: int, category: str | None = None) -> list[QueueItem]:
    """List flagged clips of the last 24 hours, highest score first, each clip once.

    Args:
        conninfo: As :func:`earmark.record.database.connection_string` returns it.
        limit: How many at most.
        category: Only clips that this category flagged, whatever their highest one.

    Raises:
        EarmarkError: the database can't be reached or lacks the schema.
    """
    with connect(conninfo) as connection, connection.cursor() as cursor:
        require_schema(connection)
        return first_items(cursor, limit, category)


def first_items(cursor: Cursor, limit: int, category: str | None = None) -> list[QueueItem]:
    """The same over a connection that is there, to a database with the schema."""
    names = ", ".join(QueueItem.__dataclass_fields__)
    matches = "" if category is None else "WHERE %(category)s = ANY (flag_categories)"
    cursor.execute(
        # In the view's own order: asked to sort, the planner would expect to read the view whole.
        f"SELECT {names} FROM ra_queue {matches} LIMIT %(limit)s",
        {"category": category, "limit": limit},
    )
    return [QueueItem(*row) for row in cursor.fetchall()]


def controls(conninfo: str, limit: int) -> list[Control]:
    """List unflagged clips of the last 24 hours that were drawn for review, in random order.

    Args:
        conninfo: As :func:`earmark.record.database.connection_string` returns it.
        limit: How many at most.

    Raises:
        EarmarkError: the database can't be reached or lacks the schema.
    """
    names = ", ".join(Control.__dataclass_fields__)
    with connect(conninfo) as connection, connection.cursor() as cursor:
        require_schema(connection)
        cursor.execute(f"SELECT {names} FROM ra_controls LIMIT %s", [limit])
        return [Control(*row) for row in cursor.fetchall()]


def health(conninfo: str) -> Health:
    """Count the clips of the last 24 hours by what became of them.

    Raises:
        EarmarkError: the database can't be reached or lacks the schema.
    """
    with connect(conninfo) as connection, connection.cursor() as cursor:
        require_schema(connection)
        cursor.execute((SQL / "health.sql").read_text(encoding="utf-8"))
        return Health(*cursor.fetchall()[0])
