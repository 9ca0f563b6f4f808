"""Fetching: an archive arrives whole, or not at all, whatever happens on the way."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from processes import children, wait_for
from ssh_host import ALIAS, SshHost

from earmark import locks
from earmark.errors import EarmarkError
from earmark.ingest import catalogue
from earmark.ingest.catalogue import Archive, plan_run, poll
from earmark.ingest.fetch import fetch_archive, running_transfers
from earmark.ingest.source import FolderSource, Listed, Source, SourceUnreachableError, SshSource
from earmark.settings import DiskSpaceLimits, SourceSettings, TransferSettings
from earmark.volume import Volume

LIMITS = DiskSpaceLimits(
    warn_percent=100, stop_fetching_percent=100, stop_encoding_percent=100, check_seconds=0.1
)
SIZE = 6_000_000


@pytest.fixture(scope="module")
def shared_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshHost]:
    host = SshHost(tmp_path_factory.mktemp("host"))
    yield host
    host.close()


@pytest.fixture
def host(shared_host: SshHost) -> Iterator[SshHost]:
    """A host without archives, with a good line."""
    yield shared_host
    for path in shared_host.folder.iterdir():
        path.unlink()
    line = shared_host.line
    line.bytes_a_second, line.cut_after, line.received = None, None, 0


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume(tmp_path / "volume")


def over_ssh(host: SshHost, stall_seconds: int = 10) -> SshSource:
    return SshSource(ALIAS, host.ssh_config, str(host.folder), stall_seconds)


def find(source: Source, volume: Volume) -> list[Archive]:
    return poll(source, volume, poll_seconds=0).archives


def fetch(
    name: str, source: Source, volume: Volume, settings: TransferSettings | None = None
) -> Path:
    settings = settings or TransferSettings()
    lease = settings.timeout_minutes * 60
    volume.root.mkdir(exist_ok=True)
    with locks.exclusive(volume.archive_lock(name), "fetch_archive", lease) as lock:
        fetch_archive(volume.entry(name), source, volume, settings, LIMITS, lock)
    return volume.incoming(name)


def partials(volume: Volume) -> list[Path]:
    return sorted(volume.transfers.iterdir()) if volume.transfers.exists() else []


def incoming(volume: Volume) -> list[str]:
    folder = volume.incoming("")
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.fixture(params=["folder", "ssh"])
def source(request: pytest.FixtureRequest, host: SshHost) -> Source:
    """The host's folder, directly and over SSH."""
    return FolderSource(host.folder) if request.param == "folder" else over_ssh(host)


# Any source


def test_an_archive_arrives_whole_with_its_own_time(
    host: SshHost, source: Source, volume: Volume
) -> None:
    there = host.put("a.tar", os.urandom(100_000))
    (archive,) = find(source, volume)
    here = fetch("a.tar", source, volume)
    assert here.read_bytes() == there.read_bytes()
    assert here.stat().st_mtime_ns == there.stat().st_mtime_ns == archive.modified_ns
    assert partials(volume) == []


def test_an_archive_that_grew_since_it_was_found_does_not_arrive(
    host: SshHost, source: Source, volume: Volume
) -> None:
    there = host.put("a.tar", os.urandom(100_000))
    find(source, volume)
    with there.open("ab") as file:
        file.write(b"more")
    with pytest.raises(EarmarkError, match=r"100004 bytes in .*, and its entry says 100000"):
        fetch("a.tar", source, volume)
    assert incoming(volume) == []
    find(source, volume)
    assert fetch("a.tar", source, volume).read_bytes() == there.read_bytes()


def test_an_archive_that_was_replaced_by_one_of_the_same_size_does_not_arrive(
    host: SshHost, source: Source, volume: Volume
) -> None:
    host.put("a.tar", os.urandom(100_000))
    find(source, volume)
    there = host.put("a.tar", os.urandom(100_000), age_seconds=1800)
    with pytest.raises(EarmarkError, match="changed after it was found"):
        fetch("a.tar", source, volume)
    assert incoming(volume) == []
    find(source, volume)
    assert fetch("a.tar", source, volume).read_bytes() == there.read_bytes()


def test_an_archive_that_vanished_is_named_and_leaves_the_catalogue(
    host: SshHost, source: Source, volume: Volume
) -> None:
    there = host.put("a.tar", os.urandom(100_000))
    find(source, volume)
    there.unlink()
    with pytest.raises(EarmarkError, match=r"a\.tar has vanished"):
        fetch("a.tar", source, volume)
    assert find(source, volume) == []
    assert not volume.entry("a.tar").exists()


