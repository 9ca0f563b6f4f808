"""What was decided and what was opened, the newest first, a page at a time; and what plays."""

import datetime
from dataclasses import dataclass
from typing import Generic, TypeVar

from psycopg2.extensions import connection as Connection

PAGE = 50

#: Seconds of a clip that were played before the decision ``d``; null where it was not recorded.
HEARD = (
    "(SELECT COALESCE(sum((part ->> 1)::FLOAT8 - (part ->> 0)::FLOAT8), 0) "
    "FROM jsonb_array_elements(d.heard) part HAVING d.heard IS NOT NULL)"
)
#: Their share of the clip, 0 to 1; NULL likewise, and for a clip without sound.
HEARD_SHARE = (
    "CASE WHEN d.heard IS NOT NULL AND af.duration_seconds > 0 "
    f"THEN LEAST(1, {HEARD} / af.duration_seconds) END"
)

Entry = TypeVar("Entry")


@dataclass(frozen=True)
class Page(Generic[Entry]):
    """Some entries, and where older ones begin.

    Attributes:
        entries: The newest first.
        older: ``before`` of the next page; None if this is the last.
    """

    entries: list[Entry]
    older: int | None


@dataclass(frozen=True)
class Decided:
    """A decision, as the log shows it.

    Attributes:
        id: In ``review_decisions``.
        audio_file_id: The clip.
        reviewer: Who decided.
        round: ``first``, ``second`` or ``adjudication``.
        verdict: What was decided.
        categories: The person's.
        reason: Why it was skipped.
        note: In the person's own words.
        flag_score: The model's highest score; None for a control.
        flag_categories: Those under which the model flagged it, the highest score first.
        decided_at: When.
        superseded: Whether the same person decided about the clip again.
        heard_share: Of the clip's length, what was played before, 0 to 1; None if unknown.
        undone_by: The lead who took it back, of an ``undone`` one; None for the person.
    """

    id: int
    audio_file_id: int
    reviewer: str
    round: str
    verdict: str
    categories: list[str]
    reason: str | None
    note: str | None
    flag_score: float | None
    flag_categories: list[str] | None
    decided_at: datetime.datetime
    superseded: bool
    undone_by: str | None
    heard_share: float | None


@dataclass(frozen=True)
class Opened:
    """Something that was seen or heard, or an export.

    Attributes:
        id: In ``review_access``.
        reviewer: Who.
        what: ``page``, ``audio`` or ``export``.
        audio_file_id: The clip; None for an export.
        detail: Of audio, the range of bytes asked for, or that it was playing; of an export, its
            kind and days.
        at: When.
        is_there: Whether the clip still is.
    """

    id: int
    reviewer: str
    what: str
    audio_file_id: int | None
    detail: str | None
    at: datetime.datetime
    is_there: bool


def decisions(connection: Connection, before: int | None = None) -> Page[Decided]:
    """A page of the log of decisions; ``before`` is the id above which they were shown."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT d.id, d.audio_file_id, r.name, d.round, d.verdict, d.categories, d.reason, "
            "d.note, d.flag_score, d.flag_categories, d.decided_at, "
            "EXISTS (SELECT FROM review_decisions later WHERE later.id > d.id "
            "AND later.audio_file_id = d.audio_file_id AND later.reviewer_id = d.reviewer_id), "
            "lead.name, CASE WHEN d.verdict NOT IN ('skipped', 'undone') THEN "
            f"{HEARD_SHARE} END "
            "FROM review_decisions d JOIN reviewers r ON r.id = d.reviewer_id "
            "LEFT JOIN reviewers lead ON lead.id = d.undone_by "
            "JOIN audio_files af ON af.id = d.audio_file_id "
            "WHERE d.id < COALESCE(%s, 9223372036854775807) ORDER BY d.id DESC LIMIT %s",
            [before, PAGE + 1],
        )
        return _page([Decided(*row) for row in cursor.fetchall()])


def access(connection: Connection, before: int | None = None) -> Page[Opened]:
    """A page of the log of what was opened; ``before`` is the id above which it was shown."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT a.id, r.name, a.what, a.audio_file_id, a.detail, a.at, af.id IS NOT NULL "
            "FROM (SELECT * FROM review_access WHERE id < COALESCE(%s, 9223372036854775807) "
            "ORDER BY id DESC LIMIT %s) a JOIN reviewers r ON r.id = a.reviewer_id "
            "LEFT JOIN audio_files af ON af.id = a.audio_file_id ORDER BY a.id DESC",
            [before, PAGE + 1],
        )
        return _page([Opened(*row) for row in cursor.fetchall()])


def note_playing(connection: Connection, reviewer_id: int, audio_file_id: int) -> None:
    """Note that a clip plays to somebody, once a minute at the most.

    Browsers ask for audio far ahead of what is heard, so that only this tells how long.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO review_access (reviewer_id, audio_file_id, what, detail) "
            "SELECT %(who)s, %(clip)s, 'audio', 'playing' WHERE NOT EXISTS ("
            "SELECT FROM review_access WHERE reviewer_id = %(who)s "
            "AND at > now() - INTERVAL '1 minute' "
            "AND audio_file_id = %(clip)s AND detail = 'playing')",
            {"who": reviewer_id, "clip": audio_file_id},
        )


def _page(found: list[Entry]) -> Page[Entry]:
    entries = found[:PAGE]
    last = entries[-1] if len(found) > PAGE else None
    return Page(entries, getattr(last, "id", None))
