"""How loud a clip is from moment to moment, for the picture beside the player."""

from pathlib import Path

import numpy as np

from earmark.media import MediaError, decode_audio

#: A picture needs no more: speech is loud below 4 kHz.
_SAMPLE_RATE = 8_000


def peaks(path: Path, bins: int = 600) -> list[int]:
    """The loudest moment of each part of a clip.

    Args:
        path: Any audio file.
        bins: Into how many equal parts it is cut; a clip of fewer samples has fewer parts.

    Returns:
        For each part its largest amplitude, in percent of the clip's largest, rounded; all zero
        for silence, and empty if nothing can be decoded.

    Raises:
        OSError: the system refused to read.
    """
    try:
        loudness = np.abs(decode_audio(path, _SAMPLE_RATE))
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
