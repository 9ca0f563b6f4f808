"""What is told of a GPU, and how work goes on when its memory is full.

No GPU is needed: NVML's functions are replaced where a test is about what they say.
"""

import logging
from collections.abc import Sequence
from types import SimpleNamespace

import pynvml
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import wait_for

from earmark import gpu
from earmark.errors import EarmarkError
from earmark.gpu import GpuWatch, HalvingBatch, ran_out_of_memory


class Card:
    """An L4 as NVML tells of it."""

    def __init__(self) -> None:
        self.used, self.busy = 1_000, 0
        self.opened = 0
        self.broken = False
        self.told: list[int] = []

    def install(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(gpu, "cuda_uuid", lambda: "GPU-1")
        patch.setattr(gpu, "SECONDS_BETWEEN_SAMPLES", 0.005)
        patch.setattr(gpu, "SECONDS_BETWEEN_LINES", 0.02)
        patch.setattr(pynvml, "nvmlInit", lambda: self.open(1))
        patch.setattr(pynvml, "nvmlShutdown", lambda: self.open(-1))
        patch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", {"GPU-1": self}.__getitem__)
        patch.setattr(pynvml, "nvmlDeviceGetName", lambda card: "NVIDIA L4")
        patch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", Card.memory)
        patch.setattr(pynvml, "nvmlDeviceGetUtilizationRates", Card.rates)

    def open(self, change: int) -> None:
        self.opened += change

    def memory(self) -> SimpleNamespace:
        if self.broken:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        self.told.append(self.used)
        return SimpleNamespace(used=self.used, total=24_000)

    def rates(self) -> SimpleNamespace:
        return SimpleNamespace(gpu=self.busy)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    card = Card()
    card.install(monkeypatch)
    return card


def test_memory_at_load_its_peak_and_the_use_since_then_are_told(
    card: Card, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with GpuWatch("cuda") as watch:
        card.used, card.busy = 4_000, 80  # it was idle until now
        watch.model_loaded("Whisper")
        for used in (9_000, 6_000):
            card.used = used
            wait_for(lambda: card.told.count(card.used) > 1)
        wait_for(lambda: "NVIDIA L4: VRAM used" in caplog.text)
    facts = watch.facts()
    assert facts.pop("gpu_utilisation_percent") == pytest.approx(80)
    assert facts == {
        "gpu": "NVIDIA L4",
        "vram_bytes": 24_000,
        "vram_loaded_bytes": 4_000,
        "vram_peak_bytes": 9_000,
    }
    assert "Whisper loaded on NVIDIA L4; VRAM used" in caplog.text
    assert "NVIDIA L4: VRAM used" in caplog.text
    assert "NVIDIA L4: VRAM peak" in caplog.text
    assert card.opened == 0


def test_a_gpu_that_stops_telling_ends_no_job_and_what_was_seen_stays(
    card: Card, caplog: pytest.LogCaptureFixture
) -> None:
    with GpuWatch("cuda") as watch:
        card.used = 4_000
        watch.model_loaded("Whisper")
        card.broken = True
        wait_for(lambda: "can't be told any more" in caplog.text)
    assert watch.facts()["vram_peak_bytes"] == 4_000
    assert "can't be told any more" in caplog.text


def test_a_machine_without_nvml_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: fail())
    with GpuWatch("cuda") as watch:
        watch.model_loaded("Whisper")
    assert watch.facts() == {}
    assert "the GPU's use can't be told: NVML says" in caplog.text


def fail() -> None:
    raise pynvml.NVMLError_LibraryNotFound(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)


def test_an_nvml_that_fails_as_the_model_is_loaded_ends_no_job(card: Card) -> None:
    with GpuWatch("cuda") as watch:
        card.broken = True
        watch.model_loaded("Whisper")


def test_on_a_cpu_nothing_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with GpuWatch("cpu") as watch:
        watch.model_loaded("Whisper")
    assert watch.facts() == {}
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("CUDA failed with error out of memory"), True),
        (RuntimeError("cuBLAS failed with status CUBLAS_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"), True),
        (RuntimeError("cuDNN failed with status CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling cublasCreate"), True),
        (RuntimeError("CUDA failed with error an illegal memory access was encountered"), False),
        (RuntimeError("cuBLAS failed with status CUBLAS_STATUS_NOT_SUPPORTED"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_only_full_memory_is_taken_for_full_memory(error: Exception, expected: bool) -> None:
    assert ran_out_of_memory(error) is expected


@pytest.mark.slow
def test_pytorch_says_by_an_error_of_its_own_that_memory_is_full() -> None:
    import torch

    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    assert ran_out_of_memory(error)


class Memory:
    """Work that needs memory for each item of a batch."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.batches: list[list[int]] = []

    def work(self, batch: Sequence[int]) -> list[int]:
        self.batches.append(list(batch))
        if len(batch) > self.room:
            raise RuntimeError("CUDA failed with error out of memory")
        return [2 * item for item in batch]


@pytest.mark.slow
@settings(max_examples=40)
@given(st.integers(1, 40), st.integers(1, 40), st.lists(st.integers(), max_size=100))
def test_full_memory_halves_the_batch_for_good_and_changes_no_result(
    size: int, room: int, items: list[int]
) -> None:
    memory, batches = Memory(room), HalvingBatch(size, "asr.batch_size")
    assert batches.run(memory.work, items) == [2 * item for item in items]
    done = [batch for batch in memory.batches if len(batch) <= room]
    assert [item for batch in done for item in batch] == items
    refused = [len(batch) for batch in memory.batches if len(batch) > room]
    assert refused == sorted(set(refused), reverse=True)
    before = len(memory.batches)
    batches.run(memory.work, items)
    assert all(len(batch) <= room for batch in memory.batches[before:])


def test_what_long_items_could_not_do_leaves_room_for_as_many_more_short_ones() -> None:
    batches = HalvingBatch(32 * 1000, "classify.batch_size")
    long, short = Memory(1), Memory(1000)
    batches.run(long.work, list(range(2)), weight=8000)
    batches.run(short.work, list(range(40)), weight=100)
    assert [len(batch) for batch in long.batches] == [2, 1, 1]
    assert max(len(batch) for batch in short.batches) == 40


def test_memory_too_small_for_a_single_item_is_explained() -> None:
    batches = HalvingBatch(8, "asr.batch_size")
    with pytest.raises(EarmarkError, match=r"does not suffice for a batch of one .*this GPU"):
        batches.run(Memory(0).work, [1, 2, 3])


def test_other_errors_are_not_taken_for_full_memory() -> None:
    def broken(batch: Sequence[int]) -> list[int]:
        raise RuntimeError("CUDA failed with error device-side assert triggered")

    with pytest.raises(RuntimeError, match="device-side assert"):
        HalvingBatch(8, "asr.batch_size").run(broken, [1])
