"""Several processes on one Redis: one load for all, whoever dies, and nothing older than what was promised."""

from __future__ import annotations

import multiprocessing
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from typing import Any

import pytest

from neverstale import Cache, InvalidationEvent
from neverstale.testing.servers import RedisCluster, RedisServer, wait_until
from tests.behaviour import workers
from tests.behaviour.faces import CALM

SPAWN = multiprocessing.get_context("spawn")
READERS = 5
ROUNDS = 6


class Worker:
    """A process that runs one of the workers."""

    def __init__(self, work: Callable[..., None], *args: Any) -> None:
        self.pipe, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=work, args=(*args, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def hear(self) -> Any:
        """Wait for what it says."""
        assert self.pipe.poll(30), "a worker that says nothing"
        return self.pipe.recv()

    def tell(self, order: object) -> None:
        self.pipe.send(order)

    def kill(self) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()


@contextmanager
def working(work: Callable[..., None], *args: Any) -> Iterator[Worker]:
    worker = Worker(work, *args)
    try:
        yield worker
    finally:
        if worker.process.is_alive():
            worker.kill()
        connection: Connection = worker.pipe
        connection.close()
        worker.process.close()


def one_load(url: str, client: Any) -> list[float]:
    """Have processes of both faces read cold keys together; return how long after the load others had the value."""
    lags: list[float] = []
    with ExitStack() as stack:
        crew = [
            stack.enter_context(working(work, url, READERS))
            for work in (workers.sync_readers, workers.async_readers, workers.sync_readers)
        ]
        assert [worker.hear() for worker in crew] == ["ready"] * 3
        client.set(workers.COUNTER, 0, ex=600)
        for number in range(ROUNDS):
            for worker in crew:
                worker.tell(f"cold{number}")
            found = [worker.hear() for worker in crew]
            loads = [landed for _, landed in found]
            # One load by one process, and everybody has its value.
            assert sorted(map(len, loads)) == [0, 0, 1]
            values = {value for reads, _ in found for value, _ in reads}
            assert values == {number + 1}
            landed = max(when for own in loads for when in own)
            lags += [ended - landed for reads, own in found if not own for _, ended in reads]
        assert int(client.get(workers.COUNTER)) == ROUNDS
    assert len(lags) == ROUNDS * READERS * 2
    return lags


def test_one_load_for_all_processes(redis_server: RedisServer) -> None:
    """However many threads, tasks and processes ask for a cold key, one loads; the others are hardly behind it."""
    lags = one_load(redis_server.url, redis_server.client())
    median = statistics.median(lags) * 1000
    print(f"behind a load of another process: median {median:.1f} ms, worst {max(lags) * 1000:.1f} ms")
    assert median < 50  # on an idle machine below 10


def test_one_load_for_all_processes_on_a_cluster(redis_cluster: RedisCluster) -> None:
    """The same on a cluster."""
    lags = one_load(redis_cluster.url, redis_cluster.client())
    median = statistics.median(lags) * 1000
    print(
        f"behind a load of another process, cluster: median {median:.1f} ms, worst {max(lags) * 1000:.1f} ms"
    )
    assert median < 50


def test_a_holder_that_is_killed(redis_server: RedisServer) -> None:
    """When the process that loads is killed, the next reader takes over as soon as the lease has expired."""
    with (
        working(workers.holder, redis_server.url, 0.5) as worker,
        Cache.from_url(redis_server.url, timeout=CALM, lease_ttl=0.5) as cache,
    ):
        assert worker.hear() == "loading"
        worker.kill()
        left = redis_server.client().pttl("v1:k") / 1000
        began = time.monotonic()
        assert cache.get_or_load("k", lambda: "taken over") == "taken over"
        took = time.monotonic() - began
        print(f"taken over {(took - left) * 1000:.0f} ms after the end of the lease")
        assert left - 0.05 < took < left + 1
        assert cache.get_json("k") == "taken over"


def test_events_of_another_process(redis_server: RedisServer) -> None:
    """Whoever listens hears of another process's invalidations what that process itself says of them."""
    heard: list[InvalidationEvent] = []
    said = []
    with (
        working(workers.invalidator, redis_server.url) as worker,
        Cache.from_url(redis_server.url, timeout=CALM) as cache,
    ):
        cache.events.subscribe(heard.append, InvalidationEvent)
        cache.set("k1", "v", tags=["t"])
        assert worker.hear() == "ready"
        with cache.listen():
            for order in (("key", "k1"), ("tag", "t"), ("pattern", "k*")):
                worker.tell(order)
                said.append(worker.hear())
            wait_until(lambda: len(heard) == 3, "events of three invalidations")
        assert cache.get("k1") is None
    assert heard == [event for _, event in said]
    assert [event.names for event in heard] == [("k1",), ("t",), ("k*",)]
    assert [receipt.removed for receipt, _ in said] == [1, 0, 0]
    assert len({event.origin for event in heard}) == 1


@pytest.mark.plants_keys("truth", "promised")
def test_nothing_older_than_promised(redis_server: RedisServer) -> None:
    """Under readers in other processes: what begins after an invalidation has returned never has what was before."""
    client = redis_server.client()
    client.mset({"truth": 0, "promised": 0})
    with ExitStack() as stack:
        stack.enter_context(Cache.from_url(redis_server.url, timeout=CALM))
        cache = stack.enter_context(Cache.from_url(redis_server.url, timeout=CALM))
        crew = [stack.enter_context(working(workers.watcher, redis_server.url, "k")) for _ in range(3)]
        assert [worker.hear() for worker in crew] == ["ready"] * 3
        invalidations = (
            lambda: cache.invalidate_key("k"),
            lambda: cache.invalidate_tag("t"),
            lambda: cache.invalidate_pattern("k*"),
        )
        end = time.monotonic() + 1.5
        version = 0
        while time.monotonic() < end:
            version += 1
            client.set("truth", version)
            invalidations[version % 3]()
            client.set("promised", version)
        for worker in crew:
            worker.tell("stop")
        found = [worker.hear() for worker in crew]
    print(f"{version} invalidations, {sum(reads for reads, _ in found)} reads of three processes")
    assert [wrong for _, wrong in found] == [[], [], []]
    assert version > 20
    assert all(reads > 20 for reads, _ in found)


def test_after_a_fork(redis_server: RedisServer) -> None:
    """A cache that was used before a fork works in the parent and in each child, with connections of their own."""
    with working(workers.forking, redis_server.url) as worker:
        parent, *children, after = worker.hear()
    assert parent == ("v", "parent")
    # The child that comes second may find what the first one's refresh has brought.
    for number, (said,) in enumerate(children):
        assert said in (f"['v', {number}, 'old', 0]", f"['v', {number}, 'new', 0]")
    assert after == ("v",)
    with Cache.from_url(redis_server.url, timeout=CALM) as cache:
        assert [cache.get_json(key) for key in ("child0", "child1", "stale")] == [0, 1, "new"]
