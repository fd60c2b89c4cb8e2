"""What the other processes of `test_processes` do; each is a fresh interpreter that imports this module."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection

from neverstale import AsyncCache, Cache, LoadTimeout
from neverstale.computed import AsyncComputed, Computed
from tests.behaviour.faces import CALM
from tests.behaviour.workers import count

READERS = 5


def threads(url: str, pipe: Connection) -> None:
    """Compute one value on many threads at once, when told to."""
    with Cache.from_url(url, timeout=CALM) as cache, ThreadPoolExecutor(READERS) as pool:
        computed = Computed(cache)
        cache.get("warm")
        pipe.send("ready")
        pipe.recv()

        def compute() -> int:
            time.sleep(0.3)  # expensive
            return count(url)

        def ask(_: int) -> int:
            return computed.memoize("k", compute, 60, hard_timeout=CALM)

        pipe.send(list(pool.map(ask, range(READERS))))
        pipe.recv()


def tasks(url: str, pipe: Connection) -> None:
    """Compute one value in many tasks at once, when told to."""

    async def work() -> None:
        async with AsyncCache.from_url(url, timeout=CALM) as cache:
            computed = AsyncComputed(cache)
            await cache.get("warm")
            pipe.send("ready")
            pipe.recv()

            async def compute() -> int:
                await asyncio.sleep(0.3)
                return count(url)

            asking = (computed.memoize("k", compute, 60, hard_timeout=CALM) for _ in range(READERS))
            pipe.send(await asyncio.gather(*asking))
            pipe.recv()

    asyncio.run(work())


def forking(url: str, pipe: Connection) -> None:
    """Fork while computations run on the cache's own threads; the child computes with limits, too."""
    cache = Cache.from_url(url, timeout=CALM)
    computed, gate = Computed(cache), threading.Event()
    try:
        computed.memoize("parent", gate.wait, 60, hard_timeout=0.05)
    except LoadTimeout:
        pipe.send("late")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside a thread: the point of it
        child = os.fork()
    if not child:
        found = computed.memoize("child", lambda: "computed", 60, hard_timeout=CALM)
        cache.close()
        os._exit(0 if found == "computed" else 1)
    pipe.send(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    gate.set()
    cache.close()
    with Cache.from_url(url, timeout=CALM) as other:
        pipe.send(Computed(other).memoize("parent", lambda: "never called", 60))
    pipe.recv()
