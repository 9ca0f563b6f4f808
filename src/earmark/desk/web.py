"""The review desk on the web: how a request becomes a visitor, and what every answer carries."""

import datetime
import hmac
import logging
import secrets
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import psycopg2
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, PackageLoader, StrictUndefined
from psycopg2.extensions import connection as Connection
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from earmark.configuration import Config
from earmark.desk import accounts, decisions, progress
from earmark.desk.accounts import Reviewer, csrf_token
from earmark.desk.claims import NotYours
from earmark.desk.connections import Connections
from earmark.desk.decisions import NothingToUndo
from earmark.errors import EarmarkError, SetupError, UnavailableError

logger = logging.getLogger(__name__)

#: Requests that work at the same time, each with its own connection; others wait.
MOST_CONNECTIONS = 12
#: Of a request, in bytes; a note of 4,000 characters is at most 48,000 when encoded for a form.
MOST_BODY = 64 * 1024

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


@dataclass(frozen=True)
class Desk:
    """What all requests share.

    Attributes:
        connections: To the database.
        root: ``volume.root``.
        settings: Section ``desk`` of the configuration.
        target: Clips to be reviewed a day.
        draws_controls: Whether clips that nothing flagged are drawn for review.
        timezone: Whose days those are.
        templates: Of the pages.
    """

    connections: Connections
    root: Path
    settings: dict[str, Any]
    target: int
    draws_controls: bool
    timezone: str
    templates: Environment

    @property
    def lease_seconds(self) -> float:
        """How long an item stays with a browser that gives no sign of life."""
        return float(self.settings["lease_seconds"])

    def page(self, template: str, status: int = 200, **context: Any) -> HTMLResponse:
        """Fill in a template that needs nobody to be signed in."""
        page = self.templates.get_template(template).render(**context)
        return HTMLResponse(page, status, {"Cache-Control": "no-store"})


@dataclass(frozen=True)
class Visitor:
    """Somebody who is signed in, and the request's way to the database.

    Attributes:
        reviewer: Who.
        token: Of the session.
        desk: What all requests share.
    """

    reviewer: Reviewer
    token: str
    desk: Desk

    def page(
        self, connection: Connection, template: str, status: int = 200, **context: Any
    ) -> HTMLResponse:
        """Fill in a template, with what every page shows."""
        return self.desk.page(
            template,
            status,
            reviewer=self.reviewer,
            csrf=csrf_token(self.token),
            today=progress.today(
                connection, self.reviewer.id, self.desk.target, self.desk.timezone
            ),
            exposure=progress.exposure(
                connection, self.reviewer.id, self.reviewer.break_minutes, self.desk.timezone
            ),
            last=decisions.last_decision(connection, self.reviewer),
            **{"notices": [], **context},
        )


class SignInNeeded(Exception):
    """Nobody is signed in, or no longer."""


