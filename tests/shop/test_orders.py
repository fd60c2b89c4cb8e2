from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from neverstale.testing.servers import RedisServer
from tests.shop.running import RunningShop


def order(client: httpx.Client, *lines: tuple[int, int]) -> httpx.Response:
    body = {"lines": [{"product_id": product_id, "quantity": quantity} for product_id, quantity in lines]}
    return client.post("/api/orders", json=body)


def test_order_takes_stock(shop: RunningShop, client: httpx.Client) -> None:
    """An order is answered with its lines and total, and takes the stock, which is seen at once."""
    first, second = shop.product(price_cents=1050, stock=5), shop.product(price_cents=200, stock=5)
    assert client.get(f"/api/products/{first}").json()["stock"] == 5
    customer = shop.customer()

    answer = order(customer, (second, 2), (first, 1), (first, 2))

    assert answer.status_code == 201
    placed = answer.json()
    assert (placed["total_cents"], placed["status"]) == (3 * 1050 + 2 * 200, "paid")
    assert [(line["product_id"], line["quantity"]) for line in placed["lines"]] == [(first, 3), (second, 2)]
    assert [client.get(f"/api/products/{each}").json()["stock"] for each in (first, second)] == [2, 3]
    assert customer.get(f"/api/orders/{placed['id']}").json() == placed


def test_all_or_nothing(shop: RunningShop, client: httpx.Client) -> None:
    """When one line cannot be had, nothing is taken of the others."""
    there, scarce = shop.product(stock=5), shop.product(stock=1, name="Scarce Thing")
    customer = shop.customer()

    refused = order(customer, (there, 1), (scarce, 2))

    assert refused.status_code == 409
    assert refused.json()["detail"] == "only 1 left of Scarce Thing"
    assert order(customer, (there, 1), (999_999, 1)).status_code == 404
    assert [client.get(f"/api/products/{each}").json()["stock"] for each in (there, scarce)] == [5, 1]


def test_orders_need_a_login_and_are_private(shop: RunningShop, client: httpx.Client) -> None:
    """Nobody orders without an account, and nobody sees the orders of others."""
    number = shop.product()
    mine = order(shop.customer(), (number, 1)).json()["id"]

    assert order(client, (number, 1)).status_code == 401
    assert client.get(f"/api/orders/{mine}").status_code == 401
    assert shop.customer().get(f"/api/orders/{mine}").status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"lines": []},
        {"lines": [{"product_id": 1}]},
        {"lines": [{"product_id": 1, "quantity": 0}]},
        {"lines": [{"product_id": 1, "quantity": 1.5}]},
        {"lines": [{"product_id": 1, "quantity": 1}] * 51},
        [],
    ],
    ids=lambda body: str(body)[:40],
)
def test_wrong_orders_are_422(shop: RunningShop, body: object) -> None:
    """An order that makes no sense is refused."""
    assert shop.customer().post("/api/orders", json=body).status_code == 422


@pytest.mark.parametrize("backend", ["sqlite", "postgres"])
def test_nothing_is_sold_twice(
    backend: str, new_database: Callable[[str], str], redis_server: RedisServer
) -> None:
    """Of many customers at once, at two processes, exactly as many get one as there are."""
    shop = RunningShop(new_database(backend), redis_server.url, workers=2)
    try:
        stock, buyers = 17, 8
        # Two products in both orders: who takes a before b and who takes b before a must not wait for each other.
        a, b = shop.product(stock=stock), shop.product(stock=10_000)
        clients = [shop.customer() for _ in range(buyers)]

        def buy(client: httpx.Client) -> list[int]:
            return [
                order(client, *(((a, 1), (b, 1)) if n % 2 else ((b, 1), (a, 1)))).status_code
                for n in range(5)
            ]

        with ThreadPoolExecutor(buyers) as threads:
            statuses = Counter(status for each in threads.map(buy, clients) for status in each)

        assert statuses == {201: stock, 409: buyers * 5 - stock}
        left = [shop.client().get(f"/api/products/{each}").json()["stock"] for each in (a, b)]
        assert left == [0, 10_000 - stock]
    finally:
        said = shop.stop()
    assert "Traceback" not in said
