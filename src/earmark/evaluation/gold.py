"""Gold sets and reference texts: what people say of texts, read from files of any origin.

JSON Lines, an object in each line, or Parquet, with the same fields as columns.  A faulty row is
named by its line (in Parquet, its row, from 1) and field.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Meta

from earmark.errors import EarmarkError
from earmark.record.database import connect, require_schema
from earmark.visible import visible

Name = Annotated[str, Meta(min_length=1, max_length=200)]


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Place(_Row, frozen=True, kw_only=True):
    """A clip by its place in an archive.

    Attributes:
        archive: The archive's name.
        ordinal: The clip's position in it, from 0.
    """

    archive: Name
    ordinal: Annotated[int, Meta(ge=0, le=2**31 - 1)]

    def __post_init__(self) -> None:
        """Refuse what no database takes."""
        if "\0" in self.archive:
            raise ValueError("`archive` holds a NUL character, which no archive's name does")


Clip = Annotated[int, Meta(ge=1, le=2**63 - 1)] | Place


class Labelled(_Row, frozen=True, kw_only=True):
    """A text, and the categories that it falls under as people see it.

    Attributes:
        text: The text; either it or a clip is given.
        clip: A clip that was transcribed: its id in ``audio_files``, or its place.
        categories: Those that apply.
        labelled: Those that somebody looked for; None for all of the policy set.
        language: ISO 639-1; None if nobody said.
        labelled_by: Who labelled, by any names.
        weight: How many texts of the population it stands for, if it was drawn at random.
        id: What the row is called, for whoever reads the worst disagreements.
    """

    text: str | None = None
    clip: Clip | None = None
    categories: tuple[Name, ...]
    labelled: tuple[Name, ...] | None = None
    language: Annotated[str, Meta(min_length=1, max_length=35)] | None = None
    labelled_by: tuple[Name, ...] | Name | None = None
    weight: Annotated[float, Meta(gt=0)] | None = None
    id: Name | None = None

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        if (self.text is None) == (self.clip is None):
            raise ValueError("give either `text` or `clip`")
        if strangers := set(self.categories) - set(self.labelled or self.categories):
            raise ValueError(
                f"`labelled` lacks {', '.join(sorted(strangers))}, which is among `categories`"
            )
        if not math.isfinite(self.weight or 0.0):
            raise ValueError("`weight` must be finite")

    @property
    def labellers(self) -> tuple[str, ...]:
        """Who labelled it."""
        said = self.labelled_by
        return (said,) if isinstance(said, str) else said or ()


class Reference(_Row, frozen=True, kw_only=True):
    """What is said in a clip, as a person wrote it down.

    Attributes:
        text: The words; "" if nobody speaks.
        clip: The clip that was transcribed, as in :class:`Labelled`; either it or audio is given.
        audio: An audio file, relative to the folder of the references.
        language: ISO 639-1; None if nobody said.
        id: What the row is called.
    """

    text: str
    clip: Clip | None = None
    audio: Name | None = None
    language: Annotated[str, Meta(min_length=1, max_length=35)] | None = None
    id: Name | None = None

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        if (self.clip is None) == (self.audio is None):
            raise ValueError("give either `clip` or `audio`")


Row = TypeVar("Row", Labelled, Reference)


class Gold(msgspec.Struct, Generic[Row], frozen=True):
    """The rows of a file.

    Attributes:
        path: The file.
        sha256: Of its bytes, hexadecimal.
        rows: With the number of each, its line or row in the file, in order.
    """

    path: Path
    sha256: str
    rows: Sequence[tuple[int, Row]]


class Transcribed(msgspec.Struct, frozen=True):
    """What the database has of a clip.

    Attributes:
        text: Its transcript; "" without speech.
        language: ISO 639-1; None without speech.
    """

    text: str
    language: str | None


def read(path: Path, kind: type[Row]) -> Gold[Row]:
    """Read a file of labelled texts or of references.

    Args:
        path: Parquet if its name ends so, else JSON Lines.
        kind: What its rows are.

    Raises:
        EarmarkError: it can't be read, has no rows, or one of them is wrong.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise EarmarkError(f"{path} can't be read: {error.strerror}") from error
    is_parquet = path.suffix == ".parquet"
    found = _parquet_rows(path, content) if is_parquet else _json_rows(content)
    rows = []
    for number, row in found:
        try:
            if isinstance(row, bytes):
                rows.append((number, msgspec.json.decode(row, type=kind)))
            else:
                rows.append((number, msgspec.convert(row, kind)))
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            where = "row" if is_parquet else "line"
            raise EarmarkError(f"{path}, {where} {number}: {_said(error, kind)}") from error
    if not rows:
        raise EarmarkError(f"{path} has no rows; {_form(kind)}")
    return Gold(path, hashlib.sha256(content).hexdigest(), rows)


