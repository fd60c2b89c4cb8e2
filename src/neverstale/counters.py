"""What a cache has counted about itself.

The hit path may not wait for a lock or call a function to count, so `Counters` are bare attributes, changed
with `+=`. Two threads that count at the same instant can lose a count: these are figures for people and
graphs, not for decisions.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

__all__ = ["CounterSnapshot", "Counters"]


@dataclass(slots=True, eq=False)
class Counters:
    """Count what happens under one prefix of one cache in this process."""

    # Reads: a value was fresh; there was none; it was past its soft TTL and served while it was refreshed.
    hits: int = 0
    misses: int = 0
    stale_hits: int = 0
    # Loaders that ran, those of them that raised, and callers that waited for the load of another.
    loads: int = 0
    load_errors: int = 0
    waits: int = 0
    # Loads whose value was stored, and those not stored because of an invalidation meanwhile or a trouble
    # with Redis.
    fills: int = 0
    fills_dropped: int = 0
    # Values set by hand, and those of them that were not stored: Redis was away, something invalidated or set the
    # same key meanwhile, or the value was too large.
    sets: int = 0
    sets_dropped: int = 0
    deletes: int = 0
    # Calls that invalidate, and the entries that they cleared.
    invalidations: int = 0
    removed: int = 0
    # Commands that Redis did not answer, and stored values that did not fit their type.
    errors: int = 0
    decode_errors: int = 0
    # Seconds spent waiting for Redis and in loaders.
    redis_seconds: float = 0.0
    load_seconds: float = 0.0

    def snapshot(self) -> CounterSnapshot:
        """Copy the present figures; each is exact, but they are read one after the other."""
        return CounterSnapshot(**{item.name: getattr(self, item.name) for item in fields(self)})


@dataclass(frozen=True)
class CounterSnapshot:
    """The figures of one moment, under the names of `Counters`."""

    hits: int = 0
    misses: int = 0
    stale_hits: int = 0
    loads: int = 0
    load_errors: int = 0
    waits: int = 0
    fills: int = 0
    fills_dropped: int = 0
    sets: int = 0
    sets_dropped: int = 0
    deletes: int = 0
    invalidations: int = 0
    removed: int = 0
    errors: int = 0
    decode_errors: int = 0
    redis_seconds: float = 0.0
    load_seconds: float = 0.0

    @property
    def hit_rate(self) -> float | None:
        """The share of reads answered without a load, from 0 to 1, stale hits included; `None` before any."""
        served = self.hits + self.stale_hits
        reads = served + self.misses
        return served / reads if reads else None

    def as_dict(self) -> dict[str, Any]:
        """Every figure and `hit_rate`, ready for JSON."""
        return {**asdict(self), "hit_rate": self.hit_rate}
