"""The whole chain, as a person runs it: Snakemake, real models, a real PostgreSQL."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import jiwer
import pytest
import yaml
from conftest import open_volume

from earmark import REPOSITORY
from earmark.catalogue import discover
from earmark.database import connect, connection_string
from earmark.tables import MANIFEST, read_provenance, read_table
from earmark.volume import Volume

DEMO = REPOSITORY / "demo"
EXPECTED = json.loads((DEMO / "expected.json").read_text(encoding="utf-8"))
STAGES = [
    "fetch_archive",
    "unpack_archive",
    "encode_opus",
    "transcribe_audio",
    "classify_transcripts",
    "load_pg",
]

ROWS = """
    SELECT a.name, af.ordinal, af.original_filename, af.opus_path, af.status, af.error,
           af.duplicate_of, t.transcript_text, t.language, t.confidence,
           c.flag_category, c.flagged, c.flag_score
    FROM audio_files af
    JOIN archives a ON a.id = af.archive_id
    LEFT JOIN transcripts t ON t.audio_file_id = af.id
    LEFT JOIN classifications c ON c.audio_file_id = af.id
    ORDER BY a.name, af.ordinal, c.flag_category
"""


class Run:
    """A place to run the workflow in: a volume, a source folder and a configuration."""

    def __init__(self, folder: Path, volume: Path, **changes: dict) -> None:
        self.folder = folder
        self.volume = Volume(volume)
        self.configfile = folder / "config.yaml"
        config = yaml.safe_load((DEMO / "config.yaml").read_text(encoding="utf-8"))
        config["volume"]["root"] = str(self.volume.root)
        for section, values in changes.items():
            config[section] = config.get(section, {}) | values
        folder.mkdir(parents=True, exist_ok=True)
        self.configfile.write_text(yaml.safe_dump(config), encoding="utf-8")

    def start(self, *options: str, **variables: str) -> subprocess.Popen[str]:
        """Start Snakemake in a process group of its own."""
        command = [
            *("snakemake", "--snakefile", REPOSITORY / "workflow/Snakefile"),
            *("--profile", REPOSITORY / "profiles/local"),
            *("--configfile", self.configfile, "--directory", self.folder),
            *options,
        ]
        return subprocess.Popen(
            [str(part) for part in command],
            env=os.environ | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def finish(self, *options: str, **variables: str) -> tuple[int, str]:
        """Run Snakemake to its end; returns its exit code and what it said."""
        with self.start(*options, **variables) as process:
            said, _ = process.communicate(timeout=600)
        return process.returncode, said

    def query(self, sql: str) -> list[tuple]:
        with (
            connect(connection_string(None, self.volume.root)) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(sql)
            return cursor.fetchall()

    def leftovers(self) -> list[Path]:
        """What a finished run must not leave behind."""
        unpacked = self.volume.unpacked("")
        return [
            *(unpacked.iterdir() if unpacked.exists() else ()),
            *self.volume.root.rglob("*.partial"),
        ]


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """The demo, run once to its end."""
    with open_volume() as volume:
        run = Run(tmp_path_factory.mktemp("demo"), volume)
        code, said = run.finish()
        assert code == 0, said
        yield run


@pytest.fixture(scope="session")
def small_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source with one small archive: a few short clips and something that is no audio."""
    folder = tmp_path_factory.mktemp("small")
    with (
        tarfile.open(DEMO / "archives" / EXPECTED["small"]) as demo_archive,
        tarfile.open(folder / "small.tar", "w") as small,
    ):
        members = [member for member in demo_archive if member.isreg()]
        for member in sorted(members, key=lambda member: member.size)[:5]:
            small.addfile(member, demo_archive.extractfile(member))
    return folder


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, small_source: Path) -> list[tuple]:
    """The rows of a run over the small archive that nobody disturbed."""
    with open_volume() as volume:
        folder = tmp_path_factory.mktemp("undisturbed")
        run = Run(folder, volume, source={"directory": str(small_source)})
        code, said = run.finish()
        assert code == 0, said
        return run.query(ROWS)


def test_every_member_of_the_demo_ends_as_expected(demo: Run) -> None:
    found = {
        (archive, ordinal): (status, duplicate_of)
        for archive, ordinal, status, duplicate_of in demo.query(
            "SELECT a.name, ordinal, af.status, duplicate_of "
            "FROM audio_files af JOIN archives a ON a.id = archive_id"
        )
    }
    expected = {
        (archive, member["ordinal"]): (
            "failed"
            if member["status"] == "failed"
            else "flagged"
            if member["categories"]
            else "transcribed",
            member["duplicate_of"],
        )
        for archive, facts in EXPECTED["archives"].items()
        for member in facts["members"]
        if member["status"] != "skipped"
    }
    assert found == expected


