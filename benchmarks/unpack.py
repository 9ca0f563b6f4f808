"""Speed and memory of unpacking against ``tar``: `make bench-unpack`.

    python -m benchmarks.unpack

One archive of 2,000 members, 1 GB of noise, is unpacked by both sides in turns, each time
into a new folder on the same file system:

- ours: a call of `earmark.ingest.unpack.unpack_archive`, the start of its reading process, the
  SHA-256 of each member, the list of members and the final rename included;
- baseline: ``tar -xf`` (``tar -xzf`` with ``--gzip``), its start included.

What counts is the wall time.  The ratio is the median of the rounds' ratios: the two of a
round run right after each other, and a machine that gets slower slows both.  The archive is
in the page cache before each turn, what earlier turns wrote is removed and the disk is in
sync; neither side waits for its members to reach the disk.  The start of the process that
calls ``unpack_archive`` is not counted, nor what it imports at its first call, which is made
on a tiny archive.

Memory is the peak resident size (VmHWM) of the reading process, and of a new process that
calls ``unpack_archive``, for an archive of a quarter of the size and for the whole one.

Bars: tar's time is at least 0.8 times ours, and neither peak grows by more than 8 MB from
the smaller archive to the larger.
"""

import argparse
import io
import logging
import os
import random
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import Result, finish, progress
from earmark.ingest.unpack import unpack_archive

LEAST_RATIO = 0.8
MOST_GROWTH = 8e6  # bytes

_READ_BYTES = 1 << 20
_SECONDS_BETWEEN_LOOKS = 0.005


@dataclass(frozen=True)
class Peaks:
    """Peak resident sizes of unpacking one archive, in bytes.

    Attributes:
        reader: Of the process that reads the archive.
        caller: Of the process that calls `unpack_archive`.
    """

    reader: int
    caller: int


def make_archive(path: Path, size: int, members: int, gzipped: bool, seed: int) -> None:
    """Write an archive of noise that no compression makes smaller.

    Args:
        path: The archive to write.
        size: Of all members together, in bytes; each has its share, give or take a fifth.
        members: How many.
        gzipped: Whether to compress the tar.
        seed: Another one makes other noise.
    """
    rng = random.Random(seed)
    # The lowest level that compresses: noise is all the same to gzip.
    with tarfile.open(path, "w:gz", compresslevel=1) if gzipped else tarfile.open(path, "w") as tar:
        for number in range(members):
            header = tarfile.TarInfo(f"clips/{number:06d}.mp3")
            header.size = round(size / members * rng.uniform(0.8, 1.2))
            tar.addfile(header, io.BytesIO(rng.randbytes(header.size)))


def seconds(work: Callable[[], object], archive: Path, folder: Path) -> float:
    """Wall time of work that unpacks an archive into a folder which is removed afterwards."""
    with archive.open("rb", buffering=0) as file:
        while file.read(_READ_BYTES):
            pass
    os.sync()
    begun = time.perf_counter()
    work()
    taken = time.perf_counter() - begun
    shutil.rmtree(folder)
    return taken


def by_ours(archive: Path, folder: Path) -> float:
    """Wall time (s) of `unpack_archive`."""
    return seconds(lambda: unpack_archive(archive, folder), archive, folder)


def by_tar(archive: Path, folder: Path, gzipped: bool) -> float:
    """Wall time (s) of ``tar -xf``."""
    folder.mkdir()
    command = ["tar", "-xzf" if gzipped else "-xf", str(archive), "-C", str(folder)]
    return seconds(lambda: subprocess.run(command, check=True), archive, folder)


