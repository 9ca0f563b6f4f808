"""Archives as other programs write them, and as disks and networks leave them.

Each is held against what GNU tar and bsdtar make of it in the same test: what one of them
extracts is kept with the same bytes, or a row or the archive's reason says that it is not.
"""

import bz2
import contextlib
import gzip
import io
import lzma
import os
import subprocess
import tarfile
import zipfile

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tars import BLOCK, END, entry, header_with, read_all, statuses, unpack

from earmark.settings import UnpackLimits

__all__ = ["unpack"]  # a fixture

pytestmark = pytest.mark.needs("bsdtar")

CLIPS = {f"clip{number}.mp3": bytes([65 + number]) * (700 + number) for number in range(7)}


def pax(records, kind=b"x"):
    """An extended header with this content, whatever it is."""
    named = header_with(entry("PaxHeaders/x", records)[:BLOCK], {156: kind})
    return named + records + bytes(-len(records) % BLOCK)


def record(keyword, value):
    """One field of an extended header, with its length as it must be."""
    text = b" " + keyword + b"=" + value + b"\n"
    length = len(text) + len(str(len(text) + len(str(len(text)))))
    return b"%d" % length + text


def archive_with(odd):
    """Three clips, an odd member or more, and four clips."""
    packed = [entry(name, content) for name, content in CLIPS.items()]
    return b"".join(packed[:3]) + odd + b"".join(packed[3:]) + END


def extracted(program, archive, folder):
    """What a program lists, and the files that it extracts, whatever its exit status."""
    folder.mkdir()
    # Without an owner, since a test may run as root and a header may name anybody.
    command = [program, "-x", "-o", "-f", archive, "-C", folder]
    subprocess.run(command, capture_output=True, check=False, timeout=60)
    subprocess.run(["chmod", "-R", "u+rwX", folder], check=True)
    listed = subprocess.run([program, "-t", "-f", archive], capture_output=True, check=False)
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    contents = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
    return listed.stdout.decode(errors="replace").splitlines(), contents


@pytest.fixture
def compared(tmp_path, unpack):
    """Unpack bytes; returns rows, facts, files by member, and what both programs extract."""

    def run(data, limits=None):
        rows, facts, contents = unpack(data, limits=limits)
        kept = {row["member"]: contents[row["file"]] for row in rows if row["status"] == "ok"}
        archive = tmp_path / "archive"  # GNU tar believes a name
        archive.write_bytes(data)
        theirs = [extracted(program, archive, tmp_path / program) for program in ("tar", "bsdtar")]
        return rows, facts, kept, *theirs

    return run


def reaches(theirs, kept):
    """Whether all files of a program were kept with the same bytes."""
    return {name: kept.get(name) == content for name, content in theirs.items()}


# Compression

TAR = archive_with(b"")
#: A gzip header with a name, an extra field and a comment (RFC 1952, 2.3).
LONG_HEADER = b"\x1f\x8b\x08\x1c" + bytes(6) + b"\4\0abcd" + b"n" * 900 + b"\0" + b"c" * 900 + b"\0"
DEFLATED = gzip.compress(TAR, mtime=0)


@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(b"") + gzip.compress(TAR),
        gzip.compress(TAR[:100]) + gzip.compress(TAR[100:]),
        gzip.compress(b"") * 500 + gzip.compress(TAR),
        b"".join(gzip.compress(TAR[at : at + 200]) for at in range(0, len(TAR), 200)),
        LONG_HEADER + DEFLATED[10:],
    ],
    ids=["empty first", "tiny first", "hundreds empty", "all tiny", "long header"],
)
def test_a_gzip_of_any_members_is_read(compared, data):
    _, facts, kept, _, (_, by_bsdtar) = compared(data)
    assert kept == CLIPS
    assert set(reaches(by_bsdtar, kept).values()) <= {True}
    assert (facts["archive_status"], facts["archive_type"]) == ("ok", "tar.gz")


