"""The processes below one: which there are, which hold a file open, and how much they needed.

They are found by their parent's number in each process's own record (psutil). The list of
children below `/proc/PID/task` would be shorter to read, but a thread that ends meanwhile takes
it away.
"""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import psutil


def children(parent: int | None = None, recursive: bool = False) -> set[int]:
    """The children of a process, of this one if none is named."""
    return {child.pid for child in psutil.Process(parent).children(recursive)}


def readers(file: Path, parent: int) -> set[int]:
    """The children of a process that have a file open."""
    found = set()
    for pid in children(parent):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # closed meanwhile
            if any(fd.samefile(file) for fd in Path(f"/proc/{pid}/fd").iterdir()):
                found.add(pid)
    return found


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} seconds"
        time.sleep(0.02)
