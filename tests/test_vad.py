"""Where speech is found: as WhisperX finds it, without its download."""

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from demo_clips import extract_clips, spoken
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from on_demand import OnDemand

from earmark.ingest.media import decode_audio
from earmark.speech.decoding import VAD_OFFSET, VAD_ONSET
from earmark.speech.vad import (
    SAMPLE_RATE,
    WINDOW_SECONDS,
    Detector,
    load_detector,
    merge,
    regions_of,
)

if TYPE_CHECKING:
    from earmark.speech import segmentation
else:
    segmentation = OnDemand("earmark.speech.segmentation")


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    return extract_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(
    scope="session", params=[pytest.param("pyannote", marks=pytest.mark.slow), "silero"]
)
def detector(request: pytest.FixtureRequest) -> Detector:
    return load_detector(request.param, "cpu")


NOTHING = {
    "empty": np.zeros(0, np.float32),
    "one sample": np.zeros(1, np.float32),
    "silence": np.zeros(160_000, np.float32),
    "constant": np.full(160_000, 0.5, np.float32),
    "tone": np.sin(np.arange(160_000) * 0.17).astype(np.float32) * 0.5,
}


@pytest.mark.parametrize("audio", NOTHING.values(), ids=NOTHING)
def test_there_is_no_speech_where_nobody_speaks(detector: Detector, audio: np.ndarray) -> None:
    assert merge(detector(audio)) == []


def test_speech_is_found_where_it_is(detector: Detector, clips: dict[int, Path]) -> None:
    one = decode_audio(clips[spoken("en")["ordinal"]])
    pause = np.zeros(20 * 16_000, np.float32)
    windows = merge(detector(np.concatenate([pause, one, pause, one])))
    length = len(one) / 16_000
    assert [round(window.start) for window in windows] == pytest.approx([20, 40 + length], abs=2)
    for window in windows:
        assert 0.5 * length < window.speech_seconds <= window.end - window.start <= length + 0.5


@settings(max_examples=10, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32 - 1), st.integers(1, 40_000), st.floats(0, 1))
def test_noise_of_any_length_and_loudness_is_survived(
    detector: Detector, seed: int, samples: int, loudness: float
) -> None:
    noise = np.random.default_rng(seed).standard_normal(samples) * loudness
    windows = merge(detector(noise.clip(-1, 1).astype(np.float32)))
    assert sum(window.speech_seconds for window in windows) <= samples / 16_000 + 0.1


def test_speech_without_a_pause_is_cut_into_windows_that_whisper_takes(
    detector: Detector, clips: dict[int, Path]
) -> None:
    words = decode_audio(clips[spoken("en")["ordinal"]])
    windows = merge(detector(np.tile(words, 1 + 75 * 16_000 // len(words))))
    assert len(windows) >= 3
    assert all(0 < window.end - window.start <= 30 for window in windows)


@pytest.fixture(scope="session")
def whisperx_scores() -> Callable[[np.ndarray], np.ndarray]:
    """Pyannote's scores by WhisperX's own code, shape [frames]; their frames are checked too."""
    import torch
    from whisperx.vads.pyannote import Pyannote

    vad = Pyannote(torch.device("cpu"), vad_onset=VAD_ONSET)

    def scores(audio: np.ndarray) -> np.ndarray:
        waveform = vad.preprocess_audio(audio)
        found = vad({"waveform": waveform, "sample_rate": SAMPLE_RATE})
        middles = [found.sliding_window[frame].middle for frame in range(len(found))]
        assert [segmentation.frame_middle(frame) for frame in range(len(found))] == middles
        return found.data[:, 0]

    return scores


@pytest.mark.slow
@pytest.mark.parametrize("samples", [1, 20_000, 79_999, 80_000, 80_001, 88_000, 91_111, 900_000])
def test_every_frame_s_score_is_whisperx_s(
    clips: dict[int, Path], whisperx_scores: Callable[[np.ndarray], np.ndarray], samples: int
) -> None:
    words = [decode_audio(clips[spoken(language)["ordinal"]]) for language in ("en", "es")]
    audio = np.resize(np.concatenate(words), samples)
    ours, theirs = segmentation.SegmentationModel("cpu").speech(audio), whisperx_scores(audio)
    np.testing.assert_array_equal(ours, theirs)


class Intruder:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.slow
def test_a_checkpoint_that_names_a_function_of_its_own_is_refused_and_runs_nothing(
    tmp_path: Path,
) -> None:
    import torch

    checkpoint, mark = tmp_path / "checkpoint", tmp_path / "mark"
    torch.save({"state_dict": {}, "options": Intruder(mark)}, checkpoint)
    with pytest.raises(pickle.UnpicklingError, match="Unsupported global"):
        segmentation._weights(checkpoint)
    assert not mark.exists()
    torch.load(checkpoint, weights_only=False)
    assert mark.exists()  # it would have


@pytest.mark.slow
@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(1, 2500), st.floats(0, 1, width=32)), min_size=1))
def test_scores_become_the_regions_that_whisperx_makes_of_them(
    runs: list[tuple[int, float]],
) -> None:
    from pyannote.core import SlidingWindow, SlidingWindowFeature
    from whisperx.vads.pyannote import Binarize

    lengths, levels = zip(*runs, strict=True)
    waves = 0.02 * np.sin(np.arange(sum(lengths)))
    scores = (np.repeat(levels, lengths) + waves).astype(np.float32)
    frames = SlidingWindow(
        start=0.0, duration=segmentation.FRAME_SECONDS, step=segmentation.FRAME_STEP_SECONDS
    )
    binarize = Binarize(max_duration=WINDOW_SECONDS, onset=VAD_ONSET, offset=VAD_OFFSET)
    theirs = binarize(SlidingWindowFeature(scores[:, None], frames)).get_timeline()
    middles = [segmentation.frame_middle(frame) for frame in range(len(scores))]
    assert regions_of(scores.tolist(), middles) == [(turn.start, turn.end) for turn in theirs]


