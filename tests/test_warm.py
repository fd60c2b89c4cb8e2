"""Warming: within its limits, after what it cannot overwrite, and again after a kill."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from neverstale import AsyncCache, Cache, UsageError
from neverstale.hot import HotKey
from neverstale.testing.servers import RedisServer, wait_until
from neverstale.warm import FilePosition, Job, Jobs, Position, Recipes, RedisPosition, Summary, Warmer, warm


@pytest.fixture
async def cache(redis_server: RedisServer) -> AsyncIterator[AsyncCache]:
    options: dict[str, Any] = {"namespace": "shop", "timeout": 10.0, "patient_timeout": 10.0}
    async with AsyncCache.from_url(redis_server.url, **options) as made:
        yield made


class Database:
    """Counts what is read of it, and how many reads there are at once."""

    def __init__(self) -> None:
        self.value = 1
        self.reads: list[str] = []
        self.moments: list[float] = []
        self.now = 0
        self.most = 0
        self.begun: asyncio.Queue[str] = asyncio.Queue()
        self.gate = asyncio.Event()
        self.gate.set()

    async def read(self, key: str) -> int:
        self.reads.append(key)
        self.moments.append(time.monotonic())
        self.begun.put_nowait(key)
        self.now += 1
        self.most = max(self.most, self.now)
        value = self.value
        try:
            await self.gate.wait()
            await asyncio.sleep(0)
        finally:
            self.now -= 1
        return value


def jobs_of(cache: AsyncCache, database: Database, count: int, tags: tuple[str, ...] = ()) -> list[Job]:
    def job(key: str) -> Callable[[], Any]:
        return lambda: cache.get_or_load(key, lambda: database.read(key), ttl=60, tags=tags, type=int)

    return [Job(f"k:{number}", job(f"k:{number}")) for number in range(count)]


class TestFilling:
    async def test_fills(self, cache: AsyncCache) -> None:
        """Every job is run once, in their order, and the cache is filled."""
        database = Database()
        summary = await Warmer(jobs_of(cache, database, 20), at_once=1).run()
        assert (summary.filled, summary.skipped, summary.failed, summary.left) == (20, 0, 0, 0)
        assert summary.ended == "done"
        assert database.reads == [f"k:{number}" for number in range(20)]
        assert await cache.get_json("k:7", int) == 1

    async def test_skips_what_is_there(self, cache: AsyncCache) -> None:
        """What is cached already is not loaded, and counted apart."""
        database = Database()
        jobs = jobs_of(cache, database, 10)
        await Warmer(jobs[:4]).run()
        summary = await Warmer(jobs).run()
        assert (summary.filled, summary.skipped, summary.loads) == (6, 4, 6)
        assert len(database.reads) == 10

    async def test_overwrites_nothing_newer(self, cache: AsyncCache) -> None:
        """An invalidation while a job loads wins: what the job has read is not stored."""
        database = Database()
        database.gate.clear()
        running = asyncio.create_task(Warmer(jobs_of(cache, database, 1, ("t",))).run())
        await database.begun.get()
        database.value = 2
        await cache.invalidate_tag("t")
        database.gate.set()
        await running
        assert await cache.get_or_load("k:0", lambda: database.read("k:0"), ttl=60, tags=["t"], type=int) == 2

    async def test_leaves_what_was_set(self, cache: AsyncCache) -> None:
        """A value that was set meanwhile stays."""
        database = Database()
        database.gate.clear()
        running = asyncio.create_task(Warmer(jobs_of(cache, database, 1)).run())
        await database.begun.get()
        await cache.set_json("k:0", 3, ttl=60)
        database.gate.set()
        await running
        assert await cache.get_json("k:0", int) == 3

    async def test_failing_job(self, cache: AsyncCache) -> None:
        """A job that raises is counted and named; the others are run."""

        async def broken() -> None:
            raise LookupError("no such\nproduct")

        jobs: Jobs = [("broken", broken), *jobs_of(cache, Database(), 5)]
        summary = await Warmer(jobs).run()
        assert (summary.filled, summary.failed) == (5, 1)
        assert summary.failures == (("broken", "LookupError: no such product"),)

    async def test_threads(self, redis_server: RedisServer) -> None:
        """A plain function is run on a thread, beside the event loop, and its loads are counted."""
        seen = []
        with Cache.from_url(redis_server.url, namespace="shop", timeout=10.0) as cache:

            def job() -> None:
                seen.append(threading.current_thread())
                cache.get_or_load("a", lambda: 1, ttl=60)

            summary = await Warmer([("a", job), ("b", job)], at_once=1).run()
        assert (summary.filled, summary.skipped) == (1, 1)
        assert threading.main_thread() not in seen

    async def test_progress(self, cache: AsyncCache) -> None:
        """Progress is told after each job."""
        told: list[Summary] = []
        await Warmer(jobs_of(cache, Database(), 5), progress=told.append).run()
        assert [summary.finished for summary in told] == [1, 2, 3, 4, 5]
        assert {summary.ended for summary in told} == {"running"}

    async def test_redis_away(self) -> None:
        """Without Redis the jobs still read; nothing is raised."""
        async with AsyncCache.from_url("redis://127.0.0.1:1") as cache:
            summary = await Warmer(jobs_of(cache, Database(), 3), position=RedisPosition(cache)).run()
        assert summary.loads == 3

    @pytest.mark.parametrize("wrong", [{"at_once": 0}, {"rate": 0}, {"rate": -1.0}])
    def test_wrong(self, wrong: dict[str, Any]) -> None:
        """Wrong limits are said at once."""
        with pytest.raises(UsageError):
            Warmer([], **wrong)

    def test_wrong_job(self) -> None:
        """What is no job is said at once."""
        with pytest.raises(UsageError):
            Warmer([("a", 5)])  # type: ignore[list-item]


class TestLimits:
    @pytest.mark.parametrize("at_once", [1, 3])
    async def test_at_once(self, cache: AsyncCache, at_once: int) -> None:
        """So many jobs run side by side, and not one more."""
        database = Database()
        database.gate.clear()
        running = asyncio.create_task(Warmer(jobs_of(cache, database, 12), at_once=at_once).run())
        for _ in range(at_once):
            await database.begun.get()
        database.gate.set()
        assert (await running).filled == 12
        assert database.most == at_once

    async def test_rate(self, cache: AsyncCache) -> None:
        """Loads begin no faster than the rate, however many jobs run side by side."""
        database = Database()
        began = time.monotonic()
        await Warmer(jobs_of(cache, database, 12), at_once=6, rate=40).run()
        assert all(moment - began >= number / 40 for number, moment in enumerate(sorted(database.moments)))

    async def test_rate_is_of_loads(self, cache: AsyncCache) -> None:
        """What is there already takes no place in the rate."""
        jobs = jobs_of(cache, Database(), 200)
        await Warmer(jobs, at_once=16).run()
        began = time.monotonic()
        summary = await Warmer(jobs, at_once=4, rate=5).run()
        assert summary.skipped == 200
        assert time.monotonic() - began < 200 / 5 / 2

    async def test_job_of_several_loads(self, cache: AsyncCache) -> None:
        """A job that loads more than once takes as many places."""
        database = Database()

        def pair(number: int) -> Callable[[], Any]:
            async def run() -> None:
                await first.run()
                await second.run()

            first, second = jobs_of(cache, database, 8)[2 * number : 2 * number + 2]
            return run

        began = time.monotonic()
        summary = await Warmer([(str(number), pair(number)) for number in range(4)], rate=20).run()
        assert summary.loads == 8
        assert time.monotonic() - began > 6 / 20

    async def test_time(self, cache: AsyncCache) -> None:
        """When the time is up no more jobs are begun, and what ran is finished."""
        database = Database()
        summary = await Warmer(jobs_of(cache, database, 100), at_once=1, rate=20, limit=0.3).run()
        assert summary.ended == "time"
        assert 0 < summary.filled < 100
        assert summary.filled + summary.left == 100
        assert database.now == 0

    async def test_stop(self, cache: AsyncCache) -> None:
        """`stop` ends it with a summary."""
        database = Database()
        warmer = Warmer(jobs_of(cache, database, 100), at_once=1)
        warmer._progress = lambda summary: warmer.stop() if summary.finished == 3 else None
        summary = await warmer.run()
        assert (summary.ended, summary.filled, summary.left) == ("interrupted", 3, 97)


@pytest.fixture(params=["redis", "file"])
def position(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[AsyncCache], Position]:
    """Make a position, another one of the same place each time."""
    if request.param == "redis":
        return RedisPosition
    return lambda cache: FilePosition(tmp_path / "position", f"v{cache.settings.version}")


class TestResuming:
    async def test_goes_on(self, cache: AsyncCache, position: Callable[[AsyncCache], Position]) -> None:
        """A second run begins where the first one ended, also in another order."""
        database = Database()
        jobs = jobs_of(cache, database, 10)
        first = Warmer(jobs, at_once=1, position=position(cache))
        first._progress = lambda summary: first.stop() if summary.finished == 6 else None
        await first.run()
        runs: list[str] = []

        def noting(job: Job) -> Job:
            async def run() -> Any:
                runs.append(job.name)
                return await job.run()

            return Job(job.name, run)

        summary = await Warmer(
            [noting(job) for job in reversed(jobs)], at_once=1, position=position(cache)
        ).run()
        assert runs == ["k:9", "k:8", "k:7", "k:6"]
        assert (summary.resumed, summary.filled, summary.left) == (6, 4, 0)

    async def test_is_forgotten(self, cache: AsyncCache, position: Callable[[AsyncCache], Position]) -> None:
        """After a complete run the next one begins anew."""
        jobs = jobs_of(cache, Database(), 5)
        await Warmer(jobs, position=position(cache)).run()
        assert await position(cache).load() == set()
        assert (await Warmer(jobs, position=position(cache)).run()).skipped == 5

    async def test_failed_is_repeated(
        self, cache: AsyncCache, position: Callable[[AsyncCache], Position]
    ) -> None:
        """What failed is run again."""
        fails = True

        async def sometimes() -> None:
            if fails:
                raise LookupError

        jobs = [*jobs_of(cache, Database(), 3), Job("sometimes", sometimes)]
        assert (await Warmer(jobs, position=position(cache)).run()).failed == 1
        fails = False
        summary = await Warmer(jobs, position=position(cache)).run()
        assert (summary.resumed, summary.skipped, summary.failed) == (3, 1, 0)

    async def test_other_version(
        self, cache: AsyncCache, redis_server: RedisServer, position: Callable[[AsyncCache], Position]
    ) -> None:
        """A position counts for its version alone."""
        await position(cache).add(["a"])
        async with AsyncCache.from_url(redis_server.url, namespace="shop", version=2, timeout=10.0) as newer:
            assert await position(newer).load() == set()
        assert await position(cache).load() == {"a"}

    async def test_cancelled(self, cache: AsyncCache, position: Callable[[AsyncCache], Position]) -> None:
        """A cancelled run notes what was done."""
        database = Database()
        jobs = jobs_of(cache, database, 10)
        done = asyncio.Event()
        running = asyncio.create_task(
            Warmer(
                [*jobs[:3], Job("hangs", asyncio.Event().wait)],
                at_once=1,
                position=position(cache),
                progress=lambda summary: done.set() if summary.finished == 3 else None,
            ).run()
        )
        await done.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert await position(cache).load() == {"k:0", "k:1", "k:2"}

    async def test_on_a_cluster(self, redis_cluster: RedisServer) -> None:
        """A position is one key, wherever it lies."""
        async with AsyncCache.from_url(redis_cluster.url, namespace="shop", timeout=10.0) as cache:
            await RedisPosition(cache).add(["a", "b"])
            assert await RedisPosition(cache).load() == {"a", "b"}
            assert await RedisPosition(cache, "other").load() == set()
            await RedisPosition(cache).clear()
            assert await RedisPosition(cache).load() == set()

    async def test_sync_cache(self, redis_server: RedisServer) -> None:
        """A position is kept by a synchronous cache as well."""
        with Cache.from_url(redis_server.url, namespace="shop", timeout=10.0) as cache:
            await RedisPosition(cache).add(["a"])
            assert await RedisPosition(cache).load() == {"a"}

    async def test_half_a_line(self, tmp_path: Path) -> None:
        """A file whose last line was cut off by a kill loses that line alone."""
        path = tmp_path / "position"
        await FilePosition(path).add(["a", "b"])
        path.write_text(path.read_text()[:-2])
        again = FilePosition(path)
        assert await again.load() == {"a"}
        await again.add(["c"])
        assert await FilePosition(path).load() == {"a", "c"}

    async def test_old_file(self, tmp_path: Path) -> None:
        """A file that is too old, or no position, counts for nothing."""
        path = tmp_path / "position"
        await FilePosition(path).add(["a"])
        assert await FilePosition(path, life=0).load() == set()
        path.write_text("something else\n")
        assert await FilePosition(path).load() == set()

    def test_wrong_name(self, redis_server: RedisServer) -> None:
        """A name for a run that would not fit a key is refused."""
        with Cache.from_url(redis_server.url) as cache, pytest.raises(UsageError):
            RedisPosition(cache, "{x}")


PROGRAM = """
import os, sys, time
from neverstale import Cache
from neverstale.warm import RedisPosition, warm
cache = Cache.from_url(sys.argv[1], namespace="shop", timeout=10.0, patient_timeout=10.0)
def job(number):
    def run():
        if number == int(sys.argv[2]):
            print("there", flush=True)
            time.sleep(60)
        cache.get_or_load(f"k:{number}", lambda: number, ttl=60)
    return run
