"""Stale-while-revalidate: past its soft TTL a value is served while one reader loads it anew."""

from __future__ import annotations

import logging

import pytest

from neverstale.testing.servers import Server
from tests.behaviour.conftest import Make
from tests.behaviour.faces import Face, until

#: So short that a test need not wait for it, so long that the read after a fill may still be fresh.
SOFT = 0.02


async def stale(face: Face, key: str = "k") -> None:
    """Wait until an entry is past its soft TTL, without having it refreshed."""
    before = face.stats().stale_hits
    while face.stats().stale_hits == before:
        assert await face.get_json(key, default="a miss") != "a miss"


async def test_a_stale_value_is_served_while_one_refreshes(face: Face, other: Face) -> None:
    """Past the soft TTL every reader gets the old value at once, and one load replaces it."""
    loader = face.loader("old")
    assert await face.get_or_load("k", loader, soft_ttl=SOFT) == "old"
    await stale(face)
    fresh, never = face.loader("new", held=True), other.loader("never called")
    found = [await face.get_or_load("k", fresh, soft_ttl=60) for _ in range(5)]
    await fresh.begun()
    found += [await face.get_or_load("k", fresh, soft_ttl=60) for _ in range(5)]
    found += [await other.get_or_load("k", never, soft_ttl=60) for _ in range(5)]
    found += [await other.get_json("k")]
    assert found == ["old"] * 16
    fresh.let_go()
    await until(lambda: face.stats().fills == 2)
    assert [await each.get_or_load("k", never, soft_ttl=60) for each in (face, other)] == ["new", "new"]
    assert (loader.calls, fresh.calls) == (1, 1)
    stats = face.stats()
    assert (stats.loads, stats.hits, stats.misses) == (2, stats.hits, 1)
    assert stats.stale_hits >= 11


async def test_other_processes_do_not_refresh_as_well(face: Face, other: Face) -> None:
    """While one process refreshes, no other does."""
    await face.get_or_load("k", face.loader("old"), soft_ttl=SOFT)
    await stale(face)
    held, never = face.loader("new", held=True), other.loader("never called")
    await face.get_or_load("k", held, soft_ttl=60)
    await held.begun()
    for _ in range(5):
        assert await other.get_or_load("k", never, soft_ttl=60) == "old"
    asked = other.stats().errors
    held.let_go()
    await until(lambda: face.stats().fills == 2)
    assert (held.calls, never.calls, asked, other.stats().loads) == (1, 0, 0, 0)


async def test_before_the_soft_ttl_nothing_is_refreshed(face: Face) -> None:
    """A value within its soft TTL is a plain hit."""
    loader = face.loader(1)
    assert [await face.get_or_load("k", loader, soft_ttl=60) for _ in range(3)] == [1, 1, 1]
    assert (loader.calls, face.stats().hits, face.stats().stale_hits) == (1, 2, 0)


async def test_a_soft_ttl_beyond_the_hard_one(face: Face, server: Server) -> None:
    """It means nothing: the hard TTL comes first."""
    await face.get_or_load("k", face.loader(1), ttl=5, soft_ttl=5)
    await face.get_or_load("l", face.loader(1), ttl=5, soft_ttl=500)
    assert all(0 < server.client().pttl(key) <= 5000 for key in ("v1:k", "v1:l"))
    assert [await face.get_json(key) for key in "kl"] == [1, 1]
    assert face.stats().stale_hits == 0


async def test_the_hard_ttl_ends_a_stale_value(face: Face) -> None:
    """After the hard TTL a stale value is a miss."""
    await face.get_or_load("k", face.loader(1), ttl=0.1, soft_ttl=SOFT)
    while await face.get_json("k", default="a miss") != "a miss":
        pass
    assert await face.get_or_load("k", face.loader(2)) == 2


