"""What is removed, when, and why.

Fetched archives go once their receipt exists, half-done work of runs that were killed goes
when nothing needs it any more, and audio, texts, reports and logs go at set ages.  Nothing
that a living process works on is touched, and no manifest and no receipt ever is.
"""

import logging
import shutil
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import pyarrow.compute as pc

from earmark import locks, receipts
from earmark.driver import attempts
from earmark.errors import EarmarkError
from earmark.files import final_name
from earmark.ingest import catalogue
from earmark.ingest.catalogue import Archive, History
from earmark.ingest.encode import ERASED
from earmark.ingest.source import Listed, Source, SourceUnreachableError
from earmark.record import spill
from earmark.record.database import connect, require_schema
from earmark.record.erasure import ERASURES, Erased
from earmark.settings import RetentionSettings
from earmark.tables import CLASSES, MANIFEST, TABLES, read_table
from earmark.volume import Volume

logger = logging.getLogger(__name__)

_DAY = 86_400.0


@dataclass(frozen=True)
class Leftover:
    """Something on the volume that nothing needs any more.

    Attributes:
        path: A file or a folder.
        archive: The archive that it is of; "" for something of none.
        reason: Why it can go.
        identity: Inode and time of change as it was found, None if it was gone by then.
    """

    path: Path
    archive: str
    reason: str
    identity: tuple[int, int] | None = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "identity", _identity(self.path))

    @property
    def bytes(self) -> int:
        """How much room it takes, with the files in a folder."""
        files = self.path.rglob("*") if self.path.is_dir() else [self.path]
        total = 0
        for file in files:
            with suppress(FileNotFoundError):  # gone meanwhile
                total += file.lstat().st_size
        return total


def sweep(volume: Volume, archives: Sequence[Archive], retention: RetentionSettings) -> None:
    """Remove what runs left that were killed, and archives that are done.

    Args:
        volume: The shared volume.
        archives: The catalogue.
        retention: Whether archives that are done stay.
    """
    history = History(volume)
    pending = {archive.name: archive for archive in archives if history.is_pending(archive)}
    dates = {archive.date for archive in pending.values()}
    for _ in remove(_leftovers_of_runs(volume, archives, pending, retention, dates), volume):
        pass
    for path in _children(volume.locks):
        name = path.name.removesuffix(".lock")
        if name not in pending and not name.startswith("."):
            locks.remove(path)
    for name in attempts.tried(volume):
        if name not in pending:
            attempts.forget(volume, name)


def leftovers(
    volume: Volume, archives: Sequence[Archive], retention: RetentionSettings
) -> Iterator[Leftover]:
    """Find all that nothing needs any more: what `sweep` finds, and what only age tells.

    Args:
        volume: The shared volume.
        archives: The catalogue.
        retention: The ages.
    """
    days = (day for kind in ("manifests", "processed") for day in _children(volume.root / kind))
    dates = {day.name.removeprefix("date=") for day in days}
    history = History(volume)
    pending = {archive.name for archive in archives if history.is_pending(archive)}
    yield from _leftovers_of_runs(volume, archives, pending, retention, dates)
    yield from _abandoned(volume, archives, retention.abandoned_days)
    if retention.audio_days is not None or retention.flagged_audio_days is not None:
        yield from _expired_audio(volume, retention.audio_days, retention.flagged_audio_days)
    if retention.text_days is not None:
        yield from _expired_text(volume, retention.text_days)
    if retention.reports_days is not None:
        for page in _children(volume.report("").parent):
            if _is_older(page, retention.reports_days):
                yield Leftover(page, "", f"a report older than {retention.reports_days:g} days")
    if retention.logs_days is not None:
        for log in sorted((volume.root / "logs").rglob("*.log")):
            if log.name != ERASURES and _is_older(log, retention.logs_days):
                yield Leftover(log, "", f"a log older than {retention.logs_days:g} days")


def remove(found: Iterable[Leftover], volume: Volume) -> Iterator[tuple[Leftover, int]]:
    """Delete leftovers, and the folder of an archive's audio with its last file.

    One stays if a process works on its archive by now, or if something else is in its place.

    Args:
        found: As :func:`leftovers` finds them.
        volume: The shared volume.

    Yields:
        Each that is gone, and how many bytes it had.
    """
    for archive, group in groupby(found, lambda leftover: leftover.archive):
        of_one = list(group)  # all of them are found before the lock is held
        lock = locks.if_free(volume.archive_lock(archive), "clean") if archive else None
        with lock or nullcontext(True) as free:
            for leftover in of_one:
                size = leftover.bytes
                if free and _remove(leftover.path, leftover.identity):
                    yield leftover, size


def _remove(path: Path, identity: tuple[int, int] | None) -> bool:
    if identity is None or _identity(path) != identity:
        return False
    with suppress(FileNotFoundError):  # another one cleans up too
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    if path.suffix == ".opus":
        with suppress(OSError):  # not empty
            path.parent.rmdir()
    return True


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_ctime_ns


