"""Archives of clips that are really spoken, transcribed by the demo's model."""

import logging
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from demo_clips import MEMBERS, MODEL, QUICK, extract_clips, spoken, write_manifest
from msgspec.structs import replace
from processes import children
from sounds import write_audio

from earmark.checkpoints import Checkpoint
from earmark.errors import EarmarkError
from earmark.gpu import GpuWatch
from earmark.ingest.media import decode_audio
from earmark.speech.decoding import DECODING
from earmark.speech.recognition import Recogniser
from earmark.speech.transcribe import transcribe_archive
from earmark.tables import TRANSCRIPTS, read_provenance, read_table

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    return extract_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="session")
def audible(clips: dict[int, Path]) -> list[dict]:
    """Rows of a manifest with all clips that can be decoded."""
    return [{"opus_path": str(clips[m["ordinal"]])} for m in MEMBERS if m["status"] == "ok"]


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, audible: list[dict]) -> list[dict]:
    """What is heard in them."""
    return transcribe(tmp_path_factory.mktemp("undisturbed"), audible)


def transcribe(folder: Path, rows: list[dict], **settings: object) -> list[dict]:
    source = write_manifest(folder / "manifest.parquet", rows)
    wanted = replace(QUICK, **settings)
    transcribe_archive(source, folder / "out.parquet", folder, wanted, folder / "parts")
    shutil.rmtree(folder / "parts", ignore_errors=True)  # as loading does
    found: list[dict] = read_table(folder / "out.parquet", TRANSCRIPTS).to_pylist()
    return found


def assert_same(found: list[dict], expected: list[dict]) -> None:
    """The same rows but for the time they took and the last digits of numbers."""
    for ours, theirs in zip(found, expected, strict=True):
        assert ours | {"seconds": None} == rounded(theirs | {"seconds": None})


def rounded(value: object) -> object:
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return pytest.approx(value, abs=1e-3) if isinstance(value, float) else value


# The answers


def test_the_answers_are_those_that_whisperx_itself_gives(
    tmp_path: Path, clips: dict[int, Path], audible: list[dict]
) -> None:
    import whisperx

    pipeline = whisperx.load_model(str(MODEL), "cpu", compute_type="float32", threads=1)
    for option, value in DECODING.items():
        assert getattr(pipeline.options, option) == value
    assert pipeline.options.without_timestamps
    assert not pipeline.options.initial_prompt
    found = transcribe(tmp_path, audible, vad="pyannote", batch_size=16)
    for row, clip in zip(found, audible, strict=True):
        theirs = pipeline.transcribe(decode_audio(Path(clip["opus_path"])), batch_size=16)
        assert [(s["start"], s["end"], s["text"]) for s in row["segments"]] == [
            (s["start"], s["end"], s["text"].strip()) for s in theirs["segments"]
        ]
        if theirs["segments"]:
            assert row["language"] == theirs["language"]
        for our, their in zip(row["segments"], theirs["segments"], strict=True):
            assert our["avg_logprob"] == pytest.approx(their["avg_logprob"], abs=1e-4)


def test_clips_are_heard_in_the_language_they_are_spoken_in(undisturbed: list[dict]) -> None:
    members = [m for m in MEMBERS if m["status"] == "ok"]
    assert [row["language"] for row in undisturbed] == [m["language"] for m in members]
    for row, member in zip(undisturbed, members, strict=True):
        words = set(member["text"].split())
        assert len(words & set(row["text"].split())) >= 0.8 * len(words)
        assert row["text"] == " ".join(s["text"] for s in row["segments"] if s["text"])


def test_what_tells_invented_text_is_recorded(undisturbed: list[dict]) -> None:
    heard = [row for row in undisturbed if row["text"]]
    silent = [row for row in undisturbed if not row["text"]]
    assert len(heard) > 5
    for row in heard:
        logprobs = [segment["avg_logprob"] for segment in row["segments"]]
        assert np.exp(min(logprobs)) <= row["confidence"] + 1e-9
        assert row["confidence"] <= np.exp(max(logprobs)) + 1e-9
        assert 0 <= row["no_speech_probability"] <= 1
        assert 0 < row["compression_ratio"] < 2.4
        assert row["speech_seconds"] > 0
        assert 0.5 < row["language_probability"] <= 1
        assert row["seconds"] > 0
    assert len(silent) == 2
    for row in silent:
        nothing = ("language", "confidence", "no_speech_probability", "compression_ratio")
        assert [row[name] for name in nothing] == [None] * 4
        assert (row["status"], row["segments"], row["speech_seconds"]) == ("ok", [], 0)


