"""Shows what a run of the demo made: the review queue, the counts, the files, what to try."""

import sys
from pathlib import Path

from earmark import cli

CONFIG = Path(__file__).parent / "config.yaml"

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
  .venv/bin/earmark analyse --configfile demo/config.yaml flag_rate
  .venv/bin/snakemake --profile profiles/local --configfile demo/config.yaml
                    finds nothing to do; touch an archive in demo/archives, and it is done again
  make demo-clean   start over
  config/README.md  name your own archives and real models
"""


def main() -> int:
    """Show the demo's results; returns an exit status."""
    file = ["--configfile", str(CONFIG)]
    for command in (["queue", *file, "--limit", "8"], ["status", *file], ["health", *file]):
        if status := cli.main(command):
            return status
    print(NEXT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
