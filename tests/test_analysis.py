"""Questions to the volume's Parquet files and receipts, answered by DuckDB."""

import datetime
import json
import types
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import duckdb
import pyarrow as pa
import pytest

from earmark import SQL
from earmark.errors import EarmarkError
from earmark.receipts import Receipt
from earmark.record import spill
from earmark.record.analysis import queries, run
from earmark.tables import CLASSES, MANIFEST, TRANSCRIPTS, write_table
from earmark.volume import Volume

DAY = datetime.date(2026, 11, 2)


def clip(ordinal, **changes):
    return {
        "archive": "a.tar",
        "ordinal": ordinal,
        "member": f"{ordinal}.mp3",
        "source_sha256": f"{ordinal:064}",
        "source_bytes": 1,
        "status": "ok",
        "selected": True,
        "inclusion_probability": 1.0,
        "encoded_at": datetime.datetime(2026, 11, 2, 23, 30, tzinfo=datetime.UTC),
        **changes,
    }


def transcript(ordinal, language="en", **changes):
    return {
        "archive": "a.tar",
        "ordinal": ordinal,
        "text": "",
        "language": language,
        "confidence": ordinal / 10,
        "speech_seconds": 36.0,
        "status": "ok",
        **changes,
    }


def judgement(ordinal, score, **changes):
    return {
        "archive": "a.tar",
        "ordinal": ordinal,
        "category": "threats",
        "flagged": None if score is None else score >= 0.5,
        "score": score,
        "threshold": 0.5,
        "truncated": False,
        "answer": "logits",
        "status": "ok" if score is not None else "unparsed",
        **changes,
    }


def write_volume(root, policy="2026-11-01", scores=(0.1, 0.9, 0.2, None)):
    volume = Volume(root)
    record = volume.state / "policies" / f"{policy}.json"
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps({"asr.name": "v2", "threats.md": "# Threats"}))
    members = [
        clip(0),
        clip(1, inclusion_probability=0.5),
        clip(2, inclusion_probability=0.5),
        clip(3),
        clip(4, status="failed", error="frame 17 is damaged"),
        clip(5, status="failed", error="frame 4 is damaged"),
    ]
    write_table(volume.manifest(str(DAY), "a.tar"), MANIFEST, members, {})
    heard = [
        transcript(0),
        transcript(1),
        transcript(2),
        transcript(3, "de", text="words", doubt="repeated text"),
        transcript(6, status="failed", error="out of memory"),
    ]
    write_table(volume.transcripts("v2", str(DAY), "a.tar"), TRANSCRIPTS, heard, {})
    judged = [judgement(ordinal, score) for ordinal, score in enumerate(scores)]
    write_table(volume.classes(policy, str(DAY), "a.tar"), CLASSES, judged, {})
    for name, seconds in (("a.tar", 9.0), ("b.tar", 90.0)):
        receipt = volume.receipt(str(DAY), name)
        receipt.parent.mkdir(parents=True, exist_ok=True)
        receipt.write_text(
            json.dumps(
                {
                    "archive": name,
                    "date": str(DAY),
                    "status": "ok" if name == "a.tar" else "partial",
                    "reason": None if name == "a.tar" else "cut after 5 bytes",
                    "bytes": 2_500_000,
                    "members": {"total": 6},
                    "rows": {"transcripts": 3},
                    "seconds": {"encode": seconds, "transcribe": None, "load": 1.5},
                    "loaded_at": "2026-11-03T01:30:00+02:00",
                }
            )
        )


def rows(query, root):
    answer = run(query, root)
    return [dict(zip(answer.columns, row, strict=True)) for row in answer.fetchall()]


@pytest.fixture
def volume_root(tmp_path):
    write_volume(tmp_path)
    return tmp_path


