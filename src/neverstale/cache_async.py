"""`AsyncCache`: the face for asyncio; what `Cache` is for threads."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Literal, ParamSpec, Self, TypeVar, overload

from neverstale.base import MISS, BaseCache, Found, Shared, Ttl, check_loader, tags_of
from neverstale.config import Settings
from neverstale.core import commands as c
from neverstale.core import lease
from neverstale.core.keys import Keys
from neverstale.core.patterns import clear, invalidate_keys, invalidate_pattern
from neverstale.core.policy import STALE, UNSURE, Memory, Seen
from neverstale.core.read import read_many
from neverstale.core.tags import invalidate_tags
from neverstale.decorate import AsyncCached, CallOptions
from neverstale.drive.aio import AsyncDriver
from neverstale.drive.announce import Announcer
from neverstale.drive.clients import shared_async
from neverstale.drive.listen import listening_async
from neverstale.errors import InvalidationError, RedisUnavailable, UsageError
from neverstale.events import ConnectionEvent, Events
from neverstale.health import Health, health_async
from neverstale.hot import HotKey, HotTag
from neverstale.lifetime import Lifetime
from neverstale.limits import Limits
from neverstale.metrics.nodes import NodeStats, nodes_async
from neverstale.metrics.reporter import hand_in_async, reporting_async
from neverstale.metrics.totals import Span, Totals, hot_keys, hot_tags, series, totals
from neverstale.receipt import Receipt
from neverstale.sealing import ValueSealer

__all__ = ["AsyncCache"]

T = TypeVar("T")
P = ParamSpec("P")


class AsyncCache(BaseCache):
    """A cache in Redis, for asyncio. Make one by `from_env` or `from_url`; `Cache` is the same for threads.

    Redis away or slow costs a reader the time limit (`timeout`, 50 ms) and nothing else: a read is a miss or goes to
    its loader, a `set` is dropped and counted. Only invalidations raise: they never fail silently.
    """

    def __init__(self, settings: Settings | None = None, *, prefix: str = "") -> None:
        settings = settings or Settings.from_env()
        # Connections are shared by all caches on one Redis; what is invalidated concerns one cache.
        events = Events()
        announcer = Announcer(events, Keys(settings.namespace, settings.version, "").channel)
        super().__init__(Shared(settings, events, announcer, Memory(), {}), prefix)
        # Nothing may raise from here on: connections that were taken are given back by `close` alone.
        self._connections = shared_async(settings)
        self._deaf = self._connections.events.subscribe(events.tell, ConnectionEvent)
        self._driver = AsyncDriver(self._connections, announcer)

    @classmethod
    def from_env(cls, *, prefix: str = "", **overrides: Any) -> Self:
        """Make a cache by `REDIS_URL` and `NEVERSTALE_*`; does no I/O.

        Args:
            prefix: stands in front of every key, like `api:`.
            overrides: options of `Settings`, stronger than the environment.

        Raises:
            SettingsError: a value is not allowed; the message names the variable.
        """
        return cls(Settings.from_env(**overrides), prefix=prefix)

    @classmethod
    def from_url(
        cls, url: str, *, namespace: str = "", prefix: str = "", version: int = 1, **options: Any
    ) -> Self:
        """Make a cache on the Redis at `url`; does no I/O.

        Args:
            url: as in `REDIS_URL`.
            namespace: the application's name, in front of all its keys.
            prefix: stands in front of every key of this view, like `api:`.
            version: raise it when the shape of what is cached changes: nothing older is read from then on.
            options: more of `Settings`.

        Raises:
            SettingsError: a value is not allowed.
        """
        return cls(Settings.from_url(url, namespace=namespace, version=version, **options), prefix=prefix)

    def with_prefix(self, prefix: str) -> Self:
        """Return a view with this prefix instead of the present one; it shares the client, and closes with it."""
        view = object.__new__(type(self))
        BaseCache.__init__(view, self._shared, prefix)
        view._connections = self._connections
        view._deaf = self._deaf
        view._driver = self._driver
        return view

    # --- values ------------------------------------------------------------------------------------------------

    async def get(self, key: str) -> str | None:
        """Return the text under `key`, or None for a miss.

        Redis away or too slow is a miss.
        """
        value = await self._get(key, self._text)
        return None if value is MISS else value

    async def set(self, key: str, value: str, ttl: Ttl | None = None, tags: Iterable[str] = ()) -> None:
        """Set the text under `key`.

        `set` stores what the caller knows to be true now. To cache what is read from elsewhere use `get_or_load`: a
        value that was read before an invalidation and set after it would be stale.

        Args:
            key: the key, without prefix.
            value: text.
            ttl: seconds to live, at most 24 hours; the default of the settings for None.
            tags: invalidating one of them invalidates this.

        If Redis is away or too slow the value is dropped and counted; what was there before may still be there.

        Raises:
            UsageError: an argument is of a wrong kind.
        """
        await self._set({key: value}, ttl, tags, self._text)

    @overload
    async def get_json(self, key: str, type: type[T], default: T) -> T: ...
    @overload
    async def get_json(self, key: str, type: type[T], default: None = None) -> T | None: ...
    @overload
    async def get_json(self, key: str, type: Any = Any, default: Any = None) -> Any: ...
    async def get_json(self, key: str, type: Any = Any, default: Any = None) -> Any:
        """Return the value under `key` as `type`, or `default` for a miss.

        A stored value that does not fit the type is a miss, and counted; so is Redis away or too slow.

        Args:
            key: the key, without prefix.
            type: a dataclass, msgspec Struct, TypedDict, pydantic model, or what is made of these and plain types.
            default: what a miss returns; tells a miss from a cached None.
        """
        value = await self._get(key, self._sealer(type))
        return default if value is MISS else value

    async def set_json(self, key: str, value: Any, ttl: Ttl | None = None, tags: Iterable[str] = ()) -> None:
        """Set a value under `key`, as JSON; the rest as `set`.

        Raises:
            UsageError: an argument is of a wrong kind.
            EncodingError: the value cannot be written as JSON.
        """
        await self._set({key: value}, ttl, tags, self._json)

    async def get_many(self, keys: Iterable[str]) -> dict[str, str]:
        """Return the texts under those of `keys` that are there, in one round trip; as `get` otherwise."""
        names = self._entries(keys)
        if not names:
            return {}
        self._sample_of(names.values())
        try:
            flow = read_many(tuple(names.values()), self._keys, self._memory)
            found = await self._driver.run(flow, self._counters)
        except RedisUnavailable:
            self._counters.misses += len(names)
            return {}
        values = ((key, self._open(seen, self._text)) for key, seen in zip(names, found, strict=True))
        return {key: value for key, value in values if value is not MISS}

    async def set_many(
        self, mapping: Mapping[str, str], ttl: Ttl | None = None, tags: Iterable[str] = ()
    ) -> None:
        """Set several texts, all with this TTL and these tags; each as `set`."""
        await self._set(mapping, ttl, tags, self._text)

    async def delete(self, key: str) -> bool:
        """Delete what is under `key`; return whether there was a value. The same as `invalidate_key`.

        Raises:
            InvalidationError: Redis could not be reached; what is there may still be served.
        """
        self._counters.deletes += 1
        return (await self.invalidate_key(key)).removed > 0

    # --- cache-aside -------------------------------------------------------------------------------------------

    @overload
    async def get_or_load(
        self,
        key: str,
        load: Callable[[], Awaitable[T]],
        ttl: Ttl | None = None,
        tags: Iterable[str] = (),
        type: Any = Any,
        soft_ttl: Ttl | None = None,
    ) -> T: ...
    @overload
    async def get_or_load(
        self,
        key: str,
        load: Callable[[], T],
        ttl: Ttl | None = None,
        tags: Iterable[str] = (),
        type: Any = Any,
        soft_ttl: Ttl | None = None,
    ) -> T: ...
    async def get_or_load(
        self,
        key: str,
        load: Callable[[], Awaitable[T]] | Callable[[], T],
        ttl: Ttl | None = None,
        tags: Iterable[str] = (),
        type: Any = Any,
        soft_ttl: Ttl | None = None,
    ) -> T:
        """Return the value under `key`; load and store it on a miss.

        However many threads and processes ask for a key that is not there, one loads and the others wait for it. What
        was loaded before an invalidation is neither stored nor handed out after it.

        Args:
            key: the key, without prefix.
            load: reads the truth; takes no arguments. It may name tags by `neverstale.add_tags`.
            ttl: seconds to live, at most 24 hours; the default of the settings for None.
            tags: invalidating one of them invalidates this.
            type: of the value. A miss returns what a hit would: the value encoded and decoded.
            soft_ttl: seconds after which the value is served once more while one thread loads it anew in the
                background.

        With Redis away or too slow the value is loaded, one load at a time for a key in this process, and not stored.

        Raises:
            Exception: what `load` raises, as it is, to everyone who waits for it; nothing is stored.
            EncodingError: the loaded value does not fit `type`.
            UsageError: an argument is of a wrong kind.
        """
        check_loader(load)
        given, life = tags_of(tags), self._lifetime_of(ttl, soft_ttl)
        return await self._get_or_load(key, load, life, given, self._sealer(type))  # type: ignore[no-any-return]

    def cached(
        self,
        ttl: Ttl | None = None,
        tags: Iterable[str] | Callable[..., Iterable[str]] = (),
        key: Callable[..., str] | None = None,
        soft_ttl: Ttl | None = None,
        type: Any = None,
    ) -> Callable[[Callable[P, Coroutine[Any, Any, T]]], AsyncCached[P, T]]:
        """Cache what a function returns, by its arguments. A decorator; see `neverstale.decorate`.

        Args:
            ttl, soft_ttl: as `get_or_load`.
            tags: names, or a function of the same arguments that returns them.
            key: a function of the same arguments that returns the key; by default one is made of the function's name
                and all arguments, such that different calls never share one.
            type: of the value; by default what the function's annotation says it returns.

        The decorated function has `invalidate(*args)`, which forgets the value of these arguments, and `key(*args)`.

        Raises:
            UsageError: an option is wrong, or the function is of a kind that cannot be cached here.
            KeyingError: when called with arguments that have no stable key.
        """
        if callable(ttl):
            raise UsageError("write @cache.cached(), with parentheses")
        options = CallOptions(self._lifetime(ttl, soft_ttl), tags, key, type)

        def decorate(func: Callable[P, Coroutine[Any, Any, T]]) -> AsyncCached[P, T]:
            return AsyncCached(self, func, options)

        return decorate

    # --- invalidation ------------------------------------------------------------------------------------------

    async def invalidate_key(self, key: str, *, reason: str = "") -> Receipt:
        """Invalidate one entry. Once this has returned, no read that starts then returns what was there before.

        The same key of the neighbouring versions goes, too, for processes that run during a deploy.

        Args:
            key: the key, without prefix.
            reason: why, for events and the log.

        Returns:
            A receipt; `removed` is 1 if there was a value, else 0.

        Raises:
            InvalidationError: Redis could not be reached; what is there may still be served.
        """
        return await self.invalidate_keys(key, reason=reason)

    async def invalidate_keys(self, *keys: str, reason: str = "") -> Receipt:
        """Invalidate several entries in one round trip to each node; each as `invalidate_key`.

        Raises:
            InvalidationError: Redis could not be reached; some of the entries may still be served.
        """
        entries = self._entries(keys)
        if not entries:
            return Receipt("key", (), 0, "applied", 0.0)
        names = tuple(entries)
        flow = invalidate_keys(names, tuple(entries.values()), self._keys, reason)
        return await self._invalidate("key", names, flow)

    async def invalidate_pattern(self, pattern: str, *, reason: str = "") -> Receipt:
        """Invalidate every entry under this prefix whose key matches a glob: `*`, `?`, `[a-z]`.

        Those of the neighbouring versions go, too, as with `invalidate_key`.

        Scans all of Redis: tags are faster. What comes from outside goes through `neverstale.escape_glob`. Of a key
        above 512 bytes only the first 447 can be matched, by a pattern that ends in `*`; and `?` does not match a `{`.

        Args:
            pattern: the glob, without prefix.
            reason: why, for events and the log.

        Raises:
            InvalidationError: Redis could not be reached, or the slots of a cluster kept moving.
        """
        flow = invalidate_pattern(pattern, self._keys, reason)
        return await self._invalidate("pattern", (pattern,), flow)

    async def invalidate_tag(self, tag: str, *, reason: str = "", soft: bool = False) -> Receipt:
        """Invalidate every entry that carries `tag`, under whatever prefix and version: one round trip, then cleaning.

        Args:
            tag: the tag.
            reason: why, for events and the log.
            soft: only mark the entries stale: each is served once more while one reader loads it anew. For those who
                prefer speed; **what was there before may be read after this has returned**.

        Raises:
            InvalidationError: Redis could not be reached; entries of the tag may still be served.
        """
        return await self.invalidate_tags(tag, reason=reason, soft=soft)

    async def invalidate_tags(self, *tags: str, reason: str = "", soft: bool = False) -> Receipt:
        """Invalidate every entry that carries one of `tags`, in one round trip to each node; as `invalidate_tag`.

        Raises:
            InvalidationError: Redis could not be reached; some of the tags may be invalidated, some not.
        """
        names = tags_of(tags)
        if not names:
            return Receipt("tag", (), 0, "applied", 0.0, soft)
        return await self._invalidate("tag", names, invalidate_tags(names, self._keys, reason, soft=soft))

    async def clear(self, *, reason: str = "") -> Receipt:
        """Invalidate every entry of the namespace: of all prefixes and versions.

        Scans all of Redis, as `invalidate_pattern`. To let go of one version alone, raise `version`.

        Raises:
            InvalidationError: Redis could not be reached, or the slots of a cluster kept moving.
        """
        view = self.with_prefix("")
        return await view._invalidate("pattern", ("*",), clear(view._keys, reason))

    # --- looking -----------------------------------------------------------------------------------------------

    async def ping(self) -> bool:
        """Return whether Redis answers; never raises because it does not."""
        return await self._connections.ping()

    async def health(self) -> Health:
        """Return what an application puts on its `/health`: `redis` is "ok" or one line that says what is wrong."""
        return await health_async(self._connections)

    @asynccontextmanager
    async def listen(self) -> AsyncGenerator[None, None]:
        """Bring invalidations of other processes to the subscribers of `events` while the block runs.

        Events are news, not a means of invalidation: some are missed while the connection is away, which is logged.
        """
        async with listening_async(self._connections, self._shared.announcer):
            yield

    @asynccontextmanager
    async def reporting(self) -> AsyncGenerator[None, None]:
        """Report what is counted while the block runs: to Prometheus and, all processes together, to Redis.

        About once a second, in the background. Nothing that reads the cache waits for it, and Redis away is no error.
        See `neverstale.metrics`.

        Raises:
            UsageError: this cache reports already in this process.
        """
        async with reporting_async(self._shared.reporter, self._driver, self._connections):
            yield

    async def totals(self) -> Totals:
        """Return what all processes that are `reporting()` have counted together, by prefix.

        Two of these tell rates: `now.since(before)`.

        Raises:
            RedisUnavailable: Redis did not answer.
        """
        return await self._told(totals(self._shared.reporter.keys))

    async def series(self, seconds: float = 600) -> list[Span]:
        """Return the same in steps of 10 s, the oldest first.

        Args:
            seconds: how far back, at most half an hour.

        Raises:
            RedisUnavailable: Redis did not answer.
        """
        return await self._told(series(self._shared.reporter.keys, seconds))

    async def hottest(self, most: int = 20, seconds: float = 60) -> list[HotKey]:
        """Return the keys that are asked for most in all processes that are `reporting()`, the hottest first.

        By a sample: one read of 64. Keys of sessions are never among them.

        Args:
            most: how many at most.
            seconds: how far back, in whole minutes, at most 30.

        Raises:
            RedisUnavailable: Redis did not answer.
        """
        return await self._told(hot_keys(self._shared.reporter.keys, most, seconds))

    async def hottest_tags(self, most: int = 20, seconds: float = 60) -> list[HotTag]:
        """Return the tags whose entries are asked for most; as `hottest`.

        Raises:
            RedisUnavailable: Redis did not answer.
        """
        return await self._told(hot_tags(self._shared.reporter.keys, most, seconds))

    async def nodes(self) -> list[NodeStats]:
        """Return how each node of Redis is now, replicas of a cluster among them; never raises because of Redis."""
        return await nodes_async(self._connections, patient=True)

    async def close(self) -> None:
        """Wait for refreshes that are running, and let go of the connections. All views close together."""
        await self._driver.close()
        await hand_in_async(self._shared.reporter, self._driver)
        await self._connections.close()
        self._deaf()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    # --- inside ------------------------------------------------------------------------------------------------

    async def _told(self, flow: c.Flow[T]) -> T:
        """Ask what all processes have counted: for people, who wait longer than a read does."""
        return await self._driver.run(flow, self._shared.reporter.counters, patient=True)

    async def _look(self, entry: str, tags: tuple[str, ...], early: float = 0.0) -> Seen:
        tags, names = self._names(entry, tags)
        seen = self._examine(tags, await self._driver.fetch(names, self._counters), early)
        if seen.state is UNSURE:
            seen = await self._driver.run(self._resolve(entry, seen), self._counters)
        return seen

    async def _get(self, key: str, sealer: ValueSealer) -> Any:
        try:
            seen = await self._look(self._keys.entry(key), ())
        except RedisUnavailable:
            self._counters.misses += 1
            return MISS
        return self._open(seen, sealer)

    async def _get_or_load(
        self,
        key: str,
        load: Callable[[], Any],
        life: Lifetime,
        tags: tuple[str, ...],
        sealer: ValueSealer,
        limits: Limits | None = None,
    ) -> Any:
        entry = self._keys.entry(key)
        seen: Seen | None = None
        try:
            seen = await self._look(entry, tags, self._early(life))
        except RedisUnavailable:
            self._counters.misses += 1
        else:
            value = self._open(seen, sealer)
            if value is not MISS:
                if seen.state is STALE:
                    self._renew(key, load, life, tags, sealer, Found(value, seen), limits)
                return value
            seen = self._missed(seen)
        kept = self._kept(life, seen, sealer)
        plan = self._plan(entry, load, life, tags, sealer, limits, fallback=kept is not MISS)
        flow = lease.get_or_load(plan, seen, self._memory, self._counters)
        seconds = None if limits is None else limits.within(kept is not MISS)
        if seconds is None:
            given = await self._driver.run_apart(flow, self._counters)
        else:
            given = await self._driver.run_within(flow, self._counters, entry, seconds)
        return self._give_or_fall_back(given, kept)

    # --- for the caches that are built upon this one -----------------------------------------------------------

    async def _find(self, key: str, sealer: ValueSealer, tags: tuple[str, ...] = ()) -> Found:
        """Read an entry, also one that is kept as a fallback only; counts nothing."""
        try:
            seen = await self._look(self._keys.entry(key), tags)
        except RedisUnavailable:
            return Found(MISS, None)
        return self._found(seen, sealer)

    async def _load(
        self,
        key: str,
        load: Callable[[], Any],
        life: Lifetime,
        tags: tuple[str, ...],
        sealer: ValueSealer,
        found: Found,
        *,
        renew: bool = False,
        wait: bool = True,
        fallback: bool = False,
        limits: Limits | None = None,
    ) -> Any:
        """Load what was not found, under a lease, once for all who ask, and store it.

        Args:
            key, load, life, tags, sealer: as ever; what the load returns may be an `Answer`.
            found: what `_find` returned.
            renew: what was found is not to be had as it is; it stays until something else takes its place.
            wait: False: who finds a load in flight does not wait for it, but loads for itself.
            fallback: with `renew`: whether to raise `HeldOff`, instead of loading, where that failed a moment ago.
            limits: of time, instead of the settings'.

        Raises:
            Exception: what `load` raises.
        """
        seen = found.seen.expired() if renew and found.seen is not None else found.seen
        entry = self._keys.entry(key)
        plan = self._plan(entry, load, life, tags, sealer, limits, wait=wait, fallback=fallback)
        flow = lease.get_or_load(plan, seen, self._memory, self._counters)
        return self._give(await self._driver.run_apart(flow, self._counters))

    def _renew(
        self,
        key: str,
        load: Callable[[], Any],
        life: Lifetime,
        tags: tuple[str, ...],
        sealer: ValueSealer,
        found: Found,
        limits: Limits | None = None,
    ) -> None:
        """Load anew in the background what was found; the old value stays until then. A failure is logged."""
        assert found.seen is not None
        seen, plan = found.seen, self._plan(self._keys.entry(key), load, life, tags, sealer, limits)
        self._driver.refresh(
            plan.entry, lambda: lease.refresh(plan, seen, self._memory, self._counters), self._counters
        )

    async def _set(
        self, mapping: Mapping[str, Any], ttl: Ttl | None, tags: Iterable[str], sealer: ValueSealer
    ) -> None:
        flow = self._write(mapping, ttl, tags, sealer)
        try:
            self._counters.sets_dropped += await self._driver.run(flow, self._counters)
        except RedisUnavailable:
            self._lost(mapping)

    async def _invalidate(
        self, kind: Literal["key", "pattern", "tag"], names: tuple[str, ...], flow: c.Flow[Receipt]
    ) -> Receipt:
        try:
            flow = self._shared.removed.counting(flow)
            receipt = await self._driver.run_apart(flow, self._counters, patient=True)
        except RedisUnavailable as error:
            raise InvalidationError(kind, names, str(error)) from error
        return self._invalidated(receipt)
