"""Kernel locks that processes on several machines share: held by the living, never by the dead.

A lock is a file below ``state/`` and an open file description lock on it (fcntl(2)).  Unlike
flock(2), that kind is the same lock for a process on the machine that exports the volume by
NFS and for one on a machine that mounts it.  The kernel releases it when the last process
that has the file open ends, however it ends; an NFS server does so when a client is gone for
longer than its lease.  What is left is a holder that hangs: it says in the file until when it
may be waited for, and is given up after that.
"""

import errno
import fcntl
import json
import logging
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from uuid import uuid4

from earmark.errors import EarmarkError
from earmark.files import make_folder

logger = logging.getLogger(__name__)

#: How often a waiting process looks whether the lock is free or its holder overdue.
_LOOK_SECONDS = 0.5
#: struct flock of 64-bit Linux; whence, start and length 0 mean the whole file.
_FLOCK = struct.Struct("hhqqi4x")


def this_machine() -> str:
    """Name of the machine, as SLURM has it if this process is a job's."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


@dataclass(frozen=True)
class Holder:
    """Who holds a lock, as written in its file.

    Attributes:
        purpose: What for, such as the name of a stage.
        host: Name of the machine.
        process: Process id there.
        since: When it got the lock, in s since 1970.
        until: When others may give it up, likewise; None for as long as it lives.
        token: Passed on from a holder that died to the next one, and new after one was given
            up. What is named by it is never shared with a holder that still hangs somewhere.
        waits_for: What it cannot go on without, for a person; "" while it works.
    """

    purpose: str
    host: str
    process: int
    since: float
    until: float | None
    token: str
    waits_for: str = ""

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"


class HeldError(EarmarkError):
    """Another process holds the lock."""


class Lock:
    """A lock that this process holds.

    Attributes:
        descriptor: Of the lock's file. A child that inherits it holds the lock too.
        holder: What the file says.
        former: What it said before: how the last holder left it.
    """

    def __init__(
        self,
        path: Path,
        descriptor: int,
        holder: Holder,
        lease_seconds: float | None,
        former: Holder | None = None,
    ) -> None:
        self.descriptor = descriptor
        self.holder = holder
        self.former = former
        self._path = path
        self._lease_seconds = lease_seconds
        self.renew()

    def renew(self, waits_for: str = "") -> None:
        """Say that the holder is alive and what it waits for; starts the lease anew.

        Raises:
            EarmarkError: another process has given this one up, and works in its place.
        """
        if not _is_at(self.descriptor, self._path):
            raise EarmarkError(
                f"this process was given up as it held {self._path.name} for too long; another one "
                "has taken over"
            )
        until = None if self._lease_seconds is None else time.time() + self._lease_seconds
        self.holder = replace(self.holder, until=until, waits_for=waits_for)
        text = json.dumps(asdict(self.holder)).encode()
        with suppress(OSError):  # on a full volume the lock holds all the same
            os.pwrite(self.descriptor, text, 0)
            os.ftruncate(self.descriptor, len(text))
            os.fsync(self.descriptor)  # for other machines

    def release(self) -> None:
        """Leave nothing in the file that could be taken for the lease of the next holder."""
        if _is_at(self.descriptor, self._path):
            self._lease_seconds = None
            self.renew()


@contextmanager
def exclusive(path: Path, purpose: str = "", lease_seconds: float | None = None) -> Iterator[Lock]:
    """Hold the lock ``path`` for the block, waiting for whoever holds it now.

    Args:
        path: The lock file; it stays when the lock is released.
        purpose: What for, such as the name of a stage.
        lease_seconds: After this time without :meth:`Lock.renew` others may take the lock; None
            lets them wait for as long as this process lives.
    """
    with _holding(path, _wait_for(path), purpose, lease_seconds) as lock:
        yield lock


@contextmanager
def if_free(path: Path, purpose: str = "") -> Iterator[bool]:
    """Hold the lock ``path`` for the block if nobody else does, without waiting.

    Args:
        path: The lock file.
        purpose: What for.

    Yields:
        Whether this process holds it.
    """
    descriptor = _open(path)
    if _try(descriptor) and _is_at(descriptor, path):
        with _holding(path, descriptor, purpose):
            yield True
    else:
        os.close(descriptor)
        yield False


@contextmanager
def _holding(
    path: Path, descriptor: int, purpose: str, lease_seconds: float | None = None
) -> Iterator[Lock]:
    """Have a lock that was just got say who holds it, and release it after the block."""
    try:
        former = _read(descriptor)
        holder = Holder(
            purpose=purpose,
            host=this_machine(),
            process=os.getpid(),
            since=time.time(),
            until=None,
            token=former.token if former else uuid4().hex,
        )
        lock = Lock(path, descriptor, holder, lease_seconds, former)
        try:
            yield lock
        finally:
            lock.release()
    finally:
        os.close(descriptor)


def hold_until_exit(path: Path, purpose: str = "driver") -> Lock:
    """Hold the lock ``path`` for as long as this process lives, or a child that inherits it.

    Raises:
        HeldError: another process holds it.
    """
    descriptor = _open(path)
    if not _try(descriptor):
        holder = _read(descriptor) or "another process"
        os.close(descriptor)
        raise HeldError(
            f"another run works on this volume already ({holder}); wait for it to end or stop it"
        )
    holder = Holder(purpose, this_machine(), os.getpid(), time.time(), None, uuid4().hex)
    return Lock(path, descriptor, holder, None)  # the descriptor stays open on purpose


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock ``path``; a look that writes nothing."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        asked = _FLOCK.pack(fcntl.F_WRLCK, 0, 0, 0, 0)
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, asked)
        return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)
    finally:
        os.close(descriptor)


def holder_of(path: Path) -> Holder | None:
    """Who holds the lock ``path``; None if nobody does, or nobody said so."""
    return last_holder_of(path) if is_held(path) else None


def last_holder_of(path: Path) -> Holder | None:
    """Who holds the lock ``path`` or held it last; one that was killed left it as it was."""
    with suppress(FileNotFoundError):
        return _parse(path.read_bytes())
    return None


def remove(path: Path) -> None:
    """Delete a lock's file unless the lock is held."""
    with suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            with _guarded(path):
                if _try(descriptor) and _is_at(descriptor, path):
                    path.unlink()
        finally:
            os.close(descriptor)


