"""Loose files, put into archives by number and size, in the order in which they were changed.

Which file is in which archive is written down when the archive is first told of, and an archive
that has been fetched stays as it is: a file that is new or has changed goes into a new one.  The
tar itself is written only when it is fetched.  Knows files and tars; what becomes of an archive is
decided elsewhere.
"""

import csv
import hashlib
import logging
import os
import re
import stat
import tarfile
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from earmark import locks, receipts
from earmark.errors import EarmarkError
from earmark.files import make_folder, partials_of, set_aside, whole
from earmark.ingest.tarheaders import BLOCK, METADATA
from earmark.tables import MANIFEST, read_table
from earmark.visible import visible
from earmark.volume import Volume

logger = logging.getLogger(__name__)

#: What an archive is called; the date is that of its newest file.
_NAME = re.compile(r"files_([0-9]{4}-[0-9]{2}-[0-9]{2})_[0-9a-f]{12}\.tar")
#: The last moment that has a date of four digits, in s since 1970.
_LAST_MOMENT = 253_402_300_799
#: As much as the headers of a tar are given room for elsewhere, and far more than metadata need.
_LONGEST_METADATA = 64 << 10
#: In levels; how deep a reader of JSON gets differs between versions of Python and of databases.
_DEEPEST_METADATA = 30
_CHUNK = 1 << 20
_FOLDER = os.O_RDONLY | os.O_DIRECTORY


class Member(msgspec.Struct, frozen=True):
    """A file as it was when it was put into an archive.

    Attributes:
        path: Below the folder; any bytes but NUL.
        bytes: Its size.
        modified_ns: When it was last changed, in ns since 1970.
        metadata: What the list says of it, a JSON object.
        known_by: Of a file that is gone from an archive that was fetched, all that is kept: a hash
            by which it is recognised should it come back.
    """

    path: bytes
    bytes: int
    modified_ns: int
    metadata: str | None = None
    known_by: str | None = None


