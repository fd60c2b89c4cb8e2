"""Whether Redis can be used now, for the `/health` page of a web application.

It is asked as a read would ask, with the short time limit: a page that says "ok" while reads time out helps nobody, and
one that hangs for seconds is itself reported as down.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from neverstale.drive.clients import REDIS_ERRORS, AsyncConnections, Connections, unavailable
from neverstale.drive.cluster import AsyncBoundedCluster, BoundedCluster

__all__ = ["Health", "health", "health_async"]


@dataclass(frozen=True)
class Health:
    """What was found.

    Attributes:
        redis: "ok", or one line of what is wrong.
        latency_ms: milliseconds until everything that was asked had answered; `None` if something did not.
        mode: `single`, `cluster`, `sentinel` or `unix`.
        nodes: how many nodes answered; of a cluster, all its primaries.
        version: of the server, like "redis 7.0.15" or "valkey 8.1.1"; `None` where it may not be asked.
    """

    redis: str
    latency_ms: float | None
    mode: str
    nodes: int
    version: str | None

    def as_dict(self) -> dict[str, Any]:
        """Every field, ready for JSON."""
        return asdict(self)


def health(connections: Connections) -> Health:
    """Ask Redis, every primary of a cluster; never raises because of Redis."""
    began = time.perf_counter()
    try:
        fast = connections.fast
        if isinstance(fast, BoundedCluster):
            primaries = fast.nodes_manager.get_nodes_by_server_type("primary")
            nodes = [fast.get_redis_connection(node) for node in primaries]
        else:
            nodes = [fast]
        replies = [
            _asked(node.pipeline(transaction=False), connections.is_cluster).execute(raise_on_error=False)
            for node in nodes
        ]
        return _health(connections.settings.mode, began, replies)
    except REDIS_ERRORS as problem:
        return _unwell(connections.settings.mode, problem)


async def health_async(connections: AsyncConnections) -> Health:
    """Ask Redis, every primary of a cluster; never raises because of Redis."""
    began = time.perf_counter()
    try:
        fast = connections.fast
        if isinstance(fast, AsyncBoundedCluster):
            await fast.initialize()
            nodes = [fast.get_redis_connection(node) for node in fast.get_primaries()]
        else:
            nodes = [fast]
        asked = [
            _asked(node.pipeline(transaction=False), connections.is_cluster).execute(raise_on_error=False)
            for node in nodes
        ]
        return _health(connections.settings.mode, began, await asyncio.gather(*asked))
    except REDIS_ERRORS as problem:
        return _unwell(connections.settings.mode, problem)


def _asked(pipeline: Any, is_cluster: bool) -> Any:
    # INFO is refused to some users; PING says whether Redis answers all the same.
    pipeline.execute_command("PING")
    pipeline.execute_command("INFO", "server")
    if is_cluster:
        pipeline.execute_command("CLUSTER INFO")
    return pipeline


def _health(mode: str, began: float, replies: Sequence[Sequence[Any]]) -> Health:
    latency = round((time.perf_counter() - began) * 1000, 3)
    version: str | None = None
    for pong, info, *cluster in replies:
        if isinstance(pong, Exception):
            return _unwell(mode, pong)
        if isinstance(info, Mapping):
            version = version or _version(info)
        if any(isinstance(state, Mapping) and state.get("cluster_state") == "fail" for state in cluster):
            return Health(
                "the cluster is down: not all its slots are served", None, mode, len(replies), version
            )
    return Health("ok", latency, mode, len(replies), version)


def _version(info: Mapping[str, Any]) -> str | None:
    for name in ("valkey", "redis"):
        if f"{name}_version" in info:
            return f"{name} {info[f'{name}_version']}"
    return None


def _unwell(mode: str, problem: BaseException) -> Health:
    return Health(str(unavailable(problem)), None, mode, 0, None)
