"""The dashboard and the reports come from the cache, and show what was just written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import event, update

from neverstale import AsyncCache
from neverstale.testing.servers import RedisServer
from shop import caching, reports
from shop.app import create_app
from shop.models import Order, utc_now
from shop.reports import By
from shop.settings import Settings
from shop.state import Shop
from tests.shop.running import ADMIN, RunningShop

FIGURES = ("/api/dashboard/stats", "/api/reports/sales")
PAGES = ("/admin/dashboard", "/admin/reports", "/admin/reports.csv", "/admin/reports?range=month&by=category")
PAST = "/api/reports/sales?from=2026-03-01&to=2026-03-31&by=product"


class OpenShop:
    """A shop in this process, whose statements can be counted; an administrator asks."""

    def __init__(self, shop: Shop, client: httpx.AsyncClient) -> None:
        self.shop = shop
        self._client = client
        self.statements: list[str] = []
        event.listen(shop.db.engine.sync_engine, "before_cursor_execute", self._count)

    def _count(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        # The check of the session is not a figure: it has a cache of its own.
        if "sessions" not in statement and not statement.startswith("BEGIN"):
            self.statements.append(statement)

    async def forget(self, *tags: str) -> None:
        """Invalidate tags."""
        assert self.shop.catalog.cache is not None
        await self.shop.catalog.cache.invalidate_tags(*tags)

    async def ask(self, path: str) -> tuple[httpx.Response, list[str]]:
        """Ask for a page or for JSON; returns the statements that the answer took, too."""
        self.statements.clear()
        answer = await self._client.get(path)
        assert answer.status_code == 200, answer.text
        return answer, list(self.statements)


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[OpenShop]:
    app = create_app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as client,
    ):
        assert (await client.post("/api/login", json=ADMIN)).status_code == 200
        yield OpenShop(app.state.shop, client)


@pytest.fixture
def settings(new_database: Callable[[str], str], redis_server: RedisServer, patient: None) -> Settings:
    return Settings(new_database("sqlite"), redis_server.url, admin_password=ADMIN["password"])


@pytest.mark.parametrize("path", [*FIGURES, *PAGES, PAST])
async def test_the_second_view_takes_no_statement(settings: Settings, path: str) -> None:
    """Dashboard and reports, as JSON and as pages, also of the default days, are read from the cache alone."""
    async with opened(settings) as shop:
        (first, loaded), (second, none) = [await shop.ask(path) for _ in range(2)]
        assert loaded
        assert none == []
        assert [each.headers["shop-cache"] for each in (first, second)] == ["load", "hit"]
        if path.startswith("/api/"):
            assert second.content == first.content


async def test_one_computation_for_all_who_ask(settings: Settings) -> None:
    """However many ask for the dashboard at once, its figures are computed once."""
    async with opened(settings) as shop:
        await shop.ask("/api/dashboard/stats")
        once = len(shop.statements)
        await shop.forget(caching.ORDERS)
        shop.statements.clear()
        found = await asyncio.gather(*(reports.stats(shop.shop) for _ in range(10)))
        assert all(each == found[0] for each in found)
        assert 0 < len(shop.statements) <= once


def lives(redis: RedisServer) -> dict[bytes | str, int]:
    """Return the figures that are cached, with the milliseconds that each has left."""
    client = redis.client()
    return {key: client.pttl(key) for key in client.keys("*:computed:*")}


async def test_past_days_live_longer(settings: Settings, redis_server: RedisServer) -> None:
    """What includes the running day lives minutes, days that are over live hours; each kept for an outage."""
    async with opened(settings) as shop:
        today = utc_now().date()
        for start, end in ((None, None), (None, today), (today - timedelta(days=9), today)):
            await reports.sales(shop.shop, start, end, By.DAY)
        await reports.stats(shop.shop)
        running = lives(redis_server)
        await reports.sales(shop.shop, None, today - timedelta(days=2), By.DAY)
        closed = {key: ttl for key, ttl in lives(redis_server).items() if key not in running}
    assert (len(running), len(closed)) == (4, 1)
    assert all(0.85 * 3_900_000 < ttl <= 3_900_000 for ttl in running.values())
    assert all(0.85 * 86_400_000 < ttl <= 86_400_000 for ttl in closed.values())


async def test_orders_do_not_touch_reports_of_past_days(settings: Settings) -> None:
    """An order leaves what it does not change: the reports of days that are over."""
    async with opened(settings) as shop:
        await shop.ask(PAST)
        await shop.forget(caching.ORDERS, caching.PRODUCTS)
        assert (await shop.ask(PAST))[1] == []
        await shop.forget(caching.PAST_ORDERS)
        assert (await shop.ask(PAST))[1] != []


async def test_without_the_database(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the database is away the figures of before are shown, past their time as well."""

    async def away(*_: Any) -> Any:
        raise OSError("no database")

    short = caching.Freshness(soft_ttl=0.02, ttl=0.02, stale_if_error=60)
    monkeypatch.setattr(caching, "RUNNING", short)
    async with opened(settings) as shop:
        before = await reports.stats(shop.shop)
        monkeypatch.setattr(reports, "_stats", away)
        cache: AsyncCache = shop.shop.catalog._cache  # type: ignore[assignment]
        while cache.stats()["computed:"].load_errors == 0:
            assert await reports.stats(shop.shop) == before
        assert await reports.stats(shop.shop) == before
        await shop.forget(caching.ORDERS)
        with pytest.raises(OSError, match="no database"):
            await reports.stats(shop.shop)


