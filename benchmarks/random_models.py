"""Models of real dimensions with random weights, for machines that cannot download any.

Knows file formats: the folders load as those of the real models do, without any network.
What the models say means nothing; how long they take is what the real ones take, because
their dimensions are the same and a transcript's length is forced by the weights: Whisper's
decoder ends after :data:`WORDS` tokens in each window, whatever it hears and whoever asks.

Random weights have no outliers, which 8-bit arithmetic (LLM.int8) treats apart: it is
somewhat faster here than with a trained model, on both sides of a comparison.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GenerationConfig,
    WhisperConfig,
    WhisperForConditionalGeneration,
)
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from benchmarks.report import progress
from benchmarks.roofline import PROMPT
from earmark import REPOSITORY

#: Tokens of a window of real speech: 30 s at 160 words a minute, 1.3 tokens a word.
WORDS = 105

#: Languages of large-v2; version 3 added another.
_CODES = list(LANGUAGES)[:99]
_SPECIAL = (
    *("<|endoftext|>", "<|startoftranscript|>", *(f"<|{code}|>" for code in _CODES)),
    *("<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>"),
    *("<|nospeech|>", "<|notimestamps|>"),
)
_TIMESTAMPS = 1501

# Two numbers of the decoder's state are kept free of everything else, and only positions
# write them.  The first tells whether it is time to end, the second is always the same.
_CLOCK, _ALWAYS = 0, 1
_LOUD = 10.0  # against a state of about 1, so that either survives the norm
_DECISIVE = 20.0  # weight of them in the logits, which differ by about 3 otherwise

_STD = 0.02  # what both models' initialisation has
_SHARD_BYTES = 2e9

#: LoRA rank of the adapter, on all matrices of the layers: an assumption, as CoPE-A's own isn't
#: known here.
RANK = 16


#: Layers of the decoder and mel bands of models with large-v2's encoder.
#: Source: their configurations (https://huggingface.co/openai/whisper-large-v2,
#: https://huggingface.co/openai/whisper-large-v3-turbo,
#: https://huggingface.co/distil-whisper/distil-large-v3.5).
LARGE = {"large-v2": (32, 80), "large-v3-turbo": (4, 128), "distil-large-v3.5": (2, 128)}


def large_whisper(name: str) -> WhisperConfig:
    """Dimensions of one of :data:`LARGE`."""
    decoder_layers, mels = LARGE[name]
    return _whisper(
        width=1280, layers=32, decoder_layers=decoder_layers, heads=20, text_tokens=50257, mels=mels
    )


def tiny_whisper() -> WhisperConfig:
    """The same of a model for trying things out on a CPU."""
    return _whisper(width=64, layers=2, decoder_layers=2, heads=4, text_tokens=1000, mels=80)


def _whisper(
    width: int, layers: int, decoder_layers: int, heads: int, text_tokens: int, mels: int
) -> WhisperConfig:
    end = text_tokens  # special tokens come after text
    return WhisperConfig(
        vocab_size=text_tokens + len(_SPECIAL) + _TIMESTAMPS,
        num_mel_bins=mels,
        d_model=width,
        encoder_layers=layers,
        decoder_layers=decoder_layers,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
        max_target_positions=448,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        decoder_start_token_id=end + 1,
        suppress_tokens=None,
        begin_suppress_tokens=None,
        # Words go in by other weights than they come out: special tokens are never said.
        tie_word_embeddings=False,
    )


def gemma_2_9b() -> Gemma2Config:
    """Dimensions of Gemma 2 9B (https://huggingface.co/google/gemma-2-9b)."""
    return _gemma(256_000, 3584, 14_336, layers=42, heads=16, key_value_heads=8, head_width=256)


def narrow_gemma() -> Gemma2Config:
    """One narrow layer, in which attention's scores have the same share of the arithmetic."""
    return _gemma(4096, 896, 3584, layers=1, heads=4, key_value_heads=2, head_width=64)


def tiny_gemma() -> Gemma2Config:
    """The same of a model for trying things out on a CPU."""
    return _gemma(4096, 64, 128, layers=2, heads=4, key_value_heads=2, head_width=16)


def _gemma(
    vocabulary: int,
    width: int,
    feed_forward: int,
    layers: int,
    heads: int,
    key_value_heads: int,
    head_width: int,
) -> Gemma2Config:
    return Gemma2Config(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=feed_forward,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        head_dim=head_width,
        query_pre_attn_scalar=head_width,
        sliding_window=4096,
        attn_logit_softcapping=50.0,
        final_logit_softcapping=30.0,
        max_position_embeddings=8192,
        dtype="bfloat16",
    )


def write_whisper(config: WhisperConfig, folder: Path, device: str) -> Path:
    """Write a Whisper model as a CTranslate2 folder in float16, unless it is there.

    Args:
        config: Its dimensions.
        folder: Appears when it is whole.
        device: Where the weights are drawn.

    Returns:
        The folder.
    """
    return whole_folder(folder, lambda partial: _write_whisper(config, partial, device))


def write_gemma(config: Gemma2Config, folder: Path, device: str) -> Path:
    """Write a Gemma 2 in bfloat16 and the demo's tokenizer, unless it is there.

    Args:
        config: Its dimensions.
        folder: Appears when it is whole.
        device: Where the weights are drawn; no more of them at a time than a shard holds.

    Returns:
        The folder.
    """

    def write(partial: Path) -> None:
        _write_weights(Gemma2ForCausalLM, config, partial, torch.bfloat16, device, norm=0.0)
        config.architectures = ["Gemma2ForCausalLM"]
        config.save_pretrained(partial)
        GenerationConfig(bos_token_id=2, eos_token_id=1, pad_token_id=0).save_pretrained(partial)
        tokenizer = REPOSITORY / "demo/models/gemma-demo"
        for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            shutil.copy(tokenizer / file, partial)

    return whole_folder(folder, write)


def write_adapter(config: Gemma2Config, folder: Path, device: str) -> Path:
    """Write a LoRA adapter for such a Gemma 2, as PEFT loads it, unless it is there.

    Args:
        config: The base's dimensions.
        folder: Appears when it is whole.
        device: Where the weights are drawn.

    Returns:
        The folder.
    """

    def write(partial: Path) -> None:
        from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
        from safetensors.torch import save_file

        names = ["q", "k", "v", "o", "gate", "up", "down"]
        lora = LoraConfig(
            r=RANK,
            lora_alpha=RANK,
            target_modules=[f"{name}_proj" for name in names],
            task_type="CAUSAL_LM",
        )
        with torch.device("meta"):
            shapes = get_peft_model_state_dict(get_peft_model(Gemma2ForCausalLM(config), lora))
        generator = torch.Generator(device).manual_seed(3)
        weights = {
            name: _draw(tensor, torch.bfloat16, generator) for name, tensor in shapes.items()
        }
        save_file(weights, partial / "adapter_model.safetensors", {"format": "pt"})
        lora.base_model_name_or_path = "gemma"  # where `write_gemma` is told to write
        lora.inference_mode = True
        lora.save_pretrained(str(partial))

    return whole_folder(folder, write)


def whole_folder(folder: Path, write: Callable[[Path], None]) -> Path:
    """Let a folder be made under another name first, so that half a one is never used.

    Args:
        folder: Nothing happens if it is there.
        write: Fills the folder that it is given.

    Returns:
        The folder.
    """
    if not folder.exists():
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        progress(f"building {folder}")
        write(partial)
        partial.rename(folder)
    return folder


def _draw(shape: Tensor, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    weights = torch.empty(shape.shape, dtype=dtype, device=generator.device)
    return weights.normal_(0, _STD, generator=generator).cpu()


def _write_weights(
    kind: Any,
    config: Any,
    folder: Path,
    dtype: torch.dtype,
    device: str,
    norm: float,
    change: Callable[[str, Tensor], None] = lambda name, weights: None,
) -> None:
    """Draw a model's weights, shard by shard.

    Args:
        kind: The model's class.
        config: Its dimensions.
        folder: Where to write.
        dtype: Of the weights.
        device: Where they are drawn.
        norm: Weights of norms; Gemma adds 1 to its own.
        change: Sets what is not random, in place.
    """
    from safetensors.torch import save_file

    with torch.device("meta"):
        model = kind(config)
    shapes: Mapping[str, Tensor] = model.state_dict()
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    generator = torch.Generator(device).manual_seed(3)
    shard: dict[str, Tensor] = {}
    places: dict[str, str] = {}
    total = 0

    def save() -> None:
        name = f"model-{len(set(places.values())):05}.safetensors"
        save_file(shard, folder / name, {"format": "pt"})
        places.update(dict.fromkeys(shard, name))
        progress(f"{folder.name}: {total / 1e9:.1f} GB")
        shard.clear()

    for name, shape in shapes.items():
        if name in tied:
            continue
        if shape.dim() > 1:
            weights = _draw(shape, dtype, generator)
        else:
            weights = torch.full(shape.shape, 0.0 if name.endswith("bias") else norm, dtype=dtype)
        change(name, weights)
        shard[name] = weights
        total += weights.nbytes
        if sum(each.nbytes for each in shard.values()) > _SHARD_BYTES:
            save()
    if shard:
        save()
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _write_whisper(config: WhisperConfig, folder: Path, device: str) -> None:
    from ctranslate2.converters import TransformersConverter

    scratch = folder.with_name(f"{folder.name}.transformers")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    assert config.eos_token_id is not None
    end: int = config.eos_token_id

    def change(name: str, weights: Tensor) -> None:
        if name == "model.decoder.embed_positions.weight":
            weights[:, _ALWAYS] = _LOUD
            weights[:, _CLOCK] = -_LOUD
            # The token behind the prompt is said at the prompt's last position.
            weights[PROMPT - 1 + WORDS :, _CLOCK] = _LOUD
        elif name == "model.decoder.embed_tokens.weight":
            weights[:, [_CLOCK, _ALWAYS]] = 0
        elif name == "proj_out.weight":
            weights[:, [_CLOCK, _ALWAYS]] = 0
            weights[end, _CLOCK] = _DECISIVE
            weights[end + 1 :, _ALWAYS] = -_DECISIVE
        elif ".decoder.layers." in name and name.endswith(("out_proj.weight", "fc2.weight")):
            weights[[_CLOCK, _ALWAYS]] = 0  # what layers add to the state

    kind = WhisperForConditionalGeneration
    _write_weights(kind, config, scratch, torch.float16, device, norm=1.0, change=change)
    config.architectures = ["WhisperForConditionalGeneration"]
    config.save_pretrained(scratch)
    _write_whisper_tokenizer(config, scratch)
    converter = TransformersConverter(
        str(scratch),
        copy_files=["tokenizer.json", "preprocessor_config.json"],
        load_as_float16=True,
    )
    converter.convert(str(folder), quantization="float16", force=True)
    shutil.rmtree(scratch)


def _write_whisper_tokenizer(config: WhisperConfig, folder: Path) -> None:
    """The demo's bytes and words, made-up words up to the end of text, Whisper's other tokens."""
    demo = REPOSITORY / "demo/models/whisper-demo"
    tokenizer = json.loads((demo / "tokenizer.json").read_text(encoding="utf-8"))
    assert config.eos_token_id is not None
    end: int = config.eos_token_id
    words = [word for word in tokenizer["model"]["vocab"] if word]
    words += [f"Ġw{number:05}" for number in range(len(words), end - 1)]
    # CTranslate2 calls a model multilingual if it finds the empty token.
    tokenizer["model"]["vocab"] = {word: number for number, word in enumerate([*words, ""])}
    pattern = tokenizer["added_tokens"][0]
    tokenizer["added_tokens"] = [
        pattern | {"id": end + number, "content": token} for number, token in enumerate(_SPECIAL)
    ]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    described = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": _SPECIAL[0],
        "eos_token": _SPECIAL[0],
        "unk_token": _SPECIAL[0],
        "additional_special_tokens": list(_SPECIAL),
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(described), encoding="utf-8")
    spectrograms = json.loads((demo / "preprocessor_config.json").read_text(encoding="utf-8"))
    spectrograms["feature_size"] = config.num_mel_bins
    (folder / "preprocessor_config.json").write_text(json.dumps(spectrograms), encoding="utf-8")
    special = {token: end + number for number, token in enumerate(_SPECIAL)}
    layers, heads = config.decoder_layers, config.decoder_attention_heads
    GenerationConfig(
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        decoder_start_token_id=end + 1,
        max_length=448,
        suppress_tokens=[],
        begin_suppress_tokens=[end],
        is_multilingual=True,
        lang_to_id={f"<|{code}|>": special[f"<|{code}|>"] for code in _CODES},
        task_to_id={task: special[f"<|{task}|>"] for task in ("transcribe", "translate")},
        no_timestamps_token_id=special["<|notimestamps|>"],
        alignment_heads=[[layers - 1, head] for head in range(heads)],
    ).save_pretrained(folder)
