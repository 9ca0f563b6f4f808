"""How fast archives get into PostgreSQL: `make bench-load`.

    python -m benchmarks.load

The same clips are brought into three databases of one server:

- ours: :func:`earmark.record.load.load_archive`, from the Parquet files to the receipt;
- rows: as in the first design, into its own tables and indexes: an INSERT per file and table,
  each with a commit of its own, since each function of its ``db.py`` takes a connection.  It is
  timed on a sample of the clips (``--sample``), as all of them would take a quarter of an hour;
- bare: COPY of the same files' rows into tables of their columns with no key, index or
  constraint, in one transaction per archive.  The time of COPY alone, of text that is ready in
  memory, is told apart.

A row is one of ``audio_files``, ``transcripts`` or ``classifications``; each clip has one, one
and six.  The server has the settings of deploy/cluster/postgresql.conf.

Bars: at least 20 times the rows per second of the first, 0.3 times those of the second.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from psycopg2.extensions import make_dsn

from benchmarks.postgres import connection_to, execute, server
from benchmarks.report import Result, finish, progress
from earmark.record import database, staging
from earmark.record.load import load_archive
from earmark.tables import CLASSES, MANIFEST, TRANSCRIPTS, read_table, write_table

LEAST_OF_ROWS = 20.0
LEAST_OF_BARE = 0.3
CATEGORIES = ("harassment", "hate", "scams", "self-harm", "sexual-content", "violent-threats")
DATE = "2026-11-02"
ASR, POLICY = "large-v2-fp16", "2026-11"
TABLES = ("audio_files", "transcripts", "classifications")
#: The tables and indexes of the first design, as it has them.
FIRST_DESIGN = """
CREATE TABLE audio_files (
    id SERIAL PRIMARY KEY,
    original_filename TEXT NOT NULL,
    opus_path TEXT NOT NULL UNIQUE,
    archive_source TEXT,
    duration_seconds FLOAT,
    file_size_bytes INTEGER,
    created_at TIMESTAMP DEFAULT NOW(),
    processed_at TIMESTAMP,
    status TEXT DEFAULT 'pending'
);
CREATE TABLE transcripts (
    id SERIAL PRIMARY KEY,
    audio_file_id INTEGER REFERENCES audio_files(id) ON DELETE CASCADE,
    transcript_text TEXT,
    language TEXT,
    confidence FLOAT,
    created_at TIMESTAMP DEFAULT NOW()
);
CREATE TABLE classifications (
    id SERIAL PRIMARY KEY,
    audio_file_id INTEGER REFERENCES audio_files(id) ON DELETE CASCADE,
    flagged BOOLEAN NOT NULL,
    flag_score FLOAT,
    flag_category TEXT,
    created_at TIMESTAMP DEFAULT NOW()
);
CREATE INDEX idx_audio_status_created ON audio_files(status, created_at DESC);
CREATE INDEX idx_audio_archive ON audio_files(archive_source);
CREATE INDEX idx_classifications_flagged ON classifications(flagged, created_at DESC);
"""


@dataclass(frozen=True)
class Archive:
    """The three files of an archive."""

    name: str
    manifest: Path
    transcripts: Path
    classes: Path
    receipt: Path


@dataclass(frozen=True)
class Clip:
    """Values of the first design's columns."""

    audio_file: tuple[object, ...]
    transcript: tuple[object, ...]
    classifications: list[tuple[object, ...]]


