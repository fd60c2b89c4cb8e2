"""Invalidations that failed, and are tried again until they work.

For whoever has committed already: an error would look like a write that failed, and silence would be a stale read. So
the failure is logged as an error, given to the caller, and the invalidation repeated in the background until it works
or all that it concerned has expired.

Rules:
- What is owed is owed until `max_ttl` from its failure: by then nothing that was cached before it is left.
- What is added while it is being paid is owed still.
- So many names are owed at most, or clients could fill the memory of a process during an outage: the oldest are given
  up, and logged.
- What this cannot cover is a process that ends in between; `close` makes a last attempt and logs what is left.

Keys are whole ones, their prefix in front, whatever view of the cache is given.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from neverstale.cache import Cache
from neverstale.cache_async import AsyncCache
from neverstale.errors import InvalidationError

__all__ = ["AsyncRetrier", "Retrier", "Work"]

logger = logging.getLogger("neverstale")

#: Soon enough after a short hiccup that nobody notices; then up to a second: while Redis is away nobody reads what is
#: old, and once it is back this is how long what is old may be read.
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 1.0
#: An entry has at most 1000 tags, and so has a call.
_BATCH: Final = 500
_SHOWN: Final = 10
#: Some 20 MB; nobody but an attacker changes more while Redis is away.
_MOST: Final = 100_000


class Work(NamedTuple):
    """Tags and keys that are to be invalidated."""

    tags: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.tags or self.keys)

    def __str__(self) -> str:
        names = [*(f"tag {tag!r}" for tag in self.tags), *(f"key {key!r}" for key in self.keys)]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        return ", ".join(names[:_SHOWN]) + more

    def batches(self) -> Iterator[tuple[Literal["tag", "key"], tuple[str, ...]]]:
        """Split into calls; the tags first, for they concern more."""
        for at in range(0, len(self.tags), _BATCH):
            yield "tag", self.tags[at : at + _BATCH]
        for at in range(0, len(self.keys), _BATCH):
            yield "key", self.keys[at : at + _BATCH]


@dataclass(frozen=True, slots=True)
class _Debt:
    number: int
    due: float
    until: float


class _Book:
    """What is owed, and until when that matters; safe for threads.

    Args:
        lasting: seconds after which nothing is left of what was to be invalidated.
        clock: seconds, monotonic; for tests.
    """

    def __init__(self, lasting: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lasting = lasting
        self._clock = clock
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._debts: dict[tuple[str, str], _Debt] = {}

    def __len__(self) -> int:
        return len(self._debts)

    def add(self, work: Work, after: float = 0.0) -> None:
        """Note what is owed, from `after` seconds on."""
        with self._lock:
            now = self._clock()
            debt = _Debt(next(self._numbers), now + after, now + after + self._lasting)
            for kind, names in work.batches():
                self._debts |= dict.fromkeys(((kind, name) for name in names), debt)
            while len(self._debts) > _MOST:
                oldest = next(iter(self._debts))
                del self._debts[oldest]
                logger.error("never invalidated: %s %r", *oldest)

    def due(self) -> tuple[Work, int]:
        """Return what is to be paid now, and the number that `paid` is to be given for it."""
        with self._lock:
            now = self._clock()
            self._debts = {name: debt for name, debt in self._debts.items() if debt.until > now}
            return _work(name for name, debt in self._debts.items() if debt.due <= now), next(self._numbers)

    def all(self) -> Work:
        """Return what is owed, now or later."""
        with self._lock:
            return _work(self._debts)

    def paid(self, work: Work, number: int) -> None:
        """Strike what was paid, unless it was added again since."""
        with self._lock:
            for kind, names in work.batches():
                for name in names:
                    debt = self._debts.get((kind, name))
                    if debt is not None and debt.number < number:
                        del self._debts[kind, name]


def _work(names: Iterable[tuple[str, str]]) -> Work:
    sorted_out: dict[str, list[str]] = {"tag": [], "key": []}
    for kind, name in names:
        sorted_out[kind].append(name)
    return Work(tuple(sorted_out["tag"]), tuple(sorted_out["key"]))


def _pauses() -> Iterator[float]:
    pause = _FIRST_PAUSE
    while True:
        yield pause
        pause = min(pause * 2, _LONGEST_PAUSE)


def _failed(kind: str, names: tuple[str, ...], error: Exception) -> InvalidationError:
    """Return any error of an invalidation as the one that says so: nothing that goes wrong here may be lost."""
    if isinstance(error, InvalidationError):
        return error
    failure = InvalidationError(kind, names, repr(error))
    failure.__cause__ = error
    return failure


class Retrier:
    """Invalidate, and try again in a thread of its own what fails: `AsyncRetrier` is the same for asyncio.

    Args:
        cache: any view of it.
        reason: why, for events and the log.
    """

    def __init__(self, cache: Cache, reason: str = "") -> None:
        self._cache = cache.with_prefix("")
        self._reason = reason
        self._book = _Book(cache.settings.max_ttl)
        self._lock = threading.Lock()
        self._paying: threading.Thread | None = None
        self._closing = threading.Event()

    def invalidate(self, work: Work) -> InvalidationError | None:
        """Invalidate tags and keys, in two calls; what fails is logged, and tried again in the background.

        Returns:
            What went wrong, or None: once this has returned None the promise holds.
        """
        error = self._try(work)
        if error is not None:
            logger.error("committed, but not invalidated yet: %s: %s", work, error.problem)
            self.later(work)
        return error

    def later(self, work: Work, after: float = 0.0) -> None:
        """Invalidate in the background, `after` seconds from now or as soon as Redis answers."""
        self._book.add(work, after)
        with self._lock:
            if self._paying is None or not self._paying.is_alive():
                self._closing.clear()
                self._paying = threading.Thread(target=self._pay, name="neverstale-owed", daemon=True)
                self._paying.start()

    @property
    def owed(self) -> Work:
        """What is still to be invalidated."""
        return self._book.all()

    def close(self) -> None:
        """End the background's attempts, after a last one; what is left then is logged as an error."""
        self._closing.set()
        if self._paying is not None and self._paying is not threading.current_thread():
            self._paying.join()
        owed = self._book.all()
        number = self._book.due()[1]
        if owed and self._try(owed) is not None:
            logger.error("never invalidated: %s", owed)
        self._book.paid(owed, number)

    def _try(self, work: Work) -> InvalidationError | None:
        failure = None
        for kind, names in work.batches():
            try:
                if kind == "tag":
                    self._cache.invalidate_tags(*names, reason=self._reason)
                else:
                    self._cache.invalidate_keys(*names, reason=self._reason)
            except Exception as error:  # noqa: BLE001 - whatever it is, the commit has happened
                failure = failure or _failed(kind, names, error)
        return failure

    def _pay(self) -> None:
        pauses = _pauses()
        while not self._closing.wait(next(pauses)):
            work, number = self._book.due()
            if work and self._try(work) is None:
                self._book.paid(work, number)
                logger.warning("invalidated at last: %s", work)
                pauses = _pauses()
            with self._lock:
                if not self._book:
                    self._paying = None  # under the lock: what is added from here on starts the next thread
                    return


