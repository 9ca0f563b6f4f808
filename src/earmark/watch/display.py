"""What commands print: tables and the state of the whole, as plain text.

Of whatever came from outside, control characters are written out, so that no transcript or file
name can write to the terminal or pose as another one.
"""

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from earmark.clock import age
from earmark.visible import visible
from earmark.watch.forecast import Forecast
from earmark.watch.status import Status
from earmark.wording import counted


def show(rows: Sequence[dict[str, Any]], as_json: bool, title: str) -> None:
    """Print rows as a table for people or as JSON for programs."""
    if as_json:
        print(json.dumps(rows, indent=2, default=str, ensure_ascii=False))
        return
    print(title)
    if not rows:
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in rows[0]:
        numeric = all(isinstance(row[column], int | float | None) for row in rows)
        justify: Literal["left", "right"] = "right" if numeric else "left"
        table.add_column(column, justify=justify, max_width=60, overflow="fold")
    for row in rows:
        table.add_row(*(printable(value) for value in row.values()))
    # As wide as it is: a table of many columns squeezed into a terminal can't be read.
    Console(width=1000, highlight=False, markup=False).print(table)


def printable(value: object) -> str:
    """One value as plain text: no control character of a transcript or name is obeyed."""
    if value is None:
        return ""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return visible(text)


def show_status(now: Status) -> None:
    """Print what is going on."""
    for name, text in _status_lines(now):
        print(printable(f"{name:<11}{text}"))
    print()
    places: list[dict[str, Any]] = [
        {
            "stage": jobs.stage,
            "node": jobs.node,
            "at work": jobs.at_work_count,
            "waiting": jobs.waiting_count,
        }
        for jobs in now.jobs
    ]
    show(places, False, f"{counted(len(now.running), 'stage')} at work")
    if not now.running:
        return
    print()
    rows = [
        {
            "archive": job.archive,
            "stage": job.stage,
            "where": f"{job.host}, process {job.process}",
            "for": age(job.seconds),
            "fetched": ""
            if job.total_bytes is None or job.fetched_bytes is None
            else f"{decimal(job.fetched_bytes)} of {decimal(job.total_bytes)}",
            "waits for": job.waits_for,
        }
        for job in now.running
    ]
    show(rows, False, "By archive")


def _status_lines(now: Status) -> Iterator[tuple[str, str]]:
    """What is going on, but for the stages, as pairs of a heading and a line."""
    answered = f"last answered {now.checked_at}" if now.checked_at else "has never answered yet"
    yield "Source", f"{now.source}, {answered}"
    if now.problem:
        yield "", f"not now: {now.problem}"
    yield "Volume", now.room.summary
    left = ", ".join(f"{count} {stage}" for stage, count in (now.slurm.started or {}).items())
    orphaned = f"; jobs of a former one still run: {left}" if left else ""
    yield "Driver", now.driver or f"none at work{orphaned}"
    yield "Database", "answers" if now.database.up else f"not now: {now.database.problem}"
    if now.slurm.problem:
        yield "SLURM", f"not now: {now.slurm.problem}"
    elif now.slurm.queued is not None:
        waiting = ", ".join(f"{count} {stage}" for stage, count in now.slurm.queued.items())
        yield "SLURM", f"has not started yet: {waiting}" if waiting else "no job of ours is queued"
    if now.meaningless:
        yield "Models", now.meaningless
    if now.not_checked:
        yield "Policies", now.not_checked
    counts = [f"{count:,} {state}" for state, count in now.archives.items() if count]
    yield "Archives", f"at the source: {', '.join(counts) or 'none in the catalogue'}"
    if now.oldest_waiting_archive:
        waited = age(now.oldest_waiting_seconds)
        yield "", f"the oldest that waits: {now.oldest_waiting_archive}, for {waited}"
    if now.given_up is None:
        yield "", "which of them failed and wait for another try can't be told now"
    elif now.given_up:
        first = now.given_up[0]
        more = f", and {len(now.given_up) - 1} more" if len(now.given_up) > 1 else ""
        failed = f"{first.archive} ({first.stage}: {first.reason})"
        yield "", f"failed, to be tried again: {failed}{more}"
    if now.quarantined_count:
        yield "", f"{now.quarantined_count:,} in quarantine; `earmark retry` lists them"
    done = now.finished
    text = f"{done.ok_count:,} ok, {done.partial_count:,} partial, {done.failed_count:,} failed"
    if done.unread_count:
        text += f", {done.unread_count:,} not read"
    yield "Finished", f"archives of the last {done.window_hours:g} h: {text}"
    if done.not_taken_count or done.not_audio_count:
        text = f"{done.not_audio_count:,} that are no audio"
        if done.not_taken_count:
            text = f"{done.not_taken_count:,} of audio in a format that is not taken, {text}"
        yield "", f"members of these that are no clips: {text}"
    rate = now.rate
    text = f"{rate.clips_per_hour:,.0f} clips and {rate.audio_seconds_per_hour / 3600:,.1f} h of"
    yield "Rate", f"{text} audio per hour, over the last {rate.window_hours:.3g} h"
    yield from _review_lines(now.review)


def _review_lines(review: Forecast) -> Iterator[tuple[str, str]]:
    target = f"the target is {review.target_count:,}"
    if review.projected_count is None:
        yield "Review", f"unknown without the database; {target}"
        return
    flagged = counted(review.flagged_24h_count or 0, "clip")
    text = f"{flagged} flagged in the last 24 h, each content once, {review.waiting_count:,} wait"
    yield "Review", f"{text} for review; {target}"
    noon = f"{datetime.fromisoformat(review.next_noon):%Y-%m-%d %H:%M} {review.timezone}"
    yield "", f"noon, {noon}: {review.verdict}, as {review.projected_count:,} will wait then:"
    text = f"{review.waiting_at_noon_count:,} of those now and {review.flagged_per_hour:,.1f}"
    yield "", f"{text} per hour for {review.hours_to_noon:.1f} h, if {review.assumption}"
