"""How the nodes of Redis are: what INFO says that an operator wants to see, one node at a time.

Each is asked for itself: one that does not answer says so, and the others are shown all the same.

For Prometheus one worker process looks for all of them. Nodes count evictions since they were started. Were each worker
to show its own look, one scrape would be told a number and the next, by a worker that looked earlier, a smaller one;
which is how a counter looks that has been restarted, and all it had counted would be added once more.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final

from neverstale.config import Settings
from neverstale.drive.clients import REDIS_ERRORS, AsyncConnections, Connections, unavailable
from neverstale.drive.cluster import AsyncBoundedCluster, BoundedCluster

from .siblings import alone, load, shared, store

__all__ = ["Looks", "NodeStats", "nodes", "nodes_async"]

#: Seconds between two looks at the nodes; Prometheus asks every 15 s or so.
_EVERY: Final = 10.0
#: What is known of the nodes is shown for so long: then the look has failed three times.
_KEPT: Final = 30.0


@dataclass(frozen=True)
class NodeStats:
    """One node, as it was a moment ago.

    Attributes:
        node: `host:port`, the path of a socket, or the service that Sentinel watches.
        error: what is wrong, one line; "" if it answered.
        latency: seconds until it had.
        version: like "redis 7.0.15".
        role: `primary` or `replica`.
        replicas: how many are connected to it.
        memory, max_memory: bytes; 0 for `max_memory` is no limit.
        policy: what is evicted when that is reached.
        evicted, expired: keys, since the server was started.
        clients: connections.
        commands: per second, as the server measures it.
        keys: in all databases.
        uptime: seconds.
    """

    node: str
    error: str = ""
    latency: float | None = None
    version: str = ""
    role: str = ""
    replicas: int = 0
    memory: int = 0
    max_memory: int = 0
    policy: str = ""
    evicted: int = 0
    expired: int = 0
    clients: int = 0
    commands: int = 0
    keys: int = 0
    uptime: int = 0

    @property
    def up(self) -> bool:
        """Whether it answered."""
        return not self.error

    def as_dict(self) -> dict[str, Any]:
        """Every field, ready for JSON."""
        return asdict(self)


class Looks:
    """What was last found out about the nodes, by this process or any other worker on the same machine.

    One looks at a time, and the next one only when it is known what the one before has found. So what is shown comes in
    the order in which the nodes have said it, whichever worker is asked, and by no clock.

    Args:
        settings: of the cache.
    """

    def __init__(self, settings: Settings) -> None:
        self._name = f"nodes-{hashlib.sha256(str(settings.url).encode()).hexdigest()[:16]}"
        self._own: tuple[float, list[NodeStats]] | None = None

    def last(self) -> list[NodeStats]:
        """Return what was found; nothing where that is long ago."""
        age, found = self._known()
        return found if age <= _KEPT else []

    @contextmanager
    def turn(self) -> Iterator[bool]:
        """Say whether this process shall look now; if so, no other one does until the block ends.

        Raises:
            OSError: the directory of all workers cannot be written to.
        """
        path = shared(self._name)
        if self._known()[0] < _EVERY:
            yield False
        elif path is None:
            yield True
        else:
            with alone(path, wait=False) as mine:
                # Asked again: another one may just have been done.
                yield mine and self._known()[0] >= _EVERY

    def keep(self, found: list[NodeStats]) -> None:
        """Let all know what was found; by who has the turn.

        Raises:
            OSError: it could not be written down.
        """
        path = shared(self._name)
        if path is None:
            self._own = (time.monotonic(), found)
        else:
            store(path, {"at": time.monotonic(), "nodes": [each.as_dict() for each in found]})

    def _known(self) -> tuple[float, list[NodeStats]]:
        path = shared(self._name)
        known = self._own
        if path is not None:
            try:
                said = load(path)
                known = float(said["at"]), [NodeStats(**each) for each in said["nodes"]]
            except (KeyError, TypeError, ValueError):  # none yet, or of another release
                known = None
        if known is None:
            return float("inf"), []
        # That clock is the same for all processes; one that is ahead is of before the machine was started anew.
        age = time.monotonic() - known[0]
        return (age if age >= 0 else float("inf")), known[1]


def nodes(connections: Connections, *, patient: bool = False) -> list[NodeStats]:
    """Ask every node, of a cluster its replicas, too; never raises because of Redis.

    Args:
        connections: where Redis is.
        patient: with the long time limit instead of that of reads.
    """
    found = []
    try:
        client = connections.patient if patient else connections.fast
        for name, node in _named(connections.settings, client):
            began = time.perf_counter()
            try:
                found.append(_stats(name, node.info("everything"), time.perf_counter() - began))
            except REDIS_ERRORS as problem:
                found.append(NodeStats(name, str(unavailable(problem))))
    except REDIS_ERRORS as problem:
        found.append(NodeStats(_name(connections.settings), str(unavailable(problem))))
    return found


async def nodes_async(connections: AsyncConnections, *, patient: bool = False) -> list[NodeStats]:
    """Ask every node, all at once; the same as `nodes`."""

    async def ask(name: str, client: Any) -> NodeStats:
        began = time.perf_counter()
        try:
            return _stats(name, await client.info("everything"), time.perf_counter() - began)
        except REDIS_ERRORS as problem:
            return NodeStats(name, str(unavailable(problem)))

    try:
        known = connections.patient if patient else connections.fast
        if isinstance(known, AsyncBoundedCluster):
            await known.initialize()
        return list(await asyncio.gather(*(ask(*each) for each in _named(connections.settings, known))))
    except REDIS_ERRORS as problem:
        return [NodeStats(_name(connections.settings), str(unavailable(problem)))]


def _named(settings: Settings, client: Any) -> list[tuple[str, Any]]:
    if not isinstance(client, BoundedCluster | AsyncBoundedCluster):
        return [(_name(settings), client)]
    cluster: Any = client  # of threads or of a loop: the same names
    known = sorted(cluster.nodes_manager.nodes_cache.values(), key=lambda node: str(node.name))
    return [(str(node.name), cluster.get_redis_connection(node)) for node in known]


def _name(settings: Settings) -> str:
    return settings.path or settings.service or f"{settings.host}:{settings.port}"


def _stats(node: str, info: Mapping[str, Any], latency: float) -> NodeStats:
    def number(name: str) -> int:
        value = info.get(name, 0)
        return int(value) if isinstance(value, int | float) else 0

    server = "valkey" if "valkey_version" in info else "redis"
    return NodeStats(
        node=node,
        latency=latency,
        version=f"{server} {info.get(f'{server}_version', '?')}",
        role="replica" if info.get("role") == "slave" else "primary",
        replicas=number("connected_slaves"),
        memory=number("used_memory"),
        max_memory=number("maxmemory"),
        policy=str(info.get("maxmemory_policy", "")),
        evicted=number("evicted_keys"),
        expired=number("expired_keys"),
        clients=number("connected_clients"),
        commands=number("instantaneous_ops_per_sec"),
        keys=sum(
            int(value.get("keys", 0))
            for name, value in info.items()
            if name.startswith("db") and isinstance(value, Mapping)
        ),
        uptime=number("uptime_in_seconds"),
    )
