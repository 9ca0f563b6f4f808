"""Figures of a classifier: those of scikit-learn, of pages and of hand calculation."""

import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from on_demand import OnDemand

from earmark.evaluation.metrics import (
    RESAMPLES,
    auc,
    calibration_error,
    detection,
    estimates,
    mcnemar,
    reliability,
    resamples,
)

sklearn = OnDemand("sklearn.metrics")

ROWS = st.lists(
    st.tuples(
        st.booleans(),
        st.integers(0, 20).map(lambda n: n / 20),  # so that scores are equal now and then
        st.floats(0.1, 10),
    ),
    min_size=1,
    max_size=40,
)


def columns(rows):
    truth, scores, weights = zip(*rows, strict=True)
    return np.array(truth), np.array(scores), np.array(weights)


@given(ROWS)
@settings(max_examples=60, deadline=None)
def test_precision_recall_f1_and_auc_are_scikit_learns(rows):
    truth, scores, weights = columns(rows)
    flagged = scores >= 0.5
    found = detection(truth, flagged, weights[np.newaxis])
    theirs = sklearn.precision_recall_fscore_support(
        truth, flagged, average="binary", sample_weight=weights, zero_division=np.nan
    )
    for name, value in zip(("precision", "recall", "f1"), theirs[:3], strict=True):
        assert found[name][0] == pytest.approx(value, nan_ok=True), name
    area = auc(truth, scores, weights[np.newaxis])[0]
    if truth.all() or not truth.any():
        assert math.isnan(area)
    else:
        assert area == pytest.approx(sklearn.roc_auc_score(truth, scores, sample_weight=weights))


@given(ROWS)
@settings(max_examples=30, deadline=None)
def test_a_weight_of_two_is_the_row_twice(rows):
    truth, scores, _ = columns(rows)
    twice = np.repeat([True, False], [1, len(rows) - 1])
    weights = 1.0 + twice
    again = np.concatenate([truth, truth[:1]]), np.concatenate([scores, scores[:1]])
    for figure in (auc, calibration_error):
        ones = np.ones((1, len(rows) + 1))
        expected = figure(*again, ones)[0]
        got = figure(truth, scores, weights[np.newaxis])[0]
        assert got == pytest.approx(expected, nan_ok=True)


def test_the_calibration_error_is_the_distance_of_score_and_share_weighed_by_texts():
    # Two texts score 0.1 and 0.15 and one of them applies: 0.5 is 0.375 from 0.125. Two score 1
    # and both apply.
    truth = np.array([True, False, True, True])
    scores = np.array([0.1, 0.15, 1.0, 1.0])
    error = calibration_error(truth, scores, np.ones((1, 4)))[0]
    assert error == pytest.approx((2 * 0.375 + 2 * 0) / 4)


def test_the_reliability_of_a_bin_has_its_wilson_interval():
    (low, high) = reliability(
        np.array([True] * 8 + [False] * 2 + [True]), np.array([0.75] * 10 + [1])
    )
    assert (low.low, low.high, low.texts, low.score, low.share) == (0.7, 0.8, 10, 0.75, 0.8)
    # Wilson's interval of 8 in 10, at z = 1.959964.
    z2 = 1.959964**2
    centre, half = (8 + z2 / 2) / (10 + z2), math.sqrt(z2 * (8 * 2 / 10 + z2 / 4)) / (10 + z2)
    assert (low.share_low, low.share_high) == pytest.approx((centre - half, centre + half))
    assert (high.low, high.high, high.texts) == (0.9, 1.0, 1)


def test_mcnemar_is_the_throws_of_a_coin():
    assert mcnemar(1, 9) == pytest.approx(2 * (1 + 10) / 2**10)
    assert mcnemar(9, 1) == mcnemar(1, 9)
    assert mcnemar(5, 5) == 1
    assert mcnemar(0, 0) == 1


def test_equal_texts_come_and_go_together():
    for ways in resamples(["a", "b", "a", "c"], np.array([1.0, 1.0, 2.0, 1.0])):
        assert (2 * ways[:, 0] == ways[:, 2]).all()
        assert (ways[:, 0] + ways[:, 1] + ways[:, 3] == 3).all()


def test_large_sets_are_resampled_in_blocks():
    blocks = [len(ways) for ways in resamples(range(50_000), np.ones(50_000))]
    assert len(blocks) > 1
    assert sum(blocks) == RESAMPLES


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    """Recall 0.8 of 60 texts in a hundred, in 200 worlds; within chance of 95 %."""
    rng = np.random.default_rng(7)
    covered = 0
    for _ in range(200):
        truth = rng.random(100) < 0.6
        flagged = truth & (rng.random(100) < 0.8)
        found = estimates(partial(detection, truth, flagged), range(100), np.ones(100))["recall"]
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.8 <= found.high
    assert 0.90 <= covered / 200 <= 0.985


def test_what_is_undefined_has_no_figure_and_what_mostly_is_has_no_interval():
    none, one = np.zeros(20, dtype=bool), np.arange(20) == 0
    found = estimates(lambda ways: detection(one, none, ways), range(20), np.ones(20))
    assert found["precision"].value is None
    assert (found["recall"].value, found["recall"].low) == (0, None)  # in all resamples
    # A text is drawn exactly once in 38 % of resamples.
    found = estimates(
        lambda ways: {"share": np.where(ways[:, 0] == 1, 1.0, np.nan)}, range(20), np.ones(20)
    )
    assert (found["share"].value, found["share"].low) == (1, None)
