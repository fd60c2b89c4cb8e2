"""What the dashboard answers, to whom."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from neverstale import AsyncCache, InvalidationEvent, UsageError
from neverstale.dashboard import Dashboard
from neverstale.testing.servers import RedisServer, frozen
from tests.behaviour.faces import until
from tests.dashboard.conftest import OURS, TOKEN, Open, log_in

FILES = ("dashboard.css", "dashboard.js", "charts.js", "icon.svg")


async def test_the_page(opened: Open) -> None:
    """On the loopback it is there without a token, with files of its own and nothing of another host."""
    client = opened()
    page = await client.get("")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert page.headers["cache-control"] == "no-store"
    for name in FILES:
        file = await client.get(name)
        assert (file.status_code, "http://" in file.text.replace("http://www.w3.org/", "")) == (200, False)
        again = await client.get(name, headers={"if-none-match": file.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    redirect = await client.get("http://localhost/cache")
    assert (redirect.status_code, redirect.headers["location"]) == (307, "/cache/")


async def test_a_policy_without_exceptions(opened: Open) -> None:
    """Every answer forbids what the page does not need: no inline script or style, no other host, no frame."""
    client = opened(TOKEN)
    for path in ("", *FILES, "api/overview", "nothing"):
        headers = (await client.get(path)).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("client", "headers"),
    [
        (("10.0.0.9", 1), {}),
        (("127.0.0.1", 1), {"x-forwarded-for": "127.0.0.1"}),
        (("127.0.0.1", 1), {"host": "evil.example"}),
        (None, {}),
    ],
)
async def test_without_a_token_only_this_machine(opened: Open, client: Any, headers: dict[str, str]) -> None:
    """Everybody else gets neither the page nor a figure."""
    stranger = opened(client=client, headers=headers)
    for path in ("", "api/overview", "api/look?key=k"):
        answer = await stranger.get(path)
        assert answer.status_code == 403
        assert "for this machine" in answer.text


async def test_without_a_token_nothing_can_be_done(opened: Open, cache: AsyncCache) -> None:
    """Not even from this machine, by its own page."""
    await cache.set("k", "v")
    client = opened()
    for path in ("login", "logout", "api/invalidate"):
        answer = await client.post(path, json={"kind": "key", "name": "k"}, headers=OURS)
        assert answer.status_code == 403
    assert (await client.get("api/overview")).json()["acts"] is False
    assert await cache.get("k") == "v"


async def test_with_a_token_one_logs_in(opened: Open) -> None:
    """Also on this machine; then a cookie opens, which no script can read and no other site sends."""
    for where in (("127.0.0.1", 1), ("10.0.0.9", 1)):
        client = opened(TOKEN, client=where)
        door = await client.get("")
        assert 'type="password"' in door.text
        assert (await client.get("api/overview")).status_code == 401
        wrong = await client.post("login", data={"token": "not the token at all"}, headers=OURS)
        assert (wrong.status_code, "not the token" in wrong.text) == (403, True)
        assert "set-cookie" not in wrong.headers
        right = await client.post("login", data={"token": TOKEN}, headers=OURS)
        assert (right.status_code, right.headers["location"]) == (303, "/cache/")
        cookie = right.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert "Path=/cache" in cookie
        assert "Secure" not in cookie
        assert TOKEN not in cookie
        assert 'id="tile-hits"' in (await client.get("")).text
        assert (await client.get("api/overview")).json()["acts"] is True


async def test_over_tls_the_cookie_is_sent_over_tls_alone(opened: Open) -> None:
    """Behind a proxy that speaks it, too."""
    client = opened(TOKEN, headers={"x-forwarded-proto": "https"})
    answer = await client.post("login", data={"token": TOKEN}, headers=OURS)
    assert "; Secure" in answer.headers["set-cookie"]


@pytest.mark.parametrize("headers", [{}, {"sec-fetch-site": "cross-site"}, {"origin": "http://evil.example"}])
async def test_a_log_in_cannot_be_forged(opened: Open, headers: dict[str, str]) -> None:
    """A page elsewhere cannot log somebody in."""
    client = opened(TOKEN)
    answer = await client.post("login", data={"token": TOKEN}, headers=headers)
    assert (answer.status_code, "set-cookie" in answer.headers) == (403, False)


async def test_an_action_cannot_be_forged(opened: Open, cache: AsyncCache) -> None:
    """It needs the cookie, the browser's word, and what only the page knows: of each alone there is not enough."""
    await cache.set("k", "v")
    client = opened(TOKEN)
    acting = await log_in(client)
    order = {"kind": "key", "name": "k"}
    for headers in (
        {},
        OURS,
        {"x-forgery-token": acting["x-forgery-token"]},
        {**acting, "sec-fetch-site": "cross-site"},
        {**acting, "x-forgery-token": "0" * 64},
    ):
        assert (await client.post("api/invalidate", json=order, headers=headers)).status_code == 403
    stranger = opened(TOKEN)
    assert (await stranger.post("api/invalidate", json=order, headers=acting)).status_code == 401
    assert (await stranger.get("api/invalidate?kind=key&name=k")).status_code == 401
    assert await cache.get("k") == "v"
    assert (await client.post("api/invalidate", json=order, headers=acting)).status_code == 200
    assert await cache.get("k") is None


