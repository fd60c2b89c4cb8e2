"""Every use that the shop makes of the cache, on one page.

| entry | what it holds | tags |
|---|---|---|
| `products:<query>` | one page of a list over all categories | `products` |
| `products:<query with a category>` | one page of a list of one category | `category:<id>` |
| `product:<id>` | a product's page, or that there is none | `product:<id>` |
| `popular:<category>` | what is popular in a category | `category:<id>` |
| `categories` | the categories with their counts | `categories` |
| `stats` | the dashboard's figures | `orders`, `products`, `reviews`, `users` |
| `sales:<from>:<to>:<by>` | a sales report that includes the running day | `orders`; by product: `deletions` |
| `sales:<from>:<to>:<by>` | one of days that are over | `past-orders`; by product: `deletions` |
| `GET:/api/products?...` | the JSON of a list | `products` |
| `GET:/api/products/<id>` | that of a product | `product:<id>` |
| `GET:/api/categories` | that of the categories | `categories` |

The catalogue lives five minutes, under `catalog:`. So do the answers of the interface, under `api:`: see `RULES`.
Figures are under `computed:`, see `RUNNING` and `CLOSED`. JSON and HTML are made from the same entries. The writes
(products.py, orders.py, accounts.py) go through the sessions of `Database.write`, which are followed: what a committed
row invalidates is said once, on its model in models.py.

**When Redis is away at that moment** the write stays: it is committed, and an error would make the client repeat it, an
order for example. So the answer is the success that it is, with a `Warning` header that says what may be stale and
for how long (the pages of the catalogue; figures are for administrators, and reports of past days live longer); the
failure is logged as an error, and the invalidation is tried again in the background until it
works or everything that it concerned has expired. (While Redis is away nobody reads old entries either: reads go to the
database.) What this cannot cover is a process that dies in between.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from neverstale import AsyncCache, InvalidationError
from neverstale import Settings as Options
from neverstale.computed import AsyncComputed
from neverstale.web.asgi import Rule
from neverstale.web.sqlalchemy import touch

from . import catalog
from .db import Database
from .settings import Settings
from .tags import CATEGORIES, DELETIONS, ORDERS, PAST_ORDERS, PRODUCTS, REVIEWS, USERS
from .views import CategoryView, ProductDetail, ProductPage, ProductQuery, ProductView

__all__ = [
    "CATEGORIES",
    "CLOSED",
    "DELETIONS",
    "ORDERS",
    "PAST_ORDERS",
    "PREFIX",
    "PRODUCTS",
    "REVIEWS",
    "RULES",
    "RUNNING",
    "TTL",
    "USERS",
    "VERSION",
    "CachedCatalog",
    "Freshness",
    "Note",
    "check",
    "note",
]

T = TypeVar("T")

VERSION = 1  # raised with every change of shape of what is cached (views.py)
PREFIX = "catalog:"
# A page of a list is some 8 KB. Left as it is, it takes a tenth of a millisecond less at each hit.
COMPRESS_ABOVE = 32_768
TTL = 300.0  # five minutes: what the shop is ready to show late, should an invalidation ever be lost

# What everybody is told alike, logged in or not; nothing else that the shop answers is kept as a whole. A list is of
# all products or of one category's: `products` goes with every change of either.
_NO_MATTER = ("utm_*", "fbclid", "gclid")
RULES = (
    Rule("/api/products", ttl=TTL, tags=(PRODUCTS,), public=True, ignore=_NO_MATTER),
    Rule("/api/products/{id:int}", ttl=TTL, tags=("product:{id}",), public=True, ignore=_NO_MATTER),
    Rule("/api/categories", ttl=TTL, tags=(CATEGORIES,), public=True, ignore=_NO_MATTER),
)


@dataclass(frozen=True)
class Freshness:
    """How old a figure may be, in seconds, if nobody has invalidated it.

    Attributes:
        soft_ttl: so long it is served as it is; then it is computed anew in the background, while it is served.
        ttl: so long it is served at all.
        stale_if_error: so long after that it is shown if the database cannot be reached, or takes its time.
        soft_timeout: how long somebody waits for the new figure then.
    """

    soft_ttl: float
    ttl: float
    stale_if_error: float
    soft_timeout: float = 1.0  # a page that takes longer feels broken


# What includes the running day changes with every order, and the order says so: these are for changes from outside of
# the shop, an import for example. Within half a minute they are seen by whoever looks again; five minutes is what the
# catalogue allows itself. An hour: that is an outage in which a dashboard of before is better than none.
RUNNING = Freshness(soft_ttl=30, ttl=300, stale_if_error=3600)
# Days that are over change only if an order is cancelled or corrected, from outside of the shop: an hour is soon enough
# to see that, and half a day is a working day: who looks each morning pays for one computation. The rest of the day
# that Redis may keep it is for an outage.
CLOSED = Freshness(soft_ttl=3600, ttl=43_200, stale_if_error=43_200)


@dataclass
class Note:
    """What the cache did for the request that is being answered: `off`, `none` (not asked), `hit` or `load`."""

    began: float  # perf_counter's
    cache: str = "none"
    not_invalidated: bool = False


note: ContextVar[Note | None] = ContextVar("note", default=None)


class CachedCatalog:
    """The catalogue, read through the cache where there is one.

    Without one (`CACHE_ENABLED=0`) the same loaders are called, and the shop answers the same.

    Arguments:
        cache: None: every question goes to the database.
        writes: whether the writes of `db` are followed. A database's are followed for one catalogue: another one, to
            look at an older version for example, only reads.
    """

    def __init__(self, db: Database, cache: AsyncCache | None, *, writes: bool = True) -> None:
        self._db = db
        self._cache = cache
        self._computed = None if cache is None else AsyncComputed(cache)
        self._following = db.follow_writes(cache, _not_invalidated) if cache is not None and writes else None

    @classmethod
    async def open(cls, db: Database, settings: Settings, *, writes: bool = True) -> CachedCatalog:
        """Make the catalogue; connects to nothing yet."""
        if not settings.cache_enabled:
            return cls(db, None)
        options = _options(settings, await namespace_of(db, settings))
        return cls(db, AsyncCache(options, prefix=PREFIX), writes=writes)

    @property
    def cache(self) -> AsyncCache | None:
        """The cache, if there is one: for whole answers."""
        return self._cache

    # -- reading ------------------------------------------------------------------------------------------------------

    async def products(self, query: ProductQuery) -> ProductPage:
        """Return one page of a list."""
        tag = "products" if query.category_id is None else f"category:{query.category_id}"

        async def load() -> ProductPage:
            return await catalog.products(self._db, query)

        return await self._through(f"products:{query.key()}", load, (tag,), ProductPage)

    async def product(self, product_id: int) -> ProductDetail | None:
        """Return a product, or `None`; that there is none is cached, too."""

        async def load() -> ProductDetail | None:
            return await catalog.product(self._db, product_id)

        name = f"product:{product_id}"
        return await self._through(name, load, (name,), ProductDetail | None)

    async def popular(self, category_id: int) -> tuple[ProductView, ...]:
        """Return what is popular in a category."""

        async def load() -> tuple[ProductView, ...]:
            return await catalog.popular(self._db, category_id)

        return await self._through(
            f"popular:{category_id}", load, (f"category:{category_id}",), tuple[ProductView, ...]
        )

    async def categories(self) -> tuple[CategoryView, ...]:
        """Return all categories."""

        async def load() -> tuple[CategoryView, ...]:
            return await catalog.categories(self._db)

        return await self._through(CATEGORIES, load, (CATEGORIES,), tuple[CategoryView, ...])

    async def computed(
        self, key: str, load: Callable[[], Awaitable[T]], tags: tuple[str, ...], kind: Any, fresh: Freshness
    ) -> T:
        """Return a figure, computed by `load` where it has to be."""
        computed = self._computed
        if computed is None:
            _noted("off")
            return await load()
        noted = _Noted(load)
        value: T = await computed.memoize(
            key,
            noted,
            fresh.ttl,
            soft_ttl=fresh.soft_ttl,
            tags=tags,
            type=kind,
            stale_if_error=fresh.stale_if_error,
            soft_timeout=fresh.soft_timeout,
        )
        noted.say()
        return value

    async def _through(
        self, key: str, load: Callable[[], Awaitable[T]], tags: tuple[str, ...], kind: Any
    ) -> T:
        if self._cache is None:
            _noted("off")
            return await load()
        noted = _Noted(load)
        value: T = await self._cache.get_or_load(key, noted, ttl=TTL, tags=tags, type=kind)
        noted.say()
        return value

    # -- invalidating -------------------------------------------------------------------------------------------------

    def touch(self, session: AsyncSession, *tags: str) -> None:
        """Invalidate tags, too, when the transaction is committed: for what the integration cannot see of it."""
        if self._following is not None:
            touch(session, tags=tags)

    async def forget_everything(self) -> str | None:
        """Invalidate all that was ever cached of this database; returns what went wrong, if it did."""
        if self._cache is not None:
            try:
                await self._cache.clear()
            except InvalidationError as error:
                return str(error)
        return None

    # -- looking ------------------------------------------------------------------------------------------------------

    async def health(self) -> str:
        """Return `ok`, or what is wrong with Redis."""
        if self._cache is None:
            return "not used (CACHE_ENABLED=0)"
        return (await self._cache.health()).redis

    async def close(self) -> None:
        """Let go of Redis."""
        if self._following is not None:
            self._following.detach()
            await self._following.retrier.close()
        if self._cache is not None:
            await self._cache.close()


async def namespace_of(db: Database, settings: Settings) -> str:
    """Return what all keys of a shop begin with.

    It has the database's own id in it: two shops on one Redis must not show each other's goods. A copy of a database
    has the same id: on the same Redis give it another namespace by `NEVERSTALE_NAMESPACE`.
    """
    return settings.namespace or f"shop-{await db.fact('id')}"


def check(settings: Settings) -> None:
    """Raise a `ValueError` of one line when a setting of the cache is wrong."""
    if settings.cache_enabled:
        _options(settings, settings.namespace or "shop")


def _options(settings: Settings, namespace: str) -> Options:
    """Return the cache's own settings: the shop's, and what the operator says in other `NEVERSTALE_` variables."""
    environ = {**os.environ, "REDIS_URL": settings.redis_url}
    return Options.from_env(
        environ,
        namespace=namespace,
        version=settings.version or VERSION,
        ttl=TTL,
        compress_above=COMPRESS_ABOVE,
    )


class _Noted(Generic[T]):
    """A loader that notes for the request whether it had to run.

    The loaders open sessions of their own: a load is shared by all who ask meanwhile, and may outlive the request that
    began it.
    """

    def __init__(self, load: Callable[[], Awaitable[T]]) -> None:
        self._load = load
        self._ran = False

    async def __call__(self) -> T:
        self._ran = True
        return await self._load()

    def say(self) -> None:
        """Note where the value came from."""
        _noted("load" if self._ran else "hit")


def _not_invalidated(_: InvalidationError) -> None:
    """Note for the request that Redis was away when its write was committed: see the top of this module."""
    current = note.get()
    if current is not None:
        current.not_invalidated = True


def _noted(where: str) -> None:
    current = note.get()
    if current is not None and current.cache != "load":  # of several reads, one load makes it a load
        current.cache = where