@pytest.mark.parametrize(
    ("pack", "kind"),
    [
        (bz2.compress, "tar.bz2"),
        (lzma.compress, "tar.xz"),
        (lambda data: pa.compress(data, codec="zstd", asbytes=True), "tar.zst"),
    ],
    ids=["bzip2", "xz", "zstd"],
)
def test_another_compression_named_tar_gz_is_read(compared, pack, kind):
    _, facts, kept, (_, by_tar), (_, by_bsdtar) = compared(pack(TAR[:3000]) + pack(TAR[3000:]))
    assert kept == CLIPS
    assert by_bsdtar == by_tar == kept
    assert (facts["archive_status"], facts["archive_type"]) == ("ok", kind)


@pytest.mark.parametrize("pack", [bz2.compress, lzma.compress], ids=["bzip2", "xz"])
def test_a_compressed_tar_that_is_cut_is_partial(unpack, pack):
    data = entry("a", os.urandom(5000)) + entry("b", os.urandom(2_000_000)) + END
    packed = pack(data)
    rows, facts, _ = unpack(packed[: len(packed) - 500_000])
    assert rows[0]["status"] == "ok" or pack is bz2.compress
    assert facts["archive_status"] == "partial"
    assert "end in the middle" in facts["archive_error"]


# Other archives


def zipped(method=zipfile.ZIP_DEFLATED, contents=CLIPS):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", method) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return data.getvalue()


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_a_zip_is_read(compared, method):
    _, facts, kept, _, (_, by_bsdtar) = compared(zipped(method))
    assert kept == by_bsdtar == CLIPS
    assert (facts["archive_status"], facts["archive_type"]) == ("ok", "zip")


def test_names_and_links_in_a_zip_lead_nowhere(unpack):
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    names = ["/etc/passwd", "../../evil", "folder/", "a\nb", link]
    rows, facts, contents = unpack(zipped(contents=dict.fromkeys(names, b"x")))
    assert statuses(rows) == ["ok", "ok", "ok", "skipped"]
    assert [row["member"] for row in rows[:3]] == ["/etc/passwd", "../../evil", "a\\x0ab"]
    assert rows[3]["error"] == "not a file: symbolic link"
    assert sorted(contents) == ["000000", "000001", "000002"]
    assert (facts["archive_status"], facts["archive_folders"]) == ("ok", "1")


def test_a_damaged_member_of_a_zip_costs_no_other(compared):
    data = zipped(zipfile.ZIP_STORED)
    at = data.index(CLIPS["clip3.mp3"])
    _, facts, kept, _, _ = compared(data[:at] + b"?" + data[at + 1 :])
    assert kept == {name: content for name, content in CLIPS.items() if name != "clip3.mp3"}
    assert facts["archive_status"] == "partial"
    assert facts["archive_error"].startswith("member 3: ")


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [(8, 1, "it is encrypted"), (10, 98, "zip's compression method 98 is not taken")],
)
def test_a_member_of_a_zip_that_is_not_taken_is_a_failed_row(unpack, field, value, reason):
    data = bytearray(zipped(contents={"a": b"1", "b": b"2"}))
    data[data.rindex(b"PK\1\2") + field] = value
    rows, facts, contents = unpack(bytes(data))
    assert [row["error"] for row in rows] == [None, reason]
    assert contents == {"000000": b"1"}
    assert facts["archive_status"] == "partial"


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (UnpackLimits(max_members=3), "more than 3 members"),
        (UnpackLimits(max_total_bytes=1500), "more than 1500 bytes in all"),
        (UnpackLimits(max_member_bytes=703), "declares 704 bytes"),
    ],
)
def test_the_limits_hold_for_a_zip(unpack, limits, reason):
    _, facts, contents = unpack(zipped(), limits=limits)
    assert reason in facts["archive_error"]
    assert facts["archive_status"] == "partial"
    assert sum(map(len, contents.values())) <= 7 * 703


