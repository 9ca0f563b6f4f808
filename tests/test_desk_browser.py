"""The review desk as people meet it: Chromium, the served desk, and the demo's own clips.

The clips come from tests/demo_record.py; `earmark review` runs as a process of its own.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import demo_record
import pytest
from desk_record import PASSWORD, ask, join
from desk_server import serving, write_config
from on_demand import OnDemand
from psycopg2.extensions import make_dsn

from earmark import REPOSITORY
from earmark.desk.connections import Connections
from earmark.policy.policies import load_policies

if TYPE_CHECKING:
    from axe_playwright_python import sync_playwright as axe
    from playwright import sync_api
    from playwright.sync_api import Browser, Dialog, Page, Playwright, Response
else:
    axe = OnDemand("axe_playwright_python.sync_playwright")
    sync_api = OnDemand("playwright.sync_api")

LEASE = 5.0  # seconds
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
#: Numbered like this on the keyboard.
CATEGORIES = ["harassment", "scams", "violent-threats"]
STATIC = Path(REPOSITORY / "src/earmark/desk/static")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A volume with what the demo's archives become."""
    root = tmp_path_factory.mktemp("volume")
    demo_record.make(root)
    return root


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_api.sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def chromium(playwright: Playwright) -> Iterator[Browser]:
    browser = playwright.chromium.launch(
        executable_path=shutil.which("chromium"), args=["--no-sandbox"]
    )
    yield browser
    browser.close()


def expect(actual: Any) -> Any:
    return sync_api.expect(actual)


class Seat:
    """Somebody before a screen."""

    def __init__(self, browser: Browser, url: str, **context: Any) -> None:
        self.context = browser.new_context(
            **{"base_url": url, "viewport": {"width": 1280, "height": 800}, **context}
        )
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on(
            "console",
            lambda said: self.complaints.append(said.text) if said.type == "error" else None,
        )

    def sign_in(self, name: str) -> Seat:
        self.page.goto("/sign-in")
        self.type(name)
        self.press("Tab")
        self.type(PASSWORD)
        with self.page.expect_navigation(url=re.compile(r"/$")):
            self.press("Enter")
        return self

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def type(self, text: str) -> None:
        self.page.keyboard.type(text)

    def start(self, button: str = "Start with the highest score") -> None:
        """From the queue to an item, by keyboard: over the skip link to the button."""
        self.press("Tab", "Enter")
        for _ in range(10):
            self.press("Tab")
            if self.focused() == button:
                break
        assert self.focused() == button
        with self.page.expect_navigation(url=re.compile("/items/")):
            self.press("Enter")

    def decide(self, *keys: str) -> None:
        """Press keys; the last one decides and leads to another page.

        Who has played nothing is asked once, and says the same again.
        """
        self.page.wait_for_timeout(350)  # sooner, a key is taken for a slip
        self.press(*keys[:-1])
        with self.page.expect_navigation():
            item = self.page.url
            self.press(keys[-1])
            asked = self.page.locator("#decide-problem", has_text="have not played")
            deadline = time.monotonic() + 10
            while self.page.url == item and time.monotonic() < deadline:
                if asked.is_visible():
                    self.press(keys[-1])
                    break
                self.page.wait_for_timeout(20)

    def until(self, condition: str) -> None:
        """Wait for a condition in the page; Playwright's own way is refused by the desk's CSP."""
        deadline = time.monotonic() + 10
        while not self.page.evaluate(condition):
            assert time.monotonic() < deadline, condition
            self.page.wait_for_timeout(50)

    def focused(self) -> str:
        return str(self.page.evaluate("document.activeElement.innerText.trim()"))

    @property
    def item(self) -> int:
        return int(self.page.locator("h1").inner_text().removeprefix("Item "))

    def audio(self, name: str) -> Any:
        return self.page.evaluate(f"document.querySelector('audio').{name}")

    def count(self, pattern: str) -> list[str]:
        """Note the addresses of coming requests that fit a pattern."""
        seen: list[str] = []

        def note(answer: Response) -> None:
            if re.search(pattern, answer.url):
                seen.append(answer.url)

        self.page.on("response", note)
        return seen


class Desk:
    """A desk over the demo's clips, with `ada`, `ben` and the lead `lea`."""

    def __init__(self, chromium: Browser, url: str, record: Connections) -> None:
        self.chromium, self.url, self.record = chromium, url, record
        self.seats: list[Seat] = []

    def seat(self, name: str | None = None, **context: Any) -> Seat:
        seat = Seat(self.chromium, self.url, **context)
        self.seats.append(seat)
        return seat.sign_in(name) if name else seat

    def ask(self, sql: str, *values: object) -> list[Any]:
        return [row[0] if len(row) == 1 else row for row in ask(self.record, sql, *values)]