def test_every_query_says_what_it_answers_and_runs(volume_root):
    assert set(queries()) == {
        "agreement", "confidence", "doubt", "failures", "flag_rate", "prevalence", "scores",
        "slowest_archives", "throughput",
    }  # fmt: skip
    write_volume(volume_root, policy="2026-12")  # to agree or not
    receipt = Volume(volume_root).receipt(str(DAY), "a.tar")
    told = json.loads(receipt.read_text())
    receipt.write_text(json.dumps(told | {"members": {"total": 6, "ok": 4}}))
    for name, question in queries().items():
        assert question.endswith("?")
        assert rows(name, volume_root)


def test_flag_rate_weighs_clips_by_their_inclusion_probability(volume_root):
    german, english = sorted(rows("flag_rate", volume_root), key=lambda row: row["language"])
    assert (english["policy"], english["asr"], english["date"]) == ("2026-11-01", "v2", DAY)
    assert (english["clips"], english["flagged"], english["undecided"]) == (3, 1, 0)
    assert english["flag_rate"] == pytest.approx(1 / 3)
    assert english["weighted_flag_rate"] == pytest.approx(2 / 5)
    assert (german["language"], german["clips"], german["undecided"]) == ("de", 0, 1)
    assert german["flag_rate"] is german["weighted_flag_rate"] is None


def test_confidence_is_summed_up_by_language(volume_root):
    english, german = rows("confidence", volume_root)
    assert (english["language"], english["clips"], english["confidence_p50"]) == ("en", 3, 0.1)
    assert (german["language"], german["clips"], german["speech_hours"]) == ("de", 1, 0.01)


def test_the_slowest_archive_comes_first(volume_root):
    slowest, other = rows("slowest_archives", volume_root)
    assert (slowest["archive"], slowest["total_seconds"], slowest["seconds_per_clip"]) == (
        "b.tar",
        91.5,
        30.5,
    )
    assert (other["archive"], other["encode_seconds"], other["transcribe_seconds"]) == (
        "a.tar",
        9.0,
        None,
    )


def test_failures_are_counted_by_stage_and_reason(volume_root):
    found = {(row["stage"], row["reason"]): row for row in rows("failures", volume_root)}
    assert {key: row["failures"] for key, row in found.items()} == {
        ("archive", "cut after N bytes"): 1,
        ("encode", "frame N is damaged"): 2,
        ("transcribe", "out of memory"): 1,
        ("classify", "unparsed"): 1,
    }
    assert found["encode", "frame N is damaged"]["example"] == "a.tar #4"
    assert found["archive", "cut after N bytes"]["example"] == "b.tar"


def test_policy_sets_stand_side_by_side(volume_root):
    write_volume(volume_root, policy="2026-12")
    assert {row["policy"] for row in rows("flag_rate", volume_root)} == {"2026-11-01", "2026-12"}


def test_agreement_is_measured_over_what_both_sets_have_answered(volume_root):
    write_volume(volume_root, policy="2026-12", scores=(0.6, 0.8, 0.1, 0.7))
    (row,) = rows("agreement", volume_root)
    assert (row["policy"], row["other_policy"], row["category"]) == (
        "2026-11-01",
        "2026-12",
        "threats",
    )
    counts = ("clips", "both_flag", "only_policy", "only_other", "neither")
    assert [row[name] for name in counts] == [3, 1, 0, 1, 1]
    # Weights 1, 2, 2: they agree on 4 of 5, and by chance on 2/5 * 3/5 + 3/5 * 2/5.
    assert row["agreement"] == 0.8
    assert row["kappa"] == pytest.approx((0.8 - 0.48) / (1 - 0.48), abs=1e-4)
    assert row["mean_score_difference"] == pytest.approx((0.5 + 2 * 0.1 + 2 * 0.1) / 5, abs=1e-4)


def test_scores_are_spread_over_tenths_that_hold_all_clips(volume_root):
    write_volume(volume_root, policy="2026-12", scores=(0.0, 1.0, 0.55, 0.59))
    spread = [row for row in rows("scores", volume_root) if row["policy"] == "2026-12"]
    assert [
        (row["score_from"], row["score_to"], row["clips"], row["share"], row["thresholds"])
        for row in spread
    ] == [
        (0.0, 0.1, 1, pytest.approx(1 / 6, abs=1e-4), None),
        (0.5, 0.6, 2, pytest.approx(3 / 6), [0.5]),
        (0.9, 1.0, 1, pytest.approx(2 / 6, abs=1e-4), None),
    ]


