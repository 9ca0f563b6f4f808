"""Which PostgreSQL database to use, how to reach it, and how its schema comes about.

Knows connections and migrations; what the tables hold is known to :mod:`earmark.record.load`
and :mod:`earmark.record.review_queue`.
"""

import glob
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import psycopg2
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import make_dsn, parse_dsn
from yoyo import read_migrations
from yoyo.backends.core.postgresql import PostgresqlBackend
from yoyo.connections import DatabaseURI
from yoyo.migrations import default_migration_table

from earmark import SQL
from earmark.errors import EarmarkError, SetupError, UnavailableError
from earmark.record import embedded_server, roles

logger = logging.getLogger(__name__)

#: Holds the advisory lock "earmark" until the connection ends: for what makes or changes tables.
LOCK_SCHEMA = f"SELECT pg_advisory_lock({0x6561726D61726B})"

#: Variables that override single parts of the address, by libpq's keyword.
_OVERRIDES = {
    "host": "POSTGRES_HOST",
    "port": "POSTGRES_PORT",
    "dbname": "POSTGRES_DB",
    "user": "POSTGRES_USER",
}
#: What they leave out, when there is no ``database.url``.
_FIRST_DESIGN = {"port": "5432", "dbname": "audio_pipeline", "user": "pipeline"}
#: Variables of libpq that name a database to use.
_LIBPQ_CHOICES = ("PGHOST", "PGHOSTADDR", "PGSERVICE", "PGDATABASE")

#: Tables whose columns hold what clips are called, what is said in them, and what was said of it.
_WITH_TEXTS = ("audio_files", "transcripts", "classifications", "review_decisions", "review_drafts")

_SECRETS = "put it into ~/.pgpass, PGPASSWORD or POSTGRES_PASSWORD"


def connection_string(
    config_url: str | None, volume_root: Path, *, keep_embedded: bool = False
) -> str:
    """Find the database to use.

    ``database.url`` of the configuration, with the parts that ``POSTGRES_HOST``, ``_PORT``,
    ``_DB``, ``_USER`` and ``_PASSWORD`` of the environment override; without a URL, those
    variables alone; without any of them, libpq's own (``PGHOST``, ``PGHOSTADDR``,
    ``PGSERVICE``, ``PGDATABASE``); and else the embedded server, which is then started and
    held until this process exits.

    Args:
        config_url: ``database.url``, as a URL or as libpq keywords; None or empty if unset.
        volume_root: ``volume.root``; the embedded server lies in ``state/postgres`` below.
        keep_embedded: Let an embedded server run on until :func:`stop_embedded`.

    Returns:
        A libpq connection string.  It may hold the password of ``POSTGRES_PASSWORD``:
        show :func:`display` of it instead.

    Raises:
        EarmarkError: ``database.url`` is malformed or holds a password, or the embedded
            server can't be started.
    """
    password = os.environ.get("POSTGRES_PASSWORD") or None
    overrides = {
        keyword: value for keyword, name in _OVERRIDES.items() if (value := os.environ.get(name))
    }
    if config_url:
        try:
            parameters = parse_dsn(config_url)
        except psycopg2.ProgrammingError:
            # libpq's own words may quote a password, so neither they nor the URL are shown.
            raise SetupError(
                "database.url of the configuration is not a PostgreSQL address; expected "
                "postgresql://user@host:5432/database"
            ) from None
        if "password" in parameters:
            raise SetupError(
                "database.url of the configuration holds a password; take it out and " + _SECRETS
            )
        return make_dsn(**parameters | overrides, password=password)
    if overrides:
        return make_dsn(**_FIRST_DESIGN | overrides, password=password)
    if any(os.environ.get(name) for name in _LIBPQ_CHOICES):
        return ""
    return embedded_server.use(_embedded(volume_root), keep=keep_embedded)


def is_embedded(config_url: str | None) -> bool:
    """Whether :func:`connection_string` would choose the embedded server."""
    chosen = (*_OVERRIDES.values(), *_LIBPQ_CHOICES)
    return not config_url and not any(os.environ.get(name) for name in chosen)


