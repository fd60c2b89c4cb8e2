"""Computed values: expensive results, computed once, renewed before they end, and kept for when computing fails.

Rules:
- A computation runs only on a miss, once for all threads, tasks and processes that ask. What it gives is shared.
- Until its `ttl` a value is served. Past its `soft_ttl`, or about to end, it is renewed in the background meanwhile.
- Past its `ttl` a value may be kept for `stale_if_error` seconds more, and is served only where the computation fails,
  where it failed less than a second ago, or where it takes longer than `soft_timeout`.
- What was invalidated is never served, whatever fails.

This module does not know how any of this is done: it says for how long, and the caches below do it. The two faces
differ in `await` alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import lru_cache
from typing import Any, Final, NamedTuple, ParamSpec, TypeVar

from neverstale.base import BaseCache, Ttl, check_loader, milliseconds, tags_of
from neverstale.cache import Cache
from neverstale.cache_async import AsyncCache
from neverstale.counters import CounterSnapshot
from neverstale.decorate import AsyncCached, Cached, CallOptions
from neverstale.errors import UsageError
from neverstale.lifetime import Lifetime
from neverstale.limits import Limits
from neverstale.receipt import Receipt

__all__ = ["AsyncComputed", "Computed"]

T = TypeVar("T")
P = ParamSpec("P")

PREFIX: Final = "computed:"
#: Half a minute is what gateways give a request; what is longer in computing is a job's work. A process that is killed
#: while it computes leaves a lease behind that others wait for, so no longer than need be.
LEASE_TTL: Final = 30.0
#: The paper's optimum for the cost of a load that is known exactly; ours is that of the last one.
BETA: Final = 1.0
#: What is stored together expires over a tenth of its time: enough to tell the loads apart, little for the hit rate.
JITTER: Final = 0.1
#: Beyond it every read would renew.
_MOST_BETA: Final = 1000.0
#: As for the lease of the settings: so long others may have to wait for a process that died.
_MOST_LEASE_MS: Final = 3_600_000


class Rule(NamedTuple):
    """How long a value lives, and how long its computation may take."""

    life: Lifetime
    limits: Limits


class BaseComputed:
    """What both faces have in common: options into the caches' terms."""

    def __init__(self, cache: BaseCache) -> None:
        # Every call names its options: the same few, again and again. Typed: True is no number of seconds.
        self._known: Callable[..., Rule] = lru_cache(1024, typed=True)(self._make_rule)
        self._base = cache

    def __repr__(self) -> str:
        return f"<{type(self).__name__} in {self._base!r}>"

    def _rule(self, *options: Any) -> Rule:
        try:
            return self._known(*options)
        except TypeError:  # what cannot be hashed is no number either: this says so
            return self._make_rule(*options)

    def _make_rule(
        self,
        ttl: Ttl | None,
        soft_ttl: Ttl | None,
        stale_if_error: Ttl | None,
        soft_timeout: Ttl | None,
        hard_timeout: Ttl | None,
        lease_ttl: Ttl,
        beta: float,
        jitter: float,
    ) -> Rule:
        """Check the options of one value.

        Raises:
            UsageError: one of them is wrong, or makes no sense beside another.
        """
        plain = self._base._lifetime(ttl, soft_ttl)
        longest = round(self._base.settings.max_ttl * 1000)
        kept = 0 if stale_if_error is None else milliseconds("stale_if_error", stale_if_error)
        if soft_timeout is not None and not kept and not plain.stale_ms:
            raise UsageError(
                "soft_timeout says when an older value is served, and none is kept: give stale_if_error as well"
            )
        life = Lifetime(
            plain.fresh_ms,
            plain.stale_ms,
            # The fallback gives way: how long a value is served is what was asked for first.
            min(kept, longest - plain.ttl_ms),
            _number("beta", beta, _MOST_BETA),
            _number("jitter", jitter, 1.0),
        )
        soft, hard = (
            None if limit is None else milliseconds(name, limit) / 1000
            for name, limit in (("soft_timeout", soft_timeout), ("hard_timeout", hard_timeout))
        )
        # Whoever waits so long for a computation wants to have it stored.
        lease = max(milliseconds("lease_ttl", lease_ttl), round(1000 * (hard or 0)))
        if lease > _MOST_LEASE_MS:
            raise UsageError(
                "lease_ttl and hard_timeout are at most an hour: nothing may hold an entry for longer"
            )
        # Who waits for another's computation waits for as long as that has: to compute as well would not be sooner.
        return Rule(life, Limits(lease, lease / 1000, soft, hard))


