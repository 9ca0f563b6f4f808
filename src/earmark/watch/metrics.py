"""The status as a file for Prometheus, by way of node_exporter's textfile collector.

Source: the text format of Prometheus' documentation, "Exposition formats", and node_exporter's
README, "Textfile Collector", which forbids times of their own on samples.  What is not known
has no sample at all, so that an alert on ``absent()`` can tell it from zero.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from earmark.errors import EarmarkError
from earmark.files import whole
from earmark.watch.status import Status

Samples = list[tuple[Mapping[str, str], float]]
Metric = tuple[str, str, Samples]


def write(now: Status, path: Path) -> None:
    """Write the metrics of a status; a reader sees the former file or the whole new one.

    Args:
        now: What is going on.
        path: The file; node_exporter reads those whose names end in ``.prom``.

    Raises:
        EarmarkError: its name doesn't.
        OSError: it can't be written.
    """
    if path.suffix != ".prom":
        raise EarmarkError(
            f"the metrics' file is {path}, but node_exporter only reads files whose names end in "
            ".prom"
        )
    if not path.parent.is_dir():
        raise EarmarkError(f"there is no folder {path.parent}; make it, or name another file")
    with whole(path) as partial:
        partial.write_text(exposition(now), encoding="utf-8")
        partial.chmod(0o644)  # node_exporter is another user, whatever the umask


def exposition(now: Status) -> str:
    """A status in Prometheus' text format."""
    registry = CollectorRegistry()
    for name, meaning, samples in gauges(now):
        if not samples:
            continue
        gauge = Gauge(f"earmark_{name}", meaning, list(samples[0][0]), registry=registry)
        for labels, value in samples:
            (gauge.labels(**labels) if labels else gauge).set(value)
    return generate_latest(registry).decode("utf-8")


def gauges(now: Status) -> Iterator[Metric]:
    """The metrics of a status: name without the common prefix, meaning, samples."""
    states = [({"state": key.replace(" ", "_")}, count) for key, count in now.archives.items()]
    yield ("archives", "Archives of the catalogue, by what becomes of them.", [*states])
    yield _one(
        "oldest_waiting_seconds",
        "Time since the oldest archive came that is to be done and that no stage works on; 0 if "
        "none waits.",
        now.oldest_waiting_seconds,
    )
    yield _one(
        "quarantined_archives",
        "Archives in quarantine, until `earmark retry` releases them.",
        now.quarantined_count,
    )
    yield _one(
        "given_up_archives",
        "Archives that failed, that no stage works on now, and that are tried again later.",
        None if now.given_up is None else len(now.given_up),
    )
    finished = now.finished
    yield (
        "finished_24h_archives",
        "Archives whose receipts were written in the last 24 hours, by how they ended.",
        [
            ({"status": "ok"}, finished.ok_count),
            ({"status": "partial"}, finished.partial_count),
            ({"status": "failed"}, finished.failed_count),
        ],
    )
    yield (
        "skipped_24h_members",
        "Members of these archives that are no clips, by whether they are audio.",
        [
            ({"kind": "audio_not_taken"}, finished.not_taken_count),
            ({"kind": "no_audio"}, finished.not_audio_count),
        ],
    )
    rate = now.rate
    mean = "a mean over the last hours"
    yield _one("archives_per_hour", f"Archives finished, {mean}.", rate.archives_per_hour)
    yield _one("clips_per_hour", f"Clips that got an answer, {mean}.", rate.clips_per_hour)
    yield _one(
        "audio_seconds_per_hour",
        f"Length of the clips that were drawn for transcription, {mean}.",
        rate.audio_seconds_per_hour,
    )
    yield _jobs(now)
    yield _one(
        "driver_up", "Whether somebody schedules jobs on the volume.", now.driver is not None
    )
    if now.slurm.installed:
        yield _one("slurm_up", "Whether SLURM answers.", now.slurm.problem is None)
    yield _one("database_up", "Whether the database answers and has the schema.", now.database.up)
    yield _one(
        "last_poll_timestamp_seconds",
        "When the source last answered.",
        _moment(now.checked_at) if now.checked_at else None,
    )
    yield _one("last_poll_failed", "Whether it has failed to answer since.", bool(now.problem))
    yield _one("volume_free_bytes", "Bytes that can still be written.", now.room.bytes_free)
    yield _one(
        "volume_used_percent",
        "Use of the volume in bytes or inodes, whichever are scarcer.",
        now.room.percent,
    )
    yield from _review(now)
    yield _one("status_timestamp_seconds", "When all this was observed.", _moment(now.observed_at))


def _jobs(now: Status) -> Metric:
    samples: Samples = []
    for jobs in now.jobs:
        place = {"stage": jobs.stage, "node": jobs.node}
        samples.append((place | {"state": "at_work"}, jobs.at_work_count))
        samples.append((place | {"state": "waiting"}, jobs.waiting_count))
    for stage, count in (now.slurm.queued or {}).items():
        samples.append(({"stage": stage, "node": "", "state": "queued"}, count))
    return (
        "jobs",
        "Jobs by stage and node: at work, begun and waiting (for room or the database), or queued "
        "by SLURM, which has no node yet.",
        samples,
    )


def _review(now: Status) -> Iterator[Metric]:
    review = now.review
    yield _one(
        "flagged_24h_clips",
        "Clips loaded in the last 24 hours and flagged, reviewed ones too.",
        review.flagged_24h_count,
    )
    yield _one("review_waiting_clips", "Flagged clips that wait for review.", review.waiting_count)
    yield _one(
        "review_target_clips", "Clips that are to wait for review at noon.", review.target_count
    )
    yield _one(
        "review_projection_clips",
        f"Clips that will wait for review at the next noon, if {review.assumption}.",
        review.projected_count,
    )
    yield _one(
        "review_noon_timestamp_seconds", "The next noon of the review.", _moment(review.next_noon)
    )
    yield _one(
        "noon_met",
        "Whether the projection reaches the target; no sample if that is unknown.",
        None if review.verdict == "unknown" else review.verdict == "on course",
    )


def _one(name: str, help: str, value: float | None) -> Metric:
    return name, help, [] if value is None else [({}, value + 0)]  # a bool as 0 or 1


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