def test_every_archive_of_the_demo_has_its_status_and_a_reason(demo: Run) -> None:
    found = {
        name: (status, reason)
        for name, status, reason in demo.query("SELECT name, status, reason FROM archives")
    }
    assert set(found) == set(EXPECTED["archives"])
    for name, facts in EXPECTED["archives"].items():
        status, reason = found[name]
        assert status == facts["status"]
        assert (facts["error"] or "") in (reason or "")
        assert bool(reason) == (status != "ok")


def test_clips_are_flagged_under_the_policies_they_fall_under_and_no_other(demo: Run) -> None:
    found: dict[tuple, set] = {}
    for archive, ordinal, category in demo.query(
        "SELECT a.name, ordinal, flag_category FROM classifications c "
        "JOIN audio_files af ON af.id = audio_file_id JOIN archives a ON a.id = archive_id "
        "WHERE flagged"
    ):
        found.setdefault((archive, ordinal), set()).add(category)
    expected = {
        (archive, member["ordinal"]): set(member["categories"])
        for archive, facts in EXPECTED["archives"].items()
        for member in facts["members"]
        if member["categories"] and member["duplicate_of"] is None
    }
    assert found == expected


def test_the_demo_is_transcribed_in_the_language_that_was_spoken(demo: Run) -> None:
    heard = {
        (archive, ordinal): (text, language, confidence)
        for archive, ordinal, text, language, confidence in demo.query(
            "SELECT a.name, ordinal, transcript_text, language, confidence FROM transcripts t "
            "JOIN audio_files af ON af.id = audio_file_id JOIN archives a ON a.id = archive_id"
        )
    }
    spoken = [
        (member, *heard[archive, member["ordinal"]])
        for archive, facts in EXPECTED["archives"].items()
        for member in facts["members"]
        if member["text"] and member["status"] == "ok" and member["duplicate_of"] is None
    ]
    assert [language for _, _, language, _ in spoken] == [m["language"] for m, *_ in spoken]
    assert all(0 < confidence <= 1 for *_, confidence in spoken)
    error_rate = jiwer.wer(
        [member["text"] for member, *_ in spoken], [text for _, text, *_ in spoken]
    )
    assert error_rate <= 0.1


def test_silence_and_music_give_no_text(demo: Run) -> None:
    ordinals = [
        member["ordinal"]
        for member in EXPECTED["archives"][EXPECTED["small"]]["members"]
        if member["status"] == "ok" and not member["text"]
    ]
    rows = demo.query(
        "SELECT ordinal, transcript_text, t.status FROM transcripts t "
        "JOIN audio_files af ON af.id = audio_file_id JOIN archives a ON a.id = archive_id "
        f"WHERE a.name = '{EXPECTED['small']}'"
    )
    assert len(ordinals) == 2
    assert [(text, status) for ordinal, text, status in rows if ordinal in ordinals] == [
        ("", "ok")
    ] * 2


def test_every_kept_clip_is_an_opus_file_where_its_row_says(demo: Run) -> None:
    paths = [path for (path,) in demo.query("SELECT opus_path FROM audio_files") if path]
    assert len(paths) >= 40
    for path in paths:
        assert re.fullmatch(r"audio/date=[\d-]+/[^/]+/\d{6}\.opus", path)
        assert (demo.volume.root / path).read_bytes()[:4] == b"OggS"


def test_nothing_is_left_half_done_and_nothing_is_written_outside(demo: Run) -> None:
    assert demo.leftovers() == []
    assert {path.name for path in demo.volume.root.iterdir()} <= {
        *("incoming", "unpacked", "audio", "manifests", "transcripts", "classes"),
        *("processed", "logs", "state"),
    }
    assert not list(demo.volume.root.rglob("*evil*"))
    assert not Path("/etc/cron.d/evil.mp3").exists()


