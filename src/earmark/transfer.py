"""Bringing one archive from the source to the volume, whole or not at all."""

import os
import shutil
from pathlib import Path

from earmark import catalogue
from earmark.errors import EarmarkError
from earmark.files import whole
from earmark.volume import Volume


def fetch_archive(name: str, source: Path, target: Path, volume: Volume) -> None:
    """Copy an archive, keep its time of change, and verify its size.

    Args:
        name: The archive's name; it must be in the catalogue.
        source: The folder where archives appear.
        target: Where it goes; it appears there only when it is whole.
        volume: The shared volume.

    Raises:
        EarmarkError: the archive is not what the catalogue says: gone, or still changing.
        OSError: the volume is full, or the source cannot be read.
    """
    known = next((entry for entry in catalogue.read(volume) if entry.name == name), None)
    if known is None:
        raise EarmarkError(f"{name} is not in the catalogue; run `earmark discover`")
    origin = source / name
    try:
        with whole(target) as partial:
            shutil.copyfile(origin, partial)
            status = origin.stat()
            copied = partial.stat().st_size
            if not copied == status.st_size == known.bytes:
                raise EarmarkError(
                    f"{origin} has {status.st_size} bytes, {copied} were copied and the catalogue "
                    f"says {known.bytes}; it is still being written and will be tried again"
                )
            if status.st_mtime_ns != known.modified_ns:
                raise EarmarkError(f"{origin} changed after it was found; it will be tried again")
            os.utime(partial, ns=(status.st_mtime_ns, status.st_mtime_ns))
    except FileNotFoundError as error:
        raise EarmarkError(f"{origin} has vanished from the source") from error
