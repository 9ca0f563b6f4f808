"""`earmark redo`: have archives done again."""

import argparse

from earmark.commands import place
from earmark.commands.parser import Commands, add, day_of_path
from earmark.driver import redo
from earmark.errors import EarmarkError
from earmark.ingest.again import ask, requests
from earmark.settings import Settings
from earmark.watch.display import show
from earmark.wording import counted


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add(
        commands, "redo", _redo,
        "Have the next run do archives again from a stage on. It can be asked for at any time, "
        "also while a driver works.", as_json=True,
    )  # fmt: skip
    parser.add_argument("archives", nargs="*", metavar="ARCHIVE", help="such as sound_01.tar.gz")
    parser.add_argument(
        "--date", type=day_of_path, metavar="YYYY-MM-DD",
        help="of the archives; without names, all of it",
    )  # fmt: skip
    parser.add_argument("--all", action="store_true", help="all archives of all days")
    parser.add_argument(
        "--stage", choices=redo.VERBS, default="load", help="the first one to do (load)"
    )
    parser.add_argument("--dry-run", action="store_true", help="only show which archives are meant")


def _redo(settings: Settings, arguments: argparse.Namespace) -> None:
    if not (arguments.archives or arguments.date or arguments.all):
        raise EarmarkError("name archives, a --date for all of its archives, or give --all")
    if arguments.all and (arguments.archives or arguments.date):
        raise EarmarkError("name archives or a --date, or give --all, not both")
    volume = place.mounted(settings)
    # All of them are checked before the first is asked for.
    meant = list(redo.find(volume, settings, arguments.archives, arguments.date, arguments.stage))
    if not arguments.dry_run:
        for request in meant:
            ask(volume, request)
        redo.carry_out(volume, settings)
    waiting = {request.archive for request in requests(volume) if not request.begun}
    rows = [
        {
            "archive": request.archive,
            "date": request.date,
            "from": request.stage,
            "waits for the driver": request.archive in waiting,
        }
        for request in meant
    ]
    title = "Would be" if arguments.dry_run else "To be"
    show(
        rows, arguments.json, f"{title} done again by the next run: {counted(len(rows), 'archive')}"
    )
