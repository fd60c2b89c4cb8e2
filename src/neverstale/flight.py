"""One load for many callers of this process.

Two kinds of flights:
- *Under a lease* (`lead`, `find`): known by the entry and the token of the lease. Who may join is decided by the
  protocol, not here.
- *Alone*, while Redis is away (`turn`): at most one runs for an entry, and a caller joins only one that has not begun.
  Who comes while one runs waits for the next, together with all others who come until that begins.

The same bookkeeping serves threads and event loops: only the kind of event that waiters wait on differs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from neverstale.core.commands import Outcome

__all__ = ["Event", "Flight", "Flights"]


class Event(Protocol):
    """What `threading.Event` and `asyncio.Event` have in common."""

    def set(self) -> None: ...
    def is_set(self) -> bool: ...


E = TypeVar("E", bound=Event)


class Flight(Generic[E]):
    """One load: `done` is set when it has landed or ended; `outcome` is None if it ended without one."""

    __slots__ = ("done", "entry", "outcome", "token")

    def __init__(self, entry: str, token: bytes, done: E) -> None:
        self.entry = entry
        self.token = token
        self.done = done
        self.outcome: Outcome | None = None

    def __repr__(self) -> str:
        state = "landed" if self.outcome is not None else "over" if self.done.is_set() else "in flight"
        return f"<Flight {self.entry!r} {state}>"


class Flights(Generic[E]):
    """The loads that are in flight in this process.

    Args:
        event: makes what waiters wait on, `threading.Event` or `asyncio.Event`.
    """

    def __init__(self, event: Callable[[], E]) -> None:
        self._event = event
        self._lock = threading.Lock()
        self._leased: dict[tuple[str, bytes], Flight[E]] = {}
        self._running: dict[str, Flight[E]] = {}
        self._next: dict[str, Flight[E]] = {}

    def __len__(self) -> int:
        return len(self._leased) + len(self._running) + len(self._next)

    def lead(self, entry: str, token: bytes) -> Flight[E]:
        """Make known a load under a lease."""
        flight = Flight(entry, token, self._event())
        self._leased[entry, token] = flight
        return flight

    def find(self, entry: str, token: bytes) -> Flight[E] | None:
        """Return the load under this lease, if it is in flight here."""
        return self._leased.get((entry, token))

    def turn(self, entry: str, token: bytes) -> tuple[Flight[E], Flight[E] | None]:
        """Take part in the next load of `entry` that begins.

        Returns:
            The flight to take part in, and the one that must end before it begins. The flight is the caller's own to
            run if it has the caller's token: after the other has ended, by `begin`.
        """
        with self._lock:
            running, waiting = self._running.get(entry), self._next.get(entry)
            if waiting is None:
                waiting = Flight(entry, token, self._event())
                # Who waits already begins before anybody who comes now.
                (self._running if running is None else self._next)[entry] = waiting
            return waiting, running

    def begin(self, flight: Flight[E]) -> Flight[E] | None:
        """Let a flight that waited for its turn begin; from here on nobody joins it.

        Returns:
            None, or another that runs now and must end first.
        """
        with self._lock:
            running = self._running.get(flight.entry)
            if running is not None and running is not flight:
                return running
            if self._next.get(flight.entry) is flight:
                del self._next[flight.entry]
            self._running[flight.entry] = flight
            return None

    def land(self, flight: Flight[E], outcome: Outcome) -> None:
        """Hand an outcome to all who wait; what may not be shared leaves nothing to join."""
        flight.outcome = outcome
        with self._lock:
            if not outcome.shareable:
                self._leased.pop((flight.entry, flight.token), None)
            if self._running.get(flight.entry) is flight:
                del self._running[
                    flight.entry
                ]  # its flow may go on for a while: the next need not wait for that
        flight.done.set()

    def end(self, flight: Flight[E]) -> None:
        """Forget a flight, landed or not."""
        with self._lock:
            self._leased.pop((flight.entry, flight.token), None)
            for table in (self._running, self._next):
                if table.get(flight.entry) is flight:
                    del table[flight.entry]
        flight.done.set()
