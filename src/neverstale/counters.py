"""What a cache has counted about itself.

The hit path may not wait for a lock or call a function to count, so `Counters` are bare attributes, changed
with `+=`. Two threads that count at the same instant can lose a count: these are figures for people and
graphs, not for decisions.

Times are kept as histograms: how many took up to each of a few bounds. The bounds are fixed, so that the figures of
many processes can be added up.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final

__all__ = ["LOAD_BOUNDS", "REDIS_BOUNDS", "CounterSnapshot", "Counters", "quantile"]

#: Bounds in seconds of the time one exchange with Redis takes: from a Unix socket on the same machine (0.1 ms) to more
#: than a read ever waits for; one of them is the default of `timeout`, 50 ms.
REDIS_BOUNDS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
#: Bounds in seconds of a load: from a look-up by primary key (1 ms) to a report that takes the whole default of
#: `lease_ttl`, 10 s.
LOAD_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


def _buckets(bounds: Sequence[float]) -> list[int]:
    return [0] * (len(bounds) + 1)  # and one for what takes longer than the last


@dataclass(slots=True, eq=False)
class Counters:
    """Count what happens under one prefix of one cache in this process."""

    # Reads: a value was fresh; there was none; it was past its soft TTL and served while it was refreshed.
    hits: int = 0
    misses: int = 0
    stale_hits: int = 0
    # Of the misses, those that were served a value kept past its end, because the load failed or was late.
    fallbacks: int = 0
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
    # Calls that invalidate, of these views, and the entries of this prefix that were cleared, whoever asked.
    invalidations: int = 0
    removed: int = 0
    # Commands that Redis did not answer, and stored values that did not fit their type.
    errors: int = 0
    decode_errors: int = 0
    # Seconds spent waiting for Redis and in loaders.
    redis_seconds: float = 0.0
    load_seconds: float = 0.0
    # How many exchanges with Redis, and how many loads, took up to each bound, and at the end how many took longer.
    redis_times: list[int] = field(default_factory=lambda: _buckets(REDIS_BOUNDS))
    load_times: list[int] = field(default_factory=lambda: _buckets(LOAD_BOUNDS))

    def count_load(self, seconds: float) -> None:
        """Count a loader that ran so many seconds."""
        self.loads += 1
        self.load_seconds += seconds
        self.load_times[bisect_left(LOAD_BOUNDS, seconds)] += 1

    def snapshot(self) -> CounterSnapshot:
        """Copy the present figures; each is exact, but they are read one after the other."""
        figures = {name: getattr(self, name) for name in _PLAIN}
        return CounterSnapshot(
            **figures, redis_times=tuple(self.redis_times), load_times=tuple(self.load_times)
        )


_NO_REDIS_TIMES: Final = tuple(_buckets(REDIS_BOUNDS))
_NO_LOAD_TIMES: Final = tuple(_buckets(LOAD_BOUNDS))


@dataclass(frozen=True)
class CounterSnapshot:
    """The figures of one moment, or of a span of time, under the names of `Counters`."""

    hits: int = 0
    misses: int = 0
    stale_hits: int = 0
    fallbacks: int = 0
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
    redis_times: tuple[int, ...] = _NO_REDIS_TIMES
    load_times: tuple[int, ...] = _NO_LOAD_TIMES

    @property
    def reads(self) -> int:
        """How many reads there were: hits, stale hits and misses."""
        return self.hits + self.stale_hits + self.misses

    @property
    def hit_rate(self) -> float | None:
        """The share of reads answered without a load, from 0 to 1, stale hits included; `None` before any."""
        reads = self.reads
        return (reads - self.misses) / reads if reads else None

    def redis_time(self, share: float) -> float | None:
        """Return the seconds within which that share (0.5: the median) of the exchanges with Redis were done."""
        return quantile(REDIS_BOUNDS, self.redis_times, share)

    def load_time(self, share: float) -> float | None:
        """Return the seconds within which that share of the loads were done."""
        return quantile(LOAD_BOUNDS, self.load_times, share)

    def plus(self, other: CounterSnapshot) -> CounterSnapshot:
        """Return the sum, as of two prefixes or two processes."""
        return self._with(other, 1)

    def minus(self, earlier: CounterSnapshot) -> CounterSnapshot:
        """Return what was counted since `earlier`; everything, if counting has begun anew in between."""
        if any(getattr(earlier, name) > getattr(self, name) for name in _PLAIN):
            return self
        return self._with(earlier, -1)

    def _with(self, other: CounterSnapshot, sign: int) -> CounterSnapshot:
        figures = {name: getattr(self, name) + sign * getattr(other, name) for name in _PLAIN}
        redis, load = (
            tuple(a + sign * b for a, b in zip(mine, theirs, strict=True))
            for mine, theirs in (
                (self.redis_times, other.redis_times),
                (self.load_times, other.load_times),
            )
        )
        return CounterSnapshot(**figures, redis_times=redis, load_times=load)

    def as_dict(self) -> dict[str, Any]:
        """Every figure and `hit_rate`, ready for JSON; times as sums."""
        return {**{name: getattr(self, name) for name in _PLAIN}, "hit_rate": self.hit_rate}


#: The names of the figures that are one number.
_PLAIN: Final = tuple(item.name for item in fields(CounterSnapshot) if not item.name.endswith("_times"))


def quantile(bounds: Sequence[float], counts: Iterable[int], share: float) -> float | None:
    """Return below which value that share of what a histogram counted lies; `None` where it counted nothing.

    Within a bucket values are taken as evenly spread, as Prometheus' `histogram_quantile` does. What lies above the
    last bound is said to be at it.
    """
    counted = list(counts)
    rank = share * sum(counted)
    if not rank:
        return None
    below, low = 0, 0.0
    for bound, count in zip(bounds, counted, strict=False):
        if below + count >= rank and count:
            return low + (bound - low) * (rank - below) / count
        below, low = below + count, bound
    return bounds[-1]
