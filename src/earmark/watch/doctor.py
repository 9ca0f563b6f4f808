"""Whether manifest, audio, transcripts, classes, receipt and database of an archive agree.

Each stage checks what it reads.  This looks at what is done, long after: at what a disk, a restored
backup or a person has changed since.  It changes nothing; what is wrong names the stage from which
`earmark redo` makes it anew.
"""

import os
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from earmark import locks, receipts
from earmark.errors import EarmarkError
from earmark.ingest import catalogue
from earmark.ingest.again import Stage
from earmark.receipts import Receipt
from earmark.record.database import connect, require_schema
from earmark.settings import RetentionSettings
from earmark.tables import CLASSES, MANIFEST, TRANSCRIPTS, read_table
from earmark.volume import Volume
from earmark.wording import with_configuration

_DAY = 86_400.0


@dataclass(frozen=True)
class Problem:
    """Something of an archive that doesn't fit together.

    Attributes:
        date: The archive's date, ``YYYY-MM-DD``.
        archive: Its name.
        problem: What doesn't fit, in a sentence.
        stage: From which stage on it is to be done again; None if nothing could do that.
    """

    date: str
    archive: str
    problem: str
    stage: Stage | None

    def remedy(self, configfile: Path | None = None) -> str | None:
        """The command that has it done again.

        Args:
            configfile: The configuration, if it is not the one that commands take by themselves.
        """
        if self.stage is None:
            return None
        command = with_configuration("redo", configfile)
        return f"{command} '{self.archive}' --date {self.date} --stage {self.stage}"


def done(volume: Volume, date: str | None) -> list[tuple[str, str]]:
    """Date and name of the archives that are done, of one day or all.

    Raises:
        OSError: the volume can't be read.
    """
    paths = volume.root.glob(f"processed/date={date or '*'}/[!.]*.json")
    return sorted((path.parent.name.removeprefix("date="), path.stem) for path in paths)


def loaded(conninfo: str, date: str | None) -> dict[tuple[str, str], int]:
    """How many clips the database has of each archive, by date and name.

    Raises:
        EarmarkError: the database can't be reached or lacks the schema.
    """
    with connect(conninfo) as connection, connection.cursor() as cursor:
        require_schema(connection)
        cursor.execute(
            "SELECT a.date::text, a.name, count(f.id) FROM archives a "
            "LEFT JOIN audio_files f ON f.archive_id = a.id "
            "WHERE a.status <> 'quarantined' AND (%(date)s IS NULL OR a.date = %(date)s::date) "
            "GROUP BY a.id",
            {"date": date},
        )
        return {(day, name): count for day, name, count in cursor.fetchall()}


def without_receipt(
    volume: Volume, rows: Mapping[tuple[str, str], int], archives: Collection[tuple[str, str]]
) -> Iterator[Problem]:
    """Archives in the database that have no receipt and that no run is going to do.

    Args:
        volume: The shared volume.
        rows: As :func:`loaded` returned it.
        archives: As :func:`done` returned it.

    Raises:
        OSError: the volume can't be read.
    """
    known, history = catalogue.read(volume).archives, catalogue.History(volume)
    coming = {(each.date, each.name) for each in known if history.is_pending(each)}
    others = {each.name: each.date for each in known}
    for date, archive in sorted(rows.keys() - set(archives) - coming):
        if locks.is_held(volume.archive_lock(archive)):
            continue
        if others.get(archive, date) != date:
            said = "the database has it, there is no receipt, and the source has another archive "
            yield Problem(date, archive, f"{said}of its name, of {others[archive]}", None)
        elif volume.manifest(date, archive).exists():
            yield Problem(date, archive, "the database has it, and there is no receipt", "load")
        else:
            yield Problem(date, archive, "the database alone has it", None)


