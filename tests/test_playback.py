"""What a browser tells of what was played."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earmark.desk.playback import joined, parse
from earmark.errors import EarmarkError

TENTHS = st.integers(0, 100).map(lambda tenth: tenth / 10)
INTERVALS = st.lists(st.tuples(TENTHS, TENTHS).map(lambda pair: tuple(sorted(pair))), max_size=20)


@given(INTERVALS, INTERVALS)
def test_what_is_told_in_parts_is_the_same_as_told_at_once(first, second):
    assert joined([*joined(first), *joined(second)]) == joined(first + second)


@given(INTERVALS)
def test_each_second_counts_once_and_within_the_clip(intervals):
    def covered(parts, limit):
        return {
            tenth
            for begin, end in parts
            for tenth in range(round(begin * 10), min(round(end * 10), limit))
        }

    heard = parse(json.dumps(intervals), 7.5)
    assert covered(heard, 75) == covered(intervals, 75)
    assert sum(round((end - begin) * 10) for begin, end in heard) == len(covered(heard, 75))
    assert all(end < begin for (_, end), (begin, _) in pairwise(heard))


@pytest.mark.parametrize(
    "told",
    ["{}", "[", "[[1]]", "[[1, 2, 3]]", '[["0", "1"]]', "[[2, 1]]", "[[-1, 1]]", "[[0, NaN]]",
     "[[0, 1e999]]", "[[null, 1]]", "[0, 1]", "[" * 5000, json.dumps([[0, 1]] * 1001), "\ud800",
     "0", '"[[0, 1]]"'],
)  # fmt: skip
def test_what_is_no_list_of_intervals_is_refused(told):
    with pytest.raises(EarmarkError, match="played"):
        parse(told, 10)


@given(st.text() | st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(), st.lists, max_leaves=9
).map(json.dumps))  # fmt: skip
def test_whatever_is_told_is_refused_or_within_the_clip(told):
    try:
        heard = parse(told, 10)
    except EarmarkError:
        return
    assert all(0 <= begin < end <= 10 for begin, end in heard)
