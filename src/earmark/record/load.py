"""Bringing the three files of an archive into the database, whole or not at all.

One transaction takes an archive in; a receipt tells of it afterwards.  Loading the same
files again touches no row, so a load that was cut off anywhere can simply be repeated.
"""

import datetime
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from duckdb import DuckDBPyConnection
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import Json

from earmark import receipts
from earmark.errors import EarmarkError
from earmark.ingest.selection import uniform
from earmark.receipts import Receipt
from earmark.record.database import connect, require_schema
from earmark.record.staging import copy, merge, stage
from earmark.tables import CLASSES, MANIFEST, TABLES, TRANSCRIPTS, read_provenance, read_table

_Row = dict[str, Any]


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
    control_fraction: float = 0.0,
    policy_texts: Collection[str] = (),
    patience_seconds: float = 15.0,
    waiting: Callable[[str], None] | None = None,
    order: str | None = None,
    modified_ns: int | None = None,
) -> Receipt:
    """Load an archive's manifest, transcripts and classes, then write the receipt.

    Loads of one archive wait for each other; loads of different archives don't.  Rows of
    an earlier load of the same archive and date that the files no longer hold are
    deleted; one that a person decided about is kept, without its place in the archive.  The
    status ``reviewed`` is never overwritten.

    Args:
        manifest: Parquet file with the columns of :data:`earmark.tables.MANIFEST`.
        transcripts: Likewise :data:`earmark.tables.TRANSCRIPTS`.
        classes: Likewise :data:`earmark.tables.CLASSES`.
        receipt: JSON file to write once the database has committed.
        conninfo: As :func:`earmark.record.database.connection_string` returns it.
        archive: The archive's whole file name.
        date: Its date, ``YYYY-MM-DD``.
        asr: Name of the speech recognition set of ``transcripts``.
        policy: Name of the policy set of ``classes``.
        control_fraction: Probability with which a clip that no category flagged is drawn for
            review; its content decides.
        policy_texts: The policies of the set, in full.
        patience_seconds: How long to wait for a database that is down.
        waiting: As :func:`earmark.record.database.connect` takes it.
        order: The ``source.order`` that the archive was done in, for the receipt.
        modified_ns: When the archive was last changed at the source, in ns since 1970, likewise.

    Returns:
        The content of the receipt.

    Raises:
        UnavailableError: the database can't be reached.
        EarmarkError: the files don't belong together, or the database lacks the schema.
    """
    started = time.monotonic()
    listed, files = _read(manifest, transcripts, classes, archive)
    provenance = {
        "manifest": read_provenance(manifest),
        "transcripts": read_provenance(transcripts),
        "classes": read_provenance(classes),
    }
    members = _members(listed)
    skipped = _skipped(listed)
    facts = _archive_row(members, provenance, archive, date, asr, policy, manifest, skipped)
    with connect(conninfo, patience_seconds, waiting) as connection:
        require_schema(connection)
        loaded_at, clips, rows = _store(connection, facts, listed, files, control_fraction)
        _tell_origin(connection, facts, provenance, policy_texts)
    answers = files.sql(_ANSWERS_BY_CATEGORY).fetchall()
    ((unasked,),) = files.sql(_UNASKED).fetchall()
    result = Receipt(
        archive=archive,
        date=date,
        asr=asr,
        policy=policy,
        order=order,
        status=facts["status"],
        reason=facts["reason"],
        type=facts["type"],
        bytes=facts["bytes"],
        modified_ns=modified_ns,
        members={"total": members.pop("members"), **members},
        clips=clips,
        skipped=skipped,
        flagged={category: flagged for category, flagged, *_ in answers if flagged},
        judged={category: judged for category, _, judged, *_ in answers},
        undecided=sum(undecided for *_, undecided in answers),
        unasked=unasked,
        rows=rows,
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
    receipts.write(receipt, result)
    return result


def _read(
    manifest: Path, transcripts: Path, classes: Path, archive: str
) -> tuple[pa.Table, DuckDBPyConnection]:
    """The manifest, and the three files as the tables ``members``, ``heard`` and ``judged``."""
    files = duckdb.connect()
    members = read_table(manifest, MANIFEST)
    made = (
        ("members", manifest, TABLES["manifests"], members),
        ("heard", transcripts, TABLES["transcripts"], read_table(transcripts, TRANSCRIPTS)),
        ("judged", classes, TABLES["classes"], read_table(classes, CLASSES)),
    )
    clips = members.filter(pc.not_equal(members["status"], "skipped"))["ordinal"]
    for name, path, table, rows in made:
        strangers = sorted({*pc.unique(rows["archive"]).to_pylist()} - {archive})
        if strangers:
            raise EarmarkError(
                f"{path} speaks of {strangers} instead of {archive}; `earmark redo` makes it anew"
            )
        unknown = rows.filter(pc.invert(pc.is_in(rows["ordinal"], clips)))["ordinal"]
        if len(unknown) and name != "members":
            raise EarmarkError(
                f"{path} speaks of clips that {manifest} lacks (first ordinal {pc.min(unknown)}); "
                "it was made from another manifest: `earmark redo` makes it anew"
            )
        if rows.group_by([*table.key]).aggregate([]).num_rows < len(rows):
            raise EarmarkError(f"{path} speaks of a clip twice; `earmark redo` makes it anew")
        files.register(name, rows)
    files.execute(_ANSWERS)
    return members, files


def _archive_row(
    members: _Row,
    provenance: Mapping[str, Mapping[str, str]],
    archive: str,
    date: str,
    asr: str,
    policy: str,
    manifest: Path,
    skipped: Mapping[str, int],
) -> _Row:
    made = provenance["manifest"]
    if "archive_status" not in made:
        raise EarmarkError(f"{manifest} lacks the archive's status; `earmark redo` makes it anew")
    return {
        "name": archive,
        "date": date,
        "status": made["archive_status"],
        "reason": made.get("archive_error") or None,
        "type": made.get("archive_type") or None,
        "bytes": int(made["archive_bytes"]) if made.get("archive_bytes") else None,
        **members,
        "asr": asr,
        "policy": policy,
        "unpack_seconds": _seconds(made.get("unpack_seconds")),
        "encode_seconds": _seconds(made.get("seconds")),
        "transcribe_seconds": _seconds(provenance["transcripts"].get("seconds")),
        "classify_seconds": _seconds(provenance["classes"].get("seconds")),
        "version": made.get("version") or None,
        "skipped_reasons": json.dumps(skipped),
    }


def _seconds(text: str | None) -> float | None:
    return float(text) if text else None


def _members(members: pa.Table) -> dict[str, int]:
    """How many members there are in all, by status, and that are duplicates."""
    statuses = Counter(members["status"].to_pylist())
    return {
        "members": len(members),
        **{status: statuses[status] for status in ("ok", "failed", "skipped")},
        "duplicates": len(members) - members["duplicate_of"].null_count,
    }


def _skipped(members: pa.Table) -> dict[str, int]:
    """Members without a clip, by reason."""
    reasons = members.filter(pc.equal(members["status"], "skipped"))["error"].to_pylist()
    return dict(sorted(Counter(reason or "unknown" for reason in reasons).items()))


# --- from the files' columns to those of the database, in DuckDB's SQL -------------------

_ANSWERS_BY_CATEGORY = """
SELECT
    flag_category,
    count(*) FILTER (flagged),
    count(*) FILTER (status = 'ok'),
    count(*) FILTER (status NOT IN ('ok', 'unasked'))
FROM answers
GROUP BY 1
ORDER BY 1
"""

_UNASKED = "SELECT count(DISTINCT ordinal) FROM answers WHERE status = 'unasked'"

# Without an answer a clip is neither flagged nor has it a score.
_ANSWERS = """
CREATE TEMP VIEW answers AS
SELECT
    ordinal,
    category AS flag_category,
    COALESCE(usable AND flagged, FALSE) AS flagged,
    CASE WHEN usable THEN score END AS flag_score,
    threshold,
    truncated,
    answer,
    raw_response,
    CASE WHEN status = 'ok' AND NOT usable THEN 'failed' ELSE status END AS status,
    CASE
        WHEN status = 'ok' AND NOT usable
        THEN 'the score ' || COALESCE(score::VARCHAR, 'null') || ' is not between 0 and 1'
        ELSE error
    END AS error,
    screen_score,
    COALESCE(asked_probability, 1) AS asked_probability
FROM (
    SELECT *, status = 'ok' AND COALESCE(score BETWEEN 0 AND 1, FALSE) AS usable FROM judged
)
"""

# One row per audio member.  A duplicate was not transcribed itself; what its original says is
# true of it too.
_AUDIO_FILES = """
SELECT
    $archive_id::BIGINT AS archive_id,
    m.ordinal,
    m.member AS original_filename,
    CASE WHEN m.duplicate_of IS NULL THEN m.opus_path END AS opus_path,
    m.archive AS archive_source,
    m.duration_seconds,
    m.opus_bytes AS file_size_bytes,
    CASE
        WHEN m.status = 'failed' THEN 'failed'
        WHEN t.ordinal IS NULL THEN 'pending'
        WHEN t.status = 'failed' THEN 'failed'
        WHEN f.ordinal IS NOT NULL THEN 'flagged'
        ELSE 'transcribed'
    END AS status,
    CASE WHEN m.status = 'failed' THEN m.error WHEN t.status = 'failed' THEN t.error END AS error,
    m.source_sha256,
    m.source_bytes,
    m.source_format,
    m.sample_rate,
    m.channels,
    m.source_rms_dbfs,
    m.source_peak_dbfs,
    m.opus_rms_dbfs,
    m.opus_peak_dbfs,
    m.selected,
    m.inclusion_probability,
    m.duplicate_of,
    CASE WHEN w.content IS NULL THEN t.copied_from ELSE w.opus_path END AS copied_from,
    CASE
        WHEN f.ordinal IS NOT NULL THEN 1.0
        WHEN t.status = 'ok' THEN $control_fraction
        ELSE 0.0
    END AS review_probability,
    f.ordinal IS NULL AND COALESCE(t.status = 'ok', FALSE)
        AND COALESCE(m.source_sha256 IN (SELECT content FROM controls), FALSE) AS control,
    CASE WHEN t.ordinal IS NOT NULL OR m.status = 'failed' THEN $now END AS processed_at
FROM members m
LEFT JOIN heard t ON t.ordinal = COALESCE(m.duplicate_of, m.ordinal)
LEFT JOIN (SELECT DISTINCT ordinal FROM answers WHERE flagged) f
    ON f.ordinal = COALESCE(m.duplicate_of, m.ordinal)
LEFT JOIN wait_again w ON w.content = m.source_sha256
WHERE m.status <> 'skipped'
ORDER BY m.ordinal
"""

_HEARD = """
SELECT
    ordinal,
    $version AS asr,
    t.text AS transcript_text,
    COALESCE(length(t.text) - length(replace(t.text, chr(0), '')), 0) AS nul_count,
    t.language,
    t.language_probability,
    t.languages,
    t.confidence,
    t.no_speech_probability,
    t.compression_ratio,
    t.doubt,
    t.speech_seconds,
    t.segments,
    t.status,
    t.error,
    t.seconds,
    $now AS created_at
FROM heard t
"""

_JUDGED = """
SELECT ordinal, $version AS policy, * EXCLUDE (ordinal), $now AS created_at FROM answers
"""


def _drawn(members: pa.Table, fraction: float) -> pa.Table:
    """Contents of an archive that are controls if nothing flags them, in a column ``content``."""
    hashes = pc.unique(members.filter(members["selected"])["source_sha256"]).to_pylist()
    drawn = [sha for sha in hashes if fraction and uniform(sha, "control") < fraction]
    return pa.table({"content": pa.array(drawn, pa.string())})


# Contents that are to be reviewed and were heard in another archive.
_COPIES_TO_REVIEW = """
SELECT m.source_sha256, t.copied_from, f.ordinal IS NOT NULL
FROM heard t
JOIN members m USING (ordinal)
LEFT JOIN (SELECT DISTINCT ordinal FROM answers WHERE flagged) f USING (ordinal)
WHERE t.copied_from IS NOT NULL
  AND (f.ordinal IS NOT NULL OR m.source_sha256 IN (SELECT content FROM controls))
"""


# --- into the database ------------------------------------------------------------------

# Clips that nobody is to hear where they were heard by the machine.
_CLEARED = """
SELECT content, flagged
FROM unnest(%(contents)s::TEXT [], %(paths)s::TEXT [], %(flagged)s::BOOLEAN [])
    AS copy (content, opus_path, flagged)
JOIN audio_files heard USING (opus_path)
WHERE heard.status = 'transcribed' AND (copy.flagged OR NOT heard.control)
"""

# Both halves have an index, which holds no clip that nobody is to hear.
_WAIT_ELSEWHERE = """
SELECT DISTINCT ON (source_sha256) source_sha256, opus_path
FROM (
    SELECT archive_id, source_sha256, opus_path FROM audio_files
    WHERE status IN ('flagged', 'reviewed') AND copied_from IS NULL AND duplicate_of IS NULL
      AND source_sha256 = ANY(%(contents)s)
    UNION ALL
    SELECT archive_id, source_sha256, opus_path FROM audio_files
    WHERE control AND status = 'transcribed' AND copied_from IS NULL AND duplicate_of IS NULL
      AND source_sha256 = ANY(%(controls)s)
) AS known
WHERE archive_id < %(archive_id)s
ORDER BY source_sha256, archive_id
"""


def _wait_again(cursor: Cursor, archive_id: int, files: DuckDBPyConnection) -> pa.Table:
    """Contents that do not wait where they were heard, and in ``opus_path`` where instead.

    A former policy set did not flag them there, or a smaller fraction did not draw them. They wait
    in the first archive that is known with them since; null if that is this one.
    """
    copies = files.sql(_COPIES_TO_REVIEW).fetchall()
    cleared: dict[str, bool] = {}
    elsewhere: dict[str, str] = {}
    if copies:
        contents, paths, flagged = zip(*copies, strict=True)
        heard_there = {"contents": [*contents], "paths": [*paths], "flagged": [*flagged]}
        cursor.execute(_CLEARED, heard_there)
        cleared = dict(cursor.fetchall())
    if cleared:
        controls = [content for content, is_flagged in cleared.items() if not is_flagged]
        wanted = {"contents": list(cleared), "controls": controls, "archive_id": archive_id}
        cursor.execute(_WAIT_ELSEWHERE, wanted)
        elsewhere = dict(cursor.fetchall())
    there = [elsewhere.get(content) for content in cleared]
    return pa.table(
        {
            "content": pa.array(cleared, pa.string()),
            "opus_path": pa.array(there, pa.string()),
        }
    )


_FIND = "SELECT id, loaded_at FROM archives WHERE name = %(name)s AND date = %(date)s"


def _store(
    connection: Connection,
    archive: _Row,
    members: pa.Table,
    files: DuckDBPyConnection,
    control_fraction: float,
) -> tuple[datetime.datetime, dict[str, int], dict[str, int]]:
    """Write everything.

    Returns:
        When the archive's row last changed, its clips by status, and how many rows each table has.
    """
    with connection.cursor() as cursor:
        # Loads of one archive wait for each other here.
        cursor.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended(%(date)s || '/' || %(name)s, 0)), "
            "now()::text",
            archive,
        )
        now = cursor.fetchall()[0][1]
        cursor.execute(_FIND, archive)
        is_new = not cursor.fetchall()
        row = pa.Table.from_pylist([{**archive, "loaded_at": now}])
        stage(cursor, "archives", _ARCHIVE, row, files)
        merge(cursor, "archives", _ARCHIVE, row.column_names, "loaded_at")
        cursor.execute(_FIND, archive)
        archive_id, loaded_at = cursor.fetchall()[0]

        def put(table: str, keys: Sequence[str], stamp: str, tidy: str, rows: pa.Table) -> None:
            if is_new:  # there is nothing that it could replace
                copy(cursor, table, rows, files)
                return
            stage(cursor, table, keys, rows, files)
            cursor.execute(tidy, {"archive_id": archive_id, **archive})
            merge(cursor, table, keys, rows.column_names, stamp)

        files.register("controls", _drawn(members, control_fraction))
        files.register("wait_again", _wait_again(cursor, archive_id, files))
        parameters = {"archive_id": archive_id, "now": now, "control_fraction": control_fraction}
        clips = files.sql(_AUDIO_FILES, params=parameters)
        put("audio_files", _CLIP, "processed_at", _KEEP_REVIEWED, clips.to_arrow_table())
        cursor.execute(
            "SELECT ordinal, id, status FROM audio_files WHERE archive_id = %s", [archive_id]
        )
        stored = cursor.fetchall()
        ids = np.zeros(max((ordinal for ordinal, _, _ in stored), default=0) + 1, np.int64)
        for ordinal, clip_id, _ in stored:
            ids[ordinal] = clip_id
        counts = {"audio_files": len(stored)}
        for table, version, keys, sql in (
            ("transcripts", "asr", _TRANSCRIPT, _HEARD),
            ("classifications", "policy", _CLASSIFICATION, _JUDGED),
        ):
            tidy = (
                f"DELETE FROM {table} old USING audio_files af "
                f"WHERE af.id = old.audio_file_id AND af.archive_id = %(archive_id)s "
                f"AND old.{version} = %({version})s AND NOT EXISTS (SELECT FROM staged_{table} new "
                f"WHERE {' AND '.join(f'new.{key} = old.{key}' for key in keys)})"
            )
            found = files.sql(sql, params={"version": archive[version], "now": now})
            rows = found.to_arrow_table()
            of_clips = pa.array(ids[rows["ordinal"].to_numpy()])
            put(table, keys, "created_at", tidy, rows.set_column(0, "audio_file_id", of_clips))
            counts[table] = rows.num_rows
    return loaded_at, dict(Counter(status for _, _, status in stored)), counts


