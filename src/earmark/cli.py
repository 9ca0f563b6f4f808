"""The ``earmark`` command: what Snakemake has no word for."""

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import yaml

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
    odd = _no_text_in(parsed)
    try:
        if odd:
            _prepare_for(odd)
        code = command(parsed)
        sys.stdout.flush()
    except (UnicodeEncodeError, yaml.YAMLError):
        if not odd:
            raise
        print("earmark:", _refusal_of(odd), file=sys.stderr)
        return ERROR
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


def _no_text_in(parsed: argparse.Namespace) -> list[str | Path]:
    """The arguments with bytes that are no UTF-8, as file names may have them."""
    found: list[str | Path] = []
    for value in vars(parsed).values():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, (str, Path)):
                try:
                    str(each).encode()
                except UnicodeEncodeError:
                    found.append(each)
    return found


def _prepare_for(odd: list[str | Path]) -> None:
    """Let arguments that are no text through if they name files, which may be called anything.

    Raises:
        EarmarkError: one names none.
    """
    if strangers := [each for each in odd if not os.path.lexists(each)]:
        raise EarmarkError(_refusal_of(strangers))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # where they are told of


def _refusal_of(odd: list[str | Path]) -> str:
    return (
        f"the argument {visible(str(odd[0]))} is no text, as it isn't UTF-8; only the name of a "
        "file that is there may be so, and not everywhere"
    )


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
