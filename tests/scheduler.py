"""The workflow's jobs as Snakemake chooses and runs them, without a process for each.

The scripts of ``workflow/scripts/`` are run as they are. What is Snakemake's own is written down
here: which jobs a missing receipt asks for, by times and by checksums of inputs; that outputs are
removed before a job and after one that failed, touched after one that succeeded, and made again
if it was not seen to end; that temporary folders go. Source: snakemake/dag.py (``update_needrun``,
``check_and_touch_output``, ``handle_temp``) and snakemake/jobs.py (``prepare``, ``cleanup``) of
version 9.
"""

import json
import os
import shutil
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import CodeType, SimpleNamespace
from typing import Any

import msgspec
import yaml
from known_clips import sha256
from mortal import KILLED, in_child

from earmark import REPOSITORY
from earmark.driver.reclassify import to_reclassify
from earmark.driver.work import Work
from earmark.errors import EarmarkError
from earmark.settings import Settings
from earmark.volume import STAGES, Volume

_PROFILE = yaml.safe_load((REPOSITORY / "profiles/local/config.yaml").read_text(encoding="utf-8"))
_RETRIES = _PROFILE["retries"]
#: Files up to this size are compared by their checksums too, in bytes.
_CHECKSUM_BYTES = _PROFILE.get("max-checksum-file-size", 1_000_000)
_TIMESTAMP = ".snakemake_timestamp"


@dataclass(frozen=True, eq=False)
class Job:
    """A rule with its wildcards."""

    rule: str
    archive: str
    date: str
    inputs: dict[str, Path]
    outputs: dict[str, Path]
    log: Path

    @property
    def output(self) -> Path:
        (path,) = self.outputs.values()
        return path


def jobs_of(volume: Volume, settings: Settings, archive: str, date: str) -> list[Job]:
    """All jobs of an archive, in the order of the stages: what ``workflow/rules/`` says."""
    manifest = volume.manifest(date, archive)
    transcripts = volume.transcripts(settings.asr.name, date, archive)
    classes = volume.classes(settings.classify.policy, date, archive)
    incoming, unpacked = volume.incoming(archive), volume.unpacked(archive)
    heard = {"manifest": manifest, "transcripts": transcripts}
    files: dict[str, tuple[dict[str, Path], dict[str, Path]]] = {
        "fetch_archive": ({"entry": volume.entry(archive)}, {"archive": incoming}),
        "unpack_archive": ({"archive": incoming}, {"folder": unpacked}),
        "encode_opus": ({"folder": unpacked}, {"manifest": manifest}),
        "transcribe_audio": ({"manifest": manifest}, {"transcripts": transcripts}),
        "classify_transcripts": (heard, {"classes": classes}),
        "load_pg": (heard | {"classes": classes}, {"receipt": volume.receipt(date, archive)}),
    }
    return [
        Job(
            rule, archive, date, *files[rule],
            volume.log(rule, archive, "" if rule in STAGES[:2] else date),
        )
        for rule in STAGES
    ]  # fmt: skip


