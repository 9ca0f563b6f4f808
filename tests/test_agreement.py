"""How far people who hear the same clip agree: Krippendorff's alpha, and who is compared."""

from pathlib import Path

import krippendorff
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loaded_archive import Archive, query

from earmark.desk.agreement import Agreement, agreement, alpha, of_second_reviews
from earmark.record.database import connect

#: Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011): the data of his sections A
#: (two observers, two values) and C (four observers, five values, some missing), by observer.
_: int | None = None
BINARY = [[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]]
MISSING = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
    [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
]


@pytest.mark.parametrize(("by_observer", "published"), [(BINARY, 0.095), (MISSING, 0.743)])
def test_it_is_what_its_author_published(by_observer: list[list[int]], published: float) -> None:
    value = alpha(zip(*by_observer, strict=True))
    assert value == pytest.approx(published, abs=0.0005)


OBSERVERS = st.integers(2, 5)
VALUES = st.one_of(st.none(), st.integers(0, 3))


@given(OBSERVERS.flatmap(lambda n: st.lists(st.lists(VALUES, min_size=n, max_size=n), min_size=1)))
def test_it_is_what_the_reference_implementation_says(units: list[list[int | None]]) -> None:
    given_values = {value for unit in units for value in unit if value is not None}
    pairs = [[v for v in unit if v is not None] for unit in units]
    pairable = {value for unit in pairs if len(unit) > 1 for value in unit}
    ours = alpha(units)
    if len(pairable) < 2 or len(given_values) < 2:
        assert ours is None
        return
    data = np.array(units, dtype=float).T  # None becomes NaN, a missing value
    theirs = krippendorff.alpha(reliability_data=data, level_of_measurement="nominal")
    assert ours == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize(
    "units",
    [[], [[None, None]], [["yes", None], [None, "no"]], [["yes", "yes"], ["yes", "yes"]]],
    ids=["no unit", "no value", "no pair", "no variation"],
)
def test_it_is_unknown_where_nothing_can_be_compared_or_nothing_varies(
    units: list[list[str | None]],
) -> None:
    assert alpha(units) is None
    assert agreement(units).interval is None


def test_the_interval_covers_the_value_and_shrinks_with_more_clips() -> None:
    few = [["yes", "yes"], ["no", "no"], ["yes", "no"]] * 10
    small, large = agreement(few), agreement(few * 20)
    assert small.units == 30
    assert small.alpha is not None
    assert small.interval is not None
    assert large.interval is not None
    assert small.interval[0] < small.alpha < small.interval[1]
    assert large.interval[1] - large.interval[0] < (small.interval[1] - small.interval[0]) / 3


@pytest.mark.slow
def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    # Half of all clips are reportable, and each person errs in one of ten.
    truth = alpha([[a, b] for a, b, n in _joint(0.1) for _ in range(n)])
    covered = 0
    for _repetition in range(200):
        real = random.integers(0, 2, 150)
        heard = real[:, None] ^ (random.random((150, 2)) < 0.1)
        interval = agreement(heard.tolist()).interval
        assert truth is not None
        assert interval is not None
        covered += interval[0] <= truth <= interval[1]
    assert 0.89 < covered / 200 < 0.99


def _joint(error: float) -> list[tuple[int, int, int]]:
    """How often two people say what, of a million."""
    same = (1 - error) ** 2 + error**2
    return [(a, b, round(500_000 * (same if a == b else 1 - same))) for a in (0, 1) for b in (0, 1)]


# --- from the database ----------------------------------------------------------------------------


def decide(
    conninfo: str, clip: int, reviewer: int, round_: str, verdict: str, *categories: str, on: str
) -> None:
    query(
        conninfo,
        "INSERT INTO review_decisions (audio_file_id, reviewer_id, round, chosen_by, verdict, "
        "categories, claimed_at, decided_at) VALUES (%s, %s, %s, 'score', %s, %s, %s, %s)",
        *(clip, reviewer, round_, verdict, sorted(categories), on, on),
    )


@pytest.fixture
def reviewed(tmp_path: Path, migrated_database: str) -> str:
    """Two clips that two people heard, one that only one did, and one that was not drawn."""
    conninfo = migrated_database
    Archive(tmp_path, conninfo).load()
    query(
        conninfo,
        "INSERT INTO reviewers (name, role, password_hash) "
        "SELECT name, 'reviewer', '' FROM unnest(ARRAY['ada', 'bea', 'cleo']) name",
    )
    query(
        conninfo,
        "INSERT INTO second_reviews (audio_file_id, probability) "
        "SELECT id, 1 FROM generate_series(1, 3) id",
    )
    monday = "2026-11-23 00:30+01"  # Sunday still, in UTC
    decide(conninfo, 1, 1, "first", "reportable", "threats", on="2026-11-20 12:00+01")
    decide(conninfo, 1, 2, "second", "reportable", "threats", "scams", on=monday)
    decide(conninfo, 2, 2, "first", "not reportable", on="2026-11-20 12:00+01")
    decide(conninfo, 2, 1, "second", "not reportable", on="2026-11-22 12:00+01")
    decide(conninfo, 3, 1, "first", "reportable", "threats", on=monday)
    decide(conninfo, 4, 1, "first", "reportable", "threats", on=monday)
    decide(conninfo, 4, 2, "second", "not reportable", on=monday)
    return conninfo


def compared(conninfo: str) -> dict[tuple[str | None, str | None], Agreement]:
    with connect(conninfo) as connection:
        return of_second_reviews(connection, "Europe/Zurich")


def test_clips_that_were_drawn_and_heard_twice_are_compared(reviewed: str) -> None:
    found = compared(reviewed)
    assert {key: (each.alpha, each.units) for key, each in found.items()} == {
        (None, None): (1.0, 2),
        (None, "2026-W47"): (None, 1),
        (None, "2026-W48"): (None, 1),
        ("threats", None): (1.0, 2),
        ("threats", "2026-W47"): (None, 1),
        ("threats", "2026-W48"): (None, 1),
        ("scams", None): (0.0, 2),
        ("scams", "2026-W47"): (None, 1),
        ("scams", "2026-W48"): (0.0, 1),
    }


def test_weeks_long_past_count_for_all_weeks_alone(reviewed: str) -> None:
    with connect(reviewed) as connection:
        found = of_second_reviews(connection, "Europe/Zurich", weeks=1)
    assert {week for _, week in found} == {None, "2026-W48"}
    assert found[None, None].units == 2


def test_what_was_undone_or_unsure_is_not_compared(reviewed: str) -> None:
    decide(reviewed, 1, 2, "second", "undone", on="2026-11-23 00:31+01")
    assert compared(reviewed)[None, None].units == 1
    decide(reviewed, 1, 2, "second", "unsure", on="2026-11-23 00:32+01")
    assert compared(reviewed)[None, None].units == 1
    decide(reviewed, 1, 2, "second", "undone", on="2026-11-23 00:33+01")
    decide(reviewed, 1, 2, "second", "not reportable", on="2026-11-23 00:34+01")
    assert compared(reviewed)[None, None].units == 2


def test_without_second_reviews_there_is_nothing_to_tell(migrated_database: str) -> None:
    assert compared(migrated_database) == {}
