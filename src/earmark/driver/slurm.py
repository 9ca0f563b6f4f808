"""What SLURM knows of our jobs, asked through its commands.

Source: squeue(1), scancel(1) and scontrol(1) of SLURM 22.05, whose options used here are the
same in later releases.
"""

import hashlib
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from earmark.errors import EarmarkError

logger = logging.getLogger(__name__)

#: How long one command may take; slurmctld itself gives up an answer after ten seconds.
_TIMEOUT_SECONDS = 60
_LOOK_SECONDS = 2.0
#: How long a job that was cancelled may take to end.
_TO_END_SECONDS = 300
#: States of squeue(1) in which a job holds nothing and starts nothing any more.
_OVER = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL"),
    *("OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"),
}


@dataclass(frozen=True)
class Job:
    """A job in SLURM's queue.

    Attributes:
        id: Its number.
        state: Long form, such as ``RUNNING``.
        node: Where it runs; "" while it waits.
        comment: What it is of, as the executor wrote it: the rule and its wildcards.
    """

    id: str
    state: str
    node: str
    comment: str


class NoClusterError(EarmarkError):
    """This machine has SLURM's commands, and nothing tells them of a cluster."""


def job_prefix(volume_root: Path) -> str:
    """How the jobs of all runs on one volume are called, before the run's own number."""
    return f"earmark-{hashlib.sha256(os.fsencode(volume_root)).hexdigest()[:8]}"


def own_job() -> str | None:
    """The number of the job that this process runs in, if it does."""
    return os.environ.get("SLURM_JOB_ID")


def is_installed() -> bool:
    """Whether this machine has SLURM's commands."""
    return shutil.which("squeue") is not None


def jobs(prefix: str) -> list[Job]:
    """The jobs whose name begins so and that are not over, in SLURM's order.

    Raises:
        EarmarkError: SLURM doesn't answer.
    """
    # Names and comments are anybody's and hold what they like, line ends too; what nobody can
    # know beforehand tells the jobs apart.
    mark = f"{uuid4().hex}|"
    _, *told = _ask("squeue", "--noheader", f"--format={mark}%i|%T|%N|%j|%k").split(mark)
    found = []
    for job in told:
        number, state, node, name, comment = job.removesuffix("\n").split("|", 4)
        if name.startswith(f"{prefix}_") and state not in _OVER:
            found.append(Job(number, state, node, comment))
    return found


def cancel(ids: Sequence[str]) -> None:
    """Ask SLURM to end jobs; one that is over already is no error.

    Raises:
        EarmarkError: SLURM doesn't answer.
    """
    if ids:
        _ask("scancel", "--quiet", *ids)


def clear(prefix: str, await_seconds: float) -> int:
    """See to it that no job of an earlier run is left: what waits is cancelled, what runs may end.

    Args:
        prefix: How the jobs are called.
        await_seconds: How long those that run are given before they are cancelled too.

    Returns:
        How many there were.

    Raises:
        EarmarkError: SLURM doesn't answer, or a job does not end though it was cancelled.
    """
    left = jobs(prefix)
    count, told, cancelled = len(left), False, False
    patience_over = time.monotonic() + await_seconds
    while left:
        waiting = [job.id for job in left if job.state == "PENDING"]
        cancel(waiting)
        if waiting:
            logger.info("cancelled %d jobs that a former run had left waiting", len(waiting))
        running = [job for job in left if job.state != "PENDING"]
        if running and not told:
            logger.info(
                "%d jobs of a former run still work; they have %.0f minutes to end: %s",
                len(running), await_seconds / 60, ", ".join(job.comment for job in running)
            )  # fmt: skip
            told = True
        if running and not cancelled and time.monotonic() >= patience_over:
            logger.warning("cancelling %d jobs of a former run", len(running))
            cancel([job.id for job in running])
            cancelled = True
        if time.monotonic() >= patience_over + _TO_END_SECONDS:
            raise EarmarkError(
                f"SLURM job {left[0].id} of a former run does not end, though it was cancelled; "
                "see `scontrol show job`, and the node it is on"
            )
        time.sleep(_LOOK_SECONDS)
        left = jobs(prefix)
    return count


def end_of(job: str) -> tuple[str, str]:
    """State and reason of one job, such as ``("OUT_OF_MEMORY", "OutOfMemory")``.

    SLURM forgets jobs after ``MinJobAge``; then, and where it doesn't answer, both are "".
    """
    try:
        said = _ask("scontrol", "--oneliner", "show", "job", job)
    except EarmarkError:
        return "", ""
    facts = dict(part.partition("=")[::2] for part in said.split())
    reason = facts.get("Reason", "")
    return facts.get("JobState", ""), "" if reason == "None" else reason


def _ask(*command: str) -> str:
    try:
        done = subprocess.run(
            command,
            check=True,
            capture_output=True,
            encoding="utf-8",
            errors="backslashreplace",
            timeout=_TIMEOUT_SECONDS,
        )
    except FileNotFoundError as error:
        raise EarmarkError(f"there is no {command[0]} here; is SLURM installed?") from error
    except subprocess.TimeoutExpired as error:
        raise EarmarkError(
            f"SLURM did not answer {command[0]} within {_TIMEOUT_SECONDS} s"
        ) from error
    except subprocess.CalledProcessError as error:
        said = " ".join(error.stderr.split())[:300]
        if "configuration source" in error.stderr:  # squeue(1), where there is no slurm.conf
            raise NoClusterError(
                f"{command[0]} knows of no cluster here; put its slurm.conf into /etc/slurm"
            ) from error
        raise EarmarkError(
            f"SLURM refused {command[0]}: {said}; see `scontrol ping` and `sinfo`"
        ) from error
    return done.stdout
