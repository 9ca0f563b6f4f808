"""Bringing one archive from the source to the volume, whole or not at all."""

import shutil
from pathlib import Path

from earmark.catalogue import read_entry
from earmark.errors import EarmarkError
from earmark.files import whole


def fetch_archive(entry: Path, source: Path, target: Path) -> None:
    """Copy an archive and verify that it is the one of its entry, before and after.

    Args:
        entry: What :func:`earmark.catalogue.discover` wrote about the archive.
        source: The folder where archives appear.
        target: Where it goes; it appears there only when it is whole.

    Raises:
        EarmarkError: the archive is not what its entry says: gone, or still changing.
        OSError: the volume is full, or the source cannot be read.
    """
    known = read_entry(entry)
    origin = source / known.name
    try:
        with whole(target) as partial:
            shutil.copyfile(origin, partial)
            status = origin.stat()
            copied = partial.stat().st_size
            if not copied == status.st_size == known.bytes:
                raise EarmarkError(
                    f"{origin} has {status.st_size} bytes, {copied} were copied and its entry "
                    f"says {known.bytes}; it is still being written and will be tried again"
                )
            if status.st_mtime_ns != known.modified_ns:
                raise EarmarkError(f"{origin} changed after it was found; it will be tried again")
    except FileNotFoundError as error:
        if origin.exists():
            raise
        raise EarmarkError(f"{origin} has vanished from the source") from error
