"""Rows of a long stage, kept as it goes on, so that a killed job resumes where it stopped.

A stage adds rows as they are made; every so often those gathered become one more part, a
Parquet file that appears whole or not at all.  A job that is tried again finds the rows of
the parts and makes the others.  Parts lie below a folder named by what the rows depend on,
so those of another input or of other settings are never taken for one's own.

Only one process at a time writes the parts of a stage: the archive's lock sees to that.
"""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from earmark import version
from earmark.errors import EarmarkError
from earmark.tables import read_table, write_table
from earmark.volume import STAGES, Volume

logger = logging.getLogger(__name__)


def fingerprint(source: Path, settings: Mapping[str, object]) -> str:
    """Name of all that the rows of a stage depend on.

    Args:
        source: The file that the rows are made from; its content counts.
        settings: What else changes the rows, as JSON can hold it. Leave out what does not,
            such as the size of a batch: a job may be tried again with a smaller one.

    Returns:
        32 hexadecimal digits.

    Raises:
        OSError: the file cannot be read.
    """
    facts = json.dumps({"version": version.current(), **settings}, sort_keys=True)
    with source.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(f"{content} {facts}".encode()).hexdigest()[:32]


class Checkpoint:
    """The rows of one stage of one archive made so far."""

    def __init__(self, folder: Path, schema: pa.Schema, key: str, seconds: float) -> None:
        """Find the parts that an earlier attempt left; those of another key are removed.

        Args:
            folder: A folder for this stage of this archive alone.
            schema: One of :mod:`earmark.tables`.
            key: What :func:`fingerprint` says.
            seconds: At most so much work is lost when the job is killed, if no two calls of
                :meth:`add` are more than half of it apart.

        Raises:
            OSError: the volume cannot be read or written.
        """
        self._folder, self._schema, self._seconds = folder / key, schema, seconds
        for stale in folder.iterdir() if folder.is_dir() else ():
            if stale != self._folder:
                shutil.rmtree(stale)
        self._paths = sorted(self._folder.glob("[0-9]*.parquet"))
        self._drop_damaged()
        self._number = int(self._paths[-1].stem) + 1 if self._paths else 0
        self._rows: list[Mapping[str, Any]] = []
        self._written_at = self._added_at = time.monotonic()
        self._longest_wait = 0.0

    def _drop_damaged(self) -> None:
        """Forget what can't be read: the rows are made again."""
        for path in tuple(self._paths):
            try:
                read_table(path, self._schema)
            except EarmarkError as error:
                logger.warning("%s; its rows are made again", error)
                path.unlink()
                self._paths.remove(path)

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows; they become a part when waiting for the next ones could be too late.

        Call it often, also without rows: it expects the next call to come as late as the
        latest one so far.

        Raises:
            OSError: the volume cannot be written.
        """
        now = time.monotonic()
        wait = max(self._longest_wait, now - self._added_at)
        # Once a volume or a model kept it waiting for long, it must not write at every call.
        self._longest_wait = min(wait, self._seconds / 2)
        self._added_at = now
        self._rows.extend(rows)
        if now - self._written_at + self._longest_wait >= self._seconds:
            self.write()

    def write(self) -> None:
        """Make a part of the rows added since the last one.

        Raises:
            OSError: the volume cannot be written.
        """
        if self._rows:
            path = self._folder / f"{self._number:06d}.parquet"
            write_table(path, self._schema, self._rows, {})
            self._paths.append(path)
            self._number += 1
            self._rows = []
        self._written_at = time.monotonic()

    def table(self) -> pa.Table:
        """All rows, those of earlier attempts first.

        Raises:
            OSError: the volume cannot be read or written.
        """
        self.write()
        tables = [read_table(path, self._schema) for path in self._paths]
        return pa.concat_tables([self._schema.empty_table(), *tables])


def remove(volume: Volume, archive: str) -> None:
    """Remove all parts of an archive, once it is loaded.

    Not before: a scheduler throws away the output of a job whose process died, even if that was
    after the last row.

    Args:
        volume: The shared volume.
        archive: The archive's name.
    """
    for stage in STAGES:
        shutil.rmtree(volume.checkpoint(archive, stage), ignore_errors=True)