@pytest.mark.slow
@settings(max_examples=200)
@given(st.lists(st.tuples(st.floats(0.01, 40), st.floats(0.1, 30)), min_size=1, max_size=40))
def test_regions_are_merged_as_whisperx_merges_them(steps: list[tuple[float, float]]) -> None:
    from whisperx.diarize import Segment
    from whisperx.vads import Vad

    regions, now = [], 0.0
    for pause, length in steps:
        regions.append((now + pause, now + pause + length))
        now += pause + length
    theirs = Vad.merge_chunks([Segment(*each, "UNKNOWN") for each in regions], 30, 0.5, None)
    ours = merge(regions)
    assert [(each.start, each.end) for each in ours] == [
        (each["start"], each["end"]) for each in theirs
    ]
    for our, their in zip(ours, theirs, strict=True):
        assert our.speech_seconds == pytest.approx(sum(b - a for a, b in their["segments"]))


@given(
    st.lists(st.tuples(st.floats(0, 5), st.floats(0.1, 30)), min_size=1, max_size=10),
    st.integers(1, 60_000),
)
def test_no_window_ends_after_the_audio_does(
    steps: list[tuple[float, float]], milliseconds: int
) -> None:
    regions, now = [], 0.0
    for pause, length in steps:
        regions.append((now + pause, now + pause + length))
        now += pause + length
    seconds = milliseconds / 1000
    for region in merge(regions):
        kept = region.within(seconds)
        if kept is None:
            assert region.start >= seconds
        else:
            assert kept.start == region.start < kept.end <= min(region.end, seconds)
            assert all(start < end <= kept.end for start, end in kept.spans)
            assert kept.speech_seconds <= region.speech_seconds


OFFLINE = """
import socket, sys, time
def refuse(*arguments): raise OSError("no network")
socket.socket.connect = socket.getaddrinfo = refuse
from earmark.speech.vad import load_detector
import numpy as np
print(load_detector("silero", "cpu")(np.zeros(16000, np.float32)))
print("pyannote" in str(sorted(sys.modules)))
time.sleep(1)
"""


def test_silero_needs_neither_network_nor_pyannote(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE],
        capture_output=True, text=True, env={"HOME": str(tmp_path), "PATH": ""},
    )  # fmt: skip
    assert done.stdout.splitlines() == ["[]", "False"], done.stderr
    assert list(tmp_path.rglob("*onnx*")) == []  # where ONNX Runtime keeps what it reports
