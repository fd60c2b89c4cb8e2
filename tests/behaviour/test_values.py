"""Values: get, set, their JSON and many-at-once forms, delete; where they are in Redis, and for how long."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypedDict

import msgspec
import pydantic
import pytest

from neverstale import EncodingError, UsageError
from neverstale.codecs import json_codec
from neverstale.core.entry import MAGIC
from neverstale.testing.servers import Server
from tests.behaviour.conftest import Make, on_one_server
from tests.behaviour.faces import Face, until

DAY = 86_400_000
WRONG_TTLS: list[Any] = [
    0,
    -1,
    0.0,
    float("nan"),
    float("inf"),
    True,
    "5",
    [],
    timedelta(0),
    timedelta(seconds=-1),
]


@dataclass
class Product:
    id: int
    name: str


class Struct(msgspec.Struct):
    id: int
    at: dt.date


class Typed(TypedDict):
    id: int


class Model(pydantic.BaseModel):
    id: int
    at: dt.date


def ttl_of(server: Server, key: str) -> int:
    left: int = server.client().pttl(key)
    return left


async def test_what_is_set_is_there(face: Face) -> None:
    """A text is there once it is set, and the next one replaces it; what was never set is None."""
    assert await face.get("k") is None
    await face.set("k", "first")
    await face.set("k", "second")
    assert await face.get("k") == "second"


@on_one_server
async def test_text_comes_back_as_it_was(face: Face) -> None:
    """Any text comes back, the empty one and a long one too."""
    texts = ["", "0", "None", "null", "Zürich – 東京 🏙", "\x00\r\n", "x" * 5000, "é" * 200_000]
    for text in texts:
        await face.set("k", text)
        assert await face.get("k") == text


@on_one_server
async def test_only_text_can_be_set(face: Face, server: Server) -> None:
    """What is no text is refused, and nothing is stored, nor of the others set with it."""
    wrong: list[Any] = [None, 5, b"bytes", ["list"], "lone \ud800"]
    for value in wrong:
        with pytest.raises(EncodingError):
            await face.set("k", value)
        with pytest.raises(EncodingError):
            await face.set_many({"a": "text", "k": value})
    assert server.keys() == []


async def test_keys_in_redis(make: Make, server: Server) -> None:
    """Namespace, version and prefix stand in front of every key in Redis, whatever call made it."""
    face = make(namespace="shop", version=3, prefix="api:")
    await face.set("a", "1")
    await face.set_json("b", 2)
    await face.set_many({"c": "3", "d": "4"})
    await face.get_or_load("e", face.loader(5))
    await face.with_prefix("").set("f", "6")
    assert server.keys() == [
        b"shop:v3:" + key for key in (b"api:a", b"api:b", b"api:c", b"api:d", b"api:e", b"f")
    ]


async def test_keys_without_a_namespace(face: Face, server: Server) -> None:
    """Without a namespace a key begins with the version."""
    await face.set("GET:/api/products?page=2", "page")
    assert server.keys() == [b"v1:GET:/api/products?page=2"]


async def test_namespaces_versions_and_prefixes_are_apart(make: Make) -> None:
    """What one namespace, version or prefix holds, no other sees."""
    faces = [make(), make(namespace="shop"), make(version=2), make(prefix="api:")]
    for number, face in enumerate(faces):
        await face.set("k", str(number))
    assert [await face.get("k") for face in faces] == ["0", "1", "2", "3"]


async def test_long_keys(face: Face, server: Server) -> None:
    """Keys that are too long for Redis are shortened, and still never shared."""
    long = {f"{'k' * 600}{end}": end for end in "abc"}
    await face.set_many(long)
    assert await face.get_many(long) == long
    assert all(len(key) <= 512 for key in server.keys())  # noqa: SIM118


@on_one_server
async def test_wrong_keys(face: Face, server: Server) -> None:
    """A key is text and not empty, in every method; anything else is refused before anything is done."""
    loader = face.loader(1)
    calls: list[Callable[[Any], Awaitable[Any]]] = [
        face.get,
        lambda key: face.set(key, "v"),
        face.get_json,
        lambda key: face.set_json(key, 1),
        lambda key: face.get_many([key]),
        lambda key: face.set_many({key: "v"}),
        face.delete,
        lambda key: face.get_or_load(key, loader),
        face.invalidate_key,
    ]
    wrong: list[Any] = ["", None, 5, "lone \ud800", ("k",)]
    for key in wrong:
        for call in calls:
            with pytest.raises(UsageError):
                await call(key)
    assert (loader.calls, server.keys()) == (0, [])


@on_one_server
async def test_bytes_are_no_key(face: Face) -> None:
    """Bytes are refused as a key by a clear error."""
    with pytest.raises(UsageError, match="a key is a string, not bytes"):
        await face.get(b"k")


async def test_a_value_is_replaced_in_one_step(face: Face, other: Face) -> None:
    """While a value is set anew, readers find the old one or the new one, and never nothing."""
    await face.set("k", "0", tags=["t"])
    over = False

    async def read(reader: Face) -> list[int]:
        found = []
        while not over:
            found.append(int(await reader.get("k") or -1))
        return found

    readers = [asyncio.create_task(read(reader)) for reader in (face, other, other)]
    for number in range(1, 40):
        await face.set("k", str(number), tags=["t"])
        assert await other.get("k") == str(number)
    over = True
    for found in await asyncio.gather(*readers):
        assert found == sorted(found)
        assert found[0] >= 0


async def test_many_that_set_one_key(face: Face, other: Face, server: Server) -> None:
    """Of many that set a key at the same time one is the last, and nothing but its value stays."""
    texts = [f"{number}" for number in range(20)]
    await asyncio.gather(*(each.set("k", text) for text in texts for each in (face, other)))
    assert await face.get("k") in texts
    assert await face.get("k") == await other.get("k")
    assert ttl_of(server, "v1:k") > 3_000_000
    await face.set("k", "last")
    assert await other.get("k") == "last"


# --- JSON ---------------------------------------------------------------------------------------------------------


@on_one_server
async def test_json(face: Face) -> None:
    """What JSON knows comes back as it was."""
    values: list[Any] = [None, True, 0, 1.5, "text", [], [1, [2]], {"a": {"b": None}}, "x" * 9000]
    for value in values:
        await face.set_json("k", value)
        found = await face.get_json("k", default="a miss")
        assert (found, type(found)) == (value, type(value))


async def test_json_default(face: Face) -> None:
    """A miss gives the default, and None is a value that can be told from it."""
    default = object()
    assert await face.get_json("k") is None
    assert await face.get_json("k", default=default) is default
    await face.set_json("k", None)
    assert await face.get_json("k", default=default) is None


TYPED: list[tuple[Any, Any]] = [
    (Product, Product(1, "lamp")),
    (Struct, Struct(1, dt.date(2026, 1, 2))),
    (Typed, {"id": 1}),
    (Model, Model(id=1, at=dt.date(2026, 1, 2))),
    (list[Product], [Product(1, "lamp"), Product(2, "sofa")]),
    (dict[str, Struct], {"a": Struct(1, dt.date(2026, 1, 2))}),
    (Product | None, None),
    (tuple[int, str], (1, "a")),
]


@on_one_server
async def test_json_is_read_as_a_type(face: Face) -> None:
    """A value is read as the type that is asked for."""
    for kind, value in TYPED:
        await face.set_json("k", json.loads(json_codec(kind).encode(value)))
        found = await face.get_json("k", type=kind, default="a miss")
        assert (found, type(found)) == (value, type(value))


@on_one_server
async def test_typed_values_are_set(face: Face) -> None:
    """Dataclasses, Structs, TypedDicts, pydantic models and what holds them can be set, and read as their type."""
    for kind, value in TYPED:
        await face.set_json("k", value)
        found = await face.get_json("k", type=kind, default="a miss")
        assert (found, type(found)) == (value, type(value))


async def test_a_value_that_no_longer_fits(face: Face) -> None:
    """A value that does not fit the type is a miss and is counted, not an exception."""
    await face.set_json("k", {"id": 1})
    assert await face.get_json("k", type=Product, default="a miss") == "a miss"
    stats = face.stats()
    assert (stats.misses, stats.hits, stats.decode_errors) == (1, 0, 1)


@on_one_server
async def test_what_json_does_not_know_is_refused(face: Face, server: Server) -> None:
    """What cannot be written as JSON is refused, and nothing is stored."""
    wrong: list[Any] = [object(), float("nan"), [float("inf")], {"k": object()}, "lone \ud800"]
    for value in wrong:
        with pytest.raises(EncodingError):
            await face.set_json("k", value)
    assert server.keys() == []


# --- many ---------------------------------------------------------------------------------------------------------


async def test_get_many_gives_what_is_there(face: Face) -> None:
    """Those keys that are there come back under their names, in the order asked for."""
    await face.set_many({f"k{i}": f"v{i}" for i in range(50)})
    found = await face.get_many(iter(["k7", "nothing", "k3", "k7"]))
    assert list(found.items()) == [("k7", "v7"), ("k3", "v3")]
    assert await face.get_many([]) == {}
    stats = face.stats()
    assert (stats.hits, stats.misses, stats.sets) == (2, 1, 50)


async def test_get_many_checks_tags(face: Face, other: Face) -> None:
    """An entry whose tag was invalidated is not among what many give, whether its tags were known or not."""
    await face.set_many({"a": "1", "b": "2"}, tags=["letters"])
    await face.set("c", "3", tags=["others"])
    for each in (face, other, other):
        assert await each.get_many(["a", "b", "c"]) == {"a": "1", "b": "2", "c": "3"}
    await face.invalidate_tag("letters")
    for each in (face, other):
        assert await each.get_many(["a", "b", "c"]) == {"c": "3"}


@on_one_server
async def test_get_many_wants_several(face: Face) -> None:
    """One string is no list of keys."""
    with pytest.raises(UsageError, match="not one string"):
        await face.get_many("key")


async def test_set_many_with_ttl_and_tags(face: Face, server: Server) -> None:
    """All of many get the TTL and the tags."""
    await face.set_many({"a": "1", "b": "2"}, ttl=100, tags=["t"])
    assert all(90_000 < ttl_of(server, f"v1:{key}") <= 100_000 for key in "ab")
    assert (await face.invalidate_tag("t")).removed == 2
    await face.set_many({})


# --- delete -------------------------------------------------------------------------------------------------------


async def test_delete(face: Face, server: Server) -> None:
    """Deleting says whether there was a value, and leaves none."""
    await face.set("k", "v")
    await face.set("other", "v")
    assert [await face.delete("k"), await face.delete("k")] == [True, False]
    assert await face.get("k") is None
    assert server.keys() == [b"v1:other"]


# --- how long -----------------------------------------------------------------------------------------------------


async def test_ttl(face: Face, server: Server) -> None:
    """Every call that stores uses the TTL: the default for None, never more than 24 hours."""
    ttls: list[tuple[Any, int]] = [
        (None, 3_600_000),
        (100, 100_000),
        (9.5, 9_500),
        (timedelta(minutes=2), 120_000),
        (86_400, DAY),
        (86_401, DAY),
        (timedelta.max, DAY),
        (1e300, DAY),
    ]
    for ttl, milliseconds in ttls:
        await face.set("a", "1", ttl)
        await face.set_json("b", 2, ttl)
        await face.set_many({"c": "3"}, ttl)
        await face.get_or_load("d", face.loader(4), ttl)
        await face.set("e", "5", ttl, ["tag"])
        left = [ttl_of(server, f"v1:{key}") for key in "abcde"]
        assert all(milliseconds * 0.9 - 2000 < each <= milliseconds for each in left), (ttl, left)
        server.flush()


async def test_no_ttl_goes_beyond_a_day(face: Face, server: Server) -> None:
    """Not even the keys of a tag live longer than 24 hours."""
    await face.get_or_load("k", face.loader(1), timedelta(days=2), ["tag"])
    await face.invalidate_tag("another")
    assert all(0 < server.client().pttl(key) <= DAY for key in server.keys())  # noqa: SIM118


async def test_defaults_and_caps_can_be_lowered(make: Make, server: Server) -> None:
    """The default and the longest TTL are settings."""
    face = make(ttl=50, max_ttl=60)
    await face.set("a", "1")
    await face.set("b", "2", ttl=3600)
    assert 40_000 < ttl_of(server, "v1:a") <= 50_000 < ttl_of(server, "v1:b") <= 60_000


@on_one_server
async def test_wrong_ttls(face: Face, server: Server) -> None:
    """What is no length of time is refused, in every call, and nothing is stored."""
    loader = face.loader(1)
    calls: list[Callable[[Any], Awaitable[Any]]] = [
        lambda ttl: face.set("k", "v", ttl),
        lambda ttl: face.set_json("k", 1, ttl),
        lambda ttl: face.set_many({"k": "v"}, ttl),
        lambda ttl: face.get_or_load("k", loader, ttl),
        lambda ttl: face.get_or_load("k", loader, soft_ttl=ttl),
    ]
    for ttl in WRONG_TTLS:
        for call in calls:
            with pytest.raises(UsageError, match="ttl"):
                await call(ttl)
    assert (loader.calls, server.keys()) == (0, [])


@on_one_server
async def test_a_ttl_of_any_length_is_capped(face: Face, server: Server) -> None:
    """A whole number of seconds is capped, however large it is."""
    await face.set("k", "v", ttl=10**400)
    assert 0 < ttl_of(server, "v1:k") <= DAY


@on_one_server
async def test_a_wrong_ttl_is_found_on_a_hit_as_well(face: Face) -> None:
    """A wrong TTL does not wait for the first miss to be found."""
    await face.set_json("k", 1)
    for wrong in (-1, 0, math.inf):
        with pytest.raises(UsageError, match=f"ttl must be above 0 and finite, not {wrong}"):
            await face.get_or_load("k", face.loader(1), ttl=wrong)


async def test_what_has_expired_is_gone(face: Face) -> None:
    """After its TTL a value is a miss."""
    await face.set("k", "v", ttl=0.05)
    while await face.get("k") is not None:
        pass
    assert await face.get_many(["k"]) == {}


# --- how large ----------------------------------------------------------------------------------------------------


async def test_compression(make: Make, server: Server) -> None:
    """What is above the size is stored compressed, what is below is not, and both come back."""
    face = make(compress_above=1000)
    long, short = "neverstale " * 200, "neverstale " * 80
    await face.set_many({"long": long, "short": short})
    await face.set_json("json", [long])
    await face.get_or_load("loaded", face.loader([long]))
    sizes = {key: server.client().strlen(f"v1:{key}") for key in ("long", "short", "json", "loaded")}
    assert sizes["short"] > len(short)
    assert all(sizes[key] < len(long) / 5 for key in ("long", "json", "loaded"))
    assert await face.get_many(["long", "short"]) == {"long": long, "short": short}
    assert await face.get_json("json") == await face.get_json("loaded") == [long]


async def test_what_is_too_large_is_not_stored(make: Make, server: Server) -> None:
    """A value above the largest size is dropped and counted, and what was there before does not stay."""
    face = make(max_value_bytes=1000)
    await face.set_many({"k": "old", "other": "v"})
    await face.set("k", "x" * 1001)
    assert server.keys() == [b"v1:other"]
    assert (face.stats().sets, face.stats().sets_dropped) == (3, 1)


async def test_entries_are_ours(face: Face, server: Server) -> None:
    """What is stored begins with the magic of the format."""
    await face.set("k", "v")
    await until(lambda: server.client().get("v1:k").startswith(MAGIC))