def draw(folder: Path, number: int, clips: int, rng: np.random.Generator) -> Archive:
    """Write an archive's files as the stages before loading do; clips of half a minute to one.

    Args:
        folder: Where to.
        number: Of the archive; part of its name.
        clips: How many it holds.
        rng: Draws texts and scores; about 3 % of the clips are flagged.
    """
    name = f"sound_{number:03d}.tar.gz"
    archive = Archive(
        name,
        folder / f"{name}.manifest.parquet",
        folder / f"{name}.transcripts.parquet",
        folder / f"{name}.classes.parquet",
        folder / f"{name}.json",
    )
    ordinals = np.arange(clips, dtype=np.int32)
    seconds = rng.uniform(30, 60, clips)
    _write(
        archive.manifest, MANIFEST, name, ordinals,
        {"archive_status": "ok", "archive_type": "tar.gz", "archive_bytes": clips * 480_000},
        member=[f"posts/{number}/{ordinal}.mp3" for ordinal in ordinals],
        opus_path=[f"audio/date={DATE}/{name}/{ordinal:06d}.opus" for ordinal in ordinals],
        source_sha256=[rng.bytes(32).hex() for _ in ordinals],
        source_bytes=(seconds * 8000).astype(int),
        source_format=["mp3"] * clips,
        opus_bytes=(seconds * 6000).astype(int),
        duration_seconds=seconds,
        sample_rate=[44100] * clips,
        channels=[2] * clips,
        status=["ok"] * clips,
        selected=[True] * clips,
        inclusion_probability=[1.0] * clips,
    )  # fmt: skip
    segments = [_segments(length, rng) for length in seconds]
    _write(
        archive.transcripts, TRANSCRIPTS, name, ordinals, {"seconds": 1.0},
        text=[" ".join(str(part["text"]) for part in parts) for parts in segments],
        language=["en"] * clips,
        language_probability=rng.uniform(0.8, 1, clips),
        confidence=rng.uniform(0.4, 1, clips),
        no_speech_probability=rng.uniform(0, 0.2, clips),
        compression_ratio=rng.uniform(1, 2, clips),
        speech_seconds=seconds * 0.9,
        segments=segments,
        status=["ok"] * clips,
        seconds=rng.uniform(0.1, 0.3, clips),
    )  # fmt: skip
    scores = rng.beta(0.35, 4, (clips, len(CATEGORIES))) ** 2
    hits = np.flatnonzero(rng.uniform(size=clips) < 0.03)
    scores[hits, rng.integers(len(CATEGORIES), size=len(hits))] = 0.9
    scores = scores.ravel()
    _write(
        archive.classes, CLASSES, name, np.repeat(ordinals, len(CATEGORIES)), {"seconds": 1.0},
        category=list(CATEGORIES) * clips,
        flagged=scores >= 0.5,
        score=scores,
        threshold=[0.5] * len(scores),
        truncated=[False] * len(scores),
        answer=["logits"] * len(scores),
        status=["ok"] * len(scores),
    )  # fmt: skip
    return archive


def _segments(seconds: float, rng: np.random.Generator) -> list[dict[str, object]]:
    """Segments of a window of speech each, with two and a half words a second."""
    parts = []
    for start in np.arange(0, seconds, 25.0):
        end = min(start + 25.0, seconds)
        words = rng.choice(_WORDS, max(1, int(2.5 * (end - start))))
        parts.append(
            {"start": start, "end": end, "text": " ".join(words), "avg_logprob": rng.uniform(-1, 0)}
        )
    return parts


_WORDS = np.array(
    ["".join(word) for word in np.random.default_rng(0).choice(list("etaoinshrdlu"), (4000, 5))]
)


def _write(
    path: Path,
    schema: pa.Schema,
    archive: str,
    ordinals: np.ndarray,
    facts: dict[str, object],
    **columns: object,
) -> None:
    count = len(ordinals)
    known = {"archive": [archive] * count, "ordinal": ordinals, **columns}
    arrays = [
        pa.array(known[field.name], field.type) if field.name in known
        else pa.nulls(count, field.type)
        for field in schema
    ]  # fmt: skip
    write_table(path, schema, pa.Table.from_arrays(arrays, schema=schema), facts)


def ours(conninfo: str, archives: Sequence[Archive]) -> float:
    """Seconds to load the archives as the workflow does."""
    database.migrate(conninfo)
    return _timed(
        conninfo,
        lambda: [
            load_archive(
                each.manifest, each.transcripts, each.classes, each.receipt, conninfo,
                each.name, DATE, ASR, POLICY,
            )
            for each in archives
        ],
    )  # fmt: skip


def rows(conninfo: str, clips: Sequence[Clip]) -> float:
    """Seconds to insert clips as the first design does."""
    execute(conninfo, FIRST_DESIGN)
    with connection_to(conninfo) as connection, connection.cursor() as cursor:

        def insert() -> None:
            for clip in clips:
                cursor.execute(
                    "INSERT INTO audio_files (original_filename, opus_path, archive_source, "
                    "duration_seconds, file_size_bytes) VALUES (%s, %s, %s, %s, %s) RETURNING id",
                    clip.audio_file,
                )
                (clip_id,) = cursor.fetchone() or (None,)
                connection.commit()
                cursor.execute(
                    "INSERT INTO transcripts (audio_file_id, transcript_text, language, "
                    "confidence) VALUES (%s, %s, %s, %s)",
                    (clip_id, *clip.transcript),
                )
                connection.commit()
                for answer in clip.classifications:
                    cursor.execute(
                        "INSERT INTO classifications (audio_file_id, flagged, flag_score, "
                        "flag_category) VALUES (%s, %s, %s, %s)",
                        (clip_id, *answer),
                    )
                    connection.commit()

        return _timed(conninfo, insert)


