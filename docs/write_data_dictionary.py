"""Writes docs/data-dictionary.md, what every column holds: `make dictionary`.

From the columns of the files as the code declares them, from the comments of the database that the
migrations make, and from those of the views in sql/analysis/views.sql.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from earmark.desk import export, gold_set
from earmark.evaluation import scores
from earmark.record import analysis, queue_files, transcript_files
from earmark.record.database import connect
from earmark.tables import MEMBERS_COLUMNS, TABLES, Column
from sql.write_schema import migrated

DICTIONARY = Path(__file__).with_name("data-dictionary.md")

_HEADER = """\
# Data dictionary

Every column of the files, of the database and of the views for analysis. Made by `make dictionary`
from [src/earmark/tables.py](../src/earmark/tables.py), the database's own comments (`\\d+` in psql
shows them) and [sql/analysis/views.sql](../sql/analysis/views.sql), and never edited.

- *null* says what null means; a dash says that a column is never null. Where the meaning begins
  with "As", null means what it means there.
- *elsewhere* has the names of the same content in other places: `classes/score` is a column of a
  file, `classifications.flag_score` one of the database.
- Times are UTC. Words are explained in the [glossary](glossary.md).
- The status **`transcribed`** of a clip means *transcribed and not flagged*, wherever it is stored
  or counted: `audio_files.status`, `clips` of a receipt, `earmark status`, `make demo`. All clips
  that were heard are those with a row in `transcripts`.
"""

#: Files, by the names that the dictionary gives them: where they lie, and their columns.
_OTHER_FILES: dict[str, tuple[str, tuple[Column, ...]]] = {
    "members": ("`unpacked/{archive}/members.parquet`, one row per member", MEMBERS_COLUMNS),
    "scores": (
        "`state/evaluations/`, what `earmark evaluate` keeps of texts, by their hashes",
        scores.COLUMNS,
    ),
    "queue": (
        "`reports/{date}/queue.parquet` and `queue.csv`, the review queue",
        queue_files.COLUMNS,
    ),
    "export": (
        "`earmark export` as `csv`, `jsonl` or `parquet`, one row per clip",
        transcript_files.COLUMNS,
    ),
    "decisions": ("The export of the review desk, one row per decision", export.COLUMNS),
    "gold set": ("`earmark gold-set`, one row per settled clip", gold_set.COLUMNS),
}
_UNITS = {
    r"seconds|start|end": "s",
    r"minutes": "min",
    r"bytes": "bytes",
    r"ns": "ns since 1970",
    r"dbfs": "dB re full scale",
    r"sample rate": "Hz",
    r"avg logprob": "nats",
    r"compression ratio": "ratio",
    r"weight": "contents",
    r"probability|confidence|score|threshold|share|rate|bounds": "0 to 1",
}
_CLAUSES = re.compile(r"(?<=[;.]) |, (?=null )")
_OTHER = re.compile(r"As ((\w+)\.(\w+))")


@dataclass(frozen=True)
class Row:
    """A column as the dictionary shows it.

    Attributes:
        place: Its name, with that of the file or the table.
        name: Without it.
        type: What it holds.
        meaning: The whole comment.
        nullable: Whether it may be null.
        same: The place in the database with the same content.
    """

    place: str
    name: str
    type: str
    meaning: str
    nullable: bool
    same: str | None = None

    @property
    def unit(self) -> str:
        """What its numbers count; empty where that goes without saying."""
        words = self.name.split(".")[-1].replace("_", " ")
        found = (unit for ends, unit in _UNITS.items() if re.search(rf"(?:^|\s)(?:{ends})$", words))
        is_number = re.search(r"int|float|double|BIGINT|DOUBLE", self.type)
        return next(found, "") if is_number else ""

    @property
    def null(self) -> str:
        """What null means; a dash if it never is."""
        for clause in self._clauses():
            if _is_of_null(clause):
                return clause[len("null ") :].rstrip(";.")
        return "as there" if self.nullable and _OTHER.match(self.meaning) else "–"

    @property
    def told(self) -> str:
        """The meaning without what null means."""
        return " ".join(each for each in self._clauses() if not _is_of_null(each)).rstrip(";")

    def _clauses(self) -> list[str]:
        return _CLAUSES.split(self.meaning)


def _is_of_null(clause: str) -> bool:
    return clause.lower().startswith("null ")


def of_files() -> Iterator[tuple[str, str, list[Row]]]:
    """The files: name, where they lie, columns."""
    for table in TABLES.values():
        parts = {"asr": "{asr}", "policy": "{policy}"}
        lies = table.pattern("{date}", "{archive}")
        for part in table.partitions:
            lies = lies.replace(f"{part}=*", f"{part}={parts[part]}")
        yield table.name, f"`{lies}`", list(_rows(table.name, table.columns))
    for name, (lies, columns) in _OTHER_FILES.items():
        yield name, lies, list(_rows(name, columns))


def _rows(place: str, columns: Iterable[Column], above: str = "") -> Iterator[Row]:
    for column in columns:
        kind = "list of structs" if column.parts else _type(column.type)
        name = above + column.name
        yield Row(f"{place}/{name}", name, kind, column.meaning, column.nullable, column.same)
        yield from _rows(place, column.parts, f"{name}.")


def _type(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"list of {kind.value_type}"
    return re.sub(r"timestamp\[.*\]", "timestamp", str(kind))


_COLUMNS = """
SELECT r.relname, r.relkind = 'v', obj_description(r.oid, 'pg_class'), a.attname,
    format_type(a.atttypid, a.atttypmod), COALESCE(col_description(r.oid, a.attnum), ''),
    NOT a.attnotnull
