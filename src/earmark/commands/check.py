"""`earmark check`: all that is wrong with a configuration."""

import argparse

from earmark.commands.parser import Commands, add_bare, add_configfile
from earmark.driver.checks import problems
from earmark.watch.display import printable

#: Exit status when something is wrong.
WRONG = 1


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_bare(
        commands, "check", _check,
        "Say all that is wrong with a configuration and what it names (source, models, policies, "
        "GPU, volume, database), a line each with what to do. Nothing is made. Exit status 1: "
        "something is wrong.",
    )  # fmt: skip
    add_configfile(parser)


def _check(arguments: argparse.Namespace) -> int:
    found = False
    for problem in problems(arguments.configfile):
        print(f"- {printable(problem)}")
        found = True
    if not found:
        print("Nothing is wrong.")
    return WRONG if found else 0
