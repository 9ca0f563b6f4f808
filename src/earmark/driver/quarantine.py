"""Archives that are given up until a person releases them.

An archive whose stages failed too often through no fault that a table could record gets a
file ``failed/{archive}.json``, which keeps it out of every run, and a row of the database
says so.  ``earmark retry`` takes both away.
"""

import json
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from earmark.driver import attempts
from earmark.driver.attempts import Attempt
from earmark.errors import EarmarkError, UnavailableError
from earmark.files import whole
from earmark.ingest.catalogue import Archive, is_pending
from earmark.record.database import connect, connection_string
from earmark.settings import Settings
from earmark.volume import Volume

logger = logging.getLogger(__name__)

#: Bytes of the end of the failed stage's log that are kept with it.
_LOG_TAIL_BYTES = 8192

_RECORD = """
    INSERT INTO archives (name, date, status, reason, bytes)
    VALUES (%(archive)s, %(date)s, 'quarantined', %(reason)s, %(bytes)s)
    ON CONFLICT (name, date) DO UPDATE
    SET status = 'quarantined', reason = excluded.reason, loaded_at = now()
    WHERE archives.status <> 'quarantined' OR archives.reason IS DISTINCT FROM excluded.reason
"""
#: A row without clips was only there to say that the archive is in quarantine.
_RELEASE = """
    DELETE FROM archives AS a WHERE a.status = 'quarantined' AND NOT (a.name = ANY(%(kept)s))
    AND NOT EXISTS (SELECT FROM audio_files WHERE archive_id = a.id);
    UPDATE archives SET status = 'partial', reason = 'released from quarantine', loaded_at = now()
    WHERE status = 'quarantined' AND NOT (name = ANY(%(kept)s))
"""


@dataclass(frozen=True)
class Quarantined:
    """What ``failed/{archive}.json`` says.

    Attributes:
        archive: Its name.
        date: Its date, ``YYYY-MM-DD``; None if a person made the file.
        bytes: Its size; likewise.
        stage: The stage that failed.
        reason: Why it failed the last time.
        since: When it was given up, ISO 8601 in UTC.
        log: The stage's log.
        log_tail: The end of it.
        attempts: Every attempt that failed, the oldest first.
    """

    archive: str
    date: str | None = None
    bytes: int | None = None
    stage: str = ""
    reason: str = "put there by a person"
    since: str | None = None
    log: str = ""
    log_tail: str = ""
    attempts: Sequence[dict[str, object]] = ()


def update(volume: Volume, archives: Sequence[Archive], settings: Settings) -> None:
    """Give up the archives of which one stage has failed too often, and tell the database.

    Args:
        volume: The shared volume.
        archives: The catalogue.
        settings: The configuration.

    Raises:
        EarmarkError: as :func:`record`.
        OSError: the volume cannot be written.
    """
    if give_up(volume, archives, settings.failure.max_attempts):
        record(volume, connection_string(settings.database.url, volume.root))


def give_up(volume: Volume, archives: Sequence[Archive], max_attempts: int) -> list[Quarantined]:
    """Put the archives into quarantine of which one stage has failed too often.

    Args:
        volume: The shared volume.
        archives: The catalogue.
        max_attempts: So many failures of one stage are too many.

    Returns:
        Those that are new in it.

    Raises:
        OSError: the volume cannot be written.
    """
    new = failed_too_often(volume, archives, max_attempts)
    for each in new:
        path = volume.quarantine(each.archive)
        with whole(path) as partial:
            partial.write_text(json.dumps(asdict(each), indent=1) + "\n", encoding="utf-8")
        logger.error(
            "%s: in quarantine after %s; see %s, and release it with `earmark retry %s`",
            each.archive, each.reason, path, each.archive,
        )  # fmt: skip
    return new


