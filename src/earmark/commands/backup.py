"""`earmark backup`: a dump of the database."""

import argparse
import logging

from earmark.commands import place
from earmark.commands.parser import Commands, add
from earmark.record import backup
from earmark.settings import Settings
from earmark.watch.display import show
from earmark.wording import counted

logger = logging.getLogger(__name__)


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add(
        commands, "backup", _backup,
        "Dump the database into a new folder below database.backups, check it, and remove all but "
        "the newest database.keep_backups.", as_json=True,
    )  # fmt: skip
    parser.add_argument("--list", action="store_true", help="only list what there is")


def _backup(settings: Settings, arguments: argparse.Namespace) -> None:
    wanted = settings.database
    folder = place.backups(settings)
    if not arguments.list:
        made = backup.backup(place.existing_database(settings), folder, wanted.keep_backups)
        logger.info("made %s", made)
    rows = [
        {"backup": str(path), "bytes": sum(file.stat().st_size for file in path.iterdir())}
        for path in backup.backups(folder)
    ]
    show(rows, arguments.json, f"{counted(len(rows), 'backup')} in {folder}")
