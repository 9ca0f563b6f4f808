"""`earmark models`: fetch and verify the models of the configuration."""

import argparse
import dataclasses
import logging

from rich.filesize import decimal

from earmark.commands.parser import Commands, add, add_group
from earmark.models import inventory
from earmark.settings import Settings
from earmark.watch.display import show

#: Exit status when a model is missing or damaged.
DAMAGED = 1

logger = logging.getLogger(__name__)


def add_to(commands: Commands) -> None:
    """Add the command."""
    actions = add_group(commands, "models", "Fetch or verify the configuration's models.")
    add(
        actions, "fetch", _fetch,
        "Bring the configuration's models from the Hugging Face hub into HF_HOME, as far as they "
        "are not there, and check them; jobs then never ask the hub. Gated models want their "
        "licence accepted on their page and HF_TOKEN in the environment.", as_json=True,
    )  # fmt: skip
    verify = add(
        actions, "verify", _verify,
        "Check every file of the configuration's models against the hub's checksums, without "
        "asking the hub; of a model that is a folder, only that it is "
        "there. Exit status 1: something is missing or damaged.", as_json=True,
    )  # fmt: skip
    verify.add_argument("--quick", action="store_true", help="compare sizes only, at once")


def _fetch(settings: Settings, arguments: argparse.Namespace) -> None:
    from earmark.models import hub  # slow, and `verify` has no need of it

    named = inventory.named_in(settings)
    for model in named:
        if model.is_folder:
            inventory.check_folder(model)
    wanted = [model for model in named if not model.is_folder]
    fetched = list(zip(wanted, hub.fetch(wanted), strict=True))
    rows = [
        {
            "model": snapshot.repository,
            "commit": snapshot.commit,
            "pin": model.pin,
            "pinned": model.revision is not None,
            "files": len(snapshot.files),
            "bytes": snapshot.bytes,
        }
        for model, snapshot in fetched
    ]
    size = decimal(sum(snapshot.bytes for _, snapshot in fetched))
    title = f"{len(rows)} models are here, whole, {size}"
    show(rows, arguments.json, title if rows else "Nothing to fetch: all models are folders")
    for model, snapshot in fetched:
        if model.revision is None:
            logger.warning(
                "%s is not pinned, and the next fetch may bring another commit; to keep this one, "
                "set %s: %s", snapshot.repository, model.pin, snapshot.commit,
            )  # fmt: skip


def _verify(settings: Settings, arguments: argparse.Namespace) -> int:
    conditions = inventory.inspect_all(settings, by_size=arguments.quick)
    rows = [dataclasses.asdict(condition) for condition in conditions]
    problems = sum(row["problem"] is not None for row in rows)
    title = f"Problems: {problems}" if problems else "All models are whole"
    if any(model.is_folder for model in inventory.named_in(settings)):
        title += " (of folders, only that their files are there is known)"
    show(rows, arguments.json, title)
    return DAMAGED if problems else 0
