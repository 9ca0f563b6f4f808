"""Kernel locks: held by a living process, gone the moment it dies."""

import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from earmark.errors import EarmarkError

logger = logging.getLogger(__name__)


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock ``path`` for the block, waiting for whoever holds it now.

    Args:
        path: The lock file; it stays when the lock is released.
    """
    descriptor = _open(path)
    try:
        if not _try(descriptor):
            logger.info("waiting for %s, which works on the same archive", _holder(descriptor))
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        _sign(descriptor)
        yield
    finally:
        os.close(descriptor)


def hold_until_exit(path: Path) -> None:
    """Hold the lock ``path`` for as long as this process lives.

    Raises:
        EarmarkError: another process holds it.
    """
    descriptor = _open(path)
    if not _try(descriptor):
        holder = _holder(descriptor)
        os.close(descriptor)
        raise EarmarkError(
            f"another run works on this volume already ({holder}); wait for it to end or stop it"
        )
    _sign(descriptor)  # the descriptor stays open on purpose


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock ``path``."""
    if not path.exists():
        return False
    descriptor = _open(path)
    try:
        return not _try(descriptor)
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o664)


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sign(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)


def _holder(descriptor: int) -> str:
    return os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
