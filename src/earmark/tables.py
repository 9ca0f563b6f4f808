"""The tables that cross from one stage to the next: their columns, and what becomes of them.

Writers and readers both go through :func:`write_table` and :func:`read_table`, so a file
with other columns or other types never leaves the stage that made it.
"""

import datetime
import glob
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from earmark import version
from earmark.errors import EarmarkError
from earmark.files import whole
from earmark.volume import Volume

_TIME = pa.timestamp("us", tz="UTC")

#: What an archive held, one row per member; lies in ``unpacked/{archive}/members.parquet``.
MEMBERS = pa.schema(
    [
        pa.field("ordinal", pa.int32(), nullable=False),  # position in the archive, from 0
        pa.field("member", pa.string(), nullable=False),  # name in the archive, never a path here
        pa.field("file", pa.string()),  # name of the extracted file; null if none
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.string()),
        pa.field("status", pa.string(), nullable=False),  # ok | failed | skipped
        pa.field("error", pa.string()),
        pa.field("metadata", pa.string()),  # what its source says of it, a JSON object; or null
    ]
)

#: One row per member of an archive, good or bad.
MANIFEST = pa.schema(
    [
        pa.field("archive", pa.string(), nullable=False),
        pa.field("ordinal", pa.int32(), nullable=False),
        pa.field("member", pa.string(), nullable=False),
        pa.field("opus_path", pa.string()),  # relative to volume.root; null if not encoded
        pa.field("source_sha256", pa.string()),
        pa.field("source_bytes", pa.int64(), nullable=False),
        pa.field("source_format", pa.string()),
        pa.field("opus_bytes", pa.int64()),
        pa.field("duration_seconds", pa.float64()),
        pa.field("sample_rate", pa.int32()),  # of the source, Hz
        pa.field("channels", pa.int32()),  # of the source
        # dB relative to full scale, of all channels; -150 for silence
        pa.field("source_rms_dbfs", pa.float64()),
        pa.field("source_peak_dbfs", pa.float64()),
        pa.field("opus_rms_dbfs", pa.float64()),  # of what the encoder was given
        pa.field("opus_peak_dbfs", pa.float64()),
        pa.field("status", pa.string(), nullable=False),  # ok | failed | skipped
        pa.field("error", pa.string()),
        pa.field("selected", pa.bool_(), nullable=False),  # drawn for transcription
        pa.field("inclusion_probability", pa.float64(), nullable=False),
        pa.field("duplicate_of", pa.int32()),  # ordinal of the first equal content
        pa.field("encoded_at", _TIME),
        pa.field("metadata", pa.string()),  # what its source says of it, a JSON object; or null
    ]
)

_SEGMENT = [
    pa.field("start", pa.float64()),
    pa.field("end", pa.float64()),
    pa.field("text", pa.string()),
    pa.field("language", pa.string()),
    pa.field("avg_logprob", pa.float64()),
    pa.field("doubt", pa.string()),
]

#: One row per transcribed clip.
TRANSCRIPTS = pa.schema(
    [
        pa.field("archive", pa.string(), nullable=False),
        pa.field("ordinal", pa.int32(), nullable=False),
        pa.field("text", pa.string()),  # all segments; "" without speech, null if failed
        # ISO 639-1, of the most seconds of speech; null without speech
        pa.field("language", pa.string()),
        pa.field("language_probability", pa.float64()),
        # all of them, the largest share of the seconds of speech first; null without speech
        pa.field(
            "languages",
            pa.list_(pa.struct([("language", pa.string()), ("share", pa.float64())])),
        ),
        pa.field("confidence", pa.float64()),  # exp(token-weighted mean log-probability)
        pa.field("no_speech_probability", pa.float64()),
        pa.field("compression_ratio", pa.float64()),  # highest of its segments; null without text
        pa.field("doubt", pa.string()),  # why words may not have been spoken; null if nothing
        pa.field("speech_seconds", pa.float64()),
        pa.field("segments", pa.list_(pa.struct(_SEGMENT))),
        pa.field("status", pa.string(), nullable=False),  # ok | failed
        pa.field("error", pa.string()),
        pa.field("seconds", pa.float64()),  # processing time
        # opus_path of the clip with the same content in another archive that was heard instead
        pa.field("copied_from", pa.string()),
    ]
)

