"""Log-in, registration and log-out as forms."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response
from pydantic import TypeAdapter, ValidationError
from starlette.responses import RedirectResponse

from shop import accounts
from shop.api.texts import Email, Line, Password
from shop.errors import Conflict, NotLoggedIn
from shop.templating import render
from shop.web import MaybeUser, TheShop, device_of, end_session_cookie, session_token, set_session_cookie

__all__ = ["router"]

router = APIRouter(include_in_schema=False)

Given = Annotated[str, Form(max_length=1000)]
_CHECKS: dict[str, tuple[str, TypeAdapter[str]]] = {
    "email": ("The e-mail address", TypeAdapter(Email)),
    "name": ("The name", TypeAdapter(Line)),
    "password": ("The password", TypeAdapter(Password)),
}


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
            shop.db, email, password, old_token=session_token(request), device=device_of(request)
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
                shop.db, email, name.strip(), password, device=device_of(request)
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
        await accounts.log_out(shop.db, token)
    response = RedirectResponse("/", 303)
    end_session_cookie(response)
    return response


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
