"""Which archives exist at the source, and which of them are still to be done.

The catalogue is a file that only the driver (or ``earmark discover``) writes.  Each pending
archive has an entry of its own beside it, which is what its fetching depends on: an archive
that is replaced at the source gets a new entry and is done again.  It is told from a former one
of its name by size and time of change at the source, which its receipt repeats.
"""

import json
import logging
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import msgspec

from earmark import locks, receipts
from earmark.errors import EarmarkError
from earmark.files import whole
from earmark.ingest.again import requests
from earmark.ingest.source import Listed, Source, SourceUnreachableError
from earmark.receipts import Receipt
from earmark.settings import SourceSettings
from earmark.tables import TABLES
from earmark.volume import ARCHIVE_NAME, Volume
from earmark.wording import counted

logger = logging.getLogger(__name__)

#: Stages that begin with the archive itself.
_FROM_THE_ARCHIVE = ("fetch", "unpack", "encode")
#: The last moment that has a date of four digits, in ns since 1970.
_LAST_MOMENT = 253_402_300_799 * 10**9
#: No entry is older, in ns since 1970: what `earmark redo` puts out of date is of second 1.
_EARLIEST_ENTRY = 2 * 10**9


@dataclass(frozen=True)
class Archive:
    """An archive at the source.

    Attributes:
        name: Its whole file name.
        bytes: Its size.
        modified_ns: When it was last changed, in ns since 1970 (UTC).
        noted_at: When it was first seen with this size and time, in s since 1970, by the clock of
            who saw it; nothing but waiting and telling goes by it.
        entry_ns: The time of its entry, in ns since 1970: its own last change, or later than all
            that there was of a former archive of the name. What is older is of that one.
        confirmed: Whether a later poll saw it with this size and time too.
        refused: Why it is never fetched; None for a good one.
        received_ns: When the receipt that a poll found whole was last changed in any way, in ns
            since 1970; 0 if none did. It may have been deleted or damaged since.
    """

    name: str
    bytes: int
    modified_ns: int
    noted_at: float = 0.0
    entry_ns: int = 0
    confirmed: bool = False
    refused: str | None = None
    received_ns: int = 0

    def __post_init__(self) -> None:
        """Take the time of the entry as catalogues of 0.2 have it, which is that of noting."""
        if not self.entry_ns:
            object.__setattr__(self, "entry_ns", int(self.noted_at * 10**9))

    @cached_property
    def date(self) -> str:
        """The UTC day of its last change, which never differs between runs."""
        return datetime.fromtimestamp(self.modified_ns / 1e9, UTC).date().isoformat()

    def urgency(self, order: str) -> float:
        """Between 0 and 1: of two archives the more urgent by a ``source.order`` has more."""
        fraction = self.modified_ns / _LAST_MOMENT
        return fraction if order == "newest" else 1 - fraction

    @property
    def age_seconds(self) -> float:
        """Seconds since its last change, by this machine's clock."""
        return time.time() - self.modified_ns / 1e9

    @property
    def unchanged_seconds(self) -> float:
        """Seconds in which it didn't change, also where the source's clock is ahead of ours."""
        return max(self.age_seconds, time.time() - self.noted_at)


@dataclass(frozen=True)
class Plan:
    """What becomes of the pending archives.

    Attributes:
        now: To be done in this run, in this order.
        later: Beyond the batch.
        unsettled: Changed too recently, or not seen twice yet.
    """

    now: list[Archive] = field(default_factory=list)
    later: list[Archive] = field(default_factory=list)
    unsettled: list[Archive] = field(default_factory=list)


@dataclass(frozen=True)
class Catalogue:
    """What the last polls of the source told.

    Attributes:
        source: Where the archives are; None before the first poll.
        archives: All archives, oldest first.
        checked_at: When the source last answered, ISO 8601 in UTC; None before it ever did.
        problem: Why the last poll failed; None if it didn't.
    """

    source: str | None = None
    archives: list[Archive] = field(default_factory=list)
    checked_at: str | None = None
    problem: str | None = None

    def is_of(self, source: Source) -> bool:
        """Whether this source was polled, and not another one before the settings changed."""
        return self.source == str(source)


