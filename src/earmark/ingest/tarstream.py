"""Reads one tar as a stream, or a zip, and tells its members; runs as a process of its own.

Knows what becomes of each member, and what a hostile archive can do: it may take time or memory
without end, so :func:`earmark.ingest.unpack.unpack_archive` starts
``python -m earmark.ingest.tarstream`` and kills it when its time is up.  What it told until then
holds: standard output carries one JSON object a line, as :func:`read_members` yields them.
It deliberately needs the standard library alone (but for Zstandard), so that the process starts
fast and its memory can be limited tightly.
"""

import hashlib
import io
import json
import os
import posixpath
import resource
import signal
import stat
import sys
import threading
import zipfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from earmark.child import die_with_parent
from earmark.ingest import tarheaders
from earmark.ingest.compression import decompressed, is_padding
from earmark.ingest.tarheaders import BLOCK, ZEROS, Header
from earmark.visible import visible

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
#: An extended header, or a list of holes, that is longer than this is not read.
_LONGEST_EXTENSION = 1 << 20
#: A tar is filled with zeros up to a multiple of what is written to a tape at once: 10,240 bytes
#: unless told otherwise, seldom more than 1 MiB.
_RECORD = 10_240
_LONGEST_RECORD = 1 << 20
_NO_MEMBER = "an extended header without its member"
#: Reasons that are told of one archive; the rest is counted.
_MOST_REASONS = 3
#: Types whose name may say that they are a folder, as it did before there was a type for that.
_PLAIN = (b"0", b"\0", b"7")
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_MEMORY = 1 << 30  # bytes of address space


class _UnreadableError(Exception):
    """Why reading ends here; its text goes into the list of members."""


class _BoundedStream:
    """The bytes of the tar, decompressed if need be, as far as they can be had.

    Only goes forward. Damage and exceeded limits end it instead of raising: an error would take
    with it the good bytes of the same read.

    Attributes:
        problem: Why the stream ended early, if it did.
    """

    def __init__(self, raw: BinaryIO, compression: str | None, limits: "UnpackLimits") -> None:
        self._raw = raw
        self._compression = compression
        self._decompressed = decompressed(raw, compression) if compression else None
        self._size = os.fstat(raw.fileno()).st_size
        self._limits = limits
        self._position = 0
        self._holes = 0
        self._claiming = threading.Lock()
        self._peeked = b""
        self.problem = ""

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        if self._decompressed is None:
            self._peeked = b""
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

    def peek(self, size: int) -> bytes:
        """What :meth:`read` would return, which it will return again."""
        self._peeked = self.read(size)
        self._position -= len(self._peeked)
        return self._peeked

    def content(self, position: int, size: int) -> Iterator[bytes]:
        """The bytes of one member; those of a plain tar can be read from any thread."""
        if self._decompressed is not None:
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

    def claim(self, holes: int) -> None:
        """Count the holes of a sparse file as bytes that came out.

        Raises:
            _UnreadableError: they are too many.
        """
        with self._claiming:
            self._holes += holes
        self._check_limits()
        if self.problem:
            raise _UnreadableError(self.problem)

    def _read_some(self, size: int) -> bytes:
        """Read at least one byte, if there is one, and at most a chunk."""
        if self._peeked:
            data, self._peeked = self._peeked[:size], self._peeked[size:]
            self._position += len(data)
            return data
        if self.problem:
            return b""
        size = min(size, _CHUNK, self._limits.max_total_bytes - self._position)
        try:
            if self._decompressed is None:
                data = self._raw.read(size)
            else:
                data = self._decompressed.read1(size)
        except Exception as error:  # EOFError, ValueError, zlib.error, lzma.LZMAError, OSError
            if _is_of_the_machine(error):
                raise
            self.problem = _said(error)
            return b""
        self._position += len(data)
        self._check_limits(at_limit=size == 0)
        return data

    def _check_limits(self, at_limit: bool = False) -> None:
        most = self._limits.max_total_bytes
        expanded = self._position + self._holes
        ratio = expanded / max(self._raw.tell(), 1)
        if at_limit or expanded > most:
            self.problem = f"more than {most} bytes in all"
        elif expanded > _RATIO_COUNTS_FROM and ratio > self._limits.max_ratio:
            what = f"{self._compression} expands" if self._compression else "sparse files expand"
            allowed = f"allowed {self._limits.max_ratio:g}-fold"
            self.problem = f"{what} {ratio:.0f}-fold, {allowed}"


