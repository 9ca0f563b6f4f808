"""Files made to reach other files or the network through a decoder, or to wear it out.

Beside `test_media`, which has what each kind of file is: here they go through the real
`encode_archive` and its worker processes, and each must end in one row.
"""

import contextlib
import itertools
import random
import shutil
import socket
import struct
import threading
from pathlib import Path

import av
import numpy as np
import pytest
from processes import children
from processor_time import processor_seconds
from sounds import ENCODERS, chirp, wav, write_audio
from tars import END, entry, pack_zip

from earmark.ingest.encode import encode_archive
from earmark.ingest.formats import NOT_TAKEN
from earmark.ingest.unpack import unpack_archive
from earmark.settings import EncodeSettings
from earmark.tables import MANIFEST, read_table


@pytest.fixture
def encode(tmp_path):
    """Encode contents by member name as one archive; returns the rows, one for each."""

    def run(contents, **settings):
        root = tmp_path / "volume"
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        archive = root / "a.tar"
        parts = [entry(name, content) for name, content in contents.items()]
        archive.write_bytes(b"".join(parts) + END)
        unpack_archive(archive, root / "unpacked")
        how = EncodeSettings(**{"workers": 2, "complexity": 0, **settings})
        encode_archive(root / "unpacked", root / "audio", root / "manifest", "a", root, how)
        rows = read_table(root / "manifest", MANIFEST).to_pylist()
        assert [row["member"] for row in rows] == list(contents)
        for row in rows:
            assert (row["status"] == "ok") == (row["opus_path"] is not None)
            assert row["status"] == "ok" or row["error"]
        kept = {path.relative_to(root).as_posix() for path in (root / "audio").iterdir()}
        assert kept == {row["opus_path"] for row in rows} - {None}
        return rows

    return run


@pytest.fixture(scope="module")
def mp3(tmp_path_factory):
    return write_audio(tmp_path_factory.mktemp("audio") / "a.mp3", chirp(1)).read_bytes()


# What is taken


def film(path):
    """An MP4 with a picture and no sound."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        container.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        container.mux(stream.encode(None))
    return path.read_bytes()


def test_members_that_are_no_audio_are_skipped_with_what_they_are(encode, mp3, tmp_path):
    others = {
        "picture.mp3": (b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01" + bytes(500), "image/jpeg"),
        "paper.mp3": (b"%PDF-1.4\n" + bytes(500), "application/pdf"),
        "box.mp3": (pack_zip(), "application/zip"),
        "notes.mp3": (b"some words\n" * 50, "text/plain"),
        "page.mp3": (b"<!DOCTYPE html><html><body>Hi</body></html>", "text/html"),
        "program.mp3": (Path("/bin/sh").read_bytes()[:100_000], "application/x-"),
        "film.mp3": (film(tmp_path / "a.mp4"), "m4a without an audio stream"),
    }
    rows = encode({name: content for name, (content, _) in others.items()} | {"a.txt": mp3})
    for row, (_, what) in zip(rows, others.values(), strict=False):
        assert (row["status"], row["selected"]) == ("skipped", False)
        assert row["error"].startswith(f"not audio: {what}")
    assert rows[-1]["status"] == "ok"


@pytest.mark.parametrize(
    ("container", "codec", "sample_format", "what"),
    [
        ("avi", "pcm_s16le", "s16", "AVI"),
        ("nut", "aac", "fltp", "NUT"),
        ("rm", "ac3", "fltp", "RealMedia"),
        ("latm", "aac", "fltp", "AAC in LATM"),
        ("adx", "adpcm_adx", "s16", "CRI ADX ADPCM audio v3"),
        ("wav", "dfpwm", "u8", "DFPWM1a audio in wav"),
    ],
)
def test_audio_that_is_not_taken_is_skipped_by_its_name_although_ffmpeg_knows_it(
    encode, tmp_path, monkeypatch, container, codec, sample_format, what
):
    monkeypatch.setitem(ENCODERS, "other", (container, codec, sample_format))
    path = write_audio(tmp_path / "a", chirp(0.5, 48_000), 48_000, kind="other")
    assert decodes(path)
    (row,) = encode({"a.mp3": path.read_bytes()})
    assert (row["status"], row["error"]) == ("skipped", f"{NOT_TAKEN}: {what}")


@pytest.mark.parametrize(
    ("name", "codec"), [("call.g722", "G.722"), ("VOICEMAIL.SLN", "signed linear PCM")]
)
def test_sound_without_a_header_is_told_by_its_name(encode, name, codec):
    noise = random.Random(2).randbytes(5000)
    rows = encode({name: noise, "b.bin": noise[1:], f"c{name}": b"some words\n" * 50})
    assert [row["error"] for row in rows] == [
        f"{NOT_TAKEN}: {codec} without a header, as its name says",
        "not audio: application/octet-stream",
        "not audio: text/plain",
    ]


def test_mpeg_audio_of_layer_two_is_taken(encode, tmp_path, monkeypatch):
    monkeypatch.setitem(ENCODERS, "mp2", ("mp2", "mp2", "s16"))
    path = write_audio(tmp_path / "a.mp2", chirp(1, 48_000), 48_000)
    (row,) = encode({"a.mp3": path.read_bytes()})
    assert (row["status"], row["source_format"]) == ("ok", "mp3")
    assert row["duration_seconds"] == pytest.approx(1, abs=0.05)


def decodes(path, **options):
    """Whether FFmpeg hears anything in a file that it may open by name and in its own way."""
    try:
        with av.open(str(path), **options) as container:
            return any(frame.samples for frame in container.decode(audio=0))
    except (av.error.FFmpegError, IndexError):
        return False


# What they reach


class Listener:
    """An HTTP server's port on this machine that knows whether anybody came."""

    def __init__(self):
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._socket.setblocking(False)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/neighbour.mp3"

    def was_called(self):
        calls = 0
        while True:
            try:
                self._socket.accept()[0].close()
                calls += 1
            except BlockingIOError:
                return calls > 0

    def close(self):
        self._socket.close()