async def test_logging_out(opened: Open) -> None:
    """The cookie is taken away."""
    client = opened(TOKEN)
    acting = await log_in(client)
    assert (await client.post("logout", headers=OURS)).status_code == 403
    assert (await client.post("logout", headers=acting)).status_code == 204
    assert (await client.get("api/overview")).status_code == 401


async def test_overview(opened: Open, cache: AsyncCache, redis_server: RedisServer) -> None:
    """The figures of all that report, by prefix, with what is hot and how the nodes are."""
    api = cache.with_prefix("api:")
    async with cache.reporting():
        for turn in range(400):
            await api.get_or_load("hot", lambda: 1, tags=["t"])
            if turn % 4 == 0:
                await cache.get("nothing")
    seen = (await opened().get("api/overview?seconds=900")).json()
    assert [(each["prefix"], each["reads"]) for each in seen["prefixes"]] == [("api:", 400), ("", 100)]
    assert seen["prefixes"][0]["hit_rate"] == pytest.approx(399 / 400, abs=1e-5)
    assert seen["now"]["rate"] > 10
    assert seen["minute"]["redis_p99"] > 0
    assert (seen["keys"][0]["name"], seen["tags"][0]["name"]) == ("api:hot", "t")
    (node,) = seen["nodes"]
    assert (node["node"], node["error"]) == (f"127.0.0.1:{redis_server.port}", "")
    assert sum(len(span["by"]) > 0 for span in seen["spans"]) <= 2
    assert (seen["namespace"], seen["acts"]) == ("shop", False)


async def test_who_looks_together_asks_once(
    opened: Open, cache: AsyncCache, redis_server: RedisServer
) -> None:
    """Several at the same moment share what Redis was asked."""
    client = opened()
    await client.get("api/overview")
    stats = redis_server.client().info("commandstats")
    before = stats["cmdstat_hgetall"]["calls"]
    for _ in range(3):
        await client.get("api/overview")
    after = redis_server.client().info("commandstats")["cmdstat_hgetall"]["calls"]
    assert after - before <= 2 * 31  # one more at most, where a second has passed


