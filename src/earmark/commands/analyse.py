"""`earmark analyse`: questions to the Parquet outputs."""

import argparse

from earmark.commands.parser import Commands, add, day
from earmark.record import analysis
from earmark.settings import Settings
from earmark.volume import Volume
from earmark.watch.display import show


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add(
        commands, "analyse", _analyse,
        "Run a DuckDB query of sql/analysis over the Parquet outputs.", as_json=True,
    )  # fmt: skip
    parser.add_argument(
        "query", nargs="?", help="a name such as flag_rate, or a .sql file; without it, list them"
    )
    for option, kept in (("--since", "later"), ("--until", "earlier")):
        parser.add_argument(
            option, type=day, metavar="DATE", help=f"only archives of that date and {kept}"
        )


def _analyse(settings: Settings, arguments: argparse.Namespace) -> None:
    if arguments.query is None:
        rows = [{"query": name, "answers": text} for name, text in analysis.queries().items()]
        show(rows, arguments.json, "Queries in sql/analysis")
        return
    answer = analysis.run(
        arguments.query, Volume.of(settings).root, arguments.since, arguments.until
    )
    rows = [dict(zip(answer.columns, row, strict=True)) for row in answer.fetchall()]
    show(rows, arguments.json, arguments.query)