def discover(source: Source, volume: Volume, intake: SourceSettings) -> Catalogue:
    """Poll the source, once more after a while if all that is new was seen only once.

    Args:
        source: Where archives appear.
        volume: The shared volume.
        intake: How far apart two polls must be to confirm an archive.

    Returns:
        What :func:`poll` returned last.

    Raises:
        EarmarkError: as :func:`poll`.
        OSError: the volume cannot be written.
    """
    catalogue = poll(source, volume, intake.poll_seconds)
    if catalogue.problem or all(archive.confirmed for archive in catalogue.archives):
        return catalogue
    plan = plan_run(catalogue.archives, volume, intake)
    new = [a for a in plan.unsettled if a.unchanged_seconds >= intake.latency_minutes * 60]
    if plan.now or not new:
        return catalogue
    pause = max(archive.noted_at for archive in new) + intake.poll_seconds - time.time()
    pause = min(max(pause, 0.0), intake.poll_seconds)  # the clock may have been put back
    logger.info(
        "seen for the first time: %s; looking once more in %.0f seconds whether more is written "
        "(source.poll_seconds)", counted(len(new), "archive"), pause
    )  # fmt: skip
    time.sleep(pause)
    return poll(source, volume, intake.poll_seconds, catalogue)


def poll(
    source: Source,
    volume: Volume,
    poll_seconds: float,
    known: Catalogue | None = None,
    at_work: Collection[str] | None = None,
) -> Catalogue:
    """List the source once and bring the catalogue up to date.

    Every regular file counts, whatever its name ends in, except hidden ones (unfinished
    uploads).  An archive that was fetched and is not finished keeps its entry, even when the
    source has lost or replaced it meanwhile.  While a driver is at work, the catalogue and
    the entries it has planned with stay as they are.  A source that doesn't answer is a
    warning, and what is known of it goes on.

    Args:
        source: Where archives appear.
        volume: The shared volume.
        poll_seconds: An archive that an earlier poll saw at least so long ago, and that is
            the same now, is confirmed.
        known: The catalogue to go on from; the one on the volume by default. Of another source
            only what is fetched and not finished goes on.
        at_work: For the driver itself: the archives it has planned with, whose entries stay as
            they are. None for everybody else.

    Returns:
        The catalogue as it is now.

    Raises:
        EarmarkError: the source's folder does not exist or may not be read, or the catalogue
            on the volume is damaged, or is of another source while this one doesn't answer.
        OSError: the volume cannot be written.
    """
    known = known or read(volume)
    same = known.source is None or known.is_of(source)
    history = History(volume)
    try:
        listed = source.files()
    except EarmarkError as error:
        if not same:
            raise
        catalogue = replace(known, source=str(source), problem=_printable(str(error)))
        if not isinstance(error, SourceUnreachableError):
            _write(catalogue, volume, at_work, history)
            raise
        had = counted(len(known.archives), "known archive")
        logger.warning("%s; going on with %s", error, had)
    else:
        here = {
            archive.name: archive
            for archive in known.archives
            if history.is_pending(archive)
            and (is_here(archive, volume) or archive.name in (at_work or ()))
        }
        former = {archive.name: archive for archive in known.archives} if same else here
        found = {}
        for file in listed:
            if _is_hidden(file.name):
                continue
            if (old := _unchanged(file, former)) is not None:
                received_ns = history.received_ns(old)
                if received_ns != old.received_ns:
                    old = replace(old, received_ns=received_ns)
                found[file.name] = old
                continue
            archive = _assess(file)
            found[archive.name] = _note(archive, former.get(archive.name), volume, poll_seconds)
        found |= here
        catalogue = Catalogue(
            str(source),
            sorted(found.values(), key=lambda archive: (archive.modified_ns, archive.name)),
            datetime.now(UTC).isoformat(timespec="seconds"),
        )
    there = {archive.name for archive in catalogue.archives}
    again = list(_wanted_again(volume, history, there))
    if again:
        archives = [*catalogue.archives, *again]
        archives.sort(key=lambda archive: (archive.modified_ns, archive.name))
        catalogue = replace(catalogue, archives=archives)
    _write(catalogue, volume, at_work, history)
    return catalogue


