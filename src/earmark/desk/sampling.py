"""The sample that people hear among the queue's top: a day's draw, and who is next of it.

A draw takes in all archives that were loaded since the one before, at the first item that is asked
for on a day; an archive that is loaded later, or commits later, is in the next one.  So each
clip is in one draw, and a draw's population is known before anybody hears any of it.  A content
can be in two, where a later policy set flags what an earlier one did not: to find out would take
an index by content, or reading all clips of a year.  :mod:`earmark.record.harm` counts it in the
first.
"""

from dataclasses import dataclass

import numpy as np
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import execute_values

from earmark.record import review_sample
from earmark.record.review_sample import BOUNDS

_NEW_ARCHIVES = """
    SELECT a.id, COALESCE(a.policy, 'unrecorded')
    FROM archives a
    WHERE a.loaded_at > COALESCE((SELECT min(drawn_at) FROM review_draws), now())
            - INTERVAL '24 hours'
      AND NOT EXISTS (SELECT FROM review_draw_archives known WHERE known.archive_id = a.id)
"""

_CLIPS = """
    SELECT af.id, af.source_sha256, max(c.flag_score)
    FROM unnest(%s::BIGINT [], %s::TEXT []) AS a (id, policy)
    JOIN audio_files af ON af.archive_id = a.id
    LEFT JOIN classifications c ON c.audio_file_id = af.id AND c.policy = a.policy
    WHERE af.status IN ('transcribed', 'flagged', 'reviewed')
      AND af.duplicate_of IS NULL AND af.copied_from IS NULL AND af.source_sha256 IS NOT NULL
    GROUP BY af.id
    ORDER BY af.id
"""

# Of the draws of the last 28 days with these strata and this policy set.
_HEARD_BEFORE = """
    SELECT s.stratum, count(*), count(*) FILTER (WHERE o.verdict = 'reportable')
    FROM review_draws d
    JOIN review_sample s ON s.draw_id = d.id
    JOIN audio_files af ON af.id = s.audio_file_id
    JOIN review_draw_archives a ON a.archive_id = af.archive_id AND a.policy = ANY (%s::TEXT [])
    CROSS JOIN LATERAL (
        SELECT verdict FROM review_outcomes WHERE audio_file_id = s.audio_file_id OFFSET 0
    ) o
    WHERE d.drawn_at > now() - INTERVAL '28 days' AND d.bounds = %s::DOUBLE PRECISION []
      AND o.verdict IN ('reportable', 'not reportable')
    GROUP BY 1
"""


@dataclass(frozen=True)
class Lane:
    """How the sample is heard.

    Attributes:
        per_day: So many clips are drawn.
        target: Clips that are reviewed a day, those among them.
        timezone: Whose days those are.
    """

    per_day: int
    target: int
    timezone: str

    @property
    def share(self) -> float:
        """Share of the items that come from the sample while there are any."""
        return min(1.0, self.per_day / self.target)


def draw_of_today(connection: Connection, lane: Lane) -> bool:
    """Draw the day's sample, unless that is done or there is nothing new to draw from.

    Returns:
        Whether there is one; if another process is about to draw it, there is none yet.
    """
    with connection.cursor() as cursor:
        if _is_drawn(cursor, lane):
            return True
        cursor.execute("SELECT pg_try_advisory_xact_lock(hashtext('earmark review sample'))")
        if cursor.fetchall() != [(True,)] or _is_drawn(cursor, lane):
            return False
        cursor.execute("SET LOCAL statement_timeout = '10min'")  # of days that nobody reviewed
        cursor.execute(_NEW_ARCHIVES)
        archives = cursor.fetchall()
        cursor.execute(_CLIPS, [[id for id, _ in archives], [policy for _, policy in archives]])
        if clips := cursor.fetchall():
            _draw(cursor, lane, archives, clips)
        return bool(clips)


def _is_drawn(cursor: Cursor, lane: Lane) -> bool:
    cursor.execute(
        "SELECT FROM review_draws WHERE drawn_on = (now() AT TIME ZONE %s)::date", [lane.timezone]
    )
    return cursor.fetchone() is not None


def _draw(
    cursor: Cursor,
    lane: Lane,
    archives: list[tuple[int, str]],
    clips: list[tuple[int, str, float | None]],
) -> None:
    ids, contents, found = zip(*clips, strict=True)
    scores = np.array(found, float)
    stratum = review_sample.strata(scores, BOUNDS)
    count = len(BOUNDS) + 2
    sizes = np.bincount(stratum, minlength=count)
    totals = np.bincount(stratum, weights=np.nan_to_num(scores), minlength=count)
    cursor.execute(_HEARD_BEFORE, [list({policy for _, policy in archives}), list(BOUNDS)])
    heard, reportable = np.zeros(count), np.zeros(count)
    for each, *counts in cursor.fetchall():
        heard[each], reportable[each] = counts
    rates = review_sample.expected_rates(totals / np.maximum(sizes, 1), heard, reportable)
    numbers = review_sample.allocate(sizes, rates, lane.per_day)
    chosen = review_sample.order(review_sample.luck(contents), stratum, numbers.tolist())
    cursor.execute(
        "INSERT INTO review_draws (drawn_on, bounds) "
        "VALUES ((now() AT TIME ZONE %s)::date, %s) RETURNING id",
        [lane.timezone, list(BOUNDS)],
    )
    draw = cursor.fetchall()[0][0]
    for table, rows in (
        ("review_draw_archives (draw_id, archive_id, policy)", archives),
        (
            "review_strata (draw_id, stratum, clips, rate, drawn)",
            list(zip(range(count), sizes.tolist(), rates.tolist(), numbers.tolist(), strict=True)),
        ),
        (
            "review_sample (draw_id, place, audio_file_id, stratum)",
            [(turn, ids[at], int(stratum[at])) for turn, at in enumerate(chosen, 1)],
        ),
    ):
        execute_values(cursor, f"INSERT INTO {table} VALUES %s", [(draw, *row) for row in rows])
