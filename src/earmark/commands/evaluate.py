"""`earmark evaluate`: policies, models and recognisers against what people say."""

import argparse
import json
from functools import partial
from pathlib import Path

from earmark.commands import place
from earmark.commands.parser import Commands, add, positive, score
from earmark.errors import EarmarkError
from earmark.evaluation import command
from earmark.settings import Settings
from earmark.visible import visible
from earmark.watch.display import show


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add(
        commands, "evaluate", _evaluate,
        "Measure policies and model against a gold set: texts that people have labelled, as JSON "
        "Lines or Parquet (docs/evaluation.md). Scores are kept, so that after an edit of a policy "
        "only that one is asked again.", as_json=True,
    )  # fmt: skip
    parser.add_argument("gold", type=Path, nargs="?", metavar="GOLD", help="the gold set")
    parser.add_argument(
        "--speech", type=Path, metavar="REFERENCES",
        help="instead, measure what is heard against what people wrote down",
    )  # fmt: skip
    parser.add_argument(
        "--policies", type=Path, metavar="FOLDER", help="policies to ask, not classify.policies"
    )
    parser.add_argument("--model", metavar="NAME", help="the model, not classify.model")
    parser.add_argument("--adapter", metavar="NAME", help="its adapter, not classify.adapter")
    parser.add_argument(
        "--threshold", type=score, metavar="SCORE", help="for all categories, 0 to 1"
    )
    parser.add_argument(
        "--against", metavar="OTHER",
        help="compare with something else on the same texts: a threshold, a folder of policies, or "
        "a configuration",
    )  # fmt: skip
    parser.add_argument(
        "--weighted", action="store_true", help="let texts count by their sampling weights"
    )
    parser.add_argument(
        "--worst", type=positive, default=5, metavar="N",
        help="show at most N disagreements of each category (5)",
    )  # fmt: skip


def _evaluate(settings: Settings, arguments: argparse.Namespace) -> None:
    place.mounted(settings)
    if (arguments.gold is None) == (arguments.speech is None):
        raise EarmarkError("name a gold set, or --speech with a file of reference texts")
    conninfo = partial(place.existing_database, settings)
    if arguments.speech is not None:
        answer = command.evaluate_speech(settings, arguments.speech, conninfo, arguments.worst)
    else:
        options = {
            key: getattr(arguments, key) for key in ("policies", "model", "adapter", "threshold")
        }
        answer = command.evaluate_policies(
            command.with_options(settings, **options),
            arguments.gold,
            conninfo,
            arguments.worst,
            against=arguments.against and command.other(settings, arguments.against, options),
            weighted=arguments.weighted,
        )
    if arguments.json:
        print(json.dumps(answer.facts, indent=2, ensure_ascii=False))
        return
    for title, rows in answer.tables:
        show(rows, False, visible(title))
        print()
    print(f"Kept as {visible(str(answer.kept))}")
