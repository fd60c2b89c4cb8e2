"""Loads and refreshes on threads of our own: what becomes of them when their callers, or the cache, end early."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from neverstale import Cache, LoadTimeout
from neverstale.computed import Computed
from neverstale.drive import threads
from neverstale.testing.servers import RedisServer
from tests.behaviour.faces import CALM, Face, Faces, until

#: A limit that is over soon, and one that is never.
SOON = 0.2
NEVER = 20.0


@pytest.fixture
async def face(redis_server: RedisServer) -> AsyncIterator[Face]:
    made = Faces("sync", redis_server.url)
    yield made.make()
    await made.close()


async def test_who_waits_for_a_load_that_was_not_begun(face: Face) -> None:
    """Whose own time is not up gets no error of somebody else's: it asks for a thread itself."""
    computed = Computed(face.cache)

    async def memoize(key: str, load: Any, limit: float) -> Any:
        return await face.call(computed.memoize, key, load, 60, hard_timeout=limit)

    hung, fresh = face.loader("hung", held=True), face.loader("fresh")
    asking = [asyncio.ensure_future(memoize(f"hung{n}", hung, NEVER)) for n in range(threads._LOADERS)]
    await hung.begun(threads._LOADERS)
    hasty = asyncio.ensure_future(memoize("k", fresh, SOON))
    await until(lambda: computed.stats().misses == threads._LOADERS + 1)
    patient = asyncio.ensure_future(memoize("k", fresh, NEVER))
    await until(lambda: computed.stats().waits == 1)
    with pytest.raises(LoadTimeout, match=r"within 0\.2 s"):
        await hasty
    assert not patient.done()
    hung.let_go()
    assert await patient == "fresh"
    assert fresh.calls == 1
    await asyncio.gather(*asking)


class Stop(BaseException):
    """What ends a thread, as KeyboardInterrupt does."""


@pytest.fixture
def stopping() -> Iterator[None]:
    """A signal that raises `Stop` in the main thread."""

    def stop(*_: object) -> None:
        raise Stop

    before = signal.signal(signal.SIGUSR1, stop)
    yield
    signal.signal(signal.SIGUSR1, before)


def test_a_caller_that_is_interrupted(redis_server: RedisServer, stopping: None) -> None:
    """The interrupt is raised, and the lease is given back: nobody waits until it ends."""
    gate, main = threading.Event(), threading.main_thread().ident or 0

    def load() -> str:
        while sys._current_frames()[main].f_code is not threading.Condition.wait.__code__:
            gate.wait(0.001)  # it is on its way there
        signal.pthread_kill(main, signal.SIGUSR1)
        gate.wait(NEVER)
        return "late"

    with Cache.from_url(redis_server.url, timeout=CALM) as cache:
        computed = Computed(cache)
        try:
            with pytest.raises(Stop):
                computed.memoize("k", load, 60, hard_timeout=NEVER)
            assert redis_server.client().exists("v1:computed:k") == 0
            assert computed.memoize("k", lambda: "next", 60) == "next"
        finally:
            gate.set()


async def test_refreshes_that_were_given_up_when_the_cache_was_closed(face: Face) -> None:
    """Who goes on with the cache refreshes their entries as any other."""
    keys = [f"k{n}" for n in range(threads._REFRESHERS + 1)]
    for key in keys:
        await face.get_or_load(key, face.loader("old"), soft_ttl=0.001)
    held, driver = face.loader("new", held=True), face.cache._driver
    while len(driver._refreshing) < len(keys):
        for key in keys:
            await face.get_or_load(key, held, soft_ttl=0.001)
    await held.begun(threads._REFRESHERS)
    pool = driver._refreshers
    assert pool._work_queue.qsize() == 1
    closing = face.start("close")
    await until(lambda: pool._shutdown)
    held.let_go()
    await closing
    assert held.calls == threads._REFRESHERS
    last, given = face.loader("newest"), "old"
    async with asyncio.timeout(10):
        while given == "old":
            for key in keys:
                given = await face.get_or_load(key, last, soft_ttl=60)
                await asyncio.sleep(0.001)
                if given == "old":
                    break
    assert given in ("new", "newest")
