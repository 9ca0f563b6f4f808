"""The receipts of archives, as they are written and read."""

import json
import os
from pathlib import Path

import pytest
from example_receipt import example
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from earmark import receipts

NEWER = ("order", "judged", "skipped", "undecided", "unasked")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "date=2026-11-02" / "a.tar.json"


def test_a_receipt_is_read_as_it_was_written(file: Path) -> None:
    told = example(
        reason='cut "ñ" \N{PILE OF POO}\n\0', bytes=1 << 60, seconds={"load": 1e-07, "encode": None}
    )
    receipts.write(file, told)
    assert receipts.read(file) == told


def test_it_is_json_for_people_with_its_fields_in_their_order(file: Path) -> None:
    receipts.write(file, example(reason="ñ"))
    text = file.read_text(encoding="utf-8")
    assert list(json.loads(text)) == [
        *("archive", "date", "asr", "policy", "order", "status", "reason", "type", "bytes"),
        "modified_ns",
        *("members", "clips", "flagged", "judged", "skipped", "undecided"),
        *("unasked", "rows", "seconds"),
        *("provenance", "loaded_at"),
    ]
    assert text.startswith('{\n  "archive": "a.tar",\n  "date": "2026-11-02",\n')
    assert '"reason": "ñ"' in text
    assert text.endswith('"\n}\n')


def test_a_receipt_from_before_a_field_was_added_and_one_with_fields_of_later_are_read(
    file: Path,
) -> None:
    receipts.write(file, example())
    told = json.loads(file.read_text())
    old = {key: value for key, value in told.items() if key not in NEWER}
    file.write_text(json.dumps(old | {"mood": {"of": ["the", "loader"]}}))
    assert receipts.read(file) == example(order=None, judged={}, undecided=0)


def test_only_clips_with_an_answer_count_as_answered() -> None:
    clips = {"pending": 1, "transcribed": 2, "flagged": 4, "failed": 8, "reviewed": 16}
    assert example(clips=clips).answered == 22


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", '{"archive": "a.tar"}', '"\\ud800"'])
def test_a_damaged_or_vanished_receipt_tells_nothing(file: Path, text: str) -> None:
    assert receipts.read(file) is None
    receipts.write(file, example())
    file.write_text(text)
    assert receipts.read(file) is None


def test_a_receipt_that_the_system_does_not_give_out_is_not_taken_for_a_missing_one(
    file: Path,
) -> None:
    file.mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        receipts.read(file)


@settings(suppress_health_check=list(HealthCheck))
@given(cut=st.integers(0), place=st.integers(0), byte=st.integers(0, 255))
def test_a_cut_or_garbled_receipt_is_read_whole_or_not_at_all(
    file: Path, cut: int, place: int, byte: int
) -> None:
    receipts.write(file, example())
    content = bytearray(file.read_bytes())
    content[place % len(content)] = byte
    file.write_bytes(content)
    if (told := receipts.read(file)) is not None:
        receipts.write(file, told)
        assert receipts.read(file) == told
    os.truncate(file, cut % (file.stat().st_size - 2))
    assert receipts.read(file) is None