def test_throughput_is_that_of_one_job_on_the_day_it_was_loaded(volume_root):
    receipt = Volume(volume_root).receipt(str(DAY), "a.tar")
    told = json.loads(receipt.read_text())
    told["seconds"] = {"transcribe": 30.0}
    told["provenance"] = {"transcripts": {"audio_seconds": "120.0", "copied": "1"}}
    receipt.write_text(json.dumps(told))
    by_stage = {row["stage"]: row for row in rows("throughput", volume_root)}
    assert by_stage["transcribe"] == {
        "day": DAY,  # in UTC
        "stage": "transcribe",
        "archives": 1,
        "clips": 2,  # what was copied took no time
        "hours": 0.008,
        "clips_per_hour": 240.0,
        "audio_hours_per_hour": 4.0,
    }


def test_a_stage_counts_on_the_day_it_was_done_however_often_the_archive_is_loaded(volume_root):
    receipt = Volume(volume_root).receipt(str(DAY), "a.tar")
    told = json.loads(receipt.read_text())
    told["seconds"] = {"transcribe": 30.0, "load": 1.0}
    told["provenance"] = {"transcripts": {"made_at": "2026-10-07T23:30:00+00:00"}}
    receipt.write_text(json.dumps(told | {"rows": {"transcripts": 3, "audio_files": 4}}))
    found = {row["stage"]: row["day"] for row in rows("throughput", volume_root)}
    assert found == {"transcribe": datetime.date(2026, 10, 7), "load": DAY}


def duckdb_type(kind: Any) -> str:
    """What DuckDB calls the type of a receipt's field."""
    if get_origin(kind) is dict:
        return f"MAP({', '.join(map(duckdb_type, get_args(kind)))})"
    if get_origin(kind) is types.UnionType:
        return duckdb_type(get_args(kind)[0])
    return {str: "VARCHAR", int: "BIGINT", float: "DOUBLE"}[kind]


def test_the_view_of_receipts_has_all_their_fields(volume_root, tmp_path):
    own = tmp_path / "own.sql"
    own.write_text("-- Which?\nSELECT * FROM receipts")
    found = run(own, volume_root)
    expected = {name: duckdb_type(kind) for name, kind in get_type_hints(Receipt).items()}
    expected["date"] = "DATE"
    assert dict(zip(found.columns, map(str, found.types), strict=True)) == expected


def test_a_repeated_upload_has_the_answer_of_the_first(volume_root):
    volume = Volume(volume_root)
    members = [clip(0), clip(1, duplicate_of=0), clip(2, duplicate_of=0), clip(3)]
    write_table(volume.manifest(str(DAY), "a.tar"), MANIFEST, members, {})
    write_volume_classes = [judgement(0, 0.9), judgement(3, 0.1)]
    write_table(volume.classes("2026-11-01", str(DAY), "a.tar"), CLASSES, write_volume_classes, {})
    by_language = {row["language"]: row for row in rows("prevalence", volume_root)}
    assert by_language["all languages"]["prevalence"] == 0.75
    assert by_language["all languages"]["clips"] == 4


def test_scores_meet_the_transcripts_they_were_made_from(volume_root):
    volume = Volume(volume_root)
    heard = [transcript(ordinal, "fr") for ordinal in range(4)]
    write_table(volume.transcripts("v3", str(DAY), "a.tar"), TRANSCRIPTS, heard, {})
    assert {row["asr"] for row in rows("prevalence", volume_root)} == {"v2"}
    assert {row["asr"] for row in rows("flag_rate", volume_root)} == {"v2"}


