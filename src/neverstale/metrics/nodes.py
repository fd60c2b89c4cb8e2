"""How the nodes of Redis are: what INFO says that an operator wants to see, one node at a time.

Each is asked for itself: one that does not answer says so, and the others are shown all the same.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from neverstale.config import Settings
from neverstale.drive.clients import REDIS_ERRORS, AsyncConnections, Connections, unavailable
from neverstale.drive.cluster import AsyncBoundedCluster, BoundedCluster

__all__ = ["NodeStats", "nodes", "nodes_async"]


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
