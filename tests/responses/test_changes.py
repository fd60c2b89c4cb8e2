"""What requests that change something invalidate."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import count
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from neverstale import AsyncCache
from neverstale.testing.servers import RedisServer
from neverstale.web.asgi import ResponseCacheMiddleware, Rule, answer_key, cache_response
from tests.behaviour.faces import until
from tests.responses.asking import Application, Ask, Reply, answer, ask
from tests.responses.conftest import Make

RULES = [
    Rule("/products/{id}", ttl=300, tags=["product:{id}"], invalidates=["product:{id}", "lists"]),
    Rule("/products", ttl=300, tags=["lists"]),
    Rule("/notes", ttl=300, invalidates_target=True),
]


def store(*headers: tuple[str, str], status: int = 200) -> Application:
    """A handler whose every answer is another, and says how changes end."""
    numbers = count(1)

    def handler(request: Ask) -> Reply:
        if request.method != "GET":
            return answer("changed", status, headers)
        return answer(f"{next(numbers)}", 200, [("cache-control", "max-age=300")])

    return Application(handler)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "M-SEARCH"])
async def test_target(make: Make, method: str) -> None:
    """Without rules, what is stored of the URL that was changed is gone before the client hears of the change."""
    site = make(store()._handler)
    assert (await ask(site.app, "/a?b=1")).body == b"1"
    await ask(site.app, "/a?b=1", method)
    assert (await ask(site.app, "/a?b=1")).body == b"2"


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE"])
async def test_safe_methods(make: Make, method: str) -> None:
    """What changes nothing invalidates nothing."""
    site = make(store()._handler)
    await ask(site.app, "/a")
    await ask(site.app, "/a", method)
    assert (await ask(site.app, "/a")).hit


@pytest.mark.parametrize("status", [400, 409, 500])
async def test_failed_change(make: Make, status: int) -> None:
    """A change that failed invalidates nothing."""
    site = make(store(status=status)._handler)
    await ask(site.app, "/a")
    await ask(site.app, "/a", "POST")
    assert (await ask(site.app, "/a")).hit


@pytest.mark.parametrize(
    ("named", "gone"),
    [
        ("/b", True),
        ("b", True),
        ("http://shop.example/b", True),
        ("https://shop.example/b", False),
        ("http://other.example/b", False),
        ("//other.example/b", False),
        ("http://[", False),
    ],
)
@pytest.mark.parametrize("header", ["location", "content-location"])
async def test_named(make: Make, header: str, named: str, gone: bool) -> None:
    """So is what the answer names as the place of what it changed, on the same host only."""
    site = make(store((header, named))._handler)
    await ask(site.app, "/b")
    await ask(site.app, "/a", "POST")
    assert (await ask(site.app, "/b")).hit != gone


async def test_rules(make: Make) -> None:
    """With rules, what a rule names is invalidated, and nothing else."""
    site = make(store()._handler, RULES)
    for url in ("/products/7", "/products/8", "/products", "/notes?x=1", "/notes"):
        await ask(site.app, url)
    await ask(site.app, "/products/7", "PUT")
    await ask(site.app, "/notes?x=1", "POST")
    hits = [url for url in ("/products/7", "/products/8", "/products", "/notes?x=1", "/notes")
            if (await ask(site.app, url)).hit]  # fmt: skip
    assert hits == ["/products/8", "/notes"]


@pytest.mark.parametrize("odd", ["007", "+7", "7.0"])
async def test_odd_numbers(make: Make, odd: str) -> None:
    """A change by an odd way to write a number invalidates what the usual one names."""
    site = make(store()._handler, RULES)
    await ask(site.app, "/products/7")
    await ask(site.app, f"/products/{odd}", "DELETE")
    assert not (await ask(site.app, "/products/7")).hit


async def test_order(make: Make) -> None:
    """The invalidation is complete before the answer to the change begins."""
    site = make(store()._handler)
    await ask(site.app, "/a")
    hit_at_start: list[bool] = []

    async def send(message: object) -> None:
        if message["type"] == "http.response.start":  # type: ignore[index]
            hit_at_start.append((await ask(site.app, "/a")).hit)

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {
        "type": "http",
        "method": "POST",
        "scheme": "http",
        "path": "/a",
        "query_string": b"",
        "headers": [(b"host", b"shop.example")],
    }
    await site.app(scope, receive, send)
    assert hit_at_start == [False]


@pytest.fixture
async def away(redis_server: RedisServer) -> AsyncIterator[AsyncCache]:
    async with AsyncCache.from_url(
        redis_server.url, namespace="web", timeout=0.1, patient_timeout=0.3
    ) as cache:
        yield cache


async def test_redis_away(
    away: AsyncCache, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Without Redis a change is still made, says so, and is invalidated as soon as Redis is back."""
    app = ResponseCacheMiddleware(store(), away, RULES)
    assert [(await ask(app, "/products/7")).hit for _ in range(2)] == [False, True]
    redis_server.freeze()
    try:
        changed = await ask(app, "/products/7", "PUT")
        assert (changed.status, changed.cache) == (200, "neverstale; fwd=method; detail=not-invalidated-yet")
        assert "not invalidated yet" in caplog.text
        assert [(await ask(app, "/products/7")).status for _ in range(3)] == [200] * 3
    finally:
        redis_server.thaw()
    await until(lambda: not app._changes.owed)
    assert not (await ask(app, "/products/7")).hit
    assert "invalidated at last" in caplog.text


