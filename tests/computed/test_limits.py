"""Soft and hard time limits: what a caller gets whose time is up, and what becomes of the computation."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import pickle
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from neverstale import LoadTimeout, NeverstaleError, add_tags
from neverstale.drive import threads
from neverstale.testing.servers import Server
from tests.behaviour.faces import until
from tests.computed.conftest import ComputedFace, Make, on_one_server, past_its_ttl

#: A limit that is over at once, and one that is never.
AT_ONCE = 0.02
NEVER = 20.0
KEPT: dict[str, Any] = {"ttl": 0.02, "jitter": 0.0, "stale_if_error": 60}

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")


async def test_past_the_soft_limit_the_kept_value_is_served(
    face: ComputedFace, other: ComputedFace, server: Server
) -> None:
    """It is served to all, those of other processes as well; the computation goes on, once, and is stored."""
    await face.memoize("k", face.loader("old"), **KEPT)
    await past_its_ttl(server)
    new = face.loader("new", held=True)
    found = await asyncio.gather(
        *(each.memoize("k", new, 60, stale_if_error=60, soft_timeout=AT_ONCE) for each in (face, other) * 5)
    )
    assert found == ["old"] * 10
    new.let_go()
    await until(lambda: face.stats().fills + other.stats().fills == 2)
    assert [await each.memoize("k", new, 60) for each in (face, other)] == ["new"] * 2
    assert new.calls == 1


@on_one_server
async def test_within_the_limits(face: ComputedFace, server: Server) -> None:
    """What is done in time is served, and stored, as without limits; so is an error."""
    await face.memoize("k", face.loader("old"), **KEPT)
    await past_its_ttl(server)
    limits = {"stale_if_error": 60, "soft_timeout": NEVER, "hard_timeout": NEVER}
    assert await face.memoize("k", face.loader("new"), 60, **limits) == "new"
    assert await face.memoize("l", face.loader("new"), 60, **limits) == "new"
    assert await face.memoize("k", face.loader("never called"), 60, **limits) == "new"
    for error in (LookupError("mine"), TimeoutError("mine")):
        with pytest.raises(type(error), match="mine"):
            await face.memoize("m", face.loader(error), 60, **limits)
    assert face.stats().fills == 3


async def test_past_the_hard_limit(
    face: ComputedFace, other: ComputedFace, caplog: pytest.LogCaptureFixture
) -> None:
    """Where there is nothing to serve everybody gets an error of its own kind; the computation goes on."""
    loader = face.loader("at last", held=True)
    asking = [each.start("memoize", "k", loader, 60, hard_timeout=AT_ONCE) for each in (face, other) * 5]
    done = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(each) for each in done] == [LoadTimeout] * 10
    assert str(done[0]) == "'v1:computed:k' was not loaded within 0.02 s"
    loader.let_go()
    await until(lambda: face.stats().fills + other.stats().fills == 1)
    assert await other.memoize("k", loader, 60, hard_timeout=AT_ONCE) == "at last"
    assert (loader.calls, caplog.records) == (1, [])


@on_one_server
async def test_the_hard_limit_where_something_is_kept(face: ComputedFace, server: Server) -> None:
    """With a kept value there is no error past the hard limit either."""
    await face.memoize("k", face.loader("old"), **KEPT)
    await past_its_ttl(server)
    slow = face.loader("new", held=True)
    for limits in ({"hard_timeout": AT_ONCE}, {"hard_timeout": AT_ONCE, "soft_timeout": NEVER}):
        assert await face.memoize("k", slow, 60, stale_if_error=60, **limits) == "old"


@on_one_server
async def test_a_late_computation_that_fails(face: ComputedFace, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody waits for its error any more: it is logged, and the next who asks computes anew."""
    broken = face.loader(LookupError("no database"), held=True)
    with pytest.raises(LoadTimeout):
        await face.memoize("k", broken, 60, hard_timeout=AT_ONCE)
    with caplog.at_level(logging.WARNING, "neverstale"):
        broken.let_go()
        await until(lambda: caplog.records)
    assert "nobody waits for any more, failed: LookupError('no database')" in caplog.text
    assert await face.memoize("k", face.loader(5), 60, hard_timeout=NEVER) == 5


