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
MOST_SECONDS = 120
#: So many decisions before the desk is killed, before it is killed again, and in all.
MILESTONES = (150, 300, 450)
LEASE = 3.0


@dataclass
class Held:
    """An item in somebody's hands.

    Attributes:
        clip: Which.
        since: When the answer came that gave it to them.
        until: When the last request was sent that is known to have kept it, or decided.
        ended: Whether a decision was sent; without one it stays theirs for the lease's time.
        decided: Whether they were told that the decision is kept.
    """

    clip: int
    since: float
    until: float
    ended: bool = False
    decided: bool = False


@dataclass
class Person:
    """Works through items until told to stop; now and then closes the laptop for a while."""

    name: str
    url: str
    stop: threading.Event
    held: list[Held] = field(default_factory=list)
    refused: int = 0

    @property
    def decided(self) -> int:
        """Decisions of which they were told that they are kept."""
        return sum(held.decided for held in self.held)

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
        sent = time.monotonic()
        answer = browser.submit("/claim", mode="score")
        while not self.stop.is_set():
            found = re.fullmatch(r"/items/(\d+)", answer.headers.get("location", ""))
            if found is None:
                return  # signed out or refused; begin again
            clip = int(found[1])
            mine = Held(clip, time.monotonic(), sent)
            self.held.append(mine)
            sent = time.monotonic()
            if browser.visit(f"/items/{clip}").status_code == 200:
                mine.until = sent
            if chance.random() < 0.1:  # the laptop was closed, and is opened again later
                time.sleep(chance.uniform(0, 2 * LEASE))
                if chance.random() < 0.5:
                    return
            verdict = "not reportable" if chance.random() < 0.9 else "skipped"
            reason = "other" if verdict == "skipped" else ""
            sent = time.monotonic()
            mine.ended = True  # whether or not the answer comes
            answer = browser.submit(f"/items/{clip}/decide", verdict=verdict, reason=reason)
            if answer.status_code == 409:  # it went to somebody else meanwhile
                mine.ended = False
                self.refused += 1
                sent = time.monotonic()
                answer = browser.submit("/claim", mode="score")
            elif answer.status_code == 303:
                mine.until, mine.decided = sent, True


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
        until = time.monotonic() + MOST_SECONDS
        for milestone in MILESTONES:
            while time.monotonic() < until and (
                sum(person.decided for person in people) < milestone
                # Some must have come back too late.
                or (milestone == MILESTONES[-1] and not any(person.refused for person in people))
            ):
                time.sleep(0.1)
            if milestone != MILESTONES[-1]:
                server.kill()
                server = Server(config)
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
    told = sum(person.decided for person in people)
    kept = ask(record, "SELECT count(*) FROM review_decisions")[0][0]
    assert told <= kept <= told + 2 * PEOPLE  # a killed desk may keep what it could not tell
    assert all(person.held for person in people)
    assert any(person.refused for person in people)
    assert told >= MILESTONES[-1]
    record.close()
