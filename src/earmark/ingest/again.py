"""Archives that somebody wants done again, from a stage on.

A request is a file below ``state/redo``.  It stays until the archive has its new receipt, so
that neither a command that is killed nor a source that has lost the archive loses it.
"""

import logging
from collections.abc import Iterator
from typing import Literal

import msgspec

from earmark.files import set_aside, whole
from earmark.volume import Volume

logger = logging.getLogger(__name__)

Stage = Literal["fetch", "unpack", "encode", "transcribe", "classify", "load"]


class Request(msgspec.Struct, frozen=True):
    """What is wanted of an archive.

    Attributes:
        archive: Its name.
        date: Its date, ``YYYY-MM-DD``.
        stage: The first stage to be done again; those behind it follow.
        bytes: Its size, None if no receipt tells it.
        modified_ns: When it was last changed, in ns since 1970; likewise.
        begun: Whether its files are ready for that, and a run has just to take it.
    """

    archive: str
    date: str
    stage: Stage
    bytes: int | None = None
    modified_ns: int | None = None
    begun: bool = False


def requests(volume: Volume) -> Iterator[Request]:
    """What was asked for and isn't done yet, by name.

    Raises:
        OSError: the volume can't be read.
    """
    folder = volume.redo("").parent
    for path in sorted(folder.glob("[!.]*.json")) if folder.is_dir() else ():
        try:
            yield msgspec.json.decode(path.read_bytes(), type=Request)
        except FileNotFoundError:  # done meanwhile
            continue
        except ValueError as error:
            set_aside(path, error)


def ask(volume: Volume, request: Request) -> None:
    """Write a request down, in place of an earlier one of the archive.

    Raises:
        OSError: the volume can't be written.
    """
    with whole(volume.redo(request.archive)) as partial:
        partial.write_bytes(msgspec.json.encode(request))


def forget(volume: Volume, archive: str) -> None:
    """Remove the request of an archive that is done."""
    volume.redo(archive).unlink(missing_ok=True)
