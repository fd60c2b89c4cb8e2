"""The ASGI application: pages, JSON, and who gets them. Imports no framework."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, MutableMapping
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any, Final
from urllib.parse import parse_qs, quote

import msgspec

from neverstale.cache_async import AsyncCache
from neverstale.counters import Counters
from neverstale.errors import RedisUnavailable, UsageError
from neverstale.metrics.reporter import hand_in_async

from . import acting
from .access import (
    COOKIE,
    LIFETIME,
    Guard,
    cookies_of,
    headers_of,
    is_from_another_page,
    is_from_our_page,
    is_local,
)
from .feed import Feed
from .figures import overview

__all__ = ["Dashboard"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

logger = logging.getLogger("neverstale")

#: Larger than any key, pattern, tag or token.
_MOST_BYTES: Final = 65_536
#: Several who look share what was asked of Redis within so many seconds.
_FRESH: Final = 0.9
#: The lengths of the charts, in seconds.
_LENGTHS: Final = (300, 900, 1800)
_HOTTEST: Final = 8
#: A wrong token costs so many seconds: nothing for a person, much for a program.
_WRONG: Final = 0.5

#: All that a page may do: load its own script and style, ask its own server.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # `no-referrer` would take the Origin from our own forms.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_TYPES: Final = {
    "dashboard.css": "text/css; charset=utf-8",
    "dashboard.js": "text/javascript; charset=utf-8",
    "charts.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


class _Answer(Exception):
    """An answer, also by raising it."""

    def __init__(
        self, status: int, body: bytes = b"", kind: str = "text/plain; charset=utf-8", **headers: str
    ) -> None:
        self.status = status
        self.body = body
        self.headers = {
            "content-type": kind,
            "cache-control": "no-store",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }


def _json(status: int, value: Any) -> _Answer:
    return _Answer(status, msgspec.json.encode(value), "application/json")


def _placed(scope: Scope) -> tuple[str, str]:
    """Return where the dashboard is mounted, as it is written in an address, and what of it is asked for."""
    root: str = scope.get("root_path", "").rstrip("/")
    path: str = scope["path"]
    # By the specification the path has the root in front of it; some servers leave out what the server was told, and
    # Starlette has put behind that what it is mounted under.
    for before in (root, root.removeprefix(scope.get("app_root_path", "").rstrip("/"))):
        if path == before or path.startswith(f"{before}/"):
            path = path[len(before) :]
            break
    # A part of it may be chosen by whoever asks: it is no other host, and no header.
    return quote(f"/{root.lstrip('/')}") if root else "", path


class _Request:
    """A request, and who it is from."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        self.method: str = scope["method"]
        self.root, self.path = _placed(scope)
        self.http_version: str = scope.get("http_version", "1.1")
        self.headers = headers_of(scope)
        self.query = parse_qs(scope.get("query_string", b"").decode("latin-1"), errors="replace")
        self.client = scope.get("client")
        self.secure = scope.get("scheme") == "https" or self.headers.get("x-forwarded-proto") == "https"
        self.cookies = cookies_of(self.headers)

    async def body(self) -> bytes:
        parts, size, more = [], 0, True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise _Answer(400)
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > _MOST_BYTES:
                raise _Answer(413, b"too much\n")
            more = message.get("more_body", False)
        return b"".join(parts)


