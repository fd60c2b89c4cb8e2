"""Run flows on the calling thread.

Rules:
- A loader runs on the thread that asked for it; a refresh past the soft TTL, and a load that its caller waits for only
  so long, on one of a few threads of this module.
- A load that is in flight ends with its flow, however that ends: who waits for it is always woken.

This module knows how each command is done, not what a flow means.
"""

from __future__ import annotations

import contextvars
import inspect
import logging
import os
import random
import threading
import time
from bisect import bisect_left
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from neverstale.core import commands as c
from neverstale.counters import REDIS_BOUNDS, Counters
from neverstale.errors import LoadTimeout, RedisUnavailable, UsageError
from neverstale.flight import Flight, Flights
from neverstale.loading import collecting

from .announce import Announcer
from .calls import LATER, Late, asked, at_once, in_time, loaded, missing_scripts, results
from .clients import REDIS_ERRORS, Connections, unavailable
from .wire import ClusterWire, SingleWire, Wire

__all__ = ["ThreadDriver", "together"]

logger = logging.getLogger("neverstale")
T = TypeVar("T")

#: Refreshes run beside the requests; more of them at a time would be a load of its own on the database.
_REFRESHERS = 4
#: So many refreshes run or wait for a thread; each holds the value that it replaces.
_REFRESHES = 16


#: Loads with a time limit that run at a time, also those that nobody waits for any more: so many hung ones cannot take
#: the application's own threads along (a bulkhead). As many as the default of Python's own pools at most.
_LOADERS = 32


class _Goes(Exception):
    """A load goes on, and its caller does not wait for it any longer."""

    def __init__(self, load: Future[c.Loaded]) -> None:
        self.load = load


class _Run(Generic[T]):
    """A flow that is being run, with the loads that it leads; `ends` is when its caller's time is up."""

    __slots__ = ("counters", "ends", "flights", "flow", "patient", "registry", "within")

    def __init__(
        self,
        flow: c.Flow[T],
        counters: Counters,
        registry: Flights[threading.Event],
        patient: bool = False,
        within: float = 0.0,
        ends: float | None = None,
    ) -> None:
        self.flow = flow
        self.counters = counters
        self.registry = registry
        self.flights: list[Flight[threading.Event]] = []
        self.patient = patient
        self.within = within
        self.ends = ends

    def end(self) -> None:
        """Wake all who wait for its loads, however it ended."""
        for flight in self.flights:
            self.registry.end(flight)
        self.flow.close()


