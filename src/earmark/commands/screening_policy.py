"""`earmark screening-policy`: the policy that a screen asks."""

import argparse
from pathlib import Path

from earmark.commands.parser import Commands, add
from earmark.policy.policies import load_policies
from earmark.policy.screen import screening_policy
from earmark.settings import Settings


def add_to(commands: Commands) -> None:
    """Add the command."""
    add(
        commands, "screening-policy", _screening_policy,
        "Show the policy that classify.screen would ask, made of the policies' labels.",
    )  # fmt: skip


def _screening_policy(settings: Settings, arguments: argparse.Namespace) -> None:
    del arguments
    classify = settings.classify
    print(screening_policy(load_policies(Path(classify.policies), classify.categories)).text)