def test_a_zip_bomb_ends_at_the_allowed_ratio(unpack):
    zeros = bytes(1 << 20)
    _, facts, contents = unpack(zipped(contents={f"{n}": zeros for n in range(150)}))
    assert "zip expands" in facts["archive_error"]
    assert 90 < len(contents) <= 101


@pytest.mark.parametrize("offset", [0xFFFFFFF0, 1 << 20])
def test_a_member_that_a_zip_places_outside_of_itself_is_a_failed_row(unpack, offset):
    data = bytearray(zipped())
    entry = data.index(b"PK\1\2")  # of the list: the offset is its bytes 42 to 45
    data[entry + 42 : entry + 46] = offset.to_bytes(4, "little")
    rows, facts, contents = unpack(bytes(data))
    assert [row["status"] for row in rows] == ["failed"] + ["ok"] * 6
    assert rows[0]["error"] == "the zip's list says that it lies outside of the file"
    assert facts["archive_status"] == "partial"
    assert len(contents) == 6


def test_a_zip_whose_list_lies_elsewhere_than_it_says_is_failed_or_read(unpack):
    """And no fault of the machine, for which it would be tried again and again."""
    whole = zipped()
    end = whole.rindex(b"PK\5\6")
    for offset in (0, 1, len(whole), 0x7FFFFFFF):
        data = bytearray(whole)
        data[end + 16 : end + 20] = offset.to_bytes(4, "little")
        _, facts, _ = unpack(bytes(data))
        assert facts["archive_status"] in ("failed", "partial", "ok")


def test_a_zip_without_its_list_is_failed(unpack):
    rows, facts, _ = unpack(zipped()[:-60])
    assert rows == []
    assert facts["archive_status"] == "failed"
    assert "the zip's list of members can't be read" in facts["archive_error"]


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"7z\xbc\xaf\x27\x1c\0\4" + bytes(600), "7-zip archive"),
        (b"Rar!\x1a\7\1\0" + bytes(600), "RAR archive"),
        (b"\4\x22\x4d\x18\x64\x40\xa7" + bytes(600), "LZ4 compressed"),
        (b"LZIP\1\x0c" + bytes(600), "lzip compressed"),
        (b"070701" + b"0" * 600, "cpio archive"),
        (b"!<arch>\ndebian-binary   " + bytes(600), "Debian binary package"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "HTML document"),
        (b"\xff\xfb\x90\x64" + bytes(600), "MPEG ADTS, layer III"),
    ],
)  # fmt: skip
def test_what_is_not_taken_is_called_by_its_usual_name(unpack, head, name):
    rows, facts, _ = unpack(head)
    assert rows == []
    assert facts["archive_status"] == "failed"
    assert facts["archive_error"].startswith("not an archive that is taken: ")
    assert name.lower() in facts["archive_error"].lower()


# One odd header


