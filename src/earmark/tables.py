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


@dataclass(frozen=True)
class Column:
    """A column of a file, and what ``docs/data-dictionary.md`` says of it.

    Attributes:
        name: What it is called.
        type: In Arrow's words.
        meaning: What it holds; where it may be null, a clause after a semicolon says what that
            means.
        same: The column of the database with the same content, ``table.column``; None if none has.
        nullable: Whether it may be null.
        parts: What the items of a list of structs hold.
    """

    name: str
    type: pa.DataType
    meaning: str
    same: str | None = None
    nullable: bool = True
    parts: tuple["Column", ...] = ()


def schema_of(columns: Iterable[Column]) -> pa.Schema:
    """The schema of a file with these columns."""
    return pa.schema(
        [pa.field(column.name, column.type, nullable=column.nullable) for column in columns]
    )


def items(parts: Iterable[Column]) -> pa.ListType:
    """The type of a list of structs with these parts."""
    return pa.list_(pa.struct(schema_of(parts)))


_METADATA = "What its source says of it, a JSON object; null if nothing"

#: What an archive held, one row per member; lies in ``unpacked/{archive}/members.parquet``.
MEMBERS_COLUMNS = (
    Column("ordinal", pa.int32(), "Position in the archive, from 0", "audio_files.ordinal", False),
    Column(
        "member", pa.string(), "Name in the archive, as its maker wrote it; never a path here",
        "audio_files.original_filename", False,
    ),
    Column("file", pa.string(), "Name of the extracted file; null if there is none"),
    Column("bytes", pa.int64(), "Size of the member", "audio_files.source_bytes", False),
    Column(
        "sha256", pa.string(), "Hash of its bytes as they came; null if they could not be had",
        "audio_files.source_sha256",
    ),
    Column(
        "status", pa.string(),
        "ok, failed, or skipped: no audio, or audio of a format that is not taken",
        nullable=False,
    ),
    Column(
        "error", pa.string(), "Why it failed or was skipped; null if its status is ok",
        "audio_files.error",
    ),
    Column("metadata", pa.string(), _METADATA),
)  # fmt: skip
MEMBERS = schema_of(MEMBERS_COLUMNS)

_ARCHIVE = Column(
    "archive", pa.string(), "Whole file name of the archive", "audio_files.archive_source", False
)
_ORDINAL = MEMBERS_COLUMNS[0]

#: One row per member of an archive, good or bad.
MANIFEST_COLUMNS = (
    _ARCHIVE,
    _ORDINAL,
    MEMBERS_COLUMNS[1],
    Column(
        "opus_path", pa.string(),
        "Its Opus file, relative to volume.root; null if it was not encoded: failed, skipped, or "
        "content that an earlier member has", "audio_files.opus_path",
    ),
    Column(
        "source_sha256", pa.string(),
        "Hash of its bytes as they came; null if they could not be had",
        "audio_files.source_sha256",
    ),
    Column("source_bytes", pa.int64(), "Size of the member", "audio_files.source_bytes", False),
    Column(
        "source_format", pa.string(), "What it is by its content; null if nobody looked",
        "audio_files.source_format",
    ),
    Column(
        "opus_bytes", pa.int64(), "Size of the Opus file; null without one",
        "audio_files.file_size_bytes",
    ),
    Column(
        "duration_seconds", pa.float64(), "Length of its audio; null if it was not decoded",
        "audio_files.duration_seconds",
    ),
    Column(
        "sample_rate", pa.int32(), "Of the source; null if it was not decoded",
        "audio_files.sample_rate",
    ),
    Column(
        "channels", pa.int32(), "Of the source; null if it was not decoded", "audio_files.channels"
    ),
    Column(
        "source_rms_dbfs", pa.float64(),
        "Root mean square of the source's samples, all channels, -150 for silence; null if it was "
        "not decoded, or before it was measured", "audio_files.source_rms_dbfs",
    ),
    Column(
        "source_peak_dbfs", pa.float64(),
        "Largest sample of the source; null as source_rms_dbfs", "audio_files.source_peak_dbfs",
    ),
    Column(
        "opus_rms_dbfs", pa.float64(),
        "As source_rms_dbfs, of what the encoder was given; null as there",
        "audio_files.opus_rms_dbfs",
    ),
    Column(
        "opus_peak_dbfs", pa.float64(),
        "As source_peak_dbfs, of what the encoder was given; null as there",
        "audio_files.opus_peak_dbfs",
    ),
    Column(
        "status", pa.string(),
        "ok, failed, or skipped: no audio, audio of a format that is not taken, or erased",
        nullable=False,
    ),
    Column(
        "error", pa.string(),
        "Why there is no audio, or what of it is missing; null if it is whole",
        "audio_files.error",
    ),
    Column("selected", pa.bool_(), "Drawn for transcription", "audio_files.selected", False),
    Column(
        "inclusion_probability", pa.float64(),
        "Probability with which it could have been drawn; weight by its inverse",
        "audio_files.inclusion_probability", False,
    ),
    Column(
        "duplicate_of", pa.int32(),
        "Ordinal of the first member with the same content; null if this one is the first",
        "audio_files.duplicate_of",
    ),
    Column("encoded_at", _TIME, "When it was encoded; null if it was not"),
    Column("metadata", pa.string(), _METADATA),
)  # fmt: skip
MANIFEST = schema_of(MANIFEST_COLUMNS)

