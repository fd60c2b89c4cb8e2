"""Whole answers of the interface are kept for everybody; nobody is shown another's."""

from __future__ import annotations

import httpx
import pytest

from neverstale.testing.servers import RedisServer
from tests.shop.running import RunningShop

PUBLIC = ("/api/products?category=rugs&page=2&utm_source=x", "/api/products/3", "/api/categories")


def where(answer: httpx.Response) -> tuple[str, bool]:
    return answer.headers["shop-cache"], "neverstale; hit" in answer.headers.get("cache-status", "")


@pytest.mark.parametrize("path", PUBLIC)
def test_second_is_a_hit(cached_shop: RunningShop, path: str) -> None:
    """The second answer comes from Redis as a whole, also for somebody who is logged in, with the same bytes."""
    first = cached_shop.client().get(path)
    for client in (cached_shop.client(), cached_shop.customer(), cached_shop.admin):
        again = client.get(path)
        assert where(again) == ("hit", True)
        assert (again.content, again.headers["content-type"]) == (
            first.content,
            first.headers["content-type"],
        )


def test_keys(cached_shop: RunningShop, redis_server: RedisServer) -> None:
    """The key is method, path and query, in an order of its own, without what means nothing."""
    client = cached_shop.client()
    queries = ("page=2&category=3", "category=3&page=2&utm_source=x", "gclid=1&page=2&&category=3")
    answers = [client.get(f"/api/products?{query}") for query in queries]
    assert [where(answer) for answer in answers[1:]] == [("hit", True)] * 2
    with redis_server.client() as redis:
        found = redis.keys(f"{cached_shop.namespace}:*:api:GET:/api/products[?]category=3&page=2")
    assert len(found) == 1


def test_tag_of_a_change(cached_shop: RunningShop) -> None:
    """A change of a product is seen at once in what shows it, and in the lists; another product's answer stays."""
    number, client = cached_shop.product(name="Zyxlamp", price_cents=1500), cached_shop.client()
    paths = (f"/api/products/{number}", "/api/products?q=zyxlamp", "/api/categories", "/api/products/4")
    answers = [[client.get(path) for path in paths] for _ in range(2)][1]
    assert [where(answer)[1] for answer in answers] == [True] * 4
    changed = {"name": "Zyxlamp", "description": "", "price_cents": 1600, "stock": 1, "category_id": 7}
    cached_shop.admin.put(f"/api/products/{number}", json=changed)
    answers = [client.get(path) for path in paths]
    assert [where(answer)[1] for answer in answers] == [False, False, True, True]
    assert answers[0].json()["price_cents"] == 1600
    assert answers[1].json()["items"][0]["price_cents"] == 1600
    cached_shop.admin.delete(f"/api/products/{number}")
    answers = [client.get(path) for path in paths]
    assert [answer.status_code for answer in answers] == [404, 200, 200, 200]
    assert answers[1].json()["items"] == []
    assert [where(answer)[1] for answer in answers] == [False, False, False, True]


def test_order_is_seen(cached_shop: RunningShop) -> None:
    """An order takes from the stock that everybody is told."""
    number, client = cached_shop.product(stock=5), cached_shop.client()
    for _ in range(2):
        client.get(f"/api/products/{number}")
    cached_shop.customer().post("/api/orders", json={"lines": [{"product_id": number, "quantity": 2}]})
    assert client.get(f"/api/products/{number}").json()["stock"] == 3


@pytest.mark.parametrize("odd", ["0{}", "+{}", "{}.0"])
def test_odd_numbers(cached_shop: RunningShop, odd: str) -> None:
    """A number written oddly is never answered with what was before a change."""
    number, client = cached_shop.product(price_cents=100), cached_shop.client()
    path = "/api/products/" + odd.format(number)
    before = [client.get(path) for _ in range(2)]
    changed = {"name": "Test Lamp", "description": "", "price_cents": 200, "stock": 1, "category_id": 7}
    cached_shop.admin.put(f"/api/products/{number}", json=changed)
    after = client.get(path)
    assert {answer.status_code for answer in before} == {after.status_code}
    assert after.status_code != 200 or after.json()["price_cents"] == 200


@pytest.mark.parametrize("path", ["/api/me", "/", "/login", "/api/products/999999", "/api/products?page=0"])
def test_not_kept(cached_shop: RunningShop, path: str) -> None:
    """What is personal, a page, or an error is not kept as a whole."""
    client = cached_shop.customer()
    assert [where(client.get(path))[1] for _ in range(2)] == [False, False]


def test_each_is_told_who_they_are(cached_shop: RunningShop) -> None:
    """Two customers and a visitor ask for the same address and are told different things."""
    clients = [cached_shop.customer(), cached_shop.customer(), cached_shop.client()]
    told = [client.get("/api/me").content for client in clients for _ in range(2)]
    assert len(set(told)) == 3


def test_not_modified(cached_shop: RunningShop) -> None:
    """Who has the answer already is told so, in the first place and from the cache."""
    client = cached_shop.client()
    tag = client.get("/api/categories").headers["etag"]
    answer = client.get("/api/categories", headers={"if-none-match": tag})
    assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)
    assert "x-content-type-options" in answer.headers


def test_head(shop: RunningShop) -> None:
    """HEAD has the headers of GET and no body, with the cache and without."""
    client = shop.client()
    for _ in range(2):
        head, whole = client.head("/api/products/3"), client.get("/api/products/3")
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(whole.content))


def test_reload(cached_shop: RunningShop) -> None:
    """A client cannot make the shop's database work by asking for something newer."""
    client = cached_shop.client()
    client.get("/api/categories")
    for asked in ("no-cache", "no-store", "max-age=0"):
        assert where(client.get("/api/categories", headers={"cache-control": asked})) == ("hit", True)


def test_without_cache(shop: RunningShop) -> None:
    """Without a cache answers are the handlers' own, and say nothing of a cache."""
    answer = shop.client().get("/api/categories")
    assert ("cache-status" in answer.headers) == shop.cached
