"""Audio files decoded to samples and encoded to Opus.

Knows codecs. Every file is somebody else's, so its format is decided by its bytes
(:mod:`earmark.ingest.formats`) and forced on the demuxer, which gets an open file and no
name: a playlist or a concat list has no way to another file or the network.
FFmpeg's libraries run in this process through PyAV; the ``ffmpeg`` program isn't needed.

``python -m earmark.ingest.media`` encodes the files that :mod:`earmark.ingest.encode` names to it:
a decoder that crashes or hangs then takes down that process and nothing else.
"""

import contextlib
import dataclasses
import errno
import io
import math
import resource
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

import av
import av.logging
import msgspec
import numpy as np
import numpy.typing as npt
from av.error import FFmpegError

from earmark.files import whole
from earmark.ingest.formats import DEMUXERS, NOT_TAKEN, identify, why_not
from earmark.ingest.mixdown import (
    NO_SIGNAL_DBFS,
    Block,
    Cleaner,
    Loudness,
    Mixdown,
    as_float,
    decibels,
    peak,
)
from earmark.settings import EncodeSettings
from earmark.worker import Answer, serve

OPUS_SAMPLE_RATE = 48_000  # the codec's own, RFC 6716 section 2

_LAYOUTS = {1: "mono", 2: "stereo"}
_OPUS_FRAME_MILLISECONDS = 60  # of three of the codec's own; 20 would take longer to write
#: Decoders that a file may ask for, by FFmpeg's names.
_DECODERS = (
    "mp3float", "mp3", "mp2float", "mp2", "mp1float", "mp1", "aac", "aac_latm", "alac", "flac",
    "vorbis", "opus", "libopus", "speex", "ac3", "eac3", "dca", "amrnb", "amrwb", "gsm", "gsm_ms",
    "wmav1", "wmav2", "wmapro", "wmalossless", "wmavoice", "wavpack", "tta", "nellymoser",
    "pcm_s8", "pcm_u8", "pcm_alaw", "pcm_mulaw", "pcm_bluray", "pcm_dvd",
    "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_s64le", "pcm_f32le", "pcm_f64le",
    "pcm_s16be", "pcm_s24be", "pcm_s32be", "pcm_s64be", "pcm_f32be", "pcm_f64be",
    "adpcm_ms", "adpcm_ima_wav", "adpcm_ima_qt", "adpcm_swf", "adpcm_yamaha",
    "adpcm_ct", "adpcm_sbpro_2", "adpcm_sbpro_3", "adpcm_sbpro_4",
    "g722", "g726", "g726le", "sbc",
)  # fmt: skip
#: A clip longer than this is not decoded to samples (in memory at 16 kHz: 0.9 GB).
_MOST_SECONDS_DECODED = 4 * 3600.0
_LONGEST_BLOCK = 1_536_000  # samples that are mixed at a time: a second of 8 channels at 192 kHz
#: A file most of which can't be decoded has something worth keeping from so much on.
_LEAST_SECONDS = 0.5
#: Stereo with one silent channel loses 3 dB.
_MOST_QUIETER_DB = 20.0
_WORKER_MEMORY = 4 << 30  # bytes of address space


class MediaError(Exception):
    """A file from which no audio can be had; the text says why and fits into a table."""


class NotAudioError(MediaError):
    """A file that is no audio of ours by its content; the text says what it is."""


@dataclasses.dataclass(frozen=True)
class Encoded:
    """What became of one file.

    Attributes:
        source_format: As :func:`earmark.ingest.formats.identify` names it.
        duration_seconds: Length of the decoded audio.
        sample_rate: Of the source, in Hz.
        channels: Of the source.
        opus_bytes: Size of the Opus file.
        source_rms_dbfs: Root mean square of the source's samples, all channels, in dB relative to
            full scale; -150 for silence.
        source_peak_dbfs: Its largest sample, likewise.
        opus_rms_dbfs: The same of what was given to the encoder. The loudest second of the Opus
            file is decoded and held against that.
        opus_peak_dbfs: Likewise.
        notes: What of the source is not in it or was changed, a phrase for each.
    """

    source_format: str
    duration_seconds: float
    sample_rate: int
    channels: int
    opus_bytes: int
    source_rms_dbfs: float
    source_peak_dbfs: float
    opus_rms_dbfs: float
    opus_peak_dbfs: float
    notes: list[str]


