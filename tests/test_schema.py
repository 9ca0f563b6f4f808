"""What is told of the schema: sql/schema.sql, the comments, and the data dictionary."""

from collections.abc import Callable, Iterator
from itertools import count

import psycopg2
import pytest
from psycopg2.extensions import make_dsn

from docs.write_data_dictionary import (
    DICTIONARY,
    dictionary,
    of_analysis,
    of_database,
    of_files,
)
from earmark.record.database import connect, migrate
from sql.write_schema import SCHEMA, dump, schema

# What no migration has made yet: an extension, a type, a sequence of its own, a column with a
# function's value, and a table that needs another whose name comes later.
OTHER_OBJECTS = """
CREATE EXTENSION pg_trgm;
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE SEQUENCE steps INCREMENT BY 7;
CREATE FUNCTION usual(mood) RETURNS mood LANGUAGE sql AS 'SELECT $1';
CREATE TABLE z (id INTEGER GENERATED ALWAYS AS IDENTITY (START 5) PRIMARY KEY);
CREATE TABLE a (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    z INTEGER REFERENCES z,
    mood MOOD DEFAULT usual('good'),
    step BIGINT DEFAULT nextval('steps')
);
CREATE VIEW a_view AS SELECT * FROM a JOIN z USING (id);
CREATE INDEX a_mood ON a (mood);
COMMENT ON INDEX a_mood IS 'Of a';
"""


@pytest.fixture
def new_database(postgres: str) -> Iterator[Callable[[], str]]:
    """Makes empty databases, which last as long as the test."""
    names = (f"schema_{number}" for number in count())
    made: list[str] = []
    connection = psycopg2.connect(postgres)
    connection.autocommit = True
    with connection.cursor() as cursor:

        def make() -> str:
            made.append(next(names))
            cursor.execute(f"CREATE DATABASE {made[-1]} TEMPLATE template0")
            return make_dsn(postgres, dbname=made[-1])

        yield make
        for name in made:
            cursor.execute(f"DROP DATABASE {name}")
    connection.close()


def run(conninfo: str, sql: str) -> None:
    with connect(conninfo) as connection, connection.cursor() as cursor:
        cursor.execute(sql)


def test_the_committed_schema_is_what_the_migrations_make_of_an_empty_database(new_database):
    migrated = new_database()
    migrate(migrated)
    assert SCHEMA.read_text(encoding="utf-8") == schema(migrated), "run `make schema`"


def test_the_committed_schema_alone_makes_the_database_that_the_migrations_make(new_database):
    migrated, written = new_database(), new_database()
    migrate(migrated)
    run(written, SCHEMA.read_text(encoding="utf-8"))
    assert dump(written) == dump(migrated)


def test_a_schema_is_written_whole_and_in_an_order_that_can_be_run(new_database):
    first, second = new_database(), new_database()
    run(first, OTHER_OBJECTS)
    run(second, schema(first))
    assert dump(second) == dump(first)


def test_the_committed_data_dictionary_says_what_files_and_database_say(new_database):
    migrated = new_database()
    migrate(migrated)
    assert DICTIONARY.read_text(encoding="utf-8") == dictionary(migrated), "run `make dictionary`"


def untold(rows):
    """Columns of which nobody is told what they hold, what null means or what numbers count."""
    return [
        row.place
        for row in rows
        if not row.told
        or (row.nullable and row.null == "–")
        or (not row.unit and row.type.lower().startswith(("double", "float")))
    ]


def test_every_column_of_a_file_says_what_it_holds():
    assert not untold(row for _, _, rows in of_files() for row in rows)


def test_every_column_of_the_views_for_analysis_says_what_it_holds():
    assert {name for name, _ in of_analysis()} == {"answers", "policies", "receipts"}
    assert not untold(row for _, rows in of_analysis() for row in rows)


def test_every_table_and_column_of_the_database_says_what_it_holds(new_database):
    migrated = new_database()
    migrate(migrated)
    found = of_database(migrated)
    assert not [name for name, held, _ in found if held.endswith(". ")]
    # PostgreSQL calls every column of a view nullable.
    assert not untold(
        row for _, held, rows in found for row in rows if row.meaning == "" or "View" not in held
    )


def test_a_column_without_a_comment_is_missed(new_database):
    migrated = new_database()
    migrate(migrated)
    run(
        migrated,
        "ALTER TABLE archives ADD untold TEXT NOT NULL, ADD half_told TEXT, ADD told_size FLOAT;"
        "COMMENT ON COLUMN archives.half_told IS 'A word';"
        "COMMENT ON COLUMN archives.told_size IS 'A size; null without one'",
    )
    rows = next(rows for name, _, rows in of_database(migrated) if name == "archives")
    assert untold(rows) == ["archives.untold", "archives.half_told", "archives.told_size"]
