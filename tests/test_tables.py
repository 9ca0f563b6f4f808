"""The Parquet files between the stages."""

import random
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from earmark import __version__
from earmark.errors import EarmarkError
from earmark.tables import (
    CLASSES,
    MANIFEST,
    MEMBERS,
    TRANSCRIPTS,
    read_provenance,
    read_table,
    write_table,
)

SCHEMAS = {
    "members": MEMBERS,
    "manifest": MANIFEST,
    "transcripts": TRANSCRIPTS,
    "classes": CLASSES,
}
MEMBER = {"ordinal": 0, "member": "ñandú\x00.mp3", "bytes": 1 << 40, "status": "ok"}


def row(schema, full):
    """A row of any of the schemas, with all of its columns or with those it needs."""
    values = {
        pa.int32(): 2**31 - 1,
        pa.int64(): 2**63 - 1,
        pa.string(): "a\nñ\N{PILE OF POO}",
        pa.float64(): 0.1,
        pa.bool_(): True,
        pa.timestamp("us", tz="UTC"): datetime(2026, 11, 1, 0, 0, 0, 1, tzinfo=UTC),
    }

    def value(kind):
        if pa.types.is_list(kind):
            return [{field.name: values[field.type] for field in kind.value_type}]
        return values[kind]

    return {
        field.name: value(field.type) if full or not field.nullable else None for field in schema
    }


@pytest.fixture
def file(tmp_path):
    return tmp_path / "folder" / "a.parquet"


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_rows_come_back_as_they_were(file, schema):
    rows = [row(schema, full=True), row(schema, full=False)]
    write_table(file, schema, rows, {})
    assert read_table(file, schema).to_pylist() == rows


def test_a_missing_key_is_null_and_no_rows_are_a_table_too(file):
    write_table(file, MEMBERS, [MEMBER], {})
    assert read_table(file, MEMBERS).to_pylist() == [
        {**MEMBER, "file": None, "sha256": None, "error": None, "metadata": None}
    ]
    write_table(file, MEMBERS, [], {})
    assert read_table(file, MEMBERS).num_rows == 0


def test_provenance_is_text_and_names_version_and_time(file):
    write_table(file, MEMBERS, [], {"model": "señal", "seconds": 1.5, "archive_error": None})
    told = read_provenance(file)
    made_at = datetime.fromisoformat(told.pop("made_at"))
    assert abs(datetime.now(UTC) - made_at) < timedelta(minutes=1)
    assert told == {
        "version": __version__,
        "model": "señal",
        "seconds": "1.5",
        "archive_error": "",
    }


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        ({"codec": "mp3"}, ValueError, r"columns that the schema lacks: \['codec'\]"),
        ({"status": None}, ValueError, "null in column status"),
        ({"bytes": "many"}, pa.ArrowException, "many"),
    ],
)
def test_a_row_that_does_not_fit_is_refused_and_no_file_appears(file, change, error, reason):
    with pytest.raises(error, match=reason):
        write_table(file, MEMBERS, [MEMBER, MEMBER | change], {})
    assert not file.exists()


def test_a_table_of_another_schema_is_refused(file):
    write_table(file, MEMBERS, [MEMBER], {})
    other_type = MEMBERS.set(0, MEMBERS.field(0).with_type(pa.int64()))
    for schema in (CLASSES, other_type):
        with pytest.raises(EarmarkError, match="written by another version: `earmark redo`"):
            read_table(file, schema)


def former(schema, *left_out):
    """A schema of Earmark 0.2, and without some more columns."""
    segment = [("start", "f8"), ("end", "f8"), ("text", "str"), ("avg_logprob", "f8")]
    fields = [f for f in schema if f.name not in {"languages", "doubt", *left_out}]
    return pa.schema(
        f.with_type(pa.list_(pa.struct([(n, pa.type_for_alias(t)) for n, t in segment])))
        if f.name == "segments"
        else f
        for f in fields
    )


SEGMENTS = [{"start": 0.0, "end": 1.5, "text": "hola", "avg_logprob": -0.5}]


def test_a_file_of_an_earlier_version_lacks_only_what_it_did_not_say(file):
    said = {"archive": "a.tar", "ordinal": 3, "text": "hola", "language": "es", "status": "ok"}
    write_table(file, former(TRANSCRIPTS), [said | {"segments": SEGMENTS}, said], {})
    first, second = read_table(file, TRANSCRIPTS).to_pylist()
    assert first["segments"] == [SEGMENTS[0] | {"language": None, "doubt": None}]
    assert first | {"segments": None} == second
    assert second == dict.fromkeys(TRANSCRIPTS.names) | said


def test_what_no_version_left_out_is_missed_in_a_former_file_too(file):
    write_table(file, former(TRANSCRIPTS, "text"), [], {})
    with pytest.raises(EarmarkError, match="written by another version: `earmark redo`"):
        read_table(file, TRANSCRIPTS)


def test_a_column_that_came_later_than_the_file_is_null(file):
    old = MANIFEST
    for name in ("source_rms_dbfs", "opus_peak_dbfs"):
        old = old.remove(old.get_field_index(name))
    written = {**row(old, full=True), "member": "a.mp3"}
    write_table(file, old, [written], {})
    table = read_table(file, MANIFEST)
    assert table.schema.equals(MANIFEST)
    assert table.to_pylist() == [{**written, "source_rms_dbfs": None, "opus_peak_dbfs": None}]


def read_members(path):
    return read_table(path, MEMBERS)


@pytest.mark.parametrize("read", [read_members, read_provenance])
def test_a_file_that_is_missing_is_told(file, read):
    with pytest.raises(EarmarkError, match=r"a\.parquet is missing; run the workflow again"):
        read(file)


@pytest.mark.parametrize("read", [read_members, read_provenance])
@pytest.mark.parametrize("keep", [0, 3, 100, -1])
def test_a_file_that_was_cut_is_told(file, read, keep):
    write_table(file, MEMBERS, [MEMBER], {})
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(
        EarmarkError, match=r"a\.parquet can't be read .* `earmark redo` makes it anew"
    ):
        read(file)


def test_a_garbled_file_raises_nothing_else(file):
    write_table(file, MEMBERS, [MEMBER] * 50, {"model": "señal"})
    whole = file.read_bytes()
    rng = random.Random(1)
    told = 0
    for _ in range(300):
        garbled = bytearray(whole)
        garbled[rng.randrange(len(whole))] = rng.randrange(256)
        file.write_bytes(garbled)
        for read in (read_members, read_provenance):
            try:
                read(file)
            except EarmarkError:
                told += 1
    assert told > 100
