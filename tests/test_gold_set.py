"""A gold set out of what reviewers settled: transcripts with their labels, and nothing erased."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from loaded_archive import Archive, member, query, transcript

from earmark.desk.gold_set import write_gold_set
from earmark.evaluation.gold import Labelled, read
from earmark.record import erasure
from earmark.record.database import connect
from earmark.volume import Volume

HASHES = {"threats": "7" * 64, "harassment": "8" * 64}


@pytest.fixture
def settled(tmp_path: Path, migrated_database: str) -> str:
    """Clips 0 to 6: settled, disputed, unsure, undone, wrongly transcribed, and untouched."""
    conninfo = migrated_database
    archive = Archive(tmp_path, conninfo)
    archive.members = [member(n, inclusion_probability=0.25) for n in range(7)]
    archive.heard = [transcript(n, language="es" if n else "en") for n in range(7)]
    archive.judged = []
    archive.load()
    query(
        conninfo,
        "INSERT INTO reviewers (name, role, password_hash) VALUES "
        "('ada', 'reviewer', ''), ('bob', 'reviewer', ''), ('lea', 'lead', '')",
    )
    query(conninfo, "UPDATE audio_files SET review_probability = 0.5")
    query(
        conninfo,
        "UPDATE provenance SET facts = facts || %s WHERE kind = 'classifications'",
        json.dumps({"policy_sha256": json.dumps(HASHES)}),
    )
    decide(conninfo, 0, "ada", "reportable", ["scams", "threats"])
    decide(conninfo, 1, "ada", "not reportable")
    decide(conninfo, 1, "bob", "reportable", ["threats"], "second")
    decide(conninfo, 1, "lea", "reportable", ["threats"], "adjudication")
    decide(conninfo, 2, "ada", "not reportable")
    decide(conninfo, 2, "bob", "reportable", ["threats"], "second")
    decide(conninfo, 3, "ada", "unsure")
    decide(conninfo, 3, "lea", "unsure", [], "adjudication")
    decide(conninfo, 4, "ada", "reportable", ["threats"])
    decide(conninfo, 4, "ada", "undone")
    decide(conninfo, 5, "ada", "not reportable", transcript_wrong=True)
    return conninfo


def decide(
    conninfo: str, ordinal: int, who: str, verdict: str, categories: list[str] | None = None,
    round: str = "first", transcript_wrong: bool = False,
) -> None:  # fmt: skip
    query(
        conninfo,
        "INSERT INTO review_decisions (audio_file_id, reviewer_id, round, chosen_by, verdict, "
        "categories, transcript_wrong, asr, policy, claimed_at) "
        "SELECT af.id, r.id, %s, 'score', %s, %s, %s, 'large-v2', '2026-11', now() "
        "FROM audio_files af, reviewers r WHERE af.ordinal = %s AND r.name = %s",
        round, verdict, categories or [], transcript_wrong, ordinal, who,
    )  # fmt: skip


def gold_set(conninfo: str, tmp_path: Path, name: str = "gold.jsonl") -> list[Labelled]:
    path = tmp_path / name
    with connect(conninfo) as connection:
        count = write_gold_set(connection, Volume(tmp_path), path)
    if not count:
        return []
    rows = [row for _, row in read(path, Labelled).rows]
    assert len(rows) == count
    return rows


def test_what_is_settled_is_a_text_with_its_labels(settled: str, tmp_path: Path) -> None:
    first, second = gold_set(settled, tmp_path)
    assert first == Labelled(
        id="clip 1",
        text="transcript 0",
        categories=("scams", "threats"),
        labelled=("harassment", "scams", "threats"),
        language="en",
        labelled_by=("reviewer 1",),
        weight=8,
    )
    assert second.text == "transcript 1"
    assert second.categories == ("threats",)  # as the lead settled it
    assert second.labelled_by == ("reviewer 1", "reviewer 2", "reviewer 3")


def test_both_formats_hold_the_same(settled: str, tmp_path: Path) -> None:
    assert gold_set(settled, tmp_path) == gold_set(settled, tmp_path, "gold.parquet")
    assert pq.read_table(tmp_path / "gold.parquet").num_rows == 2


def test_no_name_of_a_reviewer_is_in_it(settled: str, tmp_path: Path) -> None:
    gold_set(settled, tmp_path)
    content = (tmp_path / "gold.jsonl").read_text()
    assert not {"ada", "bob", "lea"} & set(content.replace('"', " ").split())


def test_a_clip_that_was_erased_is_in_no_gold_set(settled: str, tmp_path: Path) -> None:
    volume = Volume(tmp_path)
    (volume.evaluation_scores / "some").mkdir(parents=True)
    content, known = erasure.clip_in_database(settled, 1)
    found = erasure.find(volume, settled, content, known)
    assert content is not None
    erasure.Erased(volume).begin(content, found)  # cut off before a row is gone
    assert [row.id for row in gold_set(settled, tmp_path)] == ["clip 2"]
    assert [*erasure.erase(volume, settled, content, found)]
    assert [row.id for row in gold_set(settled, tmp_path)] == ["clip 2"]
    assert not volume.evaluation_scores.exists()  # hashes of its words among them


def test_where_nothing_is_settled_the_set_is_empty(migrated_database: str, tmp_path: Path) -> None:
    assert gold_set(migrated_database, tmp_path) == []
    assert (tmp_path / "gold.jsonl").read_text() == ""
