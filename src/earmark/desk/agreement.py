"""How far two people who hear the same clip come to the same decision.

Knows Krippendorff's alpha for nominal data, and which decisions are compared: those about clips
drawn for a second review, made without knowing of each other.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from psycopg2.extensions import connection as Connection

_RESAMPLES = 1000
_SEED = 20261101

# OFFSET 0 keeps the planner from reading all decisions at once: it asks for one clip each time.
_COMPARED = """
    SELECT to_char(s.decided_at AT TIME ZONE %(timezone)s, 'IYYY-"W"IW'),
           f.verdict, f.categories, s.verdict, s.categories
    FROM second_reviews sr
    CROSS JOIN LATERAL (
        SELECT verdict, categories FROM review_standing
        WHERE audio_file_id = sr.audio_file_id AND round = 'first' OFFSET 0
    ) f
    CROSS JOIN LATERAL (
        SELECT verdict, categories, decided_at FROM review_standing
        WHERE audio_file_id = sr.audio_file_id AND round = 'second' OFFSET 0
    ) s
    ORDER BY sr.audio_file_id
"""


@dataclass(frozen=True)
class Agreement:
    """How far people agree.

    Attributes:
        alpha: Krippendorff's alpha: 1 if they always agree, 0 if they do so no more often than
            by chance, less if they disagree systematically; None if it is undefined.
        units: Clips that were compared: those with at least two values.
        interval: A 95 % interval of alpha; None if there is none to tell.
    """

    alpha: float | None
    units: int
    interval: tuple[float, float] | None


def alpha(units: Iterable[Sequence[Hashable | None]]) -> float | None:
    """Krippendorff's alpha for nominal data, with any number of observers and missing values.

    After Klaus Krippendorff, "Content Analysis", 4th edition (SAGE 2019), chapter 12, and
    "Computing Krippendorff's Alpha-Reliability" (University of Pennsylvania 2011), section C.

    Args:
        units: For each unit the values that it was given, None for a missing one.  Units with
            fewer than two values can't be compared and don't count.

    Returns:
        Alpha, at most 1; None if it is undefined: no unit can be compared, or all values are
        equal, so that there is nothing to tell agreement from chance by.
    """
    counts = _counts(units)
    return None if not counts.size else _alphas(counts, np.ones((1, len(counts))))[0]


def agreement(units: Iterable[Sequence[Hashable | None]]) -> Agreement:
    """Alpha of some units and how sure it is.

    The interval is the percentile bootstrap over units of Zapf et al., "Measuring inter-rater
    reliability for nominal data" (BMC Medical Research Methodology 16:93, 2016), with 1,000
    resamples and a fixed seed.  Resamples without variation, in which alpha is undefined, are
    left out; if they are more than half, there is no interval.

    Args:
        units: As for :func:`alpha`.
    """
    counts = _counts(units)
    if not counts.size:
        return Agreement(None, 0, None)
    value = _alphas(counts, np.ones((1, len(counts))))[0]
    # Units with equal values are the same unit as often: few kinds, however many there are.
    kinds, occurrences = np.unique(counts, axis=0, return_counts=True)
    draws = np.random.default_rng(_SEED).multinomial(
        len(counts), occurrences / len(counts), size=_RESAMPLES
    )
    known = [each for each in _alphas(kinds, draws) if each is not None]
    if value is None or len(known) < _RESAMPLES / 2:
        return Agreement(value, len(counts), None)
    low, high = np.percentile(known, [2.5, 97.5])
    return Agreement(value, len(counts), (float(low), float(high)))


def of_second_reviews(
    connection: Connection, timezone: str, weeks: int = 8
) -> dict[tuple[str | None, str | None], Agreement]:
    """How far first and second reviews agree, by category and by week.

    Compared are the standing decisions about clips that were drawn for a second review and have
    both.  Of a category the value is whether a decision is reportable and names it; over all
    categories, whether it is reportable.  Who was unsure gave no value.

    Args:
        connection: To the database.
        timezone: Name of the zone whose weeks are meant.
        weeks: So many are told one by one, the newest that have a second decision.

    Returns:
        By category, None for the verdict whatever the category, and by ISO week of the second
        decision (``2026-W48``), None for all there are.  Categories are those that somebody
        chose.
    """
    with connection.cursor() as cursor:
        cursor.execute(_COMPARED, {"timezone": timezone})
        rows = cursor.fetchall()
    chosen = {category for _, _, first, _, second in rows for category in (*first, *second)}
    told = sorted({week for week, *_ in rows})[-weeks:]
    units: defaultdict[tuple[str | None, str | None], list[list[bool | None]]] = defaultdict(list)
    for week, first_verdict, first, second_verdict, second in rows:
        pair = ((first_verdict, first), (second_verdict, second))
        for category in (None, *chosen):
            values = [_value(verdict, named, category) for verdict, named in pair]
            units[category, None].append(values)
            if week in told:
                units[category, week].append(values)
    return {key: agreement(values) for key, values in units.items()}


def _value(verdict: str, named: Sequence[str], category: str | None) -> bool | None:
    if verdict == "unsure":
        return None
    return verdict == "reportable" and (category is None or category in named)


def _counts(units: Iterable[Sequence[Hashable | None]]) -> np.ndarray:
    """How often each unit that can be compared was given each value; (units, values)."""
    counters = [Counter(value for value in unit if value is not None) for unit in units]
    comparable = [counter for counter in counters if counter.total() > 1]
    values = list(dict.fromkeys(value for counter in comparable for value in counter))
    return np.array([[counter[value] for value in values] for counter in comparable], dtype=float)


def _alphas(counts: np.ndarray, weights: np.ndarray) -> list[float | None]:
    """Alpha for each way to weigh units.

    Args:
        counts: (units, values), each unit with two values or more.
        weights: (ways, units), how often each unit stands there.
    """
    given = counts.sum(axis=1)
    # Ordered pairs of different values within a unit, over the pairs that a value takes part in.
    disagreeing = (given**2 - (counts**2).sum(axis=1)) / (given - 1)
    all_given, of_value = weights @ given, weights @ counts
    by_chance = (all_given**2 - (of_value**2).sum(axis=1)) / (all_given - 1)
    return [
        None if expected == 0 else float(1 - observed / expected)
        for observed, expected in zip(weights @ disagreeing, by_chance, strict=True)
    ]
