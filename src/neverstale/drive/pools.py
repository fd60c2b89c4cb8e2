"""redis-py's pools that wait.

Where a connection is free, that of threads skips the locks, timers and statistics that redis-py has for where none is:
they take as long as half a read. Everything else is left to redis-py: making connections, mending them, and waiting
for one. (Event loops need no such thing: `lanes` keep their connections.)
"""

from __future__ import annotations

from queue import Empty
from typing import Any

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel

__all__ = ["AsyncSentinelPool", "Pool", "SentinelPool"]


class Pool(redis.BlockingConnectionPool):
    """For threads; its connections are of `observed`."""

    def get_connection(self, *args: Any, **kwargs: Any) -> Any:
        """Return a connection that is ready; waits for one where all are in use."""
        try:
            connection = self.pool.get_nowait()
        except Empty:
            return super().get_connection(*args, **kwargs)  # type: ignore[no-untyped-call]
        if connection is not None and connection.ready():
            return connection
        self.pool.put_nowait(connection)
        return super().get_connection(*args, **kwargs)  # type: ignore[no-untyped-call]


class SentinelPool(redis.sentinel.SentinelConnectionPool, Pool):
    """The primary's connections, as Sentinel names it."""


class AsyncSentinelPool(redis.asyncio.sentinel.SentinelConnectionPool, redis.asyncio.BlockingConnectionPool):
    """The primary's connections, as Sentinel names it."""
