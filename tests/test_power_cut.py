"""A power cut at any moment loses nothing that the source has deleted.

Two archives are fetched, done and deleted at the source, one after the other, on a file system that
records what was done to it: volume, source and the embedded PostgreSQL.  For each of many moments a
volume is made that holds what a power cut then would have left, and the work goes on from there.
"""

import hashlib
import logging
import random
import shutil
import tarfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest
import sqlparse
from conftest import open_volume
from lossy_volume import Disk, Name, Step, Sync, find, mounted, steps_of, write_tree
from scheduler import Job, execute, jobs_of
from small_volume import small_volume
from workflow_run import DEMO, EXPECTED, ROWS, Run

from earmark import files, locks
from earmark.driver.work import Work
from earmark.errors import EarmarkError
from earmark.files import sync
from earmark.ingest import encode
from earmark.policy import classify
from earmark.policy.classifier import Classification, Classifier
from earmark.policy.policies import Policy
from earmark.record.database import connection_string, stop_embedded
from earmark.settings import ClassifySettings, Settings
from earmark.speech import transcribe
from earmark.speech.batches import Transcribed
from earmark.speech.preparation import Clip
from earmark.speech.transcribe import Transcriber
from earmark.volume import Volume
from earmark.watch.doctor import Problem, done, examine, loaded
from earmark.worker import Workers

pytestmark = [pytest.mark.slow, pytest.mark.needs("root", "fusermount3")]

#: The members of each archive, by how short they are among those of the demo's small archive: a
#: text, two clips and a file that is no sound one, of which one clip comes again.
ARCHIVES = {"first.tar": (0, 1, 2), "second.tar": (2, 3, 4)}
#: Of the moments to try, so many are within the making of an empty database.
EARLY = 5


def is_due(job: Job, makers: Mapping[Path, Job]) -> bool:
    """Whether a job is to be run: as Snakemake decides, by names and times alone."""
    if not job.output.exists():
        return True
    then = job.output.stat().st_mtime_ns
    there = [path for path in job.inputs.values() if path.exists()]
    return any(
        path.stat().st_mtime_ns > then or (path in makers and is_due(makers[path], makers))
        for path in there
    )


def make(job: Job, makers: Mapping[Path, Job], settings: Settings) -> None:
    """Run a job if it is due, and before it those that are due for what it reads."""
    if not is_due(job, makers):
        return
    for path in job.inputs.values():
        if path in makers:
            make(makers[path], makers, settings)
    execute(job, msgspec.to_builtins(settings))
    if job.rule == "encode_opus":  # it reads what is temporary
        shutil.rmtree(job.inputs["folder"])


def work_through(settings: Settings) -> None:
    """Do what is pending as the workflow does, to its end."""
    work = Work(settings, lambda: ())
    pending = work.pending()
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        held = stack.enter_context
        patch.setattr(locks, "hold_until_exit", lambda path: held(locks.exclusive(path, "driver")))
        work.begin()
        for archive in pending:
            jobs = jobs_of(Volume.of(settings), settings, archive.name, archive.date)
            make(jobs[-1], {job.output: job for job in jobs}, settings)
        work.end()
    logging.basicConfig(handlers=[logging.NullHandler()], force=True)  # closes the stages' logs


class Ear:
    """A transcriber that is loaded once and hears a content once."""

    def __init__(self, transcriber: Transcriber) -> None:
        self.gpu = transcriber.gpu
        self._transcriber = transcriber
        self._heard: dict[bytes, Transcribed] = {}

    def transcribe(self, clips: Iterable[Clip]) -> Iterator[list[Transcribed]]:
        for clip in clips:
            content = clip.path.read_bytes()
            if content not in self._heard:
                for (heard,) in filter(None, self._transcriber.transcribe([clip])):
                    self._heard[content] = heard
            known = self._heard[content]
            yield [replace(known, prepared=replace(known.prepared, clip=clip))]


class Judge:
    """A classifier that is loaded once and asked the same once."""

    def __init__(self, settings: ClassifySettings) -> None:
        self.settings = settings
        self._classifier = Classifier(settings)
        self._said: dict[tuple[str, ...], list[tuple[int, Classification]]] = {}

    def classify(
        self, policy: Policy, contents: Sequence[str]
    ) -> Iterator[tuple[int, Classification]]:
        asked = (policy.sha256, *contents)
        if asked not in self._said:
            self._said[asked] = list(self._classifier.classify(policy, contents))
        yield from self._said[asked]


@contextmanager
def loaded_once(settings: Settings) -> Iterator[None]:
    """Have the stages share what loads slowly: the models, and the process that encodes."""
    how = msgspec.structs.asdict(settings.encode)
    with (
        Workers("earmark.ingest.media", how, 1) as workers,
        Transcriber(settings.asr) as transcriber,
        pytest.MonkeyPatch.context() as patch,
    ):
        ear, judge = Ear(transcriber), Judge(settings.classify)
        patch.setattr(encode, "Workers", lambda *_: nullcontext(workers))
        patch.setattr(transcribe, "Transcriber", lambda _: nullcontext(ear))
        patch.setattr(classify, "Classifier", lambda _: judge)
        patch.setattr(sqlparse, "split", cache(sqlparse.split))  # of the migrations
        yield


def put(archive: str, source: Path) -> None:
    """Let an archive appear at the source, whole."""
    hidden = source / f".{archive}"
    with (
        tarfile.open(DEMO / "archives" / EXPECTED["small"]) as demo,
        tarfile.open(hidden, "w") as tar,
    ):
        members = sorted((each for each in demo if each.isreg()), key=lambda each: each.size)
        for number in ARCHIVES[archive]:
            tar.addfile(members[number], demo.extractfile(members[number]))
    hidden.rename(source / archive)


