"""`earmark discover`: what the source has."""

import argparse

from earmark.clock import age
from earmark.commands.parser import Commands, add
from earmark.ingest import catalogue
from earmark.ingest.source import source_of
from earmark.settings import Settings
from earmark.volume import Volume
from earmark.watch.display import show
from earmark.watch.status import state_of_each
from earmark.wording import counted

#: Exit status when the source didn't answer and what was known is shown.
UNANSWERED = 1


def add_to(commands: Commands) -> None:
    """Add the command."""
    add(
        commands, "discover", _discover,
        "List the source and write the catalogue of archives. Exit status 1: the source did not "
        "answer, and what is known of it is shown.", as_json=True,
    )  # fmt: skip


def _discover(settings: Settings, arguments: argparse.Namespace) -> int:
    volume, intake = Volume.of(settings), settings.source
    found = catalogue.discover(source_of(settings), volume, intake)
    states = state_of_each(found.archives, volume, intake)
    rows = [
        {
            "archive": archive.name,
            "bytes": archive.bytes,
            "date": archive.date,
            "age": age(archive.age_seconds),
            "state": states[archive.name],
        }
        for archive in found.archives
    ]
    pending = sum(state == "pending" for state in states.values())
    show(rows, arguments.json, f"{counted(len(rows), 'archive')}, {pending} pending")
    return UNANSWERED if found.problem else 0
