"""Reads one tar as a stream and tells its members; runs as a process of its own.

Knows the tar format and what a hostile one can do.  A header can make :mod:`tarfile` loop,
recurse or allocate without end, so :func:`earmark.ingest.unpack.unpack_archive` starts
``python -m earmark.ingest.tarstream`` and kills it when its time is up.  What it told until then
holds: standard output carries one JSON object a line, as :func:`read_members` yields them.
It deliberately needs the standard library alone, so that the process starts fast and its
memory can be limited tightly.

Format: POSIX.1-2017, pax, "ustar Interchange Format", and GNU tar's extensions.
"""

import gzip
import hashlib
import io
import json
import os
import re
import resource
import sys
import tarfile
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from earmark.child import die_with_parent

if TYPE_CHECKING:
    from earmark.settings import UnpackLimits

#: Read at once, in bytes; more is not faster.
_CHUNK = 512 << 10
#: Members of a plain tar that are written side by side, each with its hash: two cores' work.
_WRITERS = 2
#: Members whose headers are read ahead of the writers.
_AHEAD = 8
#: A compression ratio says nothing before this much came out: silence compresses well.
_RATIO_COUNTS_FROM = 100 << 20
_LONGEST_NAME = 4096  # PATH_MAX of Linux

#: tarfile holds an extended header in memory, and before Python 3.11.10 the time it takes over
#: one grows with the square of its size (CVE-2024-6232).
_LONGEST_EXTENSION = 16 << 10
_EXTENSIONS = {
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
}

#: Types that are no audio, as they are told to a person.
_SPECIAL = {
    tarfile.LNKTYPE: "hard link",
    tarfile.SYMTYPE: "symbolic link",
    tarfile.CHRTYPE: "character device",
    tarfile.BLKTYPE: "block device",
    tarfile.FIFOTYPE: "named pipe",
}
_MEMORY = 1 << 30  # bytes of address space


class _UnreadableError(Exception):
    """Why reading ends here; its text goes into the list of members."""


class _BoundedStream:
    """The bytes of the tar, unpacked from gzip if need be, as far as they can be had.

    Looks like a file to tarfile, but only goes forward. Damage and exceeded limits end it
    instead of raising: an error would take with it the good bytes of the same read.

    Attributes:
        problem: Why the stream ended early, if it did.
    """

    def __init__(self, raw: BinaryIO, gzipped: bool, limits: "UnpackLimits") -> None:
        self._raw = raw
        self._gzip = gzip.GzipFile(fileobj=raw) if gzipped else None
        self._size = os.fstat(raw.fileno()).st_size
        self._limits = limits
        self._position = 0
        self.problem = ""

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        if position < self._position:
            raise _UnreadableError("a header points backwards")
        if self._gzip is None:
            self._position = min(position, self._size, self._limits.max_total_bytes)
            self._raw.seek(self._position)
        while self._position < position and self._read_some(position - self._position):
            pass

    def read(self, size: int) -> bytes:
        parts = []
        while size > 0 and (data := self._read_some(size)):
            parts.append(data)
            size -= len(data)
        return b"".join(parts)

    def content(self, position: int, size: int) -> Iterator[bytes]:
        """The bytes of one member; those of a plain tar can be read from any thread."""
        if self._gzip is not None:
            self.seek(position)
            while size > 0 and (data := self._read_some(size)):
                yield data
                size -= len(data)
            return
        end = min(position + size, self._limits.max_total_bytes)
        file = self._raw.fileno()
        while position < end and (data := os.pread(file, min(_CHUNK, end - position), position)):
            yield data
            position += len(data)

    def _read_some(self, size: int) -> bytes:
        """Read at least one byte, if there is one, and at most a chunk."""
        if self.problem:
            return b""
        limits = self._limits
        size = min(size, _CHUNK, limits.max_total_bytes - self._position)
        try:
            data = self._raw.read(size) if self._gzip is None else self._gzip.read1(size)
        except Exception as error:  # gzip.BadGzipFile, EOFError, zlib.error
            if _is_of_the_machine(error):
                raise
            self.problem = _said(error)
            return b""
        self._position += len(data)
        ratio = self._position / max(self._raw.tell(), 1)
        if size == 0:
            self.problem = f"more than {limits.max_total_bytes} bytes in all"
        elif self._position > _RATIO_COUNTS_FROM and ratio > limits.max_ratio:
            self.problem = f"gzip expands {ratio:.0f}-fold, allowed {limits.max_ratio:g}-fold"
        return data


