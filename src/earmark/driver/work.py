"""What the one process that schedules jobs does before it schedules any."""

import datetime
import logging
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path

from earmark import locks, logs
from earmark.driver import quarantine, redo
from earmark.driver.checks import check_inputs
from earmark.driver.damage import set_damaged_aside
from earmark.driver.feed import Feed
from earmark.driver.preview import show_plan
from earmark.driver.retention import delete_at_source, sweep
from earmark.driver.summary import summarise
from earmark.driver.urgency import Deadline
from earmark.errors import EarmarkError
from earmark.ingest import catalogue
from earmark.ingest.catalogue import Archive
from earmark.ingest.source import source_of
from earmark.record import database, erasure
from earmark.record.throughput import gpu_seconds_per_byte
from earmark.settings import Settings
from earmark.volume import Volume

logger = logging.getLogger(__name__)

#: Pending archives listed by name in the preview; a backlog of thousands is summed up.
PREVIEW_ROWS = 40
#: How often it is measured how fast the GPUs are, in s: that reads the receipts of a day.
_MEASURE_SECONDS = 600.0


class Work:
    """What one driver works on: what is pending now, or what a feed brings it.

    Args:
        settings: The configuration.
        failed: As :class:`earmark.driver.feed.Feed` takes it.

    Attributes:
        feed: For a driver that stays up; not used by one that works through what is pending.
    """

    def __init__(self, settings: Settings, failed: Callable[[], Collection[str]]) -> None:
        logs.configure_command("driver")
        self.feed = Feed(settings, failed)
        self._settings = settings
        self._volume = Volume.of(settings)
        self._known: list[Archive] | None = None
        self._pending: dict[str, Archive] = {}
        self._began_at: float | None = None
        self._gpu_seconds_per_byte, self._measured_at = 0.0, -_MEASURE_SECONDS

    def pending(self) -> list[Archive]:
        """Check what can be checked from here, list the source, and say what is pending.

        Returns:
            The archives to be done now, in the order of ``source.order``.

        Raises:
            EarmarkError: a folder, a model or a policy is missing or wrong.
        """
        if self._known is None:
            settings, volume = self._settings, self._volume
            check_inputs(settings)
            source, intake = source_of(settings), settings.source
            self._known = catalogue.discover(source, volume, intake).archives
            # A preview changes nothing, so they are given up when the run begins.
            most = settings.failure.max_attempts
            given_up = {
                each.archive for each in quarantine.failed_too_often(volume, self._known, most)
            }
            archives = [each for each in self._known if each.name not in given_up]
            plan = catalogue.plan_run(archives, volume, intake)
            show_plan(self._known, plan, source, intake)
            set_damaged_aside(volume, plan.now)
            self._pending = {archive.name: archive for archive in plan.now}
        return list(self._pending.values())

    def urgency(self, name: str) -> float:
        """From 0 to 1, to be added to a stage's priority: which archive comes first."""
        archive = self._find(name)
        return archive.urgency(self._settings.source.order) if archive else 0.0

    def gpu_urgency(self, name: str) -> float:
        """The same for the stages that need a GPU; only they look at the time that is left.

        Snakemake asks anew whenever the feed has handed out an archive.
        """
        archive = self._find(name)
        if archive is None or self._settings.source.order != "deadline":
            return self.urgency(name)
        if time.monotonic() - self._measured_at >= _MEASURE_SECONDS:
            self._measured_at = time.monotonic()
            with suppress(OSError):  # what was measured before will do
                self._gpu_seconds_per_byte = gpu_seconds_per_byte(self._volume, time.time())
        review = self._settings.review
        deadline = Deadline(review.noon, review.timezone, self._gpu_seconds_per_byte)
        return deadline.urgency(archive, datetime.datetime.now(datetime.UTC))

    def _find(self, name: str) -> Archive | None:
        return self._pending.get(name) or self.feed.taken.get(name)

    def begin(self) -> None:
        """Become the one driver of the volume and make it ready for jobs.

        Raises:
            EarmarkError: another driver is at work, or the database cannot be reached.
            OSError: the volume cannot be written.
        """
        locks.hold_until_exit(self._volume.driver_lock)
        self._began_at = time.time()
        conninfo = _prepare_database(self._settings.database.url, self._volume)
        try:
            erasure.finish_unfinished(self._volume, conninfo)
            erasure.forget(self._volume, conninfo, self._settings.database.url)
        except (EarmarkError, OSError) as error:  # the next run or `earmark erase` tries it again
            logger.warning("an erasure that was cut off is not finished: %s", error)
        self._tidy_up(catalogue.read(self._volume).archives if self._known is None else self._known)

    def end(self) -> None:
        """Tidy up after the last job, at the source too if that is wanted.

        Raises:
            EarmarkError: the source's folder can't be changed.
            OSError: the volume cannot be written.
        """
        archives = catalogue.read(self._volume).archives
        self._tidy_up(archives)
        redo.carry_out(self._volume, self._settings)
        if self._settings.source.delete_after:
            delete_at_source(source_of(self._settings), self._volume, archives)

    def summary(self, configfiles: Sequence[Path]) -> str:
        """What the run has done, for its end; empty if it did not begin.

        Args:
            configfiles: Those of Snakemake.

        Raises:
            OSError: the volume cannot be read.
        """
        if self._began_at is None:
            return ""
        archives = catalogue.read(self._volume).archives
        configfile = configfiles[0] if configfiles else None
        return summarise(self._settings, archives, self._began_at, configfile)

    def _tidy_up(self, archives: Sequence[Archive]) -> None:
        quarantine.give_up(self._volume, archives, self._settings.failure.max_attempts)
        url = self._settings.database.url
        quarantine.record(self._volume, database.connection_string(url, self._volume.root))
        sweep(self._volume, archives, self._settings.retention)


def _prepare_database(url: str | None, volume: Volume) -> str:
    """Start the embedded server and bring its schema up to date, or check another one's."""
    conninfo = database.connection_string(url, volume.root)
    if database.is_embedded(url):
        database.migrate(conninfo)
        database.grant_roles(conninfo)
    else:
        with database.connect(conninfo) as connection:
            database.require_schema(connection)
    return conninfo
