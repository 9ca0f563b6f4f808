"""No sound becomes silence: channels, streams and numbers as the world sends them.

Files are made by the ffmpeg program and held against what it plays, channel by channel.
"""

import contextlib
import random
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sounds import chirp, ffmpeg, played, wav, write_audio

from earmark.ingest.media import MediaError, decode_audio, encode_opus
from earmark.ingest.mixdown import Loudness, Mixdown
from earmark.settings import EncodeSettings

pytestmark = pytest.mark.needs("ffmpeg")

RATE = 16_000
SETTINGS = EncodeSettings(workers=1)
INVERTED = "channels that cancel each other were mixed with one of them inverted"


def float_wav(path, channels, rate=RATE):
    """Write channels, float of shape (channels, samples), as they are.

    Six of them are 5.1, as programs take it that know of none better.
    """
    samples = np.ascontiguousarray(np.asarray(channels, np.float32).T)
    count, data = samples.shape[1], samples.tobytes()
    tag = 0xFFFE if count == 6 else 3
    form = struct.pack("<HHIIHH", tag, count, rate, 4 * count * rate, 4 * count, 32)
    if count == 6:
        form += struct.pack("<HHIH", 22, 32, 0x3F, 3) + bytes.fromhex(
            "000000001000800000aa00389b71"
        )
    body = b"fmt " + struct.pack("<I", len(form)) + form
    body += b"data" + struct.pack("<I", len(data)) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body)
    return path


def level(audio):
    """In dB relative to full scale."""
    return 20 * np.log10(np.sqrt(np.mean(np.square(audio, dtype=float))) + 1e-9)


def likeness(one, other):
    """How much one signal is another, whatever its sign and level; 1 is all."""
    length = min(len(one), len(other))
    return abs(np.corrcoef(one[:length], other[:length])[0, 1])


def noise(seconds, seed):
    rng = np.random.default_rng(seed)
    return (0.1 * rng.standard_normal(int(seconds * RATE))).astype(np.float32)


VOICE = chirp(3, RATE)
SILENCE = np.zeros_like(VOICE)
HALF = len(VOICE) // 2

#: Channels by what is wrong with them, and whether one must be inverted.
CHANNELS = {
    "opposite": ([VOICE, -VOICE], True),
    "opposite and quieter": ([VOICE, -0.7 * VOICE], True),
    "opposite in noise": ([VOICE + 0.1 * noise(3, 1), -VOICE + 0.1 * noise(3, 2)], True),
    "opposite late": ([VOICE, np.concatenate([VOICE[:HALF], -VOICE[HALF:]])], True),
    "two pairs": ([VOICE, -VOICE, VOICE, -VOICE], True),
    "three against one": ([VOICE, VOICE, VOICE, -3 * VOICE], True),
    "one of sixteen": ([SILENCE] * 15 + [VOICE], False),
    "one side": ([SILENCE, VOICE], False),
    "centre of 5.1": ([SILENCE, SILENCE, VOICE, SILENCE, SILENCE, SILENCE], False),
    "low frequencies alone": ([SILENCE, SILENCE, SILENCE, VOICE, SILENCE, SILENCE], False),
}


@pytest.mark.parametrize("name", CHANNELS)
def test_what_is_in_any_channel_is_heard(tmp_path, name):
    channels, is_inverted = CHANNELS[name]
    source = float_wav(tmp_path / "a.wav", channels)
    theirs = played(source, len(channels))
    ours = decode_audio(source)
    encoded = encode_opus(source, tmp_path / "a.opus", SETTINGS)
    of_the_opus = decode_audio(tmp_path / "a.opus")
    loudest = max(theirs.T, key=level)
    for audio in (ours, of_the_opus):
        assert level(audio) > level(loudest) - 12.5
        assert likeness(audio, loudest) > 0.9
    assert (INVERTED in encoded.notes) == is_inverted
    assert encoded.source_peak_dbfs == pytest.approx(20 * np.log10(np.abs(theirs).max()), abs=0.1)
    assert encoded.opus_rms_dbfs == pytest.approx(level(of_the_opus), abs=0.5)


def test_stereo_in_which_nothing_cancels_is_the_mean(tmp_path):
    pairs = [(VOICE, VOICE), (VOICE, noise(3, 1)), (VOICE, np.roll(VOICE, 200)), (VOICE, SILENCE)]
    for number, (left, right) in enumerate(pairs):
        source = float_wav(tmp_path / f"{number}.wav", [left, right])
        mean = (left + right) / 2
        assert np.abs(decode_audio(source) - mean).max() < 1e-6
        assert encode_opus(source, tmp_path / "a.opus", SETTINGS).notes == []


