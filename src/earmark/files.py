"""Writing files so that a reader sees a whole file or none."""

import errno
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)

#: What a thing is called that isn't whole yet.  The process id is always there: whatever the
#: final name ends in, it is all that stands before the last two parts.
_PARTIAL = re.compile(r"\.(?P<name>.+)\.[0-9]+\.partial", re.DOTALL)


def partial_path(path: Path) -> Path:
    """A name beside ``path`` for what this process makes until it is whole."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def final_name(name: str) -> str | None:
    """The name that something gets once it is whole; None if ``name`` isn't of such a thing."""
    match = _PARTIAL.fullmatch(name)
    return match["name"] if match else None


def partials_of(path: Path) -> list[Path]:
    """What any process made of ``path`` and has not finished, in no order."""
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    return [other for other in beside if final_name(other.name) == path.name]


def aside_path(path: Path) -> Path:
    """Where :func:`set_aside` keeps a file."""
    return path.with_name(f".{path.name}.damaged")


def set_aside(path: Path, reason: object) -> None:
    """Put a file that can't be read out of the way, so that what needs it makes it anew.

    Args:
        path: The file; it is kept as :func:`aside_path`, which nothing reads.
        reason: What is wrong with it, for the log.

    Raises:
        OSError: the system refused; nobody knows then whether something needs it.
    """
    aside = aside_path(path)
    path.replace(aside)
    logger.warning("%s is damaged (%s); it is kept as %s and made anew", path, reason, aside.name)


def sync(folder: Path) -> None:
    """Have the names in a folder on disk, those that came and those that went.

    A file's own fsync(2) says nothing of its name.  File systems that have no such thing for a
    folder, as some network ones, keep names in order by themselves.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


#: Folders, by path, device and inode, whose name this process knows to be on disk.
_named: set[tuple[Path, int, int]] = set()


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, so that a power cut leaves them there.

    One that is there may have been made by a process that was killed before its name was on disk.
    """
    was_there = folder.is_dir()
    if not was_there:
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
    status = folder.stat()
    named = (folder, status.st_dev, status.st_ino)
    if was_there and named in _named:  # a new one may have the inode of one that has gone
        return
    try:
        sync(folder.parent)
    except PermissionError:  # nobody who may not read a folder has made another one in it
        if not was_there:
            raise
    _named.add(named)


@contextmanager
def whole(path: Path, keep_name: bool = True) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; it takes its place when the block succeeds.

    The bytes are on disk before the name changes, and then the name is too, so a crash or a
    power cut at any moment leaves either the old file or the new one, and the new one once this
    has returned.  A block that raises leaves nothing behind; a process that is killed may leave
    what :func:`partials_of` finds, which nothing reads.

    Args:
        path: The final name; missing parent folders are made.
        keep_name: Whether a power cut right after must not lose the new file; for one of many in a
            folder :func:`sync` once after all of them does as well.
    """
    make_folder(path.parent)
    partial = partial_path(path)
    try:
        yield partial
        put(partial, path, keep_name)
    except OSError as error:
        if error.filename is None and error.errno is not None:  # a full disk names no file
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def put(partial: Path, path: Path, keep_name: bool = True) -> None:
    """Give a complete file its final name, once its bytes are on disk.

    Args:
        partial: The file; it is gone afterwards.
        path: Its final name, on the same file system; what has that name is replaced.
        keep_name: As for :func:`whole`.
    """
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    partial.replace(path)
    if keep_name:
        sync(path.parent)
