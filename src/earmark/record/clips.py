"""Clips as a person asks for them: one of them whole, or those in which something was said."""

import datetime
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psycopg2.extensions import connection as Connection

from earmark.errors import EarmarkError
from earmark.record.erasure import Erased
from earmark.tables import MANIFEST, read_table
from earmark.volume import Volume

#: So many clips of one name are told.
_MOST_OF_A_NAME = 20
_ROWS = 2_000  # read at a time


@dataclass(frozen=True)
class Wanted:
    """Which clips are asked for; None, or nothing, asks for all.

    Attributes:
        words: What was said, as web searches have it: all of the words, ``"a phrase"``, ``this or
            that``, ``-without``.
        language: ISO 639-1, of any part of the clip.
        category: A policy category that flagged it.
        since: First date of its archive.
        until: Last date of its archive.
        min_score: Lowest score, of the category or else the highest one; 0..1.
    """

    words: str | None = None
    language: str | None = None
    category: str | None = None
    since: datetime.date | None = None
    until: datetime.date | None = None
    min_score: float | None = None


@dataclass(frozen=True)
class Clip:
    """A clip that was heard, with what it was heard to say.

    Attributes:
        id: In ``audio_files``.
        archive: Name of its archive.
        date: Of the archive.
        ordinal: Its position there.
        original_filename: Its name there, which anybody may have chosen.
        opus_path: Relative to the volume; None for a copy of an earlier member.
        duration_seconds: Of its audio.
        status: As in ``audio_files``.
        language: ISO 639-1, of the most seconds of speech; None without speech.
        confidence: Of the transcript, 0..1.
        doubt: Why its words may not have been spoken; None if nothing is doubtful.
        score: The highest of its scores, or that of the category that is asked for; 0..1.
        category: Whose score that is.
        text: The whole transcript.
        segments: Its parts, with ``start`` and ``end`` in seconds and ``text``.
        asr: Name of the set of transcripts.
        policy: Name of the policy set.
    """

    id: int
    archive: str | None
    date: datetime.date | None
    ordinal: int | None
    original_filename: str
    opus_path: str | None
    duration_seconds: float | None
    status: str
    language: str | None
    confidence: float | None
    doubt: str | None
    score: float | None
    category: str | None
    text: str | None
    segments: list[dict[str, Any]] = field(default_factory=list)
    asr: str | None = None
    policy: str | None = None


_WORDS = "to_tsvector('simple', left(t.transcript_text, 100000))"
#: Thai to Tibetan, Burmese, Khmer, Japanese and Chinese: their words are not parted by spaces.
_UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff]"
)

_SEARCH = f"""
SELECT
    af.source_sha256, af.id, af.archive_source, a.date, af.ordinal, af.original_filename,
    af.opus_path, af.duration_seconds, af.status, t.language, t.confidence, t.doubt,
    s.flag_score, s.flag_category, t.transcript_text, COALESCE(t.segments, '[]'), a.asr, a.policy
FROM transcripts t
JOIN audio_files af ON af.id = t.audio_file_id
LEFT JOIN archives a ON a.id = af.archive_id
LEFT JOIN LATERAL (
    SELECT flag_score, flag_category, flagged FROM classifications
    WHERE audio_file_id = af.id AND policy = COALESCE(a.policy, 'unrecorded')
      AND (%(category)s::text IS NULL OR flag_category = %(category)s)
    ORDER BY flag_score DESC NULLS LAST, flag_category LIMIT 1
) s ON TRUE
WHERE t.asr = COALESCE(a.asr, 'unrecorded') AND t.status = 'ok'
  AND (%(words)s::text IS NULL OR CASE
        WHEN %(signs)s::text [] IS NULL
        THEN {_WORDS} @@ websearch_to_tsquery('simple', %(words)s)
        ELSE t.transcript_text ILIKE ALL (%(signs)s::text [])
    END)
  AND (%(language)s::text IS NULL OR t.language = %(language)s
       OR t.languages @> jsonb_build_array(jsonb_build_object('language', %(language)s::text)))
  AND (%(category)s::text IS NULL OR s.flagged)
  AND (%(since)s::date IS NULL OR a.date >= %(since)s)
  AND (%(until)s::date IS NULL OR a.date <= %(until)s)
  AND (%(min_score)s::float8 IS NULL OR s.flag_score >= %(min_score)s)
ORDER BY s.flag_score DESC NULLS LAST, af.id
"""


