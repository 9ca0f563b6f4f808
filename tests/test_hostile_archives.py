"""Archives made to do harm: to other files, to memory and to time.

Beside `test_unpack`, which has most headers, cuts and limits one by one: here they meet a
file that they point at, and bounds on what they may cost.
"""

import gzip
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest
from processor_time import processor_seconds
from sounds import chirp, write_audio
from tars import BLOCK, END, HUGE, NO_LIMITS, entry, forged, pack_zip, read_all, statuses, unpack

from earmark.ingest.encode import encode_archive
from earmark.ingest.unpack import MEMBERS_FILE, unpack_archive
from earmark.settings import EncodeSettings, UnpackLimits
from earmark.tables import MANIFEST, MEMBERS, read_provenance, read_table

__all__ = ["unpack"]  # a fixture

MIB = 1 << 20


def pax(fields, kind=b"x"):
    """An extended header, with lengths as they must be (POSIX.1-2017, pax)."""
    records = b""
    for keyword, value in fields:
        record = f" {keyword}={value}\n".encode()
        length = len(record) + len(str(len(record) + 2))
        records += b"%d" % length + record
    size = b"%011o\0" % len(records)
    return forged(size, b"pax", kind) + records + bytes(-len(records) % BLOCK)


# What they write


@pytest.fixture
def victim(tmp_path, monkeypatch):
    """A file outside that nobody may touch, in the folder to work in."""
    folder = tmp_path / "victim"
    folder.mkdir()
    monkeypatch.chdir(folder)
    file = folder / "file"
    file.write_bytes(b"precious")
    return file


def names_of(victim):
    """Names that lead from some folder of the test, or from anywhere, to the victim."""
    relative = [f"{'../' * depth}victim/file" for depth in range(5)]
    return [str(victim), f"/..{victim}", f"//{victim}", "file", "./file", "x/../file", *relative]


