"""How fast the review desk's pages are: `make bench-desk`.

    python -m benchmarks.desk

The database of ``benchmarks.queue``, with a year of reviews on top: 300 decisions a day, some of
them heard a second time, and what was opened and heard for them.  Twenty people work on it at the
same time through ``earmark review``: each asks for an item, reads its page, decides, and looks at
the queue now and then, with a pause between (a person takes a minute; here it is two seconds).
A lead looks at the leads' pages meanwhile.  The server, the desk and the twenty share this
machine's cores.

The baseline is the same at a tenth of the clips, in the same run: pages must not get slower as
the record grows.  Bars, with all clips: a median of at most 50 ms and a 95th percentile of at
most 150 ms over all pages of reviewers, no item given to two people.
"""

import argparse
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import yaml
from argon2 import PasswordHasher
from psycopg2.extensions import make_dsn, parse_dsn

from benchmarks.postgres import connection_to, execute, server
from benchmarks.queue import fill
from benchmarks.report import Result, finish, progress

MOST_MEDIAN_MS, MOST_P95_MS = 50.0, 150.0
PEOPLE = 20
PASSWORD = "correct horse battery"
DECISIONS_A_DAY = 300

#: Clips of the past that somebody decided about, evenly over a year; the clips' own times do not
#: matter to any query of the desk.
_HISTORY = """
CREATE TEMP TABLE heard ON COMMIT DROP AS
SELECT id, 1 + row_number %% %(people)s AS person,
    now() - INTERVAL '12 hours' - row_number * INTERVAL '1 day' / %(a_day)s AS moment,
    row_number %% 10 = 0 AS again
FROM (
    SELECT id, row_number() OVER (ORDER BY created_at DESC) FROM audio_files
    WHERE status = 'flagged' AND created_at < now() - INTERVAL '2 days'
    LIMIT 365 * %(a_day)s
) past;

UPDATE audio_files SET status = 'reviewed' WHERE id IN (SELECT id FROM heard);

INSERT INTO second_reviews (audio_file_id, probability, drawn_at)
SELECT id, 0.1, moment FROM heard WHERE again;

INSERT INTO review_decisions (
    audio_file_id, reviewer_id, round, chosen_by, verdict, categories, asr, policy, flag_score,
    flag_categories, claimed_at, decided_at
)
SELECT h.id, CASE round WHEN 'first' THEN person ELSE 1 + person %% %(people)s END, round,
    CASE round WHEN 'first' THEN 'score' ELSE 'second' END,
    CASE WHEN h.id %% 3 = 0 THEN 'not reportable' ELSE 'reportable' END,
    CASE WHEN h.id %% 3 = 0 THEN '{}' ELSE af.queue_categories END, 'large-v2', '2026-11',
    af.queue_score, af.queue_categories, moment - INTERVAL '50 seconds', moment
FROM heard h JOIN audio_files af ON af.id = h.id
JOIN (VALUES ('first'), ('second')) rounds (round) ON round = 'first' OR again
ORDER BY moment;

INSERT INTO review_access (reviewer_id, audio_file_id, what, detail, at)
SELECT person, id, what, detail, moment FROM heard,
    (VALUES ('page', NULL), ('audio', 'bytes=0-'), ('audio', 'bytes=65536-')) kinds (what, detail)
ORDER BY moment;
"""