def search(connection: Connection, volume: Volume, wanted: Wanted) -> Iterator[Clip]:
    """The clips that are asked for, the highest score first.

    Reads the transcripts of the days that are asked for: an index of all words would be among the
    largest of the database, and keep words of clips that were erased.  Where one of the words is in
    a script without spaces, each is looked for as it is written.

    Args:
        connection: To a database with the schema, in a transaction.
        volume: The shared volume, which knows what was erased.
        wanted: Which clips.

    Raises:
        EarmarkError: there is no word among what is to be looked for.
    """
    if wanted.words is not None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT numnode(websearch_to_tsquery('simple', %s))", [wanted.words])
            if not cursor.fetchall()[0][0]:
                raise EarmarkError("there is no word in what is to be looked for; name one")
    erased = Erased(volume)
    with connection.cursor(name="clips") as cursor:
        cursor.itersize = _ROWS
        cursor.execute(_SEARCH, {**vars(wanted), "signs": _signs(wanted.words)})
        for content, *values in cursor:
            if content is None or content not in erased:
                yield Clip(*values)


def _signs(words: str | None) -> list[str] | None:
    if words is None or not _UNSPACED.search(words):
        return None
    return [
        "%" + re.sub(r"([\\%_])", r"\\\1", word) + "%" for word in words.replace('"', " ").split()
    ]


@dataclass(frozen=True)
class Whole:
    """All that is known of one clip.

    Attributes:
        facts: Where it comes from, what it is and what became of it, by the database's columns.
        audio: Its Opus file, that of the first member with its content; None if there is none.
        metadata: What its source says of it, a JSON object; None if nothing.
        transcripts: What it was heard to say, one for each set.
        scores: What the policies say, one for each set and category.
        verdicts: What people decided, oldest first.
        provenance: What made the files, by kind and name.
    """

    facts: dict[str, Any]
    audio: Path | None
    metadata: str | None
    transcripts: list[dict[str, Any]]
    scores: list[dict[str, Any]]
    verdicts: list[dict[str, Any]]
    provenance: list[dict[str, Any]]


_FACTS = """
SELECT
    af.id, af.archive_source AS archive, a.date, af.ordinal, af.original_filename, af.opus_path,
    af.status, af.error, af.duration_seconds, af.source_format, af.source_bytes, af.sample_rate,
    af.channels, af.source_sha256, af.duplicate_of, af.copied_from, af.selected, af.control,
    af.created_at, af.processed_at, a.asr, a.policy
FROM audio_files af LEFT JOIN archives a ON a.id = af.archive_id
WHERE af.id = %(id)s
"""
# A copy of an earlier member has its audio, transcript and scores there.
_OF_ORIGINAL = """
COALESCE((
    SELECT original.id FROM audio_files af JOIN audio_files original
        ON original.archive_id = af.archive_id AND original.ordinal = af.duplicate_of
    WHERE af.id = %(id)s
), %(id)s)
"""
_AUDIO = f"SELECT opus_path FROM audio_files WHERE id = {_OF_ORIGINAL}"
_TRANSCRIPTS = f"""
SELECT asr, status, error, language, languages, confidence, no_speech_probability,
    compression_ratio, doubt, speech_seconds, transcript_text, segments
FROM transcripts WHERE audio_file_id = {_OF_ORIGINAL} ORDER BY asr
"""
_SCORES = f"""
SELECT policy, flag_category AS category, flag_score AS score, threshold, flagged, status, error,
    screen_score, truncated
FROM classifications WHERE audio_file_id = {_OF_ORIGINAL}
ORDER BY policy, flag_score DESC NULLS LAST, flag_category
"""
_VERDICTS = """
SELECT d.decided_at, r.name AS reviewer, d.round, d.verdict, d.categories, d.transcript_wrong,
    d.not_speech, d.wrong_language, d.note
FROM review_decisions d JOIN reviewers r ON r.id = d.reviewer_id
WHERE d.audio_file_id = %(id)s ORDER BY d.id
"""
_PROVENANCE = """
SELECT p.kind, p.name, p.facts
FROM provenance p JOIN audio_files af ON af.archive_id = p.archive_id
WHERE af.id = %(id)s ORDER BY p.kind, p.name
"""


