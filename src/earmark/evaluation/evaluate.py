"""A policy set against a gold set, and two of them against each other."""

import datetime
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from earmark import version
from earmark.errors import EarmarkError
from earmark.evaluation.gold import Gold, Labelled, transcripts
from earmark.evaluation.metrics import (
    Flags,
    Floats,
    auc,
    calibration_error,
    detection,
    estimates,
    mcnemar,
    reliability,
    wilson,
)
from earmark.evaluation.results import Confusion, Estimate, Evaluation, Figures
from earmark.evaluation.scores import classify
from earmark.models.inventory import find_classifier
from earmark.names import Name, as_bound, policy_set_name
from earmark.policy.classifier import Classification
from earmark.policy.classify import classifier_facts
from earmark.policy.policies import Policy, load_policies, prompt_sha256, texts_of
from earmark.policy.quantization import chosen
from earmark.policy.screen import with_screen
from earmark.settings import SCREEN, ClassifySettings, Settings
from earmark.volume import Volume

#: What stands for being flagged, or labelled, under some category or other.
ANY = "any category"
#: What a text is that falls under no category.
NOTHING = "nothing"
_COMPARED = ("precision", "recall", "f1", "auc")


@dataclass(frozen=True)
class Text:
    """A text of a gold set.

    Attributes:
        number: Its line, or row.
        labelled: What people say of it.
        text: The text.
        language: ISO 639-1; None if nobody knows.
    """

    number: int
    labelled: Labelled
    text: str
    language: str | None


@dataclass(frozen=True)
class Judged:
    """Texts as people and a classifier judge them by one category; arrays of shape (texts,).

    Attributes:
        texts: Those that are labelled for the category.
        truth: Whether it applies.
        scores: 0 to 1; NaN where the model has no answer.
        flagged: Whether the stage would flag them.
        weights: How much they count.
    """

    texts: Sequence[Text]
    truth: Flags
    scores: Floats
    flagged: Flags
    weights: Floats

    @property
    def clusters(self) -> list[str]:
        """Equal texts are one in resamples."""
        return [text.text for text in self.texts]

    def figures(self, ways: Floats) -> dict[str, Floats]:
        """All figures, (ways,), for weights of shape (ways, texts)."""
        known = np.isfinite(self.scores)
        truth, scores, of_known = self.truth[known], self.scores[known], ways[:, known]
        undefined = np.full(len(ways), np.nan)
        return {
            **detection(self.truth, self.flagged, ways),
            "auc": auc(truth, scores, of_known) if known.any() else undefined,
            "calibration_error": calibration_error(truth, scores, of_known),
        }

    def of(self, language: str | None) -> "Judged":
        """Those in a language."""
        here = np.array([text.language == language for text in self.texts], dtype=bool)
        return Judged(
            [text for text, is_here in zip(self.texts, here, strict=True) if is_here],
            *(each[here] for each in (self.truth, self.scores, self.flagged, self.weights)),
        )


@dataclass(frozen=True)
class Measured:
    """A policy set, measured.

    Attributes:
        name: The policy set.
        evaluation: The figures.
        judged: What they are made of, by category, :data:`ANY` among them.
    """

    name: Name
    evaluation: Evaluation
    judged: Mapping[str, Judged]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two policy sets, models or thresholds on the same texts, by one category.

    Attributes:
        category: The category.
        texts: How many.
        precision: The second's less the first's; intervals are of the paired bootstrap.
        recall: Likewise.
        f1: Likewise.
        auc: Likewise.
        only_first: Texts that the first alone gets right.
        only_second: Texts that the second alone gets right.
        p: Of McNemar's exact test, two-sided.
    """

    category: str
    texts: int
    precision: Estimate
    recall: Estimate
    f1: Estimate
    auc: Estimate
    only_first: int
    only_second: int
    p: float


def texts_in(gold: Gold[Labelled], conninfo: Callable[[], str], asr: str) -> list[Text]:
    """The texts of a gold set; those of clips are transcripts of the database.

    Args:
        gold: The set.
        conninfo: Gives the connection; called only if the set names clips.
        asr: Name of the transcription settings whose transcripts are meant.

    Raises:
        EarmarkError: a clip has no transcript, or the database can't be reached.
    """
    has_clips = any(row.clip is not None for _, row in gold.rows)
    heard = transcripts(conninfo(), asr, gold.rows) if has_clips else {}
    texts = []
    for number, row in gold.rows:
        if row.text is not None:
            texts.append(Text(number, row, row.text, row.language))
        else:
            of_clip = heard[number]
            texts.append(Text(number, row, of_clip.text, row.language or of_clip.language))
    return texts


def policies_of(settings: Settings) -> tuple[Policy, ...]:
    """The policies that a configuration names.

    Raises:
        EarmarkError: one can't be read.
    """
    return load_policies(Path(settings.classify.policies), settings.classify.categories)


def name_of(settings: Settings, policies: Sequence[Policy]) -> Name:
    """The policy set's name, and all that it stands for."""
    classify = settings.classify
    texts = texts_of(with_screen(policies, classify))
    return policy_set_name(settings, Volume.of(settings), texts, prompt_sha256(classify.answer))


