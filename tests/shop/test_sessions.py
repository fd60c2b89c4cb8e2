"""Log-ins in the shop: in its database, with the cache aside, and ended at once in every process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
from sqlalchemy import event

from neverstale.testing.servers import RedisServer, binaries, frozen, wait_until
from shop.app import create_app
from shop.settings import Settings
from shop.state import Shop
from tests.behaviour.faces import until
from tests.shop.running import ADMIN, RunningShop

PERSON = {"name": "Ada Test", "password": "correct horse"}


class Here:
    """A shop in this process, whose statements and counters can be looked at."""

    def __init__(self, shop: Shop, client: httpx.AsyncClient) -> None:
        self.shop = shop
        self.client = client
        self.statements: list[str] = []
        event.listen(
            shop.db.engine.sync_engine,
            "before_cursor_execute",
            lambda *given: self.statements.append(given[2]),
        )

    async def me(self) -> tuple[int, int, int]:
        """Ask who is logged in; returns how many hits, misses and statements about sessions that took."""
        assert self.shop.catalog.cache is not None
        before = self.shop.catalog.cache.stats()["session:"]
        self.statements.clear()
        assert (await self.client.get("/api/me")).status_code == 200
        after = self.shop.catalog.cache.stats()["session:"]
        about = sum("sessions" in each for each in self.statements)
        return after.hits - before.hits, after.misses - before.misses, about


@pytest.fixture
async def here(new_database: Callable[[str], str], redis_server: RedisServer) -> AsyncIterator[Here]:
    url = new_database("sqlite")
    settings = Settings(
        database_url=url,
        redis_url=redis_server.url,
        admin_password=ADMIN["password"],
        namespace="sessions-here",
    )
    app = create_app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as client,
    ):
        assert (await client.post("/api/login", json=ADMIN)).status_code == 200
        yield Here(app.state.shop, client)


async def test_the_second_request_is_a_hit(here: Here, redis_server: RedisServer) -> None:
    """One request asks the database, the next ones do not; neither do they after Redis has lost everything."""
    for _ in range(2):
        hits, misses, statements = await here.me()
        assert (hits, misses) == (0, 1)
        assert statements > 0
        assert await here.me() == (1, 0, 0)
        assert await here.me() == (1, 0, 0)
        redis_server.flush()


async def test_what_redis_holds(here: Here, redis_server: RedisServer) -> None:
    """No id, and nothing that opens a session: not in entries, tags, nor in what the processes report of themselves."""
    await here.me()
    token = here.client.cookies["shop_session"].encode()
    await until(lambda: b":stats}:totals" in b" ".join(redis_server.keys()))
    keys = redis_server.keys()
    assert any(b":session:" in key for key in keys)
    for key in keys:
        assert token not in key
        assert token not in b" ".join(held(redis_server, key))


def held(server: RedisServer, key: bytes) -> list[bytes]:
    """Return all that stands under a key, of whatever type; nothing if its time has ended meanwhile."""
    redis: Any = server.client()
    read: dict[bytes, Callable[[], list[bytes]]] = {
        b"none": list,
        b"string": lambda: [redis.get(key) or b""],
        b"set": lambda: list(redis.smembers(key)),
        b"zset": lambda: redis.zrange(key, 0, -1),
        b"hash": lambda: [part for pair in redis.hgetall(key).items() for part in pair],
    }
    return read[redis.type(key)]()


def log_in(shop: RunningShop, email: str, device: str = "") -> httpx.Client:
    client = shop.client()
    client.headers["user-agent"] = device or "python-httpx"
    body = {"email": email, "password": PERSON["password"]}
    assert client.post("/api/login", json=body).status_code == 200
    return client


def person(shop: RunningShop, email: str) -> httpx.Client:
    client = shop.client()
    assert client.post("/api/register", json={**PERSON, "email": email}).status_code == 201
    assert client.get("/api/me").status_code == 200
    return client


async def test_the_cookie_by_https(here: Here) -> None:
    """No other host can set it, and it is never sent in clear; the one by http is another."""
    secure = "https://shop"
    assert (await here.client.get(f"{secure}/api/me")).status_code == 401
    said = (await here.client.post(f"{secure}/api/login", json=ADMIN)).headers["set-cookie"]
    assert said.startswith("__Host-shop_session=")
    assert {"Path=/", "Secure", "HttpOnly", "SameSite=lax"} < set(said.split("; "))
    assert "Domain" not in said
    assert (await here.client.get(f"{secure}/api/me")).status_code == 200
    gone = (await here.client.post(f"{secure}/api/logout")).headers["set-cookie"]
    assert gone.startswith('__Host-shop_session="";')
    assert {"Max-Age=0", "Path=/", "Secure"} < set(gone.split("; "))
    assert (await here.client.get(f"{secure}/api/me")).status_code == 401
    assert (await here.client.get("/api/me")).status_code == 200


def test_sessions_are_listed_and_ended(shop: RunningShop) -> None:
    """By their owner, one or all others; what is ended is refused with the next request."""
    email = f"list{shop.port}@example.org"
    here = person(shop, email)
    phone, pad, desk = (log_in(shop, email, each) for each in ("phone", "pad", "desk"))
    for each in (phone, pad, desk):
        assert each.get("/api/me").status_code == 200
    found = here.get("/api/sessions").json()
    assert [each["current"] for each in found] == [True, False, False, False]
    ids = {each["device"]: each["id"] for each in found}
    assert {len(each) for each in ids.values()} == {16}
    stranger = person(shop, f"stranger{shop.port}@example.org")
    assert stranger.delete(f"/api/sessions/{ids['phone']}").status_code == 404
    assert phone.get("/api/me").status_code == 200
    assert here.delete(f"/api/sessions/{ids['phone']}").status_code == 204
    assert here.delete(f"/api/sessions/{ids['phone']}").status_code == 404
    assert [each.get("/api/me").status_code for each in (phone, pad, desk)] == [401, 200, 200]
    assert here.delete("/api/sessions").json() == {"ended": 2}
    assert [each.get("/api/me").status_code for each in (pad, desk, here)] == [401, 401, 200]
    assert len(here.get("/api/sessions").json()) == 1
    assert shop.client().get("/api/sessions").status_code == 401


@pytest.mark.parametrize("backend", ["sqlite", "postgres"])
def test_refused_at_once_in_every_process(
    backend: str, new_database: Callable[[str], str], redis_server: RedisServer
) -> None:
    """A log-out in one shop, and a change of password, hold in another that has the session cached."""
    url = new_database(backend)
    first = RunningShop(url, redis_server.url, namespace="sessions-two")
    second = RunningShop(url, redis_server.url, namespace="sessions-two")
    try:
        email = "both@example.org"
        for end in ("logout", "password"):
            client = person(first, email) if end == "logout" else log_in(first, email)
            cookie = {"cookie": f"shop_session={client.cookies['shop_session']}"}
            elsewhere = second.client()
            for _ in range(3):
                assert elsewhere.get("/api/me", headers=cookie).status_code == 200
            if end == "logout":
                assert client.post("/api/logout").status_code == 204
            else:
                change = {"current": PERSON["password"], "new": "even better"}
                assert client.post("/api/password", json=change).status_code == 200
                assert client.get("/api/me").status_code == 200
            assert elsewhere.get("/api/me", headers=cookie).status_code == 401
            assert first.client().get("/api/me", headers=cookie).status_code == 401
    finally:
        for each in (first, second):
            assert "Traceback" not in each.stop()


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """A server of this test's own, to be stopped and started."""
    found = binaries()
    with RedisServer.start(found.get("redis") or found["valkey"]) as server:
        yield server


