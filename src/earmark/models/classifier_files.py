"""What the files of a base model and of an adapter tell before anything is loaded.

Libraries leave out what they don't understand, with a warning at most; a model that was loaded
in part answers like another one.  Whether all weights were used shows only when they are loaded
(:mod:`earmark.policy.language_model`).
"""

import json
import math
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError, safe_open

from earmark.errors import SetupError

#: The configuration's keys of both.
BASE, ADAPTER = "classify.model", "classify.adapter"
#: Types of models (``model_type`` of their configurations) that a test holds against their own
#: attention.  Others may add something to attention that would be lost without a word.
MODEL_TYPES = ("gemma", "gemma2", "llama", "mistral", "qwen2", "qwen3")

#: Files of which a tokenizer is made, in its own format or in those of former libraries.
_TOKENIZERS = (("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"))
#: Keys of an adapter's configuration with which it is more than LoRA on a model's layers: PEFT
#: drops some of them when weights are quantized, and Earmark's own pass through the model others.
_MORE_THAN_LORA = (
    "alora_invocation_tokens",
    "arrow_config",
    "layer_replication",
    "modules_to_save",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
)


def check_base(folder: Path) -> None:
    """Check a base model.

    Raises:
        SetupError: its type is none whose attention is known, weights are missing or cut short, or
            it has no tokenizer.
    """
    kind = _read(folder / "config.json", BASE).get("model_type")
    if kind not in MODEL_TYPES:
        raise SetupError(
            f"{BASE} {folder} is a model of type '{kind}', whose attention "
            f"Earmark doesn't know; choose one of type {', '.join(MODEL_TYPES)}",
            BASE,
        )
    for file in _weights(folder):
        _check_whole(file, BASE)
    if not any(all((folder / name).is_file() for name in names) for names in _TOKENIZERS):
        raise SetupError(f"{BASE} {folder} holds no tokenizer (tokenizer.json); put it there", BASE)


def _weights(folder: Path) -> list[Path]:
    """The files with a base model's weights."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            weights = _read(index, BASE).get("weight_map")
            shards = {str(each) for each in weights.values()} if isinstance(weights, dict) else ()
            for shard in sorted(shards):
                if not (folder / shard).is_file():
                    raise SetupError(f"{BASE} {folder} lacks {shard}; put it there", BASE)
            if shards:
                return [folder / shard for shard in sorted(shards)]
    raise SetupError(f"{BASE} {folder} holds no weights (model.safetensors); put them there", BASE)


def weights_count(folder: Path) -> int:
    """How many weights a base model has; of pickles, at least so many.

    Raises:
        SetupError: as :func:`check_base`.
    """
    count = 0
    for file in _weights(folder):
        if file.suffix != ".safetensors":
            count += file.stat().st_size // 2  # a number has two bytes or more
            continue
        with safe_open(file, "np") as weights:
            keys = weights.keys()  # itself it can't be gone through
            for key in keys:
                count += math.prod(weights.get_slice(key).get_shape())
    return count


def check_adapter(folder: Path, bases: list[str], is_said_to_fit: bool) -> None:
    """Check an adapter.

    Args:
        folder: Where it lies.
        bases: What the base model it is to change is called, by the configuration and by the hub.
        is_said_to_fit: ``classify.adapter_fits``.

    Raises:
        SetupError: it is of a kind that would be applied in part, is made for another base model,
            or has no weights, or not all of them.
    """
    config = _read(folder / "adapter_config.json", ADAPTER)
    kind = config.get("peft_type")
    if kind != "LORA":
        raise SetupError(
            f"{ADAPTER} {folder} is of the kind {kind}; Earmark takes LoRA adapters alone", ADAPTER
        )
    if more := sorted(key for key in _MORE_THAN_LORA if config.get(key)):
        raise SetupError(
            f"{ADAPTER} {folder} is more than LoRA on a model's layers ({', '.join(more)} "
            "in adapter_config.json), and would be applied in part; choose one without",
            ADAPTER,
        )
    files = [folder / f"adapter_model.{kind}" for kind in ("safetensors", "bin")]
    if not any(file.is_file() for file in files):
        raise SetupError(
            f"{ADAPTER} {folder} holds no weights (adapter_model.safetensors); put them there",
            ADAPTER,
        )
    _check_whole(next(file for file in files if file.is_file()), ADAPTER)
    named = config.get("base_model_name_or_path")
    if not is_said_to_fit and _last(named) not in {_last(base) for base in bases}:
        raise SetupError(
            f"{ADAPTER} {folder} was made for {named or 'a model that it does not name'}, "
            f"and {BASE} is {bases[0]}; correct one of them, or set classify.adapter_fits "
            "to true if they fit together",
            ADAPTER,
        )


def _check_whole(file: Path, key: str) -> None:
    """Check that a file of safetensors is as long as its header says; pickles have no header."""
    if file.suffix != ".safetensors":
        return
    try:
        with safe_open(file, "np"):
            pass
    except (OSError, SafetensorError) as error:
        raise SetupError(
            f"{key}: {file} can't be loaded ({error}); put the whole file there again", key
        ) from error


def _last(name: object) -> str:
    """Where a model lies differs from machine to machine; what it is called at the end doesn't."""
    return PurePosixPath(str(name)).name.lower()


def _read(path: Path, key: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError) as error:
        raise SetupError(
            f"{key}: {path} can't be loaded ({error}); put it there again", key
        ) from error
    return found
