"""Where archives come from: a folder of this machine, or one of a host reached by SSH.

Loose files of this machine become archives here too (:mod:`earmark.ingest.loose_files`).

Knows how to list a source, copy a file from it and delete one there.  It deliberately knows
nothing of the catalogue: what is taken, and when, is decided elsewhere.  What the host
answers is not trusted, and no name is ever put where a shell would read it.
"""

import contextlib
import errno
import os
import re
import resource
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NoReturn, Protocol

from rich.filesize import decimal

from earmark.errors import EarmarkError, SetupError, UnavailableError
from earmark.ingest import loose_files
from earmark.settings import Settings
from earmark.visible import visible
from earmark.volume import Volume

_BILLION = 1_000_000_000
#: How long a host may take to list its folder or to delete from it.
_ANSWER_SECONDS = 120.0
#: As many as take a few seconds, with a stat(1) and an rm(1) of the host for each.
_DELETED_AT_ONCE = 500
#: A listing of a million archives takes less; an endless one must not fill the memory.
_LONGEST_ANSWER = 256 << 20
#: OpenSSH's own exit status when there is no connection (ssh(1), EXIT STATUS).
_NO_CONNECTION = 255
_LONGEST_MESSAGE = 1 << 20


class SourceUnreachableError(UnavailableError):
    """The source doesn't answer now; nothing is known to be wrong with it.

    Attributes:
        answered: What it had said before the connection was lost.
    """

    answered = b""


@dataclass(frozen=True)
class Listed:
    """A regular file at the source.

    Attributes:
        name: Its name, as :func:`os.fsdecode` gives it: any bytes are possible.
        bytes: Its size.
        modified_ns: When it was last changed, in ns since 1970 (UTC).
    """

    name: str
    bytes: int
    modified_ns: int


class Source(Protocol):
    """What a place that archives come from can do.

    Names are those of files directly in its folder.  All but :meth:`files` are only ever
    given names that :data:`earmark.volume.ARCHIVE_NAME` allows.
    """

    def files(self) -> list[Listed]:
        """List its regular files, in no order.

        Raises:
            SourceUnreachableError: the host doesn't answer.
            EarmarkError: the folder can't be listed.
        """

    def find(self, name: str) -> Listed | None:
        """What a file is now; None if it is not there.

        Raises:
            SourceUnreachableError: the host doesn't answer.
            EarmarkError: the folder can't be listed.
        """

    def copy(
        self, name: str, partial: Path, timeout_seconds: float, inherited: Sequence[int]
    ) -> None:
        """Copy a file, with its time of change.

        Args:
            name: The file.
            partial: Where to.  What is there of it already is taken up again where the source
                can do that, and stays when the copy is interrupted.
            timeout_seconds: Time the copy may take.
            inherited: Descriptors that stay open in child processes.

        Raises:
            SourceUnreachableError: the connection was lost or took too long.
            EarmarkError: the source refused, or the file is gone.
            OSError: this machine refused (disk full, permission).
        """

    def delete(self, files: Iterable[Listed]) -> Iterator[str]:
        """Delete files that are still of the size and time given.

        Yields:
            The name of each that is gone, as soon as that is known.

        Raises:
            SourceUnreachableError: the host doesn't answer.
            EarmarkError: the folder can't be changed.
        """


@contextlib.contextmanager
def _explained(keys: str) -> Iterator[None]:
    """Name the file that the system refused, and the keys of the configuration that lead there."""
    try:
        yield
    except OSError as error:
        refused = error.filename or "folder"
        raise UnavailableError(
            f"the source's {refused} cannot be used ({error.strerror}); create it or correct "
            f"{keys} in the config"
        ) from error


