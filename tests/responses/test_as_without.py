"""Whole applications of two frameworks, with the cache and without: their clients are told the same.

What may differ is what docs/responses.md says: `Age`, `Cache-Status`, validators where there are none, HEAD answered
from GET. Where an answer is compressed its bytes are compared unpacked, since they have the time in them; and what
was streamed comes from the cache in one piece, which GZip outside of it gives a length.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable
from itertools import count
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, HTTPException
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.httpsredirect import HTTPSRedirectMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from neverstale import AsyncCache
from neverstale.testing.servers import RedisServer
from neverstale.web.asgi import ResponseCacheMiddleware, Rule
from tests.responses.asking import Reply, ask

FRESH = {"Cache-Control": "max-age=60"}
PATHS = (
    "/text", "/text/", "/json/7", "/json/007", "/json/x", "/sub/text", "/sub/none", "/redirect", "/stream", "/file",
    "/error/404", "/error/418", "/error/503", "/cookie", "/empty", "/long", "/query", "/api/7", "/api/x",
    "/api/query", "/api/error", "/api/depends", "/none", "/a%2Fb", "/%00", "/%ff", "/..%2ftext", "//text",
)  # fmt: skip
QUERIES = ("", "", "?a=1", "?a=1&a=2", "?a=2&a=1", "?b=2&a=1", "?a", "?a=%20+", "?a=%ff", "?;a=1", "?&&a=1")
METHODS = ("GET", "GET", "GET", "GET", "HEAD", "OPTIONS", "POST")
HEADERS = (
    ("accept-encoding", "gzip"),
    ("accept-encoding", "identity"),
    ("origin", "https://a.example"),
    ("origin", "https://b.example"),
    ("range", "bytes=0-3"),
    ("cookie", "sid=1"),
    ("cookie", "sid=2"),
    ("authorization", "Bearer x"),
    ("cache-control", "no-cache"),
    ("if-match", '"x"'),
    ("access-control-request-method", "GET"),
    ("x-http-method-override", "DELETE"),
)
ORIGINS = (
    ("https", "shop.example"),
    ("https", "shop.example"),
    ("http", "shop.example"),
    ("https", "evil.example"),
)
#: What the cache adds where the application says nothing of it.
ADDED = {"age", "cache-status", "etag", "last-modified"}
#: These decide whether there is an answer at all, so they belong outside of the cache.
OUTERMOST = (
    Middleware(TrustedHostMiddleware, allowed_hosts=["shop.example"]),
    Middleware(HTTPSRedirectMiddleware),
)
#: These may be anywhere.
ANYWHERE = (
    Middleware(CORSMiddleware, allow_origins=["https://a.example"], allow_credentials=True),
    Middleware(CORSMiddleware, allow_origins=["*"]),
    Middleware(GZipMiddleware, minimum_size=50),
)
RULES = (Rule("/{rest:path}", ttl=60, statuses=(200, 204, 404, 418)),)

Make = Callable[[list[Middleware]], Any]
Asked = tuple[str, str, str, list[tuple[str, str]], tuple[str, str]]


class Item(BaseModel):
    number: int
    name: str = "chair"


class Odd(Exception):
    pass


async def text(request: Request) -> Response:
    return PlainTextResponse(f"text {request.url.path}", headers=FRESH)


async def json(request: Request) -> Response:
    return PlainTextResponse(f"{request.path_params}", headers={**FRESH, "Vary": "Cookie", "X-Number": "1"})


async def redirect(request: Request) -> Response:
    return RedirectResponse("/text", headers=FRESH)


async def stream(request: Request) -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(20):
            yield b"piece %d " % number

    return StreamingResponse(pieces(), media_type="text/plain", headers=FRESH)


async def file(request: Request) -> Response:
    return FileResponse(Path(__file__).with_name("conftest.py"), headers=FRESH)


async def error(request: Request) -> Response:
    number = int(request.path_params["number"])
    if number == 418:
        raise Odd
    raise HTTPException(number, "no", {**FRESH, "X-Error": "yes"})


async def cookie(request: Request) -> Response:
    response = PlainTextResponse(f"hello {request.cookies.get('sid')}", headers=FRESH)
    response.set_cookie("seen", "1")
    return response


async def empty(request: Request) -> Response:
    return Response(status_code=204, headers=FRESH)


async def long(request: Request) -> Response:
    return PlainTextResponse("0123456789" * 500, headers=FRESH)


async def query(request: Request) -> Response:
    # The order of names makes no difference to the cache, that of a name's values does.
    pairs = sorted(request.query_params.multi_items(), key=lambda pair: pair[0])
    return PlainTextResponse(repr(pairs), headers=FRESH)


async def odd(request: Request, error: Exception) -> Response:
    return PlainTextResponse("odd", 418)


async def http_odd(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return PlainTextResponse("http", error.status_code, error.headers)


def routes() -> list[Any]:
    return [
        Route("/text", text),
        Route("/json/{id:int}", json),
        Route("/json/{id}", json),
        Mount("/sub", app=Starlette(routes=[Route("/text", text)], exception_handlers={404: odd})),
        Route("/redirect", redirect),
        Route("/stream", stream),
        Route("/file", file),
        Route("/error/{number:int}", error),
        Route("/cookie", cookie),
        Route("/empty", empty),
        Route("/long", long),
        Route("/query", query),
    ]


def starlette(middleware: list[Middleware]) -> Any:
    handlers: Any = {Odd: odd, HTTPException: http_odd}
    return Starlette(routes=routes(), middleware=middleware, exception_handlers=handlers)


def fastapi(middleware: list[Middleware]) -> Any:
    app = FastAPI(middleware=middleware, exception_handlers={Odd: odd})

    async def resource() -> AsyncIterator[str]:
        yield "resource"

    @app.get("/api/query")
    async def by_query(a: str = "", b: int = 0) -> list[Any]:
        return [a, b]

    @app.get("/api/error")
    async def fails() -> None:
        raise Odd

    @app.get("/api/depends")
    async def depends(used: str = Depends(resource)) -> dict[str, str]:
        return {"used": used}

    @app.get("/api/{number}")
    def item(number: int, response: Response) -> Item:
        response.headers.update(FRESH)
        return Item(number=number)

    app.mount("/", starlette([]))
    return app


class World:
    """One event loop and one cache for all examples; each has a prefix of its own."""

    def __init__(self, url: str) -> None:
        self._runner = asyncio.Runner()
        self._cache = AsyncCache.from_url(url, namespace="as", timeout=5, patient_timeout=10)
        self._numbers = count()
        self.hits = 0

    def play(
        self, make: Make, outer: list[Middleware], inner: list[Middleware], rules: Any, asked: list[Asked]
    ) -> None:
        cached = Middleware(
            ResponseCacheMiddleware,
            self._cache,
            rules,
            prefix=f"a{next(self._numbers)}:",
            max_body_bytes=4000,
            host_in_key=True,
        )
        self._runner.run(self._compare(make([*outer, *inner]), make([*outer, cached, *inner]), asked))

    async def _compare(self, plain: Any, cached: Any, asked: list[Asked]) -> None:
        for path, query, method, headers, (scheme, host) in asked:
            wanted, got = [
                await ask(app, path + query, method, headers, host=host, scheme=scheme)
                for app in (plain, cached)
            ]
            self.hits += got.hit
            if method == "HEAD" and got.hit:
                wanted = await ask(plain, path + query, "GET", headers, host=host, scheme=scheme)
            assert got.status == wanted.status
            if method == "HEAD":  # servers send no body then, whatever they are given
                wanted.chunks = got.chunks = []
            assert unpacked(got) == unpacked(wanted)
            assert shown(got, wanted) == shown(wanted, wanted)

    def close(self) -> None:
        self._runner.run(self._cache.close())
        self._runner.close()


def unpacked(reply: Reply) -> bytes:
    is_packed = reply.get("content-encoding") == "gzip" and reply.body
    return gzip.decompress(reply.body) if is_packed else reply.body


def shown(reply: Reply, like: Reply) -> list[tuple[str, str]]:
    """Return the headers that must be the same.

    Args:
        reply: whose.
        like: the answer without the cache.
    """
    own = {name for name, _ in like.headers}
    free = ADDED - own
    if reply.get("content-encoding") == "gzip":
        # The packed bytes may be more or fewer by the second; a stream has no length.
        free.add("content-length")
    return sorted((name, value) for name, value in reply.headers if name not in free)


requests = st.lists(
    st.tuples(
        st.sampled_from(PATHS),
        st.sampled_from(QUERIES),
        st.sampled_from(METHODS),
        st.lists(st.sampled_from(HEADERS), max_size=2, unique_by=lambda pair: pair[0]),
        st.sampled_from(ORIGINS),
    ),
    min_size=2,
    max_size=12,
).map(lambda asked: [each for each in asked for _ in range(2)])


def test_as_without(redis_server: RedisServer) -> None:
    """Whatever stands around the cache and inside, its clients see the application's own answers."""
    world = World(redis_server.url)

    @settings(max_examples=40, deadline=None)
    @given(
        make=st.sampled_from((starlette, fastapi)),
        outermost=st.lists(st.sampled_from(OUTERMOST), max_size=2, unique_by=id),
        outer=st.lists(st.sampled_from(ANYWHERE), max_size=2, unique_by=id),
        inner=st.lists(st.sampled_from(ANYWHERE), max_size=2, unique_by=id),
        rules=st.sampled_from((RULES, None)),
        asked=requests,
    )
    def same(
        make: Make,
        outermost: list[Middleware],
        outer: list[Middleware],
        inner: list[Middleware],
        rules: Any,
        asked: list[Asked],
    ) -> None:
        world.play(make, [*outermost, *outer], inner, rules, asked)

    try:
        same()
        assert world.hits
    finally:
        world.close()
