"""Log-in, log-out, registration, password, sessions and who am I, as JSON."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from shop import accounts
from shop.errors import NotFound
from shop.web import TheShop, User, device_of, end_session_cookie, json, session_token, set_session_cookie

from .texts import Email, Line, Password

__all__ = ["router"]

router = APIRouter(prefix="/api", tags=["accounts"])

# Of a password to be checked nothing is asked but that checking it ends: it may be older than the rules.
GivenPassword = Annotated[str, Field(max_length=1000)]
SessionId = Annotated[str, Path(max_length=64, pattern="^[0-9a-f]+$")]


class Credentials(BaseModel):
    """What a log-in needs."""

    model_config = ConfigDict(strict=True)

    email: Annotated[str, Field(max_length=254)]
    password: GivenPassword


class Registration(BaseModel):
    """What an account needs."""

    model_config = ConfigDict(strict=True)

    email: Email
    name: Annotated[Line, Field(min_length=1, max_length=100)]
    password: Password


class PasswordChange(BaseModel):
    """The old password, and the new one."""

    model_config = ConfigDict(strict=True)

    current: GivenPassword
    new: Password


@router.post("/login", response_model=None)
async def log_in(given: Credentials, request: Request, shop: TheShop) -> Response:
    """Log in: the answer sets the cookie."""
    opened = await accounts.log_in(
        shop, given.email, given.password, old_token=session_token(request), device=device_of(request)
    )
    response = json(opened.account)
    set_session_cookie(request, response, opened.token)
    return response


@router.post("/logout", status_code=204, response_model=None)
async def log_out(request: Request, shop: TheShop) -> Response:
    """Log out; also right when nobody is logged in."""
    token = session_token(request)
    if token:
        await accounts.log_out(shop, token)
    response = Response(status_code=204)
    end_session_cookie(request, response)
    return response


@router.post("/register", status_code=201, response_model=None)
async def register(given: Registration, request: Request, shop: TheShop) -> Response:
    """Make an account and log in."""
    opened = await accounts.register(
        shop,
        given.email,
        given.name,
        given.password,
        old_token=session_token(request),
        device=device_of(request),
    )
    response = json(opened.account, 201)
    set_session_cookie(request, response, opened.token)
    return response


@router.post("/password", response_model=None)
async def change_password(given: PasswordChange, request: Request, shop: TheShop, user: User) -> Response:
    """Change the password: every session ends, and the answer sets the cookie of a new one."""
    opened = await accounts.change_password(shop, user, given.current, given.new, device=device_of(request))
    response = json(opened.account)
    set_session_cookie(request, response, opened.token)
    return response


@router.get("/me", response_model=None)
async def who_am_i(user: User) -> Response:
    """Return who is logged in."""
    return json(user)


@router.get("/sessions", response_model=None)
async def sessions(request: Request, shop: TheShop, user: User) -> Response:
    """List where the account is logged in: the session that asks first, then the one seen last, and so on."""
    return json(await accounts.sessions(shop, user, session_token(request) or ""))


@router.delete("/sessions/{session_id}", status_code=204, response_model=None)
async def end_session(session_id: SessionId, shop: TheShop, user: User) -> Response:
    """End one session, at once."""
    if not await accounts.end_session(shop, user, session_id):
        raise NotFound("no such session")
    return Response(status_code=204)


@router.delete("/sessions", response_model=None)
async def end_other_sessions(request: Request, shop: TheShop, user: User) -> Response:
    """End all sessions but the one that asks, and say how many there were."""
    return json({"ended": await accounts.end_other_sessions(shop, user, session_token(request) or "")})
