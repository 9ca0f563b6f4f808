"""`earmark review`: the review desk."""

import argparse

from earmark.commands import place
from earmark.commands.parser import Commands, add
from earmark.desk.server import serve
from earmark.settings import Settings


def add_to(commands: Commands) -> None:
    """Add the command."""
    add(
        commands, "review", _review,
        "Serve the review desk, where people listen and decide, until it is told to end "
        "(docs/review.md).",
    )  # fmt: skip


def _review(settings: Settings, arguments: argparse.Namespace) -> None:
    serve(settings, place.existing_database(settings))
