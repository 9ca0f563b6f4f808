"""The daily report: what it tells, what it warns of, and that strangers' texts stay texts."""

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from zoneinfo import ZoneInfo

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from place import Place

from earmark import REPOSITORY, cli, configuration, locks
from earmark.errors import EarmarkError
from earmark.evaluation.evaluate import name_of, policies_of
from earmark.evaluation.results import (
    Estimate,
    Evaluation,
    Figures,
    SpeechEvaluation,
    WordErrors,
    keep,
)
from earmark.ingest.formats import NOT_TAKEN
from earmark.names import asr_name
from earmark.record.database import connect
from earmark.record.queue_files import cell, read_queue, write_queue
from earmark.record.review_queue import QueueItem, review_queue
from earmark.settings import ReviewSettings
from earmark.speech.decoding import DECODING_FACTS
from earmark.tables import CLASSES, MANIFEST, TRANSCRIPTS, read_table, write_table
from earmark.watch.forecast import forecast
from earmark.watch.report import gather, render, tell, warning_of, write_report


@pytest.fixture
def place(tmp_path: Path, volume: Path) -> Place:
    return Place(tmp_path, volume)


@pytest.fixture
def conninfo(migrated_database: str) -> str:
    return migrated_database


@pytest.fixture
def busy(place: Place, conninfo: str) -> Place:
    """Three archives of today, one of five days ago, and one that waits."""
    place.use(conninfo)
    place.finish(conninfo, "a.tar", flagged=2, clean=8, broken=1)
    place.finish(conninfo, "b.tar", flagged=1, clean=9, status="partial", hours_ago=3)
    place.finish(conninfo, "c.tar", flagged=0, clean=20, hours_ago=5.5)
    place.finish(conninfo, "old.tar", flagged=6, clean=4, hours_ago=120, date="2026-10-28")
    place.put("waits.tar")
    place.poll()
    return place


def test_the_rule_writes_it_beside_a_driver_at_work(busy: Place) -> None:
    command = [
        *(str(Path(sys.executable).parent / "snakemake"), "daily_report"),
        *("--profile", str(REPOSITORY / "profiles/local"), "--configfile", str(busy.file)),
        *("--directory", str(busy.file.parent / "run")),
    ]
    with locks.exclusive(busy.volume.driver_lock, "driver"):
        for _ in range(2):  # also where there is one already
            ran = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
            assert ran.returncode == 0, ran.stderr
            assert len(list(busy.volume.root.glob("reports/*/index.html"))) == 1
    assert not list(busy.volume.root.glob("incoming/*"))