class _Header(tarfile.TarInfo):
    """A header that tells its archive how the attempt to read it went."""

    @classmethod
    def fromtarfile(cls, tarfile: Any) -> "_Header":
        archive: _Tar = tarfile
        try:
            header = super().fromtarfile(archive)
        except _END_BLOCK:
            archive.ended = True
            raise
        except _NO_BLOCK:
            raise
        except _BAD_BLOCK as error:
            archive.ended = False
            archive.damage = archive.damage or f"byte {archive.offset}: {error}"
            # Of this kind also behind an extended header, whose reader gives up at any other.
            raise _INVALID_BLOCK(str(error)) from error
        archive.ended = False
        return header

    def _proc_member(self, tarfile: Any) -> tarfile.TarInfo:
        if self.type in _EXTENSIONS and self.size > _LONGEST_EXTENSION:
            raise _INVALID_BLOCK(f"an extended header of {self.size} bytes")
        member: _Header = super()._proc_member(tarfile)  # type: ignore[misc]
        return member


class _Tar(tarfile.TarFile):
    """A tar that knows whether its end-of-archive blocks were the last thing in it.

    tarfile itself ends without an error at the first block that is no header, and where
    an archive was cut between members.
    """

    tarinfo = _Header
    ended = False
    damage = ""


# typeshed doesn't list these; all of Python 3.11 to 3.13 have them.
_END_BLOCK: type[Exception] = getattr(tarfile, "EOFHeaderError")  # noqa: B009
_NO_BLOCK: type[Exception] = getattr(tarfile, "EmptyHeaderError")  # noqa: B009
_BAD_BLOCK: type[Exception] = getattr(tarfile, "HeaderError")  # noqa: B009
_INVALID_BLOCK: type[Exception] = getattr(tarfile, "InvalidHeaderError")  # noqa: B009


def readable(name: str) -> str:
    r"""A member's name as text that every table and terminal can hold.

    Bytes that are not UTF-8 and control characters (NUL and line breaks among them)
    become ``\xff``; no more than 4,096 characters are kept.

    Args:
        name: The name as :mod:`tarfile` decodes it, with ``surrogateescape``.
    """
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    text = re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda match: f"\\x{ord(match[0]):02x}", text)
    return text[:_LONGEST_NAME]


def _said(error: Exception) -> str:
    """An error as a reason; errors of the standard library often have no text."""
    if isinstance(error, _UnreadableError):
        return str(error)
    return f"{type(error).__name__}: {error}".removesuffix(": ")[:300]


def _is_of_the_machine(error: Exception) -> bool:
    """Whether the system refused (disk full, permission), and not the archive is bad."""
    return isinstance(error, OSError) and error.errno is not None


def _write(content: Iterator[bytes], size: int, target: Path) -> str:
    """Write one member's content; returns its SHA-256."""
    # Not tar.extractfile: where the archive ends too early it loses what it had read.
    count = 0
    digest = hashlib.sha256()
    with target.open("xb", buffering=0) as file:
        for chunk in content:
            count += len(chunk)
            _write_all(file, chunk)
            digest.update(chunk)
    if count != size:
        raise _UnreadableError(f"truncated: {count} of {size} bytes")
    return digest.hexdigest()


def _write_all(file: io.FileIO, chunk: bytes) -> None:
    written = file.write(chunk)
    while written < len(chunk):  # the disk is nearly full
        written += file.write(chunk[written:])


class _Members:
    """Writes members to ``folder/{ordinal:06d}`` and tells what became of each.

    Those of a plain tar are written side by side, behind the reading of the headers; what
    is unpacked from gzip can only be had in its order.
    """

    def __init__(
        self,
        stream: _BoundedStream,
        gzipped: bool,
        folder: Path,
        tell: Callable[[dict[str, Any]], None],
    ) -> None:
        self._stream = stream
        self._folder = folder
        self._tell = tell
        self._pool = None if gzipped else ThreadPoolExecutor(_WRITERS)
        self._begun: deque[Future[None]] = deque()

    def write(self, row: dict[str, Any], header: tarfile.TarInfo) -> None:
        """Write a member, or see to it that it is written soon.

        Raises:
            _UnreadableError: This one isn't whole, or one before it.
            OSError: The system refused to read or write.
        """
        self._tell({"row": {**row, "status": "failed", "error": "reading it never ended"}})
        if self._pool is None:
            self._write(row, header.offset_data, header.size)
            return
        self._begun.append(self._pool.submit(self._write, row, header.offset_data, header.size))
        if len(self._begun) > _AHEAD:
            self._begun.popleft().result()

    def finish(self) -> None:
        """Wait until all that was begun is written; raises as :meth:`write` does."""
        if self._pool is not None:
            self._pool.shutdown()
        while self._begun:
            self._begun.popleft().result()

    def _write(self, row: dict[str, Any], position: int, size: int) -> None:
        target = self._folder / f"{row['ordinal']:06d}"
        try:
            digest = _write(self._stream.content(position, size), size, target)
        except Exception as error:
            if _is_of_the_machine(error):
                raise
            target.unlink(missing_ok=True)
            self._tell({"row": {**row, "status": "failed", "error": _said(error)}})
            raise _UnreadableError(f"member {row['ordinal']}: {_said(error)}") from error
        found = {"file": target.name, "bytes": size, "sha256": digest, "status": "ok"}
        self._tell({"row": {**row, **found}})


