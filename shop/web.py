"""What JSON routes and pages share: who asks, how long it took, where errors go, and what may not be sent.

Two ASGI middlewares, both plain: `Measured` times the request and says what the cache did for it, `Guarded` turns
away what another site made a browser send.
"""

from __future__ import annotations

import logging
from time import perf_counter
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

import msgspec
from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import accounts
from .caching import TTL, Note, note
from .db import UNREACHABLE, explain, is_unreachable
from .errors import Forbidden, NotLoggedIn, ShopError
from .state import Shop
from .templating import render
from .views import Account

__all__ = [
    "Admin",
    "Guarded",
    "MaybeUser",
    "Measured",
    "TheShop",
    "User",
    "add_error_handlers",
    "device_of",
    "end_session_cookie",
    "json",
    "session_token",
    "set_session_cookie",
]

log = logging.getLogger("shop.web")
_COOKIE = "shop_session"
_encoder = msgspec.json.Encoder()
_NOT_INVALIDATED = b'199 shop "saved, but pages may show the old state for %d s"' % TTL
_SAFE = {"GET", "HEAD", "OPTIONS"}
# Pages need nothing but themselves and /static, and are nobody's frame.
_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
    (b"referrer-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
)


def json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Answer with a value as JSON, straight from the view: what is checked once need not be copied into models."""
    return Response(_encoder.encode(value), status, headers, "application/json")


# -- who asks ---------------------------------------------------------------------------------------------------------


async def the_shop(request: Request) -> Shop:
    """Return the running shop. Async, as all dependencies here: FastAPI runs others in a thread, which costs more."""
    shop: Shop = request.app.state.shop
    return shop


TheShop = Annotated[Shop, Depends(the_shop)]


def session_token(request: Request) -> str | None:
    """Return the id of the session that the client says it has."""
    return request.cookies.get(_cookie_of(request))


def _cookie_of(request: Request) -> str:
    # By https no other host of the domain can set it: browsers see to that for this prefix.
    return f"__Host-{_COOKIE}" if request.url.scheme == "https" else _COOKIE


async def _maybe_user(request: Request, shop: TheShop) -> Account | None:
    token = session_token(request)
    return await accounts.find(shop, token) if token else None


MaybeUser = Annotated[Account | None, Depends(_maybe_user)]


async def _user(user: MaybeUser) -> Account:
    if user is None:
        raise NotLoggedIn("log in first")
    return user


User = Annotated[Account, Depends(_user)]


async def _admin(user: User) -> Account:
    if not user.is_admin:
        raise Forbidden("only for administrators")
    return user


Admin = Annotated[Account, Depends(_admin)]


def device_of(request: Request) -> str:
    """Return what the client calls itself."""
    return request.headers.get("user-agent", "")[:200]


def set_session_cookie(request: Request, response: Response, token: str) -> None:
    """Give the client its session: out of reach for scripts, not sent along by other sites' forms."""
    response.set_cookie(
        _cookie_of(request),
        token,
        max_age=int(accounts.ABSOLUTE_LIFE.total_seconds()),
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https",
    )


def end_session_cookie(request: Request, response: Response) -> None:
    """Take the session back from the client."""
    secure = request.url.scheme == "https"
    response.delete_cookie(_cookie_of(request), httponly=True, samesite="lax", secure=secure)


# -- errors -----------------------------------------------------------------------------------------------------------


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error: JSON with a `detail` for the interface, a page for a browser."""
    app.add_exception_handler(ShopError, _refused)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    for kind in UNREACHABLE:
        app.add_exception_handler(kind, _database_away)
    app.add_exception_handler(Exception, _failed)


def _wants_page(request: Request) -> bool:
    return not request.url.path.startswith("/api/") and "text/html" in request.headers.get("accept", "")


def _answer(request: Request, status: int, detail: Any, headers: dict[str, str] | None = None) -> Response:
    if _wants_page(request):
        said = detail if isinstance(detail, str) else "something in the address or the form is not right"
        return render(request, "error.html", {"status": status, "detail": said}, None, status, headers)
    return JSONResponse({"detail": detail}, status, headers)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, ShopError)
    if isinstance(error, NotLoggedIn) and _wants_page(request) and request.method == "GET":
        target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"/login?next={quote(target)}", 303)
    return _answer(request, error.status, error.detail)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = "there is nothing at this address" if error.detail == "Not Found" else error.detail
    return _answer(request, error.status_code, detail, dict(error.headers or {}))


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # Where and why, but not what was sent: it may be a password.
    wrong = [{"loc": list(each["loc"]), "msg": each["msg"], "type": each["type"]} for each in error.errors()]
    return _answer(request, 422, wrong)


async def _database_away(request: Request, error: Exception) -> Response:
    if not is_unreachable(error):
        raise error
    log.error("the database is not reachable: %s", explain(error))
    return _answer(request, 503, "the shop cannot reach its database", {"Retry-After": "5"})


async def _failed(request: Request, error: Exception) -> Response:
    return _answer(request, 500, "something went wrong on our side")


# -- middleware -------------------------------------------------------------------------------------------------------


class Measured:
    """Say in `Server-Timing` how long an answer took and in `Shop-Cache` what the cache did for it.

    A HEAD is answered as the GET that it stands for, without the body.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = perf_counter()
        mine = Note(began)
        bodiless = scope["method"] == "HEAD"
        if bodiless:
            scope = {**scope, "method": "GET"}
        token = note.set(mine)

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                taken = f"app;dur={(perf_counter() - began) * 1000:.2f}"
                headers = message["headers"]
                headers += ((b"server-timing", taken.encode()), (b"shop-cache", _where(mine, headers)))
                if not scope["path"].startswith("/cache/"):  # the cache's dashboard brings stricter ones
                    headers += _HEADERS
                if mine.not_invalidated:
                    headers.append((b"warning", _NOT_INVALIDATED))
            elif bodiless:
                message = {**message, "body": b""}
            await send(message)

        try:
            await self.app(scope, receive, sending)
        finally:
            note.reset(token)


def _where(mine: Note, headers: list[tuple[bytes, bytes]]) -> bytes:
    """Return what the cache did: it may have given the answer as a whole, so that nothing was noted."""
    if mine.cache == "none":
        for name, value in headers:
            if name == b"cache-status" and (b"; hit" in value or b"; collapsed" in value):
                return b"hit"
    return mine.cache.encode()


class Guarded:
    """Turn away changes that a browser sends on behalf of another site, and JSON routes' bodies that are not JSON.

    The cookie is SameSite=Lax already. This is the second lock, without a token in every form: all browsers say in
    `Sec-Fetch-Site` or `Origin` where a request was made. A request with neither is no browser's, so it carries no
    cookie against its owner's will.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in _SAFE:
            headers = Headers(scope=scope)
            refused: tuple[int, str] | None = None
            if _foreign(headers):
                refused = 403, "requests from other sites may not change anything here"
            elif scope["path"].startswith("/api/") and _has_body(headers) and not _is_json(headers):
                refused = 415, "send application/json"
            if refused is not None:
                await JSONResponse({"detail": refused[1]}, refused[0])(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _foreign(headers: Headers) -> bool:
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != headers.get("host")


def _has_body(headers: Headers) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def _is_json(headers: Headers) -> bool:
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
