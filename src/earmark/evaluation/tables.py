"""What evaluations found, as tables for people."""

from collections.abc import Iterable, Iterator
from typing import Any

from earmark.evaluation.evaluate import Comparison
from earmark.evaluation.results import Estimate, Evaluation, Figures, SpeechEvaluation

Titled = tuple[str, list[dict[str, Any]]]


def of_policies(evaluation: Evaluation) -> Iterator[Titled]:
    """Tables of an evaluation, each with its title.

    Args:
        evaluation: The figures.
    """
    weighed = ", weighted" if evaluation.weighted else ""
    title = f"Policy set {evaluation.policy} on {evaluation.texts} texts of {evaluation.gold}"
    yield (
        f"{title}{weighed}; 95 % intervals by the bootstrap",
        [_row(each) for each in evaluation.figures],
    )
    if evaluation.by_language:
        rows = [
            {"category": each.category, "language": each.language or "not known"}
            | {key: value for key, value in _row(each).items() if key != "category"}
            for each in evaluation.by_language
        ]
        yield "By language", rows
    if evaluation.confusions:
        confused = [
            {"labelled": each.labelled, "flagged as": each.flagged, "texts": each.texts}
            for each in evaluation.confusions
        ]
        yield "What was flagged and should not have been", confused
    bins = [
        {
            "category": category,
            "scores": f"{each.low:.1f}–{each.high:.1f}",
            "texts": each.texts,
            "mean score": round(each.score, 3),
            "applies to": f"{each.share:.0%} ({each.share_low:.0%}–{each.share_high:.0%})",
        }
        for category, of_category in evaluation.reliability.items()
        for each in of_category
    ]
    yield "Calibration: to how many texts of about the same score the category applies", bins


def _row(figures: Figures) -> dict[str, Any]:
    return {
        "category": figures.category,
        "texts": figures.texts,
        "apply": figures.hits + figures.misses,
        "flagged": figures.hits + figures.false_alarms,
        "precision": told(figures.precision),
        "recall": told(figures.recall),
        "F1": told(figures.f1),
        "AUC": told(figures.auc),
        "calibration error": told(figures.calibration_error),
        "no answer": figures.unanswered,
    }


def of_comparisons(comparisons: Iterable[Comparison], other: str) -> Titled:
    """How what is measured does against something else.

    Args:
        comparisons: By category, the other first.
        other: What it is called.
    """
    rows = [
        {
            "category": each.category,
            "texts": each.texts,
            "precision": told(each.precision, sign="+"),
            "recall": told(each.recall, sign="+"),
            "F1": told(each.f1, sign="+"),
            "AUC": told(each.auc, sign="+"),
            "only this right": each.only_second,
            "only the other": each.only_first,
            "McNemar p": each.p,
        }
        for each in comparisons
    ]
    return f"Compared with {other}, on the same texts: how much more this has", rows


def of_speech(evaluation: SpeechEvaluation) -> Titled:
    """Word and character error rates.

    Args:
        evaluation: The figures.
    """
    rows = [
        {
            "language": each.language or ("all" if number == 0 else "not known"),
            "clips": each.clips,
            "words": each.words,
            "WER": told(each.wer),
            "CER": told(each.cer),
        }
        for number, each in enumerate(evaluation.errors)
    ]
    return f"{evaluation.asr} on {evaluation.gold}; 95 % intervals by the bootstrap", rows


def told(estimate: Estimate, sign: str = "") -> str:
    """An estimate in a few characters, such as ``0.91 (0.85–0.95)``.

    Args:
        estimate: The estimate.
        sign: ``+`` to show it also where it is positive.
    """
    if estimate.value is None:
        return "–"
    value = f"{estimate.value:{sign}.3f}"
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} ({estimate.low:{sign}.2f} to {estimate.high:{sign}.2f})"
