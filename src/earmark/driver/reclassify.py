"""Applying another policy set to archives that are done."""

import datetime
import logging
from typing import Literal

from earmark import receipts
from earmark.driver.checks import check_inputs
from earmark.errors import EarmarkError
from earmark.ingest import catalogue
from earmark.settings import Settings
from earmark.tables import TABLES
from earmark.volume import Volume

logger = logging.getLogger(__name__)


def to_reclassify(settings: Settings) -> tuple[list[str], list[str]]:
    """Check what can be checked from here, and say what another policy set is applied to.

    Args:
        settings: The configuration.

    Returns:
        Classes and receipts of the archives that are done, of the dates of ``reclassify``;
        one without transcripts under ``asr.name`` is left out, with a warning. And those of
        the receipts that are to be made again although the classes are older: the archive
        goes back to a former set. An archive that is another one at the source since is left
        to the next run.

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
    for date, archive in _classified(volume):
        if not since <= date <= until:
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
            "%d archives have no transcripts of %s (asr.name) and are left out, such as %s",
            len(silent), asr, silent[0]
        )  # fmt: skip
    logger.info("%d archives are to have the policy set %s", len(wanted) // 2, policy_set)
    return wanted, again


def _classified(volume: Volume) -> list[tuple[str, str]]:
    """Date and name of each archive that some policy set was applied to.

    Its receipt may be gone: Snakemake removes it before the job that makes it again, which may
    fail.
    """
    known = {archive.name: archive for archive in catalogue.read(volume).archives}
    found = {
        (path.parent.name.removeprefix("date="), path.stem)
        for path in (*volume.root.glob("processed/date=*/*.json"), *TABLES["classes"].files(volume))
    }

    def is_replaced(date: str, name: str) -> bool:
        archive = known.get(name)
        if archive is None or archive.date != date:
            return False
        manifest = volume.manifest(date, name)
        return not manifest.exists() or manifest.stat().st_mtime_ns < archive.entry_ns

    return [each for each in sorted(found) if not is_replaced(*each)]


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
