"""What a cache says about itself: counters, health, views, and its end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from neverstale import ConnectionEvent, CounterSnapshot
from neverstale.testing.servers import Server
from tests.behaviour.conftest import Make, on_one_server
from tests.behaviour.faces import Face, until

TIMES = {"redis_seconds", "load_seconds"}


def counted(face: Face, prefix: str = "") -> dict[str, Any]:
    """Return the counters that are not 0, without the times."""
    figures = face.stats(prefix).as_dict()
    return {name: value for name, value in figures.items() if value and name not in TIMES | {"hit_rate"}}


async def test_counters_of_reads_and_writes(face: Face) -> None:
    """Each get, set and delete counts once under its name."""
    assert face.stats() == CounterSnapshot()
    await face.set("a", "1")
    await face.set_json("b", 2)
    await face.set_many({"c": "3", "d": "4"})
    await face.get("a")
    await face.get("nothing")
    await face.get_json("b")
    await face.get_many(["c", "d", "nothing"])
    await face.delete("a")
    await face.delete("a")
    assert counted(face) == {
        "hits": 4,
        "misses": 2,
        "sets": 4,
        "deletes": 2,
        "invalidations": 2,
        "removed": 1,
    }
    assert face.stats().hit_rate == pytest.approx(4 / 6)


async def test_counters_of_loads(face: Face) -> None:
    """A load counts as a miss, a load and a fill; one that fails as a miss, a load and an error."""
    await face.get_or_load("a", face.loader(1))
    await face.get_or_load("a", face.loader(1))
    assert counted(face) == {"hits": 1, "misses": 1, "loads": 1, "fills": 1}
    with pytest.raises(LookupError):
        await face.get_or_load("b", face.loader(LookupError()))
    assert counted(face) == {"hits": 1, "misses": 2, "loads": 2, "fills": 1, "load_errors": 1}


async def test_counters_of_invalidations(face: Face) -> None:
    """Each call that invalidates counts once, and what it cleared."""
    await face.set_many({f"k{i}": "v" for i in range(9)}, tags=["t"])
    await face.invalidate_key("k0")
    await face.invalidate_pattern("k1*")
    await face.invalidate_tag("t")
    await face.invalidate_tags("t", "u")
    assert counted(face) == {"sets": 9, "invalidations": 4, "removed": 9}


async def test_a_fill_that_is_dropped(face: Face) -> None:
    """A value that may not be stored is counted."""
    loader = face.loader(1, held=True)
    reader = face.start("get_or_load", "k", loader)
    await loader.begun()
    await face.invalidate_key("k")
    loader.let_go()
    await reader
    assert counted(face) == {"misses": 1, "loads": 1, "fills_dropped": 1, "invalidations": 1}


@on_one_server
async def test_time_spent(face: Face) -> None:
    """The time spent in Redis and in loaders is counted apart."""
    loader = face.loader(1, held=True)
    reader = face.start("get_or_load", "k", loader)
    await loader.begun()
    await asyncio.sleep(0.05)  # something that can be measured
    loader.let_go()
    await reader
    stats = face.stats()
    assert 0.05 <= stats.load_seconds < 5
    assert 0 < stats.redis_seconds < 5
    before = stats.redis_seconds
    await face.get("k")
    assert face.stats().redis_seconds > before
    assert face.stats().load_seconds == stats.load_seconds


@on_one_server
async def test_counters_by_prefix(face: Face, other: Face) -> None:
    """Each prefix has its own figures, shared by all its views; another cache has others."""
    api, same = face.with_prefix("api:"), face.with_prefix("api:")
    await api.set("k", "v")
    await same.get("k")
    await face.get("k")
    assert (counted(face, "api:"), counted(face)) == ({"sets": 1, "hits": 1}, {"misses": 1})
    assert set(face.cache.stats()) == set(api.cache.stats()) == {"", "api:"}
    assert counted(other) == {}


async def test_views(face: Face, server: Server) -> None:
    """A view has its own prefix in place of the present one, and the connections of the first."""
    connects: list[ConnectionEvent] = []
    face.events.subscribe(
        lambda event: connects.append(event) if event.kind == "connect" else None, ConnectionEvent
    )
    await face.set("k", "v")
    first = len(connects)
    views = [face.with_prefix(f"{name}:") for name in "abc"]
    views.append(views[0].with_prefix("d:"))
    for view in views:
        await view.set("k", view.cache.prefix)
        assert await view.get("k") == view.cache.prefix
    assert server.keys() == [b"v1:a:k", b"v1:b:k", b"v1:c:k", b"v1:d:k", b"v1:k"]
    assert views[0].cache.settings == face.cache.settings
    if not server.is_cluster:  # there, other keys may be on nodes not yet connected to
        assert len(connects) == first
    assert "'v1:a:'" in repr(views[0].cache)
    await views[0].close()
    assert await face.get("k") is None
    assert await face.cache.ping() is False if face.kind == "async" else face.cache.ping() is False


async def test_health(face: Face, server: Server) -> None:
    """Where all is well the report says so."""
    assert await face.ping() is True
    health = await face.health()
    assert health.redis == "ok"
    assert health.nodes == len(server.primaries())
    assert health.as_dict()["redis"] == "ok"
    assert health.latency_ms is not None


@on_one_server
async def test_an_end_by_with(make: Make) -> None:
    """A cache is a context manager that closes it."""
    face = make()
    if face.kind == "async":
        async with face.cache as entered:
            await entered.set("k", "v")
    else:
        with face.cache as entered:
            entered.set("k", "v")
    assert entered is face.cache
    assert await face.ping() is False


async def test_after_its_end(make: Make, other: Face) -> None:
    """A closed cache reads nothing, drops what is set, and still loads; closing twice is no error."""
    face = make()
    await face.set("k", "v")
    await face.close()
    await face.close()
    await face.set("k", "new")
    assert await face.get("k") is None
    assert await face.get_many(["k"]) == {}
    assert await face.get_or_load("k", face.loader("loaded")) == "loaded"
    assert await other.get("k") == "v"
    assert (await face.health()).redis != "ok"


@on_one_server
async def test_from_env(face: Face, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made by the environment, a cache is on the Redis that it names."""
    monkeypatch.setenv("REDIS_URL", server.url)
    monkeypatch.setenv("NEVERSTALE_NAMESPACE", "shop")
    monkeypatch.setenv("NEVERSTALE_TIMEOUT", "5")
    made = Face(type(face.cache).from_env(prefix="api:", version=2), face._threads, [])
    await made.set("k", "v")
    await made.close()
    assert server.keys() == [b"shop:v2:api:k"]


async def test_connections_are_events(face: Face) -> None:
    """Connecting is an event, and closing too."""
    heard: list[str] = []
    face.events.subscribe(lambda event: heard.append(event.kind), ConnectionEvent)
    await face.set("k", "v")
    assert "connect" in heard
    before = heard.count("close")  # whoever learned the slots of a cluster closes that connection
    await face.close()
    await until(lambda: heard.count("close") > before)
