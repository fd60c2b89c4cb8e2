"""Computed values in several processes, of both faces, and across a fork."""

from __future__ import annotations

from contextlib import ExitStack

from neverstale.testing.servers import RedisServer
from tests.computed import workers
from tests.test_processes import working


def test_one_computation_in_all_processes(redis_server: RedisServer) -> None:
    """However many threads and tasks of however many processes ask, it runs once."""
    with ExitStack() as stack:
        crew = [
            stack.enter_context(working(work, redis_server.url))
            for work in (workers.threads, workers.tasks, workers.threads)
        ]
        assert [worker.hear() for worker in crew] == ["ready"] * 3
        client = redis_server.client()
        client.set("loads", 0, ex=600)
        for worker in crew:
            worker.tell("go")
        assert [worker.hear() for worker in crew] == [[1] * workers.READERS] * 3
        assert client.get("loads") == b"1"
        for worker in crew:
            worker.tell("end")


def test_forking_while_a_computation_runs(redis_server: RedisServer) -> None:
    """The child has threads of its own for computations; that of the parent goes on, and is stored."""
    with working(workers.forking, redis_server.url) as worker:
        assert worker.hear() == "late"
        assert worker.hear() == 0
        assert worker.hear() is True
        worker.tell("end")
