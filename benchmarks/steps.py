"""What a batch of windows costs the speech model, part by part, here and on another GPU.

A part takes as long as its kernels' launches, whatever the batch, and from there on so much
for each window.  Both are measured on the device at hand, at its smallest and its largest
batch; batches between them show how far that can be trusted.  On another GPU launches take
as long, since the host makes them, and a window's time grows as its limit does: arithmetic for
the encoder, memory for what the decoder does.  That assumes the same share of the limit; a
smaller GPU reaches more of it, at the most all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks.roofline import Device
from benchmarks.transcribe import timed
from earmark.settings import AsrSettings
from earmark.speech.languages import best
from earmark.speech.preparation import FRAMES
from earmark.speech.recognition import Recogniser
from earmark.speech.vad import WINDOW_SECONDS

#: Seconds of each part of the model's work, by the windows of a batch.
Parts = Mapping[str, Mapping[int, float]]


@dataclass(frozen=True)
class Line:
    """What a part takes.

    Attributes:
        floor: Seconds whatever the batch.
        each: Seconds for each window.
    """

    floor: float
    each: float

    def at(self, batch: int) -> float:
        """Seconds for a batch of so many windows."""
        return self.floor + self.each * batch


def measure(settings: AsrSettings, sizes: Sequence[int], rounds: int = 3) -> Parts:
    """Time encoder, languages and decoder of batches of noise; the fastest round counts.

    Args:
        settings: The model and how it runs.
        sizes: Windows of each batch.
        rounds: How often each is timed, after one that isn't.
    """
    recogniser = Recogniser(settings)
    rng = np.random.default_rng(7)
    parts: dict[str, dict[int, float]] = {"encoder": {}, "languages": {}, "decoder": {}}
    for size in sizes:
        windows = list(rng.standard_normal((size, recogniser.mels, FRAMES)).astype(np.float32))
        taken = []
        for _ in range(rounds + 1):
            encoded, encoding = timed(partial(recogniser.encode, windows))
            found, telling = timed(partial(recogniser.detect_languages, encoded))
            codes = [best(each).code for each in found]
            spoken = [float(WINDOW_SECONDS)] * size
            _, decoding = timed(partial(recogniser.decode, encoded, codes, spoken))
            taken.append((encoding, telling, decoding))
        for part, seconds in zip(parts.values(), zip(*taken[1:], strict=True), strict=True):
            part[size] = min(seconds)
    return parts


def fit(seconds: Mapping[int, float]) -> Line:
    """The line through the smallest and the largest batch that were timed."""
    small, large = min(seconds), max(seconds)
    if small == large:
        return Line(0.0, seconds[small] / small)
    each = max(0.0, (seconds[large] - seconds[small]) / (large - small))
    return Line(max(0.0, seconds[small] - each * small), each)


def furthest_off(parts: Parts) -> float | None:
    """By what share of the measured time the lines miss a batch between, all parts together.

    Misses of parts add up, whatever their directions.  None if no batch between was timed.
    """
    sizes = sorted(next(iter(parts.values())))[1:-1]
    shares = []
    for size in sizes:
        missed = sum(abs(fit(part).at(size) - part[size]) for part in parts.values())
        shares.append(missed / sum(part[size] for part in parts.values()))
    return max(shares, default=None)


def elsewhere(part: str, line: Line, here: Device, there: Device) -> Line:
    """What a part takes on another device that reaches the same share of its limit.

    Args:
        part: A key of :data:`Parts`.
        line: What it takes here.
        here: The device that it was measured on.
        there: The other one.
    """
    slower = here.half / there.half if part == "encoder" else here.bandwidth / there.bandwidth
    return Line(line.floor, line.each * slower)
