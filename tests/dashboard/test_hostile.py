"""What somebody has planted in Redis, or asks for in a strange way, breaks nothing and is shown as what it is."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Mount

from neverstale import AsyncCache, InvalidationEvent
from neverstale.codecs import JSON
from neverstale.core.entry import FILL_ID_BYTES, build
from neverstale.dashboard import Dashboard
from neverstale.hot import HotKey
from neverstale.testing.servers import RedisServer
from tests.dashboard.conftest import OURS, TOKEN, Open, log_in, mounted


def planted(payload: bytes) -> bytes:
    """Return an entry that holds some JSON."""
    return build(
        codec=JSON,
        compression=0,
        fill_id=bytes(FILL_ID_BYTES),
        soft_at=0,
        cost=0,
        stamps=(),
        payload=payload,
    )


@pytest.mark.parametrize("depth", [90, 400, 900, 5000])
async def test_a_value_of_many_levels(opened: Open, redis_server: RedisServer, depth: int) -> None:
    """It is shown, or said to be too deep: no value makes an error of the page."""
    redis_server.client().set("shop:v1:deep", planted(b"[" * depth + b"]" * depth), ex=60)
    answer = await opened().get("api/look", params={"key": "deep"})
    assert answer.status_code == 200
    assert bool(answer.json()["hidden"]) is (depth > 100)


async def test_a_large_value_is_cut(opened: Open, cache: AsyncCache) -> None:
    """A page shows some pages of text, not megabytes of it."""
    await cache.set("text", "<b>" * 500_000)
    await cache.set_json("list", [{"name": "x" * 100}] * 10_000)
    client = opened()
    for key in ("text", "list"):
        answer = await client.get("api/look", params={"key": key})
        assert len(answer.content) < 100_000
        assert answer.json()["value_length"] > 1_000_000


async def test_an_event_of_any_length_is_kept_short(opened: Open, cache: AsyncCache) -> None:
    """Whoever may publish decides what is in an event, and two hundred of them are kept."""
    client = opened()
    await client.get("api/overview")
    huge = "x" * 1_000_000
    for number in range(3):
        cache.events.tell(
            InvalidationEvent(
                "key", (huge,) * 50, number, "applied", 0.1, f"{huge}/1-a", reason=huge, prefix="p:"
            )
        )
    answer = await client.get("api/overview")
    assert len(answer.json()["events"]) == 3
    assert len(answer.content) < 100_000


async def test_foreign_figures_are_left_out(
    opened: Open, cache: AsyncCache, redis_server: RedisServer
) -> None:
    """What is in the figures' keys and is none of ours does not take the page away."""
    client = redis_server.client()
    head = "shop:cache:{shop:stats}:"
    now = int(time.time())
    mapping: dict[Any, str] = {
        "hits:api:": "7",
        "hits:bad:": "many",
        "redis_times.x:bad:": "1",
        "redis_times.-1:bad:": "1",
        b"\xff\xfe:\xff": "1",
    }
    client.hset(f"{head}totals:v1", mapping=mapping)
    client.expire(f"{head}totals:v1", 60)
    for minute in (now // 60, now // 60 + 1):
        client.zadd(f"{head}keys:v1:{minute}", {"garbage": 1e9, "x:y": 1e8, "-5:abc": 1e7, "4:api:k": 1})
        client.expire(f"{head}keys:v1:{minute}", 60)
    answer = await opened().get("api/overview")
    assert answer.status_code == 200
    assert [each["prefix"] for each in answer.json()["prefixes"]] == ["api:"]
    assert [each["name"] for each in answer.json()["keys"]] == ["api:k"]
    assert [HotKey(each.prefix, each.key, 0) for each in await cache.hottest(5)] == [HotKey("api:", "k", 0)]


async def test_one_name_of_two_views_is_one_row(opened: Open, redis_server: RedisServer) -> None:
    """`api:` and `k` is the same entry as no prefix and `api:k`."""
    client, now = redis_server.client(), int(time.time())
    for minute in (now // 60, now // 60 + 1):
        key = f"shop:cache:{{shop:stats}}:keys:v1:{minute}"
        client.zadd(key, {"4:api:k": 100, "0:api:k": 50})
        client.expire(key, 60)
    keys = (await opened().get("api/overview")).json()["keys"]
    assert [each["name"] for each in keys] == ["api:k"]


async def test_a_site_that_may_ask_the_application_may_not_read_this(cache: AsyncCache) -> None:
    """An application that lets all origins read it does not let a page elsewhere read its cache from your machine."""
    inner = Starlette(routes=[Mount("/cache", Dashboard(cache))])
    app = CORSMiddleware(inner, allow_origins=["*"])
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 5000))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for headers in (
            {"origin": "https://evil.example", "sec-fetch-site": "cross-site"},
            {"origin": "http://other.localhost", "sec-fetch-site": "same-site"},
            {"origin": "https://evil.example"},
            {"origin": "null"},
        ):
            for path in ("/cache/api/overview", "/cache/api/look?key=k"):
                answer = await client.get(path, headers=headers)
                assert (answer.status_code, "namespace" in answer.text) == (403, False)
        for good in ({"sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"}, {}):
            assert (await client.get("/cache/api/overview", headers=good)).status_code == 200


