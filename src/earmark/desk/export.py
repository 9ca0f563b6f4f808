"""What people decided, as a file: one row per decision, with what made the clip come up.

CSV for a spreadsheet, JSON Lines and Parquet for everything else; all have the same columns.
Transcripts are not among them: they are asked for by ``audio_file_id`` and ``asr``.
"""

import csv
import datetime
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from psycopg2.extensions import connection as Connection

from earmark.desk.journal import HEARD, HEARD_SHARE
from earmark.files import whole
from earmark.record.queue_files import CSV_ENCODING, cell

Format = Literal["csv", "jsonl", "parquet"]

_ROWS = 2_000  # read and written at a time
_TIME = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class Column:
    """A column of the export.

    Attributes:
        name: What it is called.
        type: What it holds, in Parquet.
        sql: Where it comes from.
    """

    name: str
    type: pa.DataType
    sql: str


# The newest of this person about this clip, neither undone nor skipped.
_STANDS = (
    "(d.verdict IN ('reportable', 'not reportable', 'unsure') AND NOT EXISTS ("
    "SELECT FROM review_decisions later WHERE later.audio_file_id = d.audio_file_id "
    "AND later.reviewer_id = d.reviewer_id AND later.id > d.id))"
)

#: What is exported; docs/review.md says what each column means.
COLUMNS = (
    Column("decision_id", pa.int64(), "d.id"),
    Column("audio_file_id", pa.int64(), "d.audio_file_id"),
    Column("archive", pa.string(), "af.archive_source"),
    Column("archive_date", pa.date32(), "a.date"),
    Column("ordinal", pa.int32(), "af.ordinal"),
    Column("original_filename", pa.string(), "af.original_filename"),
    Column("source_sha256", pa.string(), "af.source_sha256"),
    Column("opus_path", pa.string(), "af.opus_path"),
    Column("duration_seconds", pa.float64(), "af.duration_seconds"),
    Column("verdict", pa.string(), "d.verdict"),
    Column("categories", pa.list_(pa.string()), "d.categories"),
    Column("transcript_wrong", pa.bool_(), "d.transcript_wrong"),
    Column("not_speech", pa.bool_(), "d.not_speech"),
    Column("wrong_language", pa.bool_(), "d.wrong_language"),
    Column("reason", pa.string(), "d.reason"),
    Column("note", pa.string(), "d.note"),
    Column("reviewer", pa.string(), "r.name"),
    Column("reviewer_role", pa.string(), "r.role"),
    Column("round", pa.string(), "d.round"),
    Column("chosen_by", pa.string(), "d.chosen_by"),
    Column("heard_seconds", pa.float64(), HEARD),
    Column("heard_share", pa.float64(), HEARD_SHARE),
    Column("claimed_at", _TIME, "d.claimed_at"),
    Column("decided_at", _TIME, "d.decided_at"),
    Column("stands", pa.bool_(), _STANDS),
    Column("outcome_state", pa.string(), "o.state"),
    Column("outcome_verdict", pa.string(), "o.verdict"),
    Column("outcome_categories", pa.list_(pa.string()), "o.categories"),
    Column("flag_score", pa.float64(), "d.flag_score"),
    Column("flag_categories", pa.list_(pa.string()), "d.flag_categories"),
    Column("inclusion_probability", pa.float64(), "af.inclusion_probability"),
    Column("review_probability", pa.float64(), "af.review_probability"),
    Column("sample_draw", pa.date32(), "draw.drawn_on"),
    Column("sample_stratum", pa.int16(), "sample.stratum"),
    Column("sample_probability", pa.float64(), "sample.probability"),
    # Of the clip, on one row of it at most: in a sum over rows, no clip counts twice.  Where a
    # sample was drawn, what only the queue brought up stands for nothing but itself.
    Column(
        "weight",
        pa.float64(),
        f"CASE WHEN d.round = 'first' AND {_STANDS} THEN 1 / NULLIF(af.inclusion_probability * "
        "CASE WHEN draw.id IS NULL THEN af.review_probability ELSE sample.probability END, 0) END",
    ),
    Column("second_review_probability", pa.float64(), "o.second_review_probability"),
    Column("duplicates", pa.int64(), "duplicates.number"),
    Column("language", pa.string(), "t.language"),
    Column(
        "languages",
        pa.list_(pa.string()),
        "jsonb_path_query_array(t.languages, '$[*].language')",
    ),
    Column("doubt", pa.string(), "t.doubt"),
    Column("asr", pa.string(), "d.asr"),
    Column("asr_model", pa.string(), "heard.facts ->> 'model'"),
    Column("asr_model_revision", pa.string(), "heard.facts ->> 'model_revision'"),
    Column("policy", pa.string(), "d.policy"),
    Column("policy_model", pa.string(), "judged.facts ->> 'model'"),
    Column("policy_model_revision", pa.string(), "judged.facts ->> 'model_revision'"),
    Column("policy_adapter", pa.string(), "judged.facts ->> 'adapter'"),
    Column("policy_adapter_revision", pa.string(), "judged.facts ->> 'adapter_revision'"),
    Column("prompt_sha256", pa.string(), "judged.facts ->> 'prompt_sha256'"),
    Column(
        "policy_sha256",
        pa.map_(pa.string(), pa.string()),
        "(judged.facts ->> 'policy_sha256')::jsonb",
    ),
    Column("version", pa.string(), "judged.facts ->> 'version'"),
)
_SCHEMA = pa.schema([(column.name, column.type) for column in COLUMNS])