def read_members(
    archive: Path,
    gzipped: bool,
    destination: Path,
    limits: "UnpackLimits",
    tell: Callable[[dict[str, Any]], None],
) -> None:
    """Write each regular member to ``destination/{ordinal:06d}`` and tell what there was.

    A damaged header doesn't end the reading: the next good one is looked for, so what
    lies behind the damage, or in a second tar appended to the first, is found too.

    Args:
        archive: A tar or a gzip of one.
        gzipped: Which of the two.
        destination: An existing folder without files of such names.
        limits: All but the time is watched here.
        tell: Takes ``{"row": row}`` with the columns of ``earmark.tables.MEMBERS``. A
            regular member comes twice: as ``failed`` before it is read, which holds if the
            process dies, then as what became of it. At last it takes
            ``{"end": {"status": ..., "error": ...}}`` with status ``ok``, ``partial`` or
            ``failed``. Called from several threads.

    Raises:
        OSError: the system refused to read or write.
    """
    ordinal = headers = 0
    problems: list[str] = []
    tar: _Tar | None = None
    with archive.open("rb", buffering=_CHUNK if gzipped else 0) as raw:
        stream = _BoundedStream(raw, gzipped, limits)
        members = _Members(stream, gzipped, destination, tell)
        try:
            tar = _Tar(fileobj=cast("BinaryIO", stream), ignore_zeros=True, encoding="utf-8")
            while (header := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # it would grow for ever
                headers += 1
                if headers > limits.max_members:
                    raise _UnreadableError(f"more than {limits.max_members} members")
                if header.isdir():
                    continue
                row = {"ordinal": ordinal, "member": readable(header.name), "bytes": 0}
                ordinal += 1
                if header.size > limits.max_member_bytes:
                    reason = f"declares {header.size} bytes, allowed {limits.max_member_bytes}"
                    tell({"row": {**row, "status": "failed", "error": reason}})
                    problems = problems or [f"member {row['ordinal']} {reason}"]
                elif not header.isreg() or header.issparse():
                    kind = _SPECIAL.get(header.type, f"entry of type {header.type!r}")
                    kind = "sparse file" if header.issparse() else kind
                    tell({"row": {**row, "status": "skipped", "error": f"not a file: {kind}"}})
                else:
                    members.write(row, header)
        except Exception as error:
            # A hostile header raises nearly anything: OverflowError, ValueError,
            # RecursionError, MemoryError, zlib.error, struct.error, ...
            if _is_of_the_machine(error):
                raise
            problems.append(_said(error))
        try:
            members.finish()
        except _UnreadableError as error:
            problems.append(str(error))
    if stream.problem:
        problems.insert(0, stream.problem)
    if tar is not None and tar.damage:
        problems.insert(0, f"damaged at {tar.damage}")
    if tar is not None and not tar.ended and not problems:
        problems = ["truncated between members: the end-of-archive blocks are missing"]
    status = "ok" if not problems else "partial" if ordinal else "failed"
    tell({"end": {"status": status, "error": "; ".join(problems) or None}})


def _main(parent: str, archive: str, gzipped: str, destination: str, limits: str) -> None:
    die_with_parent(int(parent))
    bounds = cast("UnpackLimits", SimpleNamespace(**json.loads(limits)))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    one_at_a_time = threading.Lock()

    def tell(message: dict[str, Any]) -> None:
        with one_at_a_time:
            print(json.dumps(message), flush=True)

    try:
        read_members(Path(archive), gzipped == "gzip", Path(destination), bounds, tell)
    except BrokenPipeError:
        raise  # nobody listens any more
    except OSError as error:
        refusal = [error.errno, error.strerror, error.filename and str(error.filename)]
        tell({"refused": refusal})


if __name__ == "__main__":
    _main(*sys.argv[1:])
