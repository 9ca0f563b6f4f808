"""Twenty people at the review desk at once, some of whom vanish, over a desk that is killed."""

import itertools
import random
import re
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from desk_record import ask, fill, join
from desk_server import Browser, Server, free_port, write_config

from earmark.desk.connections import Connections

PEOPLE = 20
ITEMS = 5_000
SECONDS = 25
LEASE = 3.0


@dataclass
class Held:
    """An item in somebody's hands.

    Attributes:
        clip: Which.
        since: When the answer came that gave it to them.
        until: When the last request was sent that keeps it, or the decision.
        ended: Whether that was the decision; without one it stays theirs for the lease's time.
        decided: Whether they were told that the decision is kept.
    """

    clip: int
    since: float
    until: float
    ended: bool = False
    decided: bool = False


@dataclass
class Person:
    """Works through items until told to stop; now and then closes the laptop."""

    name: str
    url: str
    stop: threading.Event
    held: list[Held] = field(default_factory=list)
    refused: int = 0

    def work(self) -> None:
        chance = random.Random(self.name)
        while not self.stop.is_set():
            try:
                with Browser(self.url) as browser:
                    answer = browser.sign_in(self.name)
                    assert answer.status_code in (303, 503), answer.text
                    if answer.status_code == 303:
                        self._session(browser, chance)
            except httpx.TransportError:  # the desk is being restarted
                time.sleep(0.2)

    def _session(self, browser: Browser, chance: random.Random) -> None:
        answer = browser.send("/claim", mode="score")
        while not self.stop.is_set():
            found = re.fullmatch(r"/items/(\d+)(\?.*)?", answer.headers.get("location", ""))
            if found is None:
                return  # signed out or refused; begin again
            clip = int(found[1])
            mine = Held(clip, time.monotonic(), time.monotonic())
            self.held.append(mine)
            browser.visit(f"/items/{clip}")
            if chance.random() < 0.05:  # closed without a word, and opened again later
                time.sleep(chance.uniform(0, 2 * LEASE))
                return
            mine.until, mine.ended = time.monotonic(), True
            verdict = "not reportable" if chance.random() < 0.9 else "skipped"
            reason = "other" if verdict == "skipped" else ""
            answer = browser.send(f"/items/{clip}/decide", verdict=verdict, reason=reason)
            if answer.status_code == 409:  # it went to somebody else meanwhile
                self.refused += 1
                browser.visit("/")
                answer = browser.send("/claim", mode="score")
            elif answer.status_code == 303:
                mine.decided = True


def test_no_item_goes_to_two_people_and_none_is_lost(
    migrated_database: str, tmp_path: Path
) -> None:
    fill(migrated_database, flagged=ITEMS)
    names = [f"person{number}" for number in range(PEOPLE)]
    join(migrated_database, *names)
    config = write_config(
        tmp_path, migrated_database,
        lease_seconds=LEASE, second_review_fraction=0, port=free_port(),
    )  # fmt: skip
    server = Server(config)
    stop = threading.Event()
    people = [Person(name, server.url, stop) for name in names]
    threads = [threading.Thread(target=person.work) for person in people]
    try:
        for thread in threads:
            thread.start()
        for _ in range(2):
            time.sleep(SECONDS / 3)
            server.kill()
            server = Server(config)
        time.sleep(SECONDS / 3)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        server.stop()

    record = Connections(migrated_database, 1)
    by_clip = defaultdict(list)
    for person in people:
        for held in person.held:
            by_clip[held.clip].append((held.since, held, person.name))
    for clip, hands in by_clip.items():
        hands.sort(key=lambda each: each[0])
        for (_, former, one), (since, _, other) in itertools.pairwise(hands):
            free = former.until if former.ended else former.until + LEASE - 0.1
            assert one == other or since >= free, f"{one} and {other} had {clip} at once"

    decided = ask(
        record,
        "SELECT audio_file_id FROM review_decisions WHERE verdict = 'not reportable'",
    )
    assert len({clip for (clip,) in decided}) == len(decided)
    waiting = ask(record, "SELECT id FROM audio_files WHERE status = 'flagged'")
    assert {*waiting}.isdisjoint(decided)
    assert len(decided) + len(waiting) == ITEMS
    # What a browser was told is kept, is.
    told = sum(held.decided for person in people for held in person.held)
    kept = ask(record, "SELECT count(*) FROM review_decisions")[0][0]
    assert told <= kept <= told + 2 * PEOPLE  # a killed desk may keep what it could not tell
    assert all(person.held for person in people)
    assert sum(person.refused for person in people) > 0  # some did come back too late
    assert len(decided) > 500, "too few to show anything"
    record.close()
