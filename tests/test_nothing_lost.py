"""Nothing is lost, whatever people and the driver do in any order, and wherever it is cut off.

A state machine (hypothesis) over a real volume and a real PostgreSQL: archives come and are
replaced, runs, erasures, cleaning, redoing, another policy set, killed at any change they make to
a file, and files of the volume that are cut off or filled with garbage. After a run to the end each
clip that was not erased is where it belongs, once; nothing of an erased one is anywhere; and
nothing else is gone.

Every command runs in a process of its own, forked, and a kill ends it without a word. The jobs are
those of ``workflow/scripts/``, chosen as Snakemake chooses them (:mod:`scheduler`). The encoder and
the two models are asked once per content, and archives are read in the job itself
(:mod:`known_clips`).

What is left out: damage to the records of names (``state/asr``, ``state/policies``), which nothing
can make anew by itself; erasing a member that is no clip; a lost network; two commands at the same
time.
"""

import gc
import importlib
import json
import os
import shlex
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from known_clips import NOTE, Known, give_answers, known_clips, sha256
from loaded_archive import query
from mortal import KILLED, in_child
from scheduler import jobs_of, run
from tars import END, entry

from earmark import REPOSITORY, cli, configuration, receipts
from earmark.driver import quarantine
from earmark.driver.redo import VERBS
from earmark.errors import EarmarkError
from earmark.ingest import catalogue
from earmark.ingest.catalogue import is_pending
from earmark.ingest.encode import ERASED
from earmark.ingest.source import source_of
from earmark.policy.policies import EXAMPLES_FILE
from earmark.record.database import display
from earmark.record.erasure import Erased
from earmark.record.queue_files import write_queue
from earmark.record.review_queue import review_queue
from earmark.tables import CLASSES, MANIFEST, TABLES, TRANSCRIPTS, read_table
from earmark.volume import STAGES, Volume
from earmark.watch import doctor

CONFIG = json.dumps(yaml.safe_load((REPOSITORY / "demo/config.yaml").read_text(encoding="utf-8")))
#: For thousands of small files; None for where temporary files go by default.
IN_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
#: Names that look like something else on the volume.
NAMES = ("a.tar", "a.tar.7", "a.tar.parquet", "b.json")
#: Midnights, in s since 1970.
DAYS = {"2024-03-01": 1_709_251_200, "2024-03-02": 1_709_337_600}
POLICY_SETS = ("first", "second")
CATEGORIES = ("scams", "violent-threats", "harassment")

names = st.sampled_from(NAMES)
#: Before so many changes to files a command is killed; None lets it end.
kills = st.none() | st.integers(0, 25) | st.integers(0, 400)
archives = st.fixed_dictionaries(
    {
        "name": names,
        "date": st.sampled_from(sorted(DAYS)),
        "picks": st.lists(st.integers(0, 6), min_size=1, max_size=3),
    }
)
damages = st.sampled_from(["empty", "half", "garbage"])


#: Parts of the sequences, so that several processes can try them.
SHARDS = [
    pytest.param(shard, marks=pytest.mark.xdist_group(f"nothing-lost-{shard % 3}"))
    for shard in range(9)
]


@dataclass(frozen=True)
class Upload:
    """An archive as somebody put it at the source."""

    name: str
    date: str
    modified_ns: int
    bytes: int
    contents: tuple[str, ...]  # SHA-256s, by ordinal


