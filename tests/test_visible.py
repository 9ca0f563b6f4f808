"""Characters that nobody sees are written out where text from outside is shown."""

import logging
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earmark import cli, logs
from earmark.ingest.tarstream import readable
from earmark.visible import visible
from earmark.watch.display import printable, show

UNSEEN = {
    "\u202e": "\\u202e",  # right to left from here on
    "\u2066": "\\u2066",  # an isolate
    "\u200f": "\\u200f",
    "\u061c": "\\u061c",
    "\u2028": "\\u2028",
    "\u2029": "\\u2029",
    "\u200b": "\\u200b",
    "\u2060": "\\u2060",
    "\ufeff": "\\ufeff",
    "\u00ad": "\\xad",
    "\u0085": "\\x85",
    "\x1b": "\\x1b",
    "\x00": "\\x00",
    "\n": "\\x0a",
    "\U000e0041": "\\U000e0041",  # a letter of a tag
    "\u3164": "\\u3164",  # a blank letter
}


@pytest.mark.parametrize("char", UNSEEN)
def test_what_nobody_sees_is_written_out_wherever_a_name_is_shown(
    char: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name, shown = f"good{char}3pm.exe", f"good{UNSEEN[char]}3pm.exe"
    assert visible(name) == shown
    assert readable(name) == shown  # a member's, from there to the desk
    assert printable(name) == shown  # in a command's table
    show([{"name": name}], False, "Names")
    assert shown in capsys.readouterr().out


@pytest.mark.parametrize(
    "text",
    ["größer.mp3", "日本語 の 音", "नमस्ते", "שלום", "العربية", "👍🏽 ok", "a\\b", "1\u00a0000"],
)
def test_what_is_seen_stays_as_it_is(text: str) -> None:
    assert visible(text) == text


@given(text=st.text(), keep=st.sampled_from(["", "\n"]))
def test_nothing_unseen_is_left_and_nothing_seen_is_lost(text: str, keep: str) -> None:
    shown = visible(text, keep)
    unseen = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert all(char in keep or unicodedata.category(char) not in unseen for char in shown)
    assert visible(shown, keep) == shown
    seen = [char for char in text if visible(char) == char]
    rest = iter(shown)
    assert all(char in rest for char in seen)  # in their order


def test_a_name_in_a_log_is_shown_and_makes_no_line_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("test", tmp_path / "a.log")
    forged = "a.mp3\n2026-11-28T00:00:00Z | INFO | test | all is well\u202e"
    try:
        raise ValueError(forged)
    except ValueError:
        logging.getLogger("earmark.test").exception("%s: failed", forged)
    for said in ((tmp_path / "a.log").read_text(), capsys.readouterr().err):
        assert said.count("| all is well") == 2
        assert [line.startswith("20") for line in said.split("\n")].count(True) == 1
        assert said.split("\n")[0].endswith("all is well\\u202e: failed")
        assert "\u202e" not in said


def test_an_error_of_a_command_shows_what_it_quotes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["status", "--configfile", str(tmp_path / "no\u202efile.yaml")]) == 2
    assert "no\\u202efile.yaml" in capsys.readouterr().err
