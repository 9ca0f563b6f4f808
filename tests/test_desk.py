"""Who gets which item to review, and what becomes of what they decide."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg2
import pytest
from desk_record import ask, fill, join
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from earmark.desk import claims, decisions, items
from earmark.desk.accounts import Reviewer
from earmark.desk.claims import Claim, Mode, NotYours
from earmark.desk.connections import Connections
from earmark.desk.decisions import Judgement, NothingToUndo
from earmark.errors import EarmarkError, UnavailableError

REPORTABLE = Judgement("reportable", frozenset({"scams"}))
HARMLESS = Judgement("not reportable")
SKIPPED = Judgement("skipped", reason="I know the speaker")


class Team:
    """Three people and a lead at a desk."""

    def __init__(self, conninfo: str) -> None:
        self.conninfo = conninfo
        self.connections = Connections(conninfo, 4)
        self.ada, self.ben, self.cleo = join(conninfo, "ada", "ben", "cleo")
        (self.lea,) = join(conninfo, "lea", role="lead")

    def claim(
        self, who: Reviewer, mode: Mode = "score", category: str | None = None, lease: float = 60
    ) -> Claim | None:
        with self.connections.transaction() as connection:
            return claims.claim_next(connection, who, mode, lease, category)

    def claim_of(self, who: Reviewer) -> Claim | None:
        with self.connections.transaction() as connection:
            return claims.held(connection, who)

    def given(self, who: Reviewer, mode: Mode = "score", category: str | None = None) -> int:
        found = self.claim(who, mode, category)
        assert found is not None
        return found.audio_file_id

    def decide(
        self, who: Reviewer, clip: int, judgement: Judgement = REPORTABLE, share: float = 0
    ) -> None:
        with self.connections.transaction() as connection:
            decisions.decide(connection, who, clip, judgement, share)

    def review(self, who: Reviewer, judgement: Judgement = REPORTABLE, share: float = 0) -> int:
        clip = self.given(who)
        self.decide(who, clip, judgement, share)
        return clip

    def undo(self, who: Reviewer, clip: int | None = None) -> int:
        with self.connections.transaction() as connection:
            return decisions.undo(connection, who, 60, clip).audio_file_id

    def reopen(self, who: Reviewer, clip: int) -> None:
        with self.connections.transaction() as connection:
            decisions.reopen(connection, who, clip)

    def overrule(self, who: Reviewer, clip: int) -> None:
        with self.connections.transaction() as connection:
            decisions.overrule(connection, who, clip, 60)

    def release(self, who: Reviewer) -> None:
        with self.connections.transaction() as connection:
            claims.release(connection, who)

    def heartbeat(self, who: Reviewer, clip: int) -> None:
        with self.connections.transaction() as connection:
            claims.heartbeat(connection, who, clip, 60)

    def ask(self, sql: str, *values: object) -> Any:
        return ask(self.connections, sql, *values)

    def status(self, clip: int) -> str:
        return str(self.ask("SELECT status FROM audio_files WHERE id = %s", clip)[0][0])

    def outcome(self, clip: int) -> tuple[Any, ...]:
        """State, verdict and categories."""
        rows = self.ask(
            "SELECT state, verdict, categories FROM review_outcomes WHERE audio_file_id = %s", clip
        )
        return tuple(rows[0]) if rows else ()


@pytest.fixture
def team(migrated_database: str) -> Iterator[Team]:
    fill(migrated_database, flagged=12, controls=3)
    made = Team(migrated_database)
    yield made
    made.connections.close()


# --- claims -----------------------------------------------------------------------------


def test_each_gets_the_highest_score_that_nobody_has(team):
    assert [team.given(who) for who in (team.ada, team.ben, team.cleo)] == [1, 2, 3]


def test_what_is_counted_as_waiting_is_what_the_queue_shows(team):
    team.ask(
        "UPDATE audio_files SET created_at = created_at - id * INTERVAL '3 hours' WHERE id > 3"
    )
    team.ask("UPDATE audio_files SET created_at = now() + INTERVAL '2 days' WHERE id = 12")
    team.review(team.ada)
    waiting = "SELECT id, {}, {} FROM {} ORDER BY id"
    shown = team.ask(waiting.format("flag_score", "flag_categories", "ra_queue"))
    assert team.ask(waiting.format("queue_score", "queue_categories", "ra_waiting")) == shown
    assert [row[0] for row in shown] == [2, 3, 4, 5, 6, 7, 12]


def test_who_asks_again_gets_what_they_have(team):
    assert team.given(team.ada) == team.given(team.ada) == 1
    assert team.given(team.ada, "control") == 1


def test_an_item_of_a_category_may_have_another_as_its_highest(team):
    assert team.given(team.ada, "category", "harassment") == 3
    assert team.given(team.ben, "category", "harassment") == 6
    assert team.claim(team.cleo, "category", "no such thing") is None


def test_controls_come_in_the_order_of_their_contents(team):
    wanted = [row[0] for row in team.ask("SELECT id FROM ra_controls")]
    assert {*wanted} == {13, 14, 15}
    assert [team.given(who, "control") for who in (team.ada, team.ben, team.cleo)] == wanted
    assert team.claim(team.lea, "control") is None


def test_nobody_is_given_a_category_they_opted_out_of(team):
    spared = replace(team.ada, opted_out=["harassment"])
    seen = []
    while found := team.claim(spared):
        seen.append(found.audio_file_id)
        team.decide(spared, found.audio_file_id, HARMLESS)
    assert seen == [1, 2, 4, 5, 7, 8, 10, 11]


def test_a_silent_browser_s_item_goes_to_the_next_who_asks(team):
    team.claim(team.ada, lease=0)
    assert team.given(team.ben) == 1
    with pytest.raises(NotYours):
        team.heartbeat(team.ada, 1)
    with pytest.raises(NotYours):
        team.decide(team.ada, 1)
    team.decide(team.ben, 1)


def test_an_item_that_nobody_else_took_is_kept_after_its_time(team):
    team.claim(team.ada, lease=0)
    team.heartbeat(team.ada, 1)
    assert team.given(team.ben) == 2
    team.decide(team.ada, 1)


def test_what_is_given_back_comes_up_again(team):
    team.given(team.ada)
    team.release(team.ada)
    assert team.given(team.ben) == 1


def test_a_load_of_the_archive_holds_up_no_claim_and_a_decision_only_for_a_while(team):
    with psycopg2.connect(team.conninfo) as load, load.cursor() as cursor:
        cursor.execute("SELECT FROM audio_files FOR NO KEY UPDATE")
        clip = team.given(team.ada)
        team.heartbeat(team.ada, clip)
        with pytest.raises(UnavailableError, match="lock timeout"):
            team.decide(team.ada, clip)
    load.close()
    team.decide(team.ada, clip)


# --- decisions --------------------------------------------------------------------------


def test_what_is_decided_leaves_the_queue(team):
    assert team.review(team.ada) == 1
    assert team.status(1) == "reviewed"
    assert [row[0] for row in team.ask("SELECT id FROM ra_queue")] == list(range(2, 13))
    assert team.outcome(1) == ("settled", "reportable", ["scams"])


def test_a_control_that_is_decided_is_reviewed_too(team):
    clip = team.given(team.ada, "control")
    team.decide(team.ada, clip, HARMLESS)
    assert team.status(clip) == "reviewed"
    assert team.ask("SELECT chosen_by, flag_score FROM review_decisions") == [("control", None)]


def test_what_is_skipped_stays_for_others_only(team):
    assert team.review(team.ada, SKIPPED) == 1
    assert team.status(1) == "flagged"
    assert team.given(team.ada) == 2
    assert team.given(team.ben) == 1


def test_a_form_that_is_sent_twice_is_one_decision(team):
    clip = team.review(team.ada)
    team.decide(team.ada, clip)
    assert team.ask("SELECT count(*) FROM review_decisions") == [(1,)]
    with pytest.raises(NotYours):
        team.decide(team.ada, clip, HARMLESS)


def test_a_decision_says_what_was_shown(team):
    team.review(team.ada, Judgement("unsure", note="quiet\0", wrong_language=True))
    assert team.ask(
        "SELECT asr, policy, flag_score, flag_categories, note, wrong_language, round, chosen_by "
        "FROM review_decisions"
    ) == [("whisper", "2026-11", pytest.approx(1 - 1 / 24), ["scams"], "quiet\ufffd", True,
           "first", "score")]  # fmt: skip


def test_only_categories_of_the_clip_s_policies_count(team):
    clip = team.given(team.ada)
    with pytest.raises(EarmarkError, match="no category spam"):
        team.decide(team.ada, clip, Judgement("reportable", frozenset({"spam"})))
    team.heartbeat(team.ada, clip)  # nothing has changed
    team.decide(team.ada, clip, Judgement("reportable", frozenset({"violent-threats", "scams"})))
    assert team.outcome(clip)[2] == ["scams", "violent-threats"]


@pytest.mark.parametrize(
    ("judgement", "problem"),
    [
        ({"verdict": "maybe"}, "verdict is none of"),
        ({"verdict": "reportable"}, "choose at least one"),
        ({"verdict": "skipped"}, "for a reason"),
        ({"verdict": "skipped", "reason": "boring"}, "none of too distressing"),
        ({"verdict": "unsure", "reason": "other"}, "for a reason"),
        ({"verdict": "unsure", "categories": frozenset({"scams"})}, "only a reportable"),
        ({"verdict": "unsure", "note": "x" * 4001}, "at most 4,000"),
    ],
)
def test_a_judgement_that_makes_no_sense_is_refused(judgement, problem):
    with pytest.raises(EarmarkError, match=problem):
        Judgement(**judgement)


def test_decisions_can_only_be_added(team):
    team.review(team.ada)
    with pytest.raises(Exception, match="only ever added"):
        team.ask("UPDATE review_decisions SET verdict = 'unsure'")


# --- undo -------------------------------------------------------------------------------


def test_what_is_undone_comes_back_to_who_undid_it(team):
    team.review(team.ada)
    assert team.given(team.ada) == 2
    assert team.undo(team.ada) == 1
    assert team.status(1) == "flagged"
    assert team.outcome(1) == ()
    assert team.given(team.ada) == 1
    assert team.given(team.ben) == 2
    team.decide(team.ada, 1, HARMLESS)
    assert team.outcome(1)[:2] == ("settled", "not reportable")
    assert team.ask("SELECT verdict FROM review_decisions ORDER BY id") == [
        ("reportable",), ("undone",), ("not reportable",)
    ]  # fmt: skip


def test_an_undone_item_that_is_given_back_is_everybody_s_again(team):
    team.review(team.ada)
    team.undo(team.ada)
    team.release(team.ada)
    assert team.given(team.ben) == 1


def test_an_undone_control_is_a_control_again(team):
    clip = team.given(team.ada, "control")
    team.decide(team.ada, clip, HARMLESS)
    team.undo(team.ada)
    assert team.status(clip) == "transcribed"


def test_nothing_can_be_undone_twice_or_by_who_decided_nothing(team):
    with pytest.raises(NothingToUndo):
        team.undo(team.ada)
    team.review(team.ada)
    team.undo(team.ada)
    with pytest.raises(NothingToUndo):
        team.undo(team.ada)


def test_what_somebody_else_has_open_or_has_decided_is_not_undone(team):
    team.review(team.ada, share=1)
    assert team.given(team.ben) == 1
    with pytest.raises(NothingToUndo) as taken:
        team.undo(team.ada)
    team.decide(team.ben, 1, HARMLESS)
    with pytest.raises(NothingToUndo) as settled:
        team.undo(team.ada)
    assert str(taken.value) == str(settled.value)  # or it would tell of the second person
    assert team.undo(team.ben) == 1
    assert team.outcome(1)[0] == "waits for second review"


def test_who_goes_on_does_so_in_the_mode_they_chose(team):
    control = team.given(team.ada, "control")
    assert team.claim_of(team.ada).mode == "control"
    team.decide(team.ada, control, HARMLESS)
    team.undo(team.ada)
    assert (team.claim_of(team.ada).mode, team.claim_of(team.ada).chosen_by) == ("control",) * 2
    team.decide(team.ada, control, HARMLESS)
    assert team.ask("SELECT DISTINCT chosen_by FROM review_decisions") == [("control",)]


def test_a_load_meanwhile_changes_neither_what_is_shown_nor_what_is_kept(team):
    clip = team.given(team.ada)
    team.ask("UPDATE archives SET policy = '2026-12'")
    team.ask("UPDATE audio_files SET status = 'transcribed' WHERE id = %s", clip)
    claim = team.claim_of(team.ada)
    with team.connections.transaction() as connection:
        shown = items.load(connection, clip, (claim.asr, claim.policy))
    assert shown is not None
    assert shown.flag_categories == ["scams"]
    team.decide(team.ada, clip)
    assert team.status(clip) == "reviewed"
    assert team.ask("SELECT policy, flag_categories FROM review_decisions") == [
        ("2026-11", ["scams"])
    ]  # fmt: skip
    team.ask("UPDATE archives SET policy = '2026-11'")
    team.ask("UPDATE audio_files SET status = 'flagged' WHERE id = %s", clip)
    assert team.given(team.ben) != clip


def test_a_skip_does_not_show_the_model_s_score(team):
    team.review(team.ada, SKIPPED)
    with team.connections.transaction() as connection:
        last = decisions.last_decision(connection, team.ada)
        assert not items.may_see(connection, team.ada, 1)
    assert last is not None
    assert (last.flag_score, last.flag_categories) == (None, None)


def test_any_decision_of_the_day_is_taken_back_by_who_made_it_and_the_record_keeps_it(team):
    for _ in range(3):
        team.review(team.ada)
    assert team.undo(team.ada, 1) == 1
    assert team.given(team.ada) == 1
    team.decide(team.ada, 1, HARMLESS)
    assert team.outcome(1)[:2] == ("settled", "not reportable")
    assert team.ask("SELECT verdict FROM review_decisions WHERE audio_file_id = 1 ORDER BY id") == [
        ("reportable",), ("undone",), ("not reportable",)
    ]  # fmt: skip
    assert team.undo(team.ada) == 1  # the newest
    assert team.undo(team.ada) == 3  # and the one before
    with pytest.raises(NothingToUndo):
        team.undo(team.ada, 1)


def test_nobody_takes_back_what_another_decided_or_what_is_older_than_a_day(team):
    team.review(team.ada)
    with pytest.raises(NothingToUndo):
        team.undo(team.ben, 1)
    age_decisions(team)
    with pytest.raises(NothingToUndo):
        team.undo(team.ada, 1)


def age_decisions(team: Team) -> None:
    team.ask("ALTER TABLE review_decisions DISABLE TRIGGER append_only")
    team.ask("UPDATE review_decisions SET decided_at = now() - INTERVAL '25 hours'")
    team.ask("ALTER TABLE review_decisions ENABLE TRIGGER append_only")


def test_a_lead_puts_back_whatever_was_decided_and_the_record_says_who(team):
    team.review(team.ada, share=1)
    team.decide(team.ben, team.given(team.ben), HARMLESS)
    age_decisions(team)
    team.reopen(team.lea, 1)
    assert team.outcome(1) == ()
    assert team.status(1) == "flagged"
    assert team.given(team.cleo) == 1
    assert team.ask(
        "SELECT r.name, d.round, lead.name FROM review_decisions d "
        "JOIN reviewers r ON r.id = d.reviewer_id JOIN reviewers lead ON lead.id = d.undone_by "
        "WHERE verdict = 'undone' ORDER BY d.id"
    ) == [("ada", "first", "lea"), ("ben", "second", "lea")]
    with pytest.raises(NothingToUndo, match="cleo has item 1 open now"):
        team.reopen(team.lea, 1)
    with pytest.raises(NothingToUndo, match="no decision about item 2"):
        team.reopen(team.lea, 2)


def test_a_lead_overrules_what_is_settled_which_stands_until_then(team):
    team.review(team.ada)
    team.overrule(team.lea, 1)
    assert team.outcome(1)[:2] == ("settled", "reportable")
    team.decide(team.lea, 1, HARMLESS)
    assert team.outcome(1) == ("settled", "not reportable", [])
    (leo,) = join_lead(team)
    team.overrule(leo, 1)
    team.decide(leo, 1, REPORTABLE)
    assert team.outcome(1)[:2] == ("settled", "reportable")
    team.undo(leo)
    assert team.outcome(1)[:2] == ("settled", "reportable")  # as ada said; lea was overruled
    with pytest.raises(NothingToUndo, match="leo has item 1 open"):
        team.overrule(team.lea, 1)


def test_a_lead_overrules_nobody_but_others(team):
    team.review(team.lea)
    with pytest.raises(NothingToUndo, match="decided about this item yourself"):
        team.overrule(team.lea, 1)
    team.reopen(team.lea, 1)
    assert team.status(1) == "flagged"


# --- what waits does not stop waiting ---------------------------------------------------


def age_clips(team: Team) -> None:
    team.ask("UPDATE audio_files SET created_at = created_at - INTERVAL '3 days'")


def test_what_is_undone_after_a_day_waits_for_everybody(team):
    team.review(team.ada)
    age_clips(team)
    team.undo(team.ada)
    team.release(team.ada)
    assert team.given(team.ben) == 1


@pytest.mark.parametrize("way", ["lease", "skip", "reopen", "account"])
def test_what_somebody_left_comes_first_when_it_is_old(team, way):
    assert team.given(team.cleo) == 1
    clip = team.given(team.ada)
    if way == "skip":
        team.decide(team.ada, clip, SKIPPED)
    elif way == "reopen":
        team.decide(team.ada, clip)
    elif way == "account":
        team.ask("DELETE FROM review_claims WHERE reviewer_id = %s", team.ada.id)
    else:
        team.ask("UPDATE review_claims SET expires_at = now() WHERE reviewer_id = %s", team.ada.id)
    team.decide(team.cleo, 1)
    age_clips(team)
    if way == "reopen":
        team.reopen(team.lea, clip)
    team.ask("UPDATE audio_files SET created_at = now() WHERE id > 6")
    assert team.given(team.ben) == clip == 2
    team.decide(team.ben, clip)
    assert team.ask("SELECT * FROM review_begun") == []


def test_new_clips_come_before_old_ones_that_nobody_began_and_these_the_oldest_first(team):
    team.ask(
        "UPDATE audio_files SET created_at = now() - id * INTERVAL '2 days' WHERE id IN (1, 3, 6)"
    )
    assert team.review(team.ada, HARMLESS) == 2
    team.ask("UPDATE audio_files SET status = 'reviewed' WHERE id IN (4, 5) OR id BETWEEN 7 AND 12")
    assert [team.review(team.ben, HARMLESS) for _ in range(3)] == [6, 3, 1]


def test_an_old_control_is_still_given_to_be_heard(team):
    age_clips(team)
    given = {team.given(who, "control") for who in (team.ada, team.ben, team.cleo)}
    assert given == {13, 14, 15}


# --- a second person, and a third -------------------------------------------------------


def test_a_drawn_clip_goes_to_one_other_person(team):
    assert team.review(team.ada, share=1) == 1
    assert team.outcome(1) == ("waits for second review", None, None)
    assert team.given(team.ada) == 2
    claim = team.claim(team.ben)
    assert (claim.audio_file_id, claim.round) == (1, "second")
    assert team.given(team.cleo) == 3
    team.decide(team.ben, 1)
    assert team.outcome(1) == ("settled", "reportable", ["scams"])
    assert team.given(team.ben) == 4


def test_a_lead_sees_all_decisions_and_so_is_no_second_person(team):
    team.review(team.ada, share=1)
    claim = team.claim(team.lea)
    assert (claim.audio_file_id, claim.round) == (2, "first")


def test_a_second_review_fits_what_was_asked_for(team):
    assert team.review(team.ada, share=1) == 1  # scams
    control = team.given(team.ada, "control")
    team.decide(team.ada, control, HARMLESS, share=1)
    assert team.given(team.ben, "category", "harassment") == 3
    team.release(team.ben)
    assert team.given(team.ben, "control") == control
    team.release(team.ben)
    assert team.given(team.ben, "category", "scams") == 1
    team.release(team.ben)
    assert team.given(team.ben) == 1


def test_who_opted_out_is_no_second_person_either(team):
    for _ in range(2):
        team.review(team.cleo, HARMLESS)
    assert team.review(team.ada, share=1) == 3  # scams and harassment
    assert team.given(replace(team.ben, opted_out=["harassment"])) == 4
    assert team.given(team.cleo) == 3


def test_the_draw_depends_on_the_content_and_is_kept(team):
    for _ in range(12):
        team.review(team.ada, HARMLESS, share=0.5)
    drawn = team.ask("SELECT audio_file_id, probability FROM second_reviews ORDER BY 1")
    assert 0 < len(drawn) < 12
    assert {probability for _, probability in drawn} == {0.5}
    last = team.undo(team.ada)
    team.decide(team.ada, last, REPORTABLE, share=0.5)
    assert team.ask("SELECT audio_file_id, probability FROM second_reviews ORDER BY 1") == drawn


def test_who_undid_a_first_decision_is_no_second_person(team):
    team.review(team.ada, share=1)
    team.undo(team.ada)
    team.release(team.ada)
    assert team.review(team.ben, share=1) == 1
    assert team.given(team.ada) == 2
    assert team.given(team.cleo) == 1


def test_what_waits_for_a_second_person_in_vain_is_for_a_lead_to_settle(team):
    team.review(team.ada, share=1)
    assert team.claim(team.lea, "adjudication") is None
    team.ask("UPDATE review_waiting SET since = now() - INTERVAL '8 days'")
    assert team.given(team.lea, "adjudication") == 1
    team.decide(team.lea, 1, HARMLESS)
    assert team.outcome(1)[:2] == ("settled", "not reportable")


def test_a_clip_without_audio_is_no_second_review(team):
    team.review(team.ada, share=1)
    team.ask("UPDATE audio_files SET opus_path = NULL, archive_id = NULL, ordinal = NULL "
             "WHERE id = 1")  # fmt: skip
    assert team.given(team.ben) == 2
    claim = team.claim(team.lea, "adjudication")
    assert (claim.audio_file_id, claim.asr, claim.policy) == (1, "whisper", "2026-11")
    with team.connections.transaction() as connection:
        shown = items.load(connection, 1, (claim.asr, claim.policy))
    assert shown is not None
    assert (shown.text, shown.flag_categories) == ("First words. Then more.", ["scams"])
    assert len(shown.policies) == 3


@pytest.mark.parametrize(
    "second",
    [HARMLESS, Judgement("unsure"), Judgement("reportable", frozenset({"harassment", "scams"}))],
)
def test_where_two_differ_a_lead_settles_it(team, second):
    team.review(team.ada, share=1)
    team.decide(team.ben, team.given(team.ben), second)
    assert team.outcome(1) == ("disputed", None, None)
    claim = team.claim(team.lea, "adjudication")
    assert (claim.audio_file_id, claim.round) == (1, "adjudication")
    team.decide(team.lea, 1, HARMLESS)
    assert team.outcome(1) == ("settled", "not reportable", [])
    assert team.claim(team.lea, "adjudication") is None
    with pytest.raises(NothingToUndo):
        team.undo(team.ben)
    assert team.undo(team.lea) == 1
    assert team.outcome(1)[0] == "disputed"


def test_an_unsure_decision_is_for_a_lead_to_settle(team):
    team.review(team.ada, Judgement("unsure"))
    assert team.outcome(1)[0] == "disputed"
    assert team.given(team.lea, "adjudication") == 1


def test_nobody_settles_what_they_decided_themselves(team):
    assert team.review(team.lea, Judgement("unsure")) == 1
    assert team.claim(team.lea, "adjudication") is None
    (other,) = join_lead(team)
    assert team.given(other, "adjudication") == 1


def join_lead(team: Team) -> list[Reviewer]:
    return [joined(team, "leo", "lead")]


def joined(team: Team, name: str, role: str) -> Reviewer:
    (row,) = team.ask(
        "INSERT INTO reviewers (name, role, password_hash) VALUES (%s, %s, '') "
        "ON CONFLICT (name) DO UPDATE SET active = TRUE "
        "RETURNING id, name, role, hide_text, muted, opted_out, break_minutes",
        name, role,
    )  # fmt: skip
    return Reviewer(*row)


# --- whatever people do -----------------------------------------------------------------

ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["ada", "ben", "cleo", "lea"]),
        st.sampled_from(["next", "control", "settle", "yes", "no", "unsure", "skip", "undo",
                         "undo an older one", "reopen", "overrule", "give back", "vanish",
                         "reclassified", "lost its place", "a day passes"]),
    ),
    max_size=40,
)  # fmt: skip
JUDGEMENTS = {
    "yes": REPORTABLE, "no": HARMLESS, "unsure": Judgement("unsure"), "skip": SKIPPED
}  # fmt: skip


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=ACTIONS)
def test_whatever_people_do_every_clip_waits_or_is_reviewed(team, actions):
    dora = joined(team, "dora", "reviewer")
    team.ask(
        "TRUNCATE review_claims, review_decisions, second_reviews, review_waiting, review_begun; "
        "UPDATE audio_files SET status = CASE WHEN control THEN 'transcribed' ELSE 'flagged' END, "
        "created_at = now(), "
        "archive_id = 1, ordinal = id, opus_path = format('audio/%%s.opus', id)"
    )
    for name, action in actions:
        who = getattr(team, name)
        if action == "next":
            team.claim(who)
        elif action == "control":
            team.claim(who, "control")
        elif action == "settle" and who.is_lead:
            team.claim(who, "adjudication")
        elif action == "give back":
            team.release(who)
        elif action == "vanish":
            team.ask("UPDATE review_claims SET expires_at = now() WHERE reviewer_id = %s", who.id)
        elif action == "reclassified":  # as a load does it, under everybody's hands
            team.ask(
                "UPDATE audio_files SET status = CASE status WHEN 'flagged' THEN 'transcribed' "
                "ELSE 'flagged' END WHERE status IN ('flagged', 'transcribed')"
            )
        elif action == "a day passes":
            age_clips(team)
        elif action == "lost its place":
            team.ask(
                "UPDATE audio_files SET archive_id = NULL, ordinal = NULL, opus_path = NULL, "
                "status = CASE status WHEN 'reviewed' THEN status ELSE 'failed' END "
                "WHERE id = (SELECT max(audio_file_id) FROM review_decisions)"
            )
        elif action == "undo":
            with contextlib.suppress(NothingToUndo):
                team.undo(who)
        elif action in ("undo an older one", "reopen", "overrule"):
            does = {"reopen": team.reopen, "overrule": team.overrule}.get(action, team.undo)
            decided = team.ask(
                "SELECT min(audio_file_id) FROM review_decisions WHERE reviewer_id = %s OR %s",
                who.id, who.is_lead,
            )  # fmt: skip
            if decided[0][0] and (who.is_lead or does == team.undo):
                with contextlib.suppress(NothingToUndo):
                    does(who, decided[0][0])
        elif action in JUDGEMENTS:
            held = team.ask(
                "SELECT audio_file_id FROM review_claims WHERE reviewer_id = %s", who.id
            )
            for (clip,) in held:
                team.decide(who, clip, JUDGEMENTS[action], share=0.5)
        assert_consistent(team)
    # Whoever comes next is given all that is flagged and waits, however old it became.
    team.ask("DELETE FROM review_claims")
    given = set()
    while (found := team.claim(dora)) and found.audio_file_id not in given:
        given |= {found.audio_file_id} if found.round == "first" else set()
        team.decide(dora, found.audio_file_id, SKIPPED)
    assert team.ask("SELECT id FROM audio_files WHERE waits_since IS NOT NULL ORDER BY id") == [
        (id,) for id in sorted(given)
    ]


def assert_consistent(team: Team) -> None:
    # Reviewed is what a first decision stands about, and nothing else.
    assert team.ask(
        "SELECT id FROM audio_files WHERE (status = 'reviewed') <> EXISTS ("
        "SELECT FROM review_outcomes o WHERE o.audio_file_id = audio_files.id)"
    ) == []  # fmt: skip
    # Whatever is not settled waits for somebody, and nothing else does.
    assert team.ask(
        "SELECT audio_file_id FROM review_waiting FULL JOIN review_outcomes o "
        "USING (audio_file_id) WHERE (round IS NOT NULL) IS DISTINCT FROM (state <> 'settled')"
    ) == []  # fmt: skip
    # Nobody but the first hears a clip in the first round, and no two in any.
    assert team.ask(
        "SELECT audio_file_id, round FROM review_standing GROUP BY 1, 2 HAVING count(*) > 1"
    ) == []  # fmt: skip


# --- what is shown ----------------------------------------------------------------------


def test_an_item_is_shown_with_its_policies_and_segments(team):
    with team.connections.transaction() as connection:
        shown = items.load(connection, 3)
    assert shown is not None
    assert [s.text for s in shown.segments] == ["First words.", "Then more."]
    assert shown.flag_categories == ["scams", "harassment"]
    assert [(p.category, p.flagged) for p in shown.policies] == [
        ("scams", True), ("harassment", True), ("violent-threats", False)
    ]  # fmt: skip
    assert shown.policies[1].title == "Harassment"
    assert "<em>harassing</em>" in shown.policies[1].html
    assert "<h4>Overview</h4>" in shown.policies[1].html


def test_a_policy_that_was_not_asked_is_told_from_one_that_gave_no_answer(team):
    team.ask(
        "INSERT INTO classifications (audio_file_id, policy, flagged, flag_category, status) "
        "VALUES (1, '2026-11', FALSE, 'harassment', 'unasked'), "
        "(1, '2026-11', FALSE, 'violent-threats', 'failed')"
    )
    with team.connections.transaction() as connection:
        shown = items.load(connection, 1)
    assert shown is not None
    assert [(p.category, p.score is None, p.asked) for p in shown.policies] == [
        ("scams", False, True), ("harassment", True, False), ("violent-threats", True, True)
    ]  # fmt: skip


def test_a_policy_s_markup_is_text(team):
    team.ask("UPDATE policies SET text = '# <script>x</script>\n\n[a](javascript:x)'")
    with team.connections.transaction() as connection:
        shown = items.load(connection, 1)
    assert shown is not None
    assert "<script" not in shown.policies[0].html
    assert "href" not in shown.policies[0].html


def test_other_uploads_of_a_clip_are_known(team):
    team.ask(
        "INSERT INTO audio_files (id, original_filename, archive_source, archive_id, ordinal, "
        "duplicate_of) VALUES (98, 'again.mp3', 'sound_01.tar', 1, 99, 1)"
    )
    team.ask(
        "INSERT INTO audio_files (id, original_filename, archive_source, copied_from) "
        "SELECT 99, 'copy.mp3', 'sound_02.tar', opus_path FROM audio_files WHERE id = 1"
    )
    with team.connections.transaction() as connection:
        shown = items.load(connection, 1)
    assert shown is not None
    assert [(d.name, d.archive) for d in shown.duplicates] == [
        ("again.mp3", "sound_01.tar"), ("copy.mp3", "sound_02.tar")
    ]  # fmt: skip


def test_a_clip_is_seen_by_who_has_it_or_decided_and_by_leads_once_it_is_in_review(team):
    def see(who: Reviewer, clip: int) -> bool:
        with team.connections.transaction() as connection:
            return items.may_see(connection, who, clip)

    assert not any(see(who, 1) for who in (team.ada, team.ben, team.lea))
    team.given(team.ada)
    assert [see(who, 1) for who in (team.ada, team.ben, team.lea)] == [True, False, True]
    team.decide(team.ada, 1)
    assert [see(who, 1) for who in (team.ada, team.ben, team.lea)] == [True, False, True]
    team.ask("ALTER TABLE review_decisions DISABLE TRIGGER append_only")
    team.ask("UPDATE review_decisions SET decided_at = now() - INTERVAL '25 hours'")
    team.ask("ALTER TABLE review_decisions ENABLE TRIGGER append_only")
    assert [see(who, 1) for who in (team.ada, team.ben, team.lea)] == [False, False, True]


def test_a_transcript_that_failed_says_so(team):
    team.ask("UPDATE transcripts SET transcript_text = NULL, segments = NULL, status = 'failed', "
             "error = 'too noisy'")  # fmt: skip
    with team.connections.transaction() as connection:
        shown = items.load(connection, 1, ("whisper", "2026-11"))
    assert shown is not None
    assert (shown.text, shown.problem, shown.segments) == (None, "too noisy", [])


@pytest.mark.parametrize(
    "path",
    ["../../etc/passwd.opus", "/etc/passwd", "audio/../secret.opus", "audio/link.opus",
     "audio/date=2026-11-02", "state/x.opus"],
)  # fmt: skip
def test_audio_is_served_from_the_audio_folder_only(team, tmp_path, path):
    (tmp_path / "audio/date=2026-11-02").mkdir(parents=True)
    (tmp_path / "state").mkdir()
    for secret in ("secret.opus", "state/x.opus"):
        (tmp_path / secret).write_bytes(b"secret")
    (tmp_path / "audio/link.opus").symlink_to(tmp_path / "secret.opus")
    good = tmp_path / "audio/date=2026-11-02/0.opus"
    good.write_bytes(b"sound")

    def found(opus_path: str) -> object:
        team.ask("UPDATE audio_files SET opus_path = %s WHERE id = 1", opus_path)
        with team.connections.transaction() as connection:
            return items.opus_path(connection, 1, tmp_path)

    assert found("audio/date=2026-11-02/0.opus") == good.resolve()
    assert found(path) is None


def test_a_lead_who_looks_again_at_what_they_settled_and_skips_leaves_it_settled(team):
    team.review(team.ada, Judgement("unsure"))
    for judgement in (REPORTABLE, SKIPPED):
        team.overrule(team.lea, 1)
        team.decide(team.lea, 1, judgement)
        assert team.outcome(1)[:2] == ("settled", "reportable")
