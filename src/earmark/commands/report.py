"""`earmark report`: the daily report."""

import argparse
import datetime
import sys
from zoneinfo import ZoneInfo

from earmark.commands.parser import Commands, add
from earmark.settings import Settings
from earmark.watch.report import gather, tell, warning_of, write_report

#: Exit status when noon will be missed, or when nobody can tell.
MISSED = 1


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add(
        commands, "report", _report,
        "Write today's report: reports/DATE/index.html below volume.root, with the queue as CSV "
        "and Parquet beside it. Exit status 1: the target of noon will be missed, or the database "
        "does not answer.",
    )  # fmt: skip
    parser.add_argument(
        "--alert", action="store_true",
        help="run review.alert, which tells somebody, if noon will be missed and the hour is one "
        "of review.alert_hours",
    )  # fmt: skip


def _report(settings: Settings, arguments: argparse.Namespace) -> int:
    wanted = settings.review
    report = gather(settings)
    warning = warning_of(report.status.review)
    hour = datetime.datetime.now(ZoneInfo(wanted.timezone)).hour
    # First of all, as there may be no room for the report.
    if warning and arguments.alert and wanted.alert and hour in wanted.alert_hours:
        tell(wanted.alert, warning)
    print(write_report(settings, report))
    if warning:
        print(f"earmark: {warning}", file=sys.stderr)
    return MISSED if warning else 0
