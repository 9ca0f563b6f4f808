"""YAML that reads as people write it, or not at all."""

import datetime
import json
import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from earmark import strict_yaml


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "'a' is given twice, in line 1 and in line 3"),
        ("a:\n  x: 1\n  y: 2\n  x: 1\n", "'x' is given twice, in line 2 and in line 4"),
        ("a: {x: 1, x: 2}\n", "'x' is given twice, in line 1 and in line 1"),
        ("- a: 1\n  'a': 2\n", "'a' is given twice, in line 1 and in line 2"),
        ("a: 010\n", "'010' in line 1 is read as 8"),
        ("\na: 1:30\n", "'1:30' in line 2 is read as 90"),
        ("a: 1_000\n", "'1_000' in line 1 is read as 1000"),
        ("a: 0x1F\n", "'0x1F' in line 1 is read as 31"),
        ("a: 1:30.5\n", "'1:30.5' in line 1 is read as 90.5"),
        ("a: .inf\n", "'.inf' in line 1 is read as inf"),
        ("a: [.NaN]\n", "'.NaN' in line 1 is read as nan"),
        ("a: 1.0e+400\n", "'1.0e+400' in line 1 is read as inf"),
        ("a: 1e3\n", "'1e3' in line 1 is read as text"),
        ("a: 08\n", "'08' in line 1 is read as text"),
        ("a: +.5\n", "'+.5' in line 1 is read as text"),
        ("a: 2026-11-01\n", "'2026-11-01' in line 1 is read as a date"),
        ("2026-11-01: a\n", "'2026-11-01' in line 1 is read as a date"),
        ("a: 2026-11-01 12:00:00\n", "in line 1 is read as a datetime"),
    ],
)
def test_what_is_read_differently_than_written_is_refused_with_its_line(
    text: str, message: str
) -> None:
    with pytest.raises(yaml.YAMLError) as refused:
        strict_yaml.load(text)
    assert message in str(refused.value)


def test_what_stands_in_quotes_is_text() -> None:
    for text in ("010", "1:30", ".nan", "1e3", "2026-11-01", "no", "~"):
        assert strict_yaml.load(f"a: '{text}'\nb: \"{text}\"\n") == {"a": text, "b": text}


def test_what_means_the_same_to_everybody_is_taken_as_it_is() -> None:
    text = "a: 1\nb: -2.50\nc: .5\nd: true\ne: null\nf: 1.0e+3\ng: 2026-11\nh: 48k\ni: 0\nj: 1.\n"
    wanted = {"a": 1, "b": -2.5, "c": 0.5, "d": True, "e": None, "f": 1000.0, "g": "2026-11"}
    assert strict_yaml.load(text) == wanted | {"h": "48k", "i": 0, "j": 1.0}


def test_a_merged_mapping_may_be_changed() -> None:
    assert strict_yaml.load("a: &a {x: 1}\nb:\n  <<: *a\n  x: 2\n")["b"] == {"x": 2}


plain = st.from_regex(r"[-+._:0-9a-fxnIeE]{1,8}", fullmatch=True)


@given(plain)
def test_a_number_without_quotes_is_the_number_that_stands_there(text: str) -> None:
    try:
        value = strict_yaml.load(f"a: {text}")["a"]
    except (yaml.YAMLError, ValueError):
        return
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        assert math.isfinite(value)
        assert value == float(text)
    assert not isinstance(value, datetime.date)


values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()


@given(st.dictionaries(st.text(), values))
def test_json_is_read_as_json(mapping: dict) -> None:
    assert strict_yaml.load(json.dumps(mapping)) == mapping


def test_a_key_that_json_gives_twice_is_refused() -> None:
    with pytest.raises(yaml.YAMLError, match="'x' is given twice"):
        strict_yaml.load('{"a": {"x": 1, "x": 2}}')
