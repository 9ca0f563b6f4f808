"""What people decided, as a file: one row per decision, with what made the clip come up.

CSV for a spreadsheet, JSON Lines and Parquet for everything else; all have the same columns.
Transcripts are not among them: they are asked for by ``audio_file_id`` and ``asr``.
"""

import csv
import datetime
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from psycopg2.extensions import connection as Connection

from earmark.desk.journal import HEARD, HEARD_SHARE
from earmark.files import whole
from earmark.record.queue_files import CSV_ENCODING, cell
from earmark.tables import Column

Format = Literal["csv", "jsonl", "parquet"]

_ROWS = 2_000  # read and written at a time
_TIME = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class Exported(Column):
    """A column of the export.

    Attributes:
        sql: Where it comes from.
    """

    sql: str = field(kw_only=True)


_TABLES = {
    "a": "archives",
    "af": "audio_files",
    "d": "review_decisions",
    "o": "review_outcomes",
    "r": "reviewers",
    "t": "transcripts",
}


def _column(name: str, kind: pa.DataType, sql: str, meaning: str) -> Exported:
    alias, _, column = sql.partition(".")
    same = f"{_TABLES[alias]}.{column}" if alias in _TABLES else None
    return Exported(name, kind, meaning, same, "null" in meaning, sql=sql)


# The newest of this person about this clip, neither undone nor skipped.
_STANDS = (
    "(d.verdict IN ('reportable', 'not reportable', 'unsure') AND NOT EXISTS ("
    "SELECT FROM review_decisions later WHERE later.audio_file_id = d.audio_file_id "
    "AND later.reviewer_id = d.reviewer_id AND later.id > d.id))"
)