def display(conninfo: str) -> str:
    """Write a connection as a URI without its password, for people, logs and ``psql``."""
    known = parse_dsn(conninfo) if conninfo else _libpq_environment()
    known.pop("password", None)
    user, database = (quote(known.pop(key, ""), safe="") for key in ("user", "dbname"))
    address = ""
    if re.fullmatch(r"[\w.-]+", known.get("host", "")):  # no socket, IPv6 address or list
        address = ":".join(known.pop(key) for key in ("host", "port") if key in known)
    rest = "&".join(f"{key}={quote(value, safe='/:,')}" for key, value in known.items())
    return (
        f"postgresql://{user}{'@' if user else ''}{address}/{database}{'?' if rest else ''}{rest}"
    )


def _libpq_environment() -> dict[str, str]:
    keywords = ("host", "hostaddr", "port", "user", "service")
    found = {key: os.environ.get(f"PG{key.upper()}", "") for key in keywords}
    found["dbname"] = os.environ.get("PGDATABASE", "")
    return {key: value for key, value in found.items() if value}


def embedded_exists(volume_root: Path) -> bool:
    """Whether an embedded server has ever run in a volume."""
    return (_embedded(volume_root) / "data").exists()


def stop_embedded(volume_root: Path) -> str:
    """Stop the embedded server of a volume, whoever uses it; says in words what was done."""
    folder = _embedded(volume_root)
    if embedded_server.stop(folder):
        return f"Stopped the embedded server in {folder}."
    return f"No embedded server runs in {folder}."


def _embedded(volume_root: Path) -> Path:
    return volume_root / "state" / "postgres"


class _Trouble(NamedTuple):
    pattern: str  # in libpq's or the server's words
    passes: bool  # by itself, so that waiting makes sense
    remedy: str


_TROUBLES = (
    _Trouble(
        "starting up|shutting down|recovery mode|not yet accepting|closed the connection",
        True,
        "the server is starting or stopping; try again in a minute",
    ),
    _Trouble(
        "too many clients|connection slots|too many connections",
        True,
        "all its connections are taken; close some or raise max_connections",
    ),
    _Trouble(
        "could not translate host name",
        False,
        "the host name is unknown; correct it or the name service",
    ),
    _Trouble(
        "refused|No such file or directory|Connection reset",
        True,
        "nothing listens there; start PostgreSQL or correct host and port",
    ),
    _Trouble(
        "timeout expired|timed out|unreachable|No route",
        True,
        "there is no answer; check address, network and firewall",
    ),
    _Trouble(
        "no password supplied|password authentication failed",
        False,
        f"the password is missing or wrong; {_SECRETS}",
    ),
    _Trouble(
        "pg_hba.conf|authentication failed",
        False,
        "the server does not let this user in from here; correct its pg_hba.conf or the user",
    ),
    _Trouble('database ".*" does not exist', False, "there is no such database; run createdb"),
    _Trouble('role ".*" does not exist', False, "there is no such role; run createuser"),
    _Trouble("invalid .*value", False, "a setting of the connection is malformed; correct it"),
)


@contextmanager
def connect(
    conninfo: str, patience_seconds: float = 15.0, waiting: Callable[[str], None] | None = None
) -> Iterator[Connection]:
    """Open a connection for one transaction: committed at the end, rolled back on an error.

    Args:
        conninfo: As :func:`connection_string` returns it.
        patience_seconds: How long to wait for a server that is down or starting.
        waiting: Called over and over meanwhile, with what it waits for and what to do.

    Raises:
        UnavailableError: the database can't be reached, or the connection broke.
        SetupError: the schema is not there, or the role may not do this.
    """
    connection = open_connection(conninfo, patience_seconds, waiting)
    try:
        with explained(conninfo):
            yield connection
            connection.commit()
    finally:
        connection.close()


#: How long it is waited for a table that somebody reads.
LOCK_SECONDS = 30


