"""One reader that reads one key after the other: what a request alone on its worker pays."""

from __future__ import annotations

import redis
import redis.asyncio

from bench.measure import Contender, Section, Target, contest, inline, sequential
from bench.product import Product, product, text
from neverstale import AsyncCache, Cache
from neverstale.testing.servers import Server

CLOSE = Target(1.25, at_least=False)
TAGS = ("product:1",)


async def in_a_thread(server: Server, rounds: int) -> Section:
    """Compare `Cache` with redis-py's GET."""
    client = redis.Redis.from_url(server.url)
    client.set("bare", text(1), ex=3600)

    def load() -> Product:
        raise AssertionError("a hit was expected")

    with Cache.from_url(server.url, namespace="bench", timeout=5) as cache:
        cache.set("text", text(1))
        cache.get_or_load("product", lambda: product(1), tags=TAGS, type=Product)
        contenders = {
            "redis-py GET": Contender(inline(lambda: client.get("bare"))),
            "get": Contender(inline(lambda: cache.get("text")), CLOSE),
            "get_json of a Struct, 1 tag": Contender(
                inline(lambda: cache.get_json("product", type=Product)), CLOSE
            ),
            "get_or_load, 1 tag": Contender(
                inline(lambda: cache.get_or_load("product", load, tags=TAGS, type=Product)), CLOSE
            ),
        }
        section = await contest("one thread, one hit after the other", contenders, rounds, per_second=False)
    client.close()
    return section


async def on_a_loop(server: Server, rounds: int) -> Section:
    """Compare `AsyncCache` with redis-py's asyncio GET."""
    client = redis.asyncio.Redis.from_url(server.url)
    await client.set("bare", text(1), ex=3600)

    async def load() -> Product:
        raise AssertionError("a hit was expected")

    async with AsyncCache.from_url(server.url, namespace="bench", timeout=5) as cache:
        await cache.set("text", text(1))
        await cache.get_or_load("product", lambda: product(1), tags=TAGS, type=Product)
        contenders = {
            "redis-py GET": Contender(sequential(lambda: client.get("bare"))),
            "get": Contender(sequential(lambda: cache.get("text")), CLOSE),
            "get_json of a Struct, 1 tag": Contender(
                sequential(lambda: cache.get_json("product", type=Product)), CLOSE
            ),
            "get_or_load, 1 tag": Contender(
                sequential(lambda: cache.get_or_load("product", load, tags=TAGS, type=Product)), CLOSE
            ),
        }
        section = await contest("asyncio, one hit after the other", contenders, rounds, per_second=False)
    await client.aclose()
    return section
