"""Callers that go away: what they shared with others goes on, and nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from neverstale import AsyncCache, Cache
from neverstale.testing.servers import RedisServer
from tests.behaviour.faces import CALM, until


@pytest.fixture
async def complaints() -> AsyncIterator[list[dict[str, Any]]]:
    """What asyncio complains of: tasks destroyed, exceptions that nobody fetched."""
    found: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: found.append(context))
    yield found
    gc.collect()
    assert found == []


@pytest.fixture
async def cache(redis_server: RedisServer, complaints: list[dict[str, Any]]) -> AsyncIterator[AsyncCache]:
    async with AsyncCache.from_url(redis_server.url, timeout=CALM) as cache:
        yield cache


class Held:
    """A loader that goes on when it is let go."""

    def __init__(self, value: Any = "loaded") -> None:
        self.value = value
        self.calls = 0
        self.gate = asyncio.Event()

    async def __call__(self) -> Any:
        self.calls += 1
        await self.gate.wait()
        if isinstance(self.value, BaseException):
            raise self.value
        return self.value


def waits(cache: AsyncCache) -> int:
    return cache.stats()[""].waits


async def three_readers(cache: AsyncCache, loader: Held) -> list[asyncio.Task[Any]]:
    """Start a reader that loads and two that wait for it."""
    readers = [asyncio.create_task(cache.get_or_load("k", loader))]
    await until(lambda: loader.calls == 1)
    readers += [asyncio.create_task(cache.get_or_load("k", loader)) for _ in range(2)]
    await until(lambda: waits(cache) == 2)
    return readers


@pytest.mark.parametrize("number", [0, 1, 2])
async def test_one_of_the_readers(cache: AsyncCache, number: int) -> None:
    """Cancelling the reader that loads, or one that waits, changes nothing for the others, nor for what is stored."""
    loader = Held()
    readers = await three_readers(cache, loader)
    gone = readers.pop(number)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    loader.gate.set()
    assert await asyncio.gather(*readers) == ["loaded", "loaded"]
    assert await cache.get_json("k") == "loaded"
    assert loader.calls == 1


async def test_all_readers(cache: AsyncCache, redis_server: RedisServer) -> None:
    """With every reader gone the load ends all the same, and what it gave is stored for the next."""
    loader = Held()
    readers = await three_readers(cache, loader)
    for reader in readers:
        reader.cancel()
    await asyncio.wait(readers)
    late = asyncio.create_task(cache.get_or_load("k", Held("never called")))
    await until(lambda: waits(cache) == 3)
    loader.gate.set()
    assert await late == "loaded"
    assert await cache.get_json("k") == "loaded"


async def test_all_readers_of_a_load_that_fails(cache: AsyncCache, redis_server: RedisServer) -> None:
    """A load that nobody waits for any more fails in silence, and gives its lease back."""
    loader = Held(LookupError("nobody hears this"))
    readers = await three_readers(cache, loader)
    for reader in readers:
        reader.cancel()
    await asyncio.wait(readers)
    loader.gate.set()
    await until(lambda: redis_server.keys() == [])
    assert cache.stats()[""].load_errors == 1


async def test_a_time_limit_of_the_caller(cache: AsyncCache) -> None:
    """A caller's own time limit ends his waiting, not the load."""
    loader = Held()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await cache.get_or_load("k", loader)
    loader.gate.set()
    assert await cache.get_or_load("k", Held("never called")) == "loaded"


async def test_at_every_step(cache: AsyncCache, redis_server: RedisServer) -> None:
    """Wherever a lone reader is cancelled, no lease is left behind and the next reader has a value at once."""
    load: Any = lambda: asyncio.sleep(0, "loaded")  # noqa: E731
    for steps in range(0, 40, 2):
        key = f"k{steps}"
        reader = asyncio.create_task(cache.get_or_load(key, load, tags=["t"]))
        for _ in range(steps):
            await asyncio.sleep(0)
        reader.cancel()
        await asyncio.wait([reader])
        async with asyncio.timeout(2):
            assert await cache.get_or_load(key, lambda: "loaded") == "loaded"


async def test_set_at_every_step(cache: AsyncCache) -> None:
    """A `set` that is cancelled is done or not done, never half."""
    for steps in range(0, 24, 2):
        await cache.set("k", "old", tags=["t"])
        setting = asyncio.create_task(cache.set("k", "new", tags=["t"]))
        for _ in range(steps):
            await asyncio.sleep(0)
        setting.cancel()
        await asyncio.wait([setting])
        assert await cache.get("k") in ("old", "new")
        assert (await cache.invalidate_tag("t")).removed == 1
        assert await cache.get("k") is None


async def test_an_invalidation(cache: AsyncCache) -> None:
    """An invalidation whose caller goes away is done to its end."""
    await cache.set_many({f"k{i}": "v" for i in range(1500)}, tags=["t"])
    invalidating = asyncio.create_task(cache.invalidate_tag("t"))
    await asyncio.sleep(0)
    invalidating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await invalidating
    async with asyncio.timeout(CALM):
        while await cache.get_many([f"k{i}" for i in range(1500)]):
            pass


