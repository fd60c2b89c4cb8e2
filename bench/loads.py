"""Keys that are not there: what the lease protocol costs beside the load, and a stampede on one key."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Awaitable, Callable

import redis

from bench.measure import Contender, Row, Section, Target, contest, inline
from bench.product import Product, product, text
from neverstale import AsyncCache, Cache
from neverstale.testing.servers import Server

READERS = 100
#: Seconds that the load of the stampede takes: a slow query.
LOAD = 0.05
#: Milliseconds that waiting readers may be behind the load, in the median.
BEHIND = Target(10, at_least=False)


async def cold(server: Server, rounds: int) -> Section:
    """Compare misses of `Cache` with GET and SET by hand, the load itself taking no time."""
    client = redis.Redis.from_url(server.url)
    numbers = itertools.count()

    def by_hand() -> None:
        key = f"cold:{next(numbers)}"
        if client.get(key) is None:
            client.set(key, text(1), ex=60)

    def load() -> Product:
        return product(1)

    with Cache.from_url(server.url, namespace="bench", timeout=5) as cache:

        def miss(tags: tuple[str, ...]) -> None:
            cache.get_or_load(f"cold:{next(numbers)}", load, ttl=60, tags=tags, type=Product)

        contenders = {
            "redis-py GET, SET by hand": Contender(inline(by_hand), note="no lease: may store what is stale"),
            "get_or_load, no tags": Contender(inline(lambda: miss(())), note="3 round trips"),
            "get_or_load, 1 tag": Contender(inline(lambda: miss(("cold",))), note="4 round trips"),
        }
        section = await contest("one thread, misses of cold keys", contenders, rounds, per_second=False)
    client.close()
    server.flush()
    return section


async def stampede(server: Server, rounds: int) -> Section:
    """Measure how far behind the load the readers of one cold key are, in one process and as if in two."""
    first = AsyncCache.from_url(server.url, namespace="bench", timeout=5)
    second = AsyncCache.from_url(server.url, namespace="bench", timeout=5)
    async with first, second:
        rows = [
            await _stampede("one process", [first], rounds),
            await _stampede("half of them in another", [first, second], rounds),
        ]
    return Section(f"{READERS} readers of one cold key, behind the load's end", "milliseconds", tuple(rows))


async def _stampede(name: str, caches: list[AsyncCache], rounds: int) -> Row:
    behind: list[float] = []
    loads = 0
    for turn in range(max(3, rounds // 3)):
        ended = 0.0

        async def load() -> Product:
            nonlocal ended, loads
            loads += 1
            await asyncio.sleep(LOAD)
            ended = time.perf_counter()
            return product(1)

        async def reader(cache: AsyncCache, key: str, load: Callable[[], Awaitable[Product]]) -> float:
            await cache.get_or_load(key, load, ttl=60, tags=["stampede"], type=Product)
            return time.perf_counter()

        key = f"{name}:{turn}"
        done = await asyncio.gather(*(reader(caches[n % len(caches)], key, load) for n in range(READERS)))
        behind.append(statistics.median(at - ended for at in done))
    turns = len(behind)
    note = f"{loads} loads in {turns} stampedes"
    return Row(name, statistics.median(behind) * 1e3, target=BEHIND, note=note)
