"""How far the day's review is, what it asks of people, and how the last days went."""

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loaded_archive import Archive, judgement, member, query, transcript

from earmark.desk import workload
from earmark.desk.workload import Exposure, Precision, Tally, Today
from earmark.record.database import connect

ADA, BEA, LEAD = 1, 2, 3
CLIPS = 8
#: Where it is about noon now, so that some hours before are today and a day before is not.
ZONE = f"Etc/GMT{datetime.datetime.now(datetime.UTC).hour - 12:+d}"


class Review:
    """A database with clips that a day's queue shows, and people who decide about them."""

    def __init__(self, archive: Archive) -> None:
        archive.members = [member(n) for n in range(CLIPS)]
        archive.heard = [transcript(n) for n in range(CLIPS)]
        archive.judged = [
            judgement(n, category, score)
            for n in range(CLIPS - 1)  # the last is none that was flagged
            for category, score in (("threats", 0.9 - n / 100), ("scams", 0.2 + n / 10))
        ]
        archive.load()
        self.conninfo = archive.conninfo
        query(
            self.conninfo,
            "INSERT INTO reviewers (name, role, password_hash) VALUES "
            "('ada', 'reviewer', ''), ('bea', 'reviewer', ''), ('lea', 'lead', '')",
        )

    def decide(
        self,
        clip: int,
        who: int,
        verdict: str,
        *categories: str,
        ago: float,
        round: str = "first",
        seconds: float = 30,
    ) -> None:
        """A decision some minutes ago, so many seconds after the item was opened."""
        query(
            self.conninfo,
            "INSERT INTO review_decisions (audio_file_id, reviewer_id, round, chosen_by, verdict, "
            "categories, reason, flag_score, flag_categories, claimed_at, decided_at) "
            "SELECT id, %s, %s, 'score', %s, %s, %s, queue_score, queue_categories, "
            "now() - %s * INTERVAL '1 minute' - %s * INTERVAL '1 second', "
            "now() - %s * INTERVAL '1 minute' FROM audio_files WHERE id = %s",
            *(who, round, verdict, sorted(categories)),
            *("other" if verdict == "skipped" else None, ago, seconds, ago, clip),
        )
        if verdict not in ("skipped", "undone"):
            query(self.conninfo, "SELECT mark_reviewed(%s)", clip)

    def draw(self, clip: int) -> None:
        query(self.conninfo, "INSERT INTO second_reviews VALUES (%s, 0.5)", clip)

    def open(self, clip: int, who: int, ago: float, what: str = "page") -> None:
        query(
            self.conninfo,
            "INSERT INTO review_access (audio_file_id, reviewer_id, what, at) "
            "VALUES (%s, %s, %s, now() - %s * INTERVAL '1 minute')",
            *(clip, who, what, ago),
        )

    def ask(self, question: Callable[..., Any], *arguments: object) -> Any:
        with connect(self.conninfo) as connection:
            return question(connection, *arguments, ZONE)

    def today(self, who: int = ADA, target: int = 10) -> Today:
        found: Today = self.ask(workload.today, who, target)
        return found

    def exposure(self, who: int = ADA, break_minutes: int = 45) -> Exposure:
        found: Exposure = self.ask(workload.exposure, who, break_minutes)
        return found


@pytest.fixture
def review(tmp_path: Path, migrated_database: str) -> Review:
    return Review(Archive(tmp_path, migrated_database))


DAY = 24 * 60


def test_a_day_begins_with_all_to_do_and_no_pace(review: Review) -> None:
    review.decide(1, ADA, "reportable", "threats", ago=DAY)
    assert review.today() == Today(0, 10, 10, CLIPS - 2, False, 0, 0, None, 0)


def test_only_first_decisions_of_today_that_stand_count_for_the_day(review: Review) -> None:
    review.decide(1, ADA, "reportable", "threats", ago=30)
    review.decide(1, BEA, "reportable", "threats", ago=20, round="second")
    review.decide(2, ADA, "unsure", ago=25)
    review.decide(3, ADA, "not reportable", ago=24)
    review.decide(3, ADA, "undone", ago=23)
    review.decide(4, BEA, "skipped", ago=22)
    review.decide(5, BEA, "not reportable", ago=DAY + 1)
    today = review.today()
    assert (today.done, today.left, today.mine) == (2, 8, 2)
    assert review.today(BEA).mine == 1


def test_a_target_that_is_reached_leaves_nothing(review: Review) -> None:
    review.decide(1, ADA, "not reportable", ago=30)
    review.decide(2, ADA, "not reportable", ago=20)
    today = review.today(target=1)
    assert (today.done, today.left, today.finish_at) == (2, 0, None)


def test_the_pace_is_that_of_the_last_hour(review: Review) -> None:
    for clip, ago in enumerate((200, 150, 50, 40, 30), 1):
        review.decide(clip, BEA if clip == 3 else ADA, "not reportable", ago=ago)
    today = review.today()
    assert today.per_hour_team == pytest.approx(3)
    assert today.per_hour_mine == pytest.approx(2)
    now = query(review.conninfo, "SELECT now()")[0][0]
    assert today.finish_at is not None
    assert (today.finish_at - now) / datetime.timedelta(minutes=1) == pytest.approx(100, abs=1)


def test_early_in_the_day_the_pace_is_that_since_the_first_decision(review: Review) -> None:
    for clip, ago in enumerate((20, 15, 5), 1):
        review.decide(clip, ADA, "not reportable", ago=ago)
    assert review.today().per_hour_team == pytest.approx(6, rel=0.01)


def test_two_decisions_a_moment_apart_promise_no_record(review: Review) -> None:
    review.decide(1, ADA, "not reportable", ago=0.1)
    assert review.today().per_hour_team == 0
    review.decide(2, ADA, "not reportable", ago=0)
    assert review.today().per_hour_team == pytest.approx(12)