@pytest.fixture(scope="module")
def serving_desk(postgres: str, made: Path) -> Iterator[tuple[str, Connections]]:
    """A desk over the demo's clips, for all tests here; every clip is drawn for a second person."""
    conninfo = make_dsn(postgres, dbname="migrated")
    record = Connections(conninfo, 2)
    ask(record, "TRUNCATE archives, audio_files RESTART IDENTITY CASCADE")
    demo_record.load(made, conninfo)
    config = write_config(made, conninfo, lease_seconds=LEASE, second_review_fraction=1)
    with serving(config) as server:
        yield server.url, record
    record.close()


@pytest.fixture
def desk(chromium: Browser, serving_desk: tuple[str, Connections], postgres: str) -> Iterator[Desk]:
    """The same with nothing decided yet, and with `ada`, `ben` and the lead `lea`."""
    url, record = serving_desk
    ask(record, "TRUNCATE reviewers, second_reviews, review_waiting RESTART IDENTITY CASCADE")
    ask(
        record,
        "UPDATE audio_files SET status = CASE WHEN queue_categories IS NULL THEN 'transcribed' "
        "ELSE 'flagged' END WHERE status = 'reviewed'",
    )
    conninfo = make_dsn(postgres, dbname="migrated")
    join(conninfo, "ada", "ben")
    join(conninfo, "lea", role="lead")
    opened = Desk(chromium, url, record)
    yield opened
    for seat in opened.seats:
        seat.context.close()


# --- working through the queue ----------------------------------------------------------


def test_ten_items_are_decided_by_keyboard_alone(desk: Desk) -> None:
    queue = desk.ask("SELECT id FROM ra_queue")
    flagged = dict(ask(desk.record, "SELECT id, flag_categories FROM ra_queue"))
    other = sorted(set(CATEGORIES) - {*flagged[queue[9]]})
    ada = desk.seat("ada")
    ada.start()
    keys: list[tuple[str, ...]] = [
        ("r",),
        ("n",),
        ("u",),
        ("w", "n"),
        ("a", "n"),
        ("l", "u"),
        ("s", "3"),
        ("Space", "j", "k", ".", ",", "m", "ArrowRight", "ArrowLeft", "h", "h", "n"),
        ("p", "Escape", "?", "Escape", "R"),
        ("1", "2", "3", "r"),
    ]
    for clip, pressed in zip(queue, keys, strict=False):
        assert ada.item == clip
        if clip == queue[1]:
            ada.press("t")
            ada.type("Run, not urgent")
            ada.press("Escape")
        ada.decide(*pressed)
    assert desk.ask(
        "SELECT audio_file_id, verdict, categories, note, reason, "
        "ARRAY_REMOVE(ARRAY[CASE WHEN transcript_wrong THEN 'w' END, "
        "CASE WHEN not_speech THEN 'a' END, CASE WHEN wrong_language THEN 'l' END], NULL) "
        "FROM review_decisions ORDER BY id"
    ) == [
        (queue[0], "reportable", sorted(flagged[queue[0]]), None, None, []),
        (queue[1], "not reportable", [], "Run, not urgent", None, []),
        (queue[2], "unsure", [], None, None, []),
        (queue[3], "not reportable", [], None, None, ["w"]),
        (queue[4], "not reportable", [], None, None, ["a"]),
        (queue[5], "unsure", [], None, None, ["l"]),
        (queue[6], "skipped", [], None, "language I do not speak", []),
        (queue[7], "not reportable", [], None, None, []),
        (queue[8], "reportable", sorted(flagged[queue[8]]), None, None, []),
        (queue[9], "reportable", other, None, None, []),
    ]
    assert ada.complaints == []


def test_a_key_takes_the_last_decision_back_and_opens_its_item_again(desk: Desk) -> None:
    ada = desk.seat("ada")
    ada.start()
    first = ada.item
    ada.press("t")
    ada.type("Too quick")
    ada.press("Escape")
    ada.decide("n")
    assert ada.item != first
    ada.decide("z")
    assert ada.item == first
    expect(ada.page.locator("#note")).to_have_value("Too quick")
    ada.decide("r")
    assert desk.ask("SELECT audio_file_id, verdict FROM review_standing") == [(first, "reportable")]
    assert desk.ask("SELECT verdict FROM review_decisions ORDER BY id") == [
        "not reportable", "undone", "reportable",
    ]  # fmt: skip


