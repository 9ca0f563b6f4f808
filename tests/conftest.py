from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import pytest
from psycopg2.extensions import make_dsn

from earmark import database, embedded_server


@contextmanager
def open_volume() -> Iterator[Path]:
    """A folder that another user can enter, as PostgreSQL must when tests run as root.

    Not ``tmp_path``: every start of pytest closes the folder above that to others.
    """
    with tempfile.TemporaryDirectory(prefix="earmark-", ignore_cleanup_errors=True) as name:
        root = Path(name)
        root.chmod(0o711)
        try:
            yield root
        finally:
            database.stop_embedded(root)


@pytest.fixture
def volume() -> Iterator[Path]:
    """An empty volume for an embedded server, which stops after the test."""
    with open_volume() as root:
        yield root


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """An embedded PostgreSQL for all tests, with a migrated database ``template_earmark``."""
    with open_volume() as root:
        server = embedded_server.use(root / "state" / "postgres")
        _run(server, "ALTER SYSTEM SET fsync = off")  # it need not survive a power cut
        _run(server, "SELECT pg_reload_conf()")
        _run(server, "CREATE DATABASE template_earmark")
        database.migrate(make_dsn(server, dbname="template_earmark"))
        yield server


@pytest.fixture
def empty_database(postgres: str) -> str:
    """A database of this test's own without a schema."""
    return _create(postgres, "template0")


@pytest.fixture
def migrated_database(postgres: str) -> str:
    """A database of this test's own with the newest schema."""
    return _create(postgres, "template_earmark")


def _create(server: str, template: str) -> str:
    name = f"test_{uuid.uuid4().hex}"
    _run(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    return make_dsn(server, dbname=name)


def _run(conninfo: str, sql: str) -> None:
    connection = psycopg2.connect(conninfo)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(sql)
    connection.close()
