"""Something else under our keys: a miss, whatever it is, and never in the way of what is stored next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from neverstale.core.entry import HEAD, build, placeholder
from neverstale.testing.servers import Server
from tests.behaviour.faces import Face, until

pytestmark = pytest.mark.plants_keys("v1:k")

KEY = "v1:k"
ENTRY = build(
    codec=1,
    compression=0,
    fill_id=b"x" * 12,
    soft_at=0,
    cost=0,
    stamps=(("t", b"stamp"),),
    payload=b'{"a":1}',
)
UNTAGGED = build(codec=1, compression=0, fill_id=b"x" * 12, soft_at=0, cost=0, stamps=(), payload=b'{"a":1}')

#: Not ours by type, by the first bytes, or by what the payload is.
FOREIGN: dict[str, Callable[[Any], Any]] = {
    "a list": lambda redis: redis.rpush(KEY, "x"),
    "a hash": lambda redis: redis.hset(KEY, "field", "x"),
    "a set": lambda redis: redis.sadd(KEY, "x"),
    "a sorted set": lambda redis: redis.zadd(KEY, {"x": 1}),
    "a stream": lambda redis: redis.xadd(KEY, {"field": "x"}),
    "a number": lambda redis: redis.set(KEY, 5),
    "nothing": lambda redis: redis.set(KEY, ""),
    "JSON": lambda redis: redis.set(KEY, '{"a": 1}'),
    "the magic alone": lambda redis: redis.set(KEY, ENTRY[:2]),
    "half a header": lambda redis: redis.set(KEY, ENTRY[: HEAD // 2]),
    "zeros": lambda redis: redis.set(KEY, bytes(200)),
    "a tag that nobody stamped": lambda redis: redis.set(KEY, ENTRY),
    "a compression of tomorrow": lambda redis: redis.set(KEY, UNTAGGED[:4] + b"\x09" + UNTAGGED[5:]),
    "broken compression": lambda redis: redis.set(KEY, UNTAGGED[:4] + b"\x01" + UNTAGGED[5:]),
    "a format of tomorrow": lambda redis: redis.set(KEY, UNTAGGED[:1] + b"\x02" + UNTAGGED[2:]),
}
#: With our header, and what is behind it does not parse.
BROKEN: dict[str, Callable[[Any], Any]] = {
    "a header without its tags": lambda redis: redis.set(KEY, ENTRY[:HEAD]),
    "half of the tags": lambda redis: redis.set(KEY, ENTRY[: HEAD + 4]),
    "a kind of tomorrow": lambda redis: redis.set(KEY, UNTAGGED[:2] + b"X" + UNTAGGED[3:]),
}
MISS = object()


async def test_it_is_a_miss(face: Face, server: Server) -> None:
    """No read takes it for a value, and none fails because of it."""
    for what, plant in (FOREIGN | BROKEN).items():
        before = face.stats()
        plant(server.client())
        assert await face.get("k") is None, what
        assert await face.get_json("k", default=MISS) is MISS, what
        assert await face.get_json("k", dict[str, int], default=MISS) is MISS, what
        assert await face.get_many(["k"]) == {}, what
        assert face.stats().misses - before.misses == 4, what
        server.client().delete(KEY)
    assert face.stats().hits == 0


async def test_it_is_replaced(face: Face, server: Server) -> None:
    """A load takes its place, with a TTL."""
    for what, plant in FOREIGN.items():
        plant(server.client())
        loader = face.loader({"b": 2})
        assert [await face.get_or_load("k", loader) for _ in range(2)] == [{"b": 2}] * 2, what
        assert loader.calls == 1, what
        assert server.client().pttl(KEY) > 0, what
        server.client().delete(KEY)


@pytest.mark.parametrize("what", BROKEN)
async def test_what_is_broken_is_replaced(face: Face, server: Server, what: str) -> None:
    """A load takes the place of an entry whose header is whole and whose rest is not."""
    BROKEN[what](server.client())
    loader = face.loader({"b": 2})
    reader = face.start("get_or_load", "k", loader)
    try:
        await until(lambda: loader.calls, limit=2)
        assert await reader == {"b": 2}
        assert await face.get_json("k") == {"b": 2}
    finally:
        server.client().delete(KEY)  # lets it end
        await reader


async def test_it_is_overwritten_deleted_invalidated(face: Face, server: Server) -> None:
    """Setting, deleting and invalidating work as on any key."""
    for plant in (FOREIGN | BROKEN).values():
        plant(server.client())
        await face.set("k", "v")
        assert await face.get("k") == "v"
        plant(server.client().delete(KEY) and server.client())
        assert await face.delete("k") is True
        plant(server.client())
        assert (await face.invalidate_pattern("*")).removed == 1
        assert server.keys() == []


async def test_a_codec_of_tomorrow(face: Face, server: Server) -> None:
    """A payload in a codec that is not known here is a miss, though its bytes may look like JSON."""
    server.client().set(KEY, UNTAGGED[:3] + b"\x09" + UNTAGGED[4:])
    assert await face.get_json("k", default=MISS) is MISS


async def test_half_a_payload(face: Face, server: Server) -> None:
    """JSON that is cut off is a miss, and replaced."""
    for end in range(HEAD, len(UNTAGGED)):
        server.client().set(KEY, UNTAGGED[:end])
        assert await face.get_json("k", default=MISS) is MISS
        assert await face.get_or_load("k", face.loader(5)) == 5
        assert await face.get_json("k", default=MISS) == 5


async def test_a_lease_that_nobody_holds(face: Face, server: Server) -> None:
    """A lease that was left behind keeps readers waiting only until it expires."""
    server.client().set(KEY, placeholder(b"t" * 16), px=100)
    assert await face.get("k") is None
    assert await face.get_or_load("k", face.loader(1)) == 1
    assert await face.get_json("k") == 1
