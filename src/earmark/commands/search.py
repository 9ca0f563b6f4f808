"""`earmark search`: clips in which something was said."""

import argparse
from dataclasses import asdict
from itertools import islice

from earmark.commands import chosen_clips, place
from earmark.commands.parser import Commands, add, positive
from earmark.record import clips, database
from earmark.settings import Settings
from earmark.volume import Volume
from earmark.watch.display import show


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add(
        commands, "search", _search,
        "Find clips by what was said in them, the highest score first.", as_json=True,
    )  # fmt: skip
    parser.add_argument(
        "words", nargs="+", metavar="WORDS",
        help="all of which were said; \"a phrase\" in quotes, `this or that`; a word with - before "
        "it was not said (after --)",
    )  # fmt: skip
    chosen_clips.add_options(parser)
    parser.add_argument(
        "--limit", type=positive, default=20, metavar="N", help="at most N clips (default: 20)"
    )


def _search(settings: Settings, arguments: argparse.Namespace) -> None:
    wanted = chosen_clips.wanted(arguments, " ".join(arguments.words))
    with database.connect(place.existing_database(settings)) as connection:
        database.require_schema(connection)
        found = clips.search(connection, Volume.of(settings), wanted)
        shown = [asdict(clip) for clip in islice(found, arguments.limit)]
    if arguments.json:
        show(shown, True, "")
        return
    columns = ("score", "category", "id", "language", "text", "original_filename")
    rows = [{key: clip[key] for key in columns} for clip in shown]
    show(rows, False, f"Clips in which that was said: {len(rows)} shown")
