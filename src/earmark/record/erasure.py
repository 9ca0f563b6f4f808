"""Erasing a clip: its audio, transcripts, scores and all that was made from them, everywhere.

A content may have been uploaded more than once; all its uploads go.  What stays is a line in a
log that says which clip was erased and when, and the content's hash, by which an upload that
comes later is left out too.  The source's archive and backups of the database are not within
reach: docs/operations.md says what to do about them.

Each step can be repeated: an erasure that was cut off is known and finished by the next one.
"""

import getpass
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from earmark import checkpoints, locks
from earmark.errors import EarmarkError
from earmark.files import partials_of, whole
from earmark.ingest.encode import ERASED
from earmark.record.database import connect, require_schema
from earmark.record.queue_files import read_queue, write_queue
from earmark.speech.deduplication import DeduplicationIndex
from earmark.tables import MANIFEST, TABLES, TRANSCRIPTS, read_table
from earmark.volume import Volume

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


class Erased(Container[str]):
    """SHA-256s of the contents that were erased and must not come back."""

    def __init__(self, volume: Volume) -> None:
        """Nothing is read yet."""
        self._folder = volume.erased

    def __contains__(self, sha256: object) -> bool:
        return isinstance(sha256, str) and (self._folder / sha256).exists()

    def begin(self, sha256: str, uploads: Sequence[Upload]) -> None:
        """Remember a content, and that these uploads of it are still to be erased.

        Raises:
            OSError: the volume can't be written.
        """
        self._write(sha256, json.dumps([asdict(each) for each in uploads]))

    def finish(self, sha256: str) -> None:
        """Remember that none is left.

        Raises:
            OSError: the volume can't be written.
        """
        self._write(sha256, "")

    def _write(self, sha256: str, text: str) -> None:
        with whole(self._folder / sha256) as partial:
            partial.write_text(text, encoding="utf-8")

    def all(self) -> set[str]:
        """All of them.

        Raises:
            OSError: the volume can't be read.
        """
        return {path.name for path in self._folder.glob("[0-9a-f]*")}

    def unfinished(self) -> Iterator[tuple[str, list[Upload]]]:
        """Erasures that were cut off: contents, and all uploads that were to be erased.

        Raises:
            OSError: the volume can't be read.
        """
        for path in sorted(self._folder.glob("[0-9a-f]*")):
            if text := path.read_bytes():
                yield path.name, msgspec.json.decode(text, type=list[Upload])


def clip_in_archive(
    volume: Volume, archive: str, ordinal: int, date: str | None = None
) -> tuple[str | None, list[Upload]]:
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
    return rows[ordinal]["source_sha256"], [Upload(archive, day, ordinal)]


def describe(volume: Volume, upload: Upload) -> dict[str, object]:
    """What a person should see of a clip before it is erased.

    Args:
        volume: The shared volume.
        upload: The clip.

    Returns:
        Its archive, date, ordinal, name in the archive, length in seconds, and the beginning of
        its transcript.

    Raises:
        EarmarkError: a table is damaged.
    """
    known: dict[str, object] = {"member": None, "duration_seconds": None, "transcript": None}
    manifest = volume.manifest(upload.date, upload.archive)
    here = pc.field("ordinal") == upload.ordinal
    if manifest.exists():
        for row in read_table(manifest, MANIFEST).filter(here).to_pylist():
            known |= {key: row[key] for key in ("member", "duration_seconds")}
    for path in TABLES["transcripts"].files(volume, upload.date, upload.archive):
        for row in read_table(path, TRANSCRIPTS).filter(here).to_pylist():
            known["transcript"] = (row["text"] or "")[:80]
    return asdict(upload) | known


def clip_in_database(conninfo: str, id: int) -> tuple[str | None, list[Upload]]:
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
    return row[0], [] if row[1] is None else [Upload(*row[1:])]


def find(
    volume: Volume, conninfo: str, sha256: str | None, known: Sequence[Upload]
) -> list[Upload]:
    """All uploads of a content.

    The database has no index by content, as one of a year's clips would take 20 GB and more for
    something that is asked a few times a year: it reads its table once, which can take minutes.

    Args:
        volume: The shared volume.
        conninfo: As :func:`earmark.record.database.connection_string` returns it.
        sha256: The content; without one, there is nothing to look for.
        known: Uploads of it that are known already.

    Raises:
        EarmarkError: a manifest is damaged, or the database can't be reached.
        OSError: the volume can't be read.
    """
    if sha256 is None:
        return list(known)
    found = {*known, *_elsewhere(volume, sha256)}
    for upload in tuple(found):  # more than once in one archive
        manifest = volume.manifest(upload.date, upload.archive)
        for ordinal in _ordinals_of(manifest, {sha256}):
            found.add(Upload(upload.archive, upload.date, ordinal))
    with connect(conninfo) as connection, connection.cursor() as cursor:
        require_schema(connection)
        cursor.execute(
            "SELECT a.name, a.date::text, f.ordinal FROM audio_files f "
            "JOIN archives a ON a.id = f.archive_id WHERE f.source_sha256 = %s",
            [sha256],
        )
        found |= {Upload(*row) for row in cursor.fetchall()}
    return sorted(found, key=astuple)


