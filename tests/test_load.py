"""Loading an archive into PostgreSQL: whole, once, and with every text as it was."""

import contextlib
import hashlib
import json
import math
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from loaded_archive import (
    HEARD,
    JUDGED,
    MEMBERS,
    Archive,
    judgement,
    member,
    query,
    transcript,
)
from psycopg2.extensions import make_dsn, parse_dsn
from small_volume import fill, small_volume

from earmark import REPOSITORY, __version__
from earmark.errors import EarmarkError, UnavailableError
from earmark.ingest.formats import NOT_TAKEN
from earmark.ingest.selection import uniform
from earmark.record import embedded_server
from earmark.record.database import connect, migrate
from earmark.record.load import load_archive
from earmark.record.review_queue import Health, controls, health, review_queue


@pytest.fixture
def archive(tmp_path: Path, migrated_database: str) -> Archive:
    return Archive(tmp_path, migrated_database)


def statuses(conninfo: str) -> dict[int, str]:
    return dict(query(conninfo, "SELECT ordinal, status FROM audio_files ORDER BY 1"))


def everything(conninfo: str) -> list[tuple[Any, ...]]:
    """Every row with the transaction that wrote it."""
    return [
        row
        for table in ("archives", "audio_files", "transcripts", "classifications")
        for row in query(conninfo, f"SELECT xmin::text, ctid::text, t.* FROM {table} t ORDER BY id")
    ]


# --- what is stored ---------------------------------------------------------------------


def test_each_member_gets_the_status_that_its_files_give_it(archive):
    archive.load()
    assert statuses(archive.conninfo) == {
        0: "flagged",
        1: "transcribed",
        2: "pending",
        3: "failed",
        5: "flagged",
        6: "failed",
        7: "failed",
        8: "flagged",
    }
    assert query(
        archive.conninfo,
        "SELECT error, processed_at IS NULL, opus_path, duplicate_of, file_size_bytes "
        "FROM audio_files WHERE ordinal IN (2, 3, 7) ORDER BY ordinal",
    ) == [
        (None, True, "audio/date=2026-11-02/a.tar/000002.opus", None, 5_000_000_000),
        ("not audio", False, None, None, None),
        ("out of memory", False, None, 6, None),
    ]


def test_values_arrive_unchanged(archive):
    archive.load()
    assert query(
        archive.conninfo,
        "SELECT transcript_text, language, languages, confidence, doubt, segments "
        "FROM transcripts t JOIN audio_files a ON a.id = audio_file_id WHERE ordinal = 0",
    ) == [
        (
            *("transcript 0", "en", HEARD[0]["languages"], 0.7 + 1e-17, "unlikely words"),
            HEARD[0]["segments"],
        )
    ]
    assert query(
        archive.conninfo,
        "SELECT name, date::text, status, reason, bytes, asr, policy FROM archives",
    ) == [("a.tar", "2026-11-02", "partial", "cut short", 123, "large-v2", "2026-11")]
    assert query(
        archive.conninfo,
        "SELECT members, ok, failed, skipped, duplicates, "
        "unpack_seconds, encode_seconds, transcribe_seconds, classify_seconds FROM archives",
    ) == [(9, 7, 1, 1, 2, 1.5, 2.5, 3.5, 4.5)]


def test_languages_and_doubts_stand_in_the_queue(archive):
    archive.load()
    told = {
        (*(item.languages or ()), item.doubt, item.no_speech_probability)
        for item in review_queue(archive.conninfo, 100)
    }
    assert told == {("en", "fr", "unlikely words", 0.01)}


def test_how_loud_a_clip_is_arrives_and_an_older_manifest_says_nothing_of_it(archive):
    levels = ["source_rms_dbfs", "source_peak_dbfs", "opus_rms_dbfs", "opus_peak_dbfs"]
    sql = f"SELECT {', '.join(levels)} FROM audio_files WHERE ordinal = 0"
    archive.load()
    assert query(archive.conninfo, sql) == [(-23.5, 0.25, -26.5, -150.0)]
    files = archive.arguments()
    pq.write_table(pq.read_table(files["manifest"]).drop_columns(levels), files["manifest"])
    load_archive(**files)
    assert query(archive.conninfo, sql) == [(None, None, None, None)]


def test_an_answer_that_could_not_be_read_is_told_apart_from_not_flagged(archive):
    archive.judged = [
        judgement(0, "threats", 0.2),
        judgement(1, "threats", None, status="failed", error="no memory"),
        judgement(8, "threats", math.nan),
    ]
    receipt = archive.load()
    assert query(
        archive.conninfo,
        "SELECT flagged, flag_score, status, error FROM classifications ORDER BY id",
    ) == [
        (False, 0.2, "ok", None),
        (False, None, "failed", "no memory"),
        (False, None, "failed", "the score nan is not between 0 and 1"),
    ]
    assert receipt.undecided == health(archive.conninfo).undecided_count == 2


def test_an_archive_that_held_nothing_is_still_recorded(archive):
    archive.members, archive.heard, archive.judged = [], [], []
    archive.facts = {"archive_status": "failed", "archive_error": "not a tar"}
    receipt = archive.load()
    assert (receipt.status, receipt.reason, receipt.rows["audio_files"]) == (
        "failed",
        "not a tar",
        0,
    )
    assert query(archive.conninfo, "SELECT status, reason FROM archives") == [
        ("failed", "not a tar")
    ]