@pytest.mark.parametrize(
    "odd",
    [
        pax(record(b"GNU.sparse.map", b"0,x") + record(b"GNU.sparse.size", b"9"))
        + entry("odd", b"x"),
        pax(record(b"GNU.sparse.major", b"1") + record(b"GNU.sparse.minor", b"0"))
        + entry("odd", b"x" * 600),
        pax(record(b"size", b"many")) + entry("odd", b"x"),
        pax(record(b"size", b"-1")) + entry("odd", b"x"),
        pax(b"9" * 9000 + b" path=odd\n") + entry("odd", b"x"),
        pax(record(b"size", b"9" * 9000)) + entry("odd", b"x"),
        pax(b"no record at all") + entry("odd", b"x"),
        header_with(entry("odd", b"x"), {124: (-BLOCK).to_bytes(12, "big", signed=True)}),
        header_with(entry("odd", b"x"), {124: b"\x80" + (2**62).to_bytes(11, "big")}),
        header_with(entry("odd", b"x"), {124: b"not octal!!!"}),
        pax(record(b"comment", b"again")) * 900 + entry("odd", b"x"),
        entry("long", b"odd", kind=b"L") * 900 + entry("odd", b"x"),
        header_with(entry("odd", b"x"), {124: (-1).to_bytes(12, "big", signed=True), 156: b"x"}),
        os.urandom(BLOCK) + entry("odd", b"x")[BLOCK:],
    ],
    ids=[
        "sparse map", "sparse without a map", "size in words", "size below zero in pax",
        "length of 9,000 digits", "size of 9,000 digits", "no records", "size below zero",
        "size of 4 EiB", "size that is no number", "hundreds of pax headers",
        "hundreds of long names", "pax header of a size below zero", "no header",
    ],
)  # fmt: skip
def test_one_odd_header_costs_no_other_member(compared, odd):
    rows, facts, kept, (by_tar, _), _ = compared(archive_with(odd))
    assert {name: kept.get(name) for name in CLIPS} == CLIPS
    listed = [name for name in by_tar if name in CLIPS]
    assert set(listed) <= kept.keys()
    told = f"{facts['archive_error']} {[row['error'] for row in rows]}"
    assert all(word not in told for word in ("Error", "recursion", "sys."))
    is_whole = "odd" in kept and len(kept["odd"]) == 1
    assert (facts["archive_status"] == "partial") == bool(facts["archive_error"])
    assert is_whole or facts["archive_status"] == "partial"


JUNK = {
    "mode": (100, 8), "uid": (108, 8), "gid": (116, 8), "mtime": (136, 12),
    "devmajor": (329, 8), "devminor": (337, 8), "uname": (265, 32), "gname": (297, 32),
}  # fmt: skip


