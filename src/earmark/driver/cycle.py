"""One cycle of the cluster: what cron or a timer starts, again and again.

It leaves at once if a driver lives, clears away what a dead one left, and else runs a driver
that takes in archives as they appear until its time is up or nothing is left to do.
"""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import yaml
from msgspec.structs import replace

from earmark import REPOSITORY, locks
from earmark.driver import attempts, quarantine, redo, slurm
from earmark.driver.checks import check_inputs
from earmark.errors import EarmarkError
from earmark.files import make_folder, whole
from earmark.ingest import catalogue
from earmark.ingest.source import source_of
from earmark.locks import HeldError, Lock
from earmark.policy.policies import EXAMPLES_FILE
from earmark.record.throughput import receipts_since
from earmark.settings import Settings
from earmark.volume import Volume
from earmark.wording import counted

logger = logging.getLogger(__name__)

#: Exit statuses, besides 0 for "worked, and nothing failed" and 2 for "could not run".
NOTHING_TO_DO = 3
SOME_FAILED = 4
INTERRUPTED = 130

#: How often it is looked whether time is up, and then what holds up the end, in s.
_LOOK_SECONDS = 5.0
#: Configurations and logs of so many former cycles are kept.
_KEPT_RUNS = 50


def cycle(settings: Settings, profile: Path, directory: Path = REPOSITORY) -> int:
    """Run one cycle to its end.

    Args:
        settings: The configuration; the run gets a copy, so editing the file changes the next
            cycle and not this one.
        profile: Folder of the Snakemake profile to run with.
        directory: Where Snakemake keeps ``.snakemake``.

    Returns:
        0, or 3 if there was nothing to do (a driver that lives does it already), or 4 if
        archives have failed, or 130 after SIGINT.

    Raises:
        EarmarkError: it could not run, or the driver was killed.
    """
    volume = Volume.of(settings)
    if not volume.root.is_dir():
        raise EarmarkError(f"there is no {volume.root} (volume.root); is the volume mounted?")
    try:
        lock = locks.hold_until_exit(volume.cycle_lock, "cycle")
    except HeldError as error:
        logger.info("nothing to do: %s", error)
        return NOTHING_TO_DO
    if holder := locks.holder_of(volume.driver_lock):
        logger.info("nothing to do: a driver is at work (%s)", holder)
        return NOTHING_TO_DO
    prefix = slurm.job_prefix(volume.root) if _executor(profile) == "slurm" else None
    check_inputs(settings)
    options = ["--profile", str(profile), "--directory", str(directory)]
    if prefix:
        options += ["--slurm-jobname-prefix", prefix]
        slurm.clear(prefix, settings.cycle.await_minutes * 60)
    redo.carry_out(volume, settings)
    archives = catalogue.discover(source_of(settings), volume, settings.source).archives
    quarantine.update(volume, archives, settings)
    plan = catalogue.plan_run(archives, volume, settings.source)
    if not plan.now:
        known = counted(len(archives), "known archive")
        logger.info("nothing to do: none of %s is pending", known)
        return NOTHING_TO_DO
    return _drive(settings, volume, options, lock, prefix)


def _executor(profile: Path) -> str:
    """The executor that a profile names."""
    path = profile / "config.yaml"
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        return str(settings.get("executor", "local"))
    except OSError as error:
        raise EarmarkError(f"cannot read the profile {path}: {error.strerror}") from error
    except (yaml.YAMLError, AttributeError) as error:
        raise EarmarkError(f"the profile {path} is no mapping of options") from error