def run_at(folder: Path, place: Path) -> Run:
    """A run over the volume and the source of a place."""
    source = {"directory": str(place / "source"), "delete_after": True}
    return Run(folder, place / "volume", source=source)


@dataclass
class Result:
    """What there is at the end.

    Attributes:
        rows: Those of the database, the archive's name first.
        audio: SHA-256 of each Opus file, by its path on the volume.
        problems: What `earmark doctor` finds.
    """

    rows: list[tuple[Any, ...]]
    audio: dict[str, str]
    problems: list[Problem]

    @classmethod
    def of(cls, run: Run) -> Self:
        volume, retention = run.volume, run.settings().retention
        audio = {
            str(path.relative_to(volume.root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in volume.audio("", "").parent.rglob("*.opus")
        }
        clips = loaded(connection_string(None, volume.root), None)
        problems = [
            problem
            for date, archive in done(volume, None)
            for problem in examine(volume, date, archive, retention, clips)
        ]
        return cls(run.query(ROWS), audio, problems)

    def only(self, archives: Collection[str]) -> Self:
        """The part of it that tells of some archives."""
        rows = [row for row in self.rows if row[0] in archives]
        audio = {path: sha for path, sha in self.audio.items() if Path(path).parts[-2] in archives}
        return replace(self, rows=rows, audio=audio)

    def difference(self, other: Self) -> str:
        """What tells another one from this; "" if nothing does."""
        told = (
            ("rows that are missing", [row for row in self.rows if row not in other.rows]),
            ("rows that are new", [row for row in other.rows if row not in self.rows]),
            ("rows that are there twice", len(other.rows) > len({*other.rows})),
            ("audio that is missing or new", self.audio.items() ^ other.audio.items()),
            ("what doesn't fit", other.problems),
        )
        return "; ".join(f"{what}: {found}" for what, found in told if found)


def record(folder: Path, place: Path) -> tuple[list[Step], Result]:
    """What an undisturbed run does to volume and source, and what is there at its end."""
    with mounted(place / "mount", place / "record") as mount:
        for each in ("source", "volume"):
            (mount / each).mkdir()
        sync(mount)
        run = run_at(folder, mount)
        settings = run.settings()
        for archive in ARCHIVES:
            put(archive, mount / "source")
            work_through(settings)
        result = Result.of(run)
        stop_embedded(run.volume.root)
    return steps_of(place / "record"), result


def moments(steps: list[Step], count: int, rng: random.Random) -> list[int]:
    """Steps before which the power is cut: each between two syncs, some while there is no work."""
    begun = next(n for n, step in enumerate(steps) if is_naming(step, "first.tar"))
    working = next(n for n, step in enumerate(steps) if is_naming(step, "transfers"))
    syncs = [n for n, step in enumerate(steps) if isinstance(step, Sync) and n > begun]
    between = [rng.randint(one + 1, other) for one, other in pairwise(syncs)]
    early = [n for n in between if n < working]
    late = [n for n in between if n >= working]
    early = rng.sample(early, EARLY)
    return sorted([*early, *rng.sample(late, min(count - EARLY, len(late)))])


def is_naming(step: Step, name: str) -> bool:
    return isinstance(step, Name) and step.changes[-1][1] == name


def losses(
    steps: list[Step], result: Result, cuts: Collection[int], folder: Path, place: Path
) -> Iterator[str]:
    """Cut the power before some steps, let the work go on, and say what is wrong at its end."""
    disk, appeared = Disk(trusting="data.new"), set[str]()
    run = run_at(folder, place)
    settings = run.settings()
    for number, step in enumerate(steps):
        if number in cuts:
            rng = random.Random(number)
            survival = rng.choice([0, 0, 0.5, 0.9])
            left = disk.after_power_cut(survival, rng)
            write_tree(left, place / "volume", find(left, "volume"))
            write_tree(disk.seen, place / "source", find(disk.seen, "source"))
            try:
                work_through(settings)
                wrong = result.only(appeared).difference(Result.of(run))
            except (EarmarkError, OSError, SystemExit) as error:
                wrong = f"the work can't go on: {error!r}"
            stop_embedded(place / "volume")
            shutil.rmtree(place / "volume")
            shutil.rmtree(place / "source")
            if wrong:
                yield f"before step {number}, {survival:.0%} of what wasn't synced left: {wrong}"
        disk.take(step)
        appeared.update(name for name in ARCHIVES if is_naming(step, name))


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """Room for volumes, in memory: nobody wants to wait for a real disk."""
    with (
        open_volume() as folder,
        small_volume(folder / "place", megabytes=1000) as place,
        loaded_once(run_at(folder, place).settings()),
    ):
        yield place


@pytest.mark.timeout(7200)  # for many cuts
def test_after_a_power_cut_at_any_moment_the_work_goes_on_and_nothing_is_lost(
    tmp_path: Path, place: Path, pytestconfig: pytest.Config
) -> None:
    steps, result = record(tmp_path, place)
    cuts = moments(steps, pytestconfig.getoption("--power-cuts"), random.Random(17))
    assert list(losses(steps, result, cuts, tmp_path, place)) == []


def test_it_would_be_noticed_if_no_folder_was_synced(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "sync", lambda folder: None)
    steps, result = record(tmp_path, place)
    assert not result.problems
    assert any(losses(steps, result, range(len(steps) - 1, len(steps) - 200, -20), tmp_path, place))
