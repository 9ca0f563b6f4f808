"""A process that must not outlive the one that started it.

Knows one system call of Linux; :mod:`earmark.ingest.tarstream` and :mod:`earmark.worker` make it.
It deliberately uses the standard library alone, like the former.  A program that isn't
ours is started through it: ``python -m earmark.child PARENT PROGRAM ARGUMENT ...``.

Source: prctl(2), PR_SET_PDEATHSIG, and <linux/prctl.h>.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, however that ends.

    The kernel means the parent's *thread* that started this process: one started from a
    thread that ends is killed then.

    Args:
        parent: Process id of the parent, as it said itself. Asking for it here would be
            too late: a parent that died has been replaced by whoever adopts orphans.

    Raises:
        SystemExit: the parent is gone already.
        OSError: the system refused.
    """
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    if os.getppid() != parent:
        raise SystemExit(f"process {parent}, which started this one, is gone")


def _main(parent: str, *command: str) -> None:
    die_with_parent(int(parent))  # stays in force when the program takes this one's place
    os.execvp(command[0], command)


if __name__ == "__main__":
    _main(*sys.argv[1:])
