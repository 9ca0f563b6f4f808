"""What is checked before anything is begun, without loading a model or asking a server."""

import datetime
import logging
from pathlib import Path

from earmark.clock import next_deadline
from earmark.errors import EarmarkError
from earmark.models.inventory import check_models
from earmark.names import asr_name, policy_set_name
from earmark.policy.policies import load_policies, not_checked, prompt_sha256, texts_of
from earmark.policy.screen import with_screen
from earmark.settings import Settings
from earmark.speech.decoding import DECODING_FACTS
from earmark.volume import Volume

logger = logging.getLogger(__name__)


def check_inputs(settings: Settings) -> None:
    """Check models and policies without loading them, and the time zone of noon.

    Raises:
        EarmarkError: one is missing or wrong, or changed under a name that stands for the old
            one; the message names it and the remedy.
    """
    next_deadline(
        datetime.datetime.now(datetime.UTC), settings.review.noon, settings.review.timezone
    )
    classify = settings.classify
    policies = load_policies(Path(classify.policies), classify.categories)
    unknown = sorted(set(classify.thresholds) - {policy.category for policy in policies})
    if unknown:
        raise EarmarkError(
            f"classify.thresholds names the category '{unknown[0]}', which has no policy in "
            f"{classify.policies}; known: {', '.join(policy.category for policy in policies)}"
        )
    if without := not_checked(policies):
        logger.warning(without)
    check_models(settings)
    volume = Volume.of(settings)
    asr_name(settings, volume, DECODING_FACTS).check()
    prompt = prompt_sha256(classify.answer)
    texts = texts_of(with_screen(policies, classify))
    policy_set_name(settings, volume, texts, prompt).check()