class Computed(BaseComputed):
    """Expensive results in Redis, for threads: `AsyncComputed` is the same for asyncio.

    Args:
        cache: where they are kept, under the prefix `computed:`.
    """

    def __init__(self, cache: Cache) -> None:
        self._cache = cache.with_prefix(PREFIX)
        super().__init__(self._cache)

    @property
    def cache(self) -> Cache:
        """The view of the cache that the values are in, with all that it offers."""
        return self._cache

    def memoize(
        self,
        key: str,
        compute: Callable[[], T],
        ttl: Ttl | None = None,
        *,
        soft_ttl: Ttl | None = None,
        tags: Iterable[str] = (),
        type: Any = Any,
        stale_if_error: Ttl | None = None,
        soft_timeout: Ttl | None = None,
        hard_timeout: Ttl | None = None,
        lease_ttl: Ttl = LEASE_TTL,
        beta: float = BETA,
        jitter: float = JITTER,
    ) -> T:
        """Return the value under `key`; compute and store it on a miss.

        However many threads and processes ask for it, one computes and the others wait. What was computed before an
        invalidation is neither stored nor handed out after it.

        Args:
            key: the key, without prefix.
            compute: computes the value; takes no arguments. It may name tags by `neverstale.add_tags`.
            ttl: seconds that the value is served; the default of the settings for None.
            soft_ttl: seconds after which it is renewed in the background while it is served.
            tags: invalidating one of them invalidates this.
            type: of the value. A miss returns what a hit would: the value encoded and decoded.
            stale_if_error: seconds past the `ttl` that the value is kept, and served where the computation fails. In
                all nothing lives longer than 24 hours: this is shortened, not the `ttl`.
            soft_timeout: seconds after which a value that is kept is served; the computation goes on.
            hard_timeout: seconds after which a caller for whom there is nothing to serve gets `LoadTimeout`; the
                computation goes on.
            lease_ttl: seconds that a computation may take, at least `hard_timeout`: what takes longer is not stored.
            beta: how early a value is renewed, by the cost of its last computation; 0 is not at all.
            jitter: by up to this part all its times are shortened, by chance.

        With Redis away or too slow the value is computed, once at a time in this process, and not stored.

        Raises:
            Exception: what `compute` raises, as it is, where there is nothing to serve instead.
            LoadTimeout: the computation takes longer than `hard_timeout`, and there is nothing to serve.
            EncodingError: the computed value does not fit `type`.
            UsageError: an argument is wrong.
        """
        check_loader(compute)
        rule = self._rule(ttl, soft_ttl, stale_if_error, soft_timeout, hard_timeout, lease_ttl, beta, jitter)
        value: T = self._cache._get_or_load(
            key, compute, rule.life, tags_of(tags), self._cache._sealer(type), rule.limits
        )
        return value

    def memoized(
        self,
        ttl: Ttl | None = None,
        *,
        soft_ttl: Ttl | None = None,
        tags: Iterable[str] | Callable[..., Iterable[str]] = (),
        key: Callable[..., str] | None = None,
        type: Any = None,
        stale_if_error: Ttl | None = None,
        soft_timeout: Ttl | None = None,
        hard_timeout: Ttl | None = None,
        lease_ttl: Ttl = LEASE_TTL,
        beta: float = BETA,
        jitter: float = JITTER,
    ) -> Callable[[Callable[P, T]], Cached[P, T]]:
        """Memoize what a function returns, by its arguments. A decorator; see `neverstale.decorate`.

        Args:
            ttl, soft_ttl, stale_if_error, soft_timeout, hard_timeout, lease_ttl, beta, jitter: as `memoize`.
            tags: names, or a function of the same arguments that returns them.
            key: a function of the same arguments that returns the key; by default one is made of the function's name
                and all arguments, such that different calls never share one.
            type: of the value; by default what the function's annotation says it returns.

        The decorated function has `invalidate(*args)`, which forgets the value of these arguments, and `key(*args)`.

        Raises:
            UsageError: an option is wrong, or the function is of a kind that cannot be memoized here.
            KeyingError: when called with arguments that have no stable key.
        """
        if callable(ttl):
            raise UsageError("write @computed.memoized(), with parentheses")
        rule = self._rule(ttl, soft_ttl, stale_if_error, soft_timeout, hard_timeout, lease_ttl, beta, jitter)
        options = CallOptions(rule.life, tags, key, type, rule.limits)

        def decorate(func: Callable[P, T]) -> Cached[P, T]:
            return Cached(self._cache, func, options)

        return decorate

    def invalidate_key(self, key: str) -> Receipt:
        """Invalidate one value; as `Cache.invalidate_key`."""
        return self._cache.invalidate_key(key)

    def invalidate_pattern(self, pattern: str) -> Receipt:
        """Invalidate every computed value whose key matches a glob; as `Cache.invalidate_pattern`."""
        return self._cache.invalidate_pattern(pattern)

    def invalidate_tags(self, *tags: str) -> Receipt:
        """Invalidate what carries one of these tags, under whatever prefix; as `Cache.invalidate_tags`."""
        return self._cache.invalidate_tags(*tags)

    def stats(self) -> CounterSnapshot:
        """Return what was counted for computed values in this process since the cache was made."""
        return self._cache.stats()[PREFIX]


