"""Log-in, registration and log-out as forms, and the account with its password and its sessions."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response
from pydantic import TypeAdapter, ValidationError
from starlette.responses import RedirectResponse

from shop import accounts
from shop.api.texts import Email, Line, Password
from shop.devices import device_name
from shop.errors import Conflict, NotLoggedIn
from shop.models import utc_now
from shop.state import Shop
from shop.templating import render
from shop.views import Account
from shop.web import (
    MaybeUser,
    TheShop,
    User,
    device_of,
    end_session_cookie,
    session_token,
    set_session_cookie,
)

__all__ = ["router"]

router = APIRouter(include_in_schema=False)

Given = Annotated[str, Form(max_length=1000)]
# What an id is made of, whichever kind it is: databases refuse some other characters.
SessionId = Annotated[str, Form(max_length=200, pattern="^[A-Za-z0-9_-]*$")]
_CHECKS: dict[str, tuple[str, TypeAdapter[str]]] = {
    "email": ("The e-mail address", TypeAdapter(Email)),
    "name": ("The name", TypeAdapter(Line)),
    "password": ("The password", TypeAdapter(Password)),
}
_SAID = {
    "password": "Your password was changed. You stay logged in here; every other session has ended.",
    "ended": "The session has ended.",
    "gone": "That session had ended already.",
    "others": "All other sessions have ended.",
}
_SHOWN = 20  # sessions on the page; who has more and wants to see them ends the others first


@router.get("/login", response_model=None)
async def login_page(request: Request, user: MaybeUser, next: str = "/") -> Response:  # noqa: A002
    """Show the log-in form."""
    if user is not None:
        return RedirectResponse(_local(next), 303)
    return render(request, "login.html", {"next": _local(next), "email": "", "problem": None}, None)


@router.post("/login", response_model=None)
async def log_in(
    request: Request,
    shop: TheShop,
    email: Given = "",
    password: Given = "",
    next: Given = "/",  # noqa: A002
) -> Response:
    """Log in and go on."""
    try:
        opened = await accounts.log_in(
            shop, email, password, old_token=session_token(request), device=device_of(request)
        )
    except NotLoggedIn as error:
        context = {"next": _local(next), "email": email, "problem": f"{error.detail.capitalize()}."}
        return render(request, "login.html", context, None, 401)
    response = RedirectResponse(_local(next), 303)
    set_session_cookie(request, response, opened.token)
    return response


@router.get("/register", response_model=None)
async def register_page(request: Request, user: MaybeUser) -> Response:
    """Show the registration form."""
    if user is not None:
        return RedirectResponse("/", 303)
    return render(request, "register.html", {"given": {"email": "", "name": ""}, "problems": {}}, None)


@router.post("/register", response_model=None)
async def register(
    request: Request, shop: TheShop, email: Given = "", name: Given = "", password: Given = ""
) -> Response:
    """Make an account, log in and go to the storefront."""
    given = {"email": email, "name": name, "password": password}
    problems = {}
    for field, value in given.items():
        problem = _problem(field, value)
        if problem:
            problems[field] = problem
    status = 422
    if not problems:
        try:
            opened = await accounts.register(
                shop,
                email,
                name.strip(),
                password,
                old_token=session_token(request),
                device=device_of(request),
            )
        except Conflict as error:
            problems["email"], status = f"{error.detail[0].upper()}{error.detail[1:]}.", 409
        else:
            response = RedirectResponse("/", 303)
            set_session_cookie(request, response, opened.token)
            return response
    shown: dict[str, Any] = {"email": email, "name": name}
    return render(request, "register.html", {"given": shown, "problems": problems}, None, status)


@router.post("/logout", response_model=None)
async def log_out(request: Request, shop: TheShop) -> Response:
    """Log out and go to the storefront."""
    token = session_token(request)
    if token:
        await accounts.log_out(shop, token)
    response = RedirectResponse("/", 303)
    end_session_cookie(request, response)
    return response


# -- the account ------------------------------------------------------------------------------------------------------


@router.get("/account", response_model=None)
async def account_page(request: Request, shop: TheShop, user: User, said: str = "") -> Response:
    """Show who is logged in, and where."""
    return await _account_page(request, shop, user, said=_SAID.get(said))


@router.post("/account/password", response_model=None)
async def change_password(
    request: Request, shop: TheShop, user: User, current: Given = "", new: Given = ""
) -> Response:
    """Change the password: every other session ends."""
    problem = _problem("password", new)
    if problem:
        return await _account_page(request, shop, user, {"new": problem}, 422)
    try:
        opened = await accounts.change_password(shop, user, current, new, device=device_of(request))
    except NotLoggedIn:
        return await _account_page(
            request, shop, user, {"current": "This is not your current password."}, 422
        )
    except Conflict as error:
        said = f"{error.detail[0].upper()}{error.detail[1:]}."
        return await _account_page(request, shop, user, {"current": said}, error.status)
    response = RedirectResponse("/account?said=password", 303)
    set_session_cookie(request, response, opened.token)
    return response


@router.post("/account/sessions/end", response_model=None)
async def end_session(shop: TheShop, user: User, id: SessionId = "") -> Response:  # noqa: A002
    """End one session."""
    said = "ended" if await accounts.end_session(shop, user, id) else "gone"
    return RedirectResponse(f"/account?said={said}", 303)


@router.post("/account/sessions/end-others", response_model=None)
async def end_other_sessions(request: Request, shop: TheShop, user: User) -> Response:
    """End every session but this one."""
    await accounts.end_other_sessions(shop, user, session_token(request) or "")
    return RedirectResponse("/account?said=others", 303)


async def _account_page(
    request: Request,
    shop: Shop,
    user: Account,
    problems: dict[str, str] | None = None,
    status: int = 200,
    said: str | None = None,
) -> Response:
    sessions = await accounts.sessions(shop, user, session_token(request) or "")
    now = utc_now()
    context: dict[str, Any] = {
        "sessions": [
            {"view": each, "device": device_name(each.device), "seen": _ago(each.seen_at, now)}
            for each in sessions[:_SHOWN]
        ],
        "more": max(0, len(sessions) - _SHOWN),
        "others": any(not each.current for each in sessions),
        "problems": problems or {},
        "said": said,
    }
    return render(request, "account.html", context, user, status)


def _ago(moment: datetime, now: datetime) -> str:
    """Return how long ago it was, no more exactly than it is known: sessions are marked every five minutes."""
    minutes = int((now - moment).total_seconds()) // 60
    for unit, length in (("day", 24 * 60), ("hour", 60), ("minute", 1)):
        if minutes >= max(length, 5):
            n = minutes // length
            return f"{n} {unit}{'' if n == 1 else 's'} ago"
    return "a moment ago"


def _problem(field: str, value: str) -> str | None:
    what, check = _CHECKS[field]
    if field == "name" and not 1 <= len(value.strip()) <= 100:
        return f"{what} must have 1 to 100 characters."
    try:
        check.validate_python(value)
    except ValidationError as error:
        return f"{what} {error.errors()[0]['msg'].removeprefix('Value error, ')}."
    return None


def _local(target: str) -> str:
    """Return a path of this shop, never another site's address."""
    fine = (
        target.startswith("/") and not target.startswith("//") and target.isprintable() and "\\" not in target
    )
    return target if fine else "/"