@dataclass(frozen=True)
class FolderSource:
    """A folder that this machine can read.

    Attributes:
        folder: Where archives appear.
    """

    folder: Path

    def __str__(self) -> str:
        return str(self.folder)

    def files(self) -> list[Listed]:
        """List the folder; see :class:`Source`."""
        with _explained("source.directory"), os.scandir(self.folder) as entries:
            return [listed for entry in entries if (listed := _inspect(entry))]

    def find(self, name: str) -> Listed | None:
        """What a file is now; see :class:`Source`."""
        with _explained("source.directory"):
            found = _inspect(self.folder / name)
            if found is None:
                self.folder.stat()  # it may be all of it that is gone
            return found

    def copy(
        self, name: str, partial: Path, timeout_seconds: float, inherited: Sequence[int]
    ) -> None:
        """Copy a file from its start; see :class:`Source`."""
        origin = self.folder / name
        try:
            shutil.copyfile(origin, partial)
            status = origin.stat()
        except FileNotFoundError as error:
            if origin.exists():
                raise
            if not self.folder.is_dir():
                raise SourceUnreachableError(f"the source folder {self.folder} is gone") from error
            raise EarmarkError(f"{origin} has vanished from the source") from error
        os.utime(partial, ns=(status.st_atime_ns, status.st_mtime_ns))

    def delete(self, files: Iterable[Listed]) -> Iterator[str]:
        """Delete unchanged files; see :class:`Source`."""
        for file in files:
            with _explained("source.directory"):
                if self.find(file.name) != file:
                    continue
                (self.folder / file.name).unlink()
            yield file.name


