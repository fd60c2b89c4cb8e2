"""What `Cache` and `AsyncCache` have in common: everything but asking Redis.

Arguments are checked and turned into the protocol's terms here, for both faces alike.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeAlias

from neverstale.codecs import TEXT_CODEC, Codec, Undecodable, json_codec
from neverstale.config import Settings
from neverstale.core.commands import Flow, Given
from neverstale.core.keys import Keys, check_tags
from neverstale.core.plan import Plan, Sealed
from neverstale.core.policy import FRESH, STALE, Memory, Seen, State, examine
from neverstale.core.read import resolve
from neverstale.core.store import store
from neverstale.counters import Counters, CounterSnapshot
from neverstale.drive.announce import Announcer
from neverstale.errors import HeldOff, LoadTimeout, UsageError
from neverstale.events import Events
from neverstale.hot import Hot, gap
from neverstale.lifetime import Lifetime
from neverstale.limits import Limits
from neverstale.metrics.removed import Removed
from neverstale.metrics.reporter import Reporter
from neverstale.receipt import Receipt
from neverstale.sealing import ValueSealer

__all__ = ["MISS", "BaseCache", "Found", "Shared", "Ttl", "check_loader", "milliseconds", "tags_of"]

logger = logging.getLogger("neverstale")

Ttl: TypeAlias = "int | float | timedelta"


class _Miss:
    def __repr__(self) -> str:
        return "MISS"


#: What the inner reads return for a miss: `None` is a value like any other.
MISS: Final = _Miss()


class Found(NamedTuple):
    """What a read found: the value, also one that is kept as a fallback only, or MISS.

    Attributes:
        value: decoded, or MISS.
        seen: what it was read from; None while Redis is away.
    """

    value: Any
    seen: Seen | None

    @property
    def state(self) -> State | None:
        """Of the entry; None while Redis is away."""
        return None if self.seen is None else self.seen.state


@dataclass
class Shared:
    """What all views of one cache share; beside it they share a driver."""

    settings: Settings
    events: Events
    announcer: Announcer
    memory: Memory
    counters: dict[str, Counters]
    hot: Hot = field(default_factory=Hot)
    reporter: Reporter = field(init=False)
    removed: Removed = field(init=False)

    def __post_init__(self) -> None:
        self.removed = Removed(self.settings, self.counters)
        self.reporter = Reporter(self.settings, self.announcer, self.counters, self.hot)


class BaseCache:
    """The part of a cache that does no I/O."""

    def __init__(self, shared: Shared, prefix: str) -> None:
        settings = shared.settings
        self._shared = shared
        self._settings = settings
        self._memory = shared.memory
        self._keys = Keys(settings.namespace, settings.version, prefix)
        self._counters = shared.counters.setdefault(prefix, Counters())
        self._until_sample = gap(prefix)
        self._sealer_of: Callable[[Any], ValueSealer] = lru_cache(1024)(self._make_sealer)
        # Typed: True is no number of seconds, though it equals 1.
        self._kept_lifetime: Callable[..., Lifetime] = lru_cache(1024, typed=True)(self._lifetime)
        self._limits = Limits(round(settings.lease_ttl * 1000), settings.wait_limit)
        self._text = ValueSealer(TEXT_CODEC, settings.compress_above, settings.max_value_bytes)
        self._json = self._make_sealer(Any)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._keys.head!r} at {self._settings.url}>"

    @property
    def settings(self) -> Settings:
        """The settings that this cache was made with."""
        return self._settings

    @property
    def prefix(self) -> str:
        """What stands in front of every key of this view."""
        return self._keys.prefix

    @property
    def events(self) -> Events:
        """Where to subscribe to invalidations and to what happens to connections."""
        return self._shared.events

    def stats(self) -> dict[str, CounterSnapshot]:
        """Return what was counted in this process since the cache was made, by prefix, for all its views."""
        return {prefix: counters.snapshot() for prefix, counters in list(self._shared.counters.items())}

    # --- arguments ---------------------------------------------------------------------------------------

    def _make_sealer(self, kind: Any) -> ValueSealer:
        codec: Codec[Any] = json_codec(kind)
        return ValueSealer(codec, self._settings.compress_above, self._settings.max_value_bytes)

    def _sealer(self, kind: Any) -> ValueSealer:
        try:
            return self._sealer_of(kind)
        except TypeError:  # a type that cannot be hashed
            return self._make_sealer(kind)

    def _ttl_ms(self, ttl: Ttl | None) -> int:
        """Return a hard TTL in milliseconds: the default for None, never above the longest that is allowed."""
        if ttl is None:
            return round(self._settings.ttl * 1000)
        return min(milliseconds("ttl", ttl), round(self._settings.max_ttl * 1000))

    def _lifetime(self, ttl: Ttl | None, soft_ttl: Ttl | None = None) -> Lifetime:
        """Return how long a value lives; a soft TTL that the hard one forestalls is none."""
        ttl_ms = self._ttl_ms(ttl)
        soft_ms = ttl_ms if soft_ttl is None else min(milliseconds("soft_ttl", soft_ttl), ttl_ms)
        return Lifetime(soft_ms, ttl_ms - soft_ms)

    def _lifetime_of(self, ttl: Ttl | None, soft_ttl: Ttl | None) -> Lifetime:
        try:
            return self._kept_lifetime(ttl, soft_ttl)
        except TypeError:  # what cannot be hashed is no number of seconds either: this says so
            return self._lifetime(ttl, soft_ttl)

    def _plan(
        self,
        entry: str,
        load: Callable[[], Any],
        life: Lifetime,
        tags: tuple[str, ...],
        sealer: ValueSealer,
        limits: Limits | None = None,
        *,
        wait: bool = True,
        fallback: bool = False,
    ) -> Plan:
        limits = limits or self._limits
        return Plan(
            entry=entry,
            keys=self._keys,
            tags=tags,
            life=life,
            lease_ms=limits.lease_ms,
            wait_limit=limits.wait_limit if wait else 0.0,
            max_bytes=self._settings.max_value_bytes,
            sealer=sealer,
            loader=load,
            fallback=fallback,
        )

    # --- the hit path --------------------------------------------------------------------------------------

    def _names(self, entry: str, tags: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the tags whose stamps a read brings along, and everything it asks Redis for."""
        tags = self._memory.recall(entry, tags)
        self._until_sample -= 1
        if self._until_sample < 0:
            self._sample(entry, tags)
        if not tags:
            return tags, (entry,)
        return tags, (entry, *map(self._keys.stamp, tags))

    def _sample(self, entry: str, tags: tuple[str, ...]) -> None:
        """Note one of many reads, for the table of what is asked for most."""
        self._until_sample = gap(self.prefix)
        self._shared.hot.note(self.prefix, entry[len(self._keys.head) :], tags)

    def _sample_of(self, entries: Iterable[str]) -> None:
        """The same for reads of several entries at once."""
        for entry in entries:
            self._until_sample -= 1
            if self._until_sample < 0:
                self._sample(entry, self._memory.recall(entry, ()))

    @staticmethod
    def _examine(tags: tuple[str, ...], replies: list[bytes | None], early: float = 0.0) -> Seen:
        return examine(replies[0], tags, replies[1:], time.time_ns() // 1_000_000, early)

    @staticmethod
    def _early(life: Lifetime) -> float:
        """Return by how many times its cost this reader renews a value early; most readers hardly, few by much."""
        return -life.beta * math.log(1.0 - random.random()) if life.beta else 0.0

    def _open(self, seen: Seen, sealer: ValueSealer) -> Any:
        """Return the value of what was seen, or MISS; counts which."""
        counters = self._counters
        state = seen.state
        if seen.entry is not None and (state is FRESH or state is STALE):
            try:
                value = sealer.open(seen.entry)
            except Undecodable:
                counters.decode_errors += 1
            else:
                if state is FRESH:
                    counters.hits += 1
                else:
                    counters.stale_hits += 1
                return value
        counters.misses += 1
        return MISS

    def _missed(self, seen: Seen) -> Seen:
        """Return what a read saw as the flow is to take it: a value that was of no use is not to be tried again."""
        return seen.unusable() if seen.state in (State.FRESH, State.STALE) else seen

    @staticmethod
    def _found(seen: Seen, sealer: ValueSealer) -> Found:
        """Return what was seen with its value, and count nothing: whoever asks decides whether that is a hit."""
        if seen.entry is not None and seen.state in (State.FRESH, State.STALE, State.EXPIRED):
            with suppress(Undecodable):
                return Found(sealer.open(seen.entry), seen)
        return Found(MISS, seen.unusable() if seen.state in (State.FRESH, State.STALE) else seen)

    @staticmethod
    def _give(given: Given) -> Any:
        if given.error is not None:
            # From where the loader raised it: each of those who share it would add its own frames else.
            raise given.error.with_traceback(given.traceback)
        return given.value

    def _kept(self, life: Lifetime, seen: Seen | None, sealer: ValueSealer) -> Any:
        """Return the old value that is kept for a load that fails or is late, or MISS."""
        if not life.kept_ms or seen is None or seen.state is not State.EXPIRED or seen.entry is None:
            return MISS
        # In Redis it may be for longer: as long as the lease of whoever renews it.
        if seen.entry.hard_at + life.kept_ms <= time.time_ns() // 1_000_000:
            return MISS
        return self._found(seen, sealer).value

    def _give_or_fall_back(self, given: Given, kept: Any) -> Any:
        """Return the loaded value or, if the load failed or is late, the old one that was kept for this."""
        if kept is MISS or not isinstance(given.error, Exception):
            return self._give(given)
        # Who loads logs what went wrong, not everybody who is served meanwhile.
        if not isinstance(given.error, HeldOff | LoadTimeout):
            logger.warning("a value past its TTL is served, for its load failed: %r", given.error)
        self._counters.fallbacks += 1
        return kept

    # --- the rest --------------------------------------------------------------------------------------------

    def _entries(self, keys: Iterable[str]) -> dict[str, str]:
        """Return the Redis key of each distinct key."""
        if isinstance(keys, str):
            raise UsageError(f"keys is a list of strings, not one string: write [{keys!r}]")
        return {key: self._keys.entry(key) for key in keys}

    def _resolve(self, entry: str, seen: Seen) -> Flow[Seen]:
        """Bring along the stamps of tags that were not known, and remember these for the next read."""
        assert seen.entry is not None
        self._memory.remember(entry, tuple(tag for tag, _ in seen.entry.stamps))
        return resolve(seen, self._keys, time.time_ns() // 1_000_000)

    def _write(
        self, mapping: Mapping[str, Any], ttl: Ttl | None, tags: Iterable[str], sealer: ValueSealer
    ) -> Flow[int]:
        """Return the flow that sets values; those that are too large it deletes, so that no older one stays."""
        given = tags_of(tags)
        ttl_ms = self._ttl_ms(ttl)
        if not isinstance(mapping, Mapping):
            raise UsageError(f"set_many takes a dict of keys and values, not {type(mapping).__name__}")
        writes: list[tuple[str, Sealed, tuple[str, ...]]] = []
        too_large = []
        for key, value in mapping.items():
            entry, sealed = self._keys.entry(key), sealer.write(value)
            if sealed.size <= self._settings.max_value_bytes:
                writes.append((entry, sealed, given))
            else:
                too_large.append(entry)
                logger.warning("%r is not cached: %d bytes are more than max_value_bytes", entry, sealed.size)
        self._counters.sets += len(mapping)
        self._counters.sets_dropped += len(too_large)
        return store(writes, self._keys, ttl_ms, self._memory, instead=tuple(too_large))

    def _lost(self, mapping: Mapping[str, Any]) -> None:
        """Count values that could not be set because Redis did not answer."""
        self._counters.sets_dropped += len(mapping)

    def _invalidated(self, receipt: Receipt) -> Receipt:
        self._counters.invalidations += 1
        return receipt


def check_loader(load: object) -> None:
    """Raise a clear error for a loader that cannot be called."""
    if not callable(load):
        raise UsageError(
            f"load is a function without arguments that reads the truth, not {type(load).__name__}: "
            "write get_or_load(key, lambda: read(5)), not get_or_load(key, read(5))"
        )


def tags_of(tags: Iterable[str]) -> tuple[str, ...]:
    """Check tags; nothing is the common case."""
    return check_tags(tags) if tags else ()


def milliseconds(name: str, value: object) -> int:
    """Return a time that a caller gave in seconds; raises `UsageError`."""
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise UsageError(
            f"{name} is a number of seconds or a timedelta, not {type(value).__name__}: {value!r}"
        )
    if not 0 < seconds < math.inf:
        raise UsageError(f"{name} must be above 0 and finite, not {value!r}")
    # What is shorter than Redis can tell lives as short as it can.
    return max(1, round(min(seconds, 1e9) * 1000))
