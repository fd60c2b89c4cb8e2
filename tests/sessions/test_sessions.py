"""What sessions promise: found by their id alone, changed without loss, ended at once."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from neverstale.errors import EncodingError, UsageError
from neverstale.sessions import Session
from neverstale.testing.servers import Server
from tests.sessions.conftest import Make, SessionFace

on_one_server = pytest.mark.parametrize("server", ["redis"], indirect=True)


class Visit(msgspec.Struct):
    """Typed data."""

    pages: int
    cart: list[int] = []


def ago(session: Session[Any], **span: float) -> Session[Any]:
    """Return a session as if it had begun and been seen so long ago."""
    back = timedelta(**span)
    return msgspec.structs.replace(
        session,
        created_at=session.created_at - back,
        seen_at=session.seen_at - back,
        expires_at=session.expires_at - back,
    )


# --- reading ----------------------------------------------------------------------------------------------------


async def test_a_session_is_found_by_its_id(sessions: SessionFace, other: SessionFace) -> None:
    """Whoever has the id gets the data, in every process."""
    issued = await sessions.begin({"cart": [1]}, device="a browser")
    assert await sessions.get(issued.id) == {"cart": [1]}
    found = await other.find(issued.id)
    assert (found.data, found.user, found.device) == ({"cart": [1]}, None, "a browser")


@pytest.mark.parametrize("stored", ["store"], indirect=True)
async def test_the_second_request_is_a_hit(make: Make, server: Server) -> None:
    """After Redis has lost everything one request asks the store, and the next one does not."""
    sessions = make()
    assert sessions.store is not None
    issued = await sessions.log_in(None, "7", {"a": 1})
    server.flush()
    await sessions.get(issued.id)
    loads, hits = sessions.store.calls["load"], sessions.stats().hits
    assert await sessions.get(issued.id) == {"a": 1}
    assert (sessions.store.calls["load"], sessions.stats().hits) == (loads, hits + 1)


@on_one_server
async def test_a_session_that_was_just_made_is_a_hit(sessions: SessionFace) -> None:
    """The first request after a log-in does not ask the store."""
    issued = await sessions.log_in(None, "7", {"a": 1})
    assert await sessions.get(issued.id) == {"a": 1}
    assert sessions.stats().hits == 1
    assert sessions.store is None or "load" not in sessions.store.calls


@on_one_server
@pytest.mark.parametrize(
    "sent",
    ["", "x", "a" * 42, "a" * 44, "ä" * 43, "a" * 42 + "=", "../" + "a" * 40, None, 5, "a" * 42 + "\n"],
)
async def test_what_cannot_be_an_id_is_not_looked_for(sessions: SessionFace, sent: Any) -> None:
    """It is nobody's, and neither Redis nor the store is asked."""
    assert await sessions.get(sent) is None
    assert await sessions.update(sent, lambda data: data) is None
    assert await sessions.set(sent, {}) is False
    assert await sessions.destroy(sent) is False
    assert await sessions.rotate(sent) is None
    assert (sessions.stats().misses, sessions.store and sessions.store.calls) == (0, sessions.store and {})


@on_one_server
async def test_an_unknown_id_is_never_adopted(sessions: SessionFace, server: Server) -> None:
    """A client's own id leads to no session, whatever is called with it, and leaves nothing in Redis."""
    theirs = secrets.token_urlsafe(32)
    assert await sessions.get(theirs) is None
    assert await sessions.set(theirs, {"a": 1}) is False
    assert await sessions.update(theirs, lambda data: {"a": 1}) is None
    assert await sessions.touch(theirs) is False
    assert server.keys() == []
    issued = await sessions.log_in(theirs, "7", {"a": 1})
    assert issued.id != theirs
    assert await sessions.get(theirs) is None


