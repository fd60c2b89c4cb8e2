"""Start real Redis, Valkey and PostgreSQL servers on free ports of the loopback.

Rules:

- Every server is a process of its own, in a temporary directory of its own, without persistence. A Redis
  server is ready when it answers a PING, a cluster when every node says `cluster_state:ok` and every replica
  has its data.
- A server dies with the process that started it, also when that process is killed (see `processes`).
- A port that somebody else takes between our asking for it and the server's binding it costs another try.

Nothing here knows of pytest or of the cache: tests, benchmarks and the demo all use it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from neverstale.testing.cluster import RedisCluster
from neverstale.testing.node import RedisServer, binaries
from neverstale.testing.postgres import PostgresServer
from neverstale.testing.processes import ServerError, free_port, wait_until

__all__ = [
    "PostgresServer",
    "RedisCluster",
    "RedisServer",
    "Server",
    "ServerError",
    "binaries",
    "free_port",
    "frozen",
    "wait_until",
]


class Server(Protocol):
    """What tests may ask of any Redis server, one node or a cluster."""

    @property
    def url(self) -> str: ...
    @property
    def is_cluster(self) -> bool: ...
    @property
    def nodes(self) -> Sequence[RedisServer]: ...
    def primaries(self) -> list[RedisServer]: ...
    def client(self) -> Any: ...
    def flush(self) -> None: ...
    def keys(self) -> list[bytes]: ...
    def freeze(self) -> None: ...
    def thaw(self) -> None: ...
    def revive(self) -> None: ...


@contextlib.contextmanager
def frozen(server: Server | RedisServer) -> Iterator[None]:
    """Freeze a server for the length of a `with` block."""
    server.freeze()
    try:
        yield
    finally:
        server.thaw()
