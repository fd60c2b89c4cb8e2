"""Every write is seen at once, in every list and page, with the cache as without."""

from __future__ import annotations

import httpx
import pytest

from tests.shop.running import RunningShop

LAMP = {
    "name": "Brass Test Lamp",
    "description": "Shines.",
    "price_cents": 4990,
    "stock": 3,
    "category_id": 7,
}


@pytest.fixture
def admin(shop: RunningShop) -> httpx.Client:
    return shop.admin


@pytest.mark.parametrize(("method", "path"), [("POST", ""), ("PUT", "/1"), ("DELETE", "/1")])
def test_only_administrators_write(shop: RunningShop, client: httpx.Client, method: str, path: str) -> None:
    """Nobody is a 401 and a customer a 403, before anything is looked at."""
    for who, status in ((client, 401), (shop.customer(), 403)):
        answer = who.request(method, f"/api/products{path}", json=None if method == "DELETE" else LAMP)
        assert answer.status_code == status
        assert answer.json()["detail"]
    assert client.get("/api/products/1").status_code == 200


def test_create_is_seen_at_once(admin: httpx.Client, client: httpx.Client) -> None:
    """A new product is in its category's list, in the list of all, in the counts, and has a page."""

    def lists() -> tuple[int, int, int]:
        return (
            client.get("/api/products").json()["total"],
            client.get("/api/products?category=7").json()["total"],
            next(each["products"] for each in client.get("/api/categories").json() if each["id"] == 7),
        )

    before = lists()
    answer = admin.post("/api/products", json=LAMP)
    product = answer.json()

    assert answer.status_code == 201
    assert answer.headers["location"] == f"/api/products/{product['id']}"
    assert product | LAMP == product
    assert (product["rating"], product["reviews"]) == (None, 0)
    assert lists() == tuple(n + 1 for n in before)
    assert client.get("/api/products?category=7").json()["items"][0]["id"] == product["id"]
    assert client.get(f"/products/{product['id']}").status_code == 200


def test_create_replaces_a_cached_404(shop: RunningShop, client: httpx.Client) -> None:
    """That there was no product is forgotten when there is one."""
    next_id = shop.product() + 1
    assert client.get(f"/api/products/{next_id}").status_code == 404

    assert shop.product() == next_id
    assert client.get(f"/api/products/{next_id}").status_code == 200


def test_update_is_seen_at_once(shop: RunningShop, admin: httpx.Client, client: httpx.Client) -> None:
    """A changed product is new on its page, in JSON and in every list."""
    number = shop.product(name="Unheard-of Xylograph")
    for price in (1500, 2500, 3500):
        pages = (f"/products/{number}", "/?q=xylograph", "/?category=lamps-lighting")
        for path in (f"/api/products/{number}", "/api/products?q=xylograph", *pages):
            client.get(path)  # cached, or will be

        answer = admin.put(
            f"/api/products/{number}", json={**LAMP, "name": "Unheard-of Xylograph", "price_cents": price}
        )

        assert answer.status_code == 200
        assert answer.json()["price_cents"] == price
        assert client.get(f"/api/products/{number}").json()["price_cents"] == price
        found = client.get("/api/products?q=xylograph").json()["items"]
        assert next(each["price_cents"] for each in found if each["id"] == number) == price
        for path in pages:
            assert f"€{price // 100}.00" in client.get(path).text


def test_moving_between_categories(shop: RunningShop, admin: httpx.Client, client: httpx.Client) -> None:
    """A product that moves leaves the one list, enters the other, and both counts change."""

    def totals() -> list[int]:
        lists = [client.get(f"/api/products?category={each}").json()["total"] for each in (7, 9)]
        counts = {each["id"]: each["products"] for each in client.get("/api/categories").json()}
        return [*lists, counts[7], counts[9]]

    number = shop.product(category_id=7)
    before = totals()

    assert admin.put(f"/api/products/{number}", json={**LAMP, "category_id": 9}).status_code == 200
    assert totals() == [before[0] - 1, before[1] + 1, before[2] - 1, before[3] + 1]


def test_delete_is_seen_at_once(shop: RunningShop, admin: httpx.Client, client: httpx.Client) -> None:
    """A deleted product is gone everywhere; deleting it again is a 404. What was sold stays in the order."""
    number = shop.product(name="Short-lived Zither")
    customer = shop.customer()
    order = customer.post("/api/orders", json={"lines": [{"product_id": number, "quantity": 1}]}).json()
    assert customer.post(
        f"/api/products/{number}/reviews", json={"rating": 4, "title": "Fine", "body": "Sounds."}
    ).is_success
    assert client.get("/api/products?q=zither").json()["total"] == 1

    assert admin.delete(f"/api/products/{number}").status_code == 204
    assert client.get("/api/products?q=zither").json()["total"] == 0
    assert client.get(f"/api/products/{number}").status_code == 404
    assert client.get(f"/products/{number}", headers={"accept": "text/html"}).status_code == 404
    assert admin.delete(f"/api/products/{number}").status_code == 404
    kept = customer.get(f"/api/orders/{order['id']}").json()["lines"]
    assert kept == [
        {"product_id": None, "name": "Short-lived Zither", "quantity": 1, "unit_price_cents": 1000}
    ]


def test_a_review_is_seen_at_once(shop: RunningShop, client: httpx.Client) -> None:
    """A review changes the rating on the page and in the lists; a second one by the same customer is a 409."""
    number = shop.product(name="Reviewed Quern")
    assert client.get("/api/products?q=quern").json()["items"][0]["rating"] is None
    client.get(f"/products/{number}")
    customer = shop.customer()
    review = {"rating": 5, "title": "Grinds <b>well</b>", "body": "Every\nday."}

    assert client.post(f"/api/products/{number}/reviews", json=review).status_code == 401
    assert customer.post(f"/api/products/{number}/reviews", json=review).status_code == 201
    assert customer.post(f"/api/products/{number}/reviews", json=review).status_code == 409
    assert shop.customer().post("/api/products/999999/reviews", json=review).status_code == 404
    found = client.get("/api/products?q=quern").json()["items"][0]
    assert (found["rating"], found["reviews"]) == (5.0, 1)
    page = client.get(f"/products/{number}").text
    assert "Grinds &lt;b&gt;well&lt;/b&gt;" in page
    assert "Cora T." in page


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"name": "  "},
        {"name": "x" * 201},
        {"name": "nul\x00"},
        {"name": "two\nlines"},
        {"description": "x" * 5001},
        {"price_cents": -1},
        {"price_cents": 10.5},
        {"price_cents": "100"},
        {"price_cents": 10**12},
        {"stock": -1},
        {"stock": None},
        {"category_id": 61},
        {"category_id": 3_000_000_000},
        {"colour": "red"},
    ],
    ids=str,
)
def test_wrong_products_are_422(admin: httpx.Client, changes: dict[str, object]) -> None:
    """A product that makes no sense is refused, and says why."""
    for method, path in (("POST", "/api/products"), ("PUT", "/api/products/1")):
        answer = admin.request(method, path, json={**LAMP, **changes})
        assert answer.status_code == 422
        assert answer.json()["detail"]


def test_update_of_nothing_is_404(admin: httpx.Client) -> None:
    """There is nothing to change where there is no product."""
    assert admin.put("/api/products/999999", json=LAMP).status_code == 404
