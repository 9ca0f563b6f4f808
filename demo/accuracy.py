"""How well the demo's models do on sentences they were never trained on: `make demo-accuracy`.

The last line is one JSON object with all figures.
"""

import argparse
import json
import logging
import sys
from collections.abc import Mapping
from typing import Any

from demo.accuracy_classifier import classifier_accuracy
from demo.accuracy_speech import speech_accuracy

#: Word error rates may be at most this, shares of right answers at least.
BARS = {
    "speech.wer_single": 0.05,
    "speech.wer_long": 0.15,
    "classifier.sentence.overall": 0.9,
    "classifier.clip.overall": 0.9,
}


def main() -> int:
    """Measure both models; returns 1 if a figure misses its bar."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--singles", type=int, default=100, help="clips of one sentence")
    parser.add_argument("--long-clips", type=int, default=8, help="clips of 60 s")
    parser.add_argument("--texts", type=int, default=30, help="texts per category and length")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    figures = {
        "speech": speech_accuracy(singles=options.singles, long_clips=options.long_clips),
        "classifier": classifier_accuracy(texts=options.texts),
    }
    flat = _flatten("", figures)
    missed = False
    for name, value in flat.items():
        bar = BARS.get(name)
        good = bar is None or (value <= bar if "wer" in name else value >= bar)
        missed = missed or not good
        wanted = "" if bar is None else f"  (bar {bar:g}{'' if good else ', missed'})"
        print(f"{name:45} {value:.4f}{wanted}")
    print(json.dumps({name: round(value, 4) for name, value in flat.items()}))
    return int(missed)


def _flatten(prefix: str, figures: Mapping[str, Any]) -> dict[str, float]:
    """Nested figures under dotted names."""
    flat: dict[str, float] = {}
    for name, value in figures.items():
        if isinstance(value, dict):
            flat |= _flatten(f"{prefix}{name}.", value)
        else:
            flat[prefix + name] = float(value)
    return flat


if __name__ == "__main__":
    sys.exit(main())