class Dashboard:
    """What the cache does now, on a page. Mount it in any ASGI application, or serve it by itself.

    The processes whose figures it shows are `reporting()`. Without a token it is read-only, and answers only who comes
    straight from this machine; with one, whoever logs in with it sees everything and may invalidate.

    Args:
        cache: any view of it.
        token: at least 16 characters; best from the environment.

    Raises:
        UsageError: the token is too short, or the cache is none for asyncio.
    """

    def __init__(self, cache: AsyncCache, token: str | None = None) -> None:
        if not isinstance(cache, AsyncCache):
            raise UsageError(f"the dashboard is of an AsyncCache, not of a {type(cache).__name__}")
        self._cache = cache
        self._guard = Guard(token)
        self._feed = Feed(cache)
        self._counters = Counters()  # what looking costs is no prefix'
        self._overviews: dict[int, tuple[float, asyncio.Task[dict[str, Any]]]] = {}
        static = resources.files("neverstale.dashboard") / "static"
        self._files = {name: (static / name).read_bytes() for name in (*_TYPES, "index.html", "login.html")}

    def __repr__(self) -> str:
        return f"<Dashboard of {self._cache!r}{', with a token' if self._guard.has_token else ''}>"

    @asynccontextmanager
    async def listening(self) -> AsyncGenerator[None, None]:
        """Hear the invalidations of all processes while the block runs, so that who opens the page finds the latest.

        Without this they are heard from the first look on.
        """
        async with self._feed.listening():
            yield

    async def close(self) -> None:
        """Listen no longer to other processes. Call it before closing the cache: that would cut a connection in use."""
        await self._feed.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        elif scope["type"] == "http":
            request = _Request(scope, receive)
            try:
                answer = await self._answer(request)
            except _Answer as raised:
                answer = raised
            except UsageError as error:
                answer = _json(400, {"error": str(error)})
            except RedisUnavailable as error:
                answer = _json(503, {"error": str(error)})
            await _send(answer, request, send)

    # --- who and what ---------------------------------------------------------------------------------------------

    async def _answer(self, request: _Request) -> _Answer:
        if request.path == "":
            # What the page asks for stands beside it.
            return _Answer(307, location=f"{request.root}/")
        name = request.path.removeprefix("/")
        if request.method in ("GET", "HEAD"):
            if name in _TYPES:
                return self._file(name, request)
            if not self._may_look(request):
                return self._refused(request, name)
            if name == "":
                return _Answer(200, self._files["index.html"], "text/html; charset=utf-8")
            if is_from_another_page(request.headers):
                return _json(403, {"error": "this is not for pages of another origin"})
            if name == "api/overview":
                return await self._overview(request)
            if name == "api/look":
                return await self._look(request)
        elif request.method == "POST" and name in ("login", "logout", "api/invalidate"):
            return await self._post(request, name)
        elif name in ("", "api/overview", "api/look", "login", "logout", "api/invalidate", *_TYPES):
            return _Answer(405, b"not like this\n", allow="POST" if name.startswith("log") else "GET, HEAD")
        return _Answer(404, b"not here\n")

    def _may_look(self, request: _Request) -> bool:
        if self._guard.has_token:
            return bool(self._cookie(request))
        return is_local(request.client, request.headers, request.http_version)

    def _cookie(self, request: _Request) -> str:
        """Return the cookie of the request that opens, or ""."""
        now = time.time()
        return next((each for each in request.cookies if self._guard.knows(each, now)), "")

    def _refused(self, request: _Request, name: str) -> _Answer:
        if not self._guard.has_token:
            return _Answer(403, b"Without a token the cache's dashboard is only for this machine itself.\n")
        if name == "":
            return self._login_page(200, "")
        return _json(401, {"error": "not logged in"})

    def _login_page(self, status: int, problem: str) -> _Answer:
        page = self._files["login.html"].replace(b"<!--problem-->", problem.encode())
        return _Answer(status, page, "text/html; charset=utf-8")

    def _file(self, name: str, request: _Request) -> _Answer:
        body = self._files[name]
        etag = f'"{hashlib.sha256(body).hexdigest()[:20]}"'
        headers = {"etag": etag, "cache_control": "no-cache"}
        if etag in request.headers.get("if-none-match", ""):
            return _Answer(304, b"", _TYPES[name], **headers)
        return _Answer(200, body, _TYPES[name], **headers)

    # --- looking --------------------------------------------------------------------------------------------------

    async def _overview(self, request: _Request) -> _Answer:
        asked = request.query.get("seconds", [""])[0]
        seconds = int(asked) if asked in map(str, _LENGTHS) else _LENGTHS[0]
        acts = self._guard.has_token
        settings = self._cache.settings
        shown = {
            "namespace": settings.namespace,
            "version": settings.version,
            "redis": str(settings.url),
            "mode": settings.mode,
            "acts": acts,
            "forgery_token": self._guard.forgery_token(self._cookie(request)) if acts else "",
            "asked_above": acting.ASKED_ABOVE,
            "events": self._feed.latest(),
        }
        return _json(200, {**shown, **await self._figures(seconds)})

    async def _figures(self, seconds: int) -> dict[str, Any]:
        """Ask Redis, or share what another has asked a moment ago."""
        asked, task = self._overviews.get(seconds, (0.0, None))
        loop = asyncio.get_running_loop()
        if task is None or time.monotonic() - asked > _FRESH or task.get_loop() is not loop:
            task = loop.create_task(self._ask(seconds))
            task.add_done_callback(_heard)
            self._overviews[seconds] = (time.monotonic(), task)
        return await asyncio.shield(task)

    async def _ask(self, seconds: int) -> dict[str, Any]:
        cache = self._cache
        # The nodes are asked beside the figures: where these cannot be had, they say why.
        nodes = asyncio.create_task(cache.nodes())
        try:
            figures = await asyncio.gather(
                cache.totals(),
                cache.series(seconds),
                cache.hottest(_HOTTEST),
                cache.hottest_tags(_HOTTEST),
            )
        except RedisUnavailable as error:
            return {"error": str(error), "nodes": [node.as_dict() for node in await nodes]}
        return overview(*figures, await nodes)

    async def _look(self, request: _Request) -> _Answer:
        key = request.query.get("key", [""])[0]
        found = await self._cache._driver.run(
            acting.looked_up(self._cache, key), self._counters, patient=True
        )
        return _json(200, found)

    # --- acting ---------------------------------------------------------------------------------------------------

    async def _post(self, request: _Request, name: str) -> _Answer:
        if not self._guard.has_token:
            return _json(403, {"error": "without a token the dashboard is read-only"})
        if not is_from_our_page(request.headers):
            logger.warning("a request to the dashboard's %s did not come from its page", name)
            return _json(403, {"error": "this does not come from the dashboard's own page"})
        body = await request.body()
        if name == "login":
            return await self._log_in(request, body)
        if not self._may_look(request):
            return _json(401, {"error": "not logged in"})
        if self._guard.is_forgery(self._cookie(request), request.headers.get("x-forgery-token", "")):
            return _json(403, {"error": "the page is out of date: load it again"})
        if name == "logout":
            return _Answer(204, set_cookie=_set_cookie(request, "", 0))
        return await self._invalidate(body)

    async def _log_in(self, request: _Request, body: bytes) -> _Answer:
        given = parse_qs(body.decode(errors="replace")).get("token", [""])[0]
        if not self._guard.opens(given.strip()):
            await asyncio.sleep(_WRONG)
            logger.warning("somebody tried to log in to the dashboard with a wrong token")
            return self._login_page(403, '<p class="problem" role="alert">That is not the token.</p>')
        cookie = self._guard.cookie(time.time())
        return _Answer(303, location=f"{request.root}/", set_cookie=_set_cookie(request, cookie, LIFETIME))

    async def _invalidate(self, body: bytes) -> _Answer:
        try:
            order = msgspec.json.decode(body, type=acting.Order)
        except msgspec.MsgspecError as error:
            raise UsageError(str(error)) from error
        if order.kind != "key":
            found = await self._cache._driver.run(
                acting.count(self._cache, order), self._counters, patient=True
            )
            # Agreed to was a number: twice as many is another matter.
            if found > max(acting.ASKED_ABOVE, 2 * order.confirmed):
                return _json(200, {"asks": found})
        receipt = await acting.invalidate(self._cache, order)
        # Shown at once, also where this process serves the dashboard alone and reports nothing.
        await hand_in_async(self._cache._shared.reporter, self._cache._driver)
        return _json(200, receipt)


def _heard(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()  # whoever asked may be gone


def _set_cookie(request: _Request, value: str, seconds: int) -> str:
    secure = "; Secure" if request.secure else ""
    path = request.root or "/"
    return f"{COOKIE}={value}; Path={path}; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}"


async def _send(answer: _Answer, request: _Request, send: Send) -> None:
    headers: Mapping[str, str] = {
        **_HEADERS,
        **answer.headers,
        **({} if answer.status in (204, 304) else {"content-length": str(len(answer.body))}),
    }
    await send(
        {
            "type": "http.response.start",
            "status": answer.status,
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": b"" if request.method == "HEAD" else answer.body})


async def _live(receive: Receive, send: Send) -> None:
    """Answer a server that serves nothing else."""
    while True:
        message = await receive()
        kind = message["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return
