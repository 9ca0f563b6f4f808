"""Which archives exist at the source, and which of them are still to be done.

The catalogue is a file that only the driver (or ``earmark discover``) writes, so jobs on
other machines can read what was found without asking the source again.
"""

import json
import re
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from earmark.errors import EarmarkError
from earmark.files import whole
from earmark.volume import Volume

#: What an archive's name may be: it becomes part of paths, of a wildcard and of log lines.
ARCHIVE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,+@ -]{0,199}")


@dataclass(frozen=True)
class Archive:
    """An archive at the source.

    Attributes:
        name: Its whole file name.
        bytes: Its size.
        modified_ns: When it was last changed, in ns since 1970 (UTC).
        refused: Why it is never fetched; None for a good one.
    """

    name: str
    bytes: int
    modified_ns: int
    refused: str | None = None

    @property
    def date(self) -> str:
        """The UTC day of its last change, which never differs between runs."""
        return datetime.fromtimestamp(self.modified_ns / 1e9, UTC).date().isoformat()

    @property
    def age_seconds(self) -> float:
        """Seconds since its last change."""
        return time.time() - self.modified_ns / 1e9


def discover(source: Path, volume: Volume) -> list[Archive]:
    """List the source folder and write the catalogue.

    Every regular file counts, whatever its name ends in, except hidden ones (unfinished
    uploads).  An archive that was fetched and is not finished keeps its entry, even when the
    source has lost or replaced it meanwhile.

    Args:
        source: The folder where archives appear.
        volume: The shared volume.

    Returns:
        All archives, oldest first.

    Raises:
        EarmarkError: the folder does not exist or may not be read.
    """
    try:
        found = {entry.name: entry for entry in map(_inspect, source.iterdir()) if entry}
    except OSError as error:
        raise EarmarkError(
            f"the source folder {source} cannot be listed ({error.strerror}); "
            "create it or correct source.directory in the config"
        ) from error
    for known in read(volume):
        if volume.incoming(known.name).exists() and is_pending(known, volume):
            found[known.name] = known
    archives = sorted(found.values(), key=lambda archive: (archive.modified_ns, archive.name))
    content = {
        "source": str(source),
        "checked_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "archives": [asdict(archive) for archive in archives],
    }
    with whole(_file(volume)) as partial:
        partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return archives


def read(volume: Volume) -> list[Archive]:
    """The archives of the last :func:`discover`, oldest first; none if there was none yet.

    Raises:
        EarmarkError: the catalogue is damaged.
    """
    path = _file(volume)
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return [Archive(**entry) for entry in content["archives"]]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        raise EarmarkError(f"the catalogue {path} is damaged ({error}); delete it") from error


def is_pending(archive: Archive, volume: Volume) -> bool:
    """Whether an archive is still to be done: neither finished nor quarantined nor refused."""
    return (
        archive.refused is None
        and not volume.receipt(archive.date, archive.name).exists()
        and not volume.quarantine(archive.name).exists()
    )


def pending(archives: list[Archive], volume: Volume, latency_minutes: float) -> list[Archive]:
    """The archives that are to be done now.

    Args:
        archives: What :func:`discover` found.
        volume: The shared volume.
        latency_minutes: Younger archives may still be growing and are left for later.
    """
    return [
        archive
        for archive in archives
        if archive.age_seconds >= latency_minutes * 60 and is_pending(archive, volume)
    ]


def _inspect(path: Path) -> Archive | None:
    if path.name.startswith(".") or not path.is_file():
        return None
    status = path.stat()
    name = path.name.encode("utf-8", "backslashreplace").decode()
    refused = None
    if not ARCHIVE_NAME.fullmatch(path.name):
        refused = "its name has characters that an archive's name may not have; rename it"
    elif name.endswith((" ", ".")):
        refused = "its name ends in a space or a full stop; rename it"
    return Archive(name, status.st_size, status.st_mtime_ns, refused)


def _file(volume: Volume) -> Path:
    return volume.state / "catalogue.json"