def _json_rows(content: bytes) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        if line.strip():
            yield number, line


def _parquet_rows(path: Path, content: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        table = pq.read_table(pa.BufferReader(content))
        for number, row in enumerate(table.to_pylist(), start=1):
            yield number, {key: value for key, value in row.items() if value is not None}
    except (OSError, ValueError, pa.ArrowException, OverflowError, MemoryError) as error:
        raise EarmarkError(
            f"{path} can't be read as Parquet ({' '.join(str(error).split())[:300]})"
        ) from error


def _said(error: Exception, kind: type[Row]) -> str:
    """What is wrong with a row; of a missing or unknown field also which there are."""
    text = visible(str(error)) or type(error).__name__
    is_about_fields = "unknown field" in text or "missing required" in text
    return f"{text}; {_form(kind)}" if is_about_fields or "malformed" in text else text


def _form(kind: type[Row]) -> str:
    fields = ", ".join(kind.__struct_fields__)
    return f"each row is an object with some of these fields: {fields} (docs/evaluation.md)"


def transcripts(
    conninfo: str, asr: str, rows: Sequence[tuple[int, Row]]
) -> Mapping[int, Transcribed]:
    """The transcripts of the clips that rows name.

    Args:
        conninfo: As :func:`earmark.record.database.connection_string` returns it.
        asr: Name of the transcription settings.
        rows: Each with its number.

    Returns:
        By the number of the row, for those that name a clip.

    Raises:
        EarmarkError: a clip has none, or the database can't be reached.
    """
    named = [(number, row.clip) for number, row in rows if row.clip is not None]
    ids = [clip for _, clip in named if isinstance(clip, int)]
    places = [clip for _, clip in named if isinstance(clip, Place)]
    with connect(conninfo) as connection, connection.cursor() as cursor:
        require_schema(connection)
        cursor.execute(
            "SELECT audio_file_id, transcript_text, language FROM transcripts "
            "WHERE asr = %s AND audio_file_id = ANY(%s)",
            [asr, ids],
        )
        heard: dict[Clip, Transcribed] = {
            id: Transcribed(text or "", language) for id, text, language in cursor.fetchall()
        }
        cursor.execute(
            "SELECT a.name, af.ordinal, t.transcript_text, t.language, count(*) OVER "
            "(PARTITION BY a.name, af.ordinal) FROM archives a "
            "JOIN unnest(%s::text[], %s::int[]) wanted (name, ordinal) ON wanted.name = a.name "
            "JOIN audio_files af ON af.archive_id = a.id AND af.ordinal = wanted.ordinal "
            "JOIN transcripts t ON t.audio_file_id = af.id AND t.asr = %s",
            [
                [place.archive for place in set(places)],
                [place.ordinal for place in set(places)],
                asr,
            ],
        )
        for archive, ordinal, text, language, count in cursor.fetchall():
            if count > 1:
                raise EarmarkError(
                    f"there are archives {archive} of several days; name the clip by its id"
                )
            place = Place(archive=archive, ordinal=ordinal)
            heard[place] = Transcribed(text or "", language)
    for number, clip in named:
        if clip not in heard:
            raise EarmarkError(
                f"row {number}: clip {_called(clip)} has no transcript by asr.name '{asr}' in the "
                "database: it was erased, is too old, or was never transcribed; take the row out"
            )
    return {number: heard[clip] for number, clip in named}


def _called(clip: Clip) -> str:
    return str(clip) if isinstance(clip, int) else f"{clip.ordinal} of {clip.archive}"
