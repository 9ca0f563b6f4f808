"""A volume of a few megabytes that really fills up: a tmpfs of its own."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def small_volume(folder: Path, megabytes: float, inodes: int = 0) -> Iterator[Path]:
    """Mount a small file system at a folder; needs root, as mounting does."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={int(megabytes * 1024)}k,nr_inodes={inodes},mode=0711"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "earmark-test", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path, leave_bytes: int = 0) -> Path:
    """Write a file that leaves so much room; removing it makes room again."""
    ballast = folder / "ballast"
    ballast.unlink(missing_ok=True)
    status = os.statvfs(folder)
    with ballast.open("wb") as file:
        left = status.f_bavail * status.f_frsize - leave_bytes
        while left > 0:
            left -= file.write(bytes(min(left, 1 << 20)))
    return ballast