@pytest.mark.parametrize("change", [{"batch_size": 1}, {"batch_size": 16}, {"threads": 2}], ids=str)
def test_neither_batches_nor_processes_change_an_answer(
    tmp_path: Path, audible: list[dict], undisturbed: list[dict], change: dict
) -> None:
    assert_same(transcribe(tmp_path, audible, **change), undisturbed)


def test_a_clip_of_several_windows_is_put_together_in_order(
    tmp_path: Path, clips: dict[int, Path]
) -> None:
    one = decode_audio(clips[spoken("en")["ordinal"]])
    pause = np.zeros(25 * 16_000, np.float32)
    write_audio(tmp_path / "long.wav", np.concatenate([one, pause, one, pause, one]), 16_000)
    texts = set()
    for size in (1, 2):
        (row,) = transcribe(tmp_path, [{"opus_path": "long.wav"}], batch_size=size)
        assert len(row["segments"]) >= 2
        times = [(segment["start"], segment["end"]) for segment in row["segments"]]
        assert times == sorted(times)
        texts.add(row["text"])
    (text,) = texts
    assert text.count(spoken("en")["text"].split()[0]) >= 3


# Rows


def test_a_broken_file_is_a_failed_row_among_good_ones(
    tmp_path: Path, clips: dict[int, Path]
) -> None:
    (tmp_path / "broken").write_bytes(b"OggS" + b"\0" * 5000)
    good, bad = transcribe(
        tmp_path, [{"opus_path": str(clips[spoken("en")["ordinal"]])}, {"opus_path": "broken"}]
    )
    assert good["status"] == "ok"
    assert good["text"]
    assert (bad["status"], bad["text"]) == ("failed", None)
    assert bad["error"]


def test_only_clips_that_are_ok_selected_and_no_duplicate_are_transcribed(
    tmp_path: Path, clips: dict[int, Path]
) -> None:
    clip = str(clips[spoken("es")["ordinal"]])
    found = transcribe(
        tmp_path,
        [
            {"status": "failed", "selected": False},
            {"opus_path": clip, "selected": False},
            {"duplicate_of": 3},
            {"opus_path": clip},
        ],
    )
    assert [row["ordinal"] for row in found] == [3]


def test_an_archive_without_clips_needs_no_model(tmp_path: Path) -> None:
    assert transcribe(tmp_path, [], model="/nowhere") == []


def test_a_transcript_tells_what_made_it_and_the_archives_status(
    tmp_path: Path, clips: dict[int, Path]
) -> None:
    transcribe(tmp_path, [{"opus_path": str(clips[spoken("es")["ordinal"]])}])
    facts = read_provenance(tmp_path / "out.parquet")
    assert (facts["model"], facts["model_revision"]) == (str(MODEL), "")
    assert facts["compute_type"] == "float32"
    assert (facts["archive_status"], facts["archive_error"]) == ("partial", "cut")
    assert float(facts["audio_seconds"]) == 10
    assert float(facts["seconds"]) > 0
    assert not [fact for fact in facts if fact.startswith(("gpu", "vram"))]  # no GPU was used


def test_an_audio_file_that_vanished_is_no_bad_file_but_stops_the_job(tmp_path: Path) -> None:
    with pytest.raises(EarmarkError, match=r"gone\.opus is in the manifest but not on the volume"):
        transcribe(tmp_path, [{"opus_path": "audio/gone.opus"}])
    assert not (tmp_path / "out.parquet").exists()


# What a machine does to a job


def test_a_machine_without_the_gpu_that_is_asked_for_says_so_and_leaves_no_process(
    tmp_path: Path, audible: list[dict]
) -> None:
    before = children()
    with pytest.raises(EarmarkError, match=r"asr\.device is 'cuda', but this machine has no"):
        transcribe(tmp_path, audible, device="cuda", threads=4)
    assert children() == before


