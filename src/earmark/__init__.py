"""Earmark listens to archives of audio and marks what a person should hear.

The package does the work of every stage as plain functions on files; it knows nothing
of Snakemake, which decides what runs when and where.
"""

from pathlib import Path

#: Root of the checkout; the default configuration and the SQL files are read from there.
REPOSITORY = Path(__file__).resolve().parents[2]
#: Migrations, and queries that are kept as files.
SQL = REPOSITORY / "sql"

__version__: str


def __getattr__(name: str) -> str:
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Only when it is asked for: it would be most of the start of a child process.
    from earmark import version

    return version.current()
