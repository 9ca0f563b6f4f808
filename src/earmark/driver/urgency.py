"""Which archives go to the GPUs first, so that as much as can be is loaded by noon.

An archive's clips reach the review queue when the whole archive is loaded.  So one that can't
be loaded by noon any more makes way for those that can; apart from that the oldest comes
first.  The module knows sizes, times and a measured rate, never what is in an archive, and it
decides when an archive is done and not whether (docs/sampling.md).
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from earmark.clock import next_deadline
from earmark.ingest.catalogue import Archive

#: However long an archive needs, it makes way for younger ones only so long before a noon: for
#: the rest of each day the oldest comes first, and none waits for ever.
MOST_HOURS_GIVEN_WAY = 12.0


@dataclass(frozen=True)
class Deadline:
    """The noon that archives are to be loaded by.

    Attributes:
        noon: Its time of day, ``HH:MM``.
        timezone: Whose clock that is, a name of the IANA time zone database.
        gpu_seconds_per_byte: How long a GPU works on an archive for each of its bytes, in s; 0
            if nothing is known of it.
    """

    noon: str
    timezone: str
    gpu_seconds_per_byte: float

    def can_be_met(self, archive: Archive, now: datetime) -> bool:
        """Whether a GPU that begins with an archive now can be done with it by noon.

        Also true earlier than :data:`MOST_HOURS_GIVEN_WAY` before noon, whatever its size.

        Args:
            archive: It lies ready.
            now: A moment of any zone.

        Raises:
            EarmarkError: there is no such time zone.
        """
        left = (next_deadline(now, self.noon, self.timezone).astimezone(UTC) - now).total_seconds()
        needed = archive.bytes * self.gpu_seconds_per_byte
        return min(needed, MOST_HOURS_GIVEN_WAY * 3600) <= left

    def urgency(self, archive: Archive, now: datetime) -> float:
        """Between 0 and 1: of two archives that lie ready the more urgent one has more.

        Args:
            archive: One of them.
            now: A moment of any zone.

        Raises:
            EarmarkError: there is no such time zone.
        """
        return (self.can_be_met(archive, now) + archive.urgency("oldest")) / 2
