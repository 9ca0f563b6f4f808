"""How loud a clip is from moment to moment, for the picture beside the player."""

import threading
from functools import lru_cache
from pathlib import Path

import numpy as np

from earmark.ingest.media import MediaError, decoded

#: A picture needs no more: speech is loud below 4 kHz.
_SAMPLE_RATE = 8_000
#: So many moments are told apart while a clip is decoded, however long it is.
_MOMENTS = 1 << 15
#: Pictures that are kept, of a few kilobytes each.
_MOST_KEPT = 1_000
#: Decoding takes a core for seconds, and people's pages need it too.
_one_at_a_time = threading.Lock()


def peaks(path: Path, bins: int = 600) -> list[int]:
    """The loudest moment of each part of a clip.

    Clips are decoded one at a time, and what was found is kept for as long as the file is the
    same by its time and size. Memory does not depend on the clip's length.

    Args:
        path: Any audio file.
        bins: Into how many equal parts it is cut; a clip of fewer samples has fewer parts.

    Returns:
        For each part its largest amplitude, in percent of the clip's largest, rounded; all zero
        for silence, and empty if nothing can be decoded.

    Raises:
        OSError: the system refused to read.
    """
    found = path.stat()
    return list(_picture(path, found.st_mtime_ns, found.st_size, bins).peaks())


class _Picture:
    """Of a file as it was at a time, drawn when it is asked for first."""

    def __init__(self, path: Path, mtime_ns: int, size: int, bins: int) -> None:
        self._path, self._bins = path, bins
        self._peaks: list[int] | None = None

    def peaks(self) -> list[int]:
        """As :func:`peaks` returns them."""
        if self._peaks is None:
            with _one_at_a_time:
                if self._peaks is None:  # else somebody else has just asked for it
                    self._peaks = _drawn(self._path, self._bins)
        return self._peaks


_picture = lru_cache(_MOST_KEPT)(_Picture)


def _drawn(path: Path, bins: int) -> list[int]:
    try:
        loudness = _loudness(path)
    except MediaError:
        return []
    starts = np.linspace(0, len(loudness), min(bins, len(loudness)), endpoint=False).astype(int)
    highest = np.maximum.reduceat(loudness, starts)
    loudest = highest.max()
    # What dither and rounding leave of silence is not to look like speech.
    if loudest < 1e-4:
        return [0] * len(starts)
    percents: list[int] = np.rint(100 * highest / loudest).astype(int).tolist()
    return percents


def _loudness(path: Path) -> np.ndarray:
    """The largest amplitude of moments of equal length, a sample or more each: (moments,)."""
    moments = np.zeros(_MOMENTS, np.float32)
    length, samples = 1, 0  # of a moment; of all so far
    for part in decoded(path, _SAMPLE_RATE):
        while samples + len(part) > length * _MOMENTS:
            moments[: _MOMENTS // 2] = moments.reshape(-1, 2).max(axis=1)
            moments[_MOMENTS // 2 :] = 0
            length *= 2
        of = np.arange(samples, samples + len(part)) // length
        np.maximum.at(moments, of, np.abs(part))
        samples += len(part)
    return moments[: -(-samples // length)]
