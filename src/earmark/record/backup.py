"""Copies of the database, made and restored with PostgreSQL's own programs.

What the workflow loaded can be loaded again from the volume; what people decided can't.  A
backup is a folder in pg_dump's directory format: one consistent moment, whole tables in
parallel, and any part of it can be restored alone (PostgreSQL's documentation, "SQL Dump").
"""

import logging
import os
import re
import shutil
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

from psycopg2.extensions import parse_dsn

from earmark import locks
from earmark.errors import EarmarkError
from earmark.files import sync
from earmark.record.database import LOCK_SCHEMA, connect, display, grant_roles, require_schema
from earmark.record.embedded_server import PROGRAMS

logger = logging.getLogger(__name__)


def backup(conninfo: str, folder: Path, keep: int, jobs: int = 2) -> Path:
    """Dump the database into a new folder, check it, and remove the oldest ones.

    Args:
        conninfo: As :func:`earmark.record.database.connection_string` returns it.
        folder: Where backups lie, one folder each, named by the time in UTC; made if missing.
        keep: How many to keep, the newest ones.
        jobs: Tables dumped at once.

    Returns:
        The new folder. One that a killed run left is called ``….partial`` and is removed here.
        Of two at once, the second waits for the first.

    Raises:
        EarmarkError: there is no pg_dump of the server's version, it fails, or the dump can't be
            read.
        OSError: the folder can't be written.
    """
    programs = _Programs(conninfo)
    with locks.exclusive(folder / ".lock", "backup"):
        for left in folder.glob("*.partial"):
            shutil.rmtree(left)
        while (target := folder / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}").exists():
            time.sleep(0.1)
        partial = target.with_name(f"{target.name}.partial")
        options = ["--format=directory", f"--jobs={jobs}", "--compress=1", "--no-owner"]
        programs.run("pg_dump", *options, f"--file={partial}")
        if not programs.has_tables(partial):
            raise EarmarkError(
                f"{partial} holds no tables; look whether {display(conninfo)} has any"
            )
        partial.rename(target)
        sync(folder)  # before others are removed
        for old in backups(folder)[:-keep]:
            logger.info("removed %s, as %d are kept", old, keep)
            shutil.rmtree(old)
    return target


def backups(folder: Path) -> list[Path]:
    """The whole backups in a folder, the oldest first."""
    return sorted(path for path in folder.glob("[0-9]*Z") if (path / "toc.dat").is_file())


def restore(conninfo: str, backup_folder: Path, jobs: int = 2) -> None:
    """Bring a backup into an empty database.

    Args:
        conninfo: As :func:`earmark.record.database.connection_string` returns it.
        backup_folder: What :func:`backup` made.
        jobs: Tables restored at once.

    Raises:
        EarmarkError: the database holds tables already, the backup can't be read (the database is
            empty again then), or the schema is another version's (`earmark migrate` brings an
            older one up to date).
    """
    programs = _Programs(conninfo)
    if not programs.has_tables(backup_folder):
        raise EarmarkError(f"{backup_folder} is no backup that pg_restore can read")
    with connect(conninfo) as connection, connection.cursor() as cursor:
        cursor.execute(LOCK_SCHEMA)  # another restore or a migration is waited for
        cursor.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
        ((count,),) = cursor.fetchall()
        connection.commit()
        if count:
            raise EarmarkError(
                f"{display(conninfo)} holds {count} tables already; restore into an empty database "
                "(createdb), and rename it once it is whole"
            )
        into = f"--dbname={parse_dsn(conninfo).get('dbname', '')}"
        try:
            programs.run(
                "pg_restore", "--exit-on-error", "--no-owner", "--no-privileges", f"--jobs={jobs}",
                into, backup_folder,
            )  # fmt: skip
        except EarmarkError as error:
            # Half a database would be taken for a whole one; it was empty before.
            cursor.execute("DROP SCHEMA public CASCADE")
            cursor.execute("CREATE SCHEMA public AUTHORIZATION pg_database_owner")
            cursor.execute("GRANT USAGE ON SCHEMA public TO PUBLIC")
            connection.commit()
            raise EarmarkError(
                f"{backup_folder} can't be restored, it may be damaged ({error}); "
                f"{display(conninfo)} is empty again"
            ) from error
        cursor.execute("ANALYZE")
        require_schema(connection)
    # Not from the backup, whose server may have had other roles.
    grant_roles(conninfo)


class _Programs:
    """PostgreSQL's programs of the same major version as a server.

    Where to connect is told by the environment: a command line can be read by everybody on the
    machine, and a password may be part of it.
    """

    def __init__(self, conninfo: str) -> None:
        self._environment = os.environ | _libpq(conninfo)
        with connect(conninfo) as connection:
            version = connection.server_version // 10_000
        folders = [Path(found).parent for found in [shutil.which("pg_dump")] if found]
        for folder in (*folders, PROGRAMS):
            if _major(folder / "pg_dump") == version:
                self._folder = folder
                return
        raise EarmarkError(
            f"there is no pg_dump {version}, the server's version; install "
            f"postgresql-client-{version}"
        )

    def run(self, program: str, *options: str | Path) -> str:
        """Run one of them; returns its standard output."""
        command = [self._folder / program, *options]
        ran = subprocess.run(command, env=self._environment, capture_output=True, text=True)
        if ran.returncode:
            raise EarmarkError(f"{program} failed: {ran.stderr.strip()[-500:]}")
        return ran.stdout

    def has_tables(self, folder: Path) -> bool:
        """Whether a dump can be read and holds rows of tables."""
        try:
            return " TABLE DATA " in self.run("pg_restore", "--list", folder)
        except EarmarkError:
            return False


def _major(program: Path) -> int | None:
    """The major version of one of PostgreSQL's programs; None if it isn't there."""
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
    except OSError:
        return None
    found = re.search(r"\(PostgreSQL\) (\d+)", said)
    return int(found[1]) if found else None


def _libpq(conninfo: str) -> dict[str, str]:
    names = {
        "host": "PGHOST",
        "port": "PGPORT",
        "dbname": "PGDATABASE",
        "user": "PGUSER",
        "password": "PGPASSWORD",
        "sslmode": "PGSSLMODE",
        "options": "PGOPTIONS",
    }
    known = parse_dsn(conninfo)
    return {names[key]: str(value) for key, value in known.items() if key in names}
