"""How far the day's review is, what it asks of people, and how the last days went.

Days are those of a zone, ``review.timezone``.  Every question reads the decisions of a few days
by their times, so it costs the same however many there are before.
"""

import datetime
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from psycopg2.extensions import connection as Connection

#: The queue is counted so far.
MOST_WAITING = 1_000
#: Who does nothing for so long makes a pause.
PAUSE = datetime.timedelta(minutes=10)
#: Over how long the pace is taken, and from how little it is never told.
_PACE, _LEAST_PACE = datetime.timedelta(hours=1), datetime.timedelta(minutes=5)
_MINUTE = datetime.timedelta(minutes=1)

State = Literal["settled", "waits for second review", "disputed"]

# As in the view review_standing, which would first look through all decisions there are.
_STANDING = """
    SELECT d.* FROM review_decisions d
    WHERE d.decided_at >= {since}
      AND d.verdict IN ('reportable', 'not reportable', 'unsure')
      AND NOT EXISTS (
          SELECT FROM review_decisions later
          WHERE later.audio_file_id = d.audio_file_id AND later.reviewer_id = d.reviewer_id
            AND later.id > d.id
      )
"""
_MIDNIGHT = (
    "((date_trunc('day', now() AT TIME ZONE %(timezone)s) - %(days)s * INTERVAL '1 day') "
    "AT TIME ZONE %(timezone)s)"
)
_TODAY = _STANDING.format(since=_MIDNIGHT)

# OFFSET 0 keeps the planner from looking at all outcomes at once: it asks for one clip each time.
_OUTCOMES = f"""
    SELECT (d.decided_at AT TIME ZONE %(timezone)s)::date, d.flag_categories,
           o.state, o.verdict, o.categories
    FROM ({_TODAY}) d
    CROSS JOIN LATERAL (
        SELECT * FROM review_outcomes WHERE audio_file_id = d.audio_file_id OFFSET 0
    ) o
    WHERE d.round = 'first'
"""

_EVENTS = """
    SELECT reviewer_id, at FROM review_access WHERE at >= {since} AND what <> 'export'
    UNION ALL
    SELECT reviewer_id, decided_at FROM review_decisions WHERE decided_at >= {since}
"""

_LOAD = f"""
    SELECT r.id, r.name, r.role,
           count(*) FILTER (WHERE d.decided_at >= {_MIDNIGHT}),
           count(d.id),
           percentile_cont(0.5) WITHIN GROUP (
               ORDER BY extract(epoch FROM d.decided_at - d.claimed_at)
           )
    FROM reviewers r
    LEFT JOIN (
        {_STANDING.format(since="(now() - INTERVAL '7 days')")}
    ) d ON d.reviewer_id = r.id
    WHERE r.active OR d.id IS NOT NULL
    GROUP BY r.id ORDER BY r.name
"""


@dataclass(frozen=True)
class Today:
    """How far the day's review is.

    Attributes:
        done: Clips whose first decision that stands was made today.
        target: So many are wanted.
        left: How many are lacking.
        waiting: Flagged clips that wait, up to :data:`MOST_WAITING`.
        waiting_capped: Whether there are more.
        per_hour_team: First decisions an hour, over the last hour, or since the first of today.
        per_hour_mine: Likewise of this person, of every round.
        finish_at: When the target is reached at the team's pace; None without a pace, and once
            it is reached.
        mine: This person's decisions of today that stand, of every round.
    """

    done: int
    target: int
    left: int
    waiting: int
    waiting_capped: bool
    per_hour_team: float
    per_hour_mine: float
    finish_at: datetime.datetime | None
    mine: int


@dataclass(frozen=True)
class Exposure:
    """What a person heard today.

    Attributes:
        items_today: Items opened.
        reportable_today: Decided to be reportable.
        minutes_at_work: Since the last pause of ten minutes or more.
        break_due: Whether that is as long as the person wants to work at a time.
    """

    items_today: int
    reportable_today: int
    minutes_at_work: float
    break_due: bool


