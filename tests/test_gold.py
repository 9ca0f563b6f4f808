"""Gold sets and references come from anywhere: what is wrong in them is said by line and field."""

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from loaded_archive import Archive, query

from demo.make_gold import gold, references
from earmark import REPOSITORY
from earmark.errors import EarmarkError
from earmark.evaluation.gold import Labelled, Place, Reference, read, transcripts

ROW = {
    "text": "send me your password",
    "categories": ["scams"],
    "labelled": ["scams", "harassment"],
    "language": "en",
    "labelled_by": ["ada", "lea"],
    "weight": 2.5,
    "id": "one",
}


def written(tmp_path, *lines, name="gold.jsonl"):
    path = tmp_path / name
    path.write_bytes(
        b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines)
    )
    return path


def refusal(path, kind=Labelled):
    with pytest.raises(EarmarkError) as refused:
        read(path, kind)
    return str(refused.value)


def test_a_gold_set_is_the_same_as_json_lines_and_as_parquet(tmp_path):
    less = {"text": "hello", "categories": []}
    lines = written(tmp_path, json.dumps(ROW), "", json.dumps(less))
    table = tmp_path / "gold.parquet"
    pq.write_table(pa.Table.from_pylist([ROW, less]), table)
    from_lines, from_table = read(lines, Labelled), read(table, Labelled)
    assert [row for _, row in from_lines.rows] == [row for _, row in from_table.rows]
    assert [number for number, _ in from_lines.rows] == [1, 3]
    assert [number for number, _ in from_table.rows] == [1, 2]
    first = from_lines.rows[0][1]
    assert first.categories == ("scams",)
    assert first.labellers == ("ada", "lea")
    assert first.weight == 2.5


def test_one_labeller_needs_no_list(tmp_path):
    path = written(tmp_path, json.dumps(ROW | {"labelled_by": "ada"}))
    assert read(path, Labelled).rows[0][1].labellers == ("ada",)


def test_a_byte_order_mark_is_no_part_of_it(tmp_path):
    path = written(tmp_path, b"\xef\xbb\xbf" + json.dumps(ROW).encode())
    assert len(read(path, Labelled).rows) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"categories": "scams"}, "Expected `array`, got `str` - at `$.categories`"),
        ({"categories": [7]}, "Expected `str`, got `int` - at `$.categories[0]`"),
        ({"weight": 0}, "Expected `float` > 0.0 - at `$.weight`"),
        ({"weight": "2"}, "Expected `float | null`, got `str` - at `$.weight`"),
        ({"langauge": "en"}, "unknown field `langauge`; each row is an object with"),
        ({"clip": 4}, "give either `text` or `clip`"),
        ({"text": None}, "give either `text` or `clip`"),
        ({"text": None, "clip": 0}, "Expected `int` >= 1 - at `$.clip`"),
        ({"text": None, "clip": {"archive": "a.tar"}}, "missing required field `ordinal`"),
        (
            {"text": None, "clip": {"archive": "a\0.tar", "ordinal": 0}},
            "`archive` holds a NUL character, which no archive's name does - at `$.clip`",
        ),
        ({"labelled": ["harassment"]}, "`labelled` lacks scams"),
    ],
)
def test_what_is_wrong_is_told_by_line_and_field(tmp_path, change, said):
    path = written(tmp_path, json.dumps(ROW), json.dumps(ROW | change))
    assert f"{path}, line 2: " in refusal(path)
    assert said in refusal(path)


def test_what_is_no_set_at_all_is_told(tmp_path):
    assert "has no rows; each row is an object with" in refusal(written(tmp_path, b"", b" "))
    assert "No such file" in refusal(tmp_path / "nowhere.jsonl")
    assert "Is a directory" in refusal(tmp_path)
    assert "can't be read as Parquet" in refusal(written(tmp_path, "{}", name="a.parquet"))
    assert "line 1: JSON is malformed" in refusal(written(tmp_path, "scams,text"))


def test_a_column_of_the_wrong_kind_is_told_by_row_and_field(tmp_path):
    path = tmp_path / "gold.parquet"
    pq.write_table(pa.table({"text": [b"\xff"], "categories": [["scams"]]}), path)
    assert f"{path}, row 1: " in refusal(path)
    pq.write_table(pa.table({"text": ["a"], "categories": [[]], "weight": [float("nan")]}), path)
    assert "row 1: " in refusal(path)
    assert "weight" in refusal(path)


def test_references_name_a_clip_or_a_file(tmp_path):
    path = written(
        tmp_path,
        '{"text": "hello", "clip": {"archive": "a.tar", "ordinal": 3}, "language": "en"}',
        '{"text": "", "audio": "silence.wav"}',
    )
    rows = [row for _, row in read(path, Reference).rows]
    assert rows[0].clip == Place(archive="a.tar", ordinal=3)
    assert rows[1].audio == "silence.wav"
    assert "give either `clip` or `audio`" in refusal(written(tmp_path, '{"text": ""}'), Reference)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.dictionaries(st.sampled_from([*ROW, "clip", "audio"]), ANYTHING, max_size=8)


def can_be_said(path, kind):
    """Reads a file, or refuses it in a sentence that can be printed."""
    said = ""
    try:
        read(path, kind)
    except EarmarkError as refused:
        said = str(refused)
    assert not said or re.search(r"has no rows|(line|row) \d+: |can't be read", said)
    said.encode()


@given(FIELDS.map(json.dumps).map(str.encode) | st.binary())
@example(b"[" * 100_000)
@example(b'{"text": "\\ud800", "categories": []}')
@example(b'{"text": "a", "categories": [], "weight": 1e999}')
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_line_of_any_file_is_a_traceback(tmp_path, line):
    for kind in (Labelled, Reference):
        can_be_said(written(tmp_path, json.dumps(ROW), line), kind)


@given(st.data())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_damaged_parquet_is_a_traceback(tmp_path, data):
    path = tmp_path / "gold.parquet"
    pq.write_table(pa.Table.from_pylist([ROW] * 3), path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    can_be_said(path, Labelled)


def test_the_demo_s_files_are_what_makes_them():
    for name, made in (("gold", gold()), ("references", references())):
        path = REPOSITORY / "demo" / f"{name}.jsonl"
        assert [json.loads(line) for line in path.read_text().splitlines()] == made
    assert len(read(REPOSITORY / "demo/gold.jsonl", Labelled).rows) == 300
    assert len(read(REPOSITORY / "demo/references.jsonl", Reference).rows) == 41


def labelled_clip(clip):
    return Labelled(clip=clip, categories=())


def test_the_texts_of_clips_are_transcripts_of_the_database(tmp_path, migrated_database):
    Archive(tmp_path, migrated_database).load()
    ((id,),) = query(migrated_database, "SELECT id FROM audio_files WHERE ordinal = 8")
    rows = [(1, labelled_clip(id)), (4, labelled_clip(Place(archive="a.tar", ordinal=1)))]
    found = transcripts(migrated_database, "large-v2", rows)
    assert {number: (each.text, each.language) for number, each in found.items()} == {
        1: ("transcript 8", "en"),
        4: ("", None),
    }


@pytest.mark.parametrize("clip", [2**63 - 1, Place(archive="a.tar", ordinal=2)])
def test_a_clip_without_a_transcript_is_told_by_its_row(tmp_path, migrated_database, clip):
    Archive(tmp_path, migrated_database).load()
    with pytest.raises(EarmarkError, match=r"row 9: clip .* has no transcript by asr.name"):
        transcripts(migrated_database, "large-v2", [(9, labelled_clip(clip))])