def test_undoing_leaves_the_open_item_and_keeps_what_was_written_about_it(desk: Desk) -> None:
    ada = desk.seat("ada")
    ada.start()
    ada.decide("n")
    left = ada.item
    ada.press("t")
    ada.type("half a thought")
    ada.press("Escape")
    ada.decide("z")
    assert ada.item != left
    assert desk.ask("SELECT audio_file_id, note FROM review_drafts WHERE note <> ''") == [
        (left, "half a thought")
    ]


def test_a_note_is_kept_while_it_is_written_and_what_is_too_long_is_refused_whole(
    desk: Desk,
) -> None:
    ada = desk.seat("ada", reduced_motion="reduce")
    ada.start()
    note, count = ada.page.locator("#note"), ada.page.locator("#note-count")
    note.fill("é" * 4_001)
    expect(count).to_have_text("4,001 of 4,000 characters: too long")
    assert violations(ada.page) == []
    ada.press("Escape")
    ada.page.wait_for_timeout(350)
    ada.press("n")
    expect(ada.page.locator("#decide-problem")).to_contain_text("1 characters too long")
    assert desk.ask("SELECT count(*) FROM review_decisions") == [0]
    expect(ada.page.locator("#kept")).to_have_text("Kept")
    ada.page.reload()
    assert len(note.input_value()) == 4_001
    asked: list[str] = []

    def refuse(dialog: Dialog) -> None:
        asked.append(dialog.type)
        dialog.dismiss()

    ada.page.on("dialog", refuse)
    note.press_sequentially("x")
    ada.page.evaluate("location.assign('/')")
    ada.page.wait_for_timeout(300)
    assert asked == ["beforeunload"]
    note.fill("short enough")
    ada.press("Escape")
    ada.decide("n")
    assert desk.ask("SELECT note FROM review_decisions") == ["short enough"]
    assert desk.ask("SELECT count(*) FROM review_drafts WHERE note <> ''") == [0]


def test_signing_in_again_in_another_tab_revives_the_first(desk: Desk) -> None:
    ada = desk.seat("ada")
    ada.start()
    first = ada.item
    desk.ask("DELETE FROM review_sessions")
    ada.page.locator("#note").fill("written signed out")
    banner = ada.page.locator("#claim")
    expect(banner).to_contain_text("You are signed out")
    with ada.context.expect_page() as opened:
        banner.get_by_role("link", name="another tab").click()
    tab = opened.value
    tab.get_by_label("Name").fill("ben")
    tab.get_by_label("Password").fill(PASSWORD)
    tab.get_by_role("button", name="Sign in").click()
    expect(banner).to_contain_text("Somebody else has signed in", timeout=15_000)
    tab.get_by_role("button", name="Sign out").click()
    tab.get_by_label("Name").fill("ada")
    tab.get_by_label("Password").fill(PASSWORD)
    tab.get_by_role("button", name="Sign in").click()
    expect(banner).to_be_hidden(timeout=15_000)
    ada.page.bring_to_front()
    ada.page.locator("body").click(position={"x": 1, "y": 1})
    ada.decide("n")
    assert desk.ask("SELECT audio_file_id, note, verdict FROM review_decisions") == [
        (first, "written signed out", "not reportable")
    ]


def test_the_policies_stand_beside_the_text_while_keys_and_player_work(desk: Desk) -> None:
    ada = desk.seat("ada")
    ada.start()
    ada.press("p")
    policy = ada.page.locator("#policy")
    expect(policy).to_be_visible()
    text, beside = ada.page.locator("#text").bounding_box(), policy.bounding_box()
    assert text is not None
    assert beside is not None
    assert text["x"] + text["width"] <= beside["x"] + 1
    ada.press("Space")
    ada.until("document.querySelector('audio').currentTime > 0")
    ada.decide("n")
    expect(policy).to_be_visible()  # at the next item too
    ada.press("p")
    expect(policy).to_be_hidden()


