"""What the demo's speech model is trained on: windows of spoken sentences with labels.

A few thousand utterances are spoken once and kept; windows are put together from them
anew for every step, as WhisperX cuts them: one or many sentences, pauses between them,
nothing but zeros behind.  Every random choice follows from a seed and the step.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer

from demo.training import sentences, speech, speech_model

#: Utterances kept per kind.  "words" are random sequences of a language's words: with
#: nothing to guess from, the model has to listen.
UTTERANCES = {
    "scams": 1000,
    "violent-threats": 1000,
    "harassment": 1000,
    "benign": 2000,
    "spanish": 1200,
    "english-words": 2000,
    "spanish-words": 500,
}
#: How often an English or Spanish window takes a sentence of each kind.
SHARES = {
    "en": {
        "scams": 0.2,
        "violent-threats": 0.2,
        "harassment": 0.18,
        "benign": 0.27,
        "english-words": 0.15,
    },
    "es": {"spanish": 0.8, "spanish-words": 0.2},
}
SPANISH_WINDOWS = 0.2
EMPTY_WINDOWS = 0.04
WORDS_PER_SEQUENCE = (3, 7)

#: Frame label and target that no loss counts.
IGNORED = -100


@dataclass(frozen=True)
class Utterance:
    """A spoken sentence.

    Attributes:
        audio: int16 at 16 kHz.
        tokens: One token id per word.
        boundaries: Samples at which the words begin, and the last one's end.
    """

    audio: np.ndarray
    tokens: list[int]
    boundaries: np.ndarray


@dataclass(frozen=True)
class Batch:
    """Windows of one length for one training step.

    Attributes:
        features: Log-Mel features, float32 (batch, 80, 2 * frames).
        offsets: Position of each window's first frame in the 30 s, int64 (batch,).
        inputs: Tokens the decoder reads, int64 (batch, length).
        targets: Tokens it should say next or `IGNORED`, int64 (batch, length).
        spans: First and last frame of each target word, int64 (batch, length, 2);
            -1 where the target is no word.
        frames: Token sounding in each frame, 0 for none, int64 (batch, frames).
    """

    features: torch.Tensor
    offsets: torch.Tensor
    inputs: torch.Tensor
    targets: torch.Tensor
    spans: torch.Tensor
    frames: torch.Tensor


def spoken_bank(
    tokenizer: Tokenizer, held_out: bool = False, scale: float = 1.0, seed: int = 1
) -> dict[str, list[Utterance]]:
    """Utterances per kind.

    Args:
        tokenizer: Gives the token ids.
        held_out: Speak the held-out sentences, and no sequences of words.
        scale: Share of `UTTERANCES` to speak.
        seed: Of the texts and the voices.
    """
    rng = random.Random(f"{seed} {held_out}")
    bank: dict[str, list[Utterance]] = {}
    for kind, count in UTTERANCES.items():
        language, text = _texts(kind, held_out)
        if held_out and kind not in sentences.KINDS:
            continue
        bank[kind] = []
        for _ in range(round(count * scale)):
            words = text(rng)
            audio, boundaries = speech.speak_words(words, *speech.random_voice(rng, language))
            tokens = speech_model.token_ids(tokenizer, words)
            bank[kind].append(Utterance((audio * 32767).astype(np.int16), tokens, boundaries))
    return bank


def _texts(kind: str, held_out: bool) -> tuple[str, Callable[[random.Random], str]]:
    """A kind's language and a function that picks a text of it."""
    if kind in sentences.KINDS:
        choices = sentences.split(kind)[held_out]
        return sentences.language(kind), lambda rng: rng.choice(choices)
    language = "es" if kind == "spanish-words" else "en"
    kinds = [each for each in sentences.KINDS if sentences.language(each) == language]
    words = sorted({w for each in kinds for text in sentences.split(each)[0] for w in text.split()})
    return language, lambda rng: " ".join(rng.choices(words, k=rng.randint(*WORDS_PER_SEQUENCE)))


def make_batch(
    bank: dict[str, list[Utterance]],
    tokenizer: Tokenizer,
    seed: int,
    size: int,
    seconds: int,
    augment: bool = True,
) -> Batch:
    """One step's windows, the same for the same seed.

    Windows shorter than 30 s stand at random positions within them.
    """
    rng = random.Random(seed)
    noise = np.random.default_rng(seed)
    frames = seconds * speech.SAMPLE_RATE // speech_model.SAMPLES_PER_FRAME
    audio = np.zeros((size, seconds * speech.SAMPLE_RATE), dtype=np.float32)
    labels = torch.zeros((size, frames), dtype=torch.int64)
    rows: list[tuple[list[int], list[int], list[tuple[int, int]]]] = []
    for row in range(size):
        language = "es" if rng.random() < SPANISH_WINDOWS else "en"
        if augment and rng.random() < EMPTY_WINDOWS:
            audio[row] = _tones(rng, noise, audio.shape[1])
            placed = []
        else:
            placed = _place(rng, bank, language, audio[row])
        if augment:
            _degrade(rng, noise, audio[row])
        spans, tokens = [], []
        for start, utterance in placed:
            edges = (start + utterance.boundaries) // speech_model.SAMPLES_PER_FRAME
            for token, first, last in zip(utterance.tokens, edges[:-1], edges[1:], strict=True):
                spans.append((int(first), min(int(last), frames - 1)))
                tokens.append(token)
                labels[row, first : last + 1] = token
        rows.append((*_dialogue(tokenizer, language, tokens), spans))
    features = speech_model.log_mel(torch.from_numpy(audio))
    if augment:
        _mask(rng, features)
    free = speech_model.ENCODER_FRAMES - frames
    offsets = [rng.choice((0, rng.randint(0, free))) for _ in range(size)]
    inputs, targets, spans = _pad(rows, tokenizer.token_to_id(speech_model.END))
    return Batch(features, torch.tensor(offsets), inputs, targets, spans, labels)


