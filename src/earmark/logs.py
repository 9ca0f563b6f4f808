"""One log format for every stage and every command."""

import logging
import sys
import time
from pathlib import Path
from textwrap import indent
from typing import Any

from earmark.disk_space import ran_out
from earmark.files import make_folder
from earmark.visible import visible

#: Libraries whose information and warnings are about themselves, not about our data.
_TALKATIVE = ("bitsandbytes",)


class _LogFile(logging.FileHandler):
    """A log on the volume, which may be full; standard error has its lines too."""

    def handleError(self, record: logging.LogRecord) -> None:  # logging's name
        error = sys.exc_info()[1]
        if not (isinstance(error, OSError) and ran_out(error)):
            super().handleError(record)


def configure(worker: str, log_file: Path | None = None) -> None:
    """Log as ``timestamp | level | worker | message``, in UTC.

    Args:
        worker: Who is speaking, such as ``encode_opus@worker1``.
        log_file: Also write there; standard error always gets the messages.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if log_file is not None:
        make_folder(log_file.parent)
        handlers.append(_LogFile(log_file, encoding="utf-8", errors="backslashreplace"))
    for handler in handlers:
        handler.setFormatter(_formatter(worker))
    logging.basicConfig(level=logging.INFO, handlers=handlers, force=True)
    logging.captureWarnings(True)
    # A handler of its own keeps WhisperX from adding one that prints every message again.
    logging.getLogger("whisperx").addHandler(logging.NullHandler())
    for library in _TALKATIVE:
        logging.getLogger(library).setLevel(logging.ERROR)


class _Formatter(logging.Formatter):
    """One line for each message, whatever names it quotes, and tracebacks set apart."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # logging's name
        record.message = visible(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # logging's name
        return indent(visible(super().formatException(ei), keep="\n"), "  ")


def _formatter(worker: str) -> logging.Formatter:
    formatter = _Formatter(
        f"%(asctime)s | %(levelname)s | {worker} | %(message)s", "%Y-%m-%dT%H:%M:%SZ"
    )
    formatter.converter = time.gmtime
    return formatter


def configure_command(worker: str) -> None:
    """Log what Earmark itself says to standard error, in a process that others log from too."""
    handler = logging.StreamHandler()
    handler.setFormatter(_formatter(worker))
    speaker = logging.getLogger("earmark")
    speaker.handlers = [handler]
    speaker.setLevel(logging.INFO)
    speaker.propagate = False
