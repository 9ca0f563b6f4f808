"""`earmark cycle`: a driver that is fed while it works."""

import argparse
from pathlib import Path

from earmark import REPOSITORY
from earmark.commands.parser import Commands, add
from earmark.driver.cycle import cycle
from earmark.settings import Settings


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add(
        commands, "cycle", _cycle,
        "Run the cluster's workflow on archives as they appear, until cycle.max_hours are over "
        "or nothing is left; for cron or a timer. Exit status 0: worked; 2: could not run; 3: "
        "nothing to do, or a driver is at work already; 4: some archives failed; 130: interrupted. "
        "SIGTERM lets running jobs end, SIGINT cancels them.",
    )  # fmt: skip
    parser.add_argument(
        "--profile", type=Path, default=REPOSITORY / "profiles/slurm", metavar="FOLDER",
        help="the Snakemake profile to run with (default: profiles/slurm)",
    )  # fmt: skip
    parser.add_argument(
        "--directory", type=Path, default=REPOSITORY, metavar="FOLDER",
        help="where Snakemake keeps .snakemake (default: the checkout)",
    )  # fmt: skip


def _cycle(settings: Settings, arguments: argparse.Namespace) -> int:
    return cycle(settings, arguments.profile, arguments.directory)
