"""The deterministic scheduler: several flows of the shipping code side by side, one command at a time.

A *scenario* is a number of actors, each a flow that may call other flows, and what is in Redis when they begin. A
*schedule* is the order in which their commands are done, against a real server. `explore` does every schedule that
differs in anything that matters; `wander` does random ones of larger scenarios.

How every schedule is covered without doing each: after each step the *state* is everything that the future depends on,
which is what is in Redis, what each actor has been replied (a flow is deterministic, so its replies are its memory)
and what it waits for, what each process has in flight and remembers, and what the scenario itself does. A state that
was seen before has the same future, so the schedule ends there.

What is a step: a command that Redis or the loader answers. What only concerns the actor itself (its clock, its random
bytes) is done on the way. Waiting is not a step: an actor that waits goes on when what it waits for has changed; if
everybody waits, time passes: first the pauses end, and if then everybody waits again, the leases in Redis expire.
Whoever waits for anything but a lease waits in vain, and that is found, too.

What does not vary here, so that schedules can be repeated: random bytes are counted; the wall clock stands still;
stamps that are set during a schedule are younger than any margin; those that a scenario plants may be old.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from neverstale.core import commands as c
from neverstale.core.calls import Script
from neverstale.core.entry import HEAD, LEASE, MAGIC, token_of
from neverstale.core.policy import Memory
from neverstale.counters import Counters
from neverstale.drive.connection import REDIS_ERRORS, unavailable
from neverstale.drive.threads import together
from neverstale.drive.wire import Wire
from neverstale.errors import RedisUnavailable
from neverstale.flight import Flight, Flights
from neverstale.loading import Answer

__all__ = ["Actor", "Found", "Process", "Run", "Scenario", "Violation", "explore", "wander"]

#: Milliseconds since 1970, at every moment of every schedule.
NOW_MS: Final = 1_800_000_000_000
#: A stamp older than this was planted by the scenario.
_OLD: Final = 60.0
#: Chosen in an actor's place.
TIME: Final = -1


class Violation(AssertionError):
    """A schedule broke a promise; the message holds the schedule."""


class _Flag:
    """An event that nobody waits on: the scheduler looks at it."""

    def __init__(self) -> None:
        self._set = False

    def set(self) -> None:
        self._set = True

    def is_set(self) -> bool:
        return self._set


class Process:
    """What the actors of one process share."""

    def __init__(self) -> None:
        self.flights: Flights[_Flag] = Flights(_Flag)
        self.memory = Memory()
        self.counters = Counters()

    def state(self) -> Hashable:
        """Return what the future of its actors depends on."""
        flights, memory = self.flights, self.memory
        tables = (flights._leased, flights._running, flights._next)
        return (
            tuple(tuple((str(key), _flying(flight)) for key, flight in table.items()) for table in tables),
            tuple(memory._tags.items()),
            tuple(memory._orphans),
        )


@dataclass
class Actor:
    """One thread of execution.

    Attributes:
        name: in schedules.
        program: makes its flow; called when the actor takes its first step.
        process: what it shares with others.
        crash_after: steps after which it is no more.
        fail_at: the step whose answer is lost, and whether it was done all the same.
        spread: how its keys lie on a cluster: "" for one node; "forward" and "backward" for a node each, where
            every key and every call is a step of its own, answered in this order.
    """

    name: str
    program: Callable[[], c.Flow[Any]]
    process: Process = field(default_factory=Process)
    crash_after: int | None = None
    fail_at: tuple[int, bool] | None = None
    spread: Literal["", "forward", "backward"] = ""
    parts: dict[int, Any] = field(default_factory=dict, init=False)
    flow: c.Flow[Any] | None = field(default=None, init=False)
    pending: c.Command[Any] | None = field(default=None, init=False)
    done: bool = field(default=False, init=False)
    steps: int = field(default=0, init=False)
    heard: list[Hashable] = field(default_factory=list, init=False)
    flights: list[Flight[_Flag]] = field(default_factory=list, init=False)
    waits_for: Any = field(default=None, init=False)
    random_count: int = field(default=0, init=False)


@dataclass
class Scenario:
    """What is run again and again.

    Attributes:
        begin: empties Redis, puts there what the scenario begins with, and returns the actors; called for each run.
        state: what the scenario itself remembers, as part of the state of a run.
        at_rest: checks what is left when all actors are done; raises `Violation`.
        keys: every key that can come to be, for comparing states.
        patient: False where nobody may have to wait until a lease expires.
    """

    begin: Callable[[], Sequence[Actor]]
    state: Callable[[], Hashable]
    at_rest: Callable[[], None]
    keys: Sequence[str]
    patient: bool = True


@dataclass
class Found:
    """What an exploration did."""

    schedules: int = 0
    states: int = 0
    steps: int = 0


class Run:
    """One schedule of a scenario, as far as it has come."""

    def __init__(self, scenario: Scenario, wire: Wire) -> None:
        self.scenario = scenario
        self.wire = wire
        self.actors = list(scenario.begin())
        self.told: list[str] = []
        self._woken: Hashable = None

    # --- choosing -------------------------------------------------------------------------------------------

    def choices(self) -> list[int]:
        """Return which actors can take a step; `TIME` if only that can go on; nothing at the end."""
        able = [number for number, actor in enumerate(self.actors) if not actor.done and self._able(actor)]
        if not able and not all(actor.done for actor in self.actors):
            return [TIME]
        return able

    def take(self, choice: int) -> None:
        """Let an actor take a step, or time pass.

        Raises:
            Violation: it broke a promise, or nobody can ever go on.
        """
        if choice != TIME:
            self.step(self.actors[choice])
            return
        self._pass_time()
        if self.choices() == [TIME]:
            raise Violation(self._report("nobody can go on"))

    def _able(self, actor: Actor) -> bool:
        waits_for = actor.waits_for
        if waits_for is None:
            return True
        if isinstance(waits_for, Flight):
            return bool(waits_for.done.is_set())
        key, seen = waits_for
        return bool(self._read(key) != seen)

    def _pass_time(self) -> None:
        """End every pause; where that has just been done to no avail, the leases that stand in Redis."""
        stored = _plain(self.wire.fetch(tuple(self.scenario.keys)))
        if stored != self._woken:
            self.told.append("time passes: pauses end")
            self._woken = stored
        elif not self.scenario.patient:
            raise Violation(self._report("everybody waits until a lease expires"))
        elif not self._end_leases():
            raise Violation(self._report("everybody waits, and nobody has a lease"))
        for actor in self.actors:
            if isinstance(actor.waits_for, tuple):
                actor.waits_for = (actor.waits_for[0], ())

    def _end_leases(self) -> bool:
        """End the leases that stand in Redis; return whether there was one. A back-off is none: nobody waits for it."""
        ended = False
        for key in self.scenario.keys:
            raw = self._read(key)
            if raw is None or raw[:2] != MAGIC or token_of(raw[:HEAD]) is None:
                continue
            if raw[2:3] == LEASE:
                self.wire.ask("", ("DEL", key))
            elif raw[34:42] != bytes(8):
                self.wire.ask("", ("SETRANGE", key, 34, bytes(8)))
            else:
                continue
            self.told.append(f"time passes: the lease {key} expires")
            ended = True
        return ended

    def _read(self, key: str) -> bytes | None:
        return self.wire.fetch((key,))[0]

    # --- stepping -------------------------------------------------------------------------------------------

    def step(self, actor: Actor) -> None:
        """Let an actor do its pending command and come to its next."""
        try:
            if actor.flow is None:
                actor.flow = actor.program()
                self._go_on(actor, None, None)
            if actor.done:
                return
            if actor.waits_for is None:
                actor.steps += 1
                self.told.append(f"{actor.name}: {_short(actor.pending)}")
            reply, trouble = self._do(actor)
            if actor.waits_for is not None or actor.parts:
                return
            actor.heard.append(_plain(reply) if trouble is None else "trouble")
            if actor.crash_after is not None and actor.steps >= actor.crash_after:
                self.told.append(f"{actor.name}: crashes")
                self._end(actor)
                return
            self._go_on(actor, reply, trouble)
        except Violation as violation:
            raise Violation(self._report(str(violation))) from None

    def _go_on(self, actor: Actor, reply: Any, trouble: RedisUnavailable | None) -> None:
        flow = actor.flow
        assert flow is not None
        while True:
            try:
                command = flow.send(reply) if trouble is None else flow.throw(trouble)
            except StopIteration:
                self._end(actor)
                return
            reply, trouble = None, None
            match command:
                case c.Clock():
                    reply = 0.0
                case c.Wall():
                    reply = NOW_MS
                case c.Random(count):
                    actor.random_count += 1
                    reply = f"{actor.name}{actor.random_count}".encode().ljust(count, b".")[:count]
                case c.Lead(entry, token):
                    actor.flights.append(actor.process.flights.lead(entry, token))
                case c.Land(_, token, outcome):
                    for flight in actor.flights:
                        if flight.token == token:
                            actor.process.flights.land(flight, outcome)
                case c.Announce():
                    pass
                case _:
                    actor.pending = command
                    return

    def _end(self, actor: Actor) -> None:
        actor.done = True
        if actor.flow is not None:
            actor.flow.close()
        for flight in actor.flights:
            actor.process.flights.end(flight)

    def _do(self, actor: Actor) -> tuple[Any, RedisUnavailable | None]:
        match actor.pending:
            case c.Load(loader):
                return self._load(actor, loader), None
            case c.Wait(entry, _):
                if actor.waits_for is None:
                    actor.waits_for = (entry, self._read(entry))
                    return None, None
                actor.waits_for = None
                return None, None
            case c.Join(entry, token, _):
                return self._join(actor, actor.waits_for or actor.process.flights.find(entry, token)), None
            case c.Turn(entry, token, _):
                return self._turn(actor, entry, token), None
            case command:
                return self._ask_redis(actor, command)

    def _load(self, actor: Actor, loader: Callable[[], Any]) -> Any:
        """Read the truth in one step, and have it in another: a load takes time."""
        if actor.parts:
            return actor.parts.pop(0)
        try:
            actor.parts[0] = _loaded(loader())
        except LookupError as error:
            actor.parts[0] = c.Loaded(error=error)
        return None

    def _join(self, actor: Actor, flight: Flight[_Flag] | None) -> c.Outcome | None:
        if flight is None:
            return None
        actor.waits_for = None if flight.done.is_set() else flight
        return flight.outcome

    def _turn(self, actor: Actor, entry: str, token: bytes) -> c.Outcome | None:
        flights = actor.process.flights
        mine = next((flight for flight in actor.flights if flight.token == token), None)
        if mine is not None:
            before = flights.begin(mine)
        elif actor.waits_for is not None:
            outcome = actor.waits_for.outcome
            actor.waits_for = None
            return outcome or c.Outcome(shareable=False)
        else:
            flight, before = flights.turn(entry, token)
            if flight.token != token:
                actor.waits_for = flight
                return None
            actor.flights.append(flight)
        actor.waits_for = before
        return None

    def _ask_redis(self, actor: Actor, command: Any) -> tuple[Any, RedisUnavailable | None]:
        lost = actor.fail_at is not None and actor.fail_at[0] == actor.steps
        if lost and actor.fail_at is not None and not actor.fail_at[1]:
            return None, RedisUnavailable("not sent")
        try:
            match command:
                case c.Fetch(keys):
                    reply: Any = self._spread(actor, keys, lambda key: self.wire.fetch((key,))[0])
                case c.Together(calls):
                    reply = self._spread(actor, calls, lambda call: together(self.wire, (call,))[0])
                case c.Drop(keys, beside):
                    own = tuple(self.wire.drops(keys))
                    reply = sum(together(self.wire, (*own, *self.wire.drops(beside)))[: len(own)])
                case c.Topology():
                    reply = self.wire.topology()
                case c.Scan(node, cursor, pattern, count):
                    after, found = self.wire.ask(node, ("SCAN", cursor, "MATCH", pattern, "COUNT", count))
                    reply = int(after), sorted(found)
                case _:
                    raise AssertionError(f"no such command: {command!r}")
        except REDIS_ERRORS as error:
            raise AssertionError(f"the server of the simulation failed: {unavailable(error)}") from error
        return (None, RedisUnavailable("the answer was lost")) if lost else (reply, None)

    def _spread(self, actor: Actor, items: Sequence[Any], do: Callable[[Any], Any]) -> list[Any]:
        """Do all at once, or only the next one: `parts` is then not empty until the last."""
        order = range(len(items)) if actor.spread != "backward" else range(len(items) - 1, -1, -1)
        for index in order:
            if index not in actor.parts:
                actor.parts[index] = do(items[index])
                if actor.spread and len(actor.parts) < len(items):
                    return []
        replies = [actor.parts[index] for index in range(len(items))]
        actor.parts = {}
        return replies

    # --- telling states apart -------------------------------------------------------------------------------

    def state(self) -> Hashable:
        """Return everything that the future depends on."""
        asked = [(key, (verb, key)) for key in self.scenario.keys for verb in ("GET", "SMEMBERS")]
        # Each key is a string or a set: the other answer is an error, and says nothing.
        stored = [
            tuple(sorted(reply)) if isinstance(reply, list) else _plain(reply)
            for reply in self.wire.exchange(asked)
            if not isinstance(reply, Exception)
        ]
        return (
            tuple(stored),
            tuple(
                (a.done, _awaited(a.waits_for), _plain(tuple(a.parts.items())), tuple(a.heard))
                for a in self.actors
            ),
            tuple(process.state() for process in dict.fromkeys(actor.process for actor in self.actors)),
            self.scenario.state(),
            self._woken,
        )

    def _report(self, problem: str) -> str:
        lines = [problem, "schedule:", *(f"  {number:2}. {line}" for number, line in enumerate(self.told, 1))]
        return "\n".join(lines)


def explore(scenario: Scenario, wire: Wire, *, limit: int = 1_000_000) -> Found:
    """Do every schedule of a scenario that differs from others in anything that matters.

    Args:
        scenario: what to run.
        wire: to a real server, used by nobody else.
        limit: schedules after which to give up.

    Raises:
        Violation: a schedule broke a promise.
        RuntimeError: there are more schedules than `limit`.
    """
    found = Found()
    seen: set[int] = set()
    to_do: list[tuple[int, ...]] = [()]
    while to_do:
        path = list(to_do.pop())
        run = Run(scenario, wire)
        for choice in path:
            run.take(choice)
            found.steps += 1
        found.schedules += 1
        if found.schedules > limit:
            raise RuntimeError(f"more than {limit} schedules: make the scenario smaller")
        while True:
            able = run.choices()
            state = hash(run.state())
            if state in seen:
                break
            seen.add(state)
            if not able:
                _rest(run)
                break
            to_do.extend((*path, other) for other in able[1:])
            path.append(able[0])
            run.take(able[0])
            found.steps += 1
    found.states = len(seen)
    return found


def wander(scenario: Scenario, wire: Wire, *, seeds: Sequence[int]) -> Found:
    """Do one random schedule of a scenario for each seed.

    Raises:
        Violation: a schedule broke a promise; the message names the seed.
    """
    found = Found()
    for seed in seeds:
        chance = random.Random(seed)
        run = Run(scenario, wire)
        try:
            while able := run.choices():
                run.take(chance.choice(able))
                found.steps += 1
            _rest(run)
        except Violation as violation:
            raise Violation(f"seed {seed}: {violation}") from None
        found.schedules += 1
    return found


def _rest(run: Run) -> None:
    try:
        run.scenario.at_rest()
    except Violation as violation:
        raise Violation(run._report(str(violation))) from None


def _loaded(result: Any) -> c.Loaded:
    """Return what a loader did that gave a value with its tags, or an `Answer`."""
    if isinstance(result, Answer):
        return c.Loaded(result.value, None, result.tags, keep=result.keep, forget=result.forget)
    value, tags = result
    return c.Loaded(value, None, tags)


def _flying(flight: Flight[_Flag]) -> Hashable:
    return flight.token, flight.done.is_set(), flight.outcome is not None


def _awaited(waits_for: Any) -> Hashable:
    if isinstance(waits_for, Flight):
        return _flying(waits_for)
    return None if waits_for is None else (waits_for[0], _plain(waits_for[1]))


_TIME = re.compile(rb"(?<=@)\d{16}")


def _plain(reply: Any) -> Hashable:
    """Write a reply such that two runs which differ in nothing but the time of day are the same."""
    match reply:
        case bytes():
            if reply[:2] == MAGIC and len(reply) >= HEAD and reply[34:42] != bytes(8):
                reply = reply[:34] + b"deadline" + reply[42:]
            return _TIME.sub(b"", reply)
        case (bytes() as stamp, float() | None as age):
            return _plain(stamp), age is not None and age > _OLD
        case list() | tuple():
            return tuple(map(_plain, reply))
        case c.Loaded(value, error, tags):
            return value, repr(error), tags, reply.keep
        case c.Outcome(sealed, error, stamps, shareable, kept):
            return sealed and sealed.value, repr(error), _plain(stamps), shareable, kept
        case _:
            return repr(reply)


def _short(command: Any) -> str:
    match command:
        case c.Together(calls):
            return " + ".join(map(_short, calls))
        case Script():
            return f"{command.name} {' '.join(map(str, command.keys()))}"
        case c.Call():
            return " ".join(str(word) for word in command.words()[:2])
        case c.Fetch(keys) | c.Drop(keys):
            return f"{type(command).__name__.lower()} {' '.join(map(str, keys))}"
        case _:
            return type(command).__name__.lower()
