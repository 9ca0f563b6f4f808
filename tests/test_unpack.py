"""Unpacking archives that nobody vouches for."""

import gzip
import hashlib
import io
import os
import tarfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from processor_time import processor_seconds
from refusals import largest_file
from tars import BLOCK, END, HUGE, entry, forged, read_all, statuses, unpack

from earmark import tables
from earmark.files import partial_path
from earmark.ingest.tarstream import readable
from earmark.ingest.unpack import (
    MEMBERS_FILE,
    detect_archive_type,
    is_unpacked,
    unpack_archive,
)
from earmark.settings import UnpackLimits
from earmark.tables import MEMBERS, read_provenance, read_table

__all__ = ["unpack"]  # a fixture

# What an archive is


def test_a_plain_tar_named_tar_gz_is_a_tar(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(entry("a.mp3", b"x") + END)
    assert detect_archive_type(tmp_path / "a.tar.gz") == "tar"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (gzip.compress(entry("a", b"x" * 5000) + END), "tar.gz"),
        (gzip.compress(bytes(10_240)), "tar.gz"),
        (gzip.compress(b"just a song"), "gzip"),
        (gzip.compress(entry("a") + END)[:12] + b"garbage" * 9, "gzip"),
        (bytes(10_240), "tar"),
        (bytes(100), "unknown"),
        (b"", "unknown"),
        (b"PK\x03\x04" + bytes(100), "zip"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(100), "unknown"),
        (b"some text\n" * 100, "unknown"),
    ],
)
def test_content_decides_what_an_archive_is(tmp_path, data, expected):
    (tmp_path / "a.tar").write_bytes(data)
    assert detect_archive_type(tmp_path / "a.tar") == expected


# Sound archives


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["tar", "gzip"])
def test_members_are_extracted_in_order_under_our_own_names(unpack, pack):
    first, second = os.urandom(3_000_000), b"two"
    data = pack(entry("a.mp3", first) + entry("b.mp3", second) + END)
    rows, facts, contents = unpack(data)
    assert [(row["ordinal"], row["member"], row["file"]) for row in rows] == [
        (0, "a.mp3", "000000"),
        (1, "b.mp3", "000001"),
    ]
    assert [row["bytes"] for row in rows] == [3_000_000, 3]
    assert rows[0]["sha256"] == hashlib.sha256(first).hexdigest()
    assert contents == {"000000": first, "000001": second}
    assert (facts["archive_status"], facts["archive_error"]) == ("ok", "")
    assert facts["archive_bytes"] == str(len(data))
    assert float(facts["seconds"]) > 0


def test_an_archive_without_members_is_ok(unpack):
    rows, facts, _ = unpack(bytes(10_240))
    assert rows == []
    assert facts["archive_status"] == "ok"


def test_names_that_point_elsewhere_are_just_names(unpack):
    names = ["/etc/cron.d/evil", "../../evil.mp3", "a/../../../b", "-rf", "000001", "a\nb", ""]
    rows, facts, contents = unpack(b"".join(entry(name, b"x") for name in names) + END)
    assert [row["member"] for row in rows] == [*names[:5], "a\\x0ab", ""]
    assert set(statuses(rows)) == {"ok"}
    assert len(contents) == len(names)
    assert facts["archive_status"] == "ok"


def test_the_bytes_of_a_name_that_is_not_utf8_stay_readable(unpack):
    rows, _, _ = unpack(entry(b"caf\xe9 \xf1.mp3", b"x") + entry("ñandú.mp3", b"y") + END)
    assert [row["member"] for row in rows] == ["caf\\xe9 \\xf1.mp3", "ñandú.mp3"]


def test_equal_names_are_different_members(unpack):
    _, _, contents = unpack(entry("a", b"1") + entry("a", b"2") + END)
    assert contents == {"000000": b"1", "000001": b"2"}


def test_long_names_of_both_formats_are_read(unpack):
    name = "folder/" * 40 + "a.mp3"
    gnu, pax = (entry(name, b"x", fmt=fmt) for fmt in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    rows, _, _ = unpack(gnu + pax + END)
    assert [row["member"] for row in rows] == [name, name]


def test_links_and_devices_are_skipped_with_what_they_are_and_folders_get_no_row(unpack):
    kinds = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, b"V"]
    data = entry("folder", kind=tarfile.DIRTYPE)
    data += b"".join(entry("x", kind=kind, link="/etc/passwd") for kind in kinds)
    rows, facts, contents = unpack(data + entry("last.mp3", b"x") + END)
    assert facts["archive_folders"] == "1"
    assert statuses(rows) == ["skipped"] * 5 + ["ok"]
    assert rows[0]["error"] == "not a file: symbolic link"
    assert rows[1]["error"] == "not a file: hard link to none in this archive"
    assert list(contents) == ["000005"]
    assert facts["archive_status"] == "ok"


