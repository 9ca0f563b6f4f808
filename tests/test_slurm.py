"""The workflow on a real SLURM cluster, and what that cluster promises."""

import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
from slurm_cluster import COMMAND, SlurmCluster, slurm_cluster
from workflow_run import ROWS, Run

from earmark.driver import cycle, slurm
from earmark.volume import STAGES, Volume

__all__ = ["slurm_cluster"]

#: Say where the job is, what GPUs it sees, and from when to when it held them.
USE_GPU = 'date +%s.%N; sleep 2; echo "$SLURMD_NODENAME $CUDA_VISIBLE_DEVICES"; date +%s.%N'


def test_jobs_of_one_gpu_see_one_device_and_never_share_a_node(
    slurm_cluster: SlurmCluster, tmp_path: Path
) -> None:
    jobs = [
        slurm_cluster.submit(USE_GPU, "--partition=gpu", "--gres=gpu:l4:1", folder=tmp_path)
        for _ in range(6)
    ]
    assert slurm_cluster.wait(*jobs) == ["COMPLETED"] * 6
    uses: dict[str, list[tuple[float, float]]] = {}
    for job in jobs:
        start, node, device, end = (tmp_path / job).read_text().split()
        assert device == "0"
        uses.setdefault(node, []).append((float(start), float(end)))
    assert uses.keys() <= {"worker1", "worker2", "worker3"}
    for intervals in uses.values():
        intervals.sort()
        for (_, ended), (began, _) in pairwise(intervals):
            assert ended <= began


def test_a_job_above_its_memory_dies(slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
    hungry = "python3 -c 'import time; much = bytearray(300 << 20); time.sleep(100)'"
    job = slurm_cluster.submit(hungry, "--mem=100", folder=tmp_path)
    assert slurm_cluster.wait(job) == ["FAILED"]
    assert "exceeded memory limit" in (tmp_path / job).read_text()


def test_a_driver_that_ends_waits_for_no_job_that_has_not_begun_or_waits_itself(
    slurm_cluster: SlurmCluster, tmp_path: Path
) -> None:
    volume = Volume(tmp_path)
    prefix = slurm.job_prefix(tmp_path)
    stage = f"""exec {sys.executable} - <<'END'
import time
from pathlib import Path
from earmark.driver.stages import stage
from earmark.volume import Volume
volume = Volume(Path({str(tmp_path)!r}))
with stage("encode_opus", ARCHIVE, volume, Path("log")) as lock:
    lock.renew(WAITS_FOR)
    print("at work", flush=True)
    time.sleep(100)
END"""
    jobs = {
        waits_for: slurm_cluster.submit(
            stage.replace("ARCHIVE", repr(f"{waits_for}.tar")).replace(
                "WAITS_FOR", repr(waits_for)
            ),
            *(f"--job-name={prefix}_1", *options),
            folder=tmp_path,
        )
        for waits_for, options in [("room", []), ("", []), ("a GPU", ["--begin=now+1hour"])]
    }
    for waits_for in ("room", ""):
        slurm_cluster.wait_until_running(jobs[waits_for])
        said = tmp_path / jobs[waits_for]
        while not (said.exists() and "at work" in said.read_text()):
            assert slurm_cluster.state(jobs[waits_for]) == "RUNNING", said.read_text()
            time.sleep(0.1)
    cycle.cancel_waiting(volume, prefix)
    assert slurm_cluster.wait(jobs["room"], jobs["a GPU"]) == ["CANCELLED"] * 2
    assert slurm_cluster.state(jobs[""]) == "RUNNING"
    slurm.cancel([jobs[""]])


def test_a_run_on_the_cluster_yields_what_a_run_on_one_machine_does(
    slurm_cluster: SlurmCluster,
    tmp_path: Path,
    volume: Path,
    small_source: Path,
    undisturbed: list[tuple],
) -> None:
    run = Run(tmp_path, volume, profile="slurm", source={"directory": str(small_source)})
    code, said = run.finish()
    assert code == 0, said
    assert run.query(ROWS) == undisturbed
    assert run.leftovers() == []

    name = next(line.split()[-1] for line in said.splitlines() if "SLURM run ID:" in line)
    jobs = [
        line.split() for line in slurm_cluster.ask("%k %P %N %b", f"--name={name}").splitlines()
    ]
    placed = {comment.split("_wildcards_")[0]: place for comment, *place in jobs}
    assert placed.keys() == {f"rule_{stage}" for stage in STAGES}
    for stage in ("fetch_archive", "load_pg"):
        assert placed[f"rule_{stage}"] == ["transfer", "transfer", "N/A"]
    for stage in ("unpack_archive", "encode_opus"):
        assert placed[f"rule_{stage}"][0::2] == ["cpu", "N/A"]
    for stage in ("transcribe_audio", "classify_transcripts"):
        assert placed[f"rule_{stage}"][0::2] == ["gpu", "gres:gpu:l4:1"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "say what to do"),
        (["upp"], "'upp' is none of its commands"),
        (["up", "now"], "'up' takes no arguments"),
        (["kill"], "expected the name of one node"),
        (["start", "worker9"], "no node is called 'worker9'"),
    ],
)
def test_the_script_says_how_it_is_used(arguments: list[str], complaint: str) -> None:
    done = subprocess.run([COMMAND, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "--help" in done.stderr


def test_up_leaves_a_cluster_alone_that_is_up(slurm_cluster: SlurmCluster) -> None:
    def processes() -> str:
        return subprocess.run(["pgrep", "slurmd|slurmctld"], capture_output=True, text=True).stdout

    before = processes()
    assert "SLURM is up" in slurm_cluster.control("up")
    assert processes() == before != ""
