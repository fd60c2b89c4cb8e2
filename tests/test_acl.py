"""The ACL of docs/production.md is what an application needs: all caches work under it, and nothing of it is idle."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from neverstale import AsyncCache, Cache, InvalidationEvent, add_tags
from neverstale.computed import AsyncComputed, Computed
from neverstale.dashboard import Dashboard
from neverstale.sessions import AsyncSessions, Sessions
from neverstale.testing.servers import RedisCluster, RedisServer, Server, binaries
from neverstale.warm import RedisPosition
from neverstale.web.asgi import ResponseCacheMiddleware, Rule

PAGE = Path(__file__).resolve().parent.parent / "docs" / "production.md"
#: What is needed on a cluster only, and only while slots move.
OF_CLUSTERS = {"cluster|info", "cluster|nodes", "cluster|slots", "command", "asking"}
#: A URL with a database; processes that have been gone for a minute are taken out of the statistics.
SELDOM = {"select", "hdel", "zrem"}


def said() -> list[str]:
    """Return the words of the command on the page."""
    (found,) = re.findall(r"^```text\n(ACL SETUSER shop .*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return str(found).replace("\\\n", " ").replace("PASSWORD", "secret").split()


def allowed() -> set[str]:
    return {word[1:] for word in said() if word.startswith("+")}


@pytest.fixture(params=[f"{name}{kind}" for name in ("redis", "valkey") for kind in ("", "-cluster")])
def guarded(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of its own with the user of the page."""
    name, _, kind = request.param.partition("-")
    if name not in binaries():
        pytest.skip(f"no {name} server on this machine")
    start = RedisCluster.start if kind else RedisServer.start
    with start(binaries()[name]) as server:
        for node in server.nodes:
            node.client().execute_command(*said())
            node.client().execute_command("CONFIG", "RESETSTAT")
        yield server


@pytest.fixture
def url(guarded: Server) -> str:
    return guarded.url.replace("redis://", "redis://shop:secret@")


async def everything(url: str) -> None:
    """Do whatever an application does with its caches, on an event loop."""
    async with AsyncExitStack() as stack:
        cache = await stack.enter_async_context(
            AsyncCache.from_url(url, namespace="shop", wait_limit=0.2, timeout=10.0, patient_timeout=10.0)
        )
        await stack.enter_async_context(cache.reporting())
        other = await stack.enter_async_context(
            AsyncCache.from_url(url, namespace="shop", timeout=10.0, patient_timeout=10.0)
        )
        heard = asyncio.Event()
        other.events.subscribe(lambda _: heard.set(), InvalidationEvent)
        await stack.enter_async_context(other.listen())
        products = cache.with_prefix("product:")
        for _ in range(200):  # enough for the sample of what is asked for most
            assert await products.get_or_load("7", load, ttl=60, tags=["product:7"]) == 7
        await products.set("8", "x", tags=["product:8"])
        await products.set_many({"9": "x", "10": "y"})
        assert await products.get_many(["9", "10"]) == {"9": "x", "10": "y"}
        for _ in range(2):  # what names its tags itself is stored from the second time on
            assert await products.get_or_load("11", named) == 7
        assert (await products.invalidate_tag("product:8", soft=True)).status == "applied"
        assert (await products.invalidate_tags("product:7", "named")).removed == 2
        assert (await products.invalidate_keys("9", "10")).removed == 2
        assert (await products.invalidate_pattern("*")).status == "applied"
        await heard.wait()
        computed = AsyncComputed(cache)
        assert await computed.memoize("k", load, 60, soft_ttl=30, stale_if_error=60) == 7
        await use_sessions(AsyncSessions(cache, type=dict[str, Any]))
        await answers(cache)
        await look_and_act(cache)
        position = RedisPosition(cache)
        await position.add(["a"])
        assert await position.load() == {"a"}
        await position.clear()
        assert (await cache.health()).redis == "ok"
        assert all(node.up for node in await cache.nodes())
        await cache.totals(), await cache.series(), await cache.hottest(), await cache.hottest_tags()
        assert (await cache.clear()).status == "applied"


async def load() -> int:
    return 7


async def named() -> int:
    add_tags("named")
    return 7


