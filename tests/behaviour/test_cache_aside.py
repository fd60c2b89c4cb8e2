"""Cache-aside: one load for a cold key, and never a value that was loaded before an invalidation."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from neverstale import EncodingError, UsageError
from neverstale.core.entry import LEASE
from neverstale.testing.servers import Server
from tests.behaviour.conftest import Make, on_one_server
from tests.behaviour.faces import Face, until


@dataclass
class Product:
    id: int
    seen: dt.date


class NotFound(Exception):
    pass


PRODUCT = Product(5, dt.date(2026, 1, 2))


def is_lease(server: Server, key: str) -> bool:
    raw: bytes | None = server.client().get(key)
    return raw is not None and raw[2:3] == LEASE


# --- one reader ---------------------------------------------------------------------------------------------------


async def test_a_miss_loads_and_a_hit_does_not(face: Face, other: Face) -> None:
    """The first read loads, every later one in any process has what it stored."""
    loader = face.loader({"id": 5})
    assert [await face.get_or_load("k", loader) for _ in range(3)] == [{"id": 5}] * 3
    assert await other.get_or_load("k", other.loader("never called")) == {"id": 5}
    assert await other.get_json("k") == {"id": 5}
    assert loader.calls == 1


async def test_none_is_cached(face: Face) -> None:
    """None is a value like any other."""
    loader = face.loader(None)
    assert [await face.get_or_load("k", loader) for _ in range(2)] == [None, None]
    assert loader.calls == 1


@on_one_server
async def test_a_miss_returns_what_a_hit_does(face: Face) -> None:
    """Loaded or cached, a value comes as its type."""
    loader = face.loader(PRODUCT)
    found = [await face.get_or_load("k", loader, type=Product) for _ in range(2)]
    assert found == [PRODUCT, PRODUCT]
    assert loader.calls == 1


@on_one_server
async def test_the_loaders_own_object_is_not_handed_out(face: Face) -> None:
    """What a caller does to the value that it got, the loader's own does not feel."""
    mine = [1]
    found = await face.get_or_load("k", face.loader(mine))
    found.append(2)
    assert mine == [1]
    assert await face.get_or_load("k", face.loader("never called")) == [1]


async def test_a_loaders_exception(face: Face, server: Server) -> None:
    """It comes as it is, is not cached, and leaves no lease behind."""
    error = NotFound("no product 5")
    loader = face.loader(error, "there now")
    with pytest.raises(NotFound) as caught:
        await face.get_or_load("k", loader)
    assert caught.value is error
    assert server.keys() == []
    assert await face.get_or_load("k", loader) == "there now"


async def test_a_value_that_cannot_be_stored(face: Face, server: Server) -> None:
    """A loaded value that does not fit its type is an error, and leaves no lease behind."""
    for loader in (face.loader(object()), face.loader((1, 2))):
        with pytest.raises(EncodingError):
            await face.get_or_load("k", loader)
    with pytest.raises(EncodingError):
        await face.get_or_load("k", face.loader({"id": "five"}), type=Product)
    assert server.keys() == []


@on_one_server
async def test_a_loader_is_called(face: Face) -> None:
    """A value in the loader's place is refused, with a word about how to write it."""
    with pytest.raises(UsageError, match="lambda"):
        await face.get_or_load("k", 5)


async def test_loads_of_one_key_inside_of_anothers(face: Face) -> None:
    """A loader may read through the cache itself."""
    if face.kind == "sync":
        outer: Any = lambda: [face.cache.get_or_load("inner", lambda: 1)]  # noqa: E731
    else:

        async def outer() -> Any:
            return [await face.cache.get_or_load("inner", lambda: 1)]

    assert await face.get_or_load("outer", outer) == [1]
    assert await face.get_json("inner") == 1


async def test_a_value_that_no_longer_fits_is_loaded_anew(face: Face) -> None:
    """What another release stored in another shape is replaced."""
    await face.set_json("k", {"id": 5})
    loader = face.loader(PRODUCT)
    assert [await face.get_or_load("k", loader, type=Product) for _ in range(2)] == [PRODUCT, PRODUCT]
    assert loader.calls == 1
    assert face.stats().decode_errors >= 1


async def test_a_value_that_no_longer_fits_is_counted_once(face: Face) -> None:
    """One read of a value that does not fit is one decode error."""
    await face.set_json("k", {"id": 5})
    await face.get_or_load("k", face.loader(PRODUCT), type=Product)
    assert face.stats().decode_errors == 1


async def test_too_large_to_be_stored(make: Make, server: Server) -> None:
    """What is above the largest size is given to the caller, not stored, and leaves no lease behind."""
    face = make(max_value_bytes=1000)
    value = "x" * 1001
    assert await face.get_or_load("k", face.loader(value)) == value
    assert server.keys() == []
    assert face.stats().fills_dropped == 1