@pytest.fixture
def listener():
    listening = Listener()
    yield listening
    listening.close()


HLS = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n"
HLS_KEY = HLS.replace("#EXTINF", '#EXT-X-KEY:METHOD=AES-128,URI="{}"\n#EXTINF')
MASTER = "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=99\n{}\n"
CONCAT = "ffconcat version 1.0\nfile '{}'\n"
DASH = (
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT9S"><Period><AdaptationSet mimeType="audio/mp4">'
    '<Representation id="1" bandwidth="9"><BaseURL>{}</BaseURL></Representation>'
    "</AdaptationSet></Period></MPD>"
)
LISTS = {"hls": HLS, "hls key": HLS_KEY, "master": MASTER, "concat": CONCAT, "dash": DASH}
#: What lets a file pass for one of the containers on the list.
DISGUISES = {
    "none": b"", "mp3": b"ID3", "mp3 tag": b"ID3\4\0\0\0\0\0\0", "mp3 frame": b"\xff\xfb\x90\0",
    "aac": b"\xff\xf1\x50\x80\x02\x1f\xfc", "flac": b"fLaC", "ogg": b"OggS",
    "wav": b"RIFF\0\1\0\0WAVE", "m4a": b"\0\0\0\x10ftypM4A \0\0\0\0",
    "webm": b"\x1a\x45\xdf\xa3webm", "mov": b"\0\0\0\x08wide",
    "asf": bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"), "flv": b"FLV\x01\x05\0\0\0\x09",
}  # fmt: skip


def test_no_list_in_any_disguise_reaches_a_file_or_the_network(encode, listener, tmp_path, mp3):
    neighbour = tmp_path / "neighbour.mp3"
    neighbour.write_bytes(mp3)
    targets = {
        "http": listener.url,
        "file": str(neighbour),
        "file url": neighbour.as_uri(),
        "subfile": f"subfile,,start,0,end,0,,:{neighbour}",
        "concat": f"concat:{neighbour}",
        "crypto": f"crypto+{listener.url}",
        "data": "data:audio/mpeg;base64,//uQAA==",
        "relative": "000000",
    }
    traps = {
        " ".join(names): disguise + text.format(*[target] * 2).encode()
        for *names, disguise, text, target in (
            (one, two, three, DISGUISES[one], LISTS[two], targets[three])
            for one, two, three in itertools.product(DISGUISES, LISTS, targets)
        )
    }
    rows = encode({"neighbour": mp3, **traps}, timeout_seconds=20)
    assert rows[0]["status"] == "ok"
    for row in rows[1:]:
        assert row["status"] in ("failed", "skipped"), row
        assert "seconds of computing" not in row["error"], row
    assert not listener.was_called()


