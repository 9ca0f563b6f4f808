"""Erasing a clip: its audio, transcripts, scores and all that was made from them, everywhere.

A content may have been uploaded more than once; all its uploads go.  What stays is a line in a
log that says which clip was erased and when, and the content's hash, by which an upload that
comes later is left out too.  The source's archive and backups of the database are not within
reach: docs/operations.md says what to do about them.

Each step can be repeated: an erasure that was cut off is known and finished by the next one.
"""

import csv
import getpass
import glob
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from earmark import locks
from earmark.database import connect, require_schema
from earmark.encoding import ERASED
from earmark.errors import EarmarkError
from earmark.files import whole
from earmark.tables import MANIFEST, read_table
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
        id: Of its row in ``audio_files``; None if it has none.
    """

    archive: str
    date: str
    ordinal: int
    id: int | None = None


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

    def unfinished(self) -> Iterator[tuple[str, list[Upload]]]:
        """Erasures that were cut off: contents, and all uploads that were to be erased.

        Raises:
            OSError: the volume can't be read.
        """
        for path in sorted(self._folder.glob("[0-9a-f]*")):
            if text := path.read_text(encoding="utf-8"):
                yield path.name, [Upload(**each) for each in json.loads(text)]


def find(
    volume: Volume, conninfo: str, archive: str, ordinal: int, date: str | None = None
) -> tuple[str | None, list[Upload]]:
    """All uploads of the content of a clip.

    The database has no index by content, as one of a year's clips would take 20 GB and more for
    something that is asked a few times a year: it reads its table once, which can take minutes.

    Args:
        volume: The shared volume.
        conninfo: As :func:`earmark.database.connection_string` returns it.
        archive: The archive's name.
        ordinal: The clip's position in it.
        date: The archive's date, if there are several of the name.

    Returns:
        The content's SHA-256, None if the clip has none (it could not be read); and the uploads.

    Raises:
        EarmarkError: there is no such clip, several archives have the name, or the database
            can't be reached.
    """
    found = sorted(volume.root.glob(f"manifests/date={date or '*'}/{glob.escape(archive)}.parquet"))
    if not found:
        raise EarmarkError(
            f"there is no manifest of {archive}" + (f" of {date}" if date else "") + f" in "
            f"{volume.root}; `earmark queue` and `earmark analyse` name archives as a whole"
        )
    if len(found) > 1:
        days = ", ".join(path.parent.name.removeprefix("date=") for path in found)
        raise EarmarkError(f"there are archives {archive} of several days: {days}; give --date")
    day = found[0].parent.name.removeprefix("date=")
    rows = read_table(found[0], MANIFEST).select(["ordinal", "source_sha256"]).to_pylist()
    if ordinal not in {row["ordinal"] for row in rows}:
        raise EarmarkError(f"{archive} of {day} has no clip {ordinal}; it has {len(rows)} members")
    sha256 = next(row["source_sha256"] for row in rows if row["ordinal"] == ordinal)
    same = [
        Upload(archive, day, row["ordinal"])
        for row in rows
        if row["ordinal"] == ordinal or (sha256 and row["source_sha256"] == sha256)
    ]
    uploads = {(each.archive, each.date, each.ordinal): each for each in same}
    with connect(conninfo) as connection, connection.cursor() as cursor:
        require_schema(connection)
        cursor.execute(
            "SELECT a.name, a.date::text, f.ordinal, f.id FROM audio_files f "
            "JOIN archives a ON a.id = f.archive_id WHERE f.source_sha256 = %s "
            "OR (a.name = %s AND a.date = %s AND f.ordinal = ANY(%s))",
            [sha256, archive, day, [each.ordinal for each in same]],
        )
        uploads |= {(name, of, n): Upload(name, of, n, id) for name, of, n, id in cursor.fetchall()}
    return sha256, [uploads[key] for key in sorted(uploads)]


def clip_of(conninfo: str, id: int) -> tuple[str, str, int]:
    """Archive, date and ordinal of a row of ``audio_files``.

    Raises:
        EarmarkError: there is no such row, or the database can't be reached.
    """
    with connect(conninfo) as connection, connection.cursor() as cursor:
        require_schema(connection)
        cursor.execute(
            "SELECT a.name, a.date::text, f.ordinal FROM audio_files f "
            "JOIN archives a ON a.id = f.archive_id WHERE f.id = %s",
            [id],
        )
        row = cursor.fetchone()
    if row is None:
        raise EarmarkError(f"there is no clip {id} of an archive in audio_files")
    return row[0], row[1], row[2]


def erase(
    volume: Volume,
    conninfo: str,
    sha256: str | None,
    uploads: Sequence[Upload],
) -> Iterator[str]:
    """Erase a content, one archive after the other.

    Waits for the stages that work on an archive.

    Args:
        volume: The shared volume.
        conninfo: As :func:`earmark.database.connection_string` returns it.
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
    by_archive: defaultdict[tuple[str, str], list[Upload]] = defaultdict(list)
    for upload in uploads:
        by_archive[upload.archive, upload.date].append(upload)
    for (archive, date), clips in by_archive.items():
        with locks.exclusive(volume.archive_lock(archive), "erase"):
            _erase_files(volume, archive, date, {clip.ordinal for clip in clips})
            ids = [clip.id for clip in clips if clip.id is not None]
            _erase_from_reports(volume, set(ids))
            _erase_rows(conninfo, archive, date, ids)
            _log(volume, archive, date, clips)
        yield archive
    if sha256 is not None:
        Erased(volume).finish(sha256)


