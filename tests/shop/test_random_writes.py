"""Whatever is written, in whatever order, by whichever process: every cached answer is that of the database, at once.

Four shops, each a process, share a database and a Redis. Writes come alone and several at once, each from a process of
its own, while readers ask all four for what is about to change. As soon as the last writer has its answer, everything
that is cached is asked for, with the cache and without, while the readers' last loads are still under way.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random
from typing import Any

import pytest

from neverstale import AsyncCache
from neverstale.testing.servers import RedisServer
from shop import tags
from shop.app import create_app
from shop.settings import Settings
from tests.shop.every_write import WRITES, World, client, here
from tests.shop.running import RunningShop

PROCESSES = 4
#: So often all writes are made; more by hand: SHOP_WRITES=20.
PASSES = int(os.environ.get("SHOP_WRITES", "1"))
SEED = int(os.environ.get("SHOP_SEED", "0")) or Random().randrange(1, 10**6)
ALL = [getattr(tags, name) for name in tags.__all__]


def routes(of: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Return methods and paths; newer FastAPIs keep included routers whole."""
    for each in of:
        inner = getattr(each, "original_router", None)
        if inner is not None:
            yield from routes(inner.routes)
        else:
            yield from ((method, each.path) for method in getattr(each, "methods", None) or ())


def test_every_route_that_writes_is_here() -> None:
    """A route that is added has its entry, or this fails."""
    found = routes(create_app(Settings(cache_enabled=False)).routes)
    assert {each for each in found if each[0] not in ("GET", "HEAD", "OPTIONS")} == set(WRITES)


@asynccontextmanager
async def four_shops(
    database: str, redis: RedisServer, random: Random
) -> AsyncIterator[tuple[World, AsyncCache]]:
    """Start four processes on one database, and a shop without a cache in this one."""
    namespace = f"random-{random.randrange(10**9)}"
    starting = [
        asyncio.to_thread(RunningShop, database, redis.url, namespace=namespace) for _ in range(PROCESSES)
    ]
    shops = await asyncio.gather(*starting)
    try:
        async with (
            AsyncCache.from_url(redis.url, namespace=namespace) as cache,
            AsyncExitStack() as stack,
        ):
            _, plain = await stack.enter_async_context(here(Settings(database, cache_enabled=False)))
            clients = [await stack.enter_async_context(client(each.base_url)) for each in shops]
            world = World(clients, plain, random)
            await world.begin()
            try:
                yield world, cache
            finally:
                await world.settle()
    finally:
        said = [await asyncio.to_thread(each.stop) for each in shops]
    assert "Traceback" not in "".join(said)


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, new_database: Callable[[str], str]) -> str:
    """Give a database of each kind in turn."""
    return new_database(request.param)


async def test_after_every_write_every_cached_answer_is_the_uncached_one(
    database: str, redis_server: RedisServer
) -> None:
    """All writes in random order, alone and up to four at once, and after each of them nothing is stale anywhere."""
    random = Random(SEED)
    async with four_shops(database, redis_server, random) as (world, cache):
        assert await world.stale() == []
        for _ in range(PASSES):
            coming = random.sample(sorted(WRITES), len(WRITES))
            while coming:
                await world.look_round()
                together = [coming.pop() for _ in range(min(random.choice((1, 1, 2, 4)), len(coming)))]
                if random.random() < 0.5:  # so that much is being loaded while it is written
                    await cache.invalidate_tags(*ALL, *(f"category:{each}" for each in world.slugs))
                async with world.hammered():
                    writers = random.sample(list(world.shops), len(together))
                    done = await asyncio.gather(
                        *(WRITES[which](world, shop) for which, shop in zip(together, writers, strict=True))
                    )
                said = f"seed {SEED}, after {together}"
                assert await world.stale() == [], said
                await world.settle()
                assert all(answer.status_code < 500 for answer in done), said
                if len(together) == 1:
                    assert done[0].status_code < 400, f"{said}: {done[0].text}"
                else:  # one may have taken away what another one needed: it comes again, alone
                    failed = zip(together, done, strict=True)
                    coming[:0] = [which for which, answer in failed if answer.status_code >= 400]
