"""Redis away, slow, and back: reads go to their loaders in time, invalidations raise, and all works again at once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from neverstale import InvalidationError, InvalidationEvent, RedisUnavailable
from neverstale.core.calls import SOURCES
from neverstale.core.entry import LEASE, MAGIC
from neverstale.testing.servers import RedisCluster, RedisServer, free_port, frozen, wait_until
from tests.behaviour.faces import KINDS, Face, Faces, Kind, until
from tests.behaviour.network import Network

#: A read takes two time limits of 50 ms where it finds every batch under way; the rest is for a busy machine.
BOUND = 1.0
#: What invalidations may take: longer than reads, so that they arrive, and in these tests not too long.
PATIENT = 0.2
OUTAGES = ("frozen", "killed", "refused")


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Errors by the thousand are what these tests are about; the log of a failing one would be of nothing else."""
    caplog.set_level(logging.CRITICAL, "neverstale")


@pytest.fixture
async def faces(kind: Kind, own_server: RedisServer) -> AsyncIterator[Faces]:
    made = Faces(kind, own_server.url)
    yield made
    own_server.revive()
    await made.close()


def fast(faces: Faces, url: str = "", **options: Any) -> Face:
    """Make a cache with short time limits, but not so short that a busy machine is taken for an outage."""
    return faces.make(url, **{"timeout": 0.2, "patient_timeout": PATIENT, **options})


#: The limit that users have by default, for the tests of how long a read takes.
BY_DEFAULT: dict[str, Any] = {"timeout": 0.05}


@contextlib.contextmanager
def away(server: RedisServer, how: str) -> Iterator[None]:
    """Have a server away for the length of a block."""
    if how == "frozen":
        with frozen(server):
            yield
    else:
        server.kill()
        try:
            yield
        finally:
            server.revive()


@contextlib.contextmanager
def within(seconds: float, what: str) -> Iterator[None]:
    """Fail if the block takes longer, and say how long it took."""
    began = time.perf_counter()
    yield
    took = time.perf_counter() - began
    print(f"{what}: {took * 1000:.0f} ms")
    assert took < seconds, what


def address(server: RedisServer, how: str) -> str:
    return f"redis://127.0.0.1:{free_port()}" if how == "refused" else server.url


# --- reads and writes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", OUTAGES)
async def test_each_call(faces: Faces, own_server: RedisServer, how: str) -> None:
    """A get is a miss, a set is dropped and counted, a load is loaded, each in time and without an exception."""
    face = fast(faces, address(own_server, how), **BY_DEFAULT)
    await face.set("k", "v")
    before = face.stats()
    with contextlib.nullcontext() if how == "refused" else away(own_server, how):
        calls: dict[str, tuple[Callable[[], Awaitable[Any]], Any]] = {
            "get": (lambda: face.get("k"), None),
            "get_json": (lambda: face.get_json("k", default="a miss"), "a miss"),
            "get_many": (lambda: face.get_many(["k", "l"]), {}),
            "get_or_load": (
                lambda: face.get_or_load("k", face.loader("loaded"), tags=["t"], soft_ttl=1),
                "loaded",
            ),
            "set": (lambda: face.set("k", "new"), None),
            "set with tags": (lambda: face.set("k", "new", tags=["t"]), None),
            "set_many": (lambda: face.set_many({"k": "new", "l": "new"}), None),
            "ping": (face.ping, False),
        }
        for name, (call, expected) in calls.items():
            with within(BOUND, f"{faces.kind}, {how}: {name}"):
                assert await call() == expected
        with within(BOUND, f"{faces.kind}, {how}: health"):
            assert (await face.health()).redis != "ok"
    stats = face.stats()
    assert stats.misses - before.misses == 5
    assert (stats.sets - before.sets, stats.sets_dropped - before.sets_dropped) == (4, 4)
    assert (stats.loads, stats.fills, stats.fills_dropped) == (1, 0, 1)
    assert stats.errors - before.errors >= 7