def peaks(archive: Path, folder: Path) -> Peaks:
    """Unpack an archive by a new process and watch its memory and its reader's."""
    program = (
        "import sys; from pathlib import Path; from earmark.ingest.unpack import unpack_archive; "
        "unpack_archive(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    reader = caller = 0
    with subprocess.Popen([sys.executable, "-c", program, archive, folder]) as process:
        own = Path(f"/proc/{process.pid}")
        while process.poll() is None:
            caller = max(caller, _peak(own))
            for child in _read(own / f"task/{process.pid}/children").split():
                # A child that has not begun its own program yet has its parent's memory.
                if "earmark.ingest.tarstream" in _read(Path(f"/proc/{child}/cmdline")):
                    reader = max(reader, _peak(Path(f"/proc/{child}")))
            time.sleep(_SECONDS_BETWEEN_LOOKS)
    if process.returncode or not reader:
        raise RuntimeError(f"{archive.name} could not be unpacked and watched")
    shutil.rmtree(folder)
    return Peaks(reader, caller)


def _read(path: Path) -> str:
    """A file of /proc, empty once its process has ended."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _peak(process: Path) -> int:
    """Peak resident size in bytes of a process, by its folder in /proc."""
    lines = [line for line in _read(process / "status").splitlines() if line.startswith("VmHWM")]
    return int(lines[0].split()[1]) * 1024 if lines else 0


def compare_speed(
    archive: Path, folder: Path, rounds: int, gzipped: bool
) -> tuple[float, float, float]:
    """Median wall times (s) of ours and of tar, in turns, and the median of their ratios."""
    ours, baseline = [], []
    for number in range(rounds):
        ours.append(by_ours(archive, folder / f"ours-{number}"))
        baseline.append(by_tar(archive, folder / f"tar-{number}", gzipped))
        progress(f"round {number + 1} of {rounds}: ours {ours[-1]:.2f} s, tar {baseline[-1]:.2f} s")
    ratios = [theirs / own for own, theirs in zip(ours, baseline, strict=True)]
    return statistics.median(ours), statistics.median(baseline), statistics.median(ratios)


def main() -> int:
    """Measure speed and memory and check the bars; returns the exit status."""
    options = _options()
    logging.basicConfig(level=logging.WARNING)
    size = options.megabytes * 10**6
    with tempfile.TemporaryDirectory(prefix="bench-unpack-") as name:
        folder = Path(name)
        small, large, tiny = (folder / f"{each}.tar" for each in ("small", "large", "tiny"))
        progress(f"making archives of {size / 4e6:g} and {size / 1e6:g} MB")
        make_archive(small, size // 4, options.members // 4, options.gzip, options.seed)
        make_archive(large, size, options.members, options.gzip, options.seed)
        make_archive(tiny, 1000, 1, options.gzip, options.seed)
        by_ours(tiny, folder / "tiny")
        ours, baseline, ratio = compare_speed(large, folder, options.rounds, options.gzip)
        progress("watching the memory")
        before, after = peaks(small, folder / "small"), peaks(large, folder / "large")
    missed = []
    if ratio < LEAST_RATIO:
        missed.append(f"tar's time is {ratio:.2f} times ours, wanted {LEAST_RATIO:g}")
    for process in ("reader", "caller"):
        peak = [getattr(each, process) for each in (before, after)]
        grown = peak[1] - peak[0]
        print(f"{process}: peak {peak[0] / 1e6:.1f} MB, then {peak[1] / 1e6:.1f} MB")
        if grown > MOST_GROWTH:
            allowed = f"allowed {MOST_GROWTH / 1e6:g}"
            missed.append(f"the {process}'s memory grows by {grown / 1e6:.1f} MB, {allowed}")
    print(f"ours {ours:.2f} s, tar {baseline:.2f} s: {ratio:.2f} times its speed")
    per_gigabyte = 1e9 / size
    figures = (ours * per_gigabyte, baseline * per_gigabyte)
    return finish(Result("unpack", ratio, *figures, "seconds per GB"), missed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=1000, help="content (%(default)s)")
    parser.add_argument("--members", type=int, default=2000, help="in the archive (%(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="the median counts (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the noise (%(default)s)")
    parser.add_argument("--gzip", action="store_true", help="compress the archive")
    options = parser.parse_args()
    if min(options.megabytes, options.rounds) < 1 or options.members < 4:
        parser.error("at least one megabyte, one round and four members are needed")
    return options


if __name__ == "__main__":
    sys.exit(main())
