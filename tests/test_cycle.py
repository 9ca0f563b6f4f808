"""`earmark cycle` on one machine: a driver that is fed, and what its exit status says."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml
from workflow_run import ROWS, Run, wait_for

from earmark import REPOSITORY, locks
from earmark.driver import slurm
from earmark.volume import Volume

EARMARK = [sys.executable, "-m", "earmark"]


class Cycle(Run):
    """A place to run cycles in."""

    def begin(self, *options: str, profile: Path = REPOSITORY / "profiles/local"):
        """Start ``earmark cycle``."""
        return subprocess.Popen(
            [
                *(*EARMARK, "cycle", "--configfile", str(self.configfile)),
                *("--profile", str(profile), "--directory", str(self.folder), *options),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def run(self, *options: str, profile: Path = REPOSITORY / "profiles/local") -> tuple[int, str]:
        """Run ``earmark cycle`` to its end; returns its exit status and what it said."""
        with self.begin(*options, profile=profile) as process:
            said, _ = process.communicate(timeout=600)
        return process.returncode, said

    def driver_said(self) -> str:
        """What the newest driver wrote into its log."""
        logs = sorted((self.volume.root / "logs/driver").glob("*.log"))
        return logs[-1].read_text() if logs else ""


@pytest.fixture
def source(tmp_path: Path, small_source: Path) -> Path:
    """A source with one small archive."""
    folder = tmp_path / "source"
    folder.mkdir()
    shutil.copy2(small_source / "small.tar", folder)
    return folder


@pytest.fixture
def run(tmp_path: Path, volume: Path, source: Path) -> Cycle:
    return Cycle(
        tmp_path / "run",
        volume,
        source={"directory": str(source)},
        cycle={"idle_minutes": 0.05},
    )


def only(rows: list[tuple], archive: str) -> list[tuple]:
    return [row[1:] for row in rows if row[0] == archive]


def test_a_cycle_without_pending_archives_says_so_by_its_status(run: Cycle, source: Path) -> None:
    (source / "small.tar").unlink()
    code, said = run.run()
    assert code == 3, said
    assert "nothing to do" in said
    assert run.driver_said() == ""


@pytest.mark.parametrize("lock", ["cycle_lock", "driver_lock"])
def test_a_cycle_leaves_at_once_while_another_driver_lives(run: Cycle, lock: str) -> None:
    with locks.exclusive(getattr(run.volume, lock), "driver"):
        code, said = run.run()
    assert code == 3, said
    assert f"process {os.getpid()} on" in said


@pytest.mark.parametrize(
    ("text", "reason"),
    [(None, "cannot read the profile"), ("- a\n", "no mapping"), ("a: [", "no mapping")],
)
def test_a_profile_that_is_none_is_refused_in_one_sentence(
    run: Cycle, tmp_path: Path, text: str | None, reason: str
) -> None:
    if text:
        (tmp_path / "config.yaml").write_text(text)
    code, said = run.run(profile=tmp_path)
    assert code == 2
    assert said.startswith("earmark: ")
    assert reason in said
    assert "Traceback" not in said


def test_a_volume_that_is_not_mounted_is_not_made(run: Cycle) -> None:
    config = yaml.safe_load(run.configfile.read_text())
    config["volume"]["root"] += "/missing"
    run.configfile.write_text(yaml.safe_dump(config))
    code, said = run.run()
    assert code == 2
    assert "is the volume mounted?" in said
    assert not Path(config["volume"]["root"]).exists()


def test_archives_that_appear_meanwhile_are_taken_in_and_edits_of_the_config_wait(
    run: Cycle, source: Path, undisturbed: list[tuple]
) -> None:
    policies = source.parent / "policies"
    shutil.copytree(REPOSITORY / "config/policies", policies)
    config = yaml.safe_load(run.configfile.read_text())
    config["classify"]["policies"] = str(policies)
    run.configfile.write_text(yaml.safe_dump(config))
    with run.begin() as process:
        wait_for(run.volume.log("fetch_archive", "small.tar"), "done in", process)
        run.configfile.write_text("asr: {name: [this is none")
        for policy in policies.iterdir():
            policy.write_text("No policy any more.")
        shutil.copy2(source / "small.tar", source / ".later.tar")
        with (source / ".later.tar").open("ab") as file:
            file.write(bytes(10240))  # another file, of the same members
        (source / ".later.tar").rename(source / "later.tar")
        said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said + run.driver_said()
    assert "done: 2 archives; failed: 0" in said
    rows = run.query(ROWS)
    expected = only(undisturbed, "small.tar")
    assert len(rows) == 2 * len(expected)
    for name in ("small.tar", "later.tar"):
        # All but the path, which has the archive's name in it.
        assert [row[:2] + row[3:] for row in only(rows, name)] == [
            row[:2] + row[3:] for row in expected
        ]
        (receipt,) = run.volume.root.glob(f"processed/date=*/{name}.json")
        assert json.loads(receipt.read_text())["order"] == "deadline"
    assert run.leftovers() == []
    assert not locks.is_held(run.volume.cycle_lock)


def test_a_term_signal_lets_running_jobs_end_and_the_next_cycle_does_the_rest(
    run: Cycle, undisturbed: list[tuple]
) -> None:
    with run.begin() as process:
        wait_for(run.volume.log("fetch_archive", "small.tar"), "done in", process)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said + run.driver_said()
    assert "done: 0 archives; failed: 0" in said
    assert run.volume.incoming("small.tar").exists()
    code, said = run.run()
    assert code == 0, said
    assert run.query(ROWS) == undisturbed


def test_time_that_is_up_ends_a_driver_like_a_term_signal(run: Cycle) -> None:
    config = yaml.safe_load(run.configfile.read_text())
    config["cycle"]["max_hours"] = 4 / 3600
    run.configfile.write_text(yaml.safe_dump(config))
    code, said = run.run()
    assert code == 0, said + run.driver_said()
    assert "time is up" in said
    assert "done: 0 archives" in said


def test_an_archive_whose_stage_fails_makes_the_status_4_and_is_given_up_and_released(
    run: Cycle, source: Path, undisturbed: list[tuple]
) -> None:
    config = yaml.safe_load(run.configfile.read_text())
    config["failure"] = {"max_attempts": 2}
    run.configfile.write_text(yaml.safe_dump(config))
    blocked = run.volume.audio(run.date("small.tar"), "small.tar")
    blocked.parent.mkdir(parents=True)
    blocked.write_text("a file where the folder should be")
    code, said = run.run()
    assert code == 4, said + run.driver_said()
    assert "small.tar" in said
    (held,) = [path.name for path in run.volume.quarantine("").parent.iterdir()]
    assert held == "small.tar.json"
    assert run.query("SELECT name, status FROM archives") == [("small.tar", "quarantined")]
    code, said = run.run()
    assert code == 3, said
    # What is in quarantine since then is no failure of a later cycle.
    with tarfile.open(source / "more.tar", "w"):
        pass
    code, said = run.run()
    assert code == 0, said
    assert "done: 1 archive; failed: 0" in said
    (source / "more.tar").unlink()
    run.query("DELETE FROM archives WHERE name = 'more.tar' RETURNING name")
    blocked.unlink()
    retry = [*EARMARK, "retry", "small.tar", "--configfile", str(run.configfile)]
    released = subprocess.run(retry, capture_output=True, text=True, check=True)
    assert "0 archives in quarantine" in released.stdout
    code, said = run.run()
    assert code == 0, said + run.driver_said()
    assert run.query(ROWS) == undisturbed


def test_the_jobs_of_two_volumes_have_different_names(tmp_path: Path) -> None:
    prefixes = {slurm.job_prefix(Volume(tmp_path / name).root) for name in ("a", "b")}
    assert len(prefixes) == 2
    assert all(len(prefix) <= 50 for prefix in prefixes)


@pytest.mark.parametrize("ignored", [False, True])
def test_an_interrupt_ends_the_driver_also_where_a_shell_has_it_ignored(
    run: Cycle, ignored: bool
) -> None:
    former = signal.signal(signal.SIGINT, signal.SIG_IGN) if ignored else None
    try:
        process = run.begin()
    finally:
        if ignored:
            signal.signal(signal.SIGINT, former)
    with process:
        wait_for(run.volume.log("fetch_archive", "small.tar"), "done in", process)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopping; running jobs are cancelled" in said
    assert "done: 0 archives" in said
    assert not locks.is_held(run.volume.driver_lock)
