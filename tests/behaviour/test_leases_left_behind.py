"""Leases that nobody holds, and values whose last renewal is over: nobody waits for them without need."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from neverstale.base import Found
from neverstale.core.calls import Acquire
from neverstale.core.entry import placeholder
from neverstale.errors import HeldOff
from neverstale.lifetime import Lifetime
from neverstale.testing.servers import RedisServer, binaries
from tests.behaviour.conftest import on_one_server
from tests.behaviour.faces import Face, Faces, Kind

HOUR = Lifetime(3_600_000)
#: Over at once, and kept for an hour.
KEPT = Lifetime(0, 0, 3_600_000)
#: Milliseconds that a lease of these tests lives.
LEASE = 60_000


async def load(face: Face, loader: Any, found: Found, life: Lifetime = HOUR, **options: Any) -> Any:
    return await face._load("k", loader, life, (), face.cache._json, found, **options)


async def find(face: Face) -> Found:
    found: Found = await face._find("k", face.cache._json)
    return found


def hold(server: Any, token: bytes, head: bytes) -> None:
    """Take the lease on the value that is there, as a renewal whose holder is gone."""
    call = Acquire("v1:k", "refresh", head, placeholder(token), LEASE)
    assert server.client().execute_command(*call.words_with_source()) == b""


@on_one_server
async def test_a_renewal_that_could_not_be_given_back(face: Face, server: Any) -> None:
    """The next reader of the process gives its lease back and renews, instead of waiting for the lease's end."""
    await load(face, face.loader("old"), await find(face), KEPT)
    found = await find(face)
    assert found.seen is not None
    hold(server, b"left behind.....", found.seen.head)
    face.cache._memory.orphan(b"left behind.....")
    began = time.monotonic()
    assert await load(face, face.loader("new"), await find(face), renew=True, fallback=True) == "new"
    assert time.monotonic() - began < face.cache.settings.wait_limit / 2
    assert (await find(face)).value == "new"


@on_one_server
async def test_a_refresh_that_could_not_be_given_back(face: Face, server: Any) -> None:
    """The next refresh gives its lease back, the one after it loads; the stale value is served meanwhile."""
    await face.get_or_load("k", face.loader("old"), soft_ttl=0.001)
    found = await find(face)
    assert found.seen is not None
    hold(server, b"left behind.....", found.seen.head)
    face.cache._memory.orphan(b"left behind.....")
    new, given = face.loader("new"), "old"
    async with asyncio.timeout(10):
        while given == "old":
            given = await face.get_or_load("k", new, soft_ttl=60)
            await asyncio.sleep(0.001)
    assert (given, new.calls) == ("new", 1)


@on_one_server
async def test_a_back_off_that_is_over(face: Face, other: Face, server: Any) -> None:
    """Whoever looked before a renewal failed, and asks when its back-off is over, renews."""
    await load(face, face.loader("old"), await find(face), KEPT)
    early = await find(face)
    with pytest.raises(LookupError):
        await load(other, other.loader(LookupError("away")), early, renew=True)
    with pytest.raises(HeldOff):
        await load(face, face.loader("never"), early, renew=True, fallback=True)
    # Its end, a second later, is set back instead of being waited for.
    server.client().setrange("v1:k", 34, (1).to_bytes(8, "big"))
    assert await load(face, face.loader("new"), early, renew=True, fallback=True) == "new"
    assert (await find(face)).value == "new"


@on_one_server
async def test_a_renewal_of_nothing_is_a_load(face: Face) -> None:
    """What is not there cannot be kept: it is loaded, and stored."""
    assert await load(face, face.loader("new"), await find(face), renew=True, fallback=True) == "new"
    assert (await find(face)).value == "new"


@pytest.fixture
def replica() -> Iterator[RedisServer]:
    """A server that answers reads and refuses writes, from when it is told so."""
    if "redis" not in binaries():
        pytest.skip("no Redis server: apt-get install redis-server")
    with RedisServer.start(binaries()["redis"]) as server:
        yield server


@pytest.fixture
async def reader(kind: Kind, replica: RedisServer) -> AsyncIterator[Face]:
    made = Faces(kind, replica.url)
    yield made.make(wait_limit=0.2)
    await made.close()


@pytest.mark.parametrize("old", [False, True], ids=["placeholder", "value"])
async def test_a_lease_that_cannot_be_given_back(reader: Face, replica: RedisServer, old: bool) -> None:
    """Where Redis reads but does not write, who finds a lease of its own process waits as for any, and then loads."""
    token = b"left behind....."
    if old:
        await load(reader, reader.loader("old"), await find(reader), KEPT)
        found = await find(reader)
        assert found.seen is not None
        hold(replica, token, found.seen.head)
    else:
        replica.client().set("v1:k", placeholder(token), px=LEASE)
    reader.cache._memory.orphan(token)
    replica.client().execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        async with asyncio.timeout(20):
            assert await load(reader, reader.loader("new"), await find(reader), renew=old) == "new"
    finally:
        replica.client().execute_command("REPLICAOF", "NO", "ONE")
    assert reader.stats().waits <= 1