@pytest.mark.parametrize("field", JUNK)
@pytest.mark.parametrize("fmt", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_junk_in_a_field_that_nobody_needs_costs_nothing(compared, field, fmt):
    start, length = JUNK[field]
    odd = header_with(entry("odd", b"x", fmt=fmt), {start: b"\xfejunk 9x\x01zzz"[:length]})
    _, facts, kept, (by_tar, _), _ = compared(archive_with(odd))
    assert kept == {**CLIPS, "odd": b"x"}
    assert set(by_tar) <= kept.keys()
    assert facts["archive_status"] == "ok"


@pytest.mark.parametrize("keyword", [b"mtime", b"uid", b"atime", b"SCHILY.xattr.user.x"])
def test_junk_in_a_pax_field_that_nobody_needs_costs_nothing(compared, keyword):
    odd = pax(record(keyword, b"nan,\xff\0junk")) + entry("odd", b"x")
    _, facts, kept, _, _ = compared(archive_with(odd))
    assert kept == {**CLIPS, "odd": b"x"}
    assert facts["archive_status"] == "ok"


@pytest.mark.parametrize("kind", [b"A", b"Z", b"8", b"N", b"\xff"])
def test_a_member_of_an_unknown_type_is_a_file(compared, kind):
    _, facts, kept, (_, files), _ = compared(archive_with(entry("odd", b"x", kind=kind)))
    assert kept == {**CLIPS, "odd": b"x"}
    assert reaches(files, kept).keys() == kept.keys()
    assert all(reaches(files, kept).values())
    assert facts["archive_status"] == "ok"


@pytest.mark.parametrize("size", [20_000, 200_000, 900_000])
@pytest.mark.parametrize("keyword", [b"SCHILY.xattr.user.cover", b"comment", b"LIBARCHIVE.xattr.x"])
def test_a_large_extended_header_costs_neither_name_nor_size(compared, size, keyword):
    name = "folder/" * 20 + "odd.mp3"
    fields = record(keyword, b"v" * size) + record(b"path", name.encode()) + record(b"size", b"600")
    odd = pax(fields) + header_with(entry("short", b"x" * 600), {124: b"00000000000\0"})
    _, facts, kept, _, (_, by_bsdtar) = compared(archive_with(odd))
    assert kept == {**CLIPS, name: b"x" * 600}
    assert reaches(by_bsdtar, kept) == dict.fromkeys(by_bsdtar, True)
    assert facts["archive_status"] == "ok"


# Holes and hard links


def packed(program, folder, *options):
    """A tar that a program makes of a folder."""
    command = [program, "-c", "-f", "-", *options, "-C", folder, "."]
    return subprocess.run(command, check=True, capture_output=True).stdout


def files_of(folder, contents):
    """A folder with these files; blocks of zeros are holes."""
    folder.mkdir()
    for name, content in contents.items():
        with (folder / name).open("wb") as file:
            for at in range(0, len(content), 4096):
                if content[at : at + 4096].strip(b"\0"):
                    file.seek(at)
                    file.write(content[at : at + 4096])
            file.truncate(len(content))
    return folder


HOLES = {
    "front.mp3": bytes(1 << 20) + b"end",
    "back.mp3": b"begin" + bytes(3 << 20),
    "all.mp3": bytes(70_000),
    "many.mp3": (os.urandom(4096) + bytes(8192)) * 60,
    "none.mp3": os.urandom(9000),
}


@pytest.mark.parametrize(
    ("program", "options"),
    [
        ("tar", ["-S", "--format=gnu"]),
        ("tar", ["-S", "--format=posix", "--sparse-version=0.0"]),
        ("tar", ["-S", "--format=posix", "--sparse-version=0.1"]),
        ("tar", ["-S", "--format=posix", "--sparse-version=1.0"]),
        ("bsdtar", []),
        ("bsdtar", ["--format=pax"]),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value) or "unasked",
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["tar", "gzip"])
def test_files_with_holes_are_restored(tmp_path, compared, program, options, pack):
    data = packed(program, files_of(tmp_path / "source", HOLES), *options)
    assert len(data) < sum(map(len, HOLES.values())) / 2
    subprocess.run(["rm", "-r", tmp_path / "source"], check=True)
    _, facts, kept, (_, by_tar), (_, by_bsdtar) = compared(pack(data))
    kept = {name.removeprefix("./"): content for name, content in kept.items()}
    assert kept == by_tar == by_bsdtar == HOLES
    assert facts["archive_status"] == "ok"
    assert facts["archive_folders"] == "1"


@pytest.mark.parametrize(
    ("program", "options"),
    [
        ("tar", ["--format=gnu"]),
        ("tar", ["--format=posix"]),
        ("tar", ["--format=v7"]),
        ("bsdtar", ["--format=ustar"]),
        ("bsdtar", ["--format=gnutar"]),
        ("bsdtar", ["--format=pax"]),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_hard_link_is_a_second_member_of_the_same_content(tmp_path, compared, program, options):
    source = files_of(tmp_path / "source", {"a.mp3": b"one", "b.mp3": b"two" * 999})
    for link, name in {"c.mp3": "a.mp3", "d.mp3": "b.mp3", "e.mp3": "b.mp3"}.items():
        (source / link).hardlink_to(source / name)
    data = packed(program, source, *options)
    subprocess.run(["rm", "-r", source], check=True)
    rows, facts, kept, (_, by_tar), (_, by_bsdtar) = compared(data)
    assert statuses(rows) == ["ok"] * 5
    assert len({row["file"] for row in rows}) == len({row["sha256"] for row in rows}) == 2
    kept = {name.removeprefix("./"): content for name, content in kept.items()}
    assert kept == by_tar == by_bsdtar
    assert facts["archive_status"] == "ok"


def test_hard_links_lead_only_to_what_stands_before_them_in_the_archive(unpack):
    link = tarfile.LNKTYPE
    data = entry("late.mp3", kind=link, link="a.mp3") + entry("./a.mp3", b"first")
    data += entry("b", kind=link, link="a.mp3") + entry("c", kind=link, link="/x/../b")
    data += entry("a.mp3", b"second") + entry("d", kind=link, link="a.mp3")
    data += entry("e", kind=link, link="e") + entry("f", kind=tarfile.SYMTYPE, link="a.mp3")
    data += entry("g", kind=link, link="f") + entry("h", kind=link, link="/etc/passwd")
    rows, facts, contents = unpack(data + END)
    kept = {row["member"]: contents[row["file"]] for row in rows if row["status"] == "ok"}
    first, second = b"first", b"second"
    assert kept == {"./a.mp3": first, "b": first, "c": first, "a.mp3": second, "d": second}
    skipped = [row["member"] for row in rows if row["status"] == "skipped"]
    assert skipped == ["late.mp3", "e", "f", "g", "h"]
    assert facts["archive_status"] == "ok"


def test_a_hard_link_with_its_content_is_a_file_and_a_symbolic_link_with_a_size_is_none(compared):
    odd = header_with(entry("odd", CLIPS["clip1.mp3"]), {156: b"1", 157: b"clip1.mp3"})
    odd += header_with(entry("soft"), {124: b"00000001130\0", 156: b"2", 157: b"clip1.mp3"})
    _, facts, kept, _, (_, by_bsdtar) = compared(archive_with(pax(b"") + odd))
    assert kept == by_bsdtar == {**CLIPS, "odd": CLIPS["clip1.mp3"]}
    assert facts["archive_status"] == "ok"


# Ends


def cut(data, start, end=None):
    """Zeros in the place of a part, as a disk or a transfer that lost it leaves them."""
    end = len(data) if end is None else end
    return data[:start] + bytes(end - start) + data[end:]


LARGE = {f"{number}.mp3": os.urandom(30_000) for number in range(6)}
LARGE_TAR = b"".join(entry(name, content) for name, content in LARGE.items())
LARGE_TAR += bytes(-len(LARGE_TAR) % 10_240)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (bytes(1 << 20), "failed"),
        (bytes(50_000), "failed"),
        (gzip.compress(bytes(1 << 20)), "failed"),
        (cut(LARGE_TAR, 100_000), "partial"),
        (gzip.compress(cut(LARGE_TAR, 100_000)), "partial"),
        (cut(LARGE_TAR, 0, 100_000), "partial"),
        (cut(LARGE_TAR, 40_000, 120_000), "partial"),
        (cut(LARGE_TAR, 30_720, 32_768), "partial"),
        (entry("a", b"1") + bytes(BLOCK) + entry("b", b"2") + END, "partial"),
    ],
    ids=["all", "all, of an odd size", "all, gzipped", "from the middle",
         "from the middle, gzipped", "up to the middle", "in the middle",
         "a header and a little more", "the header of an empty file"],
)  # fmt: skip
def test_zeros_in_the_place_of_members_are_never_ok(compared, data, expected):
    _, facts, kept, (_, by_tar), _ = compared(data)
    assert facts["archive_status"] == expected
    assert facts["archive_error"]
    assert by_tar.keys() <= kept.keys()


@pytest.mark.parametrize(
    "behind",
    [b"\n", b"\r\n", b" " * 700, b"\0", bytes(512 * 19), b"\xff" * 4096, b"\x1a",
     b"\n" + bytes(5000)],
    ids=["newline", "CRLF", "blanks", "a zero", "zeros", "0xff", "Ctrl-Z", "newline and zeros"],
)  # fmt: skip
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["tar", "gzip"])
def test_what_only_fills_up_behind_the_end_is_no_damage(compared, behind, pack):
    _, facts, kept, _, (_, by_bsdtar) = compared(pack(TAR) + behind)
    assert kept == by_bsdtar == CLIPS
    assert (facts["archive_status"], facts["archive_error"]) == ("ok", "")


