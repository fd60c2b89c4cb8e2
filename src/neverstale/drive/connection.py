"""redis-py's connections, made to say what happens to them.

A connection is the one place that every command passes on every kind of server, one node, Sentinel or cluster,
so it is watched here: `observed(base, watch)` makes a subclass of a redis-py connection class that reports to a
`Watch` when it is connected, fails, or is closed.

Connected means that the server has answered a PING: a frozen server's kernel accepts connections as well, and
after a TLS handshake there are session tickets to be read, which redis-py's pool takes for a reply to nobody.

Three traps of redis-py are closed here as well:
- Sentinel's connections stay open after a read that timed out, so that the next command reads the late reply; here
  every broken read closes its connection.
- CLUSTERDOWN makes the cluster client sleep for 0.25 s on the hit path; here it is a broken connection.
- hiredis ends the process if a signal's handler raises while it writes a number; here it is given none (`plain`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final

import redis
from redis.exceptions import ClusterDownError, RedisClusterException, ResponseError

from neverstale.errors import RedisUnavailable
from neverstale.events import ConnectionEvent, Events

__all__ = ["REDIS_ERRORS", "Watch", "observed", "observed_async", "plain", "unavailable"]

# What a call on a redis-py client can raise because of Redis. The cluster client's own exceptions are no
# RedisError; OSError covers name resolution, TLS, and the TimeoutError of Python and asyncio.
REDIS_ERRORS: Final = (redis.RedisError, RedisClusterException, OSError)

_BROKEN: Final = (redis.ConnectionError, redis.TimeoutError, OSError)


def plain(words: Iterable[Any]) -> tuple[Any, ...]:
    """Return the words of a command with its numbers as text.

    hiredis (3.5) asks Python for the text of a number, at which Python lets signals' handlers run, and does not look
    whether they raised: Ctrl-C, or a time limit of gunicorn or Celery, would be a segmentation fault.
    """
    return tuple([str(word) if isinstance(word, (int, float)) else word for word in words])


def unavailable(problem: BaseException) -> RedisUnavailable:
    """Say in one line what went wrong with Redis; raise the result `from` the original."""
    text = " ".join(str(problem).split()) or "no further word"
    address = getattr(problem, "redis_address", None)
    if address is not None and address not in text:
        text += f" ({address})"
    return RedisUnavailable(f"{type(problem).__name__}: {text}")


class Watch:
    """Hear about all connections of one client.

    Attributes:
        suspect: something failed since this was last set to False. A cluster may have changed.
    """

    def __init__(self, events: Events) -> None:
        self.suspect = False
        self._events = events

    def connected(self, address: str) -> None:
        """A connection was made and greeted."""
        self._events.emit(ConnectionEvent("connect", address))

    def failed(self, address: str, problem: BaseException) -> None:
        """A connection could not be made, or broke, or did not answer in time. Each exception counts once."""
        self.suspect = True
        if not hasattr(problem, "redis_address"):
            # Noted on the exception, which travels on through several hands: redis-py does not always say where.
            problem.redis_address = address  # type: ignore[attr-defined]
            self._events.emit(ConnectionEvent("error", address, str(unavailable(problem))))

    def closed(self, address: str) -> None:
        """A connection that stood was closed, for whatever reason."""
        self._events.emit(ConnectionEvent("close", address))


def observed(base: type[Any], watch: Watch) -> type[Any]:
    """Make a subclass of a connection class of `redis.connection` that reports to `watch`."""
    return type(f"Observed{base.__name__}", (_Observed, base), {"watch": watch})


def observed_async(base: type[Any], watch: Watch) -> type[Any]:
    """Make a subclass of a connection class of `redis.asyncio.connection` that reports to `watch`."""
    return type(f"Observed{base.__name__}", (_AsyncObserved, base), {"watch": watch})


def _address(connection: Any) -> str:
    path = getattr(connection, "path", None)
    return str(path) if path else f"{connection.host}:{connection.port}"


# The bases of these two are given by `observed`; until then mypy cannot know them.
class _Observed:
    watch: Watch
    can_read: Callable[[], bool]
    _sock: Any
    _finalizing = False

    def pack_command(self, *words: Any) -> Any:
        return super().pack_command(*plain(words))  # type: ignore[misc]

    def pack_commands(self, commands: Iterable[Iterable[Any]]) -> Any:
        return super().pack_commands(map(plain, commands))  # type: ignore[misc]

    def ready(self) -> bool:
        """Say whether a command can be sent: it is connected, and nothing is left to read."""
        try:
            return self._sock is not None and not self.can_read()
        except (*_BROKEN, TypeError, ValueError, AttributeError):
            # The latter where another thread closes the cache at this moment: redis-py's parser has lost its socket.
            return False

    def connect_check_health(self, *args: Any, **kwargs: Any) -> None:
        if self._sock is not None:
            return
        try:
            super().connect_check_health(*args, **kwargs)  # type: ignore[misc]
            self._greet()
        except _BROKEN as problem:
            self.watch.failed(_address(self), problem)
            raise
        self.watch.connected(_address(self))

    def _greet(self) -> None:
        try:
            super().send_packed_command(self.pack_command("PING"), check_health=False)  # type: ignore[misc]
            super().read_response(disconnect_on_error=True)  # type: ignore[misc]
        except redis.ResponseError:
            pass  # an answer all the same: this user may not say PING

    def send_packed_command(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().send_packed_command(*args, **kwargs)  # type: ignore[misc]
        except _BROKEN as problem:
            self.watch.failed(_address(self), problem)
            raise

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        kwargs.setdefault("disconnect_on_error", True)
        try:
            return super().read_response(*args, **kwargs)  # type: ignore[misc]
        except _BROKEN as problem:
            self.watch.failed(_address(self), problem)
            raise
        except ClusterDownError as problem:
            # Closed, because whoever hears of a broken connection reads no further reply from it.
            self.disconnect()
            down = redis.ConnectionError(str(problem))
            self.watch.failed(_address(self), down)
            raise down from problem

    def disconnect(self, *args: Any, **kwargs: Any) -> None:
        stood = self._sock is not None
        super().disconnect(*args, **kwargs)  # type: ignore[misc]
        if stood and not self._finalizing:
            self.watch.closed(_address(self))

    def __del__(self) -> None:
        # The garbage collector may run anywhere, also inside a subscriber or a log handler: say nothing.
        self._finalizing = True
        super().__del__()  # type: ignore[misc]


class _AsyncObserved:
    watch: Watch
    is_connected: bool
    socket_timeout: float | None
    pack_command: Callable[..., Any]

    async def converse(self, packed: bytes, count: int) -> list[Any]:
        """Send what is packed and read so many replies, errors of Redis among them; one time limit for it all.

        redis-py's own limits, one for sending and one for each reply, take longer than many a reply.
        """
        limit, self.socket_timeout = self.socket_timeout, None
        try:
            async with asyncio.timeout(limit):
                await self.send_packed_command(packed)
                return [await self._reply() for _ in range(count)]
        except TimeoutError as error:
            await self.disconnect(nowait=True)
            problem = redis.TimeoutError("no answer in time")
            self.watch.failed(_address(self), problem)
            raise problem from error
        finally:
            self.socket_timeout = limit

    async def _reply(self) -> Any:
        try:
            return await self.read_response()
        except ResponseError as error:
            return error

    async def connect_check_health(self, *args: Any, **kwargs: Any) -> None:
        if self.is_connected:
            return
        try:
            await super().connect_check_health(*args, **kwargs)  # type: ignore[misc]
            await self._greet()
        except _BROKEN as problem:
            self.watch.failed(_address(self), problem)
            raise
        self.watch.connected(_address(self))

    async def _greet(self) -> None:
        try:
            await super().send_packed_command(self.pack_command("PING"), check_health=False)  # type: ignore[misc]
            await super().read_response()  # type: ignore[misc]
        except redis.ResponseError:
            pass  # an answer all the same: this user may not say PING

    async def send_packed_command(self, *args: Any, **kwargs: Any) -> None:
        try:
            await super().send_packed_command(*args, **kwargs)  # type: ignore[misc]
        except _BROKEN as problem:
            self.watch.failed(_address(self), problem)
            raise

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().read_response(*args, **kwargs)  # type: ignore[misc]
        except _BROKEN as problem:
            self.watch.failed(_address(self), problem)
            raise
        except ClusterDownError as problem:
            await self.disconnect(nowait=True)
            down = redis.ConnectionError(str(problem))
            self.watch.failed(_address(self), down)
            raise down from problem

    async def disconnect(self, *args: Any, **kwargs: Any) -> None:
        stood = self.is_connected
        await super().disconnect(*args, **kwargs)  # type: ignore[misc]
        if stood:
            self.watch.closed(_address(self))
