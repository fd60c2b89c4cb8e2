"""Run flows on an event loop.

Rules:
- The hit path is `fetch`: it joins the next batch of its lane.
- A flow that may load runs in a task of its own, and a caller who is cancelled leaves it running: others may wait for
  its load, and a lease that was just granted must not be left behind.
- A load that is in flight ends with its flow, however that ends: who waits for it is always woken.

This module knows how each command is done, not what a flow means.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import os
import random
import time
import weakref
from bisect import bisect_left
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from neverstale.core import commands as c
from neverstale.counters import REDIS_BOUNDS, Counters
from neverstale.errors import LoadTimeout, RedisUnavailable
from neverstale.flight import Flight, Flights
from neverstale.loading import collecting

from .announce import Announcer
from .calls import LATER, Late, asked, at_once, in_time, loaded, missing_scripts, results
from .clients import REDIS_ERRORS, AsyncConnections, unavailable
from .lanes import AsyncWire, ClusterLanes, SingleLane

__all__ = ["AsyncDriver"]

logger = logging.getLogger("neverstale")
T = TypeVar("T")


#: So many refreshes run at a time on an event loop: more would be a load of its own on the database.
_REFRESHES = 16

_COLD: Any = (None, None)
_drivers: weakref.WeakSet[AsyncDriver] = weakref.WeakSet()


def _cool_all() -> None:
    for driver in _drivers:
        driver._cool()


os.register_at_fork(after_in_child=_cool_all)


class _Loop:
    """What belongs to one event loop."""

    def __init__(self) -> None:
        self.flights: Flights[asyncio.Event] = Flights(asyncio.Event)
        self.wires: dict[bool, tuple[Any, AsyncWire]] = {}
        self.tasks: set[asyncio.Task[Any]] = set()
        self.refreshing: set[str] = set()


class AsyncDriver:
    """Does what flows ask for; shared by all views of a cache. Each event loop has lanes and flights of its own.

    Args:
        connections: where Redis is.
        announcer: tells of invalidations.
    """

    def __init__(self, connections: AsyncConnections, announcer: Announcer) -> None:
        self._connections = connections
        self._announcer = announcer
        self._hot = _COLD
        _drivers.add(self)
        # Not a WeakKeyDictionary: its values refer to its keys.
        self._loops: dict[asyncio.AbstractEventLoop, _Loop] = {}

    def _loop(self) -> _Loop:
        running = asyncio.get_running_loop()
        known = self._loops.get(running)
        if known is None:
            for other in [other for other in list(self._loops) if other.is_closed()]:
                self._loops.pop(other, None)
            known = self._loops[running] = _Loop()
        return known

    @property
    def flights(self) -> Flights[asyncio.Event]:
        """The loads that are in flight on this event loop."""
        return self._loop().flights

    def wire(self, patient: bool = False) -> AsyncWire:
        """Return what commands are sent by: with the short time limit of reads, or the long one of invalidations."""
        wires = self._loop().wires
        client: Any = self._connections.patient if patient else self._connections.fast
        known = wires.get(patient)
        if known is None or known[0] is not client:
            made: AsyncWire = ClusterLanes(client) if self._connections.is_cluster else SingleLane(client)
            known = wires[patient] = (client, made)
        return known[1]

    async def fetch(self, keys: tuple[str, ...], counters: Counters) -> list[bytes | None]:
        """Read keys: the hit path.

        Raises:
            RedisUnavailable: Redis did not answer within its time limit.
        """
        began = time.perf_counter()
        try:
            loop, fetch = self._hot
            if loop is not asyncio.get_running_loop():
                fetch = self._heat()
            found: list[bytes | None] = await fetch(keys)
            return found
        except REDIS_ERRORS as error:
            counters.errors += 1
            raise unavailable(error) from error
        finally:
            took = time.perf_counter() - began
            counters.redis_seconds += took
            counters.redis_times[bisect_left(REDIS_BOUNDS, took)] += 1

    def _heat(self) -> Callable[[tuple[str, ...]], Awaitable[list[bytes | None]]]:
        """Remember how the running loop reads, so that a hit need not look it up."""
        fetch = self.wire().fetch
        self._hot = (asyncio.get_running_loop(), fetch)
        return fetch

    def _cool(self) -> None:
        """Forget it: the connections are closed, or the parent's."""
        self._hot = _COLD

    async def run(self, flow: c.Flow[T], counters: Counters, *, patient: bool = False) -> T:
        """Run a flow to its end; raises what the flow raises."""
        return await self._run(flow, counters, patient, None)

    async def _run(self, flow: c.Flow[T], counters: Counters, patient: bool, ends: float | None) -> T:
        flights: list[Flight[asyncio.Event]] = []
        registry = self.flights
        reply: Any = None
        trouble: RedisUnavailable | None = None
        try:
            while True:
                try:
                    command = flow.send(reply) if trouble is None else flow.throw(trouble)
                except StopIteration as stop:
                    result: T = stop.value
                    return result
                reply, trouble = None, None
                try:
                    reply = at_once(command, registry, flights)
                    if reply is LATER:
                        if ends is not None:
                            command = in_time(command, ends)
                        reply = await self._do(command, counters, flights, patient)
                except RedisUnavailable as error:
                    trouble = error
        finally:
            for flight in flights:
                registry.end(flight)
            flow.close()

    async def run_apart(self, flow: c.Flow[T], counters: Counters, *, patient: bool = False) -> T:
        """Run a flow in a task of its own, which goes on if the caller is cancelled."""
        return await asyncio.shield(self._start(self.run(flow, counters, patient=patient)))

    async def run_within(
        self, flow: c.Flow[c.Given], counters: Counters, entry: str, seconds: float
    ) -> c.Given:
        """Run a flow whose load may take longer than its caller waits.

        It runs in a task of its own. If its load is not done in time, the task goes on.

        Args:
            flow, counters: as `run`.
            entry: what is loaded.
            seconds: how long the caller waits.

        Returns:
            What the flow returns, or `LoadTimeout` as the error where that is not there in time.
        """
        late = c.Given(error=LoadTimeout(entry, seconds))
        gone = False

        async def work() -> c.Given:
            try:
                given = await self._run(flow, counters, False, time.monotonic() + seconds)
            except Late:
                return late
            if gone and given.error is not None:
                logger.warning(
                    "the load of %r, which nobody waits for any more, failed: %r", entry, given.error
                )
            return given

        task = self._start(work())
        done, _ = await asyncio.wait((task,), timeout=seconds)
        if done:
            found: c.Given = task.result()
            return found
        gone = True
        return late

    def refresh(self, entry: str, flow: Callable[[], c.Flow[c.Given | None]], counters: Counters) -> None:
        """Run a flow in the background, unless one for this entry is running; its errors are logged."""
        refreshing = self._loop().refreshing
        if entry in refreshing or len(refreshing) >= _REFRESHES:
            return  # the next reader of the stale value tries again
        refreshing.add(entry)

        async def work() -> None:
            try:
                given = await self.run(flow(), counters)
                if given is not None and given.error is not None:
                    raise given.error
            except Exception as error:  # noqa: BLE001 - a loader may raise anything, and nobody waits for it here
                logger.warning("the refresh of %r failed: %r", entry, error)
            finally:
                refreshing.discard(entry)

        self._start(work())

    def _start(self, work: Any) -> asyncio.Task[Any]:
        tasks = self._loop().tasks
        task: asyncio.Task[Any] = asyncio.get_running_loop().create_task(work)
        tasks.add(task)  # the loop itself keeps tasks only weakly

        def over(task: asyncio.Task[Any]) -> None:
            tasks.discard(task)
            if not task.cancelled():
                task.exception()  # the caller may be gone: it is nobody's oversight that this was not fetched

        task.add_done_callback(over)
        return task

    async def close(self) -> None:
        """Wait for the loads and refreshes that are running on this event loop."""
        tasks = [task for task in self._loop().tasks if task is not asyncio.current_task()]
        if tasks:
            await asyncio.wait(tasks)
        self._cool()

    async def _do(
        self, command: c.Command[Any], counters: Counters, flights: list[Flight[asyncio.Event]], patient: bool
    ) -> Any:
        match command:
            case c.Fetch(keys):
                return await self.fetch(keys, counters)
            case c.Together() | c.Drop() | c.Topology() | c.Scan():
                return await self._ask_redis(command, counters, patient)
            case c.Wait(_, seconds):
                return await asyncio.sleep(seconds * random.uniform(0.75, 1.25))
            case c.Load():
                return await _load(command)
            case c.Join(entry, token, seconds):
                flight = self.flights.find(entry, token)
                if flight is None:
                    return None
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await flight.done.wait()
                return flight.outcome
            case c.Turn(entry, token, seconds):
                return await self._turn(entry, token, seconds, flights)
            case c.Announce(receipt, prefix, reason):
                message = self._announcer.tell(receipt, prefix, reason)
                try:
                    # With the short limit: news are not worth holding up who invalidates.
                    await self.wire().ask("", ("PUBLISH", *message))
                except REDIS_ERRORS as error:
                    logger.warning("an invalidation could not be announced to other processes: %s", error)
                return None
            case _:
                raise AssertionError(f"no such command: {command!r}")

    async def _ask_redis(
        self, command: c.Together | c.Drop | c.Topology | c.Scan | Any, counters: Counters, patient: bool
    ) -> Any:
        with asked(counters, self._connections):
            wire = self.wire(patient)
            match command:
                case c.Together(calls):
                    return await self._together(wire, calls)
                case c.Drop(keys, beside):
                    own = tuple(wire.drops(keys))
                    replies = await self._together(wire, (*own, *wire.drops(beside)))
                    return sum(replies[: len(own)])
                case c.Topology():
                    return await wire.topology()
                case c.Scan(node, cursor, pattern, count):
                    after, found = await wire.ask(node, ("SCAN", cursor, "MATCH", pattern, "COUNT", count))
                    return int(after), list(found)

    @staticmethod
    async def _together(wire: AsyncWire, calls: tuple[c.Call[Any], ...]) -> list[Any]:
        replies = await wire.exchange([(call.key, call.words()) for call in calls])
        again = missing_scripts(calls, replies)
        if again:
            made = await wire.exchange([(calls[index].key, words) for index, words in again.items()])
            for index, reply in zip(again, made, strict=True):
                replies[index] = reply
        return results(calls, replies, unavailable)

    async def _turn(
        self, entry: str, token: bytes, seconds: float, flights: list[Flight[asyncio.Event]]
    ) -> c.Outcome | None:
        flight, before = self.flights.turn(entry, token)
        try:
            async with asyncio.timeout(seconds):
                if flight.token != token:
                    await flight.done.wait()
                    return flight.outcome or c.Outcome(shareable=False)
                flights.append(flight)
                while before is not None:
                    await before.done.wait()
                    before = self.flights.begin(flight)
        except TimeoutError:
            if flight.token == token:
                self.flights.end(flight)
        return None


async def _load(command: c.Load) -> c.Loaded:
    began = time.perf_counter()
    with collecting() as named:
        try:
            value, error = command.loader(), None
            if inspect.isawaitable(value):
                value = await value
        except GeneratorExit:  # the event loop was closed under us: there is nothing left to wait with
            raise
        except BaseException as raised:  # noqa: BLE001 - also what ends the task: the lease is given back first
            value, error = None, raised
    return loaded(command, value, error, named.tags, time.perf_counter() - began)
