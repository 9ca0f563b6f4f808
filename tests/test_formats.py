"""Telling what a file is by its bytes, held against what the ffmpeg program plays of it."""

import contextlib
import io
import random
import struct
import tarfile
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sounds import chirp, ffmpeg, played, write_audio

from earmark.ingest.formats import DEMUXERS, NOT_TAKEN, identify, why_not
from earmark.ingest.media import MediaError, NotAudioError, decode_audio

pytestmark = pytest.mark.needs("ffmpeg")

SECONDS = 1.5

#: Files that people post, by name: how FFmpeg writes them, and what `identify` calls them.
POSTED = {
    "mp3": ("-b:a 64k -f mp3", "mp3"),
    "mp2": ("-f mp2", "mp3"),
    "aac": ("-f adts", "aac"),
    "ac3": ("-f ac3", "ac3"),
    "eac3": ("-f eac3", "eac3"),
    "dts": ("-strict -2 -c:a dca -f dts", "dts"),
    "flac": ("-f flac", "flac"),
    "flac in ogg": ("-c:a flac -f ogg", "ogg"),
    "speex": ("-c:a libspeex -ar 16000 -f ogg", "ogg"),
    "m4a": ("-f ipod", "m4a"),
    "alac": ("-c:a alac -f ipod", "m4a"),
    "fragments": ("-f mp4 -movflags frag_keyframe+empty_moov", "m4a"),
    "mov": ("-c:a pcm_s16be -f mov", "m4a"),
    "3gp": ("-c:a aac -f 3gp", "m4a"),
    "aiff": ("-f aiff", "aiff"),
    "aifc": ("-c:a pcm_mulaw -f aiff", "aiff"),
    "au": ("-f au", "au"),
    "caf": ("-c:a alac -f caf", "caf"),
    "rf64": ("-rf64 always -f wav", "wav"),
    "w64": ("-f w64", "w64"),
    "mp3 in wav": ("-c:a libmp3lame -f wav", "wav"),
    "yamaha": ("-c:a adpcm_yamaha -f wav", "wav"),
    "voicemail": ("-c:a gsm_ms -ar 8000 -f wav", "wav"),
    "wma": ("-c:a wmav2 -f asf", "asf"),
    "mka": ("-c:a libvorbis -f matroska", "matroska"),
    "flv": ("-ar 44100 -f flv", "flv"),
    "mpegts": ("-f mpegts", "mpegts"),
    "64 bits": ("-c:a pcm_s64le -f wav", "wav"),
    "raw gsm": ("-c:a libgsm -ar 8000 -f gsm", "gsm"),
    "headset.sbc": ("-c:a sbc -f sbc", "sbc"),
    "voc": ("-f voc", "voc"),
    "sox": ("-f sox", "sox"),
    "ircam": ("-f ircam", "ircam"),
    "wavpack": ("-f wv", "wavpack"),
    "tta": ("-f tta", "tta"),
}


@pytest.fixture(scope="module")
def posted(tmp_path_factory):
    """A file of each kind with the same sound, by name; some with a picture."""
    folder = tmp_path_factory.mktemp("posted")
    sound = write_audio(folder / "sound.wav", chirp(SECONDS, 48_000), 48_000)
    targets = []
    for name, (how, _) in POSTED.items():
        targets += [*how.split(), "-map", "0:a", "-ac", "1", folder / name]
    film = ["-map", "1:v", "-map", "0:a", "-shortest", "-c:v", "mpeg4"]
    targets += [
        *film,
        "-f",
        "mp4",
        folder / "film mp4",
        *film,
        "-f",
        "matroska",
        folder / "film mkv",
    ]
    targets += [*film, "-c:v", "mpeg1video", "-c:a", "mp2", "-f", "mpeg", folder / "film mpeg"]
    picture = ["-f", "lavfi", "-i", f"color=size=32x32:rate=25:duration={SECONDS}"]
    ffmpeg("-i", sound, *picture, *targets)
    with av.open(str(folder / "amr"), "w", format="amr") as container:
        stream = container.add_stream("libopencore_amrnb", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            (chirp(SECONDS, 8000) * 32_767).astype(np.int16)[None, :], "s16", "mono"
        )
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    sound.unlink()
    return {path.name: path for path in folder.iterdir()}


