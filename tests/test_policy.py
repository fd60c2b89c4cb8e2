"""Decisions of a reader: what it may do with what it found, for how long things live, and what it remembers."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neverstale import Cache
from neverstale.core.entry import build, placeholder
from neverstale.core.policy import Memory, State, examine, tag_ttl, valid
from neverstale.lifetime import DAY_MS
from neverstale.testing.servers import RedisServer

NOW = 1_000_000
TAGS = st.lists(st.sampled_from("abcd"), max_size=4, unique=True)
STAMP = st.sampled_from([b"1", b"2"])


def value(stamps: dict[str, bytes] | None = None, soft_at: int = 0) -> bytes:
    return build(
        codec=0,
        compression=0,
        fill_id=b"x" * 12,
        soft_at=soft_at,
        cost=0,
        stamps=tuple((stamps or {}).items()),
        payload=b"",
    )


@pytest.mark.parametrize(
    ("raw", "stamps", "state"),
    [
        (None, {}, State.ABSENT),
        (b"", {}, State.ABSENT),
        (b"something else", {"t": b"1"}, State.ABSENT),
        (placeholder(b"t" * 16), {}, State.LEASED),
        (placeholder(b"t" * 16), {"t": b"1"}, State.LEASED),
        (value(), {}, State.FRESH),
        (value(), {"t": None}, State.FRESH),
        (value({"t": b"1"}), {"t": b"1"}, State.FRESH),
        (value({"t": b"1"}), {"t": b"1", "u": b"2"}, State.FRESH),
        (value({"t": b"1"}), {"t": b"2"}, State.INVALID),
        (value({"t": b"1"}), {"t": None}, State.INVALID),
        (value({"t": b"1"}), {"t": b""}, State.INVALID),
        (value({"t": b""}), {"t": None}, State.INVALID),
        (value({"t": b"1"}), {}, State.UNSURE),
        (value({"t": b"1", "u": b"1"}), {"t": b"1"}, State.UNSURE),
        (value({"t": b"1", "u": b"1"}), {"t": b"2"}, State.INVALID),
        (value({"t": b"1", "u": b"1"}), {"t": b"1", "u": b"2"}, State.INVALID),
        (value(soft_at=NOW + 1), {}, State.FRESH),
        (value(soft_at=NOW), {}, State.STALE),
        (value({"t": b"1"}, soft_at=1), {"t": b"1"}, State.STALE),
        (value({"t": b"1"}, soft_at=1), {"t": b"2"}, State.INVALID),
        (value({"t": b"1"}, soft_at=1), {}, State.UNSURE),
    ],
)
def test_examine(raw: bytes | None, stamps: dict[str, bytes | None], state: State) -> None:
    """An entry is valid only while each of its own tags has the stamp that it was loaded under."""
    seen = examine(raw, tuple(stamps), tuple(stamps.values()), NOW)
    assert seen.state is state
    assert seen.stamps == stamps
    assert seen.head == (raw or b"")[:56]


@given(
    st.dictionaries(st.sampled_from("abcd"), STAMP),
    st.dictionaries(st.sampled_from("abcd"), st.none() | STAMP),
    st.integers(0, 2 * NOW),
)
def test_never_served_unless_every_stamp_stands(
    own: dict[str, bytes], found: dict[str, bytes | None], soft_at: int
) -> None:
    """Whatever was brought along, a value is served just where all of its own stamps are among it, unchanged."""
    state = examine(value(own, soft_at), tuple(found), tuple(found.values()), NOW).state
    stands = all(found.get(tag) == stamp for tag, stamp in own.items())
    assert (state in (State.FRESH, State.STALE)) == stands == valid(own.items(), found)
    if stands:
        assert (state is State.STALE) == (0 < soft_at <= NOW)


# --- how long -----------------------------------------------------------------------------------------------------


@given(st.integers(1, DAY_MS), st.integers(0, 3_600_000))
def test_tag_ttl(ttl_ms: int, lease_ms: int) -> None:
    """A tag outlives its entry and the load before it, up to a day."""
    ttl = tag_ttl(ttl_ms, lease_ms)
    assert ttl <= DAY_MS
    assert ttl > ttl_ms + lease_ms or ttl == DAY_MS


@pytest.fixture
def cache(redis_server: RedisServer) -> Iterator[Cache]:
    with Cache.from_url(redis_server.url, timeout=5.0, max_ttl=40_000.0, ttl=20_000.0) as cache:
        yield cache


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ttl=st.one_of(
        st.none(),
        st.integers(1, 10**9),
        st.floats(0.5, 1e12, allow_nan=False),
        st.timedeltas(min_value=timedelta(seconds=1), max_value=timedelta(days=10_000)),
    )
)
def test_ttls_in_redis(cache: Cache, redis_server: RedisServer, ttl: Any) -> None:
    """What is stored lives as long as was asked for, at most as long as is allowed, and its tag at least as long."""
    seconds = 20_000.0 if ttl is None else ttl.total_seconds() if isinstance(ttl, timedelta) else float(ttl)
    wanted = min(seconds, 40_000.0) * 1000
    cache.set("k", "v", ttl, tags=["t"])
    entry, members, stamp = (
        redis_server.client().pttl(key) for key in ("v1:k", "cache:tag:{t}", "cache:tag:{t}:stamp")
    )
    assert wanted - 400 < entry <= wanted + 1
    assert DAY_MS >= members >= entry
    assert DAY_MS >= stamp >= entry


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ttls=st.lists(st.integers(1, 40_000), min_size=1, max_size=6))
def test_the_longest_entry_decides(cache: Cache, redis_server: RedisServer, ttls: list[int]) -> None:
    """In whatever order entries come and whatever calls store them, a tag outlives the longest."""
    redis_server.flush()
    for number, ttl in enumerate(ttls):
        if number % 2:
            cache.set(f"k{number}", "v", ttl, tags=["t"])
        else:
            cache.get_or_load(f"k{number}", lambda: 1, ttl, tags=["t"])
    for key in ("cache:tag:{t}", "cache:tag:{t}:stamp"):
        assert max(ttls) * 1000 < redis_server.client().pttl(key) <= DAY_MS


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ttl=st.floats(1e-9, 0.0009, exclude_min=True))
def test_the_shortest_ttl(cache: Cache, redis_server: RedisServer, ttl: float) -> None:
    """What is shorter than Redis can tell lives as short as it can, and not for ever."""
    cache.set("k", "v", ttl)
    assert redis_server.client().pttl("v1:k") in (-2, 0, 1)


# --- which tags ---------------------------------------------------------------------------------------------------


def test_memory() -> None:
    """The tags that were seen last are recalled with those that are given, each once."""
    memory = Memory()
    assert memory.recall("k", ()) == ()
    memory.remember("k", ("a", "b"))
    assert memory.recall("k", ()) == ("a", "b")
    assert memory.recall("k", ("b", "c")) == ("b", "c", "a")
    assert memory.recall("other", ("c",)) == ("c",)
    memory.remember("k", ("c",))
    assert memory.recall("k", ()) == ("c",)
    memory.remember("k", ())
    assert memory.recall("k", ()) == ()
    assert len(memory) == 0


def test_memory_is_bounded() -> None:
    """The oldest are forgotten; what was remembered again counts as new."""
    memory = Memory(limit=3)
    for key in ("a", "b", "c"):
        memory.remember(key, (key,))
    memory.remember("a", ("x",))
    memory.remember("d", ("d",))
    assert [memory.recall(key, ()) for key in "abcd"] == [("x",), (), ("c",), ("d",)]


def test_memory_is_for_threads() -> None:
    """Threads that remember at the same time do not disturb each other, and the bound holds."""
    memory = Memory(limit=50)

    def work(name: int) -> None:
        for i in range(3000):
            memory.remember(f"{name}:{i % 70}", (str(i),))
            memory.recall(f"{name}:{i % 70}", ("t",))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    assert len(memory) <= 50 + 4
