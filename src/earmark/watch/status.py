"""What is going on now: archives, stages, rates, room, and whether the review's noon is met.

The catalogue, the locks and the volume answer at once, and the source is not asked at all.
SLURM and the database are, for a few seconds at most: where one doesn't answer, its part says
so, and the rest stands.  No question grows with the history: rates and outcomes come from the
receipts of the last day, and the database counts through its indexes.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, TypeVar

from earmark import disk_space, locks
from earmark.clock import next_deadline
from earmark.driver import attempts, quarantine, slurm
from earmark.errors import EarmarkError, refused_by_system
from earmark.ingest import catalogue
from earmark.ingest.catalogue import Archive, Catalogue
from earmark.ingest.fetch import running_transfers
from earmark.ingest.source import source_of
from earmark.models.inventory import warning_of_demo
from earmark.policy.policies import load_policies, not_checked
from earmark.record.throughput import Finished, Rate, recent
from earmark.settings import ClassifySettings, DiskSpaceLimits, Settings, SourceSettings
from earmark.volume import Volume
from earmark.watch.forecast import Forecast, flagged_clips, forecast

#: How an archive of the catalogue can stand.
STATES = ("pending", "later", "too recent", "seen once", "done", "quarantined", "refused")
#: So long SLURM and the database are waited for, side by side.
_PATIENCE_SECONDS = 10.0

_T = TypeVar("_T")


@dataclass(frozen=True)
class Running:
    """A stage that works on an archive, or waits.

    Attributes:
        archive: Its name.
        stage: As the rule is called.
        host: The machine.
        process: Process id there.
        seconds: For how long.
        fetched_bytes: How much of the archive has come; None in other stages.
        total_bytes: Its size; likewise.
        waits_for: What it can't go on without; "" while it works.
    """

    archive: str
    stage: str
    host: str
    process: int
    seconds: float
    fetched_bytes: int | None
    total_bytes: int | None
    waits_for: str


@dataclass(frozen=True)
class Room:
    """How full the volume is.

    Attributes:
        bytes_free: Bytes that can still be written; None if nobody can tell.
        percent: Of bytes or inodes, whichever are scarcer; likewise.
        stopped: What waits for room at this point: fetching, encoding (unpacking too).
        summary: The same in a sentence.
    """

    bytes_free: int | None
    percent: float | None
    stopped: list[str]
    summary: str


@dataclass(frozen=True)
class Jobs:
    """Stages at work on one machine.

    Attributes:
        stage: As the rule is called.
        node: The machine, as SLURM calls it.
        at_work_count: How many work.
        waiting_count: How many have begun and wait, for room or for the database.
    """

    stage: str
    node: str
    at_work_count: int
    waiting_count: int


@dataclass(frozen=True)
class Slurm:
    """What SLURM's queue holds of our jobs.

    Attributes:
        installed: Whether this machine has SLURM's commands; without them it isn't asked.
        problem: Why it didn't answer; None if it did.
        queued: Jobs that it has not started, by stage; None if it didn't answer.
        started: Jobs that it has started, likewise.
    """

    installed: bool
    problem: str | None
    queued: dict[str, int] | None
    started: dict[str, int] | None


@dataclass(frozen=True)
class GivenUp:
    """An archive that failed and that no stage works on now; it is tried again later.

    Attributes:
        archive: Its name.
        stage: The stage that failed last.
        failures_count: How many of its failures count towards quarantine.
        reason: Why it failed last.
    """

    archive: str
    stage: str
    failures_count: int
    reason: str


@dataclass(frozen=True)
class Database:
    """Whether the database can be used.

    Attributes:
        up: Whether it answers and has the schema.
        problem: Why not; None if it does.
    """

    up: bool
    problem: str | None


@dataclass(frozen=True)
class Status:
    """What is going on.

    Attributes:
        observed_at: When this was told, ISO 8601 in UTC.
        source: Where archives come from.
        checked_at: When the source last answered, ISO 8601 in UTC; None if it never did.
        problem: Why the last poll failed; None if it didn't.
        archives: How many archives of the catalogue are in each of :data:`STATES`.
        oldest_waiting_archive: The one of the pending and later archives that was seen first
            and that no stage works on; None if there is none.
        oldest_waiting_seconds: For how long it has been there as it is; 0 if there is none.
        quarantined_count: Archives that wait for ``earmark retry``, in the catalogue or not.
        given_up: Archives that failed and are tried again later; None if that can't be told.
        finished: How archives ended lately.
        rate: How fast.
        driver: Who schedules jobs on this volume; None if nobody does.
        jobs: How many stages are at work, by stage and machine.
        running: The stages at work, by archive.
        slurm: What waits in SLURM's queue.
        database: Whether it answers.
        review: Whether noon is met.
        room: How full the volume is.
        not_checked: Which policies can't show whether the classifier is loaded right, in a
            sentence; None if all can.
        meaningless: That results mean nothing, and why; None if the demo's models work on the
            demo's clips alone.
    """

    observed_at: str
    source: str
    checked_at: str | None
    problem: str | None
    archives: dict[str, int]
    oldest_waiting_archive: str | None
    oldest_waiting_seconds: float
    quarantined_count: int
    given_up: list[GivenUp] | None
    finished: Finished
    rate: Rate
    driver: str | None
    jobs: list[Jobs]
    running: list[Running]
    slurm: Slurm
    database: Database
    review: Forecast
    room: Room
    not_checked: str | None
    meaningless: str | None


def status(settings: Settings) -> Status:
    """What is going on on the volume of a configuration.

    Args:
        settings: The configuration.

    Raises:
        EarmarkError: there is no such time zone.
        OSError: the volume is there and can't be read.
    """
    now = datetime.now(UTC)
    noon = next_deadline(now, settings.review.noon, settings.review.timezone)
    volume = Volume.of(settings)
    source = source_of(settings)
    known = catalogue.read(volume)
    if known.source is not None and not known.is_of(source):
        known = Catalogue(problem=f"what is known is of {known.source}; run `earmark discover`")
    running = _running(volume)
    busy = {job.archive for job in running}
    states = state_of_each(known.archives, volume, settings.source)
    unfinished = {name for name, state in states.items() if state in STATES[:4]}
    queue = _Question(lambda: _in_slurm(volume))
    failing = _Question(lambda: _given_up(volume, unfinished - busy))
    flagged = _Question(lambda: flagged_clips(settings, noon, _PATIENCE_SECONDS))
    oldest, since = _oldest(known.archives, states, busy)
    finished, rate = recent(volume, now.timestamp())
    counts = Counter(state.partition(":")[0] for state in states.values())
    driver = locks.holder_of(volume.driver_lock)
    for question in (queue, failing, flagged):
        question.wait()
    return Status(
        observed_at=now.isoformat(timespec="seconds"),
        source=str(source),
        checked_at=known.checked_at,
        problem=known.problem,
        archives={state: counts[state] for state in STATES},
        oldest_waiting_archive=oldest,
        oldest_waiting_seconds=round(max(0.0, now.timestamp() - since), 1) if oldest else 0.0,
        quarantined_count=len(quarantine.in_quarantine(volume)),
        given_up=failing.answer,
        finished=finished,
        rate=rate,
        driver=str(driver) if driver else None,
        jobs=_by_stage_and_node(running),
        running=running,
        slurm=Slurm(slurm.is_installed(), queue.problem, *(queue.answer or (None, None))),
        database=Database(flagged.problem is None, flagged.problem),
        review=forecast(settings.review, now, noon, flagged.answer),
        room=_room(volume.root, settings.room),
        not_checked=_not_checked(settings.classify),
        meaningless=warning_of_demo(settings),
    )


def _not_checked(classify: ClassifySettings) -> str | None:
    try:
        return not_checked(load_policies(Path(classify.policies), classify.categories))
    except EarmarkError:  # told by whatever would run
        return None


def state_of_each(
    archives: list[Archive], volume: Volume, intake: SourceSettings
) -> dict[str, str]:
    """What becomes of each archive of the catalogue, by its name.

    Returns:
        ``pending`` in the next run, ``later`` in another one, ``too recent``, ``seen once``,
        ``done``, ``quarantined``, or ``refused: `` and why.
    """
    plan = catalogue.plan_run(archives, volume, intake)
    planned = {archive.name: "pending" for archive in plan.now}
    planned |= {archive.name: "later" for archive in plan.later}
    planned |= {a.name: "too recent" if a.confirmed else "seen once" for a in plan.unsettled}
    history = catalogue.History(volume)
    states = {}
    for archive in archives:
        if archive.refused:
            state = f"refused: {archive.refused}"
        elif history.is_quarantined(archive):
            state = "quarantined"
        else:
            state = planned.get(archive.name, "done")
        states[archive.name] = state
    return states


class _Question(Generic[_T]):
    """A question to somebody who may not answer, asked at once and beside the others.

    Attributes:
        answer: What was answered; None if nothing was.
        problem: Why nothing was, in one line.
    """

    def __init__(self, ask: Callable[[], _T]) -> None:
        self.answer: _T | None = None
        self.problem: str | None = None
        self._ask = ask
        self._deadline = time.monotonic() + _PATIENCE_SECONDS
        # A daemon thread, as the command must be able to end before a hanging answer.
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait for the answer, if there is one in time."""
        self._thread.join(max(0.0, self._deadline - time.monotonic()))
        if self._thread.is_alive():
            self.problem = f"no answer within {_PATIENCE_SECONDS:g} s"

    def _run(self) -> None:
        try:
            answer = self._ask()
        except Exception as error:  # whatever it is, the other parts stand
            self.problem = _in_one_line(error)
        else:
            self.answer = answer


