"""Tags named by a loader: they reach the load they belong to, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import enum
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neverstale.errors import UsageError
from neverstale.loading import add_tags, collecting


class Tag(enum.StrEnum):
    PRODUCTS = "products"


def load(*tags: str) -> None:
    """Name tags from a function that knows nothing of the load around it."""
    add_tags(*tags)


def test_tags_reach_the_load() -> None:
    """Tags are collected once each, in the order in which they were named first."""
    with collecting() as collector:
        load("b", "a")
        load("a", "c")
    assert collector.tags == ("b", "a", "c") == tuple(collector)
    assert len(collector) == 3
    assert repr(collector) == "Collector('b', 'a', 'c')"


@given(st.lists(st.text(min_size=1), max_size=8))
def test_any_text_is_a_tag_here(tags: list[str]) -> None:
    """Every text but the empty one is accepted, and none is lost."""
    with collecting() as collector:
        load(*tags)
    assert collector.tags == tuple(dict.fromkeys(tags))


def test_outside_of_a_load_nothing_happens() -> None:
    """A function that names tags works where there is no cache, before and after one."""
    load("a")
    with collecting() as collector:
        pass
    load("a")
    assert collector.tags == ()


def test_a_load_in_a_load_has_its_own_tags() -> None:
    """The innermost load gets the tags; the outer one goes on afterwards."""
    with collecting() as outer:
        load("a")
        with collecting() as inner:
            load("b")
        load("c")
    assert (outer.tags, inner.tags) == (("a", "c"), ("b",))


def test_a_load_that_fails_is_over() -> None:
    """After an exception, tags do not go to the load that failed."""
    with collecting() as outer:
        with contextlib.suppress(ZeroDivisionError), collecting() as inner:
            load("a")
            raise ZeroDivisionError
        load("b")
    assert (outer.tags, inner.tags) == (("b",), ("a",))


@pytest.mark.parametrize("wrong", ["", None, 5, b"a", ["a"], ("a",)])
@pytest.mark.parametrize("inside", [True, False])
def test_what_is_not_a_tag(wrong: Any, inside: bool) -> None:
    """A wrong tag is refused, in a load and outside of one, and none of the others is added."""
    with collecting() as collector:
        context = contextvars.copy_context() if inside else contextvars.Context()
        with pytest.raises(UsageError, match="a tag"):
            context.run(add_tags, "a", wrong)
    assert collector.tags == ()


def test_a_tag_of_a_subclass_is_plain_text() -> None:
    """An enum's text is stored, not the enum."""
    with collecting() as collector:
        add_tags(Tag.PRODUCTS)
    assert [(type(tag), tag) for tag in collector] == [(str, "products")]


async def test_tags_of_child_tasks_and_threads() -> None:
    """What a loader starts and awaits names tags for the same load."""

    async def child(tag: str) -> None:
        await asyncio.sleep(0)
        load(tag)

    with collecting() as collector:
        await asyncio.gather(child("a"), child("b"))
        await asyncio.to_thread(load, "c")
        async with asyncio.TaskGroup() as group:
            group.create_task(child("d"))
        load("e")
    assert set(collector) == {"a", "b", "c", "d", "e"}


async def test_loads_side_by_side_do_not_mix() -> None:
    """Concurrent loads each have their own tags, however they take turns."""

    async def one(name: str, go_on: asyncio.Event) -> tuple[str, ...]:
        with collecting() as collector:
            load(f"{name}1")
            await go_on.wait()
            load(f"{name}2")
        return collector.tags

    go_on = asyncio.Event()
    tasks = [asyncio.create_task(one(name, go_on)) for name in "ab"]
    await asyncio.sleep(0)
    go_on.set()
    assert await asyncio.gather(*tasks) == [("a1", "a2"), ("b1", "b2")]


async def test_a_cancelled_load_is_over() -> None:
    """Cancellation closes the load like any exception."""
    begun = asyncio.Event()
    with collecting() as outer:

        async def slow() -> None:
            with collecting():
                begun.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(slow())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        load("a")
    assert outer.tags == ("a",)


async def test_a_task_that_outlives_its_load() -> None:
    """Its tags come too late; they go to no other load, and it does not fail."""
    ended = asyncio.Event()

    async def late() -> None:
        await ended.wait()
        load("late")

    with collecting() as first:
        load("a")
        task = asyncio.create_task(late())
    tags = first.tags
    with collecting() as second:
        ended.set()
        await task
    assert (tags, second.tags) == (("a",), ())


def test_threads_of_one_load() -> None:
    """Threads that run in a copy of the load's context name tags for it, all at the same time."""
    with collecting() as collector, ThreadPoolExecutor(8) as pool:
        barrier = threading.Barrier(8)

        def work(number: int) -> None:
            barrier.wait()
            for i in range(50):
                load(f"{number}:{i}", "shared")

        for future in [pool.submit(contextvars.copy_context().run, work, number) for number in range(8)]:
            future.result()
    assert len(collector) == 8 * 50 + 1


def test_a_thread_of_its_own_is_outside() -> None:
    """A thread that does not copy the context names tags for nobody."""
    with collecting() as collector:
        thread = threading.Thread(target=contextvars.Context().run, args=(load, "a"))
        thread.start()
        thread.join()
    assert collector.tags == ()


async def test_generators_and_iterators_of_a_loader() -> None:
    """A loader that is read from generators names tags from inside of them."""

    def rows() -> Iterator[int]:
        load("sync")
        yield 1

    async def pages() -> AsyncIterator[int]:
        load("async")
        yield 1

    with collecting() as collector:
        assert list(rows()) == [1]
        assert [page async for page in pages()] == [1]
    assert collector.tags == ("sync", "async")