#: What is exported.
COLUMNS = (
    _column("decision_id", pa.int64(), "d.id", "Key in the database"),
    _column("audio_file_id", pa.int64(), "d.audio_file_id", "Key of the clip in the database"),
    _column(
        "archive",
        pa.string(),
        "af.archive_source",
        "Whole file name of the archive; null as ordinal",
    ),
    _column("archive_date", pa.date32(), "a.date", "Its day; null as ordinal"),
    _column(
        "ordinal",
        pa.int32(),
        "af.ordinal",
        "Position in the archive, from 0; null for a clip that a later load of its archive no "
        "longer holds",
    ),
    _column("original_filename", pa.string(), "af.original_filename", "Name in the archive"),
    _column(
        "source_sha256",
        pa.string(),
        "af.source_sha256",
        "Hash of the clip's bytes as they came; null if it is not known",
    ),
    _column(
        "opus_path",
        pa.string(),
        "af.opus_path",
        "Relative to the volume; null if there is no audio",
    ),
    _column(
        "duration_seconds",
        pa.float64(),
        "af.duration_seconds",
        "Length of its audio; null if it is not known",
    ),
    _column(
        "verdict",
        pa.string(),
        "d.verdict",
        "What this person decided: reportable, not reportable, unsure, skipped or undone",
    ),
    _column(
        "categories",
        pa.list_(pa.string()),
        "d.categories",
        "What it falls under by this person's judgement, sorted; empty unless reportable",
    ),
    _column(
        "transcript_wrong",
        pa.bool_(),
        "d.transcript_wrong",
        "The person says that the transcript is wrong",
    ),
    _column("not_speech", pa.bool_(), "d.not_speech", "The person says that nobody speaks"),
    _column(
        "wrong_language",
        pa.bool_(),
        "d.wrong_language",
        "The person says that the language is another one",
    ),
    _column("reason", pa.string(), "d.reason", "Why it was skipped; null if it was not"),
    _column("note", pa.string(), "d.note", "What the person wrote; null if nothing"),
    _column("reviewer", pa.string(), "r.name", "Who decided, by the name of the account"),
    _column("reviewer_role", pa.string(), "r.role", "reviewer or lead, as it is now"),
    _column("round", pa.string(), "d.round", "first, second or adjudication"),
    _column(
        "chosen_by",
        pa.string(),
        "d.chosen_by",
        "Why it came up: score, category, control, sample, second or adjudication",
    ),
    _column(
        "heard_seconds",
        pa.float64(),
        HEARD,
        "Seconds of the clip that were played before the decision with the sound on, each once, "
        "as the browser told it since the item was opened, 0 if nothing was; null where it was "
        "not recorded or there was no audio",
    ),
    _column("heard_share", pa.float64(), HEARD_SHARE, "Their share of its length; null likewise"),
    _column("claimed_at", _TIME, "d.claimed_at", "When the item was opened (UTC)"),
    _column("decided_at", _TIME, "d.decided_at", "When it was decided (UTC)"),
    _column(
        "stands",
        pa.bool_(),
        _STANDS,
        "Whether this row counts: the newest of this person about this clip, neither undone nor "
        "skipped. Who decides again after an undo has seen the model's scores: such a row comes "
        "after one of the same person and clip that says undone",
    ),
    _column(
        "outcome_state",
        pa.string(),
        "o.state",
        "Where the clip stands now; null while no first decision stands",
    ),
    _column(
        "outcome_verdict", pa.string(), "o.verdict", "Its verdict now; null until it is settled"
    ),
    _column(
        "outcome_categories",
        pa.list_(pa.string()),
        "o.categories",
        "Its categories now; null until it is settled",
    ),
    _column(
        "flag_score",
        pa.float64(),
        "d.flag_score",
        "The highest score that the model had given when it was decided; null for a control",
    ),
    _column(
        "flag_categories",
        pa.list_(pa.string()),
        "d.flag_categories",
        "What the model had flagged it under; null for a control",
    ),
    _column(
        "inclusion_probability",
        pa.float64(),
        "af.inclusion_probability",
        "With which the clip was drawn for transcription",
    ),
    _column(
        "review_probability",
        pa.float64(),
        "af.review_probability",
        "With which it was drawn for review, as a flagged clip or a control",
    ),
    _column(
        "sample_draw",
        pa.date32(),
        "draw.drawn_on",
        "Day of the draw that the clip's archive was part of; null for none",
    ),
    _column(
        "sample_stratum",
        pa.int16(),
        "sample.stratum",
        "Its stratum in the sample (evidence.md); null for what only the queue brought up",
    ),
    _column(
        "sample_probability",
        pa.float64(),
        "sample.probability",
        "Which part of that stratum was heard; null for what only the queue brought up",
    ),
    # Of the clip, on one row of it at most: in a sum over rows, no clip counts twice.  Where a
    # sample was drawn, what only the queue brought up stands for nothing but itself.
    _column(
        "weight",
        pa.float64(),
        f"CASE WHEN d.round = 'first' AND {_STANDS} THEN 1 / NULLIF(af.inclusion_probability * "
        "CASE WHEN draw.id IS NULL THEN af.review_probability ELSE sample.probability END, 0) END",
        "1 / (inclusion_probability × sample_probability) where a sample was drawn, elsewhere 1 / "
        "(inclusion_probability × review_probability), on the first decision that stands; null on "
        "every other row, and where a probability is 0 or null",
    ),
    _column(
        "second_review_probability",
        pa.float64(),
        "o.second_review_probability",
        "With which it was drawn for a second review; null if it was not",
    ),
    _column("duplicates", pa.int64(), "duplicates.number", "Other uploads of the same content"),
    _column(
        "language",
        pa.string(),
        "t.language",
        "Of the transcript that was shown, ISO 639-1, of the most speech; null without speech",
    ),
    _column(
        "languages",
        pa.list_(pa.string()),
        "jsonb_path_query_array(t.languages, '$[*].language')",
        "All languages of that transcript; null without speech",
    ),
    _column(
        "doubt",
        pa.string(),
        "t.doubt",
        "Why its text may not have been spoken; null if nothing is doubtful",
    ),
    _column("asr", pa.string(), "d.asr", "Speech recognition set of that transcript"),
    _column(
        "asr_model",
        pa.string(),
        "heard.facts ->> 'model'",
        "Its model; null if it was not recorded",
    ),
    _column(
        "asr_model_revision",
        pa.string(),
        "heard.facts ->> 'model_revision'",
        "That model's revision; null if it has none",
    ),
    _column("policy", pa.string(), "d.policy", "Policy set of the scores"),
    _column(
        "policy_model",
        pa.string(),
        "judged.facts ->> 'model'",
        "The model that applied it; null if it was not recorded",
    ),
    _column(
        "policy_model_revision",
        pa.string(),
        "judged.facts ->> 'model_revision'",
        "That model's revision; null if it has none",
    ),
    _column(
        "policy_adapter",
        pa.string(),
        "judged.facts ->> 'adapter'",
        "The model's adapter; null if it has none",
    ),
    _column(
        "policy_adapter_revision",
        pa.string(),
        "judged.facts ->> 'adapter_revision'",
        "That adapter's revision; null if it has none",
    ),
    _column(
        "prompt_sha256",
        pa.string(),
        "judged.facts ->> 'prompt_sha256'",
        "Hash of the prompt; null if it was not recorded",
    ),
    _column(
        "policy_sha256",
        pa.map_(pa.string(), pa.string()),
        "(judged.facts ->> 'policy_sha256')::jsonb",
        "Hash of each category's policy, policies.sha256; null if it was not recorded",
    ),
    _column(
        "version",
        pa.string(),
        "judged.facts ->> 'version'",
        "Earmark's version that made the scores; null if it was not recorded",
    ),
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
