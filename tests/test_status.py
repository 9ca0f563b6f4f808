"""What `earmark status` tells: each part for itself, also when others do not answer."""

import dataclasses
import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from example_receipt import example
from example_status import EMPTY
from hypothesis import given
from hypothesis import strategies as st
from place import HOUR, Place, member
from slurm_cluster import SlurmCluster, slurm_cluster

from earmark import REPOSITORY, configuration, locks, receipts
from earmark.clock import next_deadline
from earmark.driver import slurm
from earmark.driver.stages import stage
from earmark.errors import EarmarkError
from earmark.ingest.formats import NOT_TAKEN
from earmark.record import database, throughput
from earmark.record.database import connect
from earmark.record.review_queue import health, review_queue
from earmark.tables import MANIFEST, write_table
from earmark.watch import metrics
from earmark.watch import status as status_module
from earmark.watch.display import show_status
from earmark.watch.status import Jobs

__all__ = ["slurm_cluster"]


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("PG", "POSTGRES_")):
            monkeypatch.delenv(name)


@pytest.fixture
def place(tmp_path: Path, volume: Path) -> Place:
    return Place(tmp_path, volume)


@pytest.fixture
def no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SLURM whose controller nobody runs."""
    file = tmp_path / "slurm.conf"
    file.write_text(
        "ClusterName=nowhere\nSlurmctldHost=localhost(127.0.0.1)\nSlurmctldPort=1\n"
        "AuthType=auth/munge\nNodeName=x\nPartitionName=p Nodes=x\n"
    )
    monkeypatch.setenv("SLURM_CONF", str(file))


# --- archives ---------------------------------------------------------------------------


def test_every_state_of_an_archive_has_its_count_and_none_is_left_out(place: Place) -> None:
    place.configure(source=yaml.safe_load(place.file.read_text())["source"] | {"batch": 1})
    for name in ("a.tar", "b.tar", "c.tar", "d.tar", "e\x1b.tar"):
        place.put(name)
    place.put("new.tar", age_seconds=0)
    dates = {archive.name: archive.date for archive in place.poll().archives}
    receipts.write(place.volume.receipt(dates["c.tar"], "c.tar"), example())
    place.volume.quarantine("d.tar").parent.mkdir()
    place.volume.quarantine("d.tar").write_text("{}")
    told = place.status()
    assert told.archives == {
        "pending": 1,
        "later": 1,
        "too recent": 1,
        "seen once": 0,
        "done": 1,
        "quarantined": 1,
        "refused": 1,
    }
    assert told.quarantined_count == 1


def test_the_oldest_that_waits_is_one_that_no_stage_works_on_and_counts_from_its_coming(
    place: Place,
) -> None:
    place.put("old.tar", age_seconds=1000 * HOUR)
    place.put("young.tar", age_seconds=1 * HOUR)
    for archive in place.poll().archives:
        noted_at = time.time() - (500 if archive.name == "old.tar" else 300)
        _note(place, archive.name, noted_at)
    told = place.status()
    assert told.oldest_waiting_archive == "old.tar"
    assert told.oldest_waiting_seconds == pytest.approx(500, abs=5)
    with locks.exclusive(place.volume.archive_lock("old.tar"), "encode_opus"):
        told = place.status()
        assert told.oldest_waiting_archive == "young.tar"
        assert told.oldest_waiting_seconds == pytest.approx(300, abs=5)
        with locks.exclusive(place.volume.archive_lock("young.tar"), "encode_opus"):
            assert place.status().oldest_waiting_seconds == 0
            assert place.status().oldest_waiting_archive is None


def _note(place: Place, name: str, noted_at: float) -> None:
    """Let an archive have been seen first at another time."""
    file = place.volume.state / "catalogue.json"
    content = json.loads(file.read_text())
    for entry in content["archives"]:
        if entry["name"] == name:
            entry["noted_at"] = noted_at
    file.write_text(json.dumps(content))


def test_an_archive_that_failed_is_told_until_somebody_works_on_it_or_it_is_quarantined(
    place: Place,
) -> None:
    for name in ("a.tar", "b.tar"):
        place.put(name)
    place.poll()
    assert place.status().given_up == []
    for name in ("a.tar", "b.tar"):
        for _ in range(2):
            with pytest.raises(ValueError, match="broken"), _stage(place, name):
                raise ValueError("broken")
    first, second = place.status().given_up or []
    assert (first.archive, first.stage, first.failures_count) == ("a.tar", "encode_opus", 2)
    assert (second.archive, second.reason) == ("b.tar", "ValueError: broken")
    with _stage(place, "a.tar"):
        assert [each.archive for each in place.status().given_up or []] == ["b.tar"]
    place.volume.quarantine("b.tar").parent.mkdir()
    place.volume.quarantine("b.tar").write_text("{}")
    told = place.status()
    assert (told.given_up, told.quarantined_count) == ([], 1)


def _stage(place: Place, archive: str) -> Any:
    return stage("encode_opus", archive, place.volume, place.volume.log("encode_opus", archive))


def test_stages_are_counted_by_node_and_by_whether_they_wait(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hold(archive: str, purpose: str, node: str) -> Any:
        monkeypatch.setenv("SLURMD_NODENAME", node)
        return locks.exclusive(place.volume.archive_lock(archive), purpose)

    with (
        hold("a.tar", "encode_opus", "worker1"),
        hold("b.tar", "encode_opus", "worker1") as waiting,
        hold("c.tar", "load_pg", "worker2"),
    ):
        waiting.renew("room")
        told = place.status()
    assert told.jobs == [Jobs("encode_opus", "worker1", 1, 1), Jobs("load_pg", "worker2", 1, 0)]


# --- what receipts tell -----------------------------------------------------------------


def test_outcomes_and_rates_come_from_the_receipts_of_the_last_hours_without_the_database(
    place: Place, migrated_database: str
) -> None:
    finish = place.finish
    finish(migrated_database, "a.tar", flagged=2, clean=4, broken=5, hours_ago=1)
    finish(migrated_database, "b.tar", clean=6, hours_ago=5, status="partial", date="2026-11-03")
    finish(migrated_database, "c.tar", clean=7, hours_ago=7, status="failed")
    finish(migrated_database, "d.tar", clean=8, hours_ago=25)
    told = place.status()
    assert not told.database.up
    assert dataclasses.astuple(told.finished) == (24.0, 3, 1, 1, 1, 0, 0, 0)
    assert dataclasses.astuple(told.rate) == (6.0, round(2 / 6, 3), 12 / 6, 12 * 90 / 6, 0)


def test_audio_that_is_not_taken_is_told_apart_from_what_is_no_audio(
    place: Place, migrated_database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, skipped in {
        "a.tar": {f"{NOT_TAKEN}: audio/x-aiff": 7, "not audio: image/png": 1},
        "b.tar": {f"{NOT_TAKEN}: audio/AMR": 2, "not a file: symbolic link": 4},
    }.items():
        receipt = place.finish(migrated_database, name, clean=1)
        receipt.write_text(json.dumps(json.loads(receipt.read_text()) | {"skipped": skipped}))
    told = place.status()
    assert (told.finished.not_taken_count, told.finished.not_audio_count) == (9, 5)
    show_status(told)
    said = "members of these that are no clips: 9 of audio in a format that is not taken, 5 that"
    assert said in capsys.readouterr().out
    found = parse(metrics.exposition(told))
    assert found["earmark_skipped_24h_members", (("kind", "audio_not_taken"),)] == 9


def test_clips_that_were_not_drawn_are_no_work_done(place: Place, migrated_database: str) -> None:
    receipt = place.finish(migrated_database, "a.tar", clean=6)
    manifest = place.volume.manifest("2026-11-02", "a.tar")
    members = [member("a.tar", n, "2026-11-02") | {"selected": n < 4} for n in range(6)]
    write_table(manifest, MANIFEST, members, {"archive_status": "ok"})
    content = json.loads(receipt.read_text())
    receipt.write_text(json.dumps(content | {"clips": {"transcribed": 4, "pending": 2}}))
    rate = place.status().rate
    assert (rate.clips_per_hour, rate.audio_seconds_per_hour) == (round(4 / 6, 3), 60.0)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", '{"status": [], "clips": {}}', '{"status": "ok", "clips": 1}']
)
def test_a_damaged_receipt_or_manifest_is_counted_and_the_rest_stands(
    place: Place, migrated_database: str, text: str
) -> None:
    place.finish(migrated_database, "a.tar", clean=6)
    place.finish(migrated_database, "b.tar", clean=6)
    place.finish(migrated_database, "c.tar", clean=6).write_text(text)
    place.volume.manifest("2026-11-02", "b.tar").write_bytes(b"no parquet")
    told = place.status()
    assert (told.finished.ok_count, told.finished.unread_count) == (2, 1)
    assert (told.rate.clips_per_hour, told.rate.audio_seconds_per_hour) == (2.0, 90.0)
    assert told.rate.unread_count == 1


def test_only_the_newest_receipts_are_read_and_rates_go_over_just_their_time(
    place: Place, migrated_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throughput, "_MOST_RECEIPTS", 2)
    for number, name in enumerate(("a.tar", "b.tar", "c.tar"), 1):
        place.finish(migrated_database, name, clean=6, hours_ago=number)
    told = place.status()
    assert (told.finished.receipts_count, told.finished.ok_count) == (3, 2)
    assert told.finished.unread_count == 1
    assert told.rate.window_hours == pytest.approx(2.0, abs=0.01)
    assert told.rate.clips_per_hour == pytest.approx(6.0, abs=0.05)


def test_days_that_got_no_receipt_lately_are_not_listed(
    place: Place, migrated_database: str
) -> None:
    day = place.finish(migrated_database, "a.tar", clean=6).parent
    then = time.time() - 30 * HOUR
    os.utime(day, (then, then))
    assert place.status().finished.receipts_count == 0


# --- the review's noon ------------------------------------------------------------------


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.mark.parametrize(
    ("now", "zone", "noon"),
    [
        ("2026-11-24T10:59:59+00:00", "Europe/Zurich", "2026-11-24T12:00:00+01:00"),
        ("2026-11-24T11:00:00+00:00", "Europe/Zurich", "2026-11-25T12:00:00+01:00"),
        ("2026-10-24T10:30:00+00:00", "Europe/Zurich", "2026-10-25T12:00:00+01:00"),
        ("2027-03-27T23:30:00+00:00", "Europe/Zurich", "2027-03-28T12:00:00+02:00"),
        ("2026-11-24T23:00:00+00:00", "Pacific/Auckland", "2026-11-26T12:00:00+13:00"),
        ("2026-11-24T10:59:59+00:00", "UTC", "2026-11-24T12:00:00+00:00"),
    ],
)
def test_noon_is_the_next_one_on_the_clocks_of_its_zone(now: str, zone: str, noon: str) -> None:
    assert next_deadline(at(now), "12:00", zone).isoformat() == noon


@given(
    st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),
    st.times(),
    st.sampled_from(["Europe/Zurich", "America/New_York", "Australia/Lord_Howe", "UTC"]),
)
def test_noon_is_ahead_and_at_most_about_a_day_away(now: datetime, time: Any, zone: str) -> None:
    noon = next_deadline(now, f"{time:%H:%M}", zone)
    assert timedelta(0) < noon.astimezone(UTC) - now <= timedelta(hours=25)


@pytest.mark.parametrize("zone", ["Europe/Zuerich", "Europe", "MEZ", "UTC/../x", "A//b"])
def test_an_unknown_time_zone_is_refused_by_name(
    place: Place, zone: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place.configure(review={"timezone": zone})
    assert place.show() == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"'review.timezone' is '{zone}'" in said


@pytest.mark.parametrize("noon", [720, "24:00", "9:30", "12:00:00", "noon"])
def test_a_time_of_day_that_is_none_is_refused_by_name(noon: object) -> None:
    with pytest.raises(EarmarkError, match=r"'review\.noon' is .*; (see config/|put it in)"):
        configuration.resolve({"review": {"noon": noon}})


def noon_in(hours: float) -> dict[str, str]:
    """The settings with which noon comes in so many hours, up to a minute."""
    moment = datetime.now(UTC) + timedelta(hours=hours)
    return {"noon": f"{moment:%H:%M}", "timezone": "UTC"}


def test_flagged_clips_are_those_of_health_and_those_that_wait_those_of_the_queue(
    place: Place, migrated_database: str
) -> None:
    place.use(migrated_database)
    place.finish(migrated_database, "a.tar", flagged=5, clean=4, hours_ago=1)
    place.finish(migrated_database, "b.tar", flagged=3, hours_ago=10)
    place.finish(migrated_database, "c.tar", flagged=7, hours_ago=25)
    with connect(migrated_database) as connection, connection.cursor() as cursor:
        cursor.execute(
            "UPDATE audio_files SET status = 'reviewed' "
            "WHERE archive_source = 'a.tar' AND ordinal IN (0, 1, 8)"
        )
    told = place.status()
    assert told.database.up
    assert told.review.flagged_24h_count == health(migrated_database).flagged_count == 8
    assert told.review.waiting_count == len(review_queue(migrated_database, 100)) == 6
    assert told.review.flagged_per_hour == round(5 / 6, 3)


@pytest.mark.parametrize(
    ("target", "verdict"), [(20, "on course"), (22, "on course"), (30, "will be missed")]
)
def test_noon_is_met_if_what_waits_then_and_what_is_flagged_until_then_reach_the_target(
    place: Place, migrated_database: str, target: int, verdict: str
) -> None:
    place.use(migrated_database)
    place.configure(review=noon_in(3) | {"target": target})
    place.finish(migrated_database, "a.tar", flagged=12, hours_ago=2)  # 2 an hour
    place.finish(migrated_database, "b.tar", flagged=5, hours_ago=20)  # still there at noon
    place.finish(migrated_database, "c.tar", flagged=9, hours_ago=22)  # not in the queue any more
    review = place.status().review
    assert (review.waiting_count, review.waiting_at_noon_count) == (26, 17)
    assert review.flagged_per_hour == 2.0
    assert review.hours_to_noon == pytest.approx(3, abs=0.02)
    assert review.projected_count in (22, 23)
    assert review.verdict == verdict
    assert "as fast as in the last 6 hours" in review.assumption


# --- who doesn't answer -----------------------------------------------------------------


def test_a_database_that_is_down_is_one_line_and_the_rest_stands(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.put("a.tar")
    place.poll()
    place.configure(database={"url": "postgresql://nobody@127.0.0.1:1/none"})
    began = time.monotonic()
    assert place.show() == 0
    assert time.monotonic() - began < 9
    shown = capsys.readouterr().out
    assert "Database   not now: can't reach postgresql://nobody@127.0.0.1:1/none" in shown
    assert "Review     unknown without the database; the target is 200" in shown
    assert "1 pending" in shown
    told = place.status()
    assert (told.review.verdict, told.review.projected_count) == ("unknown", None)


def test_a_database_that_hangs_is_not_waited_for(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_module, "_PATIENCE_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place.configure(
            database={"url": f"postgresql://nobody@127.0.0.1:{silent.getsockname()[1]}/none"}
        )
        began = time.monotonic()
        told = place.status()
    assert time.monotonic() - began < 5
    assert told.database.problem == "no answer within 1 s"


def test_a_database_without_tables_says_what_to_do(place: Place, empty_database: str) -> None:
    place.use(empty_database)
    told = place.status()
    assert not told.database.up
    assert "run `earmark migrate`" in str(told.database.problem)


def test_an_embedded_server_that_is_not_running_is_not_started_for_a_look(place: Place) -> None:
    assert "the first run makes it" in str(place.status().database.problem)
    root = place.volume.root
    database.migrate(database.connection_string(None, root))
    assert place.status().database.up
    database.stop_embedded(root)
    assert "is not running" in str(place.status().database.problem)
    assert not (place.volume.state / "postgres/data/postmaster.pid").exists()


def test_a_slurm_that_is_down_is_one_line_and_the_rest_stands(
    place: Place, no_slurm: None, capsys: pytest.CaptureFixture[str]
) -> None:
    place.put("a.tar")
    place.poll()
    assert place.show() == 0
    shown = capsys.readouterr().out
    assert re.search(r"^SLURM      not now: (SLURM refused squeue|no answer)", shown, re.MULTILINE)
    assert "1 pending" in shown
    assert place.status().slurm.queued is None


def test_a_machine_without_slurm_is_not_asked_for_it(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert place.show() == 0
    assert "SLURM" not in capsys.readouterr().out
    assert dataclasses.astuple(place.status().slurm) == (False, None, None, None)


def test_jobs_that_slurm_has_not_started_are_counted_by_stage(
    place: Place, slurm_cluster: SlurmCluster, tmp_path: Path
) -> None:
    name = f"--job-name={slurm.job_prefix(place.volume.root)}_1234"
    jobs = [
        slurm_cluster.submit(
            "true", "--hold", name, f"--comment=rule_{rule}_wildcards_a.tar", folder=tmp_path
        )
        for rule in ("encode_opus", "encode_opus", "load_pg")
    ]
    note = "--comment=mine\n9|PENDING||" + f"{slurm.job_prefix(place.volume.root)}_1|rule_load_pg"
    other = slurm_cluster.submit("true", "--hold", "--job-name=a\n|b", note, folder=tmp_path)
    try:
        told = place.status()
    finally:
        slurm.cancel([*jobs, other])
    assert told.slurm.queued == {"encode_opus": 2, "load_pg": 1}
    assert told.slurm.problem is None


def test_jobs_that_a_dead_driver_left_are_told(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.poll()
    left = status_module.Slurm(True, None, {}, {"load_pg": 2, "transcribe_audio": 4})
    show_status(dataclasses.replace(place.status(), slurm=left))
    said = "none at work; jobs of a former one still run: 2 load_pg, 4 transcribe_audio"
    assert f"Driver     {said}" in capsys.readouterr().out


# --- a volume that is not there ----------------------------------------------------------


def test_a_volume_that_is_not_mounted_is_one_line_and_the_rest_stands(
    place: Place, migrated_database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place.use(migrated_database)
    root = tmp_path / "nowhere"
    place.configure(volume={"root": str(root)})
    assert place.show() == 0
    shown = capsys.readouterr().out
    assert f"Volume     {root} (volume.root) can't be used" in shown
    assert "is it mounted?" in shown
    assert "Database   answers" in shown
    assert place.show("--prometheus", str(tmp_path / "earmark.prom")) == 0
    assert "volume_free_bytes" not in (tmp_path / "earmark.prom").read_text()
    assert not root.exists()


@pytest.mark.needs("root")
def test_a_volume_that_is_mounted_read_only_is_shown_as_it_is(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.put("a.tar")
    place.poll()
    root = place.volume.root
    with locks.exclusive(place.volume.archive_lock("a.tar"), "encode_opus"):
        subprocess.run(["mount", "--bind", "-o", "ro", root, root], check=True)
        try:
            assert place.show() == 0
            with pytest.raises(OSError, match="Read-only file system"):
                (root / "x").touch()
        finally:
            subprocess.run(["umount", "--lazy", root], check=True)
    shown = capsys.readouterr().out
    assert "1 pending" in shown
    assert "1 stage at work" in shown


def test_archives_that_are_classified_again_are_not_counted_in_the_rates(
    place: Place, migrated_database: str
) -> None:
    place.finish(migrated_database, "new.tar", clean=2)
    place.finish(migrated_database, "old.tar", clean=5)
    before = place.status().rate
    heard = place.volume.transcripts("large-v2", "2026-11-02", "old.tar")
    then = time.time() - 2 * 86_400
    os.utime(heard, (then, then))  # its receipt is new: it was classified again
    after = place.status().rate
    assert (before.archives_per_hour, after.archives_per_hour) == pytest.approx(
        (2 / 6, 1 / 6), 0.01
    )
    assert (before.clips_per_hour, after.clips_per_hour) == pytest.approx((7 / 6, 2 / 6), 0.01)
    assert after.audio_seconds_per_hour == pytest.approx(before.audio_seconds_per_hour * 2 / 7)


# --- how it is told ---------------------------------------------------------------------


@pytest.fixture
def busy(place: Place, migrated_database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A place where much is going on."""
    monkeypatch.setenv("SLURMD_NODENAME", 'odd "node"\\')
    place.use(migrated_database)
    place.configure(review=noon_in(3) | {"target": 10})
    place.put("a.tar")
    place.put("b.tar")
    place.poll()
    place.finish(migrated_database, "c.tar", flagged=12, clean=3, hours_ago=2)
    with locks.exclusive(place.volume.archive_lock("a.tar"), "encode_opus"):
        yield place