def safe_archives(volume: Volume, archives: Sequence[Archive]) -> list[Archive]:
    """The archives of the catalogue whose receipt says that all of them was read."""
    history = History(volume)
    done = [a for a in archives if a.refused is None and history.is_done(a)]
    told = (receipts.read(volume.receipt(archive.date, archive.name)) for archive in done)
    return [a for a, receipt in zip(done, told, strict=True) if receipt and receipt.status == "ok"]


def delete_at_source(source: Source, volume: Volume, archives: Sequence[Archive]) -> list[str]:
    """Delete archives from the source that were read whole, and are there still what they were.

    One that is damaged stays: it is the only thing from which more could be had one day.  The log
    names each that goes.  If interrupted, the next call deletes the rest.

    Args:
        source: Where they came from.
        volume: The shared volume, with their receipts.
        archives: The catalogue.

    Returns:
        The names of those that are gone. A source that doesn't answer is a warning.

    Raises:
        EarmarkError: the source's folder can't be changed.
    """
    done = safe_archives(volume, archives)
    deleted: list[str] = []
    try:
        for name in source.delete(Listed(a.name, a.bytes, a.modified_ns) for a in done):
            deleted.append(name)
            logger.info("%s: deleted from %s (%d of %d)", name, source, len(deleted), len(done))
    except SourceUnreachableError as error:
        logger.warning("%s; %d archives that are done stay there", error, len(done) - len(deleted))
    return deleted


def _leftovers_of_runs(
    volume: Volume,
    archives: Sequence[Archive],
    pending: Collection[str],
    retention: RetentionSettings,
    dates: Iterable[str],
) -> Iterator[Leftover]:
    # What is unpacked or half fetched of a pending archive stays: the next run goes on with it.
    known = {archive.name: archive for archive in archives}
    is_anything_erased = bool(Erased(volume).all())
    for path in _children(volume.incoming("")):
        archive = known.get(path.name)
        done = catalogue.is_done(archive, volume) if archive else _has_receipt(path, volume)
        if not done or _is_held(path.name, volume):
            continue
        if retention.archives == "delete":
            yield Leftover(path, path.name, "a fetched archive that is done")
        elif is_anything_erased and _holds_erased(path.name, volume):
            yield Leftover(path, path.name, "a fetched archive that holds an erased clip")
    for path in _children(volume.unpacked("")):
        needed = path.name in pending or final_name(path.name)
        if not needed and not _is_held(path.name, volume):
            yield Leftover(path, path.name, "unpacked, and not needed any more")
    for path in _children(volume.transfers):
        name = path.name.rpartition(".")[0]
        if name not in pending and not _is_held(name, volume):
            yield Leftover(path, name, "half fetched, and not needed any more")
    for path in _children(volume.checkpoints):
        name = path.name.rpartition(".")[0]
        if name not in pending and not _is_held(name, volume):
            yield Leftover(path, name, "half transcribed or classified, and not needed any more")
    for path in spill.abandoned(volume):
        yield Leftover(path, "", "of a question to the results that was killed")
    suffixes = {volume.incoming(""): "", volume.unpacked(""): ""}
    for date in dates:
        suffixes |= dict.fromkeys(_table_folders(volume, date), ".parquet")
        suffixes[volume.receipt(date, "").parent] = ".json"
    yield from _half_written(volume, suffixes)


def _abandoned(volume: Volume, archives: Sequence[Archive], days: float) -> Iterator[Leftover]:
    known = {archive.name for archive in archives}
    reason = "of an archive that is neither done nor at the source any more"
    for path in _children(volume.incoming("")):
        abandoned = path.name not in known and not _has_receipt(path, volume)
        # It has the time of the archive at the source; when it came, the inode tells.
        if (
            abandoned
            and time.time() - path.stat().st_ctime > days * _DAY
            and not _is_held(path.name, volume)
        ):
            yield Leftover(path, path.name, f"fetched, {reason}")
    for day in _children(volume.root / "audio"):
        date = day.name.removeprefix("date=")
        for path in _children(day):
            abandoned = path.name not in known and not volume.manifest(date, path.name).exists()
            if abandoned and _is_older(path, days) and not _is_held(path.name, volume):
                yield Leftover(path, path.name, f"encoded, {reason}")


def _half_written(volume: Volume, suffixes: Mapping[Path, str]) -> Iterator[Leftover]:
    """What isn't whole in folders where each archive has one thing, its name and a suffix."""
    for folder, suffix in sorted(suffixes.items()):
        for path in _children(folder):
            name = final_name(path.name)
            if name is None or not name.endswith(suffix):
                continue
            archive = name.removesuffix(suffix)
            if not _is_held(archive, volume):
                yield Leftover(path, archive, "half written")