def test_some_days_can_be_asked_about(volume_root):
    day = datetime.timedelta(days=1)
    assert run("flag_rate", volume_root, since=DAY, until=DAY).fetchall()
    assert not run("flag_rate", volume_root, since=DAY + day).fetchall()
    assert not run("slowest_archives", volume_root, until=DAY - day).fetchall()


def test_the_page_shows_a_sample_of_each_answer_with_the_columns_it_has(volume_root):
    page = (SQL / "analysis" / "README.md").read_text(encoding="utf-8")
    for name, question in queries().items():
        _, _, sample = page.partition(f"### `{name}`\n\n{question}\n")
        header, _, ruler = sample.partition("```\n")[2].splitlines()[:3]
        assert set(ruler if ruler else header)
        assert header.split() == run(name, volume_root).columns


def test_times_are_utc_wherever_the_reader_is(volume_root, tmp_path, monkeypatch):
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    own = tmp_path / "own.sql"
    own.write_text("-- When?\nSELECT DISTINCT encoded_at, encoded_at::DATE AS day FROM manifests;")
    assert rows(own, volume_root) == [
        {"encoded_at": datetime.datetime(2026, 11, 2, 23, 30), "day": DAY}
    ]


def test_a_volume_that_is_only_begun_gives_empty_answers(volume_root):
    for folder in ("transcripts", "classes", "processed"):
        (volume_root / folder).rename(volume_root / f"no-{folder}")
    assert rows("flag_rate", volume_root) == rows("slowest_archives", volume_root) == []
    assert [row["stage"] for row in rows("failures", volume_root)] == ["encode"]


def test_an_empty_volume_is_reported(tmp_path):
    with pytest.raises(EarmarkError, match=r"holds no results.*run the workflow"):
        run("flag_rate", tmp_path)


def test_any_name_of_a_volume_will_do(tmp_path):
    root = tmp_path / "it's [x] *? date=1 {a,b}"
    write_volume(root)
    assert len(rows("flag_rate", root)) == 2


def test_a_query_that_is_not_there_or_is_wrong_is_reported(volume_root, tmp_path):
    with pytest.raises(EarmarkError, match="no query flagrate; known are agreement, confidence"):
        run("flagrate", volume_root)
    wrong = tmp_path / "wrong.sql"
    wrong.write_text("SELECT nothing FROM manifests")
    with pytest.raises(EarmarkError, match=r"wrong\.sql: .*nothing"):
        run(wrong, volume_root)
    wrong.write_text("SELECT CAST(member AS INTEGER) FROM manifests")
    with pytest.raises(EarmarkError, match=r"wrong\.sql: .*Could not convert"):
        run(wrong, volume_root)
    wrong.write_text("-- nothing here")
    with pytest.raises(EarmarkError, match="no answer"):
        run(wrong, volume_root)


def test_a_damaged_file_is_named(volume_root):
    manifest = Volume(volume_root).manifest(str(DAY), "b.tar")
    manifest.write_bytes(b"PAR1 no parquet")
    with pytest.raises(EarmarkError, match=r"b\.tar\.parquet.*`earmark doctor` finds"):
        run("failures", volume_root)
    whole = Volume(volume_root).manifest(str(DAY), "a.tar").read_bytes()
    manifest.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(EarmarkError, match=r"(?s)b\.tar\.parquet.*`earmark doctor` finds"):
        run("failures", volume_root)


def test_a_file_with_damaged_rows_is_named_with_what_makes_it_anew(volume_root):
    manifest = Volume(volume_root).manifest(str(DAY), "b.tar")
    whole = Volume(volume_root).manifest(str(DAY), "a.tar").read_bytes()
    manifest.write_bytes(whole[:4] + b"\xff" * 200 + whole[204:])
    with pytest.raises(EarmarkError, match=r"(?s)b\.tar\.parquet can't be read.*`earmark redo`"):
        run("failures", volume_root)