def test_a_sparse_file_of_unknown_size_fails_alone(unpack):
    info = tarfile.TarInfo("holes")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
    info.size = BLOCK
    data = info.tobuf(tarfile.PAX_FORMAT) + b"0\n".ljust(BLOCK, b"\0")
    rows, facts, _ = unpack(data + entry("a", b"x") + END)
    assert [row["error"] for row in rows] == ["its list of holes is damaged", None]
    assert facts["archive_status"] == "partial"


@pytest.mark.parametrize("folder", ["a.tar.gz", ".a.tar.gz.4711.partial"])
def test_what_an_earlier_run_left_is_removed_first(unpack, tmp_path, folder):
    leftover = tmp_path / "unpacked" / folder / "000000"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"of a run that was killed")
    _, _, contents = unpack(entry("a", b"new") + END)
    assert contents == {"000000": b"new"}


# Damaged archives


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["tar", "gzip"])
def test_a_member_cut_in_the_middle_fails_and_the_ones_before_are_kept(unpack, pack):
    data = entry("a", b"a" * 1000) + entry("b", b"b" * 100_000)
    rows, facts, contents = unpack(pack(data[:-60_000]))
    assert statuses(rows) == ["ok", "failed"]
    assert rows[1]["error"].startswith("truncated: ")
    assert facts["archive_status"] == "partial"
    assert "member 1: truncated" in facts["archive_error"]
    assert list(contents) == ["000000"]


def test_a_gzip_cut_in_the_middle_is_partial(unpack):
    data = gzip.compress(entry("a", os.urandom(5000)) + entry("b", os.urandom(50_000)) + END)
    rows, facts, _ = unpack(data[:30_000])
    assert statuses(rows) == ["ok", "failed"]
    assert facts["archive_status"] == "partial"


def test_a_tar_cut_between_members_is_partial_although_each_member_is_whole(unpack):
    rows, facts, _ = unpack(entry("a", b"x" * 1000) + entry("b", b"y" * 1000))
    assert statuses(rows) == ["ok", "ok"]
    assert facts["archive_status"] == "partial"
    assert "end-of-archive" in facts["archive_error"]


def test_a_tar_cut_in_a_header_is_partial(unpack):
    rows, facts, _ = unpack(entry("a", b"x") + entry("b", b"y")[:300])
    assert statuses(rows) == ["ok"]
    assert facts["archive_status"] == "partial"


def test_members_behind_a_damaged_header_are_found(unpack):
    damaged = b"\xaa" * BLOCK + entry("lost", b"l" * 700)[BLOCK:]
    rows, facts, contents = unpack(entry("a", b"1") + damaged + entry("b", b"2") + END)
    assert [row["member"] for row in rows] == ["a", "b"]
    assert contents == {"000000": b"1", "000001": b"2"}
    assert facts["archive_status"] == "partial"
    assert "damaged at byte 1024" in facts["archive_error"]


def test_both_of_two_tars_joined_end_to_end_are_read(unpack):
    rows, facts, _ = unpack(entry("a", b"1") + END + entry("b", b"2") + END)
    assert [row["member"] for row in rows] == ["a", "b"]
    assert facts["archive_status"] == "ok"


def test_a_gzip_whose_checksum_is_wrong_is_partial(unpack):
    data = bytearray(gzip.compress(entry("a", b"1") + END))
    data[-6] ^= 0xFF
    rows, facts, _ = unpack(bytes(data))
    assert statuses(rows) == ["ok"]
    assert facts["archive_status"] == "partial"
    assert "the compressed data are damaged" in facts["archive_error"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not an archive: empty file"),
        (b"hello\n" * 200, "not an archive that is taken: ASCII text (text/plain)"),
        (gzip.compress(b"one song"), "not an archive: gzip of something else"),
    ],
)
def test_what_is_no_archive_has_no_rows_and_a_reason(unpack, data, reason):
    rows, facts, contents = unpack(data)
    assert (rows, contents) == ([], {})
    assert facts["archive_status"] == "failed"
    assert facts["archive_error"] == reason


# Hostile archives

NEGATIVE = (-(2**20)).to_bytes(12, "big", signed=True)