HOSTILE = [
    "\\.",
    "\\N",
    'a\tb\nc\r\n\\.\n"quoted", \\x41 \\',
    "'); DROP TABLE audio_files; --",
    "\u202eright to left\u202c \u200f",
    "NUL \0 and \x01\x1f\x7f\x85\u2028",
    "%s %(name)s {} $1 :name",
    ',"',
    'a,"b",""c"",\n"',
    '"\n\\.\n"',
    "",
    " ",
    "\ufffe \uffff \U0010ffff \u200f\u2067mixed\u2069",
    "\U0001f600 e\u0301 \ufeff",
    "x" * 1_000_000,
]


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@example(HOSTILE)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=9))
def test_every_text_is_stored_as_it_is(archive, texts):
    archive.members = [member(i, member=text) for i, text in enumerate(texts)]
    archive.heard = [
        transcript(
            i, text=text, segments=[{"start": 0, "end": 1, "text": text, "avg_logprob": None}]
        )
        for i, text in enumerate(texts)
    ]
    archive.judged = [judgement(i, "c", 0.5, raw_response=text) for i, text in enumerate(texts)]
    archive.load()
    expected = [text.replace("\0", "\ufffd") for text in texts]
    assert query(
        archive.conninfo,
        "SELECT original_filename, transcript_text, segments->0->>'text', raw_response "
        "FROM audio_files a JOIN transcripts t ON t.audio_file_id = a.id "
        "JOIN classifications c ON c.audio_file_id = a.id ORDER BY ordinal",
    ) == [(text,) * 4 for text in expected]


def test_a_text_says_how_many_nul_characters_it_lost(archive):
    archive.heard = [
        transcript(0, text="a\0b\0\0"),
        transcript(1, text=""),
        transcript(8, text="\ufffd"),
    ]
    archive.load()
    assert query(
        archive.conninfo,
        "SELECT transcript_text, nul_count FROM transcripts ORDER BY audio_file_id",
    ) == [("a\ufffdb\ufffd\ufffd", 3), ("", 0), ("\ufffd", 0)]


@given(st.lists(st.text(st.characters()), min_size=1, max_size=9))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(["\ud800", "a\udfff\ud800b", "\U0001f600"])
def test_half_a_surrogate_pair_is_written_out(archive, texts):
    archive.members = [member(i) for i in range(len(texts))]
    archive.heard = [
        transcript(
            i, text=text, segments=[{"start": 0, "end": 1, "text": text, "avg_logprob": None}]
        )
        for i, text in enumerate(texts)
    ]
    archive.judged = []
    archive.load()
    expected = [
        text.replace("\0", "\ufffd").encode("utf-8", "backslashreplace").decode() for text in texts
    ]
    assert query(
        archive.conninfo,
        "SELECT transcript_text, segments->0->>'text' FROM transcripts ORDER BY audio_file_id",
    ) == [(text, text) for text in expected]


# --- once -------------------------------------------------------------------------------


def test_loading_twice_touches_no_row(archive):
    first = archive.load()
    before = everything(archive.conninfo)
    second = archive.load()
    assert everything(archive.conninfo) == before
    assert first.loaded_at == second.loaded_at


def test_loading_many_clips_again_takes_no_longer(archive):
    archive.members = [member(i) for i in range(3000)]
    archive.heard = [transcript(i) for i in range(3000)]
    archive.judged = [judgement(i, c, 0.5) for i in range(3000) for c in ("a", "b", "c")]
    first, second = archive.load(), archive.load()
    assert second.seconds["load"] < 3 * first.seconds["load"]


def test_only_what_changed_is_written_again(archive):
    archive.load()
    before = {row[2:4] for row in everything(archive.conninfo)}
    transactions = {row[0] for row in everything(archive.conninfo)}
    archive.heard = [*HEARD[:-1], transcript(8, text="heard better")]
    archive.load()
    after = everything(archive.conninfo)
    assert {row[2:4] for row in after} == before
    changed = [row for row in after if row[0] not in transactions]
    assert len(changed) == 1
    assert "heard better" in changed[0]


def test_rows_that_a_later_load_lacks_go(archive):
    archive.load()
    archive.members = [member(0), member(1, source_sha256="f" * 64), member(2)]
    archive.heard = [transcript(0)]
    archive.judged = [judgement(0, "threats", 0.1)]
    old = dict(query(archive.conninfo, "SELECT ordinal, id FROM audio_files"))
    archive.load()
    new = dict(query(archive.conninfo, "SELECT ordinal, id FROM audio_files"))
    assert statuses(archive.conninfo) == {0: "transcribed", 1: "pending", 2: "pending"}
    assert new[0] == old[0]
    assert new[1] != old[1]  # other content in the same place is another clip
    assert query(archive.conninfo, "SELECT count(*) FROM transcripts") == [(1,)]
    assert query(archive.conninfo, "SELECT flag_category FROM classifications") == [("threats",)]


def test_a_review_is_never_undone(archive):
    archive.load()
    query(archive.conninfo, "UPDATE audio_files SET status = 'reviewed' WHERE ordinal IN (0, 8)")
    archive.load()
    assert [ordinal for ordinal, s in statuses(archive.conninfo).items() if s == "reviewed"] == [
        0,
        5,  # the duplicate of 0
        8,
    ]
    before = everything(archive.conninfo)
    archive.load()
    assert everything(archive.conninfo) == before
    archive.members = [member(0), member(8, source_sha256="f" * 64)]
    archive.heard, archive.judged = [], []
    archive.load()
    assert query(
        archive.conninfo,
        "SELECT ordinal, status, original_filename FROM audio_files ORDER BY ordinal, id",
    ) == [
        (0, "reviewed", "clips/0.mp3"),
        (8, "pending", "clips/8.mp3"),
        (None, "reviewed", "clips/5.mp3"),
        (None, "reviewed", "clips/8.mp3"),
    ]


