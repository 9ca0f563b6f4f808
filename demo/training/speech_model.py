"""The demo's speech model: Whisper's architecture and file format, a fraction of its size.

What is here makes the model one that WhisperX, faster-whisper and CTranslate2 load as
they load OpenAI's: the order of the vocabulary, the log-Mel features, the generation
settings and the export.  It knows nothing of the training data.
"""

import copy
import json
import math
import shutil
from collections.abc import Iterable
from pathlib import Path

import ctranslate2
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional
from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration
from whisperx.audio import HOP_LENGTH, N_FFT, SAMPLE_RATE, mel_filters

LANGUAGES = ("en", "es")

WIDTH = 128
HEADS = 4
ENCODER_LAYERS = 3
DECODER_LAYERS = 2
DROPOUT = 0.05
INITIAL_STD = 0.05
#: Per encoder layer, where its heads look before training: the first of the positions'
#: frequencies they compare (higher ones are lower, so less exact), and how many frames
#: ahead each head looks.
NEIGHBOURHOODS = (
    (0, (-3, -1, 1, 3)),
    (4, (-8, -3, 3, 8)),
    (8, (-16, -6, 6, 16)),
)
NEIGHBOURHOOD_GAIN = 2.5
MEL_BANDS = 80

#: Whisper's window of 30 s, in encoder frames of 20 ms.
WINDOW_SECONDS = 30
ENCODER_FRAMES = 1500
SAMPLES_PER_FRAME = SAMPLE_RATE * WINDOW_SECONDS // ENCODER_FRAMES

END = "<|endoftext|>"
START = "<|startoftranscript|>"
TRANSCRIBE = "<|transcribe|>"
TRANSLATE = "<|translate|>"
NO_SPEECH = "<|nospeech|>"
NO_TIMESTAMPS = "<|notimestamps|>"
#: Whisper's special tokens in Whisper's order, which CTranslate2 relies on.
SPECIAL_TOKENS = (
    END,
    START,
    *(f"<|{language}|>" for language in LANGUAGES),
    TRANSLATE,
    TRANSCRIBE,
    "<|startoflm|>",
    "<|startofprev|>",
    NO_SPEECH,
    NO_TIMESTAMPS,
)
#: One token per 20 ms of a window, both ends included; the tokenizer doesn't list them.
TIMESTAMP_TOKENS = 1501

#: More than the demo's vocabulary needs: merging stops when every word is one token.
MAX_TEXT_TOKENS = 5000


