"""Bringing many rows into a table by COPY, or by COPY to a temporary table and one upsert.

Knows PostgreSQL's CSV format and what it can't store; knows nothing of what the tables
mean.
"""

import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from duckdb import DuckDBPyConnection
from psycopg2.extensions import cursor as Cursor

# A value in quotes is text, however empty; nothing between two commas is null.
# https://www.postgresql.org/docs/current/sql-copy.html
_CSV = pyarrow.csv.WriteOptions(include_header=False, quoting_style="all_valid")


def copy(cursor: Cursor, table: str, rows: pa.Table, duck: DuckDBPyConnection) -> None:
    """COPY rows into a table.

    Args:
        cursor: In a transaction.
        table: Where to.
        rows: Has columns of that table.  Lists become JSON.
        duck: Writes the JSON; to connect takes DuckDB longer than most archives.
    """
    names, text = ", ".join(rows.column_names), csv(rows, duck)
    cursor.copy_expert(f"COPY {table} ({names}) FROM STDIN (FORMAT csv)", text, size=1 << 18)


def csv(rows: pa.Table, duck: DuckDBPyConnection) -> io.BytesIO:
    """Rows as the text that :func:`copy` sends, without a header."""
    text = io.BytesIO()
    pyarrow.csv.write_csv(_storable_table(rows, duck), text, _CSV)
    text.seek(0)
    return text


def stage(
    cursor: Cursor, table: str, keys: Sequence[str], rows: pa.Table, duck: DuckDBPyConnection
) -> None:
    """COPY rows into a temporary table ``staged_{table}``, dropped at the end of the transaction.

    Args:
        cursor: In a transaction.
        table: The table they are meant for.
        keys: Columns that tell the rows apart; none may be null.
        rows: As :func:`copy` takes them, the keys among the columns.
        duck: As :func:`copy` takes it.
    """
    staged, names = f"staged_{table}", ", ".join(rows.column_names)
    cursor.execute(
        f"CREATE TEMP TABLE {staged} ON COMMIT DROP AS SELECT {names} FROM {table} WITH NO DATA"
    )
    copy(cursor, staged, rows, duck)
    # Without key and statistics the planner compares every new row with every old one.
    cursor.execute(f"ALTER TABLE {staged} ADD PRIMARY KEY ({', '.join(keys)}); ANALYZE {staged}")


def merge(
    cursor: Cursor, table: str, keys: Sequence[str], columns: Sequence[str], stamp: str
) -> None:
    """Upsert the staged rows; an equal row is not touched.

    Args:
        cursor: In the transaction that staged them.
        table: Where to; ``staged_{table}`` holds the rows.
        keys: As staged; columns of a unique constraint of the table too.
        columns: Staged columns, the keys among them.
        stamp: The column that tells when; by itself it makes no difference between rows.
    """
    values = [name for name in columns if name not in (*keys, stamp)]
    assignments = ", ".join(f"{name} = EXCLUDED.{name}" for name in (*values, stamp))
    names = ", ".join(columns)
    cursor.execute(
        f"INSERT INTO {table} ({names}) SELECT {names} FROM staged_{table} "
        f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {assignments} "
        f"WHERE ({', '.join(f'{table}.{name}' for name in values)}) "
        f"IS DISTINCT FROM ({', '.join(f'EXCLUDED.{name}' for name in values)})"
    )


def _storable_table(rows: pa.Table, duck: DuckDBPyConnection) -> pa.Table:
    columns = {
        name: _storable(chunks.combine_chunks())
        for name, chunks in zip(rows.column_names, rows.columns, strict=True)
    }
    lists = {name: column for name, column in columns.items() if pa.types.is_list(column.type)}
    if lists:
        texts = ", ".join(f"to_json({name})::VARCHAR AS {name}" for name in lists)
        written = duck.from_arrow(pa.table(lists)).project(texts).to_arrow_table()
        columns |= zip(written.column_names, written.columns, strict=True)
    return pa.table(columns)


def _storable(values: pa.Array) -> pa.Array:
    """What PostgreSQL can hold: no NUL in text, and no NaN, which it would sort first."""
    kind = values.type
    if pa.types.is_string(kind):
        return pc.replace_substring(values, "\0", "\ufffd")
    if pa.types.is_floating(kind):
        return pc.if_else(pc.is_finite(values), values, pa.scalar(None, kind))
    if pa.types.is_list(kind):
        return pa.ListArray.from_arrays(
            values.offsets, _storable(values.values), mask=values.is_null()
        )
    if pa.types.is_struct(kind):
        fields = [_storable(values.field(number)) for number in range(kind.num_fields)]
        return pa.StructArray.from_arrays(fields, fields=list(kind), mask=values.is_null())
    return values
