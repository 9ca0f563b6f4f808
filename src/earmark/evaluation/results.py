"""What evaluations found, as it is kept on the volume: figures and no text.

Beside the names of ``state/policies`` and ``state/asr``, and below a hash of all that a score or a
flag depends on: an edited policy, another threshold or another model has results of its own.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from earmark.files import whole
from earmark.names import Name
from earmark.volume import Volume

logger = logging.getLogger(__name__)


class Estimate(msgspec.Struct, frozen=True):
    """A figure and its 95 % interval; None where it is undefined.

    Attributes:
        value: The figure.
        low: Lower end.
        high: Upper end.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None


class Bin(msgspec.Struct, frozen=True):
    """Texts of about the same score.

    Attributes:
        low: Lowest score.
        high: Highest.
        texts: How many.
        score: Their mean score.
        share: Share of them that the category applies to.
        share_low: Lower end of its 95 % interval (Wilson).
        share_high: Upper end.
    """

    low: float
    high: float
    texts: int
    score: float
    share: float
    share_low: float
    share_high: float


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """How well a policy does on texts.  An answer that failed counts as not flagged.

    Attributes:
        category: The policy's category.
        language: Of the texts; None for all.
        texts: How many are labelled for it.
        hits: It applies, and was flagged.
        false_alarms: It doesn't, and was.
        misses: It applies, and was not flagged.
        passed: It doesn't, and was not.
        unanswered: Texts that the model has no answer for.
        precision: Share of the flagged that it applies to.
        recall: Share of those it applies to that are flagged.
        f1: Their harmonic mean.
        auc: Area under the ROC curve of the scores.
        calibration_error: Expected calibration error of the scores.
    """

    category: str
    language: str | None
    texts: int
    hits: int
    false_alarms: int
    misses: int
    passed: int
    unanswered: int
    precision: Estimate
    recall: Estimate
    f1: Estimate
    auc: Estimate
    calibration_error: Estimate


class Confusion(msgspec.Struct, frozen=True):
    """Texts that were flagged under a category that doesn't apply.

    Attributes:
        labelled: A category that does, or ``nothing``.
        flagged: The one that they were flagged under.
        texts: How many.
    """

    labelled: str
    flagged: str
    texts: int


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """A policy set against a gold set.

    Attributes:
        policy: Name of the set.
        policy_sha256: Of each policy, by category.
        thresholds: By category.
        classifier: Model and prompt.
        version: Earmark's.
        made_at: When, UTC.
        gold: Name of the gold set's file.
        gold_sha256: Of its bytes.
        texts: How many it has.
        weighted: Whether they were weighed.
        labelled_by: How many texts each labeller labelled.
        left_out: Categories of the gold set that the policy set lacks.
        figures: By category.
        by_language: By category and language.
        confusions: The most frequent first.
        reliability: By category.
    """

    policy: str
    policy_sha256: dict[str, str]
    thresholds: dict[str, float]
    classifier: dict[str, str | int | None]
    version: str
    made_at: str
    gold: str
    gold_sha256: str
    texts: int
    weighted: bool
    labelled_by: dict[str, int]
    left_out: tuple[str, ...]
    figures: tuple[Figures, ...]
    by_language: tuple[Figures, ...]
    confusions: tuple[Confusion, ...]
    reliability: dict[str, tuple[Bin, ...]]


class WordErrors(msgspec.Struct, frozen=True, kw_only=True):
    """How much of what is said is heard wrongly.

    Attributes:
        language: Of the references; None for all.
        clips: How many.
        words: Words of the references.
        wer: Wrong, missing and added words per word of the references.
        cer: The same of characters.
    """

    language: str | None
    clips: int
    words: int
    wer: Estimate
    cer: Estimate


class SpeechEvaluation(msgspec.Struct, frozen=True, kw_only=True):
    """A recogniser against reference texts.

    Attributes:
        asr: Name of the transcription settings.
        model: The model.
        version: Earmark's.
        made_at: When, UTC.
        gold: Name of the references' file.
        gold_sha256: Of its bytes.
        errors: Of all clips, and by language.
    """

    asr: str
    model: str
    version: str
    made_at: str
    gold: str
    gold_sha256: str
    errors: tuple[WordErrors, ...]


Result = TypeVar("Result", Evaluation, SpeechEvaluation)


def keep(
    volume: Volume, name: Name, result: Evaluation | SpeechEvaluation, figure: str | None = None
) -> Path:
    """Keep a result; one of the same name and gold set is replaced.

    Args:
        volume: The shared volume.
        name: What was evaluated.
        result: What was found.
        figure: An SVG to lie beside it.

    Returns:
        Its JSON file.

    Raises:
        OSError: it can't be written.
    """
    path = _folder(volume, name) / f"{result.gold_sha256[:16]}.json"
    drawing = path.with_suffix(".svg")
    if figure is None:
        drawing.unlink(missing_ok=True)  # of another evaluation
    else:
        with whole(drawing) as partial:
            partial.write_text(figure, encoding="utf-8")
    with whole(path) as partial:
        partial.write_bytes(msgspec.json.format(msgspec.json.encode(result)))
    return path


def kept(volume: Volume, name: Name, kind: type[Result]) -> Sequence[Result]:
    """What was found about a policy set or a recogniser as it is now, the newest last.

    Args:
        volume: The shared volume.
        name: What was evaluated.
        kind: What kind of result.
    """
    found = []
    for path in _folder(volume, name).glob("*.json"):
        try:
            found.append(msgspec.json.decode(path.read_bytes(), type=kind))
        except (OSError, msgspec.MsgspecError, UnicodeError) as error:
            logger.warning("%s can't be read (%s); evaluate again", path, error)
    return sorted(found, key=lambda each: each.made_at)


def not_evaluated(volume: Volume, name: Name) -> str | None:
    """That a policy set is about to be used and nobody knows how good it is, in a sentence.

    Args:
        volume: The shared volume.
        name: The policy set.

    Returns:
        None if it was evaluated, or is in use already.
    """
    if name.record.exists() or kept(volume, name, Evaluation):
        return None
    return (
        f"policy set '{name.name}' goes live without an evaluation; `earmark evaluate GOLD` tells "
        "how good it is (docs/evaluation.md)"
    )


_HOW_KEPT = ("quantization", "llm_int8_threshold", "arithmetic")


def _folder(volume: Volume, name: Name) -> Path:
    # How the weights are kept may be decided by the first job; each result says what it was.
    facts = json.dumps(
        {fact: value for fact, value in name.facts.items() if fact not in _HOW_KEPT},
        sort_keys=True, default=list,
    )  # fmt: skip
    digest = hashlib.sha256(facts.encode()).hexdigest()[:12]
    return volume.evaluations / name.key / f"{name.name}-{digest}"
