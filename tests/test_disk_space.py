"""A volume that fills up: the work waits, says why, and goes on by itself."""

import errno
import logging
import os
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_volume import fill, small_volume
from sounds import chirp, write_audio
from ssh_host import ALIAS, SshHost

from earmark import locks
from earmark.disk_space import (
    Usage,
    shortage_for_fetching,
    usage,
    work_when_there_is_space,
    work_when_there_is_space_to_encode,
)
from earmark.ingest.catalogue import poll
from earmark.ingest.encode import encode_archive
from earmark.ingest.fetch import fetch_archive
from earmark.ingest.source import FolderSource, Source, SshSource
from earmark.ingest.unpack import unpack_archive
from earmark.settings import DiskSpaceLimits, EncodeSettings, TransferSettings
from earmark.tables import MANIFEST, read_table
from earmark.volume import Volume

LIMITS = DiskSpaceLimits(
    warn_percent=75, stop_fetching_percent=85, stop_encoding_percent=92, check_seconds=0.1
)
NO_LIMITS = DiskSpaceLimits(
    warn_percent=100, stop_fetching_percent=100, stop_encoding_percent=100, check_seconds=0.1
)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A volume of 10 MB."""
    with small_volume(tmp_path / "volume", 10) as root:
        yield root


class Job:
    """Work that runs beside the test, with what it says it waits for."""

    def __init__(self, work: Callable[["Job"], None]) -> None:
        self.waits_for = ""
        self.waited_for: list[str] = []
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(work,))
        self._thread.start()

    def _run(self, work: Callable[["Job"], None]) -> None:
        try:
            work(self)
        except BaseException as error:
            self.error = error

    def say(self, reason: str) -> None:
        self.waits_for = reason
        if reason and reason not in self.waited_for:
            self.waited_for.append(reason)

    def wait_until_it_waits(self) -> str:
        deadline = time.monotonic() + 60
        while not self.waits_for:
            assert self._thread.is_alive(), self.error
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return self.waits_for

    def finish(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()
        if self.error:
            raise self.error


# How full a volume is


def test_use_is_counted_as_df_counts_it(small: Path) -> None:
    fill(small, leave_bytes=5 << 20)
    assert usage(small).percent() == pytest.approx(50, abs=1)
    assert usage(small).bytes_free == pytest.approx(5 << 20, rel=0.01)


@pytest.mark.needs("root")
def test_inodes_count_as_much_as_bytes(tmp_path: Path) -> None:
    with small_volume(tmp_path / "volume", 10, inodes=20) as root:
        for name in range(17):
            (root / str(name)).touch()
        assert usage(root).percent() == pytest.approx(90, abs=1)
        reason = shortage_for_fetching(root, LIMITS, "a.tar", 10, 0)
        assert reason
        assert "90.0 % of its inodes are used" in reason


def test_what_running_fetches_still_need_counts_as_used(small: Path) -> None:
    assert shortage_for_fetching(small, LIMITS, "a.tar", 5 << 20, 0) is None
    reason = shortage_for_fetching(small, LIMITS, "a.tar", 5 << 20, 4 << 20)
    assert reason
    assert "a.tar needs 5.2 MB and running fetches need 4.2 MB" in reason
    assert "fetching stops at 85 % (room.stop_fetching_percent)" in reason


def test_an_archive_that_does_not_fit_is_not_begun_even_without_a_limit(small: Path) -> None:
    assert shortage_for_fetching(small, NO_LIMITS, "a.tar", 9 << 20, 0) is None
    assert shortage_for_fetching(small, NO_LIMITS, "a.tar", 11 << 20, 0)


def test_a_warning_comes_before_anything_stops(
    small: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(small, leave_bytes=2 << 20)
    assert shortage_for_fetching(small, LIMITS, "a.tar", 1000, 0) is None
    assert "80.0 % full, 2.1 MB free" in caplog.text


@given(st.builds(Usage, *[st.integers(0, 10**15)] * 4), st.integers(0, 10**13))
def test_more_in_it_never_makes_a_volume_emptier(now: Usage, more: int) -> None:
    assert now.percent(more, 1) >= now.percent() >= 0


# Waiting


def test_encoding_waits_at_its_limit_and_goes_on_by_itself(
    small: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    ballast = fill(small, leave_bytes=500_000)
    done = []
    job = Job(
        lambda j: work_when_there_is_space_to_encode(lambda: done.append(1), small, LIMITS, j.say)
    )
    reason = job.wait_until_it_waits()
    assert "unpacking and encoding stop at 92 % (room.stop_encoding_percent)" in reason
    time.sleep(0.3)
    assert not done
    ballast.unlink()
    job.finish()
    assert done == [1]
    assert job.waits_for == ""
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split(":")[0] for line in lines] == ["waiting for room", "there is room again"]


def test_another_error_than_want_of_room_is_not_waited_out(small: Path) -> None:
    def refuse() -> None:
        raise PermissionError(errno.EACCES, "no")

    with pytest.raises(PermissionError):
        work_when_there_is_space(refuse, lambda: None, 0.1, lambda _: None)


def test_tries_on_a_full_volume_get_rarer() -> None:
    tries = []

    def run_out() -> None:
        tries.append(time.monotonic())
        if len(tries) < 4:
            raise OSError(errno.ENOSPC, "full")

    work_when_there_is_space(run_out, lambda: None, 0.1, lambda _: None)
    pauses = [later - sooner for sooner, later in pairwise(tries)]
    assert pauses[0] >= 0.1
    assert pauses[1] >= 0.2
    assert pauses[2] >= 0.4


# Disk full in the middle


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshHost]:
    host = SshHost(tmp_path_factory.mktemp("host"))
    yield host
    host.close()


def fetch(job: Job, source: Source, volume: Volume) -> None:
    with locks.exclusive(volume.archive_lock("a.tar"), "fetch_archive", 3600) as lock:
        renew = lock.renew

        def say(waits_for: str = "") -> None:
            renew(waits_for)
            job.say(waits_for)

        lock.renew = say  # type: ignore[method-assign]
        settings = TransferSettings()
        fetch_archive(volume.entry("a.tar"), source, volume, settings, NO_LIMITS, lock)


@pytest.mark.parametrize("kind", ["folder", "ssh"])
def test_a_fetch_that_fills_the_volume_waits_and_goes_on(
    small: Path, host: SshHost, kind: str
) -> None:
    volume = Volume(small)
    there = host.put("a.tar", os.urandom(6 << 20))
    ssh = SshSource(ALIAS, host.ssh_config, str(host.folder))
    source: Source = ssh if kind == "ssh" else FolderSource(host.folder)
    poll(source, volume, 0)
    (small / "needed").write_bytes(bytes(2 << 20))
    host.line.bytes_a_second = 6 << 20
    filled = threading.Event()

    def fill_meanwhile() -> None:
        while not any(path.stat().st_size for path in volume.transfers.glob("*")):
            time.sleep(0.001)
        with suppress(OSError):  # the fetch takes the last of the room meanwhile
            fill(small)
        filled.set()

    if kind == "ssh":
        threading.Thread(target=fill_meanwhile).start()
    else:  # too quick to be caught in the middle: it claims room that is gone when it copies
        fill(small, leave_bytes=4 << 20)
        filled.set()
    job = Job(lambda j: fetch(j, source, volume))
    reason = job.wait_until_it_waits()
    assert filled.wait(60)
    assert "full" in reason
    assert not volume.incoming("a.tar").exists()
    (small / "ballast").unlink()
    job.finish()
    assert volume.incoming("a.tar").read_bytes() == there.read_bytes()
    if kind == "ssh":
        assert "No space left on device" in " ".join(job.waited_for)


def test_unpacking_that_fills_the_volume_leaves_nothing_waits_and_goes_on(
    small: Path, tmp_path: Path
) -> None:
    contents = [os.urandom(1 << 20) for _ in range(6)]
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number, content in enumerate(contents):
            (tmp_path / "member").write_bytes(content)
            tar.add(tmp_path / "member", f"{number}.mp3")
    ballast = fill(small, leave_bytes=3 << 20)
    target = small / "unpacked" / "a.tar"

    def work(job: Job) -> None:
        work_when_there_is_space_to_encode(
            lambda: unpack_archive(tmp_path / "a.tar", target), small, NO_LIMITS, job.say
        )

    job = Job(work)
    assert "No space left on device" in job.wait_until_it_waits()
    assert not target.exists()
    ballast.unlink()
    job.finish()
    found = {path.name: path.read_bytes() for path in target.iterdir() if path.suffix == ""}
    assert found == {f"{n:06d}": content for n, content in enumerate(contents)}
    assert [path.name for path in (small / "unpacked").iterdir()] == ["a.tar"]


@pytest.mark.slow
def test_encoding_that_fills_the_volume_leaves_nothing_waits_and_goes_on(
    small: Path, tmp_path: Path
) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for seed in range(6):
            clip = write_audio(tmp_path / f"{seed}.mp3", chirp(20, seed=seed))
            tar.add(clip, clip.name)
    unpack_archive(tmp_path / "a.tar", tmp_path / "unpacked")
    ballast = fill(small, leave_bytes=300_000)
    audio, manifest = small / "audio" / "a.tar", small / "manifests" / "a.tar.parquet"

    def encode() -> None:
        settings = EncodeSettings(workers=2)
        encode_archive(tmp_path / "unpacked", audio, manifest, "a.tar", small, settings)

    job = Job(lambda j: work_when_there_is_space_to_encode(encode, small, NO_LIMITS, j.say))
    assert "No space left on device" in job.wait_until_it_waits()
    assert not manifest.exists()
    assert not audio.exists()
    ballast.unlink()
    job.finish()
    rows = read_table(manifest, MANIFEST).to_pylist()
    assert [row["status"] for row in rows] == ["ok"] * 6
    assert sorted(path.name for path in audio.iterdir()) == [f"{n:06d}.opus" for n in range(6)]


def test_a_lock_holds_on_a_full_volume(small: Path) -> None:
    volume = Volume(small)
    with locks.exclusive(volume.archive_lock("a.tar"), "encode_opus"):
        pass
    fill(small)
    with locks.exclusive(volume.archive_lock("a.tar"), "encode_opus") as lock:
        lock.renew("for room")
        assert locks.is_held(volume.archive_lock("a.tar"))
