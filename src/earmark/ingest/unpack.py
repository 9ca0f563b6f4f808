"""Opens archives that nobody vouches for: what they are, and what is in them.

Knows what kinds of archive are taken and how to keep a hostile one in bounds.  It
deliberately knows nothing of audio: every regular member is extracted, under a name of
our own, and the tar's names are text in a table and never a path.
"""

import hashlib
import io
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, cast

import pylibmagic  # noqa: F401  # brings the library that magic loads
from msgspec.structs import asdict

import magic  # isort: skip

from earmark.errors import EarmarkError
from earmark.files import make_folder, partial_path, partials_of
from earmark.ingest import tarheaders
from earmark.ingest.compression import compression_of, decompressed
from earmark.ingest.tarheaders import BLOCK
from earmark.ingest.tarstream import readable
from earmark.settings import UnpackLimits
from earmark.tables import MEMBERS, read_table, write_table
from earmark.wording import counted

logger = logging.getLogger(__name__)

ArchiveType = Literal[
    "tar", "tar.gz", "tar.bz2", "tar.xz", "tar.zst", "zip", "gzip", "bzip2", "xz", "zstd", "unknown"
]

#: A compressed tar, by its compression.
_PACKED: dict[str, ArchiveType] = {
    "gzip": "tar.gz",
    "bzip2": "tar.bz2",
    "xz": "tar.xz",
    "zstd": "tar.zst",
}

#: Name of the list of members within an unpacked archive's folder.
MEMBERS_FILE = "members.parquet"

#: How a zip begins: with a member, or with the end of a list of none.
_ZIPS = (b"PK\3\4", b"PK\5\6")
_HEAD = 64 << 10
_COMPRESSED_HEAD = 1 << 20
#: What libmagic calls a tar; the last two when the first header's checksum is wrong.
_TARS = {"application/x-tar", "application/x-gtar", "application/x-ustar"}
#: So many times its computing time a reader may take on the clock.
_PATIENCE = 10
#: What a broken decoder or library dies of; other signals come from outside.
_CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE}


def _starts_a_tar(head: bytes) -> bool:
    """Whether some block is a tar's header; or none is, but the first looks like a damaged one."""
    # A tar without members is zeros alone, which libmagic can't tell from other data.
    empty = len(head) >= 2 * BLOCK and not any(head[: 2 * BLOCK])
    blocks = (head[at : at + BLOCK] for at in range(0, len(head) - BLOCK + 1, BLOCK))
    is_tar = magic.from_buffer(head[: 2 * BLOCK], mime=True) in _TARS
    return empty or is_tar or any(tarheaders.header(block) for block in blocks)


def _compression(path: Path) -> str | None:
    with path.open("rb") as file:
        return compression_of(file.read(8))


def _beginning(path: Path, compression: str) -> bytes:
    """The first bytes of what a compressed file has in it, as far as they can be had."""
    head = b""
    with path.open("rb") as file:
        source = io.BytesIO(file.read(_COMPRESSED_HEAD))
    with suppress(Exception):  # whatever a decoder says of bad data
        unpacked = decompressed(source, compression)
        while len(head) < _HEAD and (more := unpacked.read1(_HEAD - len(head))):
            head += more
    return head


def detect_archive_type(path: Path) -> ArchiveType:
    """What an archive is by its content; its name is not believed.

    Args:
        path: Any file; no more than its first MiB is read.

    Returns:
        ``tar``; ``tar.gz``, ``tar.bz2``, ``tar.xz`` or ``tar.zst``, compressed with a tar inside;
        ``zip``; ``gzip``, ``bzip2``, ``xz`` or ``zstd``, one of something else; or ``unknown``.

    Raises:
        OSError: the file can't be read.
    """
    compression = _compression(path)
    if compression is not None:
        is_tar = _starts_a_tar(_beginning(path, compression))
        return _PACKED[compression] if is_tar else cast("ArchiveType", compression)
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if head.startswith(_ZIPS):
        return "zip"
    return "tar" if _starts_a_tar(head) else "unknown"


def _describe(path: Path, kind: ArchiveType) -> str:
    """Why a file is no archive of ours."""
    if kind != "unknown":
        return f"not an archive: {kind} of something else"
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not head:
        return "not an archive: empty file"
    what = readable(magic.from_buffer(head))[:200]
    return f"not an archive that is taken: {what} ({magic.from_buffer(head, mime=True)})"