def _wanted_again(volume: Volume, history: "History", there: Collection[str]) -> Iterator[Archive]:
    """Archives to be done again that the source doesn't have any more."""
    for request in requests(volume):
        day = datetime.fromisoformat(f"{request.date}T00:00:00+00:00")
        modified_ns = request.modified_ns or int(day.timestamp()) * 10**9
        archive = Archive(request.archive, request.bytes or 0, modified_ns, confirmed=True)
        if not request.begun or request.archive in there or not history.is_pending(archive):
            continue
        if request.stage in _FROM_THE_ARCHIVE and not is_fetched(
            volume, request.archive, request.bytes
        ):
            logger.warning(
                "%s of %s can't be done again from %s on: it is neither here nor at the source any "
                "more; `earmark redo '%s' --date %s` loads what there is of it",
                request.archive, request.date, request.stage, request.archive, request.date,
            )  # fmt: skip
            continue
        yield archive


def _is_hidden(name: str) -> bool:
    return name.startswith(".") and "/" not in name


def _printable(text: str) -> str:
    """Text in which bytes that are no UTF-8, of a name at the source, are written out."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _assess(file: Listed) -> Archive:
    """Take a file as an archive, or refuse it."""
    name = _printable(file.name)
    if not ARCHIVE_NAME.fullmatch(file.name) or file.name.endswith((" ", ".")):
        reason = (
            "a name begins with a letter, a digit or _, goes on with these, .+@- or spaces, does "
            "not end in a space or dot, and has at most 200 characters; rename it"
        )
        return Archive(name, file.bytes, _possible(file.modified_ns), refused=reason)
    if file.modified_ns != _possible(file.modified_ns):
        reason = "its time of change is not between 1970 and 9999; touch it"
        return Archive(name, file.bytes, _possible(file.modified_ns), refused=reason)
    return Archive(name, file.bytes, file.modified_ns)


def _unchanged(file: Listed, former: Mapping[str, Archive]) -> Archive | None:
    """What is known of a file, if there is nothing to add to it: most are long done."""
    known = former.get(file.name)
    if known is None or not known.confirmed or known.refused is not None:
        return None
    same = (known.bytes, known.modified_ns) == (file.bytes, file.modified_ns)
    return known if same else None


def _possible(modified_ns: int) -> int:
    return min(max(modified_ns, 0), _LAST_MOMENT)


def _note(archive: Archive, known: Archive | None, volume: Volume, poll_seconds: float) -> Archive:
    """Say when an archive was first seen as it is, and whether that was long enough ago."""
    now = time.time()
    if known and (known.bytes, known.modified_ns) == (archive.bytes, archive.modified_ns):
        waited = abs(now - known.noted_at)  # a clock may have been put back
        return replace(
            archive,
            noted_at=known.noted_at,
            entry_ns=known.entry_ns,
            confirmed=known.confirmed or waited >= poll_seconds,
        )
    # Where the catalogue was lost and the receipt was not, it has been done.
    if archive.refused is not None:
        return replace(archive, noted_at=now, confirmed=poll_seconds == 0)
    was_done = known is None and _has_receipt(archive, volume)
    return replace(
        archive,
        noted_at=0.0 if was_done else now,
        entry_ns=_as_changed(archive) if was_done else _later_than_all(archive, volume),
        confirmed=poll_seconds == 0,
    )


def _as_changed(archive: Archive) -> int:
    """When an archive was last changed, but later than what `earmark redo` puts out of date."""
    return max(archive.modified_ns, _EARLIEST_ENTRY)


def _later_than_all(archive: Archive, volume: Volume) -> int:
    """An archive's time of change, or one after all that stages made under its name and date.

    Snakemake goes by times. They come from the source and the volume's file system, never from
    this machine's clock, which may be put right between this poll and the fetch.
    """
    known = [volume.incoming(archive.name), volume.receipt(archive.date, archive.name)]
    if volume.manifest(archive.date, archive.name).exists():
        for table in TABLES.values():
            known += table.files(volume, archive.date, archive.name)
    times = [_as_changed(archive)]
    for path in known:
        with suppress(FileNotFoundError):
            times.append(path.stat().st_mtime_ns + 10**9)
    return max(times)


def _has_receipt(archive: Archive, volume: Volume) -> bool:
    """Whether there is a receipt of an archive of this name and size, later than its last change.

    What was deleted at the source and came again under its name is another archive.
    """
    path = volume.receipt(archive.date, archive.name)
    with suppress(FileNotFoundError):  # deleted, to be done again
        written_ns = path.stat().st_mtime_ns
        unnoted = replace(archive, entry_ns=archive.modified_ns)
        return _is_of(receipts.read(path), unnoted, written_ns)
    return False


def _write(
    catalogue: Catalogue, volume: Volume, at_work: Collection[str] | None, history: "History"
) -> None:
    entries = {
        volume.entry(archive.name): archive
        for archive in catalogue.archives
        if history.is_pending(archive)
    }
    with locks.exclusive(volume.catalogue_lock, "poll"):
        _write_alone(catalogue, volume, at_work, entries)


def _write_alone(
    catalogue: Catalogue,
    volume: Volume,
    at_work: Collection[str] | None,
    entries: Mapping[Path, Archive],
) -> None:
    # A driver at work has planned with what is there: only what is new is added.
    add_only = at_work is None and locks.is_held(volume.driver_lock)
    planned = {volume.entry(name) for name in at_work or ()}
    folder = volume.entry("").parent
    for path in folder.iterdir() if folder.exists() and not add_only else ():
        if path not in entries and path not in planned:
            path.unlink()  # half-written ones too: nobody else writes here now
    for path, archive in entries.items():
        facts = asdict(archive)
        del facts["confirmed"], facts["refused"], facts["received_ns"]
        text = json.dumps(facts, indent=1)
        may_change = (not add_only and path not in planned) or not _is_entry(path)
        if not path.exists() or (may_change and path.read_bytes() != text.encode()):
            with whole(path, keep_name=False) as partial:  # the next poll makes it again
                partial.write_text(text, encoding="utf-8")
                # Snakemake compares times: an entry is as old as what it tells.
                os.utime(partial, ns=(archive.entry_ns, archive.entry_ns))
    if add_only:
        return
    with whole(_file(volume)) as partial:
        partial.write_bytes(msgspec.json.encode(catalogue))


def read(volume: Volume) -> Catalogue:
    """The catalogue as :func:`poll` left it; an empty one if there was no poll yet.

    Of one that is damaged, the pending archives are known by their entries, and what is done by
    its receipts; the next poll writes it anew.
    """
    path = _file(volume)
    try:
        return msgspec.json.decode(path.read_bytes(), type=Catalogue)
    except FileNotFoundError:
        return Catalogue()
    except ValueError as error:
        logger.warning("%s is damaged (%s); the next poll of the source makes it anew", path, error)
    pending = []
    for entry in _entries(volume.entry("").parent):
        with suppress(EarmarkError):
            pending.append(read_entry(Path(entry)))
    return Catalogue(archives=sorted(pending, key=lambda each: (each.modified_ns, each.name)))


def _is_entry(path: Path) -> bool:
    try:
        read_entry(path)
    except EarmarkError:
        return False
    return True


def read_entry(path: Path) -> Archive:
    """The entry of one pending archive, as :func:`poll` wrote it.

    Raises:
        EarmarkError: it is not there, or damaged.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Archive)
    except FileNotFoundError as error:
        raise EarmarkError(f"there is no entry {path}; run `earmark discover`") from error
    except ValueError as error:
        raise EarmarkError(
            f"the entry {path} is damaged ({error}); the next poll of the source makes it anew"
        ) from error