@pytest.mark.parametrize("blocking", [1, 20, 64, 128, 2048])
def test_a_tar_of_any_record_size_is_ok(tmp_path, compared, blocking):
    for name, content in CLIPS.items():
        (tmp_path / name).write_bytes(content)
    command = ["tar", "-c", "-b", str(blocking), "-C", tmp_path, *CLIPS]
    data = subprocess.run(command, check=True, capture_output=True).stdout
    for name in CLIPS:
        (tmp_path / name).unlink()
    _, facts, kept, (_, by_tar), _ = compared(data)
    assert kept == by_tar == CLIPS
    assert facts["archive_status"] == "ok"


# Any archive

FORMATS = [
    *(("tar", f"--format={each}") for each in ("v7", "oldgnu", "gnu", "ustar", "posix")),
    *(("bsdtar", f"--format={each}") for each in ("v7tar", "gnutar", "ustar", "pax")),
    *(("tarfile", each) for each in ("0", "1", "2")),
]


def written(writer, form, folder, contents):
    """A tar of some files, as a program or Python's tarfile writes it."""
    for name, content in contents.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    if writer != "tarfile":
        command = [writer, "-c", "-f", "-", form, "-C", folder, "."]
        return subprocess.run(command, capture_output=True, check=False).stdout
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=int(form)) as archive:
        for name in contents:
            with contextlib.suppress(ValueError):  # too long a name for the format
                archive.add(folder / name, f"./{name}")
    return data.getvalue()


