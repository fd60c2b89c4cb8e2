"""Hand on what a process has counted, about once a second: to prometheus_client, and to the totals in Redis.

Rules:
- Nobody who reads the cache waits for it. Redis away is no error: what could not be sent is sent later.
- A report that may have arrived is sent again under its own number, which Redis counts once.
- A process that does not report tells what it has invalidated all the same, when it closes its cache: that concerns
  everybody, also where a script or the command line did it. What else it has counted is its own.
- A child of a process that reports (on a thread) reports for itself, under another name, from the fork on.

The last report is sent when the block ends. A process that is killed takes up to a second's figures along.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import threading
import weakref
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final, TypeAlias

from neverstale.config import Settings
from neverstale.core.commands import Flow, Together, Wall
from neverstale.counters import Counters
from neverstale.drive.clients import AsyncConnections, Connections
from neverstale.errors import RedisUnavailable, UsageError
from neverstale.hot import SAMPLED, Hot

from .figures import Differences, Names, invalidations, written_figures
from .nodes import Looks, nodes, nodes_async
from .totals import Report, StatKeys

if TYPE_CHECKING:
    from neverstale.drive.aio import AsyncDriver
    from neverstale.drive.announce import Announcer
    from neverstale.drive.threads import ThreadDriver

    from .prometheus import Instruments

__all__ = ["Reporter", "hand_in", "hand_in_async", "reporting", "reporting_async"]

logger = logging.getLogger("neverstale")
Counts: TypeAlias = "Sequence[tuple[str, int]]"

#: Seconds between two reports: live for whoever looks, and a script of some 0.1 ms a process for Redis.
INTERVAL: Final = 1.0
#: So many of the most frequent names are sent in one report; the others stay, and add up.
_HOTTEST: Final = 100
#: As there is one registry of prometheus_client for all caches of this process, and one page for all of its siblings.
_shown: Final = Names(of_all=True)
#: The first try tells the clock of Redis; a second may cross the end of a span; a third is for luck.
_TRIES: Final = 3


class Reporter:
    """What a process has yet to tell, of one cache. Does no I/O.

    Args:
        settings: of the cache.
        announcer: which knows the name of the process.
        counters: of the cache, by prefix.
        hot: what was asked for most.
    """

    def __init__(
        self, settings: Settings, announcer: Announcer, counters: dict[str, Counters], hot: Hot
    ) -> None:
        self.keys = StatKeys(settings.namespace, settings.version)
        #: What reporting itself costs is no prefix'.
        self.counters = Counters()
        self.active = False
        #: At the nodes of Redis.
        self.looks = Looks(settings)
        self._announcer = announcer
        self._hot = hot
        self._for_redis = Differences(counters)
        self._for_prometheus = Differences(counters, _shown)
        self._instruments: Instruments | None = None
        self._offset = 0.0
        self._begin()
        _reporters.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._number = 0
        self._pending: Report | None = None
        self._handing_in = False

    def after_fork(self) -> None:
        """Forget what is the parent's to tell. (`Differences` do so by themselves.)"""
        self._begin()
        self._hot.keys.take(len(self._hot.keys))
        self._hot.tags.take(len(self._hot.tags))

    def hold(self, seconds: float) -> bool:
        """Keep exports from happening; return whether none happens now."""
        return self._lock.acquire(timeout=seconds)

    def let_go(self) -> None:
        """Allow them again."""
        self._lock.release()

    # --- prometheus_client -----------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Begin to feed prometheus_client, where it is installed."""
        if self._instruments is None:
            try:
                from .prometheus import instruments
            except ImportError:
                return
            self._instruments = instruments()

    def export(self) -> None:
        """Hand on to prometheus_client what was counted since the last call; safe for threads."""
        if self._instruments is not None:
            with self._lock:
                self._instruments.add(self._for_prometheus.take())

    # --- Redis ---------------------------------------------------------------------------------------------------

    def report(self, *, going: bool = False) -> Flow[None]:
        """Send what was counted since the last report.

        Args:
            going: whether it is the last.

        Raises:
            RedisUnavailable: it may have arrived or not; the next call sends it again.
        """
        while True:
            # What a failed report has left goes first, then what came since.
            again = self._pending is not None
            yield from self._send(going)
            if not again:
                return

    def hand_in(self) -> Flow[None]:
        """Send the invalidations that nobody has reported, as one that does not report; where it does it sends nothing.

        Raises:
            RedisUnavailable: as `report`.
        """
        # One report at a time, for it is known by its number; what is left out now the next one takes along.
        if self.active or self._handing_in:
            return
        self._handing_in = True
        try:
            figures = list(written_figures(self._for_redis.take(invalidations)))
            if figures:
                if self._pending is not None:
                    yield from self._send(going=True)
                self._pending = self._report(figures, going=True)
                yield from self._send(going=True)
        finally:
            self._handing_in = False

    def _send(self, going: bool) -> Flow[None]:
        report = self._pending or self._take(going)
        for _ in range(_TRIES):
            seconds = (yield from Wall()) / 1000 + self._offset
            self._pending = report = Report(
                report.keys,
                report.process,
                report.number,
                seconds,
                report.figures,
                report.hot_keys,
                report.hot_tags,
                report.going,
            )
            ((added, now),) = yield from Together((report,))
            if added:
                self._pending = None
                return
            # Another span by the clock of Redis than by ours. Told in whole seconds: half of one is not known.
            self._offset += now + 0.5 - seconds
        raise RedisUnavailable("the clock of Redis is not the same from one moment to the next")

    def _take(self, going: bool) -> Report:
        keys, tags = (
            [(name, count * SAMPLED) for name, count in table.take(_HOTTEST)]
            for table in (self._hot.keys, self._hot.tags)
        )
        return self._report(list(written_figures(self._for_redis.take())), keys, tags, going=going)

    def _report(self, figures: Counts, keys: Counts = (), tags: Counts = (), *, going: bool) -> Report:
        self._number += 1
        return Report(self.keys, self._announcer.origin, self._number, 0.0, figures, keys, tags, going)

    # --- while a block runs ------------------------------------------------------------------------------------------

    def enter(self) -> None:
        """Begin to report.

        Raises:
            UsageError: it is reported already.
        """
        if self.active:
            raise UsageError("this cache reports already: one `reporting()` a cache and process is enough")
        self.connect()
        self.active = True

    def leave(self) -> None:
        """Be done with it."""
        self.export()
        self.active = False


