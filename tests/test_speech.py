"""Transcription with the demo's model through WhisperX, on speech that is really spoken."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from earmark import REPOSITORY
from earmark.errors import EarmarkError
from earmark.media import decode_audio
from earmark.speech import AsrSettings, Recogniser, transcribe_archive
from earmark.tables import MANIFEST, TRANSCRIPTS, read_provenance, read_table, write_table

DEMO = REPOSITORY / "demo"
MODEL = DEMO / "models/whisper-demo"
EXPECTED = json.loads((DEMO / "expected.json").read_text(encoding="utf-8"))
SETTINGS = AsrSettings(
    name="demo", model=str(MODEL), device="cpu", compute_type="float32", batch_size=4, threads=2
)


@pytest.fixture(scope="session")
def recogniser() -> Recogniser:
    return Recogniser(SETTINGS)


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The members of the demo's small archive, by ordinal."""
    folder = tmp_path_factory.mktemp("clips")
    with tarfile.open(DEMO / "archives" / EXPECTED["small"]) as archive:
        files = [member for member in archive if member.isreg()]
        for ordinal, member in enumerate(files):
            content = archive.extractfile(member)
            assert content is not None
            (folder / str(ordinal)).write_bytes(content.read())
    return {ordinal: folder / str(ordinal) for ordinal in range(len(files))}


def spoken(language: str) -> dict:
    """The longest clip of the small archive in a language."""
    members = EXPECTED["archives"][EXPECTED["small"]]["members"]
    return max(
        (member for member in members if member["language"] == language),
        key=lambda member: len(member["text"]),
    )


@pytest.mark.parametrize("language", ["en", "es"])
def test_a_clip_is_transcribed_in_the_language_it_is_spoken_in(
    recogniser: Recogniser, clips: dict[int, Path], language: str
) -> None:
    member = spoken(language)
    transcript = recogniser.transcribe(decode_audio(clips[member["ordinal"]]))
    assert transcript.language == language
    assert transcript.language_probability is not None
    assert transcript.language_probability > 0.5
    words, heard = member["text"].split(), transcript.text.split()
    assert len(set(words) & set(heard)) >= 0.8 * len(set(words))


def test_the_text_is_that_of_all_segments_in_order(
    recogniser: Recogniser, clips: dict[int, Path]
) -> None:
    one = decode_audio(clips[spoken("en")["ordinal"]])
    pause = np.zeros(20 * 16_000, np.float32)
    transcript = recogniser.transcribe(np.concatenate([one, pause, one, pause, one]))
    assert len(transcript.segments) >= 2
    assert transcript.text == " ".join(segment.text for segment in transcript.segments)
    times = [(segment.start, segment.end) for segment in transcript.segments]
    assert times == sorted(times)
    assert all(0 <= start < end for start, end in times)
    assert transcript.text.count(spoken("en")["text"].split()[0]) >= 3


def test_confidence_is_the_token_weighted_mean_over_the_segments(
    recogniser: Recogniser, clips: dict[int, Path]
) -> None:
    transcript = recogniser.transcribe(decode_audio(clips[spoken("en")["ordinal"]]))
    assert transcript.confidence is not None
    logprobs = [segment.avg_logprob for segment in transcript.segments]
    assert np.exp(min(logprobs)) <= transcript.confidence + 1e-9
    assert transcript.confidence <= np.exp(max(logprobs)) + 1e-9
    assert 0 <= (transcript.no_speech_probability or 0) <= 1


def test_the_words_are_those_that_whisperx_itself_finds(
    recogniser: Recogniser, clips: dict[int, Path]
) -> None:
    audio = decode_audio(clips[spoken("en")["ordinal"]])
    theirs = recogniser._pipeline.transcribe(audio, batch_size=4)
    ours = recogniser.transcribe(audio)
    assert ours.language == theirs["language"]
    assert [segment.text for segment in ours.segments] == [
        segment["text"].strip() for segment in theirs["segments"]
    ]
    for our, their in zip(ours.segments, theirs["segments"], strict=True):
        assert our.avg_logprob == pytest.approx(their["avg_logprob"], abs=1e-4)


def test_the_size_of_a_batch_does_not_change_the_words(clips: dict[int, Path]) -> None:
    one = decode_audio(clips[spoken("en")["ordinal"]])
    audio = np.concatenate([one, np.zeros(20 * 16_000, np.float32)] * 3)
    texts = {
        Recogniser(AsrSettings(**{**vars(SETTINGS), "batch_size": size})).transcribe(audio).text
        for size in (1, 2, 16)
    }
    assert len(texts) == 1


