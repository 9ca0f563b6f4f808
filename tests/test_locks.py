"""Locks: one process at a time, and none that outlives its process."""

import multiprocessing
import os
import signal
import subprocess
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from earmark import locks
from earmark.errors import EarmarkError

spawn = multiprocessing.get_context("spawn")


def _hold(path: Path, held: Event, lease_seconds: float | None) -> None:
    with locks.exclusive(path, "a stage", lease_seconds):
        held.set()
        signal.pause()


@pytest.fixture
def holder(tmp_path: Path, request: pytest.FixtureRequest):
    """Another process that holds tmp_path/lock, by a lease if the test names one."""
    held = spawn.Event()
    lease_seconds = getattr(request, "param", None)
    process = spawn.Process(target=_hold, args=(tmp_path / "lock", held, lease_seconds))
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


def test_a_lock_says_who_holds_it_and_what_it_waits_for(tmp_path: Path, holder) -> None:
    seen = locks.holder_of(tmp_path / "lock")
    assert seen
    assert (seen.purpose, seen.process, seen.waits_for) == ("a stage", holder.pid, "")
    with locks.exclusive(tmp_path / "other") as lock:
        lock.renew("for room on the volume")
        lock.renew("for room")
        again = locks.holder_of(tmp_path / "other")
        assert again
        assert again.waits_for == "for room"
    assert locks.holder_of(tmp_path / "other") is None


def test_what_a_dead_holder_left_is_passed_on_to_the_next(tmp_path: Path, holder) -> None:
    dead = locks.holder_of(tmp_path / "lock")
    holder.kill()
    with locks.exclusive(tmp_path / "lock") as lock:
        assert dead
        assert lock.holder.token == dead.token


@pytest.mark.parametrize("holder", [1.0], indirect=True)
def test_a_holder_that_hangs_is_given_up_when_its_lease_is_over(
    tmp_path: Path, holder, caplog: pytest.LogCaptureFixture
) -> None:
    os.kill(holder.pid, signal.SIGSTOP)
    hanging = locks.holder_of(tmp_path / "lock")
    assert hanging
    assert hanging.until
    with locks.exclusive(tmp_path / "lock") as lock:
        assert time.time() >= hanging.until
        assert lock.holder.token != hanging.token  # nothing is shared with one that may wake up
        assert f"gave up process {holder.pid}" in caplog.text
        os.kill(holder.pid, signal.SIGCONT)
        holder.kill()
        holder.join()
        assert locks.is_held(tmp_path / "lock")  # by us, whatever became of the other


@pytest.mark.parametrize("holder", [2.0], indirect=True)
def test_a_holder_is_waited_for_until_its_lease_is_over(tmp_path: Path, holder) -> None:
    waited_for = locks.holder_of(tmp_path / "lock")
    assert waited_for
    assert waited_for.until
    with locks.exclusive(tmp_path / "lock"):
        assert time.time() >= waited_for.until


def test_a_holder_that_renews_its_lease_keeps_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    wait = "from earmark import locks; from pathlib import Path; import sys\n"
    wait += "with locks.exclusive(Path(sys.argv[1])): print('mine')"
    with locks.exclusive(path, lease_seconds=1.5) as lock:
        with subprocess.Popen(["python", "-c", wait, path], stdout=subprocess.PIPE) as waiting:
            for _ in range(8):
                time.sleep(0.5)
                lock.renew()
                assert waiting.poll() is None
            os.close(lock.descriptor)
            assert waiting.communicate(timeout=60)[0] == b"mine\n"
        lock.descriptor = os.open(path, os.O_RDWR)  # for the block to close


def test_a_child_that_inherits_a_lock_holds_it_until_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locks.exclusive(path) as lock:
        child = subprocess.Popen(["sleep", "60"], pass_fds=[lock.descriptor])
    assert locks.is_held(path)
    child.kill()
    child.wait()
    assert not locks.is_held(path)


def test_many_that_want_a_lock_get_it_one_after_the_other(tmp_path: Path) -> None:
    work = (
        "from earmark import locks; from pathlib import Path; import sys\n"
        "folder = Path(sys.argv[1])\n"
        "for _ in range(20):\n"
        "    with locks.exclusive(folder / 'lock', lease_seconds=60):\n"
        "        (folder / 'in').mkdir()\n"
        "        (folder / 'in').rmdir()\n"
        "    locks.remove(folder / 'lock')\n"
    )
    workers = [subprocess.Popen(["python", "-c", work, tmp_path]) for _ in range(4)]
    assert [worker.wait(timeout=120) for worker in workers] == [0] * 4


def test_a_lock_file_is_removed_unless_it_is_held(tmp_path: Path) -> None:
    with locks.exclusive(tmp_path / "lock"):
        locks.remove(tmp_path / "lock")
        assert (tmp_path / "lock").exists()
    locks.remove(tmp_path / "lock")
    assert not (tmp_path / "lock").exists()
    locks.remove(tmp_path / "lock")
