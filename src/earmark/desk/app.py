"""The review desk's application: its pages, its error pages, and the headers of every answer."""

import asyncio
import datetime
import logging
from functools import partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import psycopg2
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from earmark.desk import account_pages, lead_pages, pages
from earmark.desk.claims import Gone, NotYours
from earmark.desk.connections import Connections
from earmark.desk.decisions import NothingToUndo
from earmark.desk.sampling import Lane
from earmark.desk.web import Desk, SignInNeeded, Visitor, go, is_page, the_desk
from earmark.errors import EarmarkError, SetupError, UnavailableError
from earmark.settings import Settings
from earmark.visible import visible

logger = logging.getLogger(__name__)

#: Requests that work at the same time, each with its own connection; others wait.
MOST_CONNECTIONS = 12
#: Of a request, in bytes; a note of 4,000 characters is at most 48,000 when encoded for a form.
MOST_BODY = 64 * 1024

#: So long a request's body may take, in seconds.
BODY_SECONDS = 30.0

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "media-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_LOOPBACK = ("127.0.0.1", "::1")


def create_app(settings: Settings, conninfo: str) -> FastAPI:
    """Make the application.

    Args:
        settings: The configuration.
        conninfo: As :func:`earmark.record.database.connection_string` returns it.
    """
    zone = ZoneInfo(settings.review.timezone)
    templates = Environment(
        loader=PackageLoader("earmark.desk"), autoescape=True, undefined=StrictUndefined
    )
    templates.globals["zone"] = settings.review.timezone
    templates.filters["visible"] = visible
    templates.filters["number"] = lambda value: f"{value:,.0f}"
    templates.filters["percent"] = lambda value: f"{value:.0%}"
    templates.filters["time"] = lambda moment: f"{moment.astimezone(zone):%H:%M}"
    templates.filters["soon"] = lambda moment: soon(moment, datetime.datetime.now(zone))
    templates.filters["day_time"] = lambda moment: f"{moment.astimezone(zone):%Y-%m-%d %H:%M}"
    desk = Desk(
        connections=Connections(conninfo, MOST_CONNECTIONS),
        root=Path(settings.volume.root),
        settings=settings.desk,
        target=settings.review.target,
        draws_controls=settings.queue.control_fraction > 0,
        timezone=settings.review.timezone,
        lane=None
        if settings.review.sample is None
        else Lane(settings.review.sample.per_day, settings.review.target, settings.review.timezone),
        templates=templates,
    )
    # Its makers' pages about an application's routes would have scripts from elsewhere.
    app = FastAPI(openapi_url=None, max_body_size=MOST_BODY)
    app.state.desk = desk
    app.add_middleware(_Armour)
    app.mount("/static", _Static(directory=Path(__file__).parent / "static"), name="static")
    app.include_router(account_pages.router)
    app.include_router(pages.router)
    app.include_router(lead_pages.router)
    for kind, status, title in (
        (Gone, 410, "This clip was erased"),
        (NotYours, 409, "This item is no longer yours"),
        (NothingToUndo, 409, "Nothing to undo"),
        (UnavailableError, 503, "The database does not answer"),
        (SetupError, 503, "The database does not answer"),
        (psycopg2.Error, 503, "The database does not answer"),
        (EarmarkError, 400, "That did not work"),
    ):
        app.add_exception_handler(kind, partial(_explain, status=status, title=title))
    app.add_exception_handler(SignInNeeded, _to_sign_in)
    app.add_exception_handler(StarletteHTTPException, _explain_http)
    app.add_exception_handler(RequestValidationError, _explain_form)
    return app


def soon(moment: datetime.datetime, now: datetime.datetime) -> str:
    """A coming moment in the zone of ``now``, with its day unless that is today."""
    moment = moment.astimezone(now.tzinfo)
    return f"{moment:%H:%M}" if moment.date() == now.date() else f"{moment:%a %-d %b, %H:%M}"


def _wants_page(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


def _problem(request: Request, status: int, title: str, text: str) -> Response:
    if not _wants_page(request):
        return PlainTextResponse(text, status)
    said = {"code": status, "title": title, "text": text}
    visitor: Visitor | None = getattr(request.state, "visitor", None)
    if visitor is None or status >= 500:
        return the_desk(request).page("problem.html", status, **said)
    with visitor.desk.connections.transaction() as connection:
        return visitor.page(connection, "problem.html", status, **said)


def _explain(request: Request, error: Exception, *, status: int, title: str) -> Response:
    if status >= 500:
        logger.error("%s", error)
        return _problem(request, status, title, "Wait a moment, then reload this page.")
    return _problem(request, status, title, f"{str(error)[:1].upper()}{str(error)[1:]}.")


def _explain_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    titles = {403: "Not allowed", 404: "There is nothing here", 413: "That is too much"}
    title = titles.get(error.status_code, "That did not work")
    response = _problem(request, error.status_code, title, str(error.detail))
    response.headers.update(error.headers or {})
    return response


#: What pages call a field, where it isn't its name.
_LABELS = {
    "since": "“First day”",
    "until": "“Last day”",
    "break_minutes": "“Suggest a break after so many minutes”",
}


def _explain_form(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    wrong = {str(each["loc"][-1]) for each in error.errors()}
    fields = ", ".join(sorted(_LABELS.get(field, field) for field in wrong))
    return _problem(
        request, 400, "That did not work", f"A value is missing or can't be right in: {fields}."
    )


def _to_sign_in(request: Request, error: Exception) -> Response:
    if request.method in ("GET", "HEAD") and _wants_page(request):
        return go("/sign-in", next=request.url.path if is_page(request.url.path) else None)
    return _problem(request, 401, "You are signed out", "Sign in again, then repeat this.")


class _Static(StaticFiles):
    """Scripts and styles; a browser asks each time whether they changed (RFC 9111, "no-cache").

    Otherwise a page of a new version would run the old one's scripts for days.
    """

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response


class _Armour:
    """Puts security headers on every answer, keeps plain HTTP here, and waits for no slow body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        client = scope.get("client")
        if scope["scheme"] != "https" and client is not None and client[0] not in _LOOPBACK:
            refusal = PlainTextResponse("Passwords travel here: use https.\n", 403)
            await refusal(scope, receive, send_with_headers)
            return
        deadline = asyncio.get_running_loop().time() + BODY_SECONDS
        is_whole = is_late = False

        async def receive_in_time() -> Message:
            nonlocal is_whole, is_late
            if is_whole:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                is_late = True
                return {"type": "http.disconnect"}
            is_whole = not message.get("more_body", False)
            return message

        async def send_unless_late(message: Message) -> None:
            if not is_late:
                await send_with_headers(message)

        try:
            await self._app(scope, receive_in_time, send_unless_late)
        except Exception:
            if not is_late:
                raise
        if is_late:
            refusal = PlainTextResponse(
                "The request took too long.\n", 408, {"Connection": "close"}
            )
            await refusal(scope, receive, send_with_headers)
