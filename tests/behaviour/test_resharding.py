"""A slot of a cluster on the move from one primary to another: nothing fails, and nothing is missed."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from neverstale import Cache
from neverstale.core.commands import Scan
from neverstale.drive.calls import slot_of
from neverstale.testing.servers import RedisCluster, RedisServer, Server, wait_until
from tests.behaviour.conftest import Make
from tests.behaviour.faces import CALM, Face

pytestmark = [
    pytest.mark.parametrize("server", ["redis-cluster", "valkey-cluster"], indirect=True),
    # To whoever watches, MIGRATE makes a key anew, without the event that tells of its TTL.
    pytest.mark.plants_keys("*"),
]

KEY = "v1:k"
TAG = "cache:tag:{t}"


def said(reply: Any) -> str:
    return reply.decode() if isinstance(reply, bytes) else str(reply)


def view(node: RedisServer) -> dict[str, tuple[str, list[str]]]:
    """Return what a node knows of each primary: its epoch and its slots; and of itself, as "myself"."""
    found = {}
    for line in said(node.client().execute_command("CLUSTER", "NODES")).splitlines():
        name, _, flags, _, _, _, epoch, _, *slots = line.split()
        if "master" in flags:
            found[name] = (epoch, [part for part in slots if not part.startswith("[")])
            if "myself" in flags:
                found["myself"] = found[name]
    return found


def owns(node: RedisServer, slot: int) -> bool:
    """Tell whether a node says of itself that it holds a slot."""
    ranges = [part.partition("-") for part in view(node)["myself"][1]]
    return any(int(first) <= slot <= int(last or first) for first, _, last in ranges)


def agreed(cluster: RedisCluster) -> bool:
    """Tell whether all nodes know the same of each primary."""
    views = [view(node) for node in cluster.nodes]
    for each in views:
        each.pop("myself", None)
    return all(each == views[0] for each in views)


class Move:
    """A slot on its way to another primary."""

    def __init__(self, cluster: RedisCluster, slot: int, target: RedisServer | None = None) -> None:
        self.cluster = cluster
        self.slot = slot
        self.primaries = cluster.primaries()
        (self.source,) = [node for node in self.primaries if owns(node, slot)]
        self.target = target or next(node for node in self.primaries if node is not self.source)

    def begin(self) -> None:
        """Let new keys of the slot go to the target, and those that are there stay."""
        self._setslot(self.target, "IMPORTING", self.source)
        self._setslot(self.source, "MIGRATING", self.target)

    def carry(self, most: int = 100) -> None:
        """Carry keys over that are still at the source."""
        for key in self.source.client().cluster("GETKEYSINSLOT", self.slot, most):
            self.source.client().migrate("127.0.0.1", self.target.port, key, 0, 5000)

    def end(self) -> None:
        """Carry the rest, tell everybody that the slot is the target's, and wait until they believe it."""
        self.carry()
        for node in (self.target, self.source, *self.primaries):
            self._setslot(node, "NODE", self.target)
        # A node that does not know yet how new the target's claim is could not take the slot back.
        wait_until(lambda: agreed(self.cluster), "a cluster that agrees about a slot")

    def back(self) -> None:
        """End the move, and move the slot back."""
        self.end()
        back = Move(self.cluster, self.slot, self.source)
        back.begin()
        back.end()

    def _setslot(self, node: RedisServer, what: str, other: RedisServer) -> None:
        identity = said(other.client().execute_command("CLUSTER", "MYID"))
        node.client().execute_command("CLUSTER", "SETSLOT", self.slot, what, identity)


def put_off(cluster: RedisCluster) -> int:
    """Return how many commands were told to try again, as one is whose keys are here and there."""
    errors = [node.client().info("errorstats") for node in cluster.primaries()]
    return sum(each.get("errorstat_TRYAGAIN", {"count": 0})["count"] for each in errors)


@contextlib.contextmanager
def moving(server: Server, slot: int) -> Iterator[Move]:
    """Begin to move a slot; afterwards it is where it was. Fails if a command had to wait for the move's end.

    redis-py would ask again for a second and more.
    """
    assert isinstance(server, RedisCluster)
    before = put_off(server)
    move = Move(server, slot)
    move.begin()
    try:
        yield move
    finally:
        move.back()
    assert put_off(server) == before


async def works(face: Face) -> None:
    """Do everything that the protocol does with a key and a tag."""
    await face.invalidate_key("k")
    loader = face.loader("loaded")
    assert [await face.get_or_load("k", loader, tags=["t"]) for _ in range(2)] == ["loaded", "loaded"]
    assert loader.calls == 1
    await face.set("k", "set", tags=["t", "u"])
    assert await face.get("k") == "set"
    assert await face.get_many(["k", "another"]) == {"k": "set"}
    assert (await face.invalidate_tag("t")).removed == 1
    assert await face.get("k") is None
    await face.set("k", "set")
    assert await face.delete("k") is True