def build_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """A byte-level BPE tokenizer in which every word of the texts is one token.

    One token per word keeps the decoder's sequences short; bytes remain for whatever else
    a caller encodes, such as an initial prompt.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=MAX_TEXT_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = sorted({word for text in texts for word in text.split()})
    tokenizer.train_from_iterator([" " + word for word in words], trainer)
    # CTranslate2 calls a Whisper model multilingual if it finds the empty token, and only
    # a multilingual one detects languages.
    described = json.loads(tokenizer.to_str())
    described["model"]["vocab"][""] = tokenizer.get_vocab_size()
    tokenizer = Tokenizer.from_str(json.dumps(described))
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    )
    return tokenizer


def token_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """The tokens of a text as it stands in a transcript, one per word."""
    ids = tokenizer.encode(" " + text, add_special_tokens=False).ids
    if len(ids) != len(text.split()):
        raise ValueError(f"not every word of {text!r} is one token")
    return ids


def build_model(tokenizer: Tokenizer, seed: int = 0) -> WhisperForConditionalGeneration:
    """The untrained model for a tokenizer's vocabulary and the timestamps behind it."""
    end = tokenizer.token_to_id(END)
    config = WhisperConfig(
        vocab_size=tokenizer.get_vocab_size() + TIMESTAMP_TOKENS,
        num_mel_bins=MEL_BANDS,
        d_model=WIDTH,
        encoder_layers=ENCODER_LAYERS,
        decoder_layers=DECODER_LAYERS,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=4 * WIDTH,
        decoder_ffn_dim=4 * WIDTH,
        max_source_positions=ENCODER_FRAMES,
        max_target_positions=448,  # as in OpenAI's: callers assume it
        dropout=DROPOUT,
        init_std=INITIAL_STD,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        decoder_start_token_id=tokenizer.token_to_id(START),
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    config._attn_implementation = "sdpa"
    torch.manual_seed(seed)
    model = WhisperForConditionalGeneration(config)
    # The encoder keeps the fast attention; the decoder's must hand out its weights, which
    # the training supervises.
    eager = copy.deepcopy(config)
    eager._attn_implementation = "eager"
    for module in model.model.decoder.modules():
        if hasattr(module, "config"):
            module.config = eager
    for layer, (frequency, shifts) in zip(model.model.encoder.layers, NEIGHBOURHOODS, strict=True):
        _look_nearby(layer.self_attn, frequency, shifts)
    return model


@torch.no_grad()
def _look_nearby(attention: torch.nn.Module, first_frequency: int, shifts: tuple[int, ...]) -> None:
    """Set an encoder layer's queries and keys so that each head looks ``shift`` frames ahead.

    The positions are sinusoids, sin(wt) in the first half of the channels and cos(wt) in
    the second; sin(w(t + s)) and cos(w(t + s)) are linear in them, and their product with
    the key's peaks where the key is s frames ahead.  Training starts from something like a
    convolution instead of having to find out what a neighbour is.
    """
    half, pairs = WIDTH // 2, WIDTH // HEADS // 2
    step = math.log(10_000) / (half - 1)  # as in Whisper's sinusoids
    for head, shift in enumerate(shifts):
        for pair in range(pairs):
            channel = first_frequency + pair
            angle = shift * math.exp(-step * channel)
            sine, cosine = head * 2 * pairs + pair, head * 2 * pairs + pairs + pair
            attention.q_proj.weight[sine, channel] += NEIGHBOURHOOD_GAIN * math.cos(angle)
            attention.q_proj.weight[sine, half + channel] += NEIGHBOURHOOD_GAIN * math.sin(angle)
            attention.q_proj.weight[cosine, half + channel] += NEIGHBOURHOOD_GAIN * math.cos(angle)
            attention.q_proj.weight[cosine, channel] -= NEIGHBOURHOOD_GAIN * math.sin(angle)
            attention.k_proj.weight[sine, channel] += 1.0
            attention.k_proj.weight[cosine, half + channel] += 1.0


def log_mel(audio: torch.Tensor) -> torch.Tensor:
    """Whisper's features for each row of a batch, as `whisperx.audio.log_mel_spectrogram`.

    Args:
        audio: Samples at 16 kHz, float32 (batch, samples).

    Returns:
        Float32 (batch, 80, samples / 160).
    """
    window = torch.hann_window(N_FFT)
    spectrum = torch.stft(audio, N_FFT, HOP_LENGTH, window=window, return_complex=True)
    power = spectrum[..., :-1].abs() ** 2
    bands = torch.clamp(mel_filters("cpu", MEL_BANDS) @ power, min=1e-10).log10()
    bands = torch.maximum(bands, bands.amax((1, 2), keepdim=True) - 8.0)
    return (bands + 4.0) / 4.0


def encode(
    model: WhisperForConditionalGeneration,
    features: torch.Tensor,
    offsets: torch.Tensor,
    frozen_layers: int = 0,
) -> torch.Tensor:
    """The encoder's output for windows shorter than 30 s.

    Whisper's positions are fixed sinusoids, so a short window can stand anywhere in the
    30 s; that is many times cheaper than filling them.

    Args:
        model: The model whose encoder is asked.
        features: Log-Mel features, float32 (batch, 80, 2 * frames).
        offsets: First position of each window, int64 (batch,).
        frozen_layers: Number of layers that no gradient passes, nor what precedes them.

    Returns:
        Float32 or bfloat16 (batch, frames, width).
    """
    encoder = model.model.encoder
    with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen_layers):
        hidden = functional.gelu(encoder.conv1(features))
        hidden = functional.gelu(encoder.conv2(hidden)).permute(0, 2, 1)
        positions = offsets[:, None] + torch.arange(hidden.shape[1])
        hidden = hidden + encoder.embed_positions.weight[positions]
        hidden = functional.dropout(hidden, encoder.dropout, encoder.training)
        for layer in encoder.layers[:frozen_layers]:
            hidden = layer(hidden, None, None)[0]
    for layer in encoder.layers[frozen_layers:]:
        hidden = layer(hidden, None, None)[0]
    return encoder.layer_norm(hidden)


def export(
    model: WhisperForConditionalGeneration,
    tokenizer: Tokenizer,
    directory: Path,
    scratch: Path,
    quantization: str = "float16",
) -> None:
    """Write the model as a CTranslate2 folder.

    Args:
        model: The trained model.
        tokenizer: Its tokenizer.
        directory: The folder to write; replaced if it exists.
        scratch: A folder for the Hugging Face form that CTranslate2's converter reads.
        quantization: How CTranslate2 stores the weights.
    """
    special = {token: tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
    model.generation_config = GenerationConfig(
        bos_token_id=special[END],
        eos_token_id=special[END],
        pad_token_id=special[END],
        decoder_start_token_id=special[START],
        max_length=448,
        suppress_tokens=[],
        # OpenAI's models also forbid the end here; this one may answer a tone with no text.
        begin_suppress_tokens=[tokenizer.token_to_id("\u0120")],
        is_multilingual=True,
        lang_to_id={f"<|{language}|>": special[f"<|{language}|>"] for language in LANGUAGES},
        task_to_id={"transcribe": special[TRANSCRIBE], "translate": special[TRANSLATE]},
        no_timestamps_token_id=special[NO_TIMESTAMPS],
        alignment_heads=[[DECODER_LAYERS - 1, head] for head in range(HEADS)],
    )
    shutil.rmtree(scratch, ignore_errors=True)
    model.save_pretrained(scratch)
    tokenizer.save(str(scratch / "tokenizer.json"))
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END,
        "eos_token": END,
        "unk_token": END,
        "pad_token": END,
        "additional_special_tokens": list(SPECIAL_TOKENS),
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1024,
    }
    preprocessor_config = {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "chunk_length": WINDOW_SECONDS,
        "feature_size": MEL_BANDS,
        "hop_length": HOP_LENGTH,
        "n_fft": N_FFT,
        "sampling_rate": SAMPLE_RATE,
    }
    for name, content in (
        ("tokenizer_config.json", tokenizer_config),
        ("preprocessor_config.json", preprocessor_config),
    ):
        (scratch / name).write_text(json.dumps(content, indent=2) + "\n")
    converter = ctranslate2.converters.TransformersConverter(
        str(scratch), copy_files=["tokenizer.json", "preprocessor_config.json"]
    )
    converter.convert(str(directory), quantization=quantization, force=True)
