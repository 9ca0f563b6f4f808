"""Real audio for tests: chirps with a little noise, in any container.

`ffmpeg` and `played` run the program, as people do; who uses them needs it.
"""

import struct
import subprocess
from pathlib import Path
from typing import Any

import av
import numpy as np

#: Container, encoder and sample format per file extension.
ENCODERS = {
    "mp3": ("mp3", "libmp3lame", "fltp"),
    "m4a": ("ipod", "aac", "fltp"),
    "aac": ("adts", "aac", "fltp"),
    "wav": ("wav", "pcm_s16le", "s16"),
    "flac": ("flac", "flac", "s16"),
    "ogg": ("ogg", "vorbis", "fltp"),
    "opus": ("opus", "libopus", "flt"),
    "webm": ("webm", "libopus", "flt"),
}


def chirp(seconds, sample_rate=44_100, seed=0):
    """A rising and falling tone that is different for each seed, float32 in -1..1."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * sample_rate)) / sample_rate
    pitch = 300 + 60 * seed + 200 * np.sin(2 * np.pi * 0.5 * time)
    tone = 0.3 * np.sin(2 * np.pi * np.cumsum(pitch) / sample_rate)
    return (tone + 0.005 * rng.standard_normal(len(time))).astype(np.float32)


def write_audio(path, audio, sample_rate=44_100, kind=None, layout="mono", tags=None):
    """Encode mono audio as the kind that the file's extension (or ``kind``) names."""
    container_format, codec, sample_format = ENCODERS[kind or Path(path).suffix[1:]]
    layout = "stereo" if codec == "vorbis" else layout  # FFmpeg's own encoder knows no other
    with av.open(str(path), "w", format=container_format) as container:
        container.metadata.update(tags or {})
        stream: Any = container.add_stream(codec, rate=sample_rate, layout=layout)
        stream.codec_context.options = {"strict": "experimental"}  # for vorbis
        resampler = av.AudioResampler(sample_format, layout, sample_rate)
        frame = av.AudioFrame.from_ndarray(audio[None, :], format="flt", layout="mono")
        frame.sample_rate = sample_rate
        for part in resampler.resample(frame):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return Path(path)


def wav(sample_rate, samples):
    """The bytes of an 8-bit mono WAV of silence."""
    header = struct.pack("<IHHIIHH", 16, 1, 1, sample_rate, sample_rate, 1, 8)
    data = b"fmt " + header + b"data" + struct.pack("<I", samples) + b"\x80" * samples
    return b"RIFF" + struct.pack("<I", 4 + len(data)) + b"WAVE" + data


def ffmpeg(*arguments):
    """Run the program; returns what it writes on standard output."""
    command = ["ffmpeg", "-nostdin", "-loglevel", "error", "-y", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True).stdout


def played(path, channels=1, stream=0):
    """What the program plays of a file: float32 of shape (samples, channels), 16 kHz.

    Nothing if it plays nothing. ``channels`` is what the file has: others would be mixed.
    """
    raw = ["-map", f"0:a:{stream}", "-ar", "16000", "-ac", str(channels), "-f", "f32le", "-"]
    command = ["ffmpeg", "-nostdin", "-loglevel", "quiet", "-i", str(path), *raw]
    samples = subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout
    return np.frombuffer(samples, np.float32).reshape(-1, channels)
