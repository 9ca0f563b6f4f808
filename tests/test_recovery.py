"""Runs that are killed, and the runs after them."""

import contextlib
import os
import random
import re
import signal
import time
from pathlib import Path

import pytest
from workflow_run import ROWS, Run, wait_for, wait_for_any

from earmark.volume import STAGES


@pytest.mark.parametrize("victim", ["driver", "worker", "all"])
def test_a_run_that_is_killed_at_every_stage_ends_as_an_undisturbed_one(
    tmp_path: Path, volume: Path, small_source: Path, undisturbed: list[tuple], victim: str
) -> None:
    run = Run(tmp_path, volume, source={"directory": str(small_source)})
    date = run.date("small.tar")
    rng = random.Random(victim)
    kills = 0
    logs = [run.volume.log(stage, "small.tar", date) for stage in STAGES]
    logs[:2] = [run.volume.log(stage, "small.tar") for stage in STAGES[:2]]
    for number in range(len(STAGES)):
        for log in logs:
            log.unlink(missing_ok=True)
        with run.start("--retries", "0") as process:
            said = wait_for_any(logs[number:], "started", process)
            time.sleep(rng.uniform(0, 0.5))  # somewhere within the stage, or just behind it
            if said is None:
                break  # what was left of the jobs of a killed driver has done all
            kills += 1
            if victim == "driver":
                os.kill(process.pid, signal.SIGKILL)
                continue
            if victim == "worker":
                with contextlib.suppress(ProcessLookupError):  # quicker than the knife
                    os.kill(int(re.findall(r"process (\d+)", said)[-1]), signal.SIGKILL)
                    time.sleep(0.5)
            os.killpg(process.pid, signal.SIGKILL)
    assert kills >= 4
    code, said = run.finish()
    assert code == 0, said
    assert run.query(ROWS) == undisturbed
    assert run.leftovers() == []


def test_a_worker_that_dies_is_tried_again_in_the_same_run(
    tmp_path: Path, volume: Path, small_source: Path, undisturbed: list[tuple]
) -> None:
    run = Run(tmp_path, volume, source={"directory": str(small_source)})
    date = run.date("small.tar")
    log = run.volume.log("transcribe_audio", "small.tar", date)
    with run.start() as process:
        worker = int(re.findall(r"process (\d+)", wait_for(log, "started", process))[-1])
        os.kill(worker, signal.SIGKILL)
        said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert run.query(ROWS) == undisturbed
