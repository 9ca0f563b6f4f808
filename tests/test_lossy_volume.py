"""What a power cut leaves on the file system by which tests try it."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from lossy_volume import SECTOR, Disk, mounted, steps_of, write_tree

from earmark.files import sync, whole

pytestmark = pytest.mark.needs("root", "fusermount3")


def left(tmp_path: Path, work: Callable[[Path], None], survival: float = 0) -> Path:
    """A folder that holds what is left of the work on a file system after a power cut."""
    with mounted(tmp_path / "mount", tmp_path / "record") as mount:
        work(mount)
    disk = Disk()
    for step in steps_of(tmp_path / "record"):
        disk.take(step)
    write_tree(disk.after_power_cut(survival, random.Random(1)), tmp_path / "left")
    return tmp_path / "left"


def write(path: Path, text: str, lasting: bool) -> None:
    with path.open("w") as file:
        file.write(text)
        if lasting:
            file.flush()
            os.fsync(file.fileno())


def test_bytes_last_once_they_are_synced(tmp_path: Path) -> None:
    def work(mount: Path) -> None:
        write(mount / "synced", "kept", lasting=True)
        write(mount / "not synced", "lost", lasting=False)
        sync(mount)
        write(mount / "synced", "never seen again", lasting=False)

    folder = left(tmp_path, work)
    assert (folder / "synced").read_text() == "kept"
    assert (folder / "not synced").read_text() == ""


def test_names_last_once_their_folder_is_synced(tmp_path: Path) -> None:
    def work(mount: Path) -> None:
        write(mount / "a", "a", lasting=True)
        write(mount / "b", "b", lasting=True)
        (mount / "folder").mkdir()
        sync(mount)
        (mount / "a").rename(mount / "c")
        (mount / "b").unlink()
        write(mount / "folder" / "d", "d", lasting=True)

    folder = left(tmp_path, work)
    assert sorted(path.name for path in folder.rglob("*")) == ["a", "b", "folder"]


def test_a_rename_from_one_folder_to_another_is_never_half_done(tmp_path: Path) -> None:
    def work(mount: Path) -> None:
        for name in ("from", "to"):
            (mount / name).mkdir()
        sync(mount)
        write(mount / "from" / "a", "a", lasting=True)
        (mount / "from" / "a").rename(mount / "to" / "a")
        sync(mount / "to")

    folder = left(tmp_path, work)
    assert list(folder.rglob("a")) == [folder / "to" / "a"]


def test_all_that_was_done_is_left_if_everything_survives(tmp_path: Path) -> None:
    def work(mount: Path) -> None:
        with whole(mount / "folder" / "file") as partial:
            partial.write_text("old")
        (mount / "folder" / "file").chmod(0o640)
        os.utime(mount / "folder" / "file", ns=(10**18, 10**18))
        with (mount / "open").open("w+") as file:
            (mount / "open").unlink()
            file.write("still to be written and read")
            file.seek(0)
            assert file.read() == "still to be written and read"

    folder = left(tmp_path, work, survival=1)
    assert [path.name for path in folder.rglob("*")] == ["folder", "file"]
    file = folder / "folder" / "file"
    assert file.read_text() == "old"
    assert (file.stat().st_mode & 0o777, file.stat().st_mtime_ns) == (0o640, 10**18)


def test_of_what_was_not_synced_a_part_may_be_left(tmp_path: Path) -> None:
    def work(mount: Path) -> None:
        for number in range(100):
            write(mount / str(number), "text", lasting=False)

    sizes = [path.stat().st_size for path in left(tmp_path, work, survival=0.5).iterdir()]
    assert 20 < len(sizes) < 80
    assert {*sizes} == {0, 4}


def test_a_write_may_be_torn_between_two_sectors(tmp_path: Path) -> None:
    def work(mount: Path) -> None:
        for number in range(100):
            write(mount / str(number), "x" * (2 * SECTOR + 1), lasting=False)
        sync(mount)

    files = [path.read_bytes() for path in left(tmp_path, work, survival=0.5).iterdir()]
    torn = {content.count(b"x") for content in files} - {0, 2 * SECTOR + 1}
    assert len(torn) > 1
    assert torn <= {SECTOR, 2 * SECTOR, SECTOR + 1, 1}
