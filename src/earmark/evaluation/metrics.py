"""Figures of a classifier against labels, with bootstrap intervals.

All are computed for many ways to weigh the rows at once, shape (ways, rows): the rows' own
weights give the figure, resamples give its interval.  Precision, recall, F1 and AUC are those of
scikit-learn, which weighs one way at a time; the tests hold them against it.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from earmark.evaluation.results import Bin, Estimate

Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

RESAMPLES = 1000
#: Bins of equal width from 0 to 1 that calibration is looked at in.
BINS = 10
_SEED = 20261128
_CELLS = 4_000_000  # of a block of resamples, 32 MB


def detection(truth: Flags, flagged: Flags, ways: Floats) -> dict[str, Floats]:
    """Precision, recall and F1, each of shape (ways,); NaN where it is undefined.

    Args:
        truth: Whether the category applies, (rows,).
        flagged: Whether it was flagged, (rows,).
        ways: Weights, (ways, rows).
    """
    hits = ways @ (truth & flagged)
    false_alarms = ways @ (~truth & flagged)
    misses = ways @ (truth & ~flagged)
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "precision": hits / (hits + false_alarms),
            "recall": hits / (hits + misses),
            "f1": 2 * hits / (2 * hits + false_alarms + misses),
        }


def auc(truth: Flags, scores: Floats, ways: Floats) -> Floats:
    """Area under the ROC curve, (ways,): how often what applies has the higher score.

    Args:
        truth: Whether the category applies, (rows,).
        scores: Higher for what rather applies, (rows,).
        ways: Weights, (ways, rows).
    """
    order = np.argsort(scores)
    _, starts = np.unique(scores[order], return_index=True)  # equal scores count half
    positive = np.add.reduceat(ways[:, order] * truth[order], starts, axis=1)
    negative = np.add.reduceat(ways[:, order] * ~truth[order], starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        area: Floats = (positive * below).sum(axis=1) / (
            positive.sum(axis=1) * negative.sum(axis=1)
        )
    return area


def calibration_error(truth: Flags, scores: Floats, ways: Floats) -> Floats:
    """Expected calibration error, (ways,), over :data:`BINS` of equal width.

    The mean distance between score and share of a bin, weighed by its texts: Guo et al., "On
    Calibration of Modern Neural Networks" (ICML 2017), equation 3.

    Args:
        truth: Whether the category applies, (rows,).
        scores: 0 to 1, (rows,).
        ways: Weights, (ways, rows).
    """
    of_bin = _bins(scores)[:, np.newaxis] == np.arange(BINS)  # (rows, bins)
    distance = np.abs(ways @ ((truth - scores)[:, np.newaxis] * of_bin)).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        error: Floats = distance / ways.sum(axis=1)
    return error


def reliability(truth: Flags, scores: Floats) -> tuple[Bin, ...]:
    """How often a category applies to texts of about the same score; empty bins are left out.

    Args:
        truth: Whether it applies, (rows,).
        scores: 0 to 1, (rows,).
    """
    bins = _bins(scores)
    found = []
    for each in np.unique(bins):
        here = bins == each
        count, applies = int(here.sum()), int(truth[here].sum())
        found.append(
            Bin(
                float(each) / BINS,
                float(each + 1) / BINS,
                count,
                float(scores[here].mean()),
                applies / count,
                *wilson(applies, count),
            )
        )
    return tuple(found)


def wilson(count: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share, also of none and of all (Wilson, JASA 22:209, 1927).

    Args:
        count: How many.
        of: Of how many, at least 1.
    """
    from scipy.stats import binomtest  # a second of a core

    ends = binomtest(count, of).proportion_ci(method="wilson")
    return float(ends.low), float(ends.high)


def _bins(scores: Floats) -> npt.NDArray[np.int64]:
    return np.minimum((scores * BINS).astype(np.int64), BINS - 1)


def resamples(clusters: Sequence[Hashable], weights: Floats) -> Iterator[Floats]:
    """Bootstrap weights of rows, in blocks of shape (ways, rows), :data:`RESAMPLES` ways in all.

    Clusters are drawn, not rows: what is in one, such as equal texts, comes and goes together.
    The seed is fixed, so that two figures of the same rows are compared in the same resamples.

    Args:
        clusters: Of each row.
        weights: Of each row, (rows,).
    """
    numbers = {cluster: number for number, cluster in enumerate(dict.fromkeys(clusters))}
    of_row = np.array([numbers[cluster] for cluster in clusters])
    count, rng = len(numbers), np.random.default_rng(_SEED)
    block = max(1, _CELLS // len(of_row))
    for done in range(0, RESAMPLES, block):
        ways = min(block, RESAMPLES - done)
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=ways)
        yield drawn[:, of_row] * weights


def estimates(
    figures: Callable[[Floats], Mapping[str, Floats]],
    clusters: Sequence[Hashable],
    weights: Floats,
) -> dict[str, Estimate]:
    """Figures with their percentile bootstrap intervals.

    Resamples in which a figure is undefined are left out.  If they are more than half, or all the
    others are equal, they tell nothing of how sure the figure is, and it has no interval.

    Args:
        figures: Gives each by name, (ways,), for weights of shape (ways, rows).
        clusters: Of each row, at least one.
        weights: Of each row, (rows,).
    """
    blocks = [figures(ways) for ways in resamples(clusters, weights)]
    found = {}
    for name, (value,) in figures(weights[np.newaxis]).items():
        drawn = np.concatenate([block[name] for block in blocks])
        known = drawn[np.isfinite(drawn)]
        if not np.isfinite(value):
            found[name] = Estimate()
        elif len(known) < RESAMPLES / 2 or known.min() == known.max():
            found[name] = Estimate(float(value))
        else:
            low, high = np.percentile(known, [2.5, 97.5])
            found[name] = Estimate(float(value), float(low), float(high))
    return found


def mcnemar(only_first: int, only_second: int) -> float:
    """Probability of so uneven a disagreement between two equally good classifiers, two-sided.

    McNemar's exact test (Psychometrika 12:153, 1947): the texts that one alone gets right are a
    coin's throws.

    Args:
        only_first: Texts that the first alone gets right.
        only_second: Texts that the second alone gets right.
    """
    from scipy.stats import binomtest

    count = only_first + only_second
    return float(binomtest(only_first, count).pvalue) if count else 1.0
