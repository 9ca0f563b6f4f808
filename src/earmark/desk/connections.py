"""Connections that are kept open between requests."""

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2
from psycopg2.extensions import connection as Connection

from earmark.errors import UnavailableError
from earmark.record import database

#: How long a request waits for a server that restarts, or for others to end, in seconds.
PATIENCE_SECONDS = 5.0
#: Whatever holds a row for longer, such as a load of its archive, is not waited for.
_LIMITS = "SET lock_timeout = '5s'; SET statement_timeout = '60s'"


class Connections:
    """A few connections to one database, each for one request at a time.

    One that broke, for example as the server was restarted, is replaced without a word.
    """

    def __init__(self, conninfo: str, most: int) -> None:
        """Nothing is opened yet.

        Args:
            conninfo: As :func:`earmark.record.database.connection_string` returns it.
            most: So many at a time; who comes then waits.
        """
        self._conninfo = conninfo
        self._idle: queue.LifoQueue[Connection] = queue.LifoQueue()
        self._slots = threading.BoundedSemaphore(most)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Lend a connection for one transaction: committed at the end, rolled back on an error.

        Raises:
            UnavailableError: the database can't be reached, or the connection broke.
            SetupError: the schema is not there, or the role may not do this.
        """
        if not self._slots.acquire(timeout=2 * PATIENCE_SECONDS):
            raise UnavailableError("all connections to the database are busy; try again")
        try:
            connection = self._alive()
            try:
                with database.explained(self._conninfo), connection:
                    yield connection
            finally:
                if not connection.closed:
                    self._idle.put(connection)
        finally:
            self._slots.release()

    def close(self) -> None:
        """Close those that nobody uses."""
        while not self._idle.empty():
            self._idle.get().close()

    def _alive(self) -> Connection:
        while True:
            try:
                connection = self._idle.get_nowait()
            except queue.Empty:
                connection = database.open_connection(self._conninfo, PATIENCE_SECONDS)
                with connection, connection.cursor() as cursor:
                    cursor.execute(_LIMITS)
                return connection
            try:
                with connection, connection.cursor() as cursor:
                    cursor.execute("SELECT 1")
            except psycopg2.Error:
                connection.close()
            else:
                return connection
