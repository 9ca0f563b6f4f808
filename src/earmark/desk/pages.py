"""The pages of everybody who reviews: the queue, an item, settings."""

import logging
import time
from pathlib import Path
from typing import Annotated

import psycopg2
from fastapi import APIRouter, Form, HTTPException, Request
from fastapi.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
)
from psycopg2.extensions import connection as Connection

from earmark.desk import (
    accounts,
    claims,
    decisions,
    drafts,
    items,
    journal,
    passwords,
    playback,
    sampling,
    waveform,
)
from earmark.desk.claims import Mode
from earmark.desk.decisions import SKIP_REASONS, Judgement, Verdict
from earmark.desk.drafts import Draft
from earmark.desk.sampling import Lane
from earmark.desk.web import (
    Desk,
    SignedIn,
    TheDesk,
    Visitor,
    go,
    is_playing,
    notices,
)
from earmark.errors import EarmarkError

logger = logging.getLogger(__name__)

router = APIRouter()


@router.get("/healthz")
def healthz(desk: TheDesk) -> PlainTextResponse:
    """Whether the desk and its database answer."""
    with desk.connections.transaction() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT FROM reviewers LIMIT 1")
    return PlainTextResponse("ok\n")


@router.get("/")
def queue(visitor: SignedIn, empty: str = "", notice: str = "") -> HTMLResponse:
    """How today goes, and where to begin."""
    with visitor.desk.connections.transaction() as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT DISTINCT unnest(queue_categories) "
            "FROM (SELECT queue_categories FROM audio_files WHERE waits_since IS NOT NULL "
            "ORDER BY waits_since DESC LIMIT 10000) shown"
        )
        # Those of the policies too: what waits only for a second person can be asked for likewise,
        # and nothing tells it from what nobody has heard.
        categories = {category for (category,) in cursor.fetchall()} | set(_known(connection))
        cursor.execute("SELECT count(*) FROM review_waiting WHERE round = 'adjudication'")
        disputed = cursor.fetchall()[0][0]
        return visitor.page(
            connection,
            "queue.html",
            held=claims.held(connection, visitor.reviewer),
            categories=sorted(categories),
            disputed=disputed if visitor.reviewer.is_lead else None,
            draws_controls=visitor.desk.draws_controls,
            empty=bool(empty),
            notices=notices(notice),
        )


@router.post("/claim")
def claim(
    visitor: SignedIn,
    mode: Annotated[Mode, Form()] = "score",
    category: Annotated[str | None, Form(max_length=200)] = None,
) -> Response:
    """Get the next item."""
    if mode == "adjudication" and not visitor.reviewer.is_lead:
        raise HTTPException(403, "Only leads settle disputes.")
    return _next(visitor, mode, category)


#: So often it is tried to draw a sample, in seconds, where that fails or there is nothing to draw.
_DRAW_SECONDS = 300.0


def _draw_sample(desk: Desk, lane: Lane) -> None:
    """See to it that there is a sample of today; without one, the desk goes on all the same."""
    if time.monotonic() < desk.draw_from:
        return
    desk.draw_from = time.monotonic() + _DRAW_SECONDS  # who comes meanwhile waits for nothing
    try:
        with desk.connections.transaction() as connection:
            if sampling.draw_of_today(connection, lane):
                desk.draw_from = 0.0
    except (EarmarkError, psycopg2.Error) as error:
        logger.warning("the review sample could not be drawn, and is tried again: %s", error)


def _next(visitor: Visitor, mode: Mode, category: str | None) -> Response:
    lane = visitor.desk.lane
    if lane is not None:
        _draw_sample(visitor.desk, lane)
    with visitor.desk.connections.transaction() as connection:
        found = claims.claim_next(
            connection,
            visitor.reviewer,
            mode,
            visitor.desk.lease_seconds,
            category,
            lane.share if lane is not None else 0.0,
        )
    if found is None:
        return go("/", empty="1")
    return go(f"/items/{found.audio_file_id}")