def modified_ns(volume: Volume, archive: str, date: str) -> int | None:
    """When an archive was last changed, by its entry; None if there is none of this date."""
    with suppress(EarmarkError):
        entry = read_entry(volume.entry(archive))
        return entry.modified_ns if entry.date == date else None
    return None


class History:
    """What became of archives, as the volume tells at one moment.

    Answers as :func:`is_pending` and :func:`is_done` do, for many archives: it reads folders
    once instead of looking for two files per archive.

    Args:
        volume: The shared volume.
    """

    def __init__(self, volume: Volume) -> None:
        processed = volume.root / "processed"
        self._receipts = {
            day.name: {receipt.name: receipt for receipt in _entries(processed / day.name)}
            for day in _entries(processed)
        }
        quarantined = _entries(volume.quarantine("").parent)
        self._quarantined = {entry.name.removesuffix(".json") for entry in quarantined}

    def is_pending(self, archive: Archive) -> bool:
        """Whether an archive is still to be done."""
        if archive.refused is not None or self.is_quarantined(archive):
            return False
        return not self.is_done(archive)

    def is_quarantined(self, archive: Archive) -> bool:
        """Whether an archive waits for a person to release it."""
        return archive.name in self._quarantined

    def is_done(self, archive: Archive) -> bool:
        """Whether there is a whole receipt of this archive."""
        return self.received_ns(archive) > 0

    def received_ns(self, archive: Archive) -> int:
        """When this archive's receipt last changed, in ns since 1970; 0 if there is no whole one.

        A receipt that an earlier poll found whole is not read again unless it changed since: by
        st_ctime, which nobody can set, as a file may be damaged and be as old as before.
        """
        receipt = self._receipts.get(f"date={archive.date}", {}).get(f"{archive.name}.json")
        if receipt is None:
            return 0
        try:
            status = receipt.stat()  # asked of the system once
        except FileNotFoundError:
            return 0
        changed_ns = status.st_ctime_ns
        if changed_ns == archive.received_ns:
            return changed_ns
        found = receipts.read(Path(receipt))
        return changed_ns if _is_of(found, archive, status.st_mtime_ns) else 0


