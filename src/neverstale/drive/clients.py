"""redis-py's clients, set for a cache.

redis-py's defaults suit a database: ten retries with pauses, 5 s for every answer, an error when all connections are
in use. A cache's reads must fail within tens of milliseconds instead, and its invalidations must arrive. So there
are two clients of every server:

| | fast: reads and fills | patient: invalidations and scans |
|---|---|---|
| to connect, to write, for each answer | `timeout` (50 ms) | `patient_timeout` (2 s) |
| all connections in use | waits as long, then fails | the same |
| the connection is found broken | fails | tries once more on another |

Rules:
- Making anything here does no I/O. `fast` and `patient` of a cluster do when they are first asked for, and may raise
  what is in `REDIS_ERRORS`; a failed attempt is shared by all who waited for it.
- Ask for `fast` and `patient` each time. After a fork they are other clients: a child must never use, nor close, a
  connection of its parent. Asynchronous clients belong to an event loop, so there is a pair for each loop.
- All users with equal addresses and limits share their connections; the last one to close closes them.

Known limit: synchronous name resolution has no time limit, in Python as in redis-py. Where DNS may hang, use
an address or a caching resolver.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import AsyncGenerator, Callable, Hashable
from typing import Generic, TypeVar

import redis
import redis.asyncio

from neverstale.config import Settings
from neverstale.drive.build import AsyncClient, Client, build, build_async, pools_of
from neverstale.drive.cluster import AsyncBoundedCluster, BoundedCluster
from neverstale.drive.connection import REDIS_ERRORS, unavailable
from neverstale.events import Events

__all__ = [
    "REDIS_ERRORS",
    "AsyncClient",
    "AsyncConnections",
    "Client",
    "Connections",
    "shared",
    "shared_async",
    "unavailable",
]

T = TypeVar("T")


# --- clients of threads -------------------------------------------------------------------------------------------


class _Lazy:
    """One client, made when it is first asked for."""

    def __init__(self, make: Callable[[int], Client]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._turn = 0
        self._failed: tuple[float, BaseException] | None = None
        self.client: Client | None = None

    def get(self) -> Client:
        if self.client is not None:
            return self.client
        began = time.monotonic()
        with self._lock:
            if self.client is None:
                if self._failed is not None and self._failed[0] >= began:
                    # Whoever waited for an attempt shares its failure: a hundred threads do not try in a row.
                    raise redis.ConnectionError(str(self._failed[1])) from self._failed[1]
                self._turn += 1
                try:
                    self.client = self._make(self._turn - 1)
                except REDIS_ERRORS as problem:
                    self._failed = (time.monotonic(), problem)
                    raise
            return self.client

    def close(self) -> None:
        with self._lock:
            if self.client is not None:
                if isinstance(self.client, BoundedCluster):
                    self.client.close()
                else:
                    for pool in pools_of(self.client):
                        pool.disconnect()
                self.client = None


class _Pair:
    """The clients of one process."""

    def __init__(self, settings: Settings, events: Events) -> None:
        def lazy(limit: float, retries: int) -> _Lazy:
            return _Lazy(lambda turn: build(settings, limit, retries, events, turn))

        self.pid = os.getpid()
        self.fast = lazy(settings.timeout, 0)
        self.patient = lazy(settings.patient_timeout, 1)


class _Clients:
    """What users with equal settings share."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.events = Events()
        self._pair = _Pair(settings, self.events)

    def pair(self) -> _Pair:
        if self._pair.pid != os.getpid():
            # No lock: one could be held for ever by a thread that did not survive the fork. The parent's clients
            # are let go of; redis-py closes this process's copies of their sockets without a word to the server.
            self._pair = _Pair(self._settings, self.events)
        return self._pair

    def close(self) -> None:
        pair = self.pair()
        pair.fast.close()
        pair.patient.close()