def test_only_what_was_found_is_fetched(host: SshHost, source: Source, volume: Volume) -> None:
    host.put("a.tar", b"tar")
    with pytest.raises(EarmarkError, match="there is no entry"):
        fetch("a.tar", source, volume)


def test_only_what_is_still_as_it_was_is_deleted_at_the_source(
    host: SshHost, source: Source, volume: Volume
) -> None:
    for name in ("same.tar", "touched.tar", "grown.tar", "with spaces in.tar"):
        host.put(name, b"tar")
    host.put("gone.tar", b"tar").unlink()
    files = source.files()
    host.put("touched.tar", b"tar", age_seconds=1)
    (host.folder / "grown.tar").write_bytes(b"more")
    files.append(Listed("gone.tar", 3, 10**18))
    assert sorted(source.delete(files)) == ["same.tar", "with spaces in.tar"]
    assert sorted(path.name for path in host.folder.iterdir()) == ["grown.tar", "touched.tar"]


# Over SSH


def test_one_call_lists_the_host_with_size_and_time_to_the_nanosecond(
    host: SshHost, volume: Volume
) -> None:
    first, second = host.put("a.tar", b"one"), host.put("b c.tar", b"three", 60)
    (host.folder / "folder.tar").mkdir()
    (host.folder / "link.tar").symlink_to("/etc/passwd")
    host.put(".hidden.tar.Xyz", b"half")
    try:
        archives = find(over_ssh(host), volume)
    finally:
        (host.folder / "folder.tar").rmdir()
    assert [(a.name, a.bytes, a.modified_ns) for a in archives] == [
        ("a.tar", 3, first.stat().st_mtime_ns),
        ("b c.tar", 5, second.stat().st_mtime_ns),
    ]


HOSTILE_NAMES = [
    b"-rf.tar", b"--delete.tar", b"$(touch pwned).tar", b"`touch pwned`.tar", b"a;touch pwned;.tar",
    b"a\n$(touch pwned)\n.tar", b"quote'\".tar", b"caf\xe9\xff.tar", b"*", b"a\\b.tar", b"{a}.tar",
    b"a|touch pwned", b"\xf0\x9f\x94\xa5.tar", b"~root", b"%n%s.tar", b"n" * 255,
]  # fmt: skip


def test_hostile_names_are_refused_with_an_entry_and_nothing_is_executed(
    host: SshHost, volume: Volume
) -> None:
    before = {path.name for path in Path.cwd().iterdir()}
    hostile = [host.put(name, b"tar") for name in HOSTILE_NAMES]
    host.put("good.tar", b"tar")
    archives = find(over_ssh(host), volume)
    assert catalogue.read(volume).archives == archives
    assert len(archives) == len(HOSTILE_NAMES) + 1
    (good,) = [archive for archive in archives if archive.refused is None]
    assert plan_run(archives, volume, SourceSettings()).now == [good]
    fetch("good.tar", over_ssh(host), volume)
    assert list(over_ssh(host).delete([Listed("good.tar", 3, good.modified_ns)])) == ["good.tar"]
    assert sorted(host.folder.iterdir()) == sorted(hostile)
    assert {path.name for path in Path.cwd().iterdir()} == before
    for folder in (host.folder, Path.home(), Path("/")):
        assert not (folder / "pwned").exists()


def test_unusual_names_are_fetched_as_they_are(host: SshHost, volume: Volume) -> None:
    names = ["a b  c.tar", "x@y+z-1_2.tar", "v..2.tar", "no ending"]
    for name in names:
        host.put(name, name.encode() * 1000)
    find(over_ssh(host), volume)
    for name in names:
        assert fetch(name, over_ssh(host), volume).read_bytes() == name.encode() * 1000


def test_a_folder_of_a_hostile_name_is_just_a_folder(
    tmp_path: Path, host: SshHost, volume: Volume
) -> None:
    folder = tmp_path / "a 'b' $(touch pwned); \"c\""
    folder.mkdir()
    host.put("a.tar", b"tar").rename(folder / "a.tar")
    source = SshSource(ALIAS, host.ssh_config, str(folder))
    (archive,) = find(source, volume)
    assert fetch("a.tar", source, volume).read_bytes() == b"tar"
    assert list(source.delete([Listed("a.tar", 3, archive.modified_ns)])) == ["a.tar"]


