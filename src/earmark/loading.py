"""Bringing the three files of an archive into the database, whole or not at all.

One transaction takes an archive in; a receipt tells of it afterwards.  Loading the same
files again touches no row, so a load that was cut off anywhere can simply be repeated.
"""

import datetime
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from psycopg2.extensions import connection as Connection

from earmark.database import connect, require_schema
from earmark.errors import EarmarkError
from earmark.files import whole
from earmark.staging import merge, stage
from earmark.tables import CLASSES, MANIFEST, TRANSCRIPTS, read_provenance, read_table

_Row = dict[str, Any]


@dataclass(frozen=True)
class Receipt:
    """What a load left in the database; the fields of ``processed/…/{archive}.json``."""

    archive: str
    date: str  # ISO 8601
    asr: str
    policy: str
    status: str  # of the archive: ok | partial | failed
    reason: str | None
    type: str | None
    bytes: int | None
    members: dict[str, int]  # total, ok, failed, skipped, duplicates
    clips: dict[str, int]  # by status in audio_files
    flagged: dict[str, int]  # clips by category
    undecided: int  # answers that failed or could not be read
    rows: dict[str, int]  # by table
    seconds: dict[str, float | None]  # by stage
    provenance: dict[str, dict[str, str]]  # by file
    loaded_at: str  # ISO 8601, when a load last changed the archive's row


def load_archive(
    manifest: Path,
    transcripts: Path,
    classes: Path,
    receipt: Path,
    conninfo: str,
    archive: str,
    date: str,
    asr: str,
    policy: str,
    patience_seconds: float = 15.0,
    waiting: Callable[[str], None] | None = None,
) -> Receipt:
    """Load an archive's manifest, transcripts and classes, then write the receipt.

    Loads of one archive wait for each other; loads of different archives don't.  Rows of
    an earlier load of the same archive and date that the files no longer hold are
    deleted; a reviewed clip among them is kept, without its place in the archive.  The
    status ``reviewed`` is never overwritten.

    Args:
        manifest: Parquet file with the columns of :data:`earmark.tables.MANIFEST`.
        transcripts: Likewise :data:`earmark.tables.TRANSCRIPTS`.
        classes: Likewise :data:`earmark.tables.CLASSES`.
        receipt: JSON file to write once the database has committed.
        conninfo: As :func:`earmark.database.connection_string` returns it.
        archive: The archive's whole file name.
        date: Its date, ``YYYY-MM-DD``.
        asr: Name of the speech recognition set of ``transcripts``.
        policy: Name of the policy set of ``classes``.
        patience_seconds: How long to wait for a database that is down.
        waiting: As :func:`earmark.database.connect` takes it.

    Returns:
        The content of the receipt.

    Raises:
        UnavailableError: the database can't be reached.
        EarmarkError: the files don't belong together, or the database lacks the schema.
    """
    started = time.monotonic()
    members, heard, judged = _read(manifest, transcripts, classes, archive)
    provenance = {
        "manifest": read_provenance(manifest),
        "transcripts": read_provenance(transcripts),
        "classes": read_provenance(classes),
    }
    facts = _archive_row(members, provenance, archive, date, asr, policy, manifest)
    audio_files = _audio_file_rows(members, heard, judged, archive)
    with connect(conninfo, patience_seconds, waiting) as connection:
        require_schema(connection)
        loaded_at, clips = _store(connection, facts, audio_files, heard, judged)
    result = Receipt(
        archive=archive,
        date=date,
        asr=asr,
        policy=policy,
        status=facts["status"],
        reason=facts["reason"],
        type=facts["type"],
        bytes=facts["bytes"],
        members={
            "total": facts["members"],
            **{key: facts[key] for key in ("ok", "failed", "skipped", "duplicates")},
        },
        clips=clips,
        flagged=dict(Counter(row["flag_category"] for row in judged if row["flagged"])),
        undecided=sum(row["status"] != "ok" for row in judged),
        rows={
            "audio_files": len(audio_files),
            "transcripts": len(heard),
            "classifications": len(judged),
        },
        seconds={
            **{
                stage: facts[f"{stage}_seconds"]
                for stage in ("unpack", "encode", "transcribe", "classify")
            },
            "load": round(time.monotonic() - started, 3),
        },
        provenance=provenance,
        loaded_at=loaded_at.isoformat(),
    )
    with whole(receipt) as partial:
        partial.write_text(
            json.dumps(asdict(result), ensure_ascii=False, indent=2) + "\n", encoding="utf-8"
        )
    return result


