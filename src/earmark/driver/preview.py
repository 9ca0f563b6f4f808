"""What a person sees of a run before it begins: the pending archives."""

import sys
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from earmark.clock import age
from earmark.ingest.catalogue import Archive, Plan
from earmark.ingest.source import Source
from earmark.settings import SourceSettings

#: Pending archives listed by name; a backlog of thousands is summed up.
PREVIEW_ROWS = 40


def show_plan(
    archives: Sequence[Archive], plan: Plan, source: Source, intake: SourceSettings
) -> None:
    """Tell on standard error what a run will do, and what it leaves for later.

    Args:
        archives: All that the source has.
        plan: What is to become of the pending ones.
        source: Where they are.
        intake: By which settings it was planned.
    """
    console = Console(file=sys.stderr, highlight=False, markup=False)
    for archive in archives:
        if archive.refused:
            console.print(f"Refused: {archive.name!r}: {archive.refused}")
    if plan.unsettled:
        console.print(
            f"Left for later: {len(plan.unsettled)}, changed less than "
            f"{intake.latency_minutes:g} minutes ago (source.latency_minutes) or seen only once "
            "(source.poll_seconds)."
        )
    if plan.later:
        console.print(f"Left for the next runs: {len(plan.later)}, beyond source.batch.")
    pending = plan.now
    if not pending:
        console.print(f"Nothing to do: no archive in {source} is pending.")
        return
    total = decimal(sum(archive.bytes for archive in pending))
    console.print(f"Pending in {source}: {len(pending)} ({total})")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("archive")
    table.add_column("size", justify="right")
    table.add_column("age", justify="right")
    for archive in pending[:PREVIEW_ROWS]:
        table.add_row(archive.name, decimal(archive.bytes), age(archive.age_seconds))
    if len(pending) > PREVIEW_ROWS:
        table.add_row(f"... and {len(pending) - PREVIEW_ROWS} more", "", "")
    console.print(table)
