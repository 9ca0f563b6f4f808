"""`earmark migrate`: the database's schema."""

import argparse

from earmark.commands import place
from earmark.commands.parser import Commands, add
from earmark.record import database
from earmark.settings import Settings


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add(
        commands, "migrate", _migrate,
        "Bring the database's schema, and what roles may do, up to date.",
    )  # fmt: skip
    parser.add_argument(
        "--roles", action="store_true",
        help="make the groups of roles that are missing; needs CREATEROLE (docs/database.md)",
    )  # fmt: skip


def _migrate(settings: Settings, arguments: argparse.Namespace) -> None:
    conninfo = place.connection(settings)
    done = database.migrate(conninfo)
    done += database.grant_roles(conninfo, create=arguments.roles)
    print("\n".join(done) if done else "The database's schema is up to date.")
