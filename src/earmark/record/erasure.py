"""Erasing a clip: its audio, transcripts, scores and all that was made from them, everywhere.

A content may have been uploaded more than once; all its uploads go.  It is known by its SHA-256:
a place where it once was, which an index or the database may still name, is only where it is
looked for.  What stays is a line in a log that says which clip was erased and when, and the
content's hash, by which an upload that comes later is left out too.  The source's archive and
backups of the database are not within reach: docs/operations.md says what to do about them.

Each step can be repeated: an erasure that was cut off is known and finished by the next one.
"""

import getpass
import logging
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from earmark import checkpoints, locks
from earmark.errors import EarmarkError
from earmark.files import aside_path, make_folder, partials_of, sync, whole
from earmark.ingest import loose_files
from earmark.ingest.catalogue import is_done, read_entry
from earmark.ingest.encode import ERASED
from earmark.record import database, spill
from earmark.record.database import connect, require_schema
from earmark.record.queue_files import read_queue, write_queue
from earmark.speech.deduplication import DeduplicationIndex
from earmark.tables import MANIFEST, TABLES, TRANSCRIPTS, DamagedError, read_table, store
from earmark.volume import Volume

logger = logging.getLogger(__name__)

#: Name of the log, which no age ends.
ERASURES = "erasures.log"
#: What is left of a row of a manifest, beside archive, ordinal and size.
_LEFT: Mapping[str, object] = {
    "member": "",
    "status": "skipped",
    "error": ERASED,
    "selected": False,
    "inclusion_probability": 0.0,
}
_KEPT = ("archive", "ordinal", "source_bytes")
#: What a list says of clips.
_CUTS = str(Volume(Path()).cuts / "*.json")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Upload:
    """One clip of one archive.

    Attributes:
        archive: The archive's name.
        date: Its date, ``YYYY-MM-DD``.
        ordinal: The clip's position.
    """

    archive: str
    date: str
    ordinal: int


class Found(msgspec.Struct, frozen=True):
    """Where a content is.

    Attributes:
        uploads: The clips that have it now, by their manifest or by the database.
        formerly: Places where it once was, and another content is by now.
        ids: Rows of ``audio_files``, by which the queues beside the reports name it.
    """

    uploads: list[Upload]
    formerly: list[Upload] = []
    ids: list[int] = []


class Erased(Container[str]):
    """SHA-256s of the contents that were erased and must not come back."""

    def __init__(self, volume: Volume) -> None:
        """Nothing is read yet."""
        self._folder = volume.erased

    def __contains__(self, sha256: object) -> bool:
        return isinstance(sha256, str) and (self._folder / sha256).exists()

    def begin(self, sha256: str, found: Found) -> None:
        """Remember a content, and what of it is still to be erased.

        Raises:
            OSError: the volume can't be written.
        """
        self._write(sha256, msgspec.json.encode(found))

    def finish(self, sha256: str) -> None:
        """Remember that none is left.

        Raises:
            OSError: the volume can't be written.
        """
        self._write(sha256, msgspec.json.encode(None))

    def _write(self, sha256: str, content: bytes) -> None:
        with whole(self._folder / sha256) as partial:
            partial.write_bytes(content)

    def all(self) -> set[str]:
        """All of them.

        Raises:
            OSError: the volume can't be read.
        """
        return {path.name for path in self._folder.glob("*") if _SHA256.fullmatch(path.name)}

    def unfinished(self) -> Iterator[tuple[str, Found]]:
        """Erasures that were cut off: contents, and what was to be erased.

        Of one whose file is damaged, or empty, nothing but the content is known.

        Raises:
            OSError: the volume can't be read.
        """
        for sha256 in sorted(self.all()):
            try:
                begun = msgspec.json.decode((self._folder / sha256).read_bytes(), type=Found | None)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                logger.warning("%s is damaged (%s)", self._folder / sha256, error)
                begun = Found([])
            if begun is not None:
                yield sha256, begun


