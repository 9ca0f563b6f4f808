"""Questions to the results in the volume, asked in SQL with DuckDB.

The queries lie in ``sql/analysis``, and ``views.sql`` there says which files they read.
Needs no database server and changes nothing.
"""

import datetime
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from earmark import SQL
from earmark.errors import EarmarkError
from earmark.record import spill
from earmark.tables import LATER_COLUMNS, TABLES, Table, read_table
from earmark.volume import Volume

_FOLDER = SQL / "analysis"
_VIEWS = _FOLDER / "views.sql"


def queries() -> dict[str, str]:
    """The queries that :func:`run` knows by name, each with the question it answers."""
    return {
        path.stem: path.read_text(encoding="utf-8").splitlines()[0].removeprefix("-- ")
        for path in sorted(_FOLDER.glob("*.sql"))
        if path != _VIEWS
    }


def run(
    query: str | Path,
    volume_root: Path,
    since: datetime.date | None = None,
    until: datetime.date | None = None,
    *,
    memory_limit: str | None = None,
) -> duckdb.DuckDBPyRelation:
    """Answer a query over the results in a volume.

    Args:
        query: Name of a file in ``sql/analysis`` without its ending, or the path of a file
            with one SQL query over the views of ``views.sql``.
        volume_root: ``volume.root``.  A view without files is empty.
        since: Only archives of this date and later; None for all.
        until: Only archives of this date and earlier; None for all.
        memory_limit: Of DuckDB, as in ``2GB``; None for four fifths of the machine's memory.
            What is more lies in a temporary folder of the volume meanwhile.

    Returns:
        The answer, computed; ``.show()``, ``.fetchall()`` and ``.df()`` give it out.

    Raises:
        EarmarkError: there is no such query, the volume holds no results, or DuckDB can't
            run the query.
    """
    path = _FOLDER / f"{query}.sql" if str(query) in queries() else Path(query)
    if not path.is_file():
        raise EarmarkError(
            f"there is no query {query}; known are {', '.join(queries())}, or give the path of "
            "a file"
        )
    connection = open_volume(volume_root)
    try:
        for name, date in (("since", since), ("until", until)):
            connection.execute(f"SET VARIABLE {name} = ?", [date])
        if memory_limit is not None:
            connection.execute(f"SET memory_limit = '{memory_limit}'")
        with spill.room(Volume(volume_root)) as folder:
            connection.execute("SET temp_directory = ?", [folder])
            return _answer(connection, path)
    except (duckdb.Error, OSError) as error:
        raise EarmarkError(f"{path}: {_explained(error, volume_root)}") from error


def _explained(error: duckdb.Error | OSError, volume_root: Path) -> str:
    if type(error) is duckdb.Error:  # the Parquet reader's own, such as of damaged rows
        return f"{error}; {_damaged_file(Volume(volume_root)) or '`earmark doctor` finds the file'}"
    # These two are of a file that is cut off, or no Parquet file at all.
    is_of_a_file = isinstance(error, duckdb.IOException | duckdb.InvalidInputException)
    return f"{error}; `earmark doctor` finds what is damaged" if is_of_a_file else str(error)


def _damaged_file(volume: Volume) -> str | None:
    """What is wrong with the first file that can't be read: DuckDB doesn't always name it."""
    for table in TABLES.values():
        for path in table.files(volume):
            try:
                read_table(path, table.schema)
            except EarmarkError as error:
                return str(error)
    return None


def why_empty(
    volume_root: Path, since: datetime.date | None = None, until: datetime.date | None = None
) -> str:
    """Why a query may have answered nothing.

    Args:
        volume_root: As :func:`run` takes it.
        since: Likewise.
        until: Likewise.

    Raises:
        EarmarkError: the volume holds no results.
    """
    connection = open_volume(volume_root)
    first, last = connection.sql("SELECT min(date), max(date) FROM manifests").fetchall()[0]
    if first and ((since and since > last) or (until and until < first)):
        return f"no archive is of these dates; they are from {first} to {last}"
    sets = [name for (name,) in connection.sql("SELECT DISTINCT policy FROM classes").fetchall()]
    if len(sets) < 2:
        known = f"only the policy set {sets[0]}" if sets else "no policy set"
        return f"nothing fits the question; {known} has judged, and comparing takes two"
    return "nothing in these archives fits the question"