def bare(conninfo: str, archives: Sequence[Archive]) -> tuple[float, float]:
    """Seconds to COPY the files' rows into tables of their columns; and without reading them."""
    everything = copying = 0.0
    for table, schema in zip(TABLES, (MANIFEST, TRANSCRIPTS, CLASSES), strict=True):
        columns = ", ".join(f"{field.name} {_type(field.type)}" for field in schema)
        execute(conninfo, f"CREATE TABLE {table} ({columns})")
    execute(conninfo, "CHECKPOINT")
    for each in archives:
        with (
            connection_to(conninfo) as connection,
            connection.cursor() as cursor,
            duckdb.connect() as duck,
        ):
            begun = time.perf_counter()
            texts = [
                staging.csv(read_table(path, schema), duck)
                for path, schema in (
                    (each.manifest, MANIFEST),
                    (each.transcripts, TRANSCRIPTS),
                    (each.classes, CLASSES),
                )
            ]
            ready = time.perf_counter()
            for table, text in zip(TABLES, texts, strict=True):
                cursor.copy_expert(f"COPY {table} FROM STDIN (FORMAT csv)", text, size=1 << 18)
            connection.commit()
            ended = time.perf_counter()
            everything += ended - begun
            copying += ended - ready
    return everything, copying


def _type(kind: pa.DataType) -> str:
    """PostgreSQL's type for a column of a file."""
    if pa.types.is_list(kind):
        return "JSONB"
    return {
        "string": "TEXT", "int32": "INTEGER", "int64": "BIGINT", "double": "DOUBLE PRECISION",
        "bool": "BOOLEAN", "timestamp[us, tz=UTC]": "TIMESTAMPTZ",
    }[str(kind)]  # fmt: skip


def _timed(conninfo: str, work: Callable[[], object]) -> float:
    execute(conninfo, "CHECKPOINT")  # each begins with the same quiet server
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _clips(archives: Sequence[Archive], count: int) -> list[Clip]:
    """The first clips of the archives, as values of the first design's columns."""
    found: list[Clip] = []
    for each in archives:
        members = pq.read_table(each.manifest).to_pylist()
        heard = pq.read_table(each.transcripts).to_pylist()
        judged = iter(pq.read_table(each.classes).to_pylist())
        for member, transcript in zip(members, heard, strict=True):
            if len(found) == count:
                return found
            answers = [next(judged) for _ in CATEGORIES]
            found.append(
                Clip(
                    (
                        member["member"], member["opus_path"], each.name,
                        member["duration_seconds"], member["opus_bytes"],
                    ),
                    (transcript["text"], transcript["language"], transcript["confidence"]),
                    [(row["flagged"], row["score"], row["category"]) for row in answers],
                )
            )  # fmt: skip
    return found


def main() -> int:
    """Measure and check the bars; returns the exit status."""
    options = _options()
    per_clip = 2 + len(CATEGORIES)
    count = -(-options.clips // options.archive_clips)
    rng = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory(prefix="bench-load-files-") as name, server() as conninfo:
        archives = []
        for number in range(count):
            progress(f"writing archive {number + 1} of {count}")
            archives.append(draw(Path(name), number, options.archive_clips, rng))
        databases = {}
        for each in ("ours", "rows", "bare"):
            execute(conninfo, f"CREATE DATABASE {each} TEMPLATE template0 ENCODING 'UTF8'")
            databases[each] = make_dsn(conninfo, dbname=each)
        clips = count * options.archive_clips
        sample = min(options.sample, clips)
        rates = {}
        progress("ours")
        rates["ours"] = clips * per_clip / ours(databases["ours"], archives)
        progress("bare COPY")
        everything, copying = bare(databases["bare"], archives)
        rates["bare"] = clips * per_clip / everything
        progress("row by row")
        rates["rows"] = sample * per_clip / rows(databases["rows"], _clips(archives, sample))
    of_rows, of_bare = rates["ours"] / rates["rows"], rates["ours"] / rates["bare"]
    print(f"{clips:,} clips in {count} archives, {per_clip} rows each, {os.cpu_count()} cores")
    print(f"ours       {rates['ours']:9,.0f} rows/s  from Parquet files to receipts")
    print(
        f"rows       {rates['rows']:9,.0f} rows/s  an INSERT and commit each; ours is "
        f"{of_rows:.1f} times as fast (timed on {sample:,} of the clips)"
    )
    print(f"bare COPY  {rates['bare']:9,.0f} rows/s  ours reaches {of_bare:.2f} of it")
    alone = clips * per_clip / copying
    print(
        f"  alone    {alone:9,.0f} rows/s  with the text ready: {rates['ours'] / alone:.2f} of it"
    )
    missed = []
    if of_rows < LEAST_OF_ROWS:
        missed.append(f"{of_rows:.1f} times row by row, wanted {LEAST_OF_ROWS:g}")
    if of_bare < LEAST_OF_BARE:
        missed.append(f"{of_bare:.2f} of a bare COPY, wanted {LEAST_OF_BARE:g}")
    return finish(Result("load", of_rows, rates["ours"], rates["rows"], "rows/s"), missed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=int, default=200_000, help="(%(default)s)")
    parser.add_argument("--archive-clips", type=int, default=10_000, help="each (%(default)s)")
    parser.add_argument(
        "--sample", type=int, default=5_000, help="clips to insert row by row (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="draws the data (%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