def _drive(
    settings: Settings, volume: Volume, options: Sequence[str], lock: Lock, prefix: str | None
) -> int:
    """Run the driver, end it when its time is up, and tell what it has done."""
    began_at = time.time()
    name = datetime.fromtimestamp(began_at, UTC).strftime("%Y-%m-%dT%H%M%SZ")
    log = volume.log("driver", name)
    make_folder(log.parent)
    snapshot = _snapshot(settings, volume.runs / name)
    for former in sorted(volume.runs.iterdir())[:-_KEPT_RUNS]:
        if former.is_dir():
            shutil.rmtree(former)
        else:  # a version before kept the configuration alone
            former.unlink()
    for former in sorted(log.parent.glob("*.log"))[:-_KEPT_RUNS]:
        former.unlink()
    command = [
        *(sys.executable, "-m", "snakemake", "cycle"),
        *("--snakefile", str(REPOSITORY / "workflow/Snakefile")),
        *("--configfile", str(snapshot), *options),
    ]
    logger.info("the driver starts; its log is %s", log)
    with log.open("wb") as output, _Driver(command, output, lock, prefix is None) as process:
        code = process.wait(
            settings.cycle.max_hours * 3600,
            at_end=lambda: cancel_waiting(volume, prefix) if prefix else None,
        )
    done = receipts_since(volume, began_at)
    failed = quarantine.failed_since(volume, began_at, process.stopped)
    logger.info("done: %s; failed: %d", counted(len(done), "archive"), len(failed))
    # One that is asked to end before it listens is killed, and has done nothing yet.
    if code < 0 and not (process.stopped and code == -signal.SIGTERM):
        raise EarmarkError(
            f"the driver was killed ({signal.Signals(-code).name}); the next cycle goes on"
        )
    if process.interrupted:
        return INTERRUPTED
    if failed:
        logger.warning("failed, see `earmark status` and the log: %s", ", ".join(failed[:20]))
        return SOME_FAILED
    if code and not process.stopped:
        raise EarmarkError(f"the driver ended with status {code}; see {log}")
    return 0


def _snapshot(settings: Settings, folder: Path) -> Path:
    """Copy the configuration and the policies, which jobs read when they start."""
    policies = folder / "policies"
    make_folder(policies)
    found = Path(settings.classify.policies)
    for path in (*found.glob("*.md"), *found.glob(EXAMPLES_FILE)):
        shutil.copyfile(path, policies / path.name)
    classify = replace(settings.classify, policies=str(policies.resolve()))
    copied = msgspec.to_builtins(replace(settings, classify=classify))
    snapshot = folder / "config.yaml"
    with whole(snapshot) as partial:
        partial.write_text(json.dumps(copied, indent=1), encoding="utf-8")  # which is YAML too
    return snapshot


def cancel_waiting(volume: Volume, prefix: str) -> None:
    """Cancel what a driver that ends would wait for in vain, as it starts no other jobs.

    These are jobs that have not begun, and those that wait for room that only other jobs could
    make, or for a server.
    """
    waiting = [job.id for job in slurm.jobs(prefix) if job.state == "PENDING"]
    slurm.cancel([*waiting, *attempts.waiting_jobs(volume)])


class _Driver:
    """Snakemake as a child that gets our signals once, and outlives us if we are killed.

    Attributes:
        stopped: Whether it was asked to stop before all was done.
        interrupted: Whether it was to cancel what runs.
    """

    def __init__(
        self, command: Sequence[str], output: Any, lock: Lock, jobs_are_children: bool
    ) -> None:
        self.stopped = self.interrupted = False
        self._jobs_are_children = jobs_are_children
        # A background job of a shell begins with SIGINT ignored, and would hand that on.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # In a session of its own: Ctrl-C on the terminal reaches it from here alone.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=[lock.descriptor],
        )
        self._former = {
            number: signal.signal(number, self._forward)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        }

    def __enter__(self) -> "_Driver":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.wait()
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def wait(self, seconds: float, at_end: Callable[[], None]) -> int:
        """Wait for the end, and after some seconds ask for it; returns the exit status.

        Args:
            seconds: Until it is asked to end.
            at_end: Called now and then from when it was asked to end.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                return self._process.wait(_LOOK_SECONDS)
            except subprocess.TimeoutExpired:
                if not self.stopped and time.monotonic() >= deadline:
                    logger.info("time is up (cycle.max_hours): running jobs may end, no others")
                    self._stop(signal.SIGTERM)
                if self.stopped:
                    try:
                        at_end()
                    except EarmarkError as error:
                        logger.warning("%s", error)

    def _forward(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT:
            logger.warning("stopping; running jobs are cancelled")
            self.interrupted = True
            self._stop(signal.SIGINT)
        else:
            logger.warning("stopping; running jobs may end")
            self._stop(signal.SIGTERM)

    def _stop(self, number: int) -> None:
        self.stopped = True
        with suppress(ProcessLookupError):
            if number == signal.SIGINT and self._jobs_are_children:
                os.killpg(self._process.pid, number)  # as Ctrl-C on a terminal would
            else:
                self._process.send_signal(number)
