"""Both GPU stages at full size against the first design: `make bench-gpu`.

    python -m benchmarks.gpu

For a machine with a GPU and without a network.  It builds models with the dimensions of
Whisper large-v2 (or of a faster one, ``--whisper``) and Gemma 2 9B and random weights
(:mod:`benchmarks.random_models`) and clips of 60 s of speech out of the demo's, and lets both
sides work on them, one after the other, with the workflow's own settings:

- transcription: ours in batches of many clips' windows; the baseline once per file, with
  WhisperX's batches within one file;
- classification: ours by the policy's shared prefix; the baseline by 100 generated tokens
  of JSON per transcript, from the 8-bit model with its adapter.

Each window has 105 tokens, on both sides.  What unequal lengths cost a batch is not in it.

Told are clips an hour, the share of the device's limits that ours reaches
(:mod:`benchmarks.roofline`), the peak of VRAM, and an estimate of what an L4 would do: the least
as :mod:`benchmarks.steps` scales each part of the speech model's work, the most at its limits.

Bars: transcription is at least 5 times as fast as the baseline and reaches 30 % of the
limit, classification is 50 times as fast, and both together are 8 times as fast.  What a batch
costs is predicted from two others within 15 %.

All that is built stays in the folder ``build/gpu-benchmark`` (24 GB), and so do the figures:
where commands may not take long, ``--only build``, ``--only transcription`` and ``--only
classification`` do one part each, and the last one tells the sum.  With ``--small`` tiny
models do the same on a CPU, in a minute or two; no bar is held there.
"""

import argparse
import gc
import json
import logging
import os
import random
import shutil
import sys
import tempfile
import wave
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from benchmarks import classify, roofline, steps, transcribe
from benchmarks.random_models import (
    LARGE,
    WORDS,
    gemma_2_9b,
    large_whisper,
    tiny_gemma,
    tiny_whisper,
    whole_folder,
    write_adapter,
    write_gemma,
    write_whisper,
)
from benchmarks.report import Result, finish, progress
from benchmarks.roofline import L4, Device, Step
from earmark import REPOSITORY, __version__, logs
from earmark.errors import EarmarkError, SetupError
from earmark.gpu import GpuWatch
from earmark.ingest.media import decode_audio, encode_opus
from earmark.policy.classifier import batches
from earmark.policy.policies import one_line, prompt_around
from earmark.policy.quantization import chosen
from earmark.settings import AsrSettings, ClassifySettings, EncodeSettings
from earmark.speech.languages import best
from earmark.speech.preparation import FRAMES, Clip
from earmark.speech.recognition import Recogniser
from earmark.speech.transcribe import Transcriber
from earmark.speech.vad import SAMPLE_RATE, WINDOW_SECONDS, load_detector

LEAST_RATIOS = {"transcription": 5.0, "classification": 50.0, "together": 8.0}
LEAST_SHARE = 0.3  # of the limit, by transcription
FURTHEST_OFF = 0.15  # of what a batch takes, predicted from a smaller and a larger one
POLICIES = 6  # that ship
SCREENED = 0.1  # of clips pass the screen, or are drawn to audit it