def show(connection: Connection, volume: Volume, asked: str) -> Whole:
    """All that is known of a clip.

    Args:
        connection: To a database with the schema.
        volume: The shared volume.
        asked: Its id; or its file on the volume, or its name in the archive, or the end of either.

    Raises:
        EarmarkError: there is no such clip, or there are several.
    """
    number = _find(connection, volume, asked)
    of_clip = {"id": number}
    facts = _rows(connection, _FACTS, of_clip)
    if not facts or (facts[0]["source_sha256"] or "") in Erased(volume):
        raise EarmarkError(f"the database has no clip {asked}; `earmark search` finds clips")
    (clip,) = facts
    ((audio,),) = (row.values() for row in _rows(connection, _AUDIO, of_clip))
    return Whole(
        facts=clip,
        audio=volume.root / audio if audio else None,
        metadata=_metadata(volume, clip),
        transcripts=_rows(connection, _TRANSCRIPTS, of_clip),
        scores=_rows(connection, _SCORES, of_clip),
        verdicts=_rows(connection, _VERDICTS, of_clip),
        provenance=_rows(connection, _PROVENANCE, of_clip),
    )


def _find(connection: Connection, volume: Volume, asked: str) -> int:
    if re.fullmatch(r"[0-9]{1,18}", asked):
        return int(asked)
    root = f"{volume.root}/"
    path = os.path.normpath(Path.cwd() / asked) if Path(asked).exists() else asked
    # No pattern is made of what is asked for: it may hold anything.
    rows = _rows(
        connection,
        "SELECT id, archive_source, original_filename FROM audio_files WHERE opus_path = %(path)s "
        "UNION SELECT id, archive_source, original_filename FROM audio_files "
        "WHERE original_filename = %(name)s "
        "OR right(original_filename, length(%(name)s) + 1) = '/' || %(name)s "
        "ORDER BY id LIMIT %(most)s",
        {"path": path.removeprefix(root), "name": asked, "most": _MOST_OF_A_NAME},
    )
    if not rows:
        raise EarmarkError(f"the database has no clip {asked}; `earmark search` finds clips")
    if len(rows) > 1:
        told = ", ".join(f"{row['id']} ({row['archive_source']})" for row in rows)
        more = " and perhaps more" if len(rows) == _MOST_OF_A_NAME else ""
        raise EarmarkError(f"several clips are called {asked}: {told}{more}; give an id")
    return int(rows[0]["id"])


def _metadata(volume: Volume, clip: dict[str, Any]) -> str | None:
    if clip["archive"] is None or clip["date"] is None:
        return None
    path = volume.manifest(clip["date"].isoformat(), clip["archive"])
    if not path.exists():
        return None
    table = read_table(path, MANIFEST)
    for ordinal, metadata in zip(table["ordinal"], table["metadata"], strict=True):
        if ordinal.as_py() == clip["ordinal"]:
            said: str | None = metadata.as_py()
            return said
    return None


def _rows(connection: Connection, sql: str, parameters: Any) -> list[dict[str, Any]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        names = [column.name for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
