"""Faults in the middle of a cycle on a real SLURM, and the cycles after them.

Whatever happens: in the end every archive is in the database once, as if nothing had been,
and nothing is left behind.
"""

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import yaml
from slurm_cluster import SlurmCluster, slurm_cluster
from workflow_run import ROWS, Run, wait_for

from earmark import locks
from earmark.driver import attempts, quarantine, slurm
from earmark.record import database, embedded_server

__all__ = ["slurm_cluster"]

T = TypeVar("T")

ARCHIVE = "small.tar"


class Cycles(Run):
    """A volume and a source that ``earmark cycle`` runs on, again and again."""

    def __init__(
        self,
        folder: Path,
        volume: Path,
        source: Path,
        resources: dict[str, dict] | None = None,
        **changes: dict,
    ) -> None:
        sections: dict[str, dict] = {
            "source": {"directory": str(source)},
            "cycle": {"idle_minutes": 0.05},
        }
        super().__init__(folder, volume, "slurm", **(sections | changes))
        self.jobs = slurm.job_prefix(self.volume.root)
        settings = yaml.safe_load((self.profile / "config.yaml").read_text(encoding="utf-8"))
        settings["slurm-init-seconds-before-status-checks"] = 2  # its jobs are short
        for rule, changed in (resources or {}).items():
            settings["set-resources"][rule] |= changed
        self.profile = folder / "profile"
        self.profile.mkdir()
        (self.profile / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")

    def earmark(self, command: str, *arguments: str) -> subprocess.Popen[str]:
        """Start the ``earmark`` command."""
        return subprocess.Popen(
            ["earmark", command, f"--configfile={self.configfile}", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @contextmanager
    def cycle(self, expected: int) -> Iterator[subprocess.Popen[str]]:
        """A cycle during the block, which then has to end by itself with this status."""
        process = self.earmark("cycle", f"--profile={self.profile}", f"--directory={self.folder}")
        try:
            yield process
            said, _ = process.communicate(timeout=300)
            assert process.returncode == expected, said
        except BaseException:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
            for log in sorted((self.volume.root / "logs/driver").glob("*.log")):
                print(log, log.read_text(), sep="\n")
            raise

    def wait_for_job(self, stage: str) -> slurm.Job:
        """Wait until SLURM runs a job of a stage."""
        return eventually(
            lambda: next(
                (
                    job
                    for job in slurm.jobs(self.jobs)
                    if job.state == "RUNNING" and job.comment.startswith(f"rule_{stage}_")
                ),
                None,
            )
        )

    def wait_for_stage(self, stage: str, archive: str = ARCHIVE) -> locks.Holder:
        """Wait until a stage is at work on an archive."""

        def holder() -> locks.Holder | None:
            found = locks.holder_of(self.volume.archive_lock(archive))
            return found if found and found.purpose == stage else None

        return eventually(holder, pause=0.002)

    def check_nothing_is_left(self) -> None:
        assert self.leftovers() == []
        assert slurm.jobs(self.jobs) == []
        held = [path for path in self.volume.state.rglob("*.lock") if locks.is_held(path)]
        assert held == []
        assert attempts.tried(self.volume) == []


@contextmanager
def poisoned(run: Cycles, stage: str, archive: str) -> Iterator[None]:
    """Kill each process of a stage of one archive, as soon as it has begun."""
    over = threading.Event()

    def kill() -> None:
        killed = []
        while not over.wait(0.005):
            path = run.volume.attempts(archive)
            last = json.loads(path.read_text())[-1] if path.exists() else None
            if last and last["stage"] == stage and last["process"] not in killed:
                killed.append(last["process"])
                os.kill(last["process"], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def eventually(look: Callable[[], T | None], seconds: float = 120, pause: float = 0.1) -> T:
    """What a look finds in the end."""
    deadline = time.monotonic() + seconds
    while (found := look()) is None:
        assert time.monotonic() < deadline, look
        time.sleep(pause)
    return found


def test_however_a_driver_ends_the_next_one_goes_on(
    slurm_cluster: SlurmCluster,
    tmp_path: Path,
    volume: Path,
    small_source: Path,
    undisturbed: list[tuple],
) -> None:
    run = Cycles(tmp_path, volume, small_source)
    # SIGTERM: the running job may end.
    with run.cycle(0) as process:
        job = run.wait_for_job("fetch_archive")
        process.terminate()
    assert slurm.end_of(job.id)[0] == "COMPLETED"
    assert slurm.jobs(run.jobs) == []

    # Two triggers at once: one works, the other one leaves.
    options = [f"--profile={run.profile}", f"--directory={run.folder}"]
    triggers = [run.earmark("cycle", *options) for _ in range(2)]
    idle = eventually(lambda: next((one for one in triggers if one.poll() is not None), None))
    assert idle.returncode == 3, idle.communicate()
    (worker,) = {*triggers} - {idle}
    # The cycle is killed: its driver lives, and no other one starts.
    driver = eventually(lambda: locks.holder_of(run.volume.driver_lock))
    run.wait_for_job("unpack_archive")
    worker.kill()
    worker.communicate(timeout=10)
    with run.cycle(3):
        pass
    # The driver is killed: the next one awaits its job.
    orphan = run.wait_for_job("encode_opus")
    os.kill(driver.process, signal.SIGKILL)

    # SIGINT: the running job is cancelled, and its archive not done.
    with run.cycle(130) as process:
        run.wait_for_stage("transcribe_audio")
        assert slurm.end_of(orphan.id)[0] == "COMPLETED"
        (job,) = slurm.jobs(run.jobs)
        process.send_signal(signal.SIGINT)
    assert slurm.end_of(job.id)[0] == "CANCELLED"
    assert slurm.jobs(run.jobs) == []

    with run.cycle(0):
        pass
    assert run.query(ROWS) == undisturbed
    run.check_nothing_is_left()


def test_an_archive_that_kills_its_jobs_is_given_up_alone_until_a_person_releases_it(
    slurm_cluster: SlurmCluster,
    tmp_path: Path,
    volume: Path,
    small_source: Path,
    undisturbed: list[tuple],
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in (ARCHIVE, "poison.tar"):
        shutil.copy2(small_source / ARCHIVE, source / name)
    run = Cycles(tmp_path, volume, source)
    with poisoned(run, "transcribe_audio", "poison.tar"), run.cycle(4):
        pass
    assert run.query(ROWS) == undisturbed
    ((status, reason),) = run.query("SELECT status, reason FROM archives WHERE name = 'poison.tar'")
    (given_up,) = quarantine.in_quarantine(run.volume)
    assert (given_up.archive, given_up.stage) == ("poison.tar", "transcribe_audio")
    assert (status, reason) == ("quarantined", given_up.reason)
    assert "FAILED" in reason
    assert "poison.tar: started" in given_up.log_tail
    assert [attempt["stage"] for attempt in given_up.attempts] == ["transcribe_audio"] * 3
    with run.cycle(3):
        pass

    said, _ = run.earmark("retry", "poison.tar").communicate(timeout=60)
    assert "0 archives in quarantine" in said
    with run.cycle(0):
        pass
    again = [
        tuple(
            part.replace(ARCHIVE, "poison.tar") if isinstance(part, str) else part for part in row
        )
        for row in undisturbed
    ]
    assert run.query(ROWS) == again + undisturbed
    run.check_nothing_is_left()


def test_a_cycle_outlives_what_happens_around_it(
    slurm_cluster: SlurmCluster,
    tmp_path: Path,
    volume: Path,
    small_source: Path,
    undisturbed: list[tuple],
) -> None:
    source = tmp_path / "source"
    shutil.copytree(small_source, source)
    # In its usual folder, where `query` finds it, but one that the workflow may not start.
    folder = volume / "state/postgres"
    server = embedded_server.use(folder)
    database.migrate(server)
    # At first, less memory than a job's processes take, and no more time than SLURM has to allow.
    tight = {
        "classify_transcripts": {"mem_mb": "60 if attempt == 1 else 8000"},
        "load_pg": {"runtime": "1 if attempt == 1 else 60"},
    }
    run = Cycles(tmp_path, volume, source, tight, database={"url": server})

    def failure(stage: str) -> attempts.Attempt:
        return eventually(
            lambda: next(
                (each for each in attempts.failures(run.volume, ARCHIVE) if each.stage == stage),
                None,
            )
        )

    date = run.date(ARCHIVE)
    with run.cycle(0) as process:
        run.wait_for_job("fetch_archive")
        run.configfile.write_text("an edit that goes wrong: [")
        away = source.rename(tmp_path / "away")
        failure("fetch_archive")
        away.rename(source)

        lost = run.wait_for_job("encode_opus")
        # Its job waits for this lock, and lives on when its node is lost.
        with locks.exclusive(run.volume.archive_lock(ARCHIVE), "test"):
            log = run.volume.log("encode_opus", ARCHIVE, date)
            wait_for(log, "waiting for", process)
            slurm_cluster.control("kill", lost.node)
            try:
                slurm_cluster.wait(lost.id)
            finally:
                slurm_cluster.control("start", lost.node)

        run.wait_for_stage("transcribe_audio")
        slurm.cancel([job.id for job in slurm.jobs(run.jobs)])
        cancelled = failure("transcribe_audio")
        assert "CANCELLED" in str(cancelled.reason)
        assert not cancelled.counts

        slurm_cluster.wait(run.wait_for_job("classify_transcripts").id)  # it wants more memory
        run.wait_for_stage("classify_transcripts")
        slurm_cluster.control("restart-controller")

        late = run.wait_for_job("load_pg")
        embedded_server.stop(folder)
        eventually(lambda: run.wait_for_stage("load_pg").waits_for or None)
        slurm_cluster.wait(late.id, seconds=180)
        failure("load_pg")
        embedded_server.use(folder)

    ends: dict[str, list[str]] = {}
    for line in sorted(slurm_cluster.ask("%i|%j|%k|%T").splitlines()):
        _, name, comment, state = line.split("|")
        if name.startswith(run.jobs):
            ends.setdefault(comment.removeprefix("rule_").split("_wildcards_")[0], []).append(state)
    assert ends == {
        "fetch_archive": ["FAILED", "COMPLETED"],
        "unpack_archive": ["COMPLETED"],
        "encode_opus": ["NODE_FAIL", "COMPLETED"],
        "transcribe_audio": ["CANCELLED", "COMPLETED"],
        "classify_transcripts": ["FAILED", "COMPLETED"],
        "load_pg": ["TIMEOUT", "COMPLETED"],
    }
    assert run.query(ROWS) == undisturbed
    run.check_nothing_is_left()