@dataclass
class _Entry:
    """A member as its headers describe it.

    Attributes:
        name: As it stands in the archive.
        kind: ``file``, ``folder``, ``hard link``, or what else it is.
        position: Of its content, in bytes from the beginning of the tar.
        size: Of its content there.
        full_size: Of the file that is made of it.
        link: Name of the member that a hard link links to.
        pieces: Offset and length of each part of a sparse file that is no hole, in order.
        problem: Why its content can't be had, if it can't.
        metadata: What the maker of the tar says of it, a JSON object.
    """

    name: str
    kind: str
    position: int
    size: int
    full_size: int
    link: str = ""
    pieces: list[tuple[int, int]] | None = None
    problem: str = ""
    metadata: str | None = None


class _Tar:
    """The members of a tar, whatever is wrong with some of its headers.

    A block that is no header is passed over until the next one that is.

    Attributes:
        ended: Whether an end, or what fills up behind one, was the last thing read. tar itself
            doesn't mind if it wasn't.
        damages: Where and how the tar is damaged.
    """

    def __init__(self, stream: _BoundedStream, limits: "UnpackLimits") -> None:
        self._stream = stream
        self._limits = limits
        self._global: dict[bytes, bytes] = {}
        self._zeros = 0  # bytes of zeros up to here
        self.ended = False  # the last thing read was an end, or what fills up behind it
        self._lost: int | None = None  # where what is neither began
        self._has_members = False
        self.damages: list[str] = []

    def __iter__(self) -> Iterator[_Entry]:
        stream = self._stream
        extended: dict[bytes, bytes] | None = None
        while len(block := stream.read(BLOCK)) == BLOCK:
            at = stream.tell() - BLOCK
            found = tarheaders.header(block)
            if found is None or found.kind not in tarheaders.EXTENSIONS:
                if extended is not None and block == ZEROS:
                    self._damaged(at, _NO_MEMBER)
                if found is None:
                    self._no_header(block, at)
                else:
                    self._header_again(at)
                    self._has_members = True
                    entry = self._entry(found, block, {**self._global, **(extended or {})})
                    yield entry
                    end = entry.position + entry.size + -entry.size % BLOCK
                    stream.seek(max(end, stream.tell()))
                extended = None
            else:
                self._header_again(at)
                extended = (extended or {}) | self._extension(found, at)
        if extended is not None:
            self._damaged(stream.tell(), _NO_MEMBER)
        self._end(block)

    def _damaged(self, at: int, what: str) -> None:
        self.damages.append(f"damaged at byte {at}: {what}")

    def _header_again(self, at: int) -> None:
        if self._lost is not None:
            self._damaged(self._lost, f"the next header was found {at - self._lost} bytes later")
            self._lost = None
        self._check_zeros(at)
        self._zeros, self.ended = 0, False

    def _check_zeros(self, end: int, at_end: bool = False) -> None:
        """Tell the zeros between members and behind them from a part that is lost."""
        record = max(_RECORD, min(end & -end, _LONGEST_RECORD))
        if self._zeros > (2 * BLOCK + record if self._has_members else _RECORD):
            self._damaged(end - self._zeros, f"nothing but zeros for {self._zeros} bytes")
        elif self._zeros == BLOCK and self._has_members and not at_end:
            self._damaged(end - BLOCK, "zeros in the place of a header")

    def _no_header(self, block: bytes, at: int) -> None:
        if block == ZEROS:
            if self._lost is not None:
                lost = at - self._lost
                self._damaged(self._lost, f"no header for {lost} bytes, up to the end")
                self._lost = None
            self._zeros += BLOCK
            self.ended = True
        elif self._lost is None and not (self.ended and is_padding(block)):
            self._lost = at

    def _end(self, rest: bytes) -> None:
        """Tell what was left when the last block was read."""
        end = self._stream.tell()
        if self._lost is None and self.ended and not is_padding(rest):
            self._lost = end - len(rest)
        if self._lost is not None and self.ended:
            self._damaged(self._lost, "something else follows the end of the archive")
        elif self._lost is not None:
            self._damaged(self._lost, "no header from there on")
        self._check_zeros(end - len(rest), at_end=True)

    def _extension(self, found: Header, at: int) -> dict[bytes, bytes]:
        """Read an extended header; returns what it says of the next member."""
        size = found.size
        if size is None or size > self._limits.max_total_bytes:
            self._damaged(at, "the size of an extended header can't be read")
            return {}
        fields: dict[bytes, bytes] = {}
        if size > _LONGEST_EXTENSION:
            fields, problem = (
                {},
                f"an extended header of {size} bytes, {_LONGEST_EXTENSION} allowed",
            )
        else:
            fields, problem = tarheaders.extension(found.kind, self._stream.read(size))
        if problem:
            self._damaged(at, problem)
        self._stream.seek(at + BLOCK + size + -size % BLOCK)
        if found.kind != b"g":
            return fields
        self._global |= fields
        return {}

    def _entry(self, found: Header, block: bytes, said: dict[bytes, bytes]) -> _Entry:
        """A member by its own header and what others say of it."""
        at = self._stream.tell() - BLOCK
        name = said.get(b"GNU.sparse.name") or said.get(b"path") or found.name
        size = found.size
        if text := said.get(b"size"):
            size = tarheaders.decimal(text)
            if size is None:
                self._damaged(at, "the size in an extended header is no number")
                size = found.size
        entry = _Entry(_decoded(name), "file", at + BLOCK, size or 0, size or 0)
        entry.link = _decoded(said.get(b"linkpath") or found.link)
        entry.metadata = tarheaders.metadata(said.get(tarheaders.METADATA))
        if size is None or size > self._limits.max_total_bytes:
            # Nobody knows where the next header is, so it is looked for at once.
            entry.size = 0
            entry.problem = "its size can't be read" if size is None else f"declares {size} bytes"
            return entry
        if found.kind in tarheaders.FOLDERS or (
            name.endswith(b"/") and not size and found.kind in _PLAIN
        ):
            entry.kind = "folder"
        elif found.kind == tarheaders.HARD_LINK:
            entry.kind = "hard link"
        elif found.kind == tarheaders.CONTINUED:
            entry.problem = "the rest of a file that begins in another volume"
        else:
            entry.kind = tarheaders.NOT_FILES.get(found.kind, "file")
        if entry.kind != "file" and size:
            behind = self._stream.peek(BLOCK)
            if len(behind) < BLOCK or behind == ZEROS or tarheaders.header(behind):
                entry.size = entry.full_size = 0  # the size of what it links to
            elif entry.kind == "hard link":
                entry.kind = "file"  # pax can be told to pack the content too
        if entry.kind == "file":
            try:
                self._find_holes(entry, found, block, said)
            except ValueError:
                entry.problem = "its list of holes is damaged"
        return entry

    def _find_holes(
        self, entry: _Entry, found: Header, block: bytes, said: dict[bytes, bytes]
    ) -> None:
        """Read the list of holes of a sparse file, wherever its format has it.

        Raises:
            ValueError: it can't be right.
        """
        if found.kind == tarheaders.SPARSE:
            full_size = tarheaders.number(block[483:495])
            pieces = self._old_sparse_map(block)
            entry.position = self._stream.tell()
        elif said.get(b"GNU.sparse.major") == b"1":
            full_size = tarheaders.decimal(said.get(b"GNU.sparse.realsize", b""))
            pieces = self._sparse_map_in_content(entry)
        elif b"GNU.sparse.map" in said:
            full_size = tarheaders.decimal(said.get(b"GNU.sparse.size", b""))
            pieces = tarheaders.sparse_map(said[b"GNU.sparse.map"].split(b","))
        else:
            return
        end = stored = 0
        for offset, length in pieces:
            if offset < end:
                raise ValueError("overlapping pieces")
            end = offset + length
            stored += length
        if full_size is None or full_size < end or entry.size < stored:
            raise ValueError("more than there is")
        entry.pieces, entry.full_size = pieces, full_size

    def _old_sparse_map(self, block: bytes) -> list[tuple[int, int]]:
        pieces = tarheaders.old_sparse_map(block, 386, 4)
        more, read = block[482], 0
        while more:
            block = self._stream.read(BLOCK)
            read += BLOCK
            if len(block) < BLOCK or read > _LONGEST_EXTENSION:
                raise ValueError("a list without end")
            pieces += tarheaders.old_sparse_map(block, 0, 21)
            more = block[504]
        return pieces

    def _sparse_map_in_content(self, entry: _Entry) -> list[tuple[int, int]]:
        """Read the list at the beginning of the content: a number a line, their count first."""
        lines: list[bytes] = []
        rest = b""
        wanted = 1
        while len(lines) < wanted:
            block = self._stream.read(BLOCK)
            entry.position += BLOCK
            entry.size -= BLOCK
            if len(block) < BLOCK or entry.size < 0 or len(lines) > _LONGEST_EXTENSION // 4:
                entry.size = max(entry.size, 0)
                raise ValueError("a list without end")
            *found, rest = (rest + block).split(b"\n")
            lines += found
            if len(rest) > BLOCK:
                raise ValueError("a number without end")
            if lines:
                count = tarheaders.decimal(lines[0])
                if count is None or count > _LONGEST_EXTENSION:
                    raise ValueError("not a count")
                wanted = 1 + 2 * count
        return tarheaders.sparse_map(lines[1:wanted])


