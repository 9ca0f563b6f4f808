"""Writing files so that a reader sees a whole file or none."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; it takes its place when the block succeeds.

    The bytes are on disk before the name changes, so a crash at any moment leaves either
    the old file or the new one.  A block that raises leaves nothing behind; a process
    that is killed may leave ``.{name}.{pid}.partial``, which nothing reads.

    Args:
        path: The final name; missing parent folders are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        put(partial, path)
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