#: One row per transcribed clip and policy category.
CLASSES = pa.schema(
    [
        pa.field("archive", pa.string(), nullable=False),
        pa.field("ordinal", pa.int32(), nullable=False),
        pa.field("category", pa.string(), nullable=False),
        pa.field("flagged", pa.bool_()),  # null unless status is ok
        pa.field("score", pa.float64()),  # 0..1; null unless status is ok
        pa.field("threshold", pa.float64(), nullable=False),
        pa.field("truncated", pa.bool_(), nullable=False),
        pa.field("answer", pa.string(), nullable=False),  # logits | json
        pa.field("raw_response", pa.string()),  # only when answer is json
        # ok | unparsed | failed; unasked, if the screen kept the clip from this policy
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("screen_score", pa.float64()),  # 0..1, of the clip; null without a screen
        # with which the policy was to be asked, given screen_score; null means 1
        pa.field("asked_probability", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Table:
    """A table of the volume, one Parquet file per archive, with the columns archive and ordinal.

    Attributes:
        name: The folder below ``volume.root``, and the view for analysis.
        schema: The columns of its files.
        key: Columns that tell the rows of an archive apart.
        stage: The stage that makes it, as its rule is called.
        partitions: Folders above that of the date: fields of a receipt that name what made it.
        retention: The age at which it goes: ``text`` for ``retention.text_days``; None for never.
        erasing: What becomes of the rows of a clip that is erased: ``blank`` leaves that it was
            there, ``drop`` leaves nothing.
    """

    name: str
    schema: pa.Schema
    key: tuple[str, ...]
    stage: str
    partitions: tuple[Literal["asr", "policy"], ...]
    retention: Literal["text"] | None
    erasing: Literal["blank", "drop"]

    def pattern(self, date: str = "*", archive: str = "*") -> str:
        """Glob for its files below ``volume.root``, of all partitions."""
        anything = dict.fromkeys(self.partitions, "*")
        return str(Volume(Path()).table(self.name, date, archive, **anything))

    def files(
        self, volume: Volume, date: str | None = None, archive: str | None = None
    ) -> list[Path]:
        """Its files, of all partitions; those of one day or of one archive if that is asked for."""
        wanted = ("*" if each is None else glob.escape(each) for each in (date, archive))
        return sorted(volume.root.glob(self.pattern(*wanted)))

    def folders(self, volume: Volume, date: str) -> list[Path]:
        """The folders that hold its files of one day."""
        return sorted(volume.root.glob(str(Path(self.pattern(glob.escape(date))).parent)))


#: All tables, by name.  A stage with a table of its own has an entry here: erasure, retention,
#: analysis and the report know of the table by it.  :data:`MEMBERS` has none, since it goes with
#: the folder that it lies in as soon as the next stage is done.
TABLES = {
    table.name: table
    for table in (
        Table(
            "manifests",
            MANIFEST,
            key=("ordinal",),
            stage="encode_opus",
            partitions=(),
            retention=None,
            erasing="blank",
        ),
        Table(
            "transcripts",
            TRANSCRIPTS,
            key=("ordinal",),
            stage="transcribe_audio",
            partitions=("asr",),
            retention="text",
            erasing="drop",
        ),
        Table(
            "classes",
            CLASSES,
            key=("ordinal", "category"),
            stage="classify_transcripts",
            partitions=("policy",),
            retention="text",
            erasing="drop",
        ),
    )
}

#: Columns, of tables and of what stands within them, that files of former versions lack; what
#: they would say is null there.
LATER_COLUMNS = frozenset(
    {
        *("source_rms_dbfs", "source_peak_dbfs", "opus_rms_dbfs", "opus_peak_dbfs"),
        *("doubt", "languages", "segments.doubt", "segments.language"),
        *("screen_score", "asked_probability", "metadata"),
    }
)

_PREFIX = "earmark."


def write_table(
    path: Path,
    schema: pa.Schema,
    rows: Iterable[Mapping[str, Any]] | pa.Table,
    provenance: Mapping[str, object],
) -> None:
    """Write rows to a Parquet file that appears only when it is whole.

    Args:
        path: The file to write.
        schema: One of the schemas of this module.
        rows: One mapping per row, where a missing key is null; or a table.  Lone surrogates in
            the text of a mapping, which UTF-8 can't hold, are written out, as Python would.
        provenance: What made the file (model, options, seconds, ...), kept in the file's
            metadata as ``earmark.{key}``; the package's version and the time are added.

    Raises:
        ValueError: a row has a column the schema lacks, or null where none may be.
        pyarrow.ArrowException: a value has the wrong type.
    """
    table = rows.cast(schema) if isinstance(rows, pa.Table) else _table(path, schema, rows)
    for field in schema:
        if not field.nullable and table[field.name].null_count:
            raise ValueError(f"{path}: null in column {field.name}")
    made_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    facts = {"version": version.current(), "made_at": made_at, **provenance}
    metadata = {
        (_PREFIX + key).encode(): str("" if value is None else value).encode()
        for key, value in facts.items()
    }
    with whole(path) as partial:
        store(table.replace_schema_metadata(metadata), partial)


def store(table: pa.Table, file: Path) -> None:
    """Write a table as Parquet, with a checksum of each page, which :func:`read_table` checks."""
    pq.write_table(table, file, compression="zstd", write_page_checksum=True)


def _table(path: Path, schema: pa.Schema, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    rows = list(rows)
    unknown = {key for row in rows for key in row} - set(schema.names)
    if unknown:
        raise ValueError(f"{path}: columns that the schema lacks: {sorted(unknown)}")
    try:
        return pa.Table.from_pylist(rows, schema=schema)
    except UnicodeEncodeError:  # half a surrogate pair, which no UTF-8 can hold
        return pa.Table.from_pylist([_writable(row) for row in rows], schema=schema)


def _writable(value: Any) -> Any:
    """A value whose lone surrogates are written out as Python's literals would have them."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, Mapping):
        return {key: _writable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_writable(item) for item in value]
    return value


class DamagedError(EarmarkError):
    """A file is no whole Parquet file.

    Attributes:
        reason: What is wrong with it.
    """

    def __init__(self, path: Path, reason: Exception) -> None:
        """Say which file it is, and what is wrong with it."""
        self.reason = str(reason)
        super().__init__(
            f"{path} can't be read as a whole Parquet file ({reason}); check that its folder can "
            "be read; `earmark redo` makes it anew"
        )


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what pyarrow raises over a bad file into a sentence."""
    try:
        yield
    except FileNotFoundError as error:
        raise EarmarkError(
            f"{path} is missing; run the workflow again, which makes it anew"
        ) from error
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise EarmarkError(f"{path} can't be read: {error}; check its folder") from error
        raise DamagedError(path, error) from error


def read_table(path: Path, schema: pa.Schema) -> pa.Table:
    """Read a Parquet file and check that it has the declared columns.

    Those of :data:`LATER_COLUMNS` it may lack: they are null in all rows then.

    Raises:
        DamagedError: the file is no whole Parquet file.
        EarmarkError: it is missing, the system refuses it, or it has other columns or types.
    """
    with _reading(path):
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read()  # pq.read_table takes twice the time for a small one
        if table.schema.equals(schema, check_metadata=False):
            return table
        if not table.schema.equals(_without(schema, table.schema), check_metadata=False):
            raise EarmarkError(
                f"{path} has columns {table.schema.names}, expected {schema.names} with the types "
                "in earmark/tables.py; it was written by another version: `earmark redo` makes it "
                "anew"
            )
        for position, field in enumerate(schema):
            if field.name not in table.column_names:
                table = table.add_column(position, field, pa.nulls(len(table), field.type))
        return table.cast(schema)


def _without(schema: pa.Schema, known: pa.Schema) -> pa.Schema:
    """A schema without those of the later columns that a file's own schema lacks."""

    def kept(fields: Iterable[pa.Field], known: Iterable[pa.Field], above: str) -> list[pa.Field]:
        there = {field.name: field.type for field in known}
        found = []
        for field in fields:
            name = above + field.name
            if field.name not in there and name in LATER_COLUMNS:
                continue
            if _is_list_of_structs(field.type) and _is_list_of_structs(there.get(field.name)):
                inner = kept(field.type.value_type, there[field.name].value_type, f"{name}.")
                field = field.with_type(pa.list_(pa.struct(inner)))
            found.append(field)
        return found

    return pa.schema(kept(schema, known, ""))


def _is_list_of_structs(kind: pa.DataType | None) -> bool:
    return kind is not None and pa.types.is_list(kind) and pa.types.is_struct(kind.value_type)


def read_provenance(path: Path) -> dict[str, str]:
    """What made a file that :func:`write_table` wrote, by key.

    Raises:
        EarmarkError: the file is missing or is not Parquet.
    """
    with _reading(path):
        metadata = pq.read_schema(path).metadata or {}
        return {
            key.decode().removeprefix(_PREFIX): value.decode()
            for key, value in metadata.items()
            if key.decode().startswith(_PREFIX)
        }