@router.get("/items/{audio_file_id}")
def item(visitor: SignedIn, audio_file_id: int) -> HTMLResponse:
    """A clip: to decide about, or, for who has decided and for leads, to look at."""
    reviewer, lease_seconds = visitor.reviewer, visitor.desk.lease_seconds
    with visitor.desk.connections.transaction() as connection:
        _check_may_see(visitor, connection, audio_file_id)
        held = claims.held(connection, reviewer)
        if held is not None and held.audio_file_id != audio_file_id:
            held = None
        if held is not None:
            claims.heartbeat(connection, reviewer, audio_file_id, lease_seconds)
        shown = items.load(connection, audio_file_id, (held.asr, held.policy) if held else None)
        if shown is None:
            raise HTTPException(404, _NO_ITEM)
        # Who is to decide must not be told what others did, unless that is the question.
        is_blind = held is not None and held.round != "adjudication"
        earlier = [] if is_blind else items.decisions_about(connection, audio_file_id)
        if not reviewer.is_lead:
            earlier = [each for each in earlier if each.reviewer == reviewer.name]
        items.note_access(connection, reviewer, audio_file_id, "page")
        return visitor.page(
            connection,
            "item.html",
            item=shown,
            round=held.round if held else None,
            read_only=held is None,
            flags_shown=not (is_blind and visitor.desk.lane) and not visitor.hides_model,
            scores_shown=not is_blind and not visitor.hides_model,
            earlier=earlier,
            undoable=decisions.last_decision(connection, reviewer, audio_file_id) is not None,
            draft=drafts.begun(connection, reviewer, audio_file_id) if held else None,
            draft_heard=bool(held) and playback.was_heard(connection, reviewer, audio_file_id),
            most_note=decisions.MOST_NOTE,
            most_draft=drafts.MOST_DRAFT,
            lease_seconds=lease_seconds,
            skip_reasons=SKIP_REASONS,
        )


_NO_ITEM = "You have no such item open, and decided about none today."


def _check_may_see(visitor: Visitor, connection: Connection, audio_file_id: int) -> None:
    """What somebody may not see is not there."""
    if not items.may_see(connection, visitor.reviewer, audio_file_id):
        if -(2**63) <= audio_file_id < 2**63:
            with connection.cursor() as cursor:
                claims.refuse_if_erased(cursor, audio_file_id, visitor.reviewer)
        raise HTTPException(404, _NO_ITEM)


@router.get("/items/{audio_file_id}/audio")
def audio(request: Request, visitor: SignedIn, audio_file_id: int) -> Response:
    """The sound, as Ogg Opus; parts of it on request (RFC 9110, "Range Requests")."""
    with visitor.desk.connections.transaction() as connection:
        path = _sound(visitor, connection, audio_file_id)
        items.note_access(
            connection,
            visitor.reviewer,
            audio_file_id,
            "audio",
            request.headers.get("range", "whole")[:100],
        )
    return FileResponse(path, media_type="audio/ogg", headers={"Cache-Control": "no-store"})


@router.get("/items/{audio_file_id}/waveform")
def peaks(visitor: SignedIn, audio_file_id: int) -> JSONResponse:
    """How loud it is from moment to moment, for the picture beside the player."""
    with visitor.desk.connections.transaction() as connection:
        path = _sound(visitor, connection, audio_file_id)
    return JSONResponse({"peaks": waveform.peaks(path)}, headers={"Cache-Control": "no-store"})


def _sound(visitor: Visitor, connection: Connection, audio_file_id: int) -> Path:
    _check_may_see(visitor, connection, audio_file_id)
    path = items.opus_path(connection, audio_file_id, visitor.desk.root)
    if path is None:
        raise HTTPException(404, "The audio of this item is not there any more.")
    return path


@router.post("/items/{audio_file_id}/heartbeat")
def heartbeat(
    request: Request,
    visitor: SignedIn,
    audio_file_id: int,
    changed: Annotated[bool, Form()] = False,
    categories: Annotated[list[str] | None, Form()] = None,
    transcript_wrong: Annotated[bool, Form()] = False,
    not_speech: Annotated[bool, Form()] = False,
    wrong_language: Annotated[bool, Form()] = False,
    note: Annotated[str, Form()] = "",
    heard: Annotated[str, Form()] = "",
) -> JSONResponse:
    """Keep the item, and the form if it was ``changed``, and what was ``heard`` since.

    ``?playing=1`` says that audio plays.
    """
    with visitor.desk.connections.transaction() as connection:
        claims.heartbeat(connection, visitor.reviewer, audio_file_id, visitor.desk.lease_seconds)
        if changed:
            draft = Draft(
                _lines(note), categories or [], transcript_wrong, not_speech, wrong_language
            )
            drafts.keep(connection, visitor.reviewer, audio_file_id, draft)
        playback.add(connection, visitor.reviewer, audio_file_id, heard)
        if is_playing(request):
            journal.note_playing(connection, visitor.reviewer.id, audio_file_id)
    return JSONResponse({"expires_in": visitor.desk.lease_seconds})