class Machine(RuleBasedStateMachine):
    """What may happen to a volume, and what must be true in the end."""

    known: Known
    conninfo: str
    policies: Path

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="earmark-machine-", dir=IN_MEMORY))
        self.volume = Volume(self.folder / "volume")
        self.volume.root.mkdir()
        self.source = self.folder / "source"
        self.source.mkdir()
        self.said = self.folder / "said"
        self.uploads: list[Upload] = []
        #: What a receipt was seen of, by date and name.
        self.done: dict[tuple[str, str], Upload] = {}
        #: What a file was damaged of, likewise.
        self.damaged: set[tuple[str, str]] = set()
        #: What was to be done again, likewise.
        self.redone: set[tuple[str, str]] = set()
        #: Whether the last change of policies got to its end; else people repeat it.
        self.is_reclassified = True
        #: What a person wants erased, with the command for it.
        self.asked: dict[str, list[str]] = {}
        query(
            self.conninfo,
            "TRUNCATE archives, audio_files, policies, reviewers RESTART IDENTITY CASCADE",
        )

    @initialize(
        keep=st.booleans(),
        delete_after=st.booleans(),
        first=st.lists(archives, min_size=1, max_size=2),
        are_done=st.booleans(),
    )
    def begin(
        self, keep: bool, delete_after: bool, first: list[dict[str, Any]], are_done: bool
    ) -> None:
        config = json.loads(CONFIG)
        config["volume"]["root"] = str(self.volume.root)
        config["source"] |= {"directory": str(self.source), "delete_after": delete_after}
        config["asr"]["vad"] = "silero"
        config["classify"] |= {"policy": POLICY_SETS[0], "policies": str(self.policies)}
        config["database"] = {"url": display(self.conninfo)}
        config["retention"] = {"archives": "keep" if keep else "delete"}
        self.config = config
        self.file = self.folder / "config.yaml"
        self.write_config()
        for archive in first:
            self.put(**archive)
        if are_done:
            self.snakemake()

    def write_config(self) -> None:
        self.file.write_text(json.dumps(self.config), encoding="utf-8")
        self.settings = configuration.read(self.file)

    def teardown(self) -> None:
        try:
            if hasattr(self, "file"):
                self.run_to_the_end()
                self.check()
        finally:
            shutil.rmtree(self.folder)

    # --- what happens -------------------------------------------------------------------

    @rule(archive=archives)
    def an_archive_comes(self, archive: dict[str, Any]) -> None:
        self.put(**archive)

    def put(self, name: str, date: str, picks: list[int]) -> None:
        shas = tuple(list(self.known.contents)[pick] for pick in picks)
        members = [entry(self.member_name(sha), self.known.contents[sha]) for sha in shas]
        path = self.source / name
        path.write_bytes(b"".join(members) + END)
        modified_ns = (DAYS[date] + 1 + len(self.uploads)) * 10**9
        os.utime(path, ns=(modified_ns, modified_ns))
        self.uploads.append(Upload(name, date, modified_ns, path.stat().st_size, shas))

    @rule(kill=kills)
    def run(self, kill: int | None) -> None:
        self.snakemake(kill=kill)

    @rule(stage=st.sampled_from(STAGES), changes=st.integers(0, 40))
    def run_in_which_a_job_is_killed(self, stage: str, changes: int) -> None:
        self.snakemake(job=(stage, changes))

    @rule(kill=kills)
    def discover(self, kill: int | None) -> None:
        self.earmark("discover", kill=kill)

    @rule(kill=kills)
    def clean(self, kill: int | None) -> None:
        self.earmark("discover")
        self.earmark("clean", kill=kill)

    @rule(kill=kills)
    def write_the_queue(self, kill: int | None) -> None:
        folder = self.volume.report("2024-03-03").parent
        self.command(lambda: write_queue(review_queue(self.conninfo, 1000), folder), kill)

    @rule(kill=kills)
    def apply_the_other_policy_set(self, kill: int | None) -> None:
        now = self.config["classify"]["policy"]
        self.config["classify"]["policy"] = next(each for each in POLICY_SETS if each != now)
        self.config["reclassify"] = {"since": min(DAYS), "until": max(DAYS)}
        self.write_config()
        self.is_reclassified = self.snakemake(kill=kill, target="reclassify") == 0

    @precondition(lambda self: self.places())
    @rule(pick=st.integers(0, 50), stage=st.sampled_from(VERBS), kill=kills)
    def redo(self, pick: int, stage: str, kill: int | None) -> None:
        places = self.places()
        date, name = places[pick % len(places)]
        if self.earmark("redo", name, "--date", date, "--stage", stage, kill=kill) != 2:
            self.redone.add((date, name))

    @precondition(lambda self: self.clips())
    @rule(pick=st.integers(0, 50), kill=kills)
    def erase(self, pick: int, kill: int | None) -> None:
        clips = self.clips()
        date, name, ordinal, sha = clips[pick % len(clips)]
        before = Erased(self.volume).all()
        command = ["erase", name, str(ordinal), "--date", date, "--yes"]
        code = self.earmark(*command, kill=kill)
        if code:
            self.asked[sha] = command
        assert Erased(self.volume).all() - before <= {sha}, self.tail()

    @rule(name=names)
    def a_person_puts_an_archive_into_quarantine(self, name: str) -> None:
        path = self.volume.quarantine(name)
        path.parent.mkdir(exist_ok=True)
        path.write_text("not now")

    @precondition(lambda self: bool(quarantine.in_quarantine(self.volume)))
    @rule()
    def retry(self) -> None:
        self.earmark("retry", "--all")

    @precondition(lambda self: self.damageable())
    @rule(pick=st.integers(0, 10**6), damage=damages, keeps_time=st.booleans())
    def a_file_is_damaged(self, pick: int, damage: str, keeps_time: bool) -> None:
        files = self.damageable()
        path = files[pick % len(files)]
        content, then = path.read_bytes(), path.stat()
        new = {"empty": b"", "half": content[: len(content) // 2], "garbage": b"\0garbage"}
        path.write_bytes(new[damage])
        if keeps_time:
            os.utime(path, ns=(then.st_atime_ns, then.st_mtime_ns))
        folder, *_ = path.relative_to(self.volume.root).parts
        whose = {"incoming": path.name, "audio": path.parent.name}.get(folder, path.stem)
        for upload in self.uploads:
            if upload.name == whose and (upload.date in str(path) or folder == "incoming"):
                self.damaged.add((upload.date, upload.name))

    @rule()
    def snakemake_forgets(self) -> None:
        (self.folder / "snakemake.json").unlink(missing_ok=True)

    @invariant()
    def see_what_is_done(self) -> None:
        for upload in self.uploads:
            receipt = receipts.read(self.volume.receipt(upload.date, upload.name))
            told = (upload.bytes, upload.modified_ns)
            if receipt and (receipt.bytes, receipt.modified_ns) == told:
                self.done[upload.date, upload.name] = upload

    # --- commands -----------------------------------------------------------------------

    def command(self, work: Any, kill: int | None = None) -> int:
        code = in_child(work, kill, self.said)
        assert code in (0, 1, 2) or (code == KILLED and kill is not None), self.tail()
        assert "Traceback" not in self.said.read_text(errors="replace"), self.tail()
        return code

    def earmark(self, name: str, *arguments: str, kill: int | None = None) -> int:
        command = [name, "--configfile", str(self.file), *arguments]
        with self.said.open("a") as file:
            print("$", *command, kill or "", file=file)
        return self.command(lambda: cli.main(command), kill)

    def snakemake(
        self,
        kill: int | None = None,
        job: tuple[str, int] | None = None,
        target: str = "all",
    ) -> int:
        memory = self.folder / "snakemake.json"
        with self.said.open("a") as file:
            print("$ snakemake", target, kill or "", job or "", file=file)
        return self.command(lambda: run(self.settings, memory, target, job), kill)

    def tail(self) -> str:
        return self.said.read_text(errors="replace")[-6000:]

    # --- what there is ------------------------------------------------------------------

    def member_name(self, sha: str) -> str:
        return f"called-{sha[:16]}.mp3"

    def places(self) -> list[tuple[str, str]]:
        """Dates and names of manifests."""
        files = TABLES["manifests"].files(self.volume)
        return [(path.parent.name.removeprefix("date="), path.stem) for path in files]

    def clips(self) -> list[tuple[str, str, int, str]]:
        """Date, archive, ordinal and content of the clips that manifests tell of."""
        found = []
        for date, name in self.places():
            try:
                table = read_table(self.volume.manifest(date, name), MANIFEST)
            except EarmarkError:
                continue
            for row in table.to_pylist():
                sha = row["source_sha256"]
                if sha is not None and self.known.text(sha) is not None:
                    found.append((date, name, row["ordinal"], sha))
        return found

    def damageable(self) -> list[Path]:
        left_out = {"logs"}
        names_of_settings = {self.volume.state / "asr", self.volume.state / "policies"}
        return [
            path
            for path in sorted(self.volume.root.rglob("*"))
            if path.is_file()
            and path.relative_to(self.volume.root).parts[0] not in left_out
            and path.parent not in names_of_settings
            and not path.name.endswith(".damaged")
        ]

    def at_source(self) -> dict[tuple[str, str], Upload]:
        newest = {upload.name: upload for upload in self.uploads}
        return {
            (upload.date, upload.name): upload
            for upload in newest.values()
            if (self.source / upload.name).exists()
        }

    # --- the end ------------------------------------------------------------------------

    def run_to_the_end(self) -> None:
        for _ in range(4):
            self.finish_runs()
            if not self.is_reclassified:
                self.is_reclassified = self.snakemake(target="reclassify") == 0
            stuck = self.finish_erasures()
            stuck += self.mend()
            # One that met a damaged table takes up again what the next run has made anew.
            if not stuck and self.is_reclassified:
                break
        else:
            raise AssertionError(f"{stuck}\n{self.tail()}")

    def finish_runs(self) -> None:
        for _ in range(5):
            if quarantine.in_quarantine(self.volume):
                self.earmark("retry", "--all")
            code = self.snakemake()
            known = catalogue.poll(source_of(self.settings), self.volume, 0)
            history = catalogue.History(self.volume)
            left = [each for each in known.archives if history.is_pending(each)]
            assert left == [each for each in known.archives if is_pending(each, self.volume)]
            if code == 0 and not left:
                self.see_what_is_done()
                return
        raise AssertionError(f"for ever pending: {left}\n{self.tail()}")

    def finish_erasures(self) -> list[str]:
        """Have people repeat the commands that did not end, until what they want is so."""
        if list(Erased(self.volume).unfinished()):
            self.earmark("erase", "--yes")
        for sha, command in tuple(self.asked.items()):
            if self.earmark(*command) == 0:
                del self.asked[sha]
        left = {sha for sha, _ in Erased(self.volume).unfinished()}
        known = {sha for *_, sha in self.clips()}
        known |= {sha for (sha,) in query(self.conninfo, "SELECT source_sha256 FROM audio_files")}
        left |= self.asked.keys() & known
        self.asked = {sha: self.asked[sha] for sha in self.asked.keys() & left}
        return sorted(left)

    def mend(self) -> list[str]:
        """Follow what the doctor says."""
        stuck = []
        rows, retention = doctor.loaded(self.conninfo, None), self.settings.retention
        done = doctor.done(self.volume, None)
        for date, name in done:
            for problem in doctor.examine(self.volume, date, name, retention, rows):
                if self.earmark(*shlex.split(str(problem.remedy()))[1:]) == 0:
                    stuck.append(problem.problem)
                else:  # what is damaged and not at the source any more can't be made anew
                    assert (date, name) in self.damaged, (problem, self.tail())
                    assert (date, name) not in self.at_source(), (problem, self.tail())
        told = {
            (each.date, each.archive) for each in doctor.without_receipt(self.volume, rows, done)
        }
        assert told == rows.keys() - set(done), (told, self.tail())
        assert not told & self.at_source().keys(), (told, self.tail())
        return stuck

    def check(self) -> None:
        erased = Erased(self.volume).all()
        at_source = self.at_source()
        expected = self.done | at_source
        for place, upload in at_source.items():
            assert self.done.get(place) == upload, (upload, self.tail())
        rows: defaultdict[tuple[str, str], list[Any]] = defaultdict(list)
        for date, name, *row in query(self.conninfo, _ROWS):
            rows[date, name].append(tuple(row))
        assert set(rows) == {
            place for place, upload in expected.items() if self.kept(upload, erased)
        }
        for place, upload in expected.items():
            receipt = receipts.read(self.volume.receipt(*place))
            clips = self.kept(upload, erased)
            assert [row[:3] for row in rows.get(place, [])] == clips, (upload, self.tail())
            if place in at_source or place not in self.damaged:
                assert [row[3:] for row in rows.get(place, [])] == [
                    (None, None) if first is not None else (self.known.text(sha), self.scores(sha))
                    for _, sha, first in clips
                ], (upload, self.tail())
                # One that was to be done again, and then was replaced, is as it was but for that.
                is_lost = place in self.redone and place not in at_source
                assert receipt is not None or is_lost, (upload, self.tail())
                self.check_files(upload, clips, receipt.policy if receipt else None, is_lost)
        if erased:
            self.check_nothing_is_left(erased)

    def kept(self, upload: Upload, erased: Iterable[str]) -> list[tuple[int, str, int | None]]:
        """Ordinal, content and first of the same content of the clips that are to be there."""
        return [
            (ordinal, sha, first if (first := upload.contents.index(sha)) != ordinal else None)
            for ordinal, sha in enumerate(upload.contents)
            if sha not in erased and self.known.text(sha) is not None
        ]

    def scores(self, sha: str) -> dict[str, float]:
        text = self.known.text(sha)
        assert text is not None
        answers = {each: self.known.judged[each, text].score for each in CATEGORIES}
        return {
            category: round(score, 4) for category, score in answers.items() if score is not None
        }

    def check_files(
        self,
        upload: Upload,
        clips: list[tuple[int, str, int | None]],
        policy: str | None,
        is_lost: bool,
    ) -> None:
        date, name = upload.date, upload.name
        for job in jobs_of(self.volume, self.settings, name, date)[2:5]:
            is_current = not job.output.exists() or job.output.stat().st_mtime > 1
            assert is_current or is_lost, (job, self.tail())
        manifest = read_table(self.volume.manifest(date, name), MANIFEST).to_pylist()
        assert [row["ordinal"] for row in manifest] == list(range(len(upload.contents)))
        there = {row["ordinal"]: row["source_sha256"] for row in manifest if row["status"] == "ok"}
        assert there == {ordinal: sha for ordinal, sha, _ in clips}
        for row in manifest:
            is_blank = row["error"] == ERASED
            assert is_blank == (upload.contents[row["ordinal"]] in Erased(self.volume))
        heard = {ordinal: self.known.text(sha) for ordinal, sha, first in clips if first is None}
        table = read_table(self.volume.transcripts("demo", date, name), TRANSCRIPTS)
        assert {row["ordinal"]: row["text"] for row in table.to_pylist()} == heard
        audio = {path.name: sha256(path.read_bytes()) for path in self.audio(date, name)}
        assert audio == {
            f"{ordinal:06d}.opus": sha256(self.known.encoded[sha][1])
            for ordinal, sha, first in clips
            if first is None
        }
        if policy is None:
            return
        table = read_table(self.volume.classes(policy, date, name), CLASSES)
        judged = sorted((row["ordinal"], row["category"]) for row in table.to_pylist())
        assert judged == sorted((ordinal, each) for ordinal in heard for each in CATEGORIES)

    def audio(self, date: str, name: str) -> list[Path]:
        folder = self.volume.audio(date, name)
        return sorted(folder.iterdir()) if folder.exists() else []

    def check_nothing_is_left(self, erased: Iterable[str]) -> None:
        traces: dict[str, list[bytes]] = {}
        for sha in erased:
            traces[sha] = [self.member_name(sha).encode()]
            if (text := self.known.text(sha)) is not None:
                content, opus = self.known.contents[sha], self.known.encoded[sha][1]
                middles = [each[len(each) // 2 :][:64] for each in (content, opus)]
                traces[sha] += [text.encode(), *middles]
            else:
                traces[sha].append(NOTE)
        for path in self.volume.root.rglob("*"):
            if path.is_file():
                held = [path.read_bytes()]
                if path.suffix == ".parquet" or path.name.endswith(".parquet.damaged"):
                    held.append(_readable(path))
                for sha, parts in traces.items():
                    for part in parts:
                        assert not any(part in each for each in held), (
                            sha,
                            part,
                            path,
                            self.tail(),
                        )
        for ((dump,),) in [query(self.conninfo, _DUMP)]:
            for sha, parts in traces.items():
                assert sha not in dump
                for part in parts[:2]:
                    assert part.decode() not in dump, (sha, part)


def _readable(path: Path) -> bytes:
    """All that a table says, as far as it can be read."""
    try:
        return json.dumps(pq.read_table(path, partitioning=None).to_pylist(), default=str).encode()
    except Exception:
        return b""


_ROWS = """
SELECT a.date::text, a.name, f.ordinal, f.source_sha256, f.duplicate_of, t.transcript_text,
       (SELECT jsonb_object_agg(c.flag_category, round(c.flag_score::numeric, 4))
        FROM classifications c WHERE c.audio_file_id = f.id AND c.policy = a.policy)
FROM archives a JOIN audio_files f ON f.archive_id = a.id
LEFT JOIN transcripts t ON t.audio_file_id = f.id AND t.asr = a.asr
ORDER BY a.date, a.name, f.ordinal
"""
#: All that the database holds, as text.
_DUMP = (
    "SELECT coalesce(string_agg(t::text, ' '), '') FROM ("
    + " UNION ALL ".join(
        f"SELECT to_jsonb({table})::text FROM {table}"
        for table in (
            *(
                "archives",
                "audio_files",
                "transcripts",
                "classifications",
                "provenance",
                "ra_queue",
            ),
            *("review_decisions", "review_claims", "second_reviews", "review_waiting"),
        )
    )
    + ") t"
)


def quick_policies(folder: Path) -> Path:
    """Those of the demo, whose examples each process reads several times, as JSON."""
    copy = folder / f"policies-{os.getpid()}"
    if not copy.exists():
        shutil.copytree(REPOSITORY / "config/policies", copy)
        examples = copy / EXAMPLES_FILE
        examples.write_text(json.dumps(yaml.safe_load(examples.read_text())))
    return copy


def import_what_commands_import(machine: type[Machine], names: Path) -> None:
    """Import once what each forked process would import by itself."""

    def tell() -> None:
        trial = machine()
        trial.begin(False, False, [{"name": "a.tar", "date": min(DAYS), "picks": [0]}], True)
        for command in (["discover"], ["clean"], ["redo", "--all"], ["erase", "a.tar", "0"]):
            cli.main([command[0], "--configfile", str(trial.file), *command[1:]])
        run(trial.settings, trial.folder / "snakemake.json")
        shutil.rmtree(trial.folder)
        names.write_text("\n".join(sys.modules))

    if names.exists():  # for another shard
        return
    assert in_child(tell) == 0
    for name in names.read_text().split():
        with suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # or each child copies the pages that its collector touches


@pytest.mark.parametrize("shard", SHARDS)
def test_whatever_happens_in_any_order_nothing_is_lost_and_nothing_erased_is_left(
    shard: int,
    migrated_database: str,
    shared_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    pytestconfig: pytest.Config,
) -> None:
    known = known_clips(shared_folder)
    give_answers(known, monkeypatch)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # what a power cut takes, others test
    sequences = pytestconfig.getoption("--state-sequences")

    @seed(len(SHARDS) * pytestconfig.getoption("--state-seed") + shard)
    class Shard(Machine):
        pass

    Shard.known, Shard.conninfo = known, migrated_database
    Shard.policies = quick_policies(shared_folder)
    import_what_commands_import(Shard, shared_folder / f"modules-{os.getpid()}")
    run_state_machine_as_test(
        Shard,
        settings=settings(
            max_examples=max(1, sequences // len(SHARDS)),
            stateful_step_count=8,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],  # to shrink eight steps takes longer than to read them
        ),
    )