@pytest.mark.parametrize("how", ["key", "pattern", "tag"])
async def test_an_invalidation_during_a_late_computation(
    face: ComputedFace, other: ComputedFace, how: str
) -> None:
    """What a computation that nobody waits for any more gives is not stored after an invalidation."""
    late, options = face.loader("too early", held=True), {"ttl": 60, "tags": ["t"], "hard_timeout": AT_ONCE}
    with pytest.raises(LoadTimeout):
        await face.memoize("k", late, **options)
    await {
        "key": lambda: other.invalidate_key("k"),
        "pattern": lambda: other.invalidate_pattern("*"),
        "tag": lambda: other.invalidate_tags("t"),
    }[how]()
    asking = other.start("memoize", "k", other.loader("new"), 60, tags=["t"])
    if how != "tag":  # a tag leaves the lease, and whoever asks waits for it, though not for its value
        assert await asking == "new"
    late.let_go()
    assert await asking == "new"
    await until(lambda: not late.running)
    assert [await each.memoize("k", late, 60, tags=["t"]) for each in (face, other)] == ["new"] * 2


async def test_what_was_invalidated_does_not_serve_past_the_soft_limit(
    face: ComputedFace, other: ComputedFace, server: Server
) -> None:
    """After an invalidation there is nothing to serve, so the hard limit it is."""
    await face.memoize("k", face.loader("old"), **KEPT, tags=["t"])
    await past_its_ttl(server)
    await other.invalidate_tags("t")
    with pytest.raises(LoadTimeout):
        await face.memoize(
            "k", face.loader("new", held=True), 60, stale_if_error=60, soft_timeout=AT_ONCE, hard_timeout=0.1
        )


@on_one_server
async def test_without_redis(make: Make, server: Server) -> None:
    """Without Redis the limits hold, and no second computation begins while one runs that nobody waits for."""
    face = make(timeout=0.02)
    server.freeze()
    slow = face.loader("slow", held=True)
    done = await asyncio.gather(
        *(face.memoize("k", slow, 60, hard_timeout=0.1) for _ in range(5)), return_exceptions=True
    )
    assert [type(each) for each in done] == [LoadTimeout] * 5
    assert slow.calls == 1
    slow.let_go()
    await until(lambda: not slow.running)
    assert await face.memoize("k", slow, 60, hard_timeout=NEVER) == "slow"
    assert (slow.calls, slow.most_at_once) == (2, 1)


@on_one_server
async def test_closing_waits_for_a_late_computation(make: Make) -> None:
    """A computation that goes on when the cache is closed is not cut off."""
    face, other = make(), make()
    loader = face.loader("at last", held=True)
    with pytest.raises(LoadTimeout):
        await face.memoize("k", loader, 60, hard_timeout=AT_ONCE)
    closing = face.plain.start("close")
    loader.let_go()
    await closing
    assert await other.memoize("k", loader, 60) == "at last"
    assert loader.calls == 1


@on_one_server
async def test_what_the_computation_sees(face: ComputedFace) -> None:
    """It sees the context variables of the caller, and may name tags, also after the limit."""
    gate = threading.Event()

    def compute() -> str:
        assert gate.wait(NEVER)
        add_tags("late")
        return variable.get()

    async def compute_async() -> str:
        await until(gate.is_set)
        add_tags("late")
        return variable.get()

    function: Callable[[], Any] = compute if face.kind == "sync" else compute_async

    def ask_as(who: str) -> Any:
        variable.set(who)
        return face.cache.memoize("k", function, 60, hard_timeout=NEVER if gate.is_set() else AT_ONCE)

    async def ask_as_async(who: str) -> Any:
        return await ask_as(who)

    with pytest.raises(LoadTimeout):
        await face.call(ask_as if face.kind == "sync" else ask_as_async, "Ada")
    gate.set()
    # A tag that only a load names is too young for the first fill; the second one knows it before.
    await until(lambda: face.stats().fills_dropped == 1)
    assert await face.call(ask_as if face.kind == "sync" else ask_as_async, "Bea") == "Bea"
    assert (await face.invalidate_tags("late")).removed == 1


@on_one_server
async def test_a_caller_who_is_cancelled(face: ComputedFace) -> None:
    """With limits as without, the computation goes on when its caller is cancelled."""
    loader = face.loader("done", held=True)
    asking = face.start("memoize", "k", loader, 60, hard_timeout=NEVER)
    await loader.begun()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    loader.let_go()
    assert await face.memoize("k", loader, 60, hard_timeout=NEVER) == "done"
    assert loader.calls == 1


