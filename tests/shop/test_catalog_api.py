from __future__ import annotations

import httpx
import pytest

from tests.shop.running import RunningShop

FIELDS = {"id", "name", "description", "price_cents", "stock", "category_id", "rating"}


def items(client: httpx.Client, query: str) -> list[dict[str, object]]:
    answer = client.get(f"/api/products{query}")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, object]] = answer.json()["items"]
    return found


def test_list_has_total_and_pages(client: httpx.Client) -> None:
    """A list says how much there is, and each product has its fields."""
    answer = client.get("/api/products").json()

    assert answer["total"] >= 600
    assert answer["pages"] == -(-answer["total"] // 24)
    assert (answer["page"], answer["per_page"], len(answer["items"])) == (1, 24, 24)
    assert set(answer["items"][0]) >= FIELDS


def test_pages_share_no_product_and_miss_none(client: httpx.Client) -> None:
    """Walking through all pages of a list shows each of its products once."""
    first = client.get("/api/products?q=steel&per_page=7&sort=name").json()
    seen = [
        each["id"]
        for page in range(1, first["pages"] + 1)
        for each in items(client, f"?q=steel&per_page=7&sort=name&page={page}")
    ]

    assert len(seen) == len(set(seen)) == first["total"] > 7


def test_page_past_the_end_is_empty(client: httpx.Client) -> None:
    """A page that is not there has no items, but the right total."""
    answer = client.get("/api/products?category=rugs&page=9999").json()

    assert answer["items"] == []
    assert answer["total"] > 0


@pytest.mark.parametrize("words", ["oak", "OAK  Chair", "%", "_", "'; DROP TABLE products; --"])
def test_search_needs_every_word(client: httpx.Client, words: str) -> None:
    """Each word must be in the name or the description, whatever its case, and is only text."""
    for each in items(client, f"?per_page=100&q={httpx.QueryParams({'q': words})['q']}"):
        text = f"{each['name']} {each['description']}".lower()
        assert all(word in text for word in words.lower().split())


def test_category_by_id_and_by_slug(client: httpx.Client) -> None:
    """A category can be named both ways."""
    rugs = next(each for each in client.get("/api/categories").json() if each["slug"] == "rugs")

    by_id, by_slug = (client.get(f"/api/products?category={each}").json() for each in (rugs["id"], "rugs"))

    assert by_id == by_slug
    assert {each["category_id"] for each in by_id["items"]} == {rugs["id"]}


def test_price_range_is_inclusive_cents(client: httpx.Client) -> None:
    """Bounds are in cents, like the prices in the answer."""
    some = items(client, "?sort=price&per_page=100")[50]["price_cents"]

    found = items(client, f"?min_price={some}&max_price={some}")

    assert found
    assert {each["price_cents"] for each in found} == {some}


@pytest.mark.parametrize(
    ("sort", "key", "down"),
    [
        ("price", "price_cents", False),
        ("-price", "price_cents", True),
        ("price_desc", "price_cents", True),
        ("name", "name", False),
        ("rating", "rating", True),
    ],
)
def test_sorting(client: httpx.Client, sort: str, key: str, down: bool) -> None:
    """Lists come in the order that was asked for; without a rating comes last."""
    values = [each[key] for each in items(client, f"?category=shirts&sort={sort}&per_page=100")]
    if key == "rating":
        values = [value or 0.0 for value in values]

    assert values == sorted(values, reverse=down)  # type: ignore[type-var]


@pytest.mark.parametrize(
    "query",
    [
        "page=0",
        "page=x",
        "per_page=101",
        "per_page=0",
        "min_price=-1",
        "max_price=1e3",
        "min_price=20&max_price=10",
        "sort=cheapest",
        "category=nowhere",
        "q=" + "x" * 101,
        "q=%00",
        "page=99999999999999999999",
    ],
)
def test_wrong_queries_are_422_with_a_detail(client: httpx.Client, query: str) -> None:
    """What makes no sense is refused in words."""
    answer = client.get(f"/api/products?{query}")

    assert answer.status_code == 422
    assert answer.json()["detail"]


def test_product_is_the_same_in_list_and_detail(client: httpx.Client) -> None:
    """The list shows of a product what its own address shows, its rating included."""
    for each in items(client, "?sort=rating&per_page=5") + items(client, "?per_page=5"):
        detail = client.get(f"/api/products/{each['id']}").json()
        assert {name: detail[name] for name in each} == each


def test_product_has_its_reviews(client: httpx.Client) -> None:
    """Ratings add up to the mean and the number of reviews, and the latest come first."""
    best = items(client, "?sort=rating&per_page=1")[0]
    detail = client.get(f"/api/products/{best['id']}").json()
    ratings = detail["ratings"]

    assert sum(ratings) == detail["reviews"] > 0
    assert detail["rating"] == round(
        sum((n + 1) * count for n, count in enumerate(ratings)) / sum(ratings), 2
    )
    dates = [each["created_at"] for each in detail["latest_reviews"]]
    assert dates == sorted(dates, reverse=True)


@pytest.mark.parametrize(
    ("product_id", "status"), [("999999", 404), ("0", 422), ("x", 422), ("3000000000", 422)]
)
def test_products_that_are_not_there(client: httpx.Client, product_id: str, status: int) -> None:
    """No product is a 404, no number a 422, both with a detail."""
    for _ in range(2):  # that there is none is cached, too
        answer = client.get(f"/api/products/{product_id}")
        assert answer.status_code == status
        assert answer.json()["detail"]


def test_categories_count_their_products(client: httpx.Client) -> None:
    """There are sixty, and their counts are those of their lists."""
    categories = client.get("/api/categories").json()

    assert len(categories) == 60
    for each in categories[:5]:
        total = client.get(f"/api/products?category={each['id']}").json()["total"]
        assert total == each["products"] > 0


def test_cache_is_asked_or_not(shop: RunningShop) -> None:
    """With the cache the second answer is a hit; without it every answer says so."""
    answers = [shop.client().get("/api/products?q=fig&sort=name") for _ in range(2)]

    assert [each.headers["shop-cache"] for each in answers] == (
        ["load", "hit"] if shop.cached else ["off", "off"]
    )
    assert answers[0].content == answers[1].content
    assert "app;dur=" in answers[0].headers["server-timing"]
