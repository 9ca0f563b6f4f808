"""A real Whisper on people who really speak, held against what they said and against WhisperX."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest
from demo_clips import write_manifest
from real_speech import (
    NOVEL_TEXT,
    SAMPLE_RATE,
    TEXTS,
    Audio,
    announcement,
    novel,
    plain,
    silence,
    whisper_base,
)
from sounds import write_audio

from earmark.ingest.media import decode_audio, encode_opus
from earmark.settings import AsrSettings, EncodeSettings
from earmark.speech.transcribe import transcribe_archive
from earmark.tables import TRANSCRIPTS, read_table

pytestmark = [
    pytest.mark.slow,
    pytest.mark.needs(*(f"speech-{each}" for each in ("en", "es", "fr", "it", "novel", "ru"))),
]

Rows = dict[str, dict[str, Any]]


def noisy(audio: Audio) -> Audio:
    """With noise of a tenth of its power."""
    noise = np.random.default_rng(1).standard_normal(len(audio)) * np.sqrt(np.mean(audio**2) / 10)
    return (audio + noise).astype(np.float32)


def clips() -> dict[str, tuple[Audio, str, float]]:
    """Clips in one language: what is heard, what is said, and how many words may be wrong."""
    whole = {
        language: (announcement(language, "abouttotry"), TEXTS[language, "abouttotry"], limit)
        for language, limit in (("en", 0.1), ("es", 0.15), ("fr", 0.15), ("it", 0.2), ("ru", 0.25))
    }
    quiet, clipped, noise, late = (announcement(each, "nogo") for each in ("es", "it", "en", "fr"))
    return whole | {
        "novel": (novel(), NOVEL_TEXT, 0.15),
        # Of a voice so low the detectors miss the beginning.
        "quiet": (quiet * 10 ** (-40 / 20), TEXTS["es", "nogo"], 0.45),
        "clipped": ((clipped * 20).clip(-1, 1), TEXTS["it", "nogo"], 0.2),
        "noisy": (noisy(noise), TEXTS["en", "nogo"], 0.2),
        "silence-led": (np.concatenate([silence(12), late]), TEXTS["fr", "nogo"], 0.25),
    }


#: Clips in two languages, by what is said one after the other.
MIXED = {
    "windows of their own": [("ru", "abouttotry"), ("es", "abouttotry"), ("es", "nogo")],
    "both in one window": [("it", "nogo"), ("en", "nogo")],
    "a few words before many": [("en", "nogo"), ("fr", "abouttotry"), ("fr", "nogo")],
}


def mixed() -> dict[str, tuple[Audio, str, float]]:
    found = {}
    for name, said in MIXED.items():
        parts = [part for each in said for part in (announcement(*each), silence(0.5))]
        found[name] = (np.concatenate(parts), " ".join(TEXTS[each] for each in said), 0.3)
    return found


NAMES = ("en", "es", "fr", "it", "ru", "novel", "quiet", "clipped", "noisy", "silence-led")
LANGUAGES = dict(
    zip(NAMES, ("en", "es", "fr", "it", "ru", "en", "es", "it", "en", "fr"), strict=True)
)


@pytest.fixture(scope="module")
def model() -> Iterator[Path]:
    with whisper_base() as folder:
        yield folder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The clips as Opus, as the workflow encodes them."""
    folder = tmp_path_factory.mktemp("opus")
    found = {}
    for number, (name, (audio, _, _)) in enumerate((clips() | mixed()).items()):
        source = write_audio(folder / f"{number}.wav", audio, SAMPLE_RATE)
        found[name] = folder / f"{number}.opus"
        encode_opus(source, found[name], EncodeSettings())
    return found


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory, model: Path, files: dict[str, Path]) -> Rows:
    folder = tmp_path_factory.mktemp("ours")
    rows = [{"opus_path": str(path)} for path in files.values()]
    settings = AsrSettings(model=str(model), device="cpu", compute_type="float32", threads=1)
    transcribe_archive(
        write_manifest(folder / "manifest.parquet", rows),
        folder / "out.parquet",
        folder,
        settings,
        folder / "parts",
    )
    found = read_table(folder / "out.parquet", TRANSCRIPTS).to_pylist()
    return dict(zip(files, found, strict=True))


@pytest.fixture(scope="module")
def theirs(model: Path, files: dict[str, Path]) -> Rows:
    """WhisperX's own answers, by its defaults and the same model."""
    import whisperx

    pipeline = whisperx.load_model(str(model), "cpu", compute_type="float32", threads=1)
    return {
        name: pipeline.transcribe(decode_audio(path, SAMPLE_RATE), batch_size=16)
        for name, path in files.items()
        if name != "windows of their own"
    }


def text_of(answer: dict[str, Any]) -> str:
    return " ".join(segment["text"].strip() for segment in answer["segments"])


def word_error_rate(said: str, heard: str) -> float:
    return float(jiwer.wer(plain(said), plain(heard)))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_said_is_heard_in_its_language(name: str, ours: Rows) -> None:
    _, said, limit = clips()[name]
    heard = ours[name]
    assert heard["languages"] == [{"language": LANGUAGES[name], "share": 1.0}]
    assert heard["language_probability"] > 0.8
    assert word_error_rate(said, heard["text"]) <= limit, heard["text"]
    assert heard["doubt"] is None


@pytest.mark.parametrize("name", NAMES)
def test_the_text_is_whisperx_s_own(name: str, ours: Rows, theirs: Rows) -> None:
    assert ours[name]["text"] == text_of(theirs[name])
    assert ours[name]["language"] == theirs[name]["language"]


@pytest.mark.parametrize("name", MIXED)
def test_both_languages_of_a_clip_are_heard(name: str, ours: Rows) -> None:
    _, said, limit = mixed()[name]
    heard = ours[name]
    assert word_error_rate(said, heard["text"]) <= limit, heard["text"]
    spoken = list(dict.fromkeys(language for language, _ in MIXED[name]))
    assert list(dict.fromkeys(each["language"] for each in heard["segments"])) == spoken
    assert {each["language"] for each in heard["languages"]} == set(spoken)
    assert heard["language"] == heard["languages"][0]["language"]
    assert sum(each["share"] for each in heard["languages"]) == pytest.approx(1)


@pytest.mark.parametrize("name", ["both in one window", "a few words before many"])
def test_whisperx_loses_a_language_which_is_why_the_text_differs(
    name: str, ours: Rows, theirs: Rows
) -> None:
    _, said, limit = mixed()[name]
    assert ours[name]["text"] != text_of(theirs[name])
    assert word_error_rate(said, text_of(theirs[name])) > limit


def test_no_segment_ends_after_the_audio_does(
    ours: Rows, theirs: Rows, files: dict[str, Path]
) -> None:
    beyond = 0
    for name, path in files.items():
        seconds = len(decode_audio(path, SAMPLE_RATE)) / SAMPLE_RATE
        assert all(0 <= each["start"] < each["end"] <= seconds for each in ours[name]["segments"])
        if name in theirs:
            beyond += theirs[name]["segments"][-1]["end"] > seconds
    assert beyond  # WhisperX's own do
