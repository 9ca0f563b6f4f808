"""What the one process that schedules jobs does before it schedules any."""

import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from earmark import catalogue, database, locks
from earmark.catalogue import Archive
from earmark.errors import EarmarkError
from earmark.models import check_models
from earmark.names import asr_name, policy_name
from earmark.policy import load_policies
from earmark.volume import Volume

#: Pending archives listed by name in the preview; a backlog of thousands is summed up.
PREVIEW_ROWS = 40
#: What `files.whole` and unpacking call a thing of an archive that is not whole yet.
PARTIAL = re.compile(r"\.(?P<archive>.+?)(\.(parquet|json))?(\.\d+)?\.partial")

Config = dict[str, Any]


def find_work(config: Config) -> list[Archive]:
    """Check what can be checked from here, list the source, and say what is pending.

    Args:
        config: A configuration that :func:`earmark.configuration.resolve` returned.

    Returns:
        The archives to be done now, oldest first.

    Raises:
        EarmarkError: a folder, a model or a policy is missing or wrong.
    """
    check_inputs(config)
    volume = Volume(Path(config["volume"]["root"]))
    archives = catalogue.discover(Path(config["source"]["directory"]), volume)
    pending = catalogue.pending(archives, volume, config["source"]["latency_minutes"])
    _preview(archives, pending, volume, config)
    return pending


def check_inputs(config: Config) -> None:
    """Check models and policies without loading them.

    Raises:
        EarmarkError: one is missing or wrong, or changed under a name that stands for the old
            one; the message names it and the remedy.
    """
    settings = config["classify"]
    policies = load_policies(Path(settings["policies"]), settings["categories"])
    unknown = sorted(set(settings["thresholds"]) - {policy.category for policy in policies})
    if unknown:
        raise EarmarkError(
            f"classify.thresholds names the category '{unknown[0]}', which has no policy in "
            f"{settings['policies']}; known: {', '.join(policy.category for policy in policies)}"
        )
    check_models(config)
    volume = Volume(Path(config["volume"]["root"]))
    asr_name(config, volume).check()
    policy_name(config, volume, policies).check()


def begin(config: Config) -> None:
    """Become the one driver of the volume and make it ready for jobs.

    Args:
        config: A configuration that :func:`earmark.configuration.resolve` returned.

    Raises:
        EarmarkError: another driver is at work, or the database cannot be reached.
        OSError: the volume cannot be written.
    """
    volume = Volume(Path(config["volume"]["root"]))
    locks.hold_until_exit(volume.driver_lock)
    _prepare_database(config["database"]["url"], volume)
    sweep(volume, catalogue.read(volume))


def end(config: Config) -> None:
    """Tidy up after the last job."""
    volume = Volume(Path(config["volume"]["root"]))
    sweep(volume, catalogue.read(volume))


def _prepare_database(url: str | None, volume: Volume) -> None:
    """Start the embedded server and bring its schema up to date, or check another one's."""
    conninfo = database.connection_string(url, volume.root)
    if database.is_embedded(url):
        database.migrate(conninfo)  # nobody but Earmark uses it
        return
    with database.connect(conninfo) as connection:
        database.require_schema(connection)


def sweep(volume: Volume, archives: Sequence[Archive]) -> None:
    """Remove what runs that were killed left half-done and nothing needs any more.

    What is unpacked of a pending archive stays: the coming run may have planned with it.

    Args:
        volume: The shared volume.
        archives: The catalogue.
    """
    pending = {archive.name for archive in archives if catalogue.is_pending(archive, volume)}
    for folder in _children(volume.unpacked("")):
        if folder.name not in pending and not PARTIAL.fullmatch(folder.name):
            _remove_unless_held(folder, folder.name, volume)
    folders = {volume.incoming(""), volume.unpacked("")}
    for archive in archives:
        if archive.name in pending:
            folders.add(volume.manifest(archive.date, archive.name).parent)
            folders.add(volume.receipt(archive.date, archive.name).parent)
            folders.update(volume.root.glob(f"transcripts/*/date={archive.date}"))
            folders.update(volume.root.glob(f"classes/*/date={archive.date}"))
    for path in (path for folder in folders for path in _children(folder)):
        if match := PARTIAL.fullmatch(path.name):
            _remove_unless_held(path, match["archive"], volume)


def _remove_unless_held(path: Path, archive: str, volume: Volume) -> None:
    if locks.is_held(volume.archive_lock(archive)):
        return  # a job of the killed run still works on it
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _preview(
    archives: Sequence[Archive], pending: Sequence[Archive], volume: Volume, config: Config
) -> None:
    console = Console(file=sys.stderr, highlight=False)
    source = config["source"]["directory"]
    for archive in archives:
        if archive.refused:
            console.print(f"Refused: {archive.name!r}: {archive.refused}", markup=False)
    names = {archive.name for archive in pending}
    waiting = [a for a in archives if catalogue.is_pending(a, volume) and a.name not in names]
    if waiting:
        console.print(
            f"Left for later: {len(waiting)}, changed less than "
            f"{config['source']['latency_minutes']:g} minutes ago (source.latency_minutes)."
        )
    if not pending:
        console.print(f"Nothing to do: no archive in {source} is pending.", markup=False)
        return
    total = decimal(sum(archive.bytes for archive in pending))
    console.print(f"Pending in {source}: {len(pending)} ({total})", markup=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("archive")
    table.add_column("size", justify="right")
    table.add_column("age", justify="right")
    for archive in pending[:PREVIEW_ROWS]:
        table.add_row(archive.name, decimal(archive.bytes), age(archive.age_seconds))
    if len(pending) > PREVIEW_ROWS:
        table.add_row(f"... and {len(pending) - PREVIEW_ROWS} more", "", "")
    console.print(table)


def age(seconds: float) -> str:
    """A time span in the two largest units, such as ``3 h 12 min``."""
    minutes = int(max(0.0, seconds) // 60)
    days, hours, minutes = minutes // 1440, minutes // 60 % 24, minutes % 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
