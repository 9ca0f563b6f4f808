"""What `classify.quantization: auto` stands for, on which machine."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
from demo_classifier import BASE, SETTINGS
from msgspec.structs import replace
from on_demand import OnDemand
from weights import read_weights

from earmark.gpu import free_bytes
from earmark.models.classifier_files import weights_count
from earmark.policy.quantization import ROOM_BYTES, chosen

if TYPE_CHECKING:
    import torch
else:
    torch = OnDemand("torch")

AUTO = replace(SETTINGS, quantization="auto", device="cuda", dtype="bfloat16")
WEIGHTS = weights_count(BASE)


@pytest.mark.slow
def test_weights_are_counted_without_loading_them() -> None:
    assert sum(each.numel() for each in read_weights(BASE / "model.safetensors").values()) == (
        WEIGHTS
    )


@pytest.mark.parametrize(
    ("dtype", "free", "expected"),
    [
        ("bfloat16", 2 * WEIGHTS + ROOM_BYTES, None),
        ("bfloat16", 2 * WEIGHTS + ROOM_BYTES - 1, "8bit"),
        ("float32", 4 * WEIGHTS + ROOM_BYTES, None),
        ("float32", 4 * WEIGHTS + ROOM_BYTES - 1, "8bit"),
    ],
)
def test_a_gpu_takes_the_model_unquantized_where_it_fits_with_room_for_the_work(
    dtype: str,
    free: float,
    expected: str | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("earmark.policy.quantization.free_bytes", lambda: int(free))
    assert chosen(replace(AUTO, dtype=dtype)).quantization == expected
    assert f"auto is {expected or 'none'}: " in caplog.text
    assert "GB are free" in caplog.text


def test_gemma_2_9b_fits_an_l4_unquantized(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("earmark.policy.quantization.weights_count", lambda _: 9_241_705_984)
    for free, expected in ((23.6e9, None), (16e9, "8bit")):  # an L4's, and a T4's
        monkeypatch.setattr("earmark.policy.quantization.free_bytes", lambda free=free: int(free))
        assert chosen(AUTO).quantization == expected


def test_a_cpu_quantizes_nothing_by_itself() -> None:
    assert chosen(replace(AUTO, device="cpu")).quantization is None


@pytest.mark.parametrize("given", ["8bit", "4bit", None])
def test_what_is_given_stays(given: Any) -> None:
    assert chosen(replace(AUTO, quantization=given)).quantization == given


@pytest.mark.slow
def test_a_machine_without_a_gpu_has_no_memory_of_one() -> None:
    if not torch.cuda.is_available():
        assert free_bytes() == 0
