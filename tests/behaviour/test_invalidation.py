"""Invalidation of keys and patterns: what goes, what stays, what is said about it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import pytest

from neverstale import InvalidationEvent, UsageError, escape_glob
from neverstale.testing.servers import Server
from tests.behaviour.conftest import Make, on_one_server
from tests.behaviour.faces import Face, until

# --- keys ---------------------------------------------------------------------------------------------------------


async def test_invalidate_key(face: Face, other: Face) -> None:
    """The entry is gone for every process; the receipt says whether there was one."""
    await face.set_many({"k": "v", "k2": "v"})
    receipt = await other.invalidate_key("k")
    assert (receipt.kind, receipt.names, receipt.removed, receipt.status) == ("key", ("k",), 1, "applied")
    assert 0 < receipt.duration < 60
    assert [await each.get_many(["k", "k2"]) for each in (face, other)] == [{"k2": "v"}, {"k2": "v"}]
    assert (await other.invalidate_key("k")).removed == 0


async def test_a_key_with_tags(face: Face) -> None:
    """An entry with tags can be invalidated by its key, and is loaded again under its tags."""
    loader = face.loader(1)
    for calls in (1, 2):
        assert [await face.get_or_load("k", loader, tags=["t"]) for _ in range(2)] == [1, 1]
        assert loader.calls == calls
        assert (await face.invalidate_key("k")).removed == 1
    assert (await face.invalidate_tag("t")).removed == 0


# --- patterns -----------------------------------------------------------------------------------------------------


async def test_invalidate_pattern(make: Make) -> None:
    """All keys of this prefix that match go, on all nodes and of the neighbouring version, and no others."""
    face = make(namespace="shop", prefix="api:")
    later = make(namespace="shop", version=2, prefix="api:")
    outside = [
        make(namespace="shop"),
        make(prefix="api:"),
        make(namespace="shop", prefix="x:api:"),
        make(namespace="shop", version=12, prefix="api:"),
    ]
    gone = {f"product:{i}": "v" for i in range(30)}
    kept = {"product": "v", "products:1": "v", "x:product:1": "v"}
    for each in (face, later, *outside):
        await each.set_many(gone | kept)
    receipt = await face.invalidate_pattern("product:*")
    assert (receipt.kind, receipt.names, receipt.removed, receipt.status) == (
        "pattern",
        ("product:*",),
        60,
        "applied",
    )
    for each in (face, later):
        assert await each.get_many(gone | kept) == kept
    for each in outside:
        assert await each.get_many(gone | kept) == gone | kept


async def test_patterns(face: Face) -> None:
    """A pattern is a glob of Redis."""
    keys = {key: key for key in ("a1", "a2", "b1", "a11", "a*", "a{1}", "a%7B1")}
    patterns: dict[str, set[str]] = {
        "*": set(keys),
        "a?": {"a1", "a2", "a*"},
        "[ab]1": {"a1", "b1"},
        "a[^2*]": {"a1"},
        "a1": {"a1"},
        "a\\*": {"a*"},
        "a{*": {"a{1}"},
        "a{1}": {"a{1}"},
        "a%7B*": {"a%7B1"},
        "*1": {"a1", "b1", "a11", "a%7B1"},
        "nothing*": set(),
    }
    for pattern, gone in patterns.items():
        await face.set_many(keys)
        assert (await face.invalidate_pattern(pattern)).removed == len(gone), pattern
        assert set(keys) - set(await face.get_many(keys)) == gone, pattern


async def test_escaped_text_in_a_pattern(face: Face) -> None:
    """What comes from outside, escaped, matches itself and nothing else."""
    names = ["*", "a", "?", "[a]", "\\", "{", "%7B", "a*", "é"]
    keys = {f"user:{name}:{i}": "v" for name in names for i in range(2)}
    for name in names:
        await face.set_many(keys)
        assert (await face.invalidate_pattern(f"user:{escape_glob(name)}:*")).removed == 2
        assert set(keys) - set(await face.get_many(keys)) == {f"user:{name}:0", f"user:{name}:1"}


async def test_a_pattern_that_ends_inside_of_an_escape(face: Face) -> None:
    """The beginning of a key and a star match the key, wherever it is cut."""
    key = "GET:/products?filter=%7B%22a%22%7D"
    missed = []
    for end in range(1, len(key)):
        await face.set(key, "v")
        await face.invalidate_pattern(escape_glob(key[:end]) + "*")
        if await face.get(key) is not None:
            missed.append(key[:end])
    assert missed == []


async def test_a_prefix_is_no_pattern(make: Make) -> None:
    """What looks like a pattern in a prefix is text."""
    face, neighbour = make(prefix="*["), make(prefix="a[")
    for each in (face, neighbour):
        await each.set("k", "v")
    assert (await face.invalidate_pattern("*")).removed == 1
    assert await neighbour.get("k") == "v"


async def test_a_pattern_of_many_keys(face: Face, server: Server) -> None:
    """Thousands of keys are found step by step, never by KEYS."""
    await face.set_many({f"a:{i}": "v" for i in range(3000)})
    await face.set_many({f"b:{i}": "v" for i in range(100)})
    assert face.stats().sets_dropped == 0
    for node in server.primaries():
        node.client().config_resetstat()
    assert (await face.invalidate_pattern("a:*")).removed == 3000
    said: set[str] = set()
    for node in server.primaries():
        commands: dict[str, Any] = node.client().info("commandstats")
        said.update(commands)
        assert commands["cmdstat_scan"]["calls"] >= 2
    assert "cmdstat_keys" not in said
    assert "cmdstat_unlink" in said
    assert "cmdstat_del" not in said
    assert len(server.keys()) == 100


@on_one_server
async def test_wrong_patterns(face: Face) -> None:
    """A pattern is text and not empty."""
    wrong: list[Any] = ["", None, 5, b"*", "lone \ud800"]
    for pattern in wrong:
        with pytest.raises(UsageError, match="pattern"):
            await face.invalidate_pattern(pattern)


# --- what is said about it ----------------------------------------------------------------------------------------

INVALIDATING: dict[str, tuple[Callable[[Face], Awaitable[Any]], tuple[str, ...]]] = {
    "key": (lambda face: face.invalidate_key("k1"), ("k1",)),
    "pattern": (lambda face: face.invalidate_pattern("k1*"), ("k1*",)),
    "tag": (lambda face: face.invalidate_tags("t", "u"), ("t", "u")),
}


@pytest.mark.parametrize("what", INVALIDATING)
async def test_event_and_log(face: Face, caplog: pytest.LogCaptureFixture, what: str) -> None:
    """Each invalidation is an event in its own process, and a line of the log."""
    heard: list[InvalidationEvent] = []
    unsubscribe = face.events.subscribe(heard.append, InvalidationEvent)
    await face.set("k1", "v", tags=["t"])
    invalidate, names = INVALIDATING[what]
    with caplog.at_level(logging.INFO, "neverstale"):
        receipt = await invalidate(face)
    (event,) = heard
    assert (event.kind, event.names, event.removed, event.status) == (what, names, 1, "applied")
    assert event.duration == receipt.duration
    assert event.origin
    lines = [record.getMessage() for record in caplog.records if "cache:invalidate" in record.getMessage()]
    assert len(lines) == 1
    assert names[0] in lines[0]
    assert "removed=1" in lines[0]
    unsubscribe()
    await invalidate(face)
    assert len(heard) == 1


@on_one_server
async def test_delete_is_an_invalidation(face: Face) -> None:
    """Deleting is told as well."""
    heard: list[InvalidationEvent] = []
    face.events.subscribe(heard.append, InvalidationEvent)
    await face.delete("k")
    assert [(event.kind, event.names, event.removed) for event in heard] == [("key", ("k",), 0)]


@on_one_server
async def test_a_subscriber_that_raises(face: Face) -> None:
    """It disturbs neither the invalidation nor other subscribers."""
    heard: list[InvalidationEvent] = []

    def broken(event: InvalidationEvent) -> None:
        raise RuntimeError("broken subscriber")

    face.events.subscribe(broken, InvalidationEvent)
    face.events.subscribe(heard.append, InvalidationEvent)
    await face.set("k", "v")
    assert (await face.invalidate_key("k")).removed == 1
    assert len(heard) == 1


async def test_listening_to_others(make: Make) -> None:
    """While a process listens it hears of other processes' invalidations, and not when it does not."""
    # Another time limit: other connections, and with them other events, as in another process.
    # On a cluster, news of an earlier test may still be on their way: nobody else is called so.
    own = f"listening-{uuid4().hex}"
    listener, talker = make(namespace=own), make(namespace=own, timeout=4)
    stranger = make(namespace="blog", timeout=4)
    heard: list[InvalidationEvent] = []
    listener.events.subscribe(heard.append, InvalidationEvent)
    await talker.invalidate_key("before")
    async with listener.listening():
        while not heard:  # a cluster that was made just now may not pass it on yet
            await talker.invalidate_key("ready?")
            await asyncio.sleep(0.01)
        heard.clear()
        for invalidate, _ in INVALIDATING.values():
            await stranger.invalidate_key("k")
            await invalidate(talker)
        await until(lambda: len([event for event in heard if event.names != ("ready?",)]) == 3)
    await talker.invalidate_key("after")
    heard = [event for event in heard if event.names != ("ready?",)]
    # On a cluster, news that take different ways arrive in any order.
    said = sorted((event.kind, event.names) for event in heard)
    assert said == sorted((kind, names) for kind, (_, names) in INVALIDATING.items())
    assert len({event.origin for event in heard}) == 1