def examine(
    volume: Volume,
    date: str,
    archive: str,
    retention: RetentionSettings,
    rows: Mapping[tuple[str, str], int],
) -> Iterator[Problem]:
    """What doesn't fit of one archive that is done, the earliest stage first.

    An archive that a process works on is left alone. What is past an age of ``retention`` is not
    missed.

    Args:
        volume: The shared volume.
        date: The archive's date, ``YYYY-MM-DD``.
        archive: Its name.
        retention: What is removed, and when.
        rows: As :func:`loaded` returned it.

    Yields:
        Problems; those of stages behind one that is to be done again are not told.

    Raises:
        OSError: the volume can't be read.
    """

    def problem(stage: Stage, said: str) -> Problem:
        return Problem(date, archive, said, stage)

    if locks.is_held(volume.archive_lock(archive)):
        return
    path = volume.receipt(date, archive)
    receipt = receipts.read(path)
    if receipt is None:
        yield problem("load", "its receipt can't be read")
        return
    age_days = (time.time() - path.stat().st_mtime) / _DAY
    try:
        manifest = read_table(volume.manifest(date, archive), MANIFEST)
    except EarmarkError as error:
        yield problem("encode", str(error))
        return
    audio_days = min(
        (days for days in (retention.audio_days, retention.flagged_audio_days) if days is not None),
        default=None,
    )
    if audio_days is None or age_days < audio_days:
        said = _audio(volume.audio(date, archive), manifest)
        if said:
            yield problem("encode", said)
            return
    if retention.text_days is not None and age_days >= retention.text_days:
        return
    if wrong := _texts(volume, receipt, manifest):
        yield problem(*wrong)
        return
    members = int(pc.sum(pc.not_equal(manifest["status"], "skipped")).as_py() or 0)
    in_database = rows.get((date, archive))
    if in_database is None:
        yield problem("load", "the database doesn't have it")
    elif in_database != members:
        yield problem("load", f"the database has {in_database} of its {members} clips")


def _audio(folder: Path, manifest: pa.Table) -> str | None:
    """What is wrong with an archive's Opus files."""
    there: dict[str, int] = {}
    if folder.is_dir():
        with os.scandir(folder) as files:
            there = {file.name: file.stat().st_size for file in files}
    wrong: Counter[str] = Counter()
    columns = manifest.select(["ordinal", "opus_path", "opus_bytes"]).to_pylist()
    for row in columns:
        if row["opus_path"] is None:
            continue
        size = there.get(f"{row['ordinal']:06d}.opus")
        if size is None:
            wrong["are missing"] += 1
        elif size != row["opus_bytes"]:
            wrong["have another size than the manifest says"] += 1
    told = (f"{count} Opus files {how}" for how, count in wrong.most_common())
    return "; ".join(told) or None


def _texts(volume: Volume, receipt: Receipt, manifest: pa.Table) -> tuple[Stage, str] | None:
    """What is wrong with an archive's transcripts and classes, and where that began."""
    date, archive = receipt.date, receipt.archive
    drawn = manifest.filter(
        pc.and_(
            pc.and_(pc.equal(manifest["status"], "ok"), manifest["selected"]),
            pc.is_null(manifest["duplicate_of"]),
        )
    )
    try:
        transcripts = read_table(volume.transcripts(receipt.asr, date, archive), TRANSCRIPTS)
    except EarmarkError as error:
        return "transcribe", str(error)
    missing, strange = _difference(drawn, transcripts)
    if missing or strange:
        return "transcribe", f"its transcripts lack {missing} clips and have {strange} too many"
    try:
        classes = read_table(volume.classes(receipt.policy, date, archive), CLASSES)
    except EarmarkError as error:
        return "classify", str(error)
    heard = transcripts.filter(pc.equal(transcripts["status"], "ok"))
    for category in sorted(pc.unique(classes["category"]).to_pylist()):
        of_it = classes.filter(pc.equal(classes["category"], category))
        missing, strange = _difference(heard, of_it)
        if missing or strange:
            said = f"its classes of {category} lack {missing} clips and have {strange} too many"
            return "classify", said
    if len(heard) and not len(classes):
        return "classify", f"its classes lack {len(heard)} clips"
    return None


def _difference(wanted: pa.Table, there: pa.Table) -> tuple[int, int]:
    """How many ordinals of a table another one lacks, and how many it has beyond them."""
    ordinals = set(wanted["ordinal"].to_pylist())
    others = set(there["ordinal"].to_pylist())
    return len(ordinals - others), len(others - ordinals)
