"""The receipt of an archive: that it is in the database, and what a load left there.

Everything that writes or reads ``processed/…/{archive}.json`` goes through here, but for
``sql/analysis/views.sql``, by which DuckDB reads the same fields.
"""

import json
from pathlib import Path

import msgspec

from earmark.files import whole


class Receipt(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The fields of a receipt, in the order of the file.

    A field that came after the first receipts were written has a default.
    """

    archive: str
    date: str  # ISO 8601
    asr: str
    policy: str  # the policy set
    order: str | None = None  # `source.order` of the run
    status: str  # of the archive: ok | partial | failed
    reason: str | None
    type: str | None
    bytes: int | None
    modified_ns: int | None = None  # of the archive at the source, in ns since 1970
    members: dict[str, int]  # total, ok, failed, skipped, duplicates
    clips: dict[str, int]  # by status in audio_files
    flagged: dict[str, int]  # clips by category
    judged: dict[str, int] = {}  # clips that got an answer, by category
    skipped: dict[str, int] = {}  # members without a clip, by reason
    undecided: int = 0  # answers that failed or could not be read
    unasked: int = 0  # clips that the screen kept from the policies
    rows: dict[str, int]  # by table
    seconds: dict[str, float | None]  # by stage
    provenance: dict[str, dict[str, str]]  # by file
    loaded_at: str  # ISO 8601, when a load last changed the archive's row

    @property
    def answered(self) -> int:
        """Clips that have an answer."""
        return sum(n for status, n in self.clips.items() if status not in ("pending", "failed"))


_DECODER = msgspec.json.Decoder(Receipt)


def write(path: Path, receipt: Receipt) -> None:
    """Write a receipt, which appears only when it is whole.

    Raises:
        OSError: the volume can't be written.
    """
    text = json.dumps(msgspec.structs.asdict(receipt), ensure_ascii=False, indent=2)
    with whole(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


def read(path: Path) -> Receipt | None:
    """Read a receipt.

    Returns:
        None if it tells nothing: it is gone, or damaged.

    Raises:
        OSError: the system refuses it, so nobody knows what it tells.
    """
    try:
        return _DECODER.decode(path.read_bytes())
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        return None
