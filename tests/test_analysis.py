"""Questions to the volume's Parquet files and receipts, answered by DuckDB."""

import datetime
import json

import duckdb
import pytest

from earmark.analysis import queries, run
from earmark.database import SQL
from earmark.errors import EarmarkError
from earmark.tables import CLASSES, MANIFEST, TRANSCRIPTS, write_table
from earmark.volume import Volume

DAY = datetime.date(2026, 11, 2)


def clip(ordinal, **changes):
    return {
        "archive": "a.tar",
        "ordinal": ordinal,
        "member": f"{ordinal}.mp3",
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


def write_volume(root, policy="2026-11-01"):
    volume = Volume(root)
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
        transcript(3, "de"),
        transcript(6, status="failed", error="out of memory"),
    ]
    write_table(volume.transcripts("v2", str(DAY), "a.tar"), TRANSCRIPTS, heard, {})
    judged = [judgement(0, 0.1), judgement(1, 0.9), judgement(2, 0.2), judgement(3, None)]
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
    assert set(queries()) == {"confidence", "failures", "flag_rate", "slowest_archives"}
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
    with pytest.raises(EarmarkError, match="no query flagrate; known are confidence, failures"):
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
    with pytest.raises(EarmarkError, match=r"b\.tar\.parquet"):
        run("failures", volume_root)


def test_plain_duckdb_can_use_the_same_views(volume_root):
    connection = duckdb.connect()
    connection.execute("SET VARIABLE volume = ?", [str(volume_root)])
    connection.execute((SQL / "analysis" / "views.sql").read_text(encoding="utf-8"))
    query = (SQL / "analysis" / "flag_rate.sql").read_text(encoding="utf-8")
    assert len(connection.execute(query).fetchall()) == 2