def _answer(connection: duckdb.DuckDBPyConnection, path: Path) -> duckdb.DuckDBPyRelation:
    answer = connection.sql(path.read_text(encoding="utf-8"))
    if answer is None:
        raise EarmarkError(f"{path} gives no answer; it must hold one SELECT")
    return answer.materialize()


def view_of(table: Table) -> str:
    """The statement that makes the view of a table, as ``views.sql`` has it.

    Args:
        table: One of :data:`earmark.tables.TABLES`.
    """
    times = ", ".join(
        f"{field.name} AT TIME ZONE 'UTC' AS {field.name}"
        for field in table.schema
        if pa.types.is_timestamp(field.type)
    )
    types = ", ".join([*(f"{key}: VARCHAR" for key in table.partitions), "date: DATE"])
    with duckdb.connect() as connection:
        rows = connection.from_arrow(table.schema.empty_table())
        later = [
            f"NULL::{kind} AS {name}"
            for name, kind in zip(rows.columns, rows.types, strict=True)
            if name in LATER_COLUMNS
        ]
    # There may be files alone that were made before.
    completed = f"\nUNION ALL BY NAME SELECT {', '.join(later)} WHERE FALSE" if later else ""
    return f"""\
CREATE OR REPLACE VIEW {table.name} AS
SELECT *{f" REPLACE ({times})" if times else ""}
FROM read_parquet(
    getvariable('volume') || '/{table.pattern()}',
    union_by_name = true,
    hive_partitioning = true,
    hive_types = {{{types}}}
)
WHERE date BETWEEN COALESCE(getvariable('since'), '0001-01-01')::DATE
  AND COALESCE(getvariable('until'), '9999-12-31')::DATE{completed};
"""


def open_volume(volume_root: Path) -> duckdb.DuckDBPyConnection:
    """An in-memory database with the views of ``views.sql``."""
    connection = duckdb.connect(config={"autoinstall_known_extensions": "false"})
    known = _VIEWS.read_text(encoding="utf-8")
    views = (view_of(table) for table in TABLES.values())
    statements = connection.extract_statements(
        "".join([*(view for view in views if view not in known), known])
    )
    volume = re.sub(r"([*?\[{])", r"[\1]", str(volume_root.resolve()))  # it goes into a glob
    found = 0
    with TemporaryDirectory() as empty:
        _lay_out_empty(Path(empty))
        for statement in statements:
            try:
                connection.execute("SET VARIABLE volume = ?", [volume])
                connection.execute(statement)
                found += "getvariable('volume')" in statement.query
            except duckdb.Error as error:
                if "No files found" not in str(error):
                    reason = _explained(error, volume_root)
                    raise EarmarkError(f"{volume_root}: {reason}") from error
                # A view looks for its files whenever it is read; a table is done with them.
                connection.execute("SET VARIABLE volume = ?", [empty])
                connection.execute(statement.query.replace("VIEW", "TABLE", 1))
    if not found:
        raise EarmarkError(
            f"{volume_root} holds no results ({', '.join(TABLES)}, processed); "
            "run the workflow first or correct volume.root"
        )
    connection.execute("SET VARIABLE volume = ?", [volume])
    return connection


@contextmanager
def empty_volume() -> Iterator[duckdb.DuckDBPyConnection]:
    """The same database over a volume that holds nothing, for what its columns are."""
    with TemporaryDirectory() as folder:
        _lay_out_empty(Path(folder))
        yield open_volume(Path(folder))


def _lay_out_empty(volume: Path) -> None:
    """Make a volume of which every file has its columns and no row."""
    for table in TABLES.values():
        none = dict.fromkeys(table.partitions, "none")
        path = Volume(volume).table(table.name, "1970-01-01", "none", **none)
        path.parent.mkdir(parents=True)
        pq.write_table(table.schema.empty_table(), path)
    for file in ("processed/date=1970-01-01/none.json", "state/policies/none.json"):
        (volume / file).parent.mkdir(parents=True)
        (volume / file).touch()
