"""A prompt in two parts has the tokens of the whole prompt, with every family of tokenizers."""

from __future__ import annotations

from array import array
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from demo_classifier import BENIGN, POLICIES, SCAM
from hypothesis import example, given
from hypothesis import strategies as st
from on_demand import OnDemand

from earmark.policy.classifier import Classifier
from earmark.policy.policies import (
    HEADING,
    JSON_PROMPT,
    PROMPT,
    Policy,
    one_line,
    prompt_around,
)
from earmark.policy.prompt_tokens import ALONE, Prompt, SafeTokenizer, SharedPrompts
from earmark.settings import ClassifySettings

if TYPE_CHECKING:
    import families
    import torch
    import transformers
else:
    families = OnDemand("families")
    torch = OnDemand("torch")
    transformers = OnDemand("transformers")

pytestmark = pytest.mark.slow

NAMES = ("demo", "gemma", "llama2", "llama3", "qwen", "smollm2")
ENDS = [".", "?", "!", '"', ")", "...", "…", "?!", "。", "“no”", "7", "", "🙂", ".)", "\u0301", "-"]
#: What a tokenizer's regular expression or normalizer may see across a seam.
AWKWARD = st.sampled_from(
    [*ENDS, "\n", "\n\n\n", " ", "'", "=", "==", "\r", "\u200b", "\ufeff", "é"]
)
TEXTS = st.lists(AWKWARD | st.text(max_size=8) | st.sampled_from([SCAM, BENIGN]), max_size=6).map(
    "".join
)


@pytest.fixture(scope="module", params=NAMES)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return families.tokenizer_of(request.param)


def whole(tokenizer: Any, prompt: Prompt, content: str) -> list[int]:
    """As Transformers' own tokenizer has it."""
    text = prompt.before + content + prompt.after
    tokens: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    return tokens


def parts(tokenizer: Any, prompt: Prompt, content: str, most: int = 10**6) -> list[int]:
    prompts = SharedPrompts(SafeTokenizer(tokenizer), prompt, HEADING)
    split = prompts.split(content, prompts.tokens_near(content), most)
    assert split.rest
    return [*split.begin, *split.rest]


def test_all_families_are_tried() -> None:
    assert families.NAMES == NAMES


def test_both_prompts_have_the_heading_before_the_content() -> None:
    for prompt in (PROMPT, JSON_PROMPT):
        assert prompt.split("{content}")[0].endswith("{policy}" + HEADING)


@given(policy=TEXTS, content=TEXTS)
@example(policy=POLICIES[1].text, content=SCAM)
@example(policy="What is harmful?", content="")
def test_a_prompt_in_two_parts_has_the_tokens_of_the_whole_prompt(
    tokenizer: Any, policy: str, content: str
) -> None:
    prompt = Prompt(*prompt_around(policy.strip()))
    content = one_line(content)
    assert parts(tokenizer, prompt, content) == whole(tokenizer, prompt, content)


@pytest.mark.parametrize("end", ENDS)
def test_the_policy_stands_in_the_shared_part_and_a_content_is_tokenized_without_it(
    tokenizer: Any, end: str
) -> None:
    prompt = Prompt(*prompt_around(POLICIES[1].text + end))
    prompts = SharedPrompts(SafeTokenizer(tokenizer), prompt, HEADING)
    assert prompts.near.before == HEADING
    content = f"{SCAM}{end}"
    split = prompts.split(content, prompts.tokens_near(content), 10**6)
    assert split.begin is prompts.begin
    assert len(split.rest) < len(whole(tokenizer, Prompt("", prompt.after), content)) + 5


def test_pieces_that_are_tokenized_apart_would_be_others() -> None:
    """The comparisons above have something to find."""
    apart = set()
    for name in NAMES:
        tokenizer = families.tokenizer_of(name)
        prompt = Prompt(*prompt_around(POLICIES[1].text))
        content = "are you sure?"
        pieces = [whole(tokenizer, ALONE, each) for each in (prompt.before, content, prompt.after)]
        if list(chain(*pieces)) != whole(tokenizer, prompt, content):
            apart.add(name)
    assert apart >= {"llama3", "qwen", "smollm2", "llama2"}