def _tell_origin(
    connection: Connection,
    archive: _Row,
    provenance: Mapping[str, Mapping[str, str]],
    policy_texts: Collection[str],
) -> None:
    """Keep what made an archive's rows, and the full texts of the policies."""
    kinds = (
        ("manifest", "manifest", ""),
        ("transcripts", "transcripts", archive["asr"]),
        ("classifications", "classes", archive["policy"]),
    )
    with connection.cursor() as cursor:
        for kind, file, name in kinds:
            # JSONB holds no NUL.
            told = {key: text.replace("\0", "\ufffd") for key, text in provenance[file].items()}
            cursor.execute(
                "INSERT INTO provenance (archive_id, kind, name, facts) "
                "SELECT id, %s, %s, %s FROM archives WHERE name = %s AND date = %s "
                "ON CONFLICT (archive_id, kind, name) DO UPDATE SET facts = EXCLUDED.facts "
                "WHERE provenance.facts <> EXCLUDED.facts",
                [kind, name, Json(told), archive["name"], archive["date"]],
            )
        for text in sorted(policy_texts):  # in one order, so that loads can't deadlock
            sha256 = hashlib.sha256(text.encode()).hexdigest()
            cursor.execute(
                "INSERT INTO policies (sha256, text) VALUES (%s, %s) ON CONFLICT DO NOTHING",
                [sha256, text],
            )