@pytest.mark.parametrize(
    "audio",
    [
        np.zeros(0, np.float32),
        np.zeros(1, np.float32),
        np.zeros(160_000, np.float32),
        np.full(160_000, 0.5, np.float32),
        np.sin(np.arange(160_000) * 0.17).astype(np.float32) * 0.5,
    ],
    ids=["empty", "one sample", "silence", "constant", "tone"],
)
def test_a_clip_without_speech_has_no_text_and_no_language(
    recogniser: Recogniser, audio: np.ndarray
) -> None:
    transcript = recogniser.transcribe(audio)
    assert (transcript.text, transcript.language, transcript.segments) == ("", None, ())


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40_000), st.floats(0, 1))
def test_noise_of_any_length_and_loudness_is_survived(
    recogniser: Recogniser, seed: int, samples: int, loudness: float
) -> None:
    noise = np.random.default_rng(seed).standard_normal(samples) * loudness
    transcript = recogniser.transcribe(noise.clip(-1, 1).astype(np.float32))
    assert transcript.speech_seconds <= samples / 16_000 + 0.1


def manifest(folder: Path, rows: list[dict]) -> Path:
    path = folder / "manifest.parquet"
    whole = [
        {
            "archive": "a.tar",
            "ordinal": ordinal,
            "member": f"{ordinal}.mp3",
            "source_bytes": 1,
            "status": "ok",
            "selected": True,
            "inclusion_probability": 1.0,
        }
        | row
        for ordinal, row in enumerate(rows)
    ]
    write_table(path, MANIFEST, whole, {"archive_status": "partial", "archive_error": "cut"})
    return path


def test_a_broken_file_is_a_failed_row_among_good_ones(
    tmp_path: Path, clips: dict[int, Path]
) -> None:
    (tmp_path / "broken").write_bytes(b"OggS" + b"\0" * 5000)
    source = manifest(
        tmp_path,
        [{"opus_path": str(clips[spoken("en")["ordinal"]])}, {"opus_path": "broken"}],
    )
    transcribe_archive(source, tmp_path / "out.parquet", tmp_path, SETTINGS)
    good, bad = read_table(tmp_path / "out.parquet", TRANSCRIPTS).to_pylist()
    assert good["status"] == "ok"
    assert good["text"]
    assert (bad["status"], bad["text"]) == ("failed", None)
    assert bad["error"]


def test_only_clips_that_are_ok_selected_and_no_duplicate_are_transcribed(
    tmp_path: Path, clips: dict[int, Path]
) -> None:
    clip = str(clips[spoken("es")["ordinal"]])
    source = manifest(
        tmp_path,
        [
            {"status": "failed", "selected": False},
            {"opus_path": clip, "selected": False},
            {"duplicate_of": 3},
            {"opus_path": clip},
        ],
    )
    transcribe_archive(source, tmp_path / "out.parquet", tmp_path, SETTINGS)
    rows = read_table(tmp_path / "out.parquet", TRANSCRIPTS).to_pylist()
    assert [row["ordinal"] for row in rows] == [3]


def test_an_archive_without_clips_needs_no_model(tmp_path: Path) -> None:
    nowhere = AsrSettings(name="x", model="/nowhere")
    transcribe_archive(manifest(tmp_path, []), tmp_path / "out.parquet", tmp_path, nowhere)
    assert read_table(tmp_path / "out.parquet", TRANSCRIPTS).num_rows == 0


def test_a_transcript_tells_what_made_it_and_the_archives_status(
    tmp_path: Path, clips: dict[int, Path]
) -> None:
    source = manifest(tmp_path, [{"opus_path": str(clips[spoken("es")["ordinal"]])}])
    transcribe_archive(source, tmp_path / "out.parquet", tmp_path, SETTINGS)
    facts = read_provenance(tmp_path / "out.parquet")
    assert (facts["model"], facts["model_revision"]) == (str(MODEL), "")
    assert facts["compute_type"] == "float32"
    assert (facts["archive_status"], facts["archive_error"]) == ("partial", "cut")
    assert float(facts["seconds"]) > 0


def test_an_audio_file_that_vanished_is_no_bad_file_but_stops_the_job(tmp_path: Path) -> None:
    source = manifest(tmp_path, [{"opus_path": "audio/gone.opus"}])
    with pytest.raises(EarmarkError, match=r"gone\.opus is in the manifest but not on the volume"):
        transcribe_archive(source, tmp_path / "out.parquet", tmp_path, SETTINGS)
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "/nowhere"}, r"asr\.model names the folder /nowhere"),
        ({"model": "no-such-model"}, "'no-such-model', which is neither a Whisper model"),
        ({"compute_type": "int4"}, r"cannot be loaded .*asr\.compute_type"),
        ({"device": "cuda"}, r"asr\.device is 'cuda', but this machine has no usable CUDA"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_explained(change: dict, message: str) -> None:
    with pytest.raises(EarmarkError, match=message):
        Recogniser(AsrSettings(**{**vars(SETTINGS), **change}))


def test_no_figure_about_the_clips_is_reported_to_anyone(recogniser: Recogniser) -> None:
    from pyannote.audio.telemetry.metrics import is_metrics_enabled

    assert not is_metrics_enabled()
