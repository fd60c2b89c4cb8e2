"""A hundred concurrent readers on one event loop: what a busy web worker does."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import redis.asyncio
from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster

from bench.measure import Contender, Section, Target, concurrent, contest
from bench.product import Product, product, text
from neverstale import AsyncCache
from neverstale.testing.servers import Server

Read: TypeAlias = Callable[[int], Awaitable[object]]

READERS = 100
#: So many keys in all: each reader has ten of its own.
KEYS = 1000
#: How an entry is tagged, by its number, and what that means for a read.
TAGS: dict[str, tuple[Callable[[int], tuple[str, ...]], str]] = {
    "no tags": (lambda n: (), ""),
    "1 tag, shared": (lambda n: ("products",), "1 key a read, and 1 for all"),
    "1 tag": (lambda n: (f"product:{n}",), "2 keys a read"),
    "3 tags": (lambda n: (f"product:{n}", f"category:{n % 10}", "products"), "2 keys a read, and 11 for all"),
}
#: The usual size of a pool in the frameworks' guides.
POOL = 10


async def on_one_node(server: Server, rounds: int) -> Section:
    """Compare hits with redis-py's GET of the same texts."""
    pooled = redis.asyncio.Redis(
        connection_pool=redis.asyncio.BlockingConnectionPool.from_url(server.url, max_connections=POOL)
    )
    unbounded = redis.asyncio.Redis.from_url(server.url)
    for number in range(KEYS):
        await pooled.set(f"bare:{number}", text(number), ex=3600)
    hundred = [f"bare:{number}" for number in range(READERS)]

    async def by_hand(times: int) -> int:
        turns = max(1, times // READERS)
        for _ in range(turns):
            await pooled.mget(hundred)
        return turns * READERS

    async with AsyncCache.from_url(server.url, namespace="bench", timeout=5) as cache:
        reads = await _hits(cache)
        contenders = {
            f"redis-py GET, pool of {POOL}": Contender(
                concurrent(READERS, KEYS, lambda n: pooled.get(f"bare:{n}"))
            ),
            "redis-py GET, default pool of 100": Contender(
                concurrent(READERS, KEYS, lambda n: unbounded.get(f"bare:{n}"))
            ),
            **{
                # What carries tags of its own reads their stamps as well: the target is for one key a read.
                name: Contender(concurrent(READERS, KEYS, read), None if note else Target(7), note)
                for name, (read, note) in reads.items()
            },
            f"ceiling: MGET of {READERS} by hand": Contender(by_hand, note="one caller, nothing decoded"),
        }
        section = await contest(f"asyncio, {READERS} concurrent readers, one node", contenders, rounds)
    await pooled.aclose()
    await pooled.connection_pool.disconnect()
    await unbounded.aclose()
    return section


async def on_a_cluster(server: Server, rounds: int) -> Section:
    """Compare hits on a cluster with redis-py's cluster client."""
    url = server.url.partition("?")[0].partition(",")[0]
    client: Any = AsyncRedisCluster.from_url(url)
    for number in range(KEYS):
        await client.set(f"bare:{number}", text(number), ex=3600)
    async with AsyncCache.from_url(server.url, namespace="bench", timeout=5) as cache:
        reads = await _hits(cache)
        contenders = {
            "redis-py's cluster client GET": Contender(
                concurrent(READERS, KEYS, lambda n: client.get(f"bare:{n}"))
            ),
            **{
                name: Contender(concurrent(READERS, KEYS, read), note=note)
                for name, (read, note) in reads.items()
            },
        }
        section = await contest(
            f"asyncio, {READERS} concurrent readers, a cluster of {len(server.primaries())}",
            contenders,
            rounds,
        )
    await client.aclose()
    return section


async def _hits(cache: AsyncCache) -> dict[str, tuple[Read, str]]:
    """Fill a cache; return ways to read the value of a number from it, all of them hits, with a note each."""
    reads: dict[str, tuple[Read, str]] = {
        "get": (lambda n: cache.get(f"text:{n}"), ""),
        "get_json of a Struct": (lambda n: cache.get_json(f"no tags:{n}", type=Product), ""),
    }
    for number in range(KEYS):
        await cache.set(f"text:{number}", text(number))
    for kind, (tags_of, note) in TAGS.items():
        for number in range(KEYS):
            load = functools.partial(product, number)
            await cache.get_or_load(f"{kind}:{number}", load, tags=tags_of(number), type=Product)
        reads[f"get_or_load, {kind}"] = (_loading(cache, kind, tags_of), note)
    for read, _ in reads.values():
        await asyncio.gather(*(read(number) for number in range(KEYS)))
    return reads


def _loading(cache: AsyncCache, kind: str, tags_of: Callable[[int], tuple[str, ...]]) -> Read:
    async def load() -> Product:
        raise AssertionError("a hit was expected")

    def read(number: int) -> Awaitable[Product]:
        return cache.get_or_load(f"{kind}:{number}", load, tags=tags_of(number), type=Product)

    return read