def test_reportable_needs_a_category_and_a_held_key_decides_once(desk: Desk) -> None:
    ada = desk.seat("ada")
    ada.start("Start with a control")
    control = ada.item
    ada.page.wait_for_timeout(350)
    ada.press("r")
    expect(ada.page.locator("#decide-problem")).to_contain_text("Choose at least one category")
    assert ada.page.evaluate("document.activeElement.value") == "harassment"
    ada.press("2")
    expect(ada.page.locator("#decide-problem")).to_be_hidden()
    for _ in range(20):
        ada.page.keyboard.down("r")  # repeats, as long as it is not let go
    ada.page.keyboard.up("r")
    expect(ada.page.locator("#decide-problem")).to_contain_text("have not played this clip")
    button = ada.page.get_by_role("button", name="Reportable", exact=True)
    button.focus()
    ada.page.keyboard.down("Enter")
    ada.page.keyboard.up("Enter")
    ada.page.wait_for_url(lambda url: not url.endswith(f"/{control}"))
    ada.page.wait_for_timeout(500)
    assert desk.ask("SELECT audio_file_id, verdict, categories FROM review_decisions") == [
        (control, "reportable", ["scams"])
    ]


def test_two_people_differ_blindly_and_a_lead_settles_it_and_takes_the_decisions_along(
    desk: Desk, tmp_path: Path
) -> None:
    ada = desk.seat("ada")
    ada.start()
    clip, page = ada.item, ada.page.locator("main").inner_text()
    ada.decide("u")
    ada.decide("z")
    ada.press("t")
    ada.type("It sounds staged")
    ada.press("Escape")
    ada.decide("r")

    ben = desk.seat("ben")
    ben.start()
    assert ben.item == clip
    assert ben.page.locator("main").inner_text() == page
    assert not re.search(r"staged|0[.]9\d", ben.page.content())
    ben.decide("n")

    lea = desk.seat("lea")
    lea.start("Settle disputed items: 1")
    assert lea.item == clip
    for known in ("It sounds staged", "ada, first review", "ben, second review", "0.9"):
        expect(lea.page.locator("main")).to_contain_text(known)
    unsure = lea.page.get_by_role("button", name="Unsure").bounding_box()
    assert unsure is not None
    assert unsure["y"] + unsure["height"] <= 800
    expect(lea.page.locator(".earlier s")).to_have_text(["unsure", "undone"])
    lea.decide("r")
    lea.page.goto(f"/items/{clip}")
    expect(lea.page.locator(".earlier")).to_contain_text("lea, settled it")
    assert desk.ask("SELECT state, verdict FROM review_outcomes") == [("settled", "reportable")]

    lea.page.goto("/lead")
    with lea.page.expect_download() as download:
        lea.page.get_by_role("button", name="Download").click()
    download.value.save_as(tmp_path / "decisions.csv")
    with (tmp_path / "decisions.csv").open(newline="", encoding="utf-8-sig") as file:
        rows = [(row["reviewer"], row["round"], row["verdict"]) for row in csv.DictReader(file)]
    assert rows == [
        ("ada", "first", "unsure"),
        ("ada", "first", "undone"),
        ("ada", "first", "reportable"),
        ("ben", "second", "not reportable"),
        ("lea", "adjudication", "reportable"),
    ]


# --- the player and the text ------------------------------------------------------------


def test_the_audio_is_not_asked_for_before_somebody_plays_it_and_starts_at_half_volume(
    desk: Desk,
) -> None:
    ada = desk.seat("ada")
    asked = ada.count("/audio$")
    ada.start()
    ada.page.wait_for_timeout(500)
    assert asked == []
    assert ada.audio("volume") == 0.5
    ada.press("Space")
    expect(ada.page.get_by_role("button", name="Pause")).to_be_visible()
    ada.until("document.querySelector('audio').currentTime > 0.3")
    assert asked
    assert desk.ask("SELECT count(*) > 0 FROM review_access WHERE what = 'audio'") == [True]
    expect(ada.page.locator(".segment[aria-current]")).to_have_count(1)
    ada.press("Space")
    expect(ada.page.get_by_role("button", name="Play", exact=True)).to_be_visible()


def test_thousands_of_parts_of_a_text_are_skipped_by_keyboard(desk: Desk) -> None:
    (clip,) = desk.ask("SELECT id FROM ra_queue LIMIT 1")
    (former,) = desk.ask("SELECT segments::text FROM transcripts WHERE audio_file_id = %s", clip)
    parts = [{"start": n / 500, "end": (n + 1) / 500, "text": f" {n}."} for n in range(2000)]
    change = "UPDATE transcripts SET segments = %s WHERE audio_file_id = %s"
    desk.ask(change, json.dumps(parts), clip)
    ada = desk.seat("ada")
    ada.start()
    assert (ada.item, ada.page.locator(".segment").count()) == (clip, 2000)

    def tabs_to(name: str) -> int:
        for count in range(1, 60):
            ada.press("Tab")
            if ada.focused().startswith(name):
                return count
        raise AssertionError(f"{name} is too far away")

    assert tabs_to("Skip to the decision") == 2
    ada.press("Enter")
    ada.press("Tab")
    assert ada.page.evaluate("document.activeElement.name") == "categories"
    ada.page.reload()
    tabs_to("Skip the text")
    ada.press("Enter")
    assert tabs_to("Play") <= 2  # past the picture
    desk.ask(change, former, clip)


