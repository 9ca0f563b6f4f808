"""`earmark export`: transcripts as files."""

import argparse
from pathlib import Path

from earmark.commands import chosen_clips, place
from earmark.commands.parser import Commands, add
from earmark.errors import EarmarkError
from earmark.files import whole
from earmark.policy.policies import load_policies
from earmark.record import clips, database, label_studio, transcript_files
from earmark.settings import Settings
from earmark.volume import Volume


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add(
        commands, "export", _export,
        "Write transcripts as subtitles (srt, vtt), text or labels for Audacity, a file for each "
        "clip, as one table (csv, jsonl, parquet), or as tasks for Label Studio.",
    )  # fmt: skip
    parser.add_argument("format", choices=transcript_files.FORMATS)
    parser.add_argument(
        "target", type=Path, metavar="PATH",
        help="the file of a table or of tasks (beside which label-studio writes its labelling "
        "interface, .xml), or a folder for the others; what is there is replaced",
    )  # fmt: skip
    parser.add_argument("--words", help="only clips in which these were said, as `search` has it")
    chosen_clips.add_options(parser)


def _export(settings: Settings, arguments: argparse.Namespace) -> None:
    if arguments.format == "label-studio" and arguments.target.suffix == ".xml":
        raise EarmarkError(
            f"{arguments.target} would be the labelling interface's file; name another for the "
            "tasks, such as tasks.json"
        )
    interface = _interface(settings) if arguments.format == "label-studio" else None
    wanted = chosen_clips.wanted(arguments, arguments.words)
    with database.connect(place.existing_database(settings)) as connection:
        database.require_schema(connection)
        found = clips.search(connection, Volume.of(settings), wanted)
        count = transcript_files.write(found, arguments.format, arguments.target)
    if interface is not None:
        with whole(arguments.target.with_suffix(".xml")) as partial:
            partial.write_text(interface, encoding="utf-8")
    print(f"Transcripts in {arguments.target}: {count}")


def _interface(settings: Settings) -> str:
    known = load_policies(Path(settings.classify.policies), settings.classify.categories)
    return label_studio.interface(policy.category for policy in known)