def forget_deleted(conninfo: str, config_url: str | None) -> bool:
    """Have the server forget deleted clips, as far as it can be told to.

    Statistics of columns hold texts until they are made anew.  Pages of tables, and the
    write-ahead log, hold deleted rows until others are written over them: an embedded server
    writes all tables anew, and throws the log away.  With another one, which may hold terabytes
    that others read, that is left to who runs it (docs/operations.md).

    Args:
        conninfo: As :func:`connection_string` returns it.
        config_url: As it takes it.

    Returns:
        Whether that was all that can be told from here; False if it should be tried again.
    """
    # Others wait behind this while it waits for somebody who reads for long.
    commands = [f"SET lock_timeout = '{LOCK_SECONDS}s'"]
    if is_embedded(config_url):
        commands += ["ANALYZE", "VACUUM FULL", "SELECT pg_switch_wal()", "CHECKPOINT"]
    else:
        commands += [f"ANALYZE {table}" for table in _WITH_TEXTS]
    try:
        with closing(open_connection(conninfo, 15.0)) as connection, explained(conninfo):
            connection.autocommit = True
            with connection.cursor() as cursor:
                for command in commands:
                    cursor.execute(command)
            refused = [notice.strip() for notice in connection.notices]
    except EarmarkError as error:
        refused = [str(error)]
    if refused:
        logger.warning(
            "the database's statistics may hold erased texts until its owner runs ANALYZE: %s"
            if not is_embedded(config_url)
            else "the database may hold erased texts until the next run has it forget them: %s",
            refused[0],
        )
    return not (refused and is_embedded(config_url))


@contextmanager
def explained(conninfo: str) -> Iterator[None]:
    """Say what went wrong between us and the server, and what to do, in our own errors.

    Raises:
        UnavailableError: the connection broke, or the server's disk is full.
        SetupError: the schema is not there, or the role may not do this.
    """
    database = display(conninfo)
    try:
        yield
    except (psycopg2.errors.UndefinedTable, psycopg2.errors.UndefinedColumn) as error:
        raise SetupError(
            f"{database} lacks a table or column of this version ({_first_line(error)}); "
            "run `earmark migrate`"
        ) from error
    except psycopg2.errors.InsufficientPrivilege as error:
        raise SetupError(
            f"{database}: {_first_line(error)}; grant it or use another role"
        ) from error
    except psycopg2.errors.DiskFull as error:
        raise UnavailableError(
            f"the disk of {database} is full ({_first_line(error)}); make room on the server and "
            "run again, nothing is stored twice"
        ) from error
    except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
        raise UnavailableError(
            f"{database} broke off: {_first_line(error)}; run again, nothing is stored twice"
        ) from error


def open_connection(
    conninfo: str, patience_seconds: float, waiting: Callable[[str], None] | None = None
) -> Connection:
    """Open a connection that the caller closes; as :func:`connect` otherwise.

    Raises:
        UnavailableError: the database can't be reached.
    """
    deadline = time.monotonic() + patience_seconds
    pause = 0.1
    while True:
        try:
            connection: Connection = psycopg2.connect(**_parameters(conninfo))
            return connection
        except psycopg2.OperationalError as error:
            message = " ".join(str(error).split())
            trouble = next((t for t in _TROUBLES if re.search(t.pattern, message)), None)
            if trouble is None or not trouble.passes or time.monotonic() + pause > deadline:
                remedy = trouble.remedy if trouble else f"PostgreSQL says: {message}"
                # The cause would be printed with its connection details: not a person's text.
                raise UnavailableError(f"can't reach {display(conninfo)}: {remedy}") from None
            if waiting is not None:
                waiting(f"{display(conninfo)}: {trouble.remedy}")
        time.sleep(pause)
        pause = min(2 * pause, 2.0)


def _parameters(conninfo: str) -> dict[str, Any]:
    """Connection parameters, with what every connection of ours needs."""
    return {
        "connect_timeout": 10,
        "fallback_application_name": "earmark",
        **(parse_dsn(conninfo) if conninfo else {}),
        "client_encoding": "UTF8",
    }


