"""Bringing one archive from the source to the volume, whole or not at all.

What has come of an archive lies below ``state/transfers`` until it is whole, and the next
attempt goes on from there.  How much the running transfers still need is told by these files
and the locks of those who write them, so a transfer that died needs nothing.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from earmark import locks
from earmark.disk_space import ran_out, shortage_for_fetching, work_when_there_is_space
from earmark.errors import EarmarkError
from earmark.files import make_folder, put
from earmark.ingest.catalogue import Archive, read_entry
from earmark.ingest.source import Listed, Source, SourceUnreachableError
from earmark.locks import Lock
from earmark.progress import watch_file
from earmark.settings import DiskSpaceLimits, TransferSettings
from earmark.volume import Volume

logger = logging.getLogger(__name__)

#: The stage, as its rule and the purpose of its lock are called.
FETCHING = "fetch_archive"


@dataclass(frozen=True)
class Transfer:
    """An archive that is being fetched.

    Attributes:
        archive: Its name.
        bytes: How much of it has come.
        total: Its size.
    """

    archive: str
    bytes: int
    total: int


def fetch_archive(
    entry: Path,
    source: Source,
    volume: Volume,
    settings: TransferSettings,
    limits: DiskSpaceLimits,
    lock: Lock,
    verify: bool = True,
) -> None:
    """Copy an archive as soon as there is room, and verify that it is the one of its entry.

    It appears in ``incoming/`` only when it is whole, of the size that its entry says, and as old
    as the entry.  One that is there already is left alone.

    Args:
        entry: What :func:`earmark.ingest.catalogue.poll` wrote about the archive.
        source: Where it comes from.
        volume: Where it goes.
        settings: How it is fetched.
        limits: How full the volume may get.
        lock: On the archive; its purpose is :data:`FETCHING`.
        verify: Whether the source is asked again after the copy what the archive is.

    Raises:
        EarmarkError: the archive is not what its entry says: gone, replaced, or still growing;
            or the source refuses, or the connection was lost.
        OSError: the system refused.
    """
    known = read_entry(entry)
    target = volume.incoming(known.name)
    partial = volume.transfer(known.name, lock.holder.token)
    if target.exists() and _is_whole(target, known):
        logger.info("%s is here already", known.name)
        return
    for former in _partials(volume, known.name):
        if former != partial:  # of a holder that was given up, and may write to it still
            former.unlink(missing_ok=True)

    def claim() -> str | None:
        return _claim(known, partial, volume, limits, lock)

    def work() -> None:
        _copy(known, source, partial, settings, lock, verify)
        lock.renew()  # or else it is another one's business by now
        make_folder(target.parent)
        os.utime(partial, ns=(known.entry_ns, known.entry_ns))  # as old as its entry, by no clock
        put(partial, target)

    work_when_there_is_space(work, claim, limits.check_seconds, lock.renew)


def _copy(
    known: Archive,
    source: Source,
    partial: Path,
    settings: TransferSettings,
    lock: Lock,
    verify: bool,
) -> None:
    """Make the partial file the whole archive, verified."""
    _check(known, source.find(known.name), source)
    lock.renew()
    with watch_file(partial, known.bytes, f"fetch {known.name}"):
        try:
            source.copy(known.name, partial, settings.timeout_minutes * 60, [lock.descriptor])
        except EarmarkError:
            # It may have vanished or changed on the way, which says more than a lost copy.
            with suppress(SourceUnreachableError):
                _check(known, source.find(known.name), source)
            raise
    if verify:
        _check(known, source.find(known.name), source)
    if (copied := partial.stat().st_size) != known.bytes:
        partial.unlink()
        raise EarmarkError(f"{copied} bytes of {known.name} came, {known.bytes} were expected")


def _check(known: Archive, now: Listed | None, source: Source) -> None:
    """Refuse an archive that is not any more what its entry says."""
    if now is None:
        raise EarmarkError(f"{known.name} has vanished from {source}")
    if now.bytes != known.bytes:
        raise EarmarkError(
            f"{known.name} has {now.bytes} bytes in {source}, and its entry says {known.bytes}; "
            "it is still being written, and a later run takes it"
        )
    if now.modified_ns != known.modified_ns:
        raise EarmarkError(
            f"{known.name} in {source} changed after it was found; a later run takes it"
        )


def _is_whole(path: Path, known: Archive) -> bool:
    """Whether a file has an archive's size and, to the second, the time of its entry."""
    status = path.stat()
    return (status.st_size, int(status.st_mtime)) == (known.bytes, known.entry_ns // 10**9)


def _claim(
    known: Archive, partial: Path, volume: Volume, limits: DiskSpaceLimits, lock: Lock
) -> str | None:
    """Claim room for an archive; returns why there is none, if so.

    From the moment the partial file exists and its holder waits for nothing, others count
    what it still needs.
    """
    with locks.exclusive(volume.transfers_lock):
        promised = sum(
            other.total - other.bytes
            for other in running_transfers(volume)
            if other.archive != known.name
        )
        there = partial.stat().st_size if partial.exists() else 0
        needed = max(0, known.bytes - there)
        reason = shortage_for_fetching(volume.root, limits, known.name, needed, promised)
        if reason is None:
            try:
                make_folder(partial.parent)
                partial.touch()
            except OSError as error:
                if not ran_out(error):
                    raise
                return f"the volume is full: {error.strerror}"
            lock.renew()
        return reason


def running_transfers(volume: Volume) -> Iterator[Transfer]:
    """The archives that are being fetched now, by whatever process on whatever machine."""
    for path in _partials(volume):
        archive = path.name.rpartition(".")[0]
        holder = locks.holder_of(volume.archive_lock(archive))
        if holder is None or holder.purpose != FETCHING or holder.waits_for:
            continue
        with suppress(EarmarkError, FileNotFoundError):  # just finished
            total = read_entry(volume.entry(archive)).bytes
            yield Transfer(archive, min(path.stat().st_size, total), total)


def _partials(volume: Volume, archive: str | None = None) -> list[Path]:
    """Files of transfers, of one archive or all."""
    folder = volume.transfers
    paths = sorted(folder.iterdir()) if folder.exists() else []
    return [path for path in paths if archive in (None, path.name.rpartition(".")[0])]
