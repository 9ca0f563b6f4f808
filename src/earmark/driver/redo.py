"""Doing an archive again from a stage on, at any time: what `earmark redo` asks for.

What the stage and those behind it made becomes out of date, and the receipt goes: to the next
run the archive is pending, and Snakemake makes what is out of date.  Tables stay readable until
then.  An archive that a driver works on is left alone until that driver has ended.
"""

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import get_args

from msgspec.structs import replace

from earmark import checkpoints, locks, receipts
from earmark.driver import attempts
from earmark.errors import EarmarkError
from earmark.files import sync
from earmark.ingest import again, catalogue
from earmark.ingest.again import Request, Stage
from earmark.ingest.catalogue import Archive
from earmark.ingest.source import source_of
from earmark.settings import Settings
from earmark.tables import MANIFEST, TABLES, read_table
from earmark.volume import STAGES, Volume

logger = logging.getLogger(__name__)

#: The time of what is out of date, in s since 1970; Snakemake takes 0 for no time at all.
_LONG_AGO = 1
#: The stages by the verbs of their rules, in the order of :data:`earmark.volume.STAGES`.
VERBS: tuple[Stage, ...] = get_args(Stage)


def find(
    volume: Volume, settings: Settings, archives: Sequence[str], day: str | None, stage: Stage
) -> Iterator[Request]:
    """The archives that are meant, each with a request that can be met.

    Args:
        volume: The shared volume.
        settings: The configuration; it names the tables that are read and made anew.
        archives: Names; none means all of the day, or of all days.  Of all, one that can't be done
            again is left out with a warning.
        day: Date of the archives, ``YYYY-MM-DD``; needed where a name has several.
        stage: The first stage to be done again.

    Raises:
        EarmarkError: there is no such archive, its name is one of several days, or what the stage
            needs is gone.
        SourceUnreachableError: a stage that needs the source is meant, and it doesn't answer.
        OSError: the volume can't be read.
    """
    known = {archive.name: archive for archive in catalogue.read(volume).archives}
    if VERBS.index(stage) <= STAGES.index("encode_opus"):
        # The catalogue may be older than a deletion there, or than another archive of a name.
        listed = source_of(settings).files()
        known = {file.name: Archive(file.name, file.bytes, file.modified_ns) for file in listed}
    places = set(_places(volume, day))
    if archives:
        found = [_only(name, {date for of, date in places if of == name}) for name in archives]
    else:
        found = sorted(places)
        if not found:
            raise EarmarkError(f"no archive of {day or 'any day'} has got as far as its manifest")
    refused = 0
    for name, date in found:
        try:
            yield _request(volume, settings, name, date, stage, known.get(name))
        except EarmarkError as error:
            if archives:
                raise
            logger.warning("left out: %s", error)
            refused += 1
    if refused == len(found):
        raise EarmarkError(f"none of {refused} archives can be done again from {stage} on")


def _request(
    volume: Volume,
    settings: Settings,
    name: str,
    date: str,
    stage: Stage,
    at_source: Archive | None,
) -> Request:
    if at_source is not None and at_source.date != date:
        raise EarmarkError(
            f"the source has another archive {name}, of {at_source.date}; the one of {date} "
            "can't be done again beside it"
        )
    if volume.quarantine(name).exists():
        raise EarmarkError(f"{name} is in quarantine; `earmark retry {name}` releases it")
    receipt = receipts.read(volume.receipt(date, name))
    told = (receipt.bytes, receipt.modified_ns) if receipt else (None, None)
    _check(volume, settings, name, date, stage, at_source is not None, told[0])
    return Request(name, date, stage, *told)


def _places(volume: Volume, day: str | None) -> Iterator[tuple[str, str]]:
    """Name and date of all archives that have a manifest or a receipt."""
    for path in TABLES["manifests"].files(volume, day):
        yield path.stem, path.parent.name.removeprefix("date=")
    for path in volume.root.glob(f"processed/date={day or '*'}/[!.]*.json"):
        yield path.stem, path.parent.name.removeprefix("date=")


def _only(name: str, dates: set[str]) -> tuple[str, str]:
    if not dates:
        raise EarmarkError(
            f"{name} has got no further than its archive, or is not known; what is pending is done "
            "by the next run"
        )
    if len(dates) > 1:
        raise EarmarkError(f"{name} is of several days: {', '.join(sorted(dates))}; give --date")
    return name, dates.pop()


