"""Measure the demo's speech model on sentences it was not trained on.

The model is asked through WhisperX's own ``transcribe``, with its voice activity detection
and its windows of up to 30 s, the language unknown.
"""

import os
import random
from collections.abc import Sequence
from pathlib import Path

import jiwer
import numpy as np

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


def speech_accuracy(
    model_dir: Path = MODEL,
    compute_type: str = "float32",
    singles: int = 100,
    long_clips: int = 8,
    threads: int = 2,
    seed: int = 11,
) -> dict[str, float]:
    """Figures of the model on held-out sentences.

    Args:
        model_dir: The CTranslate2 folder.
        compute_type: CTranslate2's, such as "int8" or "float32".
        singles: Number of clips of one sentence, three in ten of them Spanish.
        long_clips: Number of English clips of 60 s of sentences.
        threads: CPU threads.
        seed: Of the choice of sentences, voices and pauses.

    Returns:
        Word error rates (errors per word of the reference) of the single sentences, all
        and per language, and of the long clips; the share of single sentences whose
        language was recognised; the segments found in silence, and the words in tones.
    """
    os.environ["PYANNOTE_METRICS_ENABLED"] = "false"
    import whisperx

    rng = random.Random(seed)
    pipeline = whisperx.load_model(
        str(model_dir), "cpu", compute_type=compute_type, language=None, threads=threads
    )

    def transcribe(audio: np.ndarray) -> tuple[str, str, int]:
        """Text, language and number of segments."""
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
    references, transcripts = zip(*pairs, strict=True)
    return float(jiwer.wer(list(references), list(transcripts)))