def _in_one_line(error: Exception) -> str:
    if isinstance(error, OSError):
        return refused_by_system(error)
    said = str(error) if isinstance(error, EarmarkError) else f"{type(error).__name__}: {error}"
    return " ".join(said.split())


def _in_slurm(volume: Volume) -> tuple[dict[str, int], dict[str, int]] | None:
    """Jobs that SLURM has not started and those that it has, by what the comment names.

    None where there is no cluster.
    """
    if not slurm.is_installed():
        return None
    queued: Counter[str] = Counter()
    started: Counter[str] = Counter()
    try:
        jobs = slurm.jobs(slurm.job_prefix(volume.root))
    except slurm.NoClusterError:
        return None
    for job in jobs:
        rule = job.comment.partition("_wildcards_")[0].removeprefix("rule_") or "?"
        (started if job.node else queued)[rule] += 1
    return dict(sorted(queued.items())), dict(sorted(started.items()))


def _given_up(volume: Volume, names: set[str]) -> list[GivenUp]:
    found = []
    for name in attempts.tried(volume):
        failed = attempts.failures(volume, name) if name in names else []
        if failed:
            count = sum(attempt.counts for attempt in failed)
            found.append(GivenUp(name, failed[-1].stage, count, failed[-1].reason or ""))
    return found


