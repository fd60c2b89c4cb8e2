"""What the caches that are built upon this one ask of it: fallbacks that are renewed, answers that may not be kept."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from neverstale.base import MISS, Found
from neverstale.core.policy import State
from neverstale.errors import HeldOff
from neverstale.lifetime import Lifetime
from neverstale.loading import Answer
from neverstale.testing.servers import Server
from tests.behaviour.conftest import on_one_server
from tests.behaviour.faces import Face, until

HOUR = Lifetime(3_600_000)
#: Over at once, and kept for an hour.
KEPT = Lifetime(0, 0, 3_600_000)


async def find(face: Face, tags: tuple[str, ...] = ()) -> Found:
    found: Found = await face._find("k", face.cache._json, tags)
    return found


async def load(
    face: Face, loader: Any, found: Found, life: Lifetime = HOUR, tags: tuple[str, ...] = (), **options: Any
) -> Any:
    return await face._load("k", loader, life, tags, face.cache._json, found, **options)


async def test_a_fallback_is_found_and_never_served(face: Face) -> None:
    """A value past its end is no hit: it is loaded anew, and the old one is there until then."""
    await load(face, face.loader("old"), await find(face), KEPT)
    found = await find(face)
    assert (found.value, found.state) == ("old", State.EXPIRED)
    assert await face.get_json("k", default="a miss") == "a miss"
    held = face.loader("new", held=True)
    task = face.start("get_or_load", "k", held)
    await held.begun()
    assert await find(face) == found._replace(seen=(await find(face)).seen)
    held.let_go()
    assert await task == "new"
    assert await face.get_json("k") == "new"


async def test_a_fallback_that_is_invalidated_is_gone(face: Face, other: Face) -> None:
    """An invalidation takes a fallback as it takes all else."""
    for invalidate in (lambda: other.invalidate_tag("t"), lambda: other.invalidate_key("k")):
        await load(face, face.loader("old"), await find(face, ("t",)), KEPT, ("t",))
        await invalidate()
        assert (await find(face, ("t",))).value is MISS


async def test_one_renews_for_all(face: Face, other: Face) -> None:
    """Of all who want a value renewed one loads it, and the others get what it loaded."""
    await load(face, face.loader("old"), await find(face))
    found, there = await find(face), await find(other)
    held, never = face.loader("new", held=True), other.loader("never called")
    tasks = [asyncio.ensure_future(load(face, held, found, renew=True)) for _ in range(10)]
    await held.begun()
    tasks += [asyncio.ensure_future(load(other, never, there, renew=True)) for _ in range(3)]
    await until(lambda: other.stats().waits == 3)
    assert await face.get_json("k") == "old"
    held.let_go()
    assert await asyncio.gather(*tasks) == ["new"] * 13
    assert (held.calls, never.calls) == (1, 0)


async def test_a_renewal_that_is_over_at_once_serves_those_who_waited(face: Face, other: Face) -> None:
    """A value without any time of its own is what those get who waited for it, in other processes, too."""
    held, never = face.loader("new", held=True), other.loader("never called")
    first = asyncio.ensure_future(load(face, held, await find(face), KEPT))
    await held.begun()
    tasks = [asyncio.ensure_future(load(other, never, await find(other), KEPT)) for _ in range(3)]
    await until(lambda: other.stats().waits == 3)
    held.let_go()
    assert [await first, *await asyncio.gather(*tasks)] == ["new"] * 4
    assert (held.calls, never.calls) == (1, 0)


async def test_a_renewal_that_fails(face: Face, other: Face) -> None:
    """The loader's error is raised, the old value stays, and for a moment nobody with a fallback tries again."""
    await load(face, face.loader("old"), await find(face), KEPT)
    found, failing = await find(face), face.loader(LookupError("away"))
    with pytest.raises(LookupError, match="away"):
        await load(face, failing, found, renew=True)
    for each in (face, other):
        again = await find(each)
        assert (again.value, again.state) == ("old", State.EXPIRED)
        with pytest.raises(HeldOff, match="'v1:k'"):
            await load(each, failing, again, renew=True, fallback=True)
    assert failing.calls == 1
    # Who has no fallback loads, and stores nothing.
    assert await load(other, other.loader("loaded"), await find(other), renew=True) == "loaded"
    assert (await find(face)).value == "old"


async def test_a_renewal_after_an_invalidation(face: Face, other: Face) -> None:
    """What was to be renewed has gone meanwhile: it is loaded as if it had never been there."""
    await load(face, face.loader("old"), await find(face), KEPT)
    found = await find(face)
    await other.invalidate_key("k")
    assert await load(face, face.loader("new"), found, renew=True, fallback=True) == "new"
    assert await other.get_json("k") == "new"


async def test_a_loader_that_says_how_long_and_under_which_tags(face: Face, server: Server) -> None:
    """What the load says of the lifetime counts, not what the reader said; its tags are as good as any."""
    loader = face.loader(Answer("v", lifetime=Lifetime(60_000, 0, 30_000), tags=("t",)))
    # The first load makes the stamp of a tag that nobody named before, and is not stored: it is as young as the load.
    for _ in range(2):
        await load(face, loader, await find(face))
    assert 80 < server.client().pttl("v1:k") / 1000 <= 90
    await face.invalidate_tag("t")
    assert await face.get_json("k") is None


@on_one_server
async def test_what_may_not_be_kept(face: Face, other: Face) -> None:
    """It goes to the one who loaded it and is not stored; who waited for it loads at once, all side by side."""
    held = face.loader(Answer("mine", keep=False), held=True)
    tasks = [asyncio.ensure_future(load(face, held, await find(face)))]
    await held.begun()
    own = [face.loader(Answer(n, keep=False), held=True) for n in range(5)]
    tasks += [asyncio.ensure_future(load(face, each, await find(face))) for each in own]
    await until(lambda: face.stats().waits == 5)
    held.let_go()
    for each in own:
        await each.begun()
    for each in own:
        each.let_go()
    assert await asyncio.gather(*tasks) == ["mine", 0, 1, 2, 3, 4]
    assert (await find(other)).state is State.ABSENT


@pytest.mark.parametrize("forget", [True, False])
async def test_an_old_value_whose_successor_may_not_be_kept(face: Face, forget: bool) -> None:
    """It goes or stays, as the loader says."""
    await load(face, face.loader("old"), await find(face))
    loader = face.loader(Answer("new", keep=False, forget=forget))
    assert await load(face, loader, await find(face), renew=True) == "new"
    assert (await find(face)).value == (MISS if forget else "old")


async def test_who_does_not_wait(face: Face, other: Face) -> None:
    """Where a load is in flight, who does not wait loads for itself, and stores nothing."""
    held = face.loader("slow", held=True)
    task = asyncio.ensure_future(load(face, held, await find(face)))
    await held.begun()
    for each in (face, other):
        assert await load(each, each.loader("quick"), await find(each), wait=False) == "quick"
    assert (await find(other)).state is State.LEASED
    held.let_go()
    assert await task == "slow"
    assert await other.get_json("k") == "slow"


@on_one_server
async def test_renewal_in_the_background(face: Face) -> None:
    """It replaces the value; one that fails leaves it."""
    await load(face, face.loader("old"), await find(face))
    failing, found = face.loader(LookupError("away")), await find(face)

    def renew() -> Any:
        return face.cache._renew("k", failing, HOUR, (), face.cache._json, found)

    await face.call(face.fitting(renew))
    await until(lambda: face.stats().load_errors == 1)
    assert await face.get_json("k") == "old"
