"""Send commands and read replies on redis-py's asyncio connections, many callers' together.

A lane is the way to one node. What is asked of it within one tick of the event loop leaves in one batch, on one
connection: all keys in one MGET (on a cluster: one GET each, for MGET wants keys of one slot), each key once, then the
other commands. While enough batches are under way, the next one gathers what comes.

Rule: **a batch is joined only until it is sent.** So nobody ever gets a reply that was on its way before they asked.

redis-py keeps the connections, the pools and the map of the cluster. This module knows nothing of flows.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Sequence
from typing import Any, Protocol

import redis.asyncio
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.exceptions import ConnectionError as BrokenConnection
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as TimedOut

from neverstale.core.calls import DropSlot
from neverstale.core.commands import TopologyView

from .calls import Words, in_chunks, one_each, pack, redirected, run_id, slot_of, string, to_ask, topology
from .cluster import AsyncBoundedCluster
from .connection import REDIS_ERRORS

__all__ = ["AsyncWire", "ClusterLanes", "SingleLane"]

#: So many batches are under way on a lane at a time. More would each be smaller; one would idle between a reply and
#: the next batch.
_UNDER_WAY = 4
#: A batch is not joined beyond so many commands or keys, so that one reply does not hold up the event loop.
_FULL = 1000


#: A time limit that was noticed so much later than it ran out was noticed by an event loop that did not run.
_STALLED = 1.5


class AsyncWire(Protocol):
    """What the asyncio driver sends by; the counterpart of `wire.Wire`."""

    async def exchange(self, commands: Sequence[tuple[Any, Words]]) -> list[Any]: ...
    def fetch(self, keys: Sequence[str]) -> Awaitable[list[bytes | None]]: ...
    def drops(self, keys: Sequence[str | bytes]) -> Sequence[DropSlot]: ...
    async def topology(self) -> TopologyView: ...
    async def ask(self, node: str, words: Words) -> Any: ...


class _Batch:
    __slots__ = ("calls", "keys", "readers", "size")

    def __init__(self) -> None:
        self.keys: dict[str, int] = {}
        self.readers: list[tuple[asyncio.Future[list[Any]], list[int]]] = []
        self.calls: list[tuple[asyncio.Future[list[Any]], Sequence[Words]]] = []
        self.size = 0

    def fail(self, error: BaseException) -> None:
        for future, _ in (*self.readers, *self.calls):
            if not future.done():
                future.set_exception(error)


class Lane:
    """The way to one node.

    Args:
        pool: redis-py's, of the node; its connections are of `observed_async`.
        mget: whether one MGET may name any keys.
    """

    def __init__(self, pool: Any, *, mget: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._pool = pool
        self._limit: float | None = pool.connection_kwargs.get("socket_timeout")
        self._mget = mget
        # Connections are taken out of the pool once: it takes as long as half a read to hand one out. Not out of one
        # that has few; nor out of Sentinel's, which looks at each that comes back whether it is still the primary's.
        self._idle: list[Any] = []
        self._keeps = pool.max_connections > 2 * _UNDER_WAY and not isinstance(pool, SentinelConnectionPool)
        self._waiting: deque[_Batch] = deque()
        self._under_way: set[asyncio.Task[None]] = set()
        self._flush_soon = False

    def fetch(self, keys: Sequence[str]) -> asyncio.Future[list[Any]]:
        """Read keys with the next batch."""
        batch = self._open()
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        places = batch.keys
        batch.readers.append((future, [places.setdefault(key, len(places)) for key in keys]))
        batch.size += len(keys)
        return future

    def send(self, commands: Sequence[Words]) -> asyncio.Future[list[Any]]:
        """Send commands with the next batch, in their order."""
        batch = self._open()
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        batch.calls.append((future, commands))
        batch.size += len(commands)
        return future

    def _open(self) -> _Batch:
        if not self._flush_soon and len(self._under_way) < _UNDER_WAY:
            self._flush_soon = True
            self._loop.call_soon(self._flush)
        if not self._waiting or self._waiting[-1].size >= _FULL:
            self._waiting.append(_Batch())
        return self._waiting[-1]

    def _flush(self) -> None:
        self._flush_soon = False
        while self._waiting and len(self._under_way) < _UNDER_WAY:
            task = self._loop.create_task(self._carry(self._waiting.popleft()))
            self._under_way.add(task)
            task.add_done_callback(self._arrived)

    def _arrived(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._flush()

    async def _carry(self, batch: _Batch) -> None:
        commands: list[Words] = []
        if batch.keys:
            commands += [("MGET", *batch.keys)] if self._mget else [("GET", key) for key in batch.keys]
        first = len(commands)
        for _, words in batch.calls:
            commands += words
        began = self._loop.time()
        try:
            try:
                replies = await self._converse(commands)
            except BrokenConnection:
                replies = await self._converse(commands)
            except TimedOut:
                # When something else kept the event loop from running, the limit ran out with the reply waiting to
                # be read: that is not Redis' fault, and no reason to send everybody to their loaders.
                if not self._limit or self._loop.time() - began < _STALLED * self._limit:
                    raise
                replies = await self._converse(commands)
        except BaseException as error:
            batch.fail(error)
            if not isinstance(error, Exception):
                raise
            return
        if batch.keys:
            values = replies[0] if self._mget else replies[:first]
            for future, places in batch.readers:
                if future.done():
                    continue
                if isinstance(values, ResponseError):
                    future.set_exception(values)
                else:
                    future.set_result([values[place] for place in places])
        at = first
        for future, words in batch.calls:
            if not future.done():
                future.set_result(replies[at : at + len(words)])
            at += len(words)

    async def _converse(self, commands: Sequence[Words]) -> list[Any]:
        packed = b"".join(map(pack, commands))
        connection = self._idle.pop() if self._idle else await self._pool.get_connection()
        try:
            return await connection.converse(packed, len(commands))  # type: ignore[no-any-return]
        except BaseException:
            # Replies may be on their way that nobody will read. Who uses it next connects it again.
            await connection.disconnect(nowait=True)
            raise
        finally:
            if self._keeps:
                self._idle.append(connection)
            else:
                await self._pool.release(connection)


def _raised(reply: Any) -> Any:
    if isinstance(reply, ResponseError):
        raise reply
    return reply


class SingleLane:
    """Sends to the one node there is."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._lane = Lane(client.connection_pool, mget=True)

    async def exchange(self, commands: Sequence[tuple[Any, Words]]) -> list[Any]:
        return await self._lane.send([words for _, words in commands])

    def fetch(self, keys: Sequence[str]) -> asyncio.Future[list[bytes | None]]:
        return self._lane.fetch(keys)

    def drops(self, keys: Sequence[str | bytes]) -> Sequence[DropSlot]:
        return in_chunks(keys)

    async def topology(self) -> TopologyView:
        (info,) = await self._lane.send((("INFO", "server"),))
        return TopologyView(("",), run_id(info), moving=False)

    async def ask(self, node: str, words: Words) -> Any:
        return _raised((await self._lane.send((words,)))[0])


