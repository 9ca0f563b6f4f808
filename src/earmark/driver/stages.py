"""What every stage of every archive has in common: a log, a lock, and an account of attempts."""

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from earmark import locks, logs
from earmark.disk_space import ran_out
from earmark.driver import attempts, slurm
from earmark.errors import EarmarkError, SetupError, UnavailableError, refused_by_system
from earmark.locks import Holder, Lock
from earmark.volume import Volume

logger = logging.getLogger(__name__)

#: What ends a stage without its archive being to blame; a missing library is missing to all.
_BLAMELESS = (UnavailableError, SetupError, ImportError, KeyboardInterrupt)


@contextmanager
def stage(
    name: str, archive: str, volume: Volume, log_file: Path, lease_seconds: float | None = None
) -> Iterator[Lock]:
    """Run one stage of one archive: logged, alone, with errors a person can read.

    Only one process at a time works on an archive, also when the job of a driver that was
    killed still runs while a new driver has started the same job again.

    Args:
        name: The stage, as its rule is called.
        archive: File name of the archive.
        volume: The shared volume.
        log_file: Where the stage's log is kept.
        lease_seconds: Others need not wait longer for a holder that hangs; None for no limit.

    Yields:
        The lock on the archive, which tells others what the stage waits for.

    Raises:
        SystemExit: status 2, after an :class:`EarmarkError` was logged without traceback; 130
            after Ctrl-C.
    """
    started = time.monotonic()
    try:
        logs.configure(f"{name}@{locks.this_machine()}", log_file)
        logger.info("%s: started (%s)", archive, _where())
        with (
            locks.exclusive(volume.archive_lock(archive), name, lease_seconds) as lock,
            _counted(name, archive, volume, log_file, lock.former),
        ):
            yield lock
    except EarmarkError as error:
        logger.error("%s: %s", archive, error)
        sys.exit(2)
    except KeyboardInterrupt:
        logger.warning("%s: stopped; the next run goes on", archive)
        sys.exit(130)
    except Exception as error:
        if isinstance(error, OSError) and ran_out(error):
            logger.error("%s: %s", archive, refused_by_system(error))
            sys.exit(2)
        logger.exception("%s: failed", archive)
        raise
    logger.info("%s: done in %.1f s", archive, time.monotonic() - started)


def _where() -> str:
    """What a person needs to find this stage at work."""
    facts = {
        "process": str(os.getpid()),
        "SLURM job": slurm.own_job(),
        "GPU": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }
    return ", ".join(f"{name} {value}" for name, value in facts.items() if value)


@contextmanager
def _counted(
    name: str, archive: str, volume: Volume, log_file: Path, former: Holder | None
) -> Iterator[None]:
    """Write down that a stage is tried, and why it failed if it does."""
    if volume.quarantine(archive).exists():
        raise EarmarkError(f"it is in quarantine; `earmark retry {archive}` releases it")
    attempts.begin(volume, archive, name, log_file, former)
    try:
        yield
    except BaseException as error:
        full = isinstance(error, OSError) and ran_out(error)
        blameless = full or isinstance(error, _BLAMELESS)
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, EarmarkError):
            reason = str(error)
        elif isinstance(error, KeyboardInterrupt):
            reason = "interrupted by a person"
        attempts.fail(volume, archive, reason, counts=not blameless)
        raise
    attempts.succeed(volume, archive, name)
