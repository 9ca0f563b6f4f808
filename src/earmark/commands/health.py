"""`earmark health`: what the last 24 hours brought."""

import argparse
import dataclasses

from earmark.commands import place
from earmark.commands.parser import Commands, add
from earmark.record.review_queue import health
from earmark.settings import Settings
from earmark.watch.display import show

_TITLE = (
    "Clips of the last 24 hours, by when they were loaded; content that several archives have\n"
    "counts once in each, and once if it is repeated within one"
)


def add_to(commands: Commands) -> None:
    """Add the command."""
    add(
        commands, "health", _health,
        "Count what was flagged, failed, left out in the last 24 hours.", as_json=True,
    )  # fmt: skip


def _health(settings: Settings, arguments: argparse.Namespace) -> None:
    counts = dataclasses.asdict(health(place.existing_database(settings)))
    show([counts], arguments.json, _TITLE)