def test_redis_away(redis: RedisServer, new_database: Callable[[str], str]) -> None:
    """Nobody is logged out, log-in and log-out work, and a session that was ended meanwhile stays ended afterwards."""
    shop = RunningShop(new_database("sqlite"), redis.url)
    try:
        stays, leaves = person(shop, "stays@example.org"), person(shop, "leaves@example.org")
        cookie = {"cookie": f"shop_session={leaves.cookies['shop_session']}"}
        assert leaves.get("/api/me").status_code == 200
        with frozen(redis):  # what is cached stays there
            assert stays.get("/api/me").status_code == 200
            assert stays.get("/account").status_code == 200
            assert leaves.post("/api/logout").status_code == 204
            assert shop.client().get("/api/me", headers=cookie).status_code == 401
            again = log_in(shop, "stays@example.org")
            assert again.get("/api/me").status_code == 200
            change = {"current": PERSON["password"], "new": "even better"}
            assert again.post("/api/password", json=change).status_code == 200
            assert again.get("/api/me").status_code == 200
            assert stays.get("/api/me").status_code == 401
        wait_until(
            lambda: "invalidated at last" in " ".join(shop.log.read_text().split()), "the invalidation"
        )
        wait_until(lambda: again.get("/api/me").status_code == 200, "the session")
        assert shop.client().get("/api/me", headers=cookie).status_code == 401
        assert stays.get("/api/me").status_code == 401
    finally:
        assert "Traceback" not in shop.stop()