def create_app(config: Config, conninfo: str) -> FastAPI:
    """Make the application.

    Args:
        config: A configuration that :func:`earmark.configuration.resolve` returned.
        conninfo: As :func:`earmark.database.connection_string` returns it.
    """
    from earmark.desk import lead_pages, pages  # they need the names of this module

    zone = ZoneInfo(config["review"]["timezone"])
    templates = Environment(
        loader=PackageLoader("earmark.desk"), autoescape=True, undefined=StrictUndefined
    )
    templates.globals["zone"] = config["review"]["timezone"]
    templates.filters["number"] = lambda value: f"{value:,.0f}"
    templates.filters["percent"] = lambda value: f"{value:.0%}"
    templates.filters["time"] = lambda moment: f"{moment.astimezone(zone):%H:%M}"
    templates.filters["soon"] = lambda moment: soon(moment, datetime.datetime.now(zone))
    templates.filters["day_time"] = lambda moment: f"{moment.astimezone(zone):%Y-%m-%d %H:%M}"
    desk = Desk(
        connections=Connections(conninfo, MOST_CONNECTIONS),
        root=Path(config["volume"]["root"]),
        settings=config["desk"],
        target=config["review"]["target"],
        draws_controls=config["queue"]["control_fraction"] > 0,
        timezone=config["review"]["timezone"],
        templates=templates,
    )
    # Its makers' pages about an application's routes would have scripts from elsewhere.
    app = FastAPI(openapi_url=None, max_body_size=MOST_BODY)
    app.state.desk = desk
    app.add_middleware(_Armour)
    app.mount("/static", _Static(directory=Path(__file__).parent / "static"), name="static")
    app.include_router(pages.router)
    app.include_router(lead_pages.router)
    for kind, status, title in (
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


def the_desk(request: Request) -> Desk:
    """What all requests share."""
    desk: Desk = request.app.state.desk
    return desk


async def _submitted_csrf(request: Request) -> str:
    if request.method in ("GET", "HEAD"):
        return ""
    form = await request.form()
    if any("\0" in value for value in form.values() if isinstance(value, str)):
        raise HTTPException(400, "A form may not hold NUL characters.")
    value = request.headers.get("x-csrf-token") or form.get("csrf")
    return value if isinstance(value, str) else ""


def require_same_origin(request: Request, secret: str, submitted: str) -> None:
    """Refuse a request that changes something and that none of our pages made.

    Args:
        request: Of any method; GET changes nothing.
        secret: What only the browser has: the session's token, or a cookie before there is one.
        submitted: What the form or script sent along.

    Raises:
        HTTPException: 403.
    """
    if request.method in ("GET", "HEAD"):
        return
    origin = request.headers.get("origin")
    is_foreign = request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none")
    if origin is not None:
        is_foreign |= urlsplit(origin).netloc != request.headers.get("host")
    if is_foreign or not hmac.compare_digest(csrf_token(secret).encode(), submitted.encode()):
        raise HTTPException(403, "This form has expired. Go back, reload the page, and try again.")


Submitted = Annotated[str, Depends(_submitted_csrf)]
TheDesk = Annotated[Desk, Depends(the_desk)]


def is_playing(request: Request) -> bool:
    """Whether a heartbeat says that audio plays, so that somebody listens."""
    return request.query_params.get("playing") == "1"


def _signed_in(request: Request, desk: TheDesk, submitted: Submitted) -> Visitor:
    token = request.cookies.get(session_cookie(request), "")
    with desk.connections.transaction() as connection:
        reviewer = accounts.reviewer_of(
            connection,
            token,
            desk.settings["session_hours"],
            desk.settings["idle_minutes"],
            attended=not request.url.path.endswith("/heartbeat") or is_playing(request),
        )
    if reviewer is None:
        raise SignInNeeded
    require_same_origin(request, token, submitted)
    visitor = Visitor(reviewer, token, desk)
    request.state.visitor = visitor  # for a page about what goes wrong
    return visitor


SignedIn = Annotated[Visitor, Depends(_signed_in)]


def _lead(visitor: SignedIn) -> Visitor:
    if not visitor.reviewer.is_lead:
        raise HTTPException(403, "This page is for leads.")
    return visitor


Lead = Annotated[Visitor, Depends(_lead)]


def session_cookie(request: Request) -> str:
    """Name of the cookie with the session's token.

    With TLS a browser takes it from this very host only (RFC 6265bis, "__Host-").
    """
    return "__Host-earmark" if request.url.scheme == "https" else "earmark"


def set_cookie(response: Response, request: Request, name: str, value: str) -> None:
    """Set a cookie that no script sees, and that other sites' forms don't bring along."""
    response.set_cookie(
        name,
        value,
        httponly=True,
        secure=request.url.scheme == "https",
        samesite="strict",
        path="/",
    )


def end_cookie(response: Response, request: Request, name: str) -> None:
    """Take a cookie back; with other attributes than it was set with, a browser would keep it."""
    response.delete_cookie(
        name, httponly=True, secure=request.url.scheme == "https", samesite="strict", path="/"
    )


def new_secret() -> str:
    """A random secret for a cookie."""
    return secrets.token_urlsafe(32)


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
        return RedirectResponse("/sign-in", 303)
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
    """Puts security headers on every answer, and keeps plain HTTP on this machine."""

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
        await self._app(scope, receive, send_with_headers)
