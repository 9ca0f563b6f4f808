"""How much room the volume has, and waiting for it.

A volume that fills up stops the work that fills it, and nothing else: whoever needs room
waits, says so, and goes on by itself once there is some.
"""

import errno
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.filesize import decimal

from earmark.settings import DiskSpaceLimits

logger = logging.getLogger(__name__)

#: A log gets at most one line in this time while somebody waits.
_SECONDS_BETWEEN_LINES = 600.0
#: After the volume filled up in the middle of work, tries get rarer up to this many times.
_RAREST = 32


@dataclass(frozen=True)
class Usage:
    """How full a file system is, as ``df`` counts it: what only root may use doesn't count.

    Attributes:
        bytes_used: Bytes in use.
        bytes_free: Bytes that can still be written.
        inodes_used: Files and folders.
        inodes_free: How many more there can be.
    """

    bytes_used: int
    bytes_free: int
    inodes_used: int
    inodes_free: int

    def percent(self, bytes_more: int = 0, inodes_more: int = 0) -> float:
        """How full it would be with so much more in it, 0 to 100 and above.

        Bytes or inodes, whichever are scarcer. File systems without a fixed number of inodes
        count by bytes alone.
        """
        total, inodes = self.bytes_used + self.bytes_free, self.inodes_used + self.inodes_free
        return max(
            100 * (self.bytes_used + bytes_more) / max(total, 1),
            100 * (self.inodes_used + inodes_more) / inodes if inodes else 0.0,
        )


def usage(folder: Path) -> Usage:
    """How full the file system of a folder is.

    Raises:
        OSError: the folder is not there.
    """
    status = os.statvfs(folder)
    return Usage(
        bytes_used=(status.f_blocks - status.f_bfree) * status.f_frsize,
        bytes_free=status.f_bavail * status.f_frsize,
        inodes_used=status.f_files - status.f_ffree,
        inodes_free=status.f_favail,
    )


def ran_out(error: OSError) -> bool:
    """Whether an error says that the volume, or somebody's share of it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def work_when_there_is_space(
    work: Callable[[], None],
    shortage: Callable[[], str | None],
    check_seconds: float,
    say: Callable[[str], None],
) -> None:
    """Wait for room, work, and do both again when the volume fills up in the middle.

    Args:
        work: What needs room; it is called anew after it ran out of room, and must remove or
            take up again what it left.
        shortage: Why there is not enough room to begin, None if there is.
        check_seconds: How often to look. After work that ran out of room the next try comes
            after twice the time of the one before.
        say: Gets the reason of waiting, again at each look, and "" when it is over.

    Raises:
        OSError: what ``work`` raises for any other reason.
    """
    pause = check_seconds
    while True:
        _wait_while(shortage, check_seconds, say)
        try:
            return work()
        except OSError as error:
            if not ran_out(error):
                raise
            reason = f"the volume is full: {error.strerror} ({error.filename or 'while writing'})"
        logger.error("%s; waiting for room, and then trying again", reason)
        until = time.monotonic() + pause
        while time.monotonic() < until:
            say(reason)
            time.sleep(min(check_seconds, pause))
        pause = min(2 * pause, _RAREST * check_seconds)


def _wait_while(
    shortage: Callable[[], str | None], check_seconds: float, say: Callable[[str], None]
) -> None:
    said: float | None = None
    while (reason := shortage()) is not None:
        if said is None or time.monotonic() - said >= _SECONDS_BETWEEN_LINES:
            logger.warning("waiting for room: %s", reason)
            said = time.monotonic()
        say(reason)
        time.sleep(check_seconds)
    if said is not None:
        logger.info("there is room again")
    say("")


def work_when_there_is_space_to_encode(
    work: Callable[[], None],
    root: Path,
    limits: DiskSpaceLimits,
    say: Callable[[str], None],
    bytes_needed: int = 0,
) -> None:
    """Unpack or encode as soon as the volume may be filled further.

    Args:
        work: As for :func:`work_when_there_is_space`.
        root: The volume.
        limits: How full it may get.
        say: As for :func:`work_when_there_is_space`.
        bytes_needed: What the work will write at least.

    Raises:
        OSError: what ``work`` raises for another reason than want of room.
    """

    def shortage() -> str | None:
        return _shortage_for_encoding(root, limits, bytes_needed)

    work_when_there_is_space(work, shortage, limits.check_seconds, say)


def _shortage_for_encoding(root: Path, limits: DiskSpaceLimits, bytes_needed: int) -> str | None:
    """Why nothing may be unpacked or encoded now; None if it may."""
    now = usage(root)
    full = now.percent(bytes_needed)
    if full >= limits.stop_encoding_percent:
        needed = f", {decimal(bytes_needed)} are needed" if bytes_needed else ""
        return (
            f"{describe(root, now)}{needed}; unpacking and encoding stop at "
            f"{limits.stop_encoding_percent:g} % (room.stop_encoding_percent)"
        )
    if full >= limits.warn_percent:
        logger.warning("%s", describe(root, now))
    return None


def shortage_for_fetching(
    root: Path, limits: DiskSpaceLimits, name: str, bytes_needed: int, bytes_promised: int
) -> str | None:
    """Why an archive may not be fetched now; None if it may.

    Args:
        root: The volume.
        limits: How full it may get.
        name: The archive, for the reason.
        bytes_needed: What is still to come of it.
        bytes_promised: What running fetches of others still need.
    """
    now = usage(root)
    more = bytes_needed + bytes_promised
    full = now.percent(more, inodes_more=1)
    if full < limits.stop_fetching_percent and more <= now.bytes_free:
        if full >= limits.warn_percent:
            logger.warning("%s", describe(root, now))
        return None
    promised = f" and running fetches need {decimal(bytes_promised)}" if bytes_promised else ""
    return (
        f"{describe(root, now)}; {name} needs {decimal(bytes_needed)}{promised}, and fetching "
        f"stops at {limits.stop_fetching_percent:g} % (room.stop_fetching_percent)"
    )


def describe(root: Path, now: Usage) -> str:
    """How full a volume is, in a few words."""
    total = now.bytes_used + now.bytes_free
    share = 100 * now.bytes_used / max(total, 1)
    text = f"{root} is {share:.1f} % full, {decimal(now.bytes_free)} free"
    inodes = now.inodes_used + now.inodes_free
    if inodes and (files := 100 * now.inodes_used / inodes) > share:
        text += f", and {files:.1f} % of its inodes are used"
    return text
