"""How much a decoded Opus file sounds like its source: length, spectrum, clipping.

Knows signals alone.  It decodes by itself, in floating point and without mixing channels,
so that nothing of the code under test has a part in judging it.
"""

from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

Audio = npt.NDArray[np.floating]

SAMPLE_RATE = 48_000
#: Samples from here on are full scale: 16 bits can tell no louder one.
FULL_SCALE = 1 - 2**-15

_WINDOW = 2048  # samples, 43 ms
_HOP = 1024
_BANDS = 64
_LOWEST_HZ, _HIGHEST_HZ = 80.0, 10_000.0  # MP3 at 64 kb/s leaves nothing above
_FLOOR_DB = 60.0  # below the loudest band; what is quieter counts as silence


@dataclass(frozen=True)
class Fidelity:
    """An Opus file held against its source.

    Attributes:
        seconds_off: Difference of the lengths.
        correlation: Of both spectrograms, see `compare`; 1 is best.
        clipped: Share of the Opus file's samples at full scale.
        clipped_in_source: The same of the source.
    """

    seconds_off: float
    correlation: float
    clipped: float
    clipped_in_source: float


def compare(source: Path, opus: Path) -> Fidelity:
    """Decode both files at 48 kHz and compare them.

    The correlation is Pearson's, over all cells of two spectrograms of the channels' mean:
    Hann windows of 43 ms every 21 ms, power in 64 bands evenly spaced in log frequency from
    80 Hz to 10 kHz, in decibels, floored 60 dB below the loudest cell.

    Args:
        source: Any audio file.
        opus: What was made of it.
    """
    before, after = _decode(source), _decode(opus)
    samples = min(before.shape[1], after.shape[1])
    spectra = [_spectrogram(audio[:, :samples].mean(axis=0)) for audio in (before, after)]
    return Fidelity(
        seconds_off=abs(before.shape[1] - after.shape[1]) / SAMPLE_RATE,
        correlation=float(np.corrcoef(spectra[0].ravel(), spectra[1].ravel())[0, 1]),
        clipped=_share_at_full_scale(after),
        clipped_in_source=_share_at_full_scale(before),
    )


def _decode(path: Path) -> Audio:
    """All samples, float of shape (channels, samples)."""
    parts: list[Audio] = []
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        resampler = av.AudioResampler("fltp", stream.codec_context.layout, SAMPLE_RATE)
        for frame in container.decode(stream):
            frame.pts = None
            parts += [part.to_ndarray().astype(np.float32) for part in resampler.resample(frame)]
        parts += [part.to_ndarray().astype(np.float32) for part in resampler.resample(None)]
    return np.concatenate(parts, axis=1)


def _share_at_full_scale(audio: Audio) -> float:
    return float(np.mean(np.abs(audio) >= FULL_SCALE))


def _spectrogram(mono: Audio) -> npt.NDArray[np.float64]:
    """Decibels of shape (windows, bands)."""
    windows = np.lib.stride_tricks.sliding_window_view(mono, _WINDOW)[::_HOP]
    power = np.abs(np.fft.rfft(windows * np.hanning(_WINDOW).astype(np.float32))) ** 2
    edges = np.geomspace(_LOWEST_HZ, _HIGHEST_HZ, _BANDS + 1) * _WINDOW / SAMPLE_RATE
    starts = np.unique(edges.astype(int))
    bands = np.add.reduceat(power[:, : starts[-1]], starts[:-1], axis=1)
    decibels = 10 * np.log10(bands + 1e-12)
    return np.asarray(np.maximum(decibels, decibels.max() - _FLOOR_DB))
