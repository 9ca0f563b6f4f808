"""Words that go with numbers, and with commands that people copy."""

import shlex
from pathlib import Path


def counted(count: int, noun: str) -> str:
    """A number with what it counts, such as ``1 archive`` or ``2,000 archives``.

    Args:
        count: How many.
        noun: One of them; its plural ends in s.
    """
    return f"{count:,} {noun if count == 1 else noun + 's'}"


def with_configuration(command: str, configfile: Path | None) -> str:
    """A command of ``earmark`` with the option that names a configuration.

    Args:
        command: Its name.
        configfile: None for the configuration that commands take by themselves.
    """
    option = f" --configfile {shlex.quote(str(configfile))}" if configfile else ""
    return f"earmark {command}{option}"
