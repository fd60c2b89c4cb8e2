"""Tags: given, made of arguments, or named by the load; the stamp decides, the SET only cleans up."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from neverstale import UsageError, add_tags
from neverstale.testing.servers import Server
from tests.behaviour.conftest import Make, on_one_server
from tests.behaviour.faces import Face

MINUTE = 60_000


def members(server: Server, name: str) -> set[bytes]:
    found: set[bytes] = server.client().smembers(name)
    return found


async def test_invalidate_tag(face: Face, other: Face) -> None:
    """Every entry that carries the tag is gone for every process, and no other."""
    loader = face.loader("loaded")
    await face.set("text", "1", tags=["t", "u"])
    await face.set_json("json", 2, tags=["t"])
    await face.set_many({"many": "3"}, tags=["t"])
    await face.get_or_load("loaded", loader, tags=["u", "t"])
    await face.set("another", "4", tags=["u"])
    await face.set("none", "5")
    keys = ["text", "json", "many", "loaded", "another", "none"]
    for each in (face, other):
        assert list(await each.get_many(keys)) == keys
    receipt = await face.invalidate_tag("t")
    assert (receipt.kind, receipt.names, receipt.removed, receipt.status) == ("tag", ("t",), 4, "applied")
    assert 0 < receipt.duration < 60
    for each in (face, other):
        assert list(await each.get_many(keys)) == ["another", "none"]
        assert [await each.get_json(key) for key in ("json", "loaded")] == [None, None]
    assert await face.get_or_load("loaded", loader, tags=["u", "t"]) == "loaded"
    assert loader.calls == 2


async def test_one_tag_is_enough(face: Face) -> None:
    """An entry goes with any of its tags."""
    for tag in ("a", "b", "c"):
        await face.set("k", "v", tags=["a", "b", "c"])
        assert await face.get("k") == "v"
        assert (await face.invalidate_tag(tag)).removed == 1
        assert await face.get("k") is None


async def test_several_tags_at_once(face: Face) -> None:
    """Entries of any of the tags are cleared, each counted once."""
    await face.set("ab", "1", tags=["a", "b"])
    await face.set("b", "2", tags=["b"])
    await face.set("c", "3", tags=["c"])
    receipt = await face.invalidate_tags("a", "b", "a")
    assert (receipt.names, receipt.removed) == (("a", "b"), 2)
    assert await face.get_many(["ab", "b", "c"]) == {"c": "3"}


@on_one_server
async def test_no_tags(face: Face, server: Server) -> None:
    """To invalidate no tag at all is nothing."""
    receipt = await face.invalidate_tags()
    assert (receipt.kind, receipt.names, receipt.removed, receipt.status) == ("tag", (), 0, "applied")
    assert server.keys() == []


async def test_a_tag_that_nothing_carries(face: Face) -> None:
    """To invalidate it removes nothing."""
    assert (await face.invalidate_tag("nothing")).removed == 0


async def test_a_large_tag(face: Face, server: Server) -> None:
    """A tag of more entries than are cleared at a time is cleared whole."""
    await face.set_many({f"k{i}": "v" for i in range(1234)}, tags=["t"])
    assert (await face.invalidate_tag("t")).removed == 1234
    assert server.keys() == [b"cache:tag:{t}:stamp"]


async def test_tags_reach_across_prefixes_and_versions(make: Make) -> None:
    """A tag is one of the namespace, whatever view or version made the entry."""
    faces = [make(namespace="shop"), make(namespace="shop", version=2), make(namespace="shop", prefix="api:")]
    stranger = make(namespace="blog")
    for each in (*faces, stranger):
        await each.set("k", "v", tags=["t"])
    assert (await faces[0].invalidate_tag("t")).removed == 3
    assert [await each.get("k") for each in (*faces, stranger)] == [None, None, None, "v"]


# --- in Redis -----------------------------------------------------------------------------------------------------


async def test_the_set_of_a_tag(make: Make, server: Server) -> None:
    """`cache:tag:{name}` is a Redis SET of the keys that carry the tag, however they were stored."""
    face = make(namespace="shop", prefix="api:")
    await face.set("a", "1", tags=["products"])
    await face.set_many({"b": "2"}, tags=["products", "others"])
    await face.get_or_load("c", face.loader(3), tags=["products"])
    name = "shop:cache:tag:{products}"
    assert server.client().type(name) == b"set"
    assert members(server, name) == {b"shop:v1:api:a", b"shop:v1:api:b", b"shop:v1:api:c"}
    assert members(server, "shop:cache:tag:{others}") == {b"shop:v1:api:b"}


async def test_the_keys_of_a_tag_outlive_its_entries(face: Face, server: Server) -> None:
    """SET and stamp live longer than the longest of their entries; a shorter one does not shorten them."""
    await face.set("long", "v", ttl=10_000, tags=["t"])
    await face.set("short", "v", ttl=5, tags=["t"])
    await face.get_or_load("short too", face.loader(1), ttl=5, tags=["t"])
    left = [server.client().pttl(name) for name in ("cache:tag:{t}", "cache:tag:{t}:stamp")]
    assert all(each > 10_000_000 for each in left)
    await face.invalidate_tag("t")
    assert server.client().pttl("cache:tag:{t}:stamp") > 10_000_000
    await face.get_or_load("longer", face.loader(1), ttl=20_000, tags=["t"])
    left = [server.client().pttl(name) for name in ("cache:tag:{t}", "cache:tag:{t}:stamp")]
    assert all(each > 20_000_000 for each in left)


@pytest.mark.parametrize("lost", ["cache:tag:{t}", "cache:tag:{t}:stamp", "both"])
async def test_tags_that_redis_has_lost(face: Face, other: Face, server: Server, lost: str) -> None:
    """Evicting a SET, a stamp or both never lets an invalidated entry be served."""
    await face.set("k", "v", tags=["t"])
    assert await other.get("k") == "v"
    names = ["cache:tag:{t}", "cache:tag:{t}:stamp"] if lost == "both" else [lost]
    server.client().delete(*names)
    assert (await face.get("k")) == ("v" if lost == "cache:tag:{t}" else None)
    await face.invalidate_tag("t")
    assert [await each.get("k") for each in (face, other)] == [None, None]
    loader = face.loader("new")
    assert [await face.get_or_load("k", loader, tags=["t"]) for _ in range(2)] == ["new", "new"]
    assert loader.calls == 1


@pytest.mark.plants_keys("cache:tag:*")
async def test_tags_of_wrong_types(face: Face, server: Server) -> None:
    """Something else under the names of a tag is put aside, and what is cached with the tag can be invalidated."""
    client = server.client()
    client.set("cache:tag:{t}", "no set")
    client.rpush("cache:tag:{t}:stamp", "no string")
    client.rpush("cache:tag:{u}", "no set")
    client.set("cache:tag:{u}:stamp", "no stamp")
    loader = face.loader(1)
    assert [await face.get_or_load("k", loader, tags=["t"]) for _ in range(2)] == [1, 1]
    assert loader.calls == 1
    assert members(server, "cache:tag:{t}") == {b"v1:k"}
    assert (await face.invalidate_tag("t")).removed == 1
    assert (await face.invalidate_tag("u")).removed == 0
    assert await face.get_json("k") is None


async def test_names_of_tags(face: Face, server: Server) -> None:
    """Any text of up to 256 bytes names a tag; none reaches another's keys, and each stays in one slot."""
    names = [
        "a",
        "A",
        "a:stamp",
        "a}",
        "a}:stamp",
        "{a",
        "{a}",
        "{}",
        "}",
        "{",
        "%7D",
        "%",
        "*",
        "a b",
        "é" * 128,
        "\n",
    ]
    await asyncio.gather(*(face.set(f"k{i}", name, tags=[name]) for i, name in enumerate(names)))
    keys = server.keys()
    assert len(keys) == 3 * len(names)
    for i, name in enumerate(names):
        assert (await face.invalidate_tag(name)).removed == 1
        left = await face.get_many([f"k{j}" for j in range(len(names))])
        assert list(left.values()) == names[i + 1 :]


