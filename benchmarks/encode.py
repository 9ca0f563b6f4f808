"""CPU time of encoding against ``ffmpeg`` once per file: `make bench-encode`.

    python -m benchmarks.encode

The same clips, half speech and half music, a minute of stereo MP3 each, go through both
sides with the same number of workers:

- ours: `earmark.ingest.encode.encode_archive` on an unpacked archive with the default settings,
  its worker processes' start included;
- baseline: ``ffmpeg -y -i in.mp3 -c:a libopus -b:a 48k out.opus``, a process per file.

What counts is the user and system CPU time of this process and of all that it starts, by
getrusage, so a busy machine disturbs the figures little.  Making the clips, unpacking and
comparing are not counted, nor is this process's own start.  Each side runs on speech, then
on music, in turns; a side's figure is the sum of its fastest round of each.

The baseline's 48 kb/s are a wish: its unconstrained variable bit rate spends a few percent
more on speech and about a third more on music.  Ours keeps to 48 kb/s, so that its files
are smaller.  To compare like with like, ours runs twice: as configured, and at the bit rate
that makes its files of each kind as large as the baseline's.  The ratio is that of the
second run.

Bars: the baseline takes at least 4 times the CPU time of ours at the same size, which is
bytes within 5 % for speech and for music; as configured ours is not larger than that
either.  Each of our files, of both runs, is as long as its source (50 ms), has its spectrum
(correlation 0.95, see `benchmarks.fidelity.compare`), and no more of its samples are at full
scale than of the source's, with a tolerance of 0.001 %.
"""

import argparse
import dataclasses
import logging
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
from msgspec.structs import replace

from benchmarks import clips, fidelity
from benchmarks.report import Result, finish, progress
from earmark.ingest.encode import encode_archive
from earmark.ingest.unpack import unpack_archive
from earmark.settings import EncodeSettings

LEAST_RATIO = 4.0
MOST_BYTES_OFF = 0.05
MOST_SECONDS_OFF = 0.05
LEAST_CORRELATION = 0.95
MOST_MORE_CLIPPED = 1e-5


@dataclasses.dataclass
class Side:
    """What one side did with the clips of one kind.

    Attributes:
        core_seconds: User and system time of its fastest round.
        files: The Opus files, in the clips' order.
    """

    core_seconds: float
    files: list[Path]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.files)


Sides = dict[clips.Kind, Side]