def test_a_click_on_the_text_or_the_picture_leads_there(desk: Desk) -> None:
    (clip,) = desk.ask("SELECT id FROM ra_queue LIMIT 1")
    desk.ask(
        "UPDATE transcripts SET segments = %s WHERE audio_file_id = %s",
        json.dumps([
            {"start": 0.0, "end": 1.0, "text": " One."},
            {"start": 1.0, "end": 2.0, "text": " Two."},
            {"start": 2.0, "end": 3.0, "text": " Three."},
        ]),
        clip,
    )  # fmt: skip
    ada = desk.seat("ada")
    ada.start()
    ada.page.get_by_text("Two.").click()
    ada.until("document.querySelector('audio').currentTime > 1.05")
    expect(ada.page.locator(".segment[aria-current]")).to_contain_text("Two.")
    ada.press("Space", "j")
    ada.until("document.querySelector('audio').currentTime > 2.02")
    ada.press("Space")
    box = ada.page.locator(".wave").bounding_box()
    assert box is not None
    ada.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 30)
    duration = ada.audio("duration")
    assert ada.audio("currentTime") == pytest.approx(duration / 2, abs=duration * 0.03)
    for _ in range(9):
        ada.press(".")
    assert ada.audio("playbackRate") == 2
    for _ in range(9):
        ada.press(",")
    assert ada.audio("playbackRate") == 0.5
    drawn = ada.page.evaluate(
        "(() => { const c = document.querySelector('canvas');"
        "return c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(Boolean) })()"
    )
    assert drawn


def test_an_item_tells_what_is_known_of_its_clip(desk: Desk) -> None:
    desk.ask(
        "UPDATE audio_files SET status = 'reviewed' WHERE status = 'flagged' "
        "AND (archive_id, ordinal) NOT IN ("
        "SELECT archive_id, duplicate_of FROM audio_files WHERE duplicate_of IS NOT NULL)"
    )
    ada = desk.seat("ada")
    ada.start()
    expect(ada.page.locator(".warning")).to_have_text("May contain: Fraud and Scams (scams)")
    for fact in ("sound_2026-11-01_02.tar", "English (", "Confidence"):
        expect(ada.page.locator(".facts")).to_contain_text(fact)
    ada.page.get_by_text("Uploaded 1 more time").click()
    expect(ada.page.locator(".clip > div:first-child details li")).to_contain_text(
        "sound_2026-11-01_02.tar, loaded"
    )
    ada.press("p")
    (scams,) = [policy for policy in demo_record.POLICIES if policy.category == "scams"]
    policy = ada.page.locator("#policy details[open]")
    expect(policy).to_contain_text("This policy is about speech that tries to obtain money")
    expect(policy).to_contain_text(scams.sha256[:16])


def test_settings_hide_the_text_mute_the_audio_and_leave_out_a_category(desk: Desk) -> None:
    ada = desk.seat("ada")
    ada.page.goto("/settings")
    ada.page.get_by_label("Hide transcripts").check()
    ada.page.get_by_label("Start muted").check()
    ada.page.get_by_label("scams").check()
    ada.page.get_by_role("button", name="Save").click()
    expect(ada.page.get_by_text("Your settings are kept.")).to_be_visible()
    ada.start()
    assert ada.audio("muted") is True
    silence = ada.page.get_by_text("It plays, but it is muted.")
    expect(ada.page.get_by_role("button", name="Muted", pressed=True)).to_be_visible()
    expect(silence).to_be_hidden()
    ada.press("Space")
    expect(silence).to_be_visible()
    expect(ada.page.locator("#text")).to_be_hidden()
    ada.press("h")
    expect(ada.page.locator("#text")).to_be_visible()
    ada.press("m")
    assert ada.audio("muted") is False
    expect(ada.page.get_by_role("button", name="Mute", pressed=False)).to_be_visible()
    expect(silence).to_be_hidden()
    assert desk.ask(
        "SELECT 'scams' = ANY (queue_categories) FROM audio_files WHERE id = %s", ada.item
    ) == [False]