summary = warm([(f"k:{n}", job(n)) for n in range(120)], at_once=1, position=RedisPosition(cache))
print(summary.ended, summary.resumed, summary.filled + summary.skipped, summary.left, flush=True)
"""


class TestProcess:
    def start(self, redis_server: RedisServer, stops_at: int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, redis_server.url, str(stops_at)],
            stdout=subprocess.PIPE,
            text=True,
        )

    def test_kill(self, redis_server: RedisServer) -> None:
        """A run that was killed is resumed by the next one."""
        process = self.start(redis_server, 110)
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        # What was noted last is noted in batches: the kill comes after the second of them.
        wait_until(lambda: redis_server.client().scard("shop:cache:warm:v1:warm") >= 100, "a position")
        process.kill()
        process.communicate()
        again = self.start(redis_server, -1)
        said, _ = again.communicate(timeout=60)
        ended, resumed, done, left = said.split()
        assert (ended, left) == ("done", "0")
        assert int(resumed) >= 100
        assert int(resumed) + int(done) == 120

    def test_ctrl_c(self, redis_server: RedisServer) -> None:
        """Ctrl-C begins no more jobs, and ends with a summary once what runs has ended."""
        # The line may come before the event loop has seen the signal.
        code = PROGRAM.replace("time.sleep(60)", "sys.stdin.readline(), time.sleep(1)")
        process = subprocess.Popen(
            [sys.executable, "-c", code, redis_server.url, "5"],
            stdout=subprocess.PIPE,
            stdin=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        os.kill(process.pid, signal.SIGINT)
        said, _ = process.communicate("\n", timeout=60)
        assert said.split() == ["interrupted", "0", "6", "114"]
        assert process.returncode == 0


class TestSync:
    def test_warm(self, redis_server: RedisServer) -> None:
        """`warm` needs no event loop of its caller."""
        with Cache.from_url(redis_server.url, namespace="shop", timeout=10.0) as cache:
            summary = warm([("a", lambda: cache.get_or_load("a", lambda: 1, ttl=60))])
            assert summary.filled == 1
            assert cache.get_json("a") == 1

    def test_in_a_thread(self, redis_server: RedisServer) -> None:
        """It leaves signals alone where it does not run in the main thread."""
        found: list[Summary] = []
        thread = threading.Thread(target=lambda: found.append(warm([("a", lambda: None)])))
        thread.start()
        thread.join()
        assert found[0].skipped == 1


class TestRecipes:
    async def test_from_hot_keys(self, cache: AsyncCache) -> None:
        """Keys that are asked for most become jobs, in their order; what there is no recipe for is left out."""
        recipes, asked = Recipes(), []

        @recipes.on(r"product:(?P<product_id>[0-9]+)")
        async def product(product_id: str) -> None:
            asked.append(int(product_id))

        hot = [HotKey("product:", "7", 9.0), HotKey("other:", "x", 5.0), HotKey("product:", "3", 2.0)]
        jobs = recipes.jobs([*hot, "product:12", "product:7", "product:7x"])
        assert [job.name for job in jobs] == ["product:7", "product:3", "product:12"]
        summary = await Warmer(jobs, at_once=1).run()
        assert (asked, summary.failed) == ([7, 3, 12], 0)

    def test_first_match(self) -> None:
        """Of two recipes for a key the first one counts."""
        recipes, asked = Recipes(), []
        recipes.on("a:.*")(lambda: asked.append("first"))
        recipes.on("a:b")(lambda: asked.append("second"))
        warm(recipes.jobs(["a:b"]))
        assert asked == ["first"]

    def test_wrong(self) -> None:
        """A pattern that is none, or that its function does not fit, is refused."""
        with pytest.raises(UsageError):
            Recipes().on("(")
        with pytest.raises(UsageError):
            Recipes().on("(?P<a>x)")(lambda b: b)
