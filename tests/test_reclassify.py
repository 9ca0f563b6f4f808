"""Another policy set, applied to what was transcribed long ago."""

from pathlib import Path
from typing import Any

import pytest
from workflow_run import Run

from earmark import REPOSITORY

SETS = "SELECT policy, count(*) FROM classifications GROUP BY 1 ORDER BY 1"


@pytest.fixture
def done(tmp_path: Path, volume: Path, small_source: Path) -> Run:
    """A volume on which one archive is done, and gone from the source."""
    source = tmp_path / "source"
    source.mkdir()
    for file in small_source.iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    run = Run(tmp_path / "first", volume, source={"directory": str(source)})
    code, said = run.finish()
    assert code == 0, said
    for file in source.iterdir():
        file.unlink()
    return run


def with_policy(run: Run, name: str, threshold: float) -> Run:
    changes: dict[str, Any] = {
        "source": {"directory": run.settings().source.directory},
        "classify": {"policy": name, "threshold": threshold, "categories": ["scams"]},
    }
    return Run(run.folder.parent / name, run.volume.root, **changes)


def reclassify(run: Run, *options: str, since: str = "2000-01-01") -> tuple[int, str]:
    dates = f"reclassify={{since: {since}, until: 2999-12-31}}"
    return run.finish("reclassify", *options, "--config", dates)


def test_a_new_policy_set_is_applied_without_transcribing_again(done: Run) -> None:
    (heard,) = done.volume.root.glob("transcripts/*/*/*.parquet")
    before = heard.stat()
    ((_, first),) = done.query(SETS)
    again = with_policy(done, "second", threshold=0.0)
    code, said = reclassify(again)
    assert code == 0, said
    assert (heard.stat().st_ino, heard.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    clips = first // 3  # the first set has three categories
    assert done.query(SETS) == [("demo", first), ("second", clips)]
    # The queue follows the new set, which flags all that it is asked about.
    assert done.query("SELECT count(*), min(flag_category), max(flag_category) FROM ra_queue") == [
        (clips, "scams", "scams")
    ]
    code, said = reclassify(again)
    assert "Nothing to be done" in said
    assert code == 0


def test_a_former_policy_set_is_gone_back_to_without_classifying_again(done: Run) -> None:
    assert reclassify(with_policy(done, "second", threshold=0.0))[0] == 0
    classes = {path: path.stat().st_mtime_ns for path in done.volume.root.glob("classes/*/*/*")}
    both = done.query(SETS)
    code, said = reclassify(done, "--dry-run")
    assert code == 0, said
    assert "load_pg" in said
    assert "classify_transcripts" not in said
    assert done.query("SELECT policy FROM archives") == [("second",)]
    code, said = reclassify(done)
    assert code == 0, said
    assert done.query("SELECT policy FROM archives") == [("demo",)]
    assert done.query(SETS) == both
    assert {path: path.stat().st_mtime_ns for path in classes} == classes
    code, said = reclassify(done)
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


def test_an_archive_that_was_replaced_at_the_source_stays_pending(done: Run) -> None:
    (receipt,) = done.volume.root.glob("processed/*/*")
    then = receipt.stat().st_mtime_ns
    source = Path(done.settings().source.directory)
    (source / "small.tar").write_bytes(b"another one")
    code, said = done.finish("--dry-run")
    assert code == 0, said
    assert "Pending in" in said
    code, said = reclassify(with_policy(done, "second", threshold=0.0))
    assert code == 0, said
    assert "0 archives are to have the policy set second" in said
    assert receipt.stat().st_mtime_ns == then


def test_both_sets_can_be_compared_in_sql(done: Run) -> None:
    assert reclassify(with_policy(done, "second", threshold=0.0))[0] == 0
    page = (REPOSITORY / "docs/operations.md").read_text(encoding="utf-8")
    _, _, example = page.partition("## Applying another policy set")
    sql = example.partition("```sql\n")[2].partition("```")[0]
    sql = sql.replace("2026-11", "demo").replace("2026-12", "second")
    ((category, clips, both, only_former, only_new),) = done.query(sql)
    assert category == "scams"
    assert clips == both + only_new > 0
    assert only_former == 0


def test_dates_that_hold_nothing_give_nothing_to_do(done: Run) -> None:
    code, said = reclassify(with_policy(done, "second", threshold=0.0), since="2999-01-01")
    assert code == 0, said
    assert "0 archives are to have the policy set second" in said


@pytest.mark.parametrize("option", [(), ("--config", "reclassify={since: soon, until: later}")])
def test_without_dates_it_says_what_to_name(done: Run, option: tuple[str, ...]) -> None:
    code, said = with_policy(done, "second", threshold=0.0).finish("reclassify", *option)
    assert code != 0
    assert "'reclassify.since' is" in said
    assert "--config reclassify=" in said


def test_transcripts_that_are_missing_are_not_made(done: Run) -> None:
    (heard,) = done.volume.root.glob("transcripts/*/*/*.parquet")
    heard.unlink()
    code, said = reclassify(with_policy(done, "second", threshold=0.0))
    assert code == 0, said
    assert "1 archives have no transcripts of demo (asr.name) and are left out" in said