def _read(
    manifest: Path, transcripts: Path, classes: Path, archive: str
) -> tuple[list[_Row], list[_Row], list[_Row]]:
    """Read the three files, with the last two in the columns of the database."""
    members = read_table(manifest, MANIFEST).to_pylist()
    heard = read_table(transcripts, TRANSCRIPTS).to_pylist()
    judged = read_table(classes, CLASSES).to_pylist()
    ordinals = {row["ordinal"] for row in members if row["status"] != "skipped"}
    for path, rows in ((manifest, members), (transcripts, heard), (classes, judged)):
        strangers = {row["archive"] for row in rows} - {archive}
        if strangers:
            raise EarmarkError(
                f"{path} speaks of {sorted(strangers)} instead of {archive}; delete it and run "
                "again"
            )
        unknown = {row["ordinal"] for row in rows if row["status"] != "skipped"} - ordinals
        if unknown:
            raise EarmarkError(
                f"{path} speaks of clips that {manifest} lacks (first ordinal "
                f"{min(unknown)}); it was made from another manifest: delete it and run again"
            )
        if len({(row["ordinal"], row.get("category")) for row in rows}) < len(rows):
            raise EarmarkError(f"{path} speaks of a clip twice; delete it and run again")
    for row in heard:
        row["transcript_text"] = row.pop("text")
    for row in judged:
        row["flag_category"] = row.pop("category")
        row["flag_score"] = row.pop("score")
        score = row["flag_score"]
        if row["status"] == "ok" and (score is None or not 0 <= score <= 1):
            row.update(status="failed", error=f"the score {score} is not between 0 and 1")
        if row["status"] != "ok":  # no answer, so neither flagged nor a score
            row.update(flagged=False, flag_score=None)
    return members, heard, judged


def _archive_row(
    members: Sequence[_Row],
    provenance: Mapping[str, Mapping[str, str]],
    archive: str,
    date: str,
    asr: str,
    policy: str,
    manifest: Path,
) -> _Row:
    made = provenance["manifest"]
    if "archive_status" not in made:
        raise EarmarkError(f"{manifest} lacks the archive's status; delete it and run again")
    number = dict.fromkeys(("ok", "failed", "skipped"), 0)
    number.update(Counter(row["status"] for row in members))
    return {
        "name": archive,
        "date": date,
        "status": made["archive_status"],
        "reason": made.get("archive_error") or None,
        "type": made.get("archive_type") or None,
        "bytes": int(made["archive_bytes"]) if made.get("archive_bytes") else None,
        "members": len(members),
        **number,
        "duplicates": sum(row["duplicate_of"] is not None for row in members),
        "asr": asr,
        "policy": policy,
        "unpack_seconds": _seconds(made.get("unpack_seconds")),
        "encode_seconds": _seconds(made.get("seconds")),
        "transcribe_seconds": _seconds(provenance["transcripts"].get("seconds")),
        "classify_seconds": _seconds(provenance["classes"].get("seconds")),
        "version": made.get("version") or None,
    }


def _seconds(text: str | None) -> float | None:
    return float(text) if text else None


def _audio_file_rows(
    members: Iterable[_Row], heard: Iterable[_Row], judged: Iterable[_Row], archive: str
) -> list[_Row]:
    """One row per audio member, with the status that the files give it."""
    transcript = {row["ordinal"]: row for row in heard}
    flagged = {row["ordinal"] for row in judged if row["flagged"]}

    def outcome(member: _Row) -> tuple[str, str | None]:
        if member["status"] == "failed":
            return "failed", member["error"]
        # A duplicate was not transcribed itself; what its original says is true of it too.
        ordinal = member["ordinal"] if member["duplicate_of"] is None else member["duplicate_of"]
        if ordinal not in transcript:
            return "pending", None
        if transcript[ordinal]["status"] == "failed":
            return "failed", transcript[ordinal]["error"]
        return ("flagged" if ordinal in flagged else "transcribed"), None

    rows = []
    for member in members:
        if member["status"] == "skipped":
            continue
        status, error = outcome(member)
        rows.append(
            {
                "ordinal": member["ordinal"],
                "original_filename": member["member"],
                "opus_path": member["opus_path"] if member["duplicate_of"] is None else None,
                "archive_source": archive,
                "duration_seconds": member["duration_seconds"],
                "file_size_bytes": member["opus_bytes"],
                "status": status,
                "error": error,
                **{name: member[name] for name in _AS_IN_MANIFEST},
            }
        )
    return rows


_AS_IN_MANIFEST = (
    "source_sha256",
    "source_bytes",
    "source_format",
    "sample_rate",
    "channels",
    "selected",
    "inclusion_probability",
    "duplicate_of",
)


