"""An application with the cache and without: whoever asks whatever in whatever order is told the same.

What may differ is what docs/responses.md says: `Age`, `Cache-Status`, validators where the application has none, and
what was streamed has a length. A 304 stands for the answer that has its `ETag`. Servers leave out the body of what
answers HEAD, so it is left out here.
"""

from __future__ import annotations

import asyncio
import gzip
from collections import Counter
from collections.abc import AsyncIterator
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from neverstale import AsyncCache
from neverstale.testing.servers import RedisServer
from neverstale.web.asgi import ResponseCacheMiddleware, Rule
from tests.responses.asking import Reply, ask

FRESH = {"Cache-Control": "max-age=60"}
PATHS = ("/text", "/vary", "/cookie", "/own", "/tagged", "/count", "/state", "/query", "/stream", "/none")
QUERIES = ("", "", "", "?a=1", "?b=2&a=1", "?a=1&b=2", "?a=1&a=2")
METHODS = ("GET", "GET", "GET", "GET", "HEAD", "POST")
#: Stands for the ETag that was last seen at the same URL.
SEEN = "seen"
HEADERS = (
    ("accept-encoding", "gzip"),
    ("accept-language", "de"),
    ("accept-language", "fr"),
    ("cookie", "sid=1"),
    ("cookie", "sid=2"),
    ("authorization", "Bearer x"),
    ("authorization", "Bearer y"),
    ("cache-control", "no-cache"),
    ("if-none-match", SEEN),
    ("if-none-match", '"of old"'),
)
#: What the cache adds where the application says nothing of it.
ADDED = {"age", "cache-status", "etag", "last-modified", "content-length"}
RULES = (Rule("/{rest:path}", ttl=60, statuses=(200, 404), invalidates_target=True),)
GZIP = Middleware(GZipMiddleware, minimum_size=100)

Asked = tuple[str, str, list[tuple[str, str]]]


class Application:
    """Answers that depend on whatever an answer may depend on; GET and HEAD are answered alike."""

    def __init__(self) -> None:
        self._count = count()
        self._states: Counter[str] = Counter()

    def routes(self) -> list[Route]:
        methods = ["GET", "POST"]
        return [Route(path, getattr(self, path[1:]), methods=methods) for path in PATHS if path != "/none"]

    async def text(self, request: Request) -> Response:
        return PlainTextResponse("text " * 50, headers=FRESH)

    async def vary(self, request: Request) -> Response:
        language = request.headers.get("accept-language")
        return PlainTextResponse(f"in {language} " * 50, headers={**FRESH, "Vary": "Accept-Language"})

    async def cookie(self, request: Request) -> Response:
        response = PlainTextResponse("welcome", headers=FRESH)
        response.set_cookie("sid", f"{next(self._count)}")
        return response

    async def own(self, request: Request) -> Response:
        return PlainTextResponse(f"of {request.headers.get('authorization')}", headers=FRESH)

    async def tagged(self, request: Request) -> Response:
        headers = {**FRESH, "ETag": '"own"'}
        if request.headers.get("if-none-match") == '"own"':
            return Response(status_code=304, headers=headers)
        return PlainTextResponse("tagged", headers=headers)

    async def count(self, request: Request) -> Response:
        return PlainTextResponse(f"{next(self._count)}", headers={"Cache-Control": "no-store"})

    async def state(self, request: Request) -> Response:
        self._states[_query(request)] += request.method == "POST"
        return PlainTextResponse(f"state {self._states[_query(request)]}", headers=FRESH)

    async def query(self, request: Request) -> Response:
        return PlainTextResponse(_query(request), headers=FRESH)

    async def stream(self, request: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            for number in range(20):
                yield b"piece %d " % number

        return StreamingResponse(pieces(), media_type="text/plain", headers=FRESH)


def _query(request: Request) -> str:
    # The order of names makes no difference to the cache, that of a name's values does.
    return repr(sorted(request.query_params.multi_items(), key=lambda pair: pair[0]))


class World:
    """One event loop and one cache for all examples; each has a prefix of its own."""

    def __init__(self, url: str) -> None:
        self._runner = asyncio.Runner()
        self._cache = AsyncCache.from_url(url, namespace="as", timeout=5, patient_timeout=10)
        self._numbers = count()
        self.hits = self.not_modified = 0

    def play(
        self, path: str, asked: list[Asked], rules: Any, outer: list[Middleware], inner: list[Middleware]
    ) -> None:
        prefix = f"a{next(self._numbers)}:"
        cached = Middleware(ResponseCacheMiddleware, self._cache, rules, prefix=prefix, host_in_key=True)
        plain, with_cache = [
            Starlette(routes=Application().routes(), middleware=middleware)
            for middleware in ([*outer, *inner], [*outer, cached, *inner])
        ]
        self._runner.run(self._compare(plain, with_cache, path, asked))

    async def _compare(self, plain: Any, cached: Any, path: str, asked: list[Asked]) -> None:
        seen: dict[str, str] = {}
        for query, method, choice in asked:
            url = path + query
            headers = [(name, seen.get(url, value) if value == SEEN else value) for name, value in choice]
            wanted, got = [await ask(app, url, method, headers) for app in (plain, cached)]
            self.hits += got.hit
            if 304 in (got.status, wanted.status) and got.status != wanted.status:
                self.not_modified += 1
                tags, condition = [each.get("etag") for each in (got, wanted)], dict(headers)["if-none-match"]
                rest = [pair for pair in headers if pair[0] != "if-none-match"]
                assert condition in tags
                wanted, got = [await ask(app, url, method, rest) for app in (plain, cached)]
                assert got.get("etag") == condition
            if method != "POST":
                seen[url] = got.get("etag") or SEEN
            assert told(got, wanted, method) == told(wanted, wanted, method)

    def close(self) -> None:
        self._runner.run(self._cache.close())
        self._runner.close()


def told(reply: Reply, like: Reply, method: str) -> tuple[int, list[tuple[str, str]], bytes]:
    """Return what must be the same: status, headers and body.

    Args:
        reply: whose.
        like: the answer without the cache.
        method: of the request.
    """
    free = ADDED - {name for name, _ in like.headers}
    headers = sorted(pair for pair in reply.headers if pair[0] not in free)
    if method == "HEAD":
        return reply.status, headers, b""
    packed = reply.get("content-encoding") == "gzip"
    return reply.status, headers, gzip.decompress(reply.body) if packed else reply.body


requests = st.lists(
    st.tuples(
        st.sampled_from(QUERIES),
        st.sampled_from(METHODS),
        st.lists(st.sampled_from(HEADERS), max_size=2, unique_by=lambda pair: pair[0]),
    ),
    min_size=6,
    max_size=12,
)


@pytest.mark.parametrize("rules", [RULES, None], ids=["rules", "headers"])
@pytest.mark.parametrize("packed", ["no", "outside", "inside"])
def test_as_without(redis_server: RedisServer, rules: Any, packed: str) -> None:
    """However often, by whatever methods and with whatever headers a path is asked for, answers are as without."""
    world = World(redis_server.url)
    outer, inner = [GZIP] * (packed == "outside"), [GZIP] * (packed == "inside")

    @settings(max_examples=200, deadline=None, derandomize=True, database=None)
    @given(path=st.sampled_from(PATHS), asked=requests)
    def same(path: str, asked: list[Asked]) -> None:
        world.play(path, asked * 2, rules, outer, inner)

    try:
        same()
        assert world.hits > 30
        assert world.not_modified or rules is None  # by headers the cache makes no validators
    finally:
        world.close()