async def test_a_refresh_that_fails(
    face: Face, other: Face, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """The stale value goes on serving, the error is logged, and a broken loader is not called again at once."""
    await face.get_or_load("k", face.loader("old"), soft_ttl=SOFT)
    await stale(face)
    broken = face.loader(LookupError("the database is away"))
    with caplog.at_level(logging.WARNING, "neverstale"):
        assert await face.get_or_load("k", broken, soft_ttl=60) == "old"
        await until(lambda: any("the database is away" in record.getMessage() for record in caplog.records))
    for each in (face, other):
        assert [await each.get_or_load("k", broken, soft_ttl=60) for _ in range(10)] == ["old"] * 10
    stats = face.stats()
    assert (broken.calls, stats.load_errors, stats.fills) == (1, 1, 1)
    # As if the pause after a failure were over: the place in the header that says until when it lasts.
    server.client().setrange("v1:k", 34, bytes(8))
    again = face.loader("new")
    assert await face.get_or_load("k", again, soft_ttl=60) == "old"
    # A reader that comes while the thread of the failed refresh is still ending starts none: the next one does.
    while await face.get_or_load("k", again, soft_ttl=60) != "new":
        pass
    await until(lambda: face.stats().fills == 2)
    assert (broken.calls, again.calls) == (1, 1)


@pytest.mark.parametrize("how", ["key", "tag"])
async def test_an_invalidated_value_is_never_served_stale(face: Face, other: Face, how: str) -> None:
    """Invalidated is not expired: the value is gone at once, and a refresh that had begun does not bring it back."""
    await face.get_or_load("k", face.loader("old"), soft_ttl=SOFT, tags=["t"])
    await stale(face)
    old, new = face.loader("older", held=True), face.loader("new")
    assert await face.get_or_load("k", old, soft_ttl=SOFT, tags=["t"]) == "old"
    await old.begun()
    await (other.invalidate_key("k") if how == "key" else other.invalidate_tag("t"))
    assert [await each.get_json("k", default="a miss") for each in (face, other)] == ["a miss", "a miss"]
    assert await face.get_or_load("k", new, soft_ttl=60, tags=["t"]) == "new"
    old.let_go()
    await until(lambda: face.stats().fills_dropped == 1)
    assert [await each.get_json("k") for each in (face, other)] == ["new", "new"]
    assert (old.calls, new.calls) == (1, 1)


async def test_set_during_a_refresh(face: Face, other: Face) -> None:
    """A value that is set during a refresh stays."""
    await face.get_or_load("k", face.loader("old"), soft_ttl=SOFT)
    await stale(face)
    loader = face.loader("refreshed", held=True)
    await face.get_or_load("k", loader, soft_ttl=SOFT)
    await loader.begun()
    await other.set_json("k", "set")
    loader.let_go()
    await until(lambda: face.stats().fills_dropped == 1)
    assert await face.get_json("k") == "set"


async def test_a_refresher_that_died(make: Make) -> None:
    """When a refresh has not ended within its lease, another reader refreshes."""
    first, second = make(lease_ttl=0.1), make(lease_ttl=0.1)
    await first.get_or_load("k", first.loader("old"), soft_ttl=SOFT)
    await stale(first)
    stuck, loader = first.loader("late", held=True), second.loader("new")
    await first.get_or_load("k", stuck, soft_ttl=60)
    await stuck.begun()
    while await second.get_or_load("k", loader, soft_ttl=60) == "old":
        pass
    stuck.let_go()
    await until(lambda: first.stats().fills_dropped == 1)
    assert await first.get_json("k") == "new"
    assert loader.calls == 1


async def test_a_stale_value_that_does_not_fit(face: Face) -> None:
    """A stale value of another shape is a miss, not served."""
    await face.get_or_load("k", face.loader("text"), soft_ttl=SOFT)
    await stale(face)
    assert await face.get_or_load("k", face.loader(5), type=int, soft_ttl=60) == 5
    assert await face.get_json("k") == 5


async def test_closing_waits_for_a_refresh(make: Make) -> None:
    """A refresh that runs when the cache is closed is not cut off."""
    face, other = make(), make()
    await face.get_or_load("k", face.loader("old"), soft_ttl=SOFT)
    await stale(face)
    loader = face.loader("new", held=True)
    await face.get_or_load("k", loader, soft_ttl=60)
    await loader.begun()
    closing = face.start("close")
    loader.let_go()
    await closing
    assert await other.get_json("k") == "new"
