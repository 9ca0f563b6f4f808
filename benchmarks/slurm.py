"""The SLURM cluster of deploy/one-machine, and who had which of its GPUs when."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from earmark import REPOSITORY

_COMMAND = REPOSITORY / "deploy/one-machine/slurm"


@dataclass(frozen=True)
class Use:
    """A job that SLURM ran on a GPU to its good end.

    Attributes:
        archive: What it was of.
        stage: The rule.
        node: Where it ran.
        start: In s since 1970.
        end: In s since 1970.
    """

    archive: str
    stage: str
    node: str
    start: float
    end: float


@contextmanager
def cluster() -> Iterator[None]:
    """The cluster during the block: brought up unless it is, and then taken down again."""
    was_up = subprocess.run([_COMMAND, "status"], capture_output=True, check=False).returncode == 0
    subprocess.run([_COMMAND, "up"], check=True, stdout=sys.stderr)
    try:
        yield
    finally:
        if not was_up:
            subprocess.run([_COMMAND, "down"], check=True, stdout=sys.stderr)


def gpu_uses(prefix: str) -> list[Use]:
    """The jobs on GPUs of the runs whose jobs are called so, in any order.

    Raises:
        SystemExit: one did not end well.
    """
    said = subprocess.run(
        ["squeue", "--states=all", "--noheader", "--partition=gpu", "--format=%j|%k|%T|%N|%S|%e"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    uses = []
    for line in said.splitlines():
        name, comment, state, node, *moments = line.split("|")
        if not name.startswith(f"{prefix}_"):
            continue
        found = re.fullmatch(r"rule_(\w+)_wildcards_[\d-]+_(\S+)", comment)
        if found is None or state != "COMPLETED":
            raise SystemExit(f"a job ended as {state}: {comment}")
        start, end = (datetime.fromisoformat(moment).timestamp() for moment in moments)
        uses.append(Use(found[2], found[1], node, start, end))
    return uses