def test_no_load_loses_what_was_decided_about_a_clip_that_is_gone(archive):
    archive.load()
    query(
        archive.conninfo,
        "INSERT INTO reviewers (name, role, password_hash) VALUES ('ada', 'reviewer', '')",
    )
    for verdict in ("reportable", "undone"):  # the clip waits again
        query(
            archive.conninfo,
            "INSERT INTO review_decisions "
            "(audio_file_id, reviewer_id, round, chosen_by, verdict, claimed_at) "
            "SELECT id, 1, 'first', 'score', %s, now() FROM audio_files WHERE ordinal = 8",
            verdict,
        )
    archive.members, archive.heard, archive.judged = archive.members[:2], archive.heard[:2], []
    archive.load()
    assert query(
        archive.conninfo,
        "SELECT d.verdict, af.ordinal, af.status, af.original_filename "
        "FROM review_decisions d JOIN audio_files af ON af.id = d.audio_file_id ORDER BY d.id",
    ) == [
        ("reportable", None, "failed", "clips/8.mp3"),
        ("undone", None, "failed", "clips/8.mp3"),
    ]
    assert review_queue(archive.conninfo, 10) == []


def test_a_review_that_is_under_way_during_a_load_is_not_undone(archive):
    archive.load()
    with ThreadPoolExecutor(1) as pool:
        with connect(archive.conninfo) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT mark_reviewed(id) FROM audio_files WHERE ordinal = 0")
            load = pool.submit(archive.load)
            until(lambda: query(archive.conninfo, "SELECT 1 FROM pg_locks WHERE NOT granted"))
        load.result()
    assert [ordinal for ordinal, s in statuses(archive.conninfo).items() if s == "reviewed"] == [
        0,
        5,  # the duplicate of 0
    ]


def test_another_policy_set_stands_beside_the_first_and_decides(archive):
    archive.load()
    archive.judged = [judgement(0, "threats", 0.1), judgement(1, "threats", 0.8)]
    archive.load(policy="2026-12")
    assert query(
        archive.conninfo, "SELECT policy, count(*) FROM classifications GROUP BY 1 ORDER BY 1"
    ) == [("2026-11", 6), ("2026-12", 2)]
    assert [item.original_filename for item in review_queue(archive.conninfo, 10)] == [
        "clips/1.mp3"
    ]
    archive.judged = JUDGED
    archive.load()
    assert statuses(archive.conninfo)[0] == "flagged"
    assert [item.flag_score for item in review_queue(archive.conninfo, 10)] == [0.9, 0.6]


# --- the queue and the day's health -----------------------------------------------------


def test_the_queue_shows_a_clip_once_by_its_highest_score(archive):
    archive.load()
    items = review_queue(archive.conninfo, 10)
    assert [(i.original_filename, i.flag_score, i.flag_category) for i in items] == [
        ("clips/0.mp3", 0.9, "harassment"),
        ("clips/8.mp3", 0.6, "threats"),
    ]
    assert items[0].flag_categories == ["harassment", "threats"]
    assert (items[0].archive, items[0].duration_seconds, items[0].language) == (
        "a.tar",
        60.5,
        "en",
    )
    assert len(review_queue(archive.conninfo, 1)) == 1
    assert [i.flag_score for i in review_queue(archive.conninfo, 9, "threats")] == [0.9, 0.6]
    assert [i.flag_score for i in review_queue(archive.conninfo, 9, "harassment")] == [0.9]
    query(archive.conninfo, "UPDATE audio_files SET status = 'reviewed' WHERE ordinal = 0")
    assert len(review_queue(archive.conninfo, 10)) == 1
    query(archive.conninfo, "UPDATE audio_files SET created_at = now() - interval '25 hours'")
    assert review_queue(archive.conninfo, 10) == []


def test_health_counts_each_clip_once(archive):
    assert health(archive.conninfo) == Health(0, 0, 0, 0, 0, 0, 0)
    archive.members = [*MEMBERS, member(9, status="skipped", error=f"{NOT_TAKEN}: audio/x-aiff")]
    archive.members += [member(n, status="skipped", error="not a file: pipe") for n in (10, 11)]
    archive.load()
    archive.load(policy="2026-12")
    assert health(archive.conninfo) == Health(
        flagged_count=2, total_processed=3, undecided_count=1, pending_count=1, failed_count=3,
        not_taken_count=1, not_audio_count=3,
    )  # fmt: skip


def test_what_the_screen_keeps_from_a_policy_is_neither_an_answer_nor_undecided(archive):
    kept = {"status": "unasked", "screen_score": 0.02, "asked_probability": 0.05}
    drawn = {"screen_score": 0.03, "asked_probability": 0.05}
    archive.judged = [
        judgement(0, "threats", 0.7, screen_score=0.9, asked_probability=1.0),
        judgement(1, "threats", None, **kept),
        judgement(8, "threats", 0.6, **drawn),
    ]
    receipt = archive.load()
    assert (receipt.judged, receipt.flagged) == ({"threats": 2}, {"threats": 2})
    assert (receipt.undecided, receipt.unasked) == (0, 1)
    assert health(archive.conninfo).undecided_count == 0
    assert query(
        archive.conninfo,
        "SELECT ordinal, af.status, c.status, flagged, flag_score, screen_score, asked_probability "
        "FROM classifications c JOIN audio_files af ON af.id = audio_file_id ORDER BY 1",
    ) == [
        (0, "flagged", "ok", True, 0.7, 0.9, 1.0),
        (1, "transcribed", "unasked", False, None, 0.02, 0.05),
        (8, "flagged", "ok", True, 0.6, 0.03, 0.05),
    ]
    # Asked after all, under the same name: the row says so.
    archive.judged[1] = judgement(1, "threats", 0.1, screen_score=0.02, asked_probability=0.5)
    assert archive.load().unasked == 0
    assert query(archive.conninfo, "SELECT DISTINCT status FROM classifications") == [("ok",)]