def _inspect(path: Path | os.DirEntry[str]) -> Listed | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None  # it vanished while the folder was listed, or is a broken link
    if not stat.S_ISREG(status.st_mode):
        return None
    return Listed(path.name, status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class LooseSource:
    """Loose files of this machine, put into archives.

    Attributes:
        files_of: The files, and the archives that they are put into.
    """

    files_of: loose_files.LooseFiles

    def __str__(self) -> str:
        return str(self.files_of)

    def files(self) -> list[Listed]:
        """List the archives, after putting new files into new ones; see :class:`Source`."""
        with _explained("source.directory or source.list"):
            return [Listed(cut.name, cut.bytes, cut.modified_ns) for cut in self.files_of.cut()]

    def find(self, name: str) -> Listed | None:
        """What an archive is now; it is gone once one of its files is; see :class:`Source`."""
        with _explained("source.directory or source.list"):
            cut = self.files_of.find(name)
        return Listed(cut.name, cut.bytes, cut.modified_ns) if cut else None

    def copy(
        self, name: str, partial: Path, timeout_seconds: float, inherited: Sequence[int]
    ) -> None:
        """Write an archive from its start; see :class:`Source`."""
        self.files_of.write(name, partial)

    def delete(self, files: Iterable[Listed]) -> Iterator[str]:
        """Refuse; see :class:`Source`."""
        raise EarmarkError(f"Earmark deletes no loose files, and {self} has no others")

    def check(self) -> None:
        """Read what there is, and write nothing; raises as :meth:`files`."""
        with _explained("source.directory or source.list"):
            self.files_of.find_files()


#: What find(1) is asked to print of a file.
_RECORD = re.compile(rb"(\d{1,18}) (-?\d{1,15})(?:\.(\d{1,9})\d*)? (.+)", re.DOTALL)


def _listed(record: bytes) -> Listed:
    """A file as find(1) printed it.

    Raises:
        ValueError: it is something else.
    """
    match = _RECORD.fullmatch(record)
    if match is None:
        raise ValueError(record)
    size, seconds, fraction, name = match.groups()
    # A time before 1970 is refused later on, whatever its fraction.
    modified_ns = int(seconds) * _BILLION + int((fraction or b"").ljust(9, b"0"))
    return Listed(os.fsdecode(name), int(size), modified_ns)


#: Deletes each file of standard input, "SIZE TIME NAME" a line, that is still so; tells which.
_DELETE = """
cd -- "$1" || exit 1
while read -r bytes modified name; do
  if [ "$(stat -c '%s %.9Y' -- "./$name" 2> /dev/null)" = "$bytes $modified" ]; then
    rm -f -- "./$name" && printf '%s\\n' "$name"
  fi
done
:
"""


@dataclass(frozen=True)
class SshSource:
    """A folder of a host that OpenSSH reaches; the host has GNU find, stat and rsync.

    Attributes:
        host: An alias of the SSH configuration, or a host's name.
        ssh_config: The SSH configuration file.
        folder: Where archives appear on the host.
        stall_seconds: A connection that is silent for so long is taken for lost.
    """

    host: str
    ssh_config: Path
    folder: str
    stall_seconds: int = 60

    def __str__(self) -> str:
        return f"{self.host}:{self.folder}"

    def files(self) -> list[Listed]:
        """List the folder in one call; see :class:`Source`."""
        return self._find()

    def find(self, name: str) -> Listed | None:
        """What a file is now; see :class:`Source`."""
        return next(iter(self._find("-name", name)), None)

    def copy(
        self, name: str, partial: Path, timeout_seconds: float, inherited: Sequence[int]
    ) -> None:
        """Copy a file with rsync, going on from what is there of it; see :class:`Source`.

        The partial file itself is written to (``--inplace``), not a temporary file beside it:
        that one would be lost when rsync is killed.  rsync compares what is there with the
        source, and at the end the checksum of the whole (rsync(1)).
        """
        command = [
            *("rsync", "--times", "--inplace", "--ignore-times", "--protect-args"),
            f"--timeout={self.stall_seconds}",
            f"--rsh={_rsync_words(self._ssh())}",
            *("--", f"{self.host}:{self._inside()}{name}", str(partial)),
        ]
        _require("rsync", "rsync")
        # The child dies with this process, and holds what is inherited until it is dead.
        guarded = [sys.executable, "-P", "-m", "earmark.child", str(os.getpid()), *command]
        with subprocess.Popen(
            guarded, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, pass_fds=inherited,
        ) as process:  # fmt: skip
            assert process.stderr is not None
            with _stopped_after(timeout_seconds, process) as out_of_time:
                said = b""
                while more := os.read(process.stderr.fileno(), 1 << 16):
                    said = (said + more)[-_LONGEST_MESSAGE:]
                process.wait()
        if out_of_time.is_set():
            raise SourceUnreachableError(
                f"copying {name} from {self} took longer than {timeout_seconds / 60:g} minutes "
                "(transfer.timeout_minutes); the next attempt goes on from there"
            )
        if process.returncode != 0:
            self._explain_rsync(process.returncode, said.decode(errors="replace"), name, partial)

    def delete(self, files: Iterable[Listed]) -> Iterator[str]:
        """Delete unchanged files, many in one call; see :class:`Source`."""
        lines = (
            f"{file.bytes} {file.modified_ns // _BILLION}.{file.modified_ns % _BILLION:09d} "
            f"{file.name}\n"
            for file in files
        )
        script = ["sh", "-c", _DELETE, "sh"]
        while batch := list(islice(lines, _DELETED_AT_ONCE)):
            try:
                answer = self._call([*script, self.folder], "".join(batch).encode())
            except SourceUnreachableError as error:
                yield from _lines(error.answered)
                raise
            yield from _lines(answer)

    def _find(self, *tests: str) -> list[Listed]:
        # Type, size and time of all in one call; a name can't hold the NUL behind it.
        where = ["find", self._inside(), "-mindepth", "1", "-maxdepth", "1"]
        what = ["-ignore_readdir_race", "-type", "f", *tests, "-printf", r"%s %T@ %f\0"]
        answer = self._call([*where, *what])
        return [self._parse(record) for record in answer.split(b"\0")[:-1]]

    def _parse(self, record: bytes) -> Listed:
        try:
            return _listed(record)
        except ValueError as error:
            raise SetupError(
                f"{self.host} answers {record[:80]!r} where a file's size, time and name were "
                "expected; let no login script there print anything"
            ) from error

    def _inside(self) -> str:
        """The folder with a slash behind it, which also follows a link."""
        return self.folder.rstrip("/") + "/"

    def _ssh(self) -> list[str]:
        options = {
            "BatchMode": "yes",
            "ClearAllForwardings": "yes",
            "ControlMaster": "no",  # a master would stay and hold our pipes open
            "ConnectTimeout": "20",
            "ServerAliveInterval": "15",
            "ServerAliveCountMax": "4",
        }
        settings = [f"-o{key}={value}" for key, value in options.items()]
        return ["ssh", "-F", str(self.ssh_config), *settings]

    def _call(self, command: Sequence[str], given: bytes = b"") -> bytes:
        """Run a command on the host; returns what it printed."""
        if not self.ssh_config.is_file():
            raise SetupError(
                f"source.ssh_config names {self.ssh_config}, which is missing; create it, with a "
                f"Host {self.host} in it, or name another, such as ~/.ssh/config"
            )
        _require("ssh", "openssh-client")
        with tempfile.TemporaryFile() as question, tempfile.TemporaryFile() as complaints:
            question.write(given)
            question.seek(0)
            process = subprocess.Popen(
                [*self._ssh(), "--", self.host, shlex.join(command)],
                stdin=question, stdout=subprocess.PIPE, stderr=complaints,
            )  # fmt: skip
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (_LONGEST_MESSAGE,) * 2)
            assert process.stdout is not None
            with process, _stopped_after(_ANSWER_SECONDS, process) as out_of_time:
                answer = process.stdout.read(_LONGEST_ANSWER)
                if len(answer) == _LONGEST_ANSWER:
                    raise SetupError(f"{self.host} answers without end")
            complaints.seek(0)
            said = _last_line(complaints.read().decode(errors="replace"))
        lost = process.returncode == _NO_CONNECTION or process.returncode < 0
        if out_of_time.is_set() or lost:
            silent = f"{self.host} did not answer within {_ANSWER_SECONDS:g} seconds"
            error = SourceUnreachableError(
                silent if out_of_time.is_set() else f"{self.host} cannot be reached: {said}"
            )
            error.answered = answer
            raise error
        if process.returncode != 0:
            raise SetupError(
                f"the folder {self.folder} of {self.host} cannot be used ({said}); "
                "create it or correct source.directory in the config"
            )
        return answer

    def _explain_rsync(self, code: int, said: str, name: str, partial: Path) -> NoReturn:
        """Raise what an exit status of rsync means (rsync(1), EXIT VALUES)."""
        line = _last_line(said)
        ours = [each for each in said.splitlines() if "[receiver" in each or "[generator" in each]
        for number in (errno.ENOSPC, errno.EDQUOT):
            if any(f"({number})" in each for each in ours):
                raise OSError(number, os.strerror(number), str(partial))
        if code in (23, 24):
            raise EarmarkError(f"{name} cannot be copied from {self}: {line}")
        if code in (10, 12, 30, 35, _NO_CONNECTION) or code < 0:
            there = partial.stat().st_size if partial.exists() else 0
            raise SourceUnreachableError(
                f"the connection to {self.host} was lost with {decimal(there)} of {name} here; "
                f"the next attempt goes on from there ({line})"
            )
        raise EarmarkError(f"rsync ended with status {code} for {name} from {self}: {line}")


