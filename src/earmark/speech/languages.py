"""In which language a window is heard, and where within a window the language changes.

WhisperX asks for the language of a file's first 30 s and hears all of it in that one: Whisper
then translates what is said in another language, leaves it out or repeats a word for ever.  Here
every window is asked, from the encoder's pass that its words need anyway.

**Which language.**  A clip's language is that of its window with the most speech, as that has the
most to go by.  Another window is heard in its own instead if that is clear
(:data:`SWITCH_PROBABILITY`) over enough speech (:data:`SWITCH_SECONDS`): a few words, names or a
song in between are more often mistaken for another language than they are in one.

**Where it changes.**  Voice activity detection fills windows up to 30 s whoever speaks, so a
change may lie within one, and Whisper may be sure of either language for the whole window.  But
the encoder's states of its first and last seconds, looked at by themselves, tell two languages
apart.  Only where these differ the pauses in between are tried: at the one before and after which
the states are surest the window is cut, and its parts pass the encoder anew.  It stays whole
unless both are then clearly in different languages.  One change is found in a window and no
second one, and none between people who leave each other no pause.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from earmark.speech.decoding import LANGUAGES
from earmark.speech.preparation import FRAMES, Features, Window
from earmark.speech.recognition import (
    STATES_A_SECOND,
    Language,
    Piece,
    Probabilities,
    Recogniser,
    states_of,
)
from earmark.speech.vad import Span

#: From which probability on, and over how much speech, a language is clear.
SWITCH_PROBABILITY = LANGUAGES["switch_probability"]
SWITCH_SECONDS = LANGUAGES["switch_seconds"]
#: How probable two languages must be, and of how many seconds at either end of a window, for a
#: change to be looked for.
HINT_PROBABILITY = LANGUAGES["hint_probability"]
HINT_SECONDS = LANGUAGES["hint_seconds"]

#: Whisper's spectrograms reach so far below their loudest value, and silence is this value.
#: Source: Whisper and WhisperX (``log_mel_spectrogram``): ``max(x, x.max() - 8)``, then
#: ``(x + 4) / 4``, of the logarithm to base 10, which is -10 for silence.
_RANGE = 8 / 4
_SILENCE = (-10 + 4) / 4


def best(found: Probabilities) -> Language:
    """The most probable language."""
    return Language(*max(found.items(), key=lambda each: each[1]))


def language_of(found: Probabilities, clip: str, speech_seconds: float) -> Language:
    """The language that a window is heard in.

    Args:
        found: The window's languages.
        clip: Code of its clip's language.
        speech_seconds: How much of the window is speech.
    """
    own = best(found)
    if own.probability >= SWITCH_PROBABILITY and speech_seconds >= SWITCH_SECONDS:
        return own
    return Language(clip, found.get(clip, 0.0))


def cut_at_changes(
    recogniser: Recogniser, windows: Sequence[Window], encoded: Any
) -> dict[int, tuple[Window, Window]]:
    """Windows of a batch that may hold two languages, in two parts.

    Args:
        recogniser: The model.
        windows: The batch.
        encoded: What the model's encoder made of it.

    Returns:
        The parts of each such window, by its place in the batch.  Whether they are in two
        languages shows when they pass the encoder by themselves.
    """
    if not recogniser.detects_languages:
        return {}
    tried = {row: pauses for row, each in enumerate(windows) if (pauses := _pauses(each))}
    ends = [piece for row in tried for piece in _ends(row, windows[row])]
    if not ends:
        return {}
    states = states_of(encoded)
    found = recogniser.detect_within(states, ends)
    parts = {}
    for row, first, last in zip(tried, found[::2], found[1::2], strict=True):
        if _contrast(first, last) < HINT_PROBABILITY:
            continue
        end = _state(windows[row].end - windows[row].start)
        contrasts = [
            _contrast(
                *recogniser.detect_within(states, [Piece(row, 0, at)]),
                *recogniser.detect_within(states, [Piece(row, at, end)]),
            )
            for at in map(_state, tried[row])
        ]
        strongest = int(np.argmax(contrasts))
        if contrasts[strongest] >= HINT_PROBABILITY:
            parts[row] = _cut(windows[row], tried[row][strongest])
    return parts


def are_two(parts: Sequence[Probabilities]) -> bool:
    """Whether the parts of a window are clearly in different languages."""
    return _contrast(*parts) >= SWITCH_PROBABILITY


def _contrast(one: Probabilities, other: Probabilities) -> float:
    """How sure it is that two pieces are in different languages, 0 to 1."""
    languages = best(one), best(other)
    if languages[0].code == languages[1].code:
        return 0.0
    return min(each.probability for each in languages)


def _pauses(window: Window) -> list[float]:
    """Pauses with enough speech before and after, in seconds from the window's beginning."""
    if window.end - window.start < 2 * HINT_SECONDS:
        return []
    spans = window.spans
    return [
        (before[1] + after[0]) / 2 - window.start
        for number, (before, after) in enumerate(pairwise(spans), 1)
        if min(_length(spans[:number]), _length(spans[number:])) >= SWITCH_SECONDS
    ]


def _ends(row: int, window: Window) -> Iterator[Piece]:
    length, end = _state(HINT_SECONDS), _state(window.end - window.start)
    yield Piece(row, 0, length)
    yield Piece(row, end - length, end)


def _state(seconds: float) -> int:
    return round(seconds * STATES_A_SECOND)


def _cut(window: Window, pause: float) -> tuple[Window, Window]:
    moment = window.start + pause
    before = [span for span in window.spans if span[0] < moment]
    return _part(window, before), _part(window, window.spans[len(before) :])


def _part(window: Window, spans: Sequence[Span]) -> Window:
    start, end = spans[0][0], spans[-1][1]
    first, last = (round((each - window.start) * 100) for each in (start, end))
    return Window(start, end, _length(spans), _excerpt(window.features, first, last), tuple(spans))


def _length(spans: Sequence[Span]) -> float:
    return sum(end - start for start, end in spans)


def _excerpt(features: Features, first: int, last: int) -> Features:
    """Some frames of a spectrogram, and silence behind them, as if there was no other sound."""
    kept = features[:, first:last]
    floor = kept.max() - _RANGE
    excerpt = np.full((len(features), FRAMES), max(_SILENCE, floor), np.float32)
    excerpt[:, : kept.shape[1]] = np.maximum(kept, floor)
    return excerpt
