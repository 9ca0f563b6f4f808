"""The daily report: a page that tells at a look whether noon is met, and what stands in the way.

Gathers from the status, the receipts and tables of the last days and the database; what a
figure looks like, :mod:`earmark.watch.charts` knows.  The page needs nothing beside itself.
"""

import logging
import re
import shlex
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jinja2 import Environment, PackageLoader, StrictUndefined

from earmark import locks
from earmark.driver.quarantine import Quarantined, in_quarantine
from earmark.errors import EarmarkError
from earmark.evaluation.evaluate import name_of, policies_of
from earmark.evaluation.results import Evaluation, SpeechEvaluation, kept
from earmark.evaluation.tables import told
from earmark.files import whole
from earmark.ingest.formats import NOT_TAKEN
from earmark.names import asr_name
from earmark.receipts import Receipt
from earmark.record import analysis, database
from earmark.record.queue_files import write_queue
from earmark.record.review_queue import QueueItem, review_queue
from earmark.record.throughput import is_new, readable, receipts_since
from earmark.settings import Settings
from earmark.speech.decoding import DECODING_FACTS
from earmark.tables import TABLES
from earmark.visible import visible
from earmark.volume import Volume
from earmark.watch.forecast import Forecast
from earmark.watch.status import Status, status

#: The flag rate of the last day is held against that of so many days before it.
DAYS_BEFORE = 7
#: Reasons of failures that are listed, the most frequent ones.
MOST_REASONS = 12
_HOUR, _DAY = 3600.0, 86_400.0
#: Columns that tell what failed or is doubtful and how much room audio takes, in whatever table
#: has them.
_TOLD = {"status", "error", "opus_path", "opus_bytes", "doubt"}
logger = logging.getLogger(__name__)

#: So long a command that is to tell somebody may take.
_ALERT_SECONDS = 60.0


@dataclass(frozen=True)
class FlagRate:
    """How often a policy flags.

    Attributes:
        policy: Name of the policy set.
        category: The policy's category.
        judged: Clips that got an answer in the last 24 hours; one that the screen kept from the
            policy got none.
        flagged: Those of them that it flagged.
        judged_before: Clips that did in the seven days before.
        flagged_before: Likewise.
    """

    policy: str
    category: str
    judged: int
    flagged: int
    judged_before: int
    flagged_before: int

    @property
    def rate(self) -> float | None:
        """Share of the last day's answers, 0..1."""
        return self.flagged / self.judged if self.judged else None

    @property
    def rate_before(self) -> float | None:
        """Share of the answers of the days before."""
        return self.flagged_before / self.judged_before if self.judged_before else None


@dataclass(frozen=True)
class Missed:
    """What the screen keeps from a policy that would flag it, in archives of yesterday and today.

    Attributes:
        category: The policy's category.
        language: ISO 639-1, or ``all languages``.
        answered: Clips that the policy was asked about.
        unasked: Clips that it was not.
        share: Estimated share of what it would flag; None if nothing was, or if none of what the
            screen kept out was audited.
        low: Lower end of the 95 % interval.
        high: Upper end.
    """

    category: str
    language: str
    answered: int
    unasked: int
    share: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Failures:
    """Things that failed for one reason in the last 24 hours.

    Attributes:
        stage: ``archive``, ``encode``, ``transcribe`` or ``classify``.
        reason: With all numbers taken as equal.
        count: How many.
        archives: In how many archives.
    """

    stage: str
    reason: str
    count: int
    archives: int


@dataclass(frozen=True)
class LeftOut:
    """Members of the archives of the last 24 hours that are no clips, for one reason.

    Attributes:
        is_audio: Whether they are audio, of a format that is not taken.
        reason: Why.
        count: How many.
        archives: In how many archives.
    """

    is_audio: bool
    reason: str
    count: int
    archives: int


@dataclass(frozen=True)
class Doubts:
    """Transcripts of the last 24 hours whose words may not have been spoken, for one reason.

    Attributes:
        reason: As :attr:`earmark.speech.transcript.Transcript.doubt`.
        count: How many clips.
        archives: In how many archives.
    """

    reason: str
    count: int
    archives: int


