"""What is shown of a clip, and who may see it."""

import datetime
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from markdown_it import MarkdownIt
from markupsafe import Markup
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from earmark.desk.accounts import Reviewer

#: So many other uploads are listed.
MOST_DUPLICATES = 20


@dataclass(frozen=True)
class Segment:
    """A piece of the transcript; times in seconds."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class ShownPolicy:
    """A policy by which the clip was judged.

    Attributes:
        category: Its category.
        text: The whole policy as it was applied, Markdown; None if nothing recorded it.
        sha256: Of the text.
        flagged: Whether the model flagged the clip under it.
        score: The model's, 0 to 1; None without an answer.
    """

    category: str
    text: str | None
    sha256: str | None
    flagged: bool
    score: float | None

    @property
    def title(self) -> str:
        """The policy's first heading, or else the category."""
        first = (self.text or "").split("\n", 1)[0]
        return first.removeprefix("# ").strip() if first.startswith("# ") else self.category

    @property
    def html(self) -> Markup:
        """The text for a page, below headings of the second level."""
        return _as_html(self.text or "")


@dataclass(frozen=True)
class Duplicate:
    """Another upload of the same content."""

    name: str
    archive: str | None
    created_at: datetime.datetime


@dataclass(frozen=True)
class Item:
    """A clip as a reviewer sees it.

    Attributes:
        id: In ``audio_files``.
        name: Its maker's name for it.
        archive: Whole name of its archive.
        opus_path: Relative to ``volume.root``; None if there is no audio.
        duration_seconds: Of the audio.
        created_at: When it was first loaded.
        text: The transcript.
        segments: The same in pieces.
        language: ISO 639-1; None without speech.
        language_probability: Of the language, 0 to 1.
        confidence: Of the transcript, 0 to 1.
        no_speech_probability: That nobody speaks, 0 to 1.
        asr: Speech recognition set of the transcript.
        policy: Policy set of the scores.
        flag_categories: Under which it was flagged, the highest score first.
        policies: All of the set; flagged ones first, and by their names.
        duplicates: Other uploads of the content, at most :data:`MOST_DUPLICATES`.
    """

    id: int
    name: str
    archive: str | None
    opus_path: str | None
    duration_seconds: float | None
    created_at: datetime.datetime
    text: str
    segments: list[Segment]
    language: str | None
    language_probability: float | None
    confidence: float | None
    no_speech_probability: float | None
    asr: str | None
    policy: str | None
    flag_categories: list[str]
    policies: list[ShownPolicy]
    duplicates: list[Duplicate]

    @property
    def control(self) -> bool:
        """Whether nothing flagged it."""
        return not self.flag_categories

    @property
    def has_audio(self) -> bool:
        """Whether there is something to hear."""
        return self.opus_path is not None


@dataclass(frozen=True)
class EarlierDecision:
    """What somebody decided about a clip; times as the database has them."""

    reviewer: str
    round: str
    verdict: str
    categories: list[str]
    transcript_wrong: bool
    not_speech: bool
    wrong_language: bool
    reason: str | None
    note: str | None
    decided_at: datetime.datetime


def may_see(connection: Connection, reviewer: Reviewer, audio_file_id: int) -> bool:
    """Whether somebody may see and hear a clip.

    They may if they have it open or have decided about it; a lead also if anybody has.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT FROM review_claims WHERE audio_file_id = %(clip)s "
            "AND (reviewer_id = %(me)s OR %(lead)s)) "
            "OR EXISTS (SELECT FROM review_decisions WHERE audio_file_id = %(clip)s "
            "AND (reviewer_id = %(me)s OR %(lead)s))",
            {"clip": audio_file_id, "me": reviewer.id, "lead": reviewer.is_lead},
        )
        return bool(cursor.fetchall()[0][0])


def note_access(
    connection: Connection,
    reviewer: Reviewer,
    audio_file_id: int | None,
    what: str,
    detail: str | None = None,
) -> None:
    """Log that somebody saw or heard a clip, or took an export; ``what`` as in the table."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO review_access (reviewer_id, audio_file_id, what, detail) "
            "VALUES (%s, %s, %s, %s)",
            [reviewer.id, audio_file_id, what, detail],
        )