def _elsewhere(volume: Volume, sha256: str) -> Iterator[Upload]:
    """Uploads that the database may not know: those of archives not loaded yet, or expired."""
    for folder in volume.deduplication("").parent.glob("asr=*"):
        asr = folder.name.removeprefix("asr=")
        for place in DeduplicationIndex(volume, asr, "").find([sha256]).get(sha256, []):
            yield Upload(place.archive, place.date, place.ordinal)
    for path in TABLES["manifests"].files(volume):
        archive, date = path.stem, path.parent.name.removeprefix("date=")
        if not volume.receipt(date, archive).exists():
            for ordinal in _ordinals_of(path, {sha256}):
                yield Upload(archive, date, ordinal)


def _ordinals_of(manifest: Path, contents: Container[str]) -> set[int]:
    """Clips of a manifest that have some content; none if there is no manifest."""
    if not manifest.exists():
        return set()
    rows = read_table(manifest, MANIFEST).select(["ordinal", "source_sha256"]).to_pylist()
    return {row["ordinal"] for row in rows if row["source_sha256"] in contents}


def erase(
    volume: Volume, conninfo: str, sha256: str | None, uploads: Sequence[Upload]
) -> Iterator[str]:
    """Erase a content, one archive after the other.

    Waits for the stages that work on an archive; what they made meanwhile is erased too.

    Args:
        volume: The shared volume.
        conninfo: As :func:`earmark.record.database.connection_string` returns it.
        sha256: As :func:`find` returned it; uploads that come later are left out then.
        uploads: Likewise.

    Yields:
        The name of each archive that it is erased from.

    Raises:
        EarmarkError: a table is damaged, or the database can't be reached.
        OSError: the volume can't be written.
    """
    if sha256 is not None:
        Erased(volume).begin(sha256, uploads)
    by_archive: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    for upload in uploads:
        by_archive[upload.archive, upload.date].add(upload.ordinal)
    for (archive, date), ordinals in by_archive.items():
        with locks.exclusive(volume.archive_lock(archive), "erase"):
            known = ordinals
            if sha256 is not None:  # it may have been encoded anew since
                ordinals = _ordinals_of(volume.manifest(date, archive), {sha256}) or ordinals
            ids = _erase_rows(conninfo, sha256, archive, date, ordinals)
            audio = volume.audio(date, archive)
            _erase_from_reports(volume, ids, {audio / f"{n:06d}.opus" for n in known | ordinals})
            _erase_files(volume, archive, date, ordinals)
            _log(volume, archive, date, ordinals)
        yield archive
    if sha256 is not None:
        # Reviewed clips that a later load left without a place in their archive.
        _erase_from_reports(volume, _erase_detached(conninfo, sha256), ())
        Erased(volume).finish(sha256)


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
    contents = Erased(volume).all()
    if contents and (ordinals := _ordinals_of(volume.manifest(date, archive), contents)):
        _erase_files(volume, archive, date, ordinals)
        _log(volume, archive, date, ordinals)


def _erase_files(volume: Volume, archive: str, date: str, ordinals: Collection[int]) -> None:
    for ordinal in ordinals:
        (volume.audio(date, archive) / f"{ordinal:06d}.opus").unlink(missing_ok=True)
    checkpoints.remove(volume, archive)  # what was done is done again
    if volume.receipt(date, archive).exists():
        volume.incoming(archive).unlink(missing_ok=True)
        shutil.rmtree(volume.unpacked(archive), ignore_errors=True)
    # The manifest, by which an erasure finds its clips, comes last.
    for table in reversed(TABLES.values()):
        for folder in table.folders(volume, date):
            for path in partials_of(folder / f"{archive}.parquet"):
                path.unlink(missing_ok=True)
        for path in table.files(volume, date, archive):
            _rewrite(path, table.schema, _ERASING[table.erasing], ordinals)


def _erase_from_reports(volume: Volume, ids: Collection[int], audio: Collection[Path]) -> None:
    """Take clips out of the queues that were written beside the daily reports."""
    with locks.exclusive(volume.reports_lock, "erase"):
        for folder in volume.root.glob("reports/*"):
            for path in folder.glob(".queue.*.partial"):
                path.unlink(missing_ok=True)
            queue = read_queue(folder)
            left = [
                item
                for item in queue or ()
                if item.id not in ids and volume.root / (item.opus_path or "") not in audio
            ]
            if queue is None:  # it can't be read, so nobody knows what is in it
                for path in folder.glob("queue.*"):
                    path.unlink()
            elif len(left) < len(queue):
                write_queue(left, folder)


def _erase_rows(
    conninfo: str, sha256: str | None, archive: str, date: str, ordinals: Collection[int]
) -> set[int]:
    """Delete an archive's rows of a content; returns their ids."""
    with connect(conninfo) as connection, connection.cursor() as cursor:
        require_schema(connection)
        cursor.execute(
            "DELETE FROM audio_files f USING archives a WHERE a.id = f.archive_id "
            "AND a.name = %s AND a.date = %s AND (f.ordinal = ANY(%s) OR f.source_sha256 = %s) "
            "RETURNING f.id, f.status, f.duplicate_of",
            [archive, date, list(ordinals), sha256],
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
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        for ordinal in sorted(ordinals):
            file.write(f"{now} erased clip {ordinal} of {archive} of {date}, for {asked_by}\n")
        file.flush()
        os.fsync(file.fileno())


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
    """Replace a table; it stays as old as it was, and nothing is made again for it."""
    read_table(path, schema)  # says what is wrong with it
    table = pq.read_table(path, partitioning=None)
    changed = change(table, ordinals)
    if changed.equals(table):
        return
    then = path.stat()
    with whole(path) as partial:
        pq.write_table(changed, partial, compression="zstd")
        os.utime(partial, ns=(then.st_atime_ns, then.st_mtime_ns))
