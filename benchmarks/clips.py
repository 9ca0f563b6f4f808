"""Clips to measure with: speech by espeak-ng and synthesised music, as stereo MP3.

Knows how to make sound that costs a codec what real clips cost: many voices, chords and
percussion, and channels that differ. The same seed makes the same clips with the same
versions of espeak-ng and FFmpeg.
"""

import functools
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from demo.training import sentences

Audio = npt.NDArray[np.floating]
Kind = Literal["speech", "music"]

KINDS: tuple[Kind, ...] = ("speech", "music")
SAMPLE_RATE = 44_100
SECONDS = 60
MP3_BITS_PER_SECOND = 64_000

_VOICES = {"en": ("en-us", "en-gb", "en-gb-scotland"), "es": ("es", "es-419")}
_VARIANTS = ("", "+m2", "+m3", "+m7", "+f2", "+f3", "+f5")
_SPEEDS = (120, 210)  # words per minute
_PITCHES = (25, 75)  # on espeak-ng's scale of 0 to 99
_LOUDEST = 0.95


def write_clip(kind: Kind, seed: int, path: Path) -> None:
    """Make one clip of a minute: MP3, 44.1 kHz, stereo, 64 kb/s.

    Args:
        kind: What is heard in it.
        seed: Another one makes another clip.
        path: The file to write.

    Raises:
        FileNotFoundError: there is no program named espeak-ng or ffmpeg.
        subprocess.CalledProcessError: one of them failed.
    """
    makers: dict[Kind, Callable[[int], Audio]] = {"speech": _speech, "music": _music}
    audio = makers[kind](seed)
    _write_mp3(_LOUDEST * audio / np.abs(audio).max(), path)


def _write_mp3(audio: Audio, path: Path) -> None:
    raw = ["-f", "f32le", "-ar", str(SAMPLE_RATE), "-ac", "2", "-i", "-"]
    mp3 = ["-c:a", "libmp3lame", "-b:a", str(MP3_BITS_PER_SECOND), str(path)]
    command = ["ffmpeg", "-loglevel", "error", "-y", *raw, *mp3]
    subprocess.run(command, check=True, input=np.ascontiguousarray(audio.T).tobytes())


def _speech(seed: int) -> Audio:
    """Somebody in a room, a little off the middle; float of shape (2, samples)."""
    rng = random.Random(seed)
    noise = np.random.default_rng(seed)
    language = rng.choice(["en", "en", "en", "es"])
    voice = rng.choice(_VOICES[language]) + rng.choice(_VARIANTS)
    kinds = [kind for kind in sentences.KINDS if sentences.language(kind) == language]
    pool = [sentence for kind in kinds for sentence in sentences.sentences(kind)]
    needed = SECONDS * SAMPLE_RATE
    parts: list[Audio] = []
    while sum(map(len, parts)) < needed:
        text = ". ".join(rng.choice(pool) for _ in range(20))
        parts.append(_spoken(text, voice, rng.randint(*_SPEEDS), rng.randint(*_PITCHES)))
    spoken = np.concatenate(parts)[:needed]
    spoken /= np.abs(spoken).max()
    sides = []
    for _ in range(2):
        side = rng.uniform(0.7, 1.0) * spoken
        for _ in range(3):  # off the walls, at other times for each ear
            delay = rng.randint(20, 2000)
            side[delay:] += rng.uniform(0.02, 0.15) * spoken[:-delay]
        sides.append(side + 10 ** rng.uniform(-3.2, -2.5) * noise.standard_normal(needed))
    return np.stack(sides).astype(np.float32)


def _spoken(text: str, voice: str, speed: int, pitch: int) -> Audio:
    """What espeak-ng says, mono at our sample rate."""
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", text]
    wav = subprocess.run(command, check=True, capture_output=True).stdout
    # A WAV header of 44 bytes; espeak-ng speaks at 22.05 kHz, half our rate.
    samples = np.frombuffer(wav[44:], "<i2") / 32768
    return np.interp(np.arange(2 * len(samples)) / 2, np.arange(len(samples)), samples)


def _music(seed: int) -> Audio:
    """Chords, bass and drums at places between left and right; float of shape (2, samples)."""
    rng = np.random.default_rng(seed)
    song = np.zeros((2, SECONDS * SAMPLE_RATE), np.float32)
    beat = 60 / rng.uniform(80, 150)  # seconds
    root = 110 * 2 ** (rng.integers(0, 12) / 12)
    chords = [(0, 4, 7, 11), (9, 12, 16, 19), (5, 9, 12, 16), (7, 11, 14, 17)]
    places = rng.uniform(0.1, 0.9, 8)  # 0 is left
    for count in range(int(SECONDS / beat)):
        at = count * beat
        chord = chords[count // 4 % 4]
        if count % 2 == 0:
            for voice, step in enumerate(chord):
                tone = _tone(2 * root * 2 ** (step / 12), 2.2 * beat, 9, 1.5)
                _add(song, 0.12 * tone, at, places[voice])
        _add(song, 0.3 * _tone(root / 2 * 2 ** (chord[0] / 12), beat, 5, 3.0), at, 0.5)
        melody = 4 * root * 2 ** (chord[rng.integers(4)] / 12)
        _add(song, 0.12 * _tone(melody, beat, 12, 4.0), at + rng.choice([0, 0.5]) * beat, places[4])
        _add(song, 0.5 * _kick(), at, 0.5)
        if count % 2:
            _add(song, 0.25 * _noise(rng, 0.18, 25), at, places[5])
        for part in range(4):
            _add(song, 0.08 * _noise(rng, 0.05, 80), at + part * beat / 4, places[6])
    return song


def _add(song: Audio, sound: Audio, at: float, place: float) -> None:
    """Mix a sound in at a time (s) and place (0 left, 1 right)."""
    start = int(at * SAMPLE_RATE)
    sound = sound[: max(0, song.shape[1] - start)]
    for side, gain in enumerate((np.sqrt(1 - place), np.sqrt(place))):
        song[side, start : start + len(sound)] += np.float32(gain) * sound


def _times(seconds: float) -> Audio:
    return np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE


@functools.lru_cache(maxsize=128)  # a song repeats itself
def _tone(hertz: float, seconds: float, harmonics: int, decay: float) -> Audio:
    """A plucked string, its higher harmonics fading faster."""
    times = _times(seconds)
    sound = np.zeros_like(times)
    for number in range(1, harmonics + 1):
        fading = np.exp(-decay * number**0.5 * times)
        sound += np.sin(2 * np.pi * hertz * number * 1.0005**number * times) * fading / number
    return np.asarray(sound * np.minimum(1, times * 200))


def _kick() -> Audio:
    times = _times(0.25)
    turns = 45 * times - 8 * np.exp(-30 * times)
    return np.asarray(np.sin(2 * np.pi * turns) * np.exp(-14 * times))


def _noise(rng: np.random.Generator, seconds: float, decay: float) -> Audio:
    times = _times(seconds)
    return np.asarray(rng.standard_normal(len(times)) * np.exp(-decay * times))