def test_what_waits_is_counted_up_to_a_limit(
    review: Review, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workload, "MOST_WAITING", 3)
    today = review.today()
    assert (today.waiting, today.waiting_capped) == (3, True)


# --- care -----------------------------------------------------------------------------------------


def test_exposure_counts_items_once_and_of_today(review: Review) -> None:
    review.open(1, ADA, ago=30)
    review.open(1, ADA, ago=29)
    review.open(2, ADA, ago=28)
    review.open(2, ADA, ago=27, what="audio")
    review.open(3, ADA, ago=DAY)
    review.open(4, BEA, ago=5)
    review.decide(1, ADA, "reportable", "threats", ago=29)
    review.decide(2, ADA, "not reportable", ago=26)
    exposure = review.exposure()
    assert (exposure.items_today, exposure.reportable_today) == (2, 1)


@pytest.mark.parametrize(
    ("opened", "minutes"),
    [
        ([], 0),
        ([60, 11], 0),  # the last thing was a pause ago
        ([5], 5),
        ([60, 40, 21, 12, 3], 21),
        ([33, 24, 15, 6], 33),
    ],
)
def test_a_pause_of_ten_minutes_ends_a_stretch_of_work(
    review: Review, opened: list[float], minutes: float
) -> None:
    for ago in opened:
        review.open(1, ADA, ago=ago)
    review.open(1, BEA, ago=9)
    assert review.exposure().minutes_at_work == pytest.approx(minutes, abs=0.1)


def test_a_break_is_due_after_as_long_as_the_person_chose(review: Review) -> None:
    for ago in range(0, 31, 6):
        review.decide(1, ADA, "skipped", ago=ago)
    assert review.exposure(break_minutes=30).break_due
    assert not review.exposure(break_minutes=31).break_due
    assert not review.exposure(BEA, break_minutes=5).break_due


# --- for leads ------------------------------------------------------------------------------------


def test_each_day_tells_what_became_of_its_clips(review: Review) -> None:
    review.draw(2)
    review.draw(3)
    review.decide(1, ADA, "reportable", "threats", "scams", ago=30)
    review.decide(2, ADA, "not reportable", ago=29)
    review.decide(3, ADA, "reportable", "threats", ago=DAY)
    review.decide(3, BEA, "reportable", "scams", ago=20, round="second")
    review.decide(4, BEA, "unsure", ago=DAY)
    review.decide(4, LEAD, "reportable", "scams", ago=10, round="adjudication")
    review.decide(CLIPS, BEA, "not reportable", ago=25)
    review.decide(5, BEA, "not reportable", ago=14 * DAY)
    found = review.ask(workload.last_days)
    today, yesterday = found.days[:2]
    assert len(found.days) == 14
    assert dict(found.by_day) == {
        today: Tally(decided=3, reportable=1, not_reportable=1, waiting=1),
        yesterday: Tally(decided=2, reportable=1, disputed=1),
    }
    assert dict(found.queued) == {
        (today, "threats"): Tally(decided=2, reportable=1, waiting=1),
        (today, None): Tally(decided=1, not_reportable=1),
        (yesterday, "threats"): Tally(decided=2, reportable=1, disputed=1),
    }
    assert found.found == {
        (today, "threats"): 1,
        (today, "scams"): 1,
        (yesterday, "scams"): 1,
    }
    assert found.categories == ["scams", "threats"]
    assert found.queued_in_all["threats"] == Tally(decided=4, reportable=2, waiting=1, disputed=1)
    assert found.found_in_all == {"threats": 1, "scams": 2}
    assert found.precision == {
        # Of them only clip 4 was flagged so.
        "scams": Precision(Tally(decided=1, reportable=1), same=1),
        "threats": Precision(Tally(decided=4, reportable=2, waiting=1, disputed=1), same=1),
    }


def test_a_clip_that_a_lead_settles_as_unsure_is_in_no_share_but_told(review: Review) -> None:
    review.decide(1, ADA, "reportable", "threats", ago=30)
    review.decide(2, ADA, "not reportable", ago=29)
    for clip in (3, 4):
        review.decide(clip, ADA, "unsure", ago=28)
    review.decide(3, LEAD, "unsure", ago=10, round="adjudication")
    found = review.ask(workload.last_days)
    tally = found.by_day[found.days[0]]
    assert tally == Tally(decided=4, reportable=1, not_reportable=1, unsure=1, disputed=1)
    assert tally.judged + tally.unsure + tally.open == tally.decided
    assert found.precision["threats"] == Precision(tally, same=1)
    assert (tally.judged, tally.open) == (2, 1)


def test_the_load_of_each_person_is_told(review: Review) -> None:
    for clip, (ago, seconds) in enumerate([(DAY, 10), (30, 20), (25, 90)], 1):
        review.decide(clip, ADA, "not reportable", ago=ago, seconds=seconds)
    review.decide(4, BEA, "not reportable", ago=8 * DAY)
    review.open(1, ADA, ago=28)
    review.open(2, ADA, ago=5)
    query(review.conninfo, "UPDATE reviewers SET active = FALSE WHERE name = 'bea'")
    ada, lea = review.ask(workload.load)
    assert (ada.name, ada.role, ada.decisions_today, ada.decisions_week) == (
        "ada",
        "reviewer",
        2,
        3,
    )
    assert (ada.median_seconds, ada.items_today) == (20, 2)
    assert ada.minutes_today == pytest.approx(5, abs=0.1)  # 30, 28 and 25 minutes ago
    assert (lea.name, lea.decisions_week, lea.median_seconds) == ("lea", 0, None)