def test_the_manifests_hold_every_member_under_its_readable_name(demo: Run) -> None:
    for archive, facts in EXPECTED["archives"].items():
        (path,) = demo.volume.root.glob(f"manifests/*/{archive}.parquet")
        rows = read_table(path, MANIFEST).to_pylist()
        assert [(row["ordinal"], row["member"], row["status"]) for row in rows] == [
            (member["ordinal"], member["member"], member["status"]) for member in facts["members"]
        ]
        for row, member in zip(rows, facts["members"], strict=True):
            assert (member["error"] or "") in (row["error"] or "")
        assert read_provenance(path)["archive_type"] == facts["type"]


def test_a_second_run_finds_nothing_to_do_and_says_so_within_seconds(demo: Run) -> None:
    started = time.monotonic()
    code, said = demo.finish()
    assert code == 0
    assert "Nothing to do" in said
    assert time.monotonic() - started < 30


def test_loading_again_changes_no_row(demo: Run) -> None:
    everything = " UNION ALL ".join(
        f"SELECT '{table}', xmin::text, id FROM {table}"
        for table in ("archives", "audio_files", "transcripts", "classifications")
    )
    before = sorted(demo.query(everything))
    shutil.rmtree(demo.volume.root / "processed")
    code, said = demo.finish()
    assert code == 0, said
    assert sorted(demo.query(everything)) == before


def test_a_dry_run_previews_the_pending_archives_and_does_nothing(
    tmp_path: Path, volume: Path
) -> None:
    run = Run(tmp_path, volume)
    code, said = run.finish("--dry-run")
    assert code == 0
    for archive in (DEMO / "archives").iterdir():
        assert archive.name in said
    assert re.search(r"\d+(\.\d+)? [kM]B", said)
    assert re.search(r"\d+ (min|h|d)", said)
    assert [path.name for path in run.volume.root.iterdir()] == ["state"]
    assert {path.name for path in run.volume.state.iterdir()} == {"archives", "catalogue.json"}


