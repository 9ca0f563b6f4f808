"""Transcription in full batches against WhisperX once per file: `make bench-transcribe`.

    python -m benchmarks.transcribe

The clips of the demo's archives, as the workflow encodes them to Opus, go through both
sides with the same model, options and number of threads, in turns:

- ours: `earmark.speech.transcribe.Transcriber`: processes decode, look for speech and make
  spectrograms ahead; batches hold windows of many clips;
- baseline: the first design's worker. For each file ``whisperx.load_audio(path)``, which
  starts the program ffmpeg (where there is none, files are decoded as ours are), then
  ``model.transcribe(audio, batch_size=16)``.

What counts is the wall time from the first clip to the last.  Models, processes and their
imports are loaded before, and one clip has gone through each side: an archive has thousands
of clips, and either side loads once.  That time is printed too.  A side's figure is that of
its fastest round, as whatever else a machine does only makes it slower.

Bars: ours is at least 1.5 times as fast, and the text of 99 % of the clips and the language
of each are the same.  (Where no speech is found ours names no language, and WhisperX guesses
one from silence; that is no difference.)

With ``--profile`` ours alone runs, one step after the other on one thread, and it is told
which step takes how long.  With ``--memory CLIPS`` so many clips go through ours, the
shortest ones again and again; the bar is that its memory grows by no more than 50 MB from the first
fifth of them on, that of its processes included.
"""

import argparse
import itertools
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.report import Result, finish, progress
from earmark import REPOSITORY
from earmark.ingest.encode import encode_archive
from earmark.ingest.media import decode_audio
from earmark.ingest.unpack import unpack_archive
from earmark.settings import AsrSettings, EncodeSettings
from earmark.speech.preparation import Clip
from earmark.speech.transcribe import Transcriber, clips_of
from earmark.tables import MANIFEST, read_table

LEAST_RATIO = 1.5
LEAST_SAME = 0.99
MOST_GROWTH = 50e6  # bytes

#: A clip's text, and its language; None without speech.
Answer = tuple[str, str | None]


def make_clips(folder: Path) -> list[Clip]:
    """The clips of the demo's archives, as the workflow hands them to transcription."""
    clips: list[Clip] = []
    for archive in sorted((REPOSITORY / "demo/archives").iterdir()):
        unpacked, audio = folder / "unpacked" / archive.name, folder / "audio" / archive.name
        manifest = folder / f"{archive.name}.parquet"
        unpack_archive(archive, unpacked)
        encode_archive(unpacked, audio, manifest, archive.name, folder, EncodeSettings(workers=1))
        clips += clips_of(read_table(manifest, MANIFEST), folder)
    return [replace(clip, ordinal=number) for number, clip in enumerate(clips)]


class Ours:
    """Clips of many windows together."""

    def __init__(self, settings: AsrSettings) -> None:
        self._transcriber = Transcriber(settings)

    def __enter__(self) -> "Ours":
        self._transcriber.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._transcriber.__exit__(*error)

    def transcribe(self, clips: Sequence[Clip]) -> list[Answer]:
        """The answers for some clips, in their order."""
        answers: dict[int, Answer] = {}
        for done in self._transcriber.transcribe(clips):
            for each in done:
                assert each.transcript is not None
                answer = (each.transcript.text, each.transcript.language)
                answers[each.prepared.clip.ordinal] = answer
        return [answers[clip.ordinal] for clip in clips]


