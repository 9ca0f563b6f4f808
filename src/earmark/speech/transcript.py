"""What was said in a clip, put together from what was heard in its windows."""

import math
import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from earmark.speech.preparation import Window
from earmark.speech.recognition import Hypothesis, Language

#: From where on Whisper itself takes its words for a loop, for guesses, and for none at all.
#: Source: https://github.com/openai/whisper/blob/main/whisper/transcribe.py, the defaults of
#: ``compression_ratio_threshold``, ``logprob_threshold`` and ``no_speech_threshold``.
LOOP_RATIO, GUESS_LOGPROB, SILENCE_PROBABILITY = 2.4, -1.0, 0.6


class Heard(NamedTuple):
    """A window, or a part of one, and what was heard in it."""

    window: Window
    language: Language
    hypothesis: Hypothesis


@dataclass(frozen=True)
class Segment:
    """What was said in one window of speech, or in a part of one in a single language.

    Attributes:
        start: Seconds from the clip's beginning.
        end: Seconds from the clip's beginning.
        text: The words, without surrounding space.
        language: ISO 639-1 code.
        avg_logprob: Mean log-probability of the tokens, the end token included; None if there is
            none.
        doubt: Why the words may not have been spoken, as :attr:`Transcript.doubt`.
    """

    start: float
    end: float
    text: str
    language: str
    avg_logprob: float | None
    doubt: str | None


@dataclass(frozen=True)
class LanguageShare:
    """How much of a clip is in a language.

    Attributes:
        language: ISO 639-1 code.
        share: Of the seconds of speech, 0 to 1.
    """

    language: str
    share: float


@dataclass(frozen=True)
class Transcript:
    """What was said in one clip.

    Attributes:
        text: All segments; empty without speech.
        language: ISO 639-1 code of the language with the largest share; None without speech.
        language_probability: 0 to 1, of the segment in that language with the most speech; 1 if
            the language was given.
        languages: All languages, the one with the largest share first; None without speech.
        confidence: exp of the token-weighted mean log-probability, 0 to 1.
        no_speech_probability: Whisper's own doubt that there is speech, 0 to 1, averaged
            over the segments by their length.
        compression_ratio: Of the segment that zlib makes smallest. None without text.
        doubt: Why words may not have been spoken, of any segment, joined by commas:
            ``repeated text`` (a compression ratio above 2.4), ``unlikely words`` (a mean
            log-probability below -1) and ``perhaps no speech`` (a probability above 0.6), by
            Whisper's own thresholds; ``cut off`` (more tokens than may be:
            :data:`earmark.speech.decoding.LIMITS`).  None if nothing is doubtful.
        speech_seconds: Seconds that the voice activity detection calls speech.
        segments: In order.
    """

    text: str = ""
    language: str | None = None
    language_probability: float | None = None
    languages: tuple[LanguageShare, ...] | None = None
    confidence: float | None = None
    no_speech_probability: float | None = None
    compression_ratio: float | None = None
    doubt: str | None = None
    speech_seconds: float = 0.0
    segments: tuple[Segment, ...] = ()


def put_together(heard: Sequence[Heard]) -> Transcript:
    """What was said in a whole clip.

    Args:
        heard: In the order of the clip; empty if nobody speaks.
    """
    if not heard:
        return Transcript()
    hypotheses = [each.hypothesis for each in heard]
    tokens = sum(each.tokens for each in hypotheses)
    logprob = sum(each.logprob for each in hypotheses)
    speech_seconds = sum(each.window.speech_seconds for each in heard)
    seconds: defaultdict[str, float] = defaultdict(float)
    for each in heard:
        seconds[each.language.code] += each.window.speech_seconds
    by_share = sorted(seconds, key=lambda code: -seconds[code])
    telling = max(
        (each for each in heard if each.language.code == by_share[0]),
        key=lambda each: each.window.speech_seconds,
    )
    return Transcript(
        text=" ".join(each.text for each in hypotheses if each.text),
        language=telling.language.code,
        language_probability=telling.language.probability,
        languages=tuple(LanguageShare(code, seconds[code] / speech_seconds) for code in by_share),
        confidence=math.exp(min(0.0, logprob / tokens)) if tokens else None,
        no_speech_probability=float(
            np.average(
                [each.no_speech_probability for each in hypotheses],
                weights=[each.window.end - each.window.start for each in heard],
            )
        ),
        compression_ratio=max(
            (compression_ratio(each.text) for each in hypotheses if each.text), default=None
        ),
        doubt=_doubt(hypotheses),
        speech_seconds=speech_seconds,
        segments=tuple(
            Segment(
                start=round(each.window.start, 3),
                end=round(each.window.end, 3),
                text=each.hypothesis.text,
                language=each.language.code,
                avg_logprob=_mean_logprob(each.hypothesis),
                doubt=_doubt([each.hypothesis]),
            )
            for each in heard
        ),
    )


def _mean_logprob(hypothesis: Hypothesis) -> float | None:
    return hypothesis.logprob / hypothesis.tokens if hypothesis.tokens else None


def _doubt(hypotheses: Sequence[Hypothesis]) -> str | None:
    written = [each for each in hypotheses if each.text]
    signs = {
        "repeated text": (compression_ratio(each.text) > LOOP_RATIO for each in written),
        "unlikely words": ((_mean_logprob(each) or 0) < GUESS_LOGPROB for each in written),
        "cut off": (each.is_cut for each in written),
        "perhaps no speech": (each.no_speech_probability > SILENCE_PROBABILITY for each in written),
    }
    return ", ".join(reason for reason, holds in signs.items() if any(holds)) or None


def compression_ratio(text: str) -> float:
    """How many times smaller zlib makes a text; a loop of the decoder gives more than 2.4.

    Source: Whisper and faster-whisper (``get_compression_ratio``).
    """
    content = text.encode()
    return len(content) / len(zlib.compress(content))
