"""A name in the configuration never stands for two different settings."""

import json
from pathlib import Path

import pytest

from earmark.configuration import resolve
from earmark.errors import EarmarkError
from earmark.names import Name, asr_name
from earmark.volume import Volume

FACTS = {"model": "large-v2", "language": None, "scams.md": "# Scams"}


def name(record: Path, facts: dict) -> Name:
    return Name("asr.name", "first", facts, record)


@pytest.fixture
def record(tmp_path: Path) -> Path:
    path = tmp_path / "state/asr/first.json"
    name(path, FACTS).bind()
    return path


def test_checking_a_name_alone_records_nothing(tmp_path: Path) -> None:
    name(tmp_path / "new.json", FACTS).check()
    assert not (tmp_path / "new.json").exists()


def test_the_first_use_of_a_name_records_what_it_stands_for(record: Path) -> None:
    assert json.loads(record.read_text(encoding="utf-8")) == FACTS


def test_the_same_settings_may_use_their_name_again(record: Path) -> None:
    name(record, dict(reversed(FACTS.items()))).bind()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": "large-v3"}, "another model"),
        ({"language": "en", "model": "x"}, "another language, model"),
        ({"hate.md": "# Hate"}, "another hate.md"),
    ],
)
def test_other_settings_under_an_old_name_are_refused(
    record: Path, change: dict, named: str
) -> None:
    before = record.read_bytes()
    with pytest.raises(EarmarkError, match=rf"asr\.name 'first' was used before with {named}"):
        name(record, FACTS | change).bind()
    assert record.read_bytes() == before


def test_settings_that_lack_something_are_refused_too(record: Path) -> None:
    with pytest.raises(EarmarkError, match=r"another scams\.md .*choose a new asr\.name"):
        name(record, {"model": "large-v2", "language": None}).bind()


def test_a_pin_is_part_of_what_a_name_stands_for_and_none_changes_nothing(tmp_path: Path) -> None:
    settings, volume = resolve({}), Volume(tmp_path)
    known = asr_name(settings, volume)
    known.bind()
    old = {fact: value for fact, value in known.facts.items() if fact != "revision"}
    known.record.write_text(json.dumps(old))  # from before there were pins
    asr_name(settings, volume).check()
    pinned = resolve({"asr": {"revision": "c" * 40}})
    with pytest.raises(EarmarkError, match="another revision"):
        asr_name(pinned, volume).check()


@pytest.mark.parametrize("content", ["", "{", "3", "[1]"])
def test_a_damaged_record_is_refused(record: Path, content: str) -> None:
    record.write_text(content)
    with pytest.raises(EarmarkError, match=r"first\.json.* is damaged"):
        name(record, FACTS).bind()
