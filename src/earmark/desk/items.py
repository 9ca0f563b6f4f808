"""What is shown of a clip, and who may see it."""

import datetime
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from markupsafe import Markup
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from earmark.desk.accounts import Reviewer

#: So many other uploads are listed.
MOST_DUPLICATES = 20


@dataclass(frozen=True)
class ShownSegment:
    """A piece of the transcript; times in seconds.

    Attributes:
        start: From the clip's beginning.
        end: Likewise.
        text: What was said.
        language: ISO 639-1; None where it was not recorded.
        doubt: As :attr:`Item.doubt`.
    """

    start: float
    end: float
    text: str
    language: str | None
    doubt: str | None


@dataclass(frozen=True)
class ShownPolicy:
    """A policy by which the clip was judged.

    Attributes:
        category: Its category.
        text: The whole policy as it was applied, Markdown; None if nothing recorded it.
        sha256: Of the text.
        flagged: Whether the model flagged the clip under it.
        score: The model's, 0 to 1; None without an answer.
        asked: Whether the model was asked: a screen keeps most clips from most policies.
    """

    category: str
    text: str | None
    sha256: str | None
    flagged: bool
    score: float | None
    asked: bool

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
        text: The transcript; None if there is none: see ``problem``.
        problem: Why not: transcribing failed, or it is not there any more.
        segments: The same in pieces.
        language: ISO 639-1; None without speech.
        language_probability: Of the language, 0 to 1.
        languages: All of them with their shares of the speech, 0 to 1, the largest first.
        confidence: Of the transcript, 0 to 1.
        no_speech_probability: That nobody speaks, 0 to 1.
        compression_ratio: Of the text; above 2.4 it repeats itself.
        doubt: Why the text may not have been spoken; None if nothing is doubtful.
        asr: Speech recognition set of the transcript that is shown.
        policy: Policy set that is shown.
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
    text: str | None
    problem: str | None
    segments: list[ShownSegment]
    language: str | None
    language_probability: float | None
    languages: list[tuple[str, float]]
    confidence: float | None
    no_speech_probability: float | None
    compression_ratio: float | None
    doubt: str | None
    asr: str
    policy: str
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

    They may if they have it open, and for a day after they decided about it, unless they only
    skipped it; a lead may as soon as anybody has it open, and from then on.
    """
    if not -(2**63) <= audio_file_id < 2**63:
        return False
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT FROM review_claims WHERE audio_file_id = %(clip)s "
            "AND (reviewer_id = %(me)s OR %(lead)s)) "
            "OR EXISTS (SELECT FROM review_decisions WHERE audio_file_id = %(clip)s "
            "AND (%(lead)s OR reviewer_id = %(me)s AND verdict NOT IN ('skipped', 'undone') "
            "AND decided_at > now() - INTERVAL '24 hours'))",
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


def sets_of(cursor: Cursor, audio_file_id: int) -> tuple[str, str]:
    """Speech recognition set and policy set to show of a clip.

    Those of the newest decision about it, so that whoever comes next sees what was decided about;
    without one, those that were loaded last.
    """
    cursor.execute(
        "SELECT asr, policy FROM review_decisions "
        "WHERE audio_file_id = %s AND verdict <> 'skipped' ORDER BY id DESC LIMIT 1",
        [audio_file_id],
    )
    if found := cursor.fetchone():
        return found[0], found[1]
    cursor.execute(
        "SELECT COALESCE(a.asr, 'unrecorded'), COALESCE(a.policy, 'unrecorded') "
        "FROM audio_files af LEFT JOIN archives a ON a.id = af.archive_id WHERE af.id = %s",
        [audio_file_id],
    )
    asr, policy = cursor.fetchall()[0]
    return asr, policy


def load(
    connection: Connection, audio_file_id: int, sets: tuple[str, str] | None = None
) -> Item | None:
    """Read what is shown of a clip; None if there is none.

    Args:
        connection: To the database.
        audio_file_id: The clip.
        sets: Speech recognition set and policy set to show; None for :func:`sets_of` it.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT original_filename, archive_source, opus_path, duration_seconds, created_at, "
            "archive_id, ordinal FROM audio_files WHERE id = %s",
            [audio_file_id],
        )
        found = cursor.fetchone()
        if found is None:
            return None
        name, archive, path, duration, created_at, archive_id, ordinal = found
        asr, policy = sets or sets_of(cursor, audio_file_id)
        cursor.execute(
            "SELECT transcript_text, segments, languages, language, language_probability, "
            "confidence, no_speech_probability, compression_ratio, doubt, error "
            "FROM transcripts WHERE audio_file_id = %s AND asr = %s",
            [audio_file_id, asr],
        )
        nothing: tuple[Any, ...] = (None, [], [], *[None] * 6, "it is not there any more")
        text, segments, languages, *heard, problem = cursor.fetchone() or nothing
        language, language_probability, confidence, no_speech, compression_ratio, doubt = heard
        policies = _policies(cursor, audio_file_id, policy)
        return Item(
            id=audio_file_id,
            name=name,
            archive=archive,
            opus_path=path,
            duration_seconds=duration,
            created_at=created_at,
            text=text,
            problem=problem,
            segments=[
                ShownSegment(
                    s["start"], s["end"], s["text"].strip(), s.get("language"), s.get("doubt")
                )
                for s in segments or []
            ],
            language=language,
            language_probability=language_probability,
            languages=[(each["language"], each["share"]) for each in languages or []],
            confidence=confidence,
            no_speech_probability=no_speech,
            compression_ratio=compression_ratio,
            doubt=doubt,
            asr=asr,
            policy=policy,
            flag_categories=[each.category for each in policies if each.flagged],
            policies=policies,
            duplicates=_duplicates(cursor, archive_id, ordinal, path),
        )