@dataclass(frozen=True)
class Speed:
    """How fast GPUs work, by the receipts of the last 24 hours.

    Attributes:
        clips: Clips that got an answer, those included whose content was heard before.
        seconds_per_clip: Time of jobs with a GPU by stage, loading of models included. An archive
            that another policy set was applied to was transcribed before, and counts only as
            classified.
        by_hour: Clips finished in each of the last 24 hours, the latest one last.
    """

    clips: int
    seconds_per_clip: Mapping[str, float]
    by_hour: tuple[int, ...]

    def per_gpu_hour(self, *stages: str) -> float | None:
        """Clips that one GPU does in an hour.

        Args:
            stages: ``transcribe``, ``classify`` or both, one after the other.
        """
        seconds = sum(self.seconds_per_clip.get(stage, 0.0) for stage in stages)
        return _HOUR / seconds if seconds else None


@dataclass(frozen=True)
class Disk:
    """How long the volume lasts.

    Attributes:
        bytes_free: Bytes that can still be written.
        percent: How full it is.
        audio_bytes_a_day: Opus files of the archives that were finished in the last 24 hours.
    """

    bytes_free: int
    percent: float
    audio_bytes_a_day: int

    @property
    def days_left(self) -> float | None:
        """Until it is full, if each day is like the last one and nothing is removed."""
        return self.bytes_free / self.audio_bytes_a_day if self.audio_bytes_a_day else None


@dataclass(frozen=True)
class Report:
    """What the page shows.

    Attributes:
        date: The day, ``YYYY-MM-DD`` in the review's zone.
        status: What is going on now.
        flagged_by_hour: Clips that came to be flagged in each of the last 24 hours; None if the
            database doesn't answer.
        flagged_at_last_noon: Clips that came to be flagged in the 24 hours before it; likewise.
        speed: Of the GPUs, or of the CPUs that do their work.
        device: On which of them the configuration has the models run, ``GPU`` or ``CPU``.
        flag_rates: By category.
        missed: By the screen, by category and language; None if a table can't be read.
        failures: The most frequent reasons.
        doubts: Transcripts that are doubtful, the most frequent reason first.
        left_out: Members that are no clips, by reason; audio first.
        quarantined: Archives that were given up.
        unread: Receipts and tables that could not be read; what they hold counts nowhere.
        evaluations: Of the policy set as it is now, the newest last.
        speech: Evaluations of the transcription settings, likewise.
        disk: How long the volume lasts.
    """

    date: str
    status: Status
    flagged_by_hour: tuple[int, ...] | None
    flagged_at_last_noon: int | None
    speed: Speed
    device: str
    flag_rates: tuple[FlagRate, ...]
    missed: tuple[Missed, ...] | None
    failures: tuple[Failures, ...]
    doubts: tuple[Doubts, ...]
    left_out: tuple[LeftOut, ...]
    quarantined: tuple[Quarantined, ...]
    unread: int
    evaluations: tuple[Evaluation, ...]
    speech: tuple[SpeechEvaluation, ...]
    disk: Disk


def write_report(settings: Settings, report: Report) -> Path:
    """Write a report's page, and the queue as CSV and Parquet beside it.

    Args:
        settings: The configuration.
        report: What :func:`gather` found.

    Returns:
        The page.

    Raises:
        OSError: it can't be written.
    """
    volume = Volume.of(settings)
    page = volume.report(report.date)
    queue: list[QueueItem] | None = None
    with locks.exclusive(volume.reports_lock, "report"):  # a clip may be erased meanwhile
        with suppress(EarmarkError):  # the page says so
            queue = review_queue(_conninfo(settings), limit=1_000_000)
        if queue is not None:
            write_queue(queue, page.parent)
    with whole(page) as partial:
        partial.write_text(render(report, queue), encoding="utf-8")
    return page