def clip_in_archive(
    volume: Volume, archive: str, ordinal: int, date: str | None = None
) -> tuple[str | None, Found]:
    """The content of a clip, by the manifest of its archive.

    Args:
        volume: The shared volume.
        archive: The archive's name.
        ordinal: The clip's position in it.
        date: The archive's date, if there are several of the name.

    Returns:
        The content's SHA-256, None if the clip has none (it could not be read); and the clip.

    Raises:
        EarmarkError: there is no such clip, or several archives have the name.
    """
    found = TABLES["manifests"].files(volume, date, archive)
    if not found:
        raise EarmarkError(
            f"there is no manifest of {archive}" + (f" of {date}" if date else "") + f" in "
            f"{volume.root}; `earmark queue` and `earmark analyse` name archives as a whole"
        )
    if len(found) > 1:
        days = ", ".join(path.parent.name.removeprefix("date=") for path in found)
        raise EarmarkError(f"there are archives {archive} of several days: {days}; give --date")
    day = found[0].parent.name.removeprefix("date=")
    rows = {row["ordinal"]: row for row in read_table(found[0], MANIFEST).to_pylist()}
    if ordinal not in rows:
        raise EarmarkError(f"{archive} of {day} has no clip {ordinal}; it has {len(rows)} members")
    if rows[ordinal]["error"] == ERASED:
        raise EarmarkError(
            f"clip {ordinal} of {archive} of {day} was erased before; see logs/{ERASURES}"
        )
    return rows[ordinal]["source_sha256"], Found([Upload(archive, day, ordinal)])


def describe(volume: Volume, sha256: str | None, upload: Upload) -> dict[str, object]:
    """What a person should see of a clip before it is erased.

    Args:
        volume: The shared volume.
        sha256: The content.
        upload: The clip.

    Returns:
        Its archive, date and ordinal; the content's hash; its name in the archive, its length in
        seconds and the beginning of its transcript, as far as the volume has them: what another
        content has in its place is not told.

    Raises:
        EarmarkError: a table is damaged.
    """
    known: dict[str, object] = {"member": None, "duration_seconds": None, "transcript": None}
    manifest = volume.manifest(upload.date, upload.archive)
    here = pc.field("ordinal") == upload.ordinal
    if upload.ordinal in _ordinals_of(manifest, {sha256}):
        for row in read_table(manifest, MANIFEST).filter(here).to_pylist():
            known |= {key: row[key] for key in ("member", "duration_seconds")}
        for path in TABLES["transcripts"].files(volume, upload.date, upload.archive):
            heard = _readable(path, TRANSCRIPTS)
            for row in heard.filter(here).to_pylist() if heard else ():
                known["transcript"] = (row["text"] or "")[:80]
    return asdict(upload) | {"sha256": sha256} | known


def clip_in_database(conninfo: str, id: int) -> tuple[str | None, Found]:
    """The content of a clip, by its row.

    Args:
        conninfo: As :func:`earmark.record.database.connection_string` returns it.
        id: Of its row in ``audio_files``.

    Returns:
        As :func:`clip_in_archive`; no clip for a row that has no place in an archive any more.

    Raises:
        EarmarkError: there is no such row, or the database can't be reached.
    """
    with connect(conninfo) as connection, connection.cursor() as cursor:
        require_schema(connection)
        cursor.execute(
            "SELECT f.source_sha256, a.name, a.date::text, f.ordinal FROM audio_files f "
            "LEFT JOIN archives a ON a.id = f.archive_id WHERE f.id = %s",
            [id],
        )
        row = cursor.fetchone()
    if row is None:
        raise EarmarkError(f"there is no clip {id} in audio_files")
    return row[0], Found([] if row[1] is None else [Upload(*row[1:])])


