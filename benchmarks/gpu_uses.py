"""Who had which GPU when, as SLURM remembers it."""

import re
import subprocess
from dataclasses import dataclass
from datetime import datetime


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
