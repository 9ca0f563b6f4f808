"""What the review desk lets whom do, and what it does with what strangers wrote."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from argon2 import PasswordHasher
from desk_record import PASSWORD, ask, fill, join
from desk_server import Browser, Server, serving, write_config
from on_demand import OnDemand
from psycopg2.extensions import make_dsn

from earmark.configuration import read
from earmark.desk.connections import Connections
from earmark.ingest.media import encode_opus
from earmark.settings import EncodeSettings

if TYPE_CHECKING:
    from earmark.desk import app as app_module
else:
    app_module = OnDemand("earmark.desk.app")

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'`{{7*7}}</textarea>"


class Desk(NamedTuple):
    """A desk that runs, and the database behind it."""

    url: str
    record: Connections
    root: Path
    conninfo: str


@pytest.fixture(scope="module")
def server(
    postgres: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Path]]:
    """One desk for all tests; it keeps nothing but in the database."""
    root = tmp_path_factory.mktemp("desk")
    write_sound(root)
    config = write_config(root, make_dsn(postgres, dbname="migrated"), second_review_fraction=0)
    with serving(config) as running:
        yield running, root


@pytest.fixture
def desk(server: tuple[Server, Path], migrated_database: str) -> Iterator[Desk]:
    fill(migrated_database, flagged=8, controls=2)
    join(migrated_database, "ada", "ben")
    join(migrated_database, "lea", role="lead")
    record = Connections(migrated_database, 2)
    ask(record, "TRUNCATE sign_in_failures")
    yield Desk(server[0].url, record, server[1], migrated_database)
    record.close()


def write_sound(root: Path) -> Path:
    """A second of a tone, as the audio of clip 1."""
    import wave

    source = root / "tone.wav"
    with wave.open(str(source), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        tone = np.sin(np.arange(16_000) * 2 * np.pi * 440 / 16_000) * 20_000
        file.writeframes(tone.astype("<i2").tobytes())
    target = root / "audio/date=2026-11-02/sound_01.tar/000001.opus"
    target.parent.mkdir(parents=True)
    encode_opus(source, target, EncodeSettings())
    return target


@contextmanager
def browser_of(desk: Desk, name: str | None) -> Iterator[Browser]:
    with Browser(desk.url) as browser:
        if name is not None:
            assert browser.sign_in(name).status_code == 303
        yield browser


# --- who may do what --------------------------------------------------------------------

#: Every route, with a form for those that take one: {id} is an item that `ada` has open.
ROUTES: dict[tuple[str, str], dict[str, Any]] = {
    ("GET", "/"): {},
    ("GET", "/healthz"): {},
    ("GET", "/sign-in"): {},
    ("GET", "/static/desk.css"): {},
    ("GET", "/mine"): {},
    ("GET", "/settings"): {},
    ("GET", "/items/{id}"): {},
    ("GET", "/items/{id}/audio"): {},
    ("GET", "/items/{id}/waveform"): {},
    ("GET", "/lead"): {},
    ("GET", "/lead/decisions"): {},
    ("GET", "/lead/access"): {},
    ("GET", "/lead/export?format=csv"): {},
    ("POST", "/sign-in"): {"name": "ada", "password": PASSWORD},
    ("POST", "/claim"): {"mode": "score"},
    ("POST", "/claim?adjudication"): {"mode": "adjudication"},
    ("GET", "/session"): {},
    ("POST", "/items/{id}/heartbeat"): {},
    ("POST", "/items/{id}/decide"): {"verdict": "not reportable"},
    ("POST", "/items/{id}/release"): {},
    ("POST", "/undo"): {},
    ("POST", "/items/{id}/undo"): {},
    ("POST", "/lead/items/{id}/reopen"): {},
    ("POST", "/lead/items/{id}/overrule"): {},
    ("POST", "/settings"): {"break_minutes": "30"},
    ("POST", "/settings/password"): {"current": PASSWORD, "new": PASSWORD, "again": PASSWORD},
    ("POST", "/lead/people/{name}/link"): {},
    ("GET", "/password/{token}"): {},
    ("POST", "/password/{token}"): {"new": PASSWORD, "again": PASSWORD},
    ("POST", "/sign-out"): {},
}
OPEN = {"/healthz", "/sign-in", "/static/desk.css"}
BY_LINK = "/password/{token}"
LEADS = {
    "/lead/people/{name}/link",
    "/lead",
    "/lead/decisions",
    "/lead/access",
    "/lead/export?format=csv",
    "/claim?adjudication",
    "/lead/items/{id}/reopen",
    "/lead/items/{id}/overrule",
}
ITEM_READ = {"/items/{id}", "/items/{id}/audio", "/items/{id}/waveform"}
ITEM_WRITE = {"/items/{id}/heartbeat", "/items/{id}/decide", "/items/{id}/release"}


def sent_cookie(name: str, answer: Any) -> str:
    found = re.search(rf"(?:^|[ ,]){name}=([^;]+)", answer.headers["set-cookie"])
    assert found is not None
    return found[1]


def expected(method: str, path: str, who: str | None) -> set[int]:
    """What `who` is answered; `ada` has the item open, `ben` has nothing, `lea` is a lead."""
    if path == "/sign-in" and method == "POST":
        return {303}
    if path in OPEN:
        return {200}
    if path == BY_LINK:  # this one was never made
        return {400} if method == "GET" or who is None else {403}
    if who is None:
        return {303} if method == "GET" else {401}
    if path in LEADS and who != "lea":
        return {403}
    if path.endswith(("/undo", "/reopen", "/overrule")):
        return {409}
    if path in LEADS:
        return {200, 303}
    if path in ITEM_READ:
        return {404} if who == "ben" else {200}
    if path in ITEM_WRITE:
        return {200, 303} if who == "ada" else {409}
    return {200, 303}


def request(browser: Browser, method: str, path: str, fields: dict[str, Any]) -> Any:
    if method == "GET":
        return browser.get(path)
    if path == "/sign-in":
        browser.visit(path)
    return browser.submit(path, **fields)


@pytest.mark.parametrize("who", [None, "ada", "ben", "lea"])
def test_each_route_answers_whom_it_is_for(desk: Desk, who: str | None) -> None:
    wrong = {}
    for (method, path), fields in ROUTES.items():
        ask(desk.record, "TRUNCATE review_claims, review_decisions, review_waiting, review_drafts")
        ask(desk.record, "UPDATE audio_files SET status = 'flagged' WHERE status = 'reviewed'")
        with browser_of(desk, "ada") as ada:
            clip = ada.submit("/claim", mode="score").headers["location"]
            assert clip == "/items/1"
        with browser_of(desk, who) as browser:
            if who is None:
                browser.visit("/sign-in")
            there = path.replace("{id}", "1").replace("{name}", "ben")
            answer = request(browser, method, there, fields)
        if answer.status_code not in expected(method, path, who):
            wrong[method, path] = answer.status_code
        if who is None and answer.status_code == 303 and method == "GET":
            assert answer.headers["location"].startswith("/sign-in")
    assert wrong == {}


def test_the_matrix_has_every_route(tmp_path: Path, migrated_database: str) -> None:
    app = app_module.create_app(read(write_config(tmp_path, migrated_database)), migrated_database)
    known = {
        (method, re.sub(r"\{audio_file_id\}", "{id}", getattr(route, "path", "")))
        for route in _routes(app)
        for method in getattr(route, "methods", None) or ()
        if method != "HEAD"
    }
    assert known
    assert known == {
        (method, path.partition("?")[0]) for method, path in ROUTES if "/static" not in path
    }


def _routes(app: Any) -> Iterator[Any]:
    for route in app.routes:
        inner = getattr(getattr(route, "original_router", None), "routes", None)
        yield from inner or [route]


@pytest.mark.parametrize("kind", ["missing", "wrong", "of another session", "from another site",
                                  "of another origin"])  # fmt: skip
def test_what_no_page_of_ours_sent_changes_nothing(desk: Desk, kind: str) -> None:
    with browser_of(desk, "ada") as ada, browser_of(desk, "ben") as ben:
        ada.submit("/claim", mode="score")
        for (method, path), fields in ROUTES.items():
            if method != "POST" or path in LEADS or path in ("/sign-in", BY_LINK):
                continue
            sent, headers = {"csrf": ada.csrf, **fields}, {}
            if kind == "missing":
                del sent["csrf"]
            elif kind == "wrong":
                sent["csrf"] = "0" * 64
            elif kind == "of another session":
                sent["csrf"] = ben.csrf
            elif kind == "from another site":
                headers = {"Sec-Fetch-Site": "cross-site"}
            else:
                headers = {"Origin": "https://evil.example"}
            answer = ada.post(path.replace("{id}", "1"), data=sent, headers=headers)
            assert answer.status_code == 403, path
        assert ask(desk.record, "SELECT count(*) FROM review_decisions") == [(0,)]
        assert ada.get("/").status_code == 200
        assert ask(desk.record, "SELECT count(*) FROM review_claims") == [(1,)]


def test_signing_in_takes_a_form_of_ours_too(desk: Desk) -> None:
    with Browser(desk.url) as browser:
        answer = browser.post("/sign-in", data={"name": "ada", "password": PASSWORD})
        assert answer.status_code == 403
        browser.visit("/sign-in")
        answer = browser.post("/sign-in", data={"name": "ada", "password": PASSWORD, "csrf": "1"})
        assert answer.status_code == 403
        assert "earmark=" not in answer.headers.get("set-cookie", "")


# --- sessions ---------------------------------------------------------------------------


def test_a_session_that_somebody_set_before_is_not_taken_over(desk: Desk) -> None:
    fixed = "a" * 43
    with Browser(desk.url) as browser:
        browser.cookies.set("earmark", fixed, domain="127.0.0.1")
        browser.visit("/sign-in")
        answer = browser.submit("/sign-in", name="ada", password=PASSWORD)
        assert answer.status_code == 303
        assert sent_cookie("earmark", answer) != fixed
    with Browser(desk.url) as attacker:
        attacker.cookies.set("earmark", fixed)
        assert attacker.get("/").status_code == 303


def test_a_former_session_ends_when_its_browser_signs_in_again(desk: Desk) -> None:
    with browser_of(desk, "ada") as browser:
        former = browser.cookies["earmark"]
        browser.sign_in("ben")
    with Browser(desk.url) as replay:
        replay.cookies.set("earmark", former)
        assert replay.get("/").headers["location"] == "/sign-in"


def test_nothing_of_a_session_works_after_signing_out(desk: Desk) -> None:
    with browser_of(desk, "ada") as browser:
        browser.submit("/claim", mode="score")
        token, csrf = browser.cookies["earmark"], browser.csrf
        assert browser.submit("/sign-out").headers["location"] == "/sign-in"
    assert ask(desk.record, "SELECT count(*) FROM review_claims") == [(0,)]
    with Browser(desk.url) as replay:
        replay.cookies.set("earmark", token)
        replay.csrf = csrf
        assert replay.get("/").headers["location"] == "/sign-in"
        assert replay.submit("/claim", mode="score").status_code == 401
        assert replay.get("/items/1/audio").status_code in (303, 401)


def test_cookies_are_out_of_reach_of_scripts_and_of_other_sites(desk: Desk) -> None:
    with Browser(desk.url) as browser:
        browser.visit("/sign-in")
        plain = browser.submit("/sign-in", name="ada", password=PASSWORD).headers["set-cookie"]
    proxied = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.7"}
    with Browser(desk.url) as browser:
        browser.headers.update(proxied)
        form = browser.visit("/sign-in")
        visit = sent_cookie("earmark-visit", form)
        browser.headers["Cookie"] = f"earmark-visit={visit}"
        answer = browser.submit("/sign-in", name="ada", password=PASSWORD)
        secured = answer.headers["set-cookie"]
        token = sent_cookie("__Host-earmark", answer)
        browser.headers["Cookie"] = f"__Host-earmark={token}"
        browser.visit("/")
        ended = browser.submit("/sign-out").headers["set-cookie"]
        assert ended.startswith('__Host-earmark=""')
        assert "Secure" in ended
    for cookie in (plain, secured):
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert "Path=/" in cookie
    assert secured.startswith("__Host-earmark=")
    assert "Secure" in secured


def test_plain_http_is_for_this_machine_only(desk: Desk) -> None:
    with Browser(desk.url) as browser:
        browser.headers["X-Forwarded-For"] = "192.0.2.7"
        answer = browser.get("/sign-in")
        assert answer.status_code == 403
        assert "https" in answer.text


def test_sign_ins_are_limited_by_the_address_that_the_proxy_tells(desk: Desk) -> None:
    proxied = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.7"}
    with Browser(desk.url) as browser:
        browser.headers.update(proxied)
        form = browser.visit("/sign-in")
        visit = sent_cookie("earmark-visit", form)
        browser.headers["Cookie"] = f"earmark-visit={visit}"
        answers = [
            browser.submit("/sign-in", name="ada", password="wrong").status_code for _ in range(7)
        ]
    assert answers == [401] * 5 + [429] * 2
    with browser_of(desk, "ada") as browser:  # from elsewhere
        assert browser.get("/").status_code == 200


# --- passwords --------------------------------------------------------------------------


def test_a_lead_makes_a_link_by_which_somebody_chooses_a_password(desk: Desk) -> None:
    with browser_of(desk, "lea") as lea:
        lea.visit("/lead")
        page = lea.submit("/lead/people/ben/link").text
        assert lea.submit("/lead/people/lea/link").status_code == 400  # the command's, for leads
        assert lea.submit("/lead/people/a%00b/link").status_code == 400
    (link,) = re.findall(rf"<code>{desk.url}(/password/[\w-]+)</code>", page)
    new = "a password of my own"
    with Browser(desk.url) as ben:
        assert "ben" in ben.visit(link).text
        assert ben.submit(link, new=new, again=new + "2").status_code == 400
        assert ben.submit(link, new="short", again="short").status_code == 400
        assert ben.submit(link, new=new, again=new).headers["location"] == "/sign-in"
        assert ben.submit(link, new=new, again=new).status_code == 400
        assert ben.sign_in("ben").status_code == 401
        assert ben.sign_in("ben", new).status_code == 303


def test_people_change_their_password_on_the_page_of_their_settings(desk: Desk) -> None:
    new = "a password of my own"
    with browser_of(desk, "ben") as here, browser_of(desk, "ben") as elsewhere:
        here.visit("/settings")
        path = "/settings/password"
        wrong = here.submit(path, current="wrong", new=new, again=new)
        assert (wrong.status_code, "current password" in wrong.text) == (400, True)
        assert here.submit(path, current=PASSWORD, new=new, again=PASSWORD).status_code == 400
        changed = here.submit(path, current=PASSWORD, new=new, again=new)
        assert changed.headers["location"] == "/?notice=password"
        assert "Your password is changed" in here.visit("/?notice=password").text
        assert elsewhere.get("/").headers["location"] == "/sign-in"


def test_who_signed_in_here_before_is_not_kept_out_by_others_behind_the_same_address(
    desk: Desk,
) -> None:
    with browser_of(desk, "ada") as ada:
        ada.submit("/sign-out")
        with Browser(desk.url) as other:
            other.visit("/sign-in")
            tried = [other.submit("/sign-in", name="ada", password="wrong") for _ in range(6)]
        assert tried[-1].status_code == 429
        assert ada.sign_in("ada").status_code == 303


# --- slow and many requests -------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nHost: d",
                                  b"GET /healthz HTTP/1.1\r\nHost: d\r\n\r\nGET /he"])  # fmt: skip
def test_a_request_that_does_not_come_to_its_end_is_not_waited_for(desk: Desk, sent: bytes) -> None:
    with socket.create_connection(address_of(desk), timeout=120) as connection:
        connection.sendall(sent)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.count(b" 200 ") == sent.count(b"\r\n\r\n")


def test_a_body_that_does_not_come_to_its_end_is_not_waited_for(desk: Desk) -> None:
    with socket.create_connection(address_of(desk), timeout=120) as connection:
        connection.sendall(
            b"POST /sign-in HTTP/1.1\r\nHost: d\r\nContent-Length: 99\r\n"
            b"Content-Type: application/x-www-form-urlencoded\r\n\r\nname=a"
        )
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 408 ")


def address_of(desk: Desk) -> tuple[str, int]:
    found = urlsplit(desk.url)
    return found.hostname or "", found.port or 80


def test_many_who_sign_in_at_once_do_not_hold_up_the_health_page(desk: Desk) -> None:
    join(desk.conninfo, *(f"person{number}" for number in range(45)))
    ask(
        desk.record,
        "UPDATE reviewers SET password_hash = %s WHERE name LIKE 'person%%'",
        PasswordHasher().hash(PASSWORD),
    )

    def sign_in(number: int) -> int:
        with Browser(desk.url) as browser:
            browser.timeout = 300
            browser.visit("/sign-in")
            fields = {"name": f"person{number}", "password": PASSWORD}
            started.release()
            return browser.submit("/sign-in", **fields).status_code

    started = threading.Semaphore(0)
    with ThreadPoolExecutor(45) as pool, Browser(desk.url) as browser:
        answers = [pool.submit(sign_in, number) for number in range(45)]
        for _ in range(45):
            started.acquire()
        assert browser.get("/healthz").status_code == 200
        still_waiting = sum(not answer.done() for answer in answers)
        assert [answer.result() for answer in answers] == [303] * 45
    assert still_waiting > 0


# --- what an answer carries -------------------------------------------------------------


def test_every_answer_carries_the_security_headers(desk: Desk) -> None:
    with browser_of(desk, "lea") as browser:
        for path in ("/", "/sign-in", "/static/desk.css", "/nowhere", "/lead", "/healthz"):
            headers = browser.get(path).headers
            policy = dict(
                part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";")
            )
            assert policy["default-src"] == "'none'"
            assert policy["script-src"] == policy["style-src"] == "'self'"
            assert policy["frame-ancestors"] == "'none'"
            assert headers["x-content-type-options"] == "nosniff"
            assert "server" not in headers
        assert browser.get("/").headers["cache-control"] == "no-store"


def test_a_policy_that_was_not_asked_is_shown_without_a_yes_or_a_no(desk: Desk) -> None:
    ask(
        desk.record,
        "INSERT INTO classifications "
        "(audio_file_id, policy, flagged, flag_category, flag_score, status) "
        "VALUES (1, '2026-11', FALSE, 'harassment', NULL, 'unasked'), "
        "(1, '2026-11', FALSE, 'violent-threats', 0.1, 'ok')",
    )
    with browser_of(desk, "ada") as ada, browser_of(desk, "lea") as lea:
        ada.submit("/claim", mode="score")
        page = lea.get("/items/1").text
    rows = re.findall(r'<tr><th scope="row">(.*?) <span.*?</th>(.*)</tr>', page)
    told = {title: re.findall(r">([^<>]+)</td>", cells) for title, cells in rows}
    assert told == {
        "Scams": ["0.938", "yes"],
        "Harassment": ["not asked", "–"],
        "Violent threats": ["0.100", "no"],
    }


@pytest.mark.parametrize("file", ["desk.css", "item.js", "claim.js"])
def test_scripts_and_styles_are_asked_for_again_and_sent_only_if_they_changed(
    desk: Desk, file: str
) -> None:
    with browser_of(desk, None) as browser:
        first = browser.get(f"/static/{file}")
        assert first.headers["cache-control"] == "no-cache"
        again = browser.get(f"/static/{file}", headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["cache-control"] == "no-cache"


def test_pages_have_no_inline_script_or_style(desk: Desk) -> None:
    with browser_of(desk, "lea") as browser:
        browser.submit("/claim", mode="score")
        for path in ("/", "/items/1", "/mine", "/settings", "/lead", "/lead/decisions",
                     "/lead/access", "/sign-in", "/nowhere"):  # fmt: skip
            page = browser.get(path).text
            assert not re.search(r"<script(?![^>]*\bsrc=)", page), path
            assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", page), path


def test_what_strangers_wrote_is_shown_as_text(desk: Desk) -> None:
    ask(
        desk.record,
        "UPDATE transcripts SET transcript_text = %s, language = 'e<b>', segments = "
        "jsonb_build_array(jsonb_build_object('start', 0, 'end', 1, 'text', %s::text))",
        EVIL, EVIL,
    )  # fmt: skip
    ask(desk.record, "UPDATE audio_files SET original_filename = %s", EVIL)
    ask(desk.record, "UPDATE audio_files SET archive_source = %s", EVIL)
    ask(
        desk.record,
        "INSERT INTO audio_files (id, original_filename, archive_source, copied_from) "
        "SELECT 99, %s, %s, opus_path FROM audio_files WHERE id = 1",
        EVIL, EVIL,
    )  # fmt: skip
    with browser_of(desk, "lea") as browser:
        browser.submit("/claim", mode="score")
        pages = [browser.visit("/items/1").text]
        browser.submit("/items/1/decide", verdict="unsure", note=EVIL, transcript_wrong="true")
        pages += [
            browser.get(path).text
            for path in ("/items/1", "/", "/mine", "/lead", "/lead/decisions", "/lead/access")
        ]
    assert any("alert(1)" in page for page in pages)
    for page in pages:
        assert "<script>alert" not in page
        assert "<img src=x" not in page
        assert "</textarea><" not in page.replace("</textarea>\n", "")
        assert "e<b>" not in page
        assert "49</textarea" not in page


def test_a_name_that_would_be_read_backwards_is_written_out(desk: Desk) -> None:
    """Also one that was stored as it was."""
    ask(desk.record, "UPDATE audio_files SET original_filename = %s", "good\u202e3pm.exe\u2028")
    with browser_of(desk, "lea") as browser:
        browser.submit("/claim", mode="score")
        page = browser.visit("/items/1").text
    assert "good\\u202e3pm.exe\\u2028" in page
    assert "\u202e" not in page


def test_a_note_may_be_as_long_as_its_field_says(desk: Desk) -> None:
    lines = "\r\n".join(["x" * 79] * 50)  # as forms send line breaks
    with browser_of(desk, "ada") as browser:
        browser.submit("/claim", mode="score")
        answer = browser.submit("/items/1/decide", verdict="not reportable", note=lines + "x")
        assert answer.status_code == 303
        answer = browser.submit("/items/2/decide", verdict="not reportable", note=lines + "xx")
        assert answer.status_code == 400
        assert "4,000" in answer.text
    assert ask(desk.record, "SELECT length(note) FROM review_decisions") == [(4000,)]


def test_what_is_undone_is_there_to_begin_from(desk: Desk) -> None:
    with browser_of(desk, "ada") as browser:
        browser.submit("/claim", mode="score")
        ticked = r'name="(\w+)" value="([\w-]+)" checked'
        assert re.findall(ticked, browser.visit("/items/1").text) == [("categories", "scams")]
        said = {"categories": "violent-threats", "note": "</textarea>half", "not_speech": "true"}
        browser.submit("/items/1/decide", verdict="reportable", **said)
        assert browser.submit("/undo").headers["location"] == "/items/1"
        page = browser.visit("/items/1").text
        assert re.findall(ticked, page) == [
            ("categories", "violent-threats"), ("not_speech", "true")
        ]  # fmt: skip
        assert ">&lt;/textarea&gt;half</textarea>" in page


def test_an_older_decision_is_mended_from_the_list_of_one_s_own(desk: Desk) -> None:
    with browser_of(desk, "ada") as browser:
        browser.submit("/claim", mode="score")
        for item in (1, 2, 3):
            browser.submit(f"/items/{item}/decide", verdict="not reportable", note=f"note {item}")
        assert 'action="/items/1/undo"' in browser.visit("/items/1").text
        ways = re.findall(r'action="(/items/\d+/undo)"', browser.visit("/mine").text)
        assert ways == ["/items/3/undo", "/items/2/undo", "/items/1/undo"]
        assert browser.submit("/items/1/undo").headers["location"] == "/items/1"
        assert ">note 1</textarea>" in browser.visit("/items/1").text
        assert 'action="/items/1/undo"' not in browser.visit("/mine").text
        assert browser.submit("/items/1/undo").status_code == 409


def test_a_lead_mends_any_decision_from_the_log_and_the_page_says_so(desk: Desk) -> None:
    with browser_of(desk, "ada") as ada, browser_of(desk, "lea") as lea:
        ada.submit("/claim", mode="score")
        for item in (1, 2):
            ada.submit(f"/items/{item}/decide", verdict="not reportable")
        for page in ("/lead/decisions", "/items/1"):
            assert 'action="/lead/items/1/overrule"' in lea.visit(page).text
        assert lea.submit("/lead/items/1/overrule").headers["location"] == "/items/1"
        assert "Settle it" in lea.visit("/items/1").text
        lea.submit("/items/1/decide", verdict="unsure")
        answer = lea.submit("/lead/items/2/reopen")
        assert "back in the queue" in lea.get(answer.headers["location"]).text
        assert "undone by lea" in lea.get("/lead/decisions").text
        assert "undone by a lead" in ada.get("/mine").text
    assert ask(desk.record, "SELECT audio_file_id, state, verdict FROM review_outcomes") == [
        (1, "settled", "unsure")
    ]


def test_who_goes_wrong_is_told_where_and_keeps_the_menu(desk: Desk) -> None:
    with browser_of(desk, "lea") as browser:
        export = "/lead/export?format=csv&since=2026-11-09&until="
        for path, said in (
            (
                export + "2026-11-02",
                "“Last day”, 2026-11-02, is before the “First day”, 2026-11-09",
            ),
            (export + "soon", "“Last day”"),
            ("/items/one", "audio_file_id"),
        ):
            answer = browser.get(path)
            assert answer.status_code == 400
            for text in (said, "Go back and correct it", "Sign out"):
                assert text in answer.text
            assert "whoever runs the review desk" not in answer.text
        missing = browser.get("/items/77")
        assert missing.status_code == 404
        for text in ("whoever runs the review desk", "Sign out"):
            assert text in missing.text
        assert "correct it" not in missing.text


def test_the_first_page_says_what_there_is_to_begin_with(desk: Desk) -> None:
    ask(desk.record, "UPDATE audio_files SET status = 'reviewed' WHERE id BETWEEN 2 AND 8")
    primary = r'<button class="primary start">([^<]*)</button>'
    with browser_of(desk, "lea") as browser:
        page = browser.visit("/").text
        assert "Only 1 wait now" in page
        assert "no more are drawn, as <code>queue.control_fraction</code> is 0" in page
        assert "Times are Europe/Zurich." in page
        assert re.findall(primary, page) == ["Start with the highest score"]
        browser.submit("/claim", mode="score")
        with browser_of(desk, "ada") as ada:
            browser.submit("/items/1/release")
            ada.submit("/claim", mode="score")
            ada.submit("/items/1/decide", verdict="unsure")
        page = browser.get("/").text
        assert re.findall(primary, page) == ["Settle disputed items: 1"]
        assert page.index("Settle disputed") < page.index("Start with the highest score")


def test_no_form_holds_what_the_database_cannot(desk: Desk) -> None:
    with browser_of(desk, "ada") as browser:
        assert browser.submit("/claim", mode="category", category="a\0b").status_code == 400
        token = {"X-CSRF-Token": browser.csrf}  # as scripts send it
        assert browser.post("/claim", data={"category": "a\0b"}, headers=token).status_code == 400
        assert browser.submit("/claim", mode="category", category="' OR 1=1").status_code == 303


def test_a_database_without_the_desk_s_tables_is_told_to_nobody(desk: Desk) -> None:
    ask(desk.record, "ALTER TABLE reviewers RENAME TO elsewhere")
    try:
        with Browser(desk.url) as browser:
            answer = browser.get("/healthz")
    finally:
        ask(desk.record, "ALTER TABLE elsewhere RENAME TO reviewers")
    assert answer.status_code == 503
    assert "reviewers" not in answer.text


@pytest.mark.parametrize(
    ("hours", "said"),
    [(3, "22:30"), (4.4, "23:54"), (5, "Thu 26 Nov, 00:30"), (37, "Fri 27 Nov, 08:30")],
)
def test_a_time_that_is_not_today_s_is_told_with_its_day(hours: float, said: str) -> None:
    now = datetime(2026, 11, 25, 19, 30, tzinfo=ZoneInfo("Europe/Zurich"))
    assert app_module.soon(now.astimezone(UTC) + timedelta(hours=hours), now) == said


# --- drafts -----------------------------------------------------------------------------


def test_what_is_written_and_ticked_outlives_reload_put_back_and_a_new_session(desk: Desk) -> None:
    written = {"changed": "true", "note": " two\r\nlines", "categories": ["harassment"]}
    with browser_of(desk, "ada") as browser:
        browser.submit("/claim", mode="score")
        browser.submit("/items/1/heartbeat", **written, not_speech="true")
        browser.submit("/items/1/heartbeat")  # in which nothing has changed
        browser.submit("/items/1/release")
    with browser_of(desk, "ben") as browser:
        browser.submit("/claim", mode="score")
        assert "lines" not in browser.visit("/items/1").text
        browser.submit("/items/1/decide", verdict="skipped", reason="other")
    with browser_of(desk, "ada") as browser:
        ask(desk.record, "UPDATE audio_files SET status = 'reviewed' WHERE id BETWEEN 2 AND 8")
        assert browser.submit("/claim", mode="score").headers["location"] == "/items/1"
        page = browser.visit("/items/1").text
        assert "> two\nlines</textarea>" in page
        assert re.findall(r'name="(\w+)" value="([\w-]+)" checked', page) == [
            ("categories", "harassment"), ("not_speech", "true")
        ]  # fmt: skip
        browser.submit("/items/1/decide", verdict="not reportable", note="done")
    assert ask(desk.record, "SELECT * FROM review_drafts WHERE note <> ''") == []


def test_a_draft_is_only_of_who_has_the_item_and_is_refused_where_it_is_too_long(
    desk: Desk,
) -> None:
    with browser_of(desk, "ada") as ada, browser_of(desk, "ben") as ben:
        ada.submit("/claim", mode="score")
        long = "ü" * 5_000
        assert ben.submit("/items/1/heartbeat", changed="true", note="x").status_code == 409
        kept = ada.post(
            "/items/1/heartbeat", files={"changed": (None, "true"), "note": (None, long)},
            headers={"X-CSRF-Token": ada.csrf},
        )  # fmt: skip
        assert kept.status_code == 200
        assert long in ada.visit("/items/1").text
        refused = ada.submit("/items/1/heartbeat", changed="true", note="x" * 10_001)
        assert (refused.status_code, "10,000" in refused.text) == (400, True)
        refused = ada.submit("/items/1/decide", verdict="unsure", note="x" * 5_000)
        assert (refused.status_code, "4,000" in refused.text) == (400, True)
    assert ask(desk.record, "SELECT reviewer_id, length(note) FROM review_drafts") == [(1, 5_000)]


def test_a_page_of_an_ended_session_goes_on_in_the_next_one(desk: Desk) -> None:
    with browser_of(desk, "ada") as page:
        page.submit("/claim", mode="score")
        ask(desk.record, "DELETE FROM review_sessions")
        assert page.submit("/items/1/heartbeat").status_code == 401
        assert page.get("/session", headers={"Accept": "*/*"}).status_code == 401
        with Browser(desk.url) as tab:
            tab.sign_in("ada")
            page.cookies.set("earmark", tab.cookies["earmark"], domain="127.0.0.1")
        assert page.submit("/items/1/heartbeat").status_code == 403  # of the former session
        said = page.get("/session", headers={"Accept": "*/*"}).json()
        assert said["name"] == "ada"
        page.csrf = said["csrf"]
        assert page.submit("/items/1/heartbeat", changed="true", note="on").status_code == 200
        assert page.submit("/items/1/decide", verdict="unsure", note="on").status_code == 303


def test_what_was_put_back_is_not_the_next_item_unless_nothing_else_waits(desk: Desk) -> None:
    with browser_of(desk, "ada") as ada, browser_of(desk, "ben") as ben:
        assert ada.submit("/claim", mode="score").headers["location"] == "/items/1"
        ada.submit("/items/1/release")
        assert ada.submit("/claim", mode="score").headers["location"] == "/items/2"
        assert ben.submit("/claim", mode="score").headers["location"] == "/items/1"
        ben.submit("/items/1/release")
        ask(desk.record, "UPDATE audio_files SET status = 'reviewed' WHERE id BETWEEN 2 AND 8")
        ada.submit("/items/2/release")
        assert ada.submit("/claim", mode="score").headers["location"] == "/items/1"


def test_an_erased_clip_says_so_to_who_had_it_and_to_nobody_else(desk: Desk) -> None:
    with browser_of(desk, "ada") as ada, browser_of(desk, "ben") as ben:
        ada.submit("/claim", mode="score")
        ada.visit("/items/1")
        ada.submit("/items/1/heartbeat", changed="true", note="words of the clip")
        ask(desk.record, "DELETE FROM audio_files WHERE id = 1")
        answers = [
            ada.submit("/items/1/heartbeat"), ada.get("/items/1"),
            ada.submit("/items/1/decide", verdict="unsure", note="words of the clip"),
        ]  # fmt: skip
        assert [answer.status_code for answer in answers] == [410] * 3
        assert "This clip was erased" in answers[1].text
        assert ben.get("/items/1").status_code == 404
    assert ask(desk.record, "SELECT * FROM review_drafts") == []


@pytest.mark.parametrize("path", ["/items/1", "/mine", "/lead/decisions"])
def test_a_link_survives_signing_in(desk: Desk, path: str) -> None:
    with browser_of(desk, "lea") as browser:
        browser.submit("/claim", mode="score")
        browser.cookies.clear()
        asked = browser.get(path).headers["location"]
        form = browser.visit(asked)
        assert f'name="next" value="{path}"' in form.text
        wrong = browser.submit("/sign-in", name="lea", password="wrong", next=path)
        assert f'name="next" value="{path}"' in wrong.text
        answer = browser.submit("/sign-in", name="lea", password=PASSWORD, next=path)
        assert answer.headers["location"] == path
        assert browser.get(path).status_code == 200


@pytest.mark.parametrize(
    "elsewhere",
    ["//evil.example", "https://evil.example/items/1", "/\\evil.example", "/items/1\n", "/sign-out",
     "/items/1/audio", "javascript:alert(1)", "/items/1?next=//evil.example"],
)  # fmt: skip
def test_signing_in_leads_nowhere_but_to_the_desk_s_pages(desk: Desk, elsewhere: str) -> None:
    with Browser(desk.url) as browser:
        form = browser.get("/sign-in", params={"next": elsewhere})
        assert 'name="next"' not in form.text
        browser.visit("/sign-in")
        answer = browser.submit("/sign-in", name="ada", password=PASSWORD, next=elsewhere)
        assert answer.headers["location"] == "/"


# --- what was played --------------------------------------------------------------------


def test_what_was_played_is_on_the_decision_and_in_the_export(desk: Desk) -> None:
    with browser_of(desk, "ada") as ada, browser_of(desk, "lea") as lea:
        ada.submit("/claim", mode="score")
        for heard in ("[[0, 1]]", "[[0.5, 1.5], [4, 99]]", "[]", ""):
            assert ada.submit("/items/1/heartbeat", heard=heard).status_code == 200
        ada.submit("/items/1/decide", verdict="not reportable")
        ada.submit("/items/2/decide", verdict="unsure")
        for hostile in ("[[0, 1]", "[[1, 0]]", '[{"from": 0}]', "[[0, 1e999]]"):
            assert ada.submit("/items/3/heartbeat", heard=hostile).status_code == 400
        lines = lea.get("/lead/export?format=jsonl").text.splitlines()
        log = lea.get("/lead/decisions").text
    told = [(row["heard_seconds"], row["heard_share"]) for row in map(json.loads, lines)]
    assert told == [(2.0, pytest.approx(2 / 4.5)), (0.0, 0.0)]
    assert ask(desk.record, "SELECT heard FROM review_decisions ORDER BY id") == [
        ([[0, 1.5], [4, 4.5]],), ([],)
    ]  # fmt: skip
    assert "not played" in log
    assert "44%" in log


def test_what_was_heard_before_an_undo_counts_for_the_next_decision(desk: Desk) -> None:
    with browser_of(desk, "ada") as ada:
        ada.submit("/claim", mode="score")
        assert 'data-heard="false"' in ada.visit("/items/1").text
        ada.submit("/items/1/heartbeat", heard="[[0, 3]]")
        ada.submit("/items/1/decide", verdict="not reportable", note="typed")
        ada.submit("/undo")
        page = ada.visit("/items/1").text
        assert 'data-heard="true"' in page
        assert ">typed</textarea>" in page
        ada.submit("/items/1/decide", verdict="unsure")
    heard = "SELECT heard FROM review_decisions WHERE verdict <> 'undone' ORDER BY id"
    assert ask(desk.record, heard) == [([[0, 3]],)] * 2


def test_of_a_clip_without_audio_nothing_is_said_about_hearing_it(desk: Desk) -> None:
    ask(desk.record, "UPDATE audio_files SET opus_path = NULL WHERE id = 1")
    with browser_of(desk, "ada") as ada:
        ada.submit("/claim", mode="score")
        ada.submit("/items/1/decide", verdict="unsure")
    assert ask(desk.record, "SELECT heard FROM review_decisions") == [(None,)]


# --- audio ------------------------------------------------------------------------------


def test_audio_is_served_whole_and_in_parts_and_logged(desk: Desk) -> None:
    sound = (desk.root / "audio/date=2026-11-02/sound_01.tar/000001.opus").read_bytes()
    with browser_of(desk, "ada") as browser:
        browser.submit("/claim", mode="score")
        whole = browser.get("/items/1/audio")
        assert (whole.status_code, whole.content) == (200, sound)
        assert whole.headers["content-type"] == "audio/ogg"
        assert whole.headers["accept-ranges"] == "bytes"
        part = browser.get("/items/1/audio", headers={"Range": "bytes=100-199"})
        assert (part.status_code, part.content) == (206, sound[100:200])
        assert part.headers["content-range"] == f"bytes 100-199/{len(sound)}"
        beyond = browser.get("/items/1/audio", headers={"Range": "bytes=999999-"})
        assert beyond.status_code == 416
        peaks = browser.get("/items/1/waveform").json()
        assert max(peaks["peaks"]) == 100
        assert browser.get("/items/2/audio").status_code == 404
    heard = ask(
        desk.record,
        "SELECT r.name, a.audio_file_id, a.detail FROM review_access a "
        "JOIN reviewers r ON r.id = a.reviewer_id WHERE what = 'audio' ORDER BY a.id",
    )
    assert heard == [
        ("ada", 1, "whole"), ("ada", 1, "bytes=100-199"), ("ada", 1, "bytes=999999-")
    ]  # fmt: skip


def test_who_listens_is_at_work_and_stays_signed_in(desk: Desk) -> None:
    with browser_of(desk, "ada") as browser:
        browser.submit("/claim", mode="score")
        browser.visit("/items/1")
        ask(desk.record, "UPDATE review_access SET at = now() - INTERVAL '25 minutes'")
        ask(desk.record, "UPDATE review_sessions SET seen_at = now() - INTERVAL '30 minutes'")
        seen = "SELECT seen_at > now() - INTERVAL '1 minute' FROM review_sessions"
        heard = "SELECT count(*) FROM review_access WHERE what = 'audio' AND detail = 'playing'"
        assert browser.submit("/items/1/heartbeat").status_code == 200
        assert (ask(desk.record, heard), ask(desk.record, seen)) == ([(0,)], [(False,)])
        for minutes in (18, 11, 4):
            for _ in range(2):  # within a minute, which is noted once
                assert browser.submit("/items/1/heartbeat?playing=1").status_code == 200
            ask(
                desk.record,
                "UPDATE review_access SET at = now() - %s * INTERVAL '1 minute' "
                "WHERE at > now() - INTERVAL '1 minute'",
                minutes,
            )
        assert (ask(desk.record, heard), ask(desk.record, seen)) == ([(3,)], [(True,)])
        assert "25 min at work" in browser.get("/").text
    with browser_of(desk, "ben") as browser:
        assert browser.submit("/items/1/heartbeat?playing=1").status_code == 409
    assert ask(desk.record, heard) == [(3,)]


@pytest.mark.parametrize(
    "path",
    ["/items/1%2F..%2F2/audio", "/items/../items/2/audio", "/items/-1/audio", "/items/1e3/audio",
     "/items/99999999999999999999999999/audio", "/items/%00/audio", "/static/../web.py",
     "/static/%2e%2e/web.py", "/static/..%2fweb.py", "/static//etc/passwd"],
)  # fmt: skip
def test_no_path_leads_out(desk: Desk, path: str) -> None:
    with browser_of(desk, "ada") as browser:
        browser.submit("/claim", mode="score")
        # Sent as it stands: a client would tidy it up first.
        answer = browser.send_raw(path)
        assert b" 200 " not in answer.partition(b"\r\n")[0]
        assert b"import" not in answer
        assert b"root:" not in answer


def test_audio_that_a_row_points_outside_for_is_not_there(desk: Desk) -> None:
    ask(desk.record, "UPDATE audio_files SET opus_path = '../../../etc/passwd' WHERE id = 1")
    with browser_of(desk, "ada") as browser:
        browser.submit("/claim", mode="score")
        assert browser.get("/items/1/audio").status_code == 404
        assert browser.get("/items/1/waveform").status_code == 404


# --- blindness --------------------------------------------------------------------------


def test_the_model_s_score_is_not_in_the_page_before_the_decision(desk: Desk) -> None:
    ask(desk.record, "UPDATE classifications SET flag_score = 0.98765 WHERE audio_file_id = 1")
    with browser_of(desk, "ada") as browser:
        browser.submit("/claim", mode="score")
        assert not re.search(r"0\.9[89]|98\.8|99 ?%", browser.visit("/items/1").text)
        browser.submit("/items/1/decide", verdict="not reportable")
        assert re.search(r"0\.9[89]|98\.8|99 ?%", browser.get("/mine").text)


def test_a_second_person_s_page_is_as_a_first_s(migrated_database: str, tmp_path: Path) -> None:
    fill(migrated_database, flagged=2)
    join(migrated_database, "ada", "ben")
    write_sound(tmp_path)
    pages = []
    with serving(write_config(tmp_path, migrated_database, second_review_fraction=1)) as server:
        for name in ("ada", "ben"):
            with Browser(server.url) as browser:
                browser.sign_in(name)
                given = browser.submit("/claim", mode="score").headers["location"]
                assert given == "/items/1"
                page = browser.visit("/items/1").text.replace(name, "NAME")
                browser.submit("/items/1/decide", verdict="not reportable", note="quiet")
                browser.submit("/sign-out")
            # all but what is of the day and of the session
            main = re.search(r"<main.*</main>", page, re.DOTALL)
            assert main is not None
            pages.append(re.sub(r'value="[0-9a-f]{64}"', "", main[0]))
    assert pages[0] == pages[1]


def test_what_waits_for_a_second_person_only_can_be_asked_for_as_anything_else(
    migrated_database: str, tmp_path: Path
) -> None:
    fill(migrated_database, flagged=1, controls=1)
    join(migrated_database, "ada", "ben")

    def ways_to_begin() -> str:
        found = re.search(r'aria-labelledby="choose-title".*?</section>', ben.visit("/").text, re.S)
        assert found is not None
        return found[0].replace(ben.csrf, "")

    configfile = write_config(tmp_path, migrated_database, second_review_fraction=1)
    with serving(configfile) as server, Browser(server.url) as ada, Browser(server.url) as ben:
        ada.sign_in("ada")
        ben.sign_in("ben")
        before = ways_to_begin()
        assert "<option>scams</option>" in before
        assert "disabled" not in before
        given = {"control": "/items/2", "category": "/items/1"}
        for mode in given:
            path = ada.submit("/claim", mode=mode, category="scams").headers["location"]
            ada.submit(path.partition("?")[0] + "/decide", verdict="not reportable")
        assert ways_to_begin() == before
        for mode, path in given.items():
            found = ben.submit("/claim", mode=mode, category="scams").headers["location"]
            assert found.startswith(path)
            ben.submit(f"{path}/decide", verdict="not reportable")
        assert ways_to_begin() == before  # nothing waits any more, which only a click tells


def test_languages_and_doubts_are_shown_with_the_transcript(desk: Desk) -> None:
    shares = [{"language": "fr", "share": 0.75}, {"language": "en", "share": 0.25}]
    segment = {"start": 0, "end": 2, "text": "Mots.", "language": "fr", "doubt": "repeated text"}
    ask(
        desk.record,
        "UPDATE transcripts SET doubt = 'repeated text', compression_ratio = 3.14, "
        "languages = %s, segments = %s",
        json.dumps(shares), json.dumps([segment]),
    )  # fmt: skip
    with browser_of(desk, "ada") as browser:
        browser.submit("/claim", mode="score")
        page = browser.visit("/items/1").text
    assert '<span dir="auto" lang="fr">Mots.</span>' in page
    read = " ".join(re.sub(r"<[^>]*>", "", page).split())
    assert "fr (75% of the speech), en (25% of the speech)" in read
    assert "Doubtfulrepeated text (compression ratio 3.1)" in read
    assert "Mots. (doubtful: repeated text)" in read
