"""Measure the demo's speech model on sentences it was not trained on.

    python -m demo.accuracy_speech

Run from the repository's root.  The model is asked as the workflow asks any Whisper
model: through WhisperX with its voice activity detection, the language unknown.
"""

import argparse
import io
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import av
import numpy as np
import whisperx
from av.audio.stream import AudioStream

from demo.training import sentences, speech

MODEL = Path(__file__).resolve().parent / "models" / "whisper-demo"

#: WhisperX's default: speech is merged into windows of up to 30 s.
CHUNK_SECONDS = 30
LONG_CLIP_SECONDS = 60.0
SPANISH_SHARE = 0.3
#: Silence before and after a single sentence.
MARGIN_SECONDS = 0.5
#: A sustained chord, which is no speech.
CHORD_HERTZ = (220.0, 277.2, 329.6)
#: What an archive's audio typically went through: container, encoder, rate, bits per second.
CODECS = (("mp3", "libmp3lame", 24_000, 64_000), ("ogg", "libopus", 48_000, 48_000))


def speech_accuracy(
    model_dir: Path = MODEL,
    compute_type: str = "int8",
    singles: int = 100,
    long_clips: int = 8,
    codecs: bool = False,
    threads: int = 2,
    seed: int = 11,
) -> dict[str, float]:
    """Figures of the model on held-out sentences.

    Args:
        model_dir: The CTranslate2 folder.
        compute_type: CTranslate2's, such as "int8" or "float32".
        singles: Number of clips of one sentence, three in ten of them Spanish.
        long_clips: Number of English clips of 60 s of sentences.
        codecs: Send the audio through `CODECS` first.
        threads: CPU threads.
        seed: Of the choice of sentences, voices and pauses.

    Returns:
        Word error rates (errors per word of the reference) of the single sentences, all
        and per language, and of the long clips; the share of single sentences whose
        language was recognised; the segments found in silence, and the words in tones.
    """
    rng = random.Random(seed)
    pipeline = whisperx.load_model(
        str(model_dir), "cpu", compute_type=compute_type, language=None, threads=threads
    )

    def transcribe(audio: np.ndarray) -> tuple[str, str, int]:
        """Text, language and number of segments."""
        if codecs:
            audio = through_codecs(audio)
        result = pipeline.transcribe(audio, batch_size=8, chunk_size=CHUNK_SECONDS)
        segments = result["segments"]
        text = " ".join(segment["text"].strip() for segment in segments)
        return text, result["language"], len(segments)

    held_out = {
        language: [
            text
            for kind in sentences.KINDS
            if sentences.language(kind) == language
            for text in sentences.split(kind)[1]
        ]
        for language in speech.VOICES
    }
    margin = speech.silence(MARGIN_SECONDS)
    spanish = round(singles * SPANISH_SHARE)
    pairs: dict[str, list[tuple[str, str]]] = {}
    recognised = 0
    for language, count in (("en", singles - spanish), ("es", spanish)):
        pairs[language] = []
        for _ in range(count):
            reference = rng.choice(held_out[language])
            voice = speech.random_voice(rng, language)
            audio = np.concatenate([margin, speech.speak(reference, *voice), margin])
            text, heard_language, _ = transcribe(audio)
            pairs[language].append((reference, text))
            recognised += heard_language == language
    long_pairs = []
    for _ in range(long_clips):
        texts = rng.sample(held_out["en"], len(held_out["en"]))
        audio, reference = speech.compose(rng, texts, "en", LONG_CLIP_SECONDS)
        long_pairs.append((reference, transcribe(audio)[0]))
    time = np.arange(10 * speech.SAMPLE_RATE, dtype=np.float32) / speech.SAMPLE_RATE
    chord = np.sum([0.1 * np.sin(2 * np.pi * pitch * time) for pitch in CHORD_HERTZ], axis=0)
    return {
        "wer_single": word_error_rate([pair for each in pairs.values() for pair in each]),
        "wer_single_en": word_error_rate(pairs["en"]),
        "wer_single_es": word_error_rate(pairs["es"]),
        "language_accuracy": recognised / singles if singles else float("nan"),
        "wer_long": word_error_rate(long_pairs),
        "silence_segments": transcribe(speech.silence(10.0))[2],
        "tone_words": len(transcribe(chord.astype(np.float32))[0].split()),
    }


def word_error_rate(pairs: Sequence[tuple[str, str]]) -> float:
    """Substituted, missing and added words per word of the references.

    Args:
        pairs: Reference and transcript of each clip.
    """
    words = sum(len(reference.split()) for reference, _ in pairs)
    errors = sum(_edits(reference.split(), text.split()) for reference, text in pairs)
    return errors / words if words else float("nan")


def _edits(reference: list[str], heard: list[str]) -> int:
    """Levenshtein distance between two lists of words."""
    row = list(range(len(heard) + 1))
    for number, expected in enumerate(reference, start=1):
        diagonal, row[0] = row[0], number
        for column, word in enumerate(heard, start=1):
            cost = min(row[column] + 1, row[column - 1] + 1, diagonal + (word != expected))
            diagonal, row[column] = row[column], cost
    return row[-1]


def through_codecs(audio: np.ndarray) -> np.ndarray:
    """The audio after each of `CODECS`, float32 mono at 16 kHz again."""
    for container, encoder, rate, bits in CODECS:
        audio = _decode(_encode(audio, container, encoder, rate, bits))
    return audio


def _encode(audio: np.ndarray, container: str, encoder: str, rate: int, bits: int) -> io.BytesIO:
    encoded = io.BytesIO()
    with av.open(encoded, "w", format=container) as output:
        stream = cast(AudioStream, output.add_stream(encoder, rate=rate, layout="mono"))
        stream.bit_rate = bits
        samples = np.clip(audio * 32767, -32768, 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = speech.SAMPLE_RATE
        resampler = av.AudioResampler(
            stream.format.name, "mono", rate, stream.codec_context.frame_size or None
        )
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            part.pts = None
            output.mux(stream.encode(part))
        output.mux(stream.encode(None))
    encoded.seek(0)
    return encoded


def _decode(encoded: io.BytesIO) -> np.ndarray:
    resampler = av.AudioResampler("flt", "mono", speech.SAMPLE_RATE)
    with av.open(encoded, "r") as source:
        parts = [part for frame in source.decode(audio=0) for part in resampler.resample(frame)]
    parts += resampler.resample(None)
    return np.concatenate([part.to_ndarray()[0] for part in parts])


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=MODEL, help="CTranslate2 folder")
    parser.add_argument("--compute-type", default="int8", help="CTranslate2's compute type")
    parser.add_argument("--singles", type=int, default=100, help="clips of one sentence")
    parser.add_argument("--long-clips", type=int, default=8, help="clips of 60 s")
    parser.add_argument("--codecs", action="store_true", help="through MP3 and Opus first")
    options = parser.parse_args()
    figures = speech_accuracy(
        options.model, options.compute_type, options.singles, options.long_clips, options.codecs
    )
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}, indent=2))


if __name__ == "__main__":
    main()
