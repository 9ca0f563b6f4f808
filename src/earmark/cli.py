"""The ``earmark`` command: what Snakemake has no word for."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NoReturn

from earmark import commands, logs, version
from earmark.commands.parser import ERROR
from earmark.errors import EarmarkError, refused_by_system
from earmark.visible import visible


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: The command line without the program's name; None takes the process's own.

    Returns:
        0; 2 after an error that was explained on standard error; 1 from ``discover`` when the
        source didn't answer, from ``models verify`` when a model isn't whole, from ``check`` when
        something is wrong and from ``report`` when noon will be missed; 3 and 4 from ``cycle``.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    parsed = _parser(arguments).parse_args(arguments)
    command: Callable[[argparse.Namespace], int | None] = parsed.command
    logs.configure_command("earmark")
    try:
        code = command(parsed)
        sys.stdout.flush()
    except EarmarkError as error:
        print("earmark:", visible(str(error), keep="\n"), file=sys.stderr)
        return ERROR
    except BrokenPipeError:  # the reader, `head` for example, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"earmark: {refused_by_system(error)}", file=sys.stderr)
        return ERROR
    except KeyboardInterrupt:
        return 130
    return code or 0


class _TellVersion(argparse.Action):
    """``--version``; argparse's own action would ask git for it at every command."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        print(f"earmark {version.current()}")
        parser.exit()


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """Of the command that the arguments call; of all of them, if it is none."""
    parser = argparse.ArgumentParser(
        prog="earmark",
        description="What Snakemake has no word for. The pipeline itself is run by "
        "`snakemake --profile profiles/local --configfile FILE`.",
    )
    parser.add_argument("--version", action=_TellVersion, nargs=0, help="tell the version")
    added = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    called = next((each for each in arguments if not each.startswith("-")), None)
    for name in [called] if called in commands.NAMES else commands.NAMES:
        import_module(f"earmark.commands.{name.replace('-', '_')}").add_to(added)
    return parser
