"""Whether copies of sessions may be believed just after an outage.

Who logged out while Redis was away is logged out in the store. Their copy in Redis goes as soon as the process that
they asked reaches Redis again, a second later perhaps; a Redis that was only out of reach still has it until then. So a
process that has seen an outage asks the store for a while after it.

Not known here: outages in which this process has read no session.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

__all__ = ["Doubt"]

#: Seconds. The longest pause between two tries of what is owed is a second (`neverstale.owed`), and a try that was
#: under way when Redis came back may take the default of `patient_timeout`, two.
_SETTLED: Final = 3.0
#: Seconds without an answer from which it is an outage: a reader waits for a tenth of it, an invalidation four times as
#: long. A process that is short of time misses an answer now and then, and must not leave the cache for that.
_OUTAGE: Final = 0.5


class Doubt:
    """One for all sessions of a process; threads may share it: the worst is a question to the store too many.

    Args:
        clock: seconds, monotonic; for tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._answered = clock()
        self._away = False
        self._until = 0.0

    def __repr__(self) -> str:
        state = "Redis is away" if self._away else "copies are doubted" if self.holds else "none"
        return f"<Doubt: {state}>"

    @property
    def holds(self) -> bool:
        """Whether a copy may be of somebody who has logged out."""
        return self._until > self._clock()

    def note(self, answered: bool) -> bool:
        """Note whether Redis answered a read, and return whether what it said may be believed."""
        if not answered:
            self._away = True
            return False
        now = self._clock()
        if self._away:
            self._away = False
            if now - self._answered >= _OUTAGE:
                self._until = now + _SETTLED
        self._answered = now
        return self._until <= now
