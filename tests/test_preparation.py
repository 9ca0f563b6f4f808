"""Clips prepared ahead of the model, by processes that may be killed or hang."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from demo_clips import MEMBERS, extract_clips, spoken
from processes import children, is_alive, readers, wait_for
from sounds import wav

from earmark.errors import EarmarkError
from earmark.speech import preparation
from earmark.speech.preparation import Clip, Preparation, Prepared

pytestmark = pytest.mark.slow

AHEAD = 1000.0
MELS = 80


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    files = extract_clips(tmp_path_factory.mktemp("clips"))
    return [Clip(ordinal, path, 10.0) for ordinal, path in files.items()]


@pytest.fixture(scope="session")
def processes() -> Iterator[Preparation]:
    with Preparation("silero", "cpu", processes=2) as prepared:
        yield prepared


def test_processes_prepare_what_this_one_prepares_in_the_clips_order(
    processes: Preparation, clips: list[Clip]
) -> None:
    there = list(processes.prepare(clips, MELS, AHEAD))
    with Preparation("silero", "cpu", processes=0) as alone:
        here = list(alone.prepare(clips, MELS, AHEAD))
    assert [each.clip for each in there] == clips
    for ours, theirs in zip(here, there, strict=True):
        assert ours.error == theirs.error
        assert len(ours.windows) == len(theirs.windows)
        for our, their in zip(ours.windows, theirs.windows, strict=True):
            assert (our.start, our.end, our.spans) == (their.start, their.end, their.spans)
            assert np.array_equal(our.features, their.features)
            assert our.features.shape == (MELS, 3000)


def test_what_is_no_audio_is_an_error_of_that_clip_alone(
    processes: Preparation, clips: list[Clip], tmp_path: Path
) -> None:
    (tmp_path / "noise").write_bytes(os.urandom(5000))
    (tmp_path / "empty").touch()
    (tmp_path / "broken").write_bytes(b"OggS" + bytes(5000))
    hostile = [Clip(100 + n, path, 1.0) for n, path in enumerate(sorted(tmp_path.iterdir()))]
    good = clips[spoken("en")["ordinal"]]
    *bad, last = processes.prepare([*hostile, good], MELS, AHEAD)
    assert all(each.error and not each.windows for each in bad)
    assert last.windows
    assert last.error is None


def test_no_more_clips_are_prepared_ahead_than_asked_for(
    processes: Preparation, clips: list[Clip]
) -> None:
    taken: list[Clip] = []

    def counted() -> Iterator[Clip]:
        for clip in clips:
            taken.append(clip)
            yield clip

    found = processes.prepare(counted(), MELS, ahead_seconds=60.0)
    for number, _ in enumerate(found, start=1):
        # Two of at least 30 s are ahead, and one more was looked at.
        assert len(taken) <= number + 2
    assert len(taken) == len(clips)


def test_a_long_clip_does_not_wait_for_room_that_never_comes(
    processes: Preparation, clips: list[Clip]
) -> None:
    good = clips[spoken("en")["ordinal"]]
    long = Clip(50, good.path, 3 * 3600.0)
    found = list(processes.prepare([good, long, good], MELS, ahead_seconds=60.0))
    assert [each.clip.ordinal for each in found] == [good.ordinal, 50, good.ordinal]


def test_a_job_that_fails_does_not_wait_for_clips_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "hangs")
    hanging = [Clip(n, tmp_path / "hangs", 1.0) for n in range(4)]
    gone = Clip(9, tmp_path / "gone.opus", 1.0)
    before = children()
    monkeypatch.setattr(preparation, "_PATIENCE_SECONDS", 1e6)  # it would wait for ever
    with (
        pytest.raises(EarmarkError, match="not on the volume"),
        Preparation("silero", "cpu", processes=2) as processes,
    ):
        next(processes.prepare([gone, *hanging], MELS, AHEAD))
    assert children() == before


def test_a_file_that_vanished_stops_the_job(processes: Preparation, tmp_path: Path) -> None:
    gone = Clip(0, tmp_path / "gone.opus", 1.0)
    with pytest.raises(EarmarkError, match=r"gone\.opus is in the manifest but not on the volume"):
        list(processes.prepare([gone], MELS, AHEAD))


def test_a_refusal_of_the_system_is_no_bad_clip(processes: Preparation, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="Is a directory"):
        list(processes.prepare([Clip(0, tmp_path / "folder", 1.0)], MELS, AHEAD))


@pytest.mark.parametrize(("deaths", "status"), [(1, "ok"), (2, "failed")])
def test_a_process_that_dies_is_replaced_and_costs_at_most_its_own_clip(
    clips: list[Clip], tmp_path: Path, deaths: int, status: str
) -> None:
    good = clips[spoken("en")["ordinal"]]
    victim = Clip(77, tmp_path / "victim", 1.0)
    os.mkfifo(victim.path)  # keeps a process busy until it is killed
    before = children()
    killed: set[int] = set()

    def kill() -> None:
        while len(killed) < deaths:
            time.sleep(0.1)
            for pid in children() - before - killed:
                if len(killed) == deaths - 1 and status == "ok":
                    victim.path.unlink()
                    victim.path.write_bytes(good.path.read_bytes())
                os.kill(pid, signal.SIGSEGV)
                killed.add(pid)

    killer = threading.Thread(target=kill)
    with Preparation("silero", "cpu", processes=1) as processes:
        killer.start()
        first, second = processes.prepare([victim, good], MELS, AHEAD)
        killer.join()
    assert second.windows
    assert bool(first.windows) == (status == "ok")
    expected = None if status == "ok" else "the process that decoded it died of SIGSEGV"
    assert first.error == expected
    assert children() == before


def test_a_clip_that_takes_too_much_computing_is_given_up(
    clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "_PATIENCE_SECONDS", 3.0)
    (tmp_path / "endless").write_bytes(wav(16_000, 3 * 3600 * 16_000))
    endless = Clip(0, tmp_path / "endless", 0.5)  # as its manifest says
    with Preparation("silero", "cpu", processes=1) as processes:
        first, second = processes.prepare([endless, clips[spoken("es")["ordinal"]]], MELS, AHEAD)
    assert first.error == "not done in 3.5 seconds of computing"
    assert second.windows


def test_a_volume_that_does_not_answer_is_no_clip_s_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "_PATIENCE_SECONDS", 0.5)
    os.mkfifo(tmp_path / "stuck")  # blocks whoever opens it, for ever
    with (
        Preparation("silero", "cpu", processes=1) as processes,
        pytest.raises(EarmarkError, match="neither computed nor answered for 10 seconds"),
    ):
        list(processes.prepare([Clip(0, tmp_path / "stuck", 0.5)], MELS, AHEAD))


PARENT = """
import sys
from pathlib import Path
from earmark.speech.preparation import Clip, Preparation
with Preparation("silero", "cpu", processes=2) as processes:
    list(processes.prepare([Clip(n, Path(sys.argv[1]), 1.0) for n in range(2)], 80, 1000.0))
