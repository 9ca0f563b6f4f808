"""Estimates of harm against worlds whose truth is known, and against formulas of textbooks."""

from collections.abc import Sequence
from dataclasses import astuple, replace

import numpy as np
import pytest
from on_demand import OnDemand

from benchmarks.evidence import World, measure, reviews_needed, simulate
from earmark.record.estimators import Contents, drift, known_top, prevalence, recall, weights

pytestmark = pytest.mark.slow
stats = OnDemand("scipy.stats")

WORLDS = 60


def unlikely(share: float, chance: float) -> float:
    """Such a share of the worlds, or one that is further off, comes up so seldom by chance."""
    return float(stats.binom.ppf(chance, WORLDS, share) / WORLDS)


def contents(
    verdicts: Sequence[Sequence[float]], strata: list[int], score: float = 0.0, size: float = 1.0
) -> Contents:
    """Strata of so many contents, of which the first have these verdicts."""
    verdict = [
        [*some, *[np.nan] * (size - len(some))] for some, size in zip(verdicts, strata, strict=True)
    ]
    stratum = np.repeat(np.arange(len(strata)), strata)
    count = len(stratum)
    return Contents(
        stratum, stratum, np.full(count, size), np.full(count, score), np.concatenate(verdict),
        np.zeros(count),
    )  # fmt: skip


@pytest.mark.parametrize(
    "world",
    [
        World("good", 0.005),
        World("bad", 0.02),
        World("worse", 0.02),
        World("good", 0.02, heard=0.4),
        World("good", 0.02, repeated=True),
        World("good", 0.02, screened=True),
    ],
    ids=lambda world: world.name,
)
def test_intervals_cover_the_truth_in_as_many_worlds_as_they_say(world: World) -> None:
    found = measure(world, WORLDS)
    for name in ("lane", "scores", "recall"):
        assert found[name] >= unlikely(0.95, 0.001), name
    if not world.repeated:  # one content of many uploads may decide on it, and not be heard
        assert found["precision"] >= unlikely(0.95, 0.001)
    assert abs(found["lane bias"]) < 0.1
    if world.classifier != "worse":
        assert found["alarms"] <= unlikely(0.05, 0.999)


def test_scores_narrow_the_interval_where_they_help_and_do_no_harm_where_not() -> None:
    good, bad = (measure(World(kind, 0.1), 10) for kind in ("good", "bad"))
    assert good["scores width"] < 0.75 * good["lane width"]
    assert bad["scores width"] < 1.01 * bad["lane width"]


def test_flags_are_no_harm() -> None:
    found = measure(World("bad", 0.1), 5)
    assert found["flags"] < 0.1 * found["truth"]


def test_a_classifier_that_gets_worse_is_noticed() -> None:
    assert measure(World("worse", 0.1), 20)["alarms"] > 0.5


def test_strata_save_most_of_the_reviews() -> None:
    alike, stratified = reviews_needed()
    assert alike == round((1.96 / 0.2) ** 2 * 0.995 / 0.005)
    assert stratified < alike / 10


def test_value_and_variance_are_those_of_stratified_sampling() -> None:
    """Cochran, "Sampling Techniques" (3rd edition, 1977), theorems 5.1 and 5.3."""
    verdicts = [[1, 0, 0, 0, 0], [1, 1, 1, 0]]
    found = prevalence(contents(verdicts, [100, 20]))
    shares, means = np.array([100, 20]) / 120, [np.mean(each) for each in verdicts]
    assert found.value == pytest.approx(shares @ means)
    spread = [np.var(each, ddof=1) / len(each) for each in verdicts]
    assert found.variance == pytest.approx(shares**2 * (1 - np.array([0.05, 0.2])) @ spread)
    assert (found.heard, found.harmful) == (9, 4)


def test_a_single_stratum_has_the_interval_of_clopper_and_pearson() -> None:
    found = prevalence(contents([[1] * 3 + [0] * 97], [200_000]))
    known = stats.binomtest(3, 100).proportion_ci(0.95, "exact")
    assert (found.low, found.high) == pytest.approx((known.low, known.high), rel=0.02)


def test_nothing_harmful_among_a_few_says_little() -> None:
    found = prevalence(contents([[0] * 100], [200_000]))
    assert (found.value, found.low) == (0, 0)
    assert found.high == pytest.approx(stats.binomtest(0, 100).proportion_ci().high, rel=0.01)


def test_a_census_has_no_error() -> None:
    found = prevalence(contents([[1, 0, 0], [0, 0]], [3, 2]))
    assert found.value == found.low == found.high == pytest.approx(0.2)


def test_of_what_nobody_heard_nothing_is_known() -> None:
    found = prevalence(contents([[1, 0, 0], []], [3, 1]))
    assert np.isnan(found.value)
    assert (found.low, found.high) == pytest.approx((0.25, 0.5))
    everything = prevalence(contents([[]], [5]))
    assert (everything.low, everything.high) == (0, 1)


def test_a_stratum_that_was_not_heard_joins_its_neighbour_of_another_day() -> None:
    made = contents([[1, 0], [], [0, 0]], [10, 5, 8])
    made = replace(made, cell=np.zeros(23, np.int64))
    heard = weights(made)
    assert heard[heard > 0].tolist() == [7.5, 7.5, 4, 4]


def test_an_upload_that_repeats_a_content_counts_and_tells_nothing_new() -> None:
    verdicts = [[1, *[0] * 9]]
    one = prevalence(contents(verdicts, [1000]))
    many = prevalence(contents(verdicts, [1000], size=7.0))
    assert astuple(many) == pytest.approx(astuple(one))


def test_drawing_for_transcription_adds_to_the_variance() -> None:
    made = contents([[1, 0] * 50], [1000], size=4.0)
    half = replace(made, unseen=np.full(1000, 12.0))  # of (1 - p) / p² with p of a quarter
    one, other = prevalence(made), prevalence(half)
    assert other.variance - one.variance == pytest.approx(0.25 * 0.75 / 1000)
    assert other.high > one.high


def test_recall_is_what_flags_catch_of_all_harm() -> None:
    made = contents([[1, 1, 0], [1, 0, 0, 0]], [3, 4])
    found = recall(made, made.stratum == 0)
    assert found.value == found.low == found.high == pytest.approx(2 / 3)
    assert np.isnan(recall(contents([[0]], [1]), np.array([True])).value)


def test_the_known_top_ends_at_the_first_that_nobody_heard() -> None:
    draw = np.array([0, 0, 0, 0, 1, 1])
    score = np.array([0.9, 0.7, 0.8, np.nan, 0.6, 0.5])
    heard = np.array([True, True, False, True, True, True])
    assert known_top(draw, score, heard).tolist() == [True, False, False, False, True, True]


def test_more_of_the_same_is_no_drift_and_another_meaning_of_scores_is() -> None:
    cell, period = np.repeat([0, 1], 400), np.tile([0, 1], 400)
    rate = np.where(cell == 0, 0.1, 0.9)
    same = (np.arange(800) // 2 % 10 < 10 * rate).astype(float)
    changed = np.where(period == 0, same, 1 - same)
    made = Contents(cell, cell, np.ones(800), np.zeros(800), same, np.zeros(800))
    assert drift(made, period) == 1
    assert drift(replace(made, verdict=changed), period) == 1 / 1000
    assert drift(replace(made, verdict=np.zeros(800)), period) == 1


def test_worlds_are_the_same_each_time() -> None:
    one, other = (
        simulate(World("good", 0.02), np.random.default_rng(5)).contents.verdict for _ in range(2)
    )
    assert np.array_equal(one, other, equal_nan=True)