def measure(
    settings: Settings, gold: Gold[Labelled], texts: Sequence[Text], weighted: bool = False
) -> Measured:
    """Have the classifier judge the texts of a gold set, and hold its answers against the labels.

    Args:
        settings: Policies, model and thresholds.
        gold: The set.
        texts: Its texts.
        weighted: Let each count by its weight, so that figures are of the population.

    Raises:
        EarmarkError: a text has no weight; a policy or the model is not there; or the model
            classifies the policies' examples wrongly.
        OSError: the volume can't be written.
    """
    if weighted and (without := [text.number for text in texts if not text.labelled.weight]):
        raise EarmarkError(
            f"{gold.path}: {len(without)} rows have no weight, the first of them {without[0]}; "
            "leave --weighted out, or take them out of the set"
        )
    volume, policies = Volume.of(settings), policies_of(settings)
    kept = chosen(as_bound(settings.classify, volume))
    settings = msgspec.structs.replace(settings, classify=kept)
    answers = classify(volume, settings.classify, policies, [text.text for text in texts])
    judged = _judged(settings.classify, policies, texts, answers, weighted)
    known = {policy.category for policy in policies}
    named = {category for text in texts for category in text.labelled.categories}
    languages = sorted({text.language or "" for text in texts})
    evaluation = Evaluation(
        policy=settings.classify.policy,
        policy_sha256={policy.category: policy.sha256 for policy in policies},
        thresholds={each: settings.classify.threshold_of(each) for each in answers},
        classifier=msgspec.to_builtins(
            classifier_facts(settings.classify, *find_classifier(settings.classify))
        ),
        version=version.current(),
        made_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        gold=gold.path.name,
        gold_sha256=gold.sha256,
        texts=len(texts),
        weighted=weighted,
        labelled_by=dict(Counter(who for text in texts for who in text.labelled.labellers)),
        left_out=tuple(sorted(named - known)),
        figures=tuple(_figures(category, None, each) for category, each in judged.items()),
        by_language=tuple(
            _figures(category, language or None, of_language)
            for category, each in judged.items()
            for language in languages
            if (of_language := each.of(language or None)).texts
        )
        if len(languages) > 1
        else (),
        confusions=_confusions(judged),
        reliability={
            category: reliability(each.truth[answered], each.scores[answered])
            for category, each in judged.items()
            if category != ANY and (answered := np.isfinite(each.scores)).any()
        }
        if not weighted  # its counts are of the set, and not of what the set stands for
        else {},
    )
    return Measured(name_of(settings, policies), evaluation, judged)


def _judged(
    settings: ClassifySettings,
    policies: Sequence[Policy],
    texts: Sequence[Text],
    answers: Mapping[str, Sequence[Classification]],
    weighted: bool,
) -> dict[str, Judged]:
    scores = {
        category: np.array([np.nan if each.score is None else each.score for each in classified])
        for category, classified in answers.items()
    }
    passes = np.ones(len(texts), dtype=bool)
    if SCREEN in scores:  # a clip for which it has no answer goes through all policies
        passes = ~(scores[SCREEN] < settings.threshold_of(SCREEN))
    weights = np.array([text.labelled.weight or 1.0 if weighted else 1.0 for text in texts])
    categories = [policy.category for policy in policies]
    flagged = {each: passes & (scores[each] >= settings.threshold_of(each)) for each in categories}

    def judged(wanted: Sequence[str], score: Floats, flags: Flags) -> Judged:
        labelled = [text.labelled for text in texts]
        here = np.array(
            [each.labelled is None or {*wanted} <= {*each.labelled} for each in labelled]
        )
        truth = np.array([not {*wanted}.isdisjoint(each.categories) for each in labelled])
        chosen = [text for text, is_here in zip(texts, here, strict=True) if is_here]
        return Judged(chosen, truth[here], score[here], flags[here], weights[here])

    found = {each: judged([each], scores[each], flagged[each]) for each in categories}
    if len(categories) > 1:
        highest = np.fmax.reduce([scores[each] for each in categories])
        found[ANY] = judged(categories, highest, np.any([*flagged.values()], axis=0))
    return found