def _is_of(receipt: Receipt | None, archive: Archive, written_ns: int) -> bool:
    """Whether a receipt is of this archive, and not of a former one of its name and date."""
    if receipt is None or (receipt.bytes and archive.bytes and receipt.bytes != archive.bytes):
        return False
    if receipt.modified_ns is not None:
        return receipt.modified_ns == archive.modified_ns
    return written_ns >= archive.entry_ns  # written by 0.2


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return []


def is_pending(archive: Archive, volume: Volume) -> bool:
    """Whether an archive is still to be done: neither finished nor quarantined nor refused."""
    if archive.refused is not None or volume.quarantine(archive.name).exists():
        return False
    return not is_done(archive, volume)


def is_here(archive: Archive, volume: Volume) -> bool:
    """Whether this archive, and not another one of the same name, lies in ``incoming/``."""
    try:
        is_later = volume.incoming(archive.name).stat().st_mtime_ns >= archive.entry_ns
    except FileNotFoundError:
        return False
    return is_later and is_fetched(volume, archive.name, archive.bytes)


def is_fetched(volume: Volume, archive: str, size: int | None) -> bool:
    """Whether an archive of a name and size lies in ``incoming/``; of any size if none is known."""
    try:
        return volume.incoming(archive).stat().st_size == size or not size
    except FileNotFoundError:
        return False


def is_done(archive: Archive, volume: Volume) -> bool:
    """Whether there is a receipt of this archive, and not of another one of the same name."""
    receipt = volume.receipt(archive.date, archive.name)
    try:
        written_ns = receipt.stat().st_mtime_ns
    except FileNotFoundError:
        return False
    return _is_of(receipts.read(receipt), archive, written_ns)


def plan_run(archives: Sequence[Archive], volume: Volume, intake: SourceSettings) -> Plan:
    """Which archives are to be done now, and which are left for later.

    Args:
        archives: Those of the catalogue.
        volume: The shared volume.
        intake: Which are taken.
    """
    plan = Plan()
    history = History(volume)
    ordered = sorted(
        filter(history.is_pending, archives),
        key=lambda archive: (archive.modified_ns, archive.name),
        reverse=intake.order == "newest",
    )
    taken = 0
    for archive in ordered:
        here = is_here(archive, volume)
        settled = archive.confirmed and archive.unchanged_seconds >= intake.latency_minutes * 60
        if not settled and not here:
            plan.unsettled.append(archive)
        elif here or taken < intake.batch:
            plan.now.append(archive)
            taken += not here
        else:
            plan.later.append(archive)
    return plan


def _file(volume: Volume) -> Path:
    return volume.state / "catalogue.json"