def _read_in_child(
    archive: Path, kind: ArchiveType, destination: Path, limits: UnpackLimits
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Run :mod:`earmark.ingest.tarstream` within its time; returns rows and how it ended."""
    names = {packed: compression for compression, packed in _PACKED.items()} | {"zip": "zip"}
    compression = names.get(kind, "")
    bounds = json.dumps(asdict(limits))
    command = [sys.executable, "-P", "-m", "earmark.ingest.tarstream", str(os.getpid())]
    rows: dict[int, dict[str, Any]] = {}
    end: dict[str, Any] = {"status": "", "error": None, "folders": None}
    out_of_time = threading.Event()
    with subprocess.Popen(
        [*command, str(archive), compression, str(destination), bounds],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    ) as child:

        def stop() -> None:
            out_of_time.set()
            child.kill()

        # By its own computing time a bad archive ends the reader; a busy machine does not.
        timer = threading.Timer(_PATIENCE * limits.timeout_seconds, stop)
        timer.start()
        try:
            assert child.stdout is not None
            for line in child.stdout:
                if not line.endswith(b"\n"):
                    break  # killed while it wrote
                message = json.loads(line)
                if "row" in message:
                    rows[message["row"]["ordinal"]] = message["row"]
                elif "end" in message:
                    end = message["end"]
                else:
                    raise OSError(*message["refused"])
            child.wait()
        except BaseException:
            child.kill()
            raise
        finally:
            timer.cancel()
    if not end["status"]:
        if out_of_time.is_set():
            raise EarmarkError(
                f"{archive}: the reader neither computed nor ended in "
                f"{_PATIENCE * limits.timeout_seconds:g} seconds; the volume or the machine is "
                "overloaded or stuck, and a later attempt may do better"
            )
        if -child.returncode == signal.SIGPROF:
            reason = f"not read in {limits.timeout_seconds:g} seconds of computing"
        elif -child.returncode in _CRASHES:
            reason = f"the reader died of {signal.Signals(-child.returncode).name}"
        else:
            raise ChildProcessError(f"{archive}: the reader ended with code {child.returncode}")
        end |= {"status": "partial" if rows else "failed", "error": reason}
        for row in rows.values():
            if row["status"] == "failed":
                (destination / f"{row['ordinal']:06d}").unlink(missing_ok=True)
    _follow_hard_links(rows)
    return list(rows.values()), end


def _follow_hard_links(rows: dict[int, dict[str, Any]]) -> None:
    """Give each hard link the file of the earlier member that it links to."""
    for row in rows.values():
        if "same_as" not in row:
            continue
        original = rows.get(row.pop("same_as"), {"status": "skipped"})
        if original["status"] == "ok":
            row |= {key: original[key] for key in ("file", "bytes", "sha256", "status")}
            del row["error"]
        elif original["status"] == "failed":
            reason = f"hard link to member {original['ordinal']}, which failed"
            row |= {"status": "failed", "error": reason}


def unpack_archive(archive: Path, destination: Path, limits: UnpackLimits | None = None) -> None:
    """Extract an archive's regular members and list all of its members.

    Content goes to ``destination/{ordinal:06d}``, whatever the member is called; the
    list is ``destination/members.parquet``. All of it is made in a hidden folder beside the
    destination (:func:`earmark.files.partial_path`) and renamed at the end, so a destination
    that is there is complete. The list's metadata say ``archive_status`` (``ok``,
    ``partial``, ``failed``), ``archive_error``, ``archive_type``, ``archive_bytes``,
    ``archive_folders`` (how many, as they get no row) and ``seconds``. A bad archive is no
    error here: it yields what could be salvaged and a reason. Symbolic links and devices are
    ``skipped``; a hard link has the file of the member that it links to; a member that isn't
    whole is ``failed`` and nothing of it is kept.

    Args:
        archive: The archive, of any name.
        destination: A folder for this archive alone; what lies there is removed first.
        limits: Bounds for hostile archives, :class:`UnpackLimits` by default.

    Raises:
        EarmarkError: the reader was kept from computing for too long.
        OSError: the system refused (disk full, permission, the reader was killed from
            outside); nothing is wrong with the archive, and trying again can help.
    """
    started = time.monotonic()
    size = archive.stat().st_size
    kind = detect_archive_type(archive)
    partial = partial_path(destination)
    for leftover in (destination, *partials_of(destination)):
        if leftover.exists():
            shutil.rmtree(leftover)
    make_folder(partial.parent)
    partial.mkdir()
    rows: list[dict[str, Any]] = []
    try:
        if kind in ("tar", "zip", *_PACKED.values()):
            rows, end = _read_in_child(archive, kind, partial, limits or UnpackLimits())
        else:
            end = {"status": "failed", "error": _describe(archive, kind), "folders": 0}
        provenance = {
            "archive_status": end["status"],
            "archive_error": end["error"],
            "archive_folders": end["folders"],
            "archive_type": kind,
            "archive_bytes": size,
            "seconds": f"{time.monotonic() - started:.3f}",
        }
        write_table(partial / MEMBERS_FILE, MEMBERS, rows, provenance)
        partial.rename(destination)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if end["status"] == "ok":
        logger.info("%s: %s with %s", archive.name, kind, counted(len(rows), "member"))
    else:
        said = (archive.name, end["status"], counted(len(rows), "member"), end["error"])
        logger.warning("%s: %s, %s: %s", *said)


def is_unpacked(folder: Path) -> bool:
    """Whether a folder is what :func:`unpack_archive` left: the members of its list, whole.

    Reads all of it. Power that fails, a disk, or a person may have taken something away.

    Args:
        folder: The destination that it was given.

    Raises:
        OSError: the system refused to read.
    """
    try:
        members = read_table(folder / MEMBERS_FILE, MEMBERS).to_pylist()
    except EarmarkError as error:
        logger.warning("%s", error)
        return False
    for member in members:
        if member["status"] == "ok" and not _has(folder / member["file"], member["sha256"]):
            logger.warning("member %d in %s is damaged or gone", member["ordinal"], folder)
            return False
    return True


def _has(path: Path, sha256: str) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except FileNotFoundError:
        return False