async def test_redis_away(opened: Open, cache: AsyncCache, redis_server: RedisServer) -> None:
    """The page says so, with what is known, and is no error itself."""
    async with AsyncCache.from_url(redis_server.url, timeout=0.05, patient_timeout=0.1) as hasty:
        transport = httpx.ASGITransport(Dashboard(hasty), client=("127.0.0.1", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            with frozen(redis_server):
                answer = await client.get("/api/overview")
                looked = await client.get("/api/look?key=k")
    seen = answer.json()
    assert (answer.status_code, looked.status_code) == (200, 503)
    assert "Timeout" in seen["error"]
    assert seen["nodes"][0]["error"]


async def test_invalidations_are_shown(opened: Open, cache: AsyncCache, redis_server: RedisServer) -> None:
    """Those of this process and of others, once each, with their reason; of sessions not which."""
    client = opened()
    seen: list[dict[str, Any]] = []

    async def look() -> bool:
        seen[:] = (await client.get("api/overview")).json()["events"]
        return True

    await look()
    heard: list[InvalidationEvent] = []
    async with (
        AsyncCache.from_url(redis_server.url, namespace="shop", timeout=10.0, patient_timeout=10.0) as other,
        cache.listen(),
    ):
        cache.events.subscribe(heard.append, InvalidationEvent)
        channel = cache._shared.announcer.channel
        asked = redis_server.client()
        await until(lambda: asked.pubsub_numsub(channel)[0][1] >= 2)
        await other.invalidate_tag("products", reason="a product was updated")
        await cache.with_prefix("api:").invalidate_key("k", reason="by hand")
        await cache.with_prefix("session:").invalidate_key("secret")
        await until(lambda: len(heard) == 3)
    while len(seen) < 3:
        await look()
    await look()
    by_kind = {(each["kind"], *each["names"]): each["reason"] for each in seen}
    assert len(seen) == 3
    assert by_kind == {
        ("tag", "products"): "a product was updated",
        ("key", "api:k"): "by hand",
        ("key", "session:…"): "",
    }


async def test_invalidations_before_the_first_look(cache: AsyncCache, redis_server: RedisServer) -> None:
    """An application that listens from its start has them for who comes later."""
    dashboard = Dashboard(cache)
    async with (
        dashboard.listening(),
        AsyncCache.from_url(redis_server.url, namespace="shop", timeout=10.0, patient_timeout=10.0) as other,
    ):
        await other.invalidate_tag("products")
        await until(lambda: dashboard._feed._kept)
    assert [each["names"] for each in dashboard._feed._kept.values()] == [["products"]]


async def test_looking_up(opened: Open, cache: AsyncCache) -> None:
    """An entry is shown with its tags and its value."""
    await cache.with_prefix("api:").get_or_load("k", lambda: {"n": [1]}, tags=["t"])
    client = opened()
    found = (await client.get("api/look", params={"key": "api:k"})).json()
    assert (found["state"], found["served"], found["value"]) == ("fresh", True, {"n": [1]})
    assert found["tags"] == [{"tag": "t", "state": "valid"}]
    assert 0 < found["ttl_ms"] <= 3_600_000
    absent = (await client.get("api/look", params={"key": "api:other"})).json()
    assert (absent["state"], absent["served"]) == ("absent", False)
    assert (await client.get("api/look")).status_code == 400


async def test_values_of_sessions_are_never_shown(opened: Open, cache: AsyncCache) -> None:
    """Whatever they are, and to whomever."""
    sessions = cache.with_prefix("session:")
    await sessions.set("text", "secret!")
    await sessions.set_json("json", {"digest": "d", "family": "f", "expires_at": 1, "note": "secret!"})
    client = opened(TOKEN)
    await log_in(client)
    for key in ("session:text", "session:json"):
        answer = await client.get("api/look", params={"key": key})
        assert (answer.json()["there"], "secret!" in answer.text) == (True, False)


@pytest.mark.parametrize(
    ("order", "gone"),
    [
        ({"kind": "key", "name": "api:a"}, {"api:a"}),
        ({"kind": "pattern", "name": "api:*"}, {"api:a", "api:b"}),
        ({"kind": "tag", "name": "t", "reason": "it was wrong"}, {"api:b", "c"}),
    ],
)
async def test_invalidating(opened: Open, cache: AsyncCache, order: dict[str, Any], gone: set[str]) -> None:
    """By key, pattern and tag; the others stay, and whoever listens hears why."""
    heard: list[InvalidationEvent] = []
    cache.events.subscribe(heard.append, InvalidationEvent)
    for key, tags in (("api:a", []), ("api:b", ["t"]), ("c", ["t"]), ("d", [])):
        await cache.set(key, "v", tags=tags)
    client = opened(TOKEN)
    answer = await client.post("api/invalidate", json=order, headers=await log_in(client))
    assert answer.json()["removed"] == len(gone)
    assert {key for key in ("api:a", "api:b", "c", "d") if await cache.get(key) is None} == gone
    seen = (await client.get("api/overview?seconds=900")).json()
    assert seen["minute"]["invalidations"] == 1, "though this process does not report"
    reason = order.get("reason")
    assert [event.reason for event in heard] == [f"dashboard: {reason}" if reason else "dashboard"]


@pytest.mark.parametrize("order", [{"kind": "pattern", "name": "k*"}, {"kind": "tag", "name": "t"}])
async def test_more_than_a_thousand_are_asked_about(
    opened: Open, cache: AsyncCache, order: dict[str, Any]
) -> None:
    """Nothing is done until somebody has seen how many it is; what has become twice as much is asked about again."""
    await cache.set_many({f"k{number}": "v" for number in range(2100)}, tags=["t"])
    client = opened(TOKEN)
    headers = await log_in(client)
    for confirmed in (0, 5, 1040):
        asked = await client.post("api/invalidate", json={**order, "confirmed": confirmed}, headers=headers)
        assert (asked.status_code, asked.json()) == (200, {"asks": 2100})
    assert await cache.get("k7") == "v"
    done = await client.post("api/invalidate", json={**order, "confirmed": 2100}, headers=headers)
    assert (done.status_code, done.json()["removed"]) == (200, 2100)


async def test_softly(opened: Open, cache: AsyncCache) -> None:
    """A tag that is marked stale is served once more."""
    await cache.get_or_load("k", lambda: 1, tags=["t"])
    client = opened(TOKEN)
    order = {"kind": "tag", "name": "t", "soft": True}
    answer = await client.post("api/invalidate", json=order, headers=await log_in(client))
    assert answer.json()["soft"] is True
    assert (await client.get("api/look", params={"key": "k"})).json()["state"] == "stale"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'{"kind":"all","name":"k"}',
        b'{"kind":1,"name":"k"}',
        b'{"kind":"key"}',
        b'{"kind":"key","name":""}',
        b'{"kind":"pattern","name":""}',
        b'{"kind":"tag","name":""}',
    ],
)
async def test_what_is_no_order(opened: Open, body: bytes) -> None:
    """It is refused with a word of what is wrong."""
    client = opened(TOKEN)
    answer = await client.post("api/invalidate", content=body, headers=await log_in(client))
    assert (answer.status_code, bool(answer.json()["error"])) == (400, True)


