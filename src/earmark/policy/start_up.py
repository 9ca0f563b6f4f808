"""What a process that loads a language model leaves out, so that it starts sooner."""

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

#: Packages that Transformers imports where they are installed, for what Earmark doesn't do: speech
#: models' and detectors' losses, assisted generation, images. Other packages bring them along.
UNUSED = ("PIL", "scipy", "sklearn", "torchvision")

_TRACED = "torch._dynamo._trace_wrapped_higher_order_op"


def import_transformers() -> None:
    """Import Transformers and PEFT as they are where nobody installed :data:`UNUSED`.

    Transformers checks once, on importing import_utils, which packages are installed. What it does
    then without a package is what it does on any machine that lacks it. For everybody else the
    packages are there, at once and later; where Transformers has been imported already, nothing
    changes.

    PyTorch's compiler, a third of all modules, is left out likewise. Nothing is compiled here, but
    libraries mark functions as not to be compiled, and each mark would import it.
    """
    os.environ["TORCHDYNAMO_DISABLE"] = "1"  # whoever imports it all the same starts no processes
    modules: dict[str, Any] = sys.modules
    here = {name: modules[name] for name in UNUSED if name in modules}
    modules.update(dict.fromkeys(UNUSED))  # None stands for "not installed"
    try:
        utils: Any = importlib.import_module("transformers.utils.import_utils")
    finally:
        for name in UNUSED:
            del modules[name]
        modules.update(here)
    with _without_compiler(utils):
        for name in ("transformers.modeling_utils", "peft"):
            importlib.import_module(name)


@contextmanager
def _without_compiler(utils: Any) -> Iterator[None]:
    """Take marks for the compiler as read, while modules are imported that set them."""
    import torch

    if "torch._dynamo" in sys.modules:
        yield
        return
    package: Any = sys.modules["transformers.utils"]
    traced: Any = ModuleType(_TRACED)
    traced.TransformGetItemToIndex = _transform_get_item_to_index
    sys.modules[_TRACED] = traced
    try:
        with (
            _replaced(utils, is_torch_flex_attn_available=lambda: False),
            _replaced(package, is_torch_flex_attn_available=lambda: False),
            _replaced(torch, compile=_mark, _dynamo=SimpleNamespace(allow_in_graph=_mark)),
            _replaced(torch.compiler, disable=_mark, allow_in_graph=_mark),
        ):
            yield
    finally:
        del sys.modules[_TRACED]


@contextmanager
def _replaced(owner: Any, **values: Any) -> Iterator[None]:
    """Give a module other attributes for a while."""
    before = {name: vars(owner)[name] for name in values if name in vars(owner)}
    vars(owner).update(values)
    try:
        yield
    finally:
        for name in values:
            del vars(owner)[name]
        vars(owner).update(before)


def _mark(function: Callable[..., Any] | None = None, **_: Any) -> Any:
    """A decorator that changes nothing, with arguments or without."""
    return _mark if function is None else function


def _transform_get_item_to_index() -> Any:
    """The context of PyTorch that has this name, imported when a mask asks for it."""
    return importlib.import_module(_TRACED).TransformGetItemToIndex()
