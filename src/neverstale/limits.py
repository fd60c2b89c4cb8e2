"""How long a load may take: for its caller, and for its lease."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """The time limits of a load.

    Attributes:
        lease_ms: milliseconds that its lease lives; what takes longer is not stored.
        wait_limit: seconds that a reader waits for the load of another.
        soft: seconds after which a caller is served an older value instead, where one is kept; None for no limit.
        hard: seconds after which a caller gets an error where nothing is kept; None for no limit.
    """

    lease_ms: int
    wait_limit: float
    soft: float | None = None
    hard: float | None = None

    def within(self, fallback: bool) -> float | None:
        """Return how many seconds a caller waits who has an older value to fall back on, or who has not."""
        if fallback and self.soft is not None:
            return self.soft if self.hard is None else min(self.soft, self.hard)
        return self.hard