@on_one_server
async def test_wrong_tags(face: Face, server: Server) -> None:
    """A tag is text, not empty and not too long, and tags are several: else an error, and nothing is stored."""
    loader = face.loader(1)
    wrong: list[Any] = ["text", [""], [5], [None], ["x" * 257], ["lone \ud800"], [b"t"]]
    for tags in wrong:
        for call in (
            lambda tags: face.set("k", "v", tags=tags),
            lambda tags: face.set_json("k", 1, tags=tags),
            lambda tags: face.set_many({"k": "v"}, tags=tags),
            lambda tags: face.get_or_load("k", loader, tags=tags),
        ):
            with pytest.raises(UsageError, match="tag"):
                await call(tags)
        if tags != "text":
            with pytest.raises(UsageError, match="tag"):
                await face.invalidate_tags(*tags)
    assert (loader.calls, server.keys()) == (0, [])


@on_one_server
async def test_tags_of_any_iterable(face: Face) -> None:
    """Tags may come from a generator, and more than once."""
    await face.set("k", "v", tags=(tag for tag in ["a", "a", "b"]))
    assert await face.get("k") == "v"
    assert (await face.invalidate_tag("b")).removed == 1


# --- named by the load --------------------------------------------------------------------------------------------


def plant_stamp(server: Server, tag: str, age: float) -> None:
    """Plant a stamp that was set so many seconds ago."""
    microseconds = round((time.time() - age) * 1e6)
    server.client().set(f"cache:tag:{{{tag}}}:stamp", f"{'0' * 20}@{microseconds}", px=MINUTE)