def test_members_that_are_no_clips_are_counted_by_reason(archive):
    kinds = {f"{NOT_TAKEN}: audio/x-aiff": 2, "not a file: named pipe": 1, "not audio: x/y": 3}
    reasons = [reason for reason, count in kinds.items() for _ in range(count)]
    archive.members = [member(n, status="skipped", error=why) for n, why in enumerate(reasons)]
    archive.heard, archive.judged = [], []
    for _ in range(2):  # the second load changes nothing
        assert archive.load().skipped == kinds
    ((skipped, by_reason),) = query(
        archive.conninfo, "SELECT skipped, skipped_reasons FROM archives"
    )
    assert (skipped, by_reason) == (6, kinds)


def test_a_clip_that_another_archive_holds_too_waits_once_and_is_reported_for_both(
    archive: Archive, tmp_path: Path
) -> None:
    archive.load()
    other = Archive(tmp_path, archive.conninfo, "b.tar")
    heard_there = "audio/date=2026-11-02/a.tar/000000.opus"
    other.heard = [HEARD[0] | {"copied_from": heard_there}, *HEARD[1:]]
    other.load()
    waiting = [item.opus_path for item in review_queue(archive.conninfo, 10)]
    assert waiting == [heard_there] + [
        f"audio/date=2026-11-02/{name}/000008.opus" for name in ("a.tar", "b.tar")
    ]
    found = query(
        archive.conninfo,
        "SELECT af.ordinal, af.status, original.opus_path, t.transcript_text FROM audio_files af "
        "JOIN audio_files original ON original.opus_path = af.copied_from "
        "LEFT JOIN transcripts t ON t.audio_file_id = af.id "
        "WHERE af.archive_source = 'b.tar' ORDER BY 1",
    )
    assert found == [  # the second upload of the content is told from the first one too
        (0, "flagged", heard_there, "transcript 0"),
        (5, "flagged", heard_there, None),
    ]


def copies(folder: Path, archive: Archive, name: str, scores: dict[int, float]) -> Archive:
    """Another archive whose clips 0 and 1 were heard in the first one."""
    folder.mkdir(exist_ok=True)
    other = Archive(folder, archive.conninfo, name)
    other.members = MEMBERS[:2]
    other.heard = [
        row | {"copied_from": f"audio/date=2026-11-02/a.tar/{row['ordinal']:06d}.opus"}
        for row in HEARD[:2]
    ]
    other.judged = [judgement(ordinal, "threats", score) for ordinal, score in scores.items()]
    return other


def waiting(conninfo: str) -> list[str]:
    return [str(item.opus_path).split("02/")[1] for item in review_queue(conninfo, 99)]


def test_a_content_that_only_a_new_policy_set_flags_waits_once_where_it_came_again(
    archive: Archive, tmp_path: Path
) -> None:
    archive.judged = [judgement(0, "threats", 0.9), judgement(1, "threats", 0.2)]
    archive.load()
    second, third = (
        copies(tmp_path / name, archive, name, {0: 0.8, 1: 0.7}) for name in ("b.tar", "c.tar")
    )
    for each in (second, third):
        each.load(policy="2026-12")
    assert waiting(archive.conninfo) == ["a.tar/000000.opus", "b.tar/000001.opus"]
    # A review of it is one of all, and loading again brings nothing back.
    query(
        archive.conninfo,
        "SELECT mark_reviewed(id) FROM audio_files WHERE opus_path LIKE '%/b.tar/000001.opus'",
    )
    before = everything(archive.conninfo)
    for each in (second, third):
        each.load(policy="2026-12")
    assert everything(archive.conninfo) == before
    assert waiting(archive.conninfo) == ["a.tar/000000.opus"]
    assert query(
        archive.conninfo,
        "SELECT archive_source, copied_from FROM audio_files WHERE ordinal = 1 ORDER BY 1",
    ) == [
        ("a.tar", None),
        ("b.tar", None),
        ("c.tar", "audio/date=2026-11-02/b.tar/000001.opus"),
    ]


def test_a_content_that_only_a_larger_fraction_draws_as_a_control_waits_where_it_came_again(
    archive: Archive, tmp_path: Path
) -> None:
    archive.judged = [judgement(0, "threats", 0.1), judgement(1, "threats", 0.2)]
    archive.load()
    other = copies(tmp_path / "b.tar", archive, "b.tar", {0: 0.1, 1: 0.2})
    other.load(control_fraction=1.0)
    found = {item.opus_path for item in controls(archive.conninfo, 9)}
    assert found == {f"audio/date=2026-11-02/b.tar/00000{n}.opus" for n in (0, 1)}
    archive.load(control_fraction=1.0)
    other.load(control_fraction=1.0)
    found = {item.opus_path for item in controls(archive.conninfo, 9)}
    assert found == {f"audio/date=2026-11-02/a.tar/00000{n}.opus" for n in (0, 1, 8)}


# --- where rows come from ---------------------------------------------------------------


