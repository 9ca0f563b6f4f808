"""How often the stages of an archive were tried without success, and why.

A stage writes down that it begins, and takes that back when it succeeds.  So nobody has to
see it die: an attempt that is still open while nobody holds the archive's lock is one that
was killed, ran out of memory or time, or lost its machine.
"""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import msgspec

from earmark import locks
from earmark.disk_space import ran_out
from earmark.driver import slurm
from earmark.files import whole
from earmark.locks import Holder
from earmark.volume import Volume

#: States of SLURM in which somebody else ended the job, and not what it worked on.
_STOPPED = {"CANCELLED", "PREEMPTED"}
#: States in which the end of a job is not decided yet.
_GOING_ON = {"PENDING", "RUNNING", "COMPLETING"}


@dataclass(frozen=True)
class Attempt:
    """One attempt at a stage that has not succeeded.

    Attributes:
        stage: As the rule is called.
        began_at: In s since 1970.
        host: Name of the machine.
        process: Process id there.
        job: SLURM's number of the job; None without SLURM.
        driver: Token of the driver that scheduled it, if there was one.
        log: The stage's log.
        reason: Why it failed; None while it is open.
        counts: Whether the archive may be to blame, and not somebody who stopped it, or
            something that no archive could go on without.
    """

    stage: str
    began_at: float
    host: str
    process: int
    job: str | None
    driver: str | None
    log: str
    reason: str | None = None
    counts: bool = True


def begin(volume: Volume, archive: str, stage: str, log_file: Path, former: Holder | None) -> None:
    """Write down that a stage begins. To be called with the archive's lock held.

    Args:
        volume: The shared volume.
        archive: Its name.
        stage: As the rule is called.
        log_file: The stage's log.
        former: Who held the archive's lock before.

    Raises:
        OSError: the volume cannot be written.
    """
    holder = locks.holder_of(volume.driver_lock)
    attempt = Attempt(
        stage=stage,
        began_at=time.time(),
        host=locks.this_machine(),
        process=os.getpid(),
        job=slurm.own_job(),
        driver=holder.token if holder else None,
        log=str(log_file),
    )
    earlier = [_closed(each, volume, former) for each in _read(volume, archive)]
    _write(volume, archive, [*earlier, attempt])


def succeed(volume: Volume, archive: str, stage: str) -> None:
    """Forget the attempts at a stage. To be called with the archive's lock held."""
    _write(volume, archive, [each for each in _read(volume, archive) if each.stage != stage])


def fail(volume: Volume, archive: str, reason: str, counts: bool) -> None:
    """Say why the open attempt failed. To be called with the archive's lock held."""
    found = _read(volume, archive)
    if not found:  # it could not be written down that it began
        return
    *former, last = found
    if last.reason is None:
        # It may quote a name with bytes that are no UTF-8, which no log and no page can hold.
        said = reason.encode("utf-8", "backslashreplace").decode("utf-8")[:1000]
        _write(volume, archive, [*former, replace(last, reason=said, counts=counts)])


def forget(volume: Volume, archive: str) -> None:
    """Begin to count anew."""
    volume.attempts(archive).unlink(missing_ok=True)


def failures(volume: Volume, archive: str) -> list[Attempt]:
    """All attempts at an archive that failed, the oldest first; one that still works is none."""
    found = _read(volume, archive)
    if not found or found[-1].reason is not None:
        return found
    *former, last = found
    # In this order: it may end, or another one begin, between two looks.
    if locks.is_held(volume.archive_lock(archive)) or _read(volume, archive) != found:
        return former
    if last.job is not None and slurm.end_of(last.job)[0] in _GOING_ON:
        return former
    return [*former, _closed(last, volume, locks.last_holder_of(volume.archive_lock(archive)))]


def waiting_jobs(volume: Volume) -> list[str]:
    """SLURM's numbers of the jobs that wait within a stage, for room or for a server."""
    found = []
    for name in tried(volume):
        holder = locks.holder_of(volume.archive_lock(name))
        last = _read(volume, name)[-1:]
        if holder and holder.waits_for and last and last[0].reason is None and last[0].job:
            found.append(last[0].job)
    return found


def tried(volume: Volume) -> list[str]:
    """The archives of which some attempt is open or failed."""
    folder = volume.attempts("").parent
    names = (path.name for path in folder.glob("[!.]*.json")) if folder.is_dir() else ()
    return sorted(name.removesuffix(".json") for name in names)


def _closed(attempt: Attempt, volume: Volume, holder: Holder | None) -> Attempt:
    """An attempt whose process is gone, with the reason as far as it can be known.

    Args:
        attempt: The attempt.
        volume: The shared volume.
        holder: Who held the archive's lock last.
    """
    if attempt.reason is not None:
        return attempt
    waited = ""
    if holder and (holder.host, holder.process) == (attempt.host, attempt.process):
        waited = holder.waits_for
    if attempt.job is not None:
        state, why = slurm.end_of(attempt.job)
        said = f"SLURM ended job {attempt.job}: {state}{f' ({why})' if why else ''}"
        if state in {"", "COMPLETED", *_GOING_ON}:
            said = f"SLURM job {attempt.job} ended without a word"
        if waited:
            said += f", while it waited for {waited}"
        # What SLURM has forgotten may have been cancelled.
        counts = not waited and state not in {"", *_STOPPED}
        return replace(attempt, reason=said, counts=counts)
    # Without SLURM a job is a child of its driver, and dies with it.
    driver = locks.holder_of(volume.driver_lock)
    if attempt.driver != (driver.token if driver else None):
        return replace(attempt, reason="stopped with the run it belonged to", counts=False)
    return replace(attempt, reason="its process ended without a word", counts=not waited)


def _read(volume: Volume, archive: str) -> list[Attempt]:
    try:
        # Not decoded by msgspec: a reason may quote a name with bytes that are no UTF-8.
        entries = json.loads(volume.attempts(archive).read_text(encoding="utf-8"))
        return msgspec.convert(entries, list[Attempt])
    except (FileNotFoundError, ValueError, RecursionError):  # damaged: counted anew
        return []


def _write(volume: Volume, archive: str, attempts: Sequence[Attempt]) -> None:
    path = volume.attempts(archive)
    if not attempts:
        path.unlink(missing_ok=True)
        return
    try:
        with whole(path) as partial:
            partial.write_text(json.dumps([asdict(each) for each in attempts], indent=1))
    except OSError as error:
        if not ran_out(error):  # a full volume is waited for by the stage itself
            raise