def _expired_audio(
    volume: Volume, days: float | None, flagged_days: float | None
) -> Iterator[Leftover]:
    """Opus files past their age: of clips that every policy cleared, and of the others."""
    for folder in (folder for day in _children(volume.root / "audio") for folder in _children(day)):
        date, archive = folder.parent.name.removeprefix("date="), folder.name
        receipt = volume.receipt(date, archive)
        known = [age for age in (days, flagged_days) if age is not None]
        if not receipt.exists() or not _is_older(receipt, min(known)) or _is_held(archive, volume):
            continue
        try:
            kept = _worth_keeping(volume, date, archive)
        except EarmarkError as error:
            logger.warning("the audio of %s stays: %s", archive, error)
            continue
        for path in _children(folder):
            if path.suffix != ".opus" or not path.stem.isdecimal():
                continue
            flagged = int(path.stem) in kept
            age = flagged_days if flagged else days
            if age is not None and _is_older(receipt, age):
                what = "flagged audio" if flagged else "audio never flagged"
                yield Leftover(path, archive, f"{what}, older than {age:g} days")


def _expired_text(volume: Volume, days: float) -> Iterator[Leftover]:
    """Tables of transcripts and scores of archives whose receipts are past an age."""
    for path in sorted(volume.root.glob("processed/date=*/*.json")):
        date, archive = path.parent.name.removeprefix("date="), path.stem
        if not _is_older(path, days) or _is_held(archive, volume):
            continue
        for table in TABLES.values():
            if table.retention == "text":
                for file in table.files(volume, date, archive):
                    yield Leftover(file, archive, f"{table.name} older than {days:g} days")


def expire_rows(conninfo: str, days: float, dry_run: bool = False) -> int:
    """Delete clips, with their transcripts and scores, from the database.

    Clips that a person decided about stay as they are: decisions would mean nothing without them.

    Args:
        conninfo: As :func:`earmark.record.database.connection_string` returns it.
        days: Clips go whose archive was loaded before so many days.
        dry_run: Only count them.

    Returns:
        How many clips went, or would go.

    Raises:
        EarmarkError: the database can't be reached or lacks the schema.
    """
    gone = 0
    with connect(conninfo) as connection, connection.cursor() as cursor:
        require_schema(connection)
        cursor.execute(
            "SELECT id FROM archives WHERE loaded_at < now() - %s * INTERVAL '1 day'", [days]
        )
        verb = "SELECT FROM" if dry_run else "DELETE FROM"
        for (archive,) in cursor.fetchall():
            cursor.execute(
                f"{verb} audio_files af WHERE archive_id = %s AND status <> 'reviewed' "
                "AND NOT EXISTS (SELECT FROM review_decisions d WHERE d.audio_file_id = af.id)",
                [archive],
            )
            gone += cursor.rowcount
            connection.commit()  # one archive each: nobody waits long for a lock
    return gone


def _worth_keeping(volume: Volume, date: str, archive: str) -> set[int]:
    """Ordinals of the clips that some policy flagged, or could not decide about.

    A clip that the screen kept from the policies is none of them.
    """
    manifest = read_table(volume.manifest(date, archive), MANIFEST)
    kept: set[int] = set()
    tables = TABLES["classes"].files(volume, date, archive)
    if not tables:  # they are past their own age, and nobody knows any more
        return set(manifest["ordinal"].to_pylist())
    for path in tables:
        table = read_table(path, CLASSES)
        answered = pc.and_kleene(pc.equal(table["status"], "ok"), pc.invert(table["flagged"]))
        cleared = pc.or_kleene(pc.equal(table["status"], "unasked"), answered)
        kept.update(table.filter(pc.invert(pc.fill_null(cleared, False)))["ordinal"].to_pylist())
    return kept


def _table_folders(volume: Volume, date: str) -> set[Path]:
    """The folders of one day that hold one table per archive."""
    return {folder for table in TABLES.values() for folder in table.folders(volume, date)}


def _has_receipt(fetched: Path, volume: Volume) -> bool:
    """Whether there is a receipt later than a fetched archive."""
    days = (day.name.removeprefix("date=") for day in _children(volume.root / "processed"))
    receipts = (volume.receipt(date, fetched.name) for date in days)
    then = fetched.stat().st_mtime
    return any(path.exists() and path.stat().st_mtime >= then for path in receipts)


def _holds_erased(archive: str, volume: Volume) -> bool:
    """Whether an archive of a name held a clip that was erased before it was loaded."""
    days = (day.name.removeprefix("date=") for day in _children(volume.root / "processed"))
    told = (receipts.read(volume.receipt(date, archive)) for date in days)
    return any(receipt is not None and ERASED in receipt.skipped for receipt in told)


def _is_held(archive: str, volume: Volume) -> bool:
    return locks.is_held(volume.archive_lock(archive))


def _is_older(path: Path, days: float) -> bool:
    return time.time() - path.stat().st_mtime > days * _DAY


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
