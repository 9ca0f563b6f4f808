"""The pages of leads: how the review goes, what was decided and opened, and decisions as a file."""

import datetime
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse, Response, StreamingResponse

from earmark.desk import agreement, decisions, items, journal, workload
from earmark.desk.export import Format, export
from earmark.desk.web import Lead, go, notices
from earmark.errors import EarmarkError

router = APIRouter()

Before = Annotated[int | None, Query(ge=1, lt=2**63)]

_TYPES: dict[Format, str] = {
    "csv": "text/csv; charset=utf-8",
    "jsonl": "application/jsonl",
    "parquet": "application/vnd.apache.parquet",
}


@router.get("/lead")
def lead(visitor: Lead) -> HTMLResponse:
    """How the last days went, how far people agree, and what is asked of each."""
    desk = visitor.desk
    with desk.connections.transaction() as connection:
        agreements = agreement.of_second_reviews(connection, desk.timezone)
        last_days = workload.last_days(connection, desk.timezone)
        return visitor.page(
            connection,
            "lead.html",
            progress=last_days,
            agreements=agreements,
            weeks=sorted({week for _, week in agreements if week}, reverse=True),
            agreed_categories=sorted({name for name, _ in agreements if name}),
            loads=workload.load(connection, desk.timezone),
            week_ago=last_days.days[6],
        )


@router.get("/lead/decisions")
def decided(visitor: Lead, before: Before = None, notice: str = "") -> HTMLResponse:
    """The log of decisions."""
    with visitor.desk.connections.transaction() as connection:
        return visitor.page(
            connection,
            "decisions.html",
            log=journal.decisions(connection, before),
            is_newest=before is None,
            notices=notices(notice),
        )


@router.post("/lead/items/{audio_file_id}/reopen")
def reopen(visitor: Lead, audio_file_id: int) -> Response:
    """Put a decided item back into the queue, as if nobody had decided about it."""
    with visitor.desk.connections.transaction() as connection:
        decisions.reopen(connection, visitor.reviewer, audio_file_id)
    return go("/lead/decisions", notice="reopened")


@router.post("/lead/items/{audio_file_id}/overrule")
def overrule(visitor: Lead, audio_file_id: int) -> Response:
    """Open a decided item to settle it."""
    with visitor.desk.connections.transaction() as connection:
        claim = decisions.overrule(
            connection, visitor.reviewer, audio_file_id, visitor.desk.lease_seconds
        )
    return go(f"/items/{claim.audio_file_id}")


@router.get("/lead/access")
def access(visitor: Lead, before: Before = None) -> HTMLResponse:
    """The log of what was opened."""
    with visitor.desk.connections.transaction() as connection:
        return visitor.page(
            connection,
            "access.html",
            log=journal.access(connection, before),
            is_newest=before is None,
        )


@router.get("/lead/export")
def download(
    visitor: Lead,
    format: Format,
    since: datetime.date | None = None,
    until: datetime.date | None = None,
) -> StreamingResponse:
    """The decisions of some days, or of the last seven, as a file; who took it is logged."""
    until = until or datetime.datetime.now(ZoneInfo(visitor.desk.timezone)).date()
    since = since or until - datetime.timedelta(days=6)
    if until < since:
        raise EarmarkError(f"the “Last day”, {until}, is before the “First day”, {since}")
    desk = visitor.desk
    name = f"decisions-{since}-{until}.{format}"
    with (
        tempfile.TemporaryDirectory(prefix="earmark-export-") as folder,
        desk.connections.transaction() as connection,
    ):
        path = Path(folder) / name
        items.note_access(
            connection, visitor.reviewer, None, "export", f"{format}, {since} to {until}"
        )
        export(connection, path, format, since, until, desk.timezone)
        file = path.open("rb")  # it stays readable when its folder is gone
    return StreamingResponse(
        _content(file),
        media_type=_TYPES[format],
        headers={
            "Content-Disposition": f'attachment; filename="{name}"',
            "Content-Length": str(os.fstat(file.fileno()).st_size),
            "Cache-Control": "no-store",
        },
    )


def _content(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while some := file.read(2**16):
            yield some
