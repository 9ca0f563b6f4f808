"""Archives byte by byte, sound and forged, and what unpacking makes of them."""

import io
import os
import tarfile
import zipfile

import pytest

from earmark.ingest.tarstream import read_members
from earmark.ingest.unpack import MEMBERS_FILE, unpack_archive
from earmark.settings import UnpackLimits
from earmark.tables import MEMBERS, read_provenance, read_table

BLOCK = 512
END = bytes(2 * BLOCK)
NO_LIMITS = UnpackLimits()
#: A size that no file has, as tar writes large ones.
HUGE = b"\x80" + (2**62).to_bytes(11, "big")


def entry(name, content=b"", kind=tarfile.REGTYPE, link="", fmt=tarfile.GNU_FORMAT):
    """One member as it lies in a tar."""
    info = tarfile.TarInfo(os.fsdecode(name) if isinstance(name, bytes) else name)
    info.type, info.linkname = kind, link
    info.size = len(content)
    padding = -len(content) % BLOCK
    return info.tobuf(fmt, "utf-8", "surrogateescape") + content + bytes(padding)


def header_with(member, fields):
    """A member whose header has other bytes at some places, under a checksum that is right."""
    header = bytearray(member[:BLOCK])
    for start, value in fields.items():
        header[start : start + len(value)] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + member[BLOCK:]


def forged(size_field, name=b"forged.mp3", kind=b"0"):
    """A ustar header with a valid checksum and any twelve bytes as its size."""
    header = tarfile.TarInfo(name.decode()).tobuf(tarfile.USTAR_FORMAT)
    return header_with(header, {124: size_field, 156: kind})


@pytest.fixture
def unpack(tmp_path):
    """Unpack bytes and return (rows, provenance, contents by file name)."""

    def run(data, name="a.tar.gz", limits=None):
        archive = tmp_path / name
        archive.write_bytes(data)
        destination = tmp_path / "unpacked" / name
        unpack_archive(archive, destination, limits)
        outside = {path for path in tmp_path.rglob("*") if destination not in path.parents}
        assert outside == {archive, destination, destination.parent}
        contents = {
            path.name: path.read_bytes()
            for path in destination.iterdir()
            if path.name != MEMBERS_FILE
        }
        table = destination / MEMBERS_FILE
        return read_table(table, MEMBERS).to_pylist(), read_provenance(table), contents

    return run


def statuses(rows):
    return [row["status"] for row in rows]


def read_all(folder, data, gzipped):
    """Read bytes as an archive; returns rows by ordinal, the end, and the files."""
    archive, destination = folder / "archive", folder / "out"
    archive.write_bytes(data)
    destination.mkdir()
    messages: list[dict] = []
    read_members(archive, "gzip" if gzipped else None, destination, NO_LIMITS, messages.append)
    rows = {message["row"]["ordinal"]: message["row"] for message in messages[:-1]}
    assert {path.name for path in folder.iterdir()} == {"archive", "out"}
    files = {path.name: path.read_bytes() for path in sorted(destination.iterdir())}
    assert list(rows) == list(range(len(rows)))
    kept = {row["file"]: row for row in rows.values() if row["status"] == "ok"}
    assert kept.keys() == files.keys()
    for name, content in files.items():
        assert kept[name]["bytes"] == len(content)
    for row in rows.values():
        assert row["status"] == "ok" or row["error"]
        assert row["member"].isprintable() or row["member"].encode()
    end = messages[-1]["end"]
    assert (end["status"] == "ok") == (end["error"] is None)
    return rows, end, files


def pack_zip():
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        file.writestr("../../evil.mp3", b"x" * 1000)
    return data.getvalue()