async def test_scripts_that_redis_has_forgotten(face: Face, server: Server) -> None:
    """A server that lost its scripts is given them again."""
    await face.get_or_load("a", face.loader(1), tags=["t"])
    for node in server.primaries():
        node.client().script_flush()
    loader = face.loader(2)
    assert [await face.get_or_load("b", loader, tags=["t"]) for _ in range(2)] == [2, 2]
    assert (await face.invalidate_tag("t")).removed == 2
    assert loader.calls == 1


# --- many readers -------------------------------------------------------------------------------------------------


async def test_one_load_for_many_readers(face: Face, other: Face) -> None:
    """Forty readers of a cold key in two processes share one load."""
    loader = face.loader({"id": 5}, held=True)
    readers = [face.start("get_or_load", "k", loader)]
    await loader.begun()
    readers += [each.start("get_or_load", "k", loader) for each in (face, other) for _ in range(20)]
    await until(lambda: face.stats().waits + other.stats().waits == 40)
    loader.let_go()
    assert await asyncio.gather(*readers) == [{"id": 5}] * 41
    assert loader.calls == face.stats().loads == face.stats().fills == 1


async def test_many_readers_at_once(face: Face, other: Face) -> None:
    """Whoever comes first: of readers that come together, one loads."""
    loader = face.loader(5)
    readers = [each.start("get_or_load", "k", loader) for each in (face, other) for _ in range(20)]
    assert await asyncio.gather(*readers) == [5] * 40
    assert loader.calls == 1


async def test_loads_of_different_keys_run_beside_each_other(face: Face) -> None:
    """A load keeps only the readers of its own key waiting."""
    slow, fast = face.loader("slow", held=True), face.loader("fast")
    reader = face.start("get_or_load", "slow", slow)
    await slow.begun()
    assert await face.get_or_load("fast", fast) == "fast"
    slow.let_go()
    assert await reader == "slow"


async def test_readers_do_not_share_an_object(face: Face) -> None:
    """What one reader does to the value that it got, another's does not feel, though they shared the load."""
    loader = face.loader([1], held=True)
    first = face.start("get_or_load", "k", loader)
    await loader.begun()
    second = face.start("get_or_load", "k", loader)
    await until(lambda: face.stats().waits == 1)
    loader.let_go()
    mine, theirs = await first, await second
    mine.append(2)
    assert theirs == [1]


async def test_readers_get_their_own_type(face: Face) -> None:
    """Of two readers who share a load, each gets the type that it asked for, as on a hit."""
    loader = face.loader(PRODUCT, held=True)
    first = face.start("get_or_load", "k", loader, type=Product)
    await loader.begun()
    second = face.start("get_or_load", "k", loader, type=dict)
    await until(lambda: face.stats().waits == 1)
    loader.let_go()
    assert await first == PRODUCT
    assert await second == {"id": 5, "seen": "2026-01-02"} == await face.get_json("k", dict)


async def test_every_reader_gets_the_exception(face: Face) -> None:
    """All who wait for a load that fails get its exception, and the loader is not asked again for them."""
    error = NotFound("no product 5")
    loader = face.loader(error, held=True)
    readers = [face.start("get_or_load", "k", loader)]
    await loader.begun()
    readers += [face.start("get_or_load", "k", loader) for _ in range(10)]
    await until(lambda: face.stats().waits == 10)
    loader.let_go()
    assert await asyncio.gather(*readers, return_exceptions=True) == [error] * 11
    stats = face.stats()
    assert (loader.calls, stats.loads, stats.load_errors, stats.fills) == (1, 1, 1, 0)


async def test_a_failed_load_elsewhere_is_tried_again_here(face: Face, other: Face) -> None:
    """Whoever waits for a load of another process that fails, loads."""
    failing, loader = face.loader(NotFound(), held=True), other.loader(5)
    first = face.start("get_or_load", "k", failing)
    await failing.begun()
    second = other.start("get_or_load", "k", loader)
    await until(lambda: other.stats().waits == 1)
    failing.let_go()
    with pytest.raises(NotFound):
        await first
    assert await second == 5
    assert loader.calls == 1


# --- against an invalidation --------------------------------------------------------------------------------------

CANCELLING: dict[str, Callable[[Face, Server], Awaitable[Any]]] = {
    "invalidate_key": lambda face, _: face.invalidate_key("k"),
    "delete": lambda face, _: face.delete("k"),
    "invalidate_pattern": lambda face, _: face.invalidate_pattern("k*"),
    "invalidate_tag": lambda face, _: face.invalidate_tag("t"),
    "redis-cli del": lambda _, server: asyncio.to_thread(server.client().delete, "v1:k"),
    "flushall": lambda _, server: asyncio.to_thread(server.flush),
}


