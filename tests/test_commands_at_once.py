"""Two commands that write, at once, on one volume and one database: each pair of them."""

import contextlib
import json
import multiprocessing
import os
import sys
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from erasing import DATE, Erasing
from loaded_archive import query
from place import Place

from earmark import cli, files
from earmark.ingest import catalogue
from earmark.record import backup
from earmark.record.database import display

#: What writes, as it is typed. Words in capitals are filled in.
COMMANDS = {
    "discover": ["discover"],
    "redo": ["redo", "--all", "--stage", "load"],
    "retry": ["retry", "--all"],
    "status": ["status", "--prometheus", "METRICS"],
    "report": ["report"],
    "clean": ["clean"],
    "erase": ["erase", "many.tar", "ORDINAL", "--yes"],
    "migrate": ["migrate"],
    "backup": ["backup"],
    "reviewer": ["reviewer", "add", "NAME"],
}
#: What a command may end with besides 0: 1 tells of a missed review deadline; of two that are the
#: same, 2 says that the other was quicker.
ALONE, TWICE = {"report": {1}}, {"reviewer": {2}, "erase": {2}}
PAIRS = [(one, other) for i, one in enumerate(COMMANDS) for other in list(COMMANDS)[i:]]
PASSWORD = "a password of its own"

#: A child has everything imported before it waits for the other one.
_forks = multiprocessing.get_context("fork")
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")


def call(command: list[str], said: Path, start: Barrier) -> None:
    """Run one command as a process of its own would, from when both are ready."""
    with said.open("w") as out, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        reading, writing = os.pipe()
        os.write(writing, f"{PASSWORD}\n".encode())
        sys.stdin = os.fdopen(reading)
        start.wait(60)
        code = cli.main(command)
    raise SystemExit(code)


class AtOnce:
    """Two loaded archives and one of many contents, with work for every command."""

    def __init__(self, folder: Path, root: Path, conninfo: str) -> None:
        self.folder, self.conninfo = folder, conninfo
        self.place = Place(folder, root)
        self.erasing = Erasing(self.place, conninfo)
        self.erasing.load("many.tar", [f"{n:x}".rjust(64, "e") for n in range(len(PAIRS))])
        self.volume = self.erasing.volume
        self.place.configure(
            retention={"reports_days": 1},
            database={"url": display(conninfo), "keep_backups": 2},
            asr={"name": "large-v2"},
            classify={"policy": "2026-11"},
        )

    def prepare(self) -> None:
        """Have something to do for all of them."""
        self.place.put(f"{time.time_ns()}.tar")
        self.volume.quarantine("given-up.tar").parent.mkdir(exist_ok=True)
        self.volume.quarantine("given-up.tar").write_text(json.dumps({"date": DATE}))
        old = self.volume.report("2026-01-01")
        old.mkdir(parents=True, exist_ok=True)
        os.utime(old, (1, 1))
        left = self.volume.unpacked("left.tar") / "000000"
        left.parent.mkdir(parents=True, exist_ok=True)
        left.write_bytes(b"x")

    def run(self, *commands: list[str]) -> list[tuple[int | None, str]]:
        """Call commands at the same moment; returns how each ended and what it said."""
        start = _forks.Barrier(len(commands))
        calls = []
        for number, command in enumerate(commands):
            said = self.folder / f"said.{number}"
            words = [command[0], *command[1:]]
            at = 2 if words[0] in ("reviewer", "models") else 1
            words[at:at] = ["--configfile", str(self.place.file)]
            process = _forks.Process(target=call, args=(words, said, start))
            process.start()
            calls.append((process, said))
        for process, _ in calls:
            process.join(120)
        return [(process.exitcode, said.read_text()) for process, said in calls]


@pytest.fixture
def at_once(tmp_path: Path, volume: Path, migrated_database: str) -> AtOnce:
    return AtOnce(tmp_path, volume, migrated_database)


@pytest.mark.parametrize("first", COMMANDS)
def test_a_command_and_each_other_one_at_once_do_what_each_alone_does(
    first: str, at_once: AtOnce
) -> None:
    assert at_once.run(COMMANDS["discover"])[0][0] == 0
    for pair in (pair for pair in PAIRS if pair[0] == first):
        at_once.prepare()
        ordinal, name = str(PAIRS.index(pair)), f"ada{PAIRS.index(pair)}"
        filled = {"ORDINAL": ordinal, "NAME": name, "METRICS": str(at_once.folder / "m.prom")}
        commands = [[filled.get(word, word) for word in COMMANDS[each]] for each in pair]
        for command, (code, said) in zip(pair, at_once.run(*commands), strict=True):
            late = TWICE.get(command, set()) if pair == (command, command) else set()
            assert code in {0, *ALONE.get(command, set()), *late}, (pair, command, said)
            assert "Traceback" not in said, (pair, said)
        check(at_once, pair, int(ordinal), name)


def check(at_once: AtOnce, pair: tuple[str, str], ordinal: int, name: str) -> None:
    """What each of a pair is for was done."""
    volume = at_once.volume
    left = [path for path in volume.root.rglob("*") if files.final_name(path.name)]
    assert not left, pair
    if "discover" in pair:
        newest = max(at_once.place.source.iterdir()).name
        assert newest in {archive.name for archive in catalogue.read(volume).archives}, pair
    if "redo" in pair:
        assert {path.name for path in volume.redo("").parent.glob("[!.]*")} == {
            f"{archive}.json" for archive in ("a.tar", "b.tar", "many.tar")
        }, pair
    if "retry" in pair:
        assert not volume.quarantine("given-up.tar").exists(), pair
    if "clean" in pair:
        assert not volume.unpacked("left.tar").exists(), pair
    if "erase" in pair:
        assert not at_once.erasing.traces(f'clip {ordinal}"'), pair
        assert not (volume.audio(DATE, "many.tar") / f"{ordinal:06d}.opus").exists(), pair
    if "backup" in pair:
        made = backup.backups(volume.root / "backups")
        assert len(made) in (1, 2), pair
    if "reviewer" in pair:
        accounts = query(at_once.conninfo, "SELECT name FROM reviewers WHERE name = %s", name)
        assert accounts == [(name,)], pair
