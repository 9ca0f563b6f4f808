"""A model that could be loaded in part only is refused before the first clip."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from demo_classifier import ADAPTER, BASE, POLICIES, SCAM, SETTINGS
from msgspec.structs import replace
from on_demand import OnDemand
from weights import Weights, change_weights, read_weights

from earmark.errors import SetupError
from earmark.models.inventory import find_classifier, inspect_all
from earmark.policy.classifier import Classifier
from earmark.settings import AsrSettings, Settings

if TYPE_CHECKING:
    import peft
    import safetensors.torch
    import torch
    import transformers
else:
    peft = OnDemand("peft")
    safetensors = OnDemand("safetensors")
    torch = OnDemand("torch")
    transformers = OnDemand("transformers")

pytestmark = pytest.mark.slow

QUANTIZATIONS = [None, "8bit", "4bit"]


def folder_like(original: Path, folder: Path) -> Path:
    shutil.copytree(original, folder / original.name)
    return folder / original.name


def change_config(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def with_layers_under_another_name(weights: Weights) -> Weights:
    return {key.replace(".layers.", ".language_model.layers."): w for key, w in weights.items()}


def without_a_layer(weights: Weights) -> Weights:
    return {key: weight for key, weight in weights.items() if ".layers.1." not in key}


def without_lora_b(weights: Weights) -> Weights:
    return {key: weight for key, weight in weights.items() if "lora_B" not in key}


def without_one_matrix(weights: Weights) -> Weights:
    return {key: w for key, w in weights.items() if not key.endswith("0.mlp.up_proj.lora_A.weight")}


def with_a_layer_too_many(weights: Weights) -> Weights:
    more = {key.replace(".layers.0.", ".layers.99."): weight for key, weight in weights.items()}
    return weights | {key: weight.clone() for key, weight in more.items()}


def with_a_matrix_of_a_module_that_is_not_named(weights: Weights) -> Weights:
    key = next(key for key in weights if "q_proj.lora_A" in key)
    return weights | {key.replace("self_attn.q_proj", "input_layernorm"): weights[key].clone()}


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (with_layers_under_another_name, "lacks"),
        (without_a_layer, "lacks"),
        (without_lora_b, "lacks"),
        (without_one_matrix, "lacks"),
        (with_a_layer_too_many, "has, but doesn't use"),
        (with_a_matrix_of_a_module_that_is_not_named, "has, but doesn't use"),
    ],
)
def test_an_adapter_of_which_a_weight_is_missing_or_left_over_is_refused(
    tmp_path: Path, change: Callable[[Weights], Weights], fault: str, quantization: str | None
) -> None:
    adapter = folder_like(ADAPTER, tmp_path)
    change_weights(adapter / "adapter_model.safetensors", change)
    settings = replace(SETTINGS, adapter=str(adapter), quantization=quantization)
    with pytest.raises(SetupError, match=rf"classify\.adapter \S+ {fault} \d+ of its weights"):
        Classifier(settings)


def test_peft_itself_only_warns_of_what_it_misses_and_not_of_what_is_left_over(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """So it is Earmark that has to tell."""
    for change, warns in ((without_lora_b, True), (with_a_layer_too_many, False)):
        adapter = folder_like(ADAPTER, tmp_path / change.__name__)
        change_weights(adapter / "adapter_model.safetensors", change)
        base: Any = transformers.AutoModelForCausalLM.from_pretrained(BASE)
        recwarn.clear()
        peft.PeftModel.from_pretrained(base, adapter)
        told = [str(each.message) for each in recwarn if "missing" in str(each.message)]
        assert bool(told) == warns


def base_without(part: str) -> Callable[[Weights], Weights]:
    return lambda weights: {key: w for key, w in weights.items() if part not in key}


def base_under_another_name(weights: Weights) -> Weights:
    return {key.replace("model.", "model.language_model.", 1): w for key, w in weights.items()}


def base_with_a_layer_too_many(weights: Weights) -> Weights:
    more = {key.replace(".layers.0.", ".layers.99."): weight for key, weight in weights.items()}
    return weights | {key: weight.clone() for key, weight in more.items()}


def base_with_a_matrix_of_another_shape(weights: Weights) -> Weights:
    key = next(key for key in weights if "up_proj" in key)
    return weights | {key: weights[key][:-8].clone()}


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (base_without(".layers.1."), "lacks"),
        (base_without("layers.0.input_layernorm"), "lacks"),
        (base_without("embed_tokens"), "lacks"),
        (base_under_another_name, "lacks"),
        (base_with_a_layer_too_many, "has, but doesn't use"),
        (base_with_a_matrix_of_another_shape, "has in another shape"),
    ],
)
def test_a_base_model_of_which_a_weight_is_missing_or_left_over_is_refused(
    tmp_path: Path, change: Callable[[Weights], Weights], fault: str, quantization: str | None
) -> None:
    base = folder_like(BASE, tmp_path)
    change_weights(base / "model.safetensors", change)
    with pytest.raises(SetupError, match=fault):
        Classifier(replace(SETTINGS, model=str(base), quantization=quantization))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"peft_type": "PROMPT_TUNING"}, "of the kind PROMPT_TUNING; Earmark takes LoRA"),
        ({"peft_type": "PREFIX_TUNING"}, "of the kind PREFIX_TUNING; Earmark takes LoRA"),
        ({"peft_type": "IA3"}, "of the kind IA3; Earmark takes LoRA"),
        ({"peft_type": None}, "of the kind None; Earmark takes LoRA"),
        ({"modules_to_save": ["lm_head"]}, r"more than LoRA .*\(modules_to_save in"),
        ({"trainable_token_indices": [1, 2]}, r"more than LoRA .*\(trainable_token_indices in"),
        ({"layer_replication": [[0, 2], [1, 2]]}, r"more than LoRA .*\(layer_replication in"),
        ({"target_parameters": ["mlp.weight"]}, r"more than LoRA .*\(target_parameters in"),
        ({"base_model_name_or_path": "google/gemma-2-2b"}, "was made for google/gemma-2-2b, and"),
        ({"base_model_name_or_path": None}, "was made for a model that it does not name, and"),
    ],
)
def test_an_adapter_that_would_be_applied_in_part_or_to_another_model_is_refused_unloaded(
    tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    adapter = folder_like(ADAPTER, tmp_path)
    change_config(adapter / "adapter_config.json", **changes)
    settings = replace(SETTINGS, adapter=str(adapter))
    with pytest.raises(SetupError, match=reason):
        find_classifier(settings)
    with pytest.raises(SetupError, match=reason):
        Classifier(settings)


def test_an_option_that_peft_would_leave_out_is_refused(tmp_path: Path) -> None:
    adapter = folder_like(ADAPTER, tmp_path)
    change_config(adapter / "adapter_config.json", scale_of_next_year=0.5, off_next_year=None)
    with pytest.raises(SetupError, match=r"leaves out \(scale_of_next_year in adapter_config"):
        Classifier(replace(SETTINGS, adapter=str(adapter)))


def test_whoever_says_that_an_adapter_fits_may_use_it(tmp_path: Path) -> None:
    adapter = folder_like(ADAPTER, tmp_path)
    change_config(adapter / "adapter_config.json", base_model_name_or_path="/home/ann/tuned")
    Classifier(replace(SETTINGS, adapter=str(adapter), adapter_fits=True))


@pytest.mark.parametrize("called", ["google/gemma-demo", "/models/Gemma-Demo", "gemma-demo/"])
def test_a_base_model_may_lie_anywhere_under_its_name(tmp_path: Path, called: str) -> None:
    adapter = folder_like(ADAPTER, tmp_path)
    change_config(adapter / "adapter_config.json", base_model_name_or_path=called)
    assert find_classifier(replace(SETTINGS, adapter=str(adapter)))


def unsupported_and_without_weights(base: Path) -> None:
    change_config(base / "config.json", model_type="mamba")
    (base / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda base: change_config(base / "config.json", model_type="mamba"), "of type 'mamba'"),
        (lambda base: (base / "model.safetensors").unlink(), "holds no weights"),
        (lambda base: (base / "tokenizer.json").unlink(), "holds no tokenizer"),
        (lambda base: os.truncate(base / "model.safetensors", 9999), "put the whole file there"),
        (unsupported_and_without_weights, "of type 'mamba'"),
        (
            lambda base: (base / "model.safetensors").rename(base / "model.safetensors.index.json"),
            "can't be loaded",
        ),
    ],
)
def test_models_verify_finds_what_can_be_known_without_loading(
    tmp_path: Path, damage: Callable[[Path], object], reason: str
) -> None:
    base = folder_like(BASE, tmp_path)
    whisper = AsrSettings(model=str(BASE.parent / "whisper-demo"))
    settings = Settings(asr=whisper, classify=replace(SETTINGS, model=str(base)))
    assert [each.problem for each in inspect_all(settings, by_size=False)] == [None] * 3
    damage(base)
    _, found, adapter = inspect_all(settings, by_size=False)
    assert found.key == "classify.model"
    assert re.search(reason, found.problem or "")
    assert adapter.problem is None


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda a: change_config(a / "adapter_config.json", peft_type="IA3"), "of the kind IA3"),
        (lambda a: (a / "adapter_model.safetensors").unlink(), "holds no weights"),
        (lambda a: os.truncate(a / "adapter_model.safetensors", 9999), "put the whole file there"),
        (lambda a: (a / "adapter_config.json").write_text("[]"), "no JSON object"),
    ],
)
def test_models_verify_names_the_adapter_where_it_is_at_fault(
    tmp_path: Path, damage: Callable[[Path], object], reason: str
) -> None:
    adapter = folder_like(ADAPTER, tmp_path)
    damage(adapter)
    whisper = AsrSettings(model=str(BASE.parent / "whisper-demo"))
    settings = Settings(asr=whisper, classify=replace(SETTINGS, adapter=str(adapter)))
    _, base, found = inspect_all(settings, by_size=False)
    assert base.problem is None
    assert found.key == "classify.adapter"
    assert reason in (found.problem or "")


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_a_base_model_that_was_saved_without_its_head_is_whole_as_for_transformers(
    tmp_path: Path, quantization: str | None
) -> None:
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(BASE)
    base = folder_like(BASE, tmp_path)
    model.model.save_pretrained(base)
    assert not any(key.startswith("model.") for key in read_weights(base / "model.safetensors"))
    change_config(base / "config.json", architectures=["Gemma2ForCausalLM"])
    settings = replace(SETTINGS, model=str(base), quantization=quantization)
    (whole,) = Classifier(replace(settings, model=str(BASE))).classify(POLICIES[1], [SCAM])
    (headless,) = Classifier(settings).classify(POLICIES[1], [SCAM])
    assert headless == whole


def test_on_the_cpu_no_layer_is_moved_once_the_adapter_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PEFT lays out anew what Transformers put on the CPU: onto a GPU, where there is one."""
    moved: list[object] = []
    monkeypatch.setattr("peft.peft_model.dispatch_model", lambda *a, **_: moved.append(a))
    base: Any = transformers.AutoModelForCausalLM.from_pretrained(BASE, device_map={"": "cpu"})
    peft.PeftModel.from_pretrained(base, ADAPTER)
    assert len(moved) == 1
    for quantization in QUANTIZATIONS:
        settings = replace(SETTINGS, quantization=quantization)
        assert Classifier(settings).model.safe_tokenizer.encode(SCAM)
    assert len(moved) == 1
