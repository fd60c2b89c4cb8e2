"""Batches of the asynchronous face: reads of one tick travel together, and nobody gets a reply from before he asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from redis.exceptions import RedisError

from neverstale import AsyncCache
from neverstale.drive.lanes import _FULL, _UNDER_WAY, ClusterLanes, SingleLane
from neverstale.testing.servers import RedisCluster, RedisServer, binaries, frozen
from tests.behaviour.faces import CALM, until

pytestmark = pytest.mark.skipif(
    "redis" not in binaries(), reason="no Redis server: apt-get install redis-server"
)


@pytest.fixture(scope="module")
def logging_server() -> Iterator[RedisServer]:
    """A server that keeps every command."""
    options = ["--slowlog-log-slower-than", "0", "--slowlog-max-len", "5000"]
    with RedisServer.start(binaries()["redis"], *options) as server:
        yield server


@pytest.fixture
async def cache(logging_server: RedisServer) -> AsyncIterator[AsyncCache]:
    """A cache with an open connection, on a server that is empty and has heard nothing yet."""
    logging_server.flush()
    async with AsyncCache.from_url(logging_server.url, timeout=CALM) as cache:
        await cache.get("a key that opens a connection")
        logging_server.client().slowlog_reset()
        yield cache


def said(server: RedisServer, name: str = "MGET") -> list[list[str]]:
    """Return the arguments of the commands of one name that the server got, the first first."""
    entries: list[dict[str, Any]] = server.client().slowlog_get(5000)
    words = [entry["command"].decode(errors="replace").split() for entry in reversed(entries)]
    return [command[1:] for command in words if command[0].upper() == name]


def lane_of(cache: AsyncCache) -> Any:
    wire = cache._driver.wire()
    assert isinstance(wire, SingleLane)
    return wire._lane


# --- together -----------------------------------------------------------------------------------------------------


async def test_reads_of_one_tick_are_one_command(cache: AsyncCache, logging_server: RedisServer) -> None:
    """Readers that ask in the same tick share one MGET, each key in it once, and each has its own value."""
    await cache.set_many({"a": "1", "b": "2"})
    found = await asyncio.gather(*(cache.get(key) for key in ("a", "b", "nothing", "a", "b", "a")))
    assert found == ["1", "2", None, "1", "2", "1"]
    assert said(logging_server) == [["v1:a", "v1:b", "v1:nothing"]]


async def test_stamps_travel_along(cache: AsyncCache, logging_server: RedisServer) -> None:
    """An entry and the stamps of its tags are one MGET, also for several entries that share a tag."""
    await cache.set_many({"a": "1", "b": "2"}, tags=["t"])
    assert list(await asyncio.gather(cache.get("a"), cache.get("b"))) == ["1", "2"]
    assert said(logging_server) == [["v1:a", "cache:tag:{t}:stamp", "v1:b"]]


async def test_one_hit_is_one_command(cache: AsyncCache, logging_server: RedisServer) -> None:
    """A hit costs one round trip, whatever its tags, where they are known; and no script."""
    await cache.get_or_load("k", lambda: 1, tags=["t", "u"])
    logging_server.client().slowlog_reset()
    assert await cache.get_or_load("k", lambda: 2, tags=["t", "u"]) == 1
    commands = [entry["command"] for entry in logging_server.client().slowlog_get(100)]
    assert [command.split()[0] for command in commands if not command.startswith(b"SLOWLOG")] == [b"MGET"]


async def test_a_batch_is_not_without_end(cache: AsyncCache, logging_server: RedisServer) -> None:
    """A great many readers are split into batches, and all have their values."""
    keys = [f"k{i}" for i in range(2 * _FULL + 500)]
    await cache.set_many({key: key for key in keys})
    logging_server.client().slowlog_reset()
    assert await asyncio.gather(*map(cache.get, keys)) == keys
    assert len(said(logging_server)) == 3


async def test_while_batches_are_under_way_the_next_gathers(
    cache: AsyncCache, logging_server: RedisServer
) -> None:
    """Where enough batches are under way, all that come meanwhile are one more."""
    lane = lane_of(cache)
    with frozen(logging_server):
        readers = []
        for number in range(_UNDER_WAY):
            readers.append(asyncio.create_task(cache.get(f"first{number}")))
            await until(lambda number=number: len(lane._under_way) == number + 1)  # type: ignore[misc]
        for number in range(20):
            readers.append(asyncio.create_task(cache.get(f"later{number}")))
            await asyncio.sleep(0)
        await until(lambda: lane._waiting and lane._waiting[0].size == 20)
        assert (len(lane._under_way), len(lane._waiting)) == (_UNDER_WAY, 1)
    assert await asyncio.gather(*readers) == [None] * 24
    assert sorted(map(len, said(logging_server))) == [1] * _UNDER_WAY + [20]


# --- joined only until it is sent ---------------------------------------------------------------------------------


async def test_a_batch_that_was_sent_is_not_joined(cache: AsyncCache, logging_server: RedisServer) -> None:
    """A reader who comes while the same key is being asked for asks again."""
    lane = lane_of(cache)
    with frozen(logging_server):
        first = asyncio.create_task(cache.get("k"))
        await until(lambda: lane._under_way and not lane._waiting)
        second = asyncio.create_task(cache.get("k"))
        await until(lambda: len(lane._under_way) == 2)
    assert list(await asyncio.gather(first, second)) == [None, None]
    assert said(logging_server) == [["v1:k"], ["v1:k"]]


async def test_no_reader_gets_what_was_there_before_it_asked(cache: AsyncCache) -> None:
    """Under many readers, one that asks after an invalidation has returned never gets what was there before."""
    truth = returned = 0
    wrong: list[tuple[int, int]] = []
    ended = False

    async def read() -> None:
        while not ended:
            least = returned
            value = await cache.get_or_load("k", lambda: truth)
            if value < least:
                wrong.append((value, least))

    readers = [asyncio.create_task(read()) for _ in range(20)]
    for _ in range(150):
        truth += 1
        await cache.invalidate_key("k")
        returned = truth
        await asyncio.sleep(0)
    ended = True
    await asyncio.gather(*readers)
    assert wrong == []


# --- trouble ------------------------------------------------------------------------------------------------------


async def test_a_reader_that_is_cancelled(cache: AsyncCache, logging_server: RedisServer) -> None:
    """One that goes away, before or after its batch was sent, takes nothing from the others of the batch."""
    await cache.set_many({"a": "1", "b": "2"})
    early = [asyncio.create_task(cache.get(key)) for key in ("a", "b", "a")]
    await asyncio.sleep(0)
    early[0].cancel()
    assert [await reader for reader in early[1:]] == ["2", "1"]
    lane = lane_of(cache)
    with frozen(logging_server):
        late = [asyncio.create_task(cache.get(key)) for key in ("a", "b", "a")]
        await until(lambda: lane._under_way)
        late[0].cancel()
        await asyncio.sleep(0)
    assert [await reader for reader in late[1:]] == ["2", "1"]
    assert [reader.cancelled() for reader in (early[0], late[0])] == [True, True]


async def test_all_readers_are_cancelled(cache: AsyncCache) -> None:
    """A batch that nobody waits for any more disturbs nobody after it."""
    readers = [asyncio.create_task(cache.get(key)) for key in ("a", "b")]
    await asyncio.sleep(0)
    for reader in readers:
        reader.cancel()
    await asyncio.wait(readers)
    await cache.set("a", "1")
    assert await cache.get("a") == "1"


async def test_a_connection_that_was_closed(cache: AsyncCache, logging_server: RedisServer) -> None:
    """A connection that the server closed meanwhile costs nobody a miss: what was asked is asked again."""
    await cache.set("a", "1")
    for _ in range(3):
        logging_server.client().client_kill_filter(_type="normal", skipme=True)
        assert list(await asyncio.gather(cache.get("a"), cache.get("a"))) == ["1", "1"]
    assert cache.stats()[""].errors == 0


async def test_a_batch_that_fails(logging_server: RedisServer) -> None:
    """All of a batch that was not answered have a miss, in the time of one, and the next batch is answered."""
    async with AsyncCache.from_url(logging_server.url, timeout=0.05) as cache:
        await cache.set("a", "1")
        began = asyncio.get_running_loop().time()
        with frozen(logging_server):
            assert await asyncio.gather(*(cache.get("a") for _ in range(50))) == [None] * 50
        assert asyncio.get_running_loop().time() - began < 0.5
        await until(logging_server.client().ping)
        assert await cache.get("a") == "1"
        assert cache.stats()[""].misses == 50


async def test_an_error_reply_is_for_its_own_caller(cache: AsyncCache, logging_server: RedisServer) -> None:
    """Of commands in one batch, one that Redis refuses fails alone."""
    lane = lane_of(cache)
    logging_server.client().set("text", "v", px=60_000)
    replies = await asyncio.gather(
        lane.send([("GET", "text"), ("LPOP", "text")]), lane.fetch(["text"]), lane.send([("STRLEN", "text")])
    )
    assert isinstance(replies[0][1], RedisError)
    assert (replies[0][0], replies[1], replies[2]) == (b"v", [b"v"], [1])


async def test_the_loop_hears_of_no_forgotten_errors(logging_server: RedisServer) -> None:
    """Whatever fails and whoever goes away, asyncio finds no exception that nobody fetched."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    async with AsyncCache.from_url(logging_server.url, timeout=0.05) as cache:
        await cache.set("a", "1")
        with frozen(logging_server):
            readers: list[asyncio.Task[Any]] = [asyncio.create_task(cache.get("a")) for _ in range(10)]
            readers += [asyncio.create_task(cache.get_or_load("b", lambda: 1)) for _ in range(10)]
            readers += [asyncio.create_task(cache.set("c", "1")) for _ in range(10)]
            await asyncio.sleep(0)
            for reader in readers[::2]:
                reader.cancel()
            await asyncio.wait(readers)
    assert complaints == []


# --- on a cluster -------------------------------------------------------------------------------------------------


async def test_on_a_cluster_a_pipeline_for_each_node(redis_cluster: RedisCluster) -> None:
    """Reads of one tick are one pipeline for each node, each key once, and every reader has its value."""
    keys = [f"k{i}" for i in range(60)]
    async with AsyncCache.from_url(redis_cluster.url, timeout=CALM) as cache:
        await cache.set_many({key: key for key in keys})
        wire = cache._driver.wire()
        assert isinstance(wire, ClusterLanes)
        for node in redis_cluster.primaries():
            node.client().config_resetstat()
        assert await asyncio.gather(*map(cache.get, keys * 3)) == keys * 3
        gets = [
            node.client().info("commandstats")["cmdstat_get"]["calls"] for node in redis_cluster.primaries()
        ]
        assert sum(gets) == 60
        assert len(wire._lanes) == len(gets) == 3
