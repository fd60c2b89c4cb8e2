"""The bytes of entries: what is built is parsed back, and any other bytes are a miss."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neverstale import Cache
from neverstale.core.entry import (
    FILL_ID_BYTES,
    HEAD,
    MAGIC,
    NO_TOKEN,
    TOKEN_BYTES,
    build,
    parse,
    placeholder,
    token_of,
)
from neverstale.testing.servers import RedisServer

TAGS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=64)
STAMPS = st.lists(st.tuples(TAGS, st.binary(max_size=255)), max_size=5).map(tuple)
VALUES: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "codec": st.integers(0, 255),
        "compression": st.integers(0, 255),
        "fill_id": st.binary(min_size=FILL_ID_BYTES, max_size=FILL_ID_BYTES),
        "soft_at": st.integers(0, 2**64 - 1),
        "hard_at": st.integers(0, 2**64 - 1),
        "cost": st.integers(0, 2**40),
        "stamps": STAMPS,
        "payload": st.binary(max_size=200),
    }
)
#: Bytes of all degrees of likeness: none, our first bytes, a whole entry, one that was cut or changed.
ENTRIES = VALUES.map(lambda value: build(**value))
CUT = st.builds(lambda raw, end: raw[: end % (len(raw) + 1)], ENTRIES, st.integers(0))
CHANGED = st.builds(
    lambda raw, at, byte: raw[: at % len(raw)] + bytes((byte,)) + raw[at % len(raw) + 1 :],
    ENTRIES,
    st.integers(0),
    st.integers(0, 255),
)
BEGUN = st.builds(
    lambda kind, rest: MAGIC + kind + rest, st.sampled_from([b"V", b"L", b"X"]), st.binary(max_size=120)
)
BYTES = st.one_of(st.binary(max_size=120), BEGUN, ENTRIES, CUT, CHANGED)

#: An entry as this release writes it: later ones read it, or change the version in the first bytes.
KEPT = (
    "ce01 56 01 00 00"  # magic, V, JSON, not compressed, reserved
    "66696c6c2d69642d31323334"  # fill-id-1234
    "00000000000000000000000000000000 0000000000000000"  # no lease
    "0000019b76daa800 0000019b76daabe8 000004d2 0002"  # 2026-01-01, a second later, 1234 microseconds, two tags
    "0001 74 02 7331 0002 c3a9 02 7332"
    "7b7d"
)


@given(VALUES)
def test_round_trip(value: dict[str, Any]) -> None:
    """What is built is parsed back, and says nothing of a lease."""
    raw = build(**value)
    entry = parse(raw)
    assert entry is not None
    found = {
        "codec": entry.codec,
        "compression": entry.compression,
        "fill_id": raw[6:18],
        "soft_at": entry.soft_at,
        "hard_at": entry.hard_at,
        "cost": entry.cost,
        "stamps": entry.stamps,
        "payload": bytes(entry.payload),
    }
    assert found == {**value, "cost": min(value["cost"], 2**32 - 1)}
    assert (entry.is_lease, entry.token, token_of(raw[:HEAD])) == (False, NO_TOKEN, None)


@given(st.binary(min_size=TOKEN_BYTES, max_size=TOKEN_BYTES).filter(lambda token: token != NO_TOKEN))
def test_round_trip_of_a_lease(token: bytes) -> None:
    """A lease is parsed back, with its token."""
    raw = placeholder(token)
    entry = parse(raw)
    assert entry is not None
    assert (entry.is_lease, entry.token, token_of(raw[:HEAD]), len(raw)) == (True, token, token, 64)


def test_the_payload_is_not_copied() -> None:
    """Parsing gives a view into the bytes that came from Redis."""
    raw = build(codec=0, compression=0, fill_id=b"x" * 12, soft_at=0, cost=0, stamps=(), payload=b"payload")
    entry = parse(raw)
    assert entry is not None
    assert entry.payload.obj is raw
    assert bytes(entry.payload) == b"payload"


def test_bytes_of_this_release() -> None:
    """What this release stores stays readable."""
    raw = build(
        codec=1,
        compression=0,
        fill_id=b"fill-id-1234",
        soft_at=1767225600000,
        hard_at=1767225601000,
        cost=1234,
        stamps=(("t", b"s1"), ("é", b"s2")),
        payload=b"{}",
    )
    assert raw == bytes.fromhex(KEPT)
    entry = parse(raw)
    assert entry is not None
    assert (entry.stamps, bytes(entry.payload)) == ((("t", b"s1"), ("é", b"s2")), b"{}")


@given(BYTES)
def test_any_bytes(raw: bytes) -> None:
    """Any bytes are parsed, or are nothing of ours; none raises."""
    entry = parse(raw)
    assert entry is None or (raw[:2] == MAGIC and entry.raw is raw and len(raw) >= HEAD)
    token_of(raw)


@given(ENTRIES, st.data())
def test_cut_bytes(raw: bytes, data: st.DataObject) -> None:
    """An entry that is cut in its header or its tags is nothing of ours."""
    entry = parse(raw)
    assert entry is not None
    begin = len(raw) - len(entry.payload)
    assert parse(raw[: data.draw(st.integers(0, begin - 1))]) is None


def test_nothing() -> None:
    """No bytes are no entry."""
    assert parse(None) is None
    assert parse(b"") is None


@pytest.mark.parametrize("count", [1, 2, 65535])
def test_more_tags_than_there_are(count: int) -> None:
    """A number of tags that are not there does not make a parser read on."""
    raw = bytearray(
        build(codec=0, compression=0, fill_id=b"x" * 12, soft_at=0, cost=0, stamps=(), payload=b"\xff" * 64)
    )
    raw[62:64] = struct.pack(">H", count)
    assert parse(bytes(raw)) is None


# --- through a real server ----------------------------------------------------------------------------------------


@pytest.fixture
def cache(redis_server: RedisServer) -> Iterator[Cache]:
    with Cache.from_url(redis_server.url, timeout=5.0, wait_limit=0.01, lease_ttl=0.1) as cache:
        yield cache


def loops(raw: bytes) -> bool:
    """Tell what `get_or_load` asks for again and again, see test_what_is_broken_is_replaced in the behaviour suite."""
    return len(raw) >= HEAD and raw[:2] == MAGIC and parse(raw) is None


@pytest.mark.plants_keys("v1:k")
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=BYTES)
def test_any_bytes_in_redis(cache: Cache, redis_server: RedisServer, raw: bytes) -> None:
    """Whatever stands in Redis, reads give a value or a miss, a load takes its place, and nothing raises."""
    client = redis_server.client()
    client.set("v1:k", raw)
    text, value = cache.get("k"), cache.get_json("k", default=LookupError)
    assert cache.get_many(["k"]) == ({} if text is None else {"k": text})
    if parse(raw) is None:
        assert (text, value) == (None, LookupError)
    if loops(raw):
        return
    loaded = cache.get_or_load("k", lambda: "loaded")
    assert loaded == ("loaded" if value is LookupError else value)
    if parse(raw) is None:
        assert cache.get_json("k") == "loaded"
        assert 0 < client.pttl("v1:k") <= 3_600_000


@pytest.mark.plants_keys("cache:tag:*")
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=st.one_of(st.binary(max_size=60), st.from_regex(rb"[0-9a-f]{0,20}@[0-9]{0,25}\Z")))
def test_any_bytes_as_a_stamp(cache: Cache, redis_server: RedisServer, raw: bytes) -> None:
    """Whatever stands in the place of a stamp, what is stored with the tag is read, and invalidated with it."""
    redis_server.client().set("cache:tag:{t}:stamp", raw)
    cache.invalidate_key("k")
    assert [cache.get_or_load("k", lambda: 1, tags=["t"]) for _ in range(2)] == [1, 1]
    assert cache.get_json("k") == 1
    assert cache.invalidate_tag("t").removed == 1
    assert cache.get_json("k") is None
