"""How archives ended lately and how fast they are done, told by receipts and manifests alone.

No question grows with the history: only receipts of the last hours are read, found by the
times of the folders they are in.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from earmark import receipts
from earmark.ingest.encode import ERASED
from earmark.ingest.formats import NOT_TAKEN
from earmark.receipts import Receipt
from earmark.volume import Volume

#: How an archive can end that was done.
OUTCOMES = ("ok", "partial", "failed")
#: Outcomes are counted over this time.
OUTCOME_HOURS = 24.0
#: Rates are means over this time: long enough that one large archive makes no trend.
RATE_HOURS = 6.0
#: Receipts that are read at the most, the newest ones; a day has fewer.
_MOST_RECEIPTS = 2000
#: A folder may look older than what was written into it last, by the clocks of two machines.
_SLACK_SECONDS = 3600.0
_DAY = 86_400.0


@dataclass(frozen=True)
class Finished:
    """How the archives ended whose receipts were written lately.

    Attributes:
        window_hours: How lately.
        receipts_count: How many there are.
        ok_count: Whole archives.
        partial_count: Those of which some was saved.
        failed_count: Those of which nothing was.
        unread_count: Receipts beyond the newest 2,000, or damaged: they count nowhere.
        not_taken_count: Members of them that are audio, but of a format that is not taken.
        not_audio_count: Members that are no audio.
    """

    window_hours: float
    receipts_count: int
    ok_count: int
    partial_count: int
    failed_count: int
    unread_count: int
    not_taken_count: int
    not_audio_count: int


@dataclass(frozen=True)
class Rate:
    """How fast archives are finished, told by receipts and manifests, without the database.

    Attributes:
        window_hours: Over how long the means go.
        archives_per_hour: Receipts written of archives that were not done before.
        clips_per_hour: Clips in them that have an answer.
        audio_seconds_per_hour: Length of the clips that were drawn for transcription.
        unread_count: Manifests that could not be read; their audio is missing in the rate.
    """

    window_hours: float
    archives_per_hour: float
    clips_per_hour: float
    audio_seconds_per_hour: float
    unread_count: int


def recent(volume: Volume, now: float) -> tuple[Finished, Rate]:
    """What the receipts of the last hours tell.

    Args:
        volume: The shared volume.
        now: In s since 1970.
    """
    newest = sorted(receipts_since(volume, now - OUTCOME_HOURS * 3600), reverse=True)
    read = newest[:_MOST_RECEIPTS]
    hours = RATE_HOURS
    if len(read) < len(newest):  # the rest may reach into the time that the rate is over
        hours = max(min(hours, (now - read[-1][0]) / 3600), 1 / 3600)
    outcomes: Counter[str] = Counter()
    skipped: Counter[bool] = Counter()  # by whether it is audio
    archives, clips, seconds, unread = 0, 0, 0.0, 0
    for written_at, path, receipt in readable(read):
        outcomes[receipt.status] += 1
        for reason, count in receipt.skipped.items():
            if reason != ERASED:
                skipped[reason.startswith(NOT_TAKEN)] += count
        if written_at < now - hours * 3600:
            continue
        if not is_new(volume, receipt, written_at):
            continue
        archives, clips = archives + 1, clips + receipt.answered
        try:
            seconds += _audio_seconds(
                volume.manifest(path.parent.name.removeprefix("date="), path.stem)
            )
        except (OSError, KeyError, pa.ArrowException):
            unread += 1
    ok, partial, failed = (outcomes[each] for each in OUTCOMES)
    unknown = len(newest) - ok - partial - failed
    return (
        Finished(
            window_hours=OUTCOME_HOURS,
            receipts_count=len(newest),
            ok_count=ok,
            partial_count=partial,
            failed_count=failed,
            unread_count=unknown,
            not_taken_count=skipped[True],
            not_audio_count=skipped[False],
        ),
        Rate(
            window_hours=round(hours, 3),
            archives_per_hour=round(archives / hours, 3),
            clips_per_hour=round(clips / hours, 3),
            audio_seconds_per_hour=round(seconds / hours, 3),
            unread_count=unread,
        ),
    )


def gpu_seconds_per_byte(volume: Volume, now: float) -> float:
    """How long a GPU works on an archive for each of its bytes, in s.

    Transcription and classification of the archives that were finished in the last 24 hours,
    by their receipts.

    Args:
        volume: The shared volume.
        now: In s since 1970.

    Returns:
        0 if none was.
    """
    newest = sorted(receipts_since(volume, now - OUTCOME_HOURS * 3600), reverse=True)
    worked, size = 0.0, 0
    for *_, receipt in readable(newest[:_MOST_RECEIPTS]):
        transcribe, classify = (receipt.seconds.get(key) for key in ("transcribe", "classify"))
        if transcribe is not None and classify is not None and receipt.bytes is not None:
            worked, size = worked + transcribe + classify, size + receipt.bytes
    return worked / size if size else 0.0


def is_new(volume: Volume, receipt: Receipt, written_at: float) -> bool:
    """Whether an archive was transcribed in the day before its receipt, not just classified again.

    Args:
        volume: The shared volume.
        receipt: The archive's receipt.
        written_at: When that was written, in s since 1970.
    """
    made = volume.transcripts(receipt.asr, receipt.date, receipt.archive)
    try:
        return written_at - made.stat().st_mtime < _DAY
    except FileNotFoundError:
        return False


def receipts_since(volume: Volume, since: float) -> list[tuple[float, Path]]:
    """Receipts written since a moment (in s since 1970), with their times.

    Of the history only the folders of days are looked at: one gets a new time when a receipt
    is put into it.
    """
    folder = volume.root / "processed"
    found: list[tuple[float, Path]] = []
    if not folder.is_dir():
        return found
    with os.scandir(folder) as days:
        oldest = since - _SLACK_SECONDS
        recent = [day.path for day in days if day.is_dir() and day.stat().st_mtime >= oldest]
    for day in recent:
        with os.scandir(day) as files:
            for file in files:
                if file.name.startswith(".") or not file.name.endswith(".json"):
                    continue
                with suppress(FileNotFoundError):  # deleted, to be done again
                    written_at = file.stat().st_mtime
                    if written_at >= since:
                        found.append((written_at, Path(file.path)))
    return found


def readable(found: Iterable[tuple[float, Path]]) -> Iterator[tuple[float, Path, Receipt]]:
    """Those of some receipts that can be read, with what they tell.

    Args:
        found: As :func:`receipts_since` returns them.
    """
    for written_at, path in found:
        receipt = None
        with suppress(OSError):
            receipt = receipts.read(path)
        if receipt is not None:
            yield written_at, path, receipt


def _audio_seconds(manifest: Path) -> float:
    """Length of the clips of an archive that were drawn for transcription."""
    columns = ["status", "selected", "duration_seconds"]
    table = pq.read_table(manifest, columns=columns, partitioning=None)
    drawn = pc.and_(pc.equal(table["status"], "ok"), table["selected"])
    return float(pc.sum(table.filter(drawn)["duration_seconds"]).as_py() or 0.0)
