"""Hostile input in volume: each one ends in exactly one recorded outcome, and nothing else.

``pytest tests/test_fuzz.py`` tries 2,000 inputs, ``pytest tests/test_fuzz.py --fuzz-inputs
20000`` as many as it says (from 100,000 on with ``--timeout 0``); ``-rP`` shows how they
ended.  Of a hundred inputs

- 60 are clips of all kinds, damaged byte by byte, packed some hundreds to an archive and sent
  through the real `unpack_archive` and `encode_archive`, worker processes included;
- 10 are archives damaged likewise and read by the real `unpack_archive`, whose child takes a
  tenth of a second to start, which is why it is not more of them;
- 20 are such archives again and 10 are tars that hypothesis puts together field by field,
  both read by `read_members` in this process: the same code that the child runs.

Damage follows from one number alone, the seed that a failing assertion names:
``damaged_clip(seed, ...)`` and ``damaged_archive(seed, ...)`` make that input again.
"""

import contextlib
import gzip
import hashlib
import io
import math
import os
import random
import shutil
import signal
import tarfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sounds import ENCODERS, chirp, write_audio
from tars import BLOCK, END, entry

from earmark.ingest.encode import encode_archive
from earmark.ingest.tarstream import read_members
from earmark.ingest.unpack import MEMBERS_FILE, detect_archive_type, unpack_archive
from earmark.settings import EncodeSettings, UnpackLimits
from earmark.tables import MANIFEST, MEMBERS, read_provenance, read_table

pytestmark = pytest.mark.slow

ARCHIVES = Path(__file__).parents[1] / "demo" / "archives"
SHARES = {"clips": 0.6, "unpacked": 0.1, "read": 0.2, "built": 0.1}
CLIPS_PER_ARCHIVE = 600
#: Processor time after which reading a few kilobytes in this process counts as a hang.
SECONDS = 20
LIMITS = UnpackLimits(timeout_seconds=60)


@pytest.fixture(scope="module")
def share(request):
    """How many of the inputs a test has to try, by the test's part."""
    inputs = request.config.getoption("--fuzz-inputs")
    return {part: math.ceil(inputs * of_all) for part, of_all in SHARES.items()}


@pytest.fixture(scope="module")
def tried():
    """How many inputs each part has tried."""
    return Counter()


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A folder with things to destroy, which hostile names point at, and to work in."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "canary").write_text("sings")
    (folder / "empty").mkdir()
    monkeypatch.chdir(folder)
    return folder


def snapshot(folder, *inside):
    """All that lies below a folder, but not in those where a stage may write."""
    return {
        path: path.is_symlink() or (path.is_file() and hashlib.sha256(path.read_bytes()).digest())
        for path in folder.rglob("*")
        if not any(path == spared or spared in path.parents for spared in inside)
    }


# Damage


