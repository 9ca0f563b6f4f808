"""How many flagged clips wait at noon under each order: `make simulate-noon` (seconds).

    python -m benchmarks.noon [--flag-rate 0.001] [--help]

Weeks in which 1 TB arrives a day, 200 archives of 2 million clips, are simulated under
``source.order: oldest`` (first in, first out) and ``deadline``. The same archives arrive under
both, and the order is the product's own (earmark.driver.urgency, earmark.ingest.catalogue). In
each week a node is lost on Wednesday from 05:00 to 11:00, and nothing of Friday comes before 09:00.

What is assumed, each with an option: sizes are lognormal (sigma 1.2); of all clips so many are
drawn that they need 80 % of the GPUs' time, at 3,000 clips an hour; a job on a GPU takes 3 minutes
to start (14 % of the time); before it, fetching, unpacking and encoding take 140 s per GB; 0.5 %
of the drawn clips are flagged. Transcription and classification are one job here. As in the
workflow at most ``source.batch`` archives are in work, handed out oldest first; who comes first is
reckoned anew whenever one is handed out; as many jobs as there are GPUs wait in SLURM's queue,
where nothing overtakes; and what an archive will need is estimated from its bytes and from what
the last day's took, which is off by the spread of clips per byte (sigma 0.2) and of seconds per
clip (sigma 0.1). The job of a lost node goes on where it was.

Flagged is what was loaded in the 24 hours before noon, as the queue shows it; waiting is what of
it was loaded since 18:00, when reviewers are taken to have looked at all there was.

No bar: it is a model, and tells what an order can do and what it can't. The last line's ratio is
that of waiting clips on the two bad days.
"""

import argparse
import heapq
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from math import sqrt
from statistics import fmean, stdev

import numpy as np

from benchmarks.report import Result, finish, progress
from earmark.driver.urgency import Deadline
from earmark.ingest.catalogue import Archive
from earmark.settings import SourceSettings

HOUR = 3600.0
DAY = 24 * HOUR
#: A Sunday, 00:00 UTC: a day to fill the pipeline, then the week that counts.
START = datetime(2026, 11, 1, tzinfo=UTC)
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
ARCHIVES, BYTES, CLIPS = 200, 1e12, 2_000_000  # a day
#: In s after START.
LOST = (3 * DAY + 5 * HOUR, 3 * DAY + 11 * HOUR)
LATE = (5 * DAY, 5 * DAY + 9 * HOUR)
BAD_DAYS = ("Wed", "Fri")
CLIPS_PER_BYTE_SIGMA, SECONDS_PER_CLIP_SIGMA = 0.2, 0.1

#: Tells how urgent an archive is at a moment; the third argument is in GPU seconds per byte.
Order = Callable[[Archive, datetime, float], float]


def oldest(archive: Archive, now: datetime, gpu_seconds_per_byte: float) -> float:
    """First in, first out."""
    return archive.urgency("oldest")


def deadline(archive: Archive, now: datetime, gpu_seconds_per_byte: float) -> float:
    """As ``source.order: deadline``."""
    return Deadline("12:00", "UTC", gpu_seconds_per_byte).urgency(archive, now)


ORDERS: dict[str, Order] = {"oldest": oldest, "deadline": deadline}


@dataclass(frozen=True)
class Assumptions:
    """What is taken for granted.

    Attributes:
        gpus: So many work.
        clips_per_hour: What each does in an hour.
        load: Share of their time that the drawn clips need.
        flag_rate: Share of the drawn clips that are flagged.
        size_sigma: Of the logarithm of the archives' sizes.
        start_minutes: From a job's start to its first clip.
        prepare_seconds_per_gb: From the source to Opus files.
        reviewed_until: Hour of the day at which reviewers stop.
    """

    gpus: int = 3
    clips_per_hour: float = 3000.0
    load: float = 0.8
    flag_rate: float = 0.005
    size_sigma: float = 1.2
    start_minutes: float = 3.0
    prepare_seconds_per_gb: float = 140.0
    reviewed_until: float = 18.0

    @property
    def fraction(self) -> float:
        """Of all clips so many are drawn."""
        return self.load * self.gpus * 24 * self.clips_per_hour / CLIPS


