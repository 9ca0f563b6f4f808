"""Telling audio by its content, decoding it and encoding it to Opus."""

import os

import av
import numpy as np
import pytest
from refusals import largest_file
from sounds import ENCODERS, chirp, write_audio

from earmark.errors import EarmarkError
from earmark.ingest.formats import identify
from earmark.ingest.media import MediaError, NotAudioError, decode_audio, encode_opus
from earmark.settings import EncodeSettings

SETTINGS = EncodeSettings(workers=1)


@pytest.fixture(scope="module")
def mp3(tmp_path_factory):
    """Ten seconds of stereo MP3."""
    path = tmp_path_factory.mktemp("audio") / "a.mp3"
    return write_audio(path, chirp(10), layout="stereo")


def spectrum(audio):
    """Mean magnitude per frequency below 4 kHz, of 16 kHz audio."""
    windows = audio[: len(audio) // 1024 * 1024].reshape(-1, 1024) * np.hanning(1024)
    return np.abs(np.fft.rfft(windows))[:, :256].mean(axis=0)


def assert_same_sound(one, other):
    assert abs(len(one) - len(other)) / 16_000 < 0.05
    assert np.corrcoef(spectrum(one), spectrum(other))[0, 1] > 0.99
    assert 0.8 < np.std(one) / np.std(other) < 1.25


# What a file is


def format_of(path):
    with path.open("rb") as file:
        found = identify(file)
    return found and found.format


@pytest.mark.parametrize("kind", ENCODERS)
def test_content_and_not_the_name_decides_the_format(tmp_path, kind):
    path = write_audio(tmp_path / "misleading.txt", chirp(1, 48_000), 48_000, kind=kind)
    assert format_of(path) == {"opus": "ogg"}.get(kind, kind)


def test_an_mp3_behind_a_large_tag_is_an_mp3(tmp_path, mp3):
    tag = b"ID3\x04\x00\x00" + bytes([0, 8, 0, 0]) + bytes(8 << 14)
    (tmp_path / "a").write_bytes(tag + mp3.read_bytes()[45:])
    assert format_of(tmp_path / "a") == "mp3"
    assert len(decode_audio(tmp_path / "a")) / 16_000 == pytest.approx(10, abs=0.1)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"hello\n" * 50, "text/plain"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nneighbour.mp3\n", "text/plain"),
        (b"%PDF-1.4\n" + bytes(50), "application/pdf"),
        ("utf-16 text ".encode("utf-16") * 20, "text/plain"),
        (bytes(5000), "application/octet-stream"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01" + bytes(50), "image/jpeg"),
    ],
)
def test_what_is_no_audio_is_named(tmp_path, content, what):
    (tmp_path / "a.mp3").write_bytes(content)
    with pytest.raises(NotAudioError, match=f"not audio: {what}"):
        encode_opus(tmp_path / "a.mp3", tmp_path / "a.opus", SETTINGS)
    assert not (tmp_path / "a.opus").exists()


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile '{neighbour}'\n",
        "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{neighbour}\n"
        "#EXT-X-ENDLIST\n",
        "ID3ffconcat version 1.0\nfile '{neighbour}'\n",
        "<?xml version='1.0'?><MPD><BaseURL>{neighbour}</BaseURL></MPD>",
    ],
)
def test_a_list_of_files_named_mp3_opens_no_neighbour(tmp_path, mp3, text):
    # A pipe blocks whoever opens it: had a neighbour been opened, this would hang.
    neighbour = tmp_path / "neighbour.mp3"
    os.mkfifo(neighbour)
    trap = tmp_path / "a.mp3"
    trap.write_text(text.format(neighbour=neighbour))
    with pytest.raises(MediaError):
        decode_audio(trap)
    neighbour.unlink()
    neighbour.write_bytes(mp3.read_bytes())
    with pytest.raises(MediaError):
        encode_opus(trap, tmp_path / "a.opus", SETTINGS)