def _number(rng):
    """The bytes of a number that a reader may not expect, as binary formats write it."""
    width = rng.choice([1, 2, 4, 8])
    top = 1 << 8 * width
    value = rng.choice([0, 1, 2, 255, top - 1, top // 2, top // 2 - 1, top - 8, rng.randrange(top)])
    return (value % top).to_bytes(width, rng.choice(["big", "little"]))


def _place(data, rng):
    """A position; every second one near the start, where the headers are."""
    return rng.randrange(min(len(data), 600) if rng.random() < 0.5 else len(data))


def _put(data, place, new):
    return data[:place] + new + data[place + len(new) :]


def flip_bits(data, rng, _):
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8, 64])):
        changed[_place(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def overwrite(data, rng, _):
    filler = rng.choice([b"\0", b"\xff", rng.randbytes(1), rng.randbytes(37)])
    length = rng.choice([1, 4, 37, 300, len(data)])
    return _put(data, _place(data, rng), (filler * length)[:length])[: len(data)]


def put_extremes(data, rng, _):
    for _ in range(rng.choice([1, 1, 2, 5])):
        data = _put(data, _place(data, rng), _number(rng))
    return data


def truncate(data, rng, _):
    return data[: _place(data, rng)]


def cut_out(data, rng, _):
    start = _place(data, rng)
    return data[:start] + data[start + rng.choice([1, 2, 16, 100, 512, 5000]) :]


def insert(data, rng, _):
    place = _place(data, rng)
    return data[:place] + rng.randbytes(rng.choice([1, 3, 64, 512, 4000])) + data[place:]


def repeat_a_block(data, rng, _):
    start = _place(data, rng)
    block = data[start : start + rng.choice([4, 64, 512, 4096])]
    return data[:start] + block * rng.choice([2, 3, 20]) + data[start:]


def splice(data, rng, other):
    return data[: _place(data, rng)] + other[_place(other, rng) :]


def append(data, rng, other):
    return data + other


MUTATIONS = [
    flip_bits, overwrite, put_extremes, truncate, cut_out, insert, repeat_a_block, splice, append,
]  # fmt: skip


def damage(data, rng, other):
    """Some mutations of one input; now and then none."""
    for _ in range(rng.choice([0] + [1] * 10 + [2, 2, 3, 5])):
        data = rng.choice(MUTATIONS)(data, rng, other) or b"\0"
    return data


def damage_a_field(data, rng, outside):
    """Give one header of a tar a hostile value, most often under a checksum that is right."""
    headers = [
        at for at in range(0, len(data) - BLOCK, BLOCK) if data[at + 257 : at + 262] == b"ustar"
    ]
    if not headers:
        return data
    at = rng.choice(headers)
    header = bytearray(data[at : at + BLOCK])
    start, end = rng.choice(
        [(0, 100), (100, 108), (124, 136), (124, 136), (136, 148), (156, 157), (156, 157),
         (157, 257), (257, 265), (345, 500), (482, 495)]
    )  # fmt: skip
    value = rng.choice(
        [
            rng.randbytes(end - start),
            b"%o" % rng.choice([0, 1, 511, 513, 1 << 20, 1 << 32, (1 << 33) - 1]),
            (rng.choice([-1, -BLOCK, 1 << 62, -(1 << 62)]) % (1 << 96)).to_bytes(12, "big"),
            b"\x80" + rng.choice([1 << 20, 1 << 40, (1 << 63) - 1, 1 << 63]).to_bytes(11, "big"),
            rng.choice([b"0", b"1", b"2", b"5", b"7", b"S", b"x", b"g", b"L", b"K", b"X", b"D"]),
            rng.choice(hostile_names(outside)),
            b"",
        ]
    )
    header[start:end] = value[: end - start].ljust(end - start, b"\0")
    if rng.random() < 0.9:
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
    return _put(data, at, bytes(header))


def hostile_names(outside):
    """Names of members that point at the canary, or anywhere else."""
    absolute = bytes(outside)
    return [
        absolute + b"/canary", absolute + b"/new", b"../outside/canary", b"../../outside/canary",
        b"../../../outside/canary", b"canary", b"./canary", b"link/canary", b"000000", b"..", b"/",
        b"", MEMBERS_FILE.encode(), b"../" * 30 + b"etc/passwd", b"\xff\xfe", b"a\nb", b"c\\..\\x",
    ]  # fmt: skip


# Clips


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A short clip of each kind, and two things that are none."""
    folder = tmp_path_factory.mktemp("clips")
    files = [write_audio(folder / f"a.{kind}", chirp(0.3, 48_000), 48_000) for kind in ENCODERS]
    return [path.read_bytes() for path in files] + [b"%PDF-1.4\n" * 40, b"PK\3\4" + bytes(600)]


def damaged_clip(seed, clips):
    rng = random.Random(seed)
    return damage(rng.choice(clips), rng, rng.choice(clips))


def test_each_damaged_clip_ends_in_exactly_one_row(tmp_path, outside, clips, share, tried):
    seen: Counter[str] = Counter()
    for first in range(0, share["clips"], CLIPS_PER_ARCHIVE):
        seeds = range(first, min(first + CLIPS_PER_ARCHIVE, share["clips"]))
        folder = tmp_path / str(first)
        seen += end_of_clips(tmp_path, folder, {seed: damaged_clip(seed, clips) for seed in seeds})
        shutil.rmtree(folder)
        tried["clips"] += len(seeds)
    assert tried["clips"] == share["clips"]
    print(dict(seen))
    kinds = ["ok", "failed", "skipped", "duplicate", "ok with a note"]
    assert min(seen[kind] for kind in kinds) > tried["clips"] / 100, seen


def end_of_clips(root, folder, inputs):
    """Send clips through both stages, check each one's outcome and count the kinds of them."""
    archive, unpacked, audio = folder / "a.tar", folder / "unpacked" / "a", folder / "audio" / "a"
    folder.mkdir()
    archive.write_bytes(b"".join(entry(f"{seed}.mp3", data) for seed, data in inputs.items()) + END)
    before = snapshot(root, folder / "unpacked")
    unpack_archive(archive, unpacked, LIMITS)
    assert snapshot(root, folder / "unpacked") == before
    contents = {file.name: file.read_bytes() for file in unpacked.iterdir()}
    del contents[MEMBERS_FILE]
    assert list(inputs.values()) == [contents[name] for name in sorted(contents)]

    written = (folder / "audio", folder / "manifest")
    before = snapshot(root, *written)
    how = EncodeSettings(workers=2, complexity=0, timeout_seconds=10)
    encode_archive(unpacked, audio, folder / "manifest", "a", folder, how)
    assert snapshot(root, *written) == before

    rows = read_table(folder / "manifest", MANIFEST).to_pylist()
    assert [row["ordinal"] for row in rows] == list(range(len(inputs)))
    assert [row["member"] for row in rows] == [f"{seed}.mp3" for seed in inputs]
    kept = {file.relative_to(folder).as_posix(): file for file in audio.iterdir()}
    assert kept.keys() == {row["opus_path"] for row in rows if row["opus_path"]}
    seen: Counter[str] = Counter()
    for seed, row in zip(inputs, rows, strict=True):
        said = f"seed {seed}: {row}"
        assert row["status"] in ("ok", "failed", "skipped"), said
        assert row["source_sha256"] == hashlib.sha256(inputs[seed]).hexdigest(), said
        assert row["status"] == "ok" or row["error"], said
        is_kept = row["status"] == "ok" and row["duplicate_of"] is None
        assert bool(row["opus_path"]) == is_kept, said
        if row["duplicate_of"] is not None:
            first = rows[row["duplicate_of"]]
            assert first["ordinal"] < row["ordinal"], said
            assert first["source_sha256"] == row["source_sha256"], said
            assert (first["status"], first["error"]) == (row["status"], row["error"]), said
        if is_kept:
            opus = kept[row["opus_path"]].read_bytes()
            assert opus[:4] == b"OggS", said
            assert len(opus) == row["opus_bytes"], said
            assert row["duration_seconds"] > 0, said
        seen[row["status"]] += 1
        seen["duplicate"] += row["duplicate_of"] is not None
        seen["ok with a note"] += row["status"] == "ok" and row["error"] is not None
    return seen


# Archives


def shortened(path):
    """A real archive with all its headers, byte for byte, but little of the content."""
    data = path.read_bytes()
    data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    parts = []
    with contextlib.suppress(tarfile.ReadError), tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            header = bytearray(data[member.offset : member.offset_data])
            size = min(member.size, 300)
            header[-BLOCK + 124 : -BLOCK + 136] = b"%011o\0" % size
            header[-BLOCK + 148 : -BLOCK + 156] = b" " * 8
            header[-BLOCK + 148 : -BLOCK + 156] = b"%06o\0 " % sum(header[-BLOCK:])
            content = data[member.offset_data : member.offset_data + size]
            parts.append(bytes(header) + content + bytes(-size % BLOCK))
    return b"".join(parts) + END


def generated(outside, fmt):
    """A small tar of one format with names that point at the canary, links and folders."""
    parts = [entry(f"{index}.mp3", b"%d" % index * 300, fmt=fmt) for index in range(3)]
    parts += [entry(name, b"evil", fmt=fmt) for name in hostile_names(outside)[:8]]
    parts += [
        entry("folder", kind=tarfile.DIRTYPE, fmt=fmt),
        entry("link", kind=tarfile.SYMTYPE, link=str(outside), fmt=fmt),
        entry("link/canary", b"through a link", fmt=fmt),
        entry("hard", kind=tarfile.LNKTYPE, link=str(outside / "canary"), fmt=fmt),
        entry("long/" * 40 + "ñ.mp3", b"long", fmt=fmt),
    ]
    return b"".join(parts) + END


@pytest.fixture
def archives(outside):
    """The demo's archives, cut down, and small ones of each format."""
    paths = sorted(ARCHIVES.glob("*.tar*"))
    assert paths
    real = [shortened(path) for path in paths[:4]] + [path.read_bytes()[:40_000] for path in paths]
    made = [generated(outside, fmt) for fmt in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)]
    return real + made * 3


def damaged_archive(seed, archives, outside):
    rng = random.Random(seed)
    data, other = rng.choice(archives), rng.choice(archives)
    for _ in range(rng.choice([0, 1, 1, 1, 2, 4])):
        data = damage_a_field(data, rng, outside)
    pack = rng.choice(["plain", "plain", "damage, then gzip", "gzip, then damage", "both"])
    if pack != "gzip, then damage" and rng.random() < 0.7:
        data = damage(data, rng, other)
    if pack != "plain":
        data = gzip.compress(data, 1, mtime=0)
    if pack in ("gzip, then damage", "both"):
        data = damage(data, rng, rng.choice([other, gzip.compress(other, 1, mtime=0)]))
    return data


def check_archive(said, rows, status, error, folder):
    """One status, a reason unless it is ok, one row per member, and the files of the rows."""
    assert status in ("ok", "partial", "failed"), said
    assert (status == "ok") == (not error), said
    assert status != "failed" or not rows, said
    assert [row["ordinal"] for row in rows] == list(range(len(rows))), said
    files = {path.name: path for path in folder.iterdir() if path.name != MEMBERS_FILE}
    assert files.keys() == {row["file"] for row in rows if row["status"] == "ok"}, said
    for row in rows:
        assert row["status"] in ("ok", "failed", "skipped"), said
        assert (row["status"] == "ok") == (row.get("error") is None), said
        assert row["member"].isprintable() or row["member"].encode(), said
        if row["status"] == "ok":
            first = rows[int(row["file"])]  # another's if it is a hard link
            assert first["ordinal"] <= row["ordinal"], said
            assert first["file"] == f"{first['ordinal']:06d}", said
            content = files[row["file"]].read_bytes()
            assert not files[row["file"]].is_symlink(), said
            assert row["bytes"] == len(content), said
            # Who listens to the reader makes the hash; what is read in this process has none.
            assert row.get("sha256") in (None, hashlib.sha256(content).hexdigest()), said


def test_each_damaged_archive_is_unpacked_to_exactly_one_status(
    tmp_path, outside, archives, share, tried
):
    seen: Counter[str] = Counter()

    def unpack(seed):
        folder = tmp_path / str(seed)
        folder.mkdir()
        archive = folder / "a.tar.gz"
        archive.write_bytes(damaged_archive(seed, archives, outside))
        before = snapshot(outside), snapshot(folder)
        unpack_archive(archive, folder / "a", LIMITS)
        assert (snapshot(outside), snapshot(folder, folder / "a")) == before, f"seed {seed}"
        rows = read_table(folder / "a" / MEMBERS_FILE, MEMBERS).to_pylist()
        facts = read_provenance(folder / "a" / MEMBERS_FILE)
        said = f"seed {seed}: {facts} {rows}"
        check_archive(said, rows, facts["archive_status"], facts["archive_error"], folder / "a")
        shutil.rmtree(folder)
        return Counter([facts["archive_status"], *(f"{row['status']} row" for row in rows)])

    before = snapshot(tmp_path)
    with ThreadPoolExecutor(2) as threads:
        for counts in threads.map(unpack, range(share["unpacked"])):
            seen += counts
            tried["unpacked"] += 1
    assert snapshot(tmp_path) == before
    assert tried["unpacked"] == share["unpacked"]
    assert_each_kind(seen, tried["unpacked"])


def assert_each_kind(seen, inputs):
    """Whether the inputs were of all kinds, neither all broken nor all whole."""
    print(dict(seen))
    kinds = ["ok", "partial", "failed", "ok row", "failed row", "skipped row"]
    assert min(seen[kind] for kind in kinds) > inputs / 100, seen


@contextlib.contextmanager
def no_hang(said):
    """Fail when this process computes for long; the clock of pytest's own limit is another."""

    def stop(*_):
        pytest.fail(f"not done after {SECONDS} seconds: {said}")

    former = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, former)


