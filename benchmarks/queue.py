"""How fast reviewers see the queue: `make bench-queue`.

    python -m benchmarks.queue

A database with a month of history, made inside the server: clips that came evenly over 30 days,
3 % of them flagged and never reviewed, and a transcript of 800 characters for each.  On it, in
turns, the first page of ``earmark queue`` (20 items), and that of one category after another;
the categories' shares of what is flagged go from 40 % to 0.5 %.  Between them a reviewer is at
work: each tenth time the first item is marked as reviewed.  The same at a tenth of the clips.

``classifications`` holds the flagged rows only, through its triggers and keys; no query of the
queue reads another.  The baseline is the first design's view ``ra_queue`` in the same database.

Bars: a median of at most 10 ms and a 99th percentile of at most 50 ms, for the first page and for
categories, and no plan with a sequential scan.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor
from psycopg2.extensions import make_dsn

from benchmarks.postgres import connection_to, execute, server
from benchmarks.report import Result, finish, progress
from earmark.record import database
from earmark.record.review_queue import first_items

MOST_MEDIAN_MS, MOST_P99_MS = 10.0, 50.0
PAGE = 20
DAYS = 30
FLAGGED = 0.03
ARCHIVE_CLIPS = 2_000
#: Shares of the flagged clips, by category.
SHARES = {
    "harassment": 0.4, "hate": 0.25, "scams": 0.2, "sexual-content": 0.1,
    "violent-threats": 0.045, "self-harm": 0.005,
}  # fmt: skip

#: The view of the first design.
FIRST_DESIGN = """
CREATE VIEW first_design AS
SELECT
    af.id,
    af.original_filename,
    af.opus_path,
    t.transcript_text,
    c.flag_score,
    c.flag_category,
    af.created_at
FROM audio_files af
JOIN transcripts t ON t.audio_file_id = af.id
JOIN classifications c ON c.audio_file_id = af.id
WHERE c.flagged = true
  AND af.status = 'flagged'
  AND af.created_at > NOW() - INTERVAL '24 hours'
ORDER BY c.flag_score DESC
"""

_ARCHIVES = """
INSERT INTO archives (id, name, date, status, asr, policy, members, ok)
SELECT n, format('sound_%%s.tar.gz', n), '2026-11-02', 'ok', 'large-v2', '2026-11',
       %(archive_clips)s, %(archive_clips)s
FROM generate_series(0, %(clips)s / %(archive_clips)s) n
"""

_CLIPS = """
INSERT INTO audio_files (
    id, original_filename, opus_path, archive_source, duration_seconds, file_size_bytes,
    created_at, processed_at, status, archive_id, ordinal, source_sha256, source_bytes,
    source_format, sample_rate, channels
)
SELECT
    n, format('posts/%%s.mp3', n),
    format('audio/date=2026-11-02/sound_%%s.tar.gz/%%s.opus', n / a, n %% a),
    format('sound_%%s.tar.gz', n / a), 45, 270000, moment, moment,
    CASE WHEN random() < %(flagged)s THEN 'flagged' ELSE 'transcribed' END,
    n / a, n %% a, md5(n::text) || md5((n + 1)::text), 480000, 'mp3', 44100, 2
FROM generate_series(%(first)s, %(last)s) n,
    LATERAL (
        SELECT %(archive_clips)s AS a,
               now() - %(days)s * (1 - n / %(clips)s::float) * INTERVAL '1 day' AS moment
    ) of_clip
"""

_TRANSCRIPTS = """
INSERT INTO transcripts (audio_file_id, asr, transcript_text, language, confidence, created_at)
SELECT id, 'large-v2', repeat(md5(id::text), 25), 'en', random(), created_at
FROM audio_files WHERE id BETWEEN %(first)s AND %(last)s
"""

# A quarter of the flagged clips are flagged by two categories.
_CLASSIFICATIONS = """
INSERT INTO classifications (
    audio_file_id, policy, flagged, flag_score, flag_category, threshold, answer, created_at
)
SELECT DISTINCT ON (af.id, share.category)
    af.id, '2026-11', TRUE, 0.5 + random() / 2, share.category, 0.5, 'logits', af.created_at
