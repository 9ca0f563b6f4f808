"""`earmark show`: all that is known of one clip."""

import argparse
import dataclasses
import json
from typing import Any

from earmark.commands import place
from earmark.commands.parser import Commands, add
from earmark.record import clips, database
from earmark.settings import Settings
from earmark.watch.display import printable, show


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add(
        commands, "show", _show,
        "Show all that is known of a clip: audio, transcript with times, scores, verdicts, and "
        "what made them.", as_json=True,
    )  # fmt: skip
    parser.add_argument(
        "clip", metavar="ID|FILE",
        help="its id, its Opus file, or its name in the archive (or what follows a / in that)",
    )  # fmt: skip


def _show(settings: Settings, arguments: argparse.Namespace) -> None:
    with database.connect(place.existing_database(settings)) as connection:
        database.require_schema(connection)
        clip = clips.show(connection, place.mounted(settings), arguments.clip)
    if arguments.json:
        print(json.dumps(dataclasses.asdict(clip), indent=2, default=str, ensure_ascii=False))
        return
    facts = {"audio": clip.audio, **clip.facts, "metadata": clip.metadata}
    for name, value in facts.items():
        if value is not None:
            print(f"{name:<18}{printable(value)}")
    for heard in clip.transcripts:
        _show_transcript(heard)
    for rows, title in (
        (clip.scores, "Scores, 0 to 1"),
        (clip.verdicts, "What people decided"),
    ):
        print()
        show(rows, False, title if rows else f"{title}: nothing yet")
    print()
    for made in clip.provenance:
        told = {key: value for key, value in made["facts"].items() if value and len(value) <= 200}
        print(f"What made the {printable(made['kind'])} {printable(made['name'])}".rstrip())
        for name, value in told.items():
            print(f"  {printable(name):<22}{printable(value)}")


def _show_transcript(heard: dict[str, Any]) -> None:
    print()
    told = [heard["language"] or "no speech"]
    if heard["confidence"] is not None:
        told.append(f"confidence {heard['confidence']:.2f}")
    told += [f"doubtful: {heard['doubt']}"] if heard["doubt"] else []
    told += [f"failed: {heard['error']}"] if heard["status"] == "failed" else []
    print(printable(f"Transcript {heard['asr']}: {', '.join(told)}"))
    for segment in heard["segments"] or ():
        times = f"{_clock(segment['start'])} - {_clock(segment['end'])}"
        print(f"  {times}  {printable(segment['text'].strip())}")


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds, 1), 60)
    return f"{minutes:02.0f}:{seconds:04.1f}"
