"""What people decided, as files: the same rows in each, with what made the clip come up."""

import csv
import datetime
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from desk_record import json_lines
from loaded_archive import Archive, member, query

from earmark.desk.export import COLUMNS, Format, export
from earmark.record.database import connect

TODAY = datetime.date(2026, 11, 20)
HASHES = {"threats": "7" * 64, "harassment": "8" * 64}


@pytest.fixture
def decided(tmp_path: Path, migrated_database: str) -> str:
    """A clip, of a name that is hostile, that two people heard; and one that was left."""
    conninfo = migrated_database
    archive = Archive(tmp_path, conninfo)
    archive.members = [
        member(0, member="=cmd|' /C calc'!A0", inclusion_probability=0.25),
        *archive.members[1:],
    ]
    archive.load()
    query(
        conninfo,
        "INSERT INTO reviewers (name, role, password_hash) VALUES "
        "('ada', 'reviewer', 'secret'), ('lea', 'lead', 'secret')",
    )
    query(
        conninfo,
        "UPDATE provenance SET facts = facts || %s WHERE kind = 'classifications'",
        json.dumps({"policy_sha256": json.dumps(HASHES), "model_revision": "abc"}),
    )
    query(conninfo, "INSERT INTO second_reviews VALUES (1, 0.5)")
    query(
        conninfo,
        "INSERT INTO review_decisions (audio_file_id, reviewer_id, round, chosen_by, verdict, "
        "categories, reason, note, asr, policy, flag_score, flag_categories, claimed_at, "
        "decided_at) "
        "SELECT af.id, who, d.round, 'score', d.verdict, d.categories, d.reason, d.note, "
        "'large-v2', '2026-11', queue_score, queue_categories, d.at - INTERVAL '1 minute', d.at "
        "FROM (VALUES "
        "(1, 1, 'first', 'unsure', '{}'::text[], NULL, NULL, timestamptz '2026-11-19 23:59+01'),"
        "(1, 1, 'first', 'reportable', '{scams,threats}', NULL, '@SUM(1)', '2026-11-20 00:00+01'),"
        "(1, 2, 'second', 'not reportable', '{}', NULL, 'grün', '2026-11-20 23:59+01'),"
        "(8, 1, 'first', 'skipped', '{}', 'other', NULL, '2026-11-21 00:00+01')"
        ") d (clip, who, round, verdict, categories, reason, note, at) "
        "JOIN audio_files af ON af.id = d.clip ORDER BY d.at",
    )
    return conninfo


def exported(conninfo: str, path: Path, format: Format, days: int = 0) -> Path:
    since, until = TODAY - datetime.timedelta(days), TODAY + datetime.timedelta(days)
    with connect(conninfo) as connection:
        export(connection, path, format, since, until, "Europe/Zurich")
    return path


def test_a_decision_comes_with_what_made_the_clip_come_up(decided: str, tmp_path: Path) -> None:
    rows = json_lines(exported(decided, tmp_path / "a.jsonl", "jsonl", days=1))
    assert [row["decision_id"] for row in rows] == [1, 2, 3, 4]
    assert [row["stands"] for row in rows] == [False, True, True, False]
    assert rows[1] == {
        "decision_id": 2,
        "audio_file_id": 1,
        "archive": "a.tar",
        "archive_date": "2026-11-02",
        "ordinal": 0,
        "original_filename": "=cmd|' /C calc'!A0",
        "source_sha256": 64 * "0",
        "opus_path": "audio/date=2026-11-02/a.tar/000000.opus",
        "duration_seconds": 60.5,
        "verdict": "reportable",
        "categories": ["scams", "threats"],
        "transcript_wrong": False,
        "not_speech": False,
        "wrong_language": False,
        "reason": None,
        "note": "@SUM(1)",
        "reviewer": "ada",
        "reviewer_role": "reviewer",
        "heard_seconds": None,
        "heard_share": None,
        "round": "first",
        "chosen_by": "score",
        "claimed_at": "2026-11-19T22:59:00+00:00",
        "decided_at": "2026-11-19T23:00:00+00:00",
        "stands": True,
        "outcome_state": "disputed",
        "outcome_verdict": None,
        "outcome_categories": None,
        "flag_score": 0.9,
        "flag_categories": ["harassment", "threats"],
        "inclusion_probability": 0.25,
        "review_probability": 1,
        "sample_draw": None,
        "sample_stratum": None,
        "sample_probability": None,
        "weight": 4,
        "second_review_probability": 0.5,
        "duplicates": 1,
        "language": "en",
        "languages": ["en", "fr"],
        "doubt": "unlikely words",
        "asr": "large-v2",
        "asr_model": "whisper",
        "asr_model_revision": None,
        "policy": "2026-11",
        "policy_model": "cope",
        "policy_model_revision": "abc",
        "policy_adapter": None,
        "policy_adapter_revision": None,
        "prompt_sha256": None,
        "policy_sha256": HASHES,
        "version": rows[1]["version"],
    }
    assert rows[3]["reason"] == "other"
    assert rows[3]["outcome_state"] is None