def test_what_was_seen_of_the_gpu_is_kept_with_the_rows(
    tmp_path: Path, audible: list[dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {"gpu": "NVIDIA L4", "vram_peak_bytes": 9_000_000_000, "gpu_utilisation_percent": 87.5}
    monkeypatch.setattr(GpuWatch, "facts", lambda watch: seen)
    transcribe(tmp_path, audible[:1])
    facts = read_provenance(tmp_path / "out.parquet")
    assert {fact: facts[fact] for fact in seen} == {fact: str(seen[fact]) for fact in seen}


def test_full_gpu_memory_makes_batches_smaller_and_changes_no_answer(
    tmp_path: Path,
    audible: list[dict],
    undisturbed: list[dict],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    decode = Recogniser.decode
    sizes = []

    def cramped(
        self: Recogniser, encoded: object, languages: Sequence[str], speech: Sequence[float]
    ) -> list:
        sizes.append(len(languages))
        if len(languages) > 2:
            raise RuntimeError("CUDA failed with error out of memory")
        return decode(self, encoded, languages, speech)

    monkeypatch.setattr(Recogniser, "decode", cramped)
    assert_same(transcribe(tmp_path, audible, batch_size=7), undisturbed)
    assert [size for size in sizes if size > 2] == [7, 4]
    assert "going on with batches of 2 (asr.batch_size can be lowered to it)" in caplog.text


def test_a_job_that_failed_goes_on_from_its_last_part(
    tmp_path: Path,
    audible: list[dict],
    undisturbed: list[dict],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    decode = Recogniser.decode
    heard = 0

    def broken(
        self: Recogniser, encoded: object, languages: Sequence[str], speech: Sequence[float]
    ) -> list:
        nonlocal heard
        if heard >= 4:
            raise RuntimeError("CUDA failed with error an illegal memory access was encountered")
        heard += len(languages)
        return decode(self, encoded, languages, speech)

    with monkeypatch.context() as patch:
        patch.setattr(Recogniser, "decode", broken)
        with pytest.raises(RuntimeError, match="illegal memory access"):
            transcribe(tmp_path, audible, batch_size=1, checkpoint_seconds=0)
    passes = []

    def counted(
        self: Recogniser, encoded: object, languages: Sequence[str], speech: Sequence[float]
    ) -> list:
        passes.append(len(languages))
        return decode(self, encoded, languages, speech)

    monkeypatch.setattr(Recogniser, "decode", counted)
    assert_same(transcribe(tmp_path, audible, batch_size=1, checkpoint_seconds=0), undisturbed)
    windows = sum(len(row["segments"]) for row in undisturbed)
    assert sum(passes) == windows - 4
    assert re.search(r"\d+ of 9 clips were done before", caplog.text)


def test_a_job_that_died_after_its_last_row_hears_nothing_again(
    tmp_path: Path, audible: list[dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Snakemake throws its output away."""
    output = tmp_path / "out.parquet"
    source = write_manifest(tmp_path / "manifest.parquet", audible[:2])
    transcribe_archive(source, output, tmp_path, QUICK, tmp_path / "parts")
    rows = read_table(output, TRANSCRIPTS)
    output.unlink()
    monkeypatch.setattr("earmark.speech.transcribe.Transcriber", None)  # nobody may load a model
    transcribe_archive(source, output, tmp_path, QUICK, tmp_path / "parts")
    assert read_table(output, TRANSCRIPTS) == rows


def test_parts_made_under_other_settings_or_from_another_manifest_are_not_used(
    tmp_path: Path, audible: list[dict], undisturbed: list[dict]
) -> None:
    wrong = [{**undisturbed[0], "text": "wrong"}]
    Checkpoint(tmp_path / "parts", TRANSCRIPTS, "another", 0).add(wrong)
    assert_same(transcribe(tmp_path, audible[:1]), undisturbed[:1])


JOB = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from demo_clips import QUICK
from msgspec.structs import replace
from earmark.speech.transcribe import transcribe_archive
folder = Path(sys.argv[1])
wanted = replace(QUICK, batch_size=1, checkpoint_seconds=0, threads=2)
transcribe_archive(
    folder / "manifest.parquet", folder / "out.parquet", folder, wanted, folder / "parts"
)
"""


def test_a_job_killed_in_its_midst_yields_the_same_rows_when_tried_again(
    tmp_path: Path, audible: list[dict], undisturbed: list[dict]
) -> None:
    write_manifest(tmp_path / "manifest.parquet", audible)
    command = [sys.executable, "-c", JOB, str(tmp_path), str(Path(__file__).parent)]
    with subprocess.Popen(command) as job:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("parts/*/[0-9]*.parquet"))) < 3:
            assert job.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        job.send_signal(signal.SIGKILL)
    assert not (tmp_path / "out.parquet").exists()
    kept = [read_table(path, TRANSCRIPTS) for path in tmp_path.glob("parts/*/[0-9]*.parquet")]
    assert 0 < sum(map(len, kept)) < len(audible)
    assert_same(transcribe(tmp_path, audible, checkpoint_seconds=0), undisturbed)
