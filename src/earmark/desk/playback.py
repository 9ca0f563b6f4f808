"""What of a clip was played, as a browser tells it."""

import json
import math

import msgspec
from psycopg2.extensions import connection as Connection

from earmark.desk.accounts import Reviewer
from earmark.errors import EarmarkError

#: Seconds of a clip, from and to.
Interval = tuple[float, float]

#: Intervals that a browser may tell at once.
_MOST = 1_000
#: Of a clip whose length is not known, in seconds.
_LONGEST = 24 * 3600.0


def parse(told: str, duration: float) -> list[Interval]:
    """Intervals that a browser told, checked, joined and cut to the clip's length.

    Args:
        told: JSON, an array of [from, to] in seconds; empty for none.
        duration: Of the clip, in seconds.

    Raises:
        EarmarkError: it is anything else.
    """
    if not told:
        return []
    try:
        intervals = msgspec.json.decode(told, type=list[Interval])
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise EarmarkError("what was played is no list of intervals") from error
    if len(intervals) > _MOST:
        raise EarmarkError(f"what was played is in more than {_MOST:,} pieces")
    for begin, end in intervals:
        if not (math.isfinite(end) and 0 <= begin <= end):
            raise EarmarkError("what was played is no list of intervals")
    return joined([(min(begin, duration), min(end, duration)) for begin, end in intervals])


def joined(intervals: list[Interval]) -> list[Interval]:
    """The same seconds as sorted intervals that don't touch, to a tenth of a second."""
    whole: list[Interval] = []
    for begin, end in sorted((round(begin, 1), round(end, 1)) for begin, end in intervals):
        if begin == end:
            continue
        if whole and begin <= whole[-1][1]:
            whole[-1] = (whole[-1][0], max(whole[-1][1], end))
        else:
            whole.append((begin, end))
    return whole


def add(connection: Connection, reviewer: Reviewer, audio_file_id: int, told: str) -> None:
    """Add what somebody's browser told to what was played before.

    The caller knows that the item is the person's.

    Raises:
        EarmarkError: as :func:`parse`.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT COALESCE(af.duration_seconds, %s), COALESCE(d.heard, '[]') "
            "FROM audio_files af "
            "LEFT JOIN review_drafts d ON d.audio_file_id = af.id AND d.reviewer_id = %s "
            "WHERE af.id = %s",
            [_LONGEST, reviewer.id, audio_file_id],
        )
        found = cursor.fetchone()
        if found is None or not (heard := parse(told, found[0])):
            return
        cursor.execute(
            "INSERT INTO review_drafts (audio_file_id, reviewer_id, heard) VALUES (%s, %s, %s) "
            "ON CONFLICT (audio_file_id, reviewer_id) DO UPDATE SET heard = EXCLUDED.heard",
            [audio_file_id, reviewer.id, json.dumps(joined([*map(tuple, found[1]), *heard]))],
        )


def was_heard(connection: Connection, reviewer: Reviewer, audio_file_id: int) -> bool:
    """Whether somebody played any of a clip since they were given it, or before they undid."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT FROM review_drafts WHERE audio_file_id = %s AND reviewer_id = %s "
            "AND heard <> '[]'",
            [audio_file_id, reviewer.id],
        )
        return cursor.fetchone() is not None
