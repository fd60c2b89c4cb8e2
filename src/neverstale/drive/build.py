"""From settings to redis-py's clients.

RESP 2 without CLIENT SETINFO: the replies used here are the same in both protocols, and a new connection is
ready after one round trip, or after three with a password and a database.
"""

from __future__ import annotations

import inspect
from typing import Any, TypeAlias

import redis
import redis.asyncio
import redis.asyncio.connection
import redis.asyncio.sentinel
import redis.connection
import redis.sentinel
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from neverstale.config import Settings
from neverstale.drive.cluster import AsyncBoundedCluster, BoundedCluster
from neverstale.drive.connection import Watch, observed, observed_async
from neverstale.drive.pools import AsyncSentinelPool, Pool, SentinelPool
from neverstale.events import Events

__all__ = ["AsyncClient", "Client", "build", "build_async", "pools_of"]

Client: TypeAlias = redis.Redis | BoundedCluster
AsyncClient: TypeAlias = redis.asyncio.Redis | AsyncBoundedCluster
# Retried is what shows that a connection was dead; a time limit that ran out would run out again.
_RETRIED = (redis.ConnectionError,)


def _most(settings: Settings, retries: int) -> int:
    # The patient client's pool has one more, for whoever listens to what others invalidate.
    return settings.pool_size + (1 if retries else 0)


def build(settings: Settings, limit: float, retries: int, events: Events, turn: int) -> Client:
    """Make a client for threads; only a cluster's does I/O.

    Args:
        settings: where Redis is.
        limit: seconds for each step, and to wait for a connection where all are in use.
        retries: how often a command is sent again after its connection broke.
        events: told about the connections.
        turn: which of a cluster's nodes is asked for its slots.
    """
    watch = Watch(events)
    options = _connection_options(settings, limit)
    bases = redis.connection
    base: type[Any] = bases.SSLConnection if settings.tls else bases.Connection
    if settings.mode == "unix":
        base = bases.UnixDomainSocketConnection
    if settings.mode == "cluster":
        return BoundedCluster(
            settings.nodes[turn % len(settings.nodes)],
            limit=limit,
            retries=retries,
            max_connections=_most(settings, retries),
            connection_class=observed(base, watch),
            **options,
        )
    pool_options = {
        **options,
        "max_connections": _most(settings, retries),
        "timeout": limit,
        "retry": Retry(NoBackoff(), retries, _RETRIED),
    }
    pool: redis.ConnectionPool
    if settings.mode == "sentinel":
        manager = redis.sentinel.Sentinel(
            settings.nodes,
            sentinel_kwargs={**_sentinel_options(settings, limit), "retry": Retry(NoBackoff(), 0)},
        )
        sentinels = redis.sentinel
        base = sentinels.SentinelManagedSSLConnection if settings.tls else sentinels.SentinelManagedConnection
        sentinel_pool: Any = SentinelPool
        pool = sentinel_pool(
            settings.service, manager, connection_class=observed(base, watch), **pool_options
        )
    else:
        pool = Pool(connection_class=observed(base, watch), **pool_options)  # type: ignore[no-untyped-call]
    return redis.Redis(connection_pool=pool)


def build_async(settings: Settings, limit: float, retries: int, events: Events) -> AsyncClient:
    """Make a client for the running event loop; no I/O. The arguments are those of `build`."""
    watch = Watch(events)
    options = _connection_options(settings, limit)
    bases = redis.asyncio.connection
    base: type[Any] = bases.SSLConnection if settings.tls else bases.Connection
    if settings.mode == "unix":
        base = bases.UnixDomainSocketConnection
    pool_options = {
        **options,
        "max_connections": _most(settings, retries),
        "timeout": limit,
        "retry": AsyncRetry(NoBackoff(), retries, _RETRIED),
    }
    kind = observed_async(base, watch)
    if settings.mode == "cluster":

        def client_of(host: str, port: int) -> redis.asyncio.Redis:
            pool = redis.asyncio.BlockingConnectionPool(
                connection_class=kind, host=host, port=port, **pool_options
            )
            return redis.asyncio.Redis(connection_pool=pool)

        return AsyncBoundedCluster(
            settings.nodes,
            limit=limit,
            retries=retries,
            watch=watch,
            connection_class=kind,
            client_of=client_of,
            max_connections=_most(settings, retries),
            ssl=settings.tls,
            **options,
        )
    pool: redis.asyncio.ConnectionPool
    if settings.mode == "sentinel":
        manager = redis.asyncio.sentinel.Sentinel(
            settings.nodes,
            sentinel_kwargs={**_sentinel_options(settings, limit), "retry": AsyncRetry(NoBackoff(), 0)},
        )
        sentinels = redis.asyncio.sentinel
        base = sentinels.SentinelManagedSSLConnection if settings.tls else sentinels.SentinelManagedConnection
        sentinel_pool: Any = AsyncSentinelPool
        pool = sentinel_pool(
            settings.service, manager, connection_class=observed_async(base, watch), **pool_options
        )
    else:
        pool = redis.asyncio.BlockingConnectionPool(connection_class=kind, **pool_options)
    return redis.asyncio.Redis(connection_pool=pool)


def pools_of(client: Any) -> list[Any]:
    """Return the pools that a client made here has: its own, and those of the Sentinels that it asks."""
    manager = getattr(client.connection_pool, "sentinel_manager", None)
    sentinels = manager.sentinels if manager is not None else []
    return [each.connection_pool for each in (client, *sentinels)]


def _connection_options(settings: Settings, limit: float) -> dict[str, Any]:
    """Return the arguments of a connection whose every step may take `limit` seconds."""
    options: dict[str, Any] = {
        "protocol": 2,
        "decode_responses": False,
        "socket_timeout": limit,
        **_without_setinfo(),
    }
    if settings.mode != "unix" or _accepts("socket_connect_timeout"):
        options["socket_connect_timeout"] = limit
    if settings.mode == "unix":
        options["path"] = settings.path
    else:
        options["socket_keepalive"] = True
    if settings.mode == "single":
        options["host"], options["port"] = settings.nodes[0]
    if settings.mode != "cluster":
        options["db"] = settings.db
    if settings.username is not None or settings.password is not None:
        # Not as username= and password=: before redis-py 8, a client's repr shows those.
        options["credential_provider"] = redis.UsernamePasswordCredentialProvider(
            settings.username, settings.password
        )
    if settings.tls:
        options.update(settings.tls_options)
        if settings.tls_options.get("ssl_cert_reqs") == "none":
            options["ssl_check_hostname"] = False
    return options


def _sentinel_options(settings: Settings, limit: float) -> dict[str, Any]:
    """Return the arguments of a client that asks a Sentinel."""
    # The URL's user and password are those of Redis; Sentinels are asked without.
    options = _connection_options(settings, limit)
    for name in ("db", "credential_provider"):
        options.pop(name, None)
    return {**options, "ssl": settings.tls}


def _accepts(option: str) -> bool:
    return option in inspect.signature(redis.connection.AbstractConnection.__init__).parameters


def _without_setinfo() -> dict[str, None]:
    # Two round trips on every new connection, to tell the server the name of a library.
    return {"driver_info": None} if _accepts("driver_info") else {"lib_name": None, "lib_version": None}
