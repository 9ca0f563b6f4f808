"""What the processes of the GPU stages import and start: what they use, and no more."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

#: What pyannote, Transformers and PEFT bring along for training, figures, images and tables.
UNUSED = {
    "PIL", "lightning", "matplotlib", "networkx", "optuna", "pandas", "scipy", "sklearn",
    "torchaudio", "torchmetrics", "torchvision",
}  # fmt: skip

TELL = """
import json, psutil, sys
packages = {name.partition(".")[0] for name in sys.modules}
started = [each.name() for each in psutil.Process().children(recursive=True)]
print(json.dumps([sorted(packages), started, "torch._dynamo" in sys.modules]))
"""


def after(code: str) -> tuple[set[str], list[str], bool]:
    """Packages imported by a process of its own, what it started, and whether it can compile."""
    done = subprocess.run(
        [sys.executable, "-c", code + TELL],
        capture_output=True, text=True, cwd=Path(__file__).parent,
        env={name: value for name, value in os.environ.items() if name != "TORCHDYNAMO_DISABLE"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    packages, started, compiles = json.loads(done.stdout.splitlines()[-1])
    return set(packages), started, compiles


def test_speech_is_found_without_what_pyannote_is_trained_with() -> None:
    packages, started, compiles = after("""
from earmark.speech.preparation import _Preparer
import numpy as np
_Preparer("pyannote", "cpu").windows_of(np.zeros(16_000, np.float32), 80)
""")
    assert "torch" in packages
    assert packages.isdisjoint(UNUSED | {"pyannote", "transformers"})
    assert started == []
    assert not compiles


def test_a_classifier_loads_without_what_transformers_could_do_besides() -> None:
    packages, started, compiles = after("""
from demo_classifier import POLICIES, SCAM, SETTINGS
from earmark.policy.classifier import Classifier
assert list(Classifier(SETTINGS).classify(POLICIES[0], [SCAM]))
""")
    assert {"torch", "transformers", "peft"} <= packages
    assert packages.isdisjoint(UNUSED)
    assert started == []
    assert not compiles


def test_what_was_left_out_is_there_for_whoever_needs_it() -> None:
    packages, _, compiles = after("""
import scipy, sys
from earmark.policy.start_up import import_transformers
import_transformers()
from scipy.stats import norm
import sklearn.metrics, torchvision, PIL.Image
assert sys.modules["scipy"] is scipy
from transformers import masking_utils
import torch
with masking_utils.TransformGetItemToIndex():
    assert torch.arange(3)[torch.tensor(1)] == 1
assert torch.compile is not torch.compiler.disable
assert torch._dynamo.allow_in_graph.__module__.startswith("torch._dynamo")
""")
    assert compiles
    assert {"PIL", "scipy", "sklearn", "torchvision"} <= packages