def _store(
    connection: Connection,
    archive: _Row,
    audio_files: Sequence[_Row],
    heard: Sequence[_Row],
    judged: Sequence[_Row],
) -> tuple[datetime.datetime, dict[str, int]]:
    """Write everything; returns when the archive's row last changed, and clips by status."""
    name = {"name": archive["name"], "date": archive["date"]}
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended(%(date)s || '/' || %(name)s, 0))", name
        )
        keys: tuple[str, ...] = ("name", "date")
        stage(cursor, "archives", keys, _ARCHIVE_COLUMNS, [archive])
        merge(cursor, "archives", keys, _ARCHIVE_COLUMNS, {"loaded_at": "now()"})
        cursor.execute(
            "SELECT id, loaded_at FROM archives WHERE name = %(name)s AND date = %(date)s", name
        )
        archive_id, loaded_at = cursor.fetchall()[0]

        keys = ("archive_id", "ordinal")
        of_archive = ({**row, "archive_id": archive_id} for row in audio_files)
        stage(cursor, "audio_files", keys, _AUDIO_FILE_COLUMNS, of_archive)
        cursor.execute(_KEEP_REVIEWED, {"archive_id": archive_id})
        merge(
            cursor,
            "audio_files",
            keys,
            _AUDIO_FILE_COLUMNS,
            {"processed_at": "CASE WHEN status <> 'pending' THEN now() END"},
        )
        cursor.execute(
            "SELECT ordinal, id, status FROM audio_files WHERE archive_id = %s", [archive_id]
        )
        stored = cursor.fetchall()
        ids = {ordinal: id for ordinal, id, _ in stored}

        results: tuple[tuple[str, str, str, tuple[str, ...], Sequence[_Row]], ...] = (
            ("transcripts", "asr", "", _TRANSCRIPT_COLUMNS, heard),
            ("classifications", "policy", "flag_category", _CLASSIFICATION_COLUMNS, judged),
        )
        for table, version, category, columns, rows in results:
            keys = ("audio_file_id", version) + ((category,) if category else ())
            of_clip = (
                {**row, "audio_file_id": ids[row["ordinal"]], version: archive[version]}
                for row in rows
            )
            stage(cursor, table, keys, columns, of_clip)
            cursor.execute(
                f"DELETE FROM {table} old USING audio_files af "
                f"WHERE af.id = old.audio_file_id AND af.archive_id = %s AND old.{version} = %s "
                f"AND NOT EXISTS (SELECT FROM staged_{table} new WHERE {_same(keys)})",
                [archive_id, archive[version]],
            )
            merge(cursor, table, keys, columns, {"created_at": "now()"})
    return loaded_at, dict(Counter(status for _, _, status in stored))


_ARCHIVE_COLUMNS = (
    *("name", "date", "status", "reason", "type", "bytes"),
    *("members", "ok", "failed", "skipped", "duplicates", "asr", "policy"),
    *("unpack_seconds", "encode_seconds", "transcribe_seconds", "classify_seconds", "version"),
)
_AUDIO_FILE_COLUMNS = (
    *("archive_id", "ordinal", "original_filename", "opus_path", "archive_source"),
    *("duration_seconds", "file_size_bytes", "status", "error", *_AS_IN_MANIFEST),
)
_TRANSCRIPT_COLUMNS = (
    *("audio_file_id", "asr", "transcript_text", "language", "language_probability"),
    *("confidence", "no_speech_probability", "compression_ratio", "speech_seconds"),
    *("segments", "status", "error", "seconds"),
)
_CLASSIFICATION_COLUMNS = (
    *("audio_file_id", "policy", "flag_category", "flagged", "flag_score", "threshold"),
    *("truncated", "answer", "raw_response", "status", "error"),
)

# Rows that the new files no longer hold go, unless a person has reviewed them: those leave
# their place, since another clip may have it now.  Reviewed clips that are still there stay
# reviewed, and so do their duplicates.
_KEEP_REVIEWED = """
UPDATE audio_files old
SET archive_id = NULL, ordinal = NULL, opus_path = NULL,
    error = 'no longer in the archive as it was loaded last'
WHERE old.archive_id = %(archive_id)s AND old.status = 'reviewed'
  AND NOT EXISTS (SELECT FROM staged_audio_files new WHERE new.ordinal = old.ordinal
                  AND new.source_sha256 IS NOT DISTINCT FROM old.source_sha256);
DELETE FROM audio_files old
WHERE old.archive_id = %(archive_id)s
  AND NOT EXISTS (SELECT FROM staged_audio_files new WHERE new.ordinal = old.ordinal
                  AND new.source_sha256 IS NOT DISTINCT FROM old.source_sha256);
UPDATE staged_audio_files new SET status = 'reviewed'
FROM audio_files old
WHERE old.archive_id = %(archive_id)s AND old.status = 'reviewed' AND old.ordinal = new.ordinal;
UPDATE staged_audio_files new SET status = 'reviewed'
FROM staged_audio_files original
WHERE original.ordinal = new.duplicate_of AND original.status = 'reviewed'
"""


def _same(keys: Sequence[str]) -> str:
    return " AND ".join(f"new.{key} = old.{key}" for key in keys)
