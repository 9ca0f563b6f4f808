"""`earmark restore`: a backup into an empty database."""

import argparse
from contextlib import suppress
from pathlib import Path

from earmark.commands import place
from earmark.commands.parser import Commands, add
from earmark.record import backup, database, erasure
from earmark.settings import Settings
from earmark.volume import Volume


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add(
        commands, "restore", _restore, "Bring a backup into an empty database, the configured one."
    )
    parser.add_argument("backup", type=Path, metavar="FOLDER", help="one that `backup` made")


def _restore(settings: Settings, arguments: argparse.Namespace) -> None:
    with suppress(FileNotFoundError):  # what the folder would lie in is not mounted
        Volume.of(settings).root.mkdir(exist_ok=True)  # the whole volume may have been lost
    conninfo = place.connection(settings)
    backup.restore(conninfo, arguments.backup)
    print(f"{arguments.backup} is in {database.display(conninfo)}")
    volume = Volume.of(settings)
    for sha256 in erasure.came_back(volume, conninfo):
        print(f"Erased once more, as the backup is older than its erasure: {sha256}")
    erasure.forget(volume, conninfo, settings.database.url)