@pytest.mark.parametrize("how", OUTAGES)
async def test_invalidations_raise(faces: Faces, own_server: RedisServer, how: str) -> None:
    """An invalidation that could not reach Redis raises, and names what may still be served."""
    face = fast(faces, address(own_server, how))
    await face.set("k", "v", tags=["t"])
    calls: dict[str, tuple[Callable[[], Awaitable[Any]], tuple[str, ...]]] = {
        "key": (lambda: face.invalidate_key("k"), ("k",)),
        "pattern": (lambda: face.invalidate_pattern("k*"), ("k*",)),
        "tag": (lambda: face.invalidate_tags("t", "u"), ("t", "u")),
    }
    with contextlib.nullcontext() if how == "refused" else away(own_server, how):
        for what, (call, names) in calls.items():
            with (
                within(2 * PATIENT + BOUND, f"{faces.kind}, {how}: invalidating a {what}"),
                pytest.raises(InvalidationError, match=names[0].replace("*", r"\*")) as caught,
            ):
                await call()
            assert (caught.value.kind, caught.value.names) == (what, names)
            assert isinstance(caught.value, RedisUnavailable)
            assert caught.value.__cause__ is not None
        with pytest.raises(InvalidationError):
            await face.delete("k")
    assert face.stats().invalidations == 0


@pytest.mark.parametrize("how", ["frozen", "killed"])
async def test_back_again(faces: Faces, own_server: RedisServer, how: str) -> None:
    """As soon as Redis is back everything works again, with nothing to be done."""
    face = fast(faces)
    await face.set("kept", "v")
    loader = face.loader(1)
    with away(own_server, how):
        for _ in range(2):
            await asyncio.gather(*(face.get_or_load(f"k{i}", loader) for i in range(20)))
            await face.get("kept")
        with pytest.raises(InvalidationError):
            await face.invalidate_key("k")
    wait_until(own_server.client().ping, "a server that answers")
    calls = loader.calls
    assert await face.get("kept") == ("v" if how == "frozen" else None)
    await face.set("new", "v")
    assert await face.get("new") == "v"
    assert [await face.get_or_load("fresh", loader, tags=["t"]) for _ in range(2)] == [1, 1]
    assert loader.calls == calls + 1
    assert (await face.invalidate_tag("t")).removed == 1
    assert await face.ping()


async def test_one_load_at_a_time(faces: Faces, own_server: RedisServer) -> None:
    """While Redis is away a key is loaded by one reader at a time, and nobody joins a load that has begun."""
    face = fast(faces)
    loader = face.loader("first", "second", "third", held=True)
    with away(own_server, "killed"):
        first = face.start("get_or_load", "k", loader)
        await loader.begun()
        others = [face.start("get_or_load", "k", loader) for _ in range(10)]
        await until(lambda: face.stats().misses == 11)
        await asyncio.sleep(0.05)  # that no other load begins cannot be awaited
        assert loader.calls == 1
        loader.let_go()
        assert await first == "first"
        # All who came while it ran had the next, which began after they came.
        assert await asyncio.gather(*others) == ["second"] * 10
        assert (loader.calls, loader.most_at_once) == (2, 1)
        assert await face.get_or_load("k", loader) == "third"


async def test_keys_are_loaded_beside_each_other(faces: Faces, own_server: RedisServer) -> None:
    """While Redis is away the load of one key does not keep another's waiting."""
    face = fast(faces)
    slow, quick = face.loader("slow", held=True), face.loader("quick")
    with away(own_server, "killed"):
        reader = face.start("get_or_load", "slow", slow)
        await slow.begun()
        with within(BOUND, f"{faces.kind}: another key"):
            assert await face.get_or_load("quick", quick) == "quick"
        slow.let_go()
        assert await reader == "slow"


async def test_a_loader_that_fails(faces: Faces, own_server: RedisServer) -> None:
    """While Redis is away a loader's exception comes as it is, to all who share its load."""
    face = fast(faces)
    error = LookupError("no product 5")
    loader = face.loader("first", error, held=True)
    with away(own_server, "killed"):
        first = face.start("get_or_load", "k", loader)
        await loader.begun()
        others = [face.start("get_or_load", "k", loader) for _ in range(5)]
        await until(lambda: face.stats().misses == 6)
        await asyncio.sleep(0.05)  # until each has taken its turn
        loader.let_go()
        assert await first == "first"
        assert await asyncio.gather(*others, return_exceptions=True) == [error] * 5
        assert loader.calls == 2


async def test_many_readers(faces: Faces, own_server: RedisServer) -> None:
    """A hundred readers of a frozen Redis have their values in the time of one, not one after the other."""
    face = fast(faces, **BY_DEFAULT)
    await face.get_many(["k"])
    loader = face.loader(1)
    with frozen(own_server):
        for _ in range(2):
            # One after the other they would take five seconds; a hundred threads have much to do on a busy machine.
            with within(2.5, f"{faces.kind}: 100 readers of a frozen Redis"):
                keys = [f"k{i % 50}" for i in range(100)]
                assert await asyncio.gather(*(face.get_or_load(key, loader) for key in keys)) == [1] * 100