def amr_wideband():
    """A file of the wideband codec: 12.65 kb/s, any bits are sound (RFC 4867, section 5.3)."""
    bits = random.Random(1)
    return b"#!AMR-WB\n" + b"".join(b"\x14" + bits.randbytes(32) for _ in range(int(SECONDS * 50)))


def rifx():
    """A WAV in the other byte order."""
    samples = (chirp(SECONDS, 8000) * 32_767).astype(">i2").tobytes()
    form = struct.pack(
        ">4sIHHIIHH4sI", b"fmt ", 16, 1, 1, 8000, 16_000, 2, 16, b"data", len(samples)
    )
    return b"RIFX" + struct.pack(">I4s", 4 + len(form) + len(samples), b"WAVE") + form + samples


def old_quicktime(mov):
    """A QuickTime file as it was before there was an ``ftyp``: its data first, or a ``wide``."""
    (length,) = struct.unpack(">I", mov[:4])
    assert mov[4:8] == b"ftyp"
    return struct.pack(">I4s", length, b"wide") + mov[8:length] + mov[length:]


def level(audio):
    return float(np.sqrt(np.mean(np.square(audio, dtype=float))))


def assert_heard(path, theirs):
    """What we decode is as long and as loud as that."""
    ours = decode_audio(path)
    assert len(ours) == pytest.approx(len(theirs), abs=0.15 * 16_000), path.name
    assert level(ours) == pytest.approx(level(np.clip(theirs, -1, 1)), rel=0.1), path.name


def found(path):
    with path.open("rb") as file:
        return identify(file)


# What is taken


def test_whatever_people_post_is_heard_as_ffmpeg_plays_it(posted, tmp_path):
    posted = dict(posted)
    others = {"wideband": amr_wideband(), "rifx": rifx()}
    others["old mov"] = old_quicktime(posted["mov"].read_bytes())
    for name, content in others.items():
        posted[name] = tmp_path / name
        posted[name].write_bytes(content)
    names = {name: kind for name, (_, kind) in POSTED.items()}
    names |= {"wideband": "amr", "amr": "amr", "rifx": "wav", "old mov": "m4a"}
    names |= {"film mp4": "m4a", "film mkv": "matroska", "film mpeg": "mpeg"}
    assert posted.keys() == names.keys()
    assert set(names.values()) | {"webm"} == set(DEMUXERS)
    for name, path in posted.items():
        theirs = played(path)
        assert len(theirs) / 16_000 == pytest.approx(SECONDS, abs=0.1), name
        format_name, _, junk = found(path)
        assert (format_name, junk) == (names[name], 0)
        assert_heard(path, theirs)


def id3(size, content=b""):
    digits = bytes(size >> shift & 127 for shift in (21, 14, 7, 0))
    return b"ID3\4\0\0" + digits + content


APE = b"APETAGEX" + struct.pack("<IIII", 2000, 40, 1, 0xA0000000) + bytes(8) + bytes(40)
BEFORE = {
    "newline": b"\n",
    "blank lines": b"\r\n\r\n",
    "byte order mark": b"\xef\xbb\xbf",
    "HTTP header": b"HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\nContent-Length: 9\r\n\r\n",
    "ICY header": b"ICY 200 OK\r\nicy-name: Radio\r\nicy-br:64\r\n\r\n",
    "APE tag": APE,
    "two ID3 tags": id3(100, bytes(100)) + id3(50, b"y" * 50),
    "ID3 tag that is longer than it says": id3(10, b"T" * 500),
    "ID3v1 tag": b"TAG" + b"z" * 125,
    "multipart upload": b'--x\r\nContent-Disposition: form-data; name="f"\r\n\r\n',
    "noise": random.Random(1).randbytes(20_000),
}