def test_stereo_for_stereo_keeps_its_channels(tmp_path):
    source = float_wav(tmp_path / "a.wav", [VOICE, -VOICE])
    stereo = EncodeSettings(channels=2, workers=1)
    assert encode_opus(source, tmp_path / "a.opus", stereo).notes == []
    theirs = played(tmp_path / "a.opus", 2)
    assert np.corrcoef(theirs.T)[0, 1] < -0.95
    assert level(theirs) == pytest.approx(level(VOICE), abs=1)


@settings(deadline=None)
@given(
    gains=arrays.arrays(np.float32, (4, 3), elements=st.sampled_from([-1, -0.5, 0, 0.5, 1])),
    lengths=st.lists(st.integers(1, 4000), min_size=1, max_size=4),
)
def test_a_mix_is_never_far_below_its_loudest_channel_nor_louder(gains, lengths):
    """Three voices on four channels, in blocks of any lengths."""
    voices = np.stack([noise(1, 1), noise(1, 2), chirp(1, RATE)])
    channels = gains @ voices
    mixdown = Mixdown(["FL", "FR", "FC", "BC"], RATE)
    at = 0
    for length in lengths:
        block = channels[:, at : at + length]
        mixed = mixdown.mix(block)
        assert mixed.shape == (block.shape[1],)
        assert np.abs(mixed).max(initial=0) <= np.abs(block).max(initial=0) * 1.001
        powers = np.mean(np.square(block), axis=1) if block.size else np.zeros(4)
        if at == 0 or length > 2000:  # else most of it is the fade
            assert np.mean(np.square(mixed)) >= powers.max() / 40
        at += length


# Streams


def two_streams(path, *files):
    inputs = [part for file in files for part in ("-i", file)]
    maps = [part for number in range(len(files)) for part in ("-map", number)]
    ffmpeg(*inputs, *maps, "-c:a", "aac", path)
    return path


@pytest.mark.parametrize("kind", ["mp4", "mka"])
def test_the_first_stream_that_is_not_silent_is_taken_and_told(tmp_path, kind):
    quiet = write_audio(tmp_path / "quiet.wav", SILENCE, RATE)
    one = write_audio(tmp_path / "one.wav", VOICE, RATE)
    other = write_audio(tmp_path / "other.wav", chirp(3, RATE, seed=5), RATE)
    told = "audio stream {} of {} was taken"
    chosen = told + ", the first one that can be decoded and isn't silent"
    cases = [
        (
            (quiet, one),
            1,
            [chosen.format(2, 2)],
        ),
        (
            (quiet, quiet, other, one),
            2,
            [chosen.format(3, 4)],
        ),
        ((one, other), 0, [told.format(1, 2)]),
        ((quiet, quiet), 0, [told.format(1, 2)]),
        ((other,), 0, []),
    ]
    for files, taken, notes in cases:
        path = two_streams(tmp_path / f"a.{kind}", *files)
        encoded = encode_opus(path, tmp_path / "a.opus", SETTINGS)
        assert encoded.notes == notes
        theirs = played(path, stream=taken)[:, 0]
        if notes != [told.format(1, 2)] or files[0] is not quiet:
            assert likeness(decode_audio(path), theirs) > 0.99
        else:
            assert encoded.source_rms_dbfs < -100


# Numbers


def test_nan_and_infinite_samples_cost_nothing_but_themselves(tmp_path):
    audio = VOICE.copy()
    audio[[5, 9000, 30_000]] = np.nan, np.inf, -np.inf
    audio[20_000] = 1e38
    source = float_wav(tmp_path / "a.wav", [audio])
    encoded = encode_opus(source, tmp_path / "a.opus", SETTINGS)
    assert encoded.notes == ["4 NaN and infinite samples were set to zero"]
    assert likeness(decode_audio(tmp_path / "a.opus"), VOICE) > 0.98
    assert encoded.opus_rms_dbfs == pytest.approx(level(VOICE), abs=0.1)


def test_samples_in_another_scale_are_made_quieter(tmp_path):
    for scale, decibels in ((2.0**15, 80), (2.0**31, 176)):
        source = float_wav(tmp_path / "a.wav", [VOICE * scale])
        encoded = encode_opus(source, tmp_path / "a.opus", SETTINGS)
        (note,) = [note for note in encoded.notes if "quieter" in note]
        made = int(note.removeprefix("samples far beyond full scale were made ").split()[0])
        assert made == pytest.approx(decibels, abs=2)
        assert likeness(decode_audio(tmp_path / "a.opus"), VOICE) > 0.98


def test_a_few_wild_samples_are_clipped_and_the_rest_stays_as_loud(tmp_path):
    audio = VOICE.copy()
    audio[::1000] = 1e6
    encoded = encode_opus(float_wav(tmp_path / "a.wav", [audio]), tmp_path / "a.opus", SETTINGS)
    assert encoded.notes == ["48 samples far beyond full scale were clipped"]
    assert encoded.opus_peak_dbfs <= 2