def test_each_transcript_and_score_is_tied_to_what_made_it(archive):
    archive.facts["archive_error"] = "cut \0 short"
    policy = "# Threats: \u2603"
    load_archive(**archive.arguments(), policy_texts=[policy])
    load_archive(**archive.arguments(policy="2026-12"), policy_texts=[policy, "# Other"])
    told = query(
        archive.conninfo,
        "SELECT c.policy, p.facts ->> 'model', p.facts ->> 'version', count(*) "
        "FROM classifications c JOIN audio_files af ON af.id = c.audio_file_id "
        "JOIN provenance p ON p.archive_id = af.archive_id "
        "AND p.kind = 'classifications' AND p.name = c.policy GROUP BY 1, 2, 3 ORDER BY 1",
    )
    assert told == [(name, "cope", __version__, len(JUDGED)) for name in ("2026-11", "2026-12")]
    assert query(
        archive.conninfo,
        "SELECT kind, name, facts ->> 'model' FROM provenance WHERE kind <> 'classifications' "
        "ORDER BY 1",
    ) == [("manifest", "", None), ("transcripts", "large-v2", "whisper")]
    query(
        archive.conninfo,
        "UPDATE provenance SET facts = jsonb_set(facts, '{policy_sha256}', to_jsonb(%s::TEXT)) "
        "WHERE name = '2026-11'",
        json.dumps({"threats": hashlib.sha256(policy.encode()).hexdigest()}),
    )
    page = (REPOSITORY / "docs/database.md").read_text(encoding="utf-8")
    _, _, example = page.partition("    SELECT key AS category")
    sql = "SELECT key AS category" + example.partition("\n\n")[0]
    assert query(archive.conninfo, sql) == [("threats", policy)]
    texts = dict(query(archive.conninfo, "SELECT sha256, text FROM policies"))
    assert texts[hashlib.sha256(policy.encode()).hexdigest()] == policy


# --- controls ---------------------------------------------------------------------------


def unflagged(archive: Archive, count: int) -> Archive:
    """An archive of clips that nothing flags, but for the last one."""
    hashes = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(count)]
    archive.members = [member(n, source_sha256=sha) for n, sha in enumerate(hashes)]
    archive.heard = [transcript(n) for n in range(count)]
    archive.judged = [judgement(n, "threats", 0.1) for n in range(count - 1)]
    archive.judged.append(judgement(count - 1, "threats", 0.9))
    return archive


def drawn(conninfo: str) -> list[int]:
    return [n for (n,) in query(conninfo, "SELECT ordinal FROM audio_files WHERE control")]


def test_a_fraction_of_the_unflagged_clips_is_drawn_for_review(archive):
    unflagged(archive, 1001).load(control_fraction=0.1)
    control = controls(archive.conninfo, 1000)
    assert len(control) == pytest.approx(100, abs=38)  # 4 standard deviations
    assert {item.review_probability for item in control} == {0.1}
    assert control[0].transcript_text.startswith("transcript ")
    assert query(
        archive.conninfo,
        "SELECT review_probability, count(*) FROM audio_files GROUP BY 1 ORDER BY 1",
    ) == [(0.1, 1000), (1.0, 1)]
    assert len(review_queue(archive.conninfo, 1000)) == 1  # what is flagged waits apart
    ordinals = [int(item.original_filename.split("/")[1].split(".")[0]) for item in control]
    assert ordinals != sorted(ordinals)  # who hears the first ten hears a random ten


def test_the_same_controls_are_drawn_again_and_more_of_them_by_a_larger_fraction(archive):
    unflagged(archive, 300).load(control_fraction=0.2)
    first = drawn(archive.conninfo)
    archive.load(control_fraction=0.2)
    assert drawn(archive.conninfo) == first
    archive.load(control_fraction=0.5)
    assert set(first) < set(drawn(archive.conninfo))
    archive.load()
    assert drawn(archive.conninfo) == []


def test_no_clip_is_a_control_that_is_flagged_or_was_not_heard(archive):
    archive.load(control_fraction=1.0)
    assert query(
        archive.conninfo, "SELECT ordinal, control, review_probability FROM audio_files ORDER BY 1"
    ) == [
        (0, False, 1.0),
        (1, True, 1.0),
        (2, False, 0.0),  # not selected
        (3, False, 0.0),  # not decoded
        (5, False, 1.0),  # repeats 0
        (6, False, 0.0),  # not transcribed
        (7, False, 0.0),
        (8, False, 1.0),
    ]
    assert [item.original_filename for item in controls(archive.conninfo, 9)] == ["clips/1.mp3"]


def test_a_control_that_was_heard_waits_no_more_and_stays_reviewed(archive):
    archive.load(control_fraction=1.0)
    (item,) = controls(archive.conninfo, 9)
    assert query(archive.conninfo, "SELECT mark_reviewed(%s)", item.id) == [(True,)]
    assert controls(archive.conninfo, 9) == []
    assert query(archive.conninfo, "SELECT mark_reviewed(%s)", item.id) == [(False,)]
    archive.load(control_fraction=1.0)
    assert statuses(archive.conninfo)[1] == "reviewed"


def test_what_was_heard_keeps_the_probability_with_which_it_was_drawn(archive):
    """Weights of what a former policy set flagged would else be those of rare controls."""
    archive.load(control_fraction=0.9)
    query(archive.conninfo, "SELECT mark_reviewed(id) FROM audio_files WHERE ordinal IN (0, 1)")
    archive.judged = [judgement(n, "threats", 0.1) for n in (0, 1, 8)]
    archive.load(policy="2026-12", control_fraction=0.01)
    sql = "SELECT ordinal, status, control, review_probability FROM audio_files WHERE selected"
    assert query(archive.conninfo, sql + " AND ordinal IN (0, 1, 5, 8) ORDER BY 1") == [
        (0, "reviewed", False, 1.0),
        (1, "reviewed", True, 0.9),
        (5, "reviewed", False, 1.0),
        (8, "transcribed", False, 0.01),
    ]
    archive.judged = [judgement(1, "threats", 0.9)]
    archive.load(policy="2027-01", control_fraction=0.01)
    assert query(archive.conninfo, sql + " AND ordinal = 1") == [(1, "reviewed", False, 1.0)]