class Times:
    """How long pages took, in ms, by what they are."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.of: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def take(self, page: str) -> Iterator[None]:
        """Time what is done meanwhile."""
        begun = time.perf_counter()
        yield
        with self._lock:
            self.of[page].append(1000 * (time.perf_counter() - begun))

    def all(self, *, leads: bool = False) -> list[float]:
        """Of all pages of reviewers, or of leads."""
        return [ms for page, took in self.of.items() if page.startswith("/lead") == leads
                for ms in took]  # fmt: skip


def p95(milliseconds: list[float]) -> float:
    """The 95th percentile."""
    return statistics.quantiles(milliseconds, n=20)[18]


def prepare(conninfo: str) -> None:
    """Make the accounts and a year of reviews."""
    hashed = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
    with connection_to(conninfo) as connection, connection.cursor() as cursor:
        for number in range(PEOPLE + 1):
            role = "lead" if number == PEOPLE else "reviewer"
            cursor.execute(
                "INSERT INTO reviewers (name, role, password_hash) VALUES (%s, %s, %s)",
                [f"person{number}", role, hashed],
            )
        cursor.execute(_HISTORY, {"people": PEOPLE, "a_day": DECISIONS_A_DAY})
        connection.commit()
    execute(conninfo, "VACUUM (ANALYZE)")


@contextmanager
def desk(conninfo: str) -> Iterator[str]:
    """The real command over a database; gives its address."""
    found = parse_dsn(conninfo)
    url = f"postgresql://{found['user']}@/{found['dbname']}?host={found['host']}"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        config = {
            "volume": {"root": folder},
            "source": {"kind": "folder", "directory": folder},
            "database": {"url": url},
            "desk": {"port": 0},
        }
        file.write_text(yaml.safe_dump(config), encoding="utf-8")
        process = subprocess.Popen(
            [sys.executable, "-m", "earmark", "review", "--configfile", str(file)],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert process.stderr is not None
            said = ""
            for line in process.stderr:
                said += line
                if address := re.search(r"the review desk is at (\S+)", line):
                    yield address[1]
                    return
            raise RuntimeError(said)
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate()


@contextmanager
def signed_in(url: str, number: int) -> Iterator[tuple[httpx.Client, str]]:
    """A client with a session, and what its forms must send along."""
    with httpx.Client(base_url=url, headers={"Accept": "text/html"}, timeout=60) as client:
        form = _csrf(client.get("/sign-in").text)
        name = f"person{number}"
        client.post("/sign-in", data={"csrf": form, "name": name, "password": PASSWORD})
        yield client, _csrf(client.get("/").text)


def _csrf(page: str) -> str:
    found = re.search(r'name="csrf" (?:value|content)="([0-9a-f]+)"', page)
    assert found is not None, page
    return found[1]


def review(url: str, number: int, until: float, pause: float, times: Times) -> None:
    """Work as one person until a time."""
    chance = random.Random(number)
    with signed_in(url, number) as (client, csrf):
        answer = client.post("/claim", data={"csrf": csrf, "mode": "score"})
        while time.monotonic() < until:
            path = answer.headers["location"]
            if not path.startswith("/items/"):
                return  # the queue is empty: there are too few clips
            item = path.partition("?")[0]
            time.sleep(chance.uniform(0, 2 * pause))
            with times.take("/items/{id}"):
                client.get(path).raise_for_status()
            time.sleep(chance.uniform(0, 2 * pause))
            with times.take("decide"):
                answer = client.post(
                    f"{item}/decide", data={"csrf": csrf, "verdict": "not reportable"}
                )
            assert answer.status_code == 303, answer.text
            if chance.random() < 0.2:
                with times.take("/"):
                    client.get("/").raise_for_status()


def lead(url: str, until: float, times: Times) -> None:
    """Look at the leads' pages in turns."""
    with signed_in(url, PEOPLE) as (client, _):
        while time.monotonic() < until:
            for page in ("/lead", "/lead/decisions", "/lead/access"):
                with times.take(page):
                    client.get(page).raise_for_status()
                time.sleep(2)


def measure(conninfo: str, seconds: float, pause: float) -> tuple[Times, int]:
    """Let everybody work; returns the times, and how many items went to two people as first."""
    times = Times()
    with desk(conninfo) as url, ThreadPoolExecutor(PEOPLE + 1) as pool:
        until = time.monotonic() + seconds
        work = [pool.submit(review, url, number, until, pause, times) for number in range(PEOPLE)]
        work.append(pool.submit(lead, url, until, times))
        for each in work:
            each.result()
    with connection_to(conninfo) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM (SELECT FROM review_decisions WHERE round = 'first' "
            "GROUP BY audio_file_id HAVING count(*) > 1) twice"
        )
        return times, cursor.fetchall()[0][0]


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
            progress(f"{clips:,} clips: a year of reviews")
            prepare(of_size)
            progress(f"{clips:,} clips: {PEOPLE} people for {options.seconds:g} s")
            times, twice = measure(of_size, options.seconds, options.pause)
            found[clips] = times
            print(f"{clips:,} clips, {PEOPLE} people, {options.pause:g} s between their pages")
            for page, took in sorted(times.of.items()):
                print(f"  {page:16} {len(took):5} times, median {statistics.median(took):6.1f} ms, "
                      f"p95 {p95(took):6.1f} ms")  # fmt: skip
            if twice:
                missed.append(f"{twice} items went to two people at {clips:,} clips")
    small, large = (times.all() for times in found.values())
    median, slow = statistics.median(large), p95(large)
    print(f"all pages of reviewers: median {median:.1f} ms, p95 {slow:.1f} ms")
    if median > MOST_MEDIAN_MS or slow > MOST_P95_MS:
        missed.append(f"allowed are {MOST_MEDIAN_MS:g} and {MOST_P95_MS:g} ms")
    return finish(Result("desk", p95(small) / slow, slow, p95(small), "ms"), missed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--clips", type=int, default=10_000_000, help="and a tenth of them before (%(default)s)"
    )
    parser.add_argument(
        "--seconds", type=float, default=120, help="of work at each size (%(default)s)"
    )
    parser.add_argument(
        "--pause", type=float, default=2, help="of a person between pages, in s (%(default)s)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
