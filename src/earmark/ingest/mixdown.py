"""Samples of any decoder as clean numbers, their channels mixed so that nothing is lost.

Knows signals alone.  Channels of opposite polarity, a common fault of cables and recorders,
would be silence as a mean; one voice among many silent channels would be next to silence.
"""

import math
from collections.abc import Sequence
from typing import cast

import numpy as np
import numpy.typing as npt

Block = npt.NDArray[np.float32]  # (channels, samples), full scale is 1
_Weights = npt.NDArray[np.float64]  # (channels,), or (channels, channels)

#: What silence counts as, in dB below full scale; 24 bits can tell 144.
SILENCE_DBFS = -150.0
#: A peak of less, in dB below full scale, is dither and rounding: no signal.
NO_SIGNAL_DBFS = -66.0

# Recommendation ITU-R BS.775-4, annex 4, table 2: from 3/2 to mono.  It leaves out the
# low-frequency channel.  What it doesn't know counts as a surround channel.
_WEIGHTS = {"FL": 0.7071, "FR": 0.7071, "FC": 1.0, "LFE": 0.0, "LFE2": 0.0}
_SURROUND = 0.5
_LEFT = {"FL", "BL", "SL", "FLC", "WL", "TFL", "TBL", "DL"}
_RIGHT = {"FR", "BR", "SR", "FRC", "WR", "TFR", "TBR", "DR"}
_CANCELLING = 0.5  # power of the mix, as a share of what channels with nothing in common have
_TOO_QUIET = 1 / 16  # power of the mix, as a share of the loudest channel's: 12 dB
_SILENT_CHANNEL = 0.01  # likewise of another channel's
_NO_SIGNAL = 10 ** (NO_SIGNAL_DBFS / 10)
_FADE_SECONDS = 0.02

_FULL_SCALE = {"u8": 2.0**7, "s16": 2.0**15, "s32": 2.0**31, "s64": 2.0**63, "flt": 1, "dbl": 1}
_LOUDEST = 2.0  # lossy decoders overshoot; what is louder was written in another scale
_NO_SAMPLE = 2.0**33  # beyond any scale
_FEW = 0.01  # of a block's samples


def decibels(amplitude: float) -> float:
    """An amplitude in dB relative to full scale, to a hundredth."""
    return round(max(20 * math.log10(max(amplitude, 1e-30)), SILENCE_DBFS), 2)


class Loudness:
    """How loud a signal is, added up block by block."""

    def __init__(self) -> None:
        """Of nothing yet."""
        self._energy = self._samples = self._peak = 0.0

    def add(self, block: Block) -> float:
        """Add the next block; returns its energy, the sum of all squares."""
        energy = float(np.vdot(block, block))
        self._energy += energy
        self._samples += block.size
        self._peak = max(self._peak, peak(block))
        return energy

    @property
    def rms_dbfs(self) -> float:
        """The root mean square over all samples of all channels, in dB below full scale."""
        return decibels(math.sqrt(self._energy / max(self._samples, 1)))

    @property
    def peak_dbfs(self) -> float:
        """The largest sample, likewise; above 0 in floating point."""
        return decibels(self._peak)


def peak(block: Block) -> float:
    """The largest amplitude; NaN if any sample is."""
    return max(float(block.max()), -float(block.min())) if block.size else 0.0


def as_float(samples: npt.NDArray[np.generic], sample_format: str, channels: int) -> Block:
    """A frame's samples with full scale at 1.

    Args:
        samples: As PyAV returns them: (channels, samples), or (1, channels x samples) packed.
        sample_format: FFmpeg's name, such as ``s16`` or ``fltp``.
        channels: How many there are.
    """
    kind = sample_format.removesuffix("p")
    if kind == sample_format:
        samples = samples.reshape(-1, channels).T
    if kind == "flt":
        return np.ascontiguousarray(samples, np.float32)
    offset = 128.0 if kind == "u8" else 0.0
    return ((samples.astype(np.float64) - offset) / _FULL_SCALE[kind]).astype(np.float32)