SEGMENT_COLUMNS = (
    Column("start", pa.float64(), "When it begins in the clip; null in no file"),
    Column("end", pa.float64(), "When it ends in the clip; null in no file"),
    Column("text", pa.string(), "What was said; null in no file"),
    Column("language", pa.string(), "ISO 639-1; null where Earmark 0.2 transcribed"),
    Column("avg_logprob", pa.float64(), "Mean log-probability of its tokens; null without text"),
    Column("doubt", pa.string(), "As that of the clip, of this segment; null if nothing"),
)
_LANGUAGE_COLUMNS = (
    Column("language", pa.string(), "ISO 639-1; null in no file"),
    Column("share", pa.float64(), "Of the seconds of speech; null in no file"),
)

#: One row per transcribed clip.
TRANSCRIPTS_COLUMNS = (
    _ARCHIVE,
    _ORDINAL,
    Column(
        "text", pa.string(), "All segments, empty without speech; null if failed",
        "transcripts.transcript_text",
    ),
    Column(
        "language", pa.string(), "ISO 639-1, of the most seconds of speech; null without speech",
        "transcripts.language",
    ),
    Column(
        "language_probability", pa.float64(),
        "How sure the model is of its language, 1 if that was given; null without speech",
        "transcripts.language_probability",
    ),
    Column(
        "languages", items(_LANGUAGE_COLUMNS),
        "All of them, the largest share of the seconds of speech first; null without speech, and "
        "where Earmark 0.2 transcribed", "transcripts.languages", parts=_LANGUAGE_COLUMNS,
    ),
    Column(
        "confidence", pa.float64(),
        "exp of the token-weighted mean log-probability; null without text",
        "transcripts.confidence",
    ),
    Column(
        "no_speech_probability", pa.float64(),
        "Whisper's own doubt that there is speech, mean over the segments by their length; null "
        "without speech",
        "transcripts.no_speech_probability",
    ),
    Column(
        "compression_ratio", pa.float64(),
        "Length of the text by its length under zlib, the highest of the segments; null without "
        "text", "transcripts.compression_ratio",
    ),
    Column(
        "doubt", pa.string(), "Why words may not have been spoken; null if nothing is doubtful",
        "transcripts.doubt",
    ),
    Column(
        "speech_seconds", pa.float64(), "How much speech there is; null if failed",
        "transcripts.speech_seconds",
    ),
    Column(
        "segments", items(SEGMENT_COLUMNS), "Its parts in order; null if failed",
        "transcripts.segments", parts=SEGMENT_COLUMNS,
    ),
    Column("status", pa.string(), "ok or failed", "transcripts.status", False),
    Column(
        "error", pa.string(), "Why it failed; null if it did not", "transcripts.error"
    ),
    Column(
        "seconds", pa.float64(), "Processing time; null where nothing was processed",
        "transcripts.seconds",
    ),
    Column(
        "copied_from", pa.string(),
        "opus_path of the clip with the same content in another archive that was heard instead; "
        "null if this one was", "audio_files.copied_from",
    ),
)  # fmt: skip
TRANSCRIPTS = schema_of(TRANSCRIPTS_COLUMNS)

