"""Another policy set, applied to what was transcribed long ago."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import open_volume
from workflow_run import Run, copy_volume

from earmark import REPOSITORY, cli, locks

pytestmark = pytest.mark.slow

SETS = "SELECT policy, count(*) FROM classifications GROUP BY 1 ORDER BY 1"


@pytest.fixture
def done(tmp_path: Path, volume: Path, finished: Path) -> Run:
    """A volume on which one archive is done, and gone from the source."""
    return a_copy(finished, tmp_path, volume)


@pytest.fixture
def changed(tmp_path: Path, volume: Path, reclassified: Path) -> Run:
    """The same volume after another policy set was applied, under its former configuration."""
    return a_copy(reclassified, tmp_path, volume)


@pytest.fixture(scope="session")
def reclassified(shared_folder: Path, finished: Path) -> Path:
    """The volume of :func:`changed`: to be copied."""
    volume = shared_folder / "reclassified"
    with locks.exclusive(shared_folder / "reclassified.lock"):
        if not volume.exists():
            with open_volume() as made:
                run = a_copy(finished, shared_folder / "reclassify", made)
                code, said = reclassify(with_policy(run, "second", threshold=0.0))
                assert code == 0, said
                copy_volume(made, volume)
    return volume


def a_copy(finished: Path, folder: Path, volume: Path) -> Run:
    copy_volume(finished, volume)
    source = folder / "source"
    source.mkdir(parents=True)
    return Run(folder / "first", volume, source={"directory": str(source)})


def with_policy(run: Run, name: str, threshold: float) -> Run:
    changes: dict[str, Any] = {
        "source": {"directory": run.settings().source.directory},
        "classify": {"policy": name, "threshold": threshold, "categories": ["scams"]},
    }
    return Run(run.folder.parent / name, run.volume.root, **changes)


def reclassify(run: Run, *options: str, since: str = "2000-01-01") -> tuple[int, str]:
    dates = f"reclassify={{since: {since}, until: 2999-12-31}}"
    return run.finish("reclassify", *options, "--config", dates)


def test_a_new_policy_set_is_applied_without_transcribing_again(
    changed: Run, finished: Path
) -> None:
    before, after = (
        [path.stat().st_mtime_ns for path in root.glob("transcripts/*/*/*.parquet")]
        for root in (finished, changed.volume.root)
    )
    assert before == after != []
    (_, (_, clips)) = changed.query(SETS)
    assert clips > 0
    # The first set has three categories.
    assert changed.query(SETS) == [("demo", 3 * clips), ("second", clips)]
    # The queue follows the new set, which flags all that it is asked about.
    assert changed.query(
        "SELECT count(*), min(flag_category), max(flag_category) FROM ra_queue"
    ) == [(clips, "scams", "scams")]
    code, said = reclassify(with_policy(changed, "second", threshold=0.0))
    assert "Nothing to be done" in said
    assert code == 0


def test_a_former_policy_set_is_gone_back_to_without_classifying_again(changed: Run) -> None:
    classes = {path: path.stat().st_mtime_ns for path in changed.volume.root.glob("classes/*/*/*")}
    both = changed.query(SETS)
    code, said = reclassify(changed, "--dry-run")
    assert code == 0, said
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", said, re.MULTILINE))
    assert jobs == {"load_pg": "1", "reclassify": "1", "total": "2"}, said
    assert changed.query("SELECT policy FROM archives") == [("second",)]
    code, said = reclassify(changed)
    assert code == 0, said
    assert changed.query("SELECT policy FROM archives") == [("demo",)]
    assert changed.query(SETS) == both
    assert {path: path.stat().st_mtime_ns for path in classes} == classes
    code, said = reclassify(changed)
    assert "Nothing to be done" in said


def test_a_load_that_fails_is_made_up_for_when_it_is_called_again(done: Run) -> None:
    done.query(
        "CREATE FUNCTION refuse() RETURNS TRIGGER LANGUAGE plpgsql AS "
        "'BEGIN RAISE EXCEPTION ''not now''; END'; "
        "CREATE TRIGGER refuse BEFORE UPDATE ON archives FOR EACH ROW EXECUTE FUNCTION refuse(); "
        "SELECT 1"
    )
    again = with_policy(done, "second", threshold=0.0)
    code, said = reclassify(again)
    assert code != 0
    done.query("DROP TRIGGER refuse ON archives; SELECT 1")
    code, said = reclassify(again)
    assert code == 0, said
    assert done.query("SELECT policy FROM archives") == [("second",)]


@pytest.mark.parametrize("days", [0, 1])
def test_an_archive_that_was_replaced_at_the_source_stays_pending(done: Run, days: int) -> None:
    (receipt,) = done.volume.root.glob("processed/*/*")
    then = receipt.stat().st_mtime_ns
    archive = Path(done.settings().source.directory) / "small.tar"
    later = then / 1e9 + days * 86_400
    archive.write_bytes(b"another one")
    os.utime(archive, (later, later))
    code, said = done.finish("--dry-run")
    assert code == 0, said
    assert "Pending in" in said
    code, said = reclassify(with_policy(done, "second", threshold=0.0))
    assert code == 0, said
    assert "to have the policy set second: 0 archives" in said
    assert receipt.stat().st_mtime_ns == then


def test_an_archive_that_is_to_be_done_again_is_first_done_again(done: Run) -> None:
    config = str(done.configfile)
    assert cli.main(["redo", "--configfile", config, "small.tar", "--stage", "transcribe"]) == 0
    second = with_policy(done, "second", threshold=0.0)
    code, said = reclassify(second)
    assert code == 0, said
    assert "they wait for the next run to do them again (earmark redo): 1 archive" in said
    assert done.finish()[0] == 0
    assert "done again" not in reclassify(second)[1]
    assert done.query("SELECT policy FROM archives") == [("second",)]


def test_a_screen_is_applied_to_what_is_done_like_any_other_policy_set(
    done: Run, tmp_path: Path
) -> None:
    (tmp_path / "policies").mkdir()
    for category in ("scams", "hate"):
        shutil.copy(REPOSITORY / f"config/policies/{category}.md", tmp_path / "policies")
    classify = {
        "policy": "screened",
        "categories": None,
        "policies": str(tmp_path / "policies"),  # without examples, by which no screen would do
        "screen": {"threshold": 1.0, "audit_fraction": 0.5},
    }
    source = {"directory": done.settings().source.directory}
    run = Run(tmp_path / "screened", done.volume.root, source=source, classify=classify)
    code, said = reclassify(run)
    assert code == 0, said
    answers = done.query(
        "SELECT DISTINCT flag_category, c.status, asked_probability "
        "FROM classifications c "
        "WHERE policy = 'screened' AND screen_score IS NOT NULL"
    )
    assert set(answers) >= {
        ("hate", "unasked", 0.5), ("scams", "unasked", 0.5)
    }  # fmt: skip
    ((told, text),) = done.query(
        "SELECT facts ->> 'screen', text FROM provenance JOIN policies "
        "ON sha256 = (facts ->> 'screen')::jsonb ->> 'sha256' WHERE name = 'screened'"
    )
    assert json.loads(told)["threshold"] == 1
    assert "### (FS): Fraud or scam" in text
    assert "### (HS): Hate speech" in text
    assert cli.main(["screening-policy", "--configfile", str(run.configfile)]) == 0
    # Another threshold under the same name is refused.
    classify["screen"] = {"threshold": 0.5}
    other = Run(tmp_path / "other", done.volume.root, source=source, classify=classify)
    code, said = reclassify(other)
    assert code != 0
    assert "'screened' was used before with other settings: thresholds" in said


def test_both_sets_can_be_compared_in_sql(changed: Run) -> None:
    page = (REPOSITORY / "docs/operations.md").read_text(encoding="utf-8")
    _, _, example = page.partition("## Applying another policy set")
    sql = example.partition("```sql\n")[2].partition("```")[0]
    sql = sql.replace("2026-11", "demo").replace("2026-12", "second")
    ((category, clips, both, only_former, only_new),) = changed.query(sql)
    assert category == "scams"
    assert clips == both + only_new > 0
    assert only_former == 0


def test_dates_that_hold_nothing_give_nothing_to_do(done: Run) -> None:
    code, said = reclassify(with_policy(done, "second", threshold=0.0), since="2999-01-01")
    assert code == 0, said
    assert "to have the policy set second: 0 archives" in said


@pytest.mark.parametrize("option", [(), ("--config", "reclassify={since: soon, until: later}")])
def test_without_dates_it_says_what_to_name(tmp_path: Path, option: tuple[str, ...]) -> None:
    code, said = Run(tmp_path, tmp_path / "volume").finish("reclassify", *option)
    assert code != 0
    assert "'reclassify.since' is" in said
    assert "--config reclassify=" in said


def test_transcripts_that_are_missing_are_not_made(done: Run) -> None:
    (heard,) = done.volume.root.glob("transcripts/*/*/*.parquet")
    heard.unlink()
    code, said = reclassify(with_policy(done, "second", threshold=0.0))
    assert code == 0, said
    assert "left out, as there are no transcripts of demo (asr.name): 1 archive," in said