class Cleaner:
    """Makes numbers in -2..2 of whatever a file holds as floating point.

    Attributes:
        no_numbers: NaN samples, infinite ones and the like, which became 0.
        clipped: Samples that were far beyond full scale among others that weren't.
        gain: What all since is multiplied by, as it was written in another scale.
    """

    def __init__(self, is_lossy: bool) -> None:
        """Nothing is cleaned yet.

        Args:
            is_lossy: Whether a lossy decoder made the samples. They are in no other scale then:
                what is far too loud is a damaged packet, and says nothing of those behind it.
        """
        self.no_numbers = self.clipped = 0
        self.gain = 1.0
        self._is_lossy = is_lossy

    def clean(self, block: Block) -> Block:
        """The next block, which may be changed in place."""
        if self.gain == 1 and peak(block) <= _LOUDEST:
            return block
        bad = ~(np.abs(block) < _NO_SAMPLE)
        self.no_numbers += int(bad.sum())
        block[bad] = 0
        block *= np.float32(self.gain)
        beyond = int((np.abs(block) > _LOUDEST).sum())
        if beyond > _FEW * block.size and not self._is_lossy:
            louder = float(np.percentile(np.abs(block), 100 * (1 - _FEW / 10)))
            self.gain /= louder
            block /= np.float32(louder)
            beyond = int((np.abs(block) > _LOUDEST).sum())
        if beyond:
            self.clipped += beyond
            np.clip(block, -1, 1, out=block)
        return block


def _products(block: Block) -> _Weights:
    """Channels times channels, as means over time."""
    if len(block) == 2:  # BLAS is slower at this
        sums = np.array([[np.dot(one, other) for other in block] for one in block])
    else:
        sums = block @ block.T
    products: _Weights = sums.astype(np.float64) / max(block.shape[1], 1)
    return products


class Mixdown:
    """Mixes channels to one, block by block, so that they don't cancel each other.

    The weights are those of ITU-R BS.775 (of stereo: the mean), with the sum 1.  They stay while
    the mix has at least half of the power that it would have if the channels had nothing in common,
    and is no more than 12 dB below the loudest channel.  Else channels are inverted: the signs are
    those of the first principal component of the weighted channels, as in parametric coding of
    stereo (Faller and Baumgarte, "Binaural cue coding", 2003).  If silent channels make it quiet,
    they are left out.  New weights are faded in.

    Attributes:
        inverted: Whether channels were inverted in any block.
    """

    def __init__(self, channels: Sequence[str], sample_rate: int, side: str = "") -> None:
        """Nothing is mixed yet.

        Args:
            channels: FFmpeg's names of them.
            sample_rate: In Hz.
            side: ``left`` or ``right`` for that half of stereo.
        """
        other = {"left": _RIGHT, "right": _LEFT}.get(side, set())
        weights = np.array(
            [0.0 if name in other else _WEIGHTS.get(name, _SURROUND) for name in channels]
        )
        if not weights.any():  # the low frequencies alone, or a half without channels
            weights = np.ones(len(channels))
        here = np.array([float(name not in other) for name in channels])
        self._all: _Weights = here / here.sum() if here.any() else weights / weights.sum()
        self._plain: _Weights = weights / weights.sum()
        self._weights = self._plain
        self._fade = max(int(_FADE_SECONDS * sample_rate), 1)
        self._is_first = True
        self.inverted = False

    def mix(self, block: Block) -> Block:
        """The next block as one channel: (samples,)."""
        if len(self._plain) == 1:
            return cast(Block, block[0])
        former, self._weights = self._weights, self._fitting(_products(block))
        self.inverted |= bool((self._weights < 0).any())
        mixed: Block = self._weights.astype(np.float32) @ block
        if self._weights is not former and not self._is_first:
            start = block[:, : self._fade]
            fade = np.linspace(0, 1, start.shape[1], dtype=np.float32)
            mixed[: self._fade] += (1 - fade) * (
                (former - self._weights).astype(np.float32) @ start
            )
        self._is_first = False
        return mixed

    def _fitting(self, products: _Weights) -> _Weights:
        """Weights for a block with these products of its channels."""
        powers = products.diagonal()
        plain = self._plain
        least = max(_NO_SIGNAL, _SILENT_CHANNEL * powers.max())
        if powers[plain > 0].max() < least:  # a recorder's fourth track is no subwoofer
            plain = self._all
        loudest = powers[plain > 0].max()

        def fits(weights: _Weights) -> bool:
            power = weights @ products @ weights
            return bool(
                power >= _CANCELLING * (weights**2 @ powers) and power >= _TOO_QUIET * loudest
            )

        for weights in (self._weights, self._plain):
            if fits(weights):
                return weights
        audible = plain * (powers >= _SILENT_CHANNEL * loudest)
        for base in (plain, audible / audible.sum()):
            component = np.linalg.eigh(products * np.outer(base, base))[1][:, -1]
            signs = np.where(component * np.sign(component[np.argmax(powers * base)]) < 0, -1, 1)
            agreement = (signs * base * self._weights) @ powers
            chosen: _Weights = signs * base * (-1 if agreement < 0 else 1)
            if fits(chosen):
                break
        return chosen
