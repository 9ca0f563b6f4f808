"""The review desk on the web: how a request becomes a visitor, and what every answer carries."""

import hmac
import logging
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode, urlsplit

from fastapi import Depends, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment
from psycopg2.extensions import connection as Connection

from earmark.desk import decisions, sign_in, workload
from earmark.desk.accounts import Reviewer
from earmark.desk.connections import Connections
from earmark.desk.sampling import Lane
from earmark.desk.sign_in import csrf_token
from earmark.settings import DeskSettings

logger = logging.getLogger(__name__)


@dataclass
class Desk:
    """What all requests share.

    Attributes:
        connections: To the database.
        root: ``volume.root``.
        settings: Section ``desk`` of the configuration.
        target: Clips to be reviewed a day.
        draws_controls: Whether clips that nothing flagged are drawn for review.
        timezone: Whose days those are.
        lane: How a sample is heard among the queue's top; None for none.
        draw_from: The monotonic time before which no sample is drawn.
        templates: Of the pages.
    """

    connections: Connections
    root: Path
    settings: DeskSettings
    target: int
    draws_controls: bool
    timezone: str
    lane: Lane | None
    templates: Environment
    draw_from: float = 0.0

    @property
    def lease_seconds(self) -> float:
        """How long an item stays with a browser that gives no sign of life."""
        return self.settings.lease_seconds

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

    @property
    def hides_model(self) -> bool:
        """Whether they are never told what the model said: that would tell a sample item."""
        return self.desk.lane is not None and not self.reviewer.is_lead

    def page(
        self, connection: Connection, template: str, status: int = 200, **context: Any
    ) -> HTMLResponse:
        """Fill in a template, with what every page shows."""
        return self.desk.page(
            template,
            status,
            reviewer=self.reviewer,
            csrf=csrf_token(self.token),
            today=workload.today(
                connection, self.reviewer.id, self.desk.target, self.desk.timezone
            ),
            exposure=workload.exposure(
                connection, self.reviewer.id, self.reviewer.break_minutes, self.desk.timezone
            ),
            last=decisions.last_decision(connection, self.reviewer),
            hides_model=self.hides_model,
            **{"notices": [], **context},
        )


#: What a redirect may say; nothing of a request's own words is shown.
_NOTICES = {
    "released": "The item went back to the queue.",
    "reopened": "The item is back in the queue.",
    "settings": "Your settings are kept.",
    "password": "Your password is changed; your other browsers are signed out.",
}


def notices(notice: str) -> list[str]:
    """What a page says of what was just done."""
    return [_NOTICES[notice]] if notice in _NOTICES else []


def go(path: str, **query: str | None) -> RedirectResponse:
    """Lead on to a page of the desk, after something was done."""
    given = {key: value for key, value in query.items() if value}
    return RedirectResponse(path + ("?" + urlencode(given) if given else ""), 303)


_PAGES = re.compile(r"/(items/[0-9]{1,18}|mine|settings|lead|lead/decisions|lead/access)")


def is_page(path: str) -> bool:
    """Whether a path is one of the desk's pages, where somebody may want to go after signing in."""
    return _PAGES.fullmatch(path) is not None


class SignInNeeded(Exception):
    """Nobody is signed in, or no longer."""


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
        reviewer = sign_in.reviewer_of(
            connection,
            token,
            desk.settings.session_hours,
            desk.settings.idle_minutes,
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


def set_cookie(
    response: Response, request: Request, name: str, value: str, seconds: int | None = None
) -> None:
    """Set a cookie that no script sees, and that other sites' forms don't bring along.

    Args:
        response: The answer.
        request: What it answers.
        name: Of the cookie.
        value: Likewise.
        seconds: For so long; None until the browser is closed.
    """
    response.set_cookie(
        name,
        value,
        max_age=seconds,
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
