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
from av.error import FFmpegError

from earmark.files import whole
from earmark.ingest.formats import DEMUXERS, identify, why_not
from earmark.settings import EncodeSettings
from earmark.tables import NOT_TAKEN
from earmark.worker import Answer, serve

OPUS_SAMPLE_RATE = 48_000  # the codec's own, RFC 6716 section 2

_LAYOUTS = {1: "mono", 2: "stereo"}
#: libswresample's options: one channel is the mean of two and never louder than both.
_MIXING = {"rematrix_maxval": "1"}
#: Decoders that a file may ask for, by FFmpeg's names.
_DECODERS = (
    "mp3float", "mp3", "mp2float", "mp2", "mp1float", "mp1", "aac", "aac_latm", "alac", "flac",
    "vorbis", "opus", "libopus", "speex", "ac3", "eac3", "dca", "amrnb", "amrwb", "gsm", "gsm_ms",
    "wmav1", "wmav2", "wmapro", "wmalossless", "wmavoice", "wavpack", "tta", "nellymoser",
    "pcm_s8", "pcm_u8", "pcm_alaw", "pcm_mulaw", "pcm_bluray", "pcm_dvd",
    "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_s64le", "pcm_f32le", "pcm_f64le",
    "pcm_s16be", "pcm_s24be", "pcm_s32be", "pcm_s64be", "pcm_f32be", "pcm_f64be",
    "adpcm_ms", "adpcm_ima_wav", "adpcm_ima_qt", "adpcm_swf", "adpcm_yamaha",
    "g722", "g726", "g726le",
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
        notes: What of the source is not in it or was changed, a phrase for each.
    """

    source_format: str
    duration_seconds: float
    sample_rate: int
    channels: int
    opus_bytes: int
    notes: list[str]


def audio_format(path: Path) -> str | None:
    """The container of an audio file by its content, or None if it is none of ours.

    Returns:
        A key of :data:`earmark.ingest.formats.DEMUXERS`.

    Raises:
        OSError: the file can't be read.
    """
    with path.open("rb") as file:
        found = identify(file)
        return found and found.format


class _Source:
    """An open file as FFmpeg reads it, from where its container begins.

    A header may name a position that no file can have.  Linux refuses to seek there with an
    error that looks like one of the machine, so FFmpeg is told in its own way.
    """

    def __init__(self, file: BinaryIO, start: int) -> None:
        self._file, self._start = file, start
        self.read = file.read
        file.seek(start)

    def tell(self) -> int:
        """The position."""
        return self._file.tell() - self._start

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a position and return it, or a negative number where there is none such."""
        if whence == 0:
            offset = offset + self._start if offset >= 0 else offset
        try:
            return self._file.seek(offset, whence) - self._start
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOVERFLOW):
                raise
            return -errno.EINVAL


class _Decoder:
    """The audio of one open file, packet by packet.

    Attributes:
        format: As `audio_format` names it.
        junk: Bytes before the audio that are no tags.
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
        found = identify(file)
        if found is None:
            if not file.seek(0, io.SEEK_END):
                raise MediaError("empty file")
            raise NotAudioError(why_not(file))
        self.format, self._start, self.junk = found
        self.sample_rate = 0
        self.channels = 0
        self.damaged_packets = 0

    def _frames(self) -> Iterator[av.AudioFrame]:
        """Decode; a packet that can't be decoded is counted and left out."""
        good = 0
        demuxer = DEMUXERS[self.format]
        problem = "no audio in it"
        try:
            with av.open(
                _Source(self._file, self._start),
                "r",
                format=demuxer,
                options={
                    "codec_whitelist": ",".join(_DECODERS),
                    "format_whitelist": demuxer,
                    "protocol_whitelist": "none",
                },
                metadata_errors="replace",  # tags in any encoding are none of our business
            ) as container:
                if not container.streams.audio:
                    raise NotAudioError(f"not audio: {self.format} without an audio stream")
                stream = container.streams.audio[0]
                codec = stream.codec_context
                if codec is None or codec.name not in _DECODERS:
                    name = codec.codec.long_name if codec else "a codec without a decoder"
                    raise NotAudioError(f"{NOT_TAKEN}: {name} in {self.format}")
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

    def notes(self) -> list[str]:
        """What was left out so far, a phrase for each reason."""
        said = []
        if self.junk:
            said.append(f"{self.junk} bytes before the audio were left out")
        if self.damaged_packets:
            said.append(f"{self.damaged_packets} damaged packets were left out")
        return said

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
            notes=decoder.notes(),
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
