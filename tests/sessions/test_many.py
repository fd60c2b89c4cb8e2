"""A thousand sessions of one user, destroyed at once: what that costs Redis."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from neverstale.testing.servers import RedisCluster, Server
from tests.sessions.conftest import Make

SESSIONS = 1000
#: Of Redis' own time, over all nodes.
BOUND_MS = 50.0


def busy(server: Server) -> float:
    """Return the milliseconds that commands have taken since the last reset, over all nodes."""
    total = 0.0
    for node in server.nodes if isinstance(server, RedisCluster) else [server]:
        stats: dict[str, Any] = node.client().info("commandstats")
        total += sum(
            each["usec"] for name, each in stats.items() if "info" not in name and "config" not in name
        )
    return total / 1000


@pytest.mark.parametrize("kind", ["async"], indirect=True)
@pytest.mark.parametrize("server", ["redis", "redis-cluster"], indirect=True)
async def test_destroying_a_thousand(make: Make, server: Server) -> None:
    """Less than fifty milliseconds of Redis' time, on one node and on a cluster of six."""
    sessions = make()
    issued = [
        each
        for _ in range(SESSIONS // 50)
        for each in await asyncio.gather(*(sessions.begin({"n": 1}, user="7") for _ in range(50)))
    ]
    for node in server.nodes if isinstance(server, RedisCluster) else [server]:
        node.client().config_resetstat()
    assert await sessions.destroy_all("7") == SESSIONS
    taken = busy(server)
    print(f"{taken:.1f} ms of Redis' time for {SESSIONS} sessions")
    assert taken < BOUND_MS
    assert await sessions.get(issued[0].id) is None
    assert await sessions.get(issued[-1].id) is None