@pytest.mark.parametrize("stripped", [False, True])
async def test_below_a_root_path(cache: AsyncCache, stripped: bool) -> None:
    """A proxy that gives an application a path of its own, whether it takes it away from the request or not."""
    app = FastAPI()
    app.mount("/cache", Dashboard(cache, TOKEN))
    transport = httpx.ASGITransport(mounted(app, "/tools"), client=("10.0.0.9", 1))
    seen = "" if stripped else "/tools"
    async with httpx.AsyncClient(transport=transport, base_url=f"http://shop.example{seen}") as client:
        right = await client.post("/cache/login", data={"token": TOKEN}, headers=OURS)
        assert (right.status_code, right.headers.get("location")) == (303, "/tools/cache/")
        assert "Path=/tools/cache;" in right.headers["set-cookie"]
        cookie = right.headers["set-cookie"].partition(";")[0]
        page = await client.get("/cache/", headers={"cookie": cookie})
        assert 'id="tile-hits"' in page.text


async def raw(app: Any, **scope: Any) -> tuple[int, dict[str, str]]:
    """Ask for something that no client would ask for."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    known = {
        "type": "http",
        "method": "GET",
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 1),
    }
    await app({**known, **scope}, receive, send)
    return sent[0]["status"], {name.decode(): value.decode() for name, value in sent[0]["headers"]}


@pytest.mark.parametrize(
    ("root", "expected"),
    [
        ("/a\r\nset-cookie: x=1", "/a%0D%0Aset-cookie%3A%20x%3D1/"),
        ("/\\evil.example", "/%5Cevil.example/"),
        ("/\u4e2d", "/%E4%B8%AD/"),
        ("//evil.example", "/evil.example/"),
        ("/cache/", "/cache/"),
        ("", "/"),
    ],
)
async def test_a_path_is_no_header(cache: AsyncCache, root: str, expected: str) -> None:
    """Below a path with a part that is chosen by whoever asks, it is written as an address is."""
    status, headers = await raw(Dashboard(cache), root_path=root, path=root.rstrip("/"))
    assert (status, headers["location"]) == (307, expected)


async def test_http_1_0_comes_from_a_proxy(cache: AsyncCache) -> None:
    """nginx, unless told otherwise, asks with HTTP/1.0, by the name `localhost`, without a word for whom."""
    dashboard = Dashboard(cache)
    assert (await raw(dashboard, path="/", http_version="1.1"))[0] == 200
    assert (await raw(dashboard, path="/", http_version="1.0"))[0] == 403


async def test_a_token_from_a_file(cache: AsyncCache) -> None:
    """It ends with a line break, which nobody types."""
    transport = httpx.ASGITransport(Dashboard(cache, f"{TOKEN}\n"))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        answer = await client.post("/login", data={"token": TOKEN}, headers=OURS)
        assert answer.status_code == 303


async def test_a_cookie_of_a_neighbour_does_not_log_out(opened: Open) -> None:
    """Another host of the domain may set a cookie of our name for all of them, and browsers may send it first."""
    client = opened(TOKEN)
    await log_in(client)
    cookie = f"neverstale_dashboard={client.cookies['neverstale_dashboard']}"
    client.cookies.clear()
    for header in (f"neverstale_dashboard=planted; {cookie}", f"{cookie}; neverstale_dashboard=planted"):
        assert (await client.get("api/overview", headers={"cookie": header})).status_code == 200


async def test_names_of_any_kind(opened: Open, cache: AsyncCache) -> None:
    """Control characters, markup and reversed writing are data."""
    name = "<img src=x onerror=alert(1)>\x1b[2J\u202etxt\x00"
    await cache.set_json(name, {"html": "</script>"}, tags=[name])
    answer = await opened().get("api/look", params={"key": name})
    assert answer.headers["content-type"] == "application/json"
    assert json.loads(answer.content)["key"] == name
