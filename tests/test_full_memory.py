"""Redis out of memory, by each policy of docs/production.md: it costs loads, and never a stale read."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from neverstale import Cache
from neverstale.testing.servers import RedisServer, binaries, wait_until

#: Above what an empty server needs, and little enough to be filled at once.
MEMORY = 6_000_000
#: So many keys are looked at for each that is evicted: what is chosen is then what the policy says.
SAMPLES = "64"


@pytest.fixture(params=["redis", "valkey"])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    if request.param not in binaries():
        pytest.skip(f"no {request.param} server on this machine")
    with RedisServer.start(
        binaries()[request.param], "--maxmemory", str(MEMORY), "--maxmemory-samples", SAMPLES
    ) as server:
        yield server


@pytest.fixture
def cache(server: RedisServer) -> Iterator[Cache]:
    # Reads wait longer than in production: a busy machine is not what this is about.
    with Cache.from_url(server.url, namespace="shop", timeout=5, compress_above=1_000_000) as cache:
        yield cache


def choose(server: RedisServer, policy: str) -> None:
    server.client().config_set("maxmemory-policy", policy)


def fill(cache: Cache, prefix: str = "filler:", count: int = MEMORY // 10_000) -> None:
    """Set entries of 10 kB; as many as there is memory for unless told else."""
    view = cache.with_prefix(prefix)
    for number in range(count):
        view.set(str(number), "x" * 10_000, ttl=3600)


def grow_old(server: RedisServer, policy: str) -> None:
    """Wait until what is there is older than what is still to come: Redis tells the age of keys in whole seconds."""
    client = server.client()
    if policy.endswith("lru"):

        def old() -> bool:
            ages = [client.object("idletime", key) for key in server.keys()]  # noqa: SIM118
            return all(age is None or age >= 2 for age in ages)  # None: evicted meanwhile

        wait_until(old, "keys that are old")


def test_without_eviction_hits_go_on_and_invalidations_hold(server: RedisServer, cache: Cache) -> None:
    """With `noeviction` nothing new is stored; what is there is served, and no longer once it is invalidated."""
    choose(server, "noeviction")
    names = ("by tag", "by soft tag", "by key", "by pattern", "kept")
    for name in names:
        cache.set(name, "old", ttl=3600, tags=[name])
    fill(cache)
    assert [cache.get(name) for name in names] == ["old"] * 5
    fillers = cache.with_prefix("filler:")
    assert fillers.get("0") is not None
    assert cache.stats()["filler:"].sets_dropped > 0
    for _ in range(2):
        assert cache.get_or_load("new", lambda: 7) == 7
    assert (cache.stats()[""].loads, cache.stats()[""].fills) == (2, 0)
    cache.invalidate_tag("by tag")
    cache.invalidate_tag("by soft tag", soft=True)
    cache.invalidate_key("by key")
    cache.invalidate_pattern("by pattern*")
    assert [cache.get(name) for name in names] in (
        [None, None, None, None, "old"],
        [None, "old", None, None, "old"],  # soft: once more
    )


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu", "volatile-lru", "volatile-lfu"])
def test_with_good_policies_what_is_read_stays(server: RedisServer, cache: Cache, policy: str) -> None:
    """An entry that is read while others come is not evicted, nor is the stamp of its tag."""
    choose(server, policy)
    cache.set("hot", "here", ttl=3600, tags=["tag"])
    fill(cache, count=300)  # half of it
    grow_old(server, policy)
    for _ in range(200):
        assert cache.get("hot") == "here"
    for number in range(20):
        fill(cache, f"{number}:", 20)
        assert cache.get("hot") == "here"
    assert server.client().info("stats")["evicted_keys"] > 0
    cache.invalidate_tag("tag")
    assert cache.get("hot") is None


@pytest.mark.parametrize(("policy", "stored"), [("allkeys-lru", True), ("volatile-ttl", False)])
def test_by_ttl_leases_go_first(server: RedisServer, cache: Cache, policy: str, stored: bool) -> None:
    """With `volatile-ttl` a load during which memory is needed is not stored; else it is."""
    choose(server, policy)
    fill(cache)
    grow_old(server, policy)

    def load() -> int:
        fill(cache, "meanwhile:", 100)
        return 7

    assert cache.get_or_load("loaded", load, ttl=3600) == 7
    assert cache.stats()[""].fills == stored
    assert cache.stats()[""].fills_dropped == (not stored)


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-random", "volatile-random", "volatile-ttl"])
def test_whatever_is_evicted_nothing_is_stale(server: RedisServer, cache: Cache, policy: str) -> None:
    """Entries, stamps and SETs are evicted all the time, and no read after an invalidation is given what was before."""
    choose(server, policy)
    fill(cache)
    truth = dict.fromkeys(range(40), 0)
    chance = random.Random(2)

    def read(number: int) -> str:
        def load() -> str:
            return f"{truth[number]}:{'x' * 20_000}"

        return cache.get_or_load(str(number), load, tags=[f"tag:{number}"], type=str)

    for step in range(400):
        number = chance.randrange(40)
        if step % 5 == 0:
            truth[number] += 1
            cache.invalidate_tag(f"tag:{number}")
            fill(cache, f"{step}:", 2)
        assert read(number).partition(":")[0] == str(truth[number])
    assert server.client().info("stats")["evicted_keys"] > 0