names = st.text("abcé", min_size=1, max_size=30).map(lambda name: f"{name}.mp3")
long_names = st.integers(101, 240).map(lambda length: "n" * length)
damages = st.one_of(
    st.tuples(st.integers(0, BLOCK - 60), st.binary(min_size=1, max_size=60)),
    st.tuples(
        st.sampled_from([100, 108, 116, 124, 136, 148, 257, 265, 329, 345]), st.just(b"\xff")
    ),
    st.tuples(st.just(0), st.just(bytes(BLOCK))),
)


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    how=st.sampled_from(FORMATS),
    contents=st.dictionaries(names | long_names, st.binary(max_size=1500), min_size=2, max_size=6),
    which=st.integers(0, 99),
    damage=damages,
    repaired=st.booleans(),
    gzipped=st.booleans(),
)
def test_whatever_happens_to_one_header_all_other_members_are_kept(
    tmp_path_factory, how, contents, which, damage, repaired, gzipped
):
    folder = tmp_path_factory.mktemp("any")
    (folder / "source").mkdir()
    writer, form = how
    data = written(writer, form, folder / "source", contents)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        members = [member for member in archive if member.isfile()]
    # v7 has no names of more than 100 bytes, and programs leave such files out.
    assume(len(members) > 1)
    chosen = members[which % len(members)]
    at = chosen.offset_data - BLOCK  # its own header, behind those that extend it
    start, junk = damage
    header = (data[at : at + start] + junk + data[at + start + len(junk) : at + BLOCK])[:BLOCK]
    # Under a right checksum, another size or type would speak of the members behind, too.
    if repaired and any(junk) and (start + len(junk) <= 124 or start >= 157):
        header = header_with(header, {})
    broken = data[:at] + header + data[at + BLOCK :]

    (folder / "archive").mkdir()
    rows, end, files = read_all(folder / "archive", gzip_of(broken, gzipped), gzipped)
    kept = {row["member"]: files[row["file"]] for row in rows.values() if row["status"] == "ok"}
    for member in members:
        if member is not chosen:
            assert kept[member.name] == contents[member.name.removeprefix("./")]
    (folder / "plain").write_bytes(broken)
    listed, _ = extracted("tar", folder / "plain", folder / "theirs")
    assert len(rows) + end["folders"] >= len(listed)
    # Zeros all through are an end, and nobody can tell whose.
    is_no_end = any(header) or any(contents[chosen.name.removeprefix("./")])
    if len(kept) < len(members) and is_no_end:
        assert end["status"] == "partial"


def gzip_of(data, gzipped):
    return gzip.compress(data, 1) if gzipped else data
