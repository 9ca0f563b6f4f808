"""Two commands that write, at once, on one volume and one database: each pair of them."""

import contextlib
import json
import multiprocessing
import os
import shutil
import sys
import time
from datetime import datetime
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
import yaml
from conftest import _run
from erasing import DATE, Erasing
from example_receipt import example
from loaded_archive import query
from place import Place
from psycopg2.extensions import make_dsn

from earmark import REPOSITORY, cli, files, receipts
from earmark.ingest import catalogue
from earmark.record import backup
from earmark.record.database import connection_string, display, migrate

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
    "cycle": ["cycle", "--profile", str(REPOSITORY / "profiles/local")],
    "restore": ["restore", "BACKUP"],
}
#: What a command may end with besides 0: 1 tells of a missed review deadline, 3 of a cycle that has
#: no archive to run on; of two that are the same, 2 says that the other was quicker.
ALONE = {"report": {1}, "cycle": {3}}
TWICE = {"reviewer": {2}, "erase": {2}, "restore": {2}}
PAIRS = [(one, other) for i, one in enumerate(COMMANDS) for other in list(COMMANDS)[i:]]
#: When the archive was last changed that `clean` deletes at the source, in s since 1970.
SENT = int(datetime.fromisoformat(f"{DATE}T12:00:00+00:00").timestamp())
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


def run_at_once(folder: Path, *commands: list[str]) -> list[tuple[int | None, str]]:
    """Call commands at the same moment; returns how each ended and what it said."""
    start = _forks.Barrier(len(commands))
    calls = []
    for number, command in enumerate(commands):
        said = folder / f"said.{number}"
        process = _forks.Process(target=call, args=(command, said, start))
        process.start()
        calls.append((process, said))
    for process, _ in calls:
        process.join(120)
    return [(process.exitcode, said.read_text()) for process, said in calls]


def configured(command: list[str], file: Path) -> list[str]:
    """A command with its configuration."""
    at = 2 if command[0] in ("reviewer", "models") else 1
    return [*command[:at], "--configfile", str(file), *command[at:]]


class AtOnce:
    """Two loaded archives and one of many contents, with work for every command."""

    def __init__(self, folder: Path, root: Path, conninfo: str) -> None:
        self.folder, self.conninfo = folder, conninfo
        self.place = Place(folder, root)
        self.erasing = Erasing(self.place, conninfo)
        self.erasing.load("many.tar", [f"{n:x}".rjust(64, "e") for n in range(len(PAIRS))])
        self.volume = self.erasing.volume
        demo = yaml.safe_load((REPOSITORY / "demo/config.yaml").read_text(encoding="utf-8"))
        self.place.configure(
            source={
                "kind": "folder",
                "directory": str(self.place.source),
                "poll_seconds": 0,
                "latency_minutes": 1e9,  # a cycle does all but run Snakemake
                "delete_after": True,
            },
            retention={"reports_days": 1},
            database={"url": display(conninfo), "keep_backups": 2},
            asr=demo["asr"] | {"name": "large-v2"},
            classify=demo["classify"] | {"policy": "2026-11"},
        )
        shutil.rmtree(self.volume.incoming(""))  # what is here is done whatever its age
        self.backup = backup.backup(conninfo, folder / "backups", keep=1)
        #: As after a loss of the server: of the same volume, and a database that is empty.
        self.restored = make_dsn(conninfo, dbname="restored")
        self.restoring = folder / "restoring.yaml"
        config = yaml.safe_load(self.place.file.read_text())
        config["database"] = {"url": display(self.restored)}
        self.restoring.write_text(yaml.safe_dump(config))

    def prepare(self) -> None:
        """Have something to do for all of them."""
        sent = self.place.source / "sent.tar"
        sent.write_bytes(b"tar")
        os.utime(sent, (SENT, SENT))
        receipt = example(archive=sent.name, date=DATE, modified_ns=SENT * 10**9)
        receipts.write(self.volume.receipt(DATE, sent.name), receipt)
        self.place.poll()
        for statement in ("DROP DATABASE IF EXISTS restored", "CREATE DATABASE restored"):
            _run(self.conninfo, statement)
        self.place.put(f"{time.time_ns()}.tar")
        self.volume.quarantine("given-up.tar").parent.mkdir(exist_ok=True)
        self.volume.quarantine("given-up.tar").write_text(json.dumps({"date": DATE}))
        old = self.volume.report("2026-01-01")
        old.mkdir(parents=True, exist_ok=True)
        os.utime(old, (1, 1))
        left = self.volume.unpacked("left.tar") / "000000"
        left.parent.mkdir(parents=True, exist_ok=True)
        left.write_bytes(b"x")


@pytest.fixture
def at_once(tmp_path: Path, volume: Path, migrated_database: str) -> AtOnce:
    return AtOnce(tmp_path, volume, migrated_database)


@pytest.mark.parametrize("first", COMMANDS)
def test_a_command_and_each_other_one_at_once_do_what_each_alone_does(
    first: str, at_once: AtOnce
) -> None:
    for pair in (pair for pair in PAIRS if pair[0] == first):
        at_once.prepare()
        ordinal, name = str(PAIRS.index(pair)), f"ada{PAIRS.index(pair)}"
        filled = {"ORDINAL": ordinal, "NAME": name, "METRICS": str(at_once.folder / "m.prom")}
        filled["BACKUP"] = str(at_once.backup)
        commands = [
            configured(
                [filled.get(word, word) for word in COMMANDS[each]],
                at_once.restoring if each == "restore" else at_once.place.file,
            )
            for each in pair
        ]
        ended = run_at_once(at_once.folder, *commands)
        for command, (code, said) in zip(pair, ended, strict=True):
            late = TWICE.get(command, set()) if pair == (command, command) else set()
            assert code in {0, *ALONE.get(command, set()), *late}, (pair, command, said)
            assert "Traceback" not in said, (pair, said)
        check(at_once, pair, int(ordinal), name)


@pytest.mark.parametrize("command", ["status", "report", "clean", "retry", "migrate", "backup"])
def test_stopping_the_embedded_server_beside_a_command_ends_neither_with_a_traceback(
    command: str, tmp_path: Path, volume: Path
) -> None:
    place = Place(tmp_path, volume)
    conninfo = connection_string(None, volume, keep_embedded=True)
    migrate(conninfo)
    place.finish(conninfo, "a.tar", flagged=1)
    place.poll()
    words = [word.replace("METRICS", str(tmp_path / "m.prom")) for word in COMMANDS[command]]
    commands = [configured(each, place.file) for each in (words, ["database", "--stop"])]
    (code, said), (stopped, told) = run_at_once(tmp_path, *commands)
    assert code in {0, 1, 2}, said
    assert stopped == 0, told
    assert "Traceback" not in said + told
    assert query(connection_string(None, volume), "SELECT name FROM archives") == [("a.tar",)]


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
        assert not (at_once.place.source / "sent.tar").exists(), pair
    if "erase" in pair:
        assert not at_once.erasing.traces(f'clip {ordinal}"'), pair
        assert not (volume.audio(DATE, "many.tar") / f"{ordinal:06d}.opus").exists(), pair
    if "backup" in pair:
        made = backup.backups(volume.root / "backups")
        assert len(made) in (1, 2), pair
    if "restore" in pair:
        loaded = query(at_once.restored, "SELECT name FROM archives ORDER BY name")
        assert loaded == [("a.tar",), ("b.tar",), ("many.tar",)], pair
    if "reviewer" in pair:
        accounts = query(at_once.conninfo, "SELECT name FROM reviewers WHERE name = %s", name)
        assert accounts == [(name,)], pair