class AsyncComputed(BaseComputed):
    """Expensive results in Redis, for asyncio: `Computed` is the same for threads.

    Args:
        cache: where they are kept, under the prefix `computed:`.
    """

    def __init__(self, cache: AsyncCache) -> None:
        self._cache = cache.with_prefix(PREFIX)
        super().__init__(self._cache)

    @property
    def cache(self) -> AsyncCache:
        """The view of the cache that the values are in, with all that it offers."""
        return self._cache

    async def memoize(
        self,
        key: str,
        compute: Callable[[], Awaitable[T]],
        ttl: Ttl | None = None,
        *,
        soft_ttl: Ttl | None = None,
        tags: Iterable[str] = (),
        type: Any = Any,
        stale_if_error: Ttl | None = None,
        soft_timeout: Ttl | None = None,
        hard_timeout: Ttl | None = None,
        lease_ttl: Ttl = LEASE_TTL,
        beta: float = BETA,
        jitter: float = JITTER,
    ) -> T:
        """Return the value under `key`; compute and store it on a miss.

        However many threads and processes ask for it, one computes and the others wait. What was computed before an
        invalidation is neither stored nor handed out after it.

        Args:
            key: the key, without prefix.
            compute: computes the value; takes no arguments. It may name tags by `neverstale.add_tags`.
            ttl: seconds that the value is served; the default of the settings for None.
            soft_ttl: seconds after which it is renewed in the background while it is served.
            tags: invalidating one of them invalidates this.
            type: of the value. A miss returns what a hit would: the value encoded and decoded.
            stale_if_error: seconds past the `ttl` that the value is kept, and served where the computation fails. In
                all nothing lives longer than 24 hours: this is shortened, not the `ttl`.
            soft_timeout: seconds after which a value that is kept is served; the computation goes on.
            hard_timeout: seconds after which a caller for whom there is nothing to serve gets `LoadTimeout`; the
                computation goes on.
            lease_ttl: seconds that a computation may take, at least `hard_timeout`: what takes longer is not stored.
            beta: how early a value is renewed, by the cost of its last computation; 0 is not at all.
            jitter: by up to this part all its times are shortened, by chance.

        With Redis away or too slow the value is computed, once at a time in this process, and not stored.

        Raises:
            Exception: what `compute` raises, as it is, where there is nothing to serve instead.
            LoadTimeout: the computation takes longer than `hard_timeout`, and there is nothing to serve.
            EncodingError: the computed value does not fit `type`.
            UsageError: an argument is wrong.
        """
        check_loader(compute)
        rule = self._rule(ttl, soft_ttl, stale_if_error, soft_timeout, hard_timeout, lease_ttl, beta, jitter)
        value: T = await self._cache._get_or_load(
            key, compute, rule.life, tags_of(tags), self._cache._sealer(type), rule.limits
        )
        return value

    def memoized(
        self,
        ttl: Ttl | None = None,
        *,
        soft_ttl: Ttl | None = None,
        tags: Iterable[str] | Callable[..., Iterable[str]] = (),
        key: Callable[..., str] | None = None,
        type: Any = None,
        stale_if_error: Ttl | None = None,
        soft_timeout: Ttl | None = None,
        hard_timeout: Ttl | None = None,
        lease_ttl: Ttl = LEASE_TTL,
        beta: float = BETA,
        jitter: float = JITTER,
    ) -> Callable[[Callable[P, Coroutine[Any, Any, T]]], AsyncCached[P, T]]:
        """Memoize what a function returns, by its arguments. A decorator; see `neverstale.decorate`.

        Args:
            ttl, soft_ttl, stale_if_error, soft_timeout, hard_timeout, lease_ttl, beta, jitter: as `memoize`.
            tags: names, or a function of the same arguments that returns them.
            key: a function of the same arguments that returns the key; by default one is made of the function's name
                and all arguments, such that different calls never share one.
            type: of the value; by default what the function's annotation says it returns.

        The decorated function has `invalidate(*args)`, which forgets the value of these arguments, and `key(*args)`.

        Raises:
            UsageError: an option is wrong, or the function is of a kind that cannot be memoized here.
            KeyingError: when called with arguments that have no stable key.
        """
        if callable(ttl):
            raise UsageError("write @computed.memoized(), with parentheses")
        rule = self._rule(ttl, soft_ttl, stale_if_error, soft_timeout, hard_timeout, lease_ttl, beta, jitter)
        options = CallOptions(rule.life, tags, key, type, rule.limits)

        def decorate(func: Callable[P, Coroutine[Any, Any, T]]) -> AsyncCached[P, T]:
            return AsyncCached(self._cache, func, options)

        return decorate

    async def invalidate_key(self, key: str) -> Receipt:
        """Invalidate one value; as `AsyncCache.invalidate_key`."""
        return await self._cache.invalidate_key(key)

    async def invalidate_pattern(self, pattern: str) -> Receipt:
        """Invalidate every computed value whose key matches a glob; as `AsyncCache.invalidate_pattern`."""
        return await self._cache.invalidate_pattern(pattern)

    async def invalidate_tags(self, *tags: str) -> Receipt:
        """Invalidate what carries one of these tags, under whatever prefix; as `AsyncCache.invalidate_tags`."""
        return await self._cache.invalidate_tags(*tags)

    def stats(self) -> CounterSnapshot:
        """Return what was counted for computed values in this process since the cache was made."""
        return self._cache.stats()[PREFIX]


def _number(name: str, value: object, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise UsageError(f"{name} is a number from 0 to {most:g}, not {value!r}")
    return float(value)
