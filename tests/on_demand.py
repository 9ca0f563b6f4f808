"""Modules that are imported when a test first uses them, so that pytest collects in seconds."""

from importlib import import_module
from typing import Any


class OnDemand:
    """Stands for a module; its first use imports it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith(("__", "_pytest", "_mock")):  # pytest looks for these
            raise AttributeError(attribute)
        return getattr(import_module(self._name), attribute)