class Connections:
    """Reach Redis from threads. Get one by `shared`, and close it when done.

    Attributes:
        settings: where Redis is.
        is_cluster: whether `fast` and `patient` are cluster clients.
        events: of the connections, and whatever else is emitted.
    """

    def __init__(self, settings: Settings, clients: _Clients, give_back: Callable[[], None]) -> None:
        self.settings = settings
        self.is_cluster = settings.mode == "cluster"
        self.events = clients.events
        self._clients = clients
        self._give_back: Callable[[], None] | None = give_back

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.settings.url}>"

    @property
    def fast(self) -> Client:
        """The client for reads: within tens of milliseconds it has answered or failed.

        Raises:
            redis.RedisError, RedisClusterException, OSError: it is a cluster's, and no node told its slots.
        """
        return self._open().fast.get()

    @property
    def patient(self) -> Client:
        """The client for invalidations and scans; raises the same."""
        return self._open().patient.get()

    def ping(self) -> bool:
        """Say whether Redis answers now, every primary of a cluster; never raises because of Redis."""
        try:
            fast = self.fast
            if isinstance(fast, BoundedCluster):
                primaries = fast.nodes_manager.get_nodes_by_server_type("primary")
                return all(fast.get_redis_connection(node).ping() for node in primaries)
            return bool(fast.ping())
        except REDIS_ERRORS:
            return False

    def close(self) -> None:
        """Be done with the connections; the last user's call closes them. Calling it again does nothing."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back()

    def _open(self) -> _Pair:
        if self._give_back is None:
            raise redis.ConnectionError("these connections have been closed")
        return self._clients.pair()


# --- clients of event loops ---------------------------------------------------------------------------------------


class _AsyncPair:
    """The clients of one event loop."""

    def __init__(self, settings: Settings, events: Events) -> None:
        self.fast = build_async(settings, settings.timeout, 0, events)
        self.patient = build_async(settings, settings.patient_timeout, 1, events)
        # An event loop closes its asynchronous generators before it ends (asyncio.run, uvicorn and pytest-asyncio
        # have it do so): the one moment at which connections can still be closed that nobody closed by hand.
        self._guard = self._until_the_loop_ends()
        with contextlib.suppress(StopIteration):
            self._guard.__anext__().send(None)

    async def _until_the_loop_ends(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            for client in (self.fast, self.patient):
                with contextlib.suppress(*REDIS_ERRORS):
                    if isinstance(client, AsyncBoundedCluster):
                        await client.aclose()
                    else:
                        for pool in pools_of(client):
                            await pool.disconnect()

    async def aclose(self) -> None:
        await self._guard.aclose()


# A child that closed its parent's transports would also take them out of the parent's epoll, which both share.
# So they are kept, unused, for as long as the child lives.
_inherited: list[object] = []


class _AsyncClients:
    """What users with equal settings share."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.events = Events()
        self._begin()

    def _begin(self) -> None:
        # A connection refers to its loop: weak keys would let no loop go either, and take longer to look up.
        self._pairs: dict[asyncio.AbstractEventLoop, _AsyncPair] = {}
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def pair(self) -> _AsyncPair:
        if self._pid != os.getpid():
            _inherited.append(dict(self._pairs))
            self._begin()
        loop = asyncio.get_running_loop()
        pair = self._pairs.get(loop)
        if pair is None:
            with self._lock:
                for other in [other for other in self._pairs if other.is_closed()]:
                    del self._pairs[other]
                pair = self._pairs[loop] = _AsyncPair(self._settings, self.events)
        return pair

    async def aclose(self) -> None:
        if self._pid != os.getpid():
            return
        with self._lock:
            pairs = dict(self._pairs)
            self._pairs.clear()
        here = asyncio.get_running_loop()
        for loop, pair in pairs.items():
            if loop is here:
                await pair.aclose()
            elif not loop.is_closed():
                with contextlib.suppress(RuntimeError):  # it has ended meanwhile
                    asyncio.run_coroutine_threadsafe(pair.aclose(), loop)


class AsyncConnections:
    """Reach Redis from event loops; each loop has connections of its own. Get one by `shared_async`.

    Attributes:
        settings: where Redis is.
        is_cluster: whether `fast` and `patient` are cluster clients.
        events: of the connections, and whatever else is emitted.
    """

    def __init__(self, settings: Settings, clients: _AsyncClients, give_back: Callable[[], bool]) -> None:
        self.settings = settings
        self.is_cluster = settings.mode == "cluster"
        self.events = clients.events
        self._clients = clients
        self._give_back: Callable[[], bool] | None = give_back

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.settings.url}>"

    @property
    def fast(self) -> AsyncClient:
        """The running loop's client for reads: within tens of milliseconds it has answered or failed.

        Raises:
            RuntimeError: no event loop is running.
        """
        return self._open().fast

    @property
    def patient(self) -> AsyncClient:
        """The running loop's client for invalidations and scans; raises the same."""
        return self._open().patient

    async def ping(self) -> bool:
        """Say whether Redis answers now, every primary of a cluster; never raises because of Redis."""
        try:
            fast = self.fast
            if isinstance(fast, AsyncBoundedCluster):
                await fast.initialize()
                nodes = [fast.get_redis_connection(node) for node in fast.get_primaries()]
                return all(await asyncio.gather(*(node.ping() for node in nodes)))
            return bool(await fast.ping())
        except REDIS_ERRORS:
            return False

    async def close(self) -> None:
        """Be done with the connections; the last user's call closes them. Calling it again does nothing."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None and give_back():
            await self._clients.aclose()

    def _open(self) -> _AsyncPair:
        if self._give_back is None:
            raise redis.ConnectionError("these connections have been closed")
        return self._clients.pair()


# --- who shares them ----------------------------------------------------------------------------------------------


class _Registry(Generic[T]):
    """What is in use in this process, and by how many."""

    def __init__(self, make: Callable[[Settings], T]) -> None:
        self._make = make
        self._in_use: dict[Hashable, tuple[T, int]] = {}
        self._lock, self._pid = threading.Lock(), os.getpid()

    def take(self, settings: Settings) -> tuple[T, Callable[[], T | None]]:
        """Return what is shared, and how to give it back; giving back returns it to the last user only."""
        key = _key(settings)
        with self._locked():
            found, users = self._in_use.get(key) or (self._make(settings), 0)
            self._in_use[key] = (found, users + 1)

        def give_back() -> T | None:
            with self._locked():
                found, users = self._in_use.pop(key)
                if users > 1:
                    self._in_use[key] = (found, users - 1)
                    return None
                return found

        return found, give_back

    def _locked(self) -> threading.Lock:
        if self._pid != os.getpid():
            # Held for ever, perhaps, by a thread of the parent.
            self._lock, self._pid = threading.Lock(), os.getpid()
        return self._lock


def _key(settings: Settings) -> Hashable:
    limits = (settings.timeout, settings.patient_timeout, settings.pool_size)
    return (settings.url, settings.password, tuple(settings.tls_options.items()), limits)


_threads = _Registry(_Clients)
_loops = _Registry(_AsyncClients)


def shared(settings: Settings) -> Connections:
    """Return this process's connections to the Redis of these settings, for threads. No I/O."""
    clients, give_back = _threads.take(settings)

    def done() -> None:
        if give_back() is not None:
            clients.close()

    return Connections(settings, clients, done)


def shared_async(settings: Settings) -> AsyncConnections:
    """Return this process's connections to the Redis of these settings, for event loops. No I/O."""
    clients, give_back = _loops.take(settings)
    return AsyncConnections(settings, clients, lambda: give_back() is not None)