async def test_gone_while_a_load_runs(faces: Faces, own_server: RedisServer) -> None:
    """A load that began with Redis and ends without gives its value to all who wait, in time."""
    face = fast(faces)
    loader = face.loader(1, held=True)
    readers = [face.start("get_or_load", "k", loader, tags=["t"])]
    await loader.begun()
    readers += [face.start("get_or_load", "k", face.loader(2), tags=["t"]) for _ in range(5)]
    await until(lambda: face.stats().waits == 5)
    with frozen(own_server), within(BOUND, f"{faces.kind}: Redis frozen during a load"):
        loader.let_go()
        found = await asyncio.gather(*readers)
    # Those who waited cannot know whether the tag still stands: they loaded for themselves.
    assert found[0] == 1
    assert set(found[1:]) <= {1, 2}


async def test_restarted_while_a_load_runs(faces: Faces, own_server: RedisServer) -> None:
    """A restart of Redis takes the lease away: the value is given out, and not stored."""
    face = fast(faces)
    loader = face.loader("old", held=True)
    reader = face.start("get_or_load", "k", loader, tags=["t"])
    await loader.begun()
    own_server.restart()
    await face.invalidate_tag("t")
    loader.let_go()
    assert await reader == "old"
    assert await face.get_json("k", default="a miss") == "a miss"
    assert await face.get_or_load("k", face.loader("new")) == "new"


async def test_what_was_invalidated_stays_so(faces: Faces, own_server: RedisServer) -> None:
    """An invalidation that arrived before the outage is not forgotten in it."""
    face = fast(faces)
    await face.set_many({"a": "old", "b": "old"}, tags=["t"])
    await face.get_many(["a", "b"])
    await face.invalidate_tag("t")
    with frozen(own_server):
        assert await face.get("a") is None
    await until(own_server.client().ping)
    assert await face.get_many(["a", "b"]) == {}


async def test_a_refresh_while_redis_goes_away(faces: Faces, own_server: RedisServer) -> None:
    """A refresh that finds no Redis disturbs nobody, and the next one after the outage works."""
    face = fast(faces)
    await face.get_or_load("k", face.loader("old"), soft_ttl=0.02)
    while face.stats().stale_hits == 0:
        await face.get_json("k")
    loader = face.loader("new", held=True)
    assert await face.get_or_load("k", loader, soft_ttl=60) == "old"
    await loader.begun()
    with frozen(own_server):
        loader.let_go()
        await until(lambda: face.stats().fills_dropped == 1)
    await until(own_server.client().ping)
    # The fill may have arrived late, or the lease may still stand: the old value or the new, never a miss.
    assert await face.get_json("k") in ("old", "new")


# --- late, and not lost -------------------------------------------------------------------------------------------


@pytest.fixture
def network(own_server: RedisServer) -> Iterator[Network]:
    for script in SOURCES.values():  # so that what is late does its work when it arrives
        own_server.client().script_load(script)
    with Network(own_server.port) as network:
        yield network


@pytest.mark.parametrize("invalidate", ["invalidate_key", "invalidate_pattern"])
async def test_a_set_that_arrives_late(faces: Faces, network: Network, invalidate: str) -> None:
    """A value whose `set` was given up never comes back after an invalidation that was called later."""
    face = fast(faces, network.url)
    await face.set("k", "first")
    await face.invalidate_key("k")
    network.hold(b"old value")
    await face.set("k", "old value")
    assert (network.holds(), face.stats().sets_dropped) == (True, 1)
    await face.call(getattr(face.cache, invalidate), "k")
    assert await face.get("k") is None
    network.deliver()
    await asyncio.sleep(0.02)  # for the server to do it
    assert await face.get("k") is None


async def test_a_set_with_tags_that_arrives_late(faces: Faces, network: Network) -> None:
    """A value with a tag whose `set` was given up does not come back after an invalidation of the tag."""
    face = fast(faces, network.url)
    await face.set("k", "first", tags=["t"])
    network.hold(b"old value")
    await face.set("k", "old value", tags=["t"])
    await face.invalidate_tag("t")
    network.deliver()
    await asyncio.sleep(0.02)  # for the server to do it
    assert await face.get("k") is None


