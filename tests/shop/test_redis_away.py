"""Redis may go and come back: the shop serves, and says what it could not do."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from neverstale.testing.servers import RedisServer, binaries, frozen, wait_until
from tests.shop.running import RunningShop


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """A server of this test's own, to be stopped and started."""
    found = binaries()
    with RedisServer.start(found.get("redis") or found["valkey"]) as server:
        yield server


@pytest.fixture
def shop(redis: RedisServer, new_database: Callable[[str], str]) -> Iterator[RunningShop]:
    running = RunningShop(new_database("sqlite"), redis.url)
    yield running
    assert "Traceback" not in running.stop()


def test_serves_while_redis_is_away(shop: RunningShop, redis: RedisServer) -> None:
    """Pages and JSON come from the database, /health says so with a 200, and later the cache is used again."""
    client = shop.client()
    before = client.get("/api/products").content
    redis.kill()

    assert client.get("/api/products").content == before
    assert client.get("/products/5").status_code == 200
    health = client.get("/health")
    assert health.status_code == 200
    assert health.json()["status"] == "degraded"
    assert health.json()["database"] == "ok"
    assert health.json()["redis"] != "ok"
    redis.revive()
    wait_until(lambda: client.get("/api/products").headers["shop-cache"] == "hit", "a hit")
    assert client.get("/health").json()["redis"] == "ok"


def test_a_write_without_redis_stands_and_is_invalidated_later(shop: RunningShop, redis: RedisServer) -> None:
    """The write is answered as done, with a warning; no entry of before is served once Redis can be reached."""
    client, number = shop.client(), shop.product(name="Patient Lamp", price_cents=1000)
    product = {"name": "Patient Lamp", "description": "", "price_cents": 2000, "stock": 1, "category_id": 7}
    assert client.get(f"/api/products/{number}").headers["shop-cache"] == "hit"

    with frozen(redis):  # what is cached stays there
        answer = shop.admin.put(f"/api/products/{number}", json=product)
        assert client.get(f"/api/products/{number}").json()["price_cents"] == 2000

    assert answer.status_code == 200
    assert answer.json()["price_cents"] == 2000
    assert "may show the old state for 300 s" in answer.headers["warning"]
    wait_until(lambda: "invalidated at last" in " ".join(shop.log.read_text().split()), "the invalidation")
    assert client.get(f"/api/products/{number}").json()["price_cents"] == 2000
    assert client.get("/api/products?q=patient").json()["items"][0]["price_cents"] == 2000
    assert "warning" not in shop.admin.put(f"/api/products/{number}", json=product).headers
