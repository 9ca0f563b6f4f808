"""The review queue as files: CSV for a spreadsheet, Parquet for everything else."""

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from earmark.files import make_folder, whole
from earmark.record.review_queue import QueueItem
from earmark.tables import Column, schema_of

#: Columns of both files, those of the view ``ra_queue``.
COLUMNS = tuple(
    Column(name, kind, f"As ra_queue.{name}", f"ra_queue.{name}")
    for name, kind in (
        ("id", pa.int64()),
        ("original_filename", pa.string()),
        ("opus_path", pa.string()),
        ("transcript_text", pa.string()),
        ("flag_score", pa.float64()),
        ("flag_category", pa.string()),
        ("created_at", pa.timestamp("us", tz="UTC")),
        ("archive", pa.string()),
        ("duration_seconds", pa.float64()),
        ("language", pa.string()),
        ("confidence", pa.float64()),
        ("flag_categories", pa.list_(pa.string())),
        ("languages", pa.list_(pa.string())),
        ("compression_ratio", pa.float64()),
        ("no_speech_probability", pa.float64()),
        ("doubt", pa.string()),
    )
)
_SCHEMA = schema_of(COLUMNS)
#: What a spreadsheet takes for the beginning of a formula where a cell begins (OWASP, "CSV
#: Injection"): some split at semicolons, whatever stands in quotes.
_FORMULA = re.compile(r"(^|;)(?=[=+\-@\t\r\n\uFF1D\uFF0B\uFF0D\uFF20])")


#: With the mark by which Excel knows UTF-8.
CSV_ENCODING = "utf-8-sig"


def write_queue(queue: Sequence[QueueItem], folder: Path) -> None:
    """Write the queue as ``queue.csv`` and ``queue.parquet``.

    In the CSV, what a spreadsheet would take for a formula has an apostrophe in front:
    transcripts and names are written by strangers.

    Args:
        queue: What waits for review.
        folder: Made if it is not there.

    Raises:
        OSError: it can't be written.
    """
    rows = [asdict(item) for item in queue]
    make_folder(folder)
    with (
        whole(folder / "queue.csv") as partial,
        partial.open("w", newline="", encoding=CSV_ENCODING) as file,
    ):
        writer = csv.DictWriter(file, [f.name for f in fields(QueueItem)], quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows({key: cell(value) for key, value in row.items()} for row in rows)
    with whole(folder / "queue.parquet") as partial:
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), partial)


def read_queue(folder: Path) -> list[QueueItem] | None:
    """What :func:`write_queue` wrote; empty if it wrote nothing, None if it can't be read."""
    try:
        rows = pq.read_table(folder / "queue.parquet", schema=_SCHEMA).to_pylist()
        return [QueueItem(**row) for row in rows]
    except FileNotFoundError:
        return []
    except (OSError, TypeError, pa.ArrowException):
        return None


def cell(value: object) -> object:
    """A value as it may stand in a CSV file that a spreadsheet opens.

    Lists are joined by commas, mappings written as JSON, and what would be taken for a formula
    has an apostrophe in front; what begins so on a later line of a cell stays as it is.
    """
    if isinstance(value, list):
        value = ",".join(str(each) for each in value)
    if isinstance(value, dict):
        value = json.dumps(value, ensure_ascii=False)
    return _FORMULA.sub(r"\1'", value) if isinstance(value, str) else value
