from __future__ import annotations

import logging
import os
import pickle
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hypothesis
import psycopg2
import pytest
from psycopg2.extensions import make_dsn
from workflow_run import ROWS, Run, copy_volume, write_small_archive

from earmark import locks
from earmark.record import database, embedded_server

pytest_plugins = ["needs"]

# How long an example takes on the clock says nothing on a machine that is shared.
hypothesis.settings.register_profile("earmark", deadline=None)
hypothesis.settings.load_profile("earmark")

# Benchmarks are not installed; a test runs them as `python -m` would, from here.
sys.path.append(str(Path(__file__).parent.parent))
# Several tests run at a time: threads that wait for each other's core burn several times the work.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The commands under test are those of this environment, activated or not.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let some tests be asked for more than their share of a quick run."""
    parser.addoption(
        "--fuzz-inputs",
        type=int,
        default=2000,
        metavar="N",
        help="hostile inputs that tests/test_fuzz.py tries (2000)",
    )
    parser.addoption(
        "--power-cuts",
        type=int,
        default=200,
        metavar="N",
        help="moments at which tests/test_power_cut.py cuts the power (200)",
    )
    parser.addoption(
        "--state-sequences",
        type=int,
        default=144,
        metavar="N",
        help="sequences of events that tests/test_nothing_lost.py tries (144)",
    )
    parser.addoption(
        "--state-seed",
        type=int,
        default=0,
        metavar="N",
        help="another number tries other sequences (0)",
    )


def pytest_itemcollected(item: pytest.Item) -> None:
    """Have `--dist loadgroup` keep each file's tests in one process, but those with own groups."""
    if item.get_closest_marker("xdist_group") is None:
        item.add_marker(pytest.mark.xdist_group(item.path.name))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Call bytes by their argument's name: a gzip's hold the time and differ between processes."""
    return argname if isinstance(val, bytes) else None


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


@pytest.fixture(scope="session")
def embedded() -> None:
    """Tells who starts a server from who calls something else a volume."""


@pytest.fixture(autouse=True)
def logging_of_no_command() -> None:
    """Undo what a command that was called inside this process did to Earmark's logger."""
    speaker = logging.getLogger("earmark")
    speaker.handlers, speaker.propagate = [], True
    speaker.setLevel(logging.NOTSET)


@pytest.fixture
def volume(embedded: None) -> Iterator[Path]:
    """An empty volume for an embedded server, which stops after the test."""
    with open_volume() as root:
        yield root


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """An embedded PostgreSQL for all tests."""
    with open_volume() as root:
        server = embedded_server.use(root / "state" / "postgres")
        _run(server, "ALTER SYSTEM SET fsync = off")  # it need not survive a power cut
        _run(server, "SELECT pg_reload_conf()")
        _run(server, "CREATE DATABASE empty")
        _run(server, "CREATE DATABASE migrated")
        database.migrate(make_dsn(server, dbname="migrated"))
        yield server


@pytest.fixture
def empty_database(postgres: str) -> str:
    """A database without a schema."""
    conninfo = make_dsn(postgres, dbname="empty")
    _run(conninfo, "DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    return conninfo


@pytest.fixture
def migrated_database(postgres: str) -> str:
    """A database with the newest schema and no rows."""
    conninfo = make_dsn(postgres, dbname="migrated")
    _run(
        conninfo,
        "TRUNCATE archives, audio_files, policies, reviewers, review_draws "
        "RESTART IDENTITY CASCADE",
    )
    return conninfo


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder of this session, the same one in all processes of ``pytest -n``."""
    folder = tmp_path_factory.getbasetemp()
    return folder if worker_id == "master" else folder.parent


@pytest.fixture(scope="session")
def small_source(shared_folder: Path) -> Path:
    """A source with one small archive."""
    folder = shared_folder / "small"
    with locks.exclusive(shared_folder / "small.lock"):
        if not folder.exists():
            folder.mkdir()
            write_small_archive(folder)
    return folder


@pytest.fixture(scope="session")
def finished(shared_folder: Path, small_source: Path) -> Path:
    """A volume on which a run over the small archive ended that nobody disturbed: to be copied."""
    volume = shared_folder / "finished"
    with locks.exclusive(shared_folder / "finished.lock"):
        if not volume.exists():
            with open_volume() as made:
                run = Run(
                    shared_folder / "undisturbed", made, source={"directory": str(small_source)}
                )
                code, said = run.finish()
                assert code == 0, said
                (shared_folder / "undisturbed.pickle").write_bytes(pickle.dumps(run.query(ROWS)))
                copy_volume(made, volume)
    return volume


@pytest.fixture(scope="session")
def undisturbed(shared_folder: Path, finished: Path) -> list[tuple]:
    """The rows of a run over the small archive that nobody disturbed."""
    rows: list[tuple] = pickle.loads((shared_folder / "undisturbed.pickle").read_bytes())
    return rows


def _run(conninfo: str, sql: str) -> None:
    connection = psycopg2.connect(conninfo)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(sql)
    connection.close()