def find(volume: Volume, conninfo: str, sha256: str | None, known: Found) -> Found:
    """All uploads of a content.

    The database has no index by content, as one of a year's clips would take 20 GB and more for
    something that is asked a few times a year: it reads its table once, which can take minutes.

    Args:
        volume: The shared volume.
        conninfo: As :func:`earmark.record.database.connection_string` returns it.
        sha256: The content; without one, there is nothing to look for.
        known: What is known of it already.

    Raises:
        EarmarkError: a manifest is damaged, or the database can't be reached.
        OSError: the volume can't be read.
    """
    if sha256 is None:
        return known
    with connect(conninfo) as connection, connection.cursor() as cursor:
        require_schema(connection)
        cursor.execute(
            "SELECT f.id, a.name, a.date::text, f.ordinal FROM audio_files f "
            "LEFT JOIN archives a ON a.id = f.archive_id WHERE f.source_sha256 = %s",
            [sha256],
        )
        rows = cursor.fetchall()
    loaded = {Upload(*place) for _, *place in rows if place[0] is not None}
    places = {*known.uploads, *known.formerly, *loaded, *_elsewhere(volume, sha256)}
    there = {
        Upload(archive, date, ordinal)
        for archive, date in {(place.archive, place.date) for place in places}
        for ordinal in _ordinals_of(volume.manifest(date, archive), {sha256})
    }
    uploads = loaded | there
    return Found(
        sorted(uploads, key=astuple),
        sorted(places - uploads, key=astuple),
        sorted({*known.ids, *(id for id, *_ in rows)}),
    )


def _elsewhere(volume: Volume, sha256: str) -> Iterator[Upload]:
    """Places that the database may not know: of archives not loaded yet, replaced or expired."""
    for folder in volume.deduplication("").parent.glob("asr=*"):
        asr = folder.name.removeprefix("asr=")
        for place in DeduplicationIndex(volume, asr, "").find([sha256]).get(sha256, []):
            yield Upload(place.archive, place.date, place.ordinal)
    for path in TABLES["manifests"].files(volume):
        archive, date = path.stem, path.parent.name.removeprefix("date=")
        if not volume.receipt(date, archive).exists():
            for ordinal in _ordinals_of(path, {sha256}):
                yield Upload(archive, date, ordinal)


def _readable(path: Path, schema: pa.Schema) -> pa.Table | None:
    """A table; None if there is none, or one that nobody can read any more."""
    if not path.exists():
        return None
    try:
        return read_table(path, schema)
    except DamagedError as error:
        logger.warning("%s", error)
        return None


def _ordinals_of(manifest: Path, contents: Container[str | None]) -> set[int]:
    """Clips of a manifest that have some content; none if it tells nothing."""
    if (table := _readable(manifest, MANIFEST)) is None:
        return set()
    rows = table.select(["ordinal", "source_sha256"]).to_pylist()
    return {row["ordinal"] for row in rows if row["source_sha256"] in contents}


def erase(volume: Volume, conninfo: str, sha256: str | None, found: Found) -> Iterator[str]:
    """Erase a content, one archive after the other.

    Waits for the stages that work on an archive; what they made meanwhile is erased too.

    Args:
        volume: The shared volume.
        conninfo: As :func:`earmark.record.database.connection_string` returns it.
        sha256: The content; None for a clip that has none, and is known by its place alone.
        found: As :func:`find` returned it.

    Yields:
        The name of each archive that it is erased from.

    Raises:
        EarmarkError: a table is damaged, or the database can't be reached.
        OSError: the volume can't be written.
    """
    if sha256 is not None:
        Erased(volume).begin(sha256, found)
    make_folder(volume.state)
    volume.forgetting.touch()
    patterns = [*(table.pattern() for table in TABLES.values()), _CUTS]
    for pattern in patterns:  # copies of damaged files may be of any archive, and hold it
        for path in volume.root.glob(str(aside_path(Path(pattern)))):
            path.unlink(missing_ok=True)
            sync(path.parent)
    # Nobody knows which of them are of its words; scores are made again when they are asked for.
    for folder in (volume.evaluation_scores, *spill.abandoned(volume)):
        shutil.rmtree(folder, ignore_errors=True)
    places: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    for place in (*found.uploads, *found.formerly):
        places[place.archive, place.date].add(place.ordinal)
    for (archive, date), once in places.items():
        with locks.exclusive(volume.archive_lock(archive), "erase"):
            manifest = volume.manifest(date, archive)
            now = _ordinals_of(manifest, {sha256})
            if sha256 is None:
                now &= once
            if _readable(manifest, MANIFEST) is None:  # nobody knows better
                now = once
            ids = _erase_rows(conninfo, sha256, archive, date, once)
            _erase_from_reports(
                volume, conninfo, {*ids, *found.ids}, _audio(volume, archive, date, now),
                _audio(volume, archive, date, once - now),
            )  # fmt: skip
            _erase_files(volume, archive, date, now, once - now)
            gone = now | (once & _blank_in(manifest))
            _log(volume, archive, date, gone)
        if gone or ids:
            yield archive
    if sha256 is not None:
        # Reviewed clips that a later load left without a place in their archive.
        detached = _erase_detached(conninfo, sha256)
        _erase_from_reports(volume, conninfo, {*detached, *found.ids}, (), ())
        volume.forgetting.touch()
        Erased(volume).finish(sha256)


