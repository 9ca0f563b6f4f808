"""Audio files: what they are by content, decoded to samples and encoded to Opus.

Knows containers and codecs. Every file is somebody else's, so its format is decided here
from its first bytes against a short list and forced on the demuxer, which gets an open
file and no name: a playlist or a concat list has no way to another file or the network.
FFmpeg's libraries run in this process through PyAV; the ``ffmpeg`` program isn't needed.

``python -m earmark.ingest.media`` encodes the files that :mod:`earmark.ingest.encode` names to it:
a decoder that crashes or hangs then takes down that process and nothing else.
"""

import dataclasses
import errno
import io
import resource
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import av
import av.logging
import msgspec
import numpy as np
import numpy.typing as npt
import pylibmagic  # noqa: F401  # brings the library that magic loads
from av.error import FFmpegError

import magic  # isort: skip

from earmark.files import whole
from earmark.settings import EncodeSettings
from earmark.tables import NOT_TAKEN
from earmark.worker import Answer, serve

OPUS_SAMPLE_RATE = 48_000  # the codec's own, RFC 6716 section 2

_HEAD = 64 << 10
_LAYOUTS = {1: "mono", 2: "stereo"}
#: libswresample's options: one channel is the mean of two and never louder than both.
_MIXING = {"rematrix_maxval": "1"}
#: FFmpeg's name of the demuxer for each format that `audio_format` knows.
_DEMUXERS = {
    "mp3": "mp3",
    "aac": "aac",
    "m4a": "mp4",
    "wav": "wav",
    "flac": "flac",
    "ogg": "ogg",
    "webm": "webm",
}
#: Decoders that a file may ask for, by FFmpeg's names.
_DECODERS = (
    "mp3float", "mp3", "mp2float", "mp2", "aac", "alac", "flac", "vorbis", "opus", "libopus",
    "pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le",
    "pcm_alaw", "pcm_mulaw", "adpcm_ms", "adpcm_ima_wav",
)  # fmt: skip
#: A clip longer than this is not decoded to samples (in memory at 16 kHz: 0.9 GB).
_MOST_SECONDS_DECODED = 4 * 3600.0
_WORKER_MEMORY = 4 << 30  # bytes of address space


class MediaError(Exception):
    """A file from which no audio can be had; the text says why and fits into a table."""


class NotAudioError(MediaError):
    """A file that is no audio of ours by its content; the text says what it is."""


@dataclasses.dataclass(frozen=True)
class Encoded:
    """What became of one file.

    Attributes:
        source_format: As `audio_format` names it.
        duration_seconds: Length of the decoded audio.
        sample_rate: Of the source, in Hz.
        channels: Of the source.
        opus_bytes: Size of the Opus file.
        damaged_packets: Parts of the source that couldn't be decoded and were left out.
    """

    source_format: str
    duration_seconds: float
    sample_rate: int
    channels: int
    opus_bytes: int
    damaged_packets: int


