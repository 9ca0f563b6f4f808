"""`earmark erase`: one content, everywhere and for good."""

import argparse
import logging

from earmark.commands import place
from earmark.commands.parser import Commands, add, positive
from earmark.errors import EarmarkError
from earmark.record import backup, erasure
from earmark.settings import Settings
from earmark.watch.display import show

logger = logging.getLogger(__name__)


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add(
        commands, "erase", _erase,
        "Erase a clip for good, and every other upload of the same content: audio, transcripts, "
        "scores and its place in reports. Without --yes, only show what would go; with it and no "
        "clip, finish what was cut off.", as_json=True,
    )  # fmt: skip
    parser.add_argument("archive", nargs="?", metavar="ARCHIVE", help="whole name of its archive")
    parser.add_argument(
        "ordinal", nargs="?", type=int, metavar="ORDINAL", help="its position there, from 0"
    )
    parser.add_argument("--date", metavar="YYYY-MM-DD", help="of the archive, if there are several")
    parser.add_argument("--id", type=positive, help="the clip's id in audio_files, instead")
    parser.add_argument("--yes", action="store_true", help="do it")


def _erase(settings: Settings, arguments: argparse.Namespace) -> None:
    volume, conninfo = place.mounted(settings), place.existing_database(settings)
    if arguments.yes:
        is_for_a_clip = arguments.archive is not None or arguments.id is not None
        try:
            finished = erasure.finish_unfinished(volume, conninfo)
        except (EarmarkError, OSError) as error:
            if not is_for_a_clip:
                raise
            logger.warning("an erasure that was cut off is not finished: %s", error)
        else:
            erasure.forget(volume, conninfo, settings.database.url)
            if finished and not is_for_a_clip:
                return
    if arguments.id is not None:
        content, known = erasure.clip_in_database(conninfo, arguments.id)
    elif arguments.ordinal is not None:
        name, ordinal, date = arguments.archive, arguments.ordinal, arguments.date
        content, known = erasure.clip_in_archive(volume, name, ordinal, date)
    else:
        raise EarmarkError("name a clip: its archive and its position in it, or --id")
    logger.info("looking for other uploads of the same content; that reads a whole table")
    found = erasure.find(volume, conninfo, content, known)
    rows = [
        erasure.describe(volume, content, upload) | {"what": what}
        for uploads, what in (
            (found.uploads, "the clip"),
            (found.formerly, "what older tables and queues say of it; another clip is there now"),
        )
        for upload in uploads
    ]
    if arguments.yes:
        for each in erasure.erase(volume, conninfo, content, found):
            logger.info("erased from %s", each)
        erasure.forget(volume, conninfo, settings.database.url)
    if held := backup.backups(place.backups(settings)):
        logger.warning(
            "%d backups in %s may hold it until they are deleted, the oldest of %s",
            *(len(held), held[0].parent, held[0].name),
        )
    show(rows, arguments.json, "Erased" if arguments.yes else "To be erased with --yes")
