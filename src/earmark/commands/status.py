"""`earmark status`: what is going on."""

import argparse
import dataclasses
import json
from pathlib import Path

from earmark.commands.parser import Commands, add
from earmark.settings import Settings
from earmark.watch import metrics
from earmark.watch.display import show_status
from earmark.watch.status import status


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add(
        commands, "status", _status,
        "Show what is going on: archives, stages at work, rates, room, and whether enough will "
        "wait for review at noon.", as_json=True,
    )  # fmt: skip
    parser.add_argument(
        "--prometheus", type=Path, metavar="FILE",
        help="write metrics to a .prom file for node_exporter instead of printing",
    )  # fmt: skip


def _status(settings: Settings, arguments: argparse.Namespace) -> None:
    now = status(settings)
    if arguments.prometheus:
        metrics.write(now, arguments.prometheus)
    if arguments.json:
        print(json.dumps(dataclasses.asdict(now), indent=2, ensure_ascii=False))
    elif not arguments.prometheus:
        show_status(now)