def _header(member: Member) -> bytes:
    """What stands before a file's content in a tar."""
    info = tarfile.TarInfo(os.fsdecode(member.path))
    info.size = member.bytes
    info.mtime = min(max(member.modified_ns // 10**9, 0), _LAST_MOMENT)
    info.mode = 0o644
    if member.metadata:
        info.pax_headers = {METADATA.decode(): member.metadata}
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


class Cut(msgspec.Struct, frozen=True):
    """An archive of loose files.

    Attributes:
        name: Its name, which no other one has: it tells by a hash what is in it.
        bytes: Size of the tar.
        modified_ns: When the newest of its files was last changed, in ns since 1970.
        members: Its files, oldest first.
    """

    name: str
    bytes: int
    modified_ns: int
    members: tuple[Member, ...]

    @property
    def date(self) -> str:
        """The UTC day of ``modified_ns``."""
        return datetime.fromtimestamp(self.modified_ns / 1e9, UTC).date().isoformat()


def _known_by(member: Member) -> str:
    """What tells a file, unchanged, from all others, and tells nobody its name."""
    text = b"%s\0%d %d" % (member.path, member.bytes, member.modified_ns)
    return hashlib.sha256(text).hexdigest()


def forget(volume: Volume, archive: str, ordinals: Collection[int]) -> None:
    """Forget what a list said of some members of an archive, if it is one of loose files.

    The archive stays as long as it was, should it be written again; its files' names go when the
    files do.

    Args:
        volume: The shared volume.
        archive: The archive's name.
        ordinals: The members' positions.

    Raises:
        OSError: the volume can't be read or written.
    """
    path = _file(volume, archive)
    if not path.exists():
        return
    with locks.exclusive(volume.cuts_lock, "erase"):
        for partial in partials_of(path):
            partial.unlink()
        try:
            cut = _read(path)
        except ValueError:  # nobody can say which part of it is of these members
            with whole(path) as partial:  # the next look at the source makes it anew
                partial.touch()
            return
        members = [
            msgspec.structs.replace(member, metadata="{" + " " * (size - 2) + "}")
            if ordinal in ordinals and (size := len((member.metadata or "").encode()))
            else member
            for ordinal, member in enumerate(cut.members)
        ]
        if members != list(cut.members):
            _write(path, msgspec.structs.replace(cut, members=tuple(members)))


def _file(volume: Volume, name: str) -> Path:
    return volume.cuts / f"{name}.json"


def _read(path: Path) -> Cut:
    return msgspec.json.decode(path.read_bytes(), type=Cut)


def _write(path: Path, cut: Cut) -> None:
    with whole(path) as partial:
        partial.write_bytes(msgspec.json.encode(cut))


@dataclass(frozen=True)
class LooseFiles:
    """Files below a folder, and the archives that they are put into.

    Hidden files, links, and what is no regular file are left out, and so is the volume if it
    lies there.

    Attributes:
        folder: What they lie below.
        listing: A table that names those that count, with metadata; None for all of them.
        volume: Where it is written down which file is in which archive.
        most_files: So many of them at most are put into one archive.
        most_bytes: So many bytes at most, but for a larger file, which gets one of its own.
        still_seconds: A file is put into an archive once it hasn't changed for so long.
    """

    folder: Path
    listing: Path | None
    volume: Volume
    most_files: int = 1000
    most_bytes: int = 1 << 30
    still_seconds: float = 0.0

    def __str__(self) -> str:
        if self.listing is None:
            return f"loose files below {self.folder}"
        return f"loose files below {self.folder} that {self.listing} names"

    def cut(self) -> list[Cut]:
        """Put new files into new archives.

        An archive of which a file has gone or changed is taken apart unless it was fetched, and
        what is left of it goes into another one.

        Returns:
            All archives whose files are all as they were.

        Raises:
            EarmarkError: as :meth:`find_files`.
            OSError: likewise.
        """
        now = self.find_files()
        with locks.exclusive(self.volume.cuts_lock, "cut"):
            return self._cut_alone(now)

    def find_files(self) -> dict[bytes, Member]:
        """The files as they are now, by path.

        Raises:
            EarmarkError: the list can't be read, or names a file twice or outside the folder.
            OSError: the folder can't be read.
        """
        found = self._listed() if self.listing else dict.fromkeys(self._walk())
        now = {
            path: Member(path, status.st_size, status.st_mtime_ns, metadata)
            for path, metadata in found.items()
            if (status := self._status(path))
        }
        if self.listing and len(now) < len(found):
            first = visible(os.fsdecode(next(path for path in found if path not in now)))
            logger.warning(
                "%d of the files that %s names are not below %s, or are no plain files that can be "
                "read, %s among them", len(found) - len(now), self.listing, self.folder, first,
            )  # fmt: skip
        return now

    def _cut_alone(self, now: Mapping[bytes, Member]) -> list[Cut]:
        there: list[Cut] = []
        done: set[tuple[bytes, int, int]] = set()
        gone: set[str] = set()
        for path in sorted(self.volume.cuts.glob("*.json")):
            try:
                cut = _read(path)
            except ValueError as error:
                remade = self._remade(path.stem, now)
                set_aside(path, error)
                if remade is None:
                    continue  # its files go into new archives
                _write(path, cut := remade)
            is_there = all(_same(now.get(member.path), member) for member in cut.members)
            if is_there:
                there.append(cut)
            elif not self._is_fetched(cut):
                path.unlink()
                continue
            elif now:  # a folder without any file may be one that is not mounted
                cut = self._without_gone(cut, path, now)
            done.update((each.path, each.bytes, each.modified_ns) for each in cut.members)
            gone.update(each.known_by for each in cut.members if each.known_by)
        new = [
            member
            for member in now.values()
            if (member.path, member.bytes, member.modified_ns) not in done
            and not (gone and _known_by(member) in gone)
            and self._is_still(member)
        ]
        new.sort(key=lambda member: (member.modified_ns, member.path))
        for members in self._parts(new):
            cut = _cut_of(members)
            make_folder(self.volume.cuts)
            _write(self._file(cut.name), cut)
            there.append(cut)
        return there

    def _remade(self, name: str, now: Mapping[bytes, Member]) -> Cut | None:
        """What is in an archive, by its receipt and manifest; None if it is not done.

        A file is one of its members if it has the name and size of one and was there by then.
        """
        match = _NAME.fullmatch(name)
        receipt = receipts.read(self.volume.receipt(match[1], name)) if match else None
        size, modified_ns = (receipt.bytes, receipt.modified_ns) if receipt else (None, None)
        if match is None or size is None or modified_ns is None:
            return None
        try:
            manifest = read_table(self.volume.manifest(match[1], name), MANIFEST)
        except EarmarkError as error:
            logger.warning("%s; the files of %s are taken again", error, name)
            return None
        known = {
            (visible(os.fsdecode(each.path)), each.bytes): each
            for each in now.values()
            if each.modified_ns <= modified_ns
        }
        members = tuple(
            known.get((row["member"], row["source_bytes"]), Member(b"", 0, 0))
            for row in manifest.select(["member", "source_bytes"]).to_pylist()
        )
        return Cut(name, size, modified_ns, members)

    def _without_gone(self, cut: Cut, path: Path, now: Mapping[bytes, Member]) -> Cut:
        """Forget files that are gone from an archive, which can't be written again."""
        left = tuple(
            Member(b"", 0, 0, known_by=_known_by(each))
            if each.path and each.path not in now and self._is_gone(each.path)
            else each
            for each in cut.members
        )
        if left != cut.members:
            cut = msgspec.structs.replace(cut, members=left)
            _write(path, cut)
        return cut

    def _is_gone(self, path: bytes) -> bool:
        """Whether a file is gone for certain, rather than out of reach."""
        folder = os.fsencode(self.folder)
        try:
            os.lstat(folder + b"/" + path)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError:
            return False
        else:
            return False
        while path:
            path = path.rpartition(b"/")[0]
            try:
                with os.scandir(folder + b"/" + path) as entries:
                    next(entries, None)
            except (FileNotFoundError, NotADirectoryError):
                continue  # the folder is gone with it, if the one above says so
            except OSError:
                return False
            return True
        return False

    def find(self, name: str) -> Cut | None:
        """An archive whose files are all as they were; None if there is none of this name.

        Raises:
            OSError: the folder can't be read.
        """
        self.folder.stat()
        path = self._file(name)
        if not path.exists():
            return None
        cut = self._read(path)
        for member in cut.members:
            status = self._status(member.path) if member.path else None
            if status is None or (status.st_size, status.st_mtime_ns) != (
                member.bytes,
                member.modified_ns,
            ):
                return None
        return cut

    def write(self, name: str, target: Path) -> None:
        """Write an archive as a tar.

        Raises:
            EarmarkError: one of its files has vanished or changed.
            OSError: the system refused.
        """
        cut = self._read(self._file(name))
        with target.open("wb") as tar:
            for member in cut.members:
                tar.write(_header(member))
                with self._open(member.path) as file:
                    left = member.bytes
                    while left and (data := file.read(min(left, _CHUNK))):
                        tar.write(data)
                        left -= len(data)
                    status = os.fstat(file.fileno())
                if left or (status.st_size, status.st_mtime_ns) != (
                    member.bytes,
                    member.modified_ns,
                ):
                    raise EarmarkError(f"{self._shown(member.path)} changed; a later run takes it")
                tar.write(bytes(-member.bytes % BLOCK))
            tar.write(bytes(2 * BLOCK))
        os.utime(target, ns=(cut.modified_ns, cut.modified_ns))

    def _parts(self, members: Iterable[Member]) -> Iterator[list[Member]]:
        part: list[Member] = []
        size = 0
        for member in members:
            if part and (len(part) == self.most_files or size + member.bytes > self.most_bytes):
                yield part
                part, size = [], 0
            part.append(member)
            size += member.bytes
        if part:
            yield part

    def _is_still(self, member: Member) -> bool:
        """Whether a file hasn't changed lately; a time to come says nothing of that."""
        return not 0 <= time.time() - member.modified_ns / 1e9 < self.still_seconds

    def _is_fetched(self, cut: Cut) -> bool:
        volume, name = self.volume, cut.name
        known = (volume.incoming(name), volume.manifest(cut.date, name))
        return any(path.exists() for path in (*known, volume.receipt(cut.date, name)))

    def _file(self, name: str) -> Path:
        return _file(self.volume, name)

    def _read(self, path: Path) -> Cut:
        try:
            return _read(path)
        except FileNotFoundError as error:
            raise EarmarkError(f"{path.stem} has vanished from {self}") from error
        except ValueError as error:
            raise EarmarkError(
                f"{path}, which says what is in {path.stem}, is damaged ({error}); "
                "`earmark discover` makes it anew, and so does the next run"
            ) from error

    def _walk(self) -> Iterator[bytes]:
        with os.scandir(self.folder):  # walk() says nothing of a folder that isn't there
            pass
        own = self.volume.root.resolve()

        def warn(error: OSError) -> None:
            logger.warning("%s is left out: %s", visible(str(error.filename)), error.strerror)

        for folder, folders, files in os.walk(self.folder, onerror=warn):
            here = Path(folder)
            folders[:] = [
                name
                for name in folders
                if not name.startswith(".") and (here / name).resolve() != own
            ]
            for name in files:
                if not name.startswith("."):
                    yield os.fsencode((here / name).relative_to(self.folder))

    def _status(self, path: bytes) -> os.stat_result | None:
        """What a path leads to without any link; None unless it is a file that can be read."""
        with suppress(EarmarkError), self._open(path) as file:
            return os.fstat(file.fileno())
        return None

    def _open(self, path: bytes) -> BinaryIO:
        """Open a regular file without following a link below the folder.

        Raises:
            EarmarkError: it has vanished, can't be read, or is no regular file any more.
        """
        *folders, name = path.split(b"/")
        opened = []
        try:
            opened.append(os.open(self.folder, _FOLDER))
            for folder in folders:
                opened.append(os.open(folder, _FOLDER | os.O_NOFOLLOW, dir_fd=opened[-1]))
            # A named pipe would wait for who writes to it.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            file = os.fdopen(os.open(name, flags, dir_fd=opened[-1]), "rb")
        except OSError as error:
            raise EarmarkError(
                f"{self._shown(path)} has vanished or can't be read ({error.strerror})"
            ) from error
        finally:
            for descriptor in opened:
                os.close(descriptor)
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise EarmarkError(f"{self._shown(path)} is no regular file any more")
        return file

    def _shown(self, path: bytes) -> str:
        return visible(f"{self.folder}/{os.fsdecode(path)}")

    def _listed(self) -> dict[bytes, str | None]:
        """The list's paths with what it says of each."""
        assert self.listing is not None
        found: dict[bytes, str | None] = {}
        for number, row in enumerate(_rows(self.listing), 1):
            where = f"row {number} of {self.listing}"
            path = row.pop("path", None)
            if not isinstance(path, str) or not path or "\0" in path:
                raise EarmarkError(f"{where} has no path; give each a value in the column 'path'")
            full = os.path.normpath(self.folder / path)
            below = os.path.relpath(full, self.folder)
            if below.split("/")[0] in ("..", "."):
                raise EarmarkError(
                    f"{where} names {visible(path)}, which is not below {self.folder}; correct it, "
                    "or source.directory"
                )
            key = below.encode("utf-8", "surrogateescape")
            if key in found:
                raise EarmarkError(f"{where} names {visible(path)} once more; name each file once")
            said = {name: value for name, value in row.items() if value not in (None, "")}
            if _is_deeper(said, _DEEPEST_METADATA):
                raise EarmarkError(
                    f"{where} has metadata nested more than {_DEEPEST_METADATA} levels deep"
                )
            text = msgspec.json.encode(said, enc_hook=str) if said else b""
            if len(text) > _LONGEST_METADATA:
                raise EarmarkError(
                    f"{where} has {len(text)} bytes of metadata, {_LONGEST_METADATA} allowed"
                )
            found[key] = text.decode() or None
        return found


def _is_deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects are nested deeper than that."""
    if not isinstance(value, dict | list):
        return False
    parts = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper(part, levels - 1) for part in parts)


def _same(now: Member | None, then: Member) -> bool:
    return now is not None and (now.bytes, now.modified_ns) == (then.bytes, then.modified_ns)


def _cut_of(members: list[Member]) -> Cut:
    digest = hashlib.sha256(
        b"".join(b"%d %d %s\0" % (each.bytes, each.modified_ns, each.path) for each in members)
    )
    newest = max(member.modified_ns for member in members)
    newest = min(max(newest, 0), _LAST_MOMENT * 10**9)
    size = 2 * BLOCK + sum(
        len(_header(each)) + each.bytes + -each.bytes % BLOCK for each in members
    )
    cut = Cut("", size, newest, tuple(members))
    return msgspec.structs.replace(cut, name=f"files_{cut.date}_{digest.hexdigest()[:12]}.tar")


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a list, by column.

    Raises:
        EarmarkError: it is of another kind, or damaged.
        OSError: it can't be read.
    """
    try:
        match path.suffix:
            case ".csv":
                with path.open(encoding="utf-8-sig", newline="") as file:
                    rows = csv.DictReader(file, strict=True)
                    for row in rows:
                        if None in row or None in row.values():
                            raise ValueError(f"line {rows.line_num} has another number of columns")
                        row.pop("", None)  # the index, if pandas wrote the list
                        yield row
            case ".jsonl":
                with path.open("rb") as lines:
                    for line in lines:
                        if line.strip():
                            yield msgspec.json.decode(line, type=dict[str, Any])
            case ".parquet":
                with pq.ParquetFile(path) as parquet:
                    for batch in parquet.iter_batches():
                        yield from batch.to_pylist()
            case _:
                raise ValueError("its name has to end in .csv, .jsonl or .parquet")
    except (ValueError, RecursionError, csv.Error, pa.ArrowException) as error:
        raise EarmarkError(
            f"the list {path} (source.list) can't be read: {visible(str(error))}"
        ) from error
