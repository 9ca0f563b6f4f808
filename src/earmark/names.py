"""Names that stand for settings, and never for two different ones.

``asr.name`` and ``classify.policy`` are parts of paths; results under one name must be
comparable, so the first result made under a name records what the name stands for.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from earmark.errors import SetupError
from earmark.files import whole
from earmark.settings import Settings
from earmark.volume import Volume

#: Keys of `asr` that change what is heard.
ASR_FACTS = ("model", "revision", "compute_type", "beam_size", "language", "vad")


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
        try:
            known = dict(json.loads(self.record.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return
        except (ValueError, TypeError) as error:
            raise SetupError(
                f"{self.record}, which says what {self.key} '{self.name}' stands for, is damaged "
                f"({error}); restore it, or change {self.key}"
            ) from error
        changed = sorted(
            fact
            for fact in known.keys() | self.facts.keys()
            if known.get(fact) != self.facts.get(fact)
        )
        if changed:
            raise SetupError(
                f"{self.key} '{self.name}' was used before with another {', '.join(changed)} (see "
                f"{self.record}); choose a new {self.key} for the new settings, or take the change "
                "back"
            )

    def bind(self) -> None:
        """Record what the name stands for, once there is a result under it.

        Raises:
            SetupError: see :meth:`check`.
        """
        self.check()
        if not self.record.exists():
            with whole(self.record) as partial:
                partial.write_text(
                    json.dumps(self.facts, indent=2, ensure_ascii=False), encoding="utf-8"
                )


def asr_name(settings: Settings, volume: Volume) -> Name:
    """The name of the transcription settings."""
    asr = settings.asr
    return Name(
        "asr.name",
        asr.name,
        {key: getattr(asr, key) for key in ASR_FACTS},
        volume.state / "asr" / f"{asr.name}.json",
    )


def policy_set_name(settings: Settings, volume: Volume, texts: Mapping[str, str]) -> Name:
    """The name of the policy set, which stands for all that a score depends on.

    Args:
        settings: The configuration.
        volume: The shared volume.
        texts: The set's policies by category, in full.
    """
    classify = settings.classify
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
            **{f"{category}.md": text for category, text in texts.items()},
        },
        _policy_record(volume, classify.policy),
    )


def policy_texts(volume: Volume, policy: str) -> list[str]:
    """The full texts of a policy set, as its name was bound to them.

    Args:
        volume: The shared volume.
        policy: Name of the set; one that was never bound has none.

    Raises:
        SetupError: the record of the name is damaged.
    """
    record = _policy_record(volume, policy)
    try:
        facts = dict(json.loads(record.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return []
    except (ValueError, TypeError) as error:
        raise SetupError(f"{record} is damaged ({error}); restore it") from error
    return [text for key, text in facts.items() if key.endswith(".md")]


def _policy_record(volume: Volume, policy: str) -> Path:
    return volume.state / "policies" / f"{policy}.json"
