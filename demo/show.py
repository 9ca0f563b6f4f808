"""Shows what a run of the demo made: the review queue, the counts, the files, what to try."""

import argparse
import sys
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from earmark import cli, configuration
from earmark.record.database import connect, connection_string
from earmark.volume import Volume

STATUSES = ("flagged", "transcribed", "pending", "failed", "skipped", "duplicates")

NEXT = """
Where things are (below demo/volume)
  audio/            the Opus files, by day and archive
  manifests/ transcripts/ classes/
                    one Parquet file per archive, for DuckDB
  processed/        one receipt per archive
  logs/             what each stage said
  state/postgres/   the database

What to try next
  .venv/bin/earmark queue --configfile demo/config.yaml --category scams
  .venv/bin/earmark reviewer add ada --configfile demo/config.yaml
  .venv/bin/earmark review --configfile demo/config.yaml
                    listen and decide, at http://127.0.0.1:8400
  .venv/bin/earmark analyse --configfile demo/config.yaml flag_rate
  .venv/bin/earmark evaluate demo/gold.jsonl --configfile demo/config.yaml
                    how good its classifier is on 300 texts
  .venv/bin/snakemake --profile profiles/local --configfile demo/config.yaml
                    finds nothing to do; touch an archive in demo/archives, and it is done again
  make demo-clean   start over
  config/README.md  name your own archives and real models
"""


COUNTS = """
    SELECT a.name, a.status, a.members,
           COUNT(*) FILTER (WHERE af.status = 'flagged' AND af.duplicate_of IS NULL),
           COUNT(*) FILTER (WHERE af.status = 'transcribed' AND af.duplicate_of IS NULL),
           COUNT(*) FILTER (WHERE af.status = 'pending' AND af.duplicate_of IS NULL),
           COUNT(*) FILTER (WHERE af.status = 'failed' AND af.duplicate_of IS NULL),
           a.skipped, a.duplicates, a.reason
    FROM archives a LEFT JOIN audio_files af ON af.archive_id = a.id
    GROUP BY a.id ORDER BY a.name
"""


def main() -> int:
    """Show the demo's results; returns an exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--configfile",
        type=Path,
        default=Path(__file__).parent / "config.yaml",
        help="what the demo ran with (demo/config.yaml)",
    )
    configfile = parser.parse_args().configfile
    for command in (["queue", "--limit", "10"], ["health"]):
        if status := cli.main([*command, "--configfile", str(configfile)]):
            return status
    print("What became of the archives' members; transcribed are those that were not flagged")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in ("archive", "status", "members", *STATUSES, "reason"):
        table.add_column(column, justify="right" if column in ("members", *STATUSES) else "left")
    root = Volume.of(configuration.read(configfile)).root
    with connect(connection_string(None, root)) as connection, connection.cursor() as cursor:
        cursor.execute(COUNTS)
        for row in cursor:
            table.add_row(*("" if value is None else str(value) for value in row))
    Console(width=200, highlight=False).print(table)
    print(NEXT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
