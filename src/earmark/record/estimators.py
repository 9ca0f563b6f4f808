"""How much harm there is, and how good a classifier is, from verdicts about some of the clips.

Pure functions over arrays; :mod:`earmark.record.harm` fills them from the volume and the record.
The population is finite: the contents of the draws.  Only who is heard is chance; scores and
verdicts are fixed, and no model of them is taken for true.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

#: Of a 95 % interval.
_TAIL = 0.025
#: So many harmful and harmless contents it takes to tune the use of scores.
_LEAST = 10
_ARRANGEMENTS = 999


@dataclass(frozen=True)
class Contents:
    """The contents of some draws, and what is known of each; every array has shape (contents,).

    Attributes:
        stratum: In which it was drawn, whole numbers; no two draws share one.
        cell: Strata that are alike in different draws, whole numbers.
        size: How many uploads it stands for; 0 outside the domain that is asked about.
        score: What the classifier says of it, 0..1.
        verdict: 1 if people found it harmful, 0 if not, NaN if it was not heard.
        unseen: Variance of ``size`` from drawing clips for transcription, for a sum over contents:
            the sum of (1 - max(p, q)) / (p q) over its pairs of uploads with inclusion
            probabilities p and q; 0 where everything is transcribed.
    """

    stratum: npt.NDArray[np.int64]
    cell: npt.NDArray[np.int64]
    size: Floats
    score: Floats
    verdict: Floats
    unseen: Floats

    def of(self, domain: npt.NDArray[np.bool_]) -> "Contents":
        """The same where only some contents are asked about."""
        return replace(
            self,
            size=np.where(domain, self.size, 0),
            unseen=np.where(domain, self.unseen, 0),
        )


@dataclass(frozen=True)
class Estimate:
    """A share with its 95 % interval.

    Attributes:
        value: The estimate; NaN if a part of the population was not heard at all.
        low: Lower end of the interval.
        high: Upper end.
        variance: Of ``value``; NaN with it.
        heard: How many contents of the domain were heard.
        harmful: How many of them were harmful.
    """

    value: float
    low: float
    high: float
    variance: float
    heard: int
    harmful: int


def known_top(
    stratum: npt.NDArray[np.int64],
    score: Floats,
    heard: npt.NDArray[np.bool_],
) -> npt.NDArray[np.bool_]:
    """Which contents the queue's top took in whole.

    From the highest score of a draw down to the first content that was not heard.  That is decided
    by scores and by how far people came, so the rest of the sample stays a random part of the rest.

    Args:
        stratum: The draw of each content, shape (contents,).
        score: By which the queue sorts it; NaN for what does not wait there.
        heard: Whether anybody decided about it.
    """
    known = np.zeros(len(score), bool)
    for draw in np.unique(stratum):
        members = np.flatnonzero((stratum == draw) & ~np.isnan(score))
        members = members[np.argsort(-score[members], kind="stable")]
        known[members[np.logical_and.accumulate(heard[members])]] = True
    return known


def weights(contents: Contents) -> Floats:
    """How many contents of its stratum each that was heard stands for; 0 for the others.

    A stratum of which nothing was heard joins the one before it in its cell, or the one after.
    """
    heard = ~np.isnan(contents.verdict)
    result = np.zeros(len(heard))
    for cell in np.unique(contents.cell):
        members = np.flatnonzero(contents.cell == cell)
        _, stratum = np.unique(contents.stratum[members], return_inverse=True)
        count = np.bincount(stratum, heard[members])
        filled = np.flatnonzero(count)
        if not len(filled):
            continue
        of = filled[np.maximum(np.searchsorted(filled, np.arange(len(count)), "right") - 1, 0)]
        sizes = np.bincount(of[stratum], minlength=len(count))
        result[members] = heard[members] * sizes[stratum] / np.maximum(count[stratum], 1)
    return result


def prevalence(contents: Contents, use_scores: bool = False) -> Estimate:
    """Share of uploads that are harmful.

    Without scores it is the ratio of Horvitz-Thompson sums in each cell, times the cell's known
    part of the population (post-stratification).  With scores it is PPI++ (Angelopoulos, Duchi and
    Zrnic, arXiv 2311.01453), the difference estimator of Särndal, Swensson and Wretman ("Model
    Assisted Survey Sampling", 1992, section 6.3): the mean of lambda times the scores of all, plus
    the mean of what verdicts differ from that, with the lambda from 0 to 1 that varies least.  It
    is tuned in each cell, and 0 in those where fewer than ten harmful or ten harmless were heard.

    The interval of each cell is that of Clopper and Pearson at its effective sample size (Korn and
    Graubard, Survey Methodology 24, 1998); where nothing harmful was heard, or nothing else, that
    is what weights and sizes make of the number heard.  Intervals of cells are added by squares
    (Zou and Donner, Statistics in Medicine 27, 2008).

    Args:
        contents: The population.
        use_scores: Whether scores of all contents are used.
    """
    weight = weights(contents)
    heard = weight > 0
    inside = contents.size > 0
    total = contents.size.sum()
    verdict = np.where(heard, contents.verdict, 0)
    value = variance = 0.0
    below = above = 0.0
    unknown = 0.0
    for cell in np.unique(contents.cell[inside]):
        here = contents.cell == cell
        share = contents.size[here].sum() / total
        some = here & heard & inside
        if not some.any():
            unknown += share
            continue
        w, size, y = weight[some], contents.size[some], verdict[some]
        guess = np.zeros(len(y))
        of_all = 0.0
        if use_scores:
            score = contents.score[some]
            tuned = _tuned(score, y, w * (w - 1) * size**2)
            guess = tuned * score
            of_all = tuned * float(np.average(contents.score[here], weights=contents.size[here]))
        off = y - guess - np.average(y - guess, weights=w * size)
        rate = of_all + float(np.average(y - guess, weights=w * size))
        rate = min(1.0, max(0.0, rate))
        sum_of_weights = (w * size).sum()
        n = len(w)
        spread = (
            n / max(1, n - 1) * float((w * (w - 1) * (size * off) ** 2).sum()) / sum_of_weights**2
        )
        by_weights = float((w * (w - 1) * size**2).sum()) / sum_of_weights**2
        low, high = _exact(rate, _size(rate, spread, by_weights, y))
        value += share * rate
        variance += share**2 * spread
        below += (share * (rate - low)) ** 2
        above += (share * (high - rate)) ** 2
    first = (weight * contents.unseen * (verdict - value) ** 2).sum() / total**2
    if first > 0:
        low, high = _exact(value, value * (1 - value) / first)
        below, above = below + (value - low) ** 2, above + (high - value) ** 2
        variance += first
    low, high = max(0.0, value - np.sqrt(below)), min(1.0, value + np.sqrt(above) + unknown)
    some = heard & inside
    is_known = unknown == 0
    return Estimate(
        value if is_known else np.nan,
        low,
        high,
        variance if is_known else np.nan,
        int(some.sum()),
        int(verdict[some].sum()),
    )


def _tuned(score: Floats, verdict: Floats, mass: Floats) -> float:
    """How much of the scores to use: the lambda of PPI++ in a cell."""
    if min(verdict.sum(), len(verdict) - verdict.sum()) < _LEAST or not mass.sum() > 0:
        return 0.0
    score = score - np.average(score, weights=mass)
    verdict = verdict - np.average(verdict, weights=mass)
    square = float((mass * score**2).sum())
    return min(1.0, max(0.0, float((mass * score * verdict).sum()) / square)) if square else 0.0


def _size(rate: float, spread: float, by_weights: float, verdict: Floats) -> float:
    """Effective sample size of a rate with a variance."""
    by_size = 1 / by_weights if by_weights > 0 else np.inf
    if 0 < verdict.sum() < len(verdict) and 0 < rate < 1 and spread > 0:
        return min(rate * (1 - rate) / spread, np.inf)
    return by_size


def _exact(rate: float, n: float) -> tuple[float, float]:
    """The interval of Clopper and Pearson (Biometrika 26, 1934) where n is no whole number."""
    if np.isinf(n):
        return rate, rate
    from scipy import stats  # a second of a core

    low = stats.beta.ppf(_TAIL, rate * n, n - rate * n + 1) if rate > 0 else 0.0
    high = stats.beta.ppf(1 - _TAIL, rate * n + 1, n - rate * n) if rate < 1 else 1.0
    return float(low), float(high)


def recall(contents: Contents, flagged: npt.NDArray[np.bool_]) -> Estimate:
    """Which part of what is harmful is flagged.

    The interval takes what is flagged and what is not as independent, each with the interval of
    its prevalence, added by squares as in :func:`prevalence`.

    Args:
        contents: The population.
        flagged: Whether each content is, shape (contents,).
    """
    sizes = [float(contents.of(part).size.sum()) for part in (flagged, ~flagged)]
    found, missed = (
        prevalence(contents.of(part)) if size else Estimate(0.0, 0.0, 0.0, 0.0, 0, 0)
        for part, size in zip((flagged, ~flagged), sizes, strict=True)
    )

    def share(of_flagged: float, of_others: float) -> float:
        caught, lost = of_flagged * sizes[0], of_others * sizes[1]
        return caught / (caught + lost) if caught + lost > 0 else np.nan

    value = share(found.value, missed.value)
    heard, harmful = found.heard + missed.heard, found.harmful + missed.harmful
    if np.isnan(value):
        return Estimate(np.nan, 0.0, 1.0, np.nan, heard, harmful)
    low = np.hypot(value - share(found.low, missed.value), value - share(found.value, missed.high))
    high = np.hypot(share(found.high, missed.value) - value, share(found.value, missed.low) - value)
    by_found, by_missed = (1 - value) * sizes[0], value * sizes[1]
    total = found.value * sizes[0] + missed.value * sizes[1]
    variance = (by_found**2 * found.variance + by_missed**2 * missed.variance) / total**2
    low, high = max(0.0, value - low), min(1.0, value + high)
    return Estimate(value, low, high, variance, heard, harmful)


def drift(contents: Contents, period: npt.NDArray[np.int64]) -> float:
    """How likely cells would differ as much between periods if scores never changed their meaning.

    A permutation test: given how many were heard of a cell in each period, and how many of all
    these were harmful, each of them had the same chance to be.  The statistic is Pearson's, summed
    over cells, and 999 random arrangements are compared, so that the stated rate of false alarms
    holds where few are harmful as well.  That more clips with high scores come is no drift; that
    more of them are harmless is.  Only the sample may have verdicts here: what the queue's top took
    in is of other scores in each period.

    Args:
        contents: The population.
        period: In which each content was drawn, shape (contents,).

    Returns:
        The p-value; 1 if there is nothing to compare.
    """
    heard = ~np.isnan(contents.verdict) & (contents.size > 0)
    _, place = np.unique(period, return_inverse=True)
    chance = np.random.default_rng(0)
    found, by_chance = 0.0, np.zeros(_ARRANGEMENTS)
    for cell in np.unique(contents.cell[heard]):
        some = heard & (contents.cell == cell)
        number = np.bincount(place[some])
        number, of = number[number > 0], np.unique(place[some], return_inverse=True)[1]
        harmful = int(contents.verdict[some].sum())
        rate = harmful / number.sum()
        if len(number) < 2 or not 0 < rate < 1:
            continue
        expected = number * rate
        scale = 1 / (expected * (1 - rate))
        seen = np.bincount(of, contents.verdict[some], minlength=len(number))
        drawn = chance.multivariate_hypergeometric(number, harmful, size=_ARRANGEMENTS)
        found += float(((seen - expected) ** 2 * scale).sum())
        by_chance += ((drawn - expected) ** 2 * scale).sum(axis=1)
    return float((1 + (by_chance >= found - 1e-9).sum()) / (1 + _ARRANGEMENTS))