def test_what_a_killed_question_laid_down_goes_with_the_next_one(volume_root):
    volume = Volume(volume_root)
    with spill.room(volume) as ours:
        killed = volume.spilled / "killed"
        killed.mkdir()
        (killed / ".lock").touch()
        (killed / "duckdb_temp_storage-0.tmp").write_text("a secret")
        run("failures", volume_root)
        assert list(volume.spilled.glob("[!.]*")) == [Path(ours)]
    assert list(volume.spilled.glob("[!.]*")) == []


def test_plain_duckdb_can_use_the_same_views(volume_root):
    connection = duckdb.connect()
    connection.execute("SET VARIABLE volume = ?", [str(volume_root)])
    connection.execute((SQL / "analysis" / "views.sql").read_text(encoding="utf-8"))
    query = (SQL / "analysis" / "flag_rate.sql").read_text(encoding="utf-8")
    assert len(connection.execute(query).fetchall()) == 2


def test_a_clip_in_two_languages_counts_in_both(volume_root):
    shares = [{"language": "en", "share": 0.75}, {"language": "fr", "share": 0.25}]
    heard = [transcript(0, languages=shares), transcript(1), transcript(2, None), transcript(3)]
    path = Volume(volume_root).transcripts("v2", str(DAY), "a.tar")
    write_table(path, TRANSCRIPTS, heard, {})
    clips = {row["language"]: row["clips"] for row in rows("flag_rate", volume_root)}
    assert clips == {"en": 2, "fr": 1, "no speech": 1}
    clips = {row["language"]: row["clips"] for row in rows("prevalence", volume_root)}
    assert clips == {"all languages": 3, "en": 2, "fr": 1, "no speech": 1}
    hours = {row["language"]: row["speech_hours"] for row in rows("confidence", volume_root)}
    assert hours == {"en": 0.028, "fr": 0.003, "no speech": 0.01}


def test_doubtful_text_is_counted_by_language_and_reason(volume_root):
    doubts = ["repeated text", "repeated text, unlikely words", None, None]
    heard = [
        transcript(ordinal, text="words", doubt=doubt, compression_ratio=ordinal + 1.5)
        for ordinal, doubt in enumerate(doubts)
    ]
    path = Volume(volume_root).transcripts("v2", str(DAY), "a.tar")
    write_table(path, TRANSCRIPTS, [*heard, transcript(4, doubt=None)], {})
    found = rows("doubt", volume_root)
    keys = ("language", "reason", "clips", "doubtful", "share", "example")
    assert [tuple(row[key] for key in keys) for row in found] == [
        ("en", "repeated text", 4, 2, 0.5, "a.tar #1"),
        ("en", "unlikely words", 4, 1, 0.25, "a.tar #1"),
    ]


def test_a_volume_of_an_earlier_version_is_asked_the_same(volume_root):
    former = pa.schema(field for field in TRANSCRIPTS if field.name not in ("languages", "doubt"))
    path = Volume(volume_root).transcripts("v2", str(DAY), "a.tar")
    write_table(path, former, [transcript(ordinal) for ordinal in range(4)], {})
    for name in queries():
        rows(name, volume_root)
    assert {row["language"] for row in rows("flag_rate", volume_root)} == {"en"}
    assert rows("doubt", volume_root) == []


def test_a_query_with_a_memory_limit_keeps_the_rest_on_the_volume(volume_root, tmp_path):
    """Sorting this takes about 200 MB."""
    path = tmp_path / "sort.sql"
    killed = volume_root / "state" / "analysis" / "of-a-killed-process"
    killed.mkdir(parents=True)
    (killed / "duckdb_temp_storage.tmp").write_bytes(b"x")
    path.write_text(
        "SELECT SUM(n), current_setting('temp_directory') FROM (SELECT ROW_NUMBER() OVER "
        "(ORDER BY HASH(range)) AS n, HASH(range) FROM range(4_000_000))"
    )
    ((total, folder),) = run(path, volume_root, memory_limit="64MB").fetchall()
    assert total == 4_000_000 * 4_000_001 // 2
    assert folder.startswith(str(volume_root / "state"))
    assert not killed.exists()
    assert [path.name for path in killed.parent.iterdir()] == [".lock"]
