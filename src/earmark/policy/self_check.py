"""Whether a classifier that was just loaded classifies its policies' own examples as they say.

What is left out when a model is loaded, or wrongly put together, need not raise an error; it shows
in what the model answers to something whose answer is known.
"""

import logging
from collections.abc import Sequence

from earmark.errors import SetupError
from earmark.policy.classifier import Classification, Classifier
from earmark.policy.policies import EXAMPLES_FILE, Policy, not_checked
from earmark.policy.screen import screening_policy
from earmark.settings import SCREEN

#: From here on a model says "yes". Not the threshold: that one is about how many false alarms are
#: wanted, and this about whether the model is the right one.
YES = 0.5

logger = logging.getLogger(__name__)


def self_check(
    classifier: Classifier, policies: Sequence[Policy]
) -> dict[str, dict[str, float] | None]:
    """Have a classifier classify the examples of policies.

    Args:
        classifier: As it is loaded.
        policies: The policies of a set.

    Returns:
        By category the scores of its examples, ``flagged`` and ``not_flagged``; None for a
        policy without examples.  With a screen, under :data:`earmark.settings.SCREEN`, the
        screening scores of what is flagged, by category.

    Raises:
        SetupError: an example comes out on the wrong side, or the screen would keep one that is
            flagged from the policies.
        EarmarkError: as :meth:`earmark.policy.classifier.Classifier.classify`.
    """
    checked: dict[str, dict[str, float] | None] = {}
    for policy in policies:
        checked[policy.category] = None
        if policy.examples is None:
            continue
        texts = {"flagged": policy.examples.flagged, "not_flagged": policy.examples.not_flagged}
        answers = [answer for _, answer in sorted(classifier.classify(policy, [*texts.values()]))]
        scores = {}
        for (side, text), answer in zip(texts.items(), answers, strict=True):
            if answer.score is None or (answer.score >= YES) != (side == "flagged"):
                raise SetupError(_refusal(classifier, policy, side, text, answer))
            scores[side] = round(answer.score, 4)
        checked[policy.category] = scores
    if classifier.settings.screen is not None:
        checked[SCREEN] = _check_screen(classifier, policies)
    if without := not_checked(policies):
        logger.warning(without)
    logger.info("the examples of the policies come out on the right sides: %s", checked)
    return checked


def _check_screen(classifier: Classifier, policies: Sequence[Policy]) -> dict[str, float]:
    flagged = {each.category: each.examples.flagged for each in policies if each.examples}
    answers = classifier.classify(screening_policy(policies), [*flagged.values()])
    threshold = classifier.settings.threshold_of(SCREEN)
    scores = {}
    for (category, text), (_, answer) in zip(flagged.items(), sorted(answers), strict=True):
        if answer.score is None or answer.score < threshold:
            got = f"scores {answer.score:.3f}" if answer.score is not None else f"({answer.error})"
            raise SetupError(
                f"the screen fails its self-check: the example of what {category} flags, {text!r}, "
                f"{got} instead of {threshold:g} or more, so most clips like it would be kept from "
                "the policies; lower classify.screen.threshold, or go without a screen"
            )
        scores[category] = round(answer.score, 4)
    return scores


def _refusal(
    classifier: Classifier, policy: Policy, side: str, text: str, answer: Classification
) -> str:
    settings = classifier.settings
    got = f"scores {answer.score:.3f}" if answer.score is not None else f"({answer.error})"
    wanted = f"{YES:g} or more" if side == "flagged" else f"less than {YES:g}"
    return (
        f"the classifier fails its self-check: by policy {policy.category}, the example of what is "
        f"{side.replace('_', ' ')}, {text!r}, {got} instead of {wanted}; {settings.model} with "
        f"adapter {settings.adapter} isn't the right model or isn't loaded right (classify.model, "
        f"adapter, quantization, answer), or {EXAMPLES_FILE} beside the policy is wrong"
    )
