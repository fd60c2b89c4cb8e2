"""Filling the cache before visitors come: what most of them will look at first. `python -m shop warm`.

What that is, is said here by code (navigation, the first pages of every list, the products with most reviews, the
administrator's figures), and learnt from the keys that the running version is asked for most: of this version or, on
the deploy that raised it, of the one before. Everything is read as a visitor's request would read it, so it is under
the same leases: what an invalidation overtakes is not stored, and nothing newer is overwritten.

`neverstale warm shop.warm:jobs` does the same with the library's own command.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from urllib.parse import parse_qsl

import httpx
import msgspec
from sqlalchemy import func, select

from neverstale.errors import RedisUnavailable
from neverstale.hot import HotKey
from neverstale.warm import Job, Recipes

from . import reports
from .caching import VERSION, CachedCatalog
from .db import Database
from .models import Review
from .reports import By
from .sessions import ShopSessions
from .settings import Settings
from .state import Shop
from .views import CategoryView, ProductQuery, Sort

__all__ = ["HOT", "PAGES", "PRODUCTS", "jobs", "jobs_of", "learnt", "opened"]

PAGES = 3  # of the list of everything: few turn more often
PRODUCTS = 4000  # by Zipf's law five of six looks at 20,000 products
HOT = 200  # some hundred keys are what a sample of half an hour can tell apart
_SELDOM = (*(ProductQuery(sort=each) for each in Sort if each is not Sort.NEWEST), ProductQuery(page=2))
_LEARN = 1800.0  # as far back as is known what was asked for


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Shop]:
    """Open a shop that serves nobody: it counts and reports nothing as if somebody had asked."""
    db = Database(settings.database_url)
    catalog = await CachedCatalog.open(db, settings)
    sessions = ShopSessions(db, catalog.cache)
    try:
        yield Shop(settings, db, catalog, sessions)
    finally:
        await sessions.close()
        await catalog.close()
        await db.close()


@asynccontextmanager
async def jobs(hottest: list[HotKey]) -> AsyncIterator[list[Job]]:
    """Give all jobs to `neverstale warm`; the shop's settings come from the environment.

    Args:
        hottest: what that command has learnt: nothing, unless it was told the shop's namespace.
    """
    async with opened(Settings.from_env()) as shop:
        yield await jobs_of(shop, hottest or await learnt(shop))


async def jobs_of(
    shop: Shop, hottest: list[HotKey], *, pages: int = PAGES, products: int = PRODUCTS
) -> list[Job]:
    """Return what to read, the most important first: what everybody needs, what was learnt, what is popular.

    Of the interface's answers only those are read as a whole that were learnt: the others are made, without the
    database, of what is read here.
    """
    categories = await shop.catalog.categories()
    popular = await _most_reviewed(shop.db, products)
    app = _Application(shop)
    return [
        *_for_everybody(shop, app, pages, categories),
        *recipes_of(shop, app).jobs(hottest),
        *_for_many(shop.catalog, categories, popular),
    ]


def _for_everybody(
    shop: Shop, app: _Application, pages: int, categories: tuple[CategoryView, ...]
) -> Iterator[Job]:
    catalog = shop.catalog
    yield Job("catalog:categories", catalog.categories)
    for page in range(1, pages + 1):
        yield _list(catalog, ProductQuery(page=page))
    for each in categories:
        yield _list(catalog, ProductQuery(category_id=each.id))
    for path in ("/api/categories", "/api/products"):
        yield app.job(f"GET:{path}")
    yield Job("computed:stats", partial(reports.stats, shop))
    yield Job("computed:sales:::day", partial(reports.sales, shop, None, None, By.DAY))


def _for_many(
    catalog: CachedCatalog, categories: tuple[CategoryView, ...], popular: list[int]
) -> Iterator[Job]:
    """Give what one in a hundred asks for: products, and between them the lists in other orders, and second pages."""
    lists = (
        Job(f"catalog:popular:{each.id}", partial(catalog.popular, each.id))
        if query is None
        else _list(catalog, msgspec.structs.replace(query, category_id=each.id))
        for query in (None, *_SELDOM)
        for each in categories
    )
    yield from (_list(catalog, query) for query in _SELDOM)
    for number in popular:
        yield Job(f"catalog:product:{number}", partial(catalog.product, number))
        yield from itertools.islice(lists, 1)
    yield from lists


def recipes_of(shop: Shop, app: _Application) -> Recipes:
    """Return what reading a key means. Keys of sessions are nobody's to read, and are never learnt."""
    recipes, catalog = Recipes(), shop.catalog

    @recipes.on(r"catalog:products:(?P<query>.{1,500})")
    async def products(query: str) -> None:
        await catalog.products(_query(query))

    @recipes.on(r"catalog:product:(?P<number>[1-9][0-9]{0,9})")
    async def product(number: str) -> None:
        await catalog.product(int(number))

    @recipes.on(r"catalog:popular:(?P<category>[1-9][0-9]{0,9})")
    async def popular(category: str) -> None:
        await catalog.popular(int(category))

    recipes.on(r"catalog:categories")(catalog.categories)
    recipes.on(r"computed:stats")(partial(reports.stats, shop))

    @recipes.on(r"computed:sales:::(?P<by>[a-z]+)")
    async def sales(by: str) -> None:
        await reports.sales(shop, None, None, By(by))

    # What the interface keeps as a whole: the address is in the key, and the application answers it as for anybody.
    recipes.on(r"api:(?P<key>GET:/api/(?:products|categories)(?:[/?].{0,500})?)")(app.ask)
    return recipes


async def learnt(shop: Shop, most: int = HOT) -> list[HotKey]:
    """Return the hottest keys of the version that is running: ours or, on a deploy, the one before."""
    ours = shop.settings.version or VERSION
    for version in (ours, ours - 1):
        if version > 0 and most:
            old = await CachedCatalog.open(shop.db, replace(shop.settings, version=version), writes=False)
            try:
                found = await old.cache.hottest(most, _LEARN) if old.cache is not None else []
            except RedisUnavailable:
                return []
            finally:
                await old.close()
            if found:
                return found
    return []


class _Application:
    """The shop's own application, asked without a network."""

    def __init__(self, shop: Shop) -> None:
        from .app import create_app

        app = create_app(shop.settings)
        app.state.shop = shop
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")

    def job(self, key: str) -> Job:
        return Job(f"api:{key}", partial(self.ask, key))

    async def ask(self, key: str) -> None:
        # A product that is gone is answered, too, and that answer is kept as long.
        await self._client.get(key.removeprefix("GET:"))


def _list(catalog: CachedCatalog, query: ProductQuery) -> Job:
    return Job(f"catalog:products:{query.key()}", partial(catalog.products, query))


def _query(key: str) -> ProductQuery:
    """Read what `ProductQuery.key` wrote."""
    return msgspec.convert(dict(parse_qsl(key, strict_parsing=True)), ProductQuery, strict=False)


async def _most_reviewed(db: Database, count: int) -> list[int]:
    statement = (
        select(Review.product_id)
        .group_by(Review.product_id)
        .order_by(func.count().desc(), Review.product_id)
        .limit(count)
    )
    async with db.read() as session:
        return list(await session.scalars(statement))
