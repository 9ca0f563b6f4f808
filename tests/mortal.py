"""Processes that are killed at any change they make to files."""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: What a process ends with that was killed.
KILLED = 137
#: Audit events of changes to files and folders (sys.addaudithook), but for opening one.
_CHANGES = {
    *("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "os.utime"),
}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Kill:
    """Ends the process just before it makes its n-th change to a file, as SIGKILL would.

    Nothing is tidied up: no block's end is reached, no buffer is written, locks go with the
    process. An audit hook can't be removed, so this is for a process of its own.
    """

    def __init__(self, changes: int) -> None:
        self._left = changes

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        is_change = event in _CHANGES or (event == "open" and arguments[2] & _WRITING)
        if is_change:
            self._left -= 1
            if self._left < 0:
                os._exit(KILLED)


def in_child(
    work: Callable[[], int | None], changes: int | None = None, said: Path | None = None
) -> int:
    """Do some work in a forked process.

    Args:
        work: Returns the exit status; None is 0.
        changes: So many changes to files are made, and then it is killed. None lets it end.
        said: A file that gets what it prints; None leaves it to this process's own output.

    Returns:
        Its exit status.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process == 0:
        code = 1
        try:
            if said is not None:
                with said.open("ab") as file:
                    os.dup2(file.fileno(), 1)
                    os.dup2(file.fileno(), 2)
                for name, number in (("stdout", 1), ("stderr", 2)):
                    stream = open(number, "w", buffering=1, closefd=False)  # noqa: SIM115
                    setattr(sys, name, stream)
                    setattr(sys, f"__{name}__", stream)
            if changes is not None:
                sys.addaudithook(Kill(changes))
            code = work() or 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status)