def wait_for(path: Path, text: str, process: subprocess.Popen[str]) -> str:
    """Wait until a log says something; returns the log."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if path.exists() and text in (said := path.read_text()):
            return said
        assert process.poll() is None, process.stdout and process.stdout.read()
        time.sleep(0.02)
    raise TimeoutError(f"{path} never said {text!r}")


def wait_for_any(paths: list[Path], text: str, process: subprocess.Popen[str]) -> str | None:
    """Wait until one of some logs says something; None if the process ends before."""
    deadline = time.monotonic() + 300
    while process.poll() is None:
        for path in paths:
            if path.exists() and text in (said := path.read_text()):
                return said
        assert time.monotonic() < deadline, "none of the stages started"
        time.sleep(0.02)
    return None


@pytest.mark.parametrize("victim", ["driver", "worker", "all"])
def test_a_run_that_is_killed_at_every_stage_ends_as_an_undisturbed_one(
    tmp_path: Path, volume: Path, small_source: Path, undisturbed: list[tuple], victim: str
) -> None:
    run = Run(tmp_path, volume, source={"directory": str(small_source)})
    date = discover(small_source, run.volume)[0].date
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
    date = discover(small_source, run.volume)[0].date
    log = run.volume.log("transcribe_audio", "small.tar", date)
    with run.start() as process:
        worker = int(re.findall(r"process (\d+)", wait_for(log, "started", process))[-1])
        os.kill(worker, signal.SIGKILL)
        said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert run.query(ROWS) == undisturbed


def test_a_second_driver_leaves_at_once_and_names_the_first(
    tmp_path: Path, volume: Path, small_source: Path
) -> None:
    run = Run(tmp_path, volume, source={"directory": str(small_source)})
    with run.start() as first:
        wait_for(run.volume.log("unpack_archive", "small.tar"), "started", first)
        code, said = run.finish()
        assert code != 0
        assert f"another run works on this volume already (process {first.pid} " in said
        first.communicate(timeout=600)
    assert first.returncode == 0


def test_an_archive_that_was_replaced_at_the_source_is_fetched_again(
    tmp_path: Path, volume: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    run = Run(tmp_path, volume, source={"directory": str(source)})
    for content in (b"one", b"another"):
        (source / "a.tar").write_bytes(content)
        for _ in range(2):  # what is fetched is left alone by the next run
            code, said = run.finish("--until", "fetch_archive")
            assert code == 0, said
            assert run.volume.incoming("a.tar").read_bytes() == content
        run.volume.receipt(discover(source, run.volume)[0].date, "a.tar").parent.mkdir(
            parents=True, exist_ok=True
        )
        run.volume.receipt(discover(source, run.volume)[0].date, "a.tar").write_text("{}")
    code, said = run.finish()
    assert code == 0
    assert "Nothing to do" in said


def _policy_without_labels(folder: Path) -> dict:
    (folder / "policies").mkdir(parents=True)
    (folder / "policies/scams.md").write_text("# Scams\n\nNo scams, please.\n")
    return {"classify": {"policies": str(folder / "policies"), "categories": None}}


@pytest.mark.parametrize(
    ("changes", "variables", "message"),
    [
        pytest.param(
            {"asr": {"modle": "x"}}, {}, r"unknown key 'asr\.modle'; did you mean 'asr\.model'",
            id="misspelt key",
        ),
        pytest.param(
            {"asr": {"model": "demo/models/nowhere"}}, {},
            r"asr\.model names the folder \S*nowhere, which is missing .* correct the path",
            id="missing speech model",
        ),
        pytest.param(
            {"classify": {"adapter": "/nowhere"}}, {},
            r"classify\.adapter names the folder /nowhere, which is missing .* correct the path",
            id="missing adapter",
        ),
        pytest.param(
            {}, {"POSTGRES_HOST": "127.0.0.1", "POSTGRES_PORT": "1"},
            r"can't reach .*127\.0\.0\.1:1.*: .*start PostgreSQL or correct host and port",
            id="unreachable database",
        ),
        pytest.param(
            _policy_without_labels, {}, r"scams\.md.*[Ll]abel", id="policy without labels"
        ),
        pytest.param(
            {"source": {"directory": "/nowhere"}}, {},
            r"source folder /nowhere cannot be listed .*create it or correct source\.directory",
            id="missing source folder",
        ),
        pytest.param(
            {"classify": {"thresholds": {"spam": 0.5}}}, {},
            r"classify\.thresholds names the category 'spam'.* known: ",
            id="threshold of an unknown category",
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_explained_in_one_sentence_without_a_traceback(
    tmp_path: Path, volume: Path, changes: dict, variables: dict, message: str
) -> None:
    run = Run(tmp_path, volume, **(changes if isinstance(changes, dict) else changes(tmp_path)))
    code, said = run.finish(**variables)
    assert code != 0
    explained = [line for line in said.splitlines() if line.startswith("earmark: ")]
    assert len(explained) == 1, said
    assert re.search(message, explained[0]), explained
    assert "Traceback" not in said


def test_editing_a_policy_under_its_old_name_is_refused(
    tmp_path: Path, volume: Path, small_source: Path
) -> None:
    policies = tmp_path / "policies"
    shutil.copytree(REPOSITORY / "config/policies", policies)
    run = Run(
        tmp_path,
        volume,
        classify={"policies": str(policies), "categories": ["scams"]},
        source={"directory": str(small_source)},
    )
    code, said = run.finish("--until", "classify_transcripts")
    assert code == 0, said
    with (policies / "scams.md").open("a") as file:
        file.write("\n- Anything at all.\n")
    code, said = run.finish("--dry-run")
    assert code != 0
    assert re.search(r"^earmark: .*'?demo'?.*scams", said, re.MULTILINE), said


def test_another_model_under_its_old_name_is_refused(
    tmp_path: Path, volume: Path, small_source: Path
) -> None:
    run = Run(tmp_path, volume, source={"directory": str(small_source)})
    code, said = run.finish("--until", "transcribe_audio")
    assert code == 0, said
    code, said = Run(
        tmp_path, volume, source={"directory": str(small_source)}, asr={"compute_type": "int8"}
    ).finish()
    assert code != 0
    assert re.search(r"^earmark: .*asr\.name.*compute_type", said, re.MULTILINE), said


def test_the_profile_has_no_key_that_snakemake_would_ignore() -> None:
    known = subprocess.run(["snakemake", "--help"], capture_output=True, text=True).stdout
    profile = yaml.safe_load((REPOSITORY / "profiles/local/config.yaml").read_text())
    for key in profile:
        assert re.search(rf"--{key}[ ,\n]", known), key


def test_the_picture_shows_the_workflow_as_it_is() -> None:
    graph = subprocess.run(
        ["python", REPOSITORY / "docs/draw_workflow.py", "--dot"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    picture = (REPOSITORY / "docs/workflow.svg").read_text(encoding="utf-8")
    for rule in ["all", *STAGES]:
        assert f'label = "{rule}"' in graph
        assert f">{rule}</text>" in picture
    assert picture.count('class="edge"') == graph.count("->")
