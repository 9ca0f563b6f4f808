"""Alerts and dashboard for Prometheus and Grafana, by the metrics that Earmark writes."""

import json
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from example_status import EMPTY

from earmark import REPOSITORY
from earmark.record import throughput
from earmark.watch import metrics
from earmark.watch.status import Database, GivenUp, Jobs, Room, Slurm, Status

pytestmark = pytest.mark.needs("promtool")

MONITORING = REPOSITORY / "deploy/monitoring"
RULES = yaml.safe_load((MONITORING / "alerts.yml").read_text(encoding="utf-8"))
ALERTS = {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"]}
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))

SOUND: Status = replace(
    EMPTY,
    checked_at=EMPTY.observed_at,
    archives=EMPTY.archives | {"pending": 3, "done": 100},
    given_up=[],
    finished=throughput.Finished(24.0, 100, 99, 1, 0, 0, 4, 12),
    driver="coordinator (process 7)",
    jobs=[Jobs("transcribe_audio", "worker1", 1, 0)],
    slurm=Slurm(True, None, {"encode_opus": 2}, None),
    database=Database(True, None),
    review=replace(
        EMPTY.review, flagged_24h_count=250, waiting_count=180, projected_count=240,
        verdict="on course",
    ),
)  # fmt: skip
GIVEN_UP = GivenUp("a.tar", "encode_opus", 1, "out of memory")
#: What is written when an alert has to be given.
STATUSES: dict[str, Status] = {
    "EarmarkNoDriver": replace(SOUND, driver=None),
    "EarmarkDatabaseAway": replace(SOUND, database=Database(False, "down")),
    "EarmarkSlurmAway": replace(SOUND, slurm=Slurm(True, "slurmctld is down", None, None)),
    "EarmarkNothingGetsDone": replace(SOUND, oldest_waiting_seconds=30_000.0, jobs=[]),
    "EarmarkVolumeFills": replace(SOUND, room=Room(1, 80.0, [], "")),
    "EarmarkSourceAway": replace(SOUND, problem="no route to host"),
    "EarmarkNoonMissed": replace(SOUND, review=replace(SOUND.review, verdict="will be missed")),
    "EarmarkArchivesFail": replace(SOUND, given_up=[GIVEN_UP]),
    "EarmarkQuarantine": replace(SOUND, quarantined_count=1),
    "EarmarkAudioNotTaken": replace(
        SOUND, finished=replace(SOUND.finished, not_taken_count=2000)
    ),
}  # fmt: skip
CYCLE = 'node_systemd_unit_state{name="earmark-cycle.service",state="%s"}'


def series_of(status: Status, age: str = "60+60x400") -> dict[str, str]:
    """What Prometheus sees for hours, a value a minute, of one status that is written anew."""
    lines = metrics.exposition(status).splitlines()
    samples = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    constant = {name: f"{value}x400" for name, value in samples.items()}
    return constant | {"earmark_status_timestamp_seconds": age}


def firing(tmp_path: Path, series: Mapping[str, str], expected: Iterable[str]) -> None:
    """Have Prometheus' own tool say that these alerts fire after four hours, and no others."""
    names = sorted({"EarmarkWatchdog", *expected})
    fired = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in names]
    query = {
        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
        "eval_time": "4h",
        "exp_samples": fired,
    }
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [query],
    }
    file = tmp_path / "test.yml"
    rules = str(MONITORING / "alerts.yml")
    file.write_text(yaml.safe_dump({"rule_files": [rules], "tests": [test]}), encoding="utf-8")
    promtool("test", "rules", str(file))


def promtool(*arguments: str) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", STATUSES)
def test_an_alert_fires_on_the_status_that_it_is_about_and_no_other_does(
    tmp_path: Path, alert: str
) -> None:
    firing(tmp_path, series_of(STATUSES[alert]), [alert])


def test_nothing_fires_while_all_is_well_but_what_shows_that_alerts_arrive(tmp_path: Path) -> None:
    firing(tmp_path, series_of(SOUND) | {CYCLE % "failed": "0x400", CYCLE % "active": "1x400"}, [])


def test_a_volume_that_is_almost_full_wakes_somebody(tmp_path: Path) -> None:
    full = replace(SOUND, room=Room(1, 97.0, [], ""))
    firing(tmp_path, series_of(full), ["EarmarkVolumeFills", "EarmarkVolumeFull"])


def test_a_cycle_that_cannot_start_is_told(tmp_path: Path) -> None:
    firing(tmp_path, series_of(SOUND) | {CYCLE % "failed": "1x400"}, ["EarmarkCycleFails"])


@pytest.mark.parametrize("series", [{}, series_of(SOUND, age="60+60x60 _x340")])
def test_no_status_for_a_quarter_of_an_hour_is_told(
    tmp_path: Path, series: dict[str, str]
) -> None:  # fmt: skip
    firing(tmp_path, series, ["EarmarkStatusOld"])


def test_every_alert_is_tested_and_has_its_paragraph_for_who_is_called() -> None:
    told = {
        *STATUSES, "EarmarkVolumeFull", "EarmarkCycleFails", "EarmarkStatusOld", "EarmarkWatchdog",
    }  # fmt: skip
    page = (REPOSITORY / "docs/on-call.md").read_text(encoding="utf-8")
    assert ALERTS.keys() == told == set(re.findall(r"^\*\*(Earmark\w+)\*\*", page, re.MULTILINE))


def test_the_dashboard_asks_in_promql_and_for_metrics_that_are_written(tmp_path: Path) -> None:
    asked = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    asked += [rule["expr"] for rule in ALERTS.values()]
    rules: list[dict[str, Any]] = [
        {"record": f"asked:{number}", "expr": expr} for number, expr in enumerate(asked)
    ]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": rules}]}))
    promtool("check", "rules", str(file))
    written = {f"earmark_{name}" for name, *_ in metrics.gauges(SOUND)}
    assert set(re.findall(r"earmark_\w+", " ".join(asked))) <= written
