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
    counts, occurrences = _counts(units)
    return _alphas(counts, occurrences[np.newaxis])[0] if counts.size else None


def agreement(units: Iterable[Sequence[Hashable | None]]) -> Agreement:
    """Alpha of some units and how sure it is.

    The interval is the percentile bootstrap over units of Zapf et al., "Measuring inter-rater
    reliability for nominal data" (BMC Medical Research Methodology 16:93, 2016), with 1,000
    resamples and a fixed seed.  Resamples without variation, in which alpha is undefined, are
    left out; if they are more than half, there is no interval.

    Args:
        units: As for :func:`alpha`.
    """
    counts, occurrences = _counts(units)
    if not counts.size:
        return Agreement(None, 0, None)
    number = int(occurrences.sum())
    value = _alphas(counts, occurrences[np.newaxis])[0]
    draws = np.random.default_rng(_SEED).multinomial(number, occurrences / number, size=_RESAMPLES)
    known = [each for each in _alphas(counts, draws) if each is not None]
    if value is None or len(known) < _RESAMPLES / 2:
        return Agreement(value, number, None)
    low, high = np.percentile(known, [2.5, 97.5])
    return Agreement(value, number, (float(low), float(high)))


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


def _counts(units: Iterable[Sequence[Hashable | None]]) -> tuple[np.ndarray, np.ndarray]:
    """How often each kind of unit that can be compared was given each value, (kinds, values).

    And how many units are of that kind, (kinds,).  Units with equal values are of one kind, so
    there are few however many units there are.
    """
    kinds = Counter(tuple(unit) for unit in units)
    given = [Counter(value for value in kind if value is not None) for kind in kinds]
    comparable = [
        (counter, occurrences)
        for counter, occurrences in zip(given, kinds.values(), strict=True)
        if counter.total() > 1
    ]
    values = list(dict.fromkeys(value for counter, _ in comparable for value in counter))
    counts = [[counter[value] for value in values] for counter, _ in comparable]
    return np.array(counts, dtype=float), np.array([number for _, number in comparable])


def _alphas(counts: np.ndarray, weights: np.ndarray) -> list[float | None]:
    """Alpha for each way to weigh units.

    Args:
        counts: (kinds, values), how often each kind of unit was given each value, in all twice
            or more.
        weights: (ways, kinds), how many units of each kind stand there.
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