def test_keys_rest_while_somebody_writes_and_can_be_switched_off(desk: Desk) -> None:
    ada = desk.seat("ada")
    ada.start()
    first = ada.page.url
    ada.page.wait_for_timeout(350)
    ada.press("t")
    ada.type("runs, and then ?")
    expect(ada.page.locator("#note")).to_have_value("runs, and then ?")
    ada.press("Escape")
    ada.press("?")
    ada.press("r")  # a dialog is open
    ada.page.get_by_label("Keys of one letter").uncheck()
    ada.press("Escape")
    ada.press("r", "n", "u", "s", "Space")
    expect(ada.page.locator("dialog[open]")).to_have_count(0)
    ada.page.reload()
    ada.page.wait_for_timeout(350)
    ada.press("r", "z", "?")
    expect(ada.page.locator("dialog[open]")).to_have_count(0)
    assert ada.page.url == first
    assert desk.ask("SELECT count(*) FROM review_decisions") == [0]


# --- what goes wrong, and care ----------------------------------------------------------


def test_who_loses_the_connection_and_then_the_item_is_told_and_keeps_the_note(desk: Desk) -> None:
    ada = desk.seat("ada")
    ada.start()
    ada.decide("u")
    clip = ada.item
    banner = ada.page.locator("#claim")
    ada.page.wait_for_timeout(350)
    acting = ("Unsure", "Undo", "Put it back", "Skip…")
    ada.context.set_offline(True)
    ada.press("z")
    expect(banner).to_contain_text("no connection")
    expect(banner.get_by_role("link")).to_be_hidden()
    for name in acting:
        expect(ada.page.get_by_role("button", name=name, exact=True)).to_be_disabled()
    ada.press("n", "s")
    expect(ada.page.locator("dialog[open]")).to_have_count(0)
    ada.context.set_offline(False)
    expect(banner).to_be_hidden(timeout=10_000)
    for name in acting:
        expect(ada.page.get_by_role("button", name=name, exact=True)).to_be_enabled()
    ada.press("t")
    ada.type("half a thought")
    ada.press("Escape")
    assert ada.item == clip

    ada.context.set_offline(True)
    desk.ask("UPDATE review_claims SET expires_at = now()")
    ben = desk.seat("ben")
    ben.start()
    assert ben.item == clip
    ada.context.set_offline(False)
    expect(banner).to_contain_text("somebody else", timeout=10_000)
    expect(ada.page.get_by_role("button", name="Not reportable")).to_be_disabled()
    ada.press("n")
    expect(ada.page.locator("#note")).to_have_value("half a thought")
    expect(banner.get_by_role("button", name="Copy the note")).to_be_visible()
    assert desk.ask("SELECT count(*) FROM review_decisions") == [1]


def test_who_decides_in_another_tab_is_told_in_the_first_and_led_to_the_queue(desk: Desk) -> None:
    ada = desk.seat("ada")
    ada.start()
    other = ada.context.new_page()
    other.goto(ada.page.url)
    with other.expect_navigation():
        for _ in range(2):  # the first time, it asks as nothing was played
            other.get_by_role("button", name="Not reportable").click()
    ada.press("u")
    banner = ada.page.locator("#claim")
    expect(banner).to_contain_text("not open for you any more: it was decided", timeout=10_000)
    expect(banner.get_by_role("button")).to_be_hidden()  # there is no note to copy
    ada.page.wait_for_timeout(350)
    with ada.page.expect_navigation(url=re.compile(r"/$")):
        banner.get_by_role("link", name="Go to the queue").click()
    assert desk.ask("SELECT verdict FROM review_decisions") == ["not reportable"]


def test_an_open_page_keeps_its_item(desk: Desk) -> None:
    ada = desk.seat("ada")
    ada.start()
    clip = ada.item
    ada.page.wait_for_timeout(1.2 * LEASE * 1000)
    ben = desk.seat("ben")
    ben.start()
    assert ben.item != clip