def core_seconds() -> float:
    """CPU time, user and system, of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _cost(work: Callable[[], None]) -> float:
    before = core_seconds()
    work()
    return core_seconds() - before


def make_clips(folder: Path, count: int, workers: int, seed: int) -> dict[clips.Kind, list[Path]]:
    """Write ``count`` clips, the kinds in turns; returns their paths by kind."""
    paths: dict[clips.Kind, list[Path]] = {kind: [] for kind in clips.KINDS}
    with ThreadPoolExecutor(workers) as threads:
        done = []
        for number in range(count):
            kind = clips.KINDS[number % len(clips.KINDS)]
            path = folder / f"{kind}_{number:04d}.mp3"
            paths[kind].append(path)
            done.append(threads.submit(clips.write_clip, kind, seed + number, path))
        for each in done:
            each.result()
    return paths


def unpack(sources: list[Path], folder: Path) -> Path:
    """Put clips into an archive and unpack that as the workflow does."""
    archive = folder / "clips.tar"
    with tarfile.open(archive, "w") as tar:
        for source in sources:
            tar.add(source, source.name)
    unpack_archive(archive, folder / "unpacked")
    return folder / "unpacked"


def encode_ours(unpacked: Path, volume: Path, settings: EncodeSettings) -> Side:
    """Run the stage of the workflow."""
    audio, manifest = volume / "audio", volume / "manifest.parquet"
    cost = _cost(lambda: encode_archive(unpacked, audio, manifest, "clips.tar", volume, settings))
    paths = pq.read_table(manifest, columns=["opus_path"])["opus_path"].to_pylist()
    return Side(cost, [volume / path for path in paths])


def encode_baseline(sources: list[Path], folder: Path, workers: int) -> Side:
    """Run ffmpeg once per file."""
    folder.mkdir(exist_ok=True)
    targets = [folder / f"{source.stem}.opus" for source in sources]

    def encode(source: Path, target: Path) -> None:
        command = ["ffmpeg", "-y", "-i", str(source), "-c:a", "libopus", "-b:a", "48k", str(target)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)

    def encode_all() -> None:
        with ThreadPoolExecutor(workers) as threads:
            list(threads.map(encode, sources, targets))

    return Side(_cost(encode_all), targets)


def faults(source: Path, opus: Path) -> list[str]:
    """What is wrong with one of our files, a sentence for each fault."""
    found = fidelity.compare(source, opus)
    said = []
    if found.seconds_off > MOST_SECONDS_OFF:
        said.append(f"its length is {found.seconds_off:.3f} s off")
    if not found.correlation >= LEAST_CORRELATION:
        said.append(f"its spectrum's correlation is {found.correlation:.4f}")
    if found.clipped > found.clipped_in_source + MOST_MORE_CLIPPED:
        shares = (
            f"{found.clipped:.4%} of its samples, {found.clipped_in_source:.4%} of the source's"
        )
        said.append(f"{shares} are at full scale")
    return [f"{source.name}: {fault}" for fault in said]


@dataclasses.dataclass
class Measured:
    """What both sides did.

    Attributes:
        baseline: ffmpeg's.
        ours: As configured.
        same_size: Ours with files as large as the baseline's.
    """

    baseline: Sides = dataclasses.field(default_factory=dict)
    ours: Sides = dataclasses.field(default_factory=dict)
    same_size: Sides = dataclasses.field(default_factory=dict)


def measure(options: argparse.Namespace, folder: Path) -> tuple[Measured, list[str]]:
    """Run both sides in turns; returns what they did and the faults of our files."""
    settings = msgspec.convert({"workers": options.workers, **dict(options.set)}, EncodeSettings)
    progress(f"making {options.clips} clips of {clips.SECONDS} s")
    sources = make_clips(folder, options.clips, options.workers, options.seed)
    for kind in clips.KINDS:
        (folder / kind).mkdir()
    unpacked = {kind: unpack(sources[kind], folder / kind) for kind in clips.KINDS}
    found = Measured()
    for number in range(options.rounds):
        for kind in clips.KINDS:
            progress(f"round {number + 1} of {options.rounds}: {kind}")
            volume = folder / kind
            theirs = encode_baseline(sources[kind], volume / "ffmpeg", options.workers)
            _keep_faster(found.baseline, kind, theirs)
            ours = encode_ours(unpacked[kind], volume / "ours", settings)
            _keep_faster(found.ours, kind, ours)
            alike = _of_size(settings, ours.size, theirs.size)
            resized = encode_ours(unpacked[kind], volume / "same_size", alike)
            _keep_faster(found.same_size, kind, resized)
    progress("comparing with the sources")
    said = []
    for kind in clips.KINDS:
        for side in (found.ours[kind], found.same_size[kind]):
            for source, opus in zip(sources[kind], side.files, strict=True):
                said += faults(source, opus)
    return found, said


def _of_size(settings: EncodeSettings, size: int, wanted: int) -> EncodeSettings:
    """The settings with the bit rate that makes files of another size."""
    thousands = round(settings.bits_per_second / 1000 * wanted / size)
    return replace(settings, bitrate=f"{thousands}k")


def _keep_faster(sides: Sides, kind: clips.Kind, side: Side) -> None:
    if kind not in sides or side.core_seconds < sides[kind].core_seconds:
        sides[kind] = side


def _tell(name: str, baseline: Side, ours: Side) -> None:
    """Print one line of figures per hour of audio."""
    hours = len(ours.files) * clips.SECONDS / 3600
    print(
        f"{name:22} {ours.core_seconds / hours:6.1f} core-s/h, ffmpeg "
        f"{baseline.core_seconds / hours:6.1f}: {baseline.core_seconds / ours.core_seconds:.2f} "
        f"times; {ours.size / hours / 1e6:.1f} MB/h, ffmpeg {baseline.size / hours / 1e6:.1f}: "
        f"{ours.size / baseline.size - 1:+.1%}"
    )


def main() -> int:
    """Measure both sides and check the bars; returns the exit status."""
    options = _options()
    for program in ("ffmpeg", "espeak-ng"):
        if shutil.which(program) is None:
            progress(f"{program} is missing; on Debian: apt install {program}")
            return 1
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="bench-encode-") as name:
        found, missed = measure(options, Path(name))
        for said, sides in (("as configured", found.ours), ("same size", found.same_size)):
            for kind in clips.KINDS:
                _tell(f"{said}, {kind}", found.baseline[kind], sides[kind])
            _tell(f"{said}, all", _together(found.baseline), _together(sides))
        missed += _wrong_sizes(found)
        ours, baseline = _together(found.same_size), _together(found.baseline)
    ratio = baseline.core_seconds / ours.core_seconds
    if ratio < LEAST_RATIO:
        missed.append(f"ffmpeg takes {ratio:.2f} times our CPU time, wanted {LEAST_RATIO:g}")
    hours = options.clips * clips.SECONDS / 3600
    unit = "core-seconds per hour of audio"
    figures = (ours.core_seconds / hours, baseline.core_seconds / hours)
    return finish(Result("encode", ratio, *figures, unit), missed)


def _wrong_sizes(found: Measured) -> list[str]:
    said = []
    for kind in clips.KINDS:
        wanted = found.baseline[kind].size
        larger = found.ours[kind].size / wanted - 1
        if larger > MOST_BYTES_OFF:
            said.append(f"as configured, our {kind} is {larger:+.1%} larger than ffmpeg's")
        off = found.same_size[kind].size / wanted - 1
        if abs(off) > MOST_BYTES_OFF:
            said.append(f"our {kind} is {off:+.1%} off ffmpeg's size, allowed {MOST_BYTES_OFF:.0%}")
    return said


def _together(sides: Sides) -> Side:
    files = [path for side in sides.values() for path in side.files]
    return Side(sum(side.core_seconds for side in sides.values()), files)


def _setting(text: str) -> tuple[str, str | int]:
    name, _, value = text.partition("=")
    return name, int(value) if value.isdecimal() else value


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=int, default=32, help="clips in all (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="of each side (%(default)s)")
    parser.add_argument("--rounds", type=int, default=1, help="the best counts (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the clips (%(default)s)")
    parser.add_argument(
        "--set",
        type=_setting,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="try another encoder setting than the default, for example complexity=4",
    )
    options = parser.parse_args()
    if options.clips < 2 or min(options.workers, options.rounds) < 1:
        parser.error("at least two clips, one worker and one round are needed")
    return options


if __name__ == "__main__":
    sys.exit(main())
