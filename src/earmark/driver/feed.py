"""What a driver that stays up works on: archives as they appear, never too many at a time."""

import logging
import threading
import time
from collections.abc import Callable, Collection
from queue import Queue
from typing import Any

from msgspec.structs import replace

from earmark.driver import quarantine
from earmark.driver.damage import set_damaged_aside
from earmark.errors import EarmarkError
from earmark.ingest import again, catalogue
from earmark.ingest.catalogue import Archive, Catalogue
from earmark.ingest.source import source_of
from earmark.settings import Settings
from earmark.volume import Volume
from earmark.wording import counted

logger = logging.getLogger(__name__)

#: How often it looks what has been finished, in s.
_LOOK_SECONDS = 5.0


class Feed(Queue[Any]):
    """The receipts to be made, for Snakemake's ``from_queue``.

    It fills itself from its first reading on, by a thread that lists the source every
    ``source.poll_seconds``, and keeps at most ``source.batch`` archives in work.  When for
    ``cycle.idle_minutes`` nothing was left to do, ``end`` is the last thing in it.

    Args:
        settings: The configuration.
        failed: Tells the names of archives that the driver has given up; they wait for the
            next one.

    Attributes:
        end: The ``finish_sentinel``.
        taken: The archives handed out so far, by name. One that is to be done again although it was
            handed out and finished, or that is still in work, ends the feed: Snakemake plans each
            receipt once, so the next driver has to do it.
    """

    def __init__(self, settings: Settings, failed: Callable[[], Collection[str]]) -> None:
        super().__init__()
        self.end = object()
        self.taken: dict[str, Archive] = {}
        self._settings = settings
        self._failed = failed
        self._volume = Volume.of(settings)
        self._intake = settings.source
        self._source = source_of(settings)
        self._known: Catalogue | None = None  # what the source is known to have
        self._plan: list[Archive] = []  # what of it is to be done, in its order
        self._finished: set[str] = set()
        self._again = ""  # an archive that the next driver has to do again
        self._polled_at = self._busy_at = 0.0
        self._thread = threading.Thread(target=self._fill, name="feed", daemon=True)
        self._started = threading.Event()

    def get_nowait(self) -> Any:
        """The next receipt; starts the filling. Raises :class:`queue.Empty`."""
        if not self._started.is_set():
            self._started.set()
            self._busy_at = time.monotonic()
            self._look()  # so that there is something at once
            self._thread.start()
        return super().get_nowait()

    def _fill(self) -> None:
        try:
            idle_seconds = self._settings.cycle.idle_minutes * 60
            while not self._again and time.monotonic() - self._busy_at < idle_seconds:
                time.sleep(min(_LOOK_SECONDS, max(self._intake.poll_seconds, 1.0)))
                try:
                    self._look()
                except (EarmarkError, OSError) as error:
                    logger.warning("%s; looking again soon", error)
            reason = (
                f"{self._again} is to be done again" if self._again else "nothing is left to do"
            )
            logger.info("%s; no more archives are taken", reason)
        except Exception:
            logger.exception("no more archives are taken")
        finally:
            self.put(self.end)

    def _look(self) -> None:
        """List the source if it is time, and take in what there is room for."""
        try:
            self._poll()
        except EarmarkError as error:
            logger.warning("%s; going on with what is known", error)
        volume = self._volume
        archives = self._known.archives if self._known else []
        quarantine.update(volume, archives, self._settings)
        failed = self._failed()
        pending = [each for each in self.taken.values() if catalogue.is_pending(each, volume)]
        self._notice_again({archive.name for archive in pending})
        in_work = [archive for archive in pending if archive.name not in failed]
        waiting = [
            archive
            for archive in self._plan
            if archive.name not in self.taken and catalogue.is_pending(archive, volume)
        ]
        fresh = [] if self._again else waiting[: max(0, self._intake.batch - len(in_work))]
        set_damaged_aside(volume, fresh)
        for archive in fresh:
            self.taken[archive.name] = archive
            self.put(str(volume.receipt(archive.date, archive.name)))
        if fresh:
            logger.info(
                "taken in: %s; %d in work, %d wait",
                counted(len(fresh), "archive"), len(in_work) + len(fresh), len(waiting) - len(fresh)
            )  # fmt: skip
        if in_work or fresh:
            self._busy_at = time.monotonic()

    def _notice_again(self, pending: Collection[str]) -> None:
        """See whether an archive that was handed out is to be done again."""
        asked = {request.archive for request in again.requests(self._volume) if not request.begun}
        self._again = min((self._finished & {*pending}) | (asked & self.taken.keys()), default="")
        self._finished.update(self.taken.keys() - {*pending})

    def _poll(self) -> None:
        """List the source if it is time, and plan: that reads folders that grow for ever."""
        first = self._known is None
        if not first and time.monotonic() - self._polled_at < self._intake.poll_seconds:
            return
        self._polled_at = time.monotonic()
        try:
            if first:  # the cycle has just polled
                self._known = catalogue.read(self._volume)
            else:
                self._known = catalogue.poll(
                    self._source, self._volume, self._intake.poll_seconds, self._known, self.taken
                )
        finally:
            archives = self._known.archives if self._known else []
            everything = replace(self._intake, batch=len(archives) + 1)
            self._plan = catalogue.plan_run(archives, self._volume, everything).now