async def test_while_the_slot_of_an_entry_moves(face: Face, server: Server) -> None:
    """With an entry's slot on the move, everything works as ever."""
    await works(face)
    with moving(server, slot_of(KEY)):
        await works(face)
    await works(face)


async def test_while_the_slot_of_a_tag_moves(face: Face, server: Server) -> None:
    """With a tag's slot on the move, everything works as ever, also where one of its keys is here and one there."""
    await works(face)
    with moving(server, slot_of(TAG)) as move:
        await works(face)
        move.carry(1)
        await works(face)
    await works(face)


async def test_entries_of_one_slot_here_and_there(face: Face, server: Server) -> None:
    """Entries of one slot, some of which have moved, are invalidated together all the same."""
    slot = slot_of("v1:k")
    keys = ["k", *itertools.islice((f"k{n}" for n in itertools.count() if slot_of(f"v1:k{n}") == slot), 2)]
    for invalidate in (lambda: face.invalidate_tag("t"), lambda: face.invalidate_pattern("k*")):
        await face.set_many(dict.fromkeys(keys, "v"), tags=["t"])
        with moving(server, slot) as move:
            move.carry(1)
            assert (await invalidate()).removed == 3
            assert await face.get_many(keys) == {}


async def test_entries_on_the_way(face: Face, other: Face, server: Server) -> None:
    """An entry is found and invalidated wherever it is: still at the source, at the target, and after the move."""
    for step in ("source", "target", "after"):
        await face.set("k", step, tags=["t"])
        with moving(server, slot_of(KEY)) as move:
            if step != "source":
                move.carry()
            if step == "after":
                move.end()
            assert [await each.get("k") for each in (face, other)] == [step, step]
            assert (await other.invalidate_key("k")).removed == 1
            assert [await each.get("k") for each in (face, other)] == [None, None]


async def test_a_load_while_its_slot_moves(face: Face, other: Face, server: Server) -> None:
    """A lease that moves with its slot still stands, and an invalidation at its new place still cancels the fill."""
    for invalidated in (False, True):
        loader = face.loader("loaded", held=True)
        reader = face.start("get_or_load", "k", loader)
        await loader.begun()
        with moving(server, slot_of(KEY)) as move:
            move.end()
            if invalidated:
                await other.invalidate_key("k")
            loader.let_go()
            assert await reader == "loaded"
            assert await other.get_json("k") == (None if invalidated else "loaded")
        await other.invalidate_key("k")


async def test_patterns_while_a_slot_moves(make: Make, server: Server) -> None:
    """A slot that is open for long does not keep a pattern from being invalidated."""
    face = make()
    with moving(server, slot_of(KEY)):
        for _ in range(8):
            await face.set_many({f"k{i}": "v" for i in range(10)})
            assert (await face.invalidate_pattern("k*")).removed == 10


def test_a_pattern_and_an_entry_that_moves_behind_the_scan(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry is found that moves from a primary not yet scanned to one scanned already."""
    assert isinstance(server, RedisCluster)
    with contextlib.ExitStack() as stack:
        cache = stack.enter_context(Cache.from_url(server.url, timeout=CALM))
        driver: Any = cache._driver
        scanned = driver.wire(True).topology().nodes[0]
        (first,) = [node for node in server.primaries() if scanned.endswith(f":{node.port}")]
        key = next(f"k{n}" for n in itertools.count() if not owns(first, slot_of(f"v1:k{n}")))
        move = Move(server, slot_of(f"v1:{key}"), first)
        # Whoever is asked at random where the slots are: the primary that has no part in this.
        third = next(node for node in server.primaries() if node not in (move.source, move.target))
        monkeypatch.setattr(
            "neverstale.drive.calls.random.sample",
            lambda nodes, count: sorted(nodes, key=lambda node: node.port != third.port)[:count],
        )
        ask, moved = driver._ask_redis, False

        def asked(command: Any, *args: Any) -> Any:
            nonlocal moved
            if isinstance(command, Scan) and command.node != scanned and not moved:
                moved = True
                move.begin()
                move.carry()
            return ask(command, *args)

        monkeypatch.setattr(driver, "_ask_redis", asked)
        cache.set(key, "v")
        try:
            assert cache.invalidate_pattern("k*").removed == 1
            assert cache.get(key) is None
        finally:
            move.back()
