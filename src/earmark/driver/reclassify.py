"""Applying another policy set to archives that are done."""

import datetime
import logging
from typing import Literal

from earmark import receipts
from earmark.driver.checks import check_inputs
from earmark.errors import EarmarkError
from earmark.ingest import again as done_again
from earmark.settings import Settings
from earmark.tables import TABLES
from earmark.volume import Volume
from earmark.wording import counted

logger = logging.getLogger(__name__)


def to_reclassify(settings: Settings) -> tuple[list[str], list[str]]:
    """Check what can be checked from here, and say what another policy set is applied to.

    Args:
        settings: The configuration.

    Returns:
        Classes and receipts of the archives that are done, of the dates of ``reclassify``;
        one without transcripts under ``asr.name`` is left out, with a warning, and so is one that
        waits to be done again from an earlier stage on. And those of
        the receipts that are to be made again although the classes are older: the archive
        goes back to a former set. One that would be made from another archive of its name is
        left out, with a warning.

    Raises:
        EarmarkError: a date, a model or a policy is missing or wrong.
        OSError: the volume cannot be read.
    """
    volume = Volume.of(settings)
    since, until = _day("since", settings), _day("until", settings)
    check_inputs(settings)
    asr, policy_set = settings.asr.name, settings.classify.policy
    wanted: list[str] = []
    again: list[str] = []
    silent: list[str] = []
    waiting: list[str] = []
    asked = {(each.date, each.archive) for each in done_again.requests(volume)}
    for date, archive in _classified(volume):
        if not since <= date <= until:
            continue
        if (date, archive) in asked:
            waiting.append(archive)
            continue
        if volume.transcripts(asr, date, archive).exists():
            classes = volume.classes(policy_set, date, archive)
            receipt = volume.receipt(date, archive)
            # Receipts alone are there: Snakemake would not miss what lies before them.
            wanted += [str(classes), str(receipt)]
            loaded = receipts.read(receipt)
            if classes.exists() and (loaded is None or loaded.policy != policy_set):
                again.append(str(receipt))
        else:
            silent.append(archive)
    if silent:
        logger.warning(
            "left out, as there are no transcripts of %s (asr.name): %s, such as %s",
            asr, counted(len(silent), "archive"), silent[0]
        )  # fmt: skip
    if waiting:
        logger.warning(
            "left out, as they wait for the next run to do them again (earmark redo): %s, such as "
            "%s; repeat this afterwards",
            counted(len(waiting), "archive"), waiting[0],
        )  # fmt: skip
    logger.info("to have the policy set %s: %s", policy_set, counted(len(wanted) // 2, "archive"))
    return wanted, again


def _classified(volume: Volume) -> list[tuple[str, str]]:
    """Date and name of each archive that some policy set was applied to.

    Its receipt may be gone: Snakemake removes it before the job that makes it again, which may
    fail.
    """
    found = {
        (path.parent.name.removeprefix("date="), path.stem)
        for path in (*volume.root.glob("processed/date=*/*.json"), *TABLES["classes"].files(volume))
    }
    kept = [each for each in sorted(found) if not _would_be_made_anew(volume, *each)]
    if left_out := sorted(found.difference(kept)):
        logger.warning(
            "left out, as another one of the name came since or the manifest is gone: %s, such as "
            "%s of %s", counted(len(left_out), "archive"), left_out[0][1], left_out[0][0],
        )  # fmt: skip
    return kept


def _would_be_made_anew(volume: Volume, date: str, name: str) -> bool:
    """Whether Snakemake would make the manifest again, from whatever has the name by now.

    That may be an archive of another day: entries and fetched archives have no date in their path.
    """
    try:
        made = volume.manifest(date, name).stat().st_mtime_ns
    except FileNotFoundError:
        return True
    above = (volume.entry(name), volume.incoming(name))
    return any(path.exists() and path.stat().st_mtime_ns > made for path in above)


def _day(key: Literal["since", "until"], settings: Settings) -> str:
    """A day of ``reclassify``, ISO 8601."""
    text = getattr(settings.reclassify, key)
    try:
        return datetime.date.fromisoformat(str(text)).isoformat()
    except ValueError as error:
        raise EarmarkError(
            f"the config's 'reclassify.{key}' is {text!r}, which is no date; name the days of the "
            "archives: --config reclassify='{since: 2026-11-01, until: 2026-11-30}'"
        ) from error