@pytest.mark.parametrize(("container", "text"), [("hls", HLS), ("concat", CONCAT)])
def test_the_listener_would_hear_a_list_that_ffmpeg_believes(tmp_path, listener, container, text):
    path = tmp_path / "a"
    path.write_text(text.format(listener.url))
    options = {"protocol_whitelist": "file,http,tcp", "safe": "0"}
    assert not decodes(path, format=container, options=options, timeout=0.5)
    assert listener.was_called()


def test_a_name_that_is_an_address_is_never_opened(encode, listener, mp3):
    names = [listener.url, f"concat:{listener.url}", "data:audio/mpeg;base64,AA", "%06d.mp3", "-"]
    rows = encode({name: mp3 + bytes([index]) for index, name in enumerate(names)})
    assert [row["status"] for row in rows] == ["ok"] * len(names)
    assert not listener.was_called()


def box(kind, content):
    return struct.pack(">I", 8 + len(content)) + kind + content


def replace_box(data, old_kind, new):
    """Put another box in the place of one in an MP4's ``moov`` and mend its parents' sizes."""
    kinds = [b"moov", b"trak", b"mdia", b"minf", b"dinf", b"stbl"]
    start = data.index(old_kind) - 4
    (size,) = struct.unpack_from(">I", data, start)
    changed = bytearray(data[:start] + new + data[start + size :])
    for kind in kinds:
        parent = data.index(kind) - 4
        (parent_size,) = struct.unpack_from(">I", data, parent)
        if parent < start < parent + parent_size:
            struct.pack_into(">I", changed, parent, parent_size + len(new) - size)
    return bytes(changed)


def alias(path):
    """A Macintosh alias to a file by its absolute path, as FFmpeg reads it from a ``dref``."""
    name = str(path).encode()
    fixed = bytes(10) + bytes(28) + bytes(12) + bytes(64) + bytes(16) + bytes(4) + bytes(16)
    tail = struct.pack(">HH", 2, len(name)) + name + bytes(len(name) % 2) + b"\xff\xff\0\0"
    return box(b"alis", bytes(4) + fixed + tail)


def data_elsewhere(m4a, reference):
    """An MP4 whose samples lie in another file, and which has none of its own."""
    assert m4a.index(b"mdat") < m4a.index(b"moov")  # so that no offset changes
    one = replace_box(m4a, b"dref", box(b"dref", bytes(4) + struct.pack(">I", 1) + reference))
    start = one.index(b"mdat") + 4
    end = one.index(b"moov") - 4
    return one[:start] + bytes(end - start) + one[end:]


def test_an_mp4_reaches_no_data_outside_itself(encode, listener, tmp_path):
    whole = write_audio(tmp_path / "neighbour.m4a", chirp(1))
    m4a = whole.read_bytes()
    url = listener.url.encode() + b"\0"
    traps = {
        "alias": data_elsewhere(m4a, alias(whole)),
        "url": data_elsewhere(m4a, box(b"url ", bytes(4) + url)),
        "urn": data_elsewhere(m4a, box(b"urn ", bytes(4) + b"name\0" + url)),
        "file": data_elsewhere(m4a, box(b"url ", bytes(4) + whole.as_uri().encode() + b"\0")),
    }
    # It would work, had FFmpeg been told to follow such references:
    (tmp_path / "alias").write_bytes(traps["alias"])
    follow = {"enable_drefs": "1", "use_absolute_path": "1"}
    assert decodes(tmp_path / "alias", format="mp4", options=follow)
    rows = encode({"whole": m4a, **traps})
    assert [row["status"] for row in rows] == ["ok"] + ["failed"] * len(traps)
    assert not listener.was_called()


# What they cost


def test_an_mp4_that_points_beyond_any_file_is_one_failed_row(encode, tmp_path, mp3):
    # No file can be so long, and Linux refuses to seek there as if the machine were at fault.
    m4a = write_audio(tmp_path / "a.m4a", chirp(1)).read_bytes()
    offsets = [1 << 40, 1 << 50, 1 << 60, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
    far = {
        str(offset): replace_box(m4a, b"stco", box(b"co64", struct.pack(">IIQ", 0, 1, offset)))
        for offset in offsets
    }
    rows = encode({**far, "good": mp3})
    assert [row["status"] for row in rows] == ["failed"] * len(offsets) + ["ok"]
    for row in rows[:-1]:
        assert row["error"].startswith("no audio can be decoded from this m4a")


def test_a_clip_of_less_than_one_sample_is_one_failed_row(encode, mp3):
    rows = encode({"short": wav(2**22, 30), "good": mp3})
    assert [row["status"] for row in rows] == ["failed", "ok"]
    assert rows[0]["error"] == "no audio can be decoded from this wav: not one sample"


def silence(path, hours):
    """Hours of FLAC silence, a dozen bytes per second and most frames alike."""
    with av.open(str(path), "w", format="flac") as container:
        stream = container.add_stream("flac", rate=8000, layout="mono")
        stream.codec_context.options = {"frame_size": "65535"}
        for _ in range(int(hours * 3600 * 8000 / 65_535)):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 65_535), np.int16), "s16", "mono")
            frame.sample_rate = 8000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path.read_bytes()