#: One row per transcribed clip and policy category.
CLASSES_COLUMNS = (
    _ARCHIVE,
    _ORDINAL,
    Column("category", pa.string(), "Of the policy set", "classifications.flag_category", False),
    Column(
        "flagged", pa.bool_(), "The score reached the threshold; null unless status is ok",
        "classifications.flagged",
    ),
    Column(
        "score", pa.float64(), "Probability that the policy is met; null unless status is ok",
        "classifications.flag_score",
    ),
    Column(
        "threshold", pa.float64(), "Score from which a clip is flagged",
        "classifications.threshold", False,
    ),
    Column(
        "truncated", pa.bool_(), "The transcript was too long for the prompt and was cut",
        "classifications.truncated", False,
    ),
    Column(
        "answer", pa.string(),
        "logits: score from the two answer tokens; json: score as the model wrote it",
        "classifications.answer", False,
    ),
    Column(
        "raw_response", pa.string(), "What the model wrote; null unless answer is json",
        "classifications.raw_response",
    ),
    Column(
        "status", pa.string(),
        "ok; unparsed: an answer that could not be read; failed: no answer; unasked: the screen "
        "kept the clip from this policy", "classifications.status", False,
    ),
    Column(
        "error", pa.string(), "Why there is no score; null if there is one, and if unasked",
        "classifications.error",
    ),
    Column(
        "screen_score", pa.float64(),
        "Score of the screening policy about the clip; null without a screen, without speech, and "
        "if it had no answer", "classifications.screen_score",
    ),
    Column(
        "asked_probability", pa.float64(),
        "Probability with which the policy was to be asked, given screen_score; null means 1",
        "classifications.asked_probability",
    ),
)  # fmt: skip
CLASSES = schema_of(CLASSES_COLUMNS)


@dataclass(frozen=True)
class Table:
    """A table of the volume, one Parquet file per archive, with the columns archive and ordinal.

    Attributes:
        name: The folder below ``volume.root``, and the view for analysis.
        columns: Those of its files.
        key: Columns that tell the rows of an archive apart.
        stage: The stage that makes it, as its rule is called.
        partitions: Folders above that of the date: fields of a receipt that name what made it.
        retention: The age at which it goes: ``text`` for ``retention.text_days``; None for never.
        erasing: What becomes of the rows of a clip that is erased: ``blank`` leaves that it was
            there, ``drop`` leaves nothing.
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    stage: str
    partitions: tuple[Literal["asr", "policy"], ...]
    retention: Literal["text"] | None
    erasing: Literal["blank", "drop"]

    @property
    def schema(self) -> pa.Schema:
        """That of its files."""
        return schema_of(self.columns)

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
            MANIFEST_COLUMNS,
            key=("ordinal",),
            stage="encode_opus",
            partitions=(),
            retention=None,
            erasing="blank",
        ),
        Table(
            "transcripts",
            TRANSCRIPTS_COLUMNS,
            key=("ordinal",),
            stage="transcribe_audio",
            partitions=("asr",),
            retention="text",
            erasing="drop",
        ),
        Table(
            "classes",
            CLASSES_COLUMNS,
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