@pytest.mark.parametrize("fmt", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_no_name_reaches_a_file_outside(tmp_path, victim, fmt):
    names = names_of(victim)
    archive, destination = tmp_path / "a.tar", tmp_path / "unpacked" / "a.tar"
    archive.write_bytes(b"".join(entry(name, b"evil", fmt=fmt) for name in names) + END)
    unpack_archive(archive, destination)
    assert_only_unpacked(tmp_path, victim, destination, len(names))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_no_link_is_followed_and_none_is_made(tmp_path, victim, kind):
    archive, destination = tmp_path / "a.tar", tmp_path / "unpacked" / "a.tar"
    parts = []
    for target in [str(victim.parent), str(victim), "../../victim", "../../victim/file"]:
        # As a folder to write through, and as a file to write into by its own name.
        parts += [entry("link", kind=kind, link=target), entry("link/file", b"evil")]
        parts += [entry("link", b"evil"), entry("000001", kind=kind, link=target)]
    archive.write_bytes(b"".join(parts) + END)
    unpack_archive(archive, destination)
    assert_only_unpacked(tmp_path, victim, destination, 8)


def assert_only_unpacked(tmp_path, victim, destination, members):
    assert victim.read_bytes() == b"precious"
    assert victim.stat().st_nlink == 1
    assert list(victim.parent.iterdir()) == [victim]
    assert {path.name for path in tmp_path.iterdir()} == {"a.tar", "unpacked", "victim"}
    assert list(destination.parent.iterdir()) == [destination]
    files = {path for path in destination.iterdir() if path.name != MEMBERS_FILE}
    assert len(files) == members
    for file in files:
        assert file.is_file()
        assert not file.is_symlink()
        assert file.stat().st_nlink == 1
        assert file.read_bytes() == b"evil"


def test_no_member_takes_the_place_of_the_list_of_members(unpack):
    names = [MEMBERS_FILE, f"./{MEMBERS_FILE}", f".{MEMBERS_FILE}.1.partial"]
    rows, _, contents = unpack(b"".join(entry(name, b"evil") for name in names) + END)
    assert [row["member"] for row in rows] == names
    assert sorted(contents) == ["000000", "000001", "000002"]


def test_a_block_device_is_skipped_and_a_contiguous_file_is_a_file(unpack):
    data = entry("sda", kind=tarfile.BLKTYPE) + entry("song", b"x", kind=tarfile.CONTTYPE) + END
    rows, facts, contents = unpack(data)
    assert rows[0]["error"] == "not a file: block device"
    assert contents == {"000001": b"x"}
    assert facts["archive_status"] == "ok"


def old_sparse(real_size):
    """GNU tar's older sparse header: holes are listed in the header itself."""
    header = bytearray(forged(b"%011o\0" % BLOCK, kind=b"S"))
    header[257:265] = b"ustar  \0"
    header[386:410] = b"%011o\0%011o\0" % (real_size - BLOCK, BLOCK)
    header[482:483] = b"\0"
    header[483:495] = b"%011o\0" % real_size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + b"d" * BLOCK


@pytest.mark.parametrize(
    "sparse",
    [
        old_sparse(1 << 20),
        pax([("GNU.sparse.size", "99"), ("GNU.sparse.numblocks", "1"),
             ("GNU.sparse.offset", "0"), ("GNU.sparse.numbytes", "9")])
        + forged(b"%011o\0" % BLOCK) + b"d" * BLOCK,
        pax([("GNU.sparse.map", "0,9"), ("GNU.sparse.size", "99"), ("GNU.sparse.name", "holes")])
        + forged(b"%011o\0" % BLOCK) + b"d" * BLOCK,
    ],
    ids=["old GNU", "pax 0.0", "pax 0.1"],
)  # fmt: skip
def test_a_sparse_file_of_any_format_is_restored(unpack, sparse):
    rows, facts, contents = unpack(sparse + entry("a", b"x") + END)
    assert statuses(rows) == ["ok", "ok"]
    restored = contents["000000"]
    assert len(restored) == rows[0]["bytes"] == (1 << 20 if b"ustar  " in sparse else 99)
    assert restored.strip(b"\0") == b"d" * (BLOCK if b"ustar  " in sparse else 9)
    assert facts["archive_status"] == "ok"


@pytest.mark.parametrize(
    "numbers", ["9,9,0,9", "0,9,5,9", "90,99", "0,999", "-1,9", "0", "0,9,x", "1e9,1", "0,9" * 99]
)
def test_a_list_of_holes_that_cannot_be_right_fails_alone(unpack, numbers):
    holes = pax([("GNU.sparse.map", numbers), ("GNU.sparse.size", "99")])
    data = holes + forged(b"%011o\0" % BLOCK) + b"d" * BLOCK + entry("a", b"x") + END
    rows, facts, contents = unpack(data)
    assert [row["error"] for row in rows] == ["its list of holes is damaged", None]
    assert contents == {"000001": b"x"}
    assert facts["archive_status"] == "partial"


def test_a_bomb_of_holes_takes_no_room_and_ends_at_the_allowed_ratio(tmp_path):
    archive = tmp_path / "a.tar"
    archive.write_bytes(entry("a", b"1") + old_sparse(1 << 27) * 100 + END)
    unpack_archive(archive, tmp_path / "out")
    facts = read_provenance(tmp_path / "out" / MEMBERS_FILE)
    assert "sparse files expand" in facts["archive_error"]
    assert facts["archive_status"] == "partial"
    assert sum(file.stat().st_blocks for file in (tmp_path / "out").iterdir()) * 512 < MIB


@pytest.mark.parametrize("claim", [(1 << 33) - BLOCK, 1 << 32])
def test_a_sparse_file_of_huge_real_size_takes_no_room(unpack, claim):
    rows, _, contents = unpack(old_sparse(claim) + entry("a", b"x") + END)
    assert rows[0]["status"] != "ok"
    assert contents == {"000001": b"x"}


# What can be had of them


def test_an_archive_in_an_archive_is_a_plain_file_that_is_never_opened(tmp_path):
    inner = entry("../../evil.mp3", b"x" * 1000) + END
    nested = {
        "a.tar": (inner, "not audio: application/x-tar"),
        "a.tar.gz": (gzip.compress(inner), "not audio: application/gzip"),
        "a.zip": (pack_zip(), "not audio: application/zip"),
    }
    archive, unpacked = tmp_path / "outer.tar", tmp_path / "unpacked"
    song = write_audio(tmp_path / "song.mp3", chirp(1)).read_bytes()
    data = b"".join(entry(name, content) for name, (content, _) in nested.items())
    archive.write_bytes(data + entry("song.mp3", song) + END)
    unpack_archive(archive, unpacked)
    contents = [(unpacked / f"{ordinal:06d}").read_bytes() for ordinal in range(4)]
    assert contents == [*(content for content, _ in nested.values()), song]

    manifest = tmp_path / "manifest"
    encode_archive(unpacked, tmp_path / "audio", manifest, "a", tmp_path, EncodeSettings(workers=1))
    rows = read_table(manifest, MANIFEST).to_pylist()
    assert statuses(rows) == ["skipped"] * 3 + ["ok"]
    assert [row["error"] for row in rows[:3]] == [what for _, what in nested.values()]
    assert [path.name for path in (tmp_path / "audio").iterdir()] == ["000003.opus"]


@pytest.mark.parametrize("layers", [2, 3])
def test_a_gzip_within_a_gzip_is_no_archive(unpack, layers):
    data = entry("a", bytes(MIB)) + END
    for _ in range(layers):
        data = gzip.compress(data)
    rows, facts, contents = unpack(data)
    assert (rows, contents) == ([], {})
    assert facts["archive_status"] == "failed"
    assert facts["archive_error"] == "not an archive: gzip of something else"


@pytest.mark.parametrize("data", [gzip.compress(b""), gzip.compress(b"")[:10], b"\x1f\x8b"])
def test_a_gzip_of_nothing_is_a_failed_archive_with_a_reason(unpack, data):
    rows, facts, _ = unpack(data)
    assert rows == []
    assert facts["archive_status"] == "failed"
    assert facts["archive_error"].startswith("not an archive")


def test_a_gzip_of_an_empty_tar_is_ok(unpack):
    rows, facts, _ = unpack(gzip.compress(bytes(10_240)))
    assert rows == []
    assert facts["archive_status"] == "ok"


def test_both_of_two_gzipped_tars_joined_end_to_end_are_read(unpack):
    first, second = (gzip.compress(entry(name, name.encode()) + END) for name in "ab")
    rows, facts, contents = unpack(first + second)
    assert [row["member"] for row in rows] == ["a", "b"]
    assert contents == {"000000": b"a", "000001": b"b"}
    assert facts["archive_status"] == "ok"


def test_one_tar_cut_into_several_gzip_members_is_read(unpack):
    content = os.urandom(5000)
    data = entry("a", content) + entry("b", b"b") + END
    rows, facts, contents = unpack(b"".join(map(gzip.compress, [data[:700], data[700:]])))
    assert contents == {"000000": content, "000001": b"b"}
    assert statuses(rows) == ["ok", "ok"]
    assert facts["archive_status"] == "ok"


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (gzip.compress(entry("b", os.urandom(9000)) + END)[:5000], "end in the middle"),
        (gzip.compress(entry("b", b"b") + END)[:5], "end in the middle"),
        (b"no gzip at all", "something else follows the gzip data"),
        (entry("b", b"b") + END, "something else follows the gzip data"),
    ],
    ids=["cut in its content", "cut in its header", "text", "a plain tar"],
)
def test_what_is_wrong_behind_a_gzipped_tar_costs_nothing_of_it(unpack, second, reason):
    rows, facts, contents = unpack(gzip.compress(entry("a", b"a") + END) + second)
    assert rows[0]["status"] == "ok"
    assert contents["000000"] == b"a"
    assert facts["archive_status"] == "partial"
    assert reason in facts["archive_error"]


