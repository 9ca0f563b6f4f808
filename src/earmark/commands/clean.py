"""`earmark clean`: remove what is left over or too old."""

import argparse
from typing import Any

from rich.filesize import decimal

from earmark.commands import place
from earmark.commands.parser import Commands, add
from earmark.driver import retention
from earmark.driver.retention import delete_at_source, safe_archives
from earmark.errors import EarmarkError
from earmark.ingest import catalogue
from earmark.ingest.source import source_of
from earmark.progress import track
from earmark.settings import Settings
from earmark.volume import Volume
from earmark.watch.display import show
from earmark.wording import counted


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add(
        commands, "clean", _clean,
        "Remove leftovers of abandoned archives, and what is past the ages of retention.*: audio, "
        "transcripts and scores (in the database too), reports, logs.", as_json=True,
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="show what would be removed")


def _clean(settings: Settings, arguments: argparse.Namespace) -> None:
    volume, source = Volume.of(settings), source_of(settings)
    known = catalogue.read(volume)
    if known.checked_at is None or not known.is_of(source):
        raise EarmarkError(
            f"nothing is known of {source} in {volume.root} yet, so nothing can be told to be "
            "left over; run `earmark discover` first"
        )
    totals: dict[tuple[str, str], dict[str, Any]] = {}
    found = retention.leftovers(volume, known.archives, settings.retention)
    sized = ((leftover, leftover.bytes) for leftover in found)
    gone = sized if arguments.dry_run else retention.remove(found, volume)
    for leftover, size in track(gone, "clean", "leftovers"):
        row = totals.setdefault(
            (leftover.archive, leftover.reason),
            {"archive": leftover.archive, "what": leftover.reason, "items": 0, "bytes": 0},
        )
        row["items"] += 1
        row["bytes"] += size
    rows = list(totals.values())
    if (days := settings.retention.text_days) is not None:
        count = retention.expire_rows(place.existing_database(settings), days, arguments.dry_run)
        what = f"clips in the database older than {days:g} days, not reviewed"
        rows += [{"archive": "", "what": what, "items": count, "bytes": 0}] if count else []
    if settings.source.delete_after:
        done = {archive.name: archive for archive in safe_archives(volume, known.archives)}
        names = (
            list(done) if arguments.dry_run else delete_at_source(source, volume, known.archives)
        )
        reason = f"done, and still in {source}"
        rows += [
            {"archive": name, "what": reason, "items": 1, "bytes": done[name].bytes}
            for name in names
        ]
    verb = "Would remove" if arguments.dry_run else "Removed"
    total = decimal(sum(row["bytes"] for row in rows))
    things = counted(sum(row["items"] for row in rows), "thing")
    show(rows, arguments.json, f"{verb} {things}, {total}")
