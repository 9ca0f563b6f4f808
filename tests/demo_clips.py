"""The members of the demo's small archive as files, and what is said in them."""

import json
import tarfile
from pathlib import Path

from earmark import REPOSITORY
from earmark.settings import AsrSettings
from earmark.tables import MANIFEST, write_table

DEMO = REPOSITORY / "demo"
MODEL = DEMO / "models/whisper-demo"
EXPECTED = json.loads((DEMO / "expected.json").read_text(encoding="utf-8"))
MEMBERS = EXPECTED["archives"][EXPECTED["small"]]["members"]
#: Silero's model loads at once; pyannote takes a few seconds.
QUICK = AsrSettings(
    name="demo", model=str(MODEL), device="cpu", compute_type="float32", batch_size=4,
    vad="silero", threads=1,
)  # fmt: skip


def extract_clips(folder: Path) -> dict[int, Path]:
    """Write the members into a folder; returns them by ordinal."""
    with tarfile.open(DEMO / "archives" / EXPECTED["small"]) as archive:
        files = [member for member in archive if member.isreg()]
        for ordinal, member in enumerate(files):
            content = archive.extractfile(member)
            assert content is not None
            (folder / str(ordinal)).write_bytes(content.read())
    return {ordinal: folder / str(ordinal) for ordinal in range(len(files))}


def spoken(language: str) -> dict:
    """The member with the longest text in a language."""
    return max(
        (member for member in MEMBERS if member["language"] == language),
        key=lambda member: len(member["text"]),
    )


def write_manifest(path: Path, rows: list[dict]) -> Path:
    """A manifest of clips that are ok, but for what the rows say."""
    whole = [
        {
            "archive": "a.tar",
            "ordinal": ordinal,
            "member": f"{ordinal}.mp3",
            "source_bytes": 1,
            "duration_seconds": 10.0,
            "status": "ok",
            "selected": True,
            "inclusion_probability": 1.0,
        }
        | row
        for ordinal, row in enumerate(rows)
    ]
    # The same clips are the same file, whenever it is written.
    facts = {"archive_status": "partial", "archive_error": "cut", "made_at": "2026-11-02"}
    write_table(path, MANIFEST, whole, facts)
    return path