class Naive:
    """The first design: WhisperX once per file."""

    def __init__(self, settings: AsrSettings) -> None:
        # pyannote reports every clip's length; ONNX Runtime, what it is used for.
        os.environ |= {"PYANNOTE_METRICS_ENABLED": "false", "ORT_DISABLE_TELEMETRY": "1"}
        import torch
        import whisperx

        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        torch.set_num_threads(settings.threads)
        self._load_audio = whisperx.load_audio
        if shutil.which("ffmpeg") is None:
            progress("no program ffmpeg here: the baseline decodes without it, which is faster")
            self._load_audio = lambda path: decode_audio(Path(path))
        self._batch_size = settings.batch_size
        self._model = whisperx.load_model(
            settings.model,
            settings.device,
            compute_type=settings.compute_type,
            asr_options={"beam_size": settings.beam_size},
            vad_method=settings.vad,
            threads=settings.threads,
        )
        logging.getLogger("whisperx").setLevel(logging.ERROR)

    def transcribe(self, clips: Sequence[Clip]) -> list[Answer]:
        """The answers for some clips, in their order."""
        return [self._transcribe(clip.path) for clip in clips]

    def _transcribe(self, path: Path) -> Answer:
        audio = self._load_audio(str(path))
        result = self._model.transcribe(audio, batch_size=self._batch_size)
        segments = result["segments"]
        text = " ".join(segment["text"].strip() for segment in segments)
        return text, result["language"] if segments else None


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What work returns, and the seconds it takes."""
    begun = time.perf_counter()
    result = work()
    return result, time.perf_counter() - begun


def compare(clips: Sequence[Clip], settings: AsrSettings, rounds: int) -> int:
    """Run both sides in turns and check the bars; returns the exit status."""
    seconds = sum(clip.duration_seconds for clip in clips)
    progress(f"{len(clips)} clips, {seconds:.0f} s of audio, {settings.threads} threads")
    times: dict[str, list[float]] = {"ours": [], "baseline": []}
    naive, loading = timed(lambda: Naive(settings))
    theirs, first = timed(lambda: naive.transcribe(clips[:1]))
    progress(f"baseline: loaded, and the first clip done, in {loading + first:.1f} s")
    begun = time.perf_counter()
    with Ours(settings) as ours:
        # Some for each process: one that is still loading must not be timed.
        ours.transcribe(list(clips[: 4 * settings.threads]))
        progress(f"ours: loaded, and the first clips done, in {time.perf_counter() - begun:.1f} s")
        for number in range(rounds):
            answers, taken = timed(lambda: ours.transcribe(clips))
            times["ours"].append(taken)
            theirs, taken = timed(lambda: naive.transcribe(clips))
            times["baseline"].append(taken)
            said = ", ".join(f"{side} {each[-1]:.2f} s" for side, each in times.items())
            progress(f"round {number + 1} of {rounds}: {said}")
    fastest = {side: min(each) for side, each in times.items()}
    ratio = fastest["baseline"] / fastest["ours"]
    missed = []
    if ratio < LEAST_RATIO:
        missed.append(f"ours is {ratio:.2f} times as fast, wanted {LEAST_RATIO:g}")
    for clip, our, their in zip(clips, answers, theirs, strict=True):
        if our != their:
            print(f"{clip.path.name}: {our} instead of {their}")
    same = sum(our[0] == their[0] for our, their in zip(answers, theirs, strict=True)) / len(clips)
    if same < LEAST_SAME:
        missed.append(f"{same:.1%} of the texts are the same, wanted {LEAST_SAME:.0%}")
    if any(our[1] != their[1] for our, their in zip(answers, theirs, strict=True)):
        missed.append("a clip's language is another")
    print(f"{same:.1%} of the texts are the same; ours is {ratio:.2f} times as fast")
    an_hour = {side: len(clips) * 3600 / took for side, took in fastest.items()}
    unit = f"clips of {seconds / len(clips):.0f} s an hour"
    device = device_name(settings.device)
    result = Result("transcribe", ratio, an_hour["ours"], an_hour["baseline"], unit, device)
    return finish(result, missed)


def device_name(device: str) -> str:
    """What the machine calls its GPU, or its processor."""
    if device == "cuda":
        import torch

        return str(torch.cuda.get_device_name())
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'CPU'}, {os.cpu_count()} cores"


def profile(clips: Sequence[Clip], settings: AsrSettings) -> int:
    """Tell how long each step takes; returns the exit status."""
    from earmark.speech import preparation, vad
    from earmark.speech.recognition import Recogniser

    spent: dict[str, float] = {}
    # On one thread of a busy machine the processor's own time is what a step takes.
    clock = time.process_time if settings.device == "cpu" else time.perf_counter

    def told(name: str, owner: Any, attribute: str) -> None:
        work = getattr(owner, attribute)

        def wrapped(*arguments: Any, **options: Any) -> Any:
            begun = clock()
            try:
                return work(*arguments, **options)
            finally:
                spent[name] = spent.get(name, 0.0) + clock() - begun

        setattr(owner, attribute, wrapped)

    load_detector = vad.load_detector

    class Detector:
        def __init__(self, *arguments: Any) -> None:
            self.detect = load_detector(*arguments)
            told("find speech", self, "detect")

        def __call__(self, audio: Any) -> Any:
            return self.detect(audio)

    preparation.load_detector = Detector  # type: ignore
    told("decode Opus", preparation, "_decode")
    told("spectrograms", preparation, "_features")
    told("encoder", Recogniser, "encode")
    told("language", Recogniser, "detect_languages")
    told("decoder", Recogniser, "decode")
    with Ours(msgspec.structs.replace(settings, threads=1)) as ours:
        ours.transcribe(clips[:1])
        spent.clear()
        begun = clock()
        ours.transcribe(clips)
        taken = clock() - begun
    spent["the rest"] = taken - sum(spent.values())
    seconds = sum(clip.duration_seconds for clip in clips)
    print(f"{len(clips)} clips, {seconds:.0f} s of audio, in {taken:.1f} s on one thread:")
    for name, each in spent.items():
        print(f"{name:14} {each:6.2f} s {each / taken:6.1%}  {1000 * each / seconds:6.2f} ms per s")
    return 0


def memory(clips: Sequence[Clip], settings: AsrSettings, number: int) -> int:
    """Transcribe so many clips and check that memory does not grow; returns the exit status."""
    sizes: list[tuple[int, int]] = []  # clips done, bytes
    shortest = sorted(clips, key=lambda clip: clip.duration_seconds)[:12]

    def many() -> Iterator[Clip]:
        for ordinal, clip in enumerate(itertools.islice(itertools.cycle(shortest), number)):
            yield replace(clip, ordinal=ordinal)

    begun, done = time.perf_counter(), 0
    with Transcriber(settings) as transcriber:
        for each in transcriber.transcribe(many()):
            done += len(each)
            if not sizes or done - sizes[-1][0] >= number / 20:
                sizes.append((done, resident_bytes()))
                progress(f"{done} clips, {sizes[-1][1] / 1e6:.0f} MB")
    early = max(size for at, size in sizes if at <= number / 5)
    late = max(size for at, size in sizes if at > number / 5)
    print(f"{done} clips in {time.perf_counter() - begun:.0f} s")
    missed = []
    if late - early > MOST_GROWTH:
        missed.append(f"memory grew by {(late - early) / 1e6:.0f} MB")
    ratio = late / early
    name = device_name(settings.device)
    return finish(Result("transcribe, memory", ratio, late / 1e6, early / 1e6, "MB", name), missed)


def resident_bytes() -> int:
    """Resident memory of this process and its children."""
    own = Path("/proc/self")
    children = (own / f"task/{os.getpid()}/children").read_text().split()
    pages = 0
    for process in (own, *(Path("/proc") / child for child in children)):
        pages += int((process / "statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main() -> int:
    """Measure; returns the exit status."""
    options = _options()
    logging.basicConfig(level=logging.WARNING)
    settings = AsrSettings(
        name="bench",
        model=str(options.model),
        device=options.device,
        compute_type=options.compute_type,
        batch_size=options.batch_size,
        vad=options.vad,
        threads=options.threads,
    )
    with tempfile.TemporaryDirectory(prefix="bench-transcribe-") as name:
        clips = make_clips(Path(name))
        if options.profile:
            return profile(clips, settings)
        if options.memory:
            return memory(clips, settings, options.memory)
        return compare(clips, settings, options.rounds)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--model", type=Path, default=REPOSITORY / "demo/models/whisper-demo", help="(the demo's)"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="(%(default)s)")
    parser.add_argument("--compute-type", default="float32", help="(%(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, help="windows (%(default)s)")
    parser.add_argument("--vad", choices=["pyannote", "silero"], default="pyannote")
    parser.add_argument(
        "--threads", type=int, default=max(2, os.cpu_count() or 2), help="(%(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="the fastest counts (%(default)s)")
    parser.add_argument("--profile", action="store_true", help="tell where the time goes")
    parser.add_argument("--memory", type=int, metavar="CLIPS", help="see whether memory grows")
    options = parser.parse_args()
    if min(options.batch_size, options.threads, options.rounds) < 1:
        parser.error("at least one of each is needed")
    return options


if __name__ == "__main__":
    sys.exit(main())
