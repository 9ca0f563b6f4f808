"""Models and tokenizers of the families that are accepted, small ones.

Of a tokenizer it matters how it cuts a text before it looks for its words: by the regular
expression of its family's ``tokenizer.json``, or not at all.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, trainers
from tokenizers import pre_tokenizers as cut
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from earmark import REPOSITORY
from earmark.policy.policies import load_policies, prompt_around

DEMO = REPOSITORY / "demo" / "models" / "gemma-demo"
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_ENGLISH = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"


def _corpus() -> list[str]:
    """Prompts, so that their blank lines and what stands before them become words."""
    policies = load_policies(REPOSITORY / "config/policies")
    contents = [f"what a day{end}" for end in (".", "?", "!", '"', ")", "...", "", " 7")]
    return [each.join(prompt_around(policy.text)) for policy in policies for each in contents]


def _byte_level(before: list[Any], normalizer: Any = None, **options: Any) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(**options))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = cut.Sequence(before)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = cut.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=3000, initial_alphabet=alphabet, show_progress=False, special_tokens=[]
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return tokenizer


def _split(pattern: str) -> list[Any]:
    return [
        cut.Split(Regex(pattern), "isolated"),
        cut.ByteLevel(add_prefix_space=False, use_regex=False),
    ]


def _llama3() -> Tokenizer:
    words = _split(rf"{_ENGLISH}|{_LETTERS}|\p{{N}}{{1,3}}|{_REST}")
    return _byte_level(words, ignore_merges=True)


def _qwen() -> Tokenizer:
    return _byte_level(_split(rf"{_ENGLISH}|{_LETTERS}|\p{{N}}|{_REST}"), normalizers.NFC())


def _smollm2() -> Tokenizer:
    return _byte_level([cut.Digits(individual_digits=True), cut.ByteLevel(add_prefix_space=False)])


def _sentencepiece(normalizer: Any, blanks: list[AddedToken]) -> Tokenizer:
    """Words are merged across a whole text, as with Gemma, Llama 2 and Mistral."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = cut.Split(Regex(r"\n+|[0-9]|▁?[^▁\n0-9]+|▁"), "isolated")
    trainer = trainers.BpeTrainer(vocab_size=2500, show_progress=False, limit_alphabet=300)
    trained.train_from_iterator(_corpus(), trainer)
    known = json.loads(trained.to_str())["model"]
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)}
    for word in known["vocab"]:
        vocabulary.setdefault(word, len(vocabulary))
    tokenizer = Tokenizer(
        models.BPE(vocabulary, [tuple(pair) for pair in known["merges"]], byte_fallback=True)
    )
    tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_tokens(blanks)
    return tokenizer


def _gemma() -> Tokenizer:
    blanks = [AddedToken("\n" * n, normalized=False) for n in range(2, 6)]
    blanks += [AddedToken("▁" * n, normalized=False) for n in range(2, 6)]
    blanks += [AddedToken("<b>", normalized=False)]
    return _sentencepiece(normalizers.Replace(" ", "▁"), blanks)


def _llama2() -> Tokenizer:
    return _sentencepiece(
        normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), []
    )


#: The pairs are what begins a text and what ends a turn.
_FAMILIES: dict[str, tuple[Callable[[], Tokenizer], str, str]] = {
    "gemma": (_gemma, "<bos>", "<end_of_turn>"),
    "llama2": (_llama2, "<s>", "</s>"),
    "llama3": (_llama3, "<|begin_of_text|>", "<|eot_id|>"),
    "qwen": (_qwen, "<|endoftext|>", "<|im_end|>"),
    "smollm2": (_smollm2, "<|im_start|>", "<|im_end|>"),
}
NAMES = ("demo", *_FAMILIES)


def tokenizer_of(family: str) -> Any:
    """Transformers' tokenizer of a family."""
    if family == "demo":
        return AutoTokenizer.from_pretrained(DEMO)
    train, begin, end = _FAMILIES[family]
    tokenizer = train()
    tokenizer.add_special_tokens([begin, end])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=begin, eos_token=end)


def random_model(folder: Path, kind: str, family: str, **options: Any) -> Path:
    """A tiny model of a type, with random weights large enough to tell attention apart.

    Args:
        folder: Where to save it, with a tokenizer.
        kind: Its ``model_type``.
        family: Whose tokenizer it gets.
        options: Of its configuration.
    """
    torch.manual_seed(3)
    tokenizer = tokenizer_of(family)
    config = AutoConfig.for_model(
        kind,
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=2048,
        initializer_range=0.3,
        use_sliding_window=True,
        max_window_layers=2,
        **options,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