def test_the_rule_keeps_the_page_that_is_there_if_it_can_write_no_other(busy: Place) -> None:
    page = written(busy)
    told = page.read_text(encoding="utf-8")
    queue = page.with_name("queue.csv")
    queue.unlink()
    (queue / "in the way").mkdir(parents=True)
    ran = subprocess.run(
        [
            *(str(Path(sys.executable).parent / "snakemake"), "daily_report", "--retries", "0"),
            *("--profile", str(REPOSITORY / "profiles/local"), "--configfile", str(busy.file)),
            *("--directory", str(busy.file.parent / "run")),
        ],
        cwd=REPOSITORY, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode != 0
    assert page.read_text(encoding="utf-8") == told


class Text(HTMLParser):
    """What a person reads on a page, and what a browser would run or fetch."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.read = ""
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for key, value in attrs if key in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.read += data


def written(place: Place) -> Path:
    config = configuration.read(place.file)
    return write_report(config, gather(config))


def test_it_shows_how_good_policies_and_transcripts_are(busy: Place) -> None:
    assert "How good policies" not in page_of(busy).read
    config = configuration.read(busy.file)
    share = Estimate(0.75, 0.5, 0.875)
    figures = Figures(
        category="scams", language=None, texts=40, hits=9, false_alarms=3, misses=3, passed=25,
        unanswered=0, precision=share, recall=share, f1=share, auc=share, calibration_error=share,
    )  # fmt: skip
    made = {"version": "1", "made_at": "2026-11-20T10:00:00+00:00", "gold_sha256": "0" * 64}
    evaluation = Evaluation(
        policy="2026-11", policy_sha256={}, thresholds={}, classifier={}, gold="<b>\u202egold",
        texts=40, weighted=True, labelled_by={}, left_out=(), figures=(figures,), by_language=(),
        confusions=(), reliability={}, **made,
    )  # fmt: skip
    errors = WordErrors(language=None, clips=7, words=70, wer=share, cer=share)
    spoken = SpeechEvaluation(
        asr="large-v2-fp16", model="large-v2", gold="said.jsonl", errors=(errors,), **made
    )
    keep(busy.volume, name_of(config, policies_of(config)), evaluation)
    keep(busy.volume, asr_name(config, busy.volume, DECODING_FACTS), spoken)
    page = page_of(busy)
    assert "on 40 texts that people labelled, <b>\\u202egold, weighted" in page.read
    assert "0.750 (0.50 to 0.88)" in page.read
    assert "said.jsonl" in page.read
    assert "b" not in page.tags
    # Of other thresholds nobody knows.
    busy.configure(classify={"threshold": 0.6})
    assert "that people labelled" not in page_of(busy).read


def page_of(busy: Place) -> Text:
    page = written(busy)
    return Text(page.read_text(encoding="utf-8"))


def test_it_lies_under_the_day_of_the_review_with_the_queue_beside_it(busy: Place) -> None:
    page = written(busy)
    today = datetime.now(ZoneInfo("Europe/Zurich")).date().isoformat()
    assert page == busy.volume.root / "reports" / today / "index.html"
    assert {path.name for path in page.parent.iterdir()} == {
        *("index.html", "queue.csv", "queue.parquet")
    }


def test_rates_backlog_failures_and_disk_are_told(busy: Place) -> None:
    report = gather(configuration.read(busy.file))
    assert report.status.archives["pending"] == 1
    assert report.speed.clips == 40
    assert report.speed.by_hour[23] == 10
    assert sum(report.speed.by_hour) == 40
    (scams, threats) = report.flag_rates
    assert (scams.policy, scams.category) == ("2026-11", "scams")
    assert (scams.flagged, scams.judged) == (3, 40)
    assert (scams.flagged_before, scams.judged_before) == (6, 10)
    assert (scams.rate, scams.rate_before) == (3 / 40, 0.6)
    assert (threats.category, threats.flagged) == ("threats", 3)
    assert report.flagged_by_hour is not None
    assert sum(report.flagged_by_hour) == 3
    assert [(each.stage, each.count) for each in report.failures] == [
        ("archive", 1),
        ("encode", 1),
    ]
    assert report.disk.audio_bytes_a_day == 40 * 500


def test_what_the_screen_misses_is_told_by_category_and_language(
    place: Place, conninfo: str
) -> None:
    place.use(conninfo)
    today = datetime.now(UTC).date().isoformat()
    place.finish(conninfo, "a.tar", flagged=40, clean=160, date=today)
    report = gather(configuration.read(place.file))
    assert report.missed == ()
    assert "What the screen misses" not in render(report, None)
    # Of 40 clips that scams flags the screen lets 28 through; of the rest every fourth is drawn.
    path = place.volume.classes("2026-11", today, "a.tar")
    rows = read_table(path, CLASSES).to_pylist()
    for row in rows:
        is_out = row["ordinal"] >= 28
        row |= {"screen_score": 0.01 if is_out else 0.9}
        row |= {"asked_probability": 0.25 if is_out else 1.0}
        if is_out and row["ordinal"] % 4:
            row |= {"status": "unasked", "flagged": None, "score": None}
    write_table(path, CLASSES, rows, {})
    place.configure(classify={"screen": {"threshold": 0.1}})
    report = gather(configuration.read(place.file))
    assert report.missed is not None
    of_scams = [each for each in report.missed if each.category == "scams"]
    assert [each.language for each in of_scams] == ["all languages", "no speech"]
    every = of_scams[0]
    assert (every.answered, every.unasked) == (28 + 43, 129)
    assert every.share == pytest.approx(0.3, abs=0.02)
    assert every.low is not None
    assert every.high is not None
    assert 0.05 < every.low < 0.2 < 0.4 < every.high < 0.6
    page = Text(render(report, None)).read
    assert "What the screen misses" in page
    assert f"scamsall languages{every.share:.2%}{every.low:.2%} to {every.high:.2%}71129" in page
    # If none of the rest was audited, the screen may miss nothing or nearly all.
    for row in rows:
        if row["ordinal"] >= 28:
            row |= {"status": "unasked", "flagged": None, "score": None}
    write_table(path, CLASSES, rows, {})
    report = gather(configuration.read(place.file))
    assert report.missed is not None
    assert {each.share for each in report.missed} == {None}
    page = Text(render(report, None)).read
    assert f"scamsall languages–0.00% to {report.missed[0].high:.2%}28172" in page
    # Nor is there anything to tell of a language with nothing below the screen.
    for row in rows:
        row |= {"screen_score": 0.9, "asked_probability": 1.0, "status": "ok", "flagged": False}
    write_table(path, CLASSES, rows, {})
    report = gather(configuration.read(place.file))
    assert report.missed == ()
    path.write_bytes(b"damaged")
    report = gather(configuration.read(place.file))
    assert report.missed is None
    assert "It can't be told: a table could not be read" in Text(render(report, None)).read


def test_doubtful_transcripts_are_counted_by_reason(busy: Place) -> None:
    assert gather(configuration.read(busy.file)).doubts == ()
    assert "transcribed with doubt in the last 24 hours Nothing." in " ".join(
        page_of(busy).read.split()
    )
    path = busy.volume.transcripts("large-v2", "2026-11-02", "a.tar")
    heard = read_table(path, TRANSCRIPTS).to_pylist()
    for row, doubt in zip(heard, ("repeated text", "repeated text, unlikely words"), strict=False):
        row["doubt"] = doubt
    write_table(path, TRANSCRIPTS, heard, {})
    told = [
        (each.reason, each.count, each.archives)
        for each in gather(configuration.read(busy.file)).doubts
    ]
    assert told == [("repeated text", 2, 1), ("unlikely words", 1, 1)]
    assert "repeated text21" in page_of(busy).read


def test_audio_that_is_not_taken_is_told_apart_from_what_is_no_audio(busy: Place) -> None:
    for name, count in (("a.tar", 7), ("b.tar", 2)):
        receipt = busy.volume.receipt("2026-11-02", name)
        skipped = {f"{NOT_TAKEN}: audio/x-aiff": count, "not a file: symbolic link": 30}
        receipt.write_text(json.dumps(json.loads(receipt.read_text()) | {"skipped": skipped}))
    report = gather(configuration.read(busy.file))
    assert [(each.is_audio, each.count, each.archives) for each in report.left_out] == [
        (True, 9, 2),
        (False, 60, 2),
    ]
    read = page_of(busy).read  # cells have nothing between them
    assert f"audio not taken{NOT_TAKEN}: audio/x-aiff92" in read
    assert "no audionot a file: symbolic link602" in read


def test_duplicates_take_no_room_and_answers_that_failed_are_no_answers(
    place: Place, conninfo: str
) -> None:
    place.use(conninfo)
    receipt = place.finish(conninfo, "a.tar", flagged=2, clean=8)
    manifest = place.volume.manifest("2026-11-02", "a.tar")
    rows = read_table(manifest, MANIFEST).to_pylist()
    for row in rows[1:]:
        row |= {"duplicate_of": 0, "opus_path": None}
    write_table(manifest, MANIFEST, rows, {"archive_status": "ok"})
    told = json.loads(receipt.read_text())
    receipt.write_text(json.dumps(told | {"judged": {"scams": 10, "threats": 4}}))
    report = gather(configuration.read(place.file))
    assert report.disk.audio_bytes_a_day == 500
    assert [(each.flagged, each.judged) for each in report.flag_rates] == [(2, 10), (2, 4)]


def test_a_flag_rate_is_of_answers_and_not_of_clips_that_the_screen_kept_out(
    place: Place, conninfo: str
) -> None:
    place.use(conninfo)
    receipt = place.finish(conninfo, "a.tar", flagged=2, clean=8)
    told = json.loads(receipt.read_text())
    kept_out = {"judged": {"scams": 4, "threats": 4}, "unasked": 6}
    receipt.write_text(json.dumps(told | kept_out))
    report = gather(configuration.read(place.file))
    assert [each.rate for each in report.flag_rates] == [0.5, 0.5]
    assert "scams (2026-11)50.00%4" in Text(render(report, None)).read


def test_an_archive_that_another_policy_set_was_applied_to_was_not_heard_again(
    busy: Place,
) -> None:
    before = gather(configuration.read(busy.file))
    for name in ("a.tar", "b.tar"):
        receipt = busy.volume.receipt("2026-11-02", name)
        second = busy.volume.classes("second", "2026-11-02", name)
        second.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(busy.volume.classes("2026-11", "2026-11-02", name), second)
        heard = time.time() - 2 * 86_400
        os.utime(busy.volume.transcripts("large-v2", "2026-11-02", name), (heard, heard))
        told = json.loads(receipt.read_text())
        told["seconds"] = {"transcribe": 9000.0, "classify": 40.0}
        receipt.write_text(json.dumps(told | {"policy": "second"}))
    after = gather(configuration.read(busy.file))
    assert before.failures
    assert after.failures == ()
    assert after.disk.audio_bytes_a_day == 20 * 500  # of c.tar alone
    assert after.speed.clips == 40
    assert after.speed.per_gpu_hour("transcribe") is None
    assert after.speed.per_gpu_hour("classify") == 40 / 80 * 3600
    assert [each.judged for each in after.flag_rates if each.policy == "second"] == [20, 20]


def test_policy_sets_are_told_apart(busy: Place) -> None:
    receipt = busy.volume.receipt("2026-11-02", "b.tar")
    told = json.loads(receipt.read_text())
    receipt.write_text(json.dumps(told | {"policy": "stricter"}))
    rates = {
        (r.policy, r.category): r.judged for r in gather(configuration.read(busy.file)).flag_rates
    }
    assert rates[("2026-11", "scams")] == 30
    assert rates[("stricter", "scams")] == 10


def test_how_the_last_noon_ended_is_told(busy: Place, conninfo: str) -> None:
    with connect(conninfo) as connection, connection.cursor() as cursor:
        cursor.execute(
            "UPDATE audio_files SET created_at = now() - INTERVAL '24 hours 1 minute' "
            "WHERE archive_source = 'old.tar'"
        )
    # The next noon is in a moment, so the last one was a day ago.
    soon = (datetime.now(UTC) + timedelta(minutes=2)).strftime("%H:%M")
    busy.configure(review={"timezone": "UTC", "noon": soon})
    assert gather(configuration.read(busy.file)).flagged_at_last_noon == 6
    assert "6 had been flagged in the 24 hours before" in re.sub(r"\s+", " ", page_of(busy).read)


odd = st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3) | st.lists(st.none())


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_receipt_breaks_the_report(busy: Place, data: st.DataObject) -> None:
    receipt = busy.volume.receipt("2026-11-02", "a.tar")
    told = json.loads(receipt.read_text())
    for key in data.draw(st.lists(st.sampled_from(sorted(told)), min_size=1, unique=True)):
        told[key] = data.draw(odd | st.dictionaries(st.text(max_size=3), odd, max_size=2))
    receipt.write_text(json.dumps(told))
    render(gather(configuration.read(busy.file)), None)


def test_a_person_reads_the_same_on_the_page(busy: Place) -> None:
    read = re.sub(r"\s+", " ", page_of(busy).read)
    assert "3 wait for review now" in read
    assert "The projection assumes that clips are flagged until then as fast as" in read
    assert re.search(r"pending ?1 ", read)
    assert "waits.tar" in read
    assert "7.50%" in read  # scams today
    assert "60.00%" in read  # and before
    assert "target 200" in read


def test_the_page_needs_nothing_beside_itself_and_runs_nothing(busy: Place) -> None:
    page = page_of(busy)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert [link for link in page.links if not link.startswith("#")] == [
        *("queue.csv", "queue.parquet")
    ]
    assert page.tags.count("svg") == 3


def test_a_database_that_is_away_leaves_the_rest(busy: Place) -> None:
    before = gather(configuration.read(busy.file))
    busy.configure(database={"url": "postgresql://127.0.0.1:1/nothing"})
    page = written(busy)
    read = re.sub(r"\s+", " ", Text(page.read_text(encoding="utf-8")).read)
    assert "Whether noon is met is unknown: the database does not answer" in read
    assert "queue.csv" not in read
    assert gather(configuration.read(busy.file)).flag_rates == before.flag_rates


def test_what_cannot_be_read_is_counted(busy: Place) -> None:
    busy.volume.receipt("2026-11-02", "a.tar").write_text("{", encoding="utf-8")
    busy.volume.manifest("2026-11-02", "b.tar").write_bytes(b"PAR1")
    assert gather(configuration.read(busy.file)).unread == 2


def test_an_empty_volume_has_a_report_too(place: Place, conninfo: str) -> None:
    place.use(conninfo)
    place.poll()
    read = re.sub(r"\s+", " ", page_of(place).read)
    assert "None was finished in the last 24 hours" in read
    assert "No clip was judged" in read
    assert "will be missed" in read


def test_names_and_reasons_of_strangers_stay_texts(busy: Place) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    path = busy.volume.manifest("2026-11-02", "a.tar")
    rows = read_table(path, MANIFEST).to_pylist()
    rows[-1]["error"] = evil
    write_table(path, MANIFEST, rows, {"archive_status": "ok"})
    page = page_of(busy)
    assert not {"script", "img"} & set(page.tags)
    assert "<script>alert(N)</script>" in page.read


def test_the_queue_is_the_same_in_both_files(busy: Place, conninfo: str) -> None:
    page = written(busy)
    expected = review_queue(conninfo, 100)
    rows = pq.read_table(page.parent / "queue.parquet").to_pylist()
    assert [(row["id"], row["flag_score"]) for row in rows] == [
        (item.id, item.flag_score) for item in expected
    ]
    with (page.parent / "queue.csv").open(newline="", encoding="utf-8-sig") as file:
        assert [int(row["id"]) for row in csv.DictReader(file)] == [item.id for item in expected]


ITEM = QueueItem(
    id=1, original_filename="a.mp3", opus_path=None, transcript_text="", flag_score=0.9,
    flag_category="scams", created_at=datetime(2026, 11, 2, tzinfo=UTC), archive="a.tar",
    duration_seconds=1.0, language="en", confidence=0.9, flag_categories=["scams"],
)  # fmt: skip


@pytest.mark.slow
@given(
    text=st.text(st.characters(codec="utf-8"))
    | st.from_regex(r"\A[=+@\t\r\n-].*")
    | st.from_regex(r"\A.*;=.*", alphabet=st.characters(codec="ascii"))
)
def test_no_transcript_is_a_formula_for_a_spreadsheet(
    text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("queue")
    item = replace(ITEM, transcript_text=text)
    write_queue([item], folder)
    with (folder / "queue.csv").open(newline="", encoding="utf-8-sig") as file:
        (row,) = csv.DictReader(file)
    shown = row["transcript_text"]
    assert not re.search(r"(\A|;)[=+@\uFF1D\uFF0B\uFF0D\uFF20-]", shown)
    assert shown.replace("'", "") == text.replace("'", "")
    assert read_queue(folder) == [item]


@pytest.mark.parametrize("text", ["a list\n- one\n- two", "a\n=b", "x\t-y", "1 + 1 = 2", "a\r\n@b"])
def test_what_begins_like_a_formula_on_a_later_line_stays_as_it_is(text: str) -> None:
    assert cell(text) == text


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@a", "\t=1", "\n=1", "a;=1", "=1\n=2"])
def test_what_begins_like_a_formula_where_a_cell_begins_is_text(text: str) -> None:
    assert cell(text) == text.replace("a;", "a;'") if ";" in text else f"'{text}"


def test_excel_knows_the_queue_for_utf_8_by_its_mark(tmp_path: Path) -> None:
    write_queue([replace(ITEM, transcript_text="grün")], tmp_path)
    content = (tmp_path / "queue.csv").read_bytes()
    assert content.startswith(b'\xef\xbb\xbf"id"')
    assert "grün".encode() in content


# --- warnings ---------------------------------------------------------------------------------

WANTED = ReviewSettings(target=200, noon="12:00", timezone="UTC")
SEVEN, NOON = datetime(2026, 11, 2, 7, tzinfo=UTC), datetime(2026, 11, 2, 12, tzinfo=UTC)


def test_it_warns_exactly_if_the_target_will_be_missed_or_nobody_knows() -> None:
    on_course = forecast(WANTED, SEVEN, NOON, (180, 150, 150, 60))
    missed = forecast(WANTED, SEVEN, NOON, (180, 150, 150, 6))
    assert warning_of(on_course) is None
    warning = warning_of(missed)
    assert warning is not None
    assert "will be missed: 150 flagged clips wait now, and 155 of 200" in warning
    assert "as fast as in the last 6 hours" in warning
    assert "can't be told" in str(warning_of(forecast(WANTED, SEVEN, NOON, None)))


def hook(folder: Path, code: str) -> str:
    script = folder / "hook.py"
    script.write_text(code, encoding="utf-8")
    return f"{shlex.quote(sys.executable)} {shlex.quote(str(script))} 'one argument'"


def test_the_command_gets_the_warning_on_standard_input(tmp_path: Path) -> None:
    told = tmp_path / "told"
    code = f"import sys; open({str(told)!r}, 'w').write(sys.argv[1] + ': ' + sys.stdin.read())"
    tell(hook(tmp_path, code), "noon $(touch here) `x`")
    assert told.read_text() == "one argument: Earmark: noon $(touch here) `x`\n"


def test_a_command_that_fails_is_told(tmp_path: Path) -> None:
    with pytest.raises(EarmarkError, match="ended with status 3: no mail today"):
        tell(hook(tmp_path, "import sys; sys.stderr.write('no mail today'); sys.exit(3)"), "x")
    with pytest.raises(EarmarkError, match=r"can't be run: .*No such file"):
        tell("/nowhere/mail", "x")
    with pytest.raises(EarmarkError, match="can't be run: No closing quotation"):
        tell("mail 'lab", "x")


@pytest.mark.parametrize("in_its_hour", [True, False])
def test_the_command_line_alerts_in_the_hours_that_are_set(
    busy: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], in_its_hour: bool
) -> None:
    told = tmp_path / "told"
    hour = datetime.now(UTC).hour
    hours = {hour, (hour + 1) % 24}  # the test may run as the hour ends
    busy.configure(
        review={
            "timezone": "UTC",
            "alert": hook(tmp_path, f"open({str(told)!r}, 'w').write('told')"),
            "alert_hours": sorted(hours if in_its_hour else set(range(24)) - hours),
        }
    )
    arguments = ["report", "--configfile", str(busy.file)]
    assert cli.main(arguments) == 1
    assert not told.exists()
    assert cli.main([*arguments, "--alert"]) == 1
    assert told.exists() == in_its_hour
    out, err = capsys.readouterr()
    assert out.endswith("index.html\n")
    assert "earmark: the noon of" in err


def test_a_target_that_is_on_course_is_no_failure(busy: Place) -> None:
    busy.configure(review={"target": 3})
    assert cli.main(["report", "--configfile", str(busy.file), "--alert"]) == 0
