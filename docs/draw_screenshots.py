"""Draws the pictures in docs/review/ from the demo's results: `make screenshots` (needs Chromium).

A desk of its own is served over a database of its own, so nothing is decided in the demo's.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import msgspec
import yaml
from msgspec.structs import replace
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from earmark import configuration
from earmark.desk import accounts
from earmark.names import policy_texts
from earmark.record import database, embedded_server
from earmark.record.load import load_archive
from earmark.settings import Settings
from earmark.volume import Volume

DOCS = Path(__file__).resolve().parent
CHROMIUM = "/usr/bin/chromium"  # Debian's
PASSWORD = "only for the pictures"
CONTROLS = 0.2  # of what nothing flagged
LAPTOP, TABLET = (1280, 800), (820, 1180)


def load(settings: Settings, conninfo: str, receipt: Path) -> None:
    """Bring the demo's files into a database."""
    volume = Volume.of(settings)
    asr, policy = settings.asr.name, settings.classify.policy
    manifests = sorted((volume.root / "manifests").glob("date=*/*.parquet"))
    if not manifests:
        sys.exit(f"there are no results in {volume.root}; run `make demo` first")
    for manifest in manifests:
        archive, date = manifest.stem, manifest.parent.name.removeprefix("date=")
        load_archive(
            manifest,
            volume.transcripts(asr, date, archive),
            volume.classes(policy, date, archive),
            receipt,
            conninfo,
            archive,
            date,
            asr,
            policy,
            control_fraction=CONTROLS,
            policy_texts=policy_texts(volume, policy),
        )


@contextmanager
def serving(configfile: Path) -> Iterator[str]:
    """Serve the desk; gives its address."""
    command = [str(Path(sys.executable).with_name("earmark")), "review", "--configfile"]
    with subprocess.Popen(
        [*command, str(configfile)], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            said = ""
            for line in process.stderr or ():
                said += line
                if found := re.search(r"the review desk is at (\S+)", line):
                    yield found[1]
                    return
            sys.exit(f"the review desk did not start: {said}")
        finally:
            process.terminate()


def enter(browser: Browser, url: str, name: str) -> Page:
    """Sign somebody in."""
    page = browser.new_context(base_url=url, reduced_motion="reduce").new_page()
    page.goto("/sign-in")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_selector("h1:has-text('Today')")
    return page


def start(page: Page, button: str) -> None:
    """Go from the queue to an item."""
    page.goto("/")
    page.get_by_role("button", name=button).click()
    page.wait_for_selector("h1:has-text('Item')")


def decide(page: Page, *verdicts: str) -> None:
    """Decide about one item after the other."""
    for verdict in verdicts:
        with page.expect_navigation():
            page.get_by_role("button", name=verdict, exact=True).click()


def draw(page: Page, name: str, size: tuple[int, int] = LAPTOP, scheme: str = "light") -> None:
    """Keep a picture of what is on the screen, in 64 colours: a third of the bytes."""
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.mouse.move(0, 0)
    page.wait_for_timeout(300)  # until the waveform is there
    with Image.open(BytesIO(page.screenshot())) as picture:
        picture.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(
            DOCS / "review" / f"{name}.png", optimize=True
        )


def draw_sign_in(browser: Browser, url: str) -> None:
    """Keep a picture of the page that everybody meets first."""
    page = browser.new_context(base_url=url).new_page()
    page.goto("/sign-in")
    draw(page, "sign-in")


def draw_all(browser: Browser, url: str) -> None:
    """Let three people work for a while, and keep pictures of their pages."""
    draw_sign_in(browser, url)
    ada = enter(browser, url, "ada")
    start(ada, "Start with the highest score")
    decide(ada, "Reportable", "Reportable", "Not reportable", "Reportable")
    ben = enter(browser, url, "ben")
    start(ben, "Start with the highest score")
    decide(ben, "Reportable", "Not reportable", "Not reportable", "Reportable")
    decide(ada, "Unsure")
    lea = enter(browser, url, "lea")
    start(lea, "Settle disputed items")
    draw(lea, "settle")

    draw(ada, "item")
    draw(ada, "item-dark", scheme="dark")
    draw(ada, "item-tablet", TABLET)
    for key, name in (("?", "keys"), ("p", "policies"), ("s", "skip")):
        ada.keyboard.press(key)
        draw(ada, name)
        ada.keyboard.press("Escape")
    for path in ("queue", "mine", "settings"):
        ada.goto("/" if path == "queue" else f"/{path}")
        draw(ada, path)
    for path, name in (("", "progress"), ("/decisions", "decisions"), ("/access", "access")):
        lea.goto(f"/lead{path}")
        draw(lea, name)


def main() -> None:
    """Draw the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configfile", type=Path, required=True, help="the demo's")
    settings = configuration.read(parser.parse_args().configfile)
    (DOCS / "review").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="earmark-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)  # the server's user must get to its files
        server = embedded_server.use(folder / "postgres")
        try:
            database.migrate(server)
            load(settings, server, folder / "receipt.json")
            with database.connect(server) as connection:
                accounts.add(connection, "ada", PASSWORD, "reviewer")
                accounts.add(connection, "ben", PASSWORD, "reviewer")
                accounts.add(connection, "lea", PASSWORD, "lead")
            shown = replace(
                settings,
                database=replace(settings.database, url=server),
                queue=replace(settings.queue, control_fraction=CONTROLS),
                desk=replace(settings.desk, port=0, second_review_fraction=1),
            )
            configfile = folder / "config.yaml"
            configfile.write_text(yaml.safe_dump(msgspec.to_builtins(shown)), encoding="utf-8")
            with serving(configfile) as url, sync_playwright() as playwright:
                browser = playwright.chromium.launch(
                    executable_path=CHROMIUM, args=["--no-sandbox"]
                )
                draw_all(browser, url)
                browser.close()
        finally:
            embedded_server.stop(folder / "postgres")


if __name__ == "__main__":
    main()
