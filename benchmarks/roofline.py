"""What a GPU could do at best: the arithmetic and the memory traffic that the two models need.

Knows the models' dimensions and NVIDIA's data sheets; knows nothing of how the work is done.
A step takes at least as long as its arithmetic at the full rate or as its memory traffic at
the full bandwidth, whichever is longer (S. Williams et al., "Roofline", 2009,
https://doi.org/10.1145/1498765.1498785).

Only what cannot be avoided counts: weights are read once for a batch, keys and values once
in each step of the decoder, and nothing else.  Not in it are activations, the search among
beams, the detection of speech and of languages, and the adapter (which can be merged).
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

#: Whisper's windows of 30 s: spectra, and states of the encoder.
FRAMES, STATES = 3000, 1500


@dataclass(frozen=True)
class Device:
    """What the maker promises of a device.

    Attributes:
        name: As people call it.
        half: FLOP/s of matrix products in FP16 or BF16, dense.
        int8: The same in INT8.
        bandwidth: Of its memory, bytes/s.
        source: Where the figures are from.
    """

    name: str
    half: float
    int8: float
    bandwidth: float
    source: str


def _data_sheet(name: str, half: float, int8: float, bandwidth: float, of: str) -> Device:
    return Device(name, half * 1e12, int8 * 1e12, bandwidth * 1e9, f"NVIDIA's data sheet, {of}")


L4 = _data_sheet("NVIDIA L4", 121, 242.5, 300, "L4 Tensor Core GPU")

#: By what CUDA's name of a device begins with; longer beginnings come first.  TFLOP/s, TOP/s
#: and GB/s.  Data sheets give twice the dense rates, "with sparsity", for all but the A100.
DEVICES: dict[str, Device] = {
    "NVIDIA L40S": _data_sheet("NVIDIA L40S", 362, 733, 864, "L40S"),
    "NVIDIA L40": _data_sheet("NVIDIA L40", 181, 362, 864, "L40"),
    "NVIDIA L4": L4,
    "NVIDIA A100-SXM4-80GB": _data_sheet("NVIDIA A100 SXM, 80 GB", 312, 624, 2039, "A100"),
    "NVIDIA A100-SXM4-40GB": _data_sheet("NVIDIA A100 SXM, 40 GB", 312, 624, 1555, "A100"),
    "NVIDIA A100 80GB PCIe": _data_sheet("NVIDIA A100 PCIe, 80 GB", 312, 624, 1935, "A100 80GB"),
    "NVIDIA A100-PCIE-40GB": _data_sheet("NVIDIA A100 PCIe, 40 GB", 312, 624, 1555, "A100"),
    "NVIDIA A10": _data_sheet("NVIDIA A10", 125, 250, 600, "A10"),
    "NVIDIA H100 80GB HBM3": _data_sheet("NVIDIA H100 SXM", 989, 1979, 3350, "H100"),
    "NVIDIA H100 PCIe": _data_sheet("NVIDIA H100 PCIe", 756, 1513, 2000, "H100 PCIe, 2022"),
    "NVIDIA H100 NVL": _data_sheet("NVIDIA H100 NVL", 835, 1671, 3900, "H100 NVL"),
    "NVIDIA H200 NVL": _data_sheet("NVIDIA H200 NVL", 835, 1671, 4800, "H200 NVL"),
    "NVIDIA H200": _data_sheet("NVIDIA H200 SXM", 989, 1979, 4800, "H200"),
}


def device_called(cuda_name: str) -> Device | None:
    """The data sheet of a device, or None if none is known, as for a part of a GPU (MIG).

    Args:
        cuda_name: As ``torch.cuda.get_device_name`` says.
    """
    if " MIG " in cuda_name:
        return None
    known = sorted(DEVICES, key=len, reverse=True)
    found = [each for each in known if f"{cuda_name} ".startswith((f"{each} ", f"{each}-"))]
    return DEVICES[found[0]] if found else None


def measured_device(name: str, device: str, *, quick: bool = False) -> Device:
    """A device without a data sheet: what its matrix products and its copies reach.

    A measured rate is below the promised one, and shares of it are higher.

    Args:
        name: What to call it.
        device: ``cuda`` or ``cpu``.
        quick: Whether small matrices will do.
    """
    import torch

    on_gpu = device == "cuda"
    side = 1024 if quick else 8192
    dtype = torch.float16 if on_gpu else torch.float32
    matrix = torch.randn(side, side, device=device).to(dtype)
    half = 2 * side**3 / _fastest(lambda: matrix @ matrix, on_gpu)
    int8 = half
    if on_gpu:
        whole = torch.randint(-127, 127, (side, side), device=device, dtype=torch.int8)
        int8 = 2 * side**3 / _fastest(lambda: torch._int_mm(whole, whole.T), on_gpu)
    source = torch.zeros((1 << 24) if quick else (1 << 28), device=device)  # 4 bytes each
    target = torch.empty_like(source)
    bandwidth = 2 * 4 * source.numel() / _fastest(lambda: target.copy_(source), on_gpu)
    return Device(name, half, int8, bandwidth, "measured here: a matrix product and a copy")


def _fastest(work: Any, on_gpu: bool, rounds: int = 10) -> float:
    import torch

    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        work()
        if on_gpu:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return min(times)


@dataclass(frozen=True)
class Step:
    """Arithmetic and memory traffic that can go on at the same time.

    Attributes:
        flop: Operations of matrix products; a multiplication and an addition are two.
        traffic: Bytes that are read from memory.
    """

    flop: float
    traffic: float

    def seconds(self, device: Device, *, is_int8: bool) -> float:
        """How long it takes at least."""
        rate = device.int8 if is_int8 else device.half
        return max(self.flop / rate, self.traffic / device.bandwidth)


def least_seconds(steps: Iterable[Step], device: Device, *, is_int8: bool) -> float:
    """How long steps take at least, one after the other.

    Args:
        steps: The steps.
        device: What does the work.
        is_int8: Whether products are made at the rate of INT8 rather than FP16.
    """
    return sum(step.seconds(device, is_int8=is_int8) for step in steps)


# Whisper: `config` is Transformers' WhisperConfig.


def encoder_flop(config: Any) -> float:
    """Operations of the encoder for a window: two convolutions, then the layers."""
    width, states = config.d_model, STATES
    convolutions = 2 * 3 * width * (config.num_mel_bins * FRAMES + width * states)
    matrices = 4 * width**2 + 2 * width * config.encoder_ffn_dim
    attention = 2 * 2 * states**2 * width
    return convolutions + config.encoder_layers * (2 * states * matrices + attention)


def encoder_parameters(config: Any) -> float:
    """Weights of the encoder, but for biases and norms."""
    width = config.d_model
    convolutions = 3 * width * (config.num_mel_bins + width)
    layer = 4 * width**2 + 2 * width * config.encoder_ffn_dim
    return convolutions + config.encoder_layers * layer


def cross_flop(config: Any) -> float:
    """Operations that make the decoder's keys and values of a window's states."""
    return config.decoder_layers * 2 * STATES * 2 * config.d_model**2


def cross_numbers(config: Any) -> float:
    """Numbers in the decoder's keys and values of a window."""
    return config.decoder_layers * 2 * STATES * config.d_model