def test_a_connection_that_is_cut_in_the_middle_loses_nothing(
    host: SshHost, volume: Volume
) -> None:
    there = host.put("a.tar", os.urandom(SIZE))
    find(over_ssh(host), volume)
    host.line.cut_after = host.line.received + SIZE // 2
    with pytest.raises(SourceUnreachableError, match=r"was lost with .* of a\.tar here"):
        fetch("a.tar", over_ssh(host), volume)
    assert incoming(volume) == []
    (partial,) = partials(volume)
    kept = partial.stat().st_size
    assert kept > SIZE // 8
    host.line.cut_after, host.line.received = None, 0
    assert fetch("a.tar", over_ssh(host), volume).read_bytes() == there.read_bytes()
    assert host.line.received < SIZE - 0.9 * kept  # the rest, and not all of it again


FETCH = """
import sys
from pathlib import Path
from earmark.driver.stages import stage
from earmark.ingest.source import SshSource
from earmark.ingest.fetch import fetch_archive
from earmark.settings import DiskSpaceLimits, TransferSettings
from earmark.volume import Volume
volume, config, folder = Volume(Path(sys.argv[1])), Path(sys.argv[2]), sys.argv[3]
settings = TransferSettings(timeout_minutes=float(sys.argv[4]))
log = volume.log("fetch_archive", "a.tar")
with stage("fetch_archive", "a.tar", volume, log, settings.timeout_minutes * 60) as lock:
    fetch_archive(
        volume.entry("a.tar"), SshSource("archive-host", config, folder, 30), volume, settings,
        DiskSpaceLimits(stop_fetching_percent=100), lock,
    )
"""


def start_fetch(host: SshHost, volume: Volume, timeout_minutes: float = 60) -> subprocess.Popen:
    arguments = [str(volume.root), str(host.ssh_config), str(host.folder), str(timeout_minutes)]
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, *arguments], stderr=subprocess.PIPE, text=True
    )


