"""What leads see: progress, agreement, the logs, and decisions as a file."""

import datetime
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psycopg2
import pyarrow.parquet as pq
import pytest
from desk_record import fill, join
from desk_server import Browser, serving, write_config
from psycopg2.extensions import make_dsn

from earmark.desk import journal
from earmark.record import database

HOSTILE = "<script>alert(1)</script>"
_DECISIONS = """
INSERT INTO second_reviews VALUES (1, 0.1), (2, 0.1);
INSERT INTO review_decisions (audio_file_id, reviewer_id, round, chosen_by, verdict, categories,
    reason, note, flag_score, flag_categories, claimed_at, decided_at)
SELECT d.clip, d.who, d.round, 'score', d.verdict, d.categories,
    CASE d.verdict WHEN 'skipped' THEN 'other' END, d.note, queue_score, queue_categories,
    now() - INTERVAL '40 seconds', now()
FROM (VALUES
    (1, 1, 1, 'first', 'reportable', ARRAY['scams'], NULL),
    (2, 1, 2, 'second', 'reportable', ARRAY['scams'], NULL),
    (3, 2, 1, 'first', 'not reportable', ARRAY[]::TEXT [], NULL),
    (4, 2, 2, 'second', 'reportable', ARRAY['scams'], NULL),
    (5, 3, 2, 'first', 'not reportable', ARRAY[]::TEXT [], %(note)s),
    (6, 4, 2, 'first', 'skipped', ARRAY[]::TEXT [], NULL),
    (7, 5, 1, 'first', 'unsure', ARRAY[]::TEXT [], NULL),
    (8, 5, 1, 'first', 'undone', ARRAY[]::TEXT [], NULL)
) d (n, clip, who, round, verdict, categories, note)
JOIN audio_files af ON af.id = d.clip ORDER BY n;
SELECT mark_reviewed(id) FROM generate_series(1, 3) id;
"""


class Desk(NamedTuple):
    """A desk that runs, the database behind it, and a lead who is signed in."""

    conninfo: str
    url: str
    lead: Browser


