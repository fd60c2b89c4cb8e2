"""redis-py's cluster clients, made to fail in time.

redis-py learns a cluster's slots from one node after the other, each with a full time limit, while the caller
waits, and again after every failure. With all six nodes of a cluster frozen, a read that is allowed 50 ms takes
350. Here:
- Whoever needs the slots asks *one* node, another one each time, and gives up when that fails.
- Slots that are known stay in use when they cannot be learned anew: most of them are right.
- Learning again, because something failed, happens at most once in `LEARN_EVERY` seconds. Nothing new can be
  heard more often: a failover takes seconds, and a slot that moved is announced by the node that lost it.
- Callers that need the slots at the same time share one attempt, also its failure; callers that have slots never
  wait for newer ones.

Routing, redirections and connections remain redis-py's.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import redis
import redis.asyncio
from redis.asyncio.cluster import ClusterNode as AsyncClusterNode
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from neverstale.drive.connection import REDIS_ERRORS, Watch
from neverstale.drive.pools import Pool

__all__ = ["AsyncBoundedCluster", "BoundedCluster"]

logger = logging.getLogger("neverstale")

LEARN_EVERY: Final = 1.0


class BoundedCluster(redis.RedisCluster):
    """A cluster client for threads. Making one asks one node, and fails if that does not answer.

    Args:
        node: the host and port to ask.
        limit: seconds to wait for a connection of a node's pool.
        retries: how often a command is sent again after a connection broke.
        options: for the connections.
    """

    def __init__(self, node: tuple[str, int], *, limit: float, retries: int, **options: Any) -> None:
        host, port = node
        self._learning = threading.Lock()
        self._learned = time.monotonic()
        super().__init__(
            # Only a client made from a URL lets its nodes have a pool that waits.
            url=f"redis://[{host}]:{port}" if ":" in host else f"redis://{host}:{port}",
            connection_pool_class=Pool,
            timeout=limit,
            retry=Retry(NoBackoff(), retries),
            # With a shard lost, the others can still be read.
            require_full_coverage=False,
            **options,
        )
        self._ask = self.nodes_manager.initialize
        self._known = self._separate()
        self.nodes_manager.initialize = self._refresh  # type: ignore[method-assign]

    def close(self) -> None:
        """Close all connections; the next command opens them again."""
        super().close()
        # The pools of nodes are not closed by redis-py where the client was made from a URL.
        for node in self.nodes_manager.nodes_cache.values():
            self.get_redis_connection(node).connection_pool.disconnect()

    def _refresh(self, *_: Any, last_failed_node_name: str | None = None, **__: Any) -> None:
        # redis-py calls this while it handles an error, which it then raises: nothing may be raised here.
        if time.monotonic() - self._learned < LEARN_EVERY or not self._learning.acquire(blocking=False):
            return
        manager = self.nodes_manager
        manager.startup_nodes = _one_of(
            self._known, last_failed_node_name, random.randrange(len(self._known))
        )
        try:
            self._ask()
            self._known = self._separate()
        except REDIS_ERRORS as problem:
            logger.debug("the slots of the cluster could not be learned anew: %s", problem)
            manager.startup_nodes = dict(self._known)
        finally:
            self._learned = time.monotonic()
            self._learning.release()

    def _separate(self) -> dict[str, Any]:
        # redis-py 6 and 7 keep the nodes to ask and the nodes there are in one dict, and remove what failed from it.
        manager = self.nodes_manager
        manager.startup_nodes = dict(manager.startup_nodes)
        return dict(manager.startup_nodes)


class AsyncBoundedCluster(redis.asyncio.RedisCluster):
    """A cluster client for one event loop. Making one does no I/O.

    Args:
        nodes: hosts and ports, one of which is asked at a time.
        limit: seconds to wait for a turn, where all connections are in use.
        retries: how often a command is sent again after a connection broke.
        connection_class: what its connections are.
        client_of: makes a client of one node from its host and port.
        options: for the connections.
    """

    def __init__(
        self,
        nodes: tuple[tuple[str, int], ...],
        *,
        limit: float,
        retries: int,
        watch: Watch,
        connection_class: type[Any],
        client_of: Callable[[str, int], redis.asyncio.Redis],
        max_connections: int,
        **options: Any,
    ) -> None:
        super().__init__(
            startup_nodes=[AsyncClusterNode(host, port) for host, port in nodes],
            retry=AsyncRetry(NoBackoff(), retries),
            require_full_coverage=False,
            # Otherwise every few MOVED close all connections, whoever uses them; a moved slot is noted as well.
            reinitialize_steps=0,
            # More than there are turns: its nodes do not wait for a free connection, they fail.
            max_connections=max_connections + 2,
            **options,
        )
        self.connection_kwargs["connection_class"] = connection_class
        for node in self.nodes_manager.startup_nodes.values():
            node.connection_class = connection_class
        self._watch = watch
        self._client_of = client_of
        self._clients: dict[str, redis.asyncio.Redis] = {}
        self._limit = limit
        self._turns = asyncio.Semaphore(max_connections)
        self._attempt: asyncio.Task[None] | None = None
        self._learned = float("-inf")
        self._next = itertools.count()

    async def initialize(self, *_: Any, **__: Any) -> AsyncBoundedCluster:
        """Make sure that slots are known; if something failed since they were learned, have them learned anew.

        Called before every command. Waits only where no slots are known at all.

        Raises:
            redis.RedisError, RedisClusterException, OSError: no slots are known, and the node asked did not answer.
        """
        known = bool(self.nodes_manager.slots_cache)
        if not known or (self._watch.suspect and time.monotonic() - self._learned >= LEARN_EVERY):
            if self._attempt is None:
                self._attempt = asyncio.create_task(self._learn())
                self._attempt.add_done_callback(self._done)
            if not known:
                # Shielded: one caller that is cancelled must not take the others' answer away.
                await asyncio.shield(self._attempt)
        self._initialize = False
        return self

    def get_redis_connection(self, node: AsyncClusterNode) -> redis.asyncio.Redis:
        """Return a client of one node, as the synchronous cluster client does; its pool waits."""
        if node.name not in self._clients:
            self._clients[node.name] = self._client_of(node.host, int(node.port))
        return self._clients[node.name]

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        """Execute a command as redis-py does, when it is its turn."""
        await self.initialize()
        try:
            async with asyncio.timeout(self._limit):
                await self._turns.acquire()
        except TimeoutError as problem:
            raise redis.ConnectionError("no connection became free in time") from problem
        try:
            return await super().execute_command(*args, **kwargs)
        finally:
            self._turns.release()

    async def aclose(self) -> None:
        """Close all connections; the next command opens them again."""
        if self._attempt is not None:
            await asyncio.wait([self._attempt])
        # Otherwise redis-py thinks that there is nothing to close, after an error or a failed attempt.
        self._initialize = False
        await super().aclose()
        for client in self._clients.values():
            await client.connection_pool.disconnect()

    async def _learn(self) -> None:
        manager = self.nodes_manager
        known = manager.startup_nodes
        manager.startup_nodes = chosen = _one_of(known, None, next(self._next))
        try:
            await manager.initialize()
        except BaseException:
            manager.startup_nodes = known
            raise
        finally:
            self._learned = time.monotonic()
        self._watch.suspect = False
        for name, node in known.items():
            if manager.startup_nodes.get(name) is not node and manager.nodes_cache.get(name) is not node:
                await node.disconnect()
        if not self.commands_parser.commands:
            # Ask the node that has just answered, not the first primary as redis-py does.
            await self.commands_parser.initialize(next(iter(chosen.values())))

    def _done(self, attempt: asyncio.Task[None]) -> None:
        self._attempt = None
        if not attempt.cancelled() and (problem := attempt.exception()) is not None:
            logger.debug("the slots of the cluster could not be learned: %s", problem)


def _one_of(nodes: dict[str, Any], failed: str | None, turn: int) -> dict[str, Any]:
    names = [name for name in nodes if name != failed] or list(nodes)
    name = names[turn % len(names)]
    return {name: nodes[name]}