@dataclass(eq=False)
class Arrival:
    """An archive of the week.

    Attributes:
        archive: As the catalogue knows it.
        at: When it appears at the source, in s after START.
        drawn: Clips that are drawn.
        flagged: Those of them that will be flagged.
        gpu_seconds: What a GPU still needs for them, without the start of a job.
        loaded_at: When it is done, in s after START.
    """

    archive: Archive
    at: float
    drawn: int
    flagged: int
    gpu_seconds: float
    loaded_at: float = np.inf


def week(seed: int, assumed: Assumptions) -> list[Arrival]:
    """The archives of eight days, by their arrival."""
    random = np.random.default_rng(seed)
    arrivals = []
    for day in range(1 + len(DAYS)):
        sizes = random.lognormal(0.0, assumed.size_sigma, ARCHIVES)
        sizes *= BYTES / sizes.sum()
        clips = sizes * random.lognormal(0.0, CLIPS_PER_BYTE_SIGMA, ARCHIVES)
        clips *= CLIPS / clips.sum()
        drawn = random.binomial(np.rint(clips).astype(int), assumed.fraction)
        flagged = random.binomial(drawn, assumed.flag_rate)
        speed = random.lognormal(0.0, SECONDS_PER_CLIP_SIGMA, ARCHIVES)
        seconds = drawn * speed * HOUR / assumed.clips_per_hour
        made = np.sort(random.uniform(day * DAY, (day + 1) * DAY, ARCHIVES))
        for number in range(ARCHIVES):
            at = float(made[number])
            archive = Archive(
                f"{day}-{number:03d}.tar",
                int(sizes[number]),
                int((START.timestamp() + at) * 1e9),
            )
            if LATE[0] <= at < LATE[1]:
                at = LATE[1]
            arrivals.append(
                Arrival(
                    archive, at, int(drawn[number]), int(flagged[number]), float(seconds[number])
                )
            )
    return sorted(arrivals, key=lambda each: (each.at, each.archive.name))


@dataclass(eq=False)
class _Job:
    """A job on a GPU."""

    arrival: Arrival
    works_from: float