class AsyncRetrier:
    """Invalidate, and try again in a task of its own what fails: `Retrier` is the same for threads.

    Args:
        cache: any view of it.
        reason: why, for events and the log.
    """

    def __init__(self, cache: AsyncCache, reason: str = "") -> None:
        self._cache = cache.with_prefix("")
        self._reason = reason
        self._book = _Book(cache.settings.max_ttl)
        self._paying: asyncio.Task[None] | None = None

    async def invalidate(self, work: Work) -> InvalidationError | None:
        """Invalidate tags and keys, in two calls; what fails is logged, and tried again in the background.

        Whoever cancels this leaves it to the background.

        Returns:
            What went wrong, or None: once this has returned None the promise holds.
        """
        try:
            error = await self._try(work)
        except asyncio.CancelledError:
            self.later(work)
            raise
        if error is not None:
            logger.error("committed, but not invalidated yet: %s: %s", work, error.problem)
            self.later(work)
        return error

    def later(self, work: Work, after: float = 0.0) -> None:
        """Invalidate in the background, `after` seconds from now or as soon as Redis answers."""
        self._book.add(work, after)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # the next one that is added on a loop takes this along
        if self._paying is None or self._paying.done() or self._paying.get_loop() is not loop:
            self._paying = loop.create_task(self._pay())

    @property
    def owed(self) -> Work:
        """What is still to be invalidated."""
        return self._book.all()

    async def close(self) -> None:
        """End the background's attempts, after a last one; what is left then is logged as an error."""
        paying, self._paying = self._paying, None
        if paying is not None and paying.get_loop() is asyncio.get_running_loop():
            paying.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await paying
        owed = self._book.all()
        number = self._book.due()[1]
        if owed and await self._try(owed) is not None:
            logger.error("never invalidated: %s", owed)
        self._book.paid(owed, number)

    async def _try(self, work: Work) -> InvalidationError | None:
        failure = None
        for kind, names in work.batches():
            try:
                if kind == "tag":
                    await self._cache.invalidate_tags(*names, reason=self._reason)
                else:
                    await self._cache.invalidate_keys(*names, reason=self._reason)
            except Exception as error:  # noqa: BLE001 - whatever it is, the commit has happened
                failure = failure or _failed(kind, names, error)
        return failure

    async def _pay(self) -> None:
        pauses = _pauses()
        while self._book:
            await asyncio.sleep(next(pauses))
            work, number = self._book.due()
            if work and await self._try(work) is None:
                self._book.paid(work, number)
                logger.warning("invalidated at last: %s", work)
                pauses = _pauses()
