"""Opens archives that nobody vouches for: what they are, and what is in them.

Knows what kinds of archive are taken and how to keep a hostile one in bounds.  It
deliberately knows nothing of audio: every regular member is extracted, under a name of
our own, and the tar's names are text in a table and never a path.
"""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import Any, Literal

import pylibmagic  # noqa: F401  # brings the library that magic loads
from msgspec.structs import asdict

import magic  # isort: skip

from earmark.settings import UnpackLimits
from earmark.tables import MEMBERS, write_table

logger = logging.getLogger(__name__)

ArchiveType = Literal["tar", "gzip", "tar.gz", "unknown"]

#: Name of the list of members within an unpacked archive's folder.
MEMBERS_FILE = "members.parquet"

_HEAD = 64 << 10
_BLOCK = 512
#: What libmagic calls a tar; the last two when the first header's checksum is wrong.
_TARS = {"application/x-tar", "application/x-gtar", "application/x-ustar"}
#: What a broken decoder or library dies of; other signals come from outside.
_CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE}


def _starts_a_tar(head: bytes) -> bool:
    # A tar without members is zeros alone, which libmagic can't tell from other data.
    empty = len(head) >= 2 * _BLOCK and not any(head[: 2 * _BLOCK])
    return empty or magic.from_buffer(head[: 2 * _BLOCK], mime=True) in _TARS


def detect_archive_type(path: Path) -> ArchiveType:
    """What an archive is by its content; its name is not believed.

    Args:
        path: Any file; no more than its first 64 KiB are read.

    Returns:
        ``tar``; ``tar.gz``, a gzip with a tar inside; ``gzip``, one of something else;
        or ``unknown``.

    Raises:
        OSError: the file can't be read.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if _starts_a_tar(head):
        return "tar"
    if magic.from_buffer(head, mime=True) not in ("application/gzip", "application/x-gzip"):
        return "unknown"
    try:
        inside = zlib.decompressobj(wbits=31).decompress(head, 2 * _BLOCK)
    except zlib.error:
        return "gzip"
    return "tar.gz" if _starts_a_tar(inside) else "gzip"


def _describe(path: Path, kind: ArchiveType) -> str:
    """Why a file is no archive of ours."""
    if kind == "gzip":
        return "not a tar: gzip of something else"
    with path.open("rb") as file:
        head = file.read(_HEAD)
    return f"not a tar: {magic.from_buffer(head, mime=True)}" if head else "not a tar: empty file"


def _read_in_child(
    archive: Path, kind: ArchiveType, destination: Path, limits: UnpackLimits
) -> tuple[list[dict[str, Any]], str, str | None]:
    """Run :mod:`earmark.ingest.tarstream` within its time; returns rows, status and reason."""
    compression = "gzip" if kind == "tar.gz" else "none"
    bounds = json.dumps(asdict(limits))
    command = [sys.executable, "-P", "-m", "earmark.ingest.tarstream", str(os.getpid())]
    rows: dict[int, dict[str, Any]] = {}
    end: dict[str, Any] = {"status": "", "error": None}
    out_of_time = threading.Event()
    with subprocess.Popen(
        [*command, str(archive), compression, str(destination), bounds],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    ) as child:

        def stop() -> None:
            out_of_time.set()
            child.kill()

        timer = threading.Timer(limits.timeout_seconds, stop)
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
            reason = f"not read within {limits.timeout_seconds:g} seconds"
        elif -child.returncode in _CRASHES:
            reason = f"the reader died of {signal.Signals(-child.returncode).name}"
        else:
            raise ChildProcessError(f"{archive}: the reader ended with code {child.returncode}")
        end = {"status": "partial" if rows else "failed", "error": reason}
        for row in rows.values():
            if row["status"] == "failed":
                (destination / f"{row['ordinal']:06d}").unlink(missing_ok=True)
    return list(rows.values()), end["status"], end["error"]


def unpack_archive(archive: Path, destination: Path, limits: UnpackLimits | None = None) -> None:
    """Extract an archive's regular members and list all of its members.

    Content goes to ``destination/{ordinal:06d}``, whatever the member is called; the
    list is ``destination/members.parquet``. All of it is made in the hidden folder
    ``.{name}.partial`` beside the destination and renamed at the end, so a destination
    that is there is complete. The list's metadata say ``archive_status`` (``ok``,
    ``partial``, ``failed``), ``archive_error``, ``archive_type``, ``archive_bytes`` and
    ``seconds``. A bad archive is no error here: it yields what could be salvaged and a
    reason. Folders get no row; links, devices and sparse files are ``skipped``; a member
    that isn't whole is ``failed`` and nothing of it is kept.

    Args:
        archive: The archive, of any name.
        destination: A folder for this archive alone; what lies there is removed first.
        limits: Bounds for hostile archives, :class:`UnpackLimits` by default.

    Raises:
        OSError: the system refused (disk full, permission, the reader was killed from
            outside); nothing is wrong with the archive, and trying again can help.
    """
    started = time.monotonic()
    size = archive.stat().st_size
    kind = detect_archive_type(archive)
    partial = destination.with_name(f".{destination.name}.partial")
    for leftover in (destination, partial):
        if leftover.exists():
            shutil.rmtree(leftover)
    partial.mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    status, error = "failed", None
    try:
        if kind in ("tar", "tar.gz"):
            rows, status, error = _read_in_child(archive, kind, partial, limits or UnpackLimits())
        else:
            error = _describe(archive, kind)
        provenance = {
            "archive_status": status,
            "archive_error": error,
            "archive_type": kind,
            "archive_bytes": size,
            "seconds": f"{time.monotonic() - started:.3f}",
        }
        write_table(partial / MEMBERS_FILE, MEMBERS, rows, provenance)
        partial.rename(destination)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if status == "ok":
        logger.info("%s: %s with %d members", archive.name, kind, len(rows))
    else:
        logger.warning("%s: %s, %d members: %s", archive.name, status, len(rows), error)
