"""`earmark gold-set`: what reviewers have settled, to evaluate with."""

import argparse
from pathlib import Path

from earmark.commands import place
from earmark.commands.parser import Commands, add
from earmark.desk.gold_set import write_gold_set
from earmark.record import database
from earmark.settings import Settings
from earmark.visible import visible
from earmark.volume import Volume


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add(
        commands, "gold-set", _gold_set,
        "Write a gold set of what reviewers have settled: transcripts with their categories, "
        "language, reviewers (as numbers) and weight.",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE",
        help="Parquet if its name ends so, else JSON Lines",
    )  # fmt: skip


def _gold_set(settings: Settings, arguments: argparse.Namespace) -> None:
    with database.connect(place.existing_database(settings)) as connection:
        database.require_schema(connection)
        count = write_gold_set(connection, Volume.of(settings), arguments.out)
    print(f"{count} texts are in {visible(str(arguments.out))}")
