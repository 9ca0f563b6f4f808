"""How a clip's loudness becomes a picture."""

from pathlib import Path

import numpy as np
import pytest
from sounds import chirp, write_audio

from earmark.desk.waveform import peaks


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