def _place(
    rng: random.Random, bank: dict[str, list[Utterance]], language: str, audio: np.ndarray
) -> list[tuple[int, Utterance]]:
    """Fill a window with sentences; returns each with the sample it begins at."""
    rate = speech.SAMPLE_RATE
    shares = {kind: share for kind, share in SHARES[language].items() if kind in bank}
    limit = rng.choice((1, 3, *6 * (1000,)))
    longest_gap = rng.choice((0.4, 1.0, 1.6, 3.0))
    position = int(rng.choice((rng.uniform(0.0, 0.1), rng.uniform(0.0, 1.0))) * rate)
    placed: list[tuple[int, Utterance]] = []
    while len(placed) < limit:
        kind = rng.choices(list(shares), list(shares.values()))[0]
        utterance = rng.choice(bank[kind])
        end = position + len(utterance.audio)
        if end > len(audio):
            break
        gain = rng.uniform(0.3, 1.3) / 32768
        audio[position:end] = utterance.audio.astype(np.float32) * gain
        placed.append((position, utterance))
        position = end + int(rng.uniform(0.15, longest_gap) * rate)
    return placed


def _tones(rng: random.Random, noise: np.random.Generator, samples: int) -> np.ndarray:
    """Something that is no speech: chords, noise, both or nothing."""
    time = np.arange(samples, dtype=np.float32) / speech.SAMPLE_RATE
    audio = np.zeros(samples, dtype=np.float32)
    for _ in range(rng.choice((0, 1, 3, 6))):
        first = rng.randrange(samples)
        last = min(samples, first + int(rng.uniform(0.3, 30.0) * speech.SAMPLE_RATE))
        tone = np.sin(2 * np.pi * rng.uniform(80, 3000) * time[first:last])
        audio[first:last] += rng.uniform(0.02, 0.3) * tone
    if rng.random() < 0.4:
        audio += noise.standard_normal(samples, dtype=np.float32) * rng.uniform(0.001, 0.1)
    return audio


def _degrade(rng: random.Random, noise: np.random.Generator, audio: np.ndarray) -> None:
    """Noise and a low-pass filter in place, for what codecs and telephones do."""
    heard = np.flatnonzero(audio)
    # WhisperX cuts a window where the speech ends and fills it with zeros; its language
    # detection doesn't cut.
    end = len(audio) if rng.random() < 0.3 or not len(heard) else int(heard[-1]) + 1
    if rng.random() < 0.6:
        level = 10 ** rng.uniform(-4.5, -2.3)
        audio[:end] += noise.standard_normal(end, dtype=np.float32) * level
    if rng.random() < 0.4:
        spectrum = np.fft.rfft(audio)  # of the whole window: its length is quick to transform
        frequencies = np.fft.rfftfreq(len(audio), 1 / speech.SAMPLE_RATE)
        cutoff = rng.uniform(3000, 7500)
        spectrum *= 1 / (1 + (frequencies / cutoff) ** 16)
        audio[:end] = np.fft.irfft(spectrum, len(audio))[:end]


def _mask(rng: random.Random, features: torch.Tensor) -> None:
    """Blank a few bands and a moment of some windows in place (SpecAugment)."""
    for window in features:
        if rng.random() < 0.4:
            band = rng.randrange(speech_model.MEL_BANDS - 8)
            window[band : band + rng.randint(1, 8)] = window.mean()
        if rng.random() < 0.3:
            moment = rng.randrange(window.shape[1] - 16)
            window[:, moment : moment + rng.randint(1, 16)] = window.mean()


def _dialogue(tokenizer: Tokenizer, language: str, words: list[int]) -> tuple[list[int], list[int]]:
    """The decoder's inputs and targets for a window's words.

    As in Whisper, the token after the start tells the language, or that there is no speech;
    the two after it are given, not predicted.
    """
    special = tokenizer.token_to_id
    prompt = [
        special(speech_model.START),
        special(f"<|{language}|>"),
        special(speech_model.TRANSCRIBE),
        special(speech_model.NO_TIMESTAMPS),
    ]
    detected = prompt[1] if words else special(speech_model.NO_SPEECH)
    targets = [detected, IGNORED, IGNORED, *words, special(speech_model.END)]
    return [*prompt, *words], targets


def _pad(
    rows: list[tuple[list[int], list[int], list[tuple[int, int]]]], padding: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Stack inputs, targets and spans of different lengths."""
    length = max(len(inputs) for inputs, _, _ in rows)
    stacked_inputs = torch.full((len(rows), length), padding)
    stacked_targets = torch.full((len(rows), length), IGNORED)
    stacked_spans = torch.full((len(rows), length, 2), -1)
    for row, (inputs, targets, spans) in enumerate(rows):
        stacked_inputs[row, : len(inputs)] = torch.tensor(inputs)
        stacked_targets[row, : len(targets)] = torch.tensor(targets)
        if spans:
            stacked_spans[row, 3 : 3 + len(spans)] = torch.tensor(spans)
    return stacked_inputs, stacked_targets, stacked_spans