_FOLDER = REPOSITORY / "build" / "gpu-benchmark"
_DISK_BYTES = 26e9
_MOST_THREADS = 16  # a process each that looks for speech on the GPU, with a context there
_WEIGHT_BYTES = {"8bit": 1.0, "4bit": 0.5, None: 2.0}
_ASR_WEIGHT_BYTES = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0}  # others: int8


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        folder: Where everything lies.
        whisper_name: What the speech model is like.
        whisper: Its dimensions.
        gemma: Dimensions of the language model.
        asr: How clips are transcribed; its model is written first.
        classify: The same for classification.
        clips: Their number, for ours.
        clip_seconds: Their length.
        naive_clips: How many of them the baseline transcribes.
        transcripts: Their number, for ours.
        naive_transcripts: How many of them the baseline judges.
        naive_tokens: How many tokens of JSON it writes about each.
        policy_tokens: Length of the policy.
        limits: What the device could do at best.
    """

    folder: Path
    whisper_name: str
    whisper: Any
    gemma: Any
    asr: AsrSettings
    classify: ClassifySettings
    clips: int
    clip_seconds: int
    naive_clips: int
    transcripts: int
    naive_transcripts: int
    naive_tokens: int
    policy_tokens: int
    limits: Device

    def facts(self) -> str:
        """All that figures depend on; those of another plan are no part of a sum."""
        # Dimensions are those of the models' folders; the objects change as models are made.
        left_out = ("limits", "whisper", "gemma")
        depended = {key: value for key, value in vars(self).items() if key not in left_out}
        return f"{__version__} {self.limits.name} {depended}"


@dataclass(frozen=True)
class Figures:
    """What a stage takes, in seconds per clip.

    Attributes:
        stage: Its name.
        how: What did it, in words.
        ours: Measured.
        baseline: Measured.
        least: What the device needs at the least.
        least_on_l4: What an L4 would need at the least.
        arithmetic: Share of the device's arithmetic that ours uses.
        bandwidth: The same of its memory's bandwidth.
        vram_peak: Bytes of GPU memory in use at the most; None without a GPU.
        busy_percent: Of the time, how much the GPU was at work; None without one.
        windows: Windows of a clip, for transcription.
        batch: How many go together.
        parts: What batches cost the speech model: seconds by part and by the batch's windows.
    """

    stage: str
    how: str
    ours: float
    baseline: float
    least: float
    least_on_l4: float
    arithmetic: float
    bandwidth: float
    vram_peak: int | None = None
    busy_percent: float | None = None
    windows: float = 0.0
    batch: int = 1
    parts: dict[str, dict[int, float]] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """How many times as fast ours is."""
        return self.baseline / self.ours

    @property
    def share(self) -> float:
        """Share of the limit that ours reaches."""
        return self.least / self.ours

    def on_l4(self, here: Device) -> tuple[float, float]:
        """Seconds per clip on an L4: at the most, and at the least.

        Args:
            here: The device that this was measured on.
        """
        if not self.parts:
            return self.least_on_l4 / self.share, self.least_on_l4
        slowest, floor, ours = 0.0, 0.0, 0.0
        for part, seconds in self.parts.items():
            line = steps.fit(seconds)
            slowest += steps.elsewhere(part, line, here, L4).at(self.batch)
            floor, ours = floor + line.floor, ours + line.at(self.batch)
        a_clip = self.windows / self.batch
        besides = max(0.0, self.ours - a_clip * ours)  # what isn't the model's
        return a_clip * slowest + besides, max(self.least_on_l4, a_clip * floor) + besides


def build(plan: Plan) -> Plan:
    """Write models and clips that are not there yet; returns the plan with their folders.

    Raises:
        EarmarkError: the disk has no room for them.
    """
    device = plan.asr.device
    plan.folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(plan.folder).free
    if device == "cuda" and not (plan.folder / "adapter").exists() and free < _DISK_BYTES:
        raise EarmarkError(
            f"the models take {_DISK_BYTES / 1e9:.0f} GB, and {plan.folder} has "
            f"{free / 1e9:.0f} GB free; choose another --folder"
        )
    whisper = write_whisper(plan.whisper, plan.folder / plan.whisper_name, device)
    gemma = write_gemma(plan.gemma, plan.folder / "gemma", device)
    adapter = write_adapter(plan.gemma, plan.folder / "adapter", device)
    spoken_clips(plan)
    return replace(
        plan,
        asr=msgspec.structs.replace(plan.asr, model=str(whisper)),
        classify=chosen(
            msgspec.structs.replace(plan.classify, model=str(gemma), adapter=str(adapter))
        ),
    )


def spoken_clips(plan: Plan) -> list[Clip]:
    """Clips full of speech, put together from what is said in the demo's."""

    def write(folder: Path) -> None:
        detect = load_detector("silero", "cpu")
        said = []
        with tempfile.TemporaryDirectory(prefix="bench-gpu-") as name:
            for clip in transcribe.make_clips(Path(name)):
                audio = decode_audio(clip.path, SAMPLE_RATE)
                for start, end in detect(audio):
                    said.append(audio[int(start * SAMPLE_RATE) : int(end * SAMPLE_RATE)])
        pause = np.zeros(SAMPLE_RATE // 3, np.float32)
        rng, needed = random.Random(7), plan.clip_seconds * SAMPLE_RATE
        source = folder / "clip.wav"
        for number in range(plan.clips):
            parts: list[Any] = []
            while sum(map(len, parts)) < needed:
                parts += [rng.choice(said), pause]
            samples = (np.concatenate(parts)[:needed] * 32767).astype("<i2")
            with wave.open(str(source), "wb") as file:
                file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
                file.writeframes(samples.tobytes())
            encode_opus(source, folder / f"{number:04}.opus", EncodeSettings())
        source.unlink()

    name = f"clips-{plan.clips}-of-{plan.clip_seconds}-s"
    folder = whole_folder(plan.folder / name, write)
    paths = sorted(folder.glob("*.opus"))
    return [Clip(number, path, plan.clip_seconds) for number, path in enumerate(paths)]


def measure_transcription(plan: Plan) -> Figures:
    """Transcribe clips in full batches, then some of them once per file.

    Raises:
        EarmarkError: the model can't be loaded, or writes more or less than it should.
    """
    clips, settings = spoken_clips(plan), plan.asr
    _check_length(settings)
    _forget()
    progress(f"transcription, ours: {len(clips)} clips")
    windows, ours, gpu = _transcribe(settings, clips)
    progress(f"transcription, ours: {len(clips)} clips, {windows} windows, in {ours:.1f} s")
    _forget()
    few = clips[: plan.naive_clips]
    progress(f"transcription, baseline: {len(few)} clips")
    baseline = _transcribe_naively(settings, few)
    progress(f"transcription, baseline: {len(few)} clips in {baseline:.1f} s")
    _forget()
    progress("transcription: what batches of 1 to 4 times the size cost")
    sizes = sorted({1, max(1, settings.batch_size // 4), settings.batch_size})
    parts = steps.measure(settings, [*sizes, 4 * settings.batch_size])
    _forget()
    weight_bytes = _ASR_WEIGHT_BYTES.get(settings.compute_type, 1.0)
    least = roofline.transcription(
        plan.whisper,
        windows,
        settings.batch_size,
        settings.beam_size,
        WORDS,
        weight_bytes=weight_bytes,
    )
    how = (
        f"{plan.whisper_name}, {settings.compute_type}, beam {settings.beam_size}, "
        f"batches of {settings.batch_size} windows, "
        f"{windows / len(clips):.1f} windows of {WORDS} tokens a clip"
    )
    return _figures(
        "transcription",
        how,
        ours / len(clips),
        baseline / len(few),
        plan.limits,
        least,
        len(clips),
        is_int8=weight_bytes == 1,
        windows=windows / len(clips),
        batch=settings.batch_size,
        parts=parts,
        **gpu,
    )


def _transcribe(settings: AsrSettings, clips: Sequence[Clip]) -> tuple[int, float, dict[str, Any]]:
    """Number of windows, seconds, and what is used of the GPU."""

    def windows_of(some: Sequence[Clip]) -> int:
        done = transcriber.transcribe(some)
        return sum(len(each.prepared.windows) for group in done for each in group)

    with Transcriber(settings) as transcriber:
        # Some for each process: one that is still loading must not be timed.
        windows_of(clips[: 2 * settings.threads])
        return _watched(settings.device, lambda: windows_of(clips))


def _transcribe_naively(settings: AsrSettings, clips: Sequence[Clip]) -> float:
    naive = transcribe.Naive(settings)
    naive.transcribe(clips[:1])
    return transcribe.timed(lambda: naive.transcribe(clips))[1]


def _check_length(settings: AsrSettings) -> None:
    """See that the model writes as many tokens as the figures assume, in this number format."""
    recogniser = Recogniser(settings)
    noise = np.random.default_rng(7).standard_normal((2, recogniser.mels, FRAMES))
    encoded = recogniser.encode(list(noise.astype(np.float32)))
    codes = [best(found).code for found in recogniser.detect_languages(encoded)]
    heard = recogniser.decode(encoded, codes, [WINDOW_SECONDS] * 2)
    written = [each.tokens - 1 for each in heard]
    if written != [WORDS, WORDS]:
        raise EarmarkError(
            f"the Whisper model with random weights wrote {written} tokens instead of {WORDS}; "
            f"remove {settings.model}, so that it is built again"
        )


def measure_classification(plan: Plan) -> Figures:
    """Judge transcripts by one policy, then some of them by generated JSON.

    Raises:
        EarmarkError: the model can't be loaded, or gives a score that is not a number.
    """
    settings = plan.classify
    contents = classify.transcripts(plan.transcripts)
    progress(f"classification, ours: {len(contents)} transcripts")
    shared, lengths, ours, gpu = _judge(settings, contents, plan.policy_tokens)
    progress(f"classification, ours: {len(contents)} transcripts in {ours:.1f} s")
    _forget()
    few = contents[: plan.naive_transcripts]
    progress(f"classification, baseline: {len(few)} transcripts")
    baseline = _judge_naively(settings, few, plan.naive_tokens)
    progress(f"classification, baseline: {len(few)} transcripts in {baseline:.1f} s")
    _forget()
    groups = batches(lengths, shared, settings.batch_size, settings.max_tokens)
    least = roofline.classification(
        plan.gemma,
        shared,
        [[lengths[index] for index in group] for group in groups],
        weight_bytes=_WEIGHT_BYTES[settings.quantization],
    )
    how = (
        f"{settings.quantization or settings.dtype}, batches of {settings.batch_size}, "
        f"{shared} tokens shared, {sum(lengths) / len(lengths):.0f} of each transcript"
    )
    return _figures(
        "classification",
        how,
        ours / len(contents),
        baseline / len(few),
        plan.limits,
        least,
        len(contents),
        is_int8=settings.quantization == "8bit",
        **gpu,
    )


def _judge(
    settings: ClassifySettings, contents: Sequence[str], policy_tokens: int
) -> tuple[int, list[int], float, dict[str, Any]]:
    """Shared tokens, each transcript's, seconds, and what is used of the GPU."""
    ours = classify.Ours(settings)
    model = ours.classifier.model
    policy = classify.cut_policy(model.tokenizer, policy_tokens)
    encode = model.safe_tokenizer.encode
    before, after = (len(encode(part)) for part in prompt_around(policy.text))
    lengths = [len(encode(one_line(content))) + after for content in contents]
    ours.scores(policy, contents[: settings.batch_size])
    scores, seconds, gpu = _watched(settings.device, lambda: ours.scores(policy, contents))
    if None in scores:
        raise EarmarkError("the model with random weights gave a score that is not a number")
    return before + 1, lengths, seconds, gpu  # 1: the token that begins a text


def _judge_naively(settings: ClassifySettings, contents: Sequence[str], tokens: int) -> float:
    naive = classify.OneByOne(msgspec.structs.replace(settings, quantization="8bit"))
    naive.generate(contents[0], tokens)
    return transcribe.timed(lambda: [naive.generate(each, tokens) for each in contents])[1]


def _watched(device: str, work: Callable[[], Any]) -> tuple[Any, float, dict[str, Any]]:
    """What work returns, the seconds it takes, and what it uses of the GPU."""
    with GpuWatch(device) as watch:
        watch.model_loaded("the model")
        result, seconds = transcribe.timed(work)
    facts = watch.facts()
    used = {
        "vram_peak": facts.get("vram_peak_bytes"),
        "busy_percent": facts.get("gpu_utilisation_percent"),
    }
    return result, seconds, used


def _figures(
    stage: str,
    how: str,
    ours: float,
    baseline: float,
    limits: Device,
    least: Sequence[Step],
    clips: int,
    *,
    is_int8: bool,
    **known: Any,
) -> Figures:
    """A stage's seconds per clip, and how they stand to what the device could do.

    Args:
        stage: Its name.
        how: What did it.
        ours: Seconds per clip.
        baseline: Likewise.
        limits: Of the device.
        least: What all clips took at least.
        clips: Their number.
        is_int8: Whether products are made at the rate of INT8.
        known: What else is known of it.
    """
    rate = limits.int8 if is_int8 else limits.half
    return Figures(
        stage,
        how,
        ours,
        baseline,
        least=roofline.least_seconds(least, limits, is_int8=is_int8) / clips,
        least_on_l4=roofline.least_seconds(least, L4, is_int8=is_int8) / clips,
        arithmetic=sum(step.flop for step in least) / clips / ours / rate,
        bandwidth=sum(step.traffic for step in least) / clips / ours / limits.bandwidth,
        **known,
    )


def _forget() -> None:
    """Give back the GPU's memory that nothing refers to any more."""
    gc.collect()
    torch.cuda.empty_cache()  # does nothing where there is no CUDA


def report(figures: Sequence[Figures], limits: Device, unit: str, *, holds_bars: bool) -> int:
    """Tell what was measured and check the bars.

    Args:
        figures: Of one stage, or of both.
        limits: Of the device.
        unit: What an hour's count is of.
        holds_bars: Whether missed ones count, and an L4 can be told of.

    Returns:
        The exit status: 1 if any bar was missed.
    """
    print(
        f"{limits.name}: {limits.half / 1e12:.4g} TFLOP/s, {limits.int8 / 1e12:.4g} TOP/s in "
        f"INT8, {limits.bandwidth / 1e9:.4g} GB/s ({limits.source})"
    )
    results, missed = [], []
    for each in figures:
        print(
            f"{each.stage} ({each.how})\n"
            f"  ours       {_hourly(each.ours)} an hour, {each.ratio:.1f} times the baseline\n"
            f"  baseline   {_hourly(each.baseline)} an hour\n"
            f"  limit      {_hourly(each.least)} an hour; {each.share:.0%} of it are reached, "
            f"{each.arithmetic:.0%} of the arithmetic, {each.bandwidth:.0%} of the bandwidth\n"
            f"  GPU        {_gpu(each)}"
        )
        if each.parts:
            print(_costs(each))
        if holds_bars:
            print(f"  on an L4   {_between(each.on_l4(limits))} an hour: an estimate")
        results.append(_result(each.stage, each.ours, each.baseline, unit, limits))
        if each.stage == "transcription" and each.share < LEAST_SHARE:
            missed.append(
                f"transcription reaches {each.share:.1%} of the limit, wanted {LEAST_SHARE:.0%}"
            )
        off = steps.furthest_off(each.parts) if each.parts else None
        if off is not None and off > FURTHEST_OFF:
            missed.append(f"a batch is predicted {off:.0%} off, wanted {FURTHEST_OFF:.0%}")
    if len(figures) > 1:
        ours = sum(each.ours for each in figures)
        baseline = sum(each.baseline for each in figures)
        print(
            f"together, on one GPU\n"
            f"  ours       {_hourly(ours)} an hour, {baseline / ours:.1f} times the baseline\n"
            f"  baseline   {_hourly(baseline)} an hour"
        )
        hear, judge = figures
        for how, passes in (
            (f"{POLICIES} policies", POLICIES),
            (f"{POLICIES} behind a screen that passes {SCREENED:.0%}", 1 + SCREENED * POLICIES),
        ):
            print(f"  {how}: {_hourly(hear.ours + passes * judge.ours)} an hour")
            if holds_bars:
                there = [
                    one + passes * other
                    for one, other in zip(hear.on_l4(limits), judge.on_l4(limits), strict=True)
                ]
                print(f"    on an L4 {_between(there)} an hour: an estimate")
        results.append(_result("together", ours, baseline, unit, limits))
    for result in results:
        least = LEAST_RATIOS[result.name]
        if result.ratio < least:
            missed.append(f"{result.name} is {result.ratio:.1f} times as fast, wanted {least:g}")
    named = [replace(result, name=f"gpu, {result.name}") for result in results]
    for result in named[:-1]:
        finish(result, [])
    return finish(named[-1], missed if holds_bars else [])


def _hourly(seconds: float) -> str:
    return f"{3600 / seconds:,.0f} clips"


def _between(seconds: Sequence[float]) -> str:
    slowest, fastest = (3600 / each for each in seconds)
    return f"{slowest:,.0f} to {fastest:,.0f} clips"


def _costs(figures: Figures) -> str:
    """What batches cost the speech model, a line for each."""
    sizes = next(iter(figures.parts.values()))
    lines = [
        f"  {size:4} windows "
        + ", ".join(f"{part} {times[size] * 1e3:,.0f} ms" for part, times in figures.parts.items())
        for size in sizes
    ]
    off = steps.furthest_off(figures.parts)
    said = "no batch between to tell by" if off is None else f"those between within {off:.0%}"
    return "\n".join([*lines, f"  predicted  {said}"])


def _gpu(figures: Figures) -> str:
    if figures.vram_peak is None or figures.busy_percent is None:
        return "none here"
    return f"{figures.vram_peak / 1e9:.1f} GB at the most, busy {figures.busy_percent:.0f} %"


def _result(name: str, ours: float, baseline: float, unit: str, limits: Device) -> Result:
    return Result(name, baseline / ours, 3600 / ours, 3600 / baseline, unit, limits.name)


MEASURES: dict[str, Callable[[Plan], Figures]] = {
    "transcription": measure_transcription,
    "classification": measure_classification,
}


def run(plan: Plan, only: str | None) -> list[Figures]:
    """Build and measure, or take what was measured in an earlier run on the same device.

    Args:
        plan: What is measured.
        only: ``build``, a stage's name, or None for all.

    Returns:
        The figures that are there.

    Raises:
        EarmarkError: see :func:`build` and the measures.
    """
    plan = build(plan)
    figures = []
    for stage, measure in MEASURES.items():
        kept = plan.folder / f"{stage}.json"
        if only in (None, stage):
            measured = measure(plan)
            content = {"plan": plan.facts(), "figures": asdict(measured)}
            kept.write_text(json.dumps(content, indent=2), encoding="utf-8")
            figures.append(measured)
        elif only != "build" and kept.exists():
            content = json.loads(kept.read_text(encoding="utf-8"))
            if content.get("plan") == plan.facts():  # of this device, at this size
                progress(f"{stage}: figures of an earlier run ({kept})")
                figures.append(msgspec.convert(content["figures"], Figures, strict=False))
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; returns the exit status: 1 if a bar was missed, 2 if nothing could be measured."""
    options = _options(arguments)
    try:
        plan = _small_plan(options) if options.small else _full_plan(options)
        logs.configure("bench-gpu")
        logging.getLogger("earmark").setLevel(logging.ERROR)  # the demo's archives are damaged
        logging.getLogger("earmark.gpu").setLevel(logging.INFO)
        figures = run(plan, options.only)
    except EarmarkError as error:
        progress(f"bench-gpu: {error}")
        return 2
    if not figures:
        return 0
    if options.small:
        print("Tiny models on a CPU: that it runs is what counts, the figures mean nothing.")
    unit = f"clips of {plan.clip_seconds} s an hour"
    return report(figures, plan.limits, unit, holds_bars=not options.small)


def _full_plan(options: argparse.Namespace) -> Plan:
    if not torch.cuda.is_available():
        raise SetupError(
            "no GPU can be used here; check nvidia-smi, or see what it would do with --small"
        )
    name = torch.cuda.get_device_name()
    threads = options.threads or min(_MOST_THREADS, os.cpu_count() or 4)
    quantization = None if options.quantization == "none" else options.quantization
    return Plan(
        folder=options.folder / "full",
        whisper_name=options.whisper,
        whisper=large_whisper(options.whisper),
        gemma=gemma_2_9b(),
        asr=AsrSettings(
            "gpu", "", compute_type=options.compute_type, batch_size=options.batch_size,
            beam_size=options.beam_size, threads=threads,
        ),
        classify=ClassifySettings(
            quantization=quantization, llm_int8_threshold=options.llm_int8_threshold,
            batch_size=options.classify_batch_size, threads=threads,
        ),
        clips=options.clips,
        clip_seconds=60,
        naive_clips=min(24, options.clips),
        transcripts=options.transcripts,
        naive_transcripts=min(8, options.transcripts),
        naive_tokens=classify.FIRST_MAX_NEW_TOKENS,
        policy_tokens=600,
        limits=roofline.device_called(name) or roofline.measured_device(name, "cuda"),
    )  # fmt: skip


def _small_plan(options: argparse.Namespace) -> Plan:
    return Plan(
        folder=options.folder / "small",
        whisper_name="whisper",
        whisper=tiny_whisper(),
        gemma=tiny_gemma(),
        asr=AsrSettings(
            "gpu", "", device="cpu", compute_type="float32", batch_size=4, threads=1,
        ),
        classify=ClassifySettings(device="cpu", batch_size=4, threads=options.threads or 2),
        clips=4,
        clip_seconds=12,
        naive_clips=2,
        transcripts=8,
        naive_transcripts=1,
        naive_tokens=20,
        policy_tokens=100,
        limits=roofline.measured_device(transcribe.device_name("cpu"), "cpu", quick=True),
    )  # fmt: skip


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    asr, judge = AsrSettings(), ClassifySettings()
    parser.add_argument("--small", action="store_true", help="tiny models on the CPU, no bars")
    parser.add_argument("--only", choices=["build", *MEASURES], help="one part of it")
    parser.add_argument("--folder", type=Path, default=_FOLDER, help="(%(default)s)")
    parser.add_argument("--clips", type=int, default=128, help="for ours (%(default)s)")
    parser.add_argument("--transcripts", type=int, default=512, help="for ours (%(default)s)")
    parser.add_argument(
        "--batch-size", type=int, default=asr.batch_size, help="windows together (%(default)s)"
    )
    parser.add_argument(
        "--classify-batch-size", type=int, default=judge.batch_size,
        help="transcripts together (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--compute-type", default=asr.compute_type, help="(%(default)s)")
    parser.add_argument(
        "--whisper", choices=LARGE, default="large-v2",
        help="what the speech model has the dimensions of (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--beam-size", type=int, default=asr.beam_size, help="(%(default)s)")
    parser.add_argument(
        "--quantization", choices=["auto", "8bit", "4bit", "none"], default=judge.quantization,
        help="of ours; the baseline has 8 bits (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--llm-int8-threshold", type=float, default=judge.llm_int8_threshold,
        help="with 8bit, 0 for none (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--threads", type=int, help="CPU threads of both sides (one a core, up to 16)"
    )
    options = parser.parse_args(arguments)
    numbers = [options.clips, options.transcripts, options.batch_size, options.classify_batch_size]
    numbers.append(options.beam_size)
    if min(numbers) < 1 or (options.threads or 1) < 1:
        parser.error("at least one of each is needed")
    return options


if __name__ == "__main__":
    sys.exit(main())