class Memory:
    """What Snakemake keeps in ``.snakemake``: unfinished outputs, checksums of what was read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.unfinished: list[str] = []
        self.read: dict[str, dict[str, str]] = {}
        with suppress(FileNotFoundError):
            known = json.loads(path.read_text())
            self.unfinished, self.read = known["unfinished"], known["read"]

    def _write(self) -> None:
        partial = self._path.with_suffix(".new")
        partial.write_text(json.dumps({"unfinished": self.unfinished, "read": self.read}))
        partial.rename(self._path)

    def begin(self, job: Job) -> None:
        self.unfinished.append(str(job.output))
        self._write()

    def end(self, job: Job) -> None:
        self.unfinished.remove(str(job.output))
        self._write()

    def succeed(self, job: Job) -> None:
        self.read[str(job.output)] = {
            str(path): sha256(path.read_bytes())
            for path in job.inputs.values()
            if path.is_file() and path.stat().st_size <= _CHECKSUM_BYTES
        }
        self.end(job)

    def is_unfinished(self, job: Job) -> bool:
        return str(job.output) in self.unfinished and job.output.exists()

    def has_read(self, job: Job, path: Path) -> bool:
        """Whether an output was made from a file of this very content."""
        if not path.is_file() or path.stat().st_size > _CHECKSUM_BYTES:
            return False
        known = self.read.get(str(job.output), {}).get(str(path))
        return known is not None and known == sha256(path.read_bytes())


def _time(path: Path) -> float | None:
    for each in (path / _TIMESTAMP, path):
        with suppress(FileNotFoundError, NotADirectoryError):
            return each.stat().st_mtime
    return None


@dataclass
class Plan:
    """The jobs of one archive, those that can be planned, and those that are to run."""

    jobs: list[Job]
    needed: set[Job] = field(default_factory=set)


class MissingInputError(Exception):
    """Nothing makes a file that is missing: Snakemake ends before its first job."""


def plan(
    jobs: Sequence[Job], targets: Collection[Path], memory: Memory, forced: Collection[Path]
) -> Plan:
    """Choose the jobs that make some files, as ``DAG.update_needrun`` does."""
    makes = {job.output: job for job in jobs}
    known: list[Job] = []
    for job in jobs:  # those whose inputs are there, or can be made
        gone = [
            path
            for path in job.inputs.values()
            if not path.exists() and makes.get(path) not in known
        ]
        if not gone:
            known.append(job)
        elif not job.output.exists() and job.output in targets:
            raise MissingInputError(f"{job.rule} of {job.archive} lacks {gone}")
    makes = {job.output: job for job in known}
    before = {job: [makes[path] for path in job.inputs.values() if path in makes] for job in known}
    after = {job: [other for other in known if job in before[other]] for job in known}
    oldest: dict[Job, float | None] = {}
    for job in reversed(known):
        times = (_time(job.output), *(oldest[other] for other in after[job]))
        oldest[job] = next((time for time in times if time is not None), None)
    result = Plan(list(known))
    queue = [makes[path] for path in targets if path in makes and not path.exists()]
    for path in targets:
        if path not in makes and not path.exists():
            raise MissingInputError(str(path))
    masked: set[Job] = set()
    for job in known:
        if job in masked:
            continue
        then = oldest[job]
        is_updated = then is not None and any(
            (time := _time(path)) is not None and time > then and not memory.has_read(job, path)
            for path in job.inputs.values()
        )
        if is_updated or job.output in forced or memory.is_unfinished(job):
            queue.append(job)
            todo = [job]
            while todo:
                todo += after[todo[0]]
                masked.add(todo.pop(0))
    visited = set(queue)
    while queue:
        job = queue.pop(0)
        result.needed.add(job)
        more = [other for other in before[job] if not other.output.exists()] + after[job]
        for other in more:
            if other not in visited:
                visited.add(other)
                queue.append(other)
    return result


def run(
    settings: Settings,
    memory_file: Path,
    target: str = "all",
    kill: tuple[str, int] | None = None,
) -> int:
    """Run the workflow once, as ``snakemake`` does.

    Args:
        settings: The configuration.
        memory_file: Where what it has to remember is kept between runs.
        target: ``all`` or ``reclassify``.
        kill: A rule, and before how many changes to files its first job is killed.

    Returns:
        0, or 1 if a job failed or nothing could be planned.
    """
    volume, memory = Volume.of(settings), Memory(memory_file)
    failed: set[str] = set()
    try:
        work = Work(settings, lambda: failed)
        if target == "all":
            forced: list[str] = []
            wanted = [
                ((each.date, each.name), [volume.receipt(each.date, each.name)])
                for each in work.pending()
            ]
        else:
            paths, forced = to_reclassify(settings)
            wanted = [
                ((Path(receipt).parent.name.removeprefix("date="), Path(receipt).stem),
                 [Path(classes), Path(receipt)])
                for classes, receipt in zip(paths[::2], paths[1::2], strict=True)
            ]  # fmt: skip
        plans = [
            plan(jobs_of(volume, settings, name, date), targets, memory, {*map(Path, forced)})
            for (date, name), targets in wanted
        ]
        work.begin()
    except (EarmarkError, MissingInputError) as error:
        print(f"earmark: {error}")
        return 1
    config = msgspec.to_builtins(settings)
    for each in plans:
        done: set[Job] = set()
        for job in each.jobs:
            if job not in each.needed:
                continue
            if any(other.output in job.inputs.values() for other in each.needed - done):
                failed.add(job.archive)
                break
            dies = kill[1] if kill and kill[0] == job.rule else None
            kill = None if dies is not None else kill
            if not _try(job, config, memory, dies):
                failed.add(job.archive)
                break
            done.add(job)
            if job.rule == "encode_opus":
                shutil.rmtree(volume.unpacked(job.archive), ignore_errors=True)
    try:
        work.end()
    except EarmarkError as error:
        print(f"earmark: {error}")
        return 1
    return bool(failed)


def _try(job: Job, config: dict[str, Any], memory: Memory, dies: int | None) -> bool:
    for _ in range(1 + _RETRIES):
        for path in job.outputs.values():
            _remove(path)
            path.parent.mkdir(parents=True, exist_ok=True)
        if not all(path.exists() for path in job.inputs.values()):
            print(f"{job.rule} of {job.archive}: an input is missing")
            return False
        memory.begin(job)
        code = in_child(lambda: execute(job, config), dies) if dies else _status(job, config)
        assert code != KILLED or dies
        if code == 0:
            folder = job.outputs.get("folder")
            if folder:
                (folder / _TIMESTAMP).touch()
            else:
                os.utime(job.output)
            memory.succeed(job)
            return True
        _remove(job.output)
        memory.end(job)
        dies = None
    return False


def _status(job: Job, config: dict[str, Any]) -> int:
    try:
        execute(job, config)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    return 0


def execute(job: Job, config: dict[str, Any]) -> None:
    """Run a rule's script in this process, as Snakemake would in one of its own."""

    def named(paths: dict[str, Path]) -> SimpleNamespace:
        return SimpleNamespace(**{name: str(path) for name, path in paths.items()})

    snakemake = SimpleNamespace(
        wildcards=SimpleNamespace(archive=job.archive, date=job.date),
        input=named(job.inputs),
        output=named(job.outputs),
        log=[str(job.log)],
        config=config,
        threads=1,
    )
    exec(_script(job.rule), {"__name__": job.rule, "snakemake": snakemake})


@cache
def _script(rule: str) -> CodeType:
    path = REPOSITORY / "workflow/scripts" / f"{rule}.py"
    return compile(path.read_text(encoding="utf-8"), str(path), "exec")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
