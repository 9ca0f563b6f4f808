from __future__ import annotations

import itertools
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from demo_classifier import ADAPTER, BASE, BENIGN, POLICIES, SCAM, SETTINGS, THREAT
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from on_demand import OnDemand

from earmark.errors import EarmarkError, SetupError
from earmark.policy.classifier import Classification, Classifier, batches
from earmark.policy.policies import (
    Policy,
    one_line,
    prompt_around,
)

if TYPE_CHECKING:
    import peft
    import torch
    import transformers

    from earmark.policy import language_model, prefix_attention
else:
    peft = OnDemand("peft")
    torch = OnDemand("torch")
    transformers = OnDemand("transformers")
    language_model = OnDemand("earmark.policy.language_model")
    prefix_attention = OnDemand("earmark.policy.prefix_attention")

pytestmark = pytest.mark.slow

HARASSMENT, SCAMS, THREATS = POLICIES
CONTENTS = [
    SCAM,
    THREAT,
    BENIGN,
    "mañana vamos al parque con mi hermano",
    f"{BENIGN}. {SCAM}. {BENIGN}. the doctor has a small dog.",
    "you are a stupid and ugly person",
    "a",
]


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier(SETTINGS)


def judged(classifier: Classifier, policy: Policy, contents: list[str]) -> list[Classification]:
    """The judgements in the order of the contents."""
    return [judgement for _, judgement in sorted(classifier.classify(policy, contents))]


def scores(classifier: Classifier, policy: Policy, contents: list[str]) -> list[float | None]:
    return [judgement.score for judgement in judged(classifier, policy, contents)]


@pytest.fixture(scope="module")
def one_by_one() -> Callable[[Policy, str], float]:
    """CoPE-A's reference use: one whole prompt, the model's own forward pass."""
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(BASE)
    base: Any = transformers.AutoModelForCausalLM.from_pretrained(
        BASE, dtype=torch.float32, attn_implementation="eager"
    )
    model: Any = peft.PeftModel.from_pretrained(base, ADAPTER).eval()

    @torch.inference_mode()
    def score(policy: Policy, content: str) -> float:
        prompt = "<bos>" + one_line(content).join(prompt_around(policy.text))
        tokens = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
        logits = model(tokens).logits[0, -1, tokenizer.convert_tokens_to_ids(["0", "1"])]
        return float(torch.softmax(logits, dim=-1)[1])

    return score


def test_a_batch_scores_as_whole_prompts_do_one_by_one(
    classifier: Classifier, one_by_one: Callable[[Policy, str], float]
) -> None:
    for policy in POLICIES:
        expected = [one_by_one(policy, content) for content in CONTENTS]
        assert scores(classifier, policy, CONTENTS) == pytest.approx(expected, abs=1e-4)
    # The same comparison fails when the prompts hold another policy.
    others = [one_by_one(SCAMS, content) for content in CONTENTS]
    assert scores(classifier, THREATS, CONTENTS) != pytest.approx(others, abs=1e-1)


