"""Speech for the demo: sentences spoken by espeak-ng as 16 kHz mono audio.

The demo's archives and the training of its speech model share the few voices named
here, so that a model of two million parameters has a chance.  The module talks to
libespeak-ng itself (package ``espeak-ng`` on Debian), because the library reports
when each word begins, which its command line does not.

libespeak-ng keeps global state: use it from one thread per process.
"""

import ctypes
import ctypes.util
import functools
import random
import re
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from scipy.signal import resample_poly

SAMPLE_RATE = 16_000

_VARIANTS = ("", "+m3", "+f2")
#: espeak-ng's voices per language: a dialect (``en`` is British) and a variant of it.
VOICES: dict[str, list[str]] = {
    "en": [dialect + variant for dialect in ("en-us", "en") for variant in _VARIANTS],
    "es": [dialect + variant for dialect in ("es", "es-419") for variant in _VARIANTS],
}
#: Lowest and highest speed in words per minute, and pitch on espeak-ng's scale 0-99.
SPEEDS = (140, 180)
PITCHES = (35, 65)

# Constants of espeak-ng's speak_lib.h.
_OUTPUT_SYNCHRONOUS = 2
_EVENT_LIST_TERMINATED = 0
_EVENT_WORD = 1
_PARAMETER_RATE = 1
_PARAMETER_PITCH = 3
_CHARS_UTF8 = 1


class Voice(NamedTuple):
    """How a sentence is spoken: the arguments of `speak` that follow the text."""

    name: str
    speed: int
    pitch: int


class _Event(ctypes.Structure):
    """``espeak_EVENT`` of speak_lib.h."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    ]


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


class _Espeak:
    """libespeak-ng, initialised once; `run` returns what its callback was handed."""

    def __init__(self) -> None:
        name = ctypes.util.find_library("espeak-ng")
        if name is None:
            sys.exit("libespeak-ng is missing; on Debian: apt install espeak-ng")
        self._library = ctypes.CDLL(name)
        self._library.espeak_Synth.argtypes = [
            ctypes.c_char_p,
            ctypes.c_size_t,
            ctypes.c_uint,
            ctypes.c_int,
            ctypes.c_uint,
            ctypes.c_uint,
            ctypes.c_void_p,
            ctypes.c_void_p,
        ]
        self.rate: int = self._library.espeak_Initialize(_OUTPUT_SYNCHRONOUS, 0, None, 0)
        if self.rate <= 0:
            sys.exit("libespeak-ng finds no voices; on Debian: apt install espeak-ng-data")
        self._pieces: list[np.ndarray] = []
        self._word_starts: dict[int, int] = {}
        self._callback = _Callback(self._collect)  # ctypes needs it kept alive
        self._library.espeak_SetSynthCallback(self._callback)

    def _collect(self, wave: Any, length: int, events: Any) -> int:
        """What espeak-ng calls with each piece of audio and the events in it; 0: go on."""
        if wave and length > 0:
            self._pieces.append(np.ctypeslib.as_array(wave, (length,)).copy())
        index = 0
        while events[index].type != _EVENT_LIST_TERMINATED:
            if events[index].type == _EVENT_WORD:
                self._word_starts.setdefault(events[index].text_position - 1, events[index].sample)
            index += 1
        return 0

    def run(self, text: str, voice: Voice) -> tuple[np.ndarray, dict[int, int]]:
        """Audio at `rate` as int16, and where words begin: position in the text to sample."""
        self._pieces, self._word_starts = [], {}
        if self._library.espeak_SetVoiceByName(voice.name.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice named {voice.name!r}")
        self._library.espeak_SetParameter(_PARAMETER_RATE, voice.speed, 0)
        self._library.espeak_SetParameter(_PARAMETER_PITCH, voice.pitch, 0)
        encoded = text.encode()
        self._library.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, _CHARS_UTF8, None, None)
        if not self._pieces:
            raise ValueError(f"espeak-ng spoke nothing for {text!r}")
        return np.concatenate(self._pieces), self._word_starts


@functools.cache
def _espeak() -> _Espeak:
    return _Espeak()


def speak_words(text: str, voice: str, speed: int, pitch: int) -> tuple[np.ndarray, np.ndarray]:
    """Like `speak`, with the boundaries of the words.

    Returns:
        The audio, and an int64 array of one more sample index than there are words:
        word i sounds from boundary i to boundary i + 1.
    """
    engine = _espeak()
    spoken, starts = engine.run(text, Voice(voice, speed, pitch))
    audio = resample_poly(spoken.astype(np.float32) / 32768, SAMPLE_RATE, engine.rate)
    loud = np.flatnonzero(np.abs(audio) > 0.01 * np.abs(audio).max())
    first, last = int(loud[0]), int(loud[-1]) + 1
    starts = {0: 0} | {
        position: min(max(sample * SAMPLE_RATE // engine.rate - first, 0), last - first)
        for position, sample in starts.items()
        if position > 0
    }
    starts[len(text)] = last - first
    # espeak-ng reports one start for words that it runs together ("from the"): the
    # characters between two reported positions share their time evenly.
    word_positions = [match.start() for match in re.finditer(r"\S+", text)] + [len(text)]
    known = sorted(starts)
    boundaries = np.interp(word_positions, known, [starts[position] for position in known])
    return audio[first:last].astype(np.float32), boundaries.astype(np.int64)


def speak(text: str, voice: str, speed: int = 160, pitch: int = 50) -> np.ndarray:
    """One sentence as float32 mono audio at 16 kHz in -1..1, silence at its ends cut off.

    The same arguments give the same audio (with one version of espeak-ng, up to a few samples).

    Args:
        text: Words separated by blanks, in the language of the voice.
        voice: One of `VOICES`.
        speed: Words per minute, within `SPEEDS` for the demo's model to understand it.
        pitch: 0-99, within `PITCHES` likewise.
    """
    return speak_words(text, voice, speed, pitch)[0]


def random_voice(rng: random.Random, language: str) -> Voice:
    """A voice, speed and pitch for a language of `VOICES`: ``speak(text, *voice)``."""
    return Voice(rng.choice(VOICES[language]), rng.randint(*SPEEDS), rng.randint(*PITCHES))


def silence(seconds: float) -> np.ndarray:
    """Digital silence, float32 at 16 kHz."""
    return np.zeros(int(seconds * SAMPLE_RATE), dtype=np.float32)


def compose(
    rng: random.Random,
    sentences: Iterable[str],
    language: str = "en",
    seconds: float = 60.0,
    gaps: tuple[float, float] = (0.3, 1.5),
) -> tuple[np.ndarray, str]:
    """A clip in which one random voice says sentences in the order given.

    A random gap of silence precedes each sentence and follows the last; the clip ends
    before the first sentence that would not fit, so ``sentences`` may be endless.

    Args:
        rng: Where the voice and the gaps come from.
        sentences: What is said.
        language: A language of `VOICES`.
        seconds: Length that the clip may have at most.
        gaps: Shortest and longest gap in seconds.

    Returns:
        Float32 mono audio at 16 kHz, and the sentences in it joined by blanks.
    """
    voice = random_voice(rng, language)
    parts = [silence(rng.uniform(*gaps))]
    said: list[str] = []
    length = len(parts[0])
    for sentence in sentences:
        added = [speak(sentence, *voice), silence(rng.uniform(*gaps))]
        length += sum(map(len, added))
        if length > seconds * SAMPLE_RATE:
            break
        parts += added
        said.append(sentence)
    return np.concatenate(parts), " ".join(said)