@pytest.mark.parametrize("how", CANCELLING)
async def test_invalidated_during_its_load(face: Face, other: Face, server: Server, how: str) -> None:
    """What was loaded before an invalidation is given to its caller, not stored, and not given to later readers."""
    old, new = face.loader("old", held=True), face.loader("new", held=True)
    first = face.start("get_or_load", "k", old, tags=["t"])
    await old.begun()
    await CANCELLING[how](other, server)
    second = face.start("get_or_load", "k", new, tags=["t"])
    if (
        how != "invalidate_tag"
    ):  # that leaves the lease: the second reader waits, and finds the first's too old
        await new.begun()
    old.let_go()
    assert await first == "old"
    await new.begun()
    assert await face.get_json("k", default="a miss") == "a miss"
    new.let_go()
    assert await second == "new"
    assert [await each.get_json("k") for each in (face, other)] == ["new", "new"]
    # After an invalidation of its tag the old value is stored, under the old stamp: nobody can use it.
    stats = face.stats()
    assert (old.calls, new.calls, stats.loads, stats.fills) == (1, 1, 2, 2 if how == "invalidate_tag" else 1)


async def test_set_during_a_load(face: Face, other: Face) -> None:
    """A value that is set during a load stays, whenever the load ends."""
    loader = face.loader("loaded", held=True)
    reader = face.start("get_or_load", "k", loader)
    await loader.begun()
    await other.set_json("k", "set")
    assert await face.get_or_load("k", face.loader("never called")) == "set"
    loader.let_go()
    assert await reader == "loaded"
    assert await face.get_json("k") == "set"
    assert face.stats().fills_dropped == 1


async def test_readers_that_waited_before_the_invalidation(face: Face) -> None:
    """A reader that began before the invalidation may have the old value; one that began after it never has."""
    old, new = face.loader("old", held=True), face.loader("new")
    readers = [face.start("get_or_load", "k", old)]
    await old.begun()
    readers += [face.start("get_or_load", "k", old) for _ in range(5)]
    await until(lambda: face.stats().waits == 5)
    await face.invalidate_key("k")
    assert await face.get_or_load("k", new) == "new"
    old.let_go()
    assert await asyncio.gather(*readers) == ["old"] * 6
    assert await face.get_or_load("k", new) == "new"
    assert (old.calls, new.calls) == (1, 1)


async def test_a_failing_load_and_an_invalidation(face: Face) -> None:
    """A reader that came after the invalidation does not get the exception of a load from before it."""
    old, new = face.loader(NotFound(), held=True), face.loader("new")
    first = face.start("get_or_load", "k", old, tags=["t"])
    await old.begun()
    await face.invalidate_tag("t")
    second = face.start("get_or_load", "k", new, tags=["t"])
    await until(lambda: face.stats().waits == 1)
    old.let_go()
    with pytest.raises(NotFound):
        await first
    assert await second == "new"


# --- leases -------------------------------------------------------------------------------------------------------


async def test_the_lease_lives_in_the_entrys_key(make: Make, server: Server) -> None:
    """While a load runs its key holds a lease that expires by itself, and no reader takes it for a value."""
    face = make(lease_ttl=7)
    loader = face.loader(5, held=True)
    reader = face.start("get_or_load", "k", loader)
    await loader.begun()
    assert server.keys() == [b"v1:k"]
    assert is_lease(server, "v1:k")
    assert 0 < server.client().pttl("v1:k") <= 7000
    assert await face.get("k") is None
    assert await face.get_many(["k"]) == {}
    assert (await face.invalidate_key("k")).removed == 0
    loader.let_go()
    await reader


async def test_a_holder_that_is_too_slow(make: Make, server: Server) -> None:
    """When the lease has expired the next reader takes over, and the late value does not replace its."""
    slow, quick = make(lease_ttl=0.1), make(lease_ttl=0.1)
    late, loader = slow.loader("late", held=True), quick.loader("in time")
    first = slow.start("get_or_load", "k", late)
    await late.begun()
    assert await quick.get_or_load("k", loader) == "in time"
    late.let_go()
    assert await first == "late"
    assert await slow.get_json("k") == "in time"
    assert not is_lease(server, "v1:k")


async def test_who_waits_too_long_loads_without_filling(face: Face, make: Make, server: Server) -> None:
    """At the limit of its waiting a reader loads for itself, and leaves the lease to its holder."""
    impatient = make(wait_limit=0.1)
    slow, own = face.loader("slow", held=True), impatient.loader("own")
    first = face.start("get_or_load", "k", slow)
    await slow.begun()
    assert await impatient.get_or_load("k", own) == "own"
    assert is_lease(server, "v1:k")
    slow.let_go()
    assert await first == "slow"
    assert await impatient.get_json("k") == "slow"


async def test_who_waits_too_long_in_the_same_process(make: Make) -> None:
    """The limit of waiting holds for a load of the same process as well."""
    face = make(wait_limit=0.1)
    slow, own = face.loader("slow", held=True), face.loader("own")
    first = face.start("get_or_load", "k", slow)
    await slow.begun()
    second = face.start("get_or_load", "k", own)
    done, _ = await asyncio.wait([second], timeout=0.5)
    slow.let_go()
    assert await first == "slow"
    assert await second == ("own" if done else "the holder's, after its whole load")
