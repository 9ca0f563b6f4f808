"""What is going on now: told from the catalogue, the locks and the volume alone.

Asks neither the source nor the database, so it answers at once, also while they don't.
"""

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from earmark import catalogue, locks, room
from earmark.catalogue import Archive, Catalogue, Intake
from earmark.errors import EarmarkError
from earmark.room import RoomLimits
from earmark.source import source_of
from earmark.transfer import running_transfers
from earmark.volume import Volume


@dataclass(frozen=True)
class Running:
    """A stage that works on an archive, or waits.

    Attributes:
        archive: Its name.
        stage: As the rule is called.
        host: The machine.
        process: Process id there.
        seconds: For how long.
        fetched_bytes: How much of the archive has come; None in other stages.
        total_bytes: Its size; likewise.
        waits_for: What it can't go on without; "" while it works.
    """

    archive: str
    stage: str
    host: str
    process: int
    seconds: float
    fetched_bytes: int | None
    total_bytes: int | None
    waits_for: str


@dataclass(frozen=True)
class Room:
    """How full the volume is.

    Attributes:
        bytes_free: Bytes that can still be written.
        percent: Of bytes or inodes, whichever are scarcer.
        stopped: What waits for room at this point: fetching, encoding (unpacking too).
        summary: The same in a sentence.
    """

    bytes_free: int
    percent: float
    stopped: list[str]
    summary: str


@dataclass(frozen=True)
class Status:
    """What is going on.

    Attributes:
        source: Where archives come from.
        checked_at: When the source last answered, ISO 8601 in UTC; None if it never did.
        problem: Why the last poll failed; None if it didn't.
        archives: How many archives of the catalogue are in each state of :func:`state_of_each`.
        driver: Who schedules jobs on this volume; None if nobody does.
        running: The stages at work, by archive.
        room: How full the volume is.
    """

    source: str
    checked_at: str | None
    problem: str | None
    archives: dict[str, int]
    driver: str | None
    running: list[Running]
    room: Room


def status(config: dict[str, Any]) -> Status:
    """What is going on on the volume of a configuration.

    Args:
        config: A configuration that :func:`earmark.configuration.resolve` returned.

    Raises:
        EarmarkError: the volume is not there, or the catalogue is damaged.
    """
    volume = Volume(Path(config["volume"]["root"]))
    if not volume.root.is_dir():
        raise EarmarkError(f"there is no {volume.root} yet (volume.root); mount it, or run first")
    source = source_of(config)
    known = catalogue.read(volume)
    if known.source is not None and not known.is_of(source):
        known = Catalogue(problem=f"what is known is of {known.source}; run `earmark discover`")
    states = state_of_each(known.archives, volume, catalogue.intake_of(config))
    driver = locks.holder_of(volume.driver_lock)
    return Status(
        source=str(source),
        checked_at=known.checked_at,
        problem=known.problem,
        archives=dict(Counter(state.partition(":")[0] for state in states.values())),
        driver=str(driver) if driver else None,
        running=_running(volume),
        room=_room(volume.root, RoomLimits(**config["room"])),
    )


def state_of_each(archives: list[Archive], volume: Volume, intake: Intake) -> dict[str, str]:
    """What becomes of each archive of the catalogue, by its name.

    Returns:
        ``pending`` in the next run, ``later`` in another one, ``too recent``, ``seen once``,
        ``done``, ``quarantined``, or ``refused: `` and why.
    """
    plan = catalogue.plan_run(archives, volume, intake)
    states = {}
    for archive in archives:
        if archive.refused:
            state = f"refused: {archive.refused}"
        elif volume.quarantine(archive.name).exists():
            state = "quarantined"
        elif archive in plan.now:
            state = "pending"
        elif archive in plan.later:
            state = "later"
        elif archive in plan.unsettled:
            state = "too recent" if archive.confirmed else "seen once"
        else:
            state = "done"
        states[archive.name] = state
    return states


def _running(volume: Volume) -> list[Running]:
    transfers = {transfer.archive: transfer for transfer in running_transfers(volume)}
    running = []
    for path in sorted(volume.locks.glob("*.lock")):
        holder = locks.holder_of(path)
        if holder is None or path.name.startswith("."):
            continue
        archive = path.name.removesuffix(".lock")
        transfer = transfers.get(archive)
        running.append(
            Running(
                archive=archive,
                stage=holder.purpose,
                host=holder.host,
                process=holder.process,
                seconds=time.time() - holder.since,
                fetched_bytes=transfer.bytes if transfer else None,
                total_bytes=transfer.total if transfer else None,
                waits_for=holder.waits_for,
            )
        )
    return running


def _room(root: Path, limits: RoomLimits) -> Room:
    now = room.usage(root)
    percent = now.percent()
    stops = {"fetching": limits.stop_fetching_percent, "encoding": limits.stop_encoding_percent}
    stopped = [work for work, limit in stops.items() if percent >= limit]
    summary = room.describe(root, now)
    if stopped:
        summary += f"; {' and '.join(stopped)} {'waits' if len(stopped) == 1 else 'wait'} for room"
    return Room(now.bytes_free, round(percent, 2), stopped, summary)
