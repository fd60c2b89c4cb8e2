"""What could not be invalidated is tried again until it works."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import pytest

from neverstale import AsyncCache, Cache
from neverstale.owed import AsyncRetrier, Retrier, Work, _Book
from neverstale.testing.servers import RedisServer

WORK = Work(("tag",), ("api:key",))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_is_added_while_it_is_paid_is_owed_still() -> None:
    """A payment strikes only what was owed when it began."""
    book = _Book(10, Clock())
    book.add(Work(("a", "b")))
    due, number = book.due()
    assert due == Work(("a", "b"))
    book.add(Work(("b",)))
    book.paid(due, number)
    assert book.all() == Work(("b",))


def test_what_has_expired_is_owed_no_more() -> None:
    """After the longest TTL nothing is left that could be stale."""
    clock = Clock()
    book = _Book(10, clock)
    book.add(WORK)
    book.add(Work(("later",)), after=5)
    assert book.due()[0] == WORK
    clock.now = 9
    assert book.due()[0] == Work(("tag", "later"), ("api:key",))
    clock.now = 12
    assert book.due()[0] == Work(("later",))
    clock.now = 16
    assert not book.due()[0]
    assert len(book) == 0


def test_what_is_owed_is_bounded(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of too much that is owed, the oldest is given up, and said."""
    monkeypatch.setattr("neverstale.owed._MOST", 2)
    book = _Book(10, Clock())
    book.add(Work(("a", "b"), ("c",)))
    assert book.all() == Work(("b",), ("c",))
    assert "never invalidated: tag 'a'" in caplog.text


def test_many_names_are_several_calls() -> None:
    """An invalidation has at most a thousand names."""
    work = Work(tuple(map(str, range(1200))), ("k",))
    assert [(kind, len(names)) for kind, names in work.batches()] == [
        ("tag", 500),
        ("tag", 500),
        ("tag", 200),
        ("key", 1),
    ]
    assert str(work).endswith("and 1191 more")


def wait_for(condition: Callable[[], Any]) -> None:
    ends = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.005)


def test_in_threads(redis_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """Done at once, or when Redis is back; a prefix is part of the key."""
    with Cache.from_url(redis_server.url, prefix="other:") as cache:
        retrier = Retrier(cache, "a test")
        view = cache.with_prefix("api:")
        view.set("key", "x")
        assert retrier.invalidate(WORK) is None
        assert view.get("key") is None
        redis_server.kill()
        with caplog.at_level(logging.WARNING, logger="neverstale"):
            error = retrier.invalidate(WORK)
        assert error is not None
        assert error.kind == "tag"
        assert "committed, but not invalidated yet: tag 'tag', key 'api:key'" in caplog.text
        assert retrier.owed == WORK
        redis_server.revive()
        wait_for(lambda: not retrier.owed)
        retrier.later(WORK, after=100)
        view.set("key", "x")
        retrier.close()
        assert view.get("key") is None
        assert not retrier.owed


async def test_in_tasks(redis_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """The same; and who cancels it leaves it to the background."""
    async with AsyncCache.from_url(redis_server.url) as cache:
        retrier = AsyncRetrier(cache, "a test")
        view = cache.with_prefix("api:")
        redis_server.kill()
        with caplog.at_level(logging.WARNING, logger="neverstale"):
            assert await retrier.invalidate(WORK) is not None
        redis_server.revive()
        await asyncio.to_thread(wait_for, lambda: not retrier.owed)
        assert "invalidated at last" in caplog.text
        await view.set("key", "x")
        redis_server.freeze()
        running = asyncio.create_task(retrier.invalidate(WORK))
        await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        redis_server.thaw()
        await asyncio.to_thread(wait_for, lambda: not retrier.owed)
        assert await view.get("key") is None


async def test_what_is_never_done_is_logged_at_the_end(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """By both, as an error."""
    plain = Cache.from_url(redis_server.url)
    async with AsyncCache.from_url(redis_server.url) as cache:
        waiting, threaded = AsyncRetrier(cache), Retrier(plain)
        redis_server.kill()
        await waiting.invalidate(WORK)
        await asyncio.to_thread(threaded.invalidate, WORK)
        with caplog.at_level(logging.ERROR, logger="neverstale"):
            caplog.clear()
            await waiting.close()
            await asyncio.to_thread(threaded.close)
    plain.close()
    assert [text for text in caplog.messages if text.startswith("never invalidated")] == [
        "never invalidated: tag 'tag', key 'api:key'"
    ] * 2