# --- what is written is shown -------------------------------------------------------------------------------------


def figures(shop: RunningShop) -> dict[str, Any]:
    found: dict[str, Any] = shop.admin.get("/api/dashboard/stats").json()
    return found


def test_an_order_shows_at_once(shop: RunningShop) -> None:
    """The dashboard and the default report show an order that was placed a moment ago."""
    number, customer = shop.product(price_cents=1_000), shop.customer()
    before, report = figures(shop), shop.admin.get("/api/reports/sales").json()
    customer.post("/api/orders", json={"lines": [{"product_id": number, "quantity": 2}]})
    after, report_after = figures(shop), shop.admin.get("/api/reports/sales").json()

    assert after["orders"] == before["orders"] + 1
    assert after["revenue_cents"] == before["revenue_cents"] + 2_000
    assert after["as_of"] == report_after["to"] == str(utc_now().date())
    assert report_after["rows"][-1]["orders"] >= 1
    assert report_after != report


def test_other_writes_show_at_once(shop: RunningShop) -> None:
    """So do a new product, its last piece sold, its review, its end, and a new customer."""
    start = figures(shop)
    number = shop.product(stock=0)
    made = figures(shop)
    assert (made["products"], made["out_of_stock"]) == (start["products"] + 1, start["out_of_stock"] + 1)
    customer = shop.customer()
    assert figures(shop)["customers"] == made["customers"] + 1
    assert customer.post(
        f"/api/products/{number}/reviews", json={"rating": 5, "title": "Good", "body": "Very."}
    ).is_success
    assert figures(shop)["reviews"] == start["reviews"] + 1
    assert shop.admin.delete(f"/api/products/{number}").is_success
    assert figures(shop)["products"] == start["products"]


def test_a_deleted_product_leaves_the_reports(shop: RunningShop) -> None:
    """Reports by product have the products that there are, also those of past days."""
    rows = shop.admin.get(PAST).json()["rows"]
    assert shop.admin.delete(f"/api/products/{rows[0]['key']}").is_success
    assert rows[0]["key"] not in {row["key"] for row in shop.admin.get(PAST).json()["rows"]}


async def test_changes_from_outside(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody invalidates is seen after the soft TTL, by the second who looks."""
    short = caching.Freshness(soft_ttl=0.02, ttl=300, stale_if_error=60)
    monkeypatch.setattr(caching, "RUNNING", short)
    async with opened(settings) as shop:
        before = await reports.stats(shop.shop)
        async with shop.shop.db.write() as session:
            await session.execute(update(Order).where(Order.status == "paid").values(status="cancelled"))
        while await reports.stats(shop.shop) == before:
            pass
        assert (await reports.stats(shop.shop)).orders < before.orders
