"""`earmark retry`: what is in quarantine, and its release."""

import argparse

from earmark.commands import place
from earmark.commands.parser import Commands, add
from earmark.driver import quarantine
from earmark.errors import EarmarkError
from earmark.settings import Settings
from earmark.watch.display import show
from earmark.wording import counted


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add(
        commands, "retry", _retry,
        "Release archives from quarantine; the next run takes them. Without arguments, list what "
        "is in it.", as_json=True,
    )  # fmt: skip
    parser.add_argument("archives", nargs="*", metavar="ARCHIVE", help="such as sound_01.tar.gz")
    parser.add_argument("--all", action="store_true", help="all that are in quarantine")


def _retry(settings: Settings, arguments: argparse.Namespace) -> None:
    volume = place.mounted(settings)
    if arguments.all and arguments.archives:
        raise EarmarkError("name archives or give --all, not both")
    if arguments.all or arguments.archives:
        quarantine.release(volume, None if arguments.all else arguments.archives)
        quarantine.record(volume, place.connection(settings))
    rows = [
        {"archive": each.archive, "since": each.since, "reason": each.reason, "log": each.log}
        for each in quarantine.in_quarantine(volume)
    ]
    show(rows, arguments.json, f"{counted(len(rows), 'archive')} in quarantine")