def test_a_person_sees_it_all_on_one_screen(
    busy: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    assert busy.show() == 0
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) < 30
    for line in (
        r"^Database   answers$",
        r"^Archives   at the source: 2 pending$",
        r"^           the oldest that waits: b\.tar, for 0 min$",
        r"^Finished   archives of the last 24 h: 1 ok, 0 partial, 0 failed$",
        r"^Rate       2 clips and 0\.1 h of audio per hour, over the last 6 h$",
        r"^Review     12 clips flagged in the last 24 h, each content once, 12 wait for",
        r"^           noon, 20..-..-.. ..:.. UTC: on course, as 1[78] will wait then:$",
        r"^1 stage at work$",
        r"^encode_opus   odd \"node\"\\ +1 +0$",
    ):
        assert re.search(line, shown, re.MULTILINE), (line, shown)


def test_json_has_the_same_keys_whatever_answers(
    busy: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    def keys(value: Any, where: str = "") -> set[str]:
        if isinstance(value, dict) and where not in (".slurm.queued", ".slurm.started"):
            return {inner for key in value for inner in keys(value[key], f"{where}.{key}")}
        return {where}

    assert busy.show("--json") == 0
    full = json.loads(capsys.readouterr().out)
    busy.configure(database={"url": "postgresql://nobody@127.0.0.1:1/none"})
    assert busy.show("--json") == 0
    poor = json.loads(capsys.readouterr().out)
    assert keys(full) == keys(poor)
    for moment in (full["observed_at"], full["checked_at"], full["review"]["next_noon"]):
        assert datetime.fromisoformat(moment).tzinfo is not None
    units = ("_count", "_seconds", "_hours", "_per_hour", "hours_to_noon", "bytes_free", "percent")
    for key in keys(full) - {f".archives.{state}" for state in status_module.STATES}:
        value: Any = full
        for part in key.split(".")[1:]:
            value = value[part]
        if isinstance(value, int | float) and not isinstance(value, bool):
            assert key.endswith(units), key


#: Prometheus' "Exposition formats", with nothing optional but what is used here.
HELP = re.compile(r"# HELP (?P<name>earmark_[a-z0-9_]+) (?P<text>(?:[^\\\n]|\\\\|\\n)+)")
TYPE = re.compile(r"# TYPE (?P<name>earmark_[a-z0-9_]+) gauge")
LABEL = r'[a-z_]+="(?:[^"\\\n]|\\\\|\\"|\\n)*"'
SAMPLE = re.compile(
    rf"(?P<name>earmark_[a-z0-9_]+)(?:\{{(?P<labels>{LABEL}(?:,{LABEL})*)\}})? "
    r"(?P<value>-?[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)"
)


def parse(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Read an exposition as strictly as its specification allows; values by name and labels."""
    assert text.endswith("\n")
    found: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    families: list[str] = []
    lines = text[:-1].split("\n")
    for number, line in enumerate(lines):
        if match := HELP.fullmatch(line):
            assert match["name"] not in families
            families.append(match["name"])
            assert (kind := TYPE.fullmatch(lines[number + 1])) is not None
            assert kind["name"] == match["name"]
        elif not TYPE.fullmatch(line):
            sample = SAMPLE.fullmatch(line)
            assert sample is not None, line
            assert sample["name"] == families[-1]
            pairs = re.findall(r'([a-z_]+)="((?:[^"\\]|\\.)*)"', sample["labels"] or "")
            labels = tuple(sorted((key, _plain(value)) for key, value in pairs))
            assert len({key for key, _ in labels}) == len(labels)
            assert (sample["name"], labels) not in found
            found[sample["name"], labels] = float(sample["value"])
    assert {name for name, _ in found} == set(families)
    return found


def _plain(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: {"n": "\n"}.get(match[1], match[1]), text)


def test_prometheus_gets_a_gauge_for_each_number(busy: Place, tmp_path: Path) -> None:
    file = tmp_path / "textfile/earmark.prom"
    assert busy.show("--prometheus", str(file)) == 2
    assert not file.parent.exists()  # node_exporter reads it, so a person has to choose it
    file.parent.mkdir()
    assert busy.show("--prometheus", str(file)) == 0
    found = parse(file.read_text())
    plain = {name.removeprefix("earmark_"): value for (name, labels), value in found.items()
             if not labels}  # fmt: skip
    assert plain["database_up"] == plain["noon_met"] == 1
    assert plain["driver_up"] == plain["last_poll_failed"] == plain["quarantined_archives"] == 0
    assert plain["flagged_24h_clips"] == plain["review_waiting_clips"] == 12
    assert (plain["review_target_clips"], plain["clips_per_hour"]) == (10, 2.5)
    assert plain["review_projection_clips"] in (17, 18)
    assert plain["audio_seconds_per_hour"] == 225
    assert plain["volume_free_bytes"] > 0
    assert 0 < plain["volume_used_percent"] <= 100
    now = time.time()
    assert plain["last_poll_timestamp_seconds"] == pytest.approx(now, abs=60)
    assert plain["status_timestamp_seconds"] == pytest.approx(now, abs=60)
    assert plain["review_noon_timestamp_seconds"] == pytest.approx(now + 3 * HOUR, abs=90)
    assert found["earmark_archives", (("state", "pending"),)] == 2
    assert found["earmark_archives", (("state", "too_recent"),)] == 0
    assert found["earmark_finished_24h_archives", (("status", "ok"),)] == 1
    place = (("node", 'odd "node"\\'), ("stage", "encode_opus"), ("state", "at_work"))
    assert found["earmark_jobs", place] == 1


def test_what_is_not_known_has_no_sample(busy: Place, no_slurm: None, tmp_path: Path) -> None:
    busy.configure(database={"url": "postgresql://nobody@127.0.0.1:1/none"})
    assert busy.show("--prometheus", str(tmp_path / "earmark.prom")) == 0
    found = parse((tmp_path / "earmark.prom").read_text())
    names = {name.removeprefix("earmark_") for name, _ in found}
    assert found["earmark_database_up", ()] == found["earmark_slurm_up", ()] == 0
    assert not names & {"noon_met", "review_projection_clips", "flagged_24h_clips"}
    assert "clips_per_hour" in names


@given(st.text(), st.text())
def test_no_label_breaks_out_of_its_quotes(stage: str, node: str) -> None:
    told = dataclasses.replace(EMPTY, jobs=[Jobs(stage, node, 1, 0)])
    labels = (("node", node), ("stage", stage), ("state", "at_work"))
    assert parse(metrics.exposition(told))["earmark_jobs", labels] == 1


def test_metrics_take_the_place_of_the_former_ones_and_leave_nothing_beside_them(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "textfile/earmark.prom"
    file.parent.mkdir()
    file.write_text("former")
    inode = file.stat().st_ino
    umask = os.umask(0o077)
    try:
        assert place.show("--prometheus", str(file)) == 0
    finally:
        os.umask(umask)
    assert file.stat().st_ino != inode
    assert file.stat().st_mode & 0o777 == 0o644  # node_exporter is another user
    assert list(file.parent.iterdir()) == [file]
    assert capsys.readouterr().out == ""
    assert place.show("--prometheus", str(file.with_suffix(".txt"))) == 2
    assert "only reads files whose names end in .prom" in capsys.readouterr().err


def test_policies_that_cannot_show_a_wrong_classifier_are_told_as_long_as_they_are(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policies = tmp_path / "policies"
    shutil.copytree(REPOSITORY / "config/policies", policies)
    place.configure(classify={"policies": str(policies)})
    assert place.status().not_checked is None
    (policies / "examples.yaml").unlink()
    assert place.show() == 0
    assert "the classifier can't be checked by policies without examples" in capsys.readouterr().out
    shutil.rmtree(policies)
    assert place.status().not_checked is None  # a run would tell more
