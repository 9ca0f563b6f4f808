"""Times of day and spans of time, as people read them from a clock."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from earmark.errors import EarmarkError


def next_deadline(now: datetime, time_of_day: str, timezone: str) -> datetime:
    """The next time after ``now`` that clocks of a zone show some time of day.

    Args:
        now: A moment of any zone.
        time_of_day: ``HH:MM``.
        timezone: A name of the IANA time zone database.

    Raises:
        EarmarkError: there is no such zone.
    """
    try:
        zone = ZoneInfo(timezone)
    except (KeyError, ValueError, OSError) as error:  # KeyError: ZoneInfoNotFoundError
        raise EarmarkError(
            f"the config's 'review.timezone' is {timezone!r}, which is no time zone; expected a "
            "name such as Europe/Zurich or UTC"
        ) from error
    hour, minute = (int(part) for part in time_of_day.split(":"))
    today = now.astimezone(zone).replace(hour=hour, minute=minute, second=0, microsecond=0, fold=0)
    return today if today.astimezone(UTC) > now else today + timedelta(days=1)


def age(seconds: float) -> str:
    """A time span in the two largest units, such as ``3 h 12 min``."""
    minutes = int(max(0.0, seconds) // 60)
    days, hours, minutes = minutes // 1440, minutes // 60 % 24, minutes % 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
