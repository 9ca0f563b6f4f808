"""What is checked before anything is begun, without loading a model or asking a server."""

import datetime
from pathlib import Path

from earmark.clock import next_deadline
from earmark.configuration import Config
from earmark.errors import EarmarkError
from earmark.models.inventory import check_models
from earmark.names import asr_name, policy_set_name
from earmark.policy.policies import load_policies, prompt_sha256, texts_of
from earmark.speech.decoding import DECODING_FACTS
from earmark.volume import Volume


def check_inputs(config: Config) -> None:
    """Check models and policies without loading them, and the time zone of noon.

    Raises:
        EarmarkError: one is missing or wrong, or changed under a name that stands for the old
            one; the message names it and the remedy.
    """
    next_deadline(
        datetime.datetime.now(datetime.UTC), config["review"]["noon"], config["review"]["timezone"]
    )
    settings = config["classify"]
    policies = load_policies(Path(settings["policies"]), settings["categories"])
    unknown = sorted(set(settings["thresholds"]) - {policy.category for policy in policies})
    if unknown:
        raise EarmarkError(
            f"classify.thresholds names the category '{unknown[0]}', which has no policy in "
            f"{settings['policies']}; known: {', '.join(policy.category for policy in policies)}"
        )
    check_models(config)
    volume = Volume(Path(config["volume"]["root"]))
    asr_name(config, volume, DECODING_FACTS).check()
    prompt = prompt_sha256(settings["answer"])
    policy_set_name(config, volume, texts_of(policies), prompt).check()
