"""A PostgreSQL server for a benchmark, with the settings of deploy/cluster/postgresql.conf."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2
from psycopg2.extensions import connection as Connection

from earmark import REPOSITORY
from earmark.record import embedded_server

#: Those that matter to speed.
_SETTINGS = re.compile(
    r"(?m)^(shared_buffers|effective_cache_size|work_mem|maintenance_work_mem|wal_compression"
    r"|max_wal_size|checkpoint_timeout) = (\S+)"
)


@contextmanager
def server(**settings: str) -> Iterator[str]:
    """A server of its own; gives its connection string.

    Args:
        settings: More settings, or other values.
    """
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)  # as root, PostgreSQL runs as another user
        folder = Path(name) / "postgres"
        conninfo = embedded_server.use(folder)
        conf = (REPOSITORY / "deploy/cluster/postgresql.conf").read_text(encoding="utf-8")
        for setting, value in (dict(_SETTINGS.findall(conf)) | settings).items():
            execute(conninfo, f"ALTER SYSTEM SET {setting} = '{value}'")
        embedded_server.stop(folder)
        try:
            yield embedded_server.use(folder)
        finally:
            embedded_server.stop(folder)


@contextmanager
def connection_to(conninfo: str) -> Iterator[Connection]:
    """A plain connection, closed at the end."""
    connection = psycopg2.connect(conninfo)
    try:
        yield connection
    finally:
        connection.close()


def execute(conninfo: str, sql: str) -> None:
    """Run one statement, outside any transaction."""
    with connection_to(conninfo) as connection:
        connection.autocommit = True
        connection.cursor().execute(sql)