def _wait_for(path: Path) -> int:
    """Get the lock; returns the descriptor of its file."""
    told, overdue = False, None
    while True:
        descriptor = _open(path)
        # The file may have been replaced between opening and locking it.
        if _try(descriptor) and _is_at(descriptor, path):
            return descriptor
        holder = _read(descriptor)
        os.close(descriptor)
        if holder and holder.until is not None and holder.until < time.time():
            if holder == overdue:  # twice: it isn't what a former holder left
                _give_up(path, holder)
                continue
            overdue = holder
        if not told:
            logger.info("waiting for %s, which holds %s", holder or "another process", path.name)
            told = True
        time.sleep(_LOOK_SECONDS)


def _give_up(path: Path, holder: Holder) -> None:
    """Put the lock of an overdue holder out of the way; it keeps a file that nobody finds."""
    with _guarded(path), suppress(FileNotFoundError):
        if _parse(path.read_bytes()) == holder:  # nobody was quicker, it didn't renew
            path.unlink()
            logger.warning("gave up %s, which has held %s for too long", holder, path)


@contextmanager
def _guarded(path: Path) -> Iterator[None]:
    """Be the only one that deletes lock files beside ``path``."""
    guard = _open(path.with_name(".given-up.lock"))
    try:
        _lock(guard, fcntl.F_OFD_SETLKW)
        yield
    finally:
        os.close(guard)


def _open(path: Path) -> int:
    make_folder(path.parent)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o664)


def _lock(descriptor: int, operation: int) -> None:
    fcntl.fcntl(descriptor, operation, _FLOCK.pack(fcntl.F_WRLCK, 0, 0, 0, 0))


def _try(descriptor: int) -> bool:
    try:
        _lock(descriptor, fcntl.F_OFD_SETLK)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _read(descriptor: int) -> Holder | None:
    return _parse(os.pread(descriptor, 1 << 16, 0))


def _parse(text: bytes) -> Holder | None:
    try:
        return Holder(**json.loads(text))
    except (ValueError, TypeError, RecursionError):  # empty, or being written just now
        return None
