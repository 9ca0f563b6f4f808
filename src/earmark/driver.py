"""What the one process that schedules jobs does before it schedules any."""

import datetime
import json
import logging
import sys
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from earmark import catalogue, database, locks, logs, quarantine
from earmark.catalogue import Archive, Intake, Plan
from earmark.deadline import Deadline
from earmark.errors import EarmarkError
from earmark.feed import Feed
from earmark.models import check_models
from earmark.names import asr_name, policy_name
from earmark.noon import next_noon
from earmark.pace import gpu_seconds_per_byte
from earmark.policy import load_policies
from earmark.retention import Retention, delete_at_source, sweep
from earmark.source import Source, source_of
from earmark.volume import Volume

logger = logging.getLogger(__name__)

#: Pending archives listed by name in the preview; a backlog of thousands is summed up.
PREVIEW_ROWS = 40
#: How often it is measured how fast the GPUs are, in s: that reads the receipts of a day.
_MEASURE_SECONDS = 600.0

Config = dict[str, Any]


class Work:
    """What one driver works on: what is pending now, or what a feed brings it.

    Args:
        config: A configuration that :func:`earmark.configuration.resolve` returned.
        failed: As :class:`earmark.feed.Feed` takes it.

    Attributes:
        feed: For a driver that stays up; not used by one that works through what is pending.
    """

    def __init__(self, config: Config, failed: Callable[[], Collection[str]]) -> None:
        logs.configure_command("driver")
        self.feed = Feed(config, failed)
        self._config = config
        self._volume = Volume(Path(config["volume"]["root"]))
        self._known: list[Archive] | None = None
        self._pending: dict[str, Archive] = {}
        self._gpu_seconds_per_byte, self._measured_at = 0.0, -_MEASURE_SECONDS

    def pending(self) -> list[Archive]:
        """Check what can be checked from here, list the source, and say what is pending.

        Returns:
            The archives to be done now, in the order of ``source.order``.

        Raises:
            EarmarkError: a folder, a model or a policy is missing or wrong.
        """
        if self._known is None:
            config, volume = self._config, self._volume
            check_inputs(config)
            source, intake = source_of(config), catalogue.intake_of(config)
            self._known = catalogue.discover(source, volume, intake).archives
            # A preview changes nothing, so they are given up when the run begins.
            most = config["failure"]["max_attempts"]
            given_up = {
                each.archive for each in quarantine.failed_too_often(volume, self._known, most)
            }
            archives = [each for each in self._known if each.name not in given_up]
            plan = catalogue.plan_run(archives, volume, intake)
            _preview(self._known, plan, source, intake)
            self._pending = {archive.name: archive for archive in plan.now}
        return list(self._pending.values())

    def to_reclassify(self) -> tuple[list[str], list[str]]:
        """Check what can be checked from here, and say what another policy set is applied to.

        Returns:
            Classes and receipts of the archives that are done, of the dates of ``reclassify``;
            one without transcripts under ``asr.name`` is left out, with a warning. And those of
            the receipts that are to be made again although the classes are older: the archive
            goes back to a former set. An archive that is another one at the source since is left
            to the next run.

        Raises:
            EarmarkError: a date, a model or a policy is missing or wrong.
            OSError: the volume cannot be read.
        """
        config, volume = self._config, self._volume
        since, until = (_day(config, key) for key in ("since", "until"))
        check_inputs(config)
        asr, policy = config["asr"]["name"], config["classify"]["policy"]
        wanted: list[str] = []
        again: list[str] = []
        silent: list[str] = []
        for date, archive in self._classified():
            if not since <= date <= until:
                continue
            if volume.transcripts(asr, date, archive).exists():
                classes = volume.classes(policy, date, archive)
                receipt = volume.receipt(date, archive)
                # Receipts alone are there: Snakemake would not miss what lies before them.
                wanted += [str(classes), str(receipt)]
                if classes.exists() and _policy_of(receipt) != policy:
                    again.append(str(receipt))
            else:
                silent.append(archive)
        if silent:
            logger.warning(
                "%d archives have no transcripts of %s (asr.name) and are left out, such as %s",
                len(silent), asr, silent[0]
            )  # fmt: skip
        logger.info("%d archives are to have the policy set %s", len(wanted) // 2, policy)
        return wanted, again

    def _classified(self) -> list[tuple[str, str]]:
        """Date and name of each archive that some policy set was applied to.

        Its receipt may be gone: Snakemake removes it before the job that makes it again, which may
        fail.
        """
        volume = self._volume
        known = {archive.name: archive for archive in catalogue.read(volume).archives}
        found = {
            (path.parent.name.removeprefix("date="), path.stem)
            for pattern in ("processed/date=*/*.json", "classes/policy=*/date=*/*.parquet")
            for path in volume.root.glob(pattern)
        }

        def is_replaced(date: str, name: str) -> bool:
            archive = known.get(name)
            if archive is None or archive.date != date:
                return False
            manifest = volume.manifest(date, name)
            return not manifest.exists() or manifest.stat().st_mtime < archive.noted_at

        return [each for each in sorted(found) if not is_replaced(*each)]

    def urgency(self, name: str) -> float:
        """From 0 to 1, to be added to a stage's priority: which archive comes first."""
        archive = self._find(name)
        return archive.urgency(self._config["source"]["order"]) if archive else 0.0

    def gpu_urgency(self, name: str) -> float:
        """The same for the stages that need a GPU; only they look at the time that is left.

        Snakemake asks anew whenever the feed has handed out an archive.
        """
        archive = self._find(name)
        if archive is None or self._config["source"]["order"] != "deadline":
            return self.urgency(name)
        if time.monotonic() - self._measured_at >= _MEASURE_SECONDS:
            self._measured_at = time.monotonic()
            with suppress(OSError):  # what was measured before will do
                self._gpu_seconds_per_byte = gpu_seconds_per_byte(self._volume, time.time())
        review = self._config["review"]
        deadline = Deadline(review["noon"], review["timezone"], self._gpu_seconds_per_byte)
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
        _prepare_database(self._config["database"]["url"], self._volume)
        self._tidy_up(catalogue.read(self._volume).archives if self._known is None else self._known)

    def end(self) -> None:
        """Tidy up after the last job, at the source too if that is wanted.

        Raises:
            EarmarkError: the source's folder can't be changed.
            OSError: the volume cannot be written.
        """
        archives = catalogue.read(self._volume).archives
        self._tidy_up(archives)
        if self._config["source"]["delete_after"]:
            delete_at_source(source_of(self._config), self._volume, archives)

    def _tidy_up(self, archives: Sequence[Archive]) -> None:
        quarantine.give_up(self._volume, archives, self._config["failure"]["max_attempts"])
        url = self._config["database"]["url"]
        quarantine.record(self._volume, database.connection_string(url, self._volume.root))
        sweep(self._volume, archives, Retention(**self._config["retention"]))


def _day(config: Config, key: str) -> str:
    """A day of ``reclassify``, ISO 8601."""
    text = config["reclassify"][key]
    try:
        return datetime.date.fromisoformat(str(text)).isoformat()
    except ValueError as error:
        raise EarmarkError(
            f"the config's 'reclassify.{key}' is {text!r}, which is no date; name the days of the "
            "archives: --config reclassify='{since: 2026-11-01, until: 2026-11-30}'"
        ) from error


def _policy_of(receipt: Path) -> str | None:
    """The policy set that an archive was loaded with last; None if nobody knows."""
    try:
        return str(json.loads(receipt.read_text(encoding="utf-8"))["policy"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def check_inputs(config: Config) -> None:
    """Check models and policies without loading them, and the time zone of noon.

    Raises:
        EarmarkError: one is missing or wrong, or changed under a name that stands for the old
            one; the message names it and the remedy.
    """
    next_noon(
        datetime.datetime.now(datetime.UTC), config["review"]["noon"], config["review"]["timezone"]
    )
    settings = config["classify"]
    policies = load_policies(Path(settings["policies"]), settings["categories"])
    unknown = sorted(set(settings["thresholds"]) - {policy.category for policy in policies})
    if unknown:
        raise EarmarkError(
            f"classify.thresholds names the category '{unknown[0]}', which has no policy in "
            f"{settings['policies']}; known: {', '.join(policy.category for policy in policies)}"
        )
    check_models(config)
    volume = Volume(Path(config["volume"]["root"]))
    asr_name(config, volume).check()
    policy_name(config, volume, policies).check()


def _prepare_database(url: str | None, volume: Volume) -> None:
    """Start the embedded server and bring its schema up to date, or check another one's."""
    conninfo = database.connection_string(url, volume.root)
    if database.is_embedded(url):
        database.migrate(conninfo)
        database.grant_roles(conninfo)
        return
    with database.connect(conninfo) as connection:
        database.require_schema(connection)


def _preview(archives: Sequence[Archive], plan: Plan, source: Source, intake: Intake) -> None:
    console = Console(file=sys.stderr, highlight=False, markup=False)
    for archive in archives:
        if archive.refused:
            console.print(f"Refused: {archive.name!r}: {archive.refused}")
    if plan.unsettled:
        console.print(
            f"Left for later: {len(plan.unsettled)}, changed less than "
            f"{intake.latency_minutes:g} minutes ago (source.latency_minutes) or seen only once "
            "(source.poll_seconds)."
        )
    if plan.later:
        console.print(f"Left for the next runs: {len(plan.later)}, beyond source.batch.")
    pending = plan.now
    if not pending:
        console.print(f"Nothing to do: no archive in {source} is pending.")
        return
    total = decimal(sum(archive.bytes for archive in pending))
    console.print(f"Pending in {source}: {len(pending)} ({total})")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("archive")
    table.add_column("size", justify="right")
    table.add_column("age", justify="right")
    for archive in pending[:PREVIEW_ROWS]:
        table.add_row(archive.name, decimal(archive.bytes), age(archive.age_seconds))
    if len(pending) > PREVIEW_ROWS:
        table.add_row(f"... and {len(pending) - PREVIEW_ROWS} more", "", "")
    console.print(table)


def age(seconds: float) -> str:
    """A time span in the two largest units, such as ``3 h 12 min``."""
    minutes = int(max(0.0, seconds) // 60)
    days, hours, minutes = minutes // 1440, minutes // 60 % 24, minutes % 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
