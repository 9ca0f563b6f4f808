"""One log format for every stage, and errors that end a job in one sentence."""

import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from earmark import locks
from earmark.errors import EarmarkError, refused_by_system
from earmark.locks import Lock
from earmark.room import ran_out
from earmark.volume import Volume

logger = logging.getLogger(__name__)

#: Libraries whose information and warnings are about themselves, not about our data.
_TALKATIVE = ("whisperx", "lightning", "pytorch_lightning", "bitsandbytes")


class _LogFile(logging.FileHandler):
    """A log on the volume, which may be full; standard error has its lines too."""

    def handleError(self, record: logging.LogRecord) -> None:  # logging's name
        error = sys.exc_info()[1]
        if not (isinstance(error, OSError) and ran_out(error)):
            super().handleError(record)


def configure(worker: str, log_file: Path | None = None) -> None:
    """Log as ``timestamp | level | worker | message``, in UTC.

    Args:
        worker: Who is speaking, such as ``encode_opus@worker1``.
        log_file: Also write there; standard error always gets the messages.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if log_file is not None:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(_LogFile(log_file, encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(_formatter(worker))
    logging.basicConfig(level=logging.INFO, handlers=handlers, force=True)
    logging.captureWarnings(True)
    # A handler of its own keeps WhisperX from adding one that prints every message again.
    logging.getLogger("whisperx").addHandler(logging.NullHandler())
    for library in _TALKATIVE:
        logging.getLogger(library).setLevel(logging.ERROR)


def _formatter(worker: str) -> logging.Formatter:
    formatter = logging.Formatter(
        f"%(asctime)s | %(levelname)s | {worker} | %(message)s", "%Y-%m-%dT%H:%M:%SZ"
    )
    formatter.converter = time.gmtime
    return formatter


def configure_command(worker: str) -> None:
    """Log what Earmark itself says to standard error, in a process that others log from too."""
    handler = logging.StreamHandler()
    handler.setFormatter(_formatter(worker))
    speaker = logging.getLogger("earmark")
    speaker.handlers = [handler]
    speaker.setLevel(logging.INFO)
    speaker.propagate = False


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
        configure(f"{name}@{socket.gethostname()}", log_file)
        logger.info("%s: started (process %d)", archive, os.getpid())
        with locks.exclusive(volume.archive_lock(archive), name, lease_seconds) as lock:
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
