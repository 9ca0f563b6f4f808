"""A real SLURM for tests: the cluster of deploy/one-machine, up while a test needs it."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from earmark import REPOSITORY, locks

COMMAND = REPOSITORY / "deploy/one-machine/slurm"
ASKS_OFTEN = REPOSITORY / "tests/asks_often"


class SlurmCluster:
    """The cluster on this machine."""

    def control(self, *arguments: str) -> str:
        """Call deploy/one-machine/slurm; returns what it said."""
        done = subprocess.run(
            [COMMAND, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def submit(self, script: str, *options: str, folder: Path) -> str:
        """Submit a shell script; returns the job's id. Its output goes to a file of that name."""
        command = ["sbatch", "--parsable", f"--chdir={folder}", "--output=%j", *options]
        done = subprocess.run(
            command, input=f"#!/bin/sh\n{script}\n", capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def state(self, job: str) -> str:
        """A job's state in SLURM's word, such as RUNNING."""
        return self.ask("%T", f"--jobs={job}")

    def wait_until_running(self, job: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while (state := self.state(job)) != "RUNNING":
            assert state == "PENDING", state
            assert time.monotonic() < deadline, self.ask("%i %T %r %N")
            time.sleep(0.1)

    def wait(self, *jobs: str, seconds: float = 120) -> list[str]:
        """Wait until jobs have ended; returns their states."""
        deadline = time.monotonic() + seconds
        while {"PENDING", "RUNNING", "COMPLETING"} & {*(states := [*map(self.state, jobs)])}:
            assert time.monotonic() < deadline, self.ask("%i %T %r %N")
            time.sleep(0.2)
        return states

    def ask(self, form: str, *options: str) -> str:
        """What squeue(1) says of all jobs that it remembers, a line for each."""
        command = ["squeue", "--states=all", "--noheader", f"--format={form}", *options]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def slurm_cluster(shared_folder: Path, undisturbed: list[tuple]) -> Iterator[SlurmCluster]:
    """The cluster, for one file of tests at a time, since some of them kill nodes.

    It is brought up unless it is, and then taken down again. What its tests compare with is made
    before, while those of another file may have it.
    """
    for program, package in [("slurmctld", "slurmctld"), ("slurmd", "slurmd"), ("munged", "munge")]:
        assert shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin"), (
            f"{program} is missing (on Debian: apt install {package} slurm-client)"
        )
    cluster = SlurmCluster()
    with locks.exclusive(shared_folder / "slurm.lock"):
        was_up = subprocess.run([COMMAND, "status"], capture_output=True, check=False)
        cluster.control("up")
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setenv("PYTHONPATH", str(ASKS_OFTEN))
            yield cluster
        if was_up.returncode != 0:
            cluster.control("down")