def test_the_page_says_whether_its_audio_plays(desk: Desk) -> None:
    ada = desk.seat("ada")
    ada.start()
    silent, playing = ada.count(r"/heartbeat$"), ada.count(r"/heartbeat\?playing=1$")
    ada.page.wait_for_timeout(LEASE * 500)
    assert silent
    assert playing == []
    ada.page.evaluate("document.querySelector('audio').loop = true")
    ada.press(" ")
    ada.until("!document.querySelector('audio').paused")
    while not playing:  # one that was silent may still be on its way
        ada.page.wait_for_timeout(50)
    silent.clear()
    ada.page.wait_for_timeout(LEASE * 500)
    assert silent == []
    assert desk.ask("SELECT count(*) FROM review_access WHERE detail = 'playing'") == [1]
    ada.press(" ")
    while not silent:  # one that tells of playing may still be on its way
        ada.page.wait_for_timeout(50)
    playing.clear()
    ada.page.wait_for_timeout(LEASE * 500)
    assert playing == []


def test_a_break_is_suggested_once_it_is_due_and_not_again_at_once(desk: Desk) -> None:
    ada = desk.seat("ada")
    ada.start()
    expect(ada.page.locator("#break")).to_have_count(0)
    desk.ask(
        "INSERT INTO review_access (reviewer_id, audio_file_id, what, at) "
        "SELECT 1, %s, 'page', now() - minutes * INTERVAL '1 minute' "
        "FROM generate_series(5, 50, 5) minutes",
        ada.item,
    )
    ada.page.reload()
    reminder = ada.page.locator("#break")
    expect(reminder).to_contain_text("You have worked for 50 minutes without a break")
    reminder.get_by_role("button").click()
    expect(reminder).to_be_hidden()
    settings = desk.seat("ada")
    settings.page.goto("/settings")
    expect(settings.page.locator("#break")).to_be_visible()
    settings.page.get_by_text("Suggest a break after").click()
    expect(settings.page.get_by_label("Suggest a break after")).to_be_focused()
    assert settings.complaints == []
    ada.decide("n")
    expect(ada.page.locator("#break")).to_be_hidden()
    expect(ada.page.locator(".today")).to_contain_text("2 items, 50 min at work")


# --- how it looks -----------------------------------------------------------------------


def violations(page: Page, *rules: str) -> list[str]:
    """What axe finds against WCAG 2.2 AA and its makers' best practice."""
    # Axe: https://github.com/dequelabs/axe-core/blob/develop/doc/API.md
    found = axe.Axe().run(page, options={"runOnly": list(rules) or WCAG})
    return [
        f"{page.url}: {each['id']}: {node['html']}"
        for each in found.response["violations"]
        for node in each["nodes"]
    ]


def test_no_page_has_barriers_that_axe_knows_and_none_scrolls_sideways(desk: Desk) -> None:
    still: Any = {"reduced_motion": "reduce"}  # no colour is half way to another
    nobody = desk.seat(**still)
    nobody.page.goto("/sign-in")
    ada = desk.seat("ada", **still)
    ada.start()
    settled = ada.item
    ada.decide("r")
    for key in ("u", "n"):
        ada.decide(key)
    open_item = ada.page.url
    ben = desk.seat("ben")
    ben.start()
    ben.decide("n")
    lea = desk.seat("lea", **still)
    lea.start("Settle disputed items: 2")
    disputed = lea.page.url
    lea.page.goto("/lead")
    lea.page.get_by_role("button", name="Link to a new password for ada").click()
    link = urlsplit(lea.page.locator("code").inner_text()).path

    shown = [
        (nobody, ["/sign-in", link], []),
        (ada, ["/", "/?empty=1", "/mine", "/settings", "/nowhere", f"/items/{settled}"], []),
        (ada, [open_item], ["?", "s"]),
        (lea, [disputed, "/", "/lead", "/lead/decisions", "/lead/access"], []),
    ]
    found = violations(lea.page)
    for seat, paths, dialogs in shown:
        for path in paths:
            seat.page.set_viewport_size({"width": 1280, "height": 800})
            seat.page.emulate_media(color_scheme="light")
            seat.page.goto(path)
            found += violations(seat.page)
            for key in dialogs:
                seat.press(key)
                expect(seat.page.locator("dialog[open]")).to_have_count(1)
                found += violations(seat.page)
                seat.press("Escape")
            if dialogs:
                seat.press("p")
                expect(seat.page.locator("#policy")).to_be_visible()
                found += violations(seat.page)
            seat.page.emulate_media(color_scheme="dark")
            found += violations(seat.page, "color-contrast")
            seat.page.set_viewport_size({"width": 320, "height": 640})
            if seat.page.evaluate("document.documentElement.scrollWidth > innerWidth"):
                found.append(f"{path} scrolls sideways")
            cells = "[...document.querySelectorAll('.scroll :is(td:not(.free), tbody th)')]"
            if seat.page.evaluate(f"{cells}.some(({{offsetHeight}}) => offsetHeight > 50)"):
                found.append(f"{path} breaks a table's words")
    assert found == []