class _Source:
    """An open file as FFmpeg reads it, from where its container begins.

    A header may name a position that no file can have.  Linux refuses to seek there with an
    error that looks like one of the machine, so FFmpeg is told in its own way.  Two of one file
    don't disturb each other.
    """

    def __init__(self, file: BinaryIO, start: int) -> None:
        self._file, self._start = file, start
        self._at = start

    def read(self, size: int) -> bytes:
        """The next bytes."""
        self._file.seek(self._at)
        data = self._file.read(size)
        self._at += len(data)
        return data

    def tell(self) -> int:
        """The position."""
        return self._at - self._start

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a position and return it, or a negative number where there is none such."""
        if whence != io.SEEK_END:
            offset += self._start if whence == io.SEEK_SET else self._at
            whence = io.SEEK_SET
        if whence == io.SEEK_SET and not self._start <= offset < 1 << 63:
            return -errno.EINVAL
        try:
            self._at = self._file.seek(offset, whence)
            return self.tell()
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOVERFLOW):
                raise
            return -errno.EINVAL


class _Decoder:
    """The audio of one open file, a second at a time.

    Attributes:
        format: As :func:`earmark.ingest.formats.identify` names it.
        sample_rate: Of the source in Hz, 0 until something was decoded.
        channels: Of the source likewise.
        loudness: Of the source so far, all channels.
    """

    def __init__(self, file: BinaryIO) -> None:
        """Find out what a file is.

        Raises:
            NotAudioError: it is none of our formats.
        """
        self._file = file
        found = identify(file)
        self._bytes = file.seek(0, io.SEEK_END)
        if found is None:
            if not self._bytes:
                raise MediaError("empty file")
            raise NotAudioError(why_not(file))
        self.format, self._start, self._junk = found
        self.sample_rate = 0
        self.channels = 0
        self.loudness = Loudness()
        self._cleaner = Cleaner(is_lossy=False)
        self._inverted = False
        self._stream = (0, 1)
        self._damage = _Damage()

    def _open(self) -> av.container.InputContainer:
        demuxer = DEMUXERS[self.format]
        return av.open(
            _Source(self._file, self._start),
            "r",
            format=demuxer,
            options={
                "codec_whitelist": ",".join(_DECODERS),
                "format_whitelist": demuxer,
                "protocol_whitelist": "none",
            },
            metadata_errors="replace",  # tags in any encoding are none of our business
        )

    def _choose_stream(self, container: av.container.InputContainer) -> int:
        """The first audio stream with a signal, or the first one; its number.

        Raises:
            NotAudioError: there is none, or none of a codec that is taken.
        """
        streams = container.streams.audio
        if not streams:
            raise NotAudioError(f"not audio: {self.format} without an audio stream")
        taken = [number for number, stream in enumerate(streams) if _is_taken(stream)]
        if not taken:
            codec = streams[0].codec_context
            name = codec.codec.long_name if codec else "a codec without a decoder"
            raise NotAudioError(f"{NOT_TAKEN}: {name} in {self.format}")
        if len(streams) == 1:
            return 0
        with_signal = set()
        with self._open() as other, contextlib.suppress(FFmpegError):
            numbers = {other.streams.audio[number].index: number for number in taken}
            for packet in other.demux([other.streams.audio[number] for number in taken]):
                with contextlib.suppress(FFmpegError):
                    frames = cast("list[av.AudioFrame]", packet.decode())
                    if any(_has_signal(frame) for frame in frames):
                        with_signal.add(numbers[packet.stream.index])
                if taken[0] in with_signal:
                    break
        self._stream = (min(with_signal or taken), len(streams))
        return self._stream[0]

    def _packets(self) -> Iterator[list[av.AudioFrame]]:
        """Decode; a packet that can't be decoded is counted and left out."""
        try:
            with self._open() as container:
                stream = container.streams.audio[self._choose_stream(container)]
                self._cleaner = Cleaner(is_lossy=not stream.codec_context.name.startswith("pcm_"))
                for packet in container.demux(stream):
                    try:
                        frames = packet.decode()
                    except FFmpegError as error:
                        self._damage.add(packet.size, error)
                        continue
                    if frames:
                        self._damage.good += 1
                        yield frames
        except FFmpegError as error:  # the container ends in the middle
            self._damage.add(0, error)

    def _blocks(self) -> Iterator[av.AudioFrame]:
        """The frames put together to a second each; all of one block are alike."""
        fifo = av.AudioFifo()
        former = None
        seconds = 0.0
        for frames in self._packets():
            for frame in frames:
                # A stream may change its format on the way (MP3 files joined end to end).
                current = (frame.sample_rate, frame.layout.nb_channels, frame.format.name)
                if current != former:
                    if rest := fifo.read():
                        yield rest
                    fifo, former = av.AudioFifo(), current
                    self.sample_rate, self.channels = frame.sample_rate, frame.layout.nb_channels
                    length = max(min(frame.sample_rate, _LONGEST_BLOCK // self.channels), 1)
                frame.pts = None  # gaps and jumps of the source's clock mean nothing here
                fifo.write(frame)
                seconds += frame.samples / max(frame.sample_rate, 1)
                while block := fifo.read(length):
                    yield block
        if rest := fifo.read():
            yield rest
        self._damage.check(self.format, seconds)

    def frames(self, channels: int, sample_rate: int) -> Iterator[av.AudioFrame]:
        """The audio as packed float32 frames of one or two channels and one rate (Hz).

        Raises:
            NotAudioError: what looked like audio somewhere in the file is none.
            MediaError: nothing or next to nothing could be decoded. Frames may have been
                yielded by then.
        """
        samples = 0
        try:
            for frame in self._resampled(channels, sample_rate):
                samples += frame.samples
                yield frame
        except MediaError as error:
            if self._junk and not isinstance(error, NotAudioError):
                raise NotAudioError(why_not(self._file)) from error
            raise
        if not samples:  # a header may claim gigahertz
            raise MediaError(f"no audio can be decoded from this {self.format}: not one sample")

    def _resampled(self, channels: int, sample_rate: int) -> Iterator[av.AudioFrame]:
        layout = _LAYOUTS[channels]
        resampler = None
        mixdowns: list[Mixdown] = []
        former = None
        for block in self._blocks():
            current = (block.layout.name, block.sample_rate)
            if current != former:  # one resampler can't change
                if resampler is not None:
                    yield from resampler.resample(None)
                resampler = av.AudioResampler("flt", layout, sample_rate)
                names = [channel.name for channel in block.layout.channels]
                if names == ["NONE", "NONE"]:
                    names = ["FL", "FR"]
                sides = ("",) if channels == 1 else ("left", "right")
                mixdowns = [Mixdown(names, block.sample_rate, side) for side in sides]
                former = current
            samples = self._cleaner.clean(_samples(block))
            self.loudness.add(samples)
            mixed = np.stack([mixdown.mix(samples) for mixdown in mixdowns])
            self._inverted |= any(mixdown.inverted for mixdown in mixdowns)
            frame = av.AudioFrame.from_ndarray(mixed, format="fltp", layout=layout)
            frame.sample_rate = block.sample_rate
            assert resampler is not None
            yield from resampler.resample(frame)
        if resampler is not None:
            yield from resampler.resample(None)

    def notes(self) -> list[str]:
        """What was left out or changed so far, a phrase for each."""
        damage, cleaner = self._damage, self._cleaner
        number, count = self._stream
        said = []
        if self._junk:
            said.append(f"{self._junk} bytes before the audio were left out")
        if damage.packets:
            said.append(
                f"{damage.packets} of {damage.packets + damage.good} packets were left out as they "
                f"can't be decoded, {damage.bytes} bytes of {self._bytes}"
            )
        if count > 1:
            reason = ", the first one that can be decoded and isn't silent" if number else ""
            said.append(f"audio stream {number + 1} of {count} was taken{reason}")
        if self._inverted:
            said.append("channels that cancel each other were mixed with one of them inverted")
        if cleaner.no_numbers:
            said.append(f"{cleaner.no_numbers} NaN and infinite samples were set to zero")
        if cleaner.clipped:
            said.append(f"{cleaner.clipped} samples far beyond full scale were clipped")
        if cleaner.gain < 1:
            quieter = -20 * math.log10(cleaner.gain)
            said.append(f"samples far beyond full scale were made {quieter:.0f} dB quieter")
        return said


class _Damage:
    """How many packets of a source could be decoded, and how many couldn't."""

    def __init__(self) -> None:
        self.good = self.packets = self.bytes = 0
        self._problem = "no audio in it"

    def add(self, size: int, error: FFmpegError) -> None:
        """Add a packet that can't be decoded."""
        self.packets += 1
        self.bytes += size
        self._problem = error.strerror or self._problem

    def check(self, name: str, seconds: float) -> None:
        """Refuse a source of which next to nothing was decoded.

        Raises:
            MediaError: so it is.
        """
        if not self.good:
            raise MediaError(f"no audio can be decoded from this {name}: {self._problem}")
        if self.packets > self.good and seconds < _LEAST_SECONDS:
            parts = f"{self.packets} of {self.packets + self.good} packets"
            raise MediaError(f"{parts} of this {name} can't be decoded: {self._problem}")


def _is_taken(stream: av.AudioStream) -> bool:
    return stream.codec_context is not None and stream.codec_context.name in _DECODERS


def _samples(frame: av.AudioFrame) -> Block:
    """A frame's samples: (channels, samples)."""
    kind, channels = frame.format.name, frame.layout.nb_channels
    if kind == "flt" and channels == 1:  # what we make ourselves, without a copy
        return np.frombuffer(cast(bytes, frame.planes[0]), np.float32, frame.samples)[None]
    if kind.startswith("s64"):  # PyAV has no arrays of it
        length = frame.samples * channels // len(frame.planes)
        planes = [np.frombuffer(cast(bytes, each), np.int64, length) for each in frame.planes]
        return as_float(np.stack(planes), kind, channels)
    return as_float(frame.to_ndarray(), kind, channels)


def _has_signal(frame: av.AudioFrame) -> bool:
    return decibels(peak(np.nan_to_num(_samples(frame)))) > NO_SIGNAL_DBFS


def encode_opus(source: Path, target: Path, settings: EncodeSettings) -> Encoded:
    """Encode an audio stream of a file as Ogg Opus: the first one with a signal.

    Video and other streams are left out. Damaged packets are left out and counted.
    The same source and settings give the same bytes. The target appears when it is whole.

    Args:
        source: Any file; its content says what it is.
        target: The Opus file to write.
        settings: How to encode it; workers and time are the caller's business.

    Raises:
        NotAudioError: the source is none of our formats.
        MediaError: the source is damaged so that next to nothing can be decoded.
        OSError: the system refused to read or write.
    """
    samples = 0
    loudness = Loudness()
    loudest = (-1.0, 0, 1)  # energy, start and length of a moment
    with source.open("rb") as file, whole(target, keep_name=False) as partial:
        decoder = _Decoder(file)
        # FFmpeg writes into memory, 6 KB a second: on a full disk it would raise an error
        # that looks like one of the audio.
        opus = io.BytesIO()
        # +bitexact: a constant serial number of the Ogg stream instead of a random one.
        options = {"fflags": "+bitexact"}
        with av.open(opus, "w", format="opus", options=options) as container:
            stream = container.add_stream(
                "libopus",
                rate=OPUS_SAMPLE_RATE,
                layout=_LAYOUTS[settings.channels],
                format="flt",
                bit_rate=settings.bits_per_second,
                options={
                    "application": settings.application,
                    "compression_level": str(settings.complexity),
                    "frame_duration": str(_OPUS_FRAME_MILLISECONDS),
                    "vbr": settings.vbr,
                },
            )
            for frame in decoder.frames(settings.channels, OPUS_SAMPLE_RATE):
                energy = loudness.add(_samples(frame))
                loudest = max(loudest, (energy, samples, frame.samples))
                frame.pts = samples  # the clip starts at zero, whatever the source says
                samples += frame.samples
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        notes = decoder.notes()
        quieter = max(
            decoder.loudness.rms_dbfs - loudness.rms_dbfs,
            decibels(math.sqrt(loudest[0] / loudest[2] / settings.channels))
            - _rms_dbfs(opus, *loudest[1:]),
        )
        if quieter > _MOST_QUIETER_DB and decoder.loudness.peak_dbfs > NO_SIGNAL_DBFS:
            notes.append(f"the Opus file is {quieter:.0f} dB quieter than its source")
        partial.write_bytes(opus.getbuffer())
        return Encoded(
            source_format=decoder.format,
            duration_seconds=samples / OPUS_SAMPLE_RATE,
            sample_rate=decoder.sample_rate,
            channels=decoder.channels,
            opus_bytes=opus.getbuffer().nbytes,
            source_rms_dbfs=decoder.loudness.rms_dbfs,
            source_peak_dbfs=decoder.loudness.peak_dbfs,
            opus_rms_dbfs=loudness.rms_dbfs,
            opus_peak_dbfs=loudness.peak_dbfs,
            notes=notes,
        )


def _rms_dbfs(opus: io.BytesIO, start: int, length: int) -> float:
    """How loud a moment of an Opus file is (samples at 48 kHz)."""
    loudness = Loudness()
    opus.seek(0)
    with av.open(opus, "r", format="ogg") as container:
        container.seek(max(start - OPUS_SAMPLE_RATE // 2, 0), stream=container.streams.audio[0])
        for frame in container.decode(audio=0):
            before = start - (frame.pts or 0)
            if before <= -length:
                break
            loudness.add(_samples(frame)[:, max(before, 0) : max(before + length, 0)])
    return loudness.rms_dbfs


def decode_audio(path: Path, sample_rate: int = 16_000) -> npt.NDArray[np.float32]:
    """Decode a file into memory as one channel.

    Args:
        path: Any file; its content says what it is.
        sample_rate: Of the result, in Hz.

    Returns:
        float32 of shape (samples,), in -1..1.

    Raises:
        NotAudioError: the file is none of our formats.
        MediaError: it is damaged so that next to nothing can be decoded, or it is longer
            than four hours.
        OSError: the system refused to read.
    """
    return np.concatenate(list(decoded(path, sample_rate)))


def decoded(path: Path, sample_rate: int = 16_000) -> Iterator[npt.NDArray[np.float32]]:
    """Decode a file as one channel, a moment at a time.

    Args:
        path: Any file; its content says what it is.
        sample_rate: Of the result, in Hz.

    Yields:
        float32 of shape (samples,), in -1..1, one after the other; often a second.

    Raises:
        NotAudioError, MediaError, OSError: as for `decode_audio`; parts may have been yielded
            by then.
    """
    most = int(_MOST_SECONDS_DECODED * sample_rate)
    with path.open("rb") as file:
        for frame in _Decoder(file).frames(1, sample_rate):
            yield frame.to_ndarray()[0]
            most -= frame.samples
            if most < 0:
                raise MediaError(f"longer than {_MOST_SECONDS_DECODED / 3600:g} hours")


def _answer(task: dict[str, str], settings: EncodeSettings) -> dict[str, Any]:
    """Encode one file and tell what became of it."""
    try:
        encoded = encode_opus(Path(task["source"]), Path(task["target"]), settings)
    except NotAudioError as error:
        return {"status": "skipped", "error": str(error)}
    except MediaError as error:
        return {"status": "failed", "error": str(error)}
    except OSError as error:
        if isinstance(error, FFmpegError):  # the file, not the system: see _Decoder
            return {"status": "failed", "error": f"{type(error).__name__}: {error}"[:300]}
        return {"refused": [error.errno, error.strerror, error.filename and str(error.filename)]}
    except Exception as error:
        # A file that makes PyAV raise what it shouldn't is a bad file all the same.
        return {"status": "failed", "error": f"{type(error).__name__}: {error}"[:300]}
    return {"status": "ok", **dataclasses.asdict(encoded)}


def _load(settings: str) -> Callable[[dict[str, str]], Answer]:
    resource.setrlimit(resource.RLIMIT_AS, (_WORKER_MEMORY, _WORKER_MEMORY))
    av.logging.set_level(av.logging.PANIC)
    options = msgspec.json.decode(settings, type=EncodeSettings)
    return lambda task: (_answer(task, options), b"")


if __name__ == "__main__":
    serve(sys.argv[1], partial(_load, sys.argv[2]))