def finish_unfinished(volume: Volume, conninfo: str) -> int:
    """Erase what is left of contents whose erasure was cut off.

    Args:
        volume: The shared volume.
        conninfo: As :func:`earmark.record.database.connection_string` returns it.

    Returns:
        How many there were.

    Raises:
        EarmarkError: as :func:`erase`.
        OSError: the volume can't be read or written.
    """
    unfinished = list(Erased(volume).unfinished())
    problems: list[EarmarkError | OSError] = []
    for sha256, begun in unfinished:
        try:
            for archive in erase(volume, conninfo, sha256, find(volume, conninfo, sha256, begun)):
                logger.info("finished what was cut off: erased from %s", archive)
        except (EarmarkError, OSError) as error:  # the others can be finished
            problems.append(error)
    if problems:
        raise problems[0]
    return len(unfinished)


def forget(volume: Volume, conninfo: str, config_url: str | None) -> None:
    """Have the database forget what was erased, if it has not done so yet.

    Args:
        volume: The shared volume.
        conninfo: As :func:`earmark.record.database.connection_string` returns it.
        config_url: As it takes it.

    Raises:
        OSError: the volume can't be written.
    """
    due = volume.forgetting
    with suppress(FileNotFoundError):
        noted = due.stat().st_mtime_ns
        # Another erasure may have ended meanwhile, for which that was too early.
        if database.forget_deleted(conninfo, config_url) and due.stat().st_mtime_ns == noted:
            due.unlink()


def came_back(volume: Volume, conninfo: str) -> Iterator[str]:
    """Erase what the database holds of contents that were erased, as a restored backup may.

    Args:
        volume: The shared volume.
        conninfo: As :func:`earmark.record.database.connection_string` returns it.

    Yields:
        The SHA-256 of each content, once it is gone.

    Raises:
        EarmarkError: as :func:`erase`.
        OSError: the volume can't be written.
    """
    with connect(conninfo) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT DISTINCT source_sha256 FROM audio_files WHERE source_sha256 = ANY(%s)",
            [sorted(Erased(volume).all())],
        )
        held = sorted(sha256 for (sha256,) in cursor.fetchall())
    for sha256 in held:
        for _ in erase(volume, conninfo, sha256, find(volume, conninfo, sha256, Found([]))):
            pass
        yield sha256


def _audio(volume: Volume, archive: str, date: str, ordinals: Iterable[int]) -> set[Path]:
    return {volume.audio(date, archive) / f"{ordinal:06d}.opus" for ordinal in ordinals}


def _blank_in(manifest: Path) -> set[int]:
    """Clips that were erased before, perhaps by an erasure that was cut off."""
    if (table := _readable(manifest, MANIFEST)) is None:
        return set()
    rows = table.select(["ordinal", "error"]).to_pylist()
    return {row["ordinal"] for row in rows if row["error"] == ERASED}