@dataclass
class Tally:
    """Reviewed clips by what became of them.

    Attributes:
        decided: All of them: a first decision stands. The others add up to it.
        reportable: Settled so.
        not_reportable: Settled so.
        unsure: Settled so, by a lead.
        waiting: Drawn for a second person, who has not decided yet.
        disputed: Two people differ, or somebody is unsure; a lead has not settled it yet.
    """

    decided: int = 0
    reportable: int = 0
    not_reportable: int = 0
    unsure: int = 0
    waiting: int = 0
    disputed: int = 0

    def add(self, state: State, verdict: str | None) -> None:
        """Count one more."""
        self.decided += 1
        self.reportable += verdict == "reportable"
        self.not_reportable += verdict == "not reportable"
        self.unsure += verdict == "unsure"
        self.waiting += state == "waits for second review"
        self.disputed += state == "disputed"

    @property
    def judged(self) -> int:
        """Settled as reportable or not reportable: what shares are shares of."""
        return self.reportable + self.not_reportable

    @property
    def open(self) -> int:
        """Not settled yet."""
        return self.waiting + self.disputed


@dataclass
class Precision:
    """How often people agree with the model about a category.

    Of clips that were reviewed, which are those with the highest scores: of all that is flagged
    the share is lower.

    Attributes:
        flagged: Reviewed clips that it flagged under it.
        same: Of those, how many people found reportable under it.
    """

    flagged: Tally = field(default_factory=Tally)
    same: int = 0

    def add(self, state: State, verdict: str | None, same: bool) -> None:
        """Count one more."""
        self.flagged.add(state, verdict)
        self.same += same


@dataclass
class Progress:
    """How the last days went, by the day of the first decision.

    Attributes:
        days: The days, the newest first.
        by_day: What was decided on each.
        queued: By day and the category that came first in the queue; None for controls.
        queued_in_all: The same over all days.
        found: Clips settled as reportable, by day and by each of the people's categories.
        found_in_all: The same over all days.
        precision: By category.
    """

    days: list[datetime.date]
    by_day: defaultdict[datetime.date, Tally] = field(default_factory=lambda: defaultdict(Tally))
    queued: defaultdict[tuple[datetime.date, str | None], Tally] = field(
        default_factory=lambda: defaultdict(Tally)
    )
    queued_in_all: defaultdict[str | None, Tally] = field(
        default_factory=lambda: defaultdict(Tally)
    )
    found: Counter[tuple[datetime.date, str]] = field(default_factory=Counter)
    found_in_all: Counter[str] = field(default_factory=Counter)
    precision: defaultdict[str, Precision] = field(default_factory=lambda: defaultdict(Precision))

    @property
    def categories(self) -> list[str]:
        """All that the model or people named."""
        named = {*self.queued_in_all, *self.found_in_all, *self.precision}
        return sorted(name for name in named if name is not None)


@dataclass(frozen=True)
class Load:
    """What the review asks of one person.

    Attributes:
        name: Of the account.
        role: ``reviewer`` or ``lead``.
        decisions_today: That stand, of every round.
        decisions_week: Likewise of the last seven days.
        median_seconds: From opening an item to the decision, over the last seven days.
        items_today: Items opened today.
        minutes_today: At work today, pauses of ten minutes and more left out.
    """

    name: str
    role: str
    decisions_today: int
    decisions_week: int
    median_seconds: float | None
    items_today: int
    minutes_today: float