def test_a_film_without_sound_is_no_audio(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        container.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        container.mux(stream.encode(None))
    with pytest.raises(NotAudioError, match="without an audio stream"):
        decode_audio(tmp_path / "a.mp4")


# Sound files


@pytest.mark.parametrize("kind", ENCODERS)
def test_every_format_becomes_opus_that_sounds_the_same(tmp_path, kind):
    audio = chirp(5, 48_000, seed=1)
    source = write_audio(tmp_path / f"a.{kind}", audio, 48_000)
    encoded = encode_opus(source, tmp_path / "out.opus", SETTINGS)
    assert encoded.duration_seconds == pytest.approx(5, abs=0.05)
    assert (encoded.sample_rate, encoded.channels) == (48_000, 2 if kind == "ogg" else 1)
    assert encoded.opus_bytes == (tmp_path / "out.opus").stat().st_size
    assert encoded.notes == []
    assert_same_sound(decode_audio(source), decode_audio(tmp_path / "out.opus"))


def test_the_opus_file_is_mono_at_48_khz_and_of_the_bitrate_asked_for(tmp_path, mp3):
    encoded = encode_opus(mp3, tmp_path / "a.opus", SETTINGS)
    assert (encoded.source_format, encoded.sample_rate, encoded.channels) == ("mp3", 44_100, 2)
    with av.open(str(tmp_path / "a.opus")) as container:
        assert container.streams.audio[0].layout.name == "mono"
        assert container.streams.audio[0].sample_rate == 48_000
        assert (container.duration or 0) / 1e6 == pytest.approx(10, abs=0.05)
        assert abs(container.start_time) < 1000  # microseconds
    assert encoded.opus_bytes * 8 / 10 == pytest.approx(48_000, rel=0.15)


def test_stereo_and_another_bitrate_can_be_had(tmp_path, mp3):
    settings = EncodeSettings(bitrate="24k", channels=2, application="voip", workers=1)
    encoded = encode_opus(mp3, tmp_path / "a.opus", settings)
    assert encoded.opus_bytes * 8 / 10 == pytest.approx(24_000, rel=0.2)
    with av.open(str(tmp_path / "a.opus")) as container:
        assert container.streams.audio[0].layout.name == "stereo"


def test_encoding_twice_gives_the_same_bytes(tmp_path, mp3):
    for name in ("1.opus", "2.opus"):
        encode_opus(mp3, tmp_path / name, SETTINGS)
    assert (tmp_path / "1.opus").read_bytes() == (tmp_path / "2.opus").read_bytes()


def test_decoding_gives_mono_float32_at_the_rate_asked_for(mp3):
    audio = decode_audio(mp3, 8000)
    assert audio.dtype == np.float32
    assert audio.ndim == 1
    assert len(audio) / 8000 == pytest.approx(10, abs=0.05)
    assert 0.1 < np.abs(audio).max() <= 1


def test_a_tag_in_another_encoding_than_utf8_does_no_harm(tmp_path, mp3):
    frame = b"TIT2" + (6).to_bytes(4, "big") + b"\0\0" + b"\3caf\xe9\xff"
    tag = b"ID3\x04\x00\x00" + bytes([0, 0, 0, len(frame)]) + frame
    data = mp3.read_bytes()
    (tmp_path / "a.mp3").write_bytes(tag + data[data.index(b"\xff\xfb") :])
    assert len(decode_audio(tmp_path / "a.mp3")) / 16_000 == pytest.approx(10, abs=0.1)


def test_two_mp3s_of_different_rates_joined_end_to_end_are_both_heard(tmp_path, mp3):
    other = write_audio(tmp_path / "b.mp3", chirp(5, 22_050), 22_050)
    data = other.read_bytes()
    joined = tmp_path / "a.mp3"
    joined.write_bytes(mp3.read_bytes() + data[data.index(b"\xff\xf3") :])
    encoded = encode_opus(joined, tmp_path / "a.opus", SETTINGS)
    assert encoded.duration_seconds == pytest.approx(15, abs=0.2)


# Damaged files


def test_a_truncated_mp3_keeps_what_there_is(tmp_path, mp3):
    data = mp3.read_bytes()
    (tmp_path / "a.mp3").write_bytes(data[: len(data) // 2])
    encoded = encode_opus(tmp_path / "a.mp3", tmp_path / "a.opus", SETTINGS)
    assert encoded.duration_seconds == pytest.approx(5, abs=0.2)


@pytest.mark.parametrize("garbage", [b"x" * 5000, np.random.default_rng(0).bytes(5000)])
def test_garbage_behind_the_audio_is_left_out_and_counted(tmp_path, mp3, garbage):
    (tmp_path / "a.mp3").write_bytes(mp3.read_bytes() + garbage)
    encoded = encode_opus(tmp_path / "a.mp3", tmp_path / "a.opus", SETTINGS)
    assert encoded.duration_seconds == pytest.approx(10, abs=0.1)
    assert "packets were left out as they can't be decoded" in encoded.notes[0]


@pytest.mark.parametrize("kind", sorted(set(ENCODERS) - {"wav"}))  # any bytes are samples in a WAV
def test_random_bytes_behind_a_header_are_an_error(tmp_path, kind):
    whole = write_audio(tmp_path / f"whole.{kind}", chirp(1, 48_000), 48_000).read_bytes()
    corrupt = tmp_path / f"a.{kind}"
    start = 4 if kind in ("mp3", "aac") else 40
    offset = whole.index(b"\xff\xfb") if kind == "mp3" else 0
    random = np.random.default_rng(1).bytes(20_000)
    corrupt.write_bytes(whole[offset : offset + start] + random)
    with pytest.raises(MediaError):
        encode_opus(corrupt, tmp_path / "a.opus", SETTINGS)
    assert {path.name for path in tmp_path.iterdir()} == {f"whole.{kind}", f"a.{kind}"}


def test_an_empty_file_is_an_error(tmp_path):
    (tmp_path / "a.mp3").touch()
    with pytest.raises(MediaError, match="empty file"):
        decode_audio(tmp_path / "a.mp3")


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("seed", range(10))
def test_a_file_with_changed_bytes_is_decoded_or_an_error(tmp_path, kind, seed):
    rng = np.random.default_rng(seed)
    data = bytearray(write_audio(tmp_path / f"a.{kind}", chirp(1, 48_000), 48_000).read_bytes())
    for place in rng.integers(0, len(data), 1 + seed * 3):
        data[place] = rng.integers(256)
    (tmp_path / "b").write_bytes(data[: rng.integers(1, len(data))] if seed % 2 else data)
    try:
        audio = decode_audio(tmp_path / "b")
    except MediaError:
        return
    assert len(audio)


# Refusals


def test_a_file_that_is_not_there_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        encode_opus(tmp_path / "a.mp3", tmp_path / "a.opus", SETTINGS)


def test_a_refusal_to_write_is_an_error_of_the_system_and_leaves_no_file(tmp_path, mp3):
    with largest_file(20_000), pytest.raises(OSError, match="File too large"):
        encode_opus(mp3, tmp_path / "a.opus", SETTINGS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bitrate", ["1k", "257k"])
def test_a_bit_rate_that_opus_does_not_have_is_refused(bitrate):
    with pytest.raises(EarmarkError, match=r"'encode\.bitrate' is '.*'; expected 6k to 256k"):
        EncodeSettings(bitrate=bitrate)