def end_of_archive(said, data, tmp_path, outside):
    """Read an archive in this process, check its outcome and count the kinds of it."""
    archive, folder = tmp_path / "archive", tmp_path / "out"
    archive.write_bytes(data)
    folder.mkdir()
    before = snapshot(tmp_path, folder)
    compression = "gzip" if detect_archive_type(archive) in ("tar.gz", "gzip") else None
    with no_hang(said):
        messages: list[dict] = []
        read_members(archive, compression, folder, LIMITS, messages.append)
    assert snapshot(tmp_path, folder) == before, said
    assert all("row" in message for message in messages[:-1]), said
    last = {message["row"]["ordinal"]: message["row"] for message in messages[:-1]}
    rows, end = list(last.values()), messages[-1]["end"]
    check_archive(f"{said}: {end} {rows}", rows, end["status"], end["error"], folder)
    shutil.rmtree(folder)
    return Counter([end["status"], *(f"{row['status']} row" for row in rows)])


def test_each_damaged_archive_is_read_to_exactly_one_status(
    tmp_path, outside, archives, share, tried
):
    seen: Counter[str] = Counter()
    for seed in range(share["unpacked"], share["unpacked"] + share["read"]):
        data = damaged_archive(seed, archives, outside)
        seen += end_of_archive(f"seed {seed}", data, tmp_path, outside)
        tried["read"] += 1
    assert tried["read"] == share["read"]
    assert_each_kind(seen, tried["read"])


