"""The demo, run once to its end: its results, and what a run on finished work does."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import jiwer
import pytest
from conftest import open_volume
from processor_time import processor_seconds
from workflow_run import EXPECTED, Run

from earmark import REPOSITORY
from earmark.tables import MANIFEST, read_provenance, read_table


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """The demo, run once to its end."""
    with open_volume() as volume:
        run = Run(tmp_path_factory.mktemp("demo"), volume, asr={"vad": "pyannote"})
        done = subprocess.run(
            ["make", "demo", f"DEMO=--configfile {run.configfile}"],
            cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        (run.folder / "said").write_text(done.stdout)
        yield run


def test_the_demo_shows_the_queue_and_what_became_of_each_archive(demo: Run) -> None:
    said = (demo.folder / "said").read_text()
    assert "What to try next" in said
    for archive, facts in EXPECTED["archives"].items():
        assert re.search(rf"^{re.escape(archive)} +{facts['status']} ", said, re.MULTILINE), said


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
    started = processor_seconds()
    code, said = demo.finish()
    assert code == 0
    assert "Nothing to do" in said
    assert processor_seconds() - started < 30


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


def test_editing_a_policy_under_its_old_name_is_refused(demo: Run, tmp_path: Path) -> None:
    policies = tmp_path / "policies"
    shutil.copytree(REPOSITORY / "config/policies", policies)
    run = Run(
        tmp_path, demo.volume.root, asr={"vad": "pyannote"}, classify={"policies": str(policies)}
    )
    code, said = run.finish("--dry-run")
    assert code == 0, said
    with (policies / "scams.md").open("a") as file:
        file.write("\n- Anything at all.\n")
    code, said = run.finish("--dry-run")
    assert code != 0
    assert re.search(r"^earmark: .*'?demo'?.*scams", said, re.MULTILINE), said


def test_another_model_under_its_old_name_is_refused(demo: Run, tmp_path: Path) -> None:
    asr = {"vad": "pyannote", "compute_type": "int8"}
    code, said = Run(tmp_path, demo.volume.root, asr=asr).finish()
    assert code != 0
    assert re.search(r"^earmark: .*asr\.name.*compute_type", said, re.MULTILINE), said
