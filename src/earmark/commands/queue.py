"""`earmark queue`: what waits for review."""

import argparse
import dataclasses
import logging
from pathlib import Path

from earmark.commands import place
from earmark.commands.parser import Commands, add, positive
from earmark.errors import EarmarkError
from earmark.models.inventory import warning_of_demo
from earmark.policy.policies import load_policies
from earmark.record.review_queue import controls, review_queue
from earmark.settings import Settings
from earmark.watch.display import show

logger = logging.getLogger(__name__)


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add(
        commands, "queue", _queue,
        "Show what waits for review, the highest score first.", as_json=True,
    )  # fmt: skip
    parser.add_argument(
        "--limit", type=positive, default=20, metavar="N", help="at most N items (default: 20)"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--category", help="only items flagged under this policy category")
    which.add_argument(
        "--controls", action="store_true",
        help="instead, clips that no category flagged, drawn by queue.control_fraction",
    )  # fmt: skip


def _queue(settings: Settings, arguments: argparse.Namespace) -> None:
    known = [
        policy.category
        for policy in load_policies(Path(settings.classify.policies), settings.classify.categories)
    ]
    if arguments.category not in (None, *known):
        raise EarmarkError(
            f"there is no category '{arguments.category}'; known are {', '.join(known)}"
        )
    conninfo = place.existing_database(settings)
    if warning := warning_of_demo(settings):
        logger.warning(warning)
    if arguments.controls:
        drawn = [dataclasses.asdict(control) for control in controls(conninfo, arguments.limit)]
        columns = ("review_probability", "id", "transcript_text", "doubt", "opus_path")
        shown = drawn if arguments.json else [{key: row[key] for key in columns} for row in drawn]
        show(shown, arguments.json, f"Controls: {len(drawn)} shown")
        return
    items = review_queue(conninfo, arguments.limit, arguments.category)
    if arguments.json:
        show([dataclasses.asdict(item) for item in items], True, "")
        return
    rows = [
        {
            "score": item.flag_score,
            "category": item.flag_category,
            "id": item.id,
            "transcript": item.transcript_text,
            "doubt": item.doubt,
            "audio": item.opus_path,
        }
        for item in items
    ]
    show(rows, False, f"Review queue: {len(rows)} shown")
