"""A receipt as a load would leave it."""

from typing import Any

import msgspec

from earmark.receipts import Receipt

_EXAMPLE = Receipt(
    archive="a.tar",
    date="2026-11-02",
    asr="large-v2",
    policy="2026-11",
    order="deadline",
    status="ok",
    reason=None,
    type="tar",
    bytes=3,
    members={"total": 2, "ok": 2, "failed": 0, "skipped": 0, "duplicates": 0},
    clips={"transcribed": 1, "flagged": 1},
    flagged={"scams": 1},
    judged={"scams": 2},
    undecided=0,
    rows={"audio_files": 2, "transcripts": 2, "classifications": 2},
    seconds={"unpack": 1.0, "encode": 2.5, "transcribe": 30.0, "classify": 4.0, "load": 0.125},
    provenance={"manifest": {"archive_status": "ok"}, "transcripts": {}, "classes": {}},
    loaded_at="2026-11-02T12:00:00+00:00",
)


def example(**changes: Any) -> Receipt:
    """A receipt, with some fields changed."""
    return msgspec.structs.replace(_EXAMPLE, **changes)
