"""`earmark harm`: how much of what came is harmful, by people's verdicts."""

import argparse
import json

from earmark.commands import place
from earmark.commands.parser import Commands, add, add_period
from earmark.record.harm import Study, classifier_tables, harm_tables
from earmark.settings import Settings
from earmark.volume import Volume
from earmark.watch.display import show


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add(
        commands, "harm", _harm,
        "Estimate how much of what came is harmful, by people's verdicts about the review sample.",
        as_json=True,
    )  # fmt: skip
    parser.add_argument(
        "--by", metavar="COLUMN",
        help="for each day, week, language, folder, or value of a column of the manifest",
    )  # fmt: skip
    parser.add_argument(
        "--classifier", action="store_true",
        help="instead, what the classifier's scores are worth: thresholds, calibration, drift",
    )  # fmt: skip
    add_period(parser)


def _harm(settings: Settings, arguments: argparse.Namespace) -> None:
    conninfo = place.existing_database(settings)
    study = Study(Volume.of(settings).root, conninfo, arguments.since, arguments.until)
    tables = classifier_tables(study) if arguments.classifier else harm_tables(study, arguments.by)
    if arguments.json:
        print(json.dumps(tables, indent=2, default=str, ensure_ascii=False))
        return
    if not study.heard:
        print(
            "Nobody has decided about an item of a review sample yet, so nothing is known of harm "
            "but bounds; review.sample draws one (docs/evidence.md)."
        )
    for title, rows in tables.items():
        show(rows, False, title)