def _is_mpeg_audio(head: bytes) -> bool:
    """Whether a frame header of layer II or III comes first (ISO 11172-3, 2.4.1.3)."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return False
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    bitrate, rate = head[2] >> 4, head[2] >> 2 & 3
    return version != 1 and layer in (1, 2) and bitrate != 15 and rate != 3


def _behind_id3(file: BinaryIO) -> tuple[bytes, bool]:
    """The first bytes behind any ID3v2 tag and its padding, and whether there was a tag.

    Format: id3.org, "ID3 tag version 2.4.0", section 3.1: the size is four bytes of seven
    bits each and doesn't count the header.
    """
    head = file.read(_HEAD)
    if head[:3] != b"ID3" or len(head) < 10:
        return head, False
    size = 0
    for byte in head[6:10]:
        size = size << 7 | byte & 0x7F
    footer = 10 if head[5] & 0x10 else 0
    file.seek(10 + size + footer)
    return file.read(_HEAD).lstrip(b"\0"), True


def _format_of(file: BinaryIO) -> str | None:
    head, tagged = _behind_id3(file)
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return "wav"
    if head[:4] == b"fLaC":
        return "flac"
    if head[:4] == b"OggS":
        return "ogg"
    if head[4:8] == b"ftyp":
        return "m4a"
    if head[:4] == b"\x1a\x45\xdf\xa3" and b"webm" in head[:64]:
        return "webm"
    if len(head) >= 4 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0 and head[2] >> 2 & 15 < 13:
        return "aac"  # ADTS, ISO 13818-7 section 6.2
    if tagged or _is_mpeg_audio(head.lstrip(b"\0")):
        return "mp3"
    return None


def audio_format(path: Path) -> str | None:
    """The container of an audio file by its content, or None if it is none of ours.

    Returns:
        ``mp3``, ``aac`` (ADTS), ``m4a`` (any MP4), ``wav``, ``flac``, ``ogg`` or ``webm``.

    Raises:
        OSError: the file can't be read.
    """
    with path.open("rb") as file:
        return _format_of(file)


class _Source:
    """An open file as FFmpeg reads it.

    A header may name a position that no file can have.  Linux refuses to seek there with an
    error that looks like one of the machine, so FFmpeg is told in its own way.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.read, self.tell = file.read, file.tell

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a position and return it, or a negative number where there is none such."""
        try:
            return self._file.seek(offset, whence)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOVERFLOW):
                raise
            return -errno.EINVAL


class _Decoder:
    """The audio of one open file, packet by packet.

    Attributes:
        format: As `audio_format` names it.
        sample_rate: Of the source in Hz, 0 until a frame was decoded.
        channels: Of the source likewise.
        damaged_packets: Packets left out so far.
    """

    def __init__(self, file: BinaryIO) -> None:
        """Find out what a file is.

        Raises:
            NotAudioError: it is none of our formats.
        """
        self._file = file
        found = _format_of(file)
        file.seek(0)
        if found is None:
            head = file.read(_HEAD)
            if not head:
                raise MediaError("empty file")
            kind = magic.from_buffer(head, mime=True)
            is_audio = kind.startswith(("audio/", "video/"))
            raise NotAudioError(f"{NOT_TAKEN if is_audio else 'not audio'}: {kind}")
        self.format = found
        self.sample_rate = 0
        self.channels = 0
        self.damaged_packets = 0

    def _frames(self) -> Iterator[av.AudioFrame]:
        """Decode; a packet that can't be decoded is counted and left out."""
        good = 0
        problem = "no audio in it"
        try:
            with av.open(
                _Source(self._file),
                "r",
                format=_DEMUXERS[self.format],
                options={"codec_whitelist": ",".join(_DECODERS)},
                metadata_errors="replace",  # tags in any encoding are none of our business
            ) as container:
                if not container.streams.audio:
                    raise NotAudioError(f"not audio: {self.format} without an audio stream")
                stream = container.streams.audio[0]
                if stream.codec_context.name not in _DECODERS:
                    raise MediaError(f"codec {stream.codec_context.name} is not supported")
                for packet in container.demux(stream):
                    try:
                        frames = packet.decode()
                    except FFmpegError as error:
                        problem = error.strerror or problem
                        self.damaged_packets += 1
                        continue
                    for frame in frames:
                        good += 1
                        self.sample_rate = frame.sample_rate
                        self.channels = frame.layout.nb_channels
                        yield frame
        except FFmpegError as error:  # the container ends in the middle
            problem = error.strerror or problem
            self.damaged_packets += 1
        if not good:
            raise MediaError(f"no audio can be decoded from this {self.format}: {problem}")
        if self.damaged_packets > good:
            parts = f"{self.damaged_packets} of {self.damaged_packets + good} packets"
            raise MediaError(f"{parts} of this {self.format} can't be decoded: {problem}")

    def frames(self, layout: str, sample_rate: int) -> Iterator[av.AudioFrame]:
        """The audio as packed float32 frames of one layout and rate (Hz).

        Raises:
            MediaError: nothing or less than half of the packets could be decoded. Frames
                may have been yielded by then.
        """
        samples = 0
        for frame in self._resampled(layout, sample_rate):
            samples += frame.samples
            yield frame
        if not samples:  # a header may claim gigahertz
            raise MediaError(f"no audio can be decoded from this {self.format}: not one sample")

    def _resampled(self, layout: str, sample_rate: int) -> Iterator[av.AudioFrame]:
        resampler = None
        former = None
        for frame in self._frames():
            # A stream may change its format on the way (MP3 files joined end to end);
            # one resampler can't.
            current = (frame.format.name, frame.layout.name, frame.sample_rate)
            if current != former:
                if resampler is not None:
                    yield from resampler.resample(None)
                resampler = av.AudioResampler("flt", layout, sample_rate, options=_MIXING)
                former = current
            assert resampler is not None
            frame.pts = None  # gaps and jumps of the source's clock mean nothing here
            yield from resampler.resample(frame)
        if resampler is not None:
            yield from resampler.resample(None)


def encode_opus(source: Path, target: Path, settings: EncodeSettings) -> Encoded:
    """Encode the first audio stream of a file as Ogg Opus.

    Video and further streams are left out. Damaged packets are left out and counted.
    The same source and settings give the same bytes. The target appears when it is whole.

    Args:
        source: Any file; its content says what it is.
        target: The Opus file to write.
        settings: How to encode it; workers and time are the caller's business.

    Raises:
        NotAudioError: the source is none of our formats.
        MediaError: the source is damaged so that most of it can't be decoded.
        OSError: the system refused to read or write.
    """
    layout = _LAYOUTS[settings.channels]
    samples = 0
    with source.open("rb") as file, whole(target) as partial:
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
                layout=layout,
                format="flt",
                bit_rate=settings.bits_per_second,
                options={
                    "application": settings.application,
                    "compression_level": str(settings.complexity),
                    "vbr": settings.vbr,
                },
            )
            for frame in decoder.frames(layout, OPUS_SAMPLE_RATE):
                frame.pts = samples  # the clip starts at zero, whatever the source says
                samples += frame.samples
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        partial.write_bytes(opus.getbuffer())
        return Encoded(
            source_format=decoder.format,
            duration_seconds=samples / OPUS_SAMPLE_RATE,
            sample_rate=decoder.sample_rate,
            channels=decoder.channels,
            opus_bytes=opus.getbuffer().nbytes,
            damaged_packets=decoder.damaged_packets,
        )


def decode_audio(path: Path, sample_rate: int = 16_000) -> npt.NDArray[np.float32]:
    """Decode a file into memory as one channel.

    Args:
        path: Any file; its content says what it is.
        sample_rate: Of the result, in Hz.

    Returns:
        float32 of shape (samples,), in -1..1.

    Raises:
        NotAudioError: the file is none of our formats.
        MediaError: it is damaged so that most of it can't be decoded, or it is longer
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
        float32 of shape (samples,), in -1..1, one after the other; often 20 ms.

    Raises:
        NotAudioError, MediaError, OSError: as for `decode_audio`; parts may have been yielded
            by then.
    """
    most = int(_MOST_SECONDS_DECODED * sample_rate)
    with path.open("rb") as file:
        for frame in _Decoder(file).frames("mono", sample_rate):
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