@dataclass
class Simulation:
    """Archives on their way through the GPUs, event by event.

    Attributes:
        order: Which of those that lie ready comes next.
        assumed: What is taken for granted.
        arrivals: All archives; they are told when they were loaded.
    """

    order: Order
    assumed: Assumptions
    arrivals: Sequence[Arrival]
    _events: list[tuple[float, int, Callable[[float], None]]] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=count)
    _at_source: list[Arrival] = field(default_factory=list)
    _in_work: int = 0
    _reckoned_at: float = 0.0
    _ready: list[Arrival] = field(default_factory=list)
    _queued: list[Arrival] = field(default_factory=list)
    _gpus: list[_Job | None] = field(default_factory=list)
    _lost: set[int] = field(default_factory=set)
    _done: deque[tuple[float, float, int]] = field(default_factory=deque)

    def run(self) -> None:
        """Go on until every archive is loaded."""
        self._gpus = [None] * self.assumed.gpus
        for arrival in self.arrivals:
            self._at(arrival.at, partial(self._arrive, arrival))
        self._at(LOST[0], self._lose)
        self._at(LOST[1], lambda now: self._lost.discard(0))
        while self._events:
            now, _, happen = heapq.heappop(self._events)
            happen(now)
            self._dispatch(now)

    def _at(self, moment: float, happen: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (moment, next(self._numbers), happen))

    def _dispatch(self, now: float) -> None:
        while self._at_source and self._in_work < SourceSettings().batch:
            arrival = min(self._at_source, key=lambda each: each.archive.modified_ns)
            self._at_source.remove(arrival)
            self._in_work += 1
            self._reckoned_at = now
            wait = SourceSettings().latency_minutes * 60
            wait += arrival.archive.bytes / 1e9 * self.assumed.prepare_seconds_per_gb
            self._at(now + wait, partial(self._prepared, arrival))
        self._start(now)
        while self._ready and len(self._queued) < self.assumed.gpus:
            moment = START + timedelta(seconds=self._reckoned_at)
            rate = self._gpu_seconds_per_byte(now)
            first = max(self._ready, key=lambda each: self.order(each.archive, moment, rate))
            self._ready.remove(first)
            self._queued.append(first)
            self._start(now)

    def _start(self, now: float) -> None:
        for gpu, job in enumerate(self._gpus):
            if job is None and gpu not in self._lost and self._queued:
                arrival = self._queued.pop(0)
                new = _Job(arrival, now + self.assumed.start_minutes * 60)
                self._gpus[gpu] = new
                self._at(new.works_from + arrival.gpu_seconds, partial(self._finish, gpu, new))

    def _arrive(self, arrival: Arrival, now: float) -> None:
        self._at_source.append(arrival)

    def _prepared(self, arrival: Arrival, now: float) -> None:
        self._ready.append(arrival)

    def _finish(self, gpu: int, job: _Job, now: float) -> None:
        if self._gpus[gpu] is not job:
            return  # its node was lost
        self._gpus[gpu] = None
        self._in_work -= 1
        arrival = job.arrival
        arrival.loaded_at = now
        seconds = arrival.gpu_seconds + self.assumed.start_minutes * 60
        self._done.append((now, seconds, arrival.archive.bytes))

    def _lose(self, now: float) -> None:
        self._lost.add(0)
        if (job := self._gpus[0]) is not None:
            job.arrival.gpu_seconds -= max(0.0, now - job.works_from)
            self._gpus[0] = None
            self._queued.insert(0, job.arrival)

    def _gpu_seconds_per_byte(self, now: float) -> float:
        while self._done and self._done[0][0] <= now - DAY:
            self._done.popleft()
        return sum(each[1] for each in self._done) / max(1, sum(each[2] for each in self._done))


@dataclass(frozen=True)
class Noon:
    """What a noon finds.

    Attributes:
        flagged: Clips of the archives that were loaded in the 24 hours before.
        waiting: Those of them that nobody has reviewed.
        oldest_hours: Age of the oldest archive that is at the source or in work.
        unfinished: So many are.
    """

    flagged: float
    waiting: float
    oldest_hours: float
    unfinished: float


def noons(arrivals: Sequence[Arrival], reviewed_until: float) -> list[Noon]:
    """What the noons of the week find, once a simulation has run."""
    found = []
    for day in range(1, 1 + len(DAYS)):
        noon = day * DAY + 12 * HOUR
        shown = [each for each in arrivals if noon - DAY < each.loaded_at <= noon]
        reviewed = (day - 1) * DAY + reviewed_until * HOUR
        left = [each for each in arrivals if each.at <= noon < each.loaded_at]
        made = [each.archive.modified_ns / 1e9 - START.timestamp() for each in left]
        found.append(
            Noon(
                flagged=sum(each.flagged for each in shown),
                waiting=sum(each.flagged for each in shown if each.loaded_at > reviewed),
                oldest_hours=(noon - min(made, default=noon)) / HOUR,
                unfinished=len(left),
            )
        )
    return found


def simulate(order: Order, seed: int, assumed: Assumptions) -> list[Noon]:
    """The noons of one week."""
    arrivals = week(seed, assumed)
    Simulation(order, assumed, arrivals).run()
    return noons(arrivals, assumed.reviewed_until)