# Tars that are put together from fields

sizes = st.one_of(
    st.none(),  # the right one
    st.none(),
    st.integers(0, 8**11 - 1).map(lambda size: b"%011o\0" % size),
    st.integers(-(1 << 94), (1 << 94) - 1).map(
        lambda size: (size % (1 << 95) | 1 << 95).to_bytes(12, "big")
    ),
    st.binary(max_size=12),
)
keywords = st.sampled_from(
    ["size", "path", "linkpath", "mtime", "uid", "hdrcharset", "GNU.sparse.major",
     "GNU.sparse.minor", "GNU.sparse.map", "GNU.sparse.size", "GNU.sparse.offset",
     "GNU.sparse.numblocks", "GNU.sparse.name", "GNU.sparse.realsize"]
)  # fmt: skip
values = st.sampled_from(
    ["0", "1", "-1", "-512", "99999999999999999999", "1e999", "nan", "BINARY", "0,1,2", "../x", ""]
)


@st.composite
def pax_records(draw):
    """The content of an extended header; some lengths are wrong."""
    records = b""
    for keyword, value in draw(st.lists(st.tuples(keywords, values | st.text(max_size=9)))):
        record = f" {keyword}={value}\n".encode("utf-8", "replace")
        length = draw(st.just(len(record) + 2) | st.integers(0, 2000))
        records += str(length).encode() + record
    return records


