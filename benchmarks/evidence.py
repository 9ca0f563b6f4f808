"""Whether the intervals of `earmark harm` hold: `make simulate-evidence` (ten minutes).

    python -m benchmarks.evidence [--worlds 500] [--help]

In each world four weeks of contents are drawn from and reviewed as the desk does: the product's
own strata, allocation, order and estimators (earmark.record.review_sample, .estimators). What
people find is the truth. A week has 4,000 contents, of which 400 are sampled and the 100 with the
highest flagged scores are heard as the queue's top. There are three categories with the same
share of harm; the first is asked about, and the highest score of the three makes the strata.

Scores are logistic: harmful and harmless contents are normal (sigma 1.3) around -4 and -4 plus a
separation: 4.5 if the classifier is good, 1 if bad, and from 4.5 down to 0.5 over the four weeks
if it gets worse. `stopped` are weeks of which 40 % of the sample was heard; in `repeated` contents
have 1 to 31 uploads (Pareto); in `screened` seven contents of ten have no score, a fifth of the
harmful ones among them.

Coverage should be 95 %; of 500 worlds it comes out between 93 and 97 % by chance alone. Widths are
of the prevalence's interval in percentage points, means over worlds. `flags` is the prevalence as
a count of flags has it. `alarms` is how often the test for drift, at 5 %, says that scores changed
their meaning between the weeks: they do if the classifier gets worse, and never otherwise.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from earmark.record.estimators import (
    Contents,
    Estimate,
    drift,
    known_top,
    prevalence,
    recall,
)
from earmark.record.review_sample import BOUNDS, allocate, expected_rates, order, strata

WEEKS, CONTENTS, REVIEWS, TOP = 4, 4_000, 400, 100
_STRATA = len(BOUNDS) + 2
_KNOWN = _STRATA  # the cell of what the queue's top took in


@dataclass(frozen=True)
class World:
    """What is simulated.

    Attributes:
        classifier: good, bad or worse.
        harm: Share of contents that are harmful in a category.
        heard: Share of the sample that is heard before people stop.
        repeated: Whether contents have many uploads.
        screened: Whether a screen keeps most contents from the policies.
    """

    classifier: str
    harm: float
    heard: float = 1.0
    repeated: bool = False
    screened: bool = False

    @property
    def name(self) -> str:
        """In the table."""
        more = (
            "stopped" if self.heard < 1 else "",
            "repeated" if self.repeated else "",
            "screened" if self.screened else "",
        )
        return " ".join([self.classifier, *filter(None, more)])


WORLDS = (
    *(World(kind, harm) for kind in ("good", "bad", "worse") for harm in (0.001, 0.005, 0.02, 0.1)),
    *(World(kind, harm, heard=0.4) for kind in ("good", "bad") for harm in (0.005, 0.02)),
    *(World(kind, harm, repeated=True) for kind in ("good", "bad") for harm in (0.005, 0.02)),
    *(World("good", harm, screened=True) for harm in (0.005, 0.02)),
)


@dataclass(frozen=True)
class Outcome:
    """What is known at the end of a world, and what is true.

    Attributes:
        contents: As the product sees them.
        sampled: The same without what the queue's top took in.
        week: Of each content.
        truth: Whether each is harmful.
    """

    contents: Contents
    sampled: Contents
    week: np.ndarray
    truth: np.ndarray


def simulate(world: World, chance: np.random.Generator) -> Outcome:
    """Four weeks of one world."""
    count = WEEKS * CONTENTS
    week = np.repeat(np.arange(WEEKS), CONTENTS)
    harmful = chance.random((count, 3)) < world.harm
    worse = np.repeat(np.linspace(4.5, 0.5, WEEKS), CONTENTS).reshape(-1, 1)
    apart = {"good": np.array(4.5), "bad": np.array(1.0), "worse": worse}[world.classifier]
    scores = 1 / (1 + np.exp(4 - 1.3 * chance.normal(size=(count, 3)) - apart * harmful))
    any_harm = np.asarray(harmful.any(axis=1))
    if world.screened:
        scores[chance.random(count) < np.where(any_harm, 0.2, 0.7)] = np.nan
    highest = scores.max(axis=1)
    size = 1 + np.floor(chance.pareto(2.0, count)).clip(0, 30) if world.repeated else np.ones(count)
    stratum = strata(highest, BOUNDS)
    sampled, heard = np.zeros(count, bool), np.zeros(count, bool)
    before, found = np.zeros(_STRATA), np.zeros(_STRATA)
    for each in range(WEEKS):
        members = np.flatnonzero(week == each)
        sizes = np.bincount(stratum[members], minlength=_STRATA)
        totals = np.bincount(stratum[members], np.nan_to_num(highest[members]), minlength=_STRATA)
        rates = expected_rates(totals / np.maximum(sizes, 1), before, found)
        numbers = allocate(sizes, rates, REVIEWS)
        drawn = members[order(chance.random(CONTENTS), stratum[members], numbers.tolist())]
        drawn = drawn[: round(world.heard * len(drawn))]
        sampled[drawn] = True
        before += np.bincount(stratum[drawn], minlength=_STRATA)
        found += np.bincount(stratum[drawn], any_harm[drawn], minlength=_STRATA)
        flagged = members[np.nan_to_num(highest[members]) >= 0.5]
        heard[flagged[np.argsort(-highest[flagged])[:TOP]]] = True
    queue = np.where(np.nan_to_num(highest) >= 0.5, highest, np.nan)
    known = known_top(week, queue, sampled | heard)
    verdict = np.where(sampled | known, harmful[:, 0], np.nan)
    contents = Contents(
        stratum=np.where(known, _KNOWN, stratum) + week * (_KNOWN + 1),
        cell=np.where(known, _KNOWN, stratum),
        size=size,
        score=np.nan_to_num(scores[:, 0]),
        verdict=verdict,
        unseen=np.zeros(count),
    )
    alone = replace(
        contents,
        stratum=stratum + week * (_KNOWN + 1),
        cell=stratum,
        verdict=np.where(sampled, harmful[:, 0], np.nan),
    )
    return Outcome(contents, alone, week, harmful[:, 0])


def measure(world: World, worlds: int) -> dict[str, float]:
    """Coverage, widths and alarms over many worlds, by their names."""
    rows = [dict(_measured(simulate(world, np.random.default_rng(seed)))) for seed in range(worlds)]
    return {name: float(np.nanmean([row[name] for row in rows])) for name in rows[0]}


def _measured(outcome: Outcome) -> Iterator[tuple[str, float]]:
    contents, truth = outcome.contents, outcome.truth
    flagged = contents.score >= 0.5
    true = float(np.average(truth, weights=contents.size))
    lane, both = prevalence(contents), prevalence(contents, use_scores=True)
    yield "truth", true
    yield "flags", float(np.average(flagged, weights=contents.size))
    yield "harmful", lane.harmful
    for name, estimate in (("lane", lane), ("scores", both)):
        yield name, _covers(estimate, true)
        yield f"{name} width", estimate.high - estimate.low
        yield f"{name} bias", estimate.value / true - 1 if true else np.nan
    weight = contents.size * truth
    caught = float(weight[flagged].sum() / weight.sum()) if weight.any() else np.nan
    yield "recall", _covers(recall(contents, flagged), caught) if weight.any() else np.nan
    right = contents.of(flagged)
    precise = float(np.average(truth, weights=right.size)) if right.size.any() else np.nan
    yield "precision", _covers(prevalence(right), precise) if right.size.any() else np.nan
    yield "alarms", drift(outcome.sampled, outcome.week) < 0.05


def _covers(estimate: Estimate, true: float) -> bool:
    return estimate.low - 1e-12 <= true <= estimate.high + 1e-12


def reviews_needed(harm: float = 0.005, within: float = 0.2) -> tuple[int, int]:
    """Reviews for a relative error, 95 %: of clips drawn from all alike, and from the strata.

    The rates of the strata are taken as known; the classifier is the good one.
    """
    z = 1.96
    alike = (z / within) ** 2 * (1 - harm) / harm
    outcome = simulate(World("good", harm), np.random.default_rng(0))
    cell = strata(outcome.contents.score, BOUNDS)
    sizes = np.bincount(cell, minlength=_STRATA) / len(cell)
    found = np.bincount(cell, outcome.truth, minlength=_STRATA)
    rates = found / np.maximum(1, np.bincount(cell, minlength=_STRATA))
    stratified = (z / (within * harm)) ** 2 * (sizes * np.sqrt(rates * (1 - rates))).sum() ** 2
    return round(alike), round(float(stratified))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--worlds", type=int, default=500)
    parser.add_argument("--only", default="", help="classifiers whose names begin so")
    arguments = parser.parse_args()
    columns = ("lane", "scores", "recall", "precision", "alarms")
    print(
        "| classifier | harm % | flags % | harmful heard | lane covers | width | "
        "with scores covers | width | recall covers | precision covers | alarms |\n"
        "|---|---|---|---|---|---|---|---|---|---|---|"
    )
    for world in (each for each in WORLDS if each.name.startswith(arguments.only)):
        found = measure(world, arguments.worlds)
        lane, scores, *others = (f"{found[column]:.1%}" for column in columns)
        print(
            f"| {world.name} | {100 * world.harm:g} | {100 * found['flags']:.2f} "
            f"| {found['harmful']:.0f} | {lane} | {100 * found['lane width']:.3f} "
            f"| {scores} | {100 * found['scores width']:.3f} | {' | '.join(others)} |"
        )
        sys.stdout.flush()
    alike, stratified = reviews_needed()
    print(
        f"\nFor 0.5 % harm within a fifth: {alike:,} reviews of clips drawn from all alike, "
        f"{stratified:,} by strata."
    )


if __name__ == "__main__":
    main()