def today(connection: Connection, reviewer_id: int, target: int, timezone: str) -> Today:
    """How far the day's review is.

    Args:
        connection: To the database.
        reviewer_id: Who looks.
        target: ``review.target``.
        timezone: ``review.timezone``.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT now(), d.reviewer_id, d.round, d.decided_at FROM (VALUES (1)) one "
            f"LEFT JOIN ({_TODAY}) d ON TRUE",
            {"timezone": timezone, "days": 0},
        )
        rows = cursor.fetchall()
        cursor.execute(
            "SELECT count(*) FROM "
            "(SELECT FROM audio_files WHERE waits_since IS NOT NULL LIMIT %s) waiting",
            [MOST_WAITING + 1],
        )
        waiting = cursor.fetchall()[0][0]
    now: datetime.datetime = rows[0][0]
    team = [at for _, _, round_, at in rows if round_ == "first"]
    mine = [at for _, who, _, at in rows if who == reviewer_id]
    left, pace = max(0, target - len(team)), _per_hour(team, now)
    return Today(
        done=len(team),
        target=target,
        left=left,
        waiting=min(waiting, MOST_WAITING),
        waiting_capped=waiting > MOST_WAITING,
        per_hour_team=pace,
        per_hour_mine=_per_hour(mine, now),
        finish_at=now + datetime.timedelta(hours=left / pace) if left and pace else None,
        mine=len(mine),
    )


def exposure(
    connection: Connection, reviewer_id: int, break_minutes: int, timezone: str
) -> Exposure:
    """What a person heard today.

    Args:
        connection: To the database.
        reviewer_id: The person.
        break_minutes: How long they want to work at a time.
        timezone: ``review.timezone``.
    """
    known = {"timezone": timezone, "days": 0, "me": reviewer_id}
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT now(), (SELECT count(DISTINCT audio_file_id) FROM review_access "
            f"WHERE reviewer_id = %(me)s AND what = 'page' AND at >= {_MIDNIGHT}), "
            f"(SELECT count(*) FROM ({_TODAY} AND d.reviewer_id = %(me)s) mine "
            "WHERE verdict = 'reportable')",
            known,
        )
        now, items, reportable = cursor.fetchall()[0]
        events = _EVENTS.format(since="now() - INTERVAL '24 hours'")
        cursor.execute(f"SELECT at FROM ({events}) e WHERE reviewer_id = %(me)s", known)
        times = [at for (at,) in cursor.fetchall()]
    minutes = _since_pause(times, now) / _MINUTE
    return Exposure(items, reportable, minutes, minutes >= break_minutes)


def last_days(connection: Connection, timezone: str, days: int = 14) -> Progress:
    """How the last days went, today among them.

    Args:
        connection: To the database.
        timezone: ``review.timezone``.
        days: How many.
    """
    known = {"timezone": timezone, "days": days - 1}
    with connection.cursor() as cursor:
        cursor.execute("SELECT (now() AT TIME ZONE %(timezone)s)::date", known)
        newest = cursor.fetchall()[0][0]
        cursor.execute(_OUTCOMES, known)
        rows = cursor.fetchall()
    progress = Progress([newest - datetime.timedelta(days=ago) for ago in range(days)])
    for day, flagged, state, verdict, categories in rows:
        first = flagged[0] if flagged else None
        for tally in (
            progress.by_day[day],
            progress.queued[day, first],
            progress.queued_in_all[first],
        ):
            tally.add(state, verdict)
        progress.found.update((day, category) for category in categories or ())
        progress.found_in_all.update(categories or ())
        for category in flagged or ():
            progress.precision[category].add(state, verdict, category in (categories or ()))
    return progress


def load(connection: Connection, timezone: str) -> list[Load]:
    """What the review asks of each person, by name.

    Who may not sign in any more, and decided nothing in the last seven days, is left out.

    Args:
        connection: To the database.
        timezone: ``review.timezone``.
    """
    known = {"timezone": timezone, "days": 0}
    events: defaultdict[int, list[datetime.datetime]] = defaultdict(list)
    with connection.cursor() as cursor:
        cursor.execute(_EVENTS.format(since=_MIDNIGHT), known)
        for who, at in cursor.fetchall():
            events[who].append(at)
        cursor.execute(
            "SELECT reviewer_id, count(DISTINCT audio_file_id) FROM review_access "
            f"WHERE what = 'page' AND at >= {_MIDNIGHT} GROUP BY 1",
            known,
        )
        items = dict(cursor.fetchall())
        cursor.execute(_LOAD, known)
        rows = cursor.fetchall()
    return [
        Load(name, role, *(today, week, median), items.get(id, 0), _at_work(events[id]) / _MINUTE)
        for id, name, role, today, week, median in rows
    ]


def _per_hour(times: Iterable[datetime.datetime], now: datetime.datetime) -> float:
    """Decisions an hour: over the last hour, or of those after the first, since it was made."""
    times = sorted(times)
    if not times:
        return 0.0
    window = min(_PACE, now - times[0])
    count = sum(at > now - window for at in times)  # without the first, where it opens the window
    return count * _PACE / max(window, _LEAST_PACE)


def _since_pause(times: Iterable[datetime.datetime], now: datetime.datetime) -> datetime.timedelta:
    """How long somebody has been at work without a pause."""
    begin = now
    for at in sorted(times, reverse=True):
        if begin - at >= PAUSE:
            break
        begin = min(begin, at)
    return now - begin


def _at_work(times: Iterable[datetime.datetime]) -> datetime.timedelta:
    """How long somebody was at work, without pauses."""
    spans = (later - earlier for earlier, later in pairwise(sorted(times)))
    return sum((span for span in spans if span < PAUSE), datetime.timedelta())
