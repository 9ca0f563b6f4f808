"""Voice activity detection: where in a clip somebody speaks, in windows for Whisper.

The two detectors are those that WhisperX offers, with its thresholds: pyannote's, with the
weights from WhisperX's wheel (:mod:`earmark.speech.segmentation`), and Silero's, with the model in
faster-whisper's wheel (WhisperX would download it).  Regions of speech are merged into
windows of up to 30 s as WhisperX merges them.
"""

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from earmark.speech.decoding import VAD_OFFSET, VAD_ONSET

#: Whisper's input: 16 kHz, windows of at most 30 s.
SAMPLE_RATE = 16_000
WINDOW_SECONDS = 30

Audio = npt.NDArray[np.float32]
#: Start and end of something in a clip, in seconds.
Span = tuple[float, float]
#: Takes a clip's samples, shape [n], mono at 16 kHz; returns regions of speech in order.
Detector = Callable[[Audio], list[Span]]


class SpeechRegion(NamedTuple):
    """A window of a clip.

    Attributes:
        start: Seconds from the clip's beginning.
        end: Likewise; the window is no longer than 30 s.
        spans: The regions of speech in it.
    """

    start: float
    end: float
    spans: tuple[Span, ...]

    @property
    def speech_seconds(self) -> float:
        """How much of it is speech."""
        return sum(end - start for start, end in self.spans)

    def within(self, seconds: float) -> "SpeechRegion | None":
        """As much of it as lies within a clip of so many seconds; None if nothing does.

        The detectors look at whole frames, the last of which may reach beyond the audio.
        """
        spans = tuple((start, min(end, seconds)) for start, end in self.spans if start < seconds)
        return SpeechRegion(self.start, spans[-1][1], spans) if spans else None


def load_detector(vad: str, device: str) -> Detector:
    """Load a detector.

    Args:
        vad: ``pyannote`` or ``silero``.
        device: ``cuda`` or ``cpu``; Silero's model runs on the CPU in any case.
    """
    # ONNX Runtime, which Silero's needs and faster-whisper imports, reports what it is used for.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    return _pyannote(device) if vad == "pyannote" else _silero()


def _pyannote(device: str) -> Detector:
    from earmark.speech.segmentation import SegmentationModel, frame_middle

    model = SegmentationModel(device)

    def detect(audio: Audio) -> list[Span]:
        if not audio.size:
            return []
        scores = model.speech(audio).tolist()
        return regions_of(scores, [frame_middle(frame) for frame in range(len(scores))])

    return detect


def regions_of(scores: Sequence[float], middles: Sequence[float]) -> list[Span]:
    """Where speech is, by how probable it is in each frame.

    A region that gets too long is cut where its second half is least probable.

    Source: WhisperX (``whisperx.vads.pyannote.Binarize``).

    Args:
        scores: Probabilities.
        middles: Where each frame's middle is, in seconds.
    """
    regions: list[Span] = []
    start = middles[0]
    active = scores[0] > VAD_ONSET
    now, region = [scores[0]], [start]  # of the frames since its start
    for score, middle in zip(scores[1:], middles[1:], strict=True):
        if active:
            if middle - start > WINDOW_SECONDS:
                half = len(now) // 2
                cut = half + min(range(len(now) - half), key=now[half:].__getitem__)
                regions.append((start, region[cut]))
                start = region[cut]
                now, region = now[cut + 1 :], region[cut + 1 :]
            elif score < VAD_OFFSET:
                regions.append((start, middle))
                start, active = middle, False
                now, region = [], []
            now.append(score)
            region.append(middle)
        elif score > VAD_ONSET:
            start, active = middle, True
    if active:
        regions.append((start, middles[-1]))
    return [(start, end) for start, end in regions if end > start]


def _silero() -> Detector:
    from faster_whisper.vad import VadOptions, get_speech_timestamps

    # What WhisperX leaves to Silero: the defaults of its `get_speech_timestamps`
    # (https://github.com/snakers4/silero-vad), which are not faster-whisper's.
    options = VadOptions(
        threshold=VAD_ONSET,
        max_speech_duration_s=WINDOW_SECONDS,
        min_speech_duration_ms=250,
        min_silence_duration_ms=100,
        speech_pad_ms=30,
    )

    def detect(audio: Audio) -> list[Span]:
        if not audio.size:
            return []
        found = get_speech_timestamps(audio, options)
        return [(span["start"] / SAMPLE_RATE, span["end"] / SAMPLE_RATE) for span in found]

    return detect


def merge(regions: Sequence[Span]) -> list[SpeechRegion]:
    """Merge regions of speech into windows, each as long as 30 s allow.

    Source: WhisperX (https://arxiv.org/abs/2303.00747, section 3.2; ``Vad.merge_chunks``).

    Args:
        regions: In order; none is longer than 30 s.
    """
    windows: list[SpeechRegion] = []
    for start, end in regions:
        if windows and end - windows[-1].start <= WINDOW_SECONDS:
            last = windows.pop()
            windows.append(SpeechRegion(last.start, end, (*last.spans, (start, end))))
        else:
            windows.append(SpeechRegion(start, end, ((start, end),)))
    return windows
