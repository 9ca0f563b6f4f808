"""Files of weights that were changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Weights = dict[str, "torch.Tensor"]


def change_weights(file: Path, change: Callable[[Weights], Weights]) -> None:
    from safetensors.torch import load_file, save_file

    save_file(change(load_file(file)), file, {"format": "pt"})
