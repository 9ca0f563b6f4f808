"""`earmark reviewer`: accounts of the review desk."""

import argparse
import dataclasses
import getpass
import secrets
import sys

from earmark.commands import place
from earmark.commands.parser import Commands, add, add_group
from earmark.desk import accounts, passwords
from earmark.errors import EarmarkError
from earmark.record import database
from earmark.settings import Settings
from earmark.watch.display import show
from earmark.wording import counted


def add_to(commands: Commands) -> None:
    """Add the command."""
    actions = add_group(commands, "reviewer", "Make and change accounts of the review desk.")
    joins = add(
        actions, "add", _add,
        "Make an account. The password is asked for, or read as a line of standard input.",
    )  # fmt: skip
    joins.add_argument(
        "--lead", action="store_true", help="may settle disputes and see what all do, too"
    )
    renewed = add(
        actions, "password", _password, "Give an account another password, and sign it out. The "
        "password is asked for, or read as a line of standard input.",
    )  # fmt: skip
    linked = add(
        actions, "link", _link, "Make a link by which a person chooses a password of their own, "
        "once and within a day.",
    )  # fmt: skip
    moved = add(actions, "role", _role, "Make somebody a lead, or a reviewer, and sign them out.")
    off = add(actions, "disable", _disable, "Let an account in no longer.")
    on = add(actions, "enable", _enable, "Let an account in again.")
    joins.add_argument(
        "--link", action="store_true", help="make a link to choose a password by, instead of one"
    )
    for action in (joins, renewed, linked, moved, off, on):
        action.add_argument("name", metavar="NAME", help="such as ada")
    moved.add_argument("role", choices=("reviewer", "lead"), help="what they are from now on")
    add(actions, "list", _list, "List the accounts.", as_json=True)


def _add(settings: Settings, arguments: argparse.Namespace) -> None:
    role: accounts.Role = "lead" if arguments.lead else "reviewer"
    with database.connect(place.existing_database(settings)) as connection:
        database.require_schema(connection)
        accounts.check_free(connection, arguments.name)
        password = secrets.token_urlsafe() if arguments.link else _new_password(arguments.name)
        accounts.add(connection, arguments.name, password, role)
        token = accounts.make_link(connection, arguments.name) if arguments.link else None
    print(f"{arguments.name} may sign in, as a {role}")
    if token is not None:
        _tell(token)


def _password(settings: Settings, arguments: argparse.Namespace) -> None:
    with database.connect(place.existing_database(settings)) as connection:
        database.require_schema(connection)
        accounts.set_password(connection, arguments.name, _new_password(arguments.name))
    print(f"{arguments.name} has another password, and is signed out")


def _link(settings: Settings, arguments: argparse.Namespace) -> None:
    with database.connect(place.existing_database(settings)) as connection:
        database.require_schema(connection)
        token = accounts.make_link(connection, arguments.name)
    _tell(token)


def _tell(token: str) -> None:
    hours = accounts.LINK_HOURS
    print(f"Open /password/{token} at the desk's address within {hours} hours; it works once")


def _role(settings: Settings, arguments: argparse.Namespace) -> None:
    with database.connect(place.existing_database(settings)) as connection:
        database.require_schema(connection)
        accounts.set_role(connection, arguments.name, arguments.role)
    print(f"{arguments.name} is a {arguments.role}")


def _disable(settings: Settings, arguments: argparse.Namespace) -> None:
    with database.connect(place.existing_database(settings)) as connection:
        database.require_schema(connection)
        accounts.set_active(connection, arguments.name, False)
    print(f"{arguments.name} may no longer sign in")


def _enable(settings: Settings, arguments: argparse.Namespace) -> None:
    with database.connect(place.existing_database(settings)) as connection:
        database.require_schema(connection)
        accounts.set_active(connection, arguments.name, True)
    print(f"{arguments.name} may sign in")


def _list(settings: Settings, arguments: argparse.Namespace) -> None:
    with database.connect(place.existing_database(settings)) as connection:
        database.require_schema(connection)
        rows = [dataclasses.asdict(account) for account in accounts.accounts(connection)]
    show(rows, arguments.json, counted(len(rows), "account"))


def _new_password(name: str) -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    least = passwords.LEAST_PASSWORD
    password = getpass.getpass(f"Password for {name}, at least {least} characters: ")
    if password != getpass.getpass("The same again: "):
        raise EarmarkError("the two passwords differ; nothing was changed")
    return password
