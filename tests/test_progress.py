"""What is told of long work on audio, on a terminal and in a log."""

import logging
import sys

import pytest

from earmark import progress
from earmark.progress import AudioProgress


class Clock:
    """A clock that only moves when it is told to."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_speed_real_time_factor_and_time_left_are_told_once_a_minute_and_at_the_end(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with AudioProgress("transcribe a.tar", count=100, seconds=6000.0) as told:
        for _ in range(100):
            clock.now += 6.0
            told.advance(60.0)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == (
        "transcribe a.tar: 10 of 100 clips, 0.2 a second, 10.0 s of audio a second "
        "(real-time factor 0.1), 9 min left"
    )
    assert len(lines) == 11
    assert lines[-1] == (
        "transcribe a.tar: 100 of 100 clips, 0.2 a second, 10.0 s of audio a second "
        "(real-time factor 0.1)"
    )


def test_clips_that_were_done_before_count_as_done_and_not_as_fast(clock: Clock) -> None:
    with AudioProgress("transcribe a.tar", count=100, seconds=6000.0) as told:
        for _ in range(50):
            told.skip(60.0)
        assert str(told).startswith("transcribe a.tar: 50 of 100 clips, 0.0 a second")
        for _ in range(10):
            clock.now += 60.0
            told.advance(60.0)
        assert "60 of 100 clips" in str(told)
        assert "1.0 s of audio a second (real-time factor 1), 40 min left" in str(told)
        for _ in range(10):
            clock.now += 600.0
            told.advance(60.0)
        assert "2 h 45 min left" in str(told)


def test_a_terminal_gets_a_bar_and_a_log_its_last_line(
    clock: Clock, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with AudioProgress("transcribe a.tar", count=2, seconds=120.0) as told:
        clock.now += 100.0
        told.advance(60.0)
        clock.now += 100.0
        told.advance(60.0)
    assert "0/2" in capsys.readouterr().err
    assert len(caplog.records) == 1
