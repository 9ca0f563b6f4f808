"""Writing files so that a reader sees a whole file or none."""

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


def set_aside(path: Path, reason: object) -> None:
    """Put a file that can't be read out of the way, so that what needs it makes it anew.

    Args:
        path: The file; it is kept as ``.{name}.damaged``, which nothing reads.
        reason: What is wrong with it, for the log.

    Raises:
        OSError: the system refused; nobody knows then whether something needs it.
    """
    aside = path.with_name(f".{path.name}.damaged")
    path.replace(aside)
    logger.warning("%s is damaged (%s); it is kept as %s and made anew", path, reason, aside.name)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; it takes its place when the block succeeds.

    The bytes are on disk before the name changes, so a crash at any moment leaves either
    the old file or the new one.  A block that raises leaves nothing behind; a process
    that is killed may leave what :func:`partials_of` finds, which nothing reads.

    Args:
        path: The final name; missing parent folders are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    try:
        yield partial
        put(partial, path)
    except OSError as error:
        if error.filename is None and error.errno is not None:  # a full disk names no file
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def put(partial: Path, path: Path) -> None:
    """Give a complete file its final name, once its bytes are on disk.

    Args:
        partial: The file; it is gone afterwards.
        path: Its final name, on the same file system; what has that name is replaced.
    """
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    partial.replace(path)
