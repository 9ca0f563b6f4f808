"""The design of the daily review sample: strata by score, how many of each, in which order.

Pure functions over arrays.  :mod:`earmark.desk.sampling` draws with them, and
:mod:`earmark.record.harm` finds by the same strata what the sample stands for.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from earmark.ingest.selection import uniform

#: Scores that part the strata of a new draw; a clip without a score is in a stratum of its own.
BOUNDS = (0.01, 0.05, 0.2, 0.5, 0.8)
#: A stratum's rate is the mean of its scores until about as many of it were heard.
_PRIOR = 20
#: No stratum is expected to be purer than that: a classifier is surer than it should be.
_LEAST_RATE = 0.002


def strata(scores: npt.ArrayLike, bounds: Sequence[float]) -> npt.NDArray[np.int64]:
    """The stratum of each clip.

    Args:
        scores: The highest score of each clip, 0..1, shape (clips,); NaN without one.
        bounds: Rising.

    Returns:
        0 without a score, else 1 below the first bound and one more at each.
    """
    scores = np.asarray(scores, float)
    return np.where(np.isnan(scores), 0, 1 + np.searchsorted(bounds, scores, side="right"))


def expected_rates(
    scores: npt.ArrayLike, heard: npt.ArrayLike, reportable: npt.ArrayLike
) -> npt.NDArray[np.float64]:
    """Share of each stratum that is expected to be reportable.

    Args:
        scores: The mean score of each stratum, 0..1; NaN without one.
        heard: How many of it were heard before.
        reportable: How many of those were reportable.
    """
    assumed = np.nan_to_num(np.asarray(scores, float))
    rates = (np.asarray(reportable, float) + _PRIOR * assumed) / (np.asarray(heard, float) + _PRIOR)
    return np.asarray(np.clip(rates, _LEAST_RATE, 1 - _LEAST_RATE))


def allocate(sizes: npt.ArrayLike, rates: npt.ArrayLike, number: int) -> npt.NDArray[np.int64]:
    """How many to draw of each stratum, so that an estimated total varies least.

    Neyman's allocation (Journal of the Royal Statistical Society 97, 1934), proportional to size
    times standard deviation, over a floor of two of each stratum, or a fortieth of the number: the
    rates are guesses, and without the floor a stratum that is thought pure would never be heard.

    Args:
        sizes: Clips of each stratum.
        rates: Share of each that is expected to be reportable.
        number: How many to draw in all.

    Returns:
        At most ``sizes`` each, ``number`` in all if there are so many.
    """
    sizes, rates = np.asarray(sizes, np.int64), np.asarray(rates, float)
    number = min(number, int(sizes.sum()))
    floor = min(max(2, number // 40), number // max(1, int(np.count_nonzero(sizes))))
    value = np.maximum(sizes * np.sqrt(rates * (1 - rates)), 1e-12)
    low, high = 0.0, 1.0 + float((sizes / value).max())
    for _ in range(100):  # by how much the values are to be multiplied
        scale = (low + high) / 2
        wanted = np.clip(scale * value, np.minimum(sizes, floor), sizes)
        low, high = (low, scale) if wanted.sum() > number else (scale, high)
    wanted = np.clip(low * value, np.minimum(sizes, floor), sizes)
    whole = np.floor(wanted + 1e-9).astype(np.int64)
    by_rest = np.argsort(whole - wanted, kind="stable")
    whole[by_rest[: number - whole.sum()]] += 1
    return np.asarray(whole)


def luck(contents: Sequence[str]) -> npt.NDArray[np.float64]:
    """The number of each content by which it is drawn, uniform from 0 to 1."""
    return np.array([uniform(content, "review sample") for content in contents])


def order(
    luck: npt.ArrayLike, stratum: npt.ArrayLike, numbers: Sequence[int]
) -> npt.NDArray[np.int64]:
    """Who is drawn, in the order in which they are to be heard.

    Within a stratum the smallest numbers come first, so that whoever stops has heard a simple
    random sample of each.  The strata alternate in proportion to what is drawn of them, whatever
    is in them.

    Args:
        luck: :func:`luck` of each clip, shape (clips,).
        stratum: Of each clip, from 0.
        numbers: How many to draw of each stratum.

    Returns:
        Positions of clips, the first to be heard first.
    """
    luck, stratum = np.asarray(luck, float), np.asarray(stratum)
    drawn, turns = [], []
    for each, number in enumerate(numbers):
        members = np.flatnonzero(stratum == each)
        drawn.append(members[np.argsort(luck[members], kind="stable")[:number]])
        turns.append((np.arange(len(drawn[-1])) + 0.5) / max(1, number))
    return np.concatenate(drawn)[np.argsort(np.concatenate(turns), kind="stable")]
