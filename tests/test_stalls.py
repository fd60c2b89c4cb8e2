"""An event loop that something else keeps busy is not a slow Redis."""

from __future__ import annotations

import asyncio
import time

import pytest

from neverstale import AsyncCache
from neverstale.testing.servers import RedisServer


@pytest.mark.parametrize("ticks", range(8))
async def test_a_loop_that_stalls_during_a_read_costs_no_miss(redis_server: RedisServer, ticks: int) -> None:
    """A read is answered although its time limit ran out while the loop stood still, at whatever tick that began."""
    async with AsyncCache.from_url(redis_server.url, namespace="stalls") as cache:
        await cache.set("key", "value")

        async def stall() -> None:
            for _ in range(ticks):
                await asyncio.sleep(0)
            time.sleep(4 * cache.settings.timeout)  # noqa: ASYNC251 - what the test is about

        stalled = asyncio.create_task(stall())
        value = await cache.get("key")
        await stalled

        assert value == "value"
        assert cache.stats()[""].misses == 0
