"""Endpoints of Starlette and FastAPI that say by themselves how they are cached."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Host, Mount, Route, Router

from neverstale import AsyncCache, UsageError, add_tags
from neverstale.web.asgi import ResponseCacheMiddleware, Rule, cache_response
from tests.responses.asking import ask, until_stored

calls: list[str] = []


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    calls.clear()


def counted(name: str) -> Response:
    calls.append(name)
    return PlainTextResponse(f"{name} {len(calls)}")


@cache_response(ttl=300, tags=["product:{id}"])
async def product(request: Request) -> Response:
    return counted("product")


@cache_response(ttl=300, public=True)
def plain(request: Request) -> Response:
    return counted("plain")


async def special(request: Request) -> Response:
    return counted("special")


@cache_response(ttl=300)
class Endpoint(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        return counted("endpoint")


def starlette(cache: AsyncCache, **options: Any) -> Starlette:
    return Starlette(
        routes=[
            Route("/products/special", special),
            Route("/products/{id:int}", product),
            Route("/products/{id}", plain),
            Route("/plain", plain, methods=["GET", "POST"]),
            Route("/endpoint", Endpoint),
            Mount("/inside", routes=[Route("/{id}", product)]),
            Mount("/app", app=Starlette(routes=[Route("/plain", plain)])),
            Host("{sub}.example", app=Starlette(routes=[Route("/host", plain)])),
            Route("/host", special),
        ],
        middleware=[Middleware(ResponseCacheMiddleware, cache, **{"rules": [], **options})],
    )


@pytest.mark.parametrize(
    ("path", "hit"),
    [
        ("/products/7", True),
        ("/products/special", False),
        ("/products/other", True),
        ("/plain", True),
        ("/endpoint", True),
        ("/inside/5", True),
        ("/app/plain", True),
        ("/nothing", False),
    ],
)
async def test_starlette(cache: AsyncCache, path: str, hit: bool) -> None:
    """Exactly the marked endpoint that a request reaches is cached, not one that stands before it without a mark."""
    app = starlette(cache)
    replies = [await ask(app, path) for _ in range(2)]
    assert [reply.hit for reply in replies] == [False, hit]
    if not hit:
        assert {reply.cache for reply in replies} == {""}


async def test_host_routes(cache: AsyncCache) -> None:
    """Where routes depend on the host, so does what is found."""
    app = starlette(cache, host_in_key=True)
    for host, hit in (("a.example", True), ("other", False), ("a.example", True)):
        replies = [await ask(app, "/host", host=host) for _ in range(2)]
        assert replies[1].hit == hit


async def test_tags_of_the_route(cache: AsyncCache) -> None:
    """A tag has what the route says in its path."""
    app = starlette(cache)
    for _ in range(2):
        await ask(app, "/products/7")
    await cache.invalidate_tag("product:7")
    assert not (await ask(app, "/products/7")).hit


async def test_beside_headers(cache: AsyncCache) -> None:
    """Without rules, marked endpoints are cached as they say, and others by their headers."""
    app = starlette(cache, rules=None)
    assert [(await ask(app, "/plain")).hit for _ in range(2)] == [False, True]
    assert [(await ask(app, "/products/special")).hit for _ in range(2)] == [False, False]


async def test_rule_wins(cache: AsyncCache) -> None:
    """A rule for the path is stronger than the mark."""
    app = starlette(cache, rules=[Rule("/plain", invalidates=["x"])])
    assert [(await ask(app, "/plain")).cache for _ in range(2)] == ["", ""]


def fastapi(cache: AsyncCache) -> FastAPI:
    app = FastAPI()
    inner, outer = APIRouter(prefix="/inner"), APIRouter(prefix="/outer")

    @app.get("/items/{number}")
    @cache_response(ttl=300, tags=["item:{number}"])
    async def item(number: int) -> dict[str, int]:
        calls.append("item")
        return {"number": number, "call": len(calls)}

    @app.get("/late/{number}")
    @cache_response(ttl=300, public=True)
    async def late(number: int) -> dict[str, int]:
        calls.append("late")
        add_tags(f"late:{number}")
        return {"call": len(calls)}

    @inner.get("/things/first")
    async def first() -> int:
        calls.append("first")
        return len(calls)

    @inner.get("/things/{thing}")
    @cache_response(ttl=300, tags=["thing:{thing}"])
    async def thing(thing: UUID) -> int:
        calls.append("thing")
        return len(calls)

    outer.include_router(inner)
    app.include_router(outer)
    app.add_middleware(ResponseCacheMiddleware, cache, rules=[])
    return app


ID = "a1b2c3d4-0000-4000-8000-000000000001"


@pytest.mark.parametrize(
    ("path", "hit"),
    [
        ("/items/7", True),
        ("/items/007", False),
        (f"/outer/inner/things/{ID}", True),
        (f"/outer/inner/things/{ID.upper()}", False),
        ("/outer/inner/things/first", False),
        ("/inner/things/x", False),
        ("/items/x", False),
    ],
)
async def test_fastapi(cache: AsyncCache, path: str, hit: bool) -> None:
    """The same for FastAPI, with routers in routers; what may be one thing written in two ways is not stored."""
    app = fastapi(cache)
    replies = [await ask(app, path) for _ in range(2)]
    assert [reply.hit for reply in replies] == [False, hit]


async def test_add_tags(cache: AsyncCache) -> None:
    """Tags that an endpoint names while it runs are those of its answer."""
    app = fastapi(cache)
    await cache.invalidate_tag("late:1")
    await until_stored(app, "/late/1")
    await cache.invalidate_tag("late:1")
    assert not (await ask(app, "/late/1")).hit


@pytest.mark.parametrize(
    "options",
    [
        {"ttl": 0},
        {"ttl": True},
        {"ttl": "5"},
        {"ttl": 5, "tags": "x"},
    ],
)
def test_wrong_marks(options: dict[str, Any]) -> None:
    """A wrong option is said where the endpoint is defined."""
    with pytest.raises(UsageError):
        cache_response(**options)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Rule("/a"),
        lambda: Rule("a", ttl=1),
        lambda: Rule("/a", ttl=-1),
        lambda: Rule("/a", ttl=float("inf")),
        lambda: Rule("/a", soft_ttl=1),
        lambda: Rule("/a", ttl=1, tags=["{id}"]),
        lambda: Rule("/a", invalidates=["x:{id}"]),
        lambda: Rule("/a/{id", ttl=1),
        lambda: Rule("/a/{id}/{id}", ttl=1),
        lambda: Rule("/a/{id:float}", ttl=1),
        lambda: Rule("/a", ttl=1, public=True, per_user=lambda scope: None),
        lambda: Rule("/a", ttl=1, per_user="user"),  # type: ignore[arg-type]
        lambda: Rule("/a", ttl=1, vary="accept"),
        lambda: Rule("/a", ttl=1, vary=["a b"]),
        lambda: Rule("/a", ttl=1, ignore=["*x"]),
        lambda: Rule("/a", ttl=1, statuses=[206]),
    ],
)
def test_wrong_rules(wrong: Callable[[], Rule]) -> None:
    """A wrong rule is said when it is made."""
    with pytest.raises(UsageError):
        wrong()


async def test_mark_with_a_wrong_tag(cache: AsyncCache) -> None:
    """A tag that names what the route does not have is an error, not an answer that nothing invalidates."""

    @cache_response(ttl=300, tags=["x:{nothing}"])
    async def wrong(request: Request) -> Response:
        return counted("wrong")

    middleware = [Middleware(ResponseCacheMiddleware, cache, [])]
    with pytest.raises(UsageError, match="nothing"):
        await ask(Starlette(routes=[Route("/", wrong)], middleware=middleware), "/")


async def test_marks_from_outside(cache: AsyncCache) -> None:
    """Around the application, its marked endpoints are found as well."""
    app = ResponseCacheMiddleware(Starlette(routes=[Route("/plain", plain)]), cache, [])
    assert [(await ask(app, "/plain")).hit for _ in range(2)] == [False, True]


async def test_marks_inside_a_mount(cache: AsyncCache) -> None:
    """Inside of a mount it is the mount's endpoints that count, not others that have the same path further out."""
    inside = [Route("/plain", special), Route("/other", plain)]
    cached = Middleware(ResponseCacheMiddleware, cache, [])
    app = Starlette(
        routes=[
            Route("/plain", plain),
            Mount("/a", routes=inside, middleware=[cached]),
            Mount("/b", app=ResponseCacheMiddleware(Router(inside), cache, [])),
            Mount("/c", routes=[Route("/plain", special, middleware=[cached])]),
            Route("/d", plain, middleware=[cached]),
        ]
    )
    for path, hit in (
        ("/a/plain", False),
        ("/b/plain", False),
        ("/c/plain", False),
        ("/a/other", True),
        ("/b/other", True),
        ("/d", True),
    ):
        assert [(await ask(app, path)).hit for _ in range(2)] == [False, hit], path