def test_a_fetch_that_is_killed_leaves_no_process_and_goes_on_where_it_was(
    host: SshHost, volume: Volume
) -> None:
    there = host.put("a.tar", os.urandom(SIZE))
    find(over_ssh(host), volume)
    host.line.bytes_a_second = SIZE / 4
    with start_fetch(host, volume) as killed:
        wait_for(lambda: partials(volume) and partials(volume)[0].stat().st_size > SIZE // 4)
        killed.kill()
    # Its rsync dies with it, and until then the lock is held.
    wait_for(lambda: not locks.is_held(volume.archive_lock("a.tar")))
    kept = partials(volume)[0].stat().st_size
    host.line.bytes_a_second, host.line.received = None, 0
    assert fetch("a.tar", over_ssh(host), volume).read_bytes() == there.read_bytes()
    assert host.line.received < SIZE - 0.9 * kept


def test_two_that_fetch_the_same_archive_transfer_it_once(host: SshHost, volume: Volume) -> None:
    there = host.put("a.tar", os.urandom(SIZE))
    find(over_ssh(host), volume)
    host.line.bytes_a_second = SIZE / 3
    host.line.received = 0
    with start_fetch(host, volume) as one, start_fetch(host, volume) as other:
        said = [process.communicate(timeout=120)[1] for process in (one, other)]
    assert (one.returncode, other.returncode) == (0, 0), said
    assert volume.incoming("a.tar").read_bytes() == there.read_bytes()
    assert host.line.received < 1.2 * SIZE
    assert sum("a.tar is here already" in text for text in said) == 1
    assert sum("waiting for process" in text for text in said) == 1


def test_a_fetch_that_hangs_is_given_up_and_can_do_no_harm_when_it_wakes_up(
    host: SshHost, volume: Volume
) -> None:
    there = host.put("a.tar", os.urandom(SIZE))
    find(over_ssh(host), volume)
    host.line.bytes_a_second = SIZE / 4
    with start_fetch(host, volume, timeout_minutes=0.1) as hanging:
        wait_for(lambda: partials(volume) and partials(volume)[0].stat().st_size > SIZE // 8)
        stopped = [hanging.pid, *children(hanging.pid, recursive=True)]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        host.line.bytes_a_second = None
        assert fetch("a.tar", over_ssh(host), volume).read_bytes() == there.read_bytes()
        for pid in stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        hanging.communicate(timeout=60)
    assert volume.incoming("a.tar").read_bytes() == there.read_bytes()
    assert hanging.returncode != 0


def test_a_transfer_that_takes_too_long_ends_and_goes_on_later(
    host: SshHost, volume: Volume
) -> None:
    there = host.put("a.tar", os.urandom(SIZE))
    find(over_ssh(host), volume)
    host.line.bytes_a_second = SIZE / 10
    with pytest.raises(SourceUnreachableError, match=r"took longer than 0\.05 minutes"):
        fetch("a.tar", over_ssh(host), volume, TransferSettings(timeout_minutes=0.05))
    assert partials(volume)[0].stat().st_size > 0
    host.line.bytes_a_second = None
    assert fetch("a.tar", over_ssh(host), volume).read_bytes() == there.read_bytes()


def test_a_silent_connection_is_taken_for_lost(host: SshHost, volume: Volume) -> None:
    host.put("a.tar", os.urandom(SIZE))
    find(over_ssh(host), volume)
    host.line.bytes_a_second = 100  # a piece every few minutes, and all in half a day
    with pytest.raises(SourceUnreachableError, match=r"was lost|cannot be reached|did not answer"):
        over_ssh(host, stall_seconds=2).copy("a.tar", volume.root.parent / "a", 60, [])


def test_an_archive_that_grows_while_it_is_fetched_does_not_arrive(
    host: SshHost, volume: Volume
) -> None:
    there = host.put("a.tar", os.urandom(SIZE))
    find(over_ssh(host), volume)
    host.line.bytes_a_second = SIZE / 2

    def grow() -> None:
        wait_for(lambda: partials(volume) and partials(volume)[0].stat().st_size > 0)
        with there.open("ab") as file:
            file.write(os.urandom(1000))

    growing = threading.Thread(target=grow)
    growing.start()
    with pytest.raises(EarmarkError, match=r"still being written|changed after it was found"):
        fetch("a.tar", over_ssh(host), volume)
    growing.join()
    assert incoming(volume) == []


def test_an_archive_that_vanishes_while_it_is_fetched_is_told_by_its_name(
    host: SshHost, volume: Volume
) -> None:
    there = host.put("a.tar", os.urandom(SIZE))
    find(over_ssh(host), volume)
    host.line.bytes_a_second = SIZE / 2

    def vanish() -> None:
        wait_for(lambda: partials(volume) and partials(volume)[0].stat().st_size > 0)
        there.unlink()

    vanishing = threading.Thread(target=vanish)
    vanishing.start()
    with pytest.raises(EarmarkError, match=r"a\.tar has vanished"):
        fetch("a.tar", over_ssh(host), volume)
    vanishing.join()
    assert incoming(volume) == []


def test_a_host_that_is_down_is_a_warning_and_the_known_archives_go_on(
    host: SshHost, volume: Volume, caplog: pytest.LogCaptureFixture
) -> None:
    host.put("a.tar", b"tar")
    before = find(over_ssh(host), volume)
    host.stop()
    try:
        now = poll(over_ssh(host), volume, 0)
        with pytest.raises(SourceUnreachableError, match="archive-host cannot be reached"):
            fetch("a.tar", over_ssh(host), volume)
    finally:
        host.start()
    assert now.archives == before
    told = r"archive-host cannot be reached: .*going on with 1 known archive"
    assert re.search(told, caplog.text)
    assert fetch("a.tar", over_ssh(host), volume).read_bytes() == b"tar"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"folder": "/nowhere"},
            r"folder /nowhere of archive-host .*No such file.* source\.direct",
        ),
        ({"ssh_config": Path("/nowhere/config")}, r"source\.ssh_config names .* which is missing"),
        ({"host": "unknown.invalid"}, r"unknown\.invalid cannot be reached: "),
    ],
)
def test_what_is_wrong_with_the_source_is_said(
    host: SshHost, volume: Volume, changes: dict, message: str
) -> None:
    settings = {"host": ALIAS, "ssh_config": host.ssh_config, "folder": str(host.folder)}
    with pytest.raises(EarmarkError, match=message):
        SshSource(**settings | changes).files()


def test_a_login_script_that_prints_is_found_out(host: SshHost) -> None:
    host.put("a.tar", b"tar")
    host.stop()
    host.start('-oForceCommand=echo Welcome to the host!; eval "$SSH_ORIGINAL_COMMAND"')
    try:
        with pytest.raises(EarmarkError, match=r"Welcome to .* let no login script there print"):
            over_ssh(host).files()
    finally:
        host.stop()
        host.start()


def test_running_transfers_tell_how_much_they_still_need(host: SshHost, volume: Volume) -> None:
    host.put("a.tar", os.urandom(SIZE))
    find(over_ssh(host), volume)
    assert list(running_transfers(volume)) == []
    host.line.bytes_a_second = SIZE / 3
    with start_fetch(host, volume) as fetching:
        wait_for(lambda: any(t.bytes > 0 for t in running_transfers(volume)))
        (transfer,) = running_transfers(volume)
        assert (transfer.archive, transfer.total) == ("a.tar", SIZE)
        assert 0 < transfer.bytes < SIZE
        fetching.kill()
    wait_for(lambda: not list(running_transfers(volume)))
