"""Filling the cache before visitors come: what most of them will look at first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from sqlalchemy import func, select

from .caching import CachedCatalog
from .db import Database
from .models import Review
from .views import ProductQuery

__all__ = ["warm"]

_AT_ONCE = 4  # more would only stand in each other's way: the database has two cores here, and visitors


async def warm(
    db: Database, catalog: CachedCatalog, pages: int, products: int, progress: Callable[[int, int], None]
) -> int:
    """Read the first pages of every list and the most reviewed products through the cache.

    Reading is filling: what is cached already is left as it is, and an invalidation in between wins as always. Returns
    the number of reads.
    """
    categories = await catalog.categories()
    jobs: list[Callable[[], Coroutine[Any, Any, Any]]] = []
    for page in range(1, pages + 1):
        jobs.append(lambda page=page: catalog.products(ProductQuery(page=page)))  # type: ignore[misc]
    for category in categories:
        jobs.append(lambda each=category: catalog.products(ProductQuery(category_id=each.id)))  # type: ignore[misc]
        jobs.append(lambda each=category: catalog.popular(each.id))  # type: ignore[misc]
    for product_id in await _most_reviewed(db, products):
        jobs.append(lambda each=product_id: catalog.product(each))  # type: ignore[misc]

    done = 0
    waiting = iter(jobs)

    async def work() -> None:
        nonlocal done
        for job in waiting:
            await job()
            done += 1
            progress(done, len(jobs))

    async with asyncio.TaskGroup() as group:
        for _ in range(_AT_ONCE):
            group.create_task(work())
    return done


async def _most_reviewed(db: Database, count: int) -> list[int]:
    statement = (
        select(Review.product_id)
        .group_by(Review.product_id)
        .order_by(func.count().desc(), Review.product_id)
        .limit(count)
    )
    async with db.read() as session:
        return list(await session.scalars(statement))
