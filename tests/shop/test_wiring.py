"""What the shop's models say is what their rows are shown in: no less, which would be stale, and not much more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from neverstale.events import InvalidationEvent
from neverstale.testing.servers import RedisServer
from shop.caching import CachedCatalog
from shop.models import Base, Category, Order, OrderLine, Product, Review, User, utc_now
from shop.settings import Settings
from shop.state import Shop
from shop.tags import CATEGORIES, DELETIONS, ORDERS, PAST_ORDERS, PRODUCTS, REVIEWS, USERS
from tests.shop.every_write import WRITES, World, here, send
from tests.shop.running import ADMIN


@dataclass
class Open:
    """A shop in this process, a world of it, and what it invalidates."""

    shop: Shop
    world: World
    told: list[InvalidationEvent]

    def taken(self) -> set[str]:
        """Return the names that were invalidated since the last call, but those of sessions."""
        names = {name for event in self.told if event.prefix != "session:" for name in event.names}
        self.told.clear()
        return {name for name in names if not name.startswith("session:")}

    async def write(self, method: str, path: str) -> None:
        answer = await WRITES[method, path](self.world, self.world.shops[0])
        assert answer.status_code < 400, answer.text

    async def ask(self, method: str, path: str, json: Any = None, *, admin: bool = True) -> httpx.Response:
        """Do something as the administrator, or as a customer."""
        who = self.world.admin if admin else await self.world.member(self.world.shops[0])
        answer = await send(self.world.shops[0], method, path, who.open[0], json=json)
        assert answer.status_code < 400, answer.text
        return answer


@pytest.fixture
async def opened(
    new_database: Callable[[str], str], redis_server: RedisServer, patient: None
) -> AsyncIterator[Open]:
    database = new_database("sqlite")
    settings = Settings(database, redis_server.url, admin_password=ADMIN["password"])
    plain = Settings(database, cache_enabled=False)
    async with here(settings) as (shop, cached), here(plain) as (_, uncached):
        world = World([cached], uncached, Random(5))
        await world.begin()
        found = Open(shop, world, [])
        assert shop.catalog.cache is not None
        shop.catalog.cache.events.subscribe(found.told.append, InvalidationEvent)
        yield found


# -- no less ----------------------------------------------------------------------------------------------------------


async def test_without_the_integration_answers_are_stale(opened: Open) -> None:
    """Taken off the sessions, it is missed at the first write."""
    assert await opened.world.stale() == []
    assert opened.shop.catalog._following is not None
    opened.shop.catalog._following.detach()
    await opened.write("PUT", "/api/products/{product_id}")
    assert await opened.world.stale() != []


@pytest.mark.parametrize(
    ("models", "name", "write"),
    [
        ((Product,), PRODUCTS, ("PUT", "/api/products/{product_id}")),
        ((Product,), "product:{id}", ("PUT", "/api/products/{product_id}")),
        ((Product,), "category:{category_id}", ("PUT", "/api/products/{product_id}")),
        ((Product,), CATEGORIES, ("POST", "/api/products")),
        ((Review,), PRODUCTS, ("POST", "/api/products/{product_id}/reviews")),
        ((Review,), "product:{product_id}", ("POST", "/api/products/{product_id}/reviews")),
        ((Review,), "category:{product.category_id}", ("POST", "/api/products/{product_id}/reviews")),
        ((Order, OrderLine), ORDERS, ("POST", "/api/orders")),
        ((User,), USERS, ("POST", "/api/register")),
    ],
)
async def test_each_declaration_is_missed(
    opened: Open,
    monkeypatch: pytest.MonkeyPatch,
    models: tuple[type[Base], ...],
    name: str,
    write: tuple[str, str],
) -> None:
    """Whichever one is taken out, the comparison after every write finds it."""
    for model in models:
        rules: Any = model.__dict__["__neverstale_rules__"]
        left = [said for said in rules._tags if getattr(said.name, "text", None) != name]
        assert len(left) < len(rules._tags)
        monkeypatch.setattr(rules, "_tags", left)
    opened.world.products = opened.world.products[:1]  # so that the answers that are asked for show it
    assert await opened.world.stale() == []
    await opened.write(*write)
    assert await opened.world.stale() != []


async def test_a_deleted_product_leaves_the_reports_of_past_days(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What no session sees is said by hand: without it they are stale."""
    report = "/api/reports/sales?from=2026-09-01&to=2026-10-31&by=product"

    async def best() -> int:
        return int((await opened.ask("GET", report)).json()["rows"][0]["key"])

    first = await best()
    await opened.ask("DELETE", f"/api/products/{first}")
    second = await best()
    assert second != first

    monkeypatch.setattr(CachedCatalog, "touch", lambda *_: None)
    await opened.ask("DELETE", f"/api/products/{second}")
    assert await best() == second