@contextlib.contextmanager
def _stopped_after(seconds: float, process: subprocess.Popen[bytes]) -> Iterator[threading.Event]:
    """End a process that takes too long, and whenever the block is left in a hurry."""
    out_of_time = threading.Event()

    def stop() -> None:
        out_of_time.set()
        process.terminate()

    timer = threading.Timer(seconds, stop)
    timer.start()
    try:
        yield out_of_time
    except BaseException:
        process.kill()
        raise
    finally:
        timer.cancel()


def _lines(answer: bytes) -> list[str]:
    """The lines that came whole."""
    return os.fsdecode(answer).split("\n")[:-1]


def _last_line(said: str) -> str:
    """What a program complained of at last, as text for a log."""
    lines = [line for line in said.splitlines() if line.strip()] or ["no reason given"]
    return visible(lines[-1])[:300].rstrip(".")


def _rsync_words(words: Sequence[str]) -> str:
    """Words as rsync's --rsh splits them: double quotes, doubled inside (rsync(1), --rsh)."""
    return " ".join('"' + word.replace('"', '""') + '"' for word in words)


def _require(program: str, package: str) -> None:
    if shutil.which(program) is None:
        raise SetupError(
            f"the program {program} is missing, which source.kind ssh needs; "
            f"install it (on Debian: apt install {package})"
        )


def source_of(settings: Settings) -> Source:
    """The source that the configuration names."""
    source = settings.source
    if source.kind == "folder":
        return FolderSource(Path(source.directory))
    if source.kind in ("files", "list"):
        return LooseSource(
            loose_files.LooseFiles(
                folder=Path(source.directory),
                listing=Path(source.list) if source.kind == "list" and source.list else None,
                volume=Volume.of(settings),
                most_files=source.archive_files,
                most_bytes=source.archive_bytes,
                still_seconds=source.latency_minutes * 60,
            )
        )
    return SshSource(
        host=source.host,
        ssh_config=Path(source.ssh_config),
        folder=source.directory,
        stall_seconds=settings.transfer.stall_seconds,
    )
