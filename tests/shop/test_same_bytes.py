"""With the cache and without, the shop answers the same, byte for byte."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import httpx
import pytest

from neverstale.testing.servers import RedisServer
from tests.shop.running import ADMIN, RunningShop

PATHS = (
    "/api/products",
    "/api/products?q=oak&sort=price&per_page=100",
    "/api/products?category=rugs&sort=rating&page=2&per_page=5",
    "/api/products?min_price=1000&max_price=2000&sort=-price",
    "/api/products?page=7000",
    "/api/products?sort=nonsense",
    "/api/products/1",
    "/api/products/600",
    "/api/products/999999",
    "/api/categories",
    "/api/me",
    "/",
    "/?q=oak",
    "/?category=headphones&sort=name&page=2",
    "/?min=10&max=20",
    "/products/1",
    "/products/77",
    "/products/999999",
    "/login",
    "/nothing",
)
FIGURES = (
    "/api/dashboard/stats",
    "/api/reports/sales",
    "/api/reports/sales?from=2026-01-01&to=2026-06-30&by=product",
    "/api/reports/sales?from=2026-02-01&to=2026-01-01",
    "/admin/dashboard",
    "/admin/reports?range=year&by=month",
    "/admin/reports.csv?by=week",
)
# How long it took, and for administrators the way to the cache's own dashboard: there is none without a cache.
OWN = re.compile(rb'<p class="took" .*?</p>|<li><a href="/cache/">Cache</a></li>\s*')


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def twins(
    request: pytest.FixtureRequest, new_database: Callable[[str], str], redis_server: RedisServer
) -> Iterator[tuple[RunningShop, RunningShop]]:
    """Two shops on one database, with the cache and without."""
    url = new_database(request.param)
    with ExitStack() as stack:
        cached = RunningShop(url, redis_server.url)
        stack.callback(cached.stop)
        plain = RunningShop(url, None)
        stack.callback(plain.stop)
        yield cached, plain


def seen(client: httpx.Client, path: str) -> tuple[int, str | None, bytes]:
    accept = "application/json" if path.startswith("/api/") else "text/html"
    answer = client.get(path, headers={"accept": accept})
    return answer.status_code, answer.headers.get("content-type"), OWN.sub(b"", answer.content)


def test_same_answers(twins: tuple[RunningShop, RunningShop]) -> None:
    """Loaded, hit and uncached answers are equal, and stay so after every kind of write."""
    cached, plain = twins
    admin, customer = cached.admin, cached.customer()
    visitors = [cached.client(), plain.client()]
    buyers, admins = [customer, plain.client()], [admin, plain.client()]
    for known, other in (buyers, admins):
        other.cookies.set("shop_session", known.cookies["shop_session"], domain="127.0.0.1")

    def compare() -> None:
        for clients, paths in ((visitors, PATHS), (buyers, PATHS), (admins, FIGURES)):
            for path in paths:
                loaded, hit, uncached = seen(clients[0], path), seen(clients[0], path), seen(clients[1], path)
                assert loaded == uncached, path
                assert hit == uncached, path

    product = {
        "name": "Oak Test Rug",
        "description": "Ünïcode & <b>",
        "price_cents": 1500,
        "stock": 3,
        "category_id": 9,
    }
    compare()
    number = admin.post("/api/products", json=product).json()["id"]
    compare()
    admin.put("/api/products/1", json={**product, "category_id": 19})
    compare()
    customer.post("/api/orders", json={"lines": [{"product_id": 77, "quantity": 1}]})
    customer.post("/api/products/77/reviews", json={"rating": 1, "title": "No", "body": "Not at all."})
    compare()
    admin.delete(f"/api/products/{number}")
    compare()


def test_cache_is_used(twins: tuple[RunningShop, RunningShop]) -> None:
    """The comparison above compares what it means to."""
    cached, plain = twins

    assert [cached.client().get("/products/5").headers["shop-cache"] for _ in range(2)][1] == "hit"
    assert plain.client().get("/products/5").headers["shop-cache"] == "off"
    assert cached.client().post("/api/login", json=ADMIN).headers["shop-cache"] == "none"