@pytest.mark.parametrize("seed", [6, 20, 27, 28])  # which decode to samples far too loud
def test_a_damaged_packet_makes_nothing_behind_it_quieter(tmp_path, seed):
    source = write_audio(tmp_path / "a.mp3", chirp(10, seed=seed))
    content = bytearray(source.read_bytes())
    damage = random.Random(seed)
    for _ in range(40):
        content[damage.randrange(2000, len(content) // 3)] ^= damage.randrange(1, 256)
    source.write_bytes(content)
    theirs, ours = played(source)[:, 0], decode_audio(source)
    assert abs(level(ours[len(ours) // 2 :]) - level(theirs[len(theirs) // 2 :])) < 1.5
    encoded = encode_opus(source, tmp_path / "a.opus", SETTINGS)
    assert "quieter" not in str(encoded.notes)


def test_a_voice_on_the_track_of_low_frequencies_is_heard_over_the_noise_of_the_others(tmp_path):
    channels = [0.014 * noise(3, n) for n in range(6)]
    channels[3] = VOICE
    source = float_wav(tmp_path / "a.wav", channels)
    ours = decode_audio(source)
    assert level(ours) > level(VOICE) - 17  # one of six
    assert likeness(ours, VOICE) > 0.9


def test_a_signal_that_opus_has_no_place_for_is_told(tmp_path):
    time = np.arange(3 * 96_000) / 96_000
    bat = float_wav(tmp_path / "bat.wav", [0.5 * np.sin(2 * np.pi * 40_000 * time)], 96_000)
    direct = float_wav(tmp_path / "direct.wav", [np.full(3 * RATE, 0.5)])
    for source in (bat, direct):
        encoded = encode_opus(source, tmp_path / "a.opus", SETTINGS)
        (note,) = encoded.notes
        assert note.startswith("the Opus file is ")
        assert note.endswith(" dB quieter than its source")
        assert level(decode_audio(tmp_path / "a.opus")) < encoded.source_rms_dbfs - 20


def test_silence_is_silence_without_a_word(tmp_path):
    (tmp_path / "a.wav").write_bytes(wav(8000, 8000))
    encoded = encode_opus(tmp_path / "a.wav", tmp_path / "a.opus", SETTINGS)
    assert (encoded.source_rms_dbfs, encoded.opus_peak_dbfs, encoded.notes) == (-150, -150, [])


def test_loudness_does_not_depend_on_the_blocks():
    whole, parts = Loudness(), Loudness()
    whole.add(VOICE[None, :])
    for part in np.array_split(VOICE, 7):
        parts.add(part[None, :])
    assert whole.rms_dbfs == pytest.approx(level(VOICE), abs=0.01)
    assert (whole.rms_dbfs, whole.peak_dbfs) == (parts.rms_dbfs, parts.peak_dbfs)


# Long tails of junk


@pytest.mark.parametrize("kind", ["mp3", "aac", "m4a", "flac", "ogg", "opus"])
@pytest.mark.parametrize("tail", ["noise", "zeros", "text"])
def test_good_audio_with_a_long_tail_of_junk_is_kept(tmp_path, kind, tail):
    whole = write_audio(tmp_path / f"a.{kind}", chirp(2, 48_000), 48_000)
    content = whole.read_bytes()
    junk = {
        "noise": random.Random(1).randbytes(300_000),
        "zeros": bytes(300_000),
        "text": b"<html>Not found</html>\n" * 13_000,
    }[tail]
    spoilt = tmp_path / f"b.{kind}"
    spoilt.write_bytes(content + junk)
    encoded = encode_opus(spoilt, tmp_path / "a.opus", SETTINGS)
    theirs = len(played(spoilt)) / RATE
    assert min(theirs, 2) - 0.1 <= encoded.duration_seconds <= max(theirs, 2) + 0.5
    heard = decode_audio(tmp_path / "a.opus")[: 2 * RATE - 1000]
    assert likeness(heard, played(whole)[:, 0]) > 0.95
    if tail == "noise" and kind in ("mp3", "aac"):
        (note,) = encoded.notes
        assert note.endswith(f" bytes of {len(content) + len(junk)}")


def test_a_file_of_which_next_to_nothing_decodes_has_failed(tmp_path):
    whole = write_audio(tmp_path / "a.mp3", chirp(2)).read_bytes()
    start = whole.index(b"\xff\xfb")
    (tmp_path / "b.mp3").write_bytes(whole[start : start + 4] + random.Random(1).randbytes(30_000))
    with pytest.raises(MediaError, match=r"can't be decoded|no audio can be decoded"):
        encode_opus(tmp_path / "b.mp3", tmp_path / "a.opus", SETTINGS)
    with contextlib.suppress(FileNotFoundError):
        pytest.fail(f"{(tmp_path / 'a.opus').stat()} was left")
