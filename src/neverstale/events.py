"""What happens to connections and to cached data, told to whoever subscribes, and to the log.

Rules:
- Telling never disturbs what is told about: a subscriber that raises is logged, and the others are told all
  the same.
- Callbacks run in the thread that emits, after the fact, with no lock held: they should be quick, and may
  subscribe or unsubscribe.
- Every event is logged by the logger `neverstale`. When Redis is away, errors come by the thousand: one
  warning per address and `WARN_EVERY` seconds is logged, with the number of those left out.

This module does not know how an event travels between processes, only how it is written.
"""

from __future__ import annotations

import inspect
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, TypeVar, overload

import msgspec

from neverstale.errors import UsageError

__all__ = ["ConnectionEvent", "Event", "Events", "InvalidationEvent"]

logger = logging.getLogger("neverstale")

# Often enough to see in a log that Redis is still away, seldom enough to find anything else in it.
WARN_EVERY: Final = 10.0
# A cluster has at most 1000 nodes; beyond that, addresses are coming and going, and the oldest are
# forgotten.
_ADDRESSES_KEPT: Final = 1000
_NAMES_SHOWN: Final = 5


@dataclass(frozen=True)
class ConnectionEvent:
    """A connection to Redis was made, failed, or was closed."""

    kind: Literal["connect", "error", "close"]
    # host:port, or the path of a socket.
    address: str
    error: str | None = None


@dataclass(frozen=True)
class InvalidationEvent:
    """Something was invalidated, here or in another process."""

    kind: Literal["key", "pattern", "tag"]
    names: tuple[str, ...]
    # How many entries were cleared.
    removed: int
    # "applied" or "queued".
    status: str
    # Seconds that it took.
    duration: float
    # The process that did it: `<host>/<pid>-<random>`.
    origin: str
    reason: str | None = None
    # Of the view that keys and patterns are to be read under.
    prefix: str = ""
    # Only marked stale.
    soft: bool = False

    def encode(self) -> bytes:
        """Write the event as JSON, for Redis to publish."""
        return msgspec.json.encode(self)

    @staticmethod
    def decode(message: bytes) -> InvalidationEvent | None:
        """Read what `encode` wrote, in this release or a later one; `None` for anything else."""
        try:
            return _decoder.decode(message)
        except (msgspec.MsgspecError, ValueError, TypeError, RecursionError):
            return None


_decoder = msgspec.json.Decoder(InvalidationEvent)

Event: TypeAlias = ConnectionEvent | InvalidationEvent
E = TypeVar("E", bound=Event)


class Events:
    """Tell subscribers and the log what happens. Safe for threads.

    Args:
        clock: seconds, monotonic; for tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        # Replaced as a whole and never changed, so that emitting needs no lock.
        self._subscribers: tuple[_Subscriber, ...] = ()
        # By address: the time of its last warning, the errors since, and whether it was since said to be back.
        self._troubled: dict[str, tuple[float, int, bool]] = {}

    @overload
    def subscribe(self, callback: Callable[[Event], object], /) -> Callable[[], None]: ...

    @overload
    def subscribe(
        self, callback: Callable[[E], object], first: type[E], /, *more: type[E]
    ) -> Callable[[], None]: ...

    def subscribe(self, callback: Callable[[Any], object], /, *types: type[Any]) -> Callable[[], None]:
        """Call `callback` with each event of the given types, or with every event where none are given.

        Returns:
            A function that ends the subscription; calling it again does nothing.

        Raises:
            UsageError: the callback is a coroutine function, which nobody would await.
        """
        if inspect.iscoroutinefunction(callback):
            raise UsageError("a subscriber must be a plain function: nobody would await a coroutine")
        subscriber = _Subscriber(callback, types or (object,))
        with self._lock:
            self._subscribers = (*self._subscribers, subscriber)

        def unsubscribe() -> None:
            with self._lock:
                self._subscribers = tuple(other for other in self._subscribers if other is not subscriber)

        return unsubscribe

    def emit(self, event: Event, *, remote: bool = False) -> None:
        """Log the event and tell its subscribers.

        Args:
            remote: it came from another process, which has logged it already: here it is only worth a DEBUG
                line.
        """
        if isinstance(event, InvalidationEvent):
            _log_invalidation(event, logging.DEBUG if remote else logging.INFO)
        else:
            self._log_connection(event)
        self.tell(event)

    def tell(self, event: Event) -> None:
        """Tell the subscribers of an event that has been logged already."""
        for subscriber in self._subscribers:
            if isinstance(event, subscriber.types):
                try:
                    subscriber.callback(event)
                except Exception:
                    logger.exception("a subscriber of %s raised", type(event).__name__)

    def _log_connection(self, event: ConnectionEvent) -> None:
        level, text, left_out = logging.DEBUG, str(event.kind), 0
        if event.kind == "error":
            with self._lock:
                now = self._clock()
                last, left_out, back = self._troubled.pop(event.address, (None, 0, False))
                if last is None or now - last >= WARN_EVERY:
                    level = logging.WARNING
                    self._troubled[event.address] = (now, 0, False)
                else:
                    self._troubled[event.address] = (last, left_out + 1, back)
                while len(self._troubled) > _ADDRESSES_KEPT:
                    del self._troubled[next(iter(self._troubled))]
        elif event.kind == "connect" and event.address in self._troubled:
            with self._lock:
                last, left_out, back = self._troubled.get(event.address, (0.0, 0, True))
                # Once after each warning: a frozen server is connected to again and again, and never answers.
                if not back:
                    level, text = logging.INFO, "connect again"
                    self._troubled[event.address] = (last, left_out, True)
        if not logger.isEnabledFor(level):
            return
        if level > logging.DEBUG and left_out:
            text += f" (and {left_out} more errors since the last warning)"
        logger.log(
            level,
            "redis:%s %s%s",
            text,
            event.address,
            f": {event.error}" if event.error else "",
            extra={
                "event": f"redis:{event.kind}",
                "redis_address": event.address,
                "redis_error": event.error,
            },
        )


@dataclass(frozen=True, eq=False)
class _Subscriber:
    callback: Callable[[Any], object]
    types: tuple[type[Any], ...]


def _log_invalidation(event: InvalidationEvent, level: int) -> None:
    if not logger.isEnabledFor(level):
        return
    more = len(event.names) - _NAMES_SHOWN
    logger.log(
        level,
        "cache:invalidate %s%s %s%s removed=%d status=%s in %.1f ms%s",
        "soft " if event.soft else "",
        event.kind,
        # By repr, so that a name with a line break cannot forge a line of the log.
        ", ".join(map(repr, event.names[:_NAMES_SHOWN])),
        f" and {more} more" if more > 0 else "",
        event.removed,
        event.status,
        event.duration * 1000,
        f" ({event.reason!r})" if event.reason else "",
        extra={
            "event": "cache:invalidate",
            "cache_kind": event.kind,
            "cache_names": event.names,
            "cache_removed": event.removed,
            "cache_status": event.status,
            "cache_duration": event.duration,
            "cache_origin": event.origin,
            "cache_reason": event.reason,
            "cache_prefix": event.prefix,
            "cache_soft": event.soft,
        },
    )