async def test_many_entries_that_are_long_on_their_way(
    faces: Faces, network: Network, own_server: RedisServer
) -> None:
    """The more entries are set at once, the longer they may take: what holds their places waits for them."""
    face = faces.make(network.url)
    network.hold(b"value")
    setting = face.start("set_many", {f"k{number}": "value" for number in range(3000)})
    await until(network.holds)
    assert own_server.client().pttl("v1:k0") > 6000
    network.deliver()
    await setting
    assert face.stats().sets_dropped == 0


async def test_a_fill_that_arrives_late(faces: Faces, network: Network) -> None:
    """A loaded value that was sent and given up does not come back after an invalidation."""
    face = fast(faces, network.url)
    await face.get("another")  # so that the connection is there
    network.hold(b"old value")
    assert await face.get_or_load("k", face.loader("old value")) == "old value"
    assert network.holds()
    await face.invalidate_key("k")
    network.deliver()
    await asyncio.sleep(0.02)  # for the server to do it
    assert await face.get("k") is None
    assert await face.get_or_load("k", face.loader("new value")) == "new value"


async def test_a_lease_that_arrives_late(faces: Faces, network: Network, own_server: RedisServer) -> None:
    """A lease that was asked for and given up, and placed all the same, holds readers up for `wait_limit` at most."""
    face, other = fast(faces, network.url), fast(faces, wait_limit=0.2)
    await face.get("another")  # so that the connection is there
    network.hold(MAGIC + LEASE)
    assert await face.get_or_load("k", face.loader("first")) == "first"
    assert network.holds()
    network.deliver()
    await until(lambda: own_server.client().exists("v1:k"))
    with within(BOUND, f"{faces.kind}: a reader after a lease that nobody holds"):
        assert await other.get_or_load("k", other.loader("second")) == "second"


# --- a cluster of which a part is away ----------------------------------------------------------------------------


def spread(cluster: RedisCluster) -> dict[int, list[str]]:
    """Return some keys of each primary, by its port."""
    keys: dict[int, list[str]] = {node.port: [] for node in cluster.primaries()}
    for number in range(60):
        keys[cluster.primary_of(f"v1:k{number}").port].append(f"k{number}")
    return keys


def beside(cluster: RedisCluster, keys: dict[int, list[str]], port: int) -> str:
    """Take a key that is not on this primary, nor is what the next version of an application calls so."""
    found = next(
        key
        for other, several in keys.items()
        for key in several
        if port not in (other, cluster.primary_of(f"v2:{key}").port)
    )
    for several in keys.values():
        if found in several:
            several.remove(found)
    return found


@pytest.fixture
async def cluster_faces(kind: Kind, redis_cluster: RedisCluster) -> AsyncIterator[Faces]:
    made = Faces(kind, redis_cluster.url)
    yield made
    redis_cluster.revive()
    await made.close()


@pytest.mark.parametrize("number", range(3))
async def test_one_primary_is_frozen(cluster_faces: Faces, redis_cluster: RedisCluster, number: int) -> None:
    """Keys of the other primaries are served and set as ever; those of the frozen one are misses."""
    face = fast(cluster_faces)
    keys = spread(redis_cluster)
    await face.set_many({key: "v" for found in keys.values() for key in found})
    victim = redis_cluster.primaries()[number]
    theirs = keys.pop(victim.port)
    ours = [key for found in keys.values() for key in found]
    # Shorter than the time after which the cluster would take the node for dead.
    with frozen(victim):
        began = time.perf_counter()
        for key in ours:
            assert await face.get(key) == "v"
        assert await face.get(theirs[0]) is None
        assert await face.get_or_load(theirs[1], face.loader("loaded")) == "loaded"
        await face.set(ours[0], "new")
        assert await face.get(ours[0]) == "new"
        took = time.perf_counter() - began
    print(f"{cluster_faces.kind}: {len(ours)} hits, 2 misses of a frozen primary: {took * 1000:.0f} ms")
    assert took < 1.5


async def test_invalidating_while_another_primary_is_frozen(
    cluster_faces: Faces, redis_cluster: RedisCluster
) -> None:
    """An invalidation of a key whose primary answers is not held up by one that does not, whichever it is."""
    face = fast(cluster_faces, patient_timeout=1.0)
    keys = spread(redis_cluster)
    await face.set_many({key: "v" for found in keys.values() for key in found})
    took = []
    for victim in redis_cluster.primaries():
        key = beside(redis_cluster, keys, victim.port)
        await face.invalidate_key("another, so that the connection is there")
        with frozen(victim):
            began = time.perf_counter()
            assert (await face.invalidate_key(key)).removed == 1
            took.append(time.perf_counter() - began)
    print(
        f"{cluster_faces.kind}: invalidations beside a frozen primary: {[round(each * 1000) for each in took]} ms"
    )
    assert max(took) < 0.5