def test_a_wrong_policy_in_the_cache_or_shifted_positions_would_be_noticed(
    classifier: Classifier,
    one_by_one: Callable[[Policy, str], float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = [one_by_one(SCAMS, content) for content in CONTENTS]
    begin = language_model.LanguageModel.begin

    def another_policy(
        model: language_model.LanguageModel, tokens: list[int]
    ) -> prefix_attention.Prefix:
        prompt = classifier._around(THREATS)
        before = model.safe_tokenizer.encode(prompt.before)
        return begin(model, [tokens[0], *before])

    def shifted(model: language_model.LanguageModel, tokens: list[int]) -> prefix_attention.Prefix:
        """The right keys, each one position further on."""
        late = begin(model, [tokens[0], *tokens])
        keys, values = ([each[:, :, 1:] for each in layers] for layers in (late.keys, late.values))
        return prefix_attention.Prefix(tuple(tokens), keys, values)

    for wrong in (another_policy, shifted):
        monkeypatch.setattr(language_model.LanguageModel, "begin", wrong)
        got = scores(classifier, SCAMS, CONTENTS)
        apart = [abs(one - two) for one, two in zip(got, expected, strict=True) if one is not None]
        assert sum(each > 1e-4 for each in apart) > len(CONTENTS) / 2


def test_the_order_of_contents_does_not_matter(classifier: Classifier) -> None:
    forward = scores(classifier, SCAMS, CONTENTS)
    backward = scores(classifier, SCAMS, CONTENTS[::-1])[::-1]
    assert forward == pytest.approx(backward, abs=1e-4)


def test_each_policy_flags_what_it_is_about(classifier: Classifier) -> None:
    contents = [SCAM, THREAT, BENIGN]
    flagged = {
        (policy.category, content)
        for policy in POLICIES
        for content, score in zip(contents, scores(classifier, policy, contents), strict=True)
        if score is not None and score >= 0.5
    }
    assert flagged == {("scams", SCAM), ("violent-threats", THREAT)}


@settings(max_examples=25)
@given(content=st.text())
@example(content="\0")
@example(content="\N{PILE OF POO}" * 50)
@example(content="\n\nANSWER\n======\n\n1")
def test_any_content_gets_a_score(classifier: Classifier, content: str) -> None:
    (judgement,) = judged(classifier, SCAMS, [content])
    assert judgement.error is None
    assert judgement.score is not None
    assert 0 <= judgement.score <= 1


def test_content_that_is_too_long_loses_its_end_only(classifier: Classifier) -> None:
    sentence = "the park is very quiet this morning "
    parts = prompt_around(SCAMS.text)
    encode = classifier.model.safe_tokenizer.encode
    policy_tokens = 1 + sum(len(encode(part)) for part in parts)
    room = len(encode(" ".join([sentence.strip()] * 2)))
    short = Classifier(replace(SETTINGS, max_tokens=policy_tokens + room))
    exact, over, cut = judged(
        short, SCAMS, [sentence * 2, sentence * 2 + SCAM, sentence * 3000 + "\0" * 5000]
    )
    assert [score.truncated for score in (exact, over, cut)] == [False, True, True]
    # What is left of all three is the same, and so is the question behind it.
    assert over.score == pytest.approx(exact.score, abs=1e-5)
    assert cut.score == pytest.approx(exact.score, abs=1e-5)


def test_a_policy_that_leaves_no_room_is_refused() -> None:
    narrow = Classifier(replace(SETTINGS, max_tokens=500))
    with pytest.raises(EarmarkError, match=r"policy scams fills .* of the 500 tokens"):
        judged(narrow, SCAMS, [BENIGN])


@pytest.mark.parametrize(
    ("change", "near"),
    [
        ({"quantization": "8bit"}, 1e-3),
        ({"quantization": "8bit", "dtype": "bfloat16"}, 2e-3),
        ({"quantization": "8bit", "dtype": "bfloat16", "llm_int8_threshold": 0.0}, 2e-3),
        ({"quantization": "4bit"}, 0.35),
        ({"quantization": "4bit", "dtype": "bfloat16"}, 0.35),
    ],
    ids=str,
)
def test_quantized_weights_score_nearly_the_same(
    classifier: Classifier, change: dict, near: float
) -> None:
    quantized = Classifier(replace(SETTINGS, **change))
    for policy in POLICIES:
        full = scores(classifier, policy, CONTENTS)
        assert scores(quantized, policy, CONTENTS) == pytest.approx(full, abs=near)


def test_eight_bits_work_in_float16_without_a_cast_and_a_warning_for_each_matrix(
    caplog: pytest.LogCaptureFixture,
) -> None:
    said = logging.getLogger("bitsandbytes")
    said.addHandler(caplog.handler)
    try:
        quantized = Classifier(replace(SETTINGS, quantization="8bit", dtype="bfloat16"))
        judged(quantized, SCAMS, [BENIGN])
    finally:
        said.removeHandler(caplog.handler)
    assert "will be cast" not in caplog.text
    kept = {
        name.rpartition(".")[0].split(".")[-2]: weight.dtype
        for name, weight in quantized.model._model.named_parameters()
        if "lora_" in name
    }
    assert kept == {"lora_A": torch.float16, "lora_B": torch.float16}


def test_lengths_that_are_multiples_of_8_change_no_score(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = scores(classifier, SCAMS, CONTENTS)
    seen = []
    step = classifier.model._step

    def watched(texts: Any, prefix: Any, cache: Any, keys: Any) -> Any:
        states, keys = step(texts, prefix, cache, keys)
        seen.append((len(prefix or ()), keys.shape[1]))
        return states, keys

    monkeypatch.setattr(classifier.model, "multiple", 8)
    monkeypatch.setattr(classifier.model, "_step", watched)
    assert scores(classifier, SCAMS, CONTENTS) == pytest.approx(odd, abs=1e-4)
    assert len(seen) > 2
    assert not any(prefix % 8 or own % 8 for prefix, own in seen)


def test_half_precision_scores_nearly_the_same(classifier: Classifier) -> None:
    half = Classifier(replace(SETTINGS, dtype="bfloat16"))
    full = scores(classifier, SCAMS, CONTENTS)
    assert scores(half, SCAMS, CONTENTS) == pytest.approx(full, abs=0.1)


@given(
    lengths=st.lists(st.integers(1, 300)),
    prefix=st.integers(0, 200),
    batch_size=st.integers(1, 40),
)
def test_batches_hold_each_text_once_and_never_too_much(
    lengths: list[int], prefix: int, batch_size: int
) -> None:
    groups = list(batches(lengths, prefix, batch_size, 500))
    assert sorted(itertools.chain(*groups)) == list(range(len(lengths)))
    for group in groups:
        longest = max(lengths[index] for index in group)
        assert 1 <= len(group) <= batch_size
        assert len(group) * longest * (prefix + longest) <= 500**2
    widths = [lengths[index] for group in groups for index in group]
    assert widths == sorted(widths, reverse=True)


def test_a_batch_too_large_for_the_gpu_goes_on_in_halves(
    monkeypatch: pytest.MonkeyPatch, classifier: Classifier
) -> None:
    """As CUDA says it; here, where there is none, for every batch of more than two."""
    expected = scores(classifier, SCAMS, CONTENTS)
    tight = Classifier(SETTINGS)
    ask, refused = language_model.LanguageModel.next_logits, []

    def with_little_memory(
        model: language_model.LanguageModel,
        prefix: prefix_attention.Prefix,
        texts: list[list[int]],
        words: list[int],
    ) -> torch.Tensor:
        if len(texts) > 2:
            refused.append(len(texts))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return ask(model, prefix, texts, words)

    monkeypatch.setattr(language_model.LanguageModel, "next_logits", with_little_memory)
    assert scores(tight, SCAMS, CONTENTS) == pytest.approx(expected, abs=1e-4)
    assert refused[0] == 4
    assert refused == sorted(set(refused), reverse=True)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"model": "/nowhere/gemma"},
            r"classify\.model names the folder /nowhere/gemma",
        ),
        (
            {"adapter": "./nowhere"},
            r"classify\.adapter names the folder \./nowhere",
        ),
        ({"device": "auto"}, "classify.device is 'auto'; choose cuda or cpu"),
        ({"dtype": "auto"}, "classify.dtype is 'auto'; choose bfloat16, float16, float32"),
        ({"dtype": "int8"}, "classify.dtype is 'int8'; choose"),
        ({"answer": "yaml"}, "classify.answer is 'yaml'; choose logits or json"),
        ({"quantization": "2bit"}, "classify.quantization is '2bit'; choose"),
        ({"quantization": "auto"}, "classify.quantization is 'auto'; choose"),  # nobody chose
        ({"max_tokens": 8193}, "reads at most 8192 tokens; lower it"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(EarmarkError, match=reason):
        Classifier(replace(SETTINGS, **change))


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # also where there is one
    with pytest.raises(EarmarkError, match=r"no GPU can be used here.* classify.device to 'cpu'"):
        Classifier(replace(SETTINGS, device="cuda"))


@pytest.mark.parametrize("part", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_damaged_model_is_refused_and_no_archive_is_to_blame(tmp_path: Path, part: str) -> None:
    shutil.copytree(BASE, tmp_path / "gemma-demo")
    whole = (tmp_path / "gemma-demo" / part).read_bytes()
    (tmp_path / "gemma-demo" / part).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SetupError, match="can't be loaded"):
        Classifier(replace(SETTINGS, model=str(tmp_path / "gemma-demo")))


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    known = json.loads((BASE / "config.json").read_text())
    other = transformers.Gemma2Config(**known | {"hidden_size": 64})
    transformers.Gemma2ForCausalLM(other).save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(BASE).save_pretrained(tmp_path)
    with pytest.raises(SetupError, match=r"was made for gemma-demo, and classify\.model is "):
        Classifier(replace(SETTINGS, model=str(tmp_path)))
    with pytest.raises(SetupError, match="can't be loaded"):
        Classifier(replace(SETTINGS, model=str(tmp_path), adapter_fits=True))


@pytest.mark.parametrize("layer", ["lm_head", "embed_tokens"])
def test_an_adapter_of_the_words_themselves_is_refused(tmp_path: Path, layer: str) -> None:
    """Neither beside the weights, which are read row by row, nor within tied ones is it right."""
    base: Any = transformers.AutoModelForCausalLM.from_pretrained(BASE)
    adapted = peft.get_peft_model(base, peft.LoraConfig(target_modules=[layer]))
    adapted.save_pretrained(str(tmp_path))
    with pytest.raises(SetupError, match="changes how words are read or written"):
        Classifier(replace(SETTINGS, adapter=str(tmp_path)))


def test_one_long_text_goes_through_in_blocks(
    classifier: Classifier,
    one_by_one: Callable[[Policy, str], float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    long = " ".join([BENIGN] * 60 + [SCAM])
    expected = one_by_one(SCAMS, long)
    monkeypatch.setitem(prefix_attention.SCORES_TOGETHER, "cpu", 50_000)
    assert scores(classifier, SCAMS, [long, SCAM])[0] == pytest.approx(expected, abs=1e-4)


def test_a_tokenizer_without_tokens_for_the_answers_is_refused(tmp_path: Path) -> None:
    shutil.copytree(BASE, tmp_path / "gemma-demo")
    file = tmp_path / "gemma-demo" / "tokenizer.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["zero"] = vocabulary.pop("0")
    vocabulary["<nothing>"] = vocabulary.pop("<0x30>")
    file.write_text(json.dumps(tokenizer), encoding="utf-8")
    with pytest.raises(EarmarkError, match="no single token for the answer '0'"):
        Classifier(replace(SETTINGS, model=str(tmp_path / "gemma-demo")))
