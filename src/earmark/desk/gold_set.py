"""A gold set out of what people have settled, in the format of :mod:`earmark.evaluation.gold`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from psycopg2.extensions import connection as Connection

from earmark.desk import export
from earmark.evaluation.gold import Labelled
from earmark.files import whole
from earmark.record.erasure import Erased
from earmark.tables import Column
from earmark.volume import Volume

_SQL = {column.name: column.sql for column in export.COLUMNS}

# A clip's first decision stands for it: its transcript was shown, and it has the weight. Whoever
# decided after hearing other words than those of the transcript says nothing of the text.
_SETTLED = f"""
    SELECT d.audio_file_id, af.source_sha256, t.transcript_text, o.categories,
        ARRAY(
            SELECT jsonb_object_keys(({_SQL["policy_sha256"]}))
            UNION SELECT unnest(o.categories) ORDER BY 1
        ),
        t.language, ARRAY[o.first_reviewer_id, o.second_reviewer_id, o.adjudicator_id],
        {_SQL["weight"]}
    FROM review_outcomes o
    JOIN review_decisions d ON d.id = (
        SELECT max(f.id) FROM review_decisions f
        WHERE f.audio_file_id = o.audio_file_id AND f.reviewer_id = o.first_reviewer_id
    )
    JOIN audio_files af ON af.id = o.audio_file_id
    JOIN transcripts t ON t.audio_file_id = o.audio_file_id AND t.asr = d.asr
    LEFT JOIN review_draw_archives drawn ON drawn.archive_id = af.archive_id
    LEFT JOIN review_sample own ON own.audio_file_id = d.audio_file_id  -- also without a place
    LEFT JOIN review_draws draw ON draw.id = COALESCE(own.draw_id, drawn.draw_id)
    LEFT JOIN review_sample_heard sample ON sample.audio_file_id = d.audio_file_id
    LEFT JOIN provenance judged ON judged.archive_id = af.archive_id
        AND judged.kind = 'classifications' AND judged.name = d.policy
    WHERE o.verdict IN ('reportable', 'not reportable')
      AND NOT EXISTS (
          SELECT FROM review_standing s WHERE s.audio_file_id = o.audio_file_id
          AND (s.transcript_wrong OR s.not_speech OR s.wrong_language)
      )
    ORDER BY o.audio_file_id
"""
#: Columns of a gold set that reviewers' decisions make.
COLUMNS = (
    Column("id", pa.string(), "What the row is called", nullable=False),
    Column(
        "text", pa.string(), "The transcript that was shown", "transcripts.transcript_text", False
    ),
    Column(
        "categories", pa.list_(pa.string()), "What people say it falls under, empty for nothing",
        "review_outcomes.categories", False,
    ),
    Column(
        "labelled", pa.list_(pa.string()),
        "Categories that somebody looked for; null for all of the policy set",
    ),
    Column(
        "language", pa.string(), "ISO 639-1, of the most seconds of speech; null if not known",
        "transcripts.language",
    ),
    Column(
        "labelled_by", pa.list_(pa.string()),
        "Reviewers by their numbers, reviewers.id", nullable=False,
    ),
    Column(
        "weight", pa.float64(),
        "How many contents it stands for, if it was drawn at random; null if it was not",
    ),
)  # fmt: skip
_SCHEMA = pa.schema(
    [
        pa.field(column.name, column.type, column.name not in ("text", "categories"))
        for column in COLUMNS
    ]
)


def write_gold_set(connection: Connection, volume: Volume, path: Path) -> int:
    """Write the clips that are settled as reportable or not, with their transcripts.

    Left out is what was erased, and clips whose transcript somebody called wrong.  Reviewers are
    numbers, those of the table ``reviewers``.

    Args:
        connection: To the database, in a transaction.
        volume: Says what was erased.
        path: The file, which appears when it is whole; Parquet if its name ends so, else JSON
            Lines.

    Returns:
        How many texts it has.

    Raises:
        OSError: it can't be written.
    """
    rows = [msgspec.to_builtins(labelled) for labelled in _settled(connection, volume)]
    rows = [{key: row[key] for key in _SCHEMA.names} for row in rows]
    with whole(path) as partial:
        if path.suffix == ".parquet":
            table = pa.Table.from_pylist(rows, schema=_SCHEMA)
            pq.write_table(table, partial, compression="zstd")
        else:
            lines = (json.dumps(_given(row), ensure_ascii=False) + "\n" for row in rows)
            partial.write_text("".join(lines), encoding="utf-8")
    return len(rows)


def _given(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if value is not None}


def _settled(connection: Connection, volume: Volume) -> Iterator[Labelled]:
    erased = Erased(volume).all()  # one that was cut off may have left the row
    with connection.cursor() as cursor:
        cursor.execute(_SETTLED)
        for id, sha256, text, categories, looked_for, language, reviewers, weight in cursor:
            if sha256 not in erased:
                yield Labelled(
                    id=f"clip {id}",
                    text=text or "",
                    categories=tuple(categories),
                    labelled=tuple(looked_for) or None,
                    language=language,
                    labelled_by=tuple(f"reviewer {each}" for each in reviewers if each),
                    weight=weight,
                )
