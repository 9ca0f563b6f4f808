"""Names that stand for settings, and never for two different ones.

``asr.name`` and ``classify.policy`` are parts of paths; results under one name must be
comparable, so the first result made under a name records what the name stands for.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from earmark.errors import SetupError
from earmark.files import whole
from earmark.settings import ClassifySettings, Settings
from earmark.volume import Volume

#: Keys of `asr` that change what is heard.
ASR_FACTS = ("model", "revision", "compute_type", "beam_size", "language", "vad")
#: What bitsandbytes itself takes for ``classify.llm_int8_threshold``.
INT8_THRESHOLD = 6.0
#: Facts that records made before Earmark 0.2.0 lack, as it wasn't written down what they were.
_LATER_FACTS = frozenset({"decoding", "prompt_sha256", "thresholds"})


@dataclass(frozen=True)
class Name:
    """A name in the configuration and what it stands for now.

    Attributes:
        key: The configuration's key that gives the name.
        name: The name.
        facts: All that results under the name depend on, as JSON can hold it.
        record: The JSON file that remembers what it stood for first.
    """

    key: str
    name: str
    facts: Mapping[str, Any]
    record: Path

    def check(self) -> None:
        """Check that the name doesn't stand for something else already.

        Raises:
            SetupError: it does, or its record is damaged; no archive is to blame for that.
        """
        self._check()

    def _check(self) -> dict[str, Any]:
        """The facts of the record, none if there is no record yet."""
        known = _read(self.record)
        if known is None:
            return {}
        changed = sorted(
            fact
            for fact in known.keys() | self.facts.keys()
            if known.get(fact) != self.facts.get(fact)
            and (fact in known or fact not in _LATER_FACTS)
        )
        if changed == ["asr.name"] and "asr.name" in known:
            raise SetupError(
                f"{self.key} '{self.name}' has judged the transcripts of asr.name "
                f"'{known['asr.name']}' (see {self.record}), and a policy set is of one set of "
                f"transcripts: choose a new {self.key} as well, or take the change of asr.name back"
            )
        if changed:
            raise SetupError(
                f"{self.key} '{self.name}' was used before with other settings: "
                f"{', '.join(changed)} (see {self.record}); choose a new {self.key} for the new "
                "settings, or take the change back"
            )
        return known

    def bind(self) -> None:
        """Record what the name stands for, once there is a result under it.

        What an old record lacks is completed.

        Raises:
            SetupError: see :meth:`check`.
        """
        if not self.facts.keys() <= self._check().keys():
            with whole(self.record) as partial:
                partial.write_text(
                    json.dumps(self.facts, indent=2, ensure_ascii=False), encoding="utf-8"
                )


def asr_name(settings: Settings, volume: Volume, decoding: Mapping[str, Any]) -> Name:
    """The name of the transcription settings.

    Args:
        settings: The configuration.
        volume: The shared volume.
        decoding: What else changes the words, as JSON can hold it.
    """
    asr = settings.asr
    return Name(
        "asr.name",
        asr.name,
        {key: getattr(asr, key) for key in ASR_FACTS} | {"decoding": decoding},
        volume.state / "asr" / f"{asr.name}.json",
    )


def policy_set_name(
    settings: Settings, volume: Volume, texts: Mapping[str, str], prompt_sha256: str
) -> Name:
    """The name of the policy set, which stands for all that a score or a flag depends on.

    Args:
        settings: The configuration.
        volume: The shared volume.
        texts: The set's policies by category, in full.
        prompt_sha256: SHA-256 of the prompt around policy and content, hexadecimal.
    """
    classify = as_bound(settings.classify, volume)
    thresholds = {each: classify.threshold_of(each) for each in texts}
    keys = (
        "model",
        "revision",
        "adapter",
        "adapter_revision",
        "quantization",
        "dtype",
        "max_tokens",
    )
    return Name(
        "classify.policy",
        classify.policy,
        {
            "asr.name": settings.asr.name,
            **{key: getattr(classify, key) for key in keys},
            # Names that were bound before there was a choice mean logits.
            **(
                {key: getattr(classify, key) for key in ("answer", "max_new_tokens")}
                if classify.answer == "json"
                else {}
            ),
            **_arithmetic(classify),
            "prompt_sha256": prompt_sha256,
            "thresholds": thresholds,
            **{f"{category}.md": text for category, text in texts.items()},
        },
        _policy_record(volume, classify.policy),
    )


def as_bound(classify: ClassifySettings, volume: Volume) -> ClassifySettings:
    """The settings with the quantization that the policy set's name was bound to, if ``auto``.

    Args:
        classify: The settings.
        volume: The shared volume.

    Raises:
        SetupError: the record of the name is damaged.
    """
    known = _read(_policy_record(volume, classify.policy))
    if known is None or classify.quantization != "auto":
        return classify
    return msgspec.structs.replace(classify, quantization=known.get("quantization"))


def _arithmetic(classify: ClassifySettings) -> dict[str, Any]:
    """What else decides how 8-bit weights are multiplied.

    Names that were bound before there was a choice had bitsandbytes' threshold, and in bfloat16
    other roundings than now.
    """
    if classify.quantization != "8bit":
        return {}
    threshold = classify.llm_int8_threshold
    return {
        **({"llm_int8_threshold": threshold} if threshold != INT8_THRESHOLD else {}),
        **({"arithmetic": "float16"} if classify.dtype == "bfloat16" else {}),
    }


def policy_texts(volume: Volume, policy: str) -> list[str]:
    """The full texts of a policy set, as its name was bound to them.

    Args:
        volume: The shared volume.
        policy: Name of the set; one that was never bound has none.

    Raises:
        SetupError: the record of the name is damaged.
    """
    facts = _read(_policy_record(volume, policy)) or {}
    return [text for key, text in facts.items() if key.endswith(".md")]


def _read(record: Path) -> dict[str, Any] | None:
    """What a name was bound to; None if it never was.

    Raises:
        SetupError: the record is damaged.
    """
    try:
        return msgspec.json.decode(record.read_bytes(), type=dict[str, Any])
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise SetupError(
            f"{record}, which says what a name in the configuration stands for, is damaged "
            f"({error}); restore it, or choose a new name"
        ) from error


def _policy_record(volume: Volume, policy: str) -> Path:
    return volume.state / "policies" / f"{policy}.json"
