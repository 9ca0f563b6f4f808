"""Tells a person how far a long piece of work is: a bar on a terminal, lines in a log."""

import logging
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self, TypeVar

from rich.filesize import decimal
from tqdm import tqdm

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: A log gets at most one line in this time, and one at the end.
SECONDS_BETWEEN_LINES = 60.0
_SECONDS_BETWEEN_LOOKS = 1.0


def track(items: Iterable[T], description: str, unit: str, total: int | None = None) -> Iterator[T]:
    """Yield the items and tell how many are done: on the terminal, else in the log.

    Args:
        items: Anything to iterate over; lazily consumed.
        description: What is done, for example ``encode 2026-11-01.tar``.
        unit: What one item is, in the plural, for example ``clips``.
        total: How many items there will be, if they can't tell by themselves.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    on_terminal = sys.stderr.isatty()
    if on_terminal:
        items = tqdm(items, desc=description, unit=f" {unit}", total=total, leave=False)
    begun = said = time.monotonic()
    done = 0
    of_total = "" if total is None else f" of {total}"

    def say() -> None:
        rate = done / max(time.monotonic() - begun, 1e-3)
        logger.info("%s: %d%s %s, %.1f a second", description, done, of_total, unit, rate)

    for item in items:
        yield item
        done += 1
        if not on_terminal and time.monotonic() - said >= SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            say()
    say()


class AudioProgress:
    """Tells how far work on audio is, in items and in seconds of audio: where `track` does."""

    def __init__(self, description: str, count: int, seconds: float, unit: str = "clips") -> None:
        """Begin.

        Args:
            description: What is done, for example ``transcribe 2026-11-01.tar``.
            count: How many items there are.
            seconds: How much audio they stand for together.
            unit: What one item is, in the plural.
        """
        self._description, self._count, self._seconds = description, count, seconds
        self._unit = unit
        self._done = self._skipped = 0
        self._done_seconds = self._skipped_seconds = 0.0
        self._begun = self._said = time.monotonic()
        self._bar = tqdm(
            desc=description, total=count, unit=f" {unit}", leave=False,
            disable=not sys.stderr.isatty(),
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        logger.info("%s", str(self))

    def skip(self, seconds: float) -> None:
        """Count an item that was done before; it says nothing about the speed.

        Args:
            seconds: How much audio it stands for.
        """
        self._skipped += 1
        self._skipped_seconds += seconds
        self._bar.update()
        self._bar.initial = self._skipped

    def advance(self, seconds: float) -> None:
        """Count an item that is done.

        Args:
            seconds: How much audio it stands for.
        """
        self._done += 1
        self._done_seconds += seconds
        self._bar.update()
        if not self._bar.disable:
            self._bar.set_postfix_str(self._speed(), refresh=False)
        elif time.monotonic() - self._said >= SECONDS_BETWEEN_LINES:
            self._said = time.monotonic()
            logger.info("%s", str(self))

    def __str__(self) -> str:
        """How far it is, in a sentence."""
        done, left = self._done + self._skipped, ""
        taken = time.monotonic() - self._begun
        if done < self._count and self._done_seconds:
            seconds = self._seconds - self._done_seconds - self._skipped_seconds
            left = f", {_duration(seconds * taken / self._done_seconds)} left"
        rate = self._done / max(taken, 1e-3)
        return (
            f"{self._description}: {done} of {self._count} {self._unit}, {rate:.1f} a second, "
            f"{self._speed()}{left}"
        )

    def _speed(self) -> str:
        taken = max(time.monotonic() - self._begun, 1e-3)
        audio = self._done_seconds / taken
        # As in speech recognition: the time that work takes, by the time that speech takes.
        factor = f"{1 / audio:.3g}" if audio else "unknown"
        return f"{audio:.1f} s of audio a second (real-time factor {factor})"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


@contextmanager
def watch_file(
    path: Path, total: int, description: str, moved_to: Path | None = None
) -> Iterator[None]:
    """Tell how far a file has grown while the block fills it: on the terminal, else in the log.

    Args:
        path: The file; it may not be there yet.
        total: Its size in the end, in bytes.
        description: What is done, for example ``fetch 2026-11-01.tar``.
        moved_to: Its name once it is whole, if the block gives it another.
    """

    def size() -> int:
        for name in (path, moved_to):
            with suppress(FileNotFoundError):
                if name is not None:
                    return name.stat().st_size
        return 0

    def watch() -> None:
        said = begun
        while not done.wait(_SECONDS_BETWEEN_LOOKS):
            bar.update(size() - bar.n)
            if not on_terminal and time.monotonic() - said >= SECONDS_BETWEEN_LINES:
                said = time.monotonic()
                say()

    def say() -> None:
        rate = (size() - at_first) / max(time.monotonic() - begun, 1e-3)
        logger.info(
            "%s: %s of %s, %s a second",
            description, decimal(size()), decimal(total), decimal(int(rate)),
        )  # fmt: skip

    on_terminal = sys.stderr.isatty()
    begun, at_first = time.monotonic(), size()
    done = threading.Event()
    with tqdm(
        desc=description, total=total, initial=at_first, unit="B", unit_scale=True, leave=False,
        disable=not on_terminal,
    ) as bar:  # fmt: skip
        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()
    say()
