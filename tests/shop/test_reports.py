from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.shop.running import RunningShop


@pytest.fixture
def admin(shop: RunningShop) -> httpx.Client:
    return shop.admin


def report(client: httpx.Client, query: str) -> dict[str, Any]:
    answer = client.get(f"/api/reports/sales?{query}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.parametrize("path", ["/api/dashboard/stats", "/api/reports/sales"])
def test_only_for_administrators(shop: RunningShop, client: httpx.Client, path: str) -> None:
    """Figures are nobody else's business."""
    assert client.get(path).status_code == 401
    assert shop.customer().get(path).status_code == 403


@pytest.mark.parametrize("by", ["day", "week", "month", "category"])
def test_groups_add_up(admin: httpx.Client, by: str) -> None:
    """However sales are grouped, units and revenue come to the same total."""
    found = report(admin, f"from=2026-01-01&to=2026-06-30&by={by}")

    assert found["revenue_cents"] == sum(row["revenue_cents"] for row in found["rows"]) > 0
    assert found["units"] == sum(row["units"] for row in found["rows"])
    if by != "category":  # an order may be of several categories, but not of several days
        assert found["orders"] == sum(row["orders"] for row in found["rows"])
        keys = [row["key"] for row in found["rows"]]
        assert keys == sorted(keys)


def test_labels(admin: httpx.Client) -> None:
    """Weeks begin on Mondays, months on their first."""
    weeks = report(admin, "from=2026-01-05&to=2026-01-18&by=week")["rows"]
    months = report(admin, "from=2026-01-01&to=2026-02-28&by=month")["rows"]

    assert [(row["key"], row["label"]) for row in weeks] == [
        ("2026-01-05", "2026-W02"),
        ("2026-01-12", "2026-W03"),
    ]
    assert [(row["key"], row["label"]) for row in months] == [
        ("2026-01-01", "January 2026"),
        ("2026-02-01", "February 2026"),
    ]


def test_products_that_sold_best_come_first(admin: httpx.Client) -> None:
    """By product, the list is ordered by revenue and has names."""
    rows = report(admin, "from=2024-11-01&to=2026-10-31&by=product")["rows"]
    revenue = [row["revenue_cents"] for row in rows]

    assert revenue == sorted(revenue, reverse=True)
    assert len(rows) == 100
    assert all(row["label"] for row in rows)


def test_a_new_order_counts(shop: RunningShop, admin: httpx.Client) -> None:
    """What is sold now is in the report of today, and the default range ends with it."""
    before = report(admin, "by=day")
    number = shop.product(price_cents=12_345)
    shop.customer().post("/api/orders", json={"lines": [{"product_id": number, "quantity": 2}]})
    after = report(admin, "by=product")

    assert next(row["revenue_cents"] for row in after["rows"] if row["key"] == str(number)) == 24_690
    assert after["to"] >= before["to"]


@pytest.mark.parametrize(
    "query", ["from=2026-02-01&to=2026-01-01", "from=yesterday", "by=hour", "to=2026-13-01"]
)
def test_wrong_queries(admin: httpx.Client, query: str) -> None:
    """A range or grouping that makes no sense is refused."""
    answer = admin.get(f"/api/reports/sales?{query}")
    assert answer.status_code == 422
    assert answer.json()["detail"]


@pytest.mark.parametrize("query", ["from=0001-01-01&to=9999-12-31&by=month", "from=1900-01-01&to=1900-01-02"])
def test_far_away_dates(admin: httpx.Client, query: str) -> None:
    """The ends of the calendar are dates like others."""
    assert report(admin, query)["rows"] is not None


def test_stats(admin: httpx.Client) -> None:
    """The dashboard's figures agree with each other."""
    stats = admin.get("/api/dashboard/stats").json()

    assert len(stats["revenue_by_day"]) == 30
    assert stats["revenue_by_day"][-1]["key"] == stats["as_of"]
    assert sum(row["orders"] for row in stats["revenue_by_day"]) == stats["orders_30d"]
    assert sum(row["revenue_cents"] for row in stats["revenue_by_day"]) == stats["revenue_30d_cents"]
    assert stats["products"] == admin.get("/api/products").json()["total"]
    assert stats["customers"] >= 150
    assert 1 <= stats["average_rating"] <= 5