# --- threads: a pool with a bound ---------------------------------------------------------------------------------

on_threads = pytest.mark.parametrize("kind", ["sync"], indirect=True)


@on_one_server
@on_threads
async def test_all_threads_are_taken(face: ComputedFace, server: Server) -> None:
    """Who gets no thread in time gets an error or what is kept, and the computation is not begun at all."""
    await face.memoize("k", face.loader("old"), **KEPT)
    await past_its_ttl(server)
    hung = face.loader("hung", held=True)
    limits = {"hard_timeout": AT_ONCE, "stale_if_error": 60}
    asking = [face.start("memoize", f"hung{n}", hung, 60, **limits) for n in range(threads._LOADERS)]
    await hung.begun(threads._LOADERS)
    fresh = face.loader("fresh")
    with pytest.raises(LoadTimeout):
        await face.memoize("new", fresh, 60, **limits)
    assert await face.memoize("k", fresh, 60, **limits) == "old"
    assert fresh.calls == 0
    # Without a limit of time no thread of theirs is needed.
    assert await face.memoize("new", fresh, 60) == "fresh"
    waiting = face.start("memoize", "newer", fresh, 60, hard_timeout=NEVER)
    hung.let_go()
    assert await waiting == "fresh"
    done = await asyncio.gather(*asking, return_exceptions=True)
    assert {type(each) for each in done} == {LoadTimeout}
    await until(lambda: face.stats().fills == threads._LOADERS + 3)


@on_one_server
@on_threads
async def test_who_waits_for_another_needs_no_thread(face: ComputedFace) -> None:
    """Readers of one slow value take one thread in all, so that other values are computed meanwhile."""
    slow = face.loader("slow", held=True)
    asking = [face.start("memoize", "k", slow, 60, hard_timeout=NEVER) for _ in range(threads._LOADERS + 5)]
    await slow.begun()
    await until(lambda: face.stats().waits == threads._LOADERS + 4)
    assert await face.memoize("l", face.loader("quick"), 60, hard_timeout=NEVER) == "quick"
    slow.let_go()
    assert await asyncio.gather(*asking) == ["slow"] * len(asking)
    assert slow.calls == 1


@on_one_server
@on_threads
async def test_closing_while_a_computation_waits_for_a_thread(make: Make) -> None:
    """It is given up: who asks for it gets the error, and nobody hangs."""
    face = make()
    hung = face.loader("hung", held=True)
    asking = [
        face.start("memoize", f"hung{n}", hung, 60, hard_timeout=NEVER) for n in range(threads._LOADERS)
    ]
    await hung.begun(threads._LOADERS)
    never = face.loader("never called")
    waiting = face.start("memoize", "k", never, 60, hard_timeout=NEVER)
    await until(lambda: face.stats().misses == threads._LOADERS + 1)
    pool = face.cache.cache._driver._loaders
    await until(lambda: pool._work_queue.qsize() == 1)
    closing = face.plain.start("close")
    with pytest.raises(LoadTimeout):
        await waiting
    hung.let_go()
    await closing
    assert await asyncio.gather(*asking) == ["hung"] * threads._LOADERS
    assert never.calls == 0


def test_the_error() -> None:
    """It is ours and a `TimeoutError`, says what and how long, and can be pickled."""
    error = LoadTimeout("v1:computed:k", 2.0)
    again = pickle.loads(pickle.dumps(error))
    assert issubclass(LoadTimeout, NeverstaleError)
    assert issubclass(LoadTimeout, TimeoutError)
    assert (again.entry, again.seconds, str(again)) == (
        "v1:computed:k",
        2.0,
        "'v1:computed:k' was not loaded within 2 s",
    )


@on_one_server
async def test_the_limit_is_kept(face: ComputedFace) -> None:
    """A caller waits for as long as it said and hardly longer."""
    slow = face.loader("slow", held=True)
    began = time.monotonic()
    with pytest.raises(LoadTimeout):
        await face.memoize("k", slow, 60, hard_timeout=0.2)
    assert 0.2 <= time.monotonic() - began < 5
