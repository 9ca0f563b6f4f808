"""What a run says of itself when it ends."""

import re
import shutil
import time
from pathlib import Path

import pytest
from example_receipt import example
from hypothesis import given
from hypothesis import strategies as st
from workflow_run import DEMO, Run

from earmark import receipts
from earmark.driver.stages import stage
from earmark.driver.summary import HEIGHT, WIDTH, _line, summarise
from earmark.errors import EarmarkError
from earmark.ingest.catalogue import Archive
from earmark.ingest.encode import ERASED
from earmark.settings import Settings, VolumeSettings
from earmark.volume import Volume


@pytest.mark.slow
def test_a_run_ends_with_what_became_of_everything_and_where_to_look(tmp_path, volume):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("sound_2026-11-01_02.tar", "sound_2026-11-01_04.tar.gz"):
        shutil.copy2(DEMO / "archives" / name, source)
    run = Run(tmp_path, volume, source={"directory": str(source)})
    code, said = run.finish()
    assert code == 0, said
    summary = said[said.rindex("Done in ") :].splitlines()
    assert re.fullmatch(r"Done in \d+:\d\d min: 2 archives", summary[0])
    counts = dict(run.query("SELECT status, count(*) FROM audio_files GROUP BY status"))
    assert counts.keys() == {"flagged", "transcribed", "failed"}
    reasons = run.query("SELECT key FROM archives, jsonb_each(skipped_reasons)")
    assert summary[1:] == [
        "  archives: 1 ok, 1 failed",
        f"  clips: {counts['flagged']} flagged, {counts['transcribed']} transcribed (not flagged), "
        f"{counts['failed']} failed",
        f"  members not taken: 1 {reasons[0][0]}",
        f"  what went on: earmark report --configfile {run.configfile}",
        f"  hear and decide: earmark review --configfile {run.configfile}",
        f"  is all there: earmark doctor --configfile {run.configfile}",
    ]


def summary(volume: Volume, archives: list[Archive], since: float) -> list[str]:
    settings = Settings(volume=VolumeSettings(root=str(volume.root)))
    return summarise(settings, archives, since, Path("my.yaml")).splitlines()


def write_receipt(volume: Volume, name: str, **changes) -> None:
    receipt = example(archive=name, **changes)
    path = volume.receipt(receipt.date, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    receipts.write(path, receipt)


def test_archives_clips_and_reasons_are_counted_over_all_that_the_run_finished(tmp_path):
    volume = Volume(tmp_path)
    began = time.time() - 1
    write_receipt(volume, "a.tar", skipped={"no audio: text": 2})
    write_receipt(volume, "b.tar", status="partial", skipped={"no audio: text": 1, "a \x1b[2J": 9})
    lines = summary(volume, [], began)
    assert lines[1:4] == [
        "  archives: 1 ok, 1 partial",
        "  clips: 2 flagged, 2 transcribed (not flagged)",
        r"  members not taken: 9 a \x1b[2J, 3 no audio: text",
    ]
    assert "  is all there: earmark doctor --configfile my.yaml" in lines


def test_what_was_erased_is_not_called_a_member_that_was_not_taken(tmp_path):
    volume = Volume(tmp_path)
    began = time.time() - 1
    write_receipt(volume, "a.tar", skipped={ERASED: 3, "not audio: text": 1})
    write_receipt(volume, "b.tar", skipped={ERASED: 2})
    assert "  members not taken: 1 not audio: text" in summary(volume, [], began)


def test_what_was_finished_before_the_run_does_not_count(tmp_path):
    volume = Volume(tmp_path)
    write_receipt(volume, "a.tar")
    assert summary(volume, [], time.time() + 10)[0].endswith(": 0 archives")


def test_what_failed_is_named_with_its_stage_and_the_command_that_tells_more(tmp_path):
    volume = Volume(tmp_path)
    with (
        pytest.raises(SystemExit),
        stage("encode_opus", "a.tar", volume, volume.log("encode_opus", "a.tar")),
    ):
        raise EarmarkError("no more")
    lines = summary(volume, [], time.time() - 10)
    assert "  archives that failed: a.tar in encode_opus" in lines
    assert "  why it failed: earmark status --configfile my.yaml" in lines


def test_what_is_left_is_counted_by_reason(tmp_path):
    now = time.time_ns()
    archives = [
        Archive("new.tar", 1, now),
        Archive("ready.tar", 1, now - 10**13, confirmed=True),
        Archive("so/so.tar", 1, now, refused="no name for an archive"),
    ]
    lines = summary(Volume(tmp_path), archives, time.time())
    assert "  archives left: 1 for the next run, 1 too recent, 1 refused" in lines


@given(st.lists(st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1)))
def test_a_line_is_never_wider_than_a_terminal_and_hides_nothing_unsaid(parts):
    lines = _line("members not taken", parts)
    assert len(lines) == bool(parts)
    for line in lines:
        assert len(line) <= WIDTH
        shown = len(re.findall(", ", line)) + 1
        more = re.search(r", and (\d+) more$", line)
        assert (shown - 1 + int(more[1]) if more else shown) == len(parts)


def test_a_run_in_which_everything_goes_wrong_is_told_in_a_few_lines(tmp_path):
    volume = Volume(tmp_path)
    for number in range(30):
        name = f"{number}.tar"
        reasons = {f"{reason}{number}": 1 for reason in range(50)}
        write_receipt(volume, f"r{name}", status="failed", skipped=reasons)
        with (
            pytest.raises(SystemExit),
            stage("unpack_archive", name, volume, volume.log("unpack_archive", name)),
        ):
            raise EarmarkError("no more")
    lines = summary(volume, [Archive("x.tar", 1, time.time_ns())], time.time() - 100)
    assert len(lines) <= HEIGHT
    assert all(len(line) <= WIDTH for line in lines)