class ThreadDriver:
    """Does what flows ask for; shared by all views of a cache, safe for threads and after fork.

    Args:
        connections: where Redis is.
        announcer: tells of invalidations.
    """

    def __init__(self, connections: Connections, announcer: Announcer) -> None:
        self._connections = connections
        self._announcer = announcer
        self._fork_safe()

    def _fork_safe(self) -> None:
        """Begin anew in this process: locks, flights and threads of a parent are of no use to its child."""
        self._pid = os.getpid()
        self.flights: Flights[threading.Event] = Flights(threading.Event)
        self._wires: dict[str, tuple[Any, Wire]] = {}
        self._refreshers: ThreadPoolExecutor | None = None
        self._refreshing: set[str] = set()
        self._loaders: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    def wire(self, patient: bool = False) -> Wire:
        """Return what commands are sent by: with the short time limit of reads, or the long one of invalidations."""
        if self._pid != os.getpid():
            self._fork_safe()
        name = "patient" if patient else "fast"
        client = getattr(self._connections, name)
        known = self._wires.get(name)
        if known is None or known[0] is not client:
            made: Wire = ClusterWire(client) if self._connections.is_cluster else SingleWire(client)
            known = self._wires[name] = (client, made)
        return known[1]

    def fetch(self, keys: tuple[str, ...], counters: Counters) -> list[bytes | None]:
        """Read keys: the hit path.

        Raises:
            RedisUnavailable: Redis did not answer within its time limit.
        """
        began = time.perf_counter()
        try:
            return self.wire().fetch(keys)
        except REDIS_ERRORS as error:
            counters.errors += 1
            raise unavailable(error) from error
        finally:
            took = time.perf_counter() - began
            counters.redis_seconds += took
            counters.redis_times[bisect_left(REDIS_BOUNDS, took)] += 1

    def run(self, flow: c.Flow[T], counters: Counters, *, patient: bool = False) -> T:
        """Run a flow to its end; raises what the flow raises."""
        run = _Run(flow, counters, self.flights, patient)
        try:
            return self._go_on(run, None)
        finally:
            run.end()

    def run_within(self, flow: c.Flow[c.Given], counters: Counters, entry: str, seconds: float) -> c.Given:
        """Run a flow whose load may take longer than its caller waits.

        The loader runs on a thread of this module, with the caller's context variables. If it is not done in time, the
        rest of the flow is done there as well. Where all of these threads are taken, the caller waits for one until its
        time is up, and then the load is not begun.

        Args:
            flow, counters: as `run`.
            entry: what is loaded.
            seconds: how long the caller waits.

        Returns:
            What the flow returns, or `LoadTimeout` as the error where that is not there in time.
        """
        run = _Run(flow, counters, self.flights, within=seconds, ends=time.monotonic() + seconds)
        load: Future[c.Loaded] | None = None
        try:
            return self._go_on(run, None)
        except _Goes as goes:
            load = goes.load
        except Late:
            pass
        finally:
            if load is None:
                run.end()
        if load is not None:
            load.add_done_callback(lambda done: self._finish(run, entry, done.result()))
        return c.Given(error=LoadTimeout(entry, seconds))

    def _finish(self, run: _Run[c.Given], entry: str, found: c.Loaded) -> None:
        """Do the rest of a flow whose caller has gone."""
        try:
            run.ends = None
            given = self._go_on(run, found)
            if given.error is not None:
                logger.warning(
                    "the load of %r, which nobody waits for any more, failed: %r", entry, given.error
                )
        finally:
            run.end()

    def _go_on(self, run: _Run[T], reply: Any) -> T:
        trouble: RedisUnavailable | None = None
        while True:
            try:
                command = run.flow.send(reply) if trouble is None else run.flow.throw(trouble)
            except StopIteration as stop:
                result: T = stop.value
                return result
            reply, trouble = None, None
            try:
                reply = at_once(command, run.registry, run.flights)
                if reply is LATER:
                    if run.ends is not None:
                        command = in_time(command, run.ends)
                    reply = self._do(command, run)
            except RedisUnavailable as error:
                trouble = error

    def refresh(self, entry: str, flow: Callable[[], c.Flow[c.Given | None]], counters: Counters) -> None:
        """Run a flow on another thread, unless one for this entry is running; its errors are logged."""
        with self._lock:
            if entry in self._refreshing or len(self._refreshing) >= _REFRESHES:
                return  # the next reader of the stale value tries again
            self._refreshing.add(entry)
            if self._refreshers is None:
                self._refreshers = ThreadPoolExecutor(_REFRESHERS, thread_name_prefix="neverstale-refresh")
            refreshers = self._refreshers
        context = contextvars.copy_context()

        def work() -> None:
            try:
                given = context.run(self.run, flow(), counters)
                if given is not None and given.error is not None:
                    raise given.error
            except Exception as error:  # noqa: BLE001 - a loader may raise anything, and nobody waits for it here
                logger.warning("the refresh of %r failed: %r", entry, error)
            finally:
                self._refreshing.discard(entry)

        try:
            refreshers.submit(work)
        except RuntimeError:  # the interpreter is shutting down
            self._refreshing.discard(entry)

    def _load_within(self, command: c.Load, within: float, ends: float) -> c.Loaded:
        """Run a loader on another thread.

        Raises:
            _Goes: it is not done in time, and goes on.
        """
        context = contextvars.copy_context()
        with self._lock:
            if self._loaders is None:
                self._loaders = ThreadPoolExecutor(_LOADERS, thread_name_prefix="neverstale-load")
            loaders = self._loaders
        load: Future[c.Loaded] | None = None
        try:
            load = loaders.submit(context.run, _load, command)
            return load.result(max(0.0, ends - time.monotonic()))
        except TimeoutError:  # of waiting: what the loader raises is in its reply
            if load is not None and not load.cancel():
                raise _Goes(load) from None
        except CancelledError:  # the cache is being closed
            pass
        except RuntimeError:  # the interpreter is shutting down
            return _load(command)
        except BaseException as error:  # noqa: BLE001 - what ends the thread: the lease is given back first
            if load is not None:
                load.cancel()
            return c.Loaded(error=error)
        # It was not begun: that is no answer to those who wait for it and have time left.
        return c.Loaded(error=LoadTimeout(command.entry, within), keep=False)

    def close(self) -> None:
        """Wait for refreshes and loads that are running; those that wait for a thread are given up."""
        if self._pid == os.getpid():
            for pool in (self._refreshers, self._loaders):
                if pool is not None:
                    pool.shutdown(wait=True, cancel_futures=True)
            self._refreshing.clear()  # those that were given up, too: they could never begin again
        self._refreshers = self._loaders = None

    def _do(self, command: c.Command[Any], run: _Run[Any]) -> Any:
        counters = run.counters
        match command:
            case c.Fetch(keys):
                return self.fetch(keys, counters)
            case c.Together() | c.Drop() | c.Topology() | c.Scan():
                return self._ask_redis(command, counters, run.patient)
            case c.Wait(_, seconds):
                return time.sleep(seconds * random.uniform(0.75, 1.25))
            case c.Load():
                if run.ends is not None:
                    return self._load_within(command, run.within, run.ends)
                return _load(command)
            case c.Join(entry, token, seconds):
                flight = self.flights.find(entry, token)
                return flight.outcome if flight is not None and flight.done.wait(seconds) else None
            case c.Turn(entry, token, seconds):
                return self._turn(entry, token, seconds, run.flights)
            case c.Announce(receipt, prefix, reason):
                message = self._announcer.tell(receipt, prefix, reason)
                try:
                    # With the short limit: news are not worth holding up who invalidates.
                    self.wire().ask("", ("PUBLISH", *message))
                except REDIS_ERRORS as error:
                    logger.warning("an invalidation could not be announced to other processes: %s", error)
                return None
            case _:
                raise AssertionError(f"no such command: {command!r}")

    def _ask_redis(
        self, command: c.Together | c.Drop | c.Topology | c.Scan | Any, counters: Counters, patient: bool
    ) -> Any:
        with asked(counters, self._connections):
            wire = self.wire(patient)
            match command:
                case c.Together(calls):
                    return together(wire, calls)
                case c.Drop(keys, beside):
                    own = tuple(wire.drops(keys))
                    replies = together(wire, (*own, *wire.drops(beside)))
                    return sum(replies[: len(own)])
                case c.Topology():
                    return wire.topology()
                case c.Scan(node, cursor, pattern, count):
                    after, found = wire.ask(node, ("SCAN", cursor, "MATCH", pattern, "COUNT", count))
                    return int(after), list(found)

    def _turn(
        self, entry: str, token: bytes, seconds: float, flights: list[Flight[threading.Event]]
    ) -> c.Outcome | None:
        ends = time.monotonic() + seconds
        flight, before = self.flights.turn(entry, token)
        if flight.token != token:
            if not flight.done.wait(seconds):
                return None
            return flight.outcome or c.Outcome(shareable=False)
        flights.append(flight)
        while before is not None:
            if not before.done.wait(max(0.0, ends - time.monotonic())):
                self.flights.end(flight)
                return None
            before = self.flights.begin(flight)
        return None


def _load(command: c.Load) -> c.Loaded:
    began = time.perf_counter()
    with collecting() as named:
        try:
            value, error = command.loader(), None
            if inspect.iscoroutine(value):
                value.close()
                raise UsageError("load is a coroutine function, which nobody here awaits: use AsyncCache")
        except BaseException as raised:  # noqa: BLE001 - also what ends the thread: the lease is given back first
            value, error = None, raised
    return loaded(command, value, error, named.tags, time.perf_counter() - began)


def together(wire: Wire, calls: tuple[c.Call[Any], ...]) -> list[Any]:
    """Do calls side by side, with their scripts' text where the server does not know it."""
    replies = wire.exchange([(call.key, call.words()) for call in calls])
    again = missing_scripts(calls, replies)
    if again:
        made = wire.exchange([(calls[index].key, words) for index, words in again.items()])
        for index, reply in zip(again, made, strict=True):
            replies[index] = reply
    return results(calls, replies, unavailable)