def failed_too_often(
    volume: Volume, archives: Sequence[Archive], max_attempts: int
) -> list[Quarantined]:
    """The pending archives that are due for quarantine; nothing is changed.

    Args:
        volume: The shared volume.
        archives: The catalogue.
        max_attempts: So many failures of one stage are too many.
    """
    known = {archive.name: archive for archive in archives}
    found = []
    for name in attempts.tried(volume):
        archive = known.get(name)
        if archive is None or not is_pending(archive, volume):
            continue
        # Failures of what had this name before are none of this archive's.
        failed = [
            attempt
            for attempt in attempts.failures(volume, name)
            if attempt.began_at >= archive.noted_at
        ]
        stages = Counter(attempt.stage for attempt in failed if attempt.counts)
        if not stages or max(stages.values()) < max_attempts:
            continue
        found.append(_describe(archive, stages.most_common(1)[0][0], failed))
    return found


def in_quarantine(volume: Volume) -> list[Quarantined]:
    """What is in quarantine, by name; a file that a person wrote may hold anything."""
    folder = volume.quarantine("").parent
    found = []
    for path in sorted(folder.glob("[!.]*.json")) if folder.is_dir() else ():
        name = path.name.removesuffix(".json")
        try:
            entry = json.loads(path.read_text(encoding="utf-8"))  # as in attempts
            said = msgspec.convert(entry, Quarantined)
            found.append(replace(said, archive=name))  # a person may have copied the file
        except FileNotFoundError:  # released meanwhile
            continue
        except (ValueError, RecursionError):
            found.append(Quarantined(name))
    return found


def failed_since(volume: Volume, moment: float, stopped: bool = False) -> list[str]:
    """The names of the archives that failed since a moment.

    Args:
        volume: The shared volume.
        moment: In s since 1970.
        stopped: Whether somebody stopped the run: what was cancelled then did not fail.
    """
    failed = {each.archive for each in in_quarantine(volume) if _is_new(each, moment)}
    for name in attempts.tried(volume):
        for attempt in attempts.failures(volume, name):
            if attempt.began_at >= moment and (attempt.counts or not stopped):
                failed.add(name)
    return sorted(failed)


def _is_new(found: Quarantined, moment: float) -> bool:
    return found.since is not None and datetime.fromisoformat(found.since).timestamp() >= moment - 1


def record(volume: Volume, conninfo: str) -> None:
    """Make the database say what is in quarantine, and what is not any more.

    A database that can't be reached is a warning: the files are what counts, and the next
    call makes up for it.

    Raises:
        EarmarkError: the database lacks the schema, or the role may not do this.
    """
    try:
        with connect(conninfo) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(hashtext('earmark quarantine'))")
            held = in_quarantine(volume)  # only now: another one may have released some
            for each in held:
                if each.date is not None:
                    cursor.execute(_RECORD, asdict(each) | {"attempts": None})
            cursor.execute(_RELEASE, {"kept": [each.archive for each in held]})
    except UnavailableError as error:
        logger.warning("the database does not know yet what is in quarantine: %s", error)


def release(volume: Volume, names: Sequence[str] | None = None) -> None:
    """Let archives be tried again, with all their attempts.

    Args:
        volume: The shared volume.
        names: Which; None for all.

    Raises:
        EarmarkError: one that is named is not in quarantine; then none is released.
    """
    held = [each.archive for each in in_quarantine(volume)]
    for name in names or ():
        if name not in held:
            known = f"; in it: {', '.join(held[:10])}" if held else ", nothing is"
            raise EarmarkError(f"{name!r} is not in quarantine{known}")
    for name in held if names is None else names:
        attempts.forget(volume, name)
        volume.quarantine(name).unlink(missing_ok=True)
        logger.info("%s: released, the next run takes it", name)


def _describe(archive: Archive, stage: str, failed: Sequence[Attempt]) -> Quarantined:
    last = [attempt for attempt in failed if attempt.stage == stage][-1]
    return Quarantined(
        archive=archive.name,
        date=archive.date,
        bytes=archive.bytes,
        stage=stage,
        reason=f"{stage}: {last.reason}",
        since=datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="seconds"),
        log=last.log,
        log_tail=_tail(Path(last.log)),
        attempts=[asdict(attempt) for attempt in failed],
    )


def _tail(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _LOG_TAIL_BYTES))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""