async def use_sessions(sessions: AsyncSessions[dict[str, Any]]) -> None:
    issued = await sessions.log_in(None, "ada", {"n": 1})
    await sessions.update(issued.id, lambda data: {**data, "n": 2})
    rotated = await sessions.rotate(issued.id)
    assert rotated is not None
    assert await sessions.get(rotated.id) == {"n": 2}
    assert len(await sessions.of_user("ada")) == 1
    await sessions.destroy(rotated.id)
    await sessions.destroy_all("ada")


async def look_and_act(cache: AsyncCache) -> None:
    """Use the dashboard."""
    token = "t" * 32
    transport = httpx.ASGITransport(Dashboard(cache, token=token))
    headers = {"sec-fetch-site": "same-origin"}
    async with httpx.AsyncClient(transport=transport, base_url="http://shop", headers=headers) as client:
        await client.post("/login", data={"token": token})
        seen = (await client.get("/api/overview")).json()
        assert "error" not in seen
        assert (await client.get("/api/look", params={"key": "product:7"})).status_code == 200
        for order in ({"kind": "tag", "name": "one"}, {"kind": "pattern", "name": "product:*"}):
            headers = {"x-forgery-token": seen["forgery_token"]}
            assert (await client.post("/api/invalidate", json=order, headers=headers)).status_code == 200


async def answers(cache: AsyncCache) -> None:
    """Ask a cached route twice."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})

    statuses: list[bytes] = []

    async def send(message: Any) -> None:
        statuses.extend(value for name, value in message.get("headers", ()) if name == b"cache-status")

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    middleware = ResponseCacheMiddleware(app, cache, [Rule("/hello", ttl=60, tags=["hello"], public=True)])
    scope = {"type": "http", "method": "GET", "path": "/hello", "query_string": b"", "headers": []}
    for _ in range(2):
        await middleware(dict(scope), receive, send)
    assert b"hit" in statuses[-1]


def everything_on_threads(url: str) -> None:
    """The same, shorter, on threads: what they send differs in a few commands."""
    with (
        Cache.from_url(url, namespace="shop", timeout=10.0, patient_timeout=10.0) as cache,
        cache.listen(),
        cache.reporting(),
    ):
        assert cache.get_or_load("1", lambda: 1, tags=["one"]) == 1
        cache.set_many({"2": "x", "3": "y"})
        assert cache.get_many(["2", "3"]) == {"2": "x", "3": "y"}
        assert cache.invalidate_tag("one").removed == 1
        assert cache.invalidate_pattern("*").removed == 2
        assert Computed(cache).memoize("k", lambda: 1, 60) == 1
        sessions = Sessions(cache, type=dict[str, Any])
        issued = sessions.log_in(None, "bob", {})
        assert sessions.rotate(issued.id) is not None
        sessions.destroy_all("bob")
        assert cache.health().redis == "ok"
        assert cache.totals().processes >= 0


async def test_all_caches_work_under_it(guarded: Server, url: str) -> None:
    """No command of any cache is refused, and none that is allowed is unused."""
    await everything(url)
    await asyncio.to_thread(everything_on_threads, url)
    used = set()
    for node in guarded.nodes:
        assert [entry["object"] for entry in node.client().execute_command("ACL LOG")] == []
        for name in node.client().info("commandstats"):
            used.add(name.removeprefix("cmdstat_"))
    idle = SELDOM | ({"asking", "mget"} if guarded.is_cluster else OF_CLUSTERS)
    assert allowed() - used - idle == set()


async def test_nothing_else_can_be_done(guarded: Server, url: str) -> None:
    """Keys and channels of others, and what could stop or empty the server, are out of reach."""
    async with AsyncCache.from_url(url, namespace="other", timeout=10.0, patient_timeout=10.0) as other:
        assert await other.get_or_load("1", load) == 7  # a load, and nothing stored
        assert other.stats()[""].fills == 0
    node = guarded.nodes[0].client()
    for words in (
        ("FLUSHALL",), ("KEYS", "*"), ("CONFIG", "GET", "*"), ("SHUTDOWN",), ("ACL", "LIST"), ("DEBUG", "SLEEP", "1"),
        ("GET", "other:v1:1"), ("PUBLISH", "other", "x"), ("DEL", "shop:v1:1"), ("MONITOR",),
    ):  # fmt: skip
        assert node.execute_command("ACL", "DRYRUN", "shop", *words) != b"OK"