def test_a_control_is_drawn_by_another_number_than_the_clips_themselves(archive):
    """Else a tenth of the clips and a tenth of these as controls would be the same tenth."""
    unflagged(archive, 2000)
    archive.members = [
        row | {"selected": uniform(row["source_sha256"], "selection") < 0.5}
        for row in archive.members
    ]
    kept = {row["ordinal"] for row in archive.members if row["selected"]}
    archive.heard = [row for row in archive.heard if row["ordinal"] in kept]
    archive.judged = [row for row in archive.judged if row["ordinal"] in kept]
    archive.load(control_fraction=0.5)
    assert len(drawn(archive.conninfo)) == pytest.approx(len(kept) / 2, abs=64)


def test_what_was_heard_stands_for_all_uploads_by_the_query_of_the_page(archive, tmp_path):
    """Contents of three come again, in archives of which other fractions are drawn."""
    uploads, made = 0, 0
    first: dict[str, str] = {}
    for number, fraction in enumerate((0.4, 0.8, 0.6)):
        each = Archive(tmp_path / f"{number}", archive.conninfo, f"{number}.tar")
        numbers = [*range(made, made + 400), *(range(0, made, 2) if made else ())]
        made += 400
        uploads += len(numbers)
        hashes = [hashlib.sha256(str(n).encode()).hexdigest() for n in numbers]
        each.members = [
            member(
                ordinal,
                source_sha256=sha,
                selected=uniform(sha, "selection") < fraction,
                inclusion_probability=fraction,
                opus_path=f"audio/date=2026-11-02/{number}.tar/{ordinal:06d}.opus",
            )
            for ordinal, sha in enumerate(hashes)
        ]
        heard = [row for row in each.members if row["selected"]]
        each.heard = [
            # Half of the contents are heard in each archive, by the machine and by people.
            transcript(
                row["ordinal"],
                copied_from=None
                if row["source_sha256"] >= "8"
                else first.get(row["source_sha256"]),
            )
            for row in heard
        ]
        each.judged = [
            judgement(row["ordinal"], "threats", 0.9 if row["source_sha256"] < "2" else 0.1)
            for row in heard
        ]
        for row in heard:
            first.setdefault(row["source_sha256"], row["opus_path"])
        each.load(control_fraction=0.4)
    waiting = "(SELECT id FROM ra_queue UNION ALL SELECT id FROM ra_controls)"
    query(archive.conninfo, f"SELECT mark_reviewed(id) FROM {waiting} AS waiting")
    page = (REPOSITORY / "docs/sampling.md").read_text(encoding="utf-8")
    sql = page.partition("```sql\n")[2].partition("```")[0]
    stand_for = dict(query(archive.conninfo, sql))
    assert sum(stand_for.values()) == pytest.approx(uploads, rel=0.1)
    alone = "sum(1 / (inclusion_probability * review_probability))"
    ((without_others,),) = query(
        archive.conninfo, f"SELECT {alone} FROM audio_files WHERE status = 'reviewed'"
    )
    assert without_others < 0.9 * uploads


# --- the receipt ------------------------------------------------------------------------


def test_the_receipt_tells_what_was_loaded_and_what_made_it(archive):
    receipt = archive.load()
    path = archive.folder / "processed" / "a.tar.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    assert written["status"] == "partial"
    assert written["members"] == {"total": 9, "ok": 7, "failed": 1, "skipped": 1, "duplicates": 2}
    assert written["clips"] == {"flagged": 3, "transcribed": 1, "pending": 1, "failed": 3}
    assert written["flagged"] == {"threats": 2, "harassment": 1}
    assert written["judged"] == {"harassment": 1, "spam": 1, "threats": 3}
    assert written["undecided"] == 1
    assert written["rows"] == {"audio_files": 8, "transcripts": 4, "classifications": 6}
    assert written["seconds"]["transcribe"] == 3.5
    assert written["provenance"]["transcripts"]["model"] == "whisper"
    assert written["loaded_at"] == receipt.loaded_at


@pytest.mark.parametrize("what", ["other archive", "other manifest", "a clip twice", "no status"])
def test_files_that_do_not_belong_together_are_refused(archive, what):
    if what == "other archive":
        archive.heard = [transcript(0, archive="b.tar")]
    elif what == "other manifest":
        archive.judged = [judgement(99, "threats", 0.9)]
    elif what == "a clip twice":
        archive.heard = [transcript(0), transcript(0)]
    else:
        del archive.facts["archive_status"]
    with pytest.raises(EarmarkError, match="`earmark redo` makes it anew"):
        archive.load()
    assert query(archive.conninfo, "SELECT count(*) FROM archives") == [(0,)]
    assert not (archive.folder / "processed").exists()


def test_a_database_without_the_schema_is_reported(tmp_path, empty_database):
    with pytest.raises(EarmarkError, match="run `earmark migrate`"):
        Archive(tmp_path, empty_database).load()


# --- side by side, and cut off ----------------------------------------------------------


def test_loaders_of_the_same_archive_and_of_others_get_along(tmp_path, migrated_database):
    names = ["a.tar", "b.tar", "c.tar"]
    every = {name: Archive(tmp_path, migrated_database, name).arguments() for name in names}
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda name: load_archive(**every[name]), names * 4))
    assert query(
        migrated_database,
        "SELECT name, count(*) FROM archives a JOIN audio_files ON archive_id = a.id "
        "GROUP BY name ORDER BY name",
    ) == [(name, 8) for name in names]
    assert query(migrated_database, "SELECT count(*) FROM transcripts") == [(12,)]