def test_days_are_those_of_the_zone_and_both_ends_belong_to_them(
    decided: str, tmp_path: Path
) -> None:
    rows = json_lines(exported(decided, tmp_path / "a.jsonl", "jsonl"))
    assert [row["decision_id"] for row in rows] == [2, 3]


def test_all_formats_hold_the_same(decided: str, tmp_path: Path) -> None:
    rows = json_lines(exported(decided, tmp_path / "a.jsonl", "jsonl", days=1))
    table = pq.read_table(exported(decided, tmp_path / "a.parquet", "parquet", days=1))
    assert [(field.name, field.type) for field in table.schema] == [
        (column.name, column.type) for column in COLUMNS
    ]
    found = [
        {
            key: dict(value)
            if key == "policy_sha256"
            else value.isoformat()
            if isinstance(value, datetime.date)
            else value
            for key, value in row.items()
        }
        for row in table.to_pylist()
    ]
    assert found == rows
    with exported(decided, tmp_path / "a.csv", "csv", days=1).open(
        newline="", encoding="utf-8-sig"
    ) as file:
        cells = list(csv.DictReader(file))
    assert [row["decision_id"] for row in cells] == ["1", "2", "3", "4"]
    assert cells[1]["categories"] == "scams,threats"
    assert json.loads(cells[1]["policy_sha256"]) == HASHES
    assert cells[2]["note"] == "grün"


def test_no_cell_of_the_csv_is_a_formula(decided: str, tmp_path: Path) -> None:
    with exported(decided, tmp_path / "a.csv", "csv").open(
        newline="", encoding="utf-8-sig"
    ) as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["original_filename"] == "'=cmd|' /C calc'!A0"
    assert rows[0]["note"] == "'@SUM(1)"


def test_no_password_hash_leaves(decided: str, tmp_path: Path) -> None:
    for format in ("csv", "jsonl", "parquet"):
        path = exported(decided, tmp_path / f"a.{format}", format, days=1)
        assert b"secret" not in path.read_bytes()


def test_days_without_decisions_give_a_file_without_rows(
    migrated_database: str, tmp_path: Path
) -> None:
    assert exported(migrated_database, tmp_path / "a.jsonl", "jsonl").read_text() == ""
    assert (
        pq.read_table(exported(migrated_database, tmp_path / "a.parquet", "parquet")).num_rows == 0
    )
    text = exported(migrated_database, tmp_path / "a.csv", "csv").read_bytes()
    assert text.count(b"\n") == 1
    assert text.startswith(b'\xef\xbb\xbf"decision_id"')  # by which Excel knows UTF-8


def test_only_a_clip_s_first_decision_that_stands_has_its_weight(
    decided: str, tmp_path: Path
) -> None:
    rows = json_lines(exported(decided, tmp_path / "a.jsonl", "jsonl", days=1))
    assert [(row["audio_file_id"], row["round"], row["weight"]) for row in rows] == [
        (1, "first", None),  # decided again
        (1, "first", 4),
        (1, "second", None),
        (8, "first", None),  # skipped
    ]


def test_a_clip_that_could_not_be_drawn_has_no_weight(decided: str, tmp_path: Path) -> None:
    query(decided, "UPDATE audio_files SET review_probability = 0")
    rows = json_lines(exported(decided, tmp_path / "a.jsonl", "jsonl"))
    assert [row["weight"] for row in rows] == [None, None]