@st.composite
def tar_entries(draw, names):
    """One header, hostile in any of its fields, and what follows it."""
    kind = draw(st.sampled_from(b"0000\0125736SLKxg") | st.integers(0, 255))
    content = draw(st.binary(max_size=1100) | st.just(b""))
    if kind in b"xgX":
        content = draw(pax_records() | st.just(content))
    if kind in b"LK":
        content = draw(names) + b"\0"
    header = bytearray(BLOCK)
    header[:100] = draw(names)[:100].ljust(100, b"\0")
    header[100:124] = b"0000644\0" * 3
    header[124:136] = (draw(sizes) or b"%011o\0" % len(content))[:12].ljust(12, b"\0")
    header[136:148] = draw(st.sampled_from([b"0" * 11 + b"\0", b"\xff" * 12, b"x" * 12]))
    header[156] = kind
    header[157:257] = draw(names)[:100].ljust(100, b"\0")
    header[257:265] = draw(st.sampled_from([b"ustar\00000", b"ustar  \0", bytes(8), b"\xff" * 8]))
    if draw(st.integers(0, 9)) == 0:
        start = draw(st.integers(0, BLOCK - 1))
        filler = draw(st.binary(min_size=1, max_size=60))
        header[start : start + len(filler)] = filler[: BLOCK - start]
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % (sum(header) + (draw(st.integers(0, 19)) == 0))
    padding = draw(st.just(-len(content) % BLOCK) | st.integers(0, BLOCK))
    return bytes(header) + content + bytes(padding)


def test_each_tar_of_any_structure_ends_in_exactly_one_status(tmp_path, outside, share, tried):
    names = st.sampled_from(hostile_names(outside)) | st.binary(max_size=120)
    seen: Counter[str] = Counter()

    @settings(
        max_examples=share["built"],
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
    )
    @given(
        first=st.sampled_from(
            [b"", entry("good.mp3", b"good"), entry("link", kind=tarfile.SYMTYPE)]
        ),
        entries=st.lists(tar_entries(names), max_size=8),
        end=st.sampled_from([END, END, b"", bytes(BLOCK), END + b"\xff" * BLOCK]),
        pack=st.sampled_from([bytes, gzip.compress]),
        kept=st.just(1.0) | st.floats(0, 1),
    )
    def read(first, entries, end, pack, kept):
        data = pack(first + b"".join(entries) + end)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)  # of an input that failed
        data = data[: int(len(data) * kept)]
        seen.update(end_of_archive(f"{len(data)} bytes", data, tmp_path, outside))
        tried["built"] += 1

    read()
    assert tried["built"] >= share["built"]
    # Members that are cut short are too rare among these to be counted on.
    assert_each_kind(seen + Counter({"failed row": tried["built"]}), tried["built"])


def test_as_many_inputs_were_tried_as_were_asked_for(request, tried):
    if tried.keys() != SHARES.keys() and "CI" not in os.environ:
        pytest.skip("not all tests of this module ran in this process")
    assert sum(tried.values()) >= request.config.getoption("--fuzz-inputs")