LOAD = """
import json, sys
from pathlib import Path
from earmark.record.load import load_archive
arguments = json.loads(sys.argv[1])
for name in ("manifest", "transcripts", "classes", "receipt"):
    arguments[name] = Path(arguments[name])
load_archive(**arguments)
"""


def start_load(archive: Archive) -> subprocess.Popen[str]:
    arguments = json.dumps(archive.arguments(), default=str)
    return subprocess.Popen(
        [sys.executable, "-c", LOAD, arguments], stderr=subprocess.PIPE, text=True
    )


def held_in_the_middle(archive: Archive) -> tuple[subprocess.Popen[str], Any]:
    """A loader that has written clips and waits to write classifications, and what it waits for."""
    holding = connect(archive.conninfo)
    connection = holding.__enter__()
    connection.cursor().execute("LOCK TABLE classifications IN SHARE MODE")
    process = start_load(archive)
    deadline = time.monotonic() + 30
    while not query(
        archive.conninfo,
        "SELECT 1 FROM pg_locks WHERE relation = 'classifications'::regclass AND NOT granted",
    ):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    return process, holding


def test_a_killed_loader_leaves_nothing_and_the_next_completes(archive):
    process, holding = held_in_the_middle(archive)
    process.kill()
    process.wait()
    holding.__exit__(None, None, None)
    assert query(archive.conninfo, "SELECT count(*) FROM audio_files") == [(0,)]
    archive.load()
    assert len(statuses(archive.conninfo)) == 8


