"""From a clip's file to what a Whisper model takes in, ahead of the model.

Samples, windows of speech and their log-mel spectrograms: all that needs no Whisper model.
With several threads it is done by worker processes (``python -m earmark.speech.preparation``), so
that the model never waits, and a clip that crashes its decoder takes down one of them.
"""

import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import av.logging
import numpy as np
import numpy.typing as npt
from av.error import FFmpegError

from earmark.errors import EarmarkError, SetupError
from earmark.gpu import ran_out_of_memory
from earmark.ingest.media import MediaError, decode_audio
from earmark.speech.vad import SAMPLE_RATE, WINDOW_SECONDS, Audio, Span, load_detector, merge
from earmark.worker import Answer, DiedError, OutOfTimeError, Worker, Workers, serve

T = TypeVar("T")

FRAMES = 100 * WINDOW_SECONDS  # Whisper's spectrograms have a frame each 10 ms

Features = npt.NDArray[np.float32]

#: A clip may take so long, and as long as it lasts: no working machine is slower.
_PATIENCE_SECONDS = 300.0


@dataclass(frozen=True)
class Window:
    """A window of a clip that holds speech.

    Attributes:
        start: Seconds from the clip's beginning.
        end: Likewise, at most 30 s later.
        speech_seconds: How much of it is speech.
        features: Log-mel spectrogram, float32 of shape [mels, 3000].
        spans: Where in the clip that speech is, in order.
    """

    start: float
    end: float
    speech_seconds: float
    features: Features
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True)
class Clip:
    """A clip to prepare.

    Attributes:
        ordinal: Its place in the archive.
        path: Its file.
        duration_seconds: Its length; decides how many clips are prepared ahead.
    """

    ordinal: int
    path: Path
    duration_seconds: float


@dataclass(frozen=True)
class Prepared:
    """What a clip holds.

    Attributes:
        clip: The clip.
        windows: Its windows of speech in order; none without speech.
        seconds: What preparing it took.
        error: Why nothing can be had from it, or None.
    """

    clip: Clip
    windows: tuple[Window, ...] = field(default=(), repr=False)
    seconds: float = 0.0
    error: str | None = None


class _Preparer:
    """Prepares clips in this process."""

    def __init__(self, vad: str, device: str) -> None:
        import torch

        torch.set_num_threads(1)
        self._vad, self._device = vad, device
        try:
            self._detect = self._sparing_the_gpu(lambda: load_detector(vad, self._device))
        except Exception as error:
            raise SetupError(
                f"the model of asr.vad {vad!r}, which comes with the Python packages, can't be "
                f"loaded ({error}); install them anew, or set asr.vad to the other one"
            ) from error

    def windows(self, path: Path, mels: int) -> tuple[Window, ...]:
        """The windows of speech of a file.

        Raises:
            MediaError: it can't be decoded.
            OSError: the system refused to read.
        """
        return self.windows_of(_decode(path), mels)

    def windows_of(self, audio: Audio, mels: int) -> tuple[Window, ...]:
        """The windows of speech of a clip's samples, shape [n], mono at 16 kHz, -1 to 1."""
        length = len(audio) * 1000 // SAMPLE_RATE / 1000  # in whole milliseconds, as segments are
        regions = (region.within(length) for region in merge(self._regions(audio)))
        return tuple(
            Window(
                region.start,
                region.end,
                region.speech_seconds,
                _features(audio, region.start, region.end, mels),
                region.spans,
            )
            for region in regions
            if region is not None
        )

    def _regions(self, audio: Audio) -> list[tuple[float, float]]:
        return self._sparing_the_gpu(lambda: self._detect(audio))

    def _sparing_the_gpu(self, work: Callable[[], T]) -> T:
        """Do work on the GPU, or from now on without it: Whisper needs its memory more."""
        try:
            return work()
        except RuntimeError as error:
            if self._device == "cpu" or not ran_out_of_memory(error):
                raise
        import torch

        self._device = "cpu"
        self._detect = load_detector(self._vad, self._device)
        torch.cuda.empty_cache()
        return work()


def _decode(path: Path) -> Audio:
    try:
        return decode_audio(path, SAMPLE_RATE)
    except OSError as error:
        if isinstance(error, FFmpegError):  # the file, not the system
            raise MediaError(f"{type(error).__name__}: {error}"[:300]) from error
        raise
    except MediaError:
        raise
    except Exception as error:
        # A file that makes PyAV raise what it shouldn't is a bad file all the same.
        raise MediaError(f"{type(error).__name__}: {error}"[:300]) from error


def _features(audio: Audio, start: float, end: float, mels: int) -> Features:
    from whisperx.audio import N_SAMPLES, log_mel_spectrogram

    samples = audio[int(start * SAMPLE_RATE) : int(end * SAMPLE_RATE)][:N_SAMPLES]
    spectrogram: Features = log_mel_spectrogram(
        samples, n_mels=mels, padding=N_SAMPLES - len(samples)
    ).numpy()
    return spectrogram