class ClusterLanes:
    """Sends to the nodes of a cluster that hold the keys, a lane each."""

    def __init__(self, client: AsyncBoundedCluster) -> None:
        self._client = client
        self._lanes: dict[str, tuple[Any, Lane]] = {}

    async def exchange(self, commands: Sequence[tuple[Any, Words]]) -> list[Any]:
        return await self._spread([key for key, _ in commands], [words for _, words in commands])

    async def fetch(self, keys: Sequence[str]) -> list[bytes | None]:
        return [string(reply) for reply in await self._spread(keys, None)]

    async def _spread(self, keys: Sequence[Any], commands: Sequence[Words] | None) -> list[Any]:
        """Send commands, or read keys if there are none, on the lanes of their nodes."""
        await self._client.initialize()
        lanes: dict[str, tuple[Lane, list[int]]] = {}
        for index, key in enumerate(keys):
            node = self._client.nodes_manager.get_node_from_slot(slot_of(key))
            if node.name not in lanes:
                lanes[node.name] = (self._lane(node), [])
            lanes[node.name][1].append(index)
        futures = [
            lane.fetch([keys[i] for i in indexes])
            if commands is None
            else lane.send([commands[i] for i in indexes])
            for lane, indexes in lanes.values()
        ]
        replies: list[Any] = [None] * len(keys)
        try:
            # They are all on their way: one after the other is as fast as `gather`, and costs less.
            for future, (_, indexes) in zip(futures, lanes.values(), strict=True):
                for index, reply in zip(indexes, await future, strict=True):
                    replies[index] = reply
        except BaseException:
            for future in futures:
                if not future.cancel() and not future.cancelled():
                    _ = future.exception()  # fetched: asyncio logs those that are not
            raise
        for index in redirected(replies):
            # redis-py follows the redirection and corrects its map.
            words = ("GET", keys[index]) if commands is None else commands[index]
            try:
                replies[index] = await self._client.execute_command(*words)
            except ResponseError as error:
                replies[index] = error
        return replies

    def _lane(self, node: Any) -> Lane:
        pool: Any = self._client.get_redis_connection(node).connection_pool
        known = self._lanes.get(node.name)
        if known is None or known[0] is not pool:
            known = self._lanes[node.name] = (pool, Lane(pool, mget=False))
        return known[1]

    def drops(self, keys: Sequence[str | bytes]) -> Sequence[DropSlot]:
        return one_each(keys)

    async def topology(self) -> TopologyView:
        await self._client.initialize()
        asked = []
        for node in self._client.get_primaries():
            nodes, info = await self._lane(node).send((("CLUSTER", "NODES"), ("INFO", "server")))
            asked.append((node.name, _raised(nodes), info))
        return topology(asked)

    async def ask(self, node: str, words: Words) -> Any:
        await self._client.initialize()
        *others, last = to_ask(self._client, node)
        for other in others:
            with contextlib.suppress(*REDIS_ERRORS):
                return _raised((await self._lane(other).send((words,)))[0])
        return _raised((await self._lane(last).send((words,)))[0])
