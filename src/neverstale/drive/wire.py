"""Send commands and read replies on redis-py's synchronous connections: one node, or the nodes of a cluster.

Rules:
- All that goes to one node travels together; on a cluster every node is written to before the first is read.
- A command whose connection turns out to be broken is sent once more on another; one that timed out is not, for it
  would time out again. Every command of ours may be sent twice.
- Errors that Redis replies are handed back among the replies; what breaks a connection is raised.

redis-py keeps the connections, the pools and the map of the cluster. This module knows nothing of flows.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Protocol

import redis
from redis.exceptions import ConnectionError as BrokenConnection
from redis.exceptions import ResponseError

from neverstale.core.calls import DropSlot
from neverstale.core.commands import TopologyView

from .calls import Words, in_chunks, one_each, pack, redirected, run_id, slot_of, string, to_ask, topology
from .cluster import BoundedCluster
from .connection import REDIS_ERRORS

__all__ = ["ClusterWire", "SingleWire", "Wire"]


class Wire(Protocol):
    """What the driver of threads sends by."""

    def exchange(self, commands: Sequence[tuple[Any, Words]]) -> list[Any]:
        """Send commands, each with the key that routes it; return the replies, errors of Redis among them."""
        ...

    def fetch(self, keys: Sequence[str]) -> list[bytes | None]:
        """Read keys."""
        ...

    def drops(self, keys: Sequence[str | bytes]) -> Sequence[DropSlot]:
        """Return the calls that delete these keys."""
        ...

    def topology(self) -> TopologyView:
        """Ask which primaries there are."""
        ...

    def ask(self, node: str, words: Words) -> Any:
        """Send one command to one node, or to any if `node` is empty; an error that Redis replies is raised."""
        ...


def _converse(pool: Any, commands: Sequence[Words]) -> list[Any]:
    connection = pool.get_connection()
    try:
        connection.send_packed_command((b"".join(map(pack, commands)),))
        return [_reply(connection) for _ in commands]
    except BaseException:
        connection.disconnect()  # replies may be on their way that nobody will read
        raise
    finally:
        pool.release(connection)


def _persist(pool: Any, commands: Sequence[Words]) -> list[Any]:
    try:
        return _converse(pool, commands)
    except BrokenConnection:
        return _converse(pool, commands)


def _reply(connection: Any) -> Any:
    try:
        return connection.read_response()
    except ResponseError as error:
        return error


def _raised(reply: Any) -> Any:
    if isinstance(reply, ResponseError):
        raise reply
    return reply


class SingleWire:
    """Sends to the one node there is."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def exchange(self, commands: Sequence[tuple[Any, Words]]) -> list[Any]:
        return _persist(self._client.connection_pool, [words for _, words in commands])

    def fetch(self, keys: Sequence[str]) -> list[bytes | None]:
        reply: list[bytes | None] = self.ask("", ("MGET", *keys))
        return reply

    def drops(self, keys: Sequence[str | bytes]) -> Sequence[DropSlot]:
        return in_chunks(keys)

    def topology(self) -> TopologyView:
        (info,) = _persist(self._client.connection_pool, (("INFO", "server"),))
        return TopologyView(("",), run_id(info), moving=False)

    def ask(self, node: str, words: Words) -> Any:
        return _raised(_persist(self._client.connection_pool, (words,))[0])


class ClusterWire:
    """Sends to the nodes of a cluster that hold the keys."""

    def __init__(self, client: BoundedCluster) -> None:
        self._client: Any = client  # much of redis-py's cluster client has no types
        self._learning = threading.Lock()

    def exchange(self, commands: Sequence[tuple[Any, Words]]) -> list[Any]:
        try:
            replies = self._exchange(commands)
        except BrokenConnection:
            self._relearn()
            replies = self._exchange(commands)
        except REDIS_ERRORS:
            self._relearn()
            raise
        for index in redirected(replies):
            # redis-py follows the redirection and corrects its map.
            try:
                replies[index] = self._client.execute_command(*commands[index][1])
            except ResponseError as error:
                replies[index] = error
        return replies

    def _exchange(self, commands: Sequence[tuple[Any, Words]]) -> list[Any]:
        nodes: dict[str, tuple[Any, list[int]]] = {}
        for index, (key, _) in enumerate(commands):
            node = self._client.nodes_manager.get_node_from_slot(slot_of(key))
            nodes.setdefault(node.name, (node, []))[1].append(index)
        replies: list[Any] = [None] * len(commands)
        asked = []
        whole = False
        try:
            for node, indexes in nodes.values():
                pool: Any = self._client.get_redis_connection(node).connection_pool
                connection = pool.get_connection()
                asked.append((pool, connection, indexes))
                connection.send_packed_command((b"".join(pack(commands[i][1]) for i in indexes),))
            for _, connection, indexes in asked:
                for index in indexes:
                    replies[index] = _reply(connection)
            whole = True
        finally:
            for pool, connection, _ in asked:
                if not whole:
                    connection.disconnect()
                pool.release(connection)
        return replies

    def fetch(self, keys: Sequence[str]) -> list[bytes | None]:
        replies = self.exchange([(key, ("GET", key)) for key in keys])
        return [string(reply) for reply in replies]

    def drops(self, keys: Sequence[str | bytes]) -> Sequence[DropSlot]:
        return one_each(keys)

    def topology(self) -> TopologyView:
        asked = []
        for node in self._client.get_primaries():
            pool = self._client.get_redis_connection(node).connection_pool
            nodes, info = _persist(pool, (("CLUSTER", "NODES"), ("INFO", "server")))
            asked.append((node.name, _raised(nodes), info))
        view = topology(asked)
        if view.moving:
            self._relearn()
        return view

    def ask(self, node: str, words: Words) -> Any:
        *others, last = to_ask(self._client, node)
        for other in others:
            try:
                return self._ask(other, words)
            except REDIS_ERRORS:
                self._relearn()
        try:
            return self._ask(last, words)
        except REDIS_ERRORS:
            self._relearn()
            raise

    def _ask(self, node: Any, words: Words) -> Any:
        return _raised(_persist(self._client.get_redis_connection(node).connection_pool, (words,))[0])

    def _relearn(self) -> None:
        """Have the slots learned anew, beside the requests: a node may have failed over."""
        if not self._learning.acquire(blocking=False):
            return

        def learn() -> None:
            try:
                self._client.nodes_manager.initialize()
            finally:
                self._learning.release()

        threading.Thread(target=learn, name="neverstale-learn-slots", daemon=True).start()