async def test_other_requests(opened: Open) -> None:
    """A wrong method, a wrong path and too much of a body are told so; HEAD has no body."""
    client = opened()
    assert (await client.put("")).status_code == 405
    assert (await client.get("../etc/passwd")).status_code == 404
    assert (await client.get("index.html")).status_code == 404
    head = await client.head("")
    assert (head.status_code, head.content) == (200, b"")
    full = opened(TOKEN)
    assert (await full.post("login", content=b"x" * 70_000, headers=OURS)).status_code == 413


async def test_lifespan_and_websockets(cache: AsyncCache) -> None:
    """Served by itself it starts and stops as an application does; a websocket is closed."""
    sent: list[str] = []
    coming = iter(["lifespan.startup", "lifespan.shutdown", "websocket.connect"])

    async def receive() -> dict[str, str]:
        return {"type": next(coming)}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    dashboard = Dashboard(cache)
    await dashboard({"type": "lifespan"}, receive, send)
    await dashboard({"type": "websocket"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete", "websocket.close"]


async def test_a_short_token_is_refused(redis_server: RedisServer) -> None:
    """An application does not start with it."""
    async with AsyncCache.from_url(redis_server.url) as cache:
        with pytest.raises(UsageError, match="at least 16"):
            Dashboard(cache, token="short")
