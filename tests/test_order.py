"""Which archives go to the GPUs first, and the simulation that tells what comes of it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from example_receipt import example
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.noon import (
    ARCHIVES,
    BYTES,
    DAY,
    HOUR,
    LATE,
    LOST,
    ORDERS,
    START,
    Arrival,
    Assumptions,
    Noon,
    Simulation,
    compare,
    noons,
    simulate,
    week,
)
from earmark import REPOSITORY, receipts
from earmark.configuration import resolve
from earmark.driver.checks import check_inputs
from earmark.driver.urgency import MOST_HOURS_GIVEN_WAY, Deadline
from earmark.driver.work import Work
from earmark.errors import EarmarkError
from earmark.ingest.catalogue import Archive, plan_run
from earmark.receipts import Receipt
from earmark.record import throughput
from earmark.settings import SourceSettings
from earmark.volume import Volume

NOON = datetime(2026, 11, 4, 12, tzinfo=UTC)
RATE = 1e-6  # 1 GB needs 1,000 s

moments = st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC))
zones = st.sampled_from(["UTC", "Europe/Zurich", "Pacific/Auckland"])
backlogs = st.lists(
    st.tuples(st.integers(1, 10**12), st.integers(1_500_000_000, 1_900_000_000)),
    unique_by=lambda archive: archive[1],
    max_size=30,
).map(
    lambda archives: [
        Archive(f"{number}.tar", size, modified * 10**9)
        for number, (size, modified) in enumerate(archives)
    ]
)


def by_urgency(archives: list[Archive], deadline: Deadline, now: datetime) -> list[Archive]:
    return sorted(archives, key=lambda each: deadline.urgency(each, now), reverse=True)


def by_age(archives: list[Archive]) -> list[Archive]:
    return sorted(archives, key=lambda each: each.modified_ns)


def aged(name: str, hours_needed: float, hours_old: float) -> Archive:
    made = NOON - timedelta(hours=hours_old)
    return Archive(name, round(hours_needed * 3600 / RATE), int(made.timestamp() * 1e9))


# --- the order --------------------------------------------------------------------------


@given(backlogs, moments, zones, st.floats(0, 1e-3))
def test_what_can_be_loaded_by_noon_comes_first_and_then_the_oldest(
    archives: list[Archive], now: datetime, zone: str, rate: float
) -> None:
    deadline = Deadline("12:00", zone, rate)
    can = [each for each in archives if deadline.can_be_met(each, now)]
    cannot = [each for each in archives if not deadline.can_be_met(each, now)]
    assert by_urgency(archives, deadline, now) == by_age(can) + by_age(cannot)
    urgencies = {deadline.urgency(each, now) for each in archives}
    assert len(urgencies) == len(archives)  # nothing is left to chance
    assert all(0 <= each <= 1 for each in urgencies)


def test_an_archive_makes_way_from_the_moment_it_cannot_be_done_by_noon() -> None:
    large, small = aged("large.tar", 3, hours_old=9), aged("small.tar", 1, hours_old=2)
    deadline = Deadline("12:00", "UTC", RATE)
    for hours_before, first in ((3.1, large), (2.9, small), (1.1, small), (0.9, large)):
        now = NOON - timedelta(hours=hours_before)
        assert by_urgency([large, small], deadline, now)[0] == first
    assert by_urgency([large, small], deadline, NOON)[0] == large  # the next noon is a day away


@given(backlogs.filter(bool), moments, zones, st.floats(0, 1e-3))
def test_for_half_of_each_day_nothing_overtakes_the_oldest(
    archives: list[Archive], now: datetime, zone: str, rate: float
) -> None:
    hour = timedelta(hours=1)
    of_a_day = [
        by_urgency(archives, Deadline("12:00", zone, rate), now + number * hour)
        for number in range(24)
    ]
    assert [each == by_age(archives) for each in of_a_day].count(True) >= 24 - MOST_HOURS_GIVEN_WAY


@given(backlogs, moments)
def test_as_long_as_nothing_is_measured_the_oldest_comes_first(
    archives: list[Archive], now: datetime
) -> None:
    assert by_urgency(archives, Deadline("12:00", "UTC", 0.0), now) == by_age(archives)


@given(backlogs)
def test_archives_are_taken_in_as_under_oldest(archives: list[Archive]) -> None:
    settled = [
        Archive(each.name, each.bytes, each.modified_ns, confirmed=True) for each in archives
    ]
    volume = Volume(Path("/nowhere"))
    orders = [SourceSettings(order=order) for order in ("oldest", "deadline")]
    plans = [plan_run(settled, volume, order) for order in orders]
    assert plans[0] == plans[1]


# --- what the driver makes of it --------------------------------------------------------


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume(tmp_path / "volume")


def receive(volume: Volume, name: str, told: Receipt | str, hours_ago: float = 0.0) -> None:
    path = volume.receipt("2026-11-04", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(told, Receipt):
        receipts.write(path, told)
    else:
        path.write_text(told)
    then = time.time() - hours_ago * HOUR
    os.utime(path, (then, then))


def worked(size: int | None, transcribe: float | None, classify: float | None) -> Receipt:
    return example(bytes=size, seconds={"transcribe": transcribe, "classify": classify})


def test_how_long_gpus_work_is_measured_on_the_archives_of_a_day(volume: Volume) -> None:
    assert throughput.gpu_seconds_per_byte(volume, time.time()) == 0
    receive(volume, "a.tar", worked(1000, 200.0, 50.0))
    receive(volume, "b.tar", worked(3000, 500.0, 50.0), hours_ago=23)
    receive(volume, "yesterday.tar", worked(10, 9e9, 9e9), hours_ago=25)
    receive(volume, "unheard.tar", worked(10**9, None, None))
    receive(volume, "unsized.tar", worked(None, 100.0, 100.0))
    receive(volume, "empty.tar", "{}")
    receive(volume, "damaged.tar", "{")
    assert throughput.gpu_seconds_per_byte(volume, time.time()) == pytest.approx(800 / 4000)


@pytest.mark.parametrize("order", ["oldest", "newest", "deadline"])
def test_the_driver_lets_what_fits_overtake_on_the_gpus_only(volume: Volume, order: str) -> None:
    noon = datetime.now(UTC) + timedelta(hours=2)
    config = resolve(
        {
            "volume": {"root": str(volume.root)},
            "source": {"order": order},
            "review": {"noon": f"{noon:%H:%M}", "timezone": "UTC"},
        }
    )
    receive(volume, "done.tar", worked(10**9, 800.0, 200.0))
    work = Work(config, set)
    archives = [aged("large.tar", 3, 5), aged("small.tar", 1, 2), aged("new.tar", 1.5, 1)]
    work.feed.taken.update({each.name: each for each in archives})

    def first(urgency: Callable[[str], float]) -> list[str]:
        return sorted(work.feed.taken, key=urgency, reverse=True)

    oldest = ["large.tar", "small.tar", "new.tar"]
    assert first(work.urgency) == (oldest[::-1] if order == "newest" else oldest)
    assert (
        first(work.gpu_urgency)
        == {
            "oldest": oldest,
            "newest": oldest[::-1],
            "deadline": ["small.tar", "new.tar", "large.tar"],
        }[order]
    )
    assert work.gpu_urgency("unknown.tar") == 0


def test_a_run_refuses_a_time_zone_that_is_none(volume: Volume) -> None:
    wrong = {"volume": {"root": str(volume.root)}, "review": {"timezone": "Europe/Nowhere"}}
    with pytest.raises(EarmarkError, match=r"'review\.timezone' is 'Europe/Nowhere'"):
        check_inputs(resolve(wrong))


# --- the simulation ---------------------------------------------------------------------

Run = tuple[list[Arrival], list[Noon]]


@pytest.fixture(scope="module")
def runs() -> dict[str, Run]:
    assumed = Assumptions(load=0.95)
    found = {}
    for name, order in ORDERS.items():
        arrivals = week(7, assumed)
        Simulation(order, assumed, arrivals).run()
        found[name] = arrivals, noons(arrivals, assumed.reviewed_until)
    return found


def test_a_simulated_week_brings_a_terabyte_a_day_and_its_bad_days(runs: dict[str, Run]) -> None:
    arrivals = runs["oldest"][0]
    assert len(arrivals) == 8 * ARCHIVES
    assert sum(each.archive.bytes for each in arrivals) == pytest.approx(8 * BYTES, rel=1e-6)
    late = [each for each in arrivals if each.at == LATE[1]]
    assert len(late) > ARCHIVES / 5
    assert not any(LATE[0] <= each.at < LATE[1] for each in arrivals)
    midday = START.timestamp() + 12 * HOUR
    assert (LOST[0] - 3 * DAY, LOST[1] - 3 * DAY) == (5 * HOUR, 11 * HOUR)
    assert datetime.fromtimestamp(midday + 3 * DAY, UTC).weekday() == 2  # a Wednesday


def test_each_order_loads_every_drawn_clip_and_only_once(runs: dict[str, Run]) -> None:
    def clips(name: str) -> dict[str, tuple[int, int]]:
        return {each.archive.name: (each.drawn, each.flagged) for each in runs[name][0]}

    assert clips("oldest") == clips("deadline")
    for arrivals, found in runs.values():
        assert len({each.archive.name for each in arrivals}) == len(arrivals)
        assert all(each.at < each.loaded_at < 30 * DAY for each in arrivals)
        by_then = sum(each.flagged for each in arrivals if each.loaded_at <= 7.5 * DAY)
        before = sum(each.flagged for each in arrivals if each.loaded_at <= 0.5 * DAY)
        assert sum(noon.flagged for noon in found) == by_then - before
        assert all(0 <= noon.waiting <= noon.flagged for noon in found)


def test_simulated_gpus_do_one_thing_at_a_time(runs: dict[str, Run]) -> None:
    assumed = Assumptions(load=0.95)
    fresh = {each.archive.name: each.gpu_seconds for each in week(7, assumed)}
    for arrivals, _ in runs.values():
        last = max(each.loaded_at for each in arrivals)
        needed = sum(fresh.values()) + len(arrivals) * assumed.start_minutes * 60
        assert needed <= assumed.gpus * last - (LOST[1] - LOST[0])


def test_a_simulated_week_is_the_same_each_time(runs: dict[str, Run]) -> None:
    for name, order in ORDERS.items():
        assert simulate(order, 7, Assumptions(load=0.95)) == runs[name][1]


def test_an_archive_that_no_day_is_long_enough_for_is_done_among_smaller_ones() -> None:
    # It lies ready on Monday at 01:00, when it can't be done by noon.
    assumed = Assumptions(gpus=1, start_minutes=0, prepare_seconds_per_gb=89.4)
    giant = Archive("giant.tar", 10**12, int((START.timestamp()) * 1e9))
    arrivals = [Arrival(giant, 0.0, 90_000, 0, 30 * HOUR)]
    for number in range(300):  # a fifth more than the GPU can do, for 10 days
        at = number * HOUR / 1.2
        small = Archive(f"{number}.tar", 10**10, int((START.timestamp() + at + 1) * 1e9))
        arrivals.append(Arrival(small, at, 3000, 0, HOUR))
    Simulation(ORDERS["deadline"], assumed, arrivals).run()
    begun_at = arrivals[0].loaded_at - 30 * HOUR
    noon = DAY + 12 * HOUR
    # One archive is at work then and one in SLURM's queue, and the order is reckoned anew when
    # the next one comes.
    assert noon <= begun_at <= noon + 3 * HOUR


def test_two_orders_are_compared_week_by_week() -> None:
    def weeks(*waiting: float) -> list[list[Noon]]:
        return [[Noon(9, each, 0, 0), Noon(9, 1000, 0, 0)] for each in waiting]

    ours, baseline, difference, spread = compare(weeks(10, 20, 33), weeks(8, 19, 30), [0])
    assert (ours, baseline, difference) == pytest.approx((21, 19, 2))
    assert spread == pytest.approx(1.96 / 3**0.5)


def test_the_simulation_ends_with_its_figures_as_json() -> None:
    command = [sys.executable, "-m", "benchmarks.noon", "--weeks", "2", "--flag-rate", "0.01"]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    figures = json.loads(ended.stdout.splitlines()[-1])
    assert set(figures) == {"name", "ratio", "ours", "baseline", "unit"}
    assert figures["ratio"] == pytest.approx(figures["ours"] / figures["baseline"], abs=1e-3)
    assert "Wed*" in ended.stdout
