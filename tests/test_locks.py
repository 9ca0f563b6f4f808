"""Locks: one process at a time, and none that outlives its process."""

import multiprocessing
import os
import signal
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from earmark import locks
from earmark.errors import EarmarkError

spawn = multiprocessing.get_context("spawn")


def _hold(path: Path, held: Event) -> None:
    with locks.exclusive(path):
        held.set()
        signal.pause()


@pytest.fixture
def holder(tmp_path: Path):
    """Another process that holds tmp_path/lock."""
    held = spawn.Event()
    process = spawn.Process(target=_hold, args=(tmp_path / "lock", held))
    process.start()
    assert held.wait(60)
    yield process
    process.kill()
    process.join()


def test_a_lock_that_another_process_holds_is_seen_and_names_it(tmp_path: Path, holder) -> None:
    assert locks.is_held(tmp_path / "lock")
    with pytest.raises(EarmarkError, match=f"process {holder.pid} on"):
        locks.hold_until_exit(tmp_path / "lock")


def test_a_lock_is_free_the_moment_its_holder_is_killed(tmp_path: Path, holder) -> None:
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    assert not locks.is_held(tmp_path / "lock")
    with locks.exclusive(tmp_path / "lock"):
        pass


def test_looking_at_a_lock_makes_no_file(tmp_path: Path) -> None:
    assert not locks.is_held(tmp_path / "none")
    assert not (tmp_path / "none").exists()