FROM pg_class r JOIN pg_attribute a ON a.attrelid = r.oid
WHERE r.relnamespace = 'public'::regnamespace AND r.relkind IN ('r', 'v')
  AND a.attnum > 0 AND NOT a.attisdropped AND r.relname NOT LIKE '%yoyo%'
ORDER BY r.relname, a.attnum
"""


def of_database(conninfo: str) -> list[tuple[str, str, list[Row]]]:
    """Tables and views of a migrated database: name, what it holds, columns."""
    found: dict[str, tuple[str, list[Row]]] = {}
    with connect(conninfo) as connection, connection.cursor() as cursor:
        cursor.execute(_COLUMNS)
        for place, is_view, held, name, kind, meaning, nullable in cursor.fetchall():
            about = f"{'View' if is_view else 'Table'}. {held or ''}"
            same = _OTHER.match(meaning)
            row = Row(
                f"{place}.{name}", name, _short(kind), meaning, nullable, same[1] if same else None
            )
            found.setdefault(place, (about, []))[1].append(row)
    return [(place, *rest) for place, rest in found.items()]


def _short(kind: str) -> str:
    return kind.replace(" with time zone", "").replace("double precision", "double")


def of_analysis() -> list[tuple[str, list[Row]]]:
    """The views for analysis that are no table of the volume: name, columns."""
    found: dict[str, list[Row]] = defaultdict(list)
    with analysis.empty_volume() as connection:
        columns = connection.sql(
            "SELECT table_name, column_name, data_type, COALESCE(comment, '') "
            "FROM duckdb_columns() WHERE NOT internal ORDER BY table_name, column_index"
        ).fetchall()
    for place, name, kind, meaning in columns:
        if place not in TABLES:
            found[place].append(Row(f"{place}.{name}", name, kind, meaning, "null" in meaning))
    return list(found.items())


def dictionary(conninfo: str) -> str:
    """The text of the page.

    Args:
        conninfo: Of a database that is migrated.
    """
    files, database = list(of_files()), of_database(conninfo)
    every = [row for _, _, rows in (*files, *database) for row in rows]
    same = {row.place: row.same for row in every if row.same}

    def origin(place: str) -> str:
        while place in same:
            place = same[place]
        return place

    places: dict[str, set[str]] = defaultdict(set)
    for row in every:
        places[origin(row.place)].add(row.place)

    def table(rows: Iterable[Row]) -> str:
        lines = [
            "| column | type | unit | meaning | null | elsewhere |",
            "|---|---|---|---|---|---|",
        ]
        for row in rows:
            others = places[origin(row.place)] - {row.place}
            names = ", ".join(f"`{each}`" for each in sorted(others))
            cells = (f"`{row.name}`", row.type, row.unit, row.told, row.null, names)
            lines.append(f"| {' | '.join(each.replace('|', chr(92) + '|') for each in cells)} |")
        return "\n".join(lines) + "\n"

    parts = [_HEADER, "## Files\n"]
    parts += [f"### {name}\n\n{lies}\n\n{table(rows)}" for name, lies, rows in files]
    parts.append("## Database\n")
    parts += [f"### {name}\n\n{held}.\n\n{table(rows)}" for name, held, rows in database]
    parts.append(
        "## Views for analysis\n\n`earmark analyse` asks these; `manifests`, `transcripts` and "
        "`classes` are the files\nabove with the columns `date`, `asr` and `policy` of their "
        "folders.\n"
    )
    parts += [f"### {name} (analysis)\n\n{table(rows)}" for name, rows in of_analysis()]
    return "\n".join(parts)


def main() -> None:
    """Migrate an empty database and write the page."""
    with migrated() as conninfo:
        DICTIONARY.write_text(dictionary(conninfo), encoding="utf-8")


if __name__ == "__main__":
    main()