@pytest.mark.parametrize("name", ["mp3", "mp2", "aac", "ac3"])
def test_frames_are_found_behind_anything_and_from_the_middle_on(posted, tmp_path, name):
    data = posted[name].read_bytes()
    files = {what: before + data for what, before in BEFORE.items()}
    files |= {"cut": data[151:], "second half": data[len(data) // 2 :]}
    for what, content in files.items():
        path = tmp_path / what
        path.write_bytes(content)
        theirs = played(path)
        assert len(theirs) / 16_000 > SECONDS / 3, what
        assert_heard(path, theirs)


@pytest.mark.parametrize("name", ["flac", "flac in ogg", "speex", "m4a", "wma", "rf64", "mka"])
def test_containers_are_found_where_ffmpeg_gives_up(posted, tmp_path, name):
    whole = decode_audio(posted[name])
    for what, before in BEFORE.items():
        if what == "noise" and name not in ("flac", "flac in ogg", "speex"):
            continue  # their beginning could be any bytes
        (tmp_path / what).write_bytes(before + posted[name].read_bytes())
        assert np.array_equal(decode_audio(tmp_path / what), whole), what


def test_flac_that_was_cut_from_a_stream_is_heard_from_its_next_frame_on(posted, tmp_path):
    data = posted["flac"].read_bytes()
    (tmp_path / "a").write_bytes(data[len(data) // 2 :])
    assert 0.2 < len(decode_audio(tmp_path / "a")) / 16_000 < SECONDS / 2


def test_a_tag_that_claims_more_than_the_file_has_hides_no_audio(posted, tmp_path):
    (tmp_path / "a").write_bytes(id3(1 << 27, b"T" * 200) + posted["aac"].read_bytes())
    assert_heard(tmp_path / "a", played(posted["aac"]))


# What is not


def test_neither_noise_nor_programs_are_taken_for_audio():
    for seed in range(50):
        noise = random.Random(seed).randbytes(1 << 20)
        assert identify(io.BytesIO(noise)) is None, seed
    programs = [path for path in Path("/usr/bin").iterdir() if path.is_file()][:200]
    assert sum(found(path) is not None for path in programs) <= 2


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"MThd\0\0\0\6\0\1\0\1\0\x60MTrk" + bytes(50), "MIDI"),
        (b"MAC \x96\x0f" + bytes(60), "Monkey's Audio"),
        (b"MPCKSH" + bytes(60), "Musepack"),
        (b".ra\xfd\0\4" + bytes(90), "RealAudio"),
        (b"RIFF\0\1\0\0AVI LIST" + bytes(90), "AVI"),
    ],
)
def test_audio_that_is_not_taken_is_called_by_its_name(content, name):
    assert identify(io.BytesIO(content)) is None
    assert why_not(io.BytesIO(content)) == f"{NOT_TAKEN}: {name}"


NAMED = {
    "AST of Nintendo": "-f ast",
    "ALP of a game": "-ar 22050 -f alp",
    "APM of a game": "-f apm",
    "ASF as it is streamed": "-f asf_stream",
    "ASF of Argonaut Games": "-f argo_asf",
    "AVI": "-f avi",
    "GXF": "-f gxf",
    "KVAG of a game": "-f kvag",
    "Loki SMJPEG": "-f smjpeg",
    "NUT": "-f nut",
    "SMAF (Yamaha MMF)": "-ar 22050 -f mmf",
    "S/PDIF (IEC 61937)": "-c:a ac3 -f spdif",
    "Windows TV recording": "-f wtv",
    "audio of Westwood Studios": "-f wsaud",
}


def test_audio_that_only_ffmpeg_takes_is_called_by_its_name(tmp_path):
    sound = write_audio(tmp_path / "sound.wav", chirp(SECONDS, 48_000), 48_000)
    said = {}
    for number, (name, how) in enumerate(NAMED.items()):
        path = tmp_path / str(number)
        ffmpeg("-i", sound, "-ac", "1", *how.split(), path)
        with pytest.raises(NotAudioError) as error:
            decode_audio(path)
        said[name] = str(error.value)
    assert said == {name: f"{NOT_TAKEN}: {name}" for name in NAMED}


CYRILLIC = "Съешь же ещё этих мягких французских булок, да выпей чаю. "


@pytest.mark.parametrize("charset", ["utf-8", "koi8-r", "cp1251", "iso8859-5"])
def test_text_in_cyrillic_is_no_gsm(charset):
    for text in (CYRILLIC, CYRILLIC.upper(), CYRILLIC.replace(" ", "")):
        assert identify(io.BytesIO(text.encode(charset) * 500)) is None


def test_one_byte_repeated_is_no_audio():
    for byte in range(256):
        assert identify(io.BytesIO(bytes([byte]) * 50_000)) is None, byte


def hold(kind, paths):
    """Put files into one that holds others, as they are."""
    out = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(out, "w") as archive:
            for number, path in enumerate(paths):
                archive.write(path, str(number))
    elif kind == "tar":
        with tarfile.open(fileobj=out, mode="w") as archive:
            for path in paths:
                archive.add(path, path.name)
    else:  # a stream of a PDF
        out.write(b"%PDF-1.7\n" + b"".join(path.read_bytes() for path in paths) + b"\n%%EOF")
    return out


@pytest.mark.parametrize("kind", ["zip", "tar", "pdf"])
@pytest.mark.parametrize("sound", ["mp3", "flac", "rf64"])
def test_a_file_that_holds_others_is_no_clip_of_all_of_them(posted, kind, sound):
    holder = hold(kind, [posted[sound]] * 3)
    assert identify(holder) is None
    assert why_not(holder).startswith("not audio: application/")


def test_what_looks_like_frames_in_a_program_is_no_audio(tmp_path):
    header = b"\xff\xfb\x54\xc4"  # 64 kb/s at 48 kHz
    table = (header + bytes(range(188))) * 5
    (tmp_path / "a").write_bytes(Path("/bin/sh").read_bytes()[:50_000] + table[:-50])
    assert found(tmp_path / "a").format == "mp3"
    with pytest.raises(NotAudioError, match="not audio: application/x-"):
        decode_audio(tmp_path / "a")


# Any bytes


def frames_of(mp3):
    """The frames of an MP3, the first one without sound."""
    first = mp3.index(b"\xff\xfb")
    length = 144 * 64_000 // 48_000
    return [mp3[at : at + length] for at in range(first, len(mp3), length)]


ANY = st.one_of(
    st.binary(max_size=300),
    st.sampled_from(
        [*BEFORE.values(), b"RIFF", b"OggS", b"fLaC", b"\xff\xfb\x94\xc4", b"\xff" * 9]
    ),
    st.integers(0, 70_000).map(lambda seed: random.Random(seed).randbytes(seed)),
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(before=ANY, after=ANY, between=st.lists(st.tuples(st.integers(1, 60), ANY), max_size=6))
def test_no_bytes_around_the_frames_of_an_mp3_make_it_no_audio(
    posted, tmp_path, before, after, between
):
    parts = frames_of(posted["mp3"].read_bytes())
    for place, junk in between:
        parts.insert(place, junk)
    (tmp_path / "a.mp3").write_bytes(before + b"".join(parts) + after)
    theirs = len(played(tmp_path / "a.mp3")) / 16_000
    with contextlib.nullcontext() if theirs > 0.5 else contextlib.suppress(MediaError):
        assert len(decode_audio(tmp_path / "a.mp3")) / 16_000 >= theirs - 1
