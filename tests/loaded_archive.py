"""An archive whose manifest, transcripts and classes a test makes up and loads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from earmark.record.database import connect
from earmark.record.load import load_archive
from earmark.tables import CLASSES, MANIFEST, TRANSCRIPTS, write_table

Rows = list[dict[str, Any]]


def query(conninfo: str, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
    with connect(conninfo) as connection, connection.cursor() as cursor:
        cursor.execute(sql, parameters or None)
        return cursor.fetchall() if cursor.description else []


def member(ordinal: int, **changes: Any) -> dict[str, Any]:
    return {
        "ordinal": ordinal,
        "member": f"clips/{ordinal}.mp3",
        "opus_path": f"audio/date=2026-11-02/a.tar/{ordinal:06d}.opus",
        "source_sha256": f"{ordinal:064x}",
        "source_bytes": 480_000,
        "source_format": "mp3",
        "opus_bytes": 5_000_000_000,
        "duration_seconds": 60.5,
        "sample_rate": 44100,
        "channels": 2,
        "source_rms_dbfs": -23.5,
        "source_peak_dbfs": 0.25,
        "opus_rms_dbfs": -26.5,
        "opus_peak_dbfs": -150.0,
        "status": "ok",
        "selected": True,
        "inclusion_probability": 1.0,
        **changes,
    }


_SEGMENT = {
    "start": 0.0,
    "end": 1.5,
    "text": "hi",
    "language": "en",
    "avg_logprob": -0.1,
    "doubt": None,
}


def transcript(ordinal: int, **changes: Any) -> dict[str, Any]:
    return {
        "ordinal": ordinal,
        "text": f"transcript {ordinal}",
        "language": "en",
        "language_probability": 0.98,
        "languages": [{"language": "en", "share": 0.75}, {"language": "fr", "share": 0.25}],
        "confidence": 0.7 + 1e-17,
        "no_speech_probability": 0.01,
        "doubt": "unlikely words",
        "speech_seconds": 41.25,
        "segments": [_SEGMENT],
        "status": "ok",
        "seconds": 0.2,
        **changes,
    }


def judgement(ordinal: int, category: str, score: float | None, **changes: Any) -> dict[str, Any]:
    return {
        "ordinal": ordinal,
        "category": category,
        "flagged": None if score is None else score >= 0.5,
        "score": score,
        "threshold": 0.5,
        "truncated": False,
        "answer": "logits",
        "status": "ok",
        **changes,
    }


MEMBERS: Rows = [
    member(0),
    member(1),
    member(2, selected=False, inclusion_probability=0.25),
    member(3, status="failed", error="not audio", opus_path=None, opus_bytes=None),
    member(4, member="notes.txt", status="skipped", opus_path=None, source_format=None),
    member(5, duplicate_of=0, opus_path=None, opus_bytes=None),
    member(6),
    member(7, duplicate_of=6, opus_path=None, opus_bytes=None),
    member(8),
]
HEARD: Rows = [
    transcript(0),
    transcript(1, text="", language=None, segments=[]),
    transcript(6, text=None, status="failed", error="out of memory"),
    transcript(8),
]
JUDGED: Rows = [
    judgement(0, "threats", 0.7),
    judgement(0, "harassment", 0.9),
    judgement(0, "spam", 0.1),
    judgement(1, "threats", 0.2),
    judgement(8, "threats", 0.6),
    judgement(8, "harassment", None, status="unparsed", answer="json", raw_response="maybe?"),
]


class Archive:
    """The three files of an archive, and loading them."""

    def __init__(self, folder: Path, conninfo: str, name: str = "a.tar") -> None:
        self.folder, self.conninfo, self.name = folder, conninfo, name
        self.members, self.heard, self.judged = MEMBERS, HEARD, JUDGED
        self.facts: dict[str, object] = {
            "archive_status": "partial",
            "archive_error": "cut short",
            "archive_type": "tar",
            "archive_bytes": 123,
            "unpack_seconds": 1.5,
            "seconds": 2.5,
        }

    def arguments(self, asr: str = "large-v2", policy: str = "2026-11") -> dict[str, Any]:
        paths = {
            name: self.folder / f"{self.name}.{name}"
            for name in ("manifest", "transcripts", "classes")
        }
        made: Sequence[tuple[str, Any, Rows, dict[str, object]]] = (
            ("manifest", MANIFEST, self.members, self.facts),
            ("transcripts", TRANSCRIPTS, self.heard, {"model": "whisper", "seconds": 3.5}),
            ("classes", CLASSES, self.judged, {"model": "cope", "seconds": 4.5}),
        )
        for name, schema, rows, provenance in made:
            named = [{"archive": self.name, **row} for row in rows]
            for row in named:
                if row.get("opus_path"):
                    row["opus_path"] = row["opus_path"].replace("a.tar", self.name)
            write_table(paths[name], schema, named, provenance)
        return {
            **paths,
            "receipt": self.folder / "processed" / f"{self.name}.json",
            "conninfo": self.conninfo,
            "archive": self.name,
            "date": "2026-11-02",
            "asr": asr,
            "policy": policy,
        }

    def load(self, control_fraction: float = 0.0, **names: str) -> Any:
        return load_archive(**self.arguments(**names), control_fraction=control_fraction)