def _oldest(
    archives: Sequence[Archive], states: dict[str, str], busy: set[str]
) -> tuple[str | None, float]:
    """The archive that waits the longest, and since when."""
    # When it came, and not its own time of change, which a copy may have kept for years.  An
    # archive whose catalogue was lost has no such time.
    waiting = [
        (archive.noted_at or archive.modified_ns / 1e9, archive.name)
        for archive in archives
        if states[archive.name] in ("pending", "later") and archive.name not in busy
    ]
    since, name = min(waiting, default=(0.0, None))
    return name, since


def _by_stage_and_node(running: Sequence[Running]) -> list[Jobs]:
    at_work = Counter((job.stage, job.host) for job in running if not job.waits_for)
    waiting = Counter((job.stage, job.host) for job in running if job.waits_for)
    return [Jobs(*key, at_work[key], waiting[key]) for key in sorted(at_work | waiting)]


def _running(volume: Volume) -> list[Running]:
    transfers = {transfer.archive: transfer for transfer in running_transfers(volume)}
    running = []
    for path in sorted(volume.locks.glob("*.lock")):
        holder = locks.holder_of(path)
        if holder is None or path.name.startswith("."):
            continue
        archive = path.name.removesuffix(".lock")
        transfer = transfers.get(archive)
        running.append(
            Running(
                archive=archive,
                stage=holder.purpose,
                host=holder.host,
                process=holder.process,
                seconds=time.time() - holder.since,
                fetched_bytes=transfer.bytes if transfer else None,
                total_bytes=transfer.total if transfer else None,
                waits_for=holder.waits_for,
            )
        )
    return running


def _room(root: Path, limits: DiskSpaceLimits) -> Room:
    try:
        now = disk_space.usage(root)
    except OSError as error:
        summary = f"{root} (volume.root) can't be used: {error.strerror}; is it mounted?"
        return Room(None, None, [], summary)
    percent = now.percent()
    stops = {"fetching": limits.stop_fetching_percent, "encoding": limits.stop_encoding_percent}
    stopped = [work for work, limit in stops.items() if percent >= limit]
    summary = disk_space.describe(root, now)
    if stopped:
        summary += f"; {' and '.join(stopped)} {'waits' if len(stopped) == 1 else 'wait'} for room"
    return Room(now.bytes_free, round(percent, 2), stopped, summary)