def _first_line(error: psycopg2.Error) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class _Backend(PostgresqlBackend):  # type: ignore[misc]
    """Yoyo on a single connection, so that a kill at any moment does no harm.

    Yoyo applies a migration on one connection and records it on another: killed in
    between, it would apply it again.  And its lock is a row, which stays when the process
    that made it is killed.
    """

    @contextmanager
    def lock(self, timeout: float = 10) -> Iterator[None]:
        """Do without the row: :func:`migrate` holds an advisory lock."""
        yield

    def apply_one(self, migration: Any, force: bool = False, mark: bool = True) -> None:
        """Apply a migration and record it in the same transaction."""
        self.ensure_internal_schema_updated()
        migration.load()
        with self.transaction() if migration.use_transactions else nullcontext():
            migration.process_steps(self, "apply", force=force)
            self.log_migration(migration, "apply")
            if mark:
                self.mark_one(migration, log=False)


def migrate(conninfo: str, folder: Path = SQL / "migrations") -> list[str]:
    """Bring the schema up to date; several processes may do so at once.

    Args:
        conninfo: As :func:`connection_string` returns it.
        folder: The migrations, in yoyo's form.

    Returns:
        The names of the migrations that were applied, in order.

    Raises:
        EarmarkError: the database can't be reached, does not store UTF-8, is newer, or refuses.
    """
    with connect(conninfo) as connection, connection.cursor() as cursor:
        _refuse_newer(connection, folder)
        cursor.execute("SHOW server_encoding")
        encoding = str(cursor.fetchall()[0][0])
    if encoding != "UTF8":
        raise EarmarkError(
            f"{display(conninfo)} stores text as {encoding}; make one with createdb "
            "--encoding=UTF8 --template=template0"
        )
    uri = DatabaseURI("postgresql", None, None, None, None, None, _parameters(conninfo))
    applied: list[str] = []
    try:
        with _Backend(uri, default_migration_table) as backend:
            backend.execute(LOCK_SCHEMA)
            for migration in backend.to_apply(read_migrations(glob.escape(str(folder)))):
                backend.apply_one(migration)
                applied.append(migration.id)
    except psycopg2.Error as error:
        done = ", ".join(applied) or "none"
        raise EarmarkError(
            f"migrating {display(conninfo)} stopped: {_first_line(error)} (applied: {done})"
        ) from error
    return applied


def grant_roles(conninfo: str, *, create: bool = False) -> list[str]:
    """Give the roles of :mod:`earmark.record.roles` that exist what they need of the newest schema.

    Args:
        conninfo: As :func:`connection_string` returns it.
        create: Make those that are missing.

    Returns:
        The groups that were made.

    Raises:
        EarmarkError: the database can't be reached, or the role may not do this.
    """
    with connect(conninfo) as connection:
        require_schema(connection)
        made = roles.create(connection) if create else []
        roles.grant(connection)
    return made


def require_schema(connection: Connection) -> None:
    """Check that the schema is the one this version works with.

    Raises:
        SetupError: it is missing, older or newer.
    """
    folder = SQL / "migrations"
    _refuse_newer(connection, folder)
    pending = _pending(connection, folder)
    if pending:
        raise SetupError(
            f"the schema of the database {connection.info.dbname} lacks {', '.join(pending)}; "
            "run `earmark migrate`"
        )


def _refuse_newer(connection: Connection, folder: Path) -> None:
    unknown = sorted(_applied(connection) - set(_migrations(folder)))
    if unknown:
        raise SetupError(
            f"the schema of the database {connection.info.dbname} is newer than this version of "
            f"Earmark, which does not know {', '.join(unknown)}; update Earmark"
        )


def _pending(connection: Connection, folder: Path) -> list[str]:
    applied = _applied(connection)
    return [name for name in _migrations(folder) if name not in applied]


def _migrations(folder: Path) -> list[str]:
    return sorted(p.stem for p in folder.glob("*.sql") if not p.stem.endswith(".rollback"))


def _applied(connection: Connection) -> set[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass(%s) IS NOT NULL", [default_migration_table])
        if not cursor.fetchall()[0][0]:
            return set()
        cursor.execute(f"SELECT migration_id FROM {default_migration_table}")
        return {row[0] for row in cursor.fetchall()}