def tell(name: str, weeks: Sequence[Sequence[Noon]], target: int) -> None:
    """Print what the noons of an order found, a line for each day of the week."""
    print(f"\nsource.order: {name}, means of {len(weeks)} weeks")
    print("day   flagged  waiting  (least)  target met  oldest archive  unfinished")
    for label, found in zip(DAYS, zip(*weeks, strict=True), strict=True):
        waiting = [noon.waiting for noon in found]
        print(
            f"{label}{'*' if label in BAD_DAYS else ' '}"
            f"{fmean(noon.flagged for noon in found):9.0f}{fmean(waiting):9.0f}"
            f"{min(waiting):9.0f}{fmean(each >= target for each in waiting):12.0%}"
            f"{fmean(noon.oldest_hours for noon in found):14.1f} h"
            f"{fmean(noon.unfinished for noon in found):12.0f}"
        )


def compare(
    ours: Sequence[Sequence[Noon]], baseline: Sequence[Sequence[Noon]], days: Sequence[int]
) -> tuple[float, float, float, float]:
    """Waiting clips of two orders in the same weeks.

    Args:
        ours: The noons of each week under one order.
        baseline: Likewise under another.
        days: Which of a week's noons count.

    Returns:
        Both means over weeks and days; the mean difference, and half of its 95 % confidence
        interval, with weeks as the sample.
    """
    means = [
        [fmean(noons[day].waiting for day in days) for noons in weeks] for weeks in (ours, baseline)
    ]
    differences = [one - other for one, other in zip(*means, strict=True)]
    spread = 1.96 * stdev(differences) / sqrt(len(differences)) if len(differences) > 1 else np.inf
    return fmean(means[0]), fmean(means[1]), fmean(differences), float(spread)


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate weeks under both orders and tell how they differ."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    usual = Assumptions()
    parser.add_argument("--weeks", type=int, default=20, help="so many are simulated (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the first week (%(default)s)")
    parser.add_argument("--target", type=int, default=200, help="review.target (%(default)s)")
    parser.add_argument("--gpus", type=int, default=usual.gpus, help="(%(default)s)")
    for name, text in (
        ("clips_per_hour", "what a GPU does in an hour"),
        ("load", "share of the GPUs' time that the drawn clips need"),
        ("flag_rate", "share of the drawn clips that are flagged"),
        ("size_sigma", "of the logarithm of the archives' sizes"),
        ("start_minutes", "from a job's start to its first clip"),
        ("prepare_seconds_per_gb", "from the source to Opus files"),
        ("reviewed_until", "hour of the day at which reviewers stop"),
    ):
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(
            option, type=float, default=getattr(usual, name), help=f"{text} (%(default)s)"
        )
    options = parser.parse_args(arguments)
    if options.weeks < 1 or options.gpus < 1:
        parser.error("at least one week and one GPU are needed")
    assumed = Assumptions(
        **{each.name: getattr(options, each.name) for each in fields(Assumptions)}
    )
    print(
        f"{assumed.gpus} GPUs of {assumed.clips_per_hour:g} clips an hour; of {CLIPS:,} clips a "
        f"day {assumed.fraction:.1%} are drawn, of these {assumed.flag_rate:.2%} flagged"
    )
    found: dict[str, list[list[Noon]]] = {name: [] for name in ORDERS}
    for number in range(options.weeks):
        for name, order in ORDERS.items():
            found[name].append(simulate(order, options.seed + number, assumed))
        progress(f"week {number + 1} of {options.weeks}")
    for name, weeks in found.items():
        tell(name, weeks, options.target)
    print("* bad days: a node lost from 05:00 to 11:00; what came since midnight comes at 09:00\n")
    for label, wanted in (("bad", True), ("other", False)):
        days = [day for day, name in enumerate(DAYS) if (name in BAD_DAYS) == wanted]
        ours, baseline, difference, spread = compare(found["deadline"], found["oldest"], days)
        print(
            f"waiting on {label} days: {ours:.0f} against {baseline:.0f}, "
            f"{difference:+.1f} (95 %: ± {spread:.1f})"
        )
        if wanted:
            result = Result(
                "noon", ours / max(baseline, 1e-9), ours, baseline, "flagged clips waiting at noon"
            )
    return finish(result, [])


if __name__ == "__main__":
    sys.exit(main())