def test_an_item_with_six_categories_fits_a_laptop_s_screen_without_scrolling(desk: Desk) -> None:
    policies = load_policies(REPOSITORY / "config/policies")
    assert len(policies) == 6
    desk.ask(
        "UPDATE provenance SET facts = facts || jsonb_build_object('policy_sha256', %s::text) "
        "WHERE kind = 'classifications'",
        json.dumps({policy.category: policy.sha256 for policy in policies}),
    )
    for policy in policies:
        desk.ask(
            "INSERT INTO policies VALUES (%s, %s) ON CONFLICT DO NOTHING",
            policy.sha256,
            policy.text,
        )
    ada = desk.seat("ada")
    ada.start()
    ada.decide("n")  # the next one also has the line with the last decision
    overflow = ada.page.evaluate(
        "[document.documentElement, ...document.querySelectorAll('.decision, .clip, .text')]"
        ".map(({scrollHeight, clientHeight}) => scrollHeight - clientHeight)"
    )
    assert max(overflow) <= 0
    ada.page.set_viewport_size({"width": 820, "height": 1180})
    height = ada.page.evaluate("document.documentElement.scrollHeight")
    assert height <= 1180
    small = ada.page.evaluate(
        "[...document.querySelectorAll('main :is(button, select, textarea, .check, summary)')]"
        ".filter((each) => each.offsetParent && each.offsetHeight < 40)"
        ".map((each) => each.outerHTML)"
    )
    assert small == []


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (820, 1180)])
def test_whatever_a_clip_brings_along_its_player_can_be_reached(
    desk: Desk, width: int, height: int
) -> None:
    (clip,) = desk.ask("SELECT id FROM ra_queue LIMIT 1")
    (name,) = desk.ask("SELECT original_filename FROM audio_files WHERE id = %s", clip)
    long = "a folder/" * 100 + "speech.mp3"
    desk.ask("UPDATE audio_files SET original_filename = %s WHERE id = %s", long, clip)
    desk.ask(
        "INSERT INTO audio_files (original_filename, archive_source, copied_from) "
        "SELECT format('%%s of %%s', n, %s), 'another.tar', opus_path "
        "FROM audio_files, generate_series(1, 20) n WHERE id = %s",
        long[-200:],
        clip,
    )
    ada = desk.seat("ada", viewport={"width": width, "height": height})
    ada.start()
    assert ada.item == clip
    play = ada.page.get_by_role("button", name="Play", exact=True)
    box = play.bounding_box()
    assert box is not None
    assert box["y"] + box["height"] <= height
    ada.page.get_by_text("Uploaded 20 more times").click()
    ada.page.get_by_text(f"{long[:60]}…{long[-20:]}").click()
    expect(ada.page.get_by_text(long, exact=True)).to_be_visible()
    ada.page.mouse.move(200, height / 2)
    ada.page.mouse.wheel(0, 20_000)
    ada.page.wait_for_timeout(300)
    box = play.bounding_box()
    assert box is not None
    assert 0 <= box["y"] <= box["y"] + box["height"] <= height
    play.click()
    desk.ask("DELETE FROM audio_files WHERE archive_source = 'another.tar'")
    desk.ask("UPDATE audio_files SET original_filename = %s WHERE id = %s", name, clip)


def test_styles_and_scripts_are_small() -> None:
    scripts = sum(file.stat().st_size for file in STATIC.glob("*.js"))
    styles = sum(file.stat().st_size for file in STATIC.glob("*.css"))
    assert 0 < styles < 15_000
    assert 0 < scripts < 32_000


def test_the_text_of_an_erased_clip_leaves_the_screen(desk: Desk) -> None:
    """The last one here, as the clip is gone."""
    ada = desk.seat("ada")
    ada.start("Start with a control")
    name = ada.page.locator(".facts dd").first.inner_text()
    assert name in ada.page.content()
    desk.ask("DELETE FROM audio_files WHERE id = %s", ada.item)
    expect(ada.page.locator("#claim")).to_contain_text("This clip was erased", timeout=15_000)
    assert name not in ada.page.content()
    assert ada.page.locator("audio, #note, .segment").count() == 0
    ada.press("n", "Space")
    assert desk.ask("SELECT count(*) FROM review_decisions") == [0]
