"""Voice activity detection: where in a clip somebody speaks, in windows for Whisper.

The two detectors are those that WhisperX offers, with its thresholds: pyannote's, by
WhisperX's own code and with the weights from its wheel, and Silero's, with the model in
faster-whisper's wheel (WhisperX would download it).  Regions of speech are merged into
windows of up to 30 s as WhisperX merges them.
"""

import logging
import os
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from earmark.speech.decoding import VAD_OFFSET, VAD_ONSET

#: Whisper's input: 16 kHz, windows of at most 30 s.
SAMPLE_RATE = 16_000
WINDOW_SECONDS = 30

#: Variables that keep libraries from reporting to others what they are used for: pyannote
#: every clip's length, ONNX Runtime (which either detector loads) sessions and models.
NO_REPORTS = {"PYANNOTE_METRICS_ENABLED": "false", "ORT_DISABLE_TELEMETRY": "1"}

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
    for switch, value in NO_REPORTS.items():
        os.environ[switch] = value
    return _pyannote(device) if vad == "pyannote" else _silero()


def _pyannote(device: str) -> Detector:
    # pyannote's file reader lacks a library; it gets samples from us and reads no file.
    warnings.filterwarnings("ignore", message=r"\s*torchcodec is not installed")
    import torch
    from whisperx.vads.pyannote import Binarize, Pyannote

    for library in ("lightning.pytorch", "whisperx"):  # the former's import sets INFO
        logging.getLogger(library).setLevel(logging.ERROR)
    model = Pyannote(
        torch.device(device), vad_onset=VAD_ONSET, vad_offset=VAD_OFFSET, chunk_size=WINDOW_SECONDS
    )
    binarize = Binarize(max_duration=WINDOW_SECONDS, onset=VAD_ONSET, offset=VAD_OFFSET)

    def detect(audio: Audio) -> list[Span]:
        if not audio.size:
            return []
        waveform = model.preprocess_audio(audio)
        scores = model({"waveform": waveform, "sample_rate": SAMPLE_RATE})
        return [(turn.start, turn.end) for turn in binarize(scores).get_timeline()]

    return detect


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