def decoder_parameters(config: Any) -> float:
    """Weights that a step of the decoder reads, but for biases and norms.

    Those of the layers, without what makes the window's keys and values, and the vocabulary.
    """
    width = config.d_model
    layer = 4 * width**2 + 2 * width**2 + 2 * width * config.decoder_ffn_dim
    return config.decoder_layers * layer + config.vocab_size * width


def decoder_flop(config: Any, seen: float) -> float:
    """Operations of the decoder for a token.

    Args:
        config: The model's dimensions.
        seen: Tokens that it attends to, itself included.
    """
    attention = config.decoder_layers * 2 * 2 * config.d_model * (seen + STATES)
    return 2 * decoder_parameters(config) + attention


#: Tokens before a window's words: start, language, task, no timestamps.
PROMPT = 4


def transcription(
    config: Any, windows: int, batch: int, beams: int, words: int, *, weight_bytes: float
) -> list[Step]:
    """What it takes to transcribe windows.

    Args:
        config: The model's dimensions.
        windows: Their number.
        batch: Windows that go together.
        beams: Of the search.
        words: Tokens of each window, without prompt and end.
        weight_bytes: Bytes of a weight; keys and values take two, or as many as weights.
    """
    state_bytes = max(2.0, weight_bytes)
    steps = []
    for first in range(0, windows, batch):
        together = min(batch, windows - first)
        encoder = encoder_flop(config) + cross_flop(config)
        cross_weights = config.decoder_layers * 2 * config.d_model**2
        weights = weight_bytes * (encoder_parameters(config) + cross_weights)
        steps.append(Step(together * encoder, weights))
        cross = together * state_bytes * cross_numbers(config)
        weights = weight_bytes * decoder_parameters(config)
        prompt = sum(decoder_flop(config, seen) for seen in range(1, PROMPT + 1))
        steps.append(Step(together * prompt, weights + cross))
        for word in range(1, words + 1):  # the last one gives the end
            seen = PROMPT + word
            rows = together * beams
            own = state_bytes * config.decoder_layers * 2 * config.d_model * seen
            steps.append(Step(rows * decoder_flop(config, seen), weights + cross + rows * own))
    return steps


# Gemma 2: `config` is Transformers' Gemma2Config.


def layer_parameters(config: Any) -> float:
    """Weights of all layers, but for norms."""
    width, heads = config.hidden_size, config.num_attention_heads
    attention = config.head_dim * (2 * heads + 2 * config.num_key_value_heads)
    return config.num_hidden_layers * width * (attention + 3 * config.intermediate_size)


def text_flop(config: Any, tokens: int, before: int) -> float:
    """Operations of the layers for the tokens of a text.

    Sliding windows don't count: they are longer than any prompt here.

    Args:
        config: The model's dimensions.
        tokens: Of the text; each attends to itself and what stands before it.
        before: Tokens before the text whose keys and values are known.
    """
    pairs = tokens * before + tokens * (tokens + 1) / 2
    attention = 2 * 2 * config.num_attention_heads * config.head_dim * pairs
    return 2 * layer_parameters(config) * tokens + config.num_hidden_layers * attention


def classification(
    config: Any,
    before: int,
    groups: Iterable[Sequence[int]],
    *,
    weight_bytes: float,
    state_bytes: float = 2.0,
) -> list[Step]:
    """What it takes to judge texts by the state of their last token.

    Args:
        config: The model's dimensions.
        before: Tokens that all texts share, computed once.
        groups: Tokens of each text, of those that go together.
        weight_bytes: Bytes of a weight.
        state_bytes: Bytes of a key's or value's number.
    """
    weights = weight_bytes * layer_parameters(config)
    kept = state_bytes * 2 * config.num_key_value_heads * config.head_dim
    shared = config.num_hidden_layers * kept * before
    steps = [Step(text_flop(config, before, 0), weights)]
    for group in groups:
        flop = sum(text_flop(config, tokens, before) for tokens in group)
        steps.append(Step(flop, weights + shared))
    return steps