def test_a_gzipped_tar_behind_a_plain_one_is_no_member_and_costs_none(unpack):
    rows, facts, contents = unpack(entry("a", b"a") + END + gzip.compress(entry("b", b"b") + END))
    assert [row["member"] for row in rows] == ["a"]
    assert contents == {"000000": b"a"}
    assert facts["archive_status"] == "partial"


def damaged(member, place):
    """A member with one wrong bit."""
    return member[:place] + bytes([member[place] ^ 1]) + member[place + 1 :]


@pytest.mark.parametrize("fmt", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["tar", "gzip"])
def test_a_damaged_first_header_costs_no_other_member(unpack, fmt, pack):
    first, *others = (entry(name, name.encode(), fmt=fmt) for name in "abc")
    rows, facts, contents = unpack(pack(damaged(first, 130) + b"".join(others) + END))
    assert [row["member"] for row in rows] == ["b", "c"]
    assert sorted(contents.values()) == [b"b", b"c"]
    assert facts["archive_status"] == "partial"
    lost = "the next header was found 1024 bytes later"
    assert facts["archive_error"] == f"damaged at byte 0: {lost}"


@pytest.mark.parametrize("fmt", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_damaged_header_behind_an_extended_one_costs_no_other_member(unpack, fmt):
    long = entry("long" * 40, b"lost", fmt=fmt)
    data = entry("a", b"a") + damaged(long, 2 * BLOCK + 130) + entry("b", b"b") + END
    rows, facts, contents = unpack(data)
    assert [row["member"] for row in rows] == ["a", "b"]
    assert sorted(contents.values()) == [b"a", b"b"]
    assert facts["archive_status"] == "partial"
    lost = "the next header was found 1024 bytes later"
    assert facts["archive_error"] == f"damaged at byte 2048: {lost}"


WHOLE = [b"a" * 700, b"b" * BLOCK, b""]
PLAIN = b"".join(entry(f"{index}.mp3", content) for index, content in enumerate(WHOLE)) + END
GZIPPED = gzip.compress(PLAIN, mtime=0)


@pytest.mark.parametrize("data", [PLAIN, GZIPPED], ids=["tar", "gzip"])
def test_wherever_an_archive_is_cut_its_whole_members_are_kept(tmp_path, data):
    ends = [BLOCK + 700, 5 * BLOCK, 6 * BLOCK]  # of the members' content
    step = 61 if data is PLAIN else 1
    for cut in sorted({*range(0, len(data), step), *range(0, len(data), BLOCK)} - {0}):
        folder = tmp_path / str(cut)
        folder.mkdir()
        rows, end, files = read_all(folder, data[:cut], data is GZIPPED)
        assert list(files.values()) == WHOLE[: len(files)], cut
        if data is PLAIN:
            assert len(files) == sum(cut >= end for end in ends), cut
            assert end["status"] != "ok" or cut >= ends[-1] + BLOCK, cut
        else:  # only the checksum at the end says that all was read
            assert end["status"] != "ok", cut
        assert end["status"] != "partial" or rows, cut


# What they cost


@pytest.mark.slow
@pytest.mark.parametrize("kind", [b"g", b"x", b"L", b"K"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["tar", "gzip"])
def test_headers_without_end_are_given_up(unpack, kind, pack):
    link = {b"L": forged(b"%011o\0" % 2, kind=kind) + b"n\0".ljust(BLOCK, b"\0")}
    one = link.get(kind) or pax([("comment", "endless")], kind)
    begun = processor_seconds()
    rows, facts, contents = unpack(pack(entry("a", b"1") + one * 20_000 + END))
    assert processor_seconds() - begun < 10
    assert statuses(rows) == ["ok"]
    assert contents == {"000000": b"1"}
    assert facts["archive_status"] == "partial"
    assert facts["archive_error"]


def test_folders_count_as_members(unpack):
    data = entry("a", b"1") + entry("folder", kind=tarfile.DIRTYPE) * 500 + END
    rows, facts, _ = unpack(data, limits=UnpackLimits(max_members=100))
    assert statuses(rows) == ["ok"]
    assert facts["archive_status"] == "partial"
    assert facts["archive_error"] == "more than 100 members"


@pytest.mark.slow
def test_blocks_of_garbage_without_end_are_given_up_in_time(tmp_path):
    archive = tmp_path / "a.tar.gz"
    with archive.open("wb") as file:
        file.write(gzip.compress(entry("a", b"1")))
        garbage = gzip.compress(b"\xaa" * (32 * MIB), 1)
        for _ in range(40):
            file.write(garbage)
    begun = processor_seconds()
    unpack_archive(archive, tmp_path / "out", UnpackLimits(timeout_seconds=3, max_ratio=1e6))
    assert processor_seconds() - begun < 8
    facts = read_provenance(tmp_path / "out" / MEMBERS_FILE)
    assert facts["archive_status"] == "partial"
    assert facts["archive_error"] == "not read in 3 seconds of computing"
    assert (tmp_path / "out" / "000000").read_bytes() == b"1"


@pytest.mark.slow
def test_a_header_that_takes_hours_to_parse_is_given_up_in_time(unpack):
    # tarfile's search for "hdrcharset" is quadratic before Python 3.11.10 (CVE-2024-6232).
    digits = b"1" * MIB
    hostile = forged(b"%011o\0" % len(digits), kind=b"x") + digits
    begun = processor_seconds()
    limits = UnpackLimits(timeout_seconds=3)
    rows, facts, contents = unpack(entry("a", b"1") + hostile + END, limits=limits)
    assert processor_seconds() - begun < 8
    assert rows[0]["status"] == "ok"
    assert contents == {"000000": b"1"}
    assert (facts["archive_status"] == "ok") == (facts["archive_error"] == "")


def test_a_bomb_whose_members_are_each_small_ends_at_the_allowed_ratio(unpack):
    bomb = gzip.compress(entry("zeros", bytes(MIB)) * 150 + END)
    _, facts, contents = unpack(bomb)
    assert "gzip expands" in facts["archive_error"]
    assert facts["archive_status"] == "partial"
    assert 90 < len(contents) < 110  # it may reach 100 MiB before its ratio counts


def test_a_bomb_of_many_members_ends_at_the_allowed_total(unpack):
    limits = UnpackLimits(max_total_bytes=10 * MIB)
    _, facts, contents = unpack(gzip.compress(entry("x", os.urandom(MIB)) * 30), limits=limits)
    assert facts["archive_status"] == "partial"
    assert "more than 10485760 bytes in all" in facts["archive_error"]
    assert sum(map(len, contents.values())) <= 10 * MIB


def test_a_member_that_declares_more_than_there_is_takes_no_room(unpack):
    _, facts, contents = unpack(entry("a", b"1") + forged(HUGE) + b"little", limits=NO_LIMITS)
    assert contents == {"000000": b"1"}
    assert facts["archive_status"] == "partial"


STAGE = """
import resource, sys
from pathlib import Path
from earmark import version
from earmark.ingest.unpack import unpack_archive
from earmark.settings import UnpackLimits
version.current()  # asks git, a child that would be counted with all that is in memory by then
unpack_archive(Path(sys.argv[1]), Path(sys.argv[2]), UnpackLimits(max_member_bytes=1 << 40))
(own,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(own.split()[1], resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


@pytest.fixture
def peaks():
    """Unpack a file in a new process; returns (rows, facts) and MiB that it and its child took.

    The child's number is at least what its parent took when it started the child, about 90.
    """
    with tempfile.TemporaryDirectory(prefix="earmark-") as folder:

        def run(archive):
            out = Path(folder) / "out"
            command = [sys.executable, "-c", STAGE, archive, out]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            stage, child = (int(part) / 1024 for part in done.stdout.split())
            table = out / MEMBERS_FILE
            return read_table(table, MEMBERS), read_provenance(table), stage, child

        yield run


@pytest.mark.slow
def test_a_hundred_thousand_members_take_little_memory(tmp_path, peaks):
    count, archive = 100_000, tmp_path / "a.tar"
    # One in ten is a file: more would only cost time, mostly to remove them again.
    with archive.open("wb") as file:
        for index in range(count):
            is_file = index % 10 == 0
            kind = tarfile.REGTYPE if is_file else tarfile.SYMTYPE
            file.write(entry(f"{index}.mp3", b"%d" % index if is_file else b"", kind))
        file.write(END)
    rows, facts, stage, child = peaks(archive)
    assert (facts["archive_status"], rows.num_rows) == ("ok", count)
    assert child < 128
    assert stage < 600


@pytest.mark.slow
def test_a_huge_member_takes_little_memory(tmp_path, peaks):
    size, archive = 512 * MIB, tmp_path / "a.tar"
    archive.write_bytes(entry("a", b"1") + forged(b"%011o\0" % size))
    os.truncate(archive, 3 * BLOCK + size + 2 * BLOCK)  # holes: zeros that take no room
    rows, facts, stage, child = peaks(archive)
    assert facts["archive_status"] == "ok"
    assert rows.to_pylist()[1]["bytes"] == size
    assert child < 128
    assert stage < 200
