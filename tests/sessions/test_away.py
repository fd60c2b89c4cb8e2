"""Redis away: a store serves everybody, and what could not be invalidated says so; Redis alone serves nobody."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from neverstale import AsyncCache
from neverstale.errors import InvalidationError, RedisUnavailable
from neverstale.sessions import AsyncSessions
from neverstale.sessions.doubt import Doubt
from neverstale.testing.servers import RedisServer
from tests.behaviour.faces import Faces, Kind, open_faces
from tests.sessions.conftest import SessionFace
from tests.sessions.stores import AsyncMemoryStore, MemoryStore


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "neverstale")


@pytest.fixture
async def faces(kind: Kind, own_server: RedisServer) -> AsyncIterator[Faces]:
    async with open_faces(kind, own_server.url) as made:
        yield made


async def test_with_a_store_nobody_is_logged_out(faces: Faces, own_server: RedisServer) -> None:
    """Logging in, reading, visiting and listing work; what is destroyed or changed is, in the store."""
    sessions = SessionFace(faces.make(patient_timeout=0.5), MemoryStore(), seen_every=0.001)
    before = await sessions.log_in(None, "7", {"n": 1})
    own_server.kill()
    assert (await sessions.find(before.id, touch=True)).data == {"n": 1}
    after = await sessions.log_in(before.id, "7", {"n": 2})
    assert isinstance(after.owed, InvalidationError)
    assert await sessions.get(after.id) == {"n": 2}
    assert len(await sessions.of_user("7")) == 1
    with pytest.raises(InvalidationError) as changed:
        await sessions.set(after.id, {"n": 3})
    assert (changed.value.kind, changed.value.names) == ("key", (after.session.digest,))
    assert await sessions.get(after.id) == {"n": 3}
    with pytest.raises(InvalidationError) as destroyed:
        await sessions.destroy_all("7")
    assert destroyed.value.kind == "tag"
    assert not destroyed.value.names[0].endswith(":7")
    assert await sessions.get(after.id) is None


async def test_an_invalidation_is_made_up_for(faces: Faces, own_server: RedisServer) -> None:
    """The error is all that it takes to do it again; until then a copy may be served by who reaches Redis."""
    store = MemoryStore()
    sessions = SessionFace(faces.make(patient_timeout=0.5), store)
    other = SessionFace(faces.make(), store)
    issued = await sessions.log_in(None, "7", {"n": 1})
    await other.get(issued.id)
    own_server.freeze()
    errors: list[InvalidationError] = []
    for destroying in (sessions.destroy(issued.id), sessions.destroy_all("7")):
        with pytest.raises(InvalidationError) as caught:
            await destroying
        errors.append(caught.value)
    own_server.thaw()
    for error in errors:
        receipt = await sessions.invalidate_again(error)
        assert (receipt.kind, receipt.names) == (error.kind, error.names)
    assert await other.get(issued.id) is None


async def test_who_logged_out_in_an_outage_is_out_when_it_ends(faces: Faces, own_server: RedisServer) -> None:
    """A process that has seen the outage asks the store, until the copy that Redis still has is invalidated."""
    store = MemoryStore()
    sessions = SessionFace(faces.make(patient_timeout=0.5), store)
    other = SessionFace(faces.make(timeout=0.2), store)
    issued, stays, first = [await sessions.log_in(None, user, {"n": 1}) for user in ("7", "8", "9")]
    assert await other.get(issued.id) == {"n": 1}
    assert await other.get(stays.id) == {"n": 1}
    own_server.freeze()
    with pytest.raises(InvalidationError):
        await sessions.destroy(first.id)  # on a connection that is there: Redis does that when it goes on
    with pytest.raises(InvalidationError) as destroyed:
        await sessions.destroy(issued.id)
    assert await other.get(stays.id) == {"n": 1}
    own_server.thaw()
    there = own_server.keys()
    copies = [key for key in there if issued.session.digest.encode() in key]
    asked = store.calls["load"]
    assert await other.get(issued.id) is None
    assert await other.get(stays.id) == {"n": 1}
    assert store.calls["load"] == asked + 2
    assert len(copies) == 1  # else nothing was shown
    await sessions.invalidate_again(destroyed.value)


def test_doubt_is_of_outages_and_ends() -> None:
    """Copies are doubted after half a second without an answer, for three; a late answer changes nothing."""
    times = iter((100.0, 100.0, 100.3, 101.0, 103.9, 104.1, 200.0))
    doubt = Doubt(lambda: next(times))
    assert doubt.note(True)
    assert not doubt.note(False)
    assert doubt.note(True)
    assert not doubt.note(False)
    assert not doubt.note(True)
    assert not doubt.note(True)
    assert doubt.note(True)
    assert doubt.note(True)  # nobody asked for long: that is no outage


async def test_without_a_store_nobody_is_found(faces: Faces, own_server: RedisServer) -> None:
    """Reading finds nobody, and whatever changes something raises."""
    sessions = SessionFace(faces.make(timeout=0.1, patient_timeout=0.3), None)
    issued = await sessions.log_in(None, "7", {"n": 1})
    own_server.freeze()
    assert await sessions.get(issued.id) is None
    assert await sessions.find(issued.id, touch=True) is None
    for changing in (
        sessions.create({}),
        sessions.log_in(issued.id, "7", {}),
        sessions.rotate(issued.id),
        sessions.set(issued.id, {}),
        sessions.of_user("7"),
    ):
        with pytest.raises(RedisUnavailable):
            await changing
    for destroying in (sessions.destroy(issued.id), sessions.destroy_all("7", keep=issued.id)):
        with pytest.raises(InvalidationError):
            await destroying


async def test_who_is_cancelled_does_not_come_in_between(own_server: RedisServer) -> None:
    """A request that is given up while the store destroys its session leaves no copy behind."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    class Slow(AsyncMemoryStore):
        async def delete(self, family: str) -> list[str]:
            gone = await super().delete(family)
            begun.set()
            await go_on.wait()
            return gone

    async with AsyncCache.from_url(own_server.url, timeout=5.0) as cache:
        sessions = AsyncSessions(cache, type=dict[str, Any], store=Slow())
        issued = await sessions.create({"a": 1})
        assert await sessions.get(issued.id) == {"a": 1}
        request = asyncio.create_task(sessions.destroy(issued.id))
        await begun.wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        go_on.set()
        await cache._driver.close()
        assert own_server.keys() == []


async def test_a_visit_that_cannot_be_noted(faces: Faces) -> None:
    """With the database away, a session that Redis knows is found: only its visit is not noted."""
    store = MemoryStore()
    sessions = SessionFace(faces.make(), store, seen_every=0.001)
    issued = await sessions.begin({"a": 1}, user="7")
    await asyncio.sleep(0.002)

    def away(_: str) -> None:
        raise ConnectionError("the database is away")

    store.before = away
    found = await sessions.find(issued.id, touch=True)
    assert (found.data, found.seen_at) == ({"a": 1}, issued.session.seen_at)