# -- not more ---------------------------------------------------------------------------------------------------------


async def test_writes_invalidate_what_they_touch_and_nothing_else(opened: Open) -> None:
    """Each write's tags and keys, exactly: the lists of other categories, past reports and so on stay."""
    data = {"name": "Test Lamp", "description": "", "price_cents": 900, "stock": 50, "category_id": 7}

    number = (await opened.ask("POST", "/api/products", data)).json()["id"]
    mine, key = f"product:{number}", f"api:GET:/api/products/{number}"
    assert opened.taken() == {PRODUCTS, mine, "category:7", CATEGORIES, key}

    await opened.ask("PUT", f"/api/products/{number}", data | {"price_cents": 800})
    assert opened.taken() == {PRODUCTS, mine, "category:7"}
    await opened.ask("PUT", f"/api/products/{number}", data | {"price_cents": 800})
    assert opened.taken() == set()
    await opened.ask("PUT", f"/api/products/{number}", data | {"category_id": 9})
    assert opened.taken() == {PRODUCTS, mine, "category:7", "category:9", CATEGORIES}

    other = (await opened.ask("POST", "/api/products", data | {"category_id": 19})).json()["id"]
    opened.taken()
    lines = [{"product_id": each, "quantity": 2} for each in (number, other)]
    await opened.ask("POST", "/api/orders", {"lines": lines}, admin=False)
    assert opened.taken() == {PRODUCTS, mine, f"product:{other}", "category:9", "category:19", ORDERS}

    review = {"rating": 4, "title": "Fine", "body": "It is."}
    await opened.ask("POST", f"/api/products/{number}/reviews", review, admin=False)
    assert opened.taken() == {PRODUCTS, mine, "category:9", REVIEWS}

    await opened.ask("DELETE", f"/api/products/{number}")
    assert opened.taken() == {PRODUCTS, mine, "category:9", CATEGORIES, DELETIONS, key}

    await opened.write("POST", "/api/register")
    assert opened.taken() == {USERS}
    for each in (("POST", "/api/login"), ("POST", "/api/logout"), ("POST", "/api/password")):
        await opened.write(*each)
        assert opened.taken() == set(), each


async def test_what_no_route_changes_yet(opened: Open) -> None:
    """Orders that are cancelled, names that change: the models say that as well, for the route to come."""

    async def changed(model: type[Base], number: int = 1, **values: Any) -> set[str]:
        assert await opened.world.stale() == []
        opened.taken()
        async with opened.shop.db.write() as session:
            found = await session.get_one(model, number)
            for name, value in values.items():
                setattr(found, name, value)
        names = opened.taken()
        assert await opened.world.stale() == []
        return names

    async with opened.shop.db.read() as session:
        author = select(Review.user_id).where(Review.product_id == opened.world.products[0]).limit(1)
        writer = (await session.scalars(author)).one()
        about = await session.scalars(select(Review.product_id).where(Review.user_id == writer))
        reviewed = {f"product:{each}" for each in about}

    assert await changed(Order, status="cancelled") == {ORDERS, PAST_ORDERS}
    assert await changed(Order, created_at=utc_now()) == {ORDERS, PAST_ORDERS}
    assert await changed(Order, created_at=utc_now() - timedelta(days=40)) == {ORDERS, PAST_ORDERS}
    assert await changed(Category, hue=1) == {CATEGORIES}
    assert await changed(Category, name="Renamed") == {CATEGORIES, ORDERS, PAST_ORDERS}
    assert await changed(Category, slug="renamed") == {CATEGORIES, ORDERS, PAST_ORDERS, PRODUCTS}
    assert await changed(User, name="Ada Renamed") == set()  # the administrator, whose pages greet by name
    assert await changed(User, writer, name="Renamed Writer") == reviewed
    assert await changed(User, writer, password_hash="-") == set()