async def test_tags_named_by_the_load(face: Face, other: Face, server: Server) -> None:
    """What a loader names is a tag like any other: stored under its stamp, listed in its SET, invalidated with it."""
    plant_stamp(server, "late", age=60)

    def load() -> str:
        add_tags("late")
        return "value"

    loader = face.loader(load)
    assert [await each.get_or_load("k", loader, tags=["t"]) for each in (face, other)] == ["value", "value"]
    assert loader.calls == 1
    assert members(server, "cache:tag:{late}") == members(server, "cache:tag:{t}") == {b"v1:k"}
    assert (await other.invalidate_tag("late")).removed == 1
    assert [await each.get_json("k") for each in (face, other)] == [None, None]
    assert await face.get_or_load("k", loader, tags=["t"]) == "value"
    assert (await face.invalidate_tag("t")).removed == 1
    assert await face.get_json("k") is None


async def test_the_first_load_that_names_a_new_tag(face: Face) -> None:
    """A tag that nobody has used yet costs one load more; from then on the entry is cached."""

    def load() -> str:
        add_tags("new")
        return "value"

    loader = face.loader(load)
    assert [await face.get_or_load("k", loader) for _ in range(4)] == ["value"] * 4
    assert loader.calls == 2
    stats = face.stats()
    assert (stats.fills, stats.fills_dropped, stats.hits) == (1, 1, 2)


async def test_a_late_tag_invalidated_during_the_load(face: Face, server: Server) -> None:
    """A value whose late tag was invalidated while it was loaded is not stored, nor shared with later readers."""
    plant_stamp(server, "late", age=60)

    def load() -> str:
        add_tags("late")
        return "old"

    old, new = face.loader(load, held=True), face.loader("new")
    first = face.start("get_or_load", "k", old)
    await old.begun()
    await face.invalidate_tag("late")
    second = face.start("get_or_load", "k", new)
    old.let_go()
    assert [await first, await second] == ["old", "new"]
    assert await face.get_json("k") == "new"


async def test_an_exception_with_late_tags_is_not_shared(face: Face) -> None:
    """The exception of a load that named tags is for its own caller: the tags may have been invalidated."""

    def load() -> str:
        add_tags("late")
        raise LookupError

    old, new = face.loader(load, held=True), face.loader("new")
    first = face.start("get_or_load", "k", old)
    await old.begun()
    second = face.start("get_or_load", "k", new)
    await asyncio.sleep(0)
    old.let_go()
    with pytest.raises(LookupError):
        await first
    assert await second == "new"


async def test_wrong_tags_named_by_the_load(face: Face, server: Server) -> None:
    """A tag that the load may not name is its error, and leaves no lease behind."""
    with pytest.raises(UsageError, match="tag"):
        await face.get_or_load("k", face.loader(lambda: add_tags("x" * 300)))
    assert server.keys() == []


async def test_an_entry_whose_tags_changed(face: Face, other: Face) -> None:
    """An entry's own tags count, not those that a reader names or remembers."""
    await face.set_json("k", 1, tags=["a"])
    assert await other.get_json("k") == 1
    await face.invalidate_tag("a")
    await face.set_json("k", 2, tags=["b"])
    for each in (face, other):
        assert await each.get_or_load("k", each.loader("never called"), tags=["a", "c"]) == 2
    await face.invalidate_tag("b")
    assert [await each.get("k") for each in (face, other)] == [None, None]