def _check(
    volume: Volume,
    settings: Settings,
    archive: str,
    date: str,
    stage: Stage,
    is_listed: bool,
    size: int | None,
) -> None:
    """Refuse what no run could do, before anything is out of date."""
    is_here = stage != "fetch" and catalogue.is_fetched(volume, archive, size)
    if stage in ("fetch", "unpack", "encode"):
        if not is_listed and not is_here:
            raise EarmarkError(
                f"{archive} is not at the source any more, so it can't be done again from {stage} "
                "on; transcribe, classify and load don't need it"
            )
        return
    first = VERBS.index(stage)
    read = [table for table in TABLES.values() if STAGES.index(table.stage) < first]
    names = _names(settings)
    for table in read:
        made_by = {key: names[key] for key in table.partitions}
        path = volume.table(table.name, date, archive, **made_by)
        if not path.exists():
            under = " ".join(made_by.values())
            raise EarmarkError(
                f"{archive} has no {table.name} {under}".rstrip() + f", which {stage} reads; name "
                f"an earlier stage, such as --stage {table.stage.partition('_')[0]}"
            )
    manifest = volume.manifest(date, archive)
    if stage == "transcribe":
        rows = read_table(manifest, MANIFEST).select(["opus_path", "selected"]).to_pylist()
        paths = [row["opus_path"] for row in rows if row["selected"] and row["opus_path"]]
        gone = sum(not (volume.root / path).exists() for path in paths)
        if gone:
            raise EarmarkError(
                f"{gone} of {len(paths)} clips of {archive} have no audio any more "
                "(retention.audio_days), so it can't be transcribed again"
            )


def _names(settings: Settings) -> dict[str, str]:
    """What the tables that are made now are called by, by partition."""
    return {"asr": settings.asr.name, "policy": settings.classify.policy}


def carry_out(volume: Volume, settings: Settings) -> None:
    """Meet the requests that nothing stands in the way of, and forget those that are done.

    Args:
        volume: The shared volume.
        settings: The configuration; it names the tables that are made anew.

    Raises:
        OSError: the volume can't be written.
    """
    for request in again.requests(volume):
        receipt = volume.receipt(request.date, request.archive)
        if request.begun:
            if receipts.read(receipt) is None:
                continue
            if not any(_is_out_of_date(path) for path in _tables_of(volume, settings, request)):
                again.forget(volume, request.archive)
                continue
            # What was under way when it was asked for, such as `reclassify`, has loaded what is
            # out of date, and the source may not lose the archive for that.
            logger.info("%s: loaded, but not done again yet", request.archive)
        # A driver plans once: what it works on, it would call done when the last stage is.
        if locks.is_held(volume.driver_lock) and not receipt.exists():
            logger.info("%s: at work; it is done again after this run", request.archive)
            continue
        with locks.exclusive(volume.archive_lock(request.archive), "redo"):
            _make_out_of_date(volume, settings, request)
            if receipt.exists():
                receipt.unlink()
                sync(receipt.parent)
            # Only now: killed before, it would be taken for done by the receipt that is there.
            again.ask(volume, replace(request, begun=True))
        logger.info("%s: the next run does it again from %s on", request.archive, request.stage)


def _make_out_of_date(volume: Volume, settings: Settings, request: Request) -> None:
    archive = request.archive
    first = VERBS.index(request.stage)
    checkpoints.remove(volume, archive)
    attempts.forget(volume, archive)
    if first <= STAGES.index("encode_opus"):
        shutil.rmtree(volume.unpacked(archive), ignore_errors=True)
    if first == STAGES.index("fetch_archive"):
        volume.incoming(archive).unlink(missing_ok=True)
    for path in _tables_of(volume, settings, request):
        with suppress(FileNotFoundError):
            os.utime(path, (_LONG_AGO,) * 2)


def _tables_of(volume: Volume, settings: Settings, request: Request) -> Iterator[Path]:
    """Those that the stage and the ones behind it make."""
    names = _names(settings)
    for table in TABLES.values():
        if STAGES.index(table.stage) >= VERBS.index(request.stage):
            made_by = {key: names[key] for key in table.partitions}
            yield volume.table(table.name, request.date, request.archive, **made_by)


def _is_out_of_date(path: Path) -> bool:
    try:
        return path.stat().st_mtime <= _LONG_AGO
    except FileNotFoundError:
        return False