# What tells rows apart.
_ARCHIVE = ("name", "date")
_CLIP = ("archive_id", "ordinal")
_TRANSCRIPT = ("audio_file_id", "asr")
_CLASSIFICATION = ("audio_file_id", "policy", "flag_category")

# Rows that the new files no longer hold go, unless a person decided about them, be it undone
# since: those leave their place, since another clip may have it now.  Reviewed clips that are
# still there stay reviewed, and so do their duplicates; and the larger probability is that with
# which they were heard, as a larger fraction draws all that a smaller one does, and what was
# flagged too.
_KEEP_REVIEWED = """
SELECT FROM audio_files WHERE archive_id = %(archive_id)s AND (
    status = 'flagged' OR control
    OR EXISTS (SELECT FROM review_sample s WHERE s.audio_file_id = audio_files.id)
)
ORDER BY ordinal FOR NO KEY UPDATE;  -- a decision that is being kept comes before, others after
UPDATE audio_files old
SET archive_id = NULL, ordinal = NULL, opus_path = NULL,
    status = CASE status WHEN 'reviewed' THEN status ELSE 'failed' END,
    error = 'no longer in the archive as it was loaded last'
WHERE old.archive_id = %(archive_id)s
  AND (old.status = 'reviewed'
       OR EXISTS (SELECT FROM review_decisions d WHERE d.audio_file_id = old.id))
  AND NOT EXISTS (SELECT FROM staged_audio_files new WHERE new.ordinal = old.ordinal
                  AND new.source_sha256 IS NOT DISTINCT FROM old.source_sha256);
DELETE FROM audio_files old
WHERE old.archive_id = %(archive_id)s
  AND NOT EXISTS (SELECT FROM staged_audio_files new WHERE new.ordinal = old.ordinal
                  AND new.source_sha256 IS NOT DISTINCT FROM old.source_sha256);
UPDATE staged_audio_files new
SET status = 'reviewed',
    control = new.control OR old.control AND new.status = 'transcribed',
    review_probability = GREATEST(new.review_probability, old.review_probability)
FROM audio_files old
WHERE old.archive_id = %(archive_id)s AND old.status = 'reviewed' AND old.ordinal = new.ordinal;
UPDATE staged_audio_files new SET status = 'reviewed'
FROM staged_audio_files original
WHERE original.ordinal = new.duplicate_of AND original.status = 'reviewed'
"""
