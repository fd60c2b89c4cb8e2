"""Loads that many callers of one process share."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from neverstale.core.commands import Outcome
from neverstale.flight import Flight, Flights

Event = threading.Event


@pytest.fixture
def flights() -> Flights[Event]:
    return Flights(Event)


# --- under a lease ------------------------------------------------------------------------------------------------


def test_found_by_entry_and_token(flights: Flights[Event]) -> None:
    """A load is found by its entry and the token of its lease, from its beginning to its end."""
    flight = flights.lead("k", b"1")
    assert flights.find("k", b"1") is flight
    assert flights.find("k", b"2") is None
    assert flights.find("l", b"1") is None
    assert (len(flights), flight.done.is_set()) == (1, False)
    flights.end(flight)
    assert flights.find("k", b"1") is None
    assert (len(flights), flight.done.is_set(), flight.outcome) == (0, True, None)


def test_two_leases_of_one_entry(flights: Flights[Event]) -> None:
    """A load whose lease was lost and the one that followed it are two."""
    first, second = flights.lead("k", b"1"), flights.lead("k", b"2")
    flights.end(first)
    assert flights.find("k", b"2") is second
    assert not second.done.is_set()


def test_landed(flights: Flights[Event]) -> None:
    """What landed wakes who waits, and can be joined until the flow ends."""
    flight = flights.lead("k", b"1")
    flights.land(flight, Outcome("value"))
    assert flight.done.is_set()
    found = flights.find("k", b"1")
    assert found is flight
    assert found.outcome == Outcome("value")
    flights.end(flight)
    assert flights.find("k", b"1") is None
    assert flight.outcome == Outcome("value")


def test_landed_for_one_alone(flights: Flights[Event]) -> None:
    """What may not be shared wakes who waits, and cannot be joined."""
    flight = flights.lead("k", b"1")
    flights.land(flight, Outcome("value", shareable=False))
    assert flight.done.is_set()
    assert flights.find("k", b"1") is None


def test_said_of_itself(flights: Flights[Event]) -> None:
    """A flight says where it is."""
    flight = flights.lead("k", b"1")
    assert repr(flight) == "<Flight 'k' in flight>"
    flights.end(flight)
    assert repr(flight) == "<Flight 'k' over>"
    flights.land(flight, Outcome())
    assert repr(flight) == "<Flight 'k' landed>"


# --- alone --------------------------------------------------------------------------------------------------------


def test_the_first_has_its_turn_at_once(flights: Flights[Event]) -> None:
    """Where nothing runs, a load begins at once; another entry's does not matter."""
    flight, before = flights.turn("k", b"1")
    assert (flight.token, before) == (b"1", None)
    _, before = flights.turn("l", b"2")
    assert before is None


def test_nobody_joins_what_runs(flights: Flights[Event]) -> None:
    """Who comes while one runs takes part in the next, all of them in the same."""
    running, _ = flights.turn("k", b"1")
    waiting, before = flights.turn("k", b"2")
    assert (waiting.token, before) == (b"2", running)
    assert [flights.turn("k", token) for token in (b"3", b"4")] == [(waiting, running)] * 2


@pytest.mark.parametrize("landed", [True, False])
def test_the_next_begins_after_the_first(flights: Flights[Event], landed: bool) -> None:
    """The next load begins when the one before has landed or ended, and from then on nobody joins it either."""
    running, _ = flights.turn("k", b"1")
    waiting, _ = flights.turn("k", b"2")
    assert flights.begin(waiting) is running
    if landed:
        flights.land(running, Outcome(1))
    else:
        flights.end(running)
    assert flights.begin(waiting) is None
    after, before = flights.turn("k", b"3")
    assert (after.token, before) == (b"3", waiting)
    flights.end(running)
    assert flights.turn("k", b"4") == (after, waiting)


def test_one_that_gives_up_its_turn(flights: Flights[Event]) -> None:
    """A flow that ends while it waits for its turn wakes those who wait for it, and is not waited for by others."""
    running, _ = flights.turn("k", b"1")
    waiting, _ = flights.turn("k", b"2")
    flights.end(waiting)
    assert (waiting.done.is_set(), waiting.outcome) == (True, None)
    following, before = flights.turn("k", b"3")
    assert (following.token, before) == (b"3", running)


