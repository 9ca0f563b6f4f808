"""The benchmark for machines with a GPU: its arithmetic, its models, and a small run of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from on_demand import OnDemand

from benchmarks import roofline
from earmark import REPOSITORY
from earmark.errors import EarmarkError
from earmark.settings import AsrSettings
from earmark.speech.languages import best
from earmark.speech.preparation import FRAMES
from earmark.speech.recognition import Recogniser

if TYPE_CHECKING:
    import torch
    import transformers
    from torch.utils import flop_counter

    from benchmarks import gpu, random_models, steps
else:
    torch = OnDemand("torch")
    transformers = OnDemand("transformers")
    flop_counter = OnDemand("torch.utils.flop_counter")
    gpu = OnDemand("benchmarks.gpu")
    steps = OnDemand("benchmarks.steps")
    random_models = OnDemand("benchmarks.random_models")

pytestmark = pytest.mark.slow
README = (REPOSITORY / "benchmarks/README.md").read_text(encoding="utf-8")
H100 = roofline.DEVICES["NVIDIA H100 80GB HBM3"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("gpu-benchmark")


@pytest.fixture(scope="module")
def small_run(folder):
    return start("--small", "--folder", folder)


def start(*arguments):
    command = [sys.executable, "-m", "benchmarks.gpu", *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)


def counted(work):
    with torch.inference_mode(), flop_counter.FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@pytest.fixture(scope="module")
def whisper():
    config = random_models.tiny_whisper()
    config._attn_implementation = "eager"  # the counter knows matrix products
    return transformers.WhisperForConditionalGeneration(config).eval()


def test_the_arithmetic_of_the_encoder_is_what_pytorch_counts(whisper):
    features = torch.randn(1, 80, FRAMES)
    assert roofline.encoder_flop(whisper.config) == counted(lambda: whisper.model.encoder(features))


def test_the_arithmetic_of_the_decoder_is_what_pytorch_counts(whisper):
    states = torch.randn(1, roofline.STATES, whisper.config.d_model)
    word = torch.tensor([[7]])
    cache: dict[str, object] = {}

    def step():
        answer = whisper(
            decoder_input_ids=word, encoder_outputs=(states,), past_key_values=cache.get("kept")
        )
        cache["kept"] = answer.past_key_values

    first = roofline.cross_flop(whisper.config) + roofline.decoder_flop(whisper.config, 1)
    assert counted(step) == first
    assert counted(step) == roofline.decoder_flop(whisper.config, 2)


def test_the_arithmetic_of_the_language_model_is_what_pytorch_counts():
    config = random_models.tiny_gemma()
    config._attn_implementation = "eager"
    model = transformers.Gemma2ForCausalLM(config).eval().float().get_decoder()
    with torch.inference_mode():
        cache = model(torch.arange(9)[None]).past_key_values

    def text():
        # One token after the other: a whole text would compute what the mask hides, too.
        for token in range(5):
            model(torch.tensor([[token]]), past_key_values=cache)

    rotations = 5 * config.head_dim  # a product of each position with the frequencies
    assert counted(text) == roofline.text_flop(config, tokens=5, before=9) + rotations


def test_weights_are_as_many_as_the_models_have(whisper):
    def matrices(module):
        return sum(each.numel() for each in module.parameters() if each.dim() > 1)

    config = whisper.config
    positions = sum(
        coder.embed_positions.weight.numel()
        for coder in (whisper.model.encoder, whisper.model.decoder)
    )
    cross = config.decoder_layers * 2 * config.d_model**2
    words = config.vocab_size * config.d_model  # on their way in
    told = roofline.encoder_parameters(config) + roofline.decoder_parameters(config)
    assert told + cross + words + positions == matrices(whisper)
    gemma = random_models.tiny_gemma()
    assert roofline.layer_parameters(gemma) == matrices(
        transformers.Gemma2ForCausalLM(gemma).get_decoder().layers
    )


def test_the_real_models_are_as_large():
    with torch.device("meta"):
        whisper = transformers.WhisperForConditionalGeneration(
            random_models.large_whisper("large-v2")
        )
        gemma = transformers.Gemma2ForCausalLM(random_models.gemma_2_9b())
    again = whisper.proj_out.weight.numel()  # the real one's words come out as they go in
    # As their pages on the Hugging Face hub tell.
    assert whisper.num_parameters() - again == 1_543_304_960
    assert gemma.num_parameters() == 9_241_705_984


def test_large_v2_on_an_l4_needs_what_is_known_of_it():
    config = random_models.large_whisper("large-v2")
    assert roofline.encoder_flop(config) / 1e12 == pytest.approx(2.3, abs=0.05)
    assert 2 * roofline.cross_numbers(config) / 1e6 == pytest.approx(246, abs=0.5)
    steps = roofline.transcription(config, 64, 32, beams=5, words=105, weight_bytes=2)
    seconds = roofline.least_seconds(steps, roofline.L4, is_int8=False) / 32  # two windows
    assert 3600 / seconds == pytest.approx(12_000, rel=0.1)


def test_the_readme_tells_what_the_arithmetic_gives():
    config = random_models.large_whisper("large-v2")
    told = []
    for kind, batch, size in (("float16", 16, 2), ("float16", 32, 2), ("int8_float16", 16, 1)):
        steps = roofline.transcription(config, batch, batch, 5, 105, weight_bytes=size)
        seconds = roofline.least_seconds(steps, roofline.L4, is_int8=size == 1) / batch
        hourly = [f"{3600 / seconds / windows:,.0f}" for windows in (2, 3)]
        told.append(f"| {kind}, batches of {batch} | {hourly[0]} an hour | {hourly[1]} |")
    encoder, *decoder = roofline.transcription(config, 16, 16, 5, 105, weight_bytes=2)
    for name, steps in (
        ("encoder, and its keys and values for the decoder", [encoder]),
        (f"decoder, {len(decoder)} steps", decoder),
        ("all", [encoder, *decoder]),
    ):
        flop = sum(step.flop for step in steps) / 16 / 1e12
        traffic = sum(step.traffic for step in steps) / 16 / 1e9
        took = roofline.least_seconds(steps, roofline.L4, is_int8=False) / 16 * 1e3
        told.append(f"| {name} | {flop:.2f} TFLOP | {traffic:.1f} GB | {took:.1f} ms |")
    gemma = random_models.gemma_2_9b()
    for size, kind in ((2, "in bfloat16"), (1, "in 8 bits")):
        steps = roofline.classification(gemma, 700, [[235] * 32] * 16, weight_bytes=size)
        seconds = roofline.least_seconds(steps, roofline.L4, is_int8=size == 1) / 512
        told.append(f"{seconds * 1e3:.1f} ms {kind} ({round(3600 / seconds, -3):,.0f}")
    assert [line for line in told if line not in README] == []


def h200_parts(beam: int) -> dict[str, dict[int, float]]:
    """What the README tells of batches on an H200."""
    rows = re.findall(r"^\| (\d+) \| ([\d /]+) \| ([\d /]+) \|$", README, re.MULTILINE)
    cells = {int(size): cell[beam == 1].split(" / ") for size, *cell in rows if " / " in cell[0]}
    return {
        part: {size: int(cell[at]) / 1e3 for size, cell in cells.items() if size <= 64}
        for at, part in enumerate(("encoder", "languages", "decoder"))
    }


@pytest.mark.parametrize("beam", [1, 5])
def test_two_batches_predict_those_between_them(beam):
    off = steps.furthest_off(h200_parts(beam))
    assert off is not None
    assert 0 < off < gpu.FURTHEST_OFF


def test_misses_of_parts_do_not_cancel_out():
    parts = {"encoder": {1: 1.0, 2: 3.0, 3: 3.0}, "decoder": {1: 1.0, 2: 1.0, 3: 3.0}}
    assert steps.furthest_off(parts) == pytest.approx(0.5)
    assert steps.furthest_off({"encoder": {1: 1.0, 4: 2.0}}) is None


def test_launches_take_as_long_on_another_gpu_and_work_grows_with_its_limits():
    h200 = roofline.DEVICES["NVIDIA H200"]
    line = steps.Line(floor=2.0, each=0.5)
    decoder = steps.elsewhere("decoder", line, h200, roofline.L4)
    encoder = steps.elsewhere("encoder", line, h200, roofline.L4)
    assert decoder.floor == 2.0
    assert decoder.each == pytest.approx(0.5 * 16)
    assert encoder.each == pytest.approx(0.5 * 989 / 121)


def test_the_readme_tells_what_an_l4_would_do():
    h200 = roofline.DEVICES["NVIDIA H200"]
    least = roofline.transcription(
        random_models.large_whisper("large-v2"), 16, 16, 5, 105, weight_bytes=2
    )
    hear = replace(
        gpu.Figures(**FAST),
        ours=3600 / 11_542,
        windows=2.7,
        batch=16,
        parts=h200_parts(5),
        least_on_l4=roofline.least_seconds(least, roofline.L4, is_int8=False) / 16 * 2.7,
    )
    read = roofline.classification(
        random_models.gemma_2_9b(), 645, [[181] * 32] * 16, weight_bytes=1
    )
    judge = replace(
        gpu.Figures(**JUDGED),
        ours=3600 / 150_728,
        least=roofline.least_seconds(read, h200, is_int8=True) / 512,
        least_on_l4=roofline.least_seconds(read, roofline.L4, is_int8=True) / 512,
    )
    for what, passes in (
        ("transcription, batches of 16", 0),
        ("with a policy", 1),
        ("with six policies", 6),
        ("with six behind a screen that passes 10 %", 1.6),
    ):
        pair = zip(hear.on_l4(h200), judge.on_l4(h200), strict=True)
        slow, fast = (3600 / (one + passes * other) for one, other in pair)
        assert f"| {what} | {slow:,.0f} | {fast:,.0f} |" in README


def test_a_batch_that_is_not_full_reads_the_weights_too():
    config = random_models.tiny_whisper()

    def traffic(windows):
        steps = roofline.transcription(config, windows, 4, beams=1, words=3, weight_bytes=2)
        return sum(step.traffic for step in steps)

    assert traffic(5) > traffic(4) + traffic(1) / 2
    assert traffic(8) == 2 * traffic(4)


def test_the_slower_of_arithmetic_and_memory_is_the_limit():
    device = roofline.Device("", half=10, int8=20, bandwidth=5, source="")
    assert roofline.Step(flop=100, traffic=10).seconds(device, is_int8=False) == 10
    assert roofline.Step(flop=100, traffic=10).seconds(device, is_int8=True) == 5
    assert roofline.Step(flop=100, traffic=100).seconds(device, is_int8=True) == 20


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("NVIDIA L4", "NVIDIA L4"),
        ("NVIDIA L40", "NVIDIA L40"),
        ("NVIDIA L40S", "NVIDIA L40S"),
        ("NVIDIA H200", "NVIDIA H200 SXM"),
        ("NVIDIA H200 NVL", "NVIDIA H200 NVL"),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA A100-SXM4-80GB", "NVIDIA A100 SXM, 80 GB"),
        ("NVIDIA A1000", None),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_a_device_is_known_by_its_name(name, device):
    found = roofline.device_called(name)
    assert (found and found.name) == device


@pytest.mark.parametrize("device", roofline.DEVICES.values(), ids=lambda device: device.name)
def test_data_sheets_are_of_one_kind(device):
    assert "data sheet" in device.source
    assert device.int8 == pytest.approx(2 * device.half, rel=0.02)  # dense, both
    assert 100 < device.half / device.bandwidth < 500


def test_an_unknown_device_measures_itself():
    device = roofline.measured_device("this one", "cpu", quick=True)
    assert 1e9 < device.half < 1e14
    assert 1e8 < device.bandwidth < 1e13


@pytest.mark.parametrize("beams", [1, 5])
def test_every_window_has_as_many_words_as_real_speech(folder, small_run, beams):
    model = str(folder / "small/whisper")
    settings = AsrSettings(
        model=model, device="cpu", compute_type="float32", beam_size=beams, threads=1
    )
    recogniser = Recogniser(settings)
    rng = np.random.default_rng(beams)
    windows = [rng.uniform(-1, 1, (80, FRAMES)).astype(np.float32) * loud for loud in (0, 0.3, 1)]
    encoded = recogniser.encode(windows)
    languages = [best(found).code for found in recogniser.detect_languages(encoded)]
    heard = recogniser.decode(encoded, languages, [30.0] * 3)
    assert [each.tokens - 1 for each in heard] == [random_models.WORDS] * 3
    assert all(each.text for each in heard)


def test_a_model_that_ends_elsewhere_is_noticed():
    demo = AsrSettings(model=str(REPOSITORY / "demo/models/whisper-demo"), device="cpu",
                       compute_type="float32", threads=1)  # fmt: skip
    with pytest.raises(EarmarkError, match="instead of 105"):
        gpu._check_length(demo)


def test_a_model_in_several_shards_loads_as_one(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.random_models._SHARD_BYTES", 100_000)
    config = random_models.tiny_gemma()
    folder = random_models.write_gemma(config, tmp_path / "gemma", "cpu")
    assert len(list(folder.glob("*.safetensors"))) > 2
    model, told = transformers.Gemma2ForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(told.values())
    matrix = model.model.layers[1].mlp.up_proj.weight.float()
    assert matrix.std().item() == pytest.approx(0.02, rel=0.05)


def test_a_small_run_ends_with_figures(small_run):
    assert small_run.returncode == 0, small_run.stderr
    results = [json.loads(line) for line in small_run.stdout.splitlines() if line.startswith("{")]
    names = ["gpu, transcription", "gpu, classification", "gpu, together"]
    assert [result["name"] for result in results] == names
    assert small_run.stdout.splitlines()[-1].startswith("{")
    for result in results:
        assert result["ratio"] == pytest.approx(result["ours"] / result["baseline"], rel=1e-3)
        assert result["unit"] == "clips of 12 s an hour"
        assert result["device"]
    one, two, both = (1 / result["ours"] for result in results)
    assert one + two == pytest.approx(both, rel=1e-3)


def test_a_small_run_goes_through_full_batches_and_eight_bits(small_run):
    assert "batches of 4 windows, 1.0 windows of 105 tokens a clip" in small_run.stdout
    assert "8bit, batches of 4, " in small_run.stdout
    assert "of the arithmetic" in small_run.stdout
    assert re.search(
        r" 16 windows encoder [\d,]+ ms, languages [\d,]+ ms, decoder", small_run.stdout
    )
    assert "6 behind a screen that passes 10%: " in small_run.stdout


def test_what_is_built_and_measured_is_used_again(folder, small_run, monkeypatch):
    plan = gpu._small_plan(gpu._options(["--small", "--folder", str(folder)]))
    model = folder / "small/whisper/model.bin"
    built = model.stat().st_mtime_ns
    kept = json.loads((folder / "small/classification.json").read_text())
    name = kept["plan"].partition(" ")[2].partition(" {")[0]
    here = replace(plan, limits=replace(plan.limits, name=name))
    assert gpu.run(here, "build") == []
    assert model.stat().st_mtime_ns == built
    fast = gpu.Figures(**FAST)
    monkeypatch.setitem(gpu.MEASURES, "transcription", lambda plan: fast)
    assert gpu.run(here, "transcription") == [fast, gpu.Figures(**kept["figures"])]
    elsewhere = replace(plan, limits=replace(plan.limits, name="another"))
    assert gpu.run(elsewhere, "transcription") == [fast]
    longer = replace(here, policy_tokens=here.policy_tokens + 1)
    assert gpu.run(longer, "transcription") == [fast]


def test_without_a_gpu_the_full_size_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu.main(["--folder", str(tmp_path)]) == 2
    refused = capsys.readouterr().err
    assert "no GPU" in refused
    assert "--small" in refused


FAST: dict[str, Any] = {
    **{"stage": "transcription", "how": "", "ours": 0.3, "baseline": 3.0},
    **{"least": 0.12, "least_on_l4": 0.4, "arithmetic": 0.2, "bandwidth": 0.3},
}
JUDGED: dict[str, Any] = {
    **{"stage": "classification", "how": "", "ours": 0.02, "baseline": 8.0},
    **{"least": 0.01, "least_on_l4": 0.03, "arithmetic": 0.5, "bandwidth": 0.1},
}


@pytest.mark.parametrize(
    ("figures", "missed"),
    [
        ([FAST, JUDGED], []),
        ([FAST | {"baseline": 1.4}, JUDGED], ["transcription is 4.7 times as fast"]),
        ([FAST | {"least": 0.08}], ["transcription reaches 26.7% of the limit"]),
        ([JUDGED | {"baseline": 0.9}], ["classification is 45.0 times as fast"]),
        (
            [FAST | {"baseline": 1.6}, JUDGED | {"baseline": 0.9}],
            ["classification is 45.0 times as fast", "together is 7.8 times as fast"],
        ),
    ],
)
def test_missed_bars_are_told_and_end_with_1(figures, missed, capsys):
    figures = [gpu.Figures(**each) for each in figures]
    status = gpu.report(figures, H100, "clips of 60 s an hour", holds_bars=True)
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("MISSED")]
    assert status == bool(missed)
    assert len(told) == len(missed)
    assert all(sentence in line for sentence, line in zip(missed, told, strict=True))
    assert gpu.report(figures, H100, "clips of 60 s an hour", holds_bars=False) == 0


def test_an_l4_is_thought_to_reach_the_same_share_of_its_limit(capsys):
    fast = gpu.Figures(**FAST)
    gpu.report([fast], H100, "clips of 60 s an hour", holds_bars=True)
    assert fast.share == pytest.approx(0.4)
    assert "3,600 to 9,000 clips an hour" in capsys.readouterr().out  # 0.4 s at 40 %, and at all