class _Zip:
    """The members of a zip, which its list at the end tells, and their content.

    Attributes:
        ended: Always, as only a whole list is read.
        damages: None, for the same reason.
        problem: Which limit was exceeded, if one was.
    """

    ended = True

    def __init__(self, raw: BinaryIO, limits: "UnpackLimits") -> None:
        self._raw = raw
        self._limits = limits
        self._expanded = 0
        self._members: list[zipfile.ZipInfo] = []
        self.damages: list[str] = []
        self.problem = ""

    def __iter__(self) -> Iterator[_Entry]:
        try:
            self._zip = zipfile.ZipFile(self._raw)
        except (zipfile.BadZipFile, NotImplementedError) as error:
            raise _UnreadableError(f"the zip's list of members can't be read ({error})") from error
        self._members = self._zip.infolist()
        archive_bytes = os.fstat(self._raw.fileno()).st_size
        for place, member in enumerate(self._members):
            entry = _Entry(member.filename, "file", place, member.file_size, member.file_size)
            if member.is_dir():
                entry.kind = "folder"
            elif stat.S_ISLNK(member.external_attr >> 16):
                entry.kind = "symbolic link"
            elif member.flag_bits & 1:
                entry.problem = "it is encrypted"
            elif member.compress_type not in _ZIP_METHODS:
                entry.problem = f"zip's compression method {member.compress_type} is not taken"
            elif not 0 <= member.header_offset < archive_bytes:
                entry.problem = "the zip's list says that it lies outside of the file"
            yield entry

    def content(self, position: int, size: int) -> Iterator[bytes]:
        """The bytes of one member.

        Args:
            position: Its place in the list.
            size: What the list says of its size, in bytes.
        """
        with self._zip.open(self._members[position]) as file:
            while not self.problem and (part := file.read(min(size, _CHUNK))):
                self._expanded += len(part)
                ratio = self._expanded / os.fstat(self._raw.fileno()).st_size
                if self._expanded > self._limits.max_total_bytes:
                    self.problem = f"more than {self._limits.max_total_bytes} bytes in all"
                elif self._expanded > _RATIO_COUNTS_FROM and ratio > self._limits.max_ratio:
                    allowed = f"allowed {self._limits.max_ratio:g}-fold"
                    self.problem = f"zip expands {ratio:.0f}-fold, {allowed}"
                else:
                    yield part

    def claim(self, holes: int) -> None:
        """A zip has no holes."""