async def test_what_it_did_itself_is_heard_once(make: Make) -> None:
    """A process that listens is not told a second time of what it did itself."""
    face = make(namespace=f"listening-{uuid4().hex}")
    heard: list[InvalidationEvent] = []
    face.events.subscribe(heard.append, InvalidationEvent)
    async with face.listening():
        await face.invalidate_key("a")
        await face.invalidate_key("b")
    assert [event.names for event in heard] == [("a",), ("b",)]


@on_one_server
async def test_events_of_another_namespace(make: Make) -> None:
    """A subscriber of one namespace hears nothing of another in the same process."""
    shop, blog = make(namespace="shop"), make(namespace="blog")
    heard: list[InvalidationEvent] = []
    shop.events.subscribe(heard.append, InvalidationEvent)
    await blog.invalidate_key("k")
    assert heard == []


@on_one_server
async def test_listening_with_a_pool_of_one(make: Make) -> None:
    """However small the pool, who listens can invalidate."""
    face = make(pool_size=1, patient_timeout=0.2)
    async with face.listening():
        assert (await face.invalidate_key("k")).status == "applied"


@on_one_server
async def test_two_caches_of_one_process_that_listen(face: Face, other: Face) -> None:
    """What one of a process's caches does is told once to a subscriber, also where both listen."""
    heard: list[InvalidationEvent] = []
    face.events.subscribe(heard.append, InvalidationEvent)
    async with face.listening(), other.listening():
        await face.invalidate_key("a")
        await other.invalidate_key("b")
        await asyncio.sleep(0.05)  # that nothing more comes cannot be awaited
    assert [event.names for event in heard] == [("a",), ("b",)]


@on_one_server
async def test_events_tell_views_apart(face: Face) -> None:
    """Whoever hears of a key can tell which view's it is."""
    heard: list[InvalidationEvent] = []
    face.events.subscribe(heard.append, InvalidationEvent)
    await face.with_prefix("api:").invalidate_key("5")
    await face.with_prefix("session:").invalidate_key("5")
    first, second = [(event.names, getattr(event, "prefix", "")) for event in heard]
    assert first != second
