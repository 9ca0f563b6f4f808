"""Earmark listens to archives of audio and marks what a person should hear.

The package does the work of every stage as plain functions on files; it knows nothing
of Snakemake, which decides what runs when and where.
"""

from importlib.metadata import version
from pathlib import Path

__version__ = version("earmark")

#: Root of the checkout; the schema of the config and the SQL files are read from there.
REPOSITORY = Path(__file__).resolve().parents[2]