class Memory(threading.Thread):
    """Watches how much the processes that encode for this one take at most, in MiB."""

    def __enter__(self):
        self.most = 0.0
        self._done = threading.Event()
        self.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self.join()

    def run(self):
        while not self._done.wait(0.05):
            for status in self._children():
                taken = [line for line in status.splitlines() if line.startswith("VmHWM")]
                self.most = max([self.most, *(int(line.split()[1]) / 1024 for line in taken)])

    def _children(self):
        for pid in children():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # ended meanwhile
                # Not one of another test, nor one that has not begun its own program yet.
                if "earmark.ingest.media" in Path(f"/proc/{pid}/cmdline").read_text():
                    yield Path(f"/proc/{pid}/status").read_text()


@pytest.mark.slow
def test_a_tiny_file_of_many_hours_is_given_up_in_time_and_takes_little_memory(
    encode, tmp_path, mp3
):
    bombs = {"days": wav(1, 500_000), "hours": silence(tmp_path / "a.flac", 10)}
    assert len(bombs["hours"]) < 100_000
    begun = processor_seconds()
    with Memory(daemon=True) as memory:
        rows = encode({**bombs, "good": mp3}, timeout_seconds=4)
    assert processor_seconds() - begun < 20
    assert [row["status"] for row in rows] == ["failed", "failed", "ok"]
    assert {row["error"] for row in rows[:2]} == {"not decoded in 4 seconds of computing"}
    assert 30 < memory.most < 300


@pytest.mark.slow
def test_minutes_of_silence_in_a_few_bytes_are_a_clip_like_any_other(encode, tmp_path):
    content = silence(tmp_path / "a.flac", 0.1)
    assert len(content) < 10_000
    with Memory(daemon=True) as memory:
        (row,) = encode({"minutes": content})
    assert row["status"] == "ok"
    assert row["duration_seconds"] == pytest.approx(360, abs=10)
    assert row["opus_bytes"] < 48_000 / 8 * 360
    assert 30 < memory.most < 300


def test_sample_rates_that_no_memory_would_hold_are_failed_rows(encode, mp3):
    rates = [2**32 - 1, 2**31 - 1, 2**31, 0]
    absurd = {str(rate): wav(rate, 100_000) for rate in rates}
    with Memory(daemon=True) as memory:
        rows = encode({**absurd, "good": mp3}, timeout_seconds=20)
    assert [row["status"] for row in rows] == ["failed"] * len(rates) + ["ok"]
    assert 30 < memory.most < 300


#: Where a header tells the length: the mark before it, bytes between, and the longest.
LENGTHS = {
    "mp3": (b"Info", 4, b"\xff" * 4),  # frames
    "m4a": (b"mdhd", 16, b"\xff" * 4),
    "wav": (b"data", 0, b"\xff" * 4),
    "flac": (b"fLaC", 18, b"\xff" * 4),  # STREAMINFO, the low bits of the samples
    "ogg": (b"OggS", 2, b"\xff" * 7 + b"\x7f"),  # the last page's granule position
    "opus": (b"OggS", 2, b"\xff" * 7 + b"\x7f"),
    "webm": (b"\x44\x89\x88", 0, struct.pack(">d", 1e15)),
}


def test_a_header_that_declares_hours_costs_no_more_than_what_is_there(encode, tmp_path):
    liars = {}
    for kind, (mark, between, longest) in LENGTHS.items():
        data = write_audio(tmp_path / f"a.{kind}", chirp(1, 48_000), 48_000).read_bytes()
        place = data.rindex(mark) + len(mark) + between
        liars[kind] = data[:place] + longest + data[place + len(longest) :]
    begun = processor_seconds()
    rows = encode(liars)
    assert processor_seconds() - begun < 20
    assert {row["member"] for row in rows if row["status"] == "ok"} >= {"mp3", "wav", "flac"}
    for row in rows:
        assert row["status"] == "failed" or row["duration_seconds"] < 2