def gather(settings: Settings) -> Report:
    """Gather what the page shows; starts an embedded database.

    Args:
        settings: The configuration.

    Raises:
        EarmarkError: the volume is not there, or there is no such time zone.
    """
    volume = Volume.of(settings)
    with suppress(EarmarkError):  # the status says so
        _conninfo(settings)
    now = status(settings)
    if now.room.bytes_free is None or now.room.percent is None:
        raise EarmarkError(now.room.summary)
    moment = datetime.fromisoformat(now.observed_at)
    flagged = last_noon = None
    if now.database.up:
        with suppress(EarmarkError):
            flagged = _flagged_by_hour(_conninfo(settings))
            last_noon = _last_noon(_conninfo(settings), now.review.next_noon)
    receipts, unread = _receipts(volume, moment.timestamp() - (1 + DAYS_BEFORE) * _DAY)
    since = moment.timestamp() - _DAY
    today = [each for each in receipts if each.written_at >= since]
    of_tables = _tables(volume, today)
    return Report(
        date=moment.astimezone(ZoneInfo(settings.review.timezone)).date().isoformat(),
        status=now,
        flagged_by_hour=flagged,
        flagged_at_last_noon=last_noon,
        speed=_speed(today, moment.timestamp()),
        device="GPU" if "cuda" in (settings.asr.device, settings.classify.device) else "CPU",
        flag_rates=_flag_rates(receipts, since),
        missed=_missed(settings, moment),
        failures=of_tables.failures,
        doubts=of_tables.doubts,
        left_out=_left_out(today),
        quarantined=tuple(in_quarantine(volume)),
        unread=unread + of_tables.unread,
        evaluations=_evaluations(settings),
        speech=tuple(kept(volume, asr_name(settings, volume, DECODING_FACTS), SpeechEvaluation)),
        disk=Disk(now.room.bytes_free, now.room.percent, of_tables.audio_bytes),
    )


def warning_of(review: Forecast) -> str | None:
    """What somebody should be told: that noon will be missed, or that nobody can say.

    Args:
        review: Whether it is met.
    """
    if review.verdict == "on course":
        return None
    if review.verdict == "unknown":
        return f"whether noon is met ({review.next_noon}) can't be told: no database answers"
    return (
        f"the noon of {review.next_noon} will be missed: {review.waiting_count} flagged clips wait "
        f"now, and {review.projected_count} of {review.target_count} are to be expected then, if "
        f"{review.assumption}"
    )


def tell(command: str, warning: str) -> None:
    """Run a command that gets a warning on standard input.

    Args:
        command: Program and arguments, quoted as for a shell, but no shell runs it.
        warning: The warning.

    Raises:
        EarmarkError: it can't be run, fails, or takes longer than a minute.
    """
    try:
        ran = subprocess.run(
            shlex.split(command), input=f"Earmark: {warning}\n", text=True, capture_output=True,
            timeout=_ALERT_SECONDS,
        )  # fmt: skip
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise EarmarkError(f"review.alert, '{command}', can't be run: {error}") from error
    if ran.returncode:
        raise EarmarkError(
            f"review.alert, '{command}', ended with status {ran.returncode}: "
            f"{ran.stderr.strip()[-200:]}"
        )


