"""The demo's archives, many times over, on a SLURM of four nodes: `make check-cluster` (root).

    python -m benchmarks.cluster

``earmark cycle`` works through them to the end, with the real stages, on the cluster of
deploy/one-machine.  Then it is checked that every archive ended as demo/expected.json says, that
no two jobs with a GPU shared a node at any moment, and that each of them saw one device.  On two
cores it takes about a quarter of an hour.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from benchmarks.report import progress
from benchmarks.slurm import Use, cluster, gpu_uses
from earmark import REPOSITORY, configuration
from earmark.driver import slurm
from earmark.record.database import connect, connection_string
from earmark.volume import Volume

DEMO = REPOSITORY / "demo"
EXPECTED = json.loads((DEMO / "expected.json").read_text(encoding="utf-8"))["archives"]
GPU_STAGES = ("transcribe_audio", "classify_transcripts")

STATUSES = """
    SELECT a.name, a.status, af.ordinal, af.status
    FROM archives a LEFT JOIN audio_files af ON af.archive_id = a.id
"""


def main() -> int:
    """Run and check; returns the exit status."""
    options = _options()
    with (
        cluster(),
        tempfile.TemporaryDirectory(prefix="cluster-", ignore_cleanup_errors=True) as name,
    ):
        folder = Path(name)
        folder.chmod(0o711)  # the embedded PostgreSQL runs as another user
        return _check(folder, options.copies)


def _check(folder: Path, copies: int) -> int:
    source, volume = folder / "source", Volume(folder / "volume")
    source.mkdir()
    volume.root.mkdir()
    expected = {
        f"copy{number:02d}_{name}": facts
        for number in range(copies)
        for name, facts in EXPECTED.items()
    }
    for name in expected:
        shutil.copy2(DEMO / "archives" / name.partition("_")[2], source / name)
    config = yaml.safe_load((DEMO / "config.yaml").read_text(encoding="utf-8"))
    config["volume"]["root"] = str(volume.root)
    config["source"]["directory"] = str(source)
    configfile = folder / "config.yaml"
    configfile.write_text(yaml.safe_dump(config), encoding="utf-8")
    url = connection_string(configuration.read(configfile).database.url, volume.root)

    earmark = [sys.executable, "-m", "earmark"]
    begun = time.monotonic()
    cycle = subprocess.Popen(
        [*earmark, "cycle", f"--configfile={configfile}", f"--directory={folder}"]
    )
    try:
        while True:
            try:
                code = cycle.wait(60)
                break
            except subprocess.TimeoutExpired:
                done = len(list(volume.root.glob("processed/*/*.json")))
                progress(f"{done} of {len(expected)} archives are done")
        seconds = time.monotonic() - begun
        with connect(url) as connection, connection.cursor() as cursor:
            cursor.execute(STATUSES)
            rows = cursor.fetchall()
    finally:
        cycle.terminate()
        cycle.wait()
        subprocess.run([*earmark, "database", f"--configfile={configfile}", "--stop"], check=False)
    uses = gpu_uses(slurm.job_prefix(volume.root))
    logs = [
        log.read_text(encoding="utf-8")
        for stage in GPU_STAGES
        for log in volume.root.glob(f"logs/{stage}/*/*.log")
    ]
    problems = [
        *([f"the cycle ended with status {code}"] if code else ()),
        *_wrong_rows(rows, expected),
        *_shared_nodes(uses, 2 * len(expected)),
        *_other_devices(logs, 2 * len(expected)),
    ]
    for problem in problems:
        print(f"WRONG: {problem}", file=sys.stderr)
    nodes = sorted({use.node for use in uses})
    print(
        f"{len(expected)} archives and {len(rows)} rows in {seconds:.0f} s; {len(uses)} jobs with "
        f"a GPU on {', '.join(nodes)}, never two on one node, each with one device"
        if not problems
        else f"{len(problems)} things are wrong"
    )
    return int(bool(problems))


def _wrong_rows(
    rows: list[tuple[str, str, int, str]], expected: dict[str, dict[str, Any]]
) -> list[str]:
    """Where the database and what is expected of the demo differ."""
    found_archives = {name: status for name, status, _, _ in rows}
    found = sorted((name, ordinal, status) for name, _, ordinal, status in rows if status)
    wanted_archives = {name: facts["status"] for name, facts in expected.items()}
    wanted = sorted(
        (name, member["ordinal"], _status(member))
        for name, facts in expected.items()
        for member in facts["members"]
        if member["status"] != "skipped"
    )
    problems = []
    if found_archives != wanted_archives:
        problems.append(f"archives are {found_archives}, expected {wanted_archives}")
    if found != wanted:
        problems.append(f"clips differ: {sorted({*found} ^ {*wanted})[:10]}")
    return problems


def _status(member: dict[str, Any]) -> str:
    if member["status"] == "failed":
        return "failed"
    return "flagged" if member["categories"] else "transcribed"


def _shared_nodes(uses: list[Use], count: int) -> list[str]:
    """Jobs that had the same GPU at one moment."""
    problems = [] if len(uses) == count else [f"{len(uses)} jobs with a GPU, expected {count}"]
    for node in {use.node for use in uses}:
        on_node = sorted((use for use in uses if use.node == node), key=lambda use: use.start)
        problems += [
            f"{one.archive} and {other.archive} were on {node} at the same time"
            for one, other in pairwise(on_node)
            if other.start < one.end
        ]
    return problems


def _other_devices(logs: list[str], count: int) -> list[str]:
    """Stages that saw no GPU or several."""
    seen = [re.findall(r": started \(.*?GPU ([\d,]+)\)", log) for log in logs]
    problems = [] if len(seen) == count else [f"{len(seen)} logs of GPU stages, expected {count}"]
    return problems + [f"a stage saw the devices {each}" for each in seen if each != ["0"]]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--copies", type=int, default=6, help="of each of the demo's five archives (%(default)s)"
    )
    options = parser.parse_args()
    if options.copies < 1:
        parser.error("at least one copy is needed")
    return options


if __name__ == "__main__":
    sys.exit(main())