@pytest.mark.parametrize(
    "hostile",
    [
        forged(HUGE),
        forged(HUGE, kind=b"Z"),
        forged(HUGE, kind=b"S"),
        forged(b"\x80" + b"\xff" * 11),
        forged(NEGATIVE),
        forged((-BLOCK).to_bytes(12, "big", signed=True)),
        forged(b"77777777777\0"),
        forged(b"not octal!!!"),
        forged(HUGE, kind=b"x"),
        forged(NEGATIVE, kind=b"x"),
        forged(HUGE, kind=b"L"),
        forged(NEGATIVE, kind=b"L"),
        forged(b"00000001000\0", kind=b"x") + b"99999999999999 path=x\n".ljust(BLOCK, b"9"),
        forged(b"00000001000\0", kind=b"x") + b"20 size=" + b"9" * 504,
        forged(b"00000000000\0", kind=b"L") * 3000,
        forged(b"00000000000\0", kind=b"x") * 3000,
        forged(b"00000000000\0", kind=b"S")[:482] + b"\1" + bytes(29),
    ],
    ids=lambda data: f"{data[156:157]!r}-{data[124:128].hex()}-{len(data)}",
)
def test_a_hostile_header_costs_no_time_and_nothing_that_came_before_it(unpack, hostile):
    begun = processor_seconds()
    rows, facts, contents = unpack(entry("good.mp3", b"good") + hostile + entry("b", b"2") + END)
    assert processor_seconds() - begun < 5
    assert rows[0]["status"] == "ok"
    assert contents["000000"] == b"good"
    # tarfile reads on behind some of them; then nothing is lost, and else there is a reason.
    assert facts["archive_status"] == "partial" or b"2" in contents.values()
    assert bool(facts["archive_error"]) == (facts["archive_status"] == "partial")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K", b"X"])
def test_a_header_that_would_take_all_memory_or_time_is_damage_and_no_more(unpack, kind):
    size = b"\x80" + (2**26).to_bytes(11, "big")
    header = forged(size, kind=kind) + b"9" * 2**16 + bytes(2**26 - 2**16)
    bomb = gzip.compress(entry("a", b"1") + header + entry("b", b"2") + END, 1)
    begun = processor_seconds()
    rows, facts, _ = unpack(bomb, limits=UnpackLimits(max_ratio=1e6))
    assert processor_seconds() - begun < 10
    assert [row["member"] for row in rows] == ["a", "b"]
    assert facts["archive_status"] == "partial"
    assert "an extended header of 67108864 bytes" in facts["archive_error"]


def test_a_gzip_bomb_ends_at_the_allowed_ratio(unpack):
    data = entry("a", b"1") + forged(b"10000000000\0") + bytes(150 << 20)
    rows, facts, contents = unpack(gzip.compress(data, 1))
    assert statuses(rows) == ["ok", "failed"]
    assert "gzip expands 2" in facts["archive_error"]
    assert list(contents) == ["000000"]


@pytest.mark.parametrize(
    ("limits", "expected", "reason"),
    [
        (UnpackLimits(max_members=2), ["ok", "ok"], "more than 2 members"),
        (UnpackLimits(max_member_bytes=500), ["ok", "ok", "failed", "ok"], "declares 1000 bytes"),
        (UnpackLimits(max_total_bytes=1800), ["ok", "ok"], "more than 1800 bytes in all"),
    ],
)
def test_what_exceeds_a_limit_is_left_out_with_a_reason(unpack, limits, expected, reason):
    data = entry("a", b"1") + entry("b", b"2") + entry("c", b"3" * 1000) + entry("d", b"4") + END
    rows, facts, _ = unpack(data, limits=limits)
    assert statuses(rows) == expected
    assert facts["archive_status"] == "partial"
    assert reason in facts["archive_error"]


@pytest.mark.slow
def test_an_archive_that_never_ends_is_given_up_in_time_and_keeps_what_was_read(tmp_path):
    archive = tmp_path / "a.tar"
    archive.write_bytes(entry("a", b"1"))
    os.truncate(archive, 1 << 40)  # holes: zeros that take no room
    begun = processor_seconds()
    unpack_archive(archive, tmp_path / "out", UnpackLimits(timeout_seconds=2))
    assert processor_seconds() - begun < 6
    facts = read_provenance(tmp_path / "out" / MEMBERS_FILE)
    assert facts["archive_status"] == "partial"
    assert facts["archive_error"] == "not read in 2 seconds of computing"
    assert (tmp_path / "out" / "000000").read_bytes() == b"1"


def test_a_member_that_is_being_read_when_time_is_up_is_failed_and_removed(tmp_path):
    archive = tmp_path / "a.tar"
    archive.write_bytes(entry("a", b"1") + forged(b"\x80" + (1 << 38).to_bytes(11, "big")))
    os.truncate(archive, 1 << 39)
    limits = UnpackLimits(timeout_seconds=1, max_member_bytes=1 << 39)
    unpack_archive(archive, tmp_path / "out", limits)
    rows = read_table(tmp_path / "out" / MEMBERS_FILE, MEMBERS).to_pylist()
    assert statuses(rows) == ["ok", "failed"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"000000", MEMBERS_FILE}


