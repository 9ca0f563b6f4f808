"""Bringing many rows into a table: COPY to a temporary table, then one upsert.

Knows PostgreSQL's text format and what it can't store; knows nothing of what the tables
mean.
"""

import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from psycopg2.extensions import cursor as Cursor


def stage(
    cursor: Cursor,
    table: str,
    keys: Sequence[str],
    columns: Sequence[str],
    rows: Iterable[Mapping[str, Any]],
) -> None:
    """COPY rows into a temporary table ``staged_{table}``, dropped at the end of the transaction.

    Args:
        cursor: In a transaction.
        table: The table they are meant for.
        keys: Columns that tell the rows apart; none may be null.
        columns: Columns to fill, the keys among them.
        rows: Values by column; other keys are ignored.
    """
    staged, names = f"staged_{table}", ", ".join(columns)
    cursor.execute(
        f"CREATE TEMP TABLE {staged} ON COMMIT DROP AS SELECT {names} FROM {table} WITH NO DATA"
    )
    text = "".join("\t".join(_copy_text(row[name]) for name in columns) + "\n" for row in rows)
    cursor.copy_expert(f"COPY {staged} ({names}) FROM STDIN", io.StringIO(text))
    # Without key and statistics the planner compares every new row with every old one.
    cursor.execute(f"ALTER TABLE {staged} ADD PRIMARY KEY ({', '.join(keys)}); ANALYZE {staged}")


def merge(
    cursor: Cursor,
    table: str,
    keys: Sequence[str],
    columns: Sequence[str],
    stamps: Mapping[str, str],
) -> None:
    """Upsert the staged rows; an equal row is not touched.

    Args:
        cursor: In the transaction that staged them.
        table: Where to; ``staged_{table}`` holds the rows.
        keys: As staged; columns of a unique constraint of the table too.
        columns: Staged columns, the keys among them.
        stamps: Columns and SQL expressions set when a row is new or changed.
    """
    values = [name for name in columns if name not in keys]
    assignments = ", ".join(f"{name} = EXCLUDED.{name}" for name in (*values, *stamps))
    cursor.execute(
        f"INSERT INTO {table} ({', '.join((*columns, *stamps))}) "
        f"SELECT {', '.join((*columns, *stamps.values()))} FROM staged_{table} "
        f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {assignments} "
        f"WHERE ({', '.join(f'{table}.{name}' for name in values)}) "
        f"IS DISTINCT FROM ({', '.join(f'EXCLUDED.{name}' for name in values)})"
    )


# The text format of COPY: https://www.postgresql.org/docs/current/sql-copy.html
_COPY_ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})


def _copy_text(value: object) -> str:
    value = _storable(value)
    if value is None:
        return r"\N"
    if isinstance(value, list):
        value = json.dumps(value, ensure_ascii=False)
    return str(value).translate(_COPY_ESCAPES)


def _storable(value: object) -> object:
    """What PostgreSQL can hold: no NUL in text, and no NaN, which it would sort first."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_storable(item) for item in value]
    if isinstance(value, dict):
        return {key: _storable(item) for key, item in value.items()}
    return value