FROM audio_files af
CROSS JOIN LATERAL (
    SELECT random() AS place FROM generate_series(1, CASE WHEN af.id %% 4 = 0 THEN 2 ELSE 1 END)
) draw
JOIN (
    SELECT category, lag(upto, 1, 0::float) OVER (ORDER BY upto) AS after, upto
    FROM unnest(%(categories)s, %(upto)s::float[]) AS c (category, upto)
) share ON draw.place >= share.after AND draw.place < share.upto
WHERE af.status = 'flagged'
"""


@dataclass(frozen=True)
class Times:
    """How long a query took, again and again.

    Attributes:
        median: In ms.
        p99: The 99th percentile, in ms.
    """

    median: float
    p99: float

    @classmethod
    def of(cls, milliseconds: Sequence[float]) -> "Times":
        """Summarise single times."""
        return cls(statistics.median(milliseconds), statistics.quantiles(milliseconds, n=100)[98])

    def __str__(self) -> str:
        return f"median {self.median:8.2f} ms, p99 {self.p99:8.2f} ms"


def fill(conninfo: str, clips: int) -> None:
    """Make the history."""
    database.migrate(conninfo)
    execute(conninfo, FIRST_DESIGN)
    shares = list(SHARES.items())
    facts = {
        "clips": clips,
        "archive_clips": ARCHIVE_CLIPS,
        "days": DAYS,
        "flagged": FLAGGED,
        "categories": [category for category, _ in shares],
        "upto": [sum(share for _, share in shares[: n + 1]) for n in range(len(shares))],
    }
    step = 500_000
    with connection_to(conninfo) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT setseed(0.5)")
        cursor.execute(_ARCHIVES, facts)
        # What is inserted here is known to be right; checking each key would take most of the time.
        cursor.execute("SET LOCAL session_replication_role = replica")
        for first in range(0, clips, step):
            progress(f"{clips:,} clips: {first:,} are there")
            part = {"first": first, "last": min(first + step, clips) - 1}
            cursor.execute(_CLIPS, facts | part)
            cursor.execute(_TRANSCRIPTS, part)
        cursor.execute("SET LOCAL session_replication_role = DEFAULT")
        progress(f"{clips:,} clips: flags")
        cursor.execute(_CLASSIFICATIONS, facts)
        connection.commit()
    progress(f"{clips:,} clips: vacuum")
    execute(conninfo, "VACUUM (ANALYZE)")


def measure(
    connection: Connection, rounds: int
) -> tuple[Times, dict[str, Times], Times, list[str]]:
    """Read the queue again and again.

    Returns:
        Times of the first page, of each category's, and of the first design's view; and the kinds
        of scans in the plans of the first two.
    """
    first: list[float] = []
    of_category: dict[str, list[float]] = {category: [] for category in SHARES}
    baseline: list[float] = []
    with connection.cursor() as cursor:
        for number in range(rounds):
            first.append(_milliseconds(connection, lambda: first_items(cursor, PAGE)))
            for category, times in of_category.items():
                times.append(
                    _milliseconds(connection, partial(first_items, cursor, PAGE, category))
                )
            if number < rounds // 10:
                baseline.append(
                    _milliseconds(
                        connection,
                        lambda: cursor.execute(f"SELECT * FROM first_design LIMIT {PAGE}"),
                    )
                )
            if number % 10 == 0:
                (top,) = first_items(cursor, 1)
                cursor.execute("UPDATE audio_files SET status = 'reviewed' WHERE id = %s", [top.id])
                connection.commit()
        scans = sorted({scan for name in (None, *SHARES) for scan in _scans(cursor, name)})
    categories = {category: Times.of(times) for category, times in of_category.items()}
    return Times.of(first), categories, Times.of(baseline), scans


def _milliseconds(connection: Connection, read: Callable[[], object]) -> float:
    begun = time.perf_counter()
    read()
    took = time.perf_counter() - begun
    connection.rollback()
    return 1000 * took


def _scans(cursor: Cursor, category: str | None) -> list[str]:
    """The kinds of scans in the plan of a page, with what they read."""
    explained = _Explaining(cursor)
    first_items(cast(Cursor, explained), PAGE, category)
    return explained.scans


class _Explaining:
    """A cursor that looks at plans."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self.scans: list[str] = []

    def execute(self, sql: str, parameters: Sequence[object]) -> None:
        self._cursor.execute(f"EXPLAIN (FORMAT JSON) {sql}", parameters)
        self._walk(self._cursor.fetchall()[0][0][0]["Plan"])

    def fetchall(self) -> list[Any]:
        return []

    def _walk(self, node: dict[str, Any]) -> None:
        if "Relation Name" in node:
            where = node.get("Index Name", node["Relation Name"])
            self.scans.append(f"{node['Node Type']} of {where}")
        for child in node.get("Plans", []):
            self._walk(child)


def main() -> int:
    """Measure and check the bars; returns the exit status."""
    options = _options()
    missed = []
    found = {}
    with server(fsync="off", autovacuum="off") as conninfo:
        for clips in (options.clips // 10, options.clips):
            execute(conninfo, f"CREATE DATABASE clips_{clips} TEMPLATE template0 ENCODING 'UTF8'")
            of_size = make_dsn(conninfo, dbname=f"clips_{clips}")
            fill(of_size, clips)
            with connection_to(of_size) as connection:
                with connection.cursor() as cursor:
                    cursor.execute("SELECT count(*) FROM ra_queue")
                    waiting = cursor.fetchall()[0][0]
                progress(f"{clips:,} clips: {options.rounds} rounds")
                first, categories, baseline, scans = measure(connection, options.rounds)
            found[clips] = (first, baseline)
            print(f"{clips:,} clips of {DAYS} days, {waiting:,} wait for review")
            print(f"  first page       {first}")
            for category, times in categories.items():
                print(f"  {category:16} {times}")
            print(f"  first design     {baseline}")
            print(f"  plans: {', '.join(scans)}")
            for what, times in {"first page": first, **categories}.items():
                if times.median > MOST_MEDIAN_MS or times.p99 > MOST_P99_MS:
                    missed.append(
                        f"{what} at {clips:,} clips: {times}; allowed {MOST_MEDIAN_MS:g} and "
                        f"{MOST_P99_MS:g} ms"
                    )
            if any(scan.startswith("Seq Scan") for scan in scans):
                missed.append(f"a sequential scan at {clips:,} clips")
    (small, _), (large, baseline) = found.values()
    print(f"ten times the clips: {large.median / small.median:.2f} times the median")
    ratio = baseline.median / large.median
    return finish(Result("queue", ratio, large.median, baseline.median, "ms"), missed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--clips", type=int, default=10_000_000, help="and a tenth of them before (%(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=500, help="of reading (%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