@on_one_server
async def test_the_id_is_nowhere_but_with_the_client(
    make: Make, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Redis, the store, representations, events and logs have its SHA-256 at most."""
    caplog.set_level(0)
    sessions = make()
    events: list[Any] = []
    sessions.face.events.subscribe(events.append)
    issued = await sessions.begin({"secret": "data"}, user="name@example.com")
    new = await sessions.rotate(issued.id)
    await sessions.update(new.id, lambda data: {**data, "b": 1})
    said = [repr(issued), repr(new), repr(issued.session), repr(sessions.sessions), caplog.text]
    await sessions.destroy(new.id)
    said += [repr(events), repr(server.keys())]
    await sessions.log_in(new.id, "name@example.com", {"secret": "data"})
    redis, stored = server.client(), server.keys()
    said += [repr(stored), *(repr(redis.get(key)) for key in stored if b"tag" not in key)]
    for each in said:
        assert issued.id not in each
        assert new.id not in each
    for each in [*said[:5], repr(server.keys())]:
        assert "name@example.com" not in each
    digest = hashlib.sha256(issued.id.encode()).hexdigest()
    assert issued.session.digest == digest


@on_one_server
async def test_data_are_typed(make: Make) -> None:
    """What is stored comes back as the type, and what is not of the type is refused before anything is stored."""
    sessions = make(type=Visit)
    issued = await sessions.create(Visit(1, [5]))
    assert await sessions.get(issued.id) == Visit(1, [5])
    with pytest.raises(EncodingError):
        await sessions.create({"pages": "many"})
    with pytest.raises(EncodingError):
        await sessions.set(issued.id, {"pages": "many"})
    assert await sessions.get(issued.id) == Visit(1, [5])


@on_one_server
async def test_data_of_another_type_are_a_miss(make: Make) -> None:
    """A session whose data do not fit is asked of the store, and without one it is over; it is counted."""
    before, after = make(), make(type=Visit)
    issued = await before.begin({"pages": "many"})
    if after.store is not None:
        fitting = msgspec.structs.replace(issued.session, data=Visit(2))
        after.store.rows[issued.session.digest] = fitting
    assert await after.get(issued.id) == (None if after.store is None else Visit(2))
    assert after.stats().decode_errors == 1


# --- changing ---------------------------------------------------------------------------------------------------


async def test_two_requests_change_different_fields(sessions: SessionFace, other: SessionFace) -> None:
    """Neither change is lost, however many there are at once."""
    issued = await sessions.begin({})

    async def add(where: SessionFace, name: str) -> None:
        assert await where.update(issued.id, lambda data: {**data, name: 1}) is not None

    names = [f"f{number}" for number in range(10)]
    await asyncio.gather(*(add((sessions, other)[len(name) % 2], name) for name in names))
    assert await other.get(issued.id) == dict.fromkeys(names, 1)


@on_one_server
async def test_a_change_in_place(sessions: SessionFace) -> None:
    """A change may also alter the data that it is given, and return them."""
    issued = await sessions.begin({"cart": [1]})

    def change(data: dict[str, Any]) -> dict[str, Any]:
        data["cart"].append(2)
        return data

    await sessions.update(issued.id, change)
    assert await sessions.get(issued.id) == {"cart": [1, 2]}


@on_one_server
async def test_a_change_of_nothing_writes_nothing(sessions: SessionFace) -> None:
    """An update that leaves the data as they are costs no write."""
    issued = await sessions.begin({"a": 1})
    found = await sessions.update(issued.id, lambda data: {"a": 1})
    assert found.revision == 0
    assert sessions.store is None or "save" not in sessions.store.calls


async def test_set_replaces_and_never_begins(sessions: SessionFace, other: SessionFace) -> None:
    """What was destroyed is not brought back by setting it."""
    issued = await sessions.begin({"a": 1})
    assert await other.set(issued.id, {"b": 2}) is True
    assert await sessions.get(issued.id) == {"b": 2}
    assert await other.destroy(issued.id) is True
    assert await sessions.set(issued.id, {"c": 3}) is False
    assert await sessions.get(issued.id) is None


async def test_a_request_in_flight_does_not_bring_it_back(sessions: SessionFace, other: SessionFace) -> None:
    """A session that is destroyed while a change is made to it stays destroyed."""
    issued = await sessions.begin({"a": 1}, user="7")
    loop = asyncio.get_running_loop()
    destroying: list[Future[None]] = []

    async def destroy() -> None:
        await other.destroy(issued.id)

    def change(data: dict[str, Any]) -> dict[str, Any]:
        if not destroying:
            destroying.append(asyncio.run_coroutine_threadsafe(destroy(), loop))
            if sessions.face.kind == "sync":
                destroying[0].result()
        return {**data, "b": 2}

    changed = await sessions.update(issued.id, change)
    await asyncio.wrap_future(destroying[0])
    assert sessions.face.kind == "async" or changed is None
    assert await sessions.get(issued.id) is None
    assert await other.get(issued.id) is None


# --- ending -----------------------------------------------------------------------------------------------------


async def test_destroyed_at_once_in_every_process(sessions: SessionFace, other: SessionFace) -> None:
    """The next request with that id is refused, wherever it arrives."""
    issued = await sessions.log_in(None, "7", {})
    assert await other.get(issued.id) == {}
    assert await sessions.destroy(issued.id) is True
    assert await other.get(issued.id) is None
    assert await sessions.get(issued.id) is None
    assert await sessions.destroy(issued.id) is False


async def test_all_sessions_of_a_user(sessions: SessionFace, other: SessionFace) -> None:
    """All of them end, and nobody else's; one may stay."""
    mine = [await sessions.log_in(None, "7", {"n": number}) for number in range(4)]
    theirs = await sessions.log_in(None, "8", {})
    assert await other.destroy_all("7", keep=mine[0].id) == 3
    assert [await sessions.get(each.id) for each in mine] == [{"n": 0}, None, None, None]
    assert await sessions.set(mine[0].id, {"n": 9})
    assert await sessions.destroy_all("7") == 1
    assert await other.get(mine[0].id) is None
    assert await other.get(theirs.id) == {}


async def test_the_sessions_of_a_user_are_listed(sessions: SessionFace, other: SessionFace) -> None:
    """With device and times, and which one is asking; one of them can be ended by its name."""
    first = await sessions.log_in(None, "7", {}, device="phone")
    second = await sessions.log_in(None, "7", {}, device="laptop")
    await sessions.log_in(None, "8", {}, device="spy")
    found = await other.of_user("7", current=second.id)
    assert {(each.device, each.current) for each in found} == {("phone", False), ("laptop", True)}
    names = {each.device: each.name for each in found}
    assert await other.destroy_one("8", names["phone"]) is False
    assert await other.destroy_one("7", names["phone"]) is True
    assert await sessions.get(first.id) is None
    assert [each.device for each in await sessions.of_user("7")] == ["laptop"]


@on_one_server
@pytest.mark.parametrize("end", ["idle", "absolute"])
async def test_idle_and_absolute_lifetime(make: Make, end: str) -> None:
    """A session is over by its own times, also where Redis still has it."""
    lenient = make()
    issued = await lenient.begin({}, user="7")
    old = msgspec.structs.replace(ago(issued.session, hours=1), revision=1)
    place = lenient.sessions._place

    def plant() -> Any:
        held = yield from place.load(old.digest)
        yield from place.save(held, old)
        yield from place.settle(old.digest)

    await lenient.face.call(lenient.sessions._run, plant())
    assert await lenient.get(issued.id) == {}
    strict = make(idle=3600.0) if end == "idle" else make()
    if end == "absolute":
        late = msgspec.structs.replace(old, revision=2, expires_at=datetime.now(UTC))
        old = late
        await lenient.face.call(lenient.sessions._run, plant())
    assert await strict.get(issued.id) is None
    assert await strict.set(issued.id, {}) is False
    assert await strict.rotate(issued.id) is None
    assert await strict.of_user("7") == []


@on_one_server
async def test_nothing_outlives_its_end_in_redis(make: Make, server: Server) -> None:
    """The TTL is that of the session, and a day at most."""
    redis = server.client()
    for options, least, most in (
        ({}, 86_000, 86_400),
        ({"idle": 600.0, "seen_every": 60.0}, 550, 600),
        ({"absolute": 100.0}, 90, 100),
        ({"ttl": 50.0}, 40, 50),
    ):
        sessions = make(**options)
        issued = await sessions.begin({})
        await sessions.get(issued.id)
        assert least <= redis.ttl(f"v1:session:{issued.session.digest}") <= most


@on_one_server
async def test_a_visit_is_noted_now_and_then(make: Make) -> None:
    """At most one write in `seen_every`, and no session that is used becomes idle."""
    sessions = make()
    issued = await sessions.begin({"a": 1}, user="7")
    await sessions.find(issued.id, touch=True)
    assert (await sessions.find(issued.id)).revision == 0
    hasty = make(seen_every=0.001)
    await asyncio.sleep(0.002)
    found = await hasty.find(issued.id, touch=True)
    assert found.seen_at > issued.session.seen_at
    assert (await hasty.find(issued.id)).seen_at == found.seen_at
    assert await hasty.get(issued.id) == {"a": 1}


@on_one_server
@pytest.mark.parametrize("stored", ["store"], indirect=True)
async def test_what_was_not_invalidated_ends_with_the_next_visit(make: Make) -> None:
    """A copy whose session the store has no more is refused when a visit is due: after `seen_every` at most."""
    sessions = make()
    issued = await sessions.begin({"a": 1}, user="7")
    assert sessions.store is not None
    sessions.store.rows.clear()  # as by a process that died before it came to the invalidation
    assert await sessions.get(issued.id) == {"a": 1}
    hasty = make(seen_every=0.001)
    await asyncio.sleep(0.002)
    for _ in range(2):
        assert await hasty.find(issued.id, touch=True) is None


# --- other ids ---------------------------------------------------------------------------------------------------


async def test_the_id_changes_at_log_in(sessions: SessionFace, other: SessionFace) -> None:
    """The old id opens the old data for a short while, and never the new ones."""
    visitor = await sessions.begin({"cart": [1]})
    user = await sessions.log_in(visitor.id, "7", {"cart": [1], "admin": True})
    assert user.id != visitor.id
    assert await other.get(user.id) == {"cart": [1], "admin": True}
    old = await other.find(visitor.id)
    assert (old.data, old.user, old.superseded) == ({"cart": [1]}, None, True)
    assert old.expires_at - datetime.now(UTC) <= timedelta(seconds=10)
    assert [each.current for each in await other.of_user("7", current=user.id)] == [True]


@on_one_server
async def test_a_replaced_id_is_read_only(sessions: SessionFace) -> None:
    """Whoever planted the old id can neither write with it nor make another one of it."""
    visitor = await sessions.begin({"cart": [1]})
    user = await sessions.log_in(visitor.id, "7", {})
    assert await sessions.set(visitor.id, {"evil": 1}) is False
    assert await sessions.update(visitor.id, lambda data: {"evil": 1}) is None
    assert await sessions.rotate(visitor.id) is None
    again = await sessions.log_in(visitor.id, "8", {"second": 1})
    assert await sessions.get(user.id) == {}
    assert (await sessions.find(again.id)).user == "8"


@on_one_server
async def test_a_replaced_id_ends_after_the_grace(make: Make) -> None:
    """Then it is nobody's."""
    sessions = make(grace=0.001)
    visitor = await sessions.begin({})
    await sessions.log_in(visitor.id, "7", {})
    await asyncio.sleep(0.002)
    assert await sessions.get(visitor.id) is None


async def test_a_replaced_id_that_is_over_ends_nothing(make: Make) -> None:
    """Who planted an id before a log-in cannot end the session with it after the grace."""
    sessions = make(grace=0.01)
    planted = await sessions.begin({"a": 1})
    issued = await sessions.log_in(planted.id, "7", {"a": 1})
    async with asyncio.timeout(20):
        while await sessions.get(planted.id) is not None:  # noqa: ASYNC110 - time has no event
            await asyncio.sleep(0.005)
    assert await sessions.destroy(planted.id) is False
    assert await sessions.get(issued.id) == {"a": 1}


@pytest.mark.parametrize("by", [0, 1, 2])
async def test_a_family_ends_together(sessions: SessionFace, other: SessionFace, by: int) -> None:
    """Destroying a session by any of its ids destroys it by all of them."""
    first = await sessions.begin({})
    second = await sessions.log_in(first.id, "7", {})
    third = await sessions.rotate(second.id, change=lambda data: {**data, "admin": True})
    ids = [first.id, second.id, third.id]
    assert await other.get(ids[2]) == {"admin": True}
    await other.destroy(ids[by])
    assert [await sessions.get(each) for each in ids] == [None, None, None]


@on_one_server
async def test_a_log_in_begins_the_lifetime_anew(sessions: SessionFace) -> None:
    """Another id without a log-in does not."""
    issued = await sessions.begin({}, user="7")
    rotated = await sessions.rotate(issued.id)
    assert (rotated.session.created_at, rotated.session.expires_at) == (
        issued.session.created_at,
        issued.session.expires_at,
    )
    again = await sessions.log_in(rotated.id, "7", {})
    assert again.session.expires_at > issued.session.expires_at


@on_one_server
async def test_wrong_arguments(make: Make) -> None:
    """They are said when they are given."""
    for wrong in ({"ttl": 0}, {"idle": -1}, {"absolute": True}, {"idle": 60.0, "seen_every": 60.0}):
        with pytest.raises(UsageError):
            make(**wrong)
    sessions = make()
    for user in (5, "", None):
        with pytest.raises(UsageError):
            await sessions.log_in(None, user, {})
        with pytest.raises(UsageError):
            await sessions.destroy_all(user)