# The system's own refusals


def test_the_destination_appears_only_once_it_is_complete(tmp_path, monkeypatch):
    destination, partial = tmp_path / "out", partial_path(tmp_path / "out")
    seen = []

    def write_table(path, *rest):
        tables.write_table(path, *rest)
        seen.append((path, (partial / "000000").read_bytes(), destination.exists()))

    monkeypatch.setattr("earmark.ingest.unpack.write_table", write_table)
    (tmp_path / "a.tar").write_bytes(entry("a", b"1") + END)
    unpack_archive(tmp_path / "a.tar", destination)
    assert seen == [(partial / MEMBERS_FILE, b"1", False)]
    assert {path.name for path in destination.iterdir()} == {"000000", MEMBERS_FILE}
    assert not partial.exists()


def test_a_refusal_to_write_is_an_error_and_nothing_is_left(tmp_path):
    (tmp_path / "a.tar").write_bytes(entry("a", b"1" * 100_000) + END)
    with largest_file(50_000), pytest.raises(OSError, match="File too large"):
        unpack_archive(tmp_path / "a.tar", tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"a.tar"}


def test_an_archive_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        unpack_archive(tmp_path / "a.tar", tmp_path / "out")


# Any archive

members = st.lists(
    st.tuples(
        st.binary(max_size=150).filter(lambda name: b"\0" not in name),
        st.binary(max_size=1500) | st.just(b"Z" * 9_000),
        st.sampled_from([tarfile.REGTYPE] * 5 + [tarfile.SYMTYPE, tarfile.DIRTYPE]),
        st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    ),
    max_size=6,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(members=members, gzipped=st.booleans(), cut=st.none() | st.floats(0, 1))
def test_each_member_of_any_archive_ends_in_one_outcome(tmp_path_factory, members, gzipped, cut):
    parts = [
        entry(name, content if kind == tarfile.REGTYPE else b"", kind, "x", fmt)
        for name, content, kind, fmt in members
    ]
    data = b"".join(parts)
    whole = len(data)
    data += END
    if cut is not None:
        data = data[: int(cut * whole)]
    folder = tmp_path_factory.mktemp("any")
    _, end, files = read_all(folder, gzip.compress(data, 1) if gzipped else data, gzipped)
    expected = [content for _, content, kind, _ in members if kind == tarfile.REGTYPE]
    contents = list(files.values())
    if cut is None:
        assert end["status"] == "ok"
        assert contents == expected
    else:
        assert end["status"] != "ok"
        assert contents == expected[: len(contents)]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    gzipped=st.booleans(),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=20),
)
def test_an_archive_with_changed_bytes_ends_in_one_outcome(tmp_path_factory, gzipped, changes):
    data = entry("a.mp3", b"a" * 700) + entry("ñ" * 120, b"b" * 300, fmt=tarfile.PAX_FORMAT)
    data += entry("link", kind=tarfile.SYMTYPE, link="/etc") + entry("c.mp3", b"c" * 2000) + END
    damaged = bytearray(gzip.compress(data, 1) if gzipped else data)
    for place, value in changes:
        damaged[int(place * (len(damaged) - 1))] = value
    read_all(tmp_path_factory.mktemp("changed"), bytes(damaged), gzipped)


@given(st.binary(max_size=5000))
def test_any_bytes_as_a_name_become_text_that_can_be_stored(name):
    text = readable(name.decode("utf-8", "surrogateescape"))
    assert "\0" not in text
    assert "\n" not in text
    assert len(text.encode()) <= 4 * 4096


def test_python_reads_the_archives_that_these_tests_make():
    data = entry("a", b"1") + END
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == ["a"]


# What is unpacked, and damaged before it is encoded


def take_away(folder):
    (folder / "000001").unlink()


def fill_with_zeros(folder):
    (folder / "000001").write_bytes(bytes((folder / "000001").stat().st_size))


def cut_the_list(folder):
    os.truncate(folder / MEMBERS_FILE, 100)


def lose_the_list(folder):
    (folder / MEMBERS_FILE).unlink()


@pytest.mark.parametrize("damage", [take_away, fill_with_zeros, cut_the_list, lose_the_list])
def test_a_folder_that_is_not_what_its_list_says_is_found_out(tmp_path, damage):
    (tmp_path / "a.tar").write_bytes(entry("a", b"1") + entry("b", b"2" * 600) + END)
    unpack_archive(tmp_path / "a.tar", tmp_path / "out")
    assert is_unpacked(tmp_path / "out")
    damage(tmp_path / "out")
    assert not is_unpacked(tmp_path / "out")
