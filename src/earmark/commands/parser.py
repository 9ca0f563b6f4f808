"""How commands take their arguments."""

import argparse
import datetime
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from earmark import configuration
from earmark.settings import Settings

#: Does a command and returns its exit status; None for 0.
Run = Callable[[Settings, argparse.Namespace], int | None]

#: What :meth:`argparse.ArgumentParser.add_subparsers` returns, for which there is no public name.
Commands = Any

#: Exit status after an error that a person can put right; argparse has the same for usage.
ERROR = 2


def configfile() -> Path:
    """The configuration of a command that is given none."""
    return Path(os.environ.get("EARMARK_CONFIG", configuration.DEFAULT_FILE))


def add(
    commands: Commands, name: str, run: Run, summary: str, *, as_json: bool = False
) -> argparse.ArgumentParser:
    """Add a command.

    Args:
        commands: Where to.
        name: The word that calls it.
        run: What does it.
        summary: One or two sentences for its help and for the list of all.
        as_json: It can print JSON instead of a table.
    """

    def with_settings(arguments: argparse.Namespace) -> int | None:
        return run(configuration.read(arguments.configfile), arguments)

    parser = add_bare(commands, name, with_settings, summary)
    add_configfile(parser)
    if as_json:
        parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def add_bare(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], int | None],
    summary: str,
) -> argparse.ArgumentParser:
    """Add a command that is given no settings; otherwise as :func:`add`."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=summary)
    parser.set_defaults(command=run)
    return parser


def add_configfile(parser: argparse.ArgumentParser) -> None:
    """Let a command be told which configuration it is about."""
    parser.add_argument(
        "--configfile",
        type=Path,
        default=configfile(),
        metavar="FILE",
        help="the same file that snakemake is given (default: EARMARK_CONFIG from the "
        "environment, else config/config.yaml)",
    )


def add_group(commands: Commands, name: str, summary: str) -> Commands:
    """Add a word that is followed by another one, as in ``earmark models fetch``."""
    group = commands.add_parser(name, help=summary, description=summary)
    return group.add_subparsers(title="commands", metavar="COMMAND", required=True)


def day(text: str) -> datetime.date:
    """Read an argument that is a date.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no date; write 2026-11-30") from None


def day_of_path(text: str) -> str:
    """Read an argument that is a date, as the volume's paths have it; raises as :func:`day`."""
    return day(text).isoformat()


def positive(text: str) -> int:
    """Read an argument that counts something.

    Raises:
        argparse.ArgumentTypeError: It is no whole number, or below 1.
    """
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def add_period(parser: argparse.ArgumentParser) -> None:
    """Let a command be about some archives only, by their dates."""
    for option, kept in (("--since", "later"), ("--until", "earlier")):
        parser.add_argument(
            option, type=day, metavar="DATE", help=f"only archives of that date and {kept}"
        )


def score(text: str) -> float:
    """Read an argument that is a score.

    Raises:
        argparse.ArgumentTypeError: It is no number from 0 to 1.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no score; write 0 to 1")
    return value
