"""What history costs a run's start: `make bench-cycle`.

    python -m benchmarks.cycle

Two volumes, each with a source of 1,000 pending archives.  One source also has 100,000
archives that are done, with their receipts on the volume.  On each, in turns:

- the time of ``snakemake --dry-run``, from its start to its end;
- the time of ``snakemake`` from its start to its first job.

The ratio is the median of the rounds' ratios, with history over without: the two of a round
run right after each other.  Both catalogues were written by an earlier poll, as in any run but
the very first.

Bar: neither ratio is above 1.3.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import yaml

from benchmarks.report import Result, finish, progress
from earmark import REPOSITORY, configuration
from earmark.ingest import catalogue
from earmark.ingest.catalogue import Archive
from earmark.ingest.source import source_of
from earmark.receipts import Receipt
from earmark.volume import Volume

MOST_RATIO = 1.3
DAY = 86_400


def _receipt_of(archive: Archive) -> Receipt:
    return Receipt(
        archive=archive.name, date=archive.date, asr="large-v2", policy="2026-11", status="ok",
        reason=None, type="tar", bytes=archive.bytes, members={}, clips={}, flagged={}, rows={},
        seconds={}, provenance={}, loaded_at=f"{archive.date}T23:59:59+00:00",
    )  # fmt: skip


class Place:
    """A volume and a source.

    Args:
        folder: A new folder for both.
        pending: Archives to be done.
        done: Archives that are done and still at the source.
        profile: Folder of the Snakemake profile.
    """

    def __init__(self, folder: Path, pending: int, done: int, profile: Path) -> None:
        self.folder, self.profile = folder, profile
        self.configfile = folder / "config.yaml"
        source = folder / "source"
        source.mkdir(parents=True)
        demo = yaml.safe_load((REPOSITORY / "demo/config.yaml").read_text(encoding="utf-8"))
        demo["volume"]["root"] = str(folder / "volume")
        demo["source"] |= {"directory": str(source), "batch": pending}
        self.configfile.write_text(yaml.safe_dump(demo), encoding="utf-8")
        self.settings = configuration.read(self.configfile)
        volume = Volume(folder / "volume")
        now = time.time()
        for number in range(done):
            then = now - 100 * DAY + number * 90 * DAY / done
            self._archive(source / f"done_{number:06d}.tar.gz", then)
        settings = (source_of(self.settings), volume, self.settings.source.poll_seconds)
        for archive in catalogue.poll(*settings).archives:
            receipt = volume.receipt(archive.date, archive.name)
            receipt.parent.mkdir(parents=True, exist_ok=True)
            receipt.write_bytes(msgspec.json.encode(_receipt_of(archive)))
        for number in range(pending):
            self._archive(source / f"new_{number:06d}.tar.gz", now - 2 * DAY + number)
        catalogue.poll(*settings)

    @staticmethod
    def _archive(path: Path, modified: float) -> None:
        path.write_bytes(b"-")
        os.utime(path, (modified, modified))

    def dry_run(self) -> float:
        """Seconds that a preview takes."""
        begun = time.perf_counter()
        process = self._start("--dry-run")
        said, _ = process.communicate()
        if process.returncode:
            sys.exit(f"the dry run failed:\n{said[-3000:]}")
        return time.perf_counter() - begun

    def first_job(self) -> float:
        """Seconds from the start of a run to its first job."""
        begun = time.perf_counter()
        process = self._start()
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if line.startswith("Execute "):
                break
        else:
            sys.exit(f"the run ended without a job:\n{''.join(said[-30:])}")
        taken = time.perf_counter() - begun
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return taken

    def _start(self, *options: str) -> subprocess.Popen[str]:
        command = [
            *(sys.executable, "-m", "snakemake", "--snakefile", REPOSITORY / "workflow/Snakefile"),
            *("--profile", self.profile, "--configfile", self.configfile),
            *("--directory", self.folder, *options),
        ]
        return subprocess.Popen(
            [str(part) for part in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


def main() -> int:
    """Measure and check the bars; returns the exit status."""
    options = _options()
    missed = []
    with tempfile.TemporaryDirectory(prefix="bench-cycle-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)  # the embedded PostgreSQL runs as another user
        progress(f"making {options.pending} pending archives, and {options.done} that are done")
        without = Place(folder / "without", options.pending, 0, options.profile)
        with_history = Place(folder / "with", options.pending, options.done, options.profile)
        results = {}
        for what, measure in (("dry run", Place.dry_run), ("first job", Place.first_job)):
            ours, baseline = [], []
            for number in range(options.rounds):
                baseline.append(measure(without))
                ours.append(measure(with_history))
                progress(
                    f"{what}, round {number + 1} of {options.rounds}: {ours[-1]:.2f} s with "
                    f"history, {baseline[-1]:.2f} s without"
                )
            ratio = statistics.median(a / b for a, b in zip(ours, baseline, strict=True))
            results[what] = Result(
                f"cycle, {what}", ratio, statistics.median(ours), statistics.median(baseline), "s"
            )
            print(f"{what}: {ratio:.2f} times as long with history")
            if ratio > MOST_RATIO:
                missed.append(f"{what}: {ratio:.2f} times as long, allowed {MOST_RATIO:g}")
        for place in (without, with_history):
            subprocess.run(
                [*(sys.executable, "-m", "earmark", "database", "--stop"),
                 *("--configfile", str(place.configfile))],
                check=False, stdout=subprocess.DEVNULL,
            )  # fmt: skip
    return finish(max(results.values(), key=lambda result: result.ratio), missed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pending", type=int, default=1000, help="archives (%(default)s)")
    parser.add_argument("--done", type=int, default=100_000, help="archives (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="the median counts (%(default)s)")
    parser.add_argument(
        "--profile", type=Path, default=REPOSITORY / "profiles/local", help="(profiles/local)"
    )
    options = parser.parse_args()
    if min(options.pending, options.done, options.rounds) < 1:
        parser.error("at least one of each is needed")
    return options


if __name__ == "__main__":
    sys.exit(main())