async def test_redis_stays_away(
    away: AsyncCache, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """What is still owed when the application ends is logged."""
    app = ResponseCacheMiddleware(store(), away, RULES)
    redis_server.freeze()
    try:
        await ask(app, "/products/7", "PUT")
        await app._changes.close()
    finally:
        redis_server.thaw()
    assert "never invalidated: tag 'product:7', tag 'lists'" in caplog.text


async def test_cold_without_redis(away: AsyncCache, redis_server: RedisServer) -> None:
    """Without Redis every request is answered by the handler."""
    handler = store()
    app = ResponseCacheMiddleware(handler, away)
    redis_server.freeze()
    try:
        replies = await asyncio.gather(*(ask(app, f"/{number % 3}") for number in range(30)))
    finally:
        redis_server.thaw()
    assert {reply.status for reply in replies} == {200}


def _change(end: str) -> Any:
    numbers = count(1)
    state = {"value": 0}

    async def handler(request: Ask) -> Reply:
        if request.method == "GET":
            return answer(str(state["value"]), 200, [("cache-control", "max-age=300")])
        state["value"] = next(numbers)
        if end == "raises":
            raise OSError("after the commit")
        return answer("failed", int(end))

    return handler


@pytest.mark.parametrize("end", ["500", "503", "raises"])
async def test_change_that_may_have_happened(make: Make, end: str) -> None:
    """A handler that fails may have failed after its commit."""
    site = make(_change(end), [Rule("/a", ttl=300, tags=["a"], invalidates=["a"])])
    assert (await ask(site.app, "/a")).body == b"0"
    if end == "raises":
        with pytest.raises(OSError, match="after"):
            await ask(site.app, "/a", "POST")
    else:
        await ask(site.app, "/a", "POST")
    assert (await ask(site.app, "/a")).body == b"1"


async def test_change_whose_client_leaves(make: Make) -> None:
    """A request that is cancelled may have made its change."""
    state = {"value": 0}

    async def handler(request: Ask) -> Reply:
        if request.method == "GET":
            return answer(str(state["value"]))
        state["value"] = 1
        await asyncio.Event().wait()
        raise AssertionError

    site = make(handler, [Rule("/a", ttl=300, invalidates_target=True)])
    await ask(site.app, "/a")
    changing = asyncio.create_task(ask(site.app, "/a", "POST"))
    await until(lambda: state["value"])
    changing.cancel()
    await asyncio.wait([changing])
    for _ in range(200):
        if (await ask(site.app, "/a")).body == b"1":
            break
        await asyncio.sleep(0.01)
    else:
        raise AssertionError("the old answer is still served")


async def test_commit_after_the_answer(cache: AsyncCache) -> None:
    """FastAPI ends dependencies after the answer: a commit there is followed, too."""
    app = FastAPI()
    app.add_middleware(
        ResponseCacheMiddleware, cache=cache, rules=[Rule("/a", ttl=300, tags=["a"], invalidates=["a"])]
    )
    committed = {"value": 0}
    read = asyncio.Event()

    async def transaction() -> AsyncIterator[dict[str, int]]:
        pending: dict[str, int] = {}
        yield pending
        await read.wait()
        committed.update(pending)

    @app.get("/a")
    async def get() -> int:
        return committed["value"]

    @app.post("/a")
    async def post(pending: dict[str, int] = Depends(transaction)) -> str:  # noqa: B008
        pending["value"] = 1
        return "ok"

    reply = Reply()
    changing = asyncio.create_task(ask(app, "/a", "POST", reply=reply))
    await until(lambda: reply.complete)
    assert (await ask(app, "/a")).body == b"0"
    read.set()
    await changing
    assert (await ask(app, "/a")).body == b"1"


async def test_change_of_a_marked_endpoint(cache: AsyncCache) -> None:
    """Without rules, a change of a marked endpoint's URL reaches the key that its mark makes."""
    values = count()

    @cache_response(ttl=300, ignore=["utm_*"])
    async def endpoint(request: Request) -> Response:
        return PlainTextResponse(str(next(values)))

    app = Starlette(
        routes=[Route("/a", endpoint, methods=["GET", "POST"])],
        middleware=[Middleware(ResponseCacheMiddleware, cache)],
    )
    assert (await ask(app, "/a")).body == b"0"
    await ask(app, "/a?utm_source=x", "POST")
    assert (await ask(app, "/a")).body == b"2"


async def test_default_port(make: Make) -> None:
    """A host with the default port is the same host."""
    values = count()
    site = make(lambda _: answer(str(next(values)), 200, [("cache-control", "max-age=60")]))
    assert (await ask(site.app, "/a", host="shop.example:80")).body == b"0"
    assert (await ask(site.app, "/a")).body == b"0"
    await ask(site.app, "/a", "POST")
    assert (await ask(site.app, "/a", host="shop.example:80")).body == b"2"
    await site.api.invalidate_key(answer_key("http://shop.example:80/a"))
    assert (await ask(site.app, "/a")).body == b"3"


@pytest.mark.parametrize("asks", ["no-cache", "max-age=0"])
async def test_change_between_a_look_and_its_renewal(
    make: Make, monkeypatch: pytest.MonkeyPatch, asks: str
) -> None:
    """Who renews what has been invalidated since it was read does not make its variants reachable again."""
    numbers = count()
    site = make(
        lambda request: answer(f"{request.get('accept')} {next(numbers)}", 200, [("vary", "accept")]),
        [Rule("/a", ttl=300)],
    )
    for kind, wanted in (("a", b"a 0"), ("b", b"b 1")):
        assert (await ask(site.app, "/a", headers=[("accept", kind)])).body == wanted
    load = AsyncCache._load

    async def late(self: AsyncCache, *args: Any, **options: Any) -> Any:
        monkeypatch.undo()
        await site.api.invalidate_key(answer_key("/a"))
        return await load(self, *args, **options)

    monkeypatch.setattr(AsyncCache, "_load", late)
    renewed = await ask(site.app, "/a", headers=[("accept", "a"), ("cache-control", asks)])
    assert renewed.body == b"a 2"
    assert (await ask(site.app, "/a", headers=[("accept", "b")])).body == b"b 3"


async def test_renewal_keeps_variants(make: Make) -> None:
    """What is renewed without having been invalidated leaves the other variants where they are."""
    site = make(
        lambda request: answer(f"{request.get('accept')}", 200, [("vary", "accept")]), [Rule("/a", ttl=300)]
    )
    for kind in "ab":
        await ask(site.app, "/a", headers=[("accept", kind)])
    await ask(site.app, "/a", headers=[("accept", "a"), ("cache-control", "no-cache")])
    assert site.calls == 3
    assert (await ask(site.app, "/a", headers=[("accept", "b")])).hit
