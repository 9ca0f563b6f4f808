"""How a clip's loudness becomes a picture."""

import os
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from sounds import chirp, write_audio

from earmark.desk import waveform
from earmark.desk.waveform import peaks
from earmark.ingest.media import decoded


@pytest.mark.parametrize("kind", ["opus", "mp3", "wav"])
def test_a_swelling_tone_is_a_swelling_picture(tmp_path: Path, kind: str) -> None:
    sound = chirp(6, 16_000) * np.linspace(0.05, 1, 6 * 16_000, dtype=np.float32)
    found = peaks(write_audio(tmp_path / f"clip.{kind}", sound, 16_000), bins=10)
    assert len(found) == 10
    assert found[-1] == 100
    assert found == sorted(found)
    assert found[4] == pytest.approx(50, abs=8)


def test_a_quiet_clip_looks_like_a_loud_one(tmp_path: Path) -> None:
    sound = chirp(2, 16_000)
    loud = peaks(write_audio(tmp_path / "loud.wav", sound, 16_000))
    quiet = peaks(write_audio(tmp_path / "quiet.wav", sound / 20, 16_000))
    assert len(loud) == 600
    assert np.abs(np.subtract(loud, quiet)).max() <= 2


def test_silence_is_flat(tmp_path: Path) -> None:
    silence = np.zeros(16_000, np.float32)
    assert peaks(write_audio(tmp_path / "silence.opus", silence, 16_000)) == [0] * 600


def test_one_click_is_found_whatever_the_length(tmp_path: Path) -> None:
    sound = np.zeros(16_000 * 120, np.float32)
    sound[16_000 * 90 : 16_000 * 90 + 40] = 0.9
    found = peaks(write_audio(tmp_path / "click.wav", sound, 16_000))
    assert [part for part, peak in enumerate(found) if peak > 50] == [450]


def test_a_very_short_clip_has_fewer_parts(tmp_path: Path) -> None:
    found = peaks(write_audio(tmp_path / "short.wav", chirp(0.02, 8_000), 8_000))
    assert 100 <= len(found) <= 170
    assert max(found) == 100


def test_what_can_not_be_decoded_has_no_picture(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.opus"
    damaged.write_bytes(b"OggS" + bytes(2000))
    assert peaks(damaged) == []
    with pytest.raises(FileNotFoundError):
        peaks(tmp_path / "missing.opus")


@pytest.mark.slow
def test_a_long_clip_takes_no_more_memory_than_a_short_one(tmp_path: Path) -> None:
    sound = chirp(30 * 60, 8_000) / 20
    sound[len(sound) // 2] = 0.5
    clip = write_audio(tmp_path / "long.wav", sound, 8_000)
    size = sound.nbytes
    del sound
    tracemalloc.start()
    try:
        found = peaks(clip)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(found) == 600
    assert [part for part, peak in enumerate(found) if peak > 50] == [300]
    assert most < size / 20


def test_a_picture_is_drawn_again_only_when_its_file_is_another(tmp_path: Path) -> None:
    clip = write_audio(tmp_path / "clip.wav", chirp(2, 16_000), 16_000)
    before = clip.stat()
    first = peaks(clip)
    clip.write_bytes(bytes(before.st_size))  # which can't be decoded
    os.utime(clip, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert peaks(clip) == first
    os.utime(clip, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert peaks(clip) == []


@pytest.mark.slow
def test_clips_are_decoded_one_at_a_time_and_each_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = [
        write_audio(tmp_path / f"{seed}.wav", chirp(1, 16_000, seed), 16_000) for seed in range(3)
    ]
    under_way = threading.Semaphore()
    decodes = []

    def watched(path: Path, sample_rate: int) -> Iterator[np.ndarray]:
        assert under_way.acquire(blocking=False)
        decodes.append(path)
        time.sleep(0.05)  # so that the others come meanwhile
        yield from decoded(path, sample_rate)
        under_way.release()

    monkeypatch.setattr(waveform, "decoded", watched)
    with ThreadPoolExecutor(9) as people:
        found = list(people.map(peaks, clips * 3))
    assert found[:3] == found[3:6] == found[6:]
    assert sorted(decodes) == clips
