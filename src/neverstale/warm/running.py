"""Fill a cache before its users come: a list of jobs, each of which reads something through the cache.

Rules:
- A job reads, and reading is filling. So warming is under the same leases as every other load: what an invalidation
  overtakes is not stored, and nothing newer is ever overwritten. What is there already costs one round trip.
- Jobs are begun in the order of the list: put what matters most first, and an end before the last job costs least.
- `at_once` is how many jobs run side by side, `rate` how many loads a second are begun. A job takes its place in the
  rate before it runs, and gives it back if nothing was loaded; what it loads beyond one is made up for afterwards.
- A job that fails is counted, and the others go on. When the time is up, or on Ctrl-C, no more jobs are begun.

What this does not know: the renewals of stale values. They are served at once and renewed in the background, as for any
reader, beside the limits; after a deploy there are few.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal, TypeAlias

from neverstale.errors import UsageError
from neverstale.loading import Tally, tallying

from .positions import Position

__all__ = ["Job", "Jobs", "Summary", "Warmer", "warm"]

logger = logging.getLogger("neverstale")

#: As a web application's pool of database connections has by default some 5 to 20 (SQLAlchemy: 5 and 10 more), and
#: users want some of them.
_AT_ONCE: Final = 4
#: Names of jobs that are noted together: killed in between, so many are read again, which finds them filled.
_NOTE: Final = 50
#: Seconds between two notes, at most.
_NOTE_EVERY: Final = 1.0
_FAILURES: Final = 100


@dataclass(frozen=True)
class Job:
    """Something to be read through the cache.

    Attributes:
        name: says what, in the summary, and in the position of a run that is to be resumed; unique in its list.
        run: reads it, and takes no arguments. A coroutine function, or a function for a thread.
    """

    name: str
    run: Callable[[], Any]


Jobs: TypeAlias = "Iterable[Job | tuple[str, Callable[[], Any]]]"


@dataclass(frozen=True)
class Summary:
    """What has come of a run, until now or at its end.

    Attributes:
        total: jobs of the list.
        filled: jobs that loaded something.
        skipped: jobs that found everything in the cache.
        resumed: jobs that an earlier run had done, and that were not run again.
        failed: jobs that raised.
        loads: loads of all jobs together.
        seconds: that it took.
        ended: `done`; `time`: the time was up; `interrupted`; or `running`.
        last: the job that ended last.
        failures: names and errors of the first of those that failed.
    """

    total: int = 0
    filled: int = 0
    skipped: int = 0
    resumed: int = 0
    failed: int = 0
    loads: int = 0
    seconds: float = 0.0
    ended: Literal["running", "done", "time", "interrupted"] = "running"
    last: str = ""
    failures: tuple[tuple[str, str], ...] = ()

    @property
    def finished(self) -> int:
        """Jobs that need no more thought, and those that failed."""
        return self.filled + self.skipped + self.resumed + self.failed

    @property
    def left(self) -> int:
        """Jobs that were not run."""
        return self.total - self.finished

    def as_dict(self) -> dict[str, Any]:
        """Every field, ready for JSON."""
        return {**asdict(self), "failures": [list(each) for each in self.failures], "left": self.left}


class Warmer:
    """Runs jobs; make one for each run.

    Args:
        jobs: in order of importance; a `Job` each, or a name and a callable.
        at_once: jobs that run side by side: your database's share for this.
        rate: loads begun per second; None for no limit.
        limit: seconds after which no more jobs are begun; None for no limit.
        position: where to note what is done, so that a run that was killed is resumed; see `neverstale.warm.positions`.
        progress: called with a summary after each job, in the thread of the event loop.

    Raises:
        UsageError: an argument is of a wrong kind.
    """

    def __init__(
        self,
        jobs: Jobs,
        *,
        at_once: int = _AT_ONCE,
        rate: float | None = None,
        limit: float | None = None,
        position: Position | None = None,
        progress: Callable[[Summary], object] | None = None,
    ) -> None:
        if at_once < 1:
            raise UsageError(f"at_once is at least 1, not {at_once}")
        if rate is not None and not rate > 0:
            raise UsageError(f"rate is more than 0 loads per second, or None, not {rate}")
        self._jobs = _checked(jobs)
        self._at_once = at_once
        self._pace = _Pace(rate)
        self._limit = limit
        self._position = position
        self._progress = progress
        self._summary = Summary(total=len(self._jobs))
        self._done: list[str] = []
        self._noted = 0.0
        self._stopped: Literal["time", "interrupted"] | None = None
        self._stop = asyncio.Event()

    @property
    def summary(self) -> Summary:
        """What has come of it until now."""
        return self._summary

    def stop(self) -> None:
        """Begin no more jobs; those that are running end. To be called in the thread of the event loop."""
        self._stopped = self._stopped or "interrupted"
        self._stop.set()

    async def run(self) -> Summary:
        """Run the jobs; returns when all are done, the time is up, or `stop` was called and what ran has ended.

        Never raises because of a job. A cancelled run notes its position.
        """
        began = time.monotonic()
        known = await self._position.load() if self._position is not None else set()
        waiting = iter([job for job in self._jobs if job.name not in known])
        self._change(resumed=sum(job.name in known for job in self._jobs))
        timer: asyncio.TimerHandle | None = None
        if self._limit is not None:
            timer = asyncio.get_running_loop().call_later(self._limit, self._time_is_up)
        threads = ThreadPoolExecutor(self._at_once, thread_name_prefix="neverstale-warm")
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._at_once, len(self._jobs))):
                    group.create_task(self._work(waiting, threads, began))
        finally:
            if timer is not None:
                timer.cancel()
            threads.shutdown(wait=False, cancel_futures=True)
            await self._note(at_last=True)
        ended = self._stopped if self._stopped is not None and self._summary.left else "done"
        self._change(seconds=time.monotonic() - began, ended=ended)
        if ended == "done" and not self._summary.failed and self._position is not None:
            await self._position.clear()
        return self._summary

    def _time_is_up(self) -> None:
        self._stopped = self._stopped or "time"
        self._stop.set()

    async def _work(self, waiting: Iterator[Job], threads: ThreadPoolExecutor, began: float) -> None:
        while not self._stop.is_set():
            job = next(waiting, None)
            if job is None:
                return
            await self._pace.turn(self._stop)
            if self._stop.is_set():
                return
            with tallying() as tally:
                problem = await self._run(job, threads)
            self._pace.settle(tally.loads)
            await self._count(job, tally, problem, time.monotonic() - began)

    async def _run(self, job: Job, threads: ThreadPoolExecutor) -> Exception | None:
        try:
            if inspect.iscoroutinefunction(job.run):
                result = job.run()
            else:
                context = contextvars.copy_context()
                result = await asyncio.get_running_loop().run_in_executor(threads, context.run, job.run)
            if inspect.isawaitable(result):
                await result
        except Exception as problem:  # noqa: BLE001 - whatever an application's reads raise is one job's failure
            return problem
        return None

    async def _count(self, job: Job, tally: Tally, problem: Exception | None, seconds: float) -> None:
        known = self._summary
        changes: dict[str, Any] = {"loads": known.loads + tally.loads, "last": job.name, "seconds": seconds}
        if problem is not None:
            logger.warning("warming %r failed: %r", job.name, problem)
            changes["failed"] = known.failed + 1
            if len(known.failures) < _FAILURES:
                text = " ".join(str(problem).split())
                changes["failures"] = (*known.failures, (job.name, f"{type(problem).__name__}: {text}"))
        else:
            kind = "filled" if tally.loads else "skipped"
            changes[kind] = getattr(known, kind) + 1
            self._done.append(job.name)
        self._change(**changes)
        await self._note()
        if self._progress is not None:
            self._progress(self._summary)

    def _change(self, **changes: Any) -> None:
        self._summary = replace(self._summary, **changes)

    async def _note(self, *, at_last: bool = False) -> None:
        """Note what is done: seldom, for it may be a round trip; a lost note costs reading again."""
        now = time.monotonic()
        if self._position is None or not self._done:
            return
        if at_last or len(self._done) >= _NOTE or now - self._noted > _NOTE_EVERY:
            done, self._done, self._noted = self._done, [], now
            await self._position.add(done)


class _Pace:
    """Lets so many loads a second begin."""

    def __init__(self, rate: float | None) -> None:
        self._gap = 1 / rate if rate else 0.0
        self._next = 0.0

    async def turn(self, stop: asyncio.Event) -> None:
        """Wait for a place; it is taken when this returns."""
        if not self._gap:
            return
        while not stop.is_set():
            now = time.monotonic()
            if self._next <= now:
                # What was not used is lost: no burst follows a pause.
                self._next = now + self._gap
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), self._next - now)

    def settle(self, loads: int) -> None:
        """Give a place back that was not needed, or take more for what was loaded beyond one."""
        self._next += (loads - 1) * self._gap


def warm(
    jobs: Jobs,
    *,
    at_once: int = _AT_ONCE,
    rate: float | None = None,
    limit: float | None = None,
    position: Position | None = None,
    progress: Callable[[Summary], object] | None = None,
) -> Summary:
    """Run jobs from a program without an event loop; the arguments are those of `Warmer`.

    Ctrl-C, in the main thread, ends it as the time limit does: no more jobs are begun, and the summary is returned. A
    second one raises KeyboardInterrupt.
    """

    async def run() -> Summary:
        warmer = Warmer(jobs, at_once=at_once, rate=rate, limit=limit, position=position, progress=progress)
        with ending_on_ctrl_c(warmer):
            return await warmer.run()

    return asyncio.run(run())


@contextlib.contextmanager
def ending_on_ctrl_c(warmer: Warmer) -> Iterator[None]:
    """Let the first Ctrl-C end a run with its summary; the next one interrupts as ever. Only in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop, before = asyncio.get_running_loop(), signal.getsignal(signal.SIGINT)

    def stop() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, before)
        warmer.stop()

    loop.add_signal_handler(signal.SIGINT, stop)
    try:
        yield
    finally:
        if loop.remove_signal_handler(signal.SIGINT):
            signal.signal(signal.SIGINT, before)


def _checked(jobs: Jobs) -> list[Job]:
    found: dict[str, Job] = {}
    for each in jobs:
        job = Job(*each) if isinstance(each, tuple) else each
        if not isinstance(job, Job) or not isinstance(job.name, str) or not callable(job.run):
            raise UsageError(f"a job is a Job, or a name and a function without arguments, not {each!r}")
        # The first of a name is the most important one.
        found.setdefault(job.name, job)
    return list(found.values())
