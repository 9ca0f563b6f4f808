"""Which archives exist at the source, and which of them are still to be done.

The catalogue is a file that only the driver (or ``earmark discover``) writes.  Each pending
archive has an entry of its own beside it, which is what its fetching depends on: an archive
that is replaced at the source gets a new entry and is done again.
"""

import json
import os
import re
import stat
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from earmark import locks
from earmark.errors import EarmarkError
from earmark.files import whole
from earmark.volume import Volume

#: What an archive's name may be: it becomes part of paths, of a wildcard and of log lines.
ARCHIVE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@ -]{0,199}")


@dataclass(frozen=True)
class Archive:
    """An archive at the source.

    Attributes:
        name: Its whole file name.
        bytes: Its size.
        modified_ns: When it was last changed, in ns since 1970 (UTC).
        noted_at: When it was first seen with this size and time, in s since 1970; a receipt
            from before is of another archive of the same name.
        refused: Why it is never fetched; None for a good one.
    """

    name: str
    bytes: int
    modified_ns: int
    noted_at: float = 0.0
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
    source has lost or replaced it meanwhile.  While a driver is at work, the catalogue and
    the entries it has planned with stay as they are.

    Args:
        source: The folder where archives appear.
        volume: The shared volume.

    Returns:
        All archives, oldest first.

    Raises:
        EarmarkError: the folder does not exist or may not be read, or the catalogue is damaged.
        OSError: the volume cannot be written.
    """
    try:
        found = {entry.name: entry for entry in map(_inspect, source.iterdir()) if entry}
    except OSError as error:
        raise EarmarkError(
            f"the source folder {source} cannot be listed ({error.strerror}); "
            "create it or correct source.directory in the config"
        ) from error
    known = {archive.name: archive for archive in read(volume)}
    for name, archive in found.items():
        found[name] = replace(archive, noted_at=_noted_at(archive, known.get(name), volume))
    for name, archive in known.items():
        if volume.incoming(name).exists() and is_pending(archive, volume):
            found[name] = archive
    archives = sorted(found.values(), key=lambda archive: (archive.modified_ns, archive.name))
    _write(source, archives, volume)
    return archives


def _noted_at(archive: Archive, known: Archive | None, volume: Volume) -> float:
    if known and (known.bytes, known.modified_ns) == (archive.bytes, archive.modified_ns):
        return known.noted_at
    if known is None and volume.receipt(archive.date, archive.name).exists():
        return 0.0  # the catalogue was lost, the receipt was not
    return time.time()


def _write(source: Path, archives: list[Archive], volume: Volume) -> None:
    entries = {
        volume.entry(archive.name): archive for archive in archives if is_pending(archive, volume)
    }
    # A driver at work has planned with what is there: only what is new is added.
    at_work = locks.is_held(volume.driver_lock)
    folder = volume.entry("").parent
    for path in folder.iterdir() if folder.exists() and not at_work else ():
        if path not in entries:
            path.unlink()
    for path, archive in entries.items():
        text = json.dumps(asdict(archive), indent=1)
        if not path.exists() or (not at_work and path.read_text(encoding="utf-8") != text):
            with whole(path) as partial:
                partial.write_text(text, encoding="utf-8")
                # Snakemake compares times: an entry is as old as what it tells.
                os.utime(partial, (archive.noted_at, archive.noted_at))
    if at_work:
        return
    content = {
        "source": str(source),
        "checked_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "archives": [asdict(archive) for archive in archives],
    }
    with whole(_file(volume)) as partial:
        partial.write_text(json.dumps(content, indent=1), encoding="utf-8")


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


def read_entry(path: Path) -> Archive:
    """The entry of one pending archive, as :func:`discover` wrote it.

    Raises:
        EarmarkError: it is not there, or damaged.
    """
    try:
        return Archive(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise EarmarkError(f"there is no entry {path}; run `earmark discover`") from error
    except (ValueError, TypeError) as error:
        raise EarmarkError(f"the entry {path} is damaged ({error}); delete it") from error


def is_pending(archive: Archive, volume: Volume) -> bool:
    """Whether an archive is still to be done: neither finished nor quarantined nor refused."""
    if archive.refused is not None or volume.quarantine(archive.name).exists():
        return False
    try:
        received_at = volume.receipt(archive.date, archive.name).stat().st_mtime
    except FileNotFoundError:
        return True
    return received_at < archive.noted_at


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
    try:
        status = path.stat()
    except FileNotFoundError:
        return None  # it vanished while the folder was listed, or is a broken link
    if path.name.startswith(".") or not stat.S_ISREG(status.st_mode):
        return None
    name = path.name.encode("utf-8", "backslashreplace").decode()
    refused = None
    if not ARCHIVE_NAME.fullmatch(path.name) or name.endswith((" ", ".")):
        refused = (
            "a name may have letters, digits and _.+@- and spaces inside, at most 200 "
            "characters; rename it"
        )
    return Archive(name, status.st_size, status.st_mtime_ns, refused=refused)


def _file(volume: Volume) -> Path:
    return volume.state / "catalogue.json"
