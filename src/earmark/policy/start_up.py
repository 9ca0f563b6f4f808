"""What a process that loads a language model leaves out, so that it starts sooner."""

import importlib
import os
import sys
from typing import Any

#: Packages that Transformers imports where they are installed, for what Earmark doesn't do: speech
#: models' and detectors' losses, assisted generation, images. Other packages bring them along.
UNUSED = ("PIL", "scipy", "sklearn", "torchvision")


def hide_unused_packages() -> None:
    """Let Transformers be as it is where nobody installed :data:`UNUSED`; call it before importing.

    Transformers checks once, on importing import_utils, which packages are installed. What it does
    then without a package is what it does on any machine that lacks it. For everybody else the
    packages are there, at once and later; where Transformers has been imported already, nothing
    changes.
    """
    # bitsandbytes, which PEFT imports in any case, hands functions to torch.compile that no
    # GPU runs. That alone imports the compiler and starts its processes.
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    modules: dict[str, Any] = sys.modules
    here = {name: modules[name] for name in UNUSED if name in modules}
    modules.update(dict.fromkeys(UNUSED))  # None stands for "not installed"
    try:
        importlib.import_module("transformers.utils.import_utils")
    finally:
        for name in UNUSED:
            del modules[name]
        modules.update(here)