def readable(name: str) -> str:
    r"""A member's name as text that every table and terminal can hold.

    Bytes that are not UTF-8 and characters that nobody sees (NUL, line breaks and changes of
    direction among them) are written out, as ``\xff``; no more than 4,096 characters are kept.

    Args:
        name: The name, decoded as UTF-8 with ``surrogateescape``.
    """
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return visible(text)[:_LONGEST_NAME]


def _decoded(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _said(error: Exception) -> str:
    """An error as a reason in plain words."""
    if isinstance(error, MemoryError):
        return "it takes more memory than an archive may"
    if isinstance(error, EOFError):
        return str(error) or "its data end in the middle"
    if isinstance(error, _UnreadableError | ValueError):
        return str(error)
    return f"the compressed data are damaged ({error})"[:300]


def _is_of_the_machine(error: Exception) -> bool:
    """Whether the system refused (disk full, permission), and not the archive is bad."""
    return isinstance(error, OSError) and error.errno is not None


def _in_places(
    content: Iterator[bytes], pieces: list[tuple[int, int]], full_size: int
) -> Iterator[tuple[int, bytes]]:
    """The content of a sparse file: before each part of it, how many bytes of a hole come first."""
    left = b""
    written = 0
    for offset, length in [*pieces, (full_size, 0)]:
        gap = offset - written
        written = offset + length
        while length:
            left = left or next(content, b"")
            if not left:
                return
            part, left = left[:length], left[length:]
            length -= len(part)
            yield gap, part
            gap = 0
        if gap:
            yield gap, b""


def _write(parts: Iterator[tuple[int, bytes]], size: int, target: Path) -> str:
    """Write one member's content; returns its SHA-256."""
    count = 0
    digest = hashlib.sha256()
    with target.open("xb", buffering=0) as file:
        for hole, part in parts:
            for begun in range(0, hole, _CHUNK):
                digest.update(bytes(min(_CHUNK, hole - begun)))
            if hole:  # stays one, and takes no room
                file.truncate(count + hole)
                file.seek(count + hole)
            count += hole + len(part)
            _write_all(file, part)
            digest.update(part)
    if count != size:
        raise _UnreadableError(f"truncated: {count} of {size} bytes")
    return digest.hexdigest()


def _write_all(file: io.FileIO, part: bytes) -> None:
    written = file.write(part)
    while written < len(part):  # the disk is nearly full
        written += file.write(part[written:])


class _Members:
    """Writes members to ``folder/{ordinal:06d}`` and tells what became of each.

    Those of a plain tar are written side by side, behind the reading of the headers; what
    was compressed can only be had in its order.
    """

    def __init__(
        self,
        stream: _BoundedStream | _Zip,
        compressed: bool,
        folder: Path,
        tell: Callable[[dict[str, Any]], None],
    ) -> None:
        self._stream = stream
        self._folder = folder
        self._tell = tell
        self._pool = None if compressed else ThreadPoolExecutor(_WRITERS)
        self._begun: deque[Future[None]] = deque()

    def write(self, row: dict[str, Any], entry: _Entry) -> None:
        """Write a member, or see to it that it is written soon.

        Raises:
            _UnreadableError: This one isn't whole, or one before it.
            OSError: The system refused to read or write.
        """
        self._tell({"row": {**row, "status": "failed", "error": "reading it never ended"}})
        if self._pool is None:
            self._write(row, entry)
            return
        self._begun.append(self._pool.submit(self._write, row, entry))
        if len(self._begun) > _AHEAD:
            self._begun.popleft().result()

    def finish(self) -> None:
        """Wait until all that was begun is written; raises as :meth:`write` does."""
        if self._pool is not None:
            self._pool.shutdown()
        while self._begun:
            self._begun.popleft().result()

    def _write(self, row: dict[str, Any], entry: _Entry) -> None:
        target = self._folder / f"{row['ordinal']:06d}"
        try:
            content = self._stream.content(entry.position, entry.size)
            if entry.pieces is None:
                parts: Iterator[tuple[int, bytes]] = ((0, part) for part in content)
            else:
                stored = sum(length for _, length in entry.pieces)
                self._stream.claim(entry.full_size - stored)
                parts = _in_places(content, entry.pieces, entry.full_size)
            digest = _write(parts, entry.full_size, target)
        except Exception as error:
            if _is_of_the_machine(error):
                raise
            target.unlink(missing_ok=True)
            self._tell({"row": {**row, "status": "failed", "error": _said(error)}})
            raise _UnreadableError(f"member {row['ordinal']}: {_said(error)}") from error
        found = {"file": target.name, "bytes": entry.full_size, "sha256": digest, "status": "ok"}
        self._tell({"row": {**row, **found}})


def read_members(
    archive: Path,
    compression: str | None,
    destination: Path,
    limits: "UnpackLimits",
    tell: Callable[[dict[str, Any]], None],
) -> None:
    """Write each regular member to ``destination/{ordinal:06d}`` and tell what there was.

    A damaged header doesn't end the reading: the next good one is looked for, so what
    lies behind the damage, or in a second tar appended to the first, is found too.

    Args:
        archive: A tar, compressed or not, or a zip.
        compression: As :func:`earmark.ingest.compression.compression_of` names it, or ``zip``.
        destination: An existing folder without files of such names.
        limits: All but the time is watched here.
        tell: Takes ``{"row": row}`` with the columns of ``earmark.tables.MEMBERS``. A
            regular member comes twice: as ``failed`` before it is read, which holds if the
            process dies, then as what became of it. A hard link has ``same_as`` besides, the
            ordinal of the member that it links to, or None. At last it takes
            ``{"end": {"status": ..., "error": ..., "folders": ...}}`` with status ``ok``,
            ``partial`` or ``failed``, and how many folders there are, which have no row.
            Called from several threads.

    Raises:
        OSError: the system refused to read or write.
    """
    ordinal = folders = 0
    problems: list[str] = []
    places: dict[bytes, int] = {}  # ordinals by what names come to
    with archive.open("rb", buffering=_CHUNK if compression else 0) as raw:
        stream: _BoundedStream | _Zip
        entries: _Tar | _Zip
        if compression == "zip":
            stream = entries = _Zip(raw, limits)
        else:
            stream = _BoundedStream(raw, compression, limits)
            entries = _Tar(stream, limits)
        members = _Members(stream, compression is not None, destination, tell)
        try:
            for entry in entries:
                if ordinal + folders == limits.max_members:
                    raise _UnreadableError(f"more than {limits.max_members} members")
                if entry.kind == "folder":
                    folders += 1
                    continue
                row: dict[str, Any] = {
                    "ordinal": ordinal,
                    "member": readable(entry.name),
                    "bytes": 0,
                    "metadata": entry.metadata,
                }
                ordinal += 1
                if not entry.problem and entry.full_size > limits.max_member_bytes:
                    allowed = f"allowed {limits.max_member_bytes}"
                    entry.problem = f"declares {entry.full_size} bytes, {allowed}"
                if entry.problem:
                    tell({"row": {**row, "status": "failed", "error": entry.problem}})
                    problems.append(f"member {row['ordinal']}: {entry.problem}")
                elif entry.kind == "hard link":
                    reason = "not a file: hard link to none in this archive"
                    link = {"same_as": places.get(_place(entry.link))}
                    tell({"row": {**row, "status": "skipped", "error": reason, **link}})
                elif entry.kind != "file":
                    reason = f"not a file: {entry.kind}"
                    tell({"row": {**row, "status": "skipped", "error": reason}})
                else:
                    try:
                        members.write(row, entry)
                    except _UnreadableError as error:
                        if entries is not stream or stream.problem:
                            raise
                        problems.append(str(error))  # members of a zip don't stand in line
                places[_place(entry.name)] = row["ordinal"]
        except Exception as error:
            if _is_of_the_machine(error):
                raise
            problems.append(_said(error))
        try:
            members.finish()
        except _UnreadableError as error:
            problems.append(str(error))
    problems = entries.damages + problems
    if stream.problem and stream.problem not in problems:
        problems.insert(0, stream.problem)
    if not entries.ended and not problems:
        problems = ["truncated between members: the end-of-archive blocks are missing"]
    status = "ok" if not problems else "partial" if ordinal else "failed"
    if len(problems) > _MOST_REASONS:
        problems[_MOST_REASONS:] = [f"and {len(problems) - _MOST_REASONS} more"]
    told = "; ".join(problems) or None
    tell({"end": {"status": status, "error": told, "folders": folders}})


def _place(name: str) -> bytes:
    """What tells where a name leads, in 16 bytes however long the name is."""
    path = posixpath.normpath("/" + name.lstrip("/")).encode("utf-8", "surrogateescape")
    return hashlib.blake2b(path, digest_size=16).digest()


def _main(parent: str, archive: str, compression: str, destination: str, limits: str) -> None:
    die_with_parent(int(parent))
    bounds = cast("UnpackLimits", SimpleNamespace(**json.loads(limits)))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    signal.setitimer(signal.ITIMER_PROF, bounds.timeout_seconds)  # ends it by SIGPROF
    one_at_a_time = threading.Lock()

    def tell(message: dict[str, Any]) -> None:
        with one_at_a_time:
            print(json.dumps(message), flush=True)

    try:
        read_members(Path(archive), compression or None, Path(destination), bounds, tell)
    except BrokenPipeError:
        raise  # nobody listens any more
    except OSError as error:
        refusal = [error.errno, error.strerror, error.filename and str(error.filename)]
        tell({"refused": refusal})


if __name__ == "__main__":
    _main(*sys.argv[1:])