def _erase_files(volume: Volume, archive: str, date: str, ordinals: Collection[int]) -> None:
    for ordinal in ordinals:
        (volume.audio(date, archive) / f"{ordinal:06d}.opus").unlink(missing_ok=True)
    for parts in volume.parts.glob(f"{glob.escape(archive)}.*"):  # they are made again
        shutil.rmtree(parts)
    if volume.receipt(date, archive).exists():
        volume.incoming(archive).unlink(missing_ok=True)
    name = f"{glob.escape(archive)}.parquet"
    for path in volume.root.glob(f"manifests/date={date}/{name}"):
        _rewrite(path, lambda table: _blank(table, ordinals))
    for kind in ("transcripts", "classes"):
        for path in volume.root.glob(f"{kind}/*/date={date}/{name}"):
            _rewrite(path, lambda table: _without(table, "ordinal", ordinals))


def _erase_from_reports(volume: Volume, ids: Collection[int]) -> None:
    """Take clips out of the queues that were written beside the daily reports."""
    for path in volume.root.glob("reports/*/queue.parquet"):
        _rewrite(path, lambda table: _without(table, "id", ids))
    for path in volume.root.glob("reports/*/queue.csv"):
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        left = [rows[0], *(row for row in rows[1:] if int(row[0]) not in ids)] if rows else []
        if len(left) < len(rows):
            with whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows(left)


def _erase_rows(conninfo: str, archive: str, date: str, ids: Sequence[int]) -> None:
    with connect(conninfo) as connection, connection.cursor() as cursor:
        require_schema(connection)
        cursor.execute("DELETE FROM audio_files WHERE id = ANY(%s) RETURNING status", [list(ids)])
        failed = sum(status == "failed" for (status,) in cursor.fetchall())
        gone = cursor.rowcount
        cursor.execute(
            "UPDATE archives SET ok = ok - %s, failed = failed - %s, skipped = skipped + %s "
            "WHERE name = %s AND date = %s",
            [gone - failed, failed, gone, archive, date],
        )


def _log(volume: Volume, archive: str, date: str, clips: Sequence[Upload]) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    path = volume.root / "logs" / ERASURES
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        for clip in clips:
            file.write(
                f"{now} erased clip {clip.ordinal} of {archive} of {date} (audio_files.id "
                f"{clip.id}), asked by {getpass.getuser()}\n"
            )
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


def _without(table: pa.Table, column: str, values: Collection[int]) -> pa.Table:
    gone = pc.is_in(table[column], value_set=pa.array(list(values), table[column].type))
    return table.filter(pc.invert(gone))


def _rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Replace a Parquet file; it stays as old as it was, and nothing is made again for it."""
    table = pq.read_table(path, partitioning=None)
    changed = change(table)
    if changed.equals(table):
        return
    then = path.stat()
    with whole(path) as partial:
        pq.write_table(changed, partial, compression="zstd")
        os.utime(partial, ns=(then.st_atime_ns, then.st_mtime_ns))
