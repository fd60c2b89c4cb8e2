"""What the other processes of `test_processes` do; each is a fresh interpreter that imports this module.

A worker gets the cache's URL, does its work with a cache of its own, and says over a pipe what came of it. Times are
of the monotonic clock, which is one for all processes of a machine.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

import redis

from neverstale import AsyncCache, Cache, InvalidationEvent
from tests.behaviour.faces import CALM

#: Loads are counted here, by all processes together.
COUNTER = "loads"


def count(url: str) -> int:
    """Count a load, for all processes to see."""
    host, _, port = url.removeprefix("redis://").partition(",")[0].partition("?")[0].rpartition(":")
    if "cluster" in url:
        client: Any = redis.RedisCluster(host=host, port=int(port))
    else:
        client = redis.Redis(host=host, port=int(port))
    with client:
        found: int = client.incr(COUNTER)
        return found


def sync_readers(url: str, readers: int, pipe: Connection) -> None:
    """Read one cold key on many threads at once, again and again, when told to."""
    with Cache.from_url(url, timeout=CALM) as cache, ThreadPoolExecutor(readers) as threads:
        cache.get("warm")
        pipe.send("ready")
        while (key := pipe.recv()) is not None:
            landed: list[float] = []

            def load(landed: list[float] = landed) -> int:
                number = count(url)
                time.sleep(0.05)  # a load that takes as long as one from a database
                landed.append(time.monotonic())
                return number

            def read(_: int, key: str = key, load: Any = load) -> tuple[int, float]:
                value = cache.get_or_load(key, load)
                return value, time.monotonic()

            pipe.send((list(threads.map(read, range(readers))), landed))


def async_readers(url: str, readers: int, pipe: Connection) -> None:
    """Read one cold key in many tasks at once, again and again, when told to."""

    async def program() -> None:
        async with AsyncCache.from_url(url, timeout=CALM) as cache:
            await cache.get("warm")
            pipe.send("ready")
            while (key := await asyncio.to_thread(pipe.recv)) is not None:
                landed: list[float] = []

                async def load(landed: list[float] = landed) -> int:
                    number = await asyncio.to_thread(count, url)
                    await asyncio.sleep(0.05)  # a load that takes as long as one from a database
                    landed.append(time.monotonic())
                    return number

                async def read(key: str = key, load: Any = load) -> tuple[int, float]:
                    value = await cache.get_or_load(key, load)
                    return value, time.monotonic()

                pipe.send((await asyncio.gather(*(read() for _ in range(readers))), landed))

    asyncio.run(program())


def holder(url: str, lease_ttl: float, pipe: Connection) -> None:
    """Begin a load and never end it."""

    def load() -> None:
        pipe.send("loading")
        threading.Event().wait(600)

    with Cache.from_url(url, timeout=CALM, lease_ttl=lease_ttl) as cache:
        cache.get_or_load("k", load)


def invalidator(url: str, pipe: Connection) -> None:
    """Invalidate what it is told to, and say what its own subscribers heard."""
    heard: list[InvalidationEvent] = []
    with Cache.from_url(url, timeout=CALM) as cache:
        cache.events.subscribe(heard.append, InvalidationEvent)
        pipe.send("ready")
        while (order := pipe.recv()) is not None:
            kind, name = order
            receipt = getattr(cache, f"invalidate_{kind}")(name)
            pipe.send((receipt, heard[-1]))


def watcher(url: str, key: str, pipe: Connection) -> None:
    """Read a key again and again; say of each value that is older than what had been promised by then.

    What is promised stands in a key of Redis' own: the newest version whose invalidation has returned.
    """
    host, _, port = url.removeprefix("redis://").rpartition(":")
    wrong: list[tuple[int, int]] = []
    reads = 0
    with redis.Redis(host=host, port=int(port)) as client, Cache.from_url(url, timeout=CALM) as cache:
        pipe.send("ready")
        while not pipe.poll():
            promised = int(client.get("promised") or 0)
            value = cache.get_or_load(key, lambda: int(client.get("truth") or 0), tags=["t"])
            reads += 1
            if value < promised:
                wrong.append((value, promised))
        pipe.send((reads, wrong))


def forking(url: str, pipe: Connection) -> None:
    """Use a cache, fork, and use it in parent and children, as servers that preload an application do."""
    with Cache.from_url(url, timeout=CALM) as cache:
        cache.set("before", "v")
        cache.get_or_load("stale", lambda: "old", soft_ttl=0.001)
        found: list[tuple[Any, ...]] = []
        children = []
        for number in range(2):
            read_end, write_end = os.pipe()
            child = os.fork()
            if child == 0:
                try:
                    os.close(read_end)
                    values = [
                        cache.get("before"),
                        cache.get_or_load(f"child{number}", lambda number=number: number),  # type: ignore[misc]
                        cache.get_or_load("stale", lambda: "new", soft_ttl=60),
                        cache.invalidate_key("nothing").removed,
                    ]
                    cache.close()
                    os.write(write_end, repr(values).encode())
                finally:
                    os._exit(0)
            os.close(write_end)
            children.append((child, read_end))
        found.append((cache.get("before"), cache.get_or_load("parent", lambda: "parent")))
        for child, read_end in children:
            with os.fdopen(read_end, "rb") as said:
                found.append((said.read().decode(),))
            os.waitpid(child, 0)
        found.append((cache.get("before"),))
        pipe.send(found)
