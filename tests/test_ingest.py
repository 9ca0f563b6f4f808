"""Archives from a host, through Snakemake: whole runs on small, full and lost things."""

import os
import re
import shutil
import tarfile
import threading
import time
from pathlib import Path

import pytest
from psycopg2.extensions import parse_dsn
from small_volume import fill, small_volume
from ssh_host import ALIAS, SshHost
from workflow_run import ROWS, Run

from earmark import locks
from earmark.record.database import connect


@pytest.fixture
def host(tmp_path: Path):
    host = SshHost(tmp_path / "host")
    yield host
    host.close()


def over_ssh(host: SshHost, **settings) -> dict:
    return {
        "kind": "ssh", "host": ALIAS, "ssh_config": str(host.ssh_config),
        "directory": str(host.folder), "poll_seconds": 1, **settings,
    }  # fmt: skip


def server_of(conninfo: str) -> dict[str, str]:
    """The variables that name a database."""
    names = {"host": "HOST", "port": "PORT", "dbname": "DB", "user": "USER", "password": "PASSWORD"}
    return {
        f"POSTGRES_{names[key]}": value
        for key, value in parse_dsn(conninfo).items()
        if key in names
    }


def rows_of(conninfo: str) -> list[tuple]:
    with connect(conninfo) as connection, connection.cursor() as cursor:
        cursor.execute(ROWS)
        return cursor.fetchall()


def test_a_run_pulls_from_a_host_and_deletes_there_what_is_done(
    tmp_path: Path, volume: Path, host: SshHost, small_source: Path, undisturbed: list[tuple]
) -> None:
    shutil.copy2(small_source / "small.tar", host.folder)
    host.put("-rf $(reboot).tar", b"tar")
    run = Run(tmp_path, volume, source=over_ssh(host, delete_after=True))
    code, said = run.finish()
    assert code == 0, said
    assert re.search(r"seen for the first time: \d archives?; looking once more in", said)
    assert run.query(ROWS) == undisturbed
    assert not run.volume.incoming("small.tar").exists()
    assert [path.name for path in host.folder.iterdir()] == ["-rf $(reboot).tar"]
    assert "Refused: '-rf $(reboot).tar'" in said
    code, said = run.finish("--dry-run")
    assert code == 0
    assert "Nothing to do" in said
    host.stop()
    code, said = run.finish()
    assert code == 0
    assert f"{ALIAS} cannot be reached" in said
    assert "Nothing to do" in said


def test_archives_come_in_the_order_asked_for_and_no_more_than_a_batch(
    tmp_path: Path, volume: Path, host: SshHost
) -> None:
    for hours in (3, 1, 4, 2):
        host.put(f"{hours}.tar", b"tar", age_seconds=3600 * hours)
    source = over_ssh(host, order="newest", batch=3)
    code, said = Run(tmp_path, volume, source=source).finish(
        "--until", "fetch_archive", "--resources", "transfers=1", "gpu=1"
    )
    assert code == 0, said
    assert re.findall(r"(\d\.tar): started", said) == ["1.tar", "2.tar", "3.tar"]
    assert "Left for the next runs: 1, beyond source.batch" in said


def padded(small: Path, target: Path, megabytes: int) -> None:
    """The small archive with something large in it that is no audio."""
    with tarfile.open(small) as source, tarfile.open(target, "w") as tar:
        for member in source:
            tar.addfile(member, source.extractfile(member) if member.isreg() else None)
        junk = tarfile.TarInfo("junk.bin")
        junk.size = megabytes << 20
        with Path("/dev/urandom").open("rb") as random:
            tar.addfile(junk, random)
    changed = time.time() - 3600
    os.utime(target, (changed, changed))


@pytest.mark.needs("root")
def test_a_full_volume_stops_every_stage_for_as_long_as_it_is_full(
    tmp_path: Path, small_source: Path, undisturbed: list[tuple], migrated_database: str
) -> None:
    with small_volume(tmp_path / "volume", 24) as root:
        source = {"directory": str(small_source)}
        run = Run(tmp_path, root, source=source, room={"check_seconds": 0.2})
        ballast = fill(root, leave_bytes=100 << 10)  # for the catalogue, and not much more
        waited: set[str] = set()

        def make_room_where_it_is_missing() -> None:
            unpacked = run.volume.unpacked("small.tar")
            while process.poll() is None and not unpacked.exists():
                make_room()
            fill(root, leave_bytes=24 << 10)  # before encoding has begun
            while process.poll() is None:
                make_room()

        def make_room() -> None:
            time.sleep(0.3)
            holder = locks.holder_of(run.volume.archive_lock("small.tar"))
            if holder and holder.waits_for:
                waited.add(holder.purpose)
                os.truncate(ballast, max(0, ballast.stat().st_size - (40 << 10)))

        with run.start(**server_of(migrated_database)) as process:
            helper = threading.Thread(target=make_room_where_it_is_missing)
            helper.start()
            said, _ = process.communicate(timeout=600)
            helper.join()
        assert process.returncode == 0, said
        assert waited == {"fetch_archive", "unpack_archive", "encode_opus"}
        assert "the volume is full: No space left on device" in said
        assert run.leftovers() == []
        assert rows_of(migrated_database) == undisturbed


@pytest.mark.needs("root")
def test_a_fetch_that_waits_for_room_holds_no_core_that_would_make_it(
    tmp_path: Path, small_source: Path, migrated_database: str
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("first.tar", "second.tar"):
        padded(small_source / "small.tar", source / name, megabytes=8)
    with small_volume(tmp_path / "volume", 24) as root:
        run = Run(
            tmp_path, root, source={"directory": str(source)},
            room={"stop_fetching_percent": 50, "stop_encoding_percent": 92, "check_seconds": 0.5},
        )  # fmt: skip
        code, said = run.finish("--cores", "1", **server_of(migrated_database))
        assert code == 0, said
        log = "".join(path.read_text() for path in (root / "logs/fetch_archive").iterdir())
    assert "waiting for room" in log
    assert "there is room again" in log
    assert {row[0] for row in rows_of(migrated_database)} == {"first.tar", "second.tar"}