def decisions_about(connection: Connection, audio_file_id: int) -> list[EarlierDecision]:
    """What was decided about a clip so far, the oldest first."""
    with connection.cursor() as cursor:
        cursor.execute(f"{_DECISIONS} ORDER BY d.id", [audio_file_id])
        return [EarlierDecision(*row) for row in cursor.fetchall()]


def undone(
    connection: Connection, reviewer: Reviewer, audio_file_id: int
) -> EarlierDecision | None:
    """What somebody decided about a clip and has just undone, to begin from; else None."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"{_DECISIONS} AND d.reviewer_id = %s ORDER BY d.id DESC LIMIT 2",
            [audio_file_id, reviewer.id],
        )
        newest = [EarlierDecision(*row) for row in cursor.fetchall()]
    return newest[1] if len(newest) == 2 and newest[0].verdict == "undone" else None


_DECISIONS = (
    "SELECT r.name, d.round, d.verdict, d.categories, d.transcript_wrong, d.not_speech, "
    "d.wrong_language, d.reason, d.note, d.decided_at "
    "FROM review_decisions d JOIN reviewers r ON r.id = d.reviewer_id WHERE d.audio_file_id = %s"
)


def categories(cursor: Cursor, audio_file_id: int, policy: str) -> dict[str, str | None]:
    """Categories by which a clip was judged under a policy set, with their texts' hashes.

    A hash is None where nothing recorded it.
    """
    cursor.execute(
        "SELECT p.facts ->> 'policy_sha256' FROM audio_files af "
        "JOIN provenance p ON p.archive_id = af.archive_id AND p.kind = 'classifications' "
        "WHERE af.id = %s AND p.name = %s",
        [audio_file_id, policy],
    )
    found = cursor.fetchone()
    if found is None:  # not recorded, or the clip has lost its archive: a set is the same for all
        cursor.execute(
            "SELECT facts ->> 'policy_sha256' FROM provenance "
            "WHERE kind = 'classifications' AND name = %s ORDER BY archive_id DESC LIMIT 1",
            [policy],
        )
        found = cursor.fetchone()
    hashes: dict[str, str | None] = json.loads(found[0] or "{}") if found else {}
    cursor.execute(
        "SELECT flag_category FROM classifications "
        "WHERE audio_file_id = %s AND policy = %s AND flag_category IS NOT NULL",
        [audio_file_id, policy],
    )
    return {category: None for (category,) in cursor.fetchall()} | hashes


def _policies(cursor: Cursor, audio_file_id: int, policy: str) -> list[ShownPolicy]:
    hashes = categories(cursor, audio_file_id, policy)
    cursor.execute(
        "SELECT sha256, text FROM policies WHERE sha256 = ANY (%s)",
        [[sha256 for sha256 in hashes.values() if sha256]],
    )
    texts: dict[str | None, str] = dict(cursor.fetchall())
    cursor.execute(
        "SELECT flag_category, flagged, flag_score, status <> 'unasked' FROM classifications "
        "WHERE audio_file_id = %s AND policy = %s",
        [audio_file_id, policy],
    )
    judged = {category: answer for category, *answer in cursor.fetchall()}
    shown = [
        ShownPolicy(category, texts.get(sha256), sha256, *judged.get(category, (False, None, True)))
        for category, sha256 in hashes.items()
    ]
    return sorted(shown, key=lambda p: (not p.flagged, -(p.score or 0) * p.flagged, p.category))


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
