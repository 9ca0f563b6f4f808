"""sql/schema.sql tells what the migrations make of an empty database."""

from collections.abc import Callable, Iterator
from itertools import count

import psycopg2
import pytest
from psycopg2.extensions import make_dsn

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