def test_nobody_overtakes_who_waits(flights: Flights[Event]) -> None:
    """Who comes when the first has ended and the next has not begun takes part in the next."""
    running, _ = flights.turn("k", b"1")
    waiting, _ = flights.turn("k", b"2")
    flights.end(running)
    assert flights.turn("k", b"3")[0] is waiting


class Turns(RuleBasedStateMachine):
    """Flows that come, begin, land and end in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.flights: Flights[Event] = Flights(Event)
        self.waiting: list[Flight[Event]] = []
        self.running: list[Flight[Event]] = []
        self.joined: list[Flight[Event]] = []
        self.tokens = 0

    @rule()
    def come(self) -> None:
        self.tokens += 1
        token = b"%d" % self.tokens
        flight, before = self.flights.turn("k", token)
        assert flight not in self.running
        if flight.token != token:
            self.joined.append(flight)
        elif before is None:
            self.running.append(flight)
        else:
            self.waiting.append(flight)

    @rule(number=st.integers(0, 9))
    def begin(self, number: int) -> None:
        if self.waiting:
            flight = self.waiting[number % len(self.waiting)]
            if self.flights.begin(flight) is None:
                self.waiting.remove(flight)
                self.running.append(flight)

    @rule(landed=st.booleans())
    def end(self, landed: bool) -> None:
        for flight in self.running:
            if landed:
                self.flights.land(flight, Outcome())
            self.flights.end(flight)
        self.running.clear()

    @rule(number=st.integers(0, 9))
    def give_up(self, number: int) -> None:
        if self.waiting:
            self.flights.end(self.waiting.pop(number % len(self.waiting)))

    @invariant()
    def one_runs(self) -> None:
        assert len(self.running) <= 1

    @invariant()
    def nobody_is_forgotten(self) -> None:
        alive = [*self.running, *self.waiting]
        assert all(flight.done.is_set() for flight in self.joined if flight not in alive)
        assert not any(flight.done.is_set() for flight in alive)

    def teardown(self) -> None:
        for flight in [*self.running, *self.waiting]:
            self.flights.end(flight)
        assert len(self.flights) == 0


TestTurns = Turns.TestCase
TestTurns.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_threads_take_turns(flights: Flights[Event]) -> None:
    """Of many threads at most one loads at a time, and each has the outcome of a load that began after it came."""
    clock, lock = 0, threading.Lock()
    running, most = 0, 0

    def tick() -> int:
        nonlocal clock
        with lock:
            clock += 1
            return clock

    def load() -> int:
        nonlocal running, most
        began = tick()
        running += 1
        most = max(most, running)
        threading.Event().wait(0.0005)
        running -= 1
        return began

    def read(name: int) -> tuple[int, int]:
        came = tick()
        token = b"%d" % name
        while True:
            flight, before = flights.turn("k", token)
            if flight.token != token:
                assert flight.done.wait(10)
                if flight.outcome is not None:
                    return came, flight.outcome.sealed
                continue
            while before is not None:
                assert before.done.wait(10)
                before = flights.begin(flight)
            began = load()
            flights.land(flight, Outcome(began))
            flights.end(flight)
            return came, began

    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(read, range(400)))
    assert most == 1
    assert all(began > came for came, began in found)
    assert len({began for _, began in found}) < 400
    assert len(flights) == 0


async def test_for_event_loops() -> None:
    """The same bookkeeping wakes tasks."""
    flights: Flights[asyncio.Event] = Flights(asyncio.Event)
    flight = flights.lead("k", b"1")
    waiting = asyncio.create_task(flight.done.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    flights.land(flight, Outcome(5))
    assert await waiting
    flights.end(flight)


@pytest.mark.parametrize("make", [threading.Event, asyncio.Event])
def test_an_end_without_an_outcome(make: Callable[[], Event]) -> None:
    """Whoever waits for a load that ended without an outcome is woken to find none."""
    flights = Flights(make)
    flight = flights.lead("k", b"1")
    flights.end(flight)
    assert (flight.done.is_set(), flight.outcome) == (True, None)