def render(report: Report, queue: Sequence[QueueItem] | None) -> str:
    """The page.

    Args:
        report: What it shows.
        queue: What waits for review, the highest score first; None if the database is away.
    """
    from earmark.watch import charts  # matplotlib, which takes seconds to import

    environment = Environment(
        loader=PackageLoader("earmark.watch"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["visible"] = visible
    environment.filters["number"] = lambda value: "unknown" if value is None else f"{value:,.0f}"
    environment.filters["estimate"] = told
    environment.filters["share"] = lambda value: "–" if value is None else f"{value:.2%}"
    review = report.status.review
    zone = ZoneInfo(review.timezone)
    environment.filters["day_time"] = lambda text: (
        f"{datetime.fromisoformat(text).astimezone(zone):%Y-%m-%d %H:%M} ({review.timezone})"
    )
    figures = {
        "noon": charts.towards_noon(
            report.flagged_by_hour, review, datetime.fromisoformat(report.status.observed_at)
        ),
        "speed": charts.by_hour(report.speed.by_hour),
        "rates": charts.flag_rates(
            [
                (f"{each.category} ({each.policy})", each.rate, each.rate_before)
                for each in report.flag_rates
            ]
        ),
    }
    waiting = None if queue is None else len(queue)
    return environment.get_template("report.html").render(
        report=report, review=review, figures=figures, waiting=waiting
    )


def _conninfo(settings: Settings) -> str:
    root = Path(settings.volume.root)
    url = settings.database.url
    if database.is_embedded(url) and not database.embedded_exists(root):
        raise EarmarkError("there is no database yet; the first run makes it")
    return database.connection_string(url, root)


def _flagged_by_hour(conninfo: str) -> tuple[int, ...]:
    """Clips that came to be flagged in each of the last 24 hours, the latest hour last."""
    with database.connect(conninfo, patience_seconds=0.0) as connection:
        database.require_schema(connection)
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT floor(extract(epoch FROM now() - created_at) / 3600)::int, count(*) "
                "FROM audio_files WHERE status IN ('flagged', 'reviewed') "
                "AND queue_categories IS NOT NULL AND copied_from IS NULL "
                "AND created_at > now() - INTERVAL '24 hours' GROUP BY 1"
            )
            hours = dict(cursor.fetchall())
    return tuple(hours.get(ago, 0) for ago in reversed(range(24)))


def _last_noon(conninfo: str, next_noon: str) -> int:
    """Clips that came to be flagged in the 24 hours before the last noon, reviewed or not."""
    with (
        database.connect(conninfo, patience_seconds=0.0) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(
            "SELECT count(*) FROM audio_files WHERE status IN ('flagged', 'reviewed') "
            "AND queue_categories IS NOT NULL AND copied_from IS NULL "
            "AND created_at <= %(next)s::timestamptz - INTERVAL '24 hours' "
            "AND created_at > %(next)s::timestamptz - INTERVAL '48 hours'",
            {"next": next_noon},
        )
        ((count,),) = cursor.fetchall()
    return int(count)


@dataclass(frozen=True)
class _Receipt:
    written_at: float  # s since 1970
    told: Receipt
    is_new: bool  # it was transcribed then, not just classified again


def _receipts(volume: Volume, since: float) -> tuple[list[_Receipt], int]:
    """The receipts written since a moment, and how many can't be read."""
    found = receipts_since(volume, since)
    receipts = []
    for written_at, _, receipt in readable(found):
        receipts.append(_Receipt(written_at, receipt, is_new(volume, receipt, written_at)))
    return receipts, len(found) - len(receipts)


def _speed(receipts: Sequence[_Receipt], now: float) -> Speed:
    new = [each for each in receipts if each.is_new]
    seconds_per_clip = {}
    for stage, done in (("transcribe", new), ("classify", receipts)):
        clips = sum(each.told.answered for each in done)
        seconds = sum(each.told.seconds.get(stage) or 0.0 for each in done)
        seconds_per_clip[stage] = seconds / clips if clips else 0.0
    hours = [0] * 24
    for each in receipts:
        ago = min(23, max(0, int((now - each.written_at) // _HOUR)))
        hours[23 - ago] += each.told.answered
    return Speed(
        clips=sum(each.told.answered for each in receipts),
        seconds_per_clip=seconds_per_clip,
        by_hour=tuple(hours),
    )


def _flag_rates(receipts: Iterable[_Receipt], since: float) -> tuple[FlagRate, ...]:
    counts: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for each in receipts:
        when = "" if each.written_at >= since else "_before"
        for category, judged in each.told.judged.items():
            count = counts[each.told.policy, category]
            count[f"judged{when}"] += judged
            count[f"flagged{when}"] += each.told.flagged.get(category, 0)
    keys = ("judged", "flagged", "judged_before", "flagged_before")
    return tuple(
        FlagRate(*which, *(count[key] for key in keys)) for which, count in sorted(counts.items())
    )


def _missed(settings: Settings, moment: datetime) -> tuple[Missed, ...] | None:
    if settings.classify.screen is None:
        return ()
    since = (moment - timedelta(days=1)).date()
    try:
        found = analysis.run(
            "prevalence", Path(settings.volume.root), since=since, memory_limit="2GB"
        )
        rows = found.filter(duckdb.ColumnExpression("policy") == settings.classify.policy).select(
            "category", "language", "clips", "unasked", "missed", "missed_low", "missed_high"
        )
        missed = (Missed(*row) for row in rows.fetchall())
        return tuple(each for each in missed if each.high is not None)  # null: nothing is out
    except EarmarkError as error:
        logger.warning("what the screen misses can't be told: %s", error)
        return None


def _evaluations(settings: Settings) -> tuple[Evaluation, ...]:
    try:
        name = name_of(settings, policies_of(settings))
    except EarmarkError as error:
        logger.warning("how good the policies are can't be told: %s", error)
        return ()
    return tuple(kept(Volume.of(settings), name, Evaluation))


class _Told(NamedTuple):
    """What the tables of archives tell."""

    failures: tuple[Failures, ...]
    doubts: tuple[Doubts, ...]
    audio_bytes: int  # of Opus files
    unread: int  # tables that can't be read


def _tables(volume: Volume, receipts: Sequence[_Receipt]) -> _Told:
    """Read tables; an archive that was done before tells of its classification alone."""
    counts: Counter[tuple[str, str]] = Counter()
    archives: Counter[tuple[str, str]] = Counter()
    doubted: Counter[str] = Counter()
    doubted_archives: Counter[str] = Counter()
    audio_bytes = unread = 0

    def failed(stage: str, reasons: Iterable[str | None]) -> None:
        known = Counter((stage, _alike(reason)) for reason in reasons)
        counts.update(known)
        archives.update(known.keys())

    for each in receipts:
        told = each.told
        if told.status != "ok" and each.is_new:
            failed("archive", [told.reason])
        try:
            for table in TABLES.values():
                if each.is_new or "policy" in table.partitions:
                    made_by = {key: getattr(told, key) for key in table.partitions}
                    path = volume.table(table.name, told.date, told.archive, **made_by)
                    columns = _TOLD.intersection(table.schema.names)
                    rows = pq.read_table(path, columns=sorted(columns), partitioning=None)
                    audio_bytes += _audio_bytes(rows)
                    failed(table.stage.partition("_")[0], _errors(rows, "failed", "unparsed"))
                    reasons = Counter(_doubts(rows))
                    doubted.update(reasons)
                    doubted_archives.update(reasons.keys())
        except (OSError, KeyError, pa.ArrowException):
            unread += 1
    most = counts.most_common(MOST_REASONS)
    return _Told(
        tuple(Failures(*key, count=count, archives=archives[key]) for key, count in most),
        tuple(Doubts(*each, doubted_archives[each[0]]) for each in doubted.most_common()),
        audio_bytes,
        unread,
    )


def _left_out(receipts: Iterable[_Receipt]) -> tuple[LeftOut, ...]:
    counts: Counter[str] = Counter()
    archives: Counter[str] = Counter()
    for each in receipts:
        if each.is_new:
            counts.update(each.told.skipped)
            archives.update(each.told.skipped.keys())
    found = [
        LeftOut(reason.startswith(NOT_TAKEN), reason, count, archives[reason])
        for reason, count in counts.items()
    ]
    return tuple(sorted(found, key=lambda each: (not each.is_audio, -each.count, each.reason)))


def _audio_bytes(rows: pa.Table) -> int:
    """Bytes of the Opus files that a table names; a duplicate has none."""
    if "opus_bytes" not in rows.column_names:
        return 0
    return pc.sum(rows.filter(pc.is_valid(rows["opus_path"]))["opus_bytes"]).as_py() or 0


def _doubts(rows: pa.Table) -> list[str]:
    """Why transcripts are doubtful; those of Earmark 0.2 don't tell."""
    if "doubt" not in rows.column_names:
        return []
    return [reason for doubt in rows["doubt"].to_pylist() if doubt for reason in doubt.split(", ")]


def _errors(table: pa.Table, *statuses: str) -> list[str | None]:
    wanted = pc.is_in(table["status"], value_set=pa.array(statuses))
    errors: list[str | None] = table.filter(wanted)["error"].to_pylist()
    return errors


def _alike(reason: str | None) -> str:
    """A reason with its numbers taken as equal, as in sql/analysis/failures.sql."""
    return re.sub(r"\b[0-9]+\b", "N", reason or "(no reason given)")