def pause() -> float:
    """Return how long to wait for the next report: processes that were started together shall drift apart."""
    return INTERVAL * random.uniform(0.9, 1.1)


def _failed(error: Exception) -> None:
    # Redis away is told by the connections' own events.
    level = logging.DEBUG if isinstance(error, RedisUnavailable) else logging.WARNING
    logger.log(level, "figures could not be reported: %r", error)


class _Threads:
    """The thread of a reporter, another one in each process."""

    def __init__(self, reporter: Reporter, driver: ThreadDriver, connections: Connections) -> None:
        self._reporter, self._driver, self._connections = reporter, driver, connections
        self.start()
        _threads.add(self)

    def start(self) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="neverstale-report", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        _threads.discard(self)
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        over = False
        while not over:
            over = self._over.wait(pause())
            try:
                self._reporter.export()
                self._driver.run(self._reporter.report(going=over), self._reporter.counters)
            except Exception as error:  # noqa: BLE001 - as Redis, a disk may be full: the next report is sent all the same
                _failed(error)
            if not over:
                try:
                    with self._reporter.looks.turn() as mine:
                        if mine:
                            self._reporter.looks.keep(nodes(self._connections))
                except Exception as error:  # noqa: BLE001 - what a node says may be anything: reports go on
                    _failed(error)


_reporters: weakref.WeakSet[Reporter] = weakref.WeakSet()
_threads: weakref.WeakSet[_Threads] = weakref.WeakSet()


_held: list[Reporter] = []


def _before_fork() -> None:
    # prometheus_client has locks of its own, which a child would inherit for ever if a thread held them now. A second
    # is more than any export takes.
    _held[:] = [reporter for reporter in list(_reporters) if reporter.hold(1.0)]


def _after_fork_in_parent() -> None:
    while _held:
        _held.pop().let_go()


def _after_fork_in_child() -> None:
    _held.clear()
    for reporter in list(_reporters):
        reporter.after_fork()
    for each in list(_threads):
        each.start()


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
)


@contextmanager
def reporting(
    reporter: Reporter, driver: ThreadDriver, connections: Connections
) -> Generator[None, None, None]:
    """Report on a thread while the block runs."""
    reporter.enter()
    try:
        threads = _Threads(reporter, driver, connections)
        try:
            yield
        finally:
            threads.stop()
    finally:
        reporter.leave()


@asynccontextmanager
async def reporting_async(
    reporter: Reporter, driver: AsyncDriver, connections: AsyncConnections
) -> AsyncGenerator[None, None]:
    """Report in a task while the block runs."""
    stop = asyncio.Event()

    async def run() -> None:
        over = False
        while not over:
            try:
                async with asyncio.timeout(pause()):
                    over = await stop.wait()
            except TimeoutError:
                pass
            try:
                reporter.export()
                await driver.run(reporter.report(going=over), reporter.counters)
            except Exception as error:  # noqa: BLE001 - as above
                _failed(error)
            if not over:
                try:
                    with reporter.looks.turn() as mine:
                        if mine:
                            reporter.looks.keep(await nodes_async(connections))
                except Exception as error:  # noqa: BLE001 - as above
                    _failed(error)

    reporter.enter()
    try:
        task = asyncio.create_task(run())
        try:
            yield
        finally:
            stop.set()
            await task
    finally:
        reporter.leave()


def hand_in(reporter: Reporter, driver: ThreadDriver) -> None:
    """Send the invalidations of a process that does not report; a failure is logged."""
    try:
        driver.run(reporter.hand_in(), reporter.counters)
    except Exception as error:  # noqa: BLE001 - as above
        _failed(error)


async def hand_in_async(reporter: Reporter, driver: AsyncDriver) -> None:
    """Send the invalidations of a process that does not report; a failure is logged."""
    try:
        await driver.run(reporter.hand_in(), reporter.counters)
    except Exception as error:  # noqa: BLE001 - as above
        _failed(error)