def withhold(volume: Volume, archive: str, date: str) -> None:
    """Erase from an archive's files what was erased elsewhere since it was encoded.

    For a stage that is about to read them and holds the archive's lock.

    Args:
        volume: The shared volume.
        archive: The archive's name.
        date: Its date, ``YYYY-MM-DD``.

    Raises:
        EarmarkError: a table is damaged.
        OSError: the volume can't be read or written.
    """
    contents, manifest = Erased(volume).all(), volume.manifest(date, archive)
    if not contents:
        return
    if ordinals := _ordinals_of(manifest, contents):
        _erase_files(volume, archive, date, ordinals)
        _log(volume, archive, date, ordinals)
    # Of what was left out when it was encoded, a list may tell.
    loose_files.forget(volume, archive, _blank_in(manifest))


def _erase_files(
    volume: Volume,
    archive: str,
    date: str,
    ordinals: Collection[int],
    formerly: Collection[int] = (),
) -> None:
    """Erase clips from an archive's files.

    Args:
        volume: The shared volume.
        archive: The archive's name.
        date: Its date.
        ordinals: Clips that have the content.
        formerly: Clips that had it before the manifest was made anew. Tables that are older than
            the manifest still tell of them.
    """
    if not ordinals and not formerly:
        return
    for path in _audio(volume, archive, date, ordinals):
        path.unlink(missing_ok=True)
    if volume.audio(date, archive).exists():
        sync(volume.audio(date, archive))
    checkpoints.remove(volume, archive)  # what was done is done again
    loose_files.forget(volume, archive, ordinals)
    if ordinals and _is_fetched(volume, archive, date):
        volume.incoming(archive).unlink(missing_ok=True)
        shutil.rmtree(volume.unpacked(archive), ignore_errors=True)
        if volume.incoming("").is_dir():
            sync(volume.incoming(""))
    manifest = volume.manifest(date, archive)
    made_at = manifest.stat().st_mtime_ns if manifest.exists() else 0
    # The manifest, by which an erasure finds its clips, comes last.
    for table in reversed(TABLES.values()):
        for folder in table.folders(volume, date):
            for path in partials_of(folder / f"{archive}.parquet"):
                path.unlink(missing_ok=True)
        for path in table.files(volume, date, archive):
            is_older = path.stat().st_mtime_ns < made_at
            gone = {*ordinals, *formerly} if is_older else set(ordinals)
            _rewrite(path, table.schema, _ERASING[table.erasing], gone)


def _is_fetched(volume: Volume, archive: str, date: str) -> bool:
    """Whether what is fetched under an archive's name is this archive, and it is done.

    An archive of the name that is still to be done has an entry; otherwise it is the one that was
    done last.
    """
    receipt = volume.receipt(date, archive)
    if not receipt.exists():
        return False
    entry = volume.entry(archive)
    try:
        return not entry.exists() or (
            read_entry(entry).date == date and is_done(read_entry(entry), volume)
        )
    except EarmarkError as error:
        logger.warning("%s", error)
        return False


def _erase_from_reports(
    volume: Volume,
    conninfo: str,
    ids: Collection[int],
    audio: Collection[Path],
    once: Collection[Path],
) -> None:
    """Take clips out of the queues that were written beside the daily reports.

    Args:
        volume: The shared volume.
        conninfo: As :func:`earmark.record.database.connection_string` returns it.
        ids: Of their rows.
        audio: Of the clips.
        once: Audio files that were of the content before their archive was encoded anew. What a
            queue says of them goes if the database has no such clip any more.
    """
    with locks.exclusive(volume.reports_lock, "erase"):
        for folder in volume.root.glob("reports/*"):
            for name in ("queue.csv", "queue.parquet"):
                for path in partials_of(folder / name):
                    path.unlink(missing_ok=True)
            queue = read_queue(folder)
            if queue is None:  # it can't be read, so nobody knows what is in it
                for path in folder.glob("queue.*"):
                    path.unlink()
                continue
            at = {item.id: volume.root / (item.opus_path or "") for item in queue}
            gone = {id for id, path in at.items() if id in ids or path in audio}
            unsure = {id for id, path in at.items() if path in once}
            gone |= unsure - (_rows_of(conninfo, unsure) if unsure else set())
            if gone:
                write_queue([item for item in queue if item.id not in gone], folder)


