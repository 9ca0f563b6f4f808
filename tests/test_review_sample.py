"""The sample that people hear among the queue's top: how it is drawn, given out and weighted."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from desk_record import ask, fill, join, json_lines
from desk_server import Browser, serving, write_config
from hypothesis import given
from hypothesis import strategies as st

from earmark.desk import claims, decisions, export, sampling
from earmark.desk.accounts import Reviewer
from earmark.desk.claims import Claim
from earmark.desk.connections import Connections
from earmark.desk.decisions import Judgement
from earmark.desk.gold_set import write_gold_set
from earmark.desk.sampling import Lane
from earmark.record.review_sample import BOUNDS, allocate, expected_rates, luck, order, strata
from earmark.volume import Volume

HARMLESS = Judgement("not reportable")
HARMFUL = Judgement("reportable", frozenset({"scams"}))


def contents(count: int, world: int = 0) -> list[str]:
    return [hashlib.sha256(f"{world} {each}".encode()).hexdigest() for each in range(count)]


# --- the design -------------------------------------------------------------------------


def test_clips_without_a_score_are_a_stratum_of_their_own() -> None:
    found = strata([np.nan, 0, 0.0099, 0.01, 0.5, 0.8, 1], BOUNDS)
    assert found.tolist() == [0, 1, 1, 2, 5, 6, 6]


@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.floats(0.002, 0.998)), min_size=1, max_size=8),
    st.integers(1, 2_000),
)
def test_as_many_are_drawn_as_are_wanted_and_there_are(
    found: list[tuple[int, float]], number: int
) -> None:
    sizes, rates = zip(*found, strict=True)
    numbers = allocate(sizes, rates, number)
    assert numbers.sum() == min(number, sum(sizes))
    assert (numbers <= sizes).all()
    if number >= 2 * len(sizes):
        assert (numbers >= np.minimum(sizes, 2)).all()


def test_the_allocation_varies_less_than_shares_of_the_population_would() -> None:
    sizes = np.array([90_000, 9_000, 1_000])
    rates = np.array([0.002, 0.05, 0.6])

    def variance(numbers: np.ndarray) -> float:
        return float((sizes**2 * rates * (1 - rates) / numbers).sum())

    best = allocate(sizes, rates, 500)
    assert variance(best) < 0.62 * variance(500 * sizes / sizes.sum())
    for one, other in ((0, 1), (1, 2), (2, 0)):  # no move of five clips makes it better
        moved = best.copy()
        moved[[one, other]] += [5, -5]
        assert variance(moved) > variance(best)


def test_what_was_heard_corrects_what_the_scores_promise() -> None:
    assumed, learnt = expected_rates([0.5, 0.5], [0, 980], [0, 0])
    assert assumed == 0.5
    assert learnt == pytest.approx(0.01)


def test_whoever_stops_has_heard_the_same_part_of_each_stratum() -> None:
    stratum = np.repeat([0, 1, 2], [500, 100, 40])
    numbers = [30, 20, 10]
    drawn = order(luck(contents(640)), stratum, numbers)
    assert Counter(stratum[drawn].tolist()) == {0: 30, 1: 20, 2: 10}
    for stop in range(61):
        heard = np.bincount(stratum[drawn[:stop]], minlength=3)
        assert np.abs(heard - stop * np.array(numbers) / 60).max() <= 1


def test_the_draw_depends_on_contents_and_not_on_the_order_in_which_they_came() -> None:
    clips = np.array(contents(300))
    stratum = np.arange(300) % 3
    mixed = np.random.default_rng(0).permutation(300)
    drawn = clips[order(luck(clips.tolist()), stratum, [10, 5, 5])]
    again = clips[mixed][order(luck(clips[mixed].tolist()), stratum[mixed], [10, 5, 5])]
    assert drawn.tolist() == again.tolist()
    fewer = clips[order(luck(clips.tolist()), stratum, [6, 3, 3])]
    assert {*fewer} < {*drawn}


def test_stopping_early_gives_each_clip_of_a_stratum_the_same_chance() -> None:
    """What `review_sample_heard` takes for granted: heard of a stratum / clips of it."""
    stratum = np.repeat([0, 1], [40, 10])
    worlds, stop = 2_000, 8  # of 20 that are drawn
    times = np.zeros(50)
    heard = np.zeros(2)
    for world in range(worlds):
        first = order(luck(contents(50, world)), stratum, [12, 8])[:stop]
        times[first] += 1
        heard += np.bincount(stratum[first], minlength=2)
    expected = heard / [40, 10] / worlds
    spread = np.sqrt(expected * (1 - expected) / worlds)[stratum]
    assert np.abs(times / worlds - expected[stratum]).max() < 4.5 * spread.max()


# --- at the desk ------------------------------------------------------------------------

ALWAYS = Lane(per_day=6, target=6, timezone="Europe/Zurich")


class Desk:
    """Two people and a lead at a desk whose sample is drawn of 8 flagged clips and 40 others."""

    def __init__(self, conninfo: str) -> None:
        fill(conninfo, flagged=8, controls=40)
        self.connections = Connections(conninfo, 4)
        self.ask("UPDATE audio_files SET control = FALSE, review_probability = 0 WHERE id > 8")
        self.ada, self.ben = join(conninfo, "ada", "ben")
        (self.lea,) = join(conninfo, "lea", role="lead")

    def ask(self, sql: str, *values: object) -> Any:
        return ask(self.connections, sql, *values)

    def claim(self, who: Reviewer, lane: Lane = ALWAYS, share: float | None = None) -> Claim | None:
        with self.connections.transaction() as connection:
            sampling.draw_of_today(connection, lane)
            share = lane.share if share is None else share
            return claims.claim_next(connection, who, "score", 60, sample_share=share)

    def review(
        self, who: Reviewer, judgement: Judgement = HARMLESS, share: float = 1, second: float = 0
    ) -> Claim:
        found = self.claim(who, share=share)
        assert found is not None
        with self.connections.transaction() as connection:
            decisions.decide(connection, who, found.audio_file_id, judgement, second)
        return found

    def sample(self) -> list[int]:
        """The newest draw, in the order in which it is given out."""
        rows = self.ask(
            "SELECT audio_file_id FROM review_sample "
            "WHERE draw_id = (SELECT max(id) FROM review_draws) ORDER BY place"
        )
        return [clip for (clip,) in rows]

    def exported(self, path: Path) -> list[dict[str, Any]]:
        (day,) = self.ask("SELECT (now() AT TIME ZONE 'Europe/Zurich')::date")[0]
        with self.connections.transaction() as connection:
            export.export(connection, path, "jsonl", day, day, "Europe/Zurich")
        return json_lines(path)


@pytest.fixture
def desk(migrated_database: str) -> Iterator[Desk]:
    made = Desk(migrated_database)
    yield made
    made.connections.close()


def test_the_sample_is_of_flagged_clips_and_others(desk: Desk) -> None:
    desk.claim(desk.ada)
    strata_drawn = desk.ask(
        "SELECT stratum, clips, drawn FROM review_strata WHERE clips > 0 ORDER BY 1"
    )
    assert [row[:2] for row in strata_drawn] == [(0, 40), (5, 5), (6, 3)]
    assert sum(row[2] for row in strata_drawn) == len(desk.sample()) == 6
    assert min(row[2] for row in strata_drawn) >= 1


def test_items_of_the_sample_come_in_its_order_whoever_asks(desk: Desk) -> None:
    given_out = [desk.review(who) for who in (desk.ada, desk.ben, desk.lea, desk.ada)]
    assert [each.audio_file_id for each in given_out] == desk.sample()[:4]
    assert {(each.mode, each.chosen_by, each.round) for each in given_out} == {
        ("score", "sample", "first")
    }


def test_the_rest_of_the_queue_goes_on_and_the_sample_comes_when_it_is_empty(desk: Desk) -> None:
    given_out = [desk.review(desk.ada, share=1e-12) for _ in range(8)]
    assert {each.chosen_by for each in given_out} == {"score"}
    assert desk.review(desk.ada, share=1e-12).chosen_by == "sample"


def test_nobody_hears_a_clip_twice_because_it_is_drawn_as_well(desk: Desk) -> None:
    while desk.claim(desk.ada) is not None:
        desk.review(desk.ada)
    heard = desk.ask("SELECT audio_file_id FROM review_decisions")
    assert len(heard) == len({*heard}) == len({*range(1, 9), *desk.sample()})


def test_a_draw_takes_in_what_was_loaded_since_the_one_before_and_a_day_has_one(
    desk: Desk,
) -> None:
    desk.review(desk.ada)
    first = desk.sample()
    desk.ask(
        "INSERT INTO archives (id, name, date, status, asr, policy) "
        "OVERRIDING SYSTEM VALUE VALUES (2, 'b.tar', '2026-11-03', 'ok', 'whisper', '2026-11')"
    )
    desk.ask(
        "INSERT INTO audio_files (id, original_filename, opus_path, status, archive_id, ordinal, "
        "source_sha256, copied_from, duplicate_of) SELECT 100 + n, n::text, "
        "format('audio/%%s.opus', n), 'transcribed', 2, n, encode(sha256(n::text::bytea), 'hex'), "
        "CASE n WHEN 1 THEN 'audio/elsewhere.opus' END, CASE n WHEN 2 THEN 3 END "
        "FROM generate_series(1, 5) n"
    )
    desk.review(desk.ada)
    assert desk.sample() == first
    desk.ask("UPDATE review_draws SET drawn_on = drawn_on - 1, drawn_at = now() - INTERVAL '1 day'")
    found = desk.review(desk.ada)
    assert {*desk.sample()} == {103, 104, 105}
    assert found.audio_file_id in {103, 104, 105}
    assert desk.ask("SELECT archive_id, draw_id FROM review_draw_archives ORDER BY 1") == [
        (1, 1),
        (2, 2),
    ]


def test_a_second_person_hears_items_of_the_sample_too(desk: Desk) -> None:
    clip = next(each for each in iter(lambda: desk.review(desk.ada, second=1), None)
                if each.audio_file_id > 8).audio_file_id  # fmt: skip
    waiting = desk.ask("SELECT audio_file_id FROM review_waiting ORDER BY since")
    heard = {desk.review(desk.ben).audio_file_id for _ in waiting}
    assert clip in heard


def test_a_decision_of_the_sample_stands_for_the_part_of_its_stratum_that_was_heard(
    desk: Desk, tmp_path: Path
) -> None:
    top = [desk.review(desk.ada, HARMFUL, share=1e-12).audio_file_id for _ in range(2)]
    for _ in range(3):
        desk.review(desk.ben, HARMLESS)
    rows = desk.exported(tmp_path / "a.jsonl")
    places = desk.sample()
    reached = max(places.index(row["audio_file_id"]) for row in rows
                  if row["chosen_by"] == "sample")  # fmt: skip
    heard = places[: reached + 1]
    assert {*heard} <= {row["audio_file_id"] for row in rows}
    of_stratum = Counter(row["sample_stratum"] for row in rows if row["audio_file_id"] in heard)
    clips = {0: 40, 5: 5, 6: 3}
    for row in rows:
        if row["audio_file_id"] in heard:
            probability = of_stratum[row["sample_stratum"]] / clips[row["sample_stratum"]]
            assert row["sample_probability"] == pytest.approx(probability)
            assert row["weight"] == pytest.approx(1 / probability)
        else:
            assert row["audio_file_id"] in top
            assert (row["sample_stratum"], row["sample_probability"]) == (None, None)
            assert row["weight"] is None
        assert row["sample_draw"] is not None
    total = sum(row["weight"] or 0 for row in rows)
    assert total == sum(clips[each] for each in of_stratum)


def test_an_item_of_the_sample_that_lost_its_place_keeps_its_weight(
    desk: Desk, tmp_path: Path
) -> None:
    for _ in range(4):
        desk.review(desk.ada)
    before = desk.exported(tmp_path / "before.jsonl")
    volume = Volume(tmp_path / "volume")
    with desk.connections.transaction() as connection:
        write_gold_set(connection, volume, tmp_path / "before.gold.jsonl")
    desk.ask(
        "UPDATE audio_files SET archive_id = NULL, ordinal = NULL, opus_path = NULL "
        "WHERE id IN (SELECT audio_file_id FROM review_decisions)"
    )
    after = desk.exported(tmp_path / "after.jsonl")
    with desk.connections.transaction() as connection:
        write_gold_set(connection, volume, tmp_path / "after.gold.jsonl")
    gold = [json_lines(tmp_path / f"{when}.gold.jsonl") for when in ("before", "after")]
    for rows in (before, after, *gold):
        assert sorted(row["weight"] for row in rows) == sorted(row["weight"] for row in before)
    assert len(before) == 4
    assert [row["sample_draw"] for row in after] == [row["sample_draw"] for row in before]


def test_a_clip_that_is_not_flagged_leaves_and_comes_back_like_any_other(desk: Desk) -> None:
    clip = next(each for each in iter(lambda: desk.review(desk.ada), None)
                if each.audio_file_id > 8).audio_file_id  # fmt: skip
    status = "SELECT status FROM audio_files WHERE id = %s"
    assert desk.ask(status, clip) == [("reviewed",)]
    with desk.connections.transaction() as connection:
        again = decisions.undo(connection, desk.ada, 60)
    assert (again.audio_file_id, again.mode, again.chosen_by) == (clip, "score", "sample")
    assert desk.ask(status, clip) == [("transcribed",)]


def test_an_item_of_an_older_draw_that_is_reopened_comes_up_again(desk: Desk) -> None:
    while (found := desk.review(desk.ada).audio_file_id) <= 8:
        pass  # until one that nothing flagged
    desk.ask(
        "UPDATE review_draws SET drawn_on = drawn_on - 1, drawn_at = drawn_at - INTERVAL '1 day'"
    )
    with desk.connections.transaction() as connection:
        decisions.reopen(connection, desk.lea, found)
    claim = desk.claim(desk.ben)
    assert claim is not None
    assert (claim.audio_file_id, claim.chosen_by) == (found, "sample")


def test_no_page_tells_an_item_of_the_sample_from_another(
    desk: Desk, migrated_database: str, tmp_path: Path
) -> None:
    sample = {"sample": {"per_day": 20}, "target": 40}
    config = write_config(tmp_path, migrated_database, review=sample, second_review_fraction=0)
    shapes: dict[str, set[str]] = {}
    with serving(config) as server, Browser(server.url) as browser:
        browser.sign_in("ada")
        for _ in range(14):
            item = browser.submit("/claim").headers["location"].split("?")[0]
            page = browser.visit(item).text
            clip = int(item.rpartition("/")[2])
            ((chosen_by, flagged),) = desk.ask(
                "SELECT c.chosen_by, af.queue_categories IS NOT NULL FROM review_claims c "
                "JOIN audio_files af ON af.id = c.audio_file_id WHERE c.audio_file_id = %s",
                clip,
            )
            kind = f"{chosen_by}, {'flagged' if flagged else 'not flagged'}"
            shapes.setdefault(kind, set()).add(shape(page, clip))
            answer = browser.submit(f"{item}/decide", verdict="not reportable")
            browser.submit(answer.headers["location"] + "/release")
            assert "no" not in re.findall(r"the model: (\w+)", browser.visit("/mine").text)
            read_only = browser.visit(item).text
            assert "The model&#39;s scores" not in read_only
            assert "The model's scores" not in read_only
    assert {"score, flagged", "sample, not flagged"} <= {*shapes}
    assert len(set.union(*shapes.values())) == 1


def shape(page: str, clip: int) -> str:
    """A page without what differs from any clip to any other, or from minute to minute."""
    page = page[page.index("<h1>") : page.index("</main>")]
    page = re.sub(r'<form class="row" method="post" action="/undo".*?</form>', "", page, flags=re.S)
    page = re.sub(r'<dialog id="drop".*?</dialog>', "", page, flags=re.S)
    return re.sub(rf"(Item |posts/|items/){clip}\b", r"\1N", re.sub(r"\s+", " ", page))