@given(content=TEXTS.map(one_line), less=st.integers(0, 40))
def test_a_content_that_is_cut_has_the_tokens_of_the_whole_prompt_around_what_is_left(
    tokenizer: Any, content: str, less: int
) -> None:
    prompt = Prompt(*prompt_around("Speech about noise."))
    tokens = whole(tokenizer, prompt, content)
    least = SharedPrompts(SafeTokenizer(tokenizer), prompt, HEADING).least
    most = max(least, len(tokens) - less)
    got = parts(tokenizer, prompt, content, most)
    assert len(got) <= max(most, len(whole(tokenizer, prompt, "")))
    beginnings = [content, *(content[:n].rstrip() for n in range(len(content)))]
    assert got in [whole(tokenizer, prompt, each) for each in beginnings]


@given(content=TEXTS.map(one_line), spelt=st.booleans())
def test_a_turn_of_a_chat_template_is_one_and_a_content_opens_none(
    tokenizer: Any, content: str, spelt: bool
) -> None:
    begin, end = tokenizer.bos_token, tokenizer.eos_token
    before, after = prompt_around("Speech about noise.")
    prompt = Prompt(f"{begin}user\n{before}", f"{after.strip()}{end}\n", is_trusted=True)
    content += end if spelt else ""
    got = parts(tokenizer, prompt, content)
    assert got.count(tokenizer.eos_token_id) == 1
    assert got[0] == tokenizer.bos_token_id
    if not spelt:
        assert got == whole(tokenizer, prompt, content)


@given(pieces=st.lists(st.sampled_from(["<", "begin", ">", "|", "o"]) | st.text(max_size=5)))
def test_no_content_becomes_a_control_token(tokenizer: Any, pieces: list[str]) -> None:
    spelt = [*tokenizer.all_special_tokens]
    content = "".join(piece + spelt[n % len(spelt)] for n, piece in enumerate(pieces))
    safe = SafeTokenizer(tokenizer)
    assert not set(safe.encode(content)) & set(tokenizer.all_special_ids)
    prompt = Prompt(*prompt_around(content))
    assert not set(parts(tokenizer, prompt, content)) & set(tokenizer.all_special_ids)


def test_what_was_added_to_the_vocabulary_without_being_special_is_no_control_either() -> None:
    tokenizer = families.tokenizer_of("gemma")
    (bold,) = whole(tokenizer, ALONE, "<b>")
    assert bold not in tokenizer.all_special_ids
    assert bold not in SafeTokenizer(tokenizer).encode("a <b> c")
    blank = whole(tokenizer, ALONE, "a\n\n\nb")
    assert SafeTokenizer(tokenizer).encode("a\n\n\nb") == blank


def test_what_a_tokenizer_file_says_about_padding_and_truncation_is_not_done() -> None:
    tokenizer = families.tokenizer_of("qwen")
    expected = whole(tokenizer, ALONE, SCAM)
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=100)
    assert array("i", SafeTokenizer(tokenizer).encode(SCAM)).tolist() == expected


@pytest.mark.parametrize(
    ("kind", "family"),
    [("llama", "llama3"), ("llama", "smollm2"), ("qwen3", "qwen"), ("mistral", "llama2")],
)
def test_scores_are_those_of_whole_prompts(tmp_path: Path, kind: str, family: str) -> None:
    folder = families.random_model(tmp_path, kind, family, sliding_window=64)
    settings = ClassifySettings(
        model=str(folder), adapter=None, device="cpu", quantization=None, dtype="float32",
        batch_size=4, max_tokens=2048,
    )  # fmt: skip
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    tokenizer = families.tokenizer_of(family)
    words = tokenizer.convert_tokens_to_ids(["0", "1"])
    policy = Policy("noise", "Noise", "Speech about noise. Is it loud?", "0")
    contents = [f"{text}{end}" for end in ENDS for text in ("hush", "")]
    classifier = Classifier(settings)
    for index, judged in classifier.classify(policy, contents):
        tokens = whole(tokenizer, Prompt(*prompt_around(policy.text)), one_line(contents[index]))
        with torch.inference_mode():
            logits = model(torch.tensor([[tokenizer.bos_token_id, *tokens]])).logits[0, -1, words]
        assert judged.score == pytest.approx(float(torch.softmax(logits, dim=-1)[1]), abs=1e-4)
