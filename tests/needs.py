"""What tests need of a machine, and leaving out those that want what it lacks.

A test names its needs by ``@pytest.mark.needs("root", "caddy")``, or uses a fixture of
:data:`NEEDS`. Programs and recordings are those of tests/setup-machine; ``CI=true`` in the
environment makes it a failure to leave anything out.
"""

import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

#: What the users of a fixture need.
NEEDS = {
    "chromium": {"chromium"},
    "host": {"rsync", "ssh", "sshd"},  # an SshHost
    "small": {"root"},  # a small_volume, which is mounted
    "slurm_cluster": {"root", "munged", "pgrep", "sinfo", "slurmctld", "slurmd"},
}
#: Whoever uses one of these fixtures waits for a server, a browser, Snakemake or SLURM.
SLOW = {"chromium", "demo", "embedded", "finished", "host", "postgres", "slurm_cluster"}
MACHINE = Path(__file__).with_name("setup-machine")

#: How many tests were left out, by what they lack.
LEFT_OUT: pytest.StashKey[Counter[str]] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*what): root, or programs of tests/setup-machine")
    config.addinivalue_line("markers", "slow: takes seconds; `make test-fast` does without it")
    config.stash[LEFT_OUT] = Counter()


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Function]
) -> Iterator[None]:
    """Mark what is slow; after ``-m`` and ``-k`` have chosen, leave out what can't run here."""
    for item in items:
        if not SLOW.isdisjoint(item.fixturenames):
            item.add_marker("slow")
    yield
    available = {"root": os.geteuid() == 0} | _programs()
    kept, left_out = [], []
    for item in items:
        needs = {what for mark in item.iter_markers("needs") for what in mark.args}
        needs.update(*(NEEDS.get(fixture, ()) for fixture in item.fixturenames))
        if unknown := needs - available.keys():
            raise pytest.UsageError(f"{item.nodeid} needs {unknown}, which {MACHINE} doesn't know")
        if lacking := sorted(what for what in needs if not available[what]):
            config.stash[LEFT_OUT][", ".join(lacking)] += 1
            left_out.append(item)
        else:
            kept.append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept
    if hasattr(config, "workeroutput"):
        counted = config.stash[LEFT_OUT]
        config.workeroutput["left_out"] = dict(counted)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Learn from a worker of xdist what it left out: all of them collect the same."""
    node.config.stash[LEFT_OUT] |= Counter(getattr(node, "workeroutput", {}).get("left_out"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """CI runs everything or fails."""
    if session.config.stash[LEFT_OUT] and os.environ.get("CI") == "true":
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say what was left out, why, and what to do."""
    for lacking, count in config.stash[LEFT_OUT].most_common():
        remedies = ["`make test` as root runs them"] if "root" in lacking.split(", ") else []
        if lacking != "root":
            remedies.append("tests/setup-machine tells how to install what is missing")
        tests = "1 test that needs" if count == 1 else f"{count} tests that need"
        terminalreporter.write_line(f"left out: {tests} {lacking} ({'; '.join(remedies)})")


def _programs() -> dict[str, bool]:
    listed = subprocess.run([MACHINE, "--list"], check=True, capture_output=True, text=True).stdout
    lines = (line.split() for line in listed.splitlines())
    return {program: state == "there" for program, _package, state in lines}
