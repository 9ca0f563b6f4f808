"""How a benchmark ends: bars that were missed on stderr, one JSON object, the exit status.

Knows nothing of what is measured.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Result:
    """What a benchmark found.

    Attributes:
        name: Of the benchmark.
        ratio: How many times better ours is than the baseline.
        ours: Our figure, in ``unit``.
        baseline: The figure that ours is held against.
        unit: Of both.
        device: What did the work, where that matters.
    """

    name: str
    ratio: float
    ours: float
    baseline: float
    unit: str
    device: str | None = None


def progress(line: str) -> None:
    """Tell a person what happens, on stderr."""
    print(line, file=sys.stderr, flush=True)


def finish(result: Result, missed: Sequence[str]) -> int:
    """Print how it ended; the result is the last line of stdout.

    Args:
        result: The figures.
        missed: One sentence for each bar that was missed.

    Returns:
        The exit status: 1 if any bar was missed.
    """
    for sentence in missed:
        progress(f"MISSED: {sentence}")
    figures = {
        key: round(value, 4) if isinstance(value, float) else value
        for key, value in asdict(result).items()
        if value is not None
    }
    print(json.dumps(figures), flush=True)
    return int(bool(missed))
