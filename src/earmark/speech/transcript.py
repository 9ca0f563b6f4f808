"""What was said in a clip, put together from what was heard in its windows."""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from earmark.speech.preparation import Window
from earmark.speech.recognition import Hypothesis, Language


@dataclass(frozen=True)
class Segment:
    """What was said in one window of speech.

    Attributes:
        start: Seconds from the clip's beginning.
        end: Seconds from the clip's beginning.
        text: The words, without surrounding space.
        avg_logprob: Mean log-probability of the tokens, the end token included; None if there is
            none.
    """

    start: float
    end: float
    text: str
    avg_logprob: float | None


@dataclass(frozen=True)
class Transcript:
    """What was said in one clip.

    Attributes:
        text: All segments; empty without speech.
        language: ISO 639-1 code; None without speech.
        language_probability: 0 to 1, of the window with the most speech; 1 if the language
            was given.
        confidence: exp of the token-weighted mean log-probability, 0 to 1.
        no_speech_probability: Whisper's own doubt that there is speech, 0 to 1, averaged
            over the windows by their length.
        compression_ratio: Of the segment that zlib makes smallest; Whisper itself takes more
            than 2.4 for a loop. None without text.
        speech_seconds: Seconds that the voice activity detection calls speech.
        segments: One per window, in order.
    """

    text: str = ""
    language: str | None = None
    language_probability: float | None = None
    confidence: float | None = None
    no_speech_probability: float | None = None
    compression_ratio: float | None = None
    speech_seconds: float = 0.0
    segments: tuple[Segment, ...] = ()


def put_together(
    windows: Sequence[Window], heard: Sequence[Hypothesis], language: Language | None
) -> Transcript:
    """What was said in a whole clip.

    Args:
        windows: The clip's windows of speech, in order.
        heard: What was heard in each.
        language: The clip's; None if it has no window.
    """
    if not windows or language is None:
        return Transcript()
    tokens, logprob = (sum(getattr(each, key) for each in heard) for key in ("tokens", "logprob"))
    doubts = [each.no_speech_probability for each in heard]
    return Transcript(
        text=" ".join(each.text for each in heard if each.text),
        language=language.code,
        language_probability=language.probability,
        confidence=math.exp(min(0.0, logprob / tokens)) if tokens else None,
        no_speech_probability=float(
            np.average(doubts, weights=[window.end - window.start for window in windows])
        ),
        compression_ratio=max(
            (compression_ratio(each.text) for each in heard if each.text), default=None
        ),
        speech_seconds=sum(window.speech_seconds for window in windows),
        segments=tuple(
            Segment(
                start=round(window.start, 3),
                end=round(window.end, 3),
                text=each.text,
                avg_logprob=each.logprob / each.tokens if each.tokens else None,
            )
            for window, each in zip(windows, heard, strict=True)
        ),
    )


def compression_ratio(text: str) -> float:
    """How many times smaller zlib makes a text; a loop of the decoder gives more than 2.4.

    Source: Whisper and faster-whisper (``get_compression_ratio``).
    """
    content = text.encode()
    return len(content) / len(zlib.compress(content))
