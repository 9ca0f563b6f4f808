"""Files of weights that were changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Weights = dict[str, "torch.Tensor"]


def read_weights(file: Path) -> Weights:
    from safetensors.torch import load_file

    return load_file(file)


def change_weights(file: Path, change: Callable[[Weights], Weights]) -> None:
    from safetensors.torch import save_file

    save_file(change(read_weights(file)), file, {"format": "pt"})