"""


def test_no_process_outlives_a_job_that_is_killed(tmp_path: Path) -> None:
    slow = tmp_path / "hangs"
    os.mkfifo(slow)
    with slow.open("r+b", buffering=0):  # its readers now wait for ever
        with subprocess.Popen([sys.executable, "-c", PARENT, str(slow)]) as parent:
            wait_for(lambda: len(readers(slow, parent.pid)) == 2, seconds=200)
            started = readers(slow, parent.pid)
            parent.kill()
        wait_for(lambda: not any(is_alive(pid) for pid in started), seconds=5)


def test_silence_has_no_windows(processes: Preparation, clips: list[Clip]) -> None:
    found: list[Prepared] = list(processes.prepare(clips, MELS, AHEAD))
    silent = [m["ordinal"] for m in MEMBERS if m["status"] == "ok" and not m["text"]]
    assert [found[ordinal].windows for ordinal in silent] == [()] * len(silent)
    assert len(silent) == 2


def test_a_gpu_without_memory_leaves_the_search_for_speech_to_the_cpu(
    clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []

    def load(vad: str, device: str) -> Callable[[np.ndarray], list]:
        loaded.append(device)
        if device == "cuda":
            return full
        return lambda audio: [(0.0, 1.0)]

    def full(audio: np.ndarray) -> list:
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr(preparation, "load_detector", load)
    with Preparation("pyannote", "cuda", processes=0) as alone:
        found = list(alone.prepare(clips[:2], MELS, AHEAD))
    assert [len(each.windows) for each in found] == [1, 1]
    assert loaded == ["cuda", "cpu"]
