"""`earmark database`: where it is."""

import argparse

from earmark.commands import place
from earmark.commands.parser import Commands, add
from earmark.record import database
from earmark.settings import Settings
from earmark.volume import Volume


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add(
        commands, "database", _database, "Print the database's connection URI, without a password."
    )
    parser.add_argument("--stop", action="store_true", help="stop the embedded server")


def _database(settings: Settings, arguments: argparse.Namespace) -> None:
    url, root = settings.database.url, Volume.of(settings).root
    if arguments.stop:
        print(database.stop_embedded(root))
        return
    place.mounted(settings)
    # Whoever takes the address will want the server to be there after this command.
    print(database.display(database.connection_string(url, root, keep_embedded=True)))
