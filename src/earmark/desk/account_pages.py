"""The pages of accounts: signing in and out, and passwords."""

import logging
from collections import Counter
from collections.abc import Callable
from typing import Annotated, Any

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Form, HTTPException, Path, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from earmark.desk import accounts, claims, passwords
from earmark.desk import sign_in as signing_in
from earmark.desk.sign_in import SignInRefused, TooManyFailures, csrf_token
from earmark.desk.web import (
    Desk,
    Lead,
    SignedIn,
    Submitted,
    TheDesk,
    end_cookie,
    go,
    is_page,
    new_secret,
    require_same_origin,
    session_cookie,
    set_cookie,
)
from earmark.errors import EarmarkError

logger = logging.getLogger(__name__)

router = APIRouter()

#: The cookie that ties a form to a browser that has no session yet.
_VISIT = "earmark-visit"
#: The cookie by which a browser is known in which somebody has signed in before.
_DEVICE = "earmark-device"
_DEVICE_SECONDS = signing_in.DEVICE_DAYS * 86_400


@router.get("/sign-in")
def sign_in_form(request: Request, desk: TheDesk, next: str = "") -> HTMLResponse:
    """The form for name and password; ``next`` is the page that was asked for."""
    return _sign_in_form(request, desk, next=next)


def _sign_in_form(
    request: Request,
    desk: Desk,
    status: int = 200,
    problem: str | None = None,
    name: str = "",
    next: str = "",
) -> HTMLResponse:
    shown = next if is_page(next) else ""
    return _form(request, desk, "sign_in.html", status, problem=problem, name=name, next=shown)


def _form(
    request: Request, desk: Desk, template: str, status: int = 200, **context: Any
) -> HTMLResponse:
    """A form for a browser that has no session yet, and the cookie that ties it to that one."""
    visit = request.cookies.get(_VISIT) or new_secret()
    page = desk.page(template, status, csrf=csrf_token(visit), **context)
    set_cookie(page, request, _VISIT, visit)
    return page


@router.post("/sign-in")
async def sign_in(
    request: Request,
    desk: TheDesk,
    submitted: Submitted,
    name: Annotated[str, Form(max_length=200)],
    password: Annotated[str, Form(max_length=1000)],
    next: Annotated[str, Form(max_length=200)] = "",
) -> Response:
    """Open a session, always a new one, and go to the page that was asked for.

    Passwords are checked a few at a time, and those that wait keep no thread from other pages.
    """
    return await _in_turn(request, lambda: _sign_in(request, desk, submitted, name, password, next))


#: Each check takes 64 MiB and a core.
_checking = CapacityLimiter(2)
#: Who waits for one or has one, by address; nobody keeps all others out.
_waiting: Counter[str] = Counter()
_MOST_WAITING = 100
_MOST_OF_ADDRESS = 50


async def _in_turn(request: Request, work: Callable[[], Response]) -> Response:
    """Have a password checked or hashed when its turn comes."""
    address = signing_in.subscriber(_address(request))
    if _waiting.total() >= _MOST_WAITING or _waiting[address] >= _MOST_OF_ADDRESS:
        raise HTTPException(503, "Too many people are signing in at this moment. Try again.")
    _waiting[address] += 1
    try:
        return await to_thread.run_sync(work, limiter=_checking)
    finally:
        _waiting[address] -= 1
        if not _waiting[address]:
            del _waiting[address]


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _sign_in(
    request: Request, desk: Desk, submitted: str, name: str, password: str, next: str
) -> Response:
    visit = request.cookies.get(_VISIT, "")
    if not visit:
        return _sign_in_form(
            request, desk, 403, "This form has expired; please try again.", name, next
        )
    require_same_origin(request, visit, submitted)
    device = request.cookies.get(_DEVICE) or new_secret()
    try:
        token = signing_in.sign_in(desk.connections, name, password, _address(request), device)
    except SignInRefused as refusal:
        status = 429 if isinstance(refusal, TooManyFailures) else 401
        return _sign_in_form(request, desk, status, str(refusal), name, next)
    with desk.connections.transaction() as connection:
        signing_in.sign_out(connection, request.cookies.get(session_cookie(request), ""))
    response = go(next if is_page(next) else "/")
    set_cookie(response, request, session_cookie(request), token)
    set_cookie(response, request, _DEVICE, device, _DEVICE_SECONDS)
    end_cookie(response, request, _VISIT)
    return response


@router.get("/session")
def session(visitor: SignedIn) -> JSONResponse:
    """Who is signed in, and what forms send along now: for a page of a session that has ended."""
    return JSONResponse(
        {"name": visitor.reviewer.name, "csrf": csrf_token(visitor.token)},
        headers={"Cache-Control": "no-store"},
    )


@router.post("/sign-out")
def sign_out(request: Request, visitor: SignedIn) -> Response:
    """End the session, and give back what was open."""
    with visitor.desk.connections.transaction() as connection:
        claims.release(connection, visitor.reviewer)
        signing_in.sign_out(connection, visitor.token)
    response = go("/sign-in")
    end_cookie(response, request, session_cookie(request))
    return response


@router.post("/settings/password")
async def change_password(
    request: Request,
    visitor: SignedIn,
    current: Annotated[str, Form(max_length=1000)],
    new: Annotated[str, Form(max_length=1000)],
    again: Annotated[str, Form(max_length=1000)],
) -> Response:
    """Have another password from now on; the other browsers are signed out."""

    def work() -> Response:
        if new != again:
            raise EarmarkError("the two new passwords differ; nothing was changed")
        signing_in.change_password(
            visitor.desk.connections,
            *(visitor.reviewer, visitor.token, current, new),
            *(_address(request), request.cookies.get(_DEVICE, "")),
        )
        return go("/", notice="password")

    return await _in_turn(request, work)


@router.post("/lead/people/{name}/link")
def make_link(
    request: Request, visitor: Lead, name: Annotated[str, Path(pattern=f"^{accounts.NAME}$")]
) -> HTMLResponse:
    """Show a lead the address at which a reviewer can choose a password, once."""
    with visitor.desk.connections.transaction() as connection:
        token = accounts.make_link(connection, name, ("reviewer",))
        logger.info("%s made a link to a new password for %s", visitor.reviewer.name, name)
        return visitor.page(
            connection,
            "link.html",
            name=name,
            address=f"{request.base_url}password/{token}",
            hours=accounts.LINK_HOURS,
        )


@router.get("/password/{token}")
def password_form(request: Request, desk: TheDesk, token: str) -> HTMLResponse:
    """The form for a password, for who was given a link."""
    with desk.connections.transaction() as connection:
        name = accounts.linked_to(connection, token)
    limits = {"least": passwords.LEAST_PASSWORD, "most": passwords.MOST_PASSWORD}
    return _form(request, desk, "password.html", name=name, token=token, **limits)


@router.post("/password/{token}")
async def choose_password(
    request: Request,
    desk: TheDesk,
    submitted: Submitted,
    token: str,
    new: Annotated[str, Form(max_length=1000)],
    again: Annotated[str, Form(max_length=1000)],
) -> Response:
    """Have that password from now on; the link is used up, and all browsers are signed out."""
    require_same_origin(request, request.cookies.get(_VISIT, ""), submitted)

    def work() -> Response:
        if new != again:
            raise EarmarkError("the two passwords differ; nothing was changed")
        accounts.use_link(desk.connections, token, new)
        return go("/sign-in")

    return await _in_turn(request, work)
