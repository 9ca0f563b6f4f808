"""Options by which clips are chosen."""

import argparse

from earmark.commands.parser import add_period, score
from earmark.record.clips import Wanted


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add them."""
    parser.add_argument("--language", metavar="CODE", help="only clips with some of it, such as en")
    parser.add_argument("--category", help="only clips flagged under this policy category")
    add_period(parser)
    parser.add_argument(
        "--min-score", type=score, metavar="SCORE",
        help="only clips of this score and more, of the category or else of any",
    )  # fmt: skip


def wanted(arguments: argparse.Namespace, words: str | None) -> Wanted:
    """What they ask for."""
    return Wanted(
        words=words,
        language=arguments.language,
        category=arguments.category,
        since=arguments.since,
        until=arguments.until,
        min_score=arguments.min_score,
    )
