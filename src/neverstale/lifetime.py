"""How long a value lives: fresh, then stale, then kept as a fallback, then gone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["DAY_MS", "Lifetime", "Moments"]

#: The longest that anything lives in Redis, in milliseconds: should an invalidation ever be lost, its harm ends here.
DAY_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class Moments:
    """A lifetime that has begun: milliseconds since 1970, 0 for none, and the TTL of the key in milliseconds."""

    soft_at: int
    hard_at: int
    ttl_ms: int


@dataclass(frozen=True, slots=True)
class Lifetime:
    """The spans of a value's life, in milliseconds; together never more than a day.

    Attributes:
        fresh_ms: so long it is a hit.
        stale_ms: so long after that it is served at once while one reader renews it in the background.
        kept_ms: so long after that it is kept: not served by itself, but where a load fails or is late, or for a load
            that only asks whether it still holds.
        beta: above 0, readers renew it early, each by chance, the likelier the longer its load took and the nearer its
            end ("Optimal Probabilistic Cache Stampede Prevention", Vattani, Chierichetti and Lowenstein, VLDB 2015).
            1 is the paper's optimum; more is earlier.
        jitter: all spans are shortened by one random part of up to this, so that what was stored together does not
            expire together: 0.1 is up to a tenth.
    """

    fresh_ms: int
    stale_ms: int = 0
    kept_ms: int = 0
    beta: float = 0.0
    jitter: float = 0.0

    @property
    def ttl_ms(self) -> int:
        """What Redis is told, before jitter."""
        return min(self.fresh_ms + self.stale_ms + self.kept_ms, DAY_MS)

    def begin(self, now_ms: int, chance: float = 0.0) -> Moments:
        """Return the moments of a value that is stored now.

        Args:
            now_ms: milliseconds since 1970.
            chance: from 0 to 1; how much of the jitter is taken off.
        """
        part = 1.0 - self.jitter * chance
        fresh = round(self.fresh_ms * part)
        served = fresh + round(self.stale_ms * part)
        ends = served + round(self.kept_ms * part)
        ttl_ms = max(1, min(ends, DAY_MS))
        # Where Redis' own expiry says it all, nothing needs to be written, and no clock but Redis' is asked. But what
        # may be renewed stays in Redis while it is, beyond its time: then it is to be known that it is over.
        if not (self.stale_ms or self.kept_ms or self.beta):
            return Moments(0, 0, ttl_ms)
        return Moments(now_ms + fresh, now_ms + served, ttl_ms)