def test_a_killed_server_leaves_nothing_and_the_next_load_completes(tmp_path, volume):
    folder = volume / "state" / "postgres"
    archive = Archive(tmp_path, embedded_server.use(folder))
    migrate(archive.conninfo)
    process, holding = held_in_the_middle(archive)
    pid = int((folder / "data" / "postmaster.pid").read_text().split()[0])
    os.kill(pid, signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode != 0
    assert "UnavailableError" in errors
    assert not archive.arguments()["receipt"].exists()
    with pytest.raises(EarmarkError, match="broke off"):
        holding.__exit__(None, None, None)
    assert embedded_server.use(folder) == archive.conninfo
    assert query(archive.conninfo, "SELECT count(*) FROM audio_files") == [(0,)]
    archive.load()
    assert len(statuses(archive.conninfo)) == 8


def test_a_load_without_its_receipt_is_completed_by_repeating_it(archive):
    archive.load()
    receipt = archive.arguments()["receipt"]
    receipt.unlink()
    before = everything(archive.conninfo)
    archive.load()
    assert everything(archive.conninfo) == before
    assert receipt.exists()


# --- a large archive, and what can happen to it ------------------------------------------

CLIPS = 4000


def large(folder: Path, conninfo: str, name: str = "a.tar") -> Archive:
    """An archive of some megabytes, so that a load takes a while and fills a disk."""
    archive = Archive(folder, conninfo, name)
    texts = random.Random(name).randbytes(CLIPS * 600).hex()  # which no compression makes small
    archive.members = [member(i) for i in range(CLIPS)]
    archive.heard = [transcript(i, text=texts[i * 1200 : (i + 1) * 1200]) for i in range(CLIPS)]
    archive.judged = [
        judgement(i, category, (i % 10) / 10) for i in range(CLIPS) for category in ("a", "b", "c")
    ]
    return archive


def held(conninfo: str) -> dict[str, tuple[int, ...]]:
    """How many clips, transcripts, scores and clips in the queue each archive has."""
    rows = query(
        conninfo,
        "SELECT a.name, count(DISTINCT af.id), count(DISTINCT t.id), count(DISTINCT c.id), "
        "count(DISTINCT af.id) FILTER (WHERE af.queue_categories IS NOT NULL) "
        "FROM archives a LEFT JOIN audio_files af ON af.archive_id = a.id "
        "LEFT JOIN transcripts t ON t.audio_file_id = af.id "
        "LEFT JOIN classifications c ON c.audio_file_id = af.id GROUP BY a.name",
    )
    return {name: tuple(counts) for name, *counts in rows}


WHOLE = (CLIPS, CLIPS, 3 * CLIPS, CLIPS // 2)


@contextmanager
def line_to(server: str, folder: Path, cut_after: int) -> Iterator[str]:
    """Another way to a server, cut for good once so many bytes went through it.

    In a process of its own: libpq waits for the line here and there without letting another
    thread run.
    """
    parameters = parse_dsn(server)
    socket_name = f".s.PGSQL.{parameters['port']}"
    left = [cut_after]
    with socket.socket(socket.AF_UNIX) as entrance:
        entrance.bind(str(folder / socket_name))
        entrance.listen()

        def carry(source: socket.socket, sink: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while (data := source.recv(1 << 16)) and left[0] > 0:
                    left[0] -= len(data)
                    sink.sendall(data)
            for end in (source, sink):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = entrance.accept()
                    way = socket.socket(socket.AF_UNIX)
                    way.connect(f"{parameters['host']}/{socket_name}")
                    for ends in ((client, way), (way, client)):
                        threading.Thread(target=carry, args=ends, daemon=True).start()

        relay = multiprocessing.get_context("fork").Process(target=serve, daemon=True)
        relay.start()
        try:
            yield make_dsn(server, host=str(folder))
        finally:
            relay.kill()
            relay.join()


@pytest.mark.parametrize("cut_after", [30_000, 300_000, 2_000_000, 4_000_000, 7_000_000])
def test_an_archive_whose_line_is_cut_is_fully_out_and_then_fully_in(
    tmp_path, volume, migrated_database, cut_after
):
    archive = large(tmp_path, migrated_database)
    arguments = archive.arguments()
    with (
        line_to(migrated_database, volume, cut_after) as line,
        pytest.raises(UnavailableError, match=r"broke off|can't reach"),
    ):
        load_archive(**{**arguments, "conninfo": line, "patience_seconds": 0.0})
    assert held(migrated_database) == {}
    assert not arguments["receipt"].exists()
    load_archive(**arguments)
    assert held(migrated_database) == {"a.tar": WHOLE}


@pytest.mark.parametrize("seconds", [0.0, 0.1, 0.3])
def test_a_server_killed_at_any_moment_leaves_an_archive_fully_in_or_out(tmp_path, volume, seconds):
    folder = volume / "state/postgres"
    server = embedded_server.use(folder)
    migrate(server)
    archive = large(tmp_path, server)
    arguments = archive.arguments()
    postmaster = int((folder / "data/postmaster.pid").read_text().split()[0])
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(load_archive, **{**arguments, "patience_seconds": 0.0})
        until(
            lambda: (
                load.done()
                or query_or_none(
                    server,
                    "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'COPY%'",
                )
            )
        )
        time.sleep(seconds)
        os.kill(postmaster, signal.SIGKILL)
        failed = load.exception()
    assert failed is None or isinstance(failed, UnavailableError)
    assert embedded_server.use(folder) == server
    # Whether a COMMIT that got no answer was carried out, only the server knows.
    assert held(server) in ([{"a.tar": WHOLE}] if failed is None else [{}, {"a.tar": WHOLE}])
    assert arguments["receipt"].exists() == (failed is None)
    archive.load()
    assert held(server) == {"a.tar": WHOLE}


@pytest.mark.needs("root")
def test_a_server_whose_disk_is_full_takes_nothing_until_there_is_room(tmp_path, volume):
    with small_volume(volume / "disk", 400) as disk:
        folder = disk / "postgres"
        server = embedded_server.use(folder)
        migrate(server)
        large(tmp_path, server, "a.tar").load()
        ballast = fill(disk, leave_bytes=4 << 20)
        with pytest.raises(UnavailableError, match=r"is full .*make room|broke off"):
            large(tmp_path, server, "b.tar").load()
        with contextlib.suppress(EarmarkError):  # it may have stopped, for want of room for its log
            assert held(server) == {"a.tar": WHOLE}
        ballast.unlink()
        server = embedded_server.use(folder)
        assert held(server) == {"a.tar": WHOLE}
        large(tmp_path, server, "b.tar").load()
        assert held(server) == {"a.tar": WHOLE, "b.tar": WHOLE}
        embedded_server.stop(folder)


def test_loaders_that_change_the_same_archives_in_any_order_neither_block_nor_lose_a_row(
    tmp_path, migrated_database
):
    names = [f"{letter}.tar" for letter in "abcdef"]
    jobs = []
    for name in names:
        for policy in ("2026-11", "2026-12"):
            folder = tmp_path / policy
            folder.mkdir(exist_ok=True)
            archive = large(folder, migrated_database, name)
            archive.members, archive.heard = archive.members[:200], archive.heard[:200]
            archive.judged = archive.judged[:600]
            jobs.append(archive.arguments(policy=policy))
    for seed in range(3):
        order = jobs * 2
        random.Random(seed).shuffle(order)
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda arguments: load_archive(**arguments), order))
    assert held(migrated_database) == dict.fromkeys(names, (200, 200, 1200, 100))
    assert len(review_queue(migrated_database, 1000)) == 600


@pytest.mark.needs("libfaketime")
def test_a_clock_that_jumps_leaves_every_archive_whole_and_in_the_queue(tmp_path, volume):
    """The server's clock, by libfaketime: days ahead, days back, and in the middle of a load."""
    clock = volume / "clock"
    clock.write_text("+0")
    clock.chmod(0o644)
    folder = volume / "state/postgres"
    with clock_of_server(clock):
        server = embedded_server.use(folder)
        migrate(server)
        process, holding = held_in_the_middle(Archive(tmp_path, server, "middle.tar"))
        clock.write_text("+3d")
        holding.__exit__(None, None, None)
        _, errors = process.communicate()
        assert process.returncode == 0, errors
        ahead = Archive(tmp_path, server, "ahead.tar")
        ahead.load()
        (hours,) = query(
            server, "SELECT (max(created_at) - min(created_at)) > '2 days' FROM audio_files"
        )
        assert hours == (True,)
        clock.write_text("-2d")
        back = Archive(tmp_path, server, "back.tar")
        back.load()
        before = everything(server)
        for each in (ahead, back):
            each.load()
        assert everything(server) == before
        names = {"middle.tar", "ahead.tar", "back.tar"}
        assert {name: counts[:3] for name, counts in held(server).items()} == dict.fromkeys(
            names, (8, 4, 6)
        )
        # Seen from there, all of them are of today or of days to come.
        assert {item.archive for item in review_queue(server, 100)} == names
        clock.write_text("+0")
        assert {item.archive for item in review_queue(server, 100)} == names - {"back.tar"}
        embedded_server.stop(folder)


@contextmanager
def clock_of_server(file: Path) -> Iterator[None]:
    """Let servers that are started here read the time with what a file adds to it."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    environment = embedded_server._environment()
    faked = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded_server, "_environment", lambda: environment | faked)
        yield


def query_or_none(conninfo: str, sql: str) -> list[tuple[Any, ...]] | None:
    try:
        return query(conninfo, sql)
    except EarmarkError:
        return None


def until(happens: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.002)