@router.post("/items/{audio_file_id}/release")
def release(visitor: SignedIn, audio_file_id: int) -> Response:
    """Give the item back undecided."""
    with visitor.desk.connections.transaction() as connection:
        claims.heartbeat(connection, visitor.reviewer, audio_file_id, visitor.desk.lease_seconds)
        claims.release(connection, visitor.reviewer)
        drafts.note_put_back(connection, visitor.reviewer, audio_file_id)
    return go("/", notice="released")


def _lines(text: str) -> str:
    """A field's text, as the field counts its characters."""
    return text.replace("\r\n", "\n")


@router.post("/items/{audio_file_id}/decide")
def decide(
    visitor: SignedIn,
    audio_file_id: int,
    verdict: Annotated[Verdict, Form()],
    categories: Annotated[list[str] | None, Form()] = None,
    transcript_wrong: Annotated[bool, Form()] = False,
    not_speech: Annotated[bool, Form()] = False,
    wrong_language: Annotated[bool, Form()] = False,
    reason: Annotated[str, Form()] = "",
    note: Annotated[str, Form()] = "",
) -> Response:
    """Keep a decision, and go on to the next item."""
    judgement = Judgement(
        verdict,
        frozenset(categories or ()) if verdict == "reportable" else frozenset(),
        transcript_wrong,
        not_speech,
        wrong_language,
        reason or None if verdict == "skipped" else None,
        _lines(note).strip() or None,
    )
    with visitor.desk.connections.transaction() as connection:
        claim = decisions.decide(
            connection,
            visitor.reviewer,
            audio_file_id,
            judgement,
            visitor.desk.settings.second_review_fraction,
        )
    return _next(visitor, claim.mode, claim.category)


@router.post("/undo")
def undo(visitor: SignedIn) -> Response:
    """Take back the last decision, and open its item again."""
    with visitor.desk.connections.transaction() as connection:
        found = decisions.undo(connection, visitor.reviewer, visitor.desk.lease_seconds)
    return go(f"/items/{found.audio_file_id}")


@router.post("/items/{audio_file_id}/undo")
def undo_one(visitor: SignedIn, audio_file_id: int) -> Response:
    """Take back one's decision of the last day about an item, and open the item again."""
    with visitor.desk.connections.transaction() as connection:
        decisions.undo(connection, visitor.reviewer, visitor.desk.lease_seconds, audio_file_id)
    return go(f"/items/{audio_file_id}")


@router.get("/mine")
def mine(visitor: SignedIn) -> HTMLResponse:
    """What this person decided in the last 24 hours, with what the model had said."""
    with visitor.desk.connections.transaction() as connection:
        return visitor.page(
            connection,
            "mine.html",
            decisions=decisions.decisions_of(connection, visitor.reviewer, 500),
        )


@router.get("/settings")
def settings(visitor: SignedIn) -> HTMLResponse:
    """What a person may choose for themselves."""
    with visitor.desk.connections.transaction() as connection:
        return visitor.page(
            connection,
            "settings.html",
            categories=_known(connection),
            least=passwords.LEAST_PASSWORD,
            most=passwords.MOST_PASSWORD,
        )


@router.post("/settings")
def change_settings(
    visitor: SignedIn,
    hide_text: Annotated[bool, Form()] = False,
    muted: Annotated[bool, Form()] = False,
    opted_out: Annotated[list[str] | None, Form()] = None,
    break_minutes: Annotated[int, Form(ge=5, le=240)] = 45,
) -> Response:
    """Keep it."""
    with visitor.desk.connections.transaction() as connection:
        if set(opted_out or ()) - set(_known(connection)) - set(visitor.reviewer.opted_out):
            raise EarmarkError("there is no such category")
        accounts.change_settings(
            connection,
            visitor.reviewer,
            hide_text=hide_text,
            muted=muted,
            opted_out=sorted(set(opted_out or ())),
            break_minutes=break_minutes,
        )
    return go("/", notice="settings")


def _known(connection: Connection) -> list[str]:
    """Categories of the policy sets that made the latest scores."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT DISTINCT jsonb_object_keys((facts ->> 'policy_sha256')::JSONB) FROM ("
            "SELECT p.facts FROM archives a JOIN provenance p ON p.archive_id = a.id "
            "AND p.kind = 'classifications' AND p.name = a.policy "
            "WHERE p.facts ? 'policy_sha256' ORDER BY a.id DESC LIMIT 50) latest ORDER BY 1"
        )
        return [category for (category,) in cursor.fetchall()]