@pytest.fixture(scope="module")
def desk(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    administrator = psycopg2.connect(postgres)
    administrator.autocommit = True
    administrator.cursor().execute("CREATE DATABASE lead_pages")
    conninfo = make_dsn(postgres, dbname="lead_pages")
    database.migrate(conninfo)
    fill(conninfo, flagged=9, controls=2)
    join(conninfo, "ada", "ben")
    join(conninfo, "lea", role="lead")
    run(conninfo, _DECISIONS, {"note": HOSTILE})
    folder = tmp_path_factory.mktemp("desk")
    with serving(write_config(folder, conninfo)) as server, Browser(server.url) as lead:
        assert lead.sign_in("lea").status_code == 303
        yield Desk(conninfo, server.url, lead)
    administrator.cursor().execute("DROP DATABASE lead_pages WITH (FORCE)")
    administrator.close()


def run(conninfo: str, sql: str, values: dict[str, str] | None = None) -> None:
    with psycopg2.connect(conninfo) as connection, connection.cursor() as cursor:
        cursor.execute(sql, values)
    connection.close()


def rows_of(page: str, section: str) -> list[list[str]]:
    """The texts of a table's cells, row by row."""
    table = page[page.index(f'id="{section}"') :] if section else page
    table = table[table.index("<tbody>") : table.index("</tbody>")]
    return [
        [" ".join(re.sub(r"<[^>]*>", " ", cell).split()) for cell in re.findall(_CELL, row, re.S)]
        for row in re.findall(r"<tr>(.*?)</tr>", table, re.S)
    ]


_CELL = r"<t[dh][^>]*>(.*?)</t[dh]>"


def test_the_overview_tells_the_days_categories_agreement_and_people(desk: Desk) -> None:
    answer = desk.lead.get("/lead")
    assert answer.status_code == 200, answer.text
    page = answer.text
    days = rows_of(page, "days")
    assert len(days) == 14
    assert [each[1:] for each in days[:2]] == [
        ["3", "", "1", "1", "0", "0", "1"],
        ["0", "", "0", "0", "0", "0", "0"],
    ]
    assert rows_of(page, "categories") == [
        ["harassment", "0", "0", "1", "0% (0)", "0% (0)", "0", "0"],
        ["scams", "3", "1", "2", "50% (1)", "50% (1)", "0", "1"],
    ]
    verdict, scams = rows_of(page, "agreement")
    assert verdict[0] == "reportable or not"
    assert re.fullmatch(r"0\.00 \[.*\] \(2\)", verdict[1])  # one of two, as chance would have it
    assert scams[0] == "scams"
    assert [(each[0], *each[2:5]) for each in rows_of(page, "people")] == [
        ("ada", "2", "2", "40 s"),
        ("ben", "3", "3", "40 s"),
        ("lea", "0", "0", "–"),
    ]


def test_the_log_of_decisions_shows_every_row_and_escapes_what_people_wrote(desk: Desk) -> None:
    page = desk.lead.get("/lead/decisions").text
    rows = rows_of(page, "")
    assert [(each[1], each[2], each[4]) for each in rows[:3]] == [
        ("5", "ada", "undone"),
        ("5", "ada", "unsure"),
        ("4", "ben", "skipped"),
    ]
    assert "<s>unsure</s>" in page
    assert HOSTILE not in page
    assert "&lt;script&gt;" in page


def test_logs_go_back_page_by_page_to_the_first_row(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = psycopg2.connect(desk.conninfo)
    monkeypatch.setattr(journal, "PAGE", 3)
    found, before = [], None
    while True:
        page = journal.decisions(connection, before)
        found += [each.id for each in page.entries]
        if page.older is None:
            break
        before = page.older
    connection.close()
    assert found == [8, 7, 6, 5, 4, 3, 2, 1]
    assert "Older" not in desk.lead.get("/lead/decisions?before=5").text
    assert [row[1] for row in rows_of(desk.lead.get("/lead/decisions?before=3").text, "")] == [
        "1",
        "1",
    ]


@pytest.mark.parametrize("format", ["csv", "jsonl", "parquet"])
def test_an_export_comes_whole_and_is_logged(desk: Desk, format: str) -> None:
    answer = desk.lead.get("/lead/export", params={"format": format})
    assert answer.status_code == 200
    assert answer.headers["content-disposition"].endswith(f'.{format}"')
    assert answer.headers["cache-control"] == "no-store"
    if format == "parquet":
        number = pq.read_table(io.BytesIO(answer.content)).num_rows
    else:
        number = len(answer.text.splitlines()) - (format == "csv")
    assert number == 8
    row = rows_of(desk.lead.get("/lead/access").text, "")[0]
    assert row[1:3] == ["lea", "export"]
    assert row[4].startswith(f"{format}, ")


def test_an_export_is_of_the_days_that_were_asked_for(desk: Desk) -> None:
    old = {"format": "jsonl", "since": "2020-01-01", "until": "2020-12-31"}
    assert desk.lead.get("/lead/export", params=old).text == ""
    now = datetime.datetime.now(datetime.UTC).date()
    about_now = (str(now - datetime.timedelta(1)), str(now + datetime.timedelta(1)))
    for since, until in (about_now, ("0001-01-01", "9999-12-31")):
        asked = {"format": "jsonl", "since": since, "until": until}
        lines = desk.lead.get("/lead/export", params=asked).text.splitlines()
        assert [json.loads(line)["decision_id"] for line in lines] == list(range(1, 9))


@pytest.mark.parametrize(
    "asked",
    [
        "format=xlsx",
        "format=csv&since=yesterday",
        "format=csv&since=2026-01-02&until=2026-01-01",
        "format=csv&since=10000-01-01",
        "",
    ],
)
def test_an_export_that_can_not_be_made_is_explained(desk: Desk, asked: str) -> None:
    answer = desk.lead.get(f"/lead/export?{asked}")
    assert answer.status_code == 400
    assert "<h1>That did not work</h1>" in answer.text


def test_what_was_opened_of_a_clip_that_is_gone_stays_in_the_log(desk: Desk) -> None:
    run(
        desk.conninfo,
        "INSERT INTO review_access (reviewer_id, audio_file_id, what, detail) "
        "VALUES (1, 999, 'audio', 'bytes=0-')",
    )
    row = rows_of(desk.lead.get("/lead/access").text, "")[0]
    assert row[1:] == ["ada", "audio", "999 (not there any more)", "bytes=0-"]


@pytest.mark.parametrize(
    "path", ["/lead", "/lead/decisions", "/lead/access", "/lead/export?format=csv"]
)
def test_only_leads_get_in(desk: Desk, path: str) -> None:
    with Browser(desk.url) as reviewer:
        assert reviewer.get(path).status_code == 303
        reviewer.sign_in("ada")
        assert reviewer.get(path).status_code == 403


def test_a_desk_where_nothing_happened_yet_has_its_pages_too(
    migrated_database: str, tmp_path: Path
) -> None:
    join(migrated_database, "lea", role="lead")
    with serving(write_config(tmp_path, migrated_database)) as server, Browser(server.url) as lead:
        lead.sign_in("lea")
        for path in ("/lead", "/lead/decisions", "/lead/access", "/lead/export?format=parquet"):
            assert lead.get(path).status_code == 200, path