def _figures(category: str, language: str | None, judged: Judged) -> Figures:
    truth, flagged = judged.truth, judged.flagged
    found = dict.fromkeys(("precision", "recall", "f1", "auc", "calibration_error"), Estimate())
    if judged.texts:
        found |= estimates(judged.figures, judged.clusters, judged.weights)
    if category == ANY:  # the highest of several scores is no probability of any
        found["calibration_error"] = Estimate()
    hits = int((truth & flagged).sum())
    for name, of in (("precision", int(flagged.sum())), ("recall", int(truth.sum()))):
        if of and hits in (0, of):  # all resamples are alike
            found[name] = Estimate(found[name].value, *wilson(hits, of))
    return Figures(
        category=category,
        language=language,
        texts=len(judged.texts),
        hits=hits,
        false_alarms=int((~truth & flagged).sum()),
        misses=int((truth & ~flagged).sum()),
        passed=int((~truth & ~flagged).sum()),
        unanswered=int(np.isnan(judged.scores).sum()),
        **found,
    )


def _confusions(judged: Mapping[str, Judged]) -> tuple[Confusion, ...]:
    counts: Counter[tuple[str, str]] = Counter()
    for category, each in judged.items():
        if category == ANY:
            continue
        for text, applies, flagged in zip(each.texts, each.truth, each.flagged, strict=True):
            if flagged and not applies:
                counts.update((is_a, category) for is_a in text.labelled.categories or (NOTHING,))
    return tuple(Confusion(*pair, count) for pair, count in counts.most_common())


def disagreements(measured: Measured, most: int) -> list[dict[str, Any]]:
    """The texts about which classifier and people differ most, with their words.

    Args:
        measured: The policy set.
        most: At most so many of each category.

    Returns:
        For each its row in the gold set, what it is called there, category, whether people say that
        it applies, the score, language and text; the farthest from each other first.
    """
    found = []
    for category, each in measured.judged.items():
        if category == ANY:
            continue
        wrong = np.flatnonzero(each.truth != each.flagged)
        distance = np.abs(each.truth[wrong] - np.nan_to_num(each.scores[wrong], nan=0.5))
        for index in wrong[np.argsort(-distance, kind="stable")][:most]:
            text, score = each.texts[index], each.scores[index]
            found.append(
                {
                    "row": text.number,
                    "id": text.labelled.id,
                    "category": category,
                    "people": "applies" if each.truth[index] else "does not apply",
                    "score": None if np.isnan(score) else float(score),
                    "language": text.language,
                    "text": text.text,
                }
            )
    return found


def compare(first: Measured, second: Measured) -> Iterator[Comparison]:
    """Two measurements of the same texts, by the categories that both have.

    Args:
        first: One.
        second: The other.
    """
    for category, one in first.judged.items():
        other = second.judged.get(category)
        if other is None or other.texts != one.texts or not one.texts:
            continue
        if not np.array_equal(one.truth, other.truth):
            continue  # any category, of different categories

        def difference(ways: Floats, one: Judged = one, other: Judged = other) -> dict[str, Floats]:
            before, after = one.figures(ways), other.figures(ways)
            return {name: after[name] - before[name] for name in _COMPARED}

        is_right, is_right_too = one.flagged == one.truth, other.flagged == other.truth
        only_first = int((is_right & ~is_right_too).sum())
        only_second = int((~is_right & is_right_too).sum())
        yield Comparison(
            category=category,
            texts=len(one.texts),
            **estimates(difference, one.clusters, one.weights),
            only_first=only_first,
            only_second=only_second,
            p=mcnemar(only_first, only_second),
        )


def with_options(
    settings: Settings,
    policies: Path | None = None,
    model: str | None = None,
    adapter: str | None = None,
    threshold: float | None = None,
) -> Settings:
    """A configuration with something else to classify by; what is None stays.

    Args:
        settings: The configuration.
        policies: A folder of policies, of which those of ``classify.categories`` apply.
        model: A base model, a hub name or a folder.
        adapter: Its adapter, which it has none of without this.
        threshold: Of all categories.
    """
    changes: dict[str, Any] = {}
    if policies is not None:
        changes |= {"policies": str(policies.resolve())}
    if model is not None:
        changes |= {"model": _model(model), "adapter": None, "revision": None}
    if adapter is not None:
        changes |= {"adapter": _model(adapter), "adapter_revision": None}
    if threshold is not None:
        changes |= {"threshold": threshold, "thresholds": {}}
    classify = msgspec.structs.replace(settings.classify, **changes)
    return msgspec.structs.replace(settings, classify=classify)


def _model(name: str) -> str:
    return str(Path(name).resolve()) if Path(name).exists() else name