def _rows_of(conninfo: str, ids: Collection[int]) -> set[int]:
    with connect(conninfo) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT id FROM audio_files WHERE id = ANY(%s)", [list(ids)])
        return {id for (id,) in cursor.fetchall()}


def _erase_rows(
    conninfo: str, sha256: str | None, archive: str, date: str, ordinals: Collection[int]
) -> set[int]:
    """Delete an archive's rows of a content, or of clips that have none; returns their ids."""
    with connect(conninfo) as connection, connection.cursor() as cursor:
        require_schema(connection)
        cursor.execute(
            "DELETE FROM audio_files f USING archives a WHERE a.id = f.archive_id "
            "AND a.name = %s AND a.date = %s AND f.source_sha256 IS NOT DISTINCT FROM %s "
            "AND (%s OR f.ordinal = ANY(%s)) RETURNING f.id, f.status, f.duplicate_of",
            [archive, date, sha256, sha256 is not None, list(ordinals)],
        )
        gone = cursor.fetchall()
        failed = sum(status == "failed" for _, status, _ in gone)
        cursor.execute(
            "UPDATE archives SET ok = ok - %s, failed = failed - %s, skipped = skipped + %s, "
            "duplicates = duplicates - %s, skipped_reasons = skipped_reasons || CASE WHEN %s > 0 "
            "THEN jsonb_build_object(%s, COALESCE((skipped_reasons ->> %s)::int, 0) + %s) "
            "ELSE '{}' END WHERE name = %s AND date = %s",
            [
                *(len(gone) - failed, failed, len(gone)),
                sum(first is not None for *_, first in gone),
                *(len(gone), ERASED, ERASED, len(gone)),
                *(archive, date),
            ],
        )
        return {id for id, *_ in gone}


def _erase_detached(conninfo: str, sha256: str) -> set[int]:
    with connect(conninfo) as connection, connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM audio_files WHERE archive_id IS NULL AND source_sha256 = %s RETURNING id",
            [sha256],
        )
        return {id for (id,) in cursor.fetchall()}


def _log(volume: Volume, archive: str, date: str, ordinals: Collection[int]) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    # Through sudo, the service user is who runs it and not who asked.
    asked_by = os.environ.get("SUDO_USER") or getpass.getuser()
    path = volume.root / "logs" / ERASURES
    make_folder(path.parent)
    with path.open("a", encoding="utf-8") as file:
        for ordinal in sorted(ordinals):
            file.write(f"{now} erased clip {ordinal} of {archive} of {date}, for {asked_by}\n")
        file.flush()
        os.fsync(file.fileno())
    sync(path.parent)


def _blank(table: pa.Table, ordinals: Collection[int]) -> pa.Table:
    """A manifest in which nothing is told of some clips but that they were there."""
    rows = [
        row
        if row["ordinal"] not in ordinals
        else {name: _LEFT.get(name, row[name] if name in _KEPT else None) for name in row}
        for row in table.to_pylist()
    ]
    return pa.Table.from_pylist(rows, schema=table.schema)


def _without(table: pa.Table, ordinals: Collection[int]) -> pa.Table:
    gone = pc.is_in(table["ordinal"], value_set=pa.array(list(ordinals), pa.int32()))
    return table.filter(pc.invert(gone))


_ERASING = {"blank": _blank, "drop": _without}


def _rewrite(
    path: Path,
    schema: pa.Schema,
    change: Callable[[pa.Table, Collection[int]], pa.Table],
    ordinals: Collection[int],
) -> None:
    """Replace a table; it stays as old as it was, and nothing is made again for it.

    One that nobody can read goes as a whole, since it may hold the clips.
    """
    if _readable(path, schema) is None:
        path.unlink()
        sync(path.parent)
        logger.warning("%s is removed; `earmark doctor` says how to make it anew", path)
        return
    table = pq.read_table(path, partitioning=None)
    changed = change(table, ordinals)
    if changed.equals(table):
        return
    then = path.stat()
    with whole(path) as partial:
        store(changed, partial)
        os.utime(partial, ns=(then.st_atime_ns, then.st_mtime_ns))
