import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from earmark.policy.json_answers import Answer, UnreadableError, read_answer

CATEGORIES = ("scams", "self-harm")
YES = Answer(True, 0.9, "scams")
PLAIN = '{"flagged": true, "score": 0.9, "category": "scams"}'


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        f"Sure! Here is my assessment:\n\n{PLAIN}\n\nLet me know if I can help.",
        f"```json\n{PLAIN}\n```",
        "{'flagged': true, 'score': 0.9, 'category': 'scams'}",
        "{'flagged': True, 'score': 0.9, 'category': 'scams'}",
        '{"flagged": true, "score": 0.9, "category": "scams",}',
        "{flagged: true, score: 0.9, category: scams}",
        '{"flagged":true,"score":.9,"category":"Scams"}',
        '{\n  "flagged": true,\n  "score": 9e-1,\n  "category": " SCAMS "\n}',
        '{"reason": "asks for a password", "flagged": true, "score": 0.9, "category": "scams"}',
        f"{PLAIN}\n{PLAIN}",
    ],
    ids=[
        "plain",
        "prose",
        "fence",
        "single quotes",
        "Python's",
        "trailing comma",
        "no quotes",
        "no spaces",
        "lines",
        "more keys",
        "repeated",
    ],
)
def test_what_can_be_read_in_one_way_only_is_read(text: str) -> None:
    assert read_answer(text, CATEGORIES) == YES


@pytest.mark.parametrize("category", ["null", "None", '"none"', '""', '"null"'])
def test_no_category_is_an_answer(category: str) -> None:
    text = f'{{"flagged": false, "score": 0.1, "category": {category}}}'
    assert read_answer(text, CATEGORIES) == Answer(False, 0.1, None)
    assert read_answer('{"flagged": false, "score": 0.1}', CATEGORIES) == Answer(False, 0.1, None)


def test_bare_words_that_mean_yes_and_no_are_read() -> None:
    assert read_answer("{flagged: no, score: 0}", CATEGORIES) == Answer(False, 0.0, None)


def test_a_category_may_be_spelt_as_people_do() -> None:
    text = '{"flagged": true, "score": 1, "category": "Self harm"}'
    assert read_answer(text, CATEGORIES) == Answer(True, 1.0, "self-harm")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no JSON object"),
        ("I can't help with that.", "no JSON object"),
        ("flagged: false", "no JSON object"),
        ("[false, 0.1]", "no JSON object"),
        ('{"flagged": true, "score": 0.', "cut off"),
        (f'{PLAIN} {{"flagged": fal', "objects in each other"),
        (f'{{"example": {PLAIN}, "flagged": false, "score": 0}}', "objects in each other"),
        (f'{PLAIN} {{"flagged": false, "score": 0.1}}', "several objects that differ"),
        ("{}", "flagged is missing"),
        ('{"score": 0.9}', "flagged is missing"),
        ('{"flagged": "no", "score": 0.1}', "flagged is 'no'"),
        ('{"flagged": 0, "score": 0.1}', "flagged is 0"),
        ('{"flagged": null, "score": 0.1}', "flagged is missing"),
        ('{"flagged": false}', "score is missing"),
        ('{"flagged": false, "score": "low"}', "score is 'low'"),
        ('{"flagged": true, "score": true}', "score is True"),
        ('{"flagged": true, "score": [0.9]}', "score is a list"),
        ('{"flagged": true, "score": 90}', "score is 90, not between 0 and 1"),
        ('{"flagged": false, "score": -0.1}', "not between 0 and 1"),
        ('{"flagged": true, "score": NaN}', "not between 0 and 1"),
        ('{"flagged": true, "score": 1e999}', "not between 0 and 1"),
        ('{"flagged": true, "score": ' + "9" * 400 + "}", "not between 0 and 1"),
        ('{"flagged": false, "score": 0.9}', "flagged is false, but score is 0.9"),
        ('{"flagged": true, "score": 0.1}', "flagged is true, but score is 0.1"),
        ('{"flagged": true, "score": 0.9, "category": "spam"}', "category is 'spam'"),
        ('{"flagged": true, "score": 0.9, "category": ["scams"]}', "category is a list"),
        ('{"flagged": true, "flagged": false, "score": 0.1}', "'flagged' is given twice"),
        ("{'flagged': true, 'flagged': false, 'score': 0.1}", "'flagged' is given twice"),
        ("{'flagged': false, 'score': 0,1}", "a key is no word"),
        ('{"flagged": false, "score": 0,1}', "a key is no word"),
        ('{"flagged": true, "score": 01}', "'01' in line 1 is read as 1"),
        ('{"flagged": false, "score": 00.1}', "'00.1' in line 1 is read as 0.1"),
        ('{"flagged": false, "score": 1e-1,}', "is read as text"),
        ('{"flagged": false, "score": 0:01}', "score is '0:01'"),
        ("{flagged score}", "flagged is missing"),
        ('{"flagged": true; "score": 0.9}', "not JSON|flagged is"),
        ("{!!python/object/apply:os.getcwd []: 1}", "not JSON"),
        ("{" * 100_000, "cut off"),
    ],
)
def test_anything_else_is_told_as_unreadable(text: str, why: str) -> None:
    with pytest.raises(UnreadableError, match=why):
        read_answer(text, CATEGORIES)


@given(text=st.text() | st.text(alphabet="{}[]\"':, \nflagedscortui01.9&*!<-"))
@example(text="{&a *a: *a}")
@example(text="{a: !!bool x}")
@example(text="{flagged: no, score: !!float ''}")
@example(text="{a: !!int ''}")
@example(text="{a: &a [x, x], b: &b [*a, *a], c: &c [*b, *b]}")
@example(text="{? : }")
def test_any_text_is_an_answer_or_unreadable(text: str) -> None:
    try:
        answer = read_answer(text, CATEGORIES)
    except UnreadableError:
        return
    assert 0 <= answer.score <= 1
    assert answer.category in (None, *CATEGORIES)


words = st.text(alphabet=st.characters(exclude_characters="{}", codec="utf-8"), max_size=40)


@given(before=words, after=words, flagged=st.booleans(), score=st.floats(0, 0.5), data=st.data())
def test_prose_around_an_answer_never_changes_it(
    before: str, after: str, flagged: bool, score: float, data: st.DataObject
) -> None:
    score = 1 - score if flagged else score
    category = data.draw(st.sampled_from(CATEGORIES)) if flagged else None
    fields = {"flagged": flagged, "score": score, "category": category}
    keys = data.draw(st.permutations(list(fields)))
    text = before + json.dumps({key: fields[key] for key in keys}) + after
    assert read_answer(text, CATEGORIES) == Answer(flagged, score, category)


@given(cut=st.integers(0, len(PLAIN) - 1))
def test_an_answer_that_is_cut_off_anywhere_is_unreadable(cut: int) -> None:
    with pytest.raises(UnreadableError):
        read_answer(PLAIN[:cut], CATEGORIES)