# OFFSET 0 keeps the planner from looking at all outcomes at once: it asks for one clip each time.
_DECISIONS = f"""
    SELECT {", ".join(f"{column.sql} AS {column.name}" for column in COLUMNS)}
    FROM review_decisions d
    JOIN reviewers r ON r.id = d.reviewer_id
    JOIN audio_files af ON af.id = d.audio_file_id
    LEFT JOIN archives a ON a.id = af.archive_id
    LEFT JOIN review_draw_archives drawn ON drawn.archive_id = af.archive_id
    LEFT JOIN review_sample own ON own.audio_file_id = d.audio_file_id  -- also without a place
    LEFT JOIN review_draws draw ON draw.id = COALESCE(own.draw_id, drawn.draw_id)
    LEFT JOIN review_sample_heard sample ON sample.audio_file_id = d.audio_file_id
    LEFT JOIN transcripts t
        ON t.audio_file_id = d.audio_file_id AND t.asr = COALESCE(d.asr, 'unrecorded')
    LEFT JOIN provenance heard ON heard.archive_id = af.archive_id
        AND heard.kind = 'transcripts' AND heard.name = d.asr
    LEFT JOIN provenance judged ON judged.archive_id = af.archive_id
        AND judged.kind = 'classifications' AND judged.name = d.policy
    LEFT JOIN LATERAL (
        SELECT * FROM review_outcomes WHERE audio_file_id = d.audio_file_id OFFSET 0
    ) o ON TRUE
    CROSS JOIN LATERAL (
        SELECT (SELECT count(*) FROM audio_files other WHERE other.archive_id = af.archive_id
                AND other.duplicate_of = af.ordinal)
             + (SELECT count(*) FROM audio_files other WHERE other.copied_from = af.opus_path)
            AS number
    ) duplicates
    WHERE d.decided_at >= %(since)s::timestamp AT TIME ZONE %(timezone)s
      AND d.decided_at < (%(until)s::timestamp + INTERVAL '1 day') AT TIME ZONE %(timezone)s
    ORDER BY d.id
"""


def export(
    connection: Connection,
    path: Path,
    format: Format,
    since: datetime.date,
    until: datetime.date,
    timezone: str,
) -> None:
    """Write the decisions of some days to a file.

    In the CSV, what a spreadsheet would take for a formula has an apostrophe in front.

    Args:
        connection: To the database, in a transaction.
        path: The file; it appears when it is whole.
        format: What kind of file.
        since: The first day.
        until: The last day.
        timezone: Name of the zone whose days are meant.

    Raises:
        OSError: the file can't be written.
    """
    write = {"csv": _write_csv, "jsonl": _write_json_lines, "parquet": _write_parquet}[format]
    with whole(path) as partial, connection.cursor(name="export") as cursor:
        cursor.itersize = _ROWS
        cursor.execute(_DECISIONS, {"since": since, "until": until, "timezone": timezone})
        write(partial, (dict(zip(_SCHEMA.names, map(_utc, row), strict=True)) for row in cursor))


def _utc(value: Any) -> Any:
    return value.astimezone(datetime.UTC) if isinstance(value, datetime.datetime) else value


def _write_csv(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding=CSV_ENCODING) as file:
        writer = csv.DictWriter(file, _SCHEMA.names, quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows({key: cell(value) for key, value in row.items()} for row in rows)


def _write_json_lines(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False, default=_iso), file=file)


def _iso(moment: datetime.date) -> str:
    return moment.isoformat()


def _write_parquet(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    with pq.ParquetWriter(path, _SCHEMA, compression="zstd") as writer:
        while some := list(islice(rows, _ROWS)):
            writer.write_table(pa.Table.from_pylist(some, schema=_SCHEMA))
