"""What a run tells before it works, and how it refuses to."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
import yaml
from example_receipt import example
from workflow_run import DEMO, Run, wait_for

from earmark import REPOSITORY, receipts
from earmark.volume import STAGES

pytestmark = pytest.mark.slow


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
    known = {"archives", "catalogue.json", "catalogue.lock"}
    assert {path.name for path in run.volume.state.iterdir()} == known


def test_a_second_driver_leaves_at_once_and_names_the_first(
    tmp_path: Path, volume: Path, small_source: Path
) -> None:
    run = Run(tmp_path, volume, source={"directory": str(small_source)})
    with run.start("--until", "encode_opus") as first:
        wait_for(run.volume.log("unpack_archive", "small.tar"), "started", first)
        os.killpg(first.pid, signal.SIGSTOP)  # it must not end before the second gets there
        code, said = run.finish()
        os.killpg(first.pid, signal.SIGCONT)
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
        run.volume.receipt(run.date("a.tar"), "a.tar").parent.mkdir(parents=True, exist_ok=True)
        receipts.write(run.volume.receipt(run.date("a.tar"), "a.tar"), example(bytes=len(content)))
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
            r"source's /nowhere cannot be used .*create it or correct source\.directory",
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


def test_a_key_that_snakemake_would_take_the_last_of_is_refused(
    tmp_path: Path, volume: Path
) -> None:
    run = Run(tmp_path, volume)
    text = run.configfile.read_text(encoding="utf-8")
    run.configfile.write_text(f"{text}asr: {{beam_size: 1}}\n", encoding="utf-8")
    code, said = run.finish("--dry-run")
    assert code != 0
    assert re.search(r"(?m)^earmark: .*'asr' is given twice, in line \d+ and in line \d+", said)


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
