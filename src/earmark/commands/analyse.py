"""`earmark analyse`: questions to the Parquet outputs."""

import argparse

from earmark.commands.parser import Commands, add, add_period
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
    add_period(parser)


def _analyse(settings: Settings, arguments: argparse.Namespace) -> None:
    if arguments.query is None:
        rows = [{"query": name, "answers": text} for name, text in analysis.queries().items()]
        show(rows, arguments.json, "Queries in sql/analysis")
        return
    answer = analysis.run(
        arguments.query, Volume.of(settings).root, arguments.since, arguments.until
    )
    rows = [dict(zip(answer.columns, row, strict=True)) for row in answer.fetchall()]
    title = arguments.query
    if not rows and not arguments.json:
        root, since, until = Volume.of(settings).root, arguments.since, arguments.until
        title = f"{arguments.query}: {analysis.why_empty(root, since, until)}"
    show(rows, arguments.json, title)