def opus_path(connection: Connection, audio_file_id: int, root: Path) -> Path | None:
    """Where a clip's audio is; None if it has none, or none below ``root``/audio.

    Args:
        connection: To the database.
        audio_file_id: The clip.
        root: ``volume.root``.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT opus_path FROM audio_files WHERE id = %s", [audio_file_id])
        found = cursor.fetchone()
    if found is None or found[0] is None:
        return None
    path = (root / found[0]).resolve()
    is_ours = path.is_relative_to((root / "audio").resolve()) and path.suffix == ".opus"
    return path if is_ours and path.is_file() else None


def load(connection: Connection, audio_file_id: int) -> Item | None:
    """Read what is shown of a clip; None if there is none."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT af.original_filename, af.archive_source, af.opus_path, af.duration_seconds, "
            "af.created_at, af.archive_id, af.ordinal, af.queue_categories, a.asr, a.policy "
            "FROM audio_files af LEFT JOIN archives a ON a.id = af.archive_id WHERE af.id = %s",
            [audio_file_id],
        )
        found = cursor.fetchone()
        if found is None:
            return None
        name, archive, path, duration, created_at, archive_id, ordinal, flagged, asr, policy = found
        cursor.execute(
            "SELECT COALESCE(transcript_text, ''), segments, language, language_probability, "
            "confidence, no_speech_probability FROM transcripts "
            "WHERE audio_file_id = %s AND asr = COALESCE(%s, 'unrecorded')",
            [audio_file_id, asr],
        )
        heard = cursor.fetchone() or ("", [], None, None, None, None)
        text, segments, language, language_probability, confidence, no_speech_probability = heard
        return Item(
            id=audio_file_id,
            name=name,
            archive=archive,
            opus_path=path,
            duration_seconds=duration,
            created_at=created_at,
            text=text,
            segments=[Segment(s["start"], s["end"], s["text"].strip()) for s in segments or []],
            language=language,
            language_probability=language_probability,
            confidence=confidence,
            no_speech_probability=no_speech_probability,
            asr=asr,
            policy=policy,
            flag_categories=flagged or [],
            policies=_policies(cursor, audio_file_id, archive_id, policy, flagged or []),
            duplicates=_duplicates(cursor, archive_id, ordinal, path),
        )


def decisions_about(connection: Connection, audio_file_id: int) -> list[EarlierDecision]:
    """What was decided about a clip so far, the oldest first."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT r.name, d.round, d.verdict, d.categories, d.transcript_wrong, d.not_speech, "
            "d.wrong_language, d.reason, d.note, d.decided_at "
            "FROM review_decisions d JOIN reviewers r ON r.id = d.reviewer_id "
            "WHERE d.audio_file_id = %s ORDER BY d.id",
            [audio_file_id],
        )
        return [EarlierDecision(*row) for row in cursor.fetchall()]


def _policies(
    cursor: Cursor,
    audio_file_id: int,
    archive_id: int | None,
    policy: str | None,
    flagged: list[str],
) -> list[ShownPolicy]:
    cursor.execute(
        "SELECT facts ->> 'policy_sha256' FROM provenance "
        "WHERE archive_id = %s AND kind = 'classifications' AND name = %s",
        [archive_id, policy],
    )
    found = cursor.fetchone()
    hashes: dict[str, str] = json.loads(found[0] or "{}") if found else {}
    cursor.execute(
        "SELECT sha256, text FROM policies WHERE sha256 = ANY (%s)", [list(hashes.values())]
    )
    texts: dict[str, str] = dict(cursor.fetchall())
    cursor.execute(
        "SELECT flag_category, flag_score FROM classifications "
        "WHERE audio_file_id = %s AND policy = COALESCE(%s, 'unrecorded') "
        "AND flag_category IS NOT NULL",
        [audio_file_id, policy],
    )
    scores: dict[str, float | None] = dict(cursor.fetchall())
    others = sorted({*hashes, *scores} - set(flagged))
    return [
        ShownPolicy(
            category,
            texts.get(hashes.get(category, "")),
            hashes.get(category),
            category in flagged,
            scores.get(category),
        )
        for category in (*flagged, *others)
    ]


def _duplicates(
    cursor: Cursor, archive_id: int | None, ordinal: int | None, opus_path: str | None
) -> list[Duplicate]:
    cursor.execute(
        "SELECT original_filename, archive_source, created_at FROM audio_files "
        "WHERE archive_id = %(archive)s AND duplicate_of = %(ordinal)s "
        "UNION ALL "
        "SELECT original_filename, archive_source, created_at FROM audio_files "
        "WHERE copied_from = %(path)s LIMIT %(most)s",
        {
            "archive": archive_id,
            "ordinal": ordinal,
            "path": opus_path,
            "most": MOST_DUPLICATES,
        },
    )
    return [Duplicate(*row) for row in cursor.fetchall()]


@lru_cache(maxsize=64)
def _as_html(text: str) -> Markup:
    markdown = MarkdownIt("commonmark", {"html": False})
    tokens = markdown.parse(text)
    for token in tokens:
        if token.type.startswith("heading_"):
            token.tag = f"h{min(6, int(token.tag[1]) + 2)}"
    return Markup(markdown.renderer.render(tokens, markdown.options, {}))