async def test_announcing_while_a_primary_is_frozen(
    cluster_faces: Faces, redis_cluster: RedisCluster
) -> None:
    """An invalidation is announced to other processes through whichever node answers."""
    face = fast(cluster_faces)
    await face.invalidate_key("k, so that the connections are there")
    keys = spread(redis_cluster)
    for victim in redis_cluster.primaries():
        key = beside(redis_cluster, keys, victim.port)
        with contextlib.ExitStack() as stack:
            heard = []
            for node in redis_cluster.nodes:
                if node is not victim:
                    listening = stack.enter_context(node.client().pubsub(ignore_subscribe_messages=True))
                    listening.subscribe("cache:invalidate")
                    listening.get_message(timeout=5)
                    heard.append(listening)
            with frozen(victim):
                await face.invalidate_key(key)
                messages = [each.get_message(timeout=0.5) for each in heard[:2]]
            assert all(message is not None for message in messages)


async def test_a_replica_is_promoted(redis_cluster: RedisCluster) -> None:
    """When a primary dies its replica takes over, and within seconds both faces read and invalidate there again."""
    made = [Faces(kind, redis_cluster.url) for kind in KINDS]
    faces = [fast(each, patient_timeout=1.0) for each in made]
    keys = spread(redis_cluster)
    victim = redis_cluster.primaries()[1]
    key, another = keys[victim.port][:2]
    await faces[0].set(key, "v")
    for face in faces:
        assert await face.get(key) == "v"
    victim.kill()
    began = time.perf_counter()
    reads: list[float] = []

    async def recovered(face: Face) -> float:
        loader, calls = face.loader("loaded"), -1
        while loader.calls != calls:  # until it is a hit
            calls = loader.calls
            start = time.perf_counter()
            await face.get_or_load(key, loader)
            reads.append(time.perf_counter() - start)
            await asyncio.sleep(0.02)
        while True:
            with contextlib.suppress(InvalidationError):
                await face.invalidate_key(another)
                return time.perf_counter() - began

    for face, took in zip(faces, await asyncio.gather(*map(recovered, faces)), strict=True):
        print(f"{face.kind}: reads and invalidations work {took:.1f} s after the death of a primary")
        assert took < 15
    print(f"meanwhile, the slowest of {len(reads)} reads: {max(reads) * 1000:.0f} ms")
    assert max(reads) < BOUND
    for face in faces:
        await face.set(key, "new", tags=["t"])
        assert await face.get(key) == "new"
        assert (await face.invalidate_tag("t")).removed == 1
        assert (await face.invalidate_pattern("*")).status == "applied"
    redis_cluster.revive()
    for each in made:
        await each.close()


def listeners(node: RedisServer) -> int:
    """Return how many listen at a node to what we announce."""
    return int(node.client().pubsub_numsub("cache:invalidate")[0][1])


async def test_listening_when_a_node_dies(redis_cluster: RedisCluster, kind: Kind) -> None:
    """Whoever listens through a node that dies hears of invalidations again, through another, within 3 seconds."""
    made, talking = Faces(kind, redis_cluster.url), Faces("async", redis_cluster.url)
    listener, talker = fast(made, patient_timeout=1.0), fast(talking)
    heard: list[str] = []
    listener.events.subscribe(lambda event: heard.append(event.names[0]), InvalidationEvent)
    async with listener.listening():
        while "before" not in heard:  # a node that was away until just now may not pass it on yet
            await talker.invalidate_key("before")
            await asyncio.sleep(0.02)
        (victim,) = [node for node in redis_cluster.nodes if node.running and listeners(node)]
        # One whose primary lives: the others' cannot be invalidated before a replica has been promoted.
        after = next(
            key for port, keys in spread(redis_cluster).items() if port != victim.port for key in keys
        )
        victim.kill()
        began = time.perf_counter()
        while after not in heard and time.perf_counter() - began < 3:
            with contextlib.suppress(InvalidationError):
                await talker.invalidate_key(after)
            await asyncio.sleep(0.05)
        print(f"{kind}: heard again {time.perf_counter() - began:.1f} s after the death of a node")
        assert after in heard
    redis_cluster.revive()
    for each in (made, talking):
        await each.close()
