"""What a run tells when it ends: what became of archives and clips, and where to look next."""

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from earmark.driver import attempts, quarantine
from earmark.ingest import catalogue
from earmark.ingest.catalogue import Archive
from earmark.ingest.encode import ERASED
from earmark.record.throughput import OUTCOMES, readable, receipts_since
from earmark.settings import Settings
from earmark.visible import visible
from earmark.volume import Volume
from earmark.wording import counted, with_configuration

#: Characters in a line; only a path may be longer.
WIDTH = 80
#: Lines at most.
HEIGHT = 12
#: What the clips of a receipt are called there, and here.
_CLIPS = {
    "flagged": "flagged",
    "transcribed": "transcribed (not flagged)",
    "reviewed": "reviewed",
    "pending": "not drawn",
    "failed": "failed",
}


def summarise(
    settings: Settings, archives: Sequence[Archive], since: float, configfile: Path | None
) -> str:
    """What a run has done, in at most :data:`HEIGHT` lines.

    Args:
        settings: The configuration.
        archives: The catalogue.
        since: When the run began, in s since 1970.
        configfile: What the next commands are to be called with; None for the usual one.

    Raises:
        OSError: the volume can't be read.
    """
    volume = Volume.of(settings)
    done: Counter[str] = Counter()
    clips: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    for _, _, receipt in readable(receipts_since(volume, since)):
        done[receipt.status] += 1
        clips.update(receipt.clips)
        skipped.update(receipt.skipped)
    del skipped[ERASED]  # was taken once, and is told by `earmark erase`
    failed = quarantine.failed_since(volume, since)
    given_up = {each.archive for each in quarantine.in_quarantine(volume)}
    minutes, seconds = divmod(round(time.time() - since), 60)
    lines = [f"Done in {minutes}:{seconds:02d} min: {counted(done.total(), 'archive')}"]
    lines += _line("archives", [f"{done[each]} {each}" for each in OUTCOMES if done[each]])
    lines += _line(
        "clips", [f"{clips[each]} {name}" for each, name in _CLIPS.items() if clips[each]]
    )
    reasons = [f"{count} {visible(reason)}" for reason, count in skipped.most_common()]
    lines += _line("members not taken", reasons)
    lines += _line("archives that failed", [_why(volume, name) for name in failed])
    lines += _line("archives left", _left(volume, archives, settings, given_up))
    commands = {"what went on": "report", "hear and decide": "review"}
    if failed:
        commands["why it failed"] = "status"
    if given_up:
        commands["try them again"] = "retry"
    if failed or done["partial"] or done["failed"]:
        commands["is all there"] = "doctor"
    lines += [
        f"  {what}: {with_configuration(command, configfile)}" for what, command in commands.items()
    ]
    return "\n".join(lines)


def _line(title: str, parts: Sequence[str]) -> list[str]:
    """A line with as many parts as fit into it, and how many more there are."""
    if not parts:
        return []
    for shown in range(len(parts), 0, -1):
        more = f", and {len(parts) - shown} more" if shown < len(parts) else ""
        line = f"  {title}: {', '.join(parts[:shown])}{more}"
        if len(line) <= WIDTH:
            return [line]
    return [f"{line[: WIDTH - len(more) - 1]}…{more}" if more else f"{line[: WIDTH - 1]}…"]


def _why(volume: Volume, name: str) -> str:
    found = attempts.failures(volume, name)
    return f"{name} in {found[-1].stage}" if found else f"{name} in quarantine"


def _left(
    volume: Volume, archives: Sequence[Archive], settings: Settings, given_up: set[str]
) -> list[str]:
    plan = catalogue.plan_run(archives, volume, settings.source)
    counts = {
        "for the next run": len(plan.now),
        "beyond source.batch": len(plan.later),
        "too recent": len(plan.unsettled),
        "in quarantine": len(given_up),
        "refused": sum(bool(archive.refused) for archive in archives),
    }
    return [f"{count} {what}" for what, count in counts.items() if count]
