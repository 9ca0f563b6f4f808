"""Whether enough flagged clips will wait for review at noon."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from earmark.errors import EarmarkError
from earmark.record import database
from earmark.record.throughput import RATE_HOURS
from earmark.settings import ReviewSettings, Settings
from earmark.volume import Volume

# The clips of sql/health.sql's flagged_count, found by the index on status and created_at.
# What waits is what the view ra_queue shows, which forgets a clip 24 hours after its load.
_FLAGGED = """
    SELECT count(*),
           count(*) FILTER (WHERE waits),
           count(*) FILTER (WHERE waits AND created_at > %(noon)s - INTERVAL '24 hours'),
           count(*) FILTER (WHERE created_at > now() - %(hours)s * INTERVAL '1 hour')
    FROM (
        SELECT af.created_at, af.status = 'flagged' AS waits
        FROM audio_files af LEFT JOIN archives a ON a.id = af.archive_id
        WHERE af.status IN ('flagged', 'reviewed') AND af.copied_from IS NULL
          AND af.created_at > now() - INTERVAL '24 hours'
          AND EXISTS (SELECT FROM classifications c WHERE c.audio_file_id = af.id
                      AND c.policy = COALESCE(a.policy, 'unrecorded') AND c.flagged)
    ) AS flagged
"""


@dataclass(frozen=True)
class Forecast:
    """Whether enough flagged clips will wait for review at noon.

    Each clip counts once. All that comes from the database is None where it doesn't answer.

    Attributes:
        target_count: So many are wanted.
        next_noon: When, ISO 8601 in the configured zone.
        timezone: That zone.
        hours_to_noon: Until then.
        flagged_24h_count: Clips loaded in the last 24 hours and flagged, reviewed ones too.
        waiting_count: Those that wait for review now.
        waiting_at_noon_count: Those of them that the queue will still show at noon; it forgets
            a clip 24 hours after its load.
        rate_window_hours: Over how long the next one is a mean.
        flagged_per_hour: How fast clips are flagged.
        projected_count: ``waiting_at_noon_count`` and what is flagged until noon at that rate.
        verdict: ``on course`` if that reaches the target.
        assumption: What the projection takes for granted.
    """

    target_count: int
    next_noon: str
    timezone: str
    hours_to_noon: float
    flagged_24h_count: int | None
    waiting_count: int | None
    waiting_at_noon_count: int | None
    rate_window_hours: float
    flagged_per_hour: float | None
    projected_count: int | None
    verdict: Literal["on course", "will be missed", "unknown"]
    assumption: str


def flagged_clips(settings: Settings, noon: datetime, patience_seconds: float) -> tuple[int, ...]:
    """Count flagged clips in the database.

    Args:
        settings: The configuration.
        noon: The next one.
        patience_seconds: How long the database may take.

    Returns:
        Clips of the last 24 hours; those of them that wait; those of these that the queue
        still shows at noon; clips of the last :data:`earmark.record.throughput.RATE_HOURS`.

    Raises:
        EarmarkError: the database doesn't answer, is not running or lacks the schema.
    """
    volume = Volume.of(settings)
    url = settings.database.url
    if database.is_embedded(url):
        if not database.embedded_exists(volume.root):
            raise EarmarkError("there is none yet; the first run makes it")
        # It is not worth being started, and stopped again, for each look.
        if not (volume.state / "postgres/data/postmaster.pid").exists():
            raise EarmarkError(
                "the embedded server is not running; `earmark report` and the next run start it"
            )
    conninfo = database.connection_string(url, volume.root)
    with (
        database.connect(conninfo, patience_seconds=0.0) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(f"SET LOCAL statement_timeout = '{patience_seconds:g}s'")
        database.require_schema(connection)
        cursor.execute(_FLAGGED, {"noon": noon, "hours": RATE_HOURS})
        numbers: tuple[int, ...] = cursor.fetchall()[0]
        return numbers


def forecast(
    wanted: ReviewSettings, now: datetime, noon: datetime, flagged: tuple[int, ...] | None
) -> Forecast:
    """Project how many clips will wait at noon.

    Args:
        wanted: The configuration's section ``review``.
        now: The moment of looking.
        noon: The next one.
        flagged: What :func:`flagged_clips` returned; None if the database didn't answer.
    """
    hours = (noon.astimezone(UTC) - now).total_seconds() / 3600
    day, waiting, at_noon, lately = flagged or (None,) * 4
    rate: float | None = None
    projected: int | None = None
    verdict: Literal["on course", "will be missed", "unknown"] = "unknown"
    if at_noon is not None and lately is not None:
        rate = lately / RATE_HOURS
        projected = math.floor(at_noon + rate * hours)
        verdict = "on course" if projected >= wanted.target else "will be missed"
    return Forecast(
        target_count=wanted.target,
        next_noon=noon.isoformat(),
        timezone=wanted.timezone,
        hours_to_noon=round(hours, 3),
        flagged_24h_count=day,
        waiting_count=waiting,
        waiting_at_noon_count=at_noon,
        rate_window_hours=RATE_HOURS,
        flagged_per_hour=None if rate is None else round(rate, 3),
        projected_count=projected,
        verdict=verdict,
        assumption=f"clips are flagged until then as fast as in the last {RATE_HOURS:g} hours, and "
        "nobody reviews any before",
    )