class Preparation:
    """Prepares clips ahead of who takes them, in their order."""

    def __init__(self, vad: str, device: str, processes: int) -> None:
        """Nothing starts yet.

        Args:
            vad: ``pyannote`` or ``silero``.
            device: Where pyannote's model runs, ``cuda`` or ``cpu``.
            processes: Worker processes of one thread each; 0 prepares each clip in this
                process when it is asked for.
        """
        self._vad, self._device, self._count = vad, device, processes
        self._stack = ExitStack()
        self._workers: Workers | None = None
        self._preparer: _Preparer | None = None

    def __enter__(self) -> Self:
        """Start the processes; what they load takes them many seconds."""
        if self._count:
            settings = {"vad": self._vad, "device": self._device}
            self._workers = self._stack.enter_context(
                Workers("earmark.speech.preparation", settings, self._count)
            )
            self._workers.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def prepare(self, clips: Iterable[Clip], mels: int, ahead_seconds: float) -> Iterator[Prepared]:
        """Prepare clips; no more of them are in memory than asked for.

        Args:
            clips: What to prepare.
            mels: Bands of the spectrograms.
            ahead_seconds: Clips of so many seconds together are prepared before they are
                taken, and at least one.

        Yields:
            Each clip, in their order.

        Raises:
            EarmarkError: a file has vanished.
            OSError: the system refused to read, or to start a process.
        """
        if self._workers is None:
            yield from (self._prepare_here(clip, mels) for clip in clips)
            return
        waiting: deque[tuple[float, Future[Prepared]]] = deque()
        ahead = 0.0
        for clip in clips:
            seconds = max(clip.duration_seconds, WINDOW_SECONDS)  # it may have a window at least
            while waiting and ahead + seconds > ahead_seconds:
                taken, future = waiting.popleft()
                yield future.result()
                ahead -= taken
            ahead += seconds
            work = partial(_prepare_there, clip, mels)
            waiting.append((seconds, self._workers.submit(work)))
        for _, future in waiting:
            yield future.result()

    def _prepare_here(self, clip: Clip, mels: int) -> Prepared:
        if self._preparer is None:
            self._preparer = _Preparer(self._vad, self._device)
        started = time.monotonic()
        try:
            _check(clip)
            windows = self._preparer.windows(clip.path, mels)
        except MediaError as error:
            return Prepared(clip, error=str(error), seconds=time.monotonic() - started)
        return Prepared(clip, windows, time.monotonic() - started)


def _check(clip: Clip) -> None:
    if not clip.path.exists():
        raise EarmarkError(
            f"{clip.path} is in the manifest but not on the volume; "
            "check the volume, or have the archive encoded again: `earmark redo --stage encode`"
        )


def _prepare_there(clip: Clip, mels: int, worker: Worker) -> Prepared:
    _check(clip)
    limit = _PATIENCE_SECONDS + clip.duration_seconds
    try:
        said, content = worker.ask({"path": str(clip.path), "mels": mels}, limit)
    except DiedError as error:
        return Prepared(clip, error=f"the process that decoded it died of {error}")
    except OutOfTimeError as error:
        return Prepared(clip, error=str(error))
    if "error" in said:
        return Prepared(clip, error=said["error"], seconds=said["seconds"])
    features = np.frombuffer(content, np.float32).reshape(-1, mels, FRAMES)
    windows = tuple(
        Window(start, end, speech_seconds, each, tuple((a, b) for a, b in spans))
        for (start, end, speech_seconds, spans), each in zip(said["windows"], features, strict=True)
    )
    return Prepared(clip, windows, said["seconds"])


def _answer(task: dict[str, Any], preparer: _Preparer) -> Answer:
    started = time.monotonic()
    windows: Sequence[Window] = ()
    said: dict[str, Any] = {}
    try:
        windows = preparer.windows(Path(task["path"]), task["mels"])
    except MediaError as error:
        said = {"error": str(error)}
    except OSError as error:
        return {"refused": [error.errno, error.strerror, task["path"]]}, b""
    places = [(each.start, each.end, each.speech_seconds, each.spans) for each in windows]
    content = b"".join(window.features.tobytes() for window in windows)
    return {"windows": places, "seconds": time.monotonic() - started, **said}, content


def _load(settings: str) -> Callable[[dict[str, Any]], Answer]:
    av.logging.set_level(av.logging.PANIC)
    preparer = _Preparer(**json.loads(settings))
    return lambda task: _answer(task, preparer)


if __name__ == "__main__":
    serve(sys.argv[1], partial(_load, sys.argv[2]))
