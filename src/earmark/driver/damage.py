"""What can't be read of a pending archive is made anew instead of stopping it.

A file that power, a disk or a person has damaged would be taken for done by everything that
goes by names and times, and fail every stage that reads it.
"""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

from earmark import locks, receipts
from earmark.errors import EarmarkError
from earmark.files import aside_path, set_aside
from earmark.ingest.catalogue import Archive, is_fetched
from earmark.tables import TABLES, DamagedError, read_table
from earmark.volume import Volume

logger = logging.getLogger(__name__)


def set_damaged_aside(volume: Volume, archives: Iterable[Archive]) -> None:
    """Put damaged tables and receipts of pending archives out of the way of their stages.

    A fetched archive of another size than the source told goes: it would be unpacked as far as it
    goes, and taken for one that was uploaded so.

    Nothing of an archive that a process works on is looked at. A volume that refuses is a
    warning: the stage that needs the file then says what is wrong.

    Args:
        volume: The shared volume.
        archives: Archives that are about to be worked on.
    """
    for archive in archives:
        try:
            is_cut = _is_cut(volume, archive)
            if not is_cut and not any(_damaged(volume, archive)):
                continue
            with locks.if_free(volume.archive_lock(archive.name), "look") as free:
                for path, reason in _damaged(volume, archive) if free else ():
                    set_aside(path, reason)
                if free and is_cut and _is_cut(volume, archive):
                    logger.warning(
                        "%s is not of %d bytes, as the source has it; it is fetched again",
                        volume.incoming(archive.name), archive.bytes,
                    )  # fmt: skip
                    volume.incoming(archive.name).unlink()
        except (EarmarkError, OSError) as error:
            logger.warning("%s: what is damaged stays: %s", archive.name, error)


def forget_damaged(volume: Volume, archive: str, date: str) -> None:
    """Remove the damaged tables of an archive that were set aside, once all are made anew.

    Nobody can erase a clip from a file that can't be read.

    Args:
        volume: The shared volume.
        archive: The archive's name.
        date: Its date, ``YYYY-MM-DD``.

    Raises:
        OSError: the volume can't be written.
    """
    for table in TABLES.values():
        for folder in table.folders(volume, date):
            aside_path(folder / f"{archive}.parquet").unlink(missing_ok=True)


def _is_cut(volume: Volume, archive: Archive) -> bool:
    path = volume.incoming(archive.name)
    return path.exists() and not is_fetched(volume, archive.name, archive.bytes)


def _damaged(volume: Volume, archive: Archive) -> Iterator[tuple[Path, str]]:
    receipt = volume.receipt(archive.date, archive.name)
    if receipt.exists() and receipts.read(receipt) is None:
        yield receipt, "not a receipt"
    for table in TABLES.values():
        for path in table.files(volume, archive.date, archive.name):
            try:
                read_table(path, table.schema)
            except DamagedError as error:
                yield path, error.reason