async def test_a_loader_that_cancels_itself(cache: AsyncCache, redis_server: RedisServer) -> None:
    """A CancelledError of the loader's own is for its caller alone; those who wait load for themselves."""
    loader = Held(asyncio.CancelledError())
    readers = [asyncio.create_task(cache.get_or_load("k", loader))]
    await until(lambda: loader.calls == 1)
    own = Held("own")
    own.gate.set()
    readers.append(asyncio.create_task(cache.get_or_load("k", own)))
    await until(lambda: waits(cache) == 1)
    loader.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await readers[0]
    assert await readers[1] == "own"
    assert await cache.get_json("k") == "own"


# --- the end ------------------------------------------------------------------------------------------------------


async def test_closing_while_loads_run(redis_server: RedisServer, complaints: list[dict[str, Any]]) -> None:
    """Closing waits for loads that run, and what they give is stored and handed out."""
    cache = AsyncCache.from_url(redis_server.url, timeout=CALM)
    loader = Held()
    readers = await three_readers(cache, loader)
    closing = asyncio.create_task(cache.close())
    await asyncio.sleep(0)
    assert not closing.done()
    loader.gate.set()
    await closing
    assert await asyncio.gather(*readers) == ["loaded"] * 3
    async with AsyncCache.from_url(redis_server.url, timeout=CALM) as other:
        assert await other.get_json("k") == "loaded"


@pytest.mark.leaves_a_cache_open
def test_a_loop_that_ends_while_a_load_runs(redis_server: RedisServer) -> None:
    """A program that ends without closing leaves no lease behind."""
    began = threading.Event()

    async def load() -> None:
        began.set()
        await asyncio.sleep(3600)

    async def program() -> None:
        cache = AsyncCache.from_url(redis_server.url, timeout=CALM)
        loader: Any = load
        reader = asyncio.create_task(cache.get_or_load("k", loader))
        await until(began.is_set)
        reader.cancel()

    asyncio.run(program())
    assert redis_server.keys() == []


@pytest.mark.leaves_a_cache_open
def test_a_program_that_is_interrupted(redis_server: RedisServer) -> None:
    """What ends the whole loop from inside a load gives the lease back as well."""

    async def load() -> None:
        raise KeyboardInterrupt

    async def program() -> None:
        cache = AsyncCache.from_url(redis_server.url, timeout=CALM)
        loader: Any = load
        await cache.get_or_load("k", loader)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(program())
    assert redis_server.keys() == []


# --- threads ------------------------------------------------------------------------------------------------------


@pytest.fixture
def threaded(redis_server: RedisServer) -> Iterator[Cache]:
    with Cache.from_url(redis_server.url, timeout=CALM) as cache:
        yield cache


def test_closing_while_a_thread_loads(redis_server: RedisServer) -> None:
    """A thread whose cache is closed while it loads still gets what it loads."""
    gate, began = threading.Event(), threading.Event()
    found: list[Any] = []

    def load() -> str:
        began.set()
        assert gate.wait(CALM)
        return "loaded"

    cache = Cache.from_url(redis_server.url, timeout=CALM)
    thread = threading.Thread(target=lambda: found.append(cache.get_or_load("k", load)))
    thread.start()
    assert began.wait(CALM)
    cache.close()
    gate.set()
    thread.join(CALM)
    assert found == ["loaded"]


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_ends_a_thread(threaded: Cache, redis_server: RedisServer, end: type[BaseException]) -> None:
    """What ends a thread inside of its loader ends it, with the lease given back."""

    def load() -> None:
        raise end

    with pytest.raises(end):
        threaded.get_or_load("k", load)
    assert redis_server.keys() == []
    assert threaded.get_or_load("k", lambda: 1) == 1


def test_what_ends_a_thread_is_for_that_thread_alone(threaded: Cache) -> None:
    """Others who wait for a load whose thread is ended load for themselves."""
    gate, began = threading.Event(), threading.Event()
    ended: list[BaseException] = []

    def load() -> None:
        began.set()
        assert gate.wait(CALM)
        raise SystemExit

    def first() -> None:
        with contextlib.suppress(SystemExit):
            threaded.get_or_load("k", load)
        ended.append(SystemExit())

    found: list[Any] = []
    threads = [threading.Thread(target=first)]
    threads[0].start()
    assert began.wait(CALM)
    threads.append(threading.Thread(target=lambda: found.append(threaded.get_or_load("k", lambda: "own"))))
    threads[1].start()
    while threaded.stats()[""].waits == 0:
        pass
    gate.set()
    for thread in threads:
        thread.join(CALM)
    assert (len(ended), found) == (1, ["own"])


def test_a_loader_that_raises_stop_iteration(threaded: Cache) -> None:
    """Even this exception of a loader comes as it is, as from `next(row for row in rows if ...)`."""
    with pytest.raises(StopIteration):
        threaded.get_or_load("k", lambda: next(iter(())))
