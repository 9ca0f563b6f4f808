"""The shared beginning, held against each model's own attention over whole texts."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from on_demand import OnDemand

from earmark import REPOSITORY
from earmark.errors import SetupError
from earmark.models.classifier_files import MODEL_TYPES, check_base
from earmark.models.inventory import Found

if TYPE_CHECKING:
    import families
    import torch
    import transformers

    from earmark.policy import language_model, prefix_attention
else:
    families = OnDemand("families")
    torch = OnDemand("torch")
    transformers = OnDemand("transformers")
    language_model = OnDemand("earmark.policy.language_model")
    prefix_attention = OnDemand("earmark.policy.prefix_attention")

pytestmark = pytest.mark.slow

DEMO = REPOSITORY / "demo" / "models" / "gemma-demo"
#: Shorter than the texts below, so that what lies further back must be forgotten.
WINDOW = 16
RANDOM = random.Random(5)
PREFIX = [RANDOM.randrange(10, 2000) for _ in range(30)]
TEXTS = [[RANDOM.randrange(10, 2000) for _ in range(n)] for n in (1, 3, 24, 25, 7)]
WORDS = [17, 1000, 3]
KINDS = ["gemma", "gemma2", "llama", "mistral", "qwen2", "qwen3"]


class Whole:
    """A model with its own attention, one whole text after the other."""

    def __init__(self, folder: Path) -> None:
        self.model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        ).eval()

    def logits(self, text: list[int]) -> torch.Tensor:
        with torch.inference_mode():
            logits: torch.Tensor = self.model(torch.tensor([text])).logits[0, -1]
        return logits


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return families.random_model(
        tmp_path_factory.mktemp(request.param), request.param, "demo", sliding_window=WINDOW
    )


@pytest.fixture(scope="module")
def ours(folder: Path) -> language_model.LanguageModel:
    return load(folder)


@pytest.fixture(scope="module")
def whole(folder: Path) -> Whole:
    return Whole(folder)


def load(folder: Path) -> language_model.LanguageModel:
    return language_model.LanguageModel(Found(str(folder), None), None, "cpu", torch.float32, None)


def probabilities(logits: torch.Tensor) -> torch.Tensor:
    return torch.softmax(logits, dim=-1)


def test_every_type_of_model_whose_attention_is_known_is_tried() -> None:
    assert tuple(KINDS) == MODEL_TYPES


def test_a_batch_behind_a_shared_beginning_is_as_whole_texts_are(
    ours: language_model.LanguageModel, whole: Whole
) -> None:
    expected = torch.stack([whole.logits(PREFIX + text)[WORDS] for text in TEXTS])
    got = ours.next_logits(ours.begin(PREFIX), TEXTS, WORDS)
    torch.testing.assert_close(probabilities(got), probabilities(expected), atol=1e-4, rtol=0)


def test_another_beginning_or_shifted_positions_would_be_noticed(
    ours: language_model.LanguageModel, whole: Whole
) -> None:
    """The comparison above fails when the wrong keys are shared."""
    expected = probabilities(torch.stack([whole.logits(PREFIX + t)[WORDS] for t in TEXTS]))
    late = ours.begin([5, *PREFIX])  # each key one position further on
    shifted = prefix_attention.Prefix(
        tuple(PREFIX), [keys[:, :, 1:] for keys in late.keys], [v[:, :, 1:] for v in late.values]
    )
    for wrong in (ours.begin(PREFIX[::-1]), shifted):
        got = probabilities(ours.next_logits(wrong, TEXTS, WORDS))
        assert (got - expected).abs().max() > 1e-3


def test_what_a_batch_writes_is_what_each_text_alone_would_get(
    ours: language_model.LanguageModel, whole: Whole
) -> None:
    """The likeliest word after each text, then after that one, by the model's own attention."""
    written = ours.continuations(ours.begin(PREFIX), TEXTS, most=20, end="}")
    ends = {token for word, token in ours.tokenizer.get_vocab().items() if "}" in word}
    for text, continuation in zip(TEXTS, written, strict=True):
        tokens: list[int] = []
        while len(tokens) < 20 and not ends & set(tokens):
            tokens.append(int(whole.logits(PREFIX + text + tokens).argmax()))
            if tokens[-1] in (1, whole.model.generation_config.eos_token_id):
                break
        assert continuation.text == ours.tokenizer.decode(tokens, skip_special_tokens=True)
        assert continuation.is_sound


def test_numbers_that_overflow_are_told(folder: Path, tmp_path: Path) -> None:
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder)
    model.get_input_embeddings().weight.data[TEXTS[0][0]] = float("nan")
    model.save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(DEMO).save_pretrained(tmp_path)
    damaged = load(tmp_path)
    prefix = damaged.begin([token for token in PREFIX if token != TEXTS[0][0]])
    written = damaged.continuations(prefix, [TEXTS[0], TEXTS[1]], most=2, end="}")
    assert not written[0].is_sound


def test_a_model_whose_attention_is_unknown_is_refused(tmp_path: Path) -> None:
    config = transformers.AutoConfig.for_model(
        "gpt2", vocab_size=2048, n_embd=32, n_layer=1, n_head=2
    )
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(DEMO).save_pretrained(tmp_path)
    with pytest.raises(SetupError, match=r"type 'gpt2'.* choose one of type gemma, gemma2"):
        check_base(tmp_path)
