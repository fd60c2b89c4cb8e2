"""Redis away, commits that fail, callers that are cancelled; and to attach and detach."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from typing import Any

import pytest
from sqlalchemy import create_engine, event, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.util import await_only

from neverstale import AsyncCache, Cache, InvalidationError, UsageError
from neverstale.testing.servers import RedisServer
from neverstale.web.sqlalchemy import follow_writes
from tests.orm.conftest import AsyncWorld, SyncWorld, World, only, until
from tests.orm.models import Product
from tests.orm.test_transactions import OF_ONE, product


def change(session: Session) -> None:
    product(session).price += 1


async def test_redis_away_the_commit_stands_and_the_invalidation_follows(
    world: World, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The write succeeds, an error is logged, and once Redis is back nothing old is served."""
    await world.stale()
    redis_server.kill()
    with caplog.at_level(logging.WARNING, logger="neverstale"):
        await world.write(change)
    assert await world.look(lambda session: product(session).price) == 101
    assert set(world.following.retrier.owed.tags) == OF_ONE - {"api:products"}
    assert world.following.retrier.owed.keys == ("api:products",)
    assert "committed, but not invalidated yet" in caplog.text
    redis_server.revive()
    await until(lambda: not world.following.retrier.owed)
    assert world.taken() == OF_ONE
    assert await world.stale() == {}


async def test_the_application_can_have_the_error(world: World, redis_server: RedisServer) -> None:
    """Out of `commit`, or told to a function; it has been committed, and is tried again all the same."""
    told: list[InvalidationError] = []
    redis_server.kill()
    world.following._on_failure = "raise"
    with pytest.raises(InvalidationError):
        await world.write(change)
    world.following._on_failure = told.append
    await world.write(change)
    assert [error.kind for error in told] == ["tag"]
    assert await world.look(lambda session: product(session).price) == 102
    redis_server.revive()
    await until(lambda: not world.following.retrier.owed)
    assert world.taken() >= OF_ONE


async def test_a_session_goes_on_after_an_invalidation_that_failed(
    world: World, redis_server: RedisServer
) -> None:
    """Its connection is back in the pool, and its next transaction is like any other."""
    world.following._on_failure = "raise"

    def twice(session: Session) -> None:
        change(session)
        redis_server.kill()
        with pytest.raises(InvalidationError):
            session.commit()
        assert not session.in_transaction()
        redis_server.revive()
        change(session)
        session.commit()

    await world.write(twice)
    assert getattr(world.engine.pool, "checkedout", int)() == 0
    assert world.taken() >= OF_ONE


async def test_a_commit_whose_outcome_is_unknown_counts_as_one(world: World) -> None:
    """The connection breaks while COMMIT is on its way: it may have happened."""
    engine = getattr(world.engine, "sync_engine", world.engine)

    def broken(_connection: Any) -> None:
        raise OperationalError("COMMIT", {}, Exception("connection lost"))

    def fails(session: Session) -> None:
        change(session)
        event.listen(engine, "commit", broken)
        with pytest.raises(OperationalError):
            session.commit()
        assert world.taken() == set()
        event.remove(engine, "commit", broken)
        session.rollback()

    await world.write(fails)
    assert world.taken() == OF_ONE
    assert set(world.following.retrier.owed.tags) == OF_ONE - {"api:products"}, "and once more a little later"


@only("async-sqlite", "async-postgres")
async def test_a_cancelled_commit_is_invalidated_all_the_same(
    world: AsyncWorld, redis_server: RedisServer
) -> None:
    """The caller is gone while Redis is slow; the invalidation is not."""
    async with world.maker() as session:
        (await session.get_one(Product, 1)).price = 1
        redis_server.freeze()
        committing = asyncio.create_task(session.commit())
        await until(lambda: world.following._tasks)
        committing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await committing
        redis_server.thaw()
    await until(lambda: {name for told in world.told for name in told.names} >= OF_ONE)


@only("async-sqlite")
async def test_commit_has_invalidated_when_it_returns(world: AsyncWorld) -> None:
    """Not a moment later: what is read next is new, by many at once."""
    await world.stale()

    async def write_and_read(number: int) -> None:
        async with world.maker() as session, session.begin():
            (await session.get_one(Product, number)).name = f"new {number}"
        page: Any = await world.cached(f"product:{number}", (f"product:{number}",))
        assert page[0][0][0] == f"new {number}"

    await asyncio.gather(*(write_and_read(number) for number in (1, 2, 3)))


@only("async-sqlite")
async def test_a_task_cancelled_while_its_connection_goes_back_after_the_commit(world: AsyncWorld) -> None:
    """Of such a transaction SQLAlchemy tells nobody the end, whoever closes the session then."""

    def cancel(*_: Any) -> None:
        event.remove(world.engine.sync_engine, "checkin", cancel)
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await_only(asyncio.sleep(0))

    async with world.maker() as session:
        (await session.get_one(Product, 1)).price = 1
        raw: Any = (await (await session.connection()).get_raw_connection()).driver_connection
        event.listen(world.engine.sync_engine, "checkin", cancel)
        with pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(session.commit())
    await raw.close()
    assert await world.look(lambda other: product(other).price) == 1
    await until(lambda: {name for told in world.told for name in told.names} >= OF_ONE)


# --- attaching -----------------------------------------------------------------------------------------------------


@only("sync-sqlite")
async def test_whatever_makes_sessions_can_be_followed(world: SyncWorld) -> None:
    """A maker, a scoped session, a class, one session; again is the same, detached is nothing."""
    world.following.detach()

    class Own(Session):
        pass

    maker = sessionmaker(world.engine)
    for followed, session in (
        (maker, maker),
        (scoped_session(sessionmaker(world.engine)), None),
        (Own, lambda: Own(world.engine)),
    ):
        following: Any = follow_writes(followed, world.cache)
        assert follow_writes(followed, world.cache.with_prefix("other:")) is following
        for expected in (OF_ONE, set()):
            with (session or followed)() as made:
                change(made)
                made.commit()
            assert world.taken() == expected
            following.detach()
            following.detach()
    with Session(world.engine) as one, Session(world.engine) as other:
        follow_writes(one, world.cache)
        change(one)
        one.commit()
        assert world.taken() == OF_ONE
        change(other)
        other.commit()
        assert world.taken() == set()


@only("async-sqlite")
async def test_whatever_makes_asynchronous_sessions_can_be_followed(world: AsyncWorld) -> None:
    """The same, and other sessions are left alone."""
    world.following.detach()
    assert world.maker().sync_session_class is Session

    class Own(AsyncSession):
        pass

    maker = async_sessionmaker(world.engine)
    scoped = async_scoped_session(async_sessionmaker(world.engine), asyncio.current_task)
    for followed, make in (
        (maker, maker),
        (scoped, scoped.session_factory),
        (Own, lambda: Own(world.engine)),
    ):
        following: Any = follow_writes(followed, world.cache)
        assert follow_writes(followed, world.cache) is following
        for expected in (OF_ONE, set()):
            async with make() as session:
                await session.run_sync(change)
                await session.commit()
            assert world.taken() == expected
            following.detach()
    async with AsyncSession(world.engine) as one:
        follow_writes(one, world.cache)
        await one.run_sync(change)
        await one.commit()
    assert world.taken() == OF_ONE
    assert AsyncSession.sync_session_class is Session


@pytest.mark.parametrize("kind", [sessionmaker, async_sessionmaker])
async def test_nothing_is_kept_of_sessions_and_makers_that_are_dropped(
    kind: Any, redis_server: RedisServer
) -> None:
    """Sessions go at once, makers with the next collection, though SQLAlchemy keeps listeners by class."""
    sync = kind is sessionmaker
    cache: Any = (Cache if sync else AsyncCache).from_url(redis_server.url)
    maker = kind(create_engine("sqlite://") if sync else create_async_engine("sqlite+aiosqlite://"))
    follow_writes(maker, cache)
    session = maker()
    plain = session if sync else session.sync_session
    dropped = [weakref.ref(plain), weakref.ref(type(plain))]
    gc.disable()
    try:
        if sync:
            plain.execute(select(1))
            plain.commit()
            plain.get_bind().dispose()
            del session, plain
            assert dropped[0]() is None
        else:
            del session, plain
    finally:
        gc.enable()
    del maker
    gc.collect()
    assert [each() for each in dropped] == [None, None]
    await cache.close() if not sync else cache.close()


async def test_what_does_not_fit_is_refused(world: World) -> None:
    """A cache that could not be done when `commit` returns, another cache, wrong options."""
    sync, asynchronous = Cache.from_url("redis://localhost:1"), AsyncCache.from_url("redis://localhost:1")
    with pytest.raises(UsageError, match="goes with an AsyncCache"):
        follow_writes(async_sessionmaker(), sync)  # type: ignore[call-overload]
    with pytest.raises(UsageError, match="goes with a Cache"):
        follow_writes(sessionmaker(), asynchronous)  # type: ignore[call-overload]
    with pytest.raises(UsageError, match="follows"):
        follow_writes(world.maker, sync if isinstance(world, SyncWorld) else asynchronous)
    for options in ({"limit": -1}, {"on_failure": "nothing"}):
        with pytest.raises(UsageError):
            follow_writes(world.maker, world.cache, **options)
    with pytest.raises(UsageError):
        follow_writes("sessions", sync)  # type: ignore[call-overload]
    sync.close()
    await asynchronous.close()


@only("async-sqlite", "sync-sqlite")
async def test_both_kinds_in_one_process(world: World, redis_server: RedisServer) -> None:
    """A plain session with a plain cache beside the asynchronous one, on one database."""
    url = str(world.engine.url).replace("+aiosqlite", "")
    other = SyncWorld.__new__(SyncWorld)
    World.__init__(other)
    other.engine, other.cache = create_engine(url), Cache.from_url(redis_server.url, namespace="orm")
    other.watch()
    maker = sessionmaker(other.engine)
    following = follow_writes(maker, other.cache)
    with maker() as session:
        change(session)
        session.commit()
    assert other.taken() == OF_ONE
    assert world.taken() == set()
    await world.write(change)
    assert world.taken() == OF_ONE
    following.detach()
    other.cache.close()
    other.engine.dispose()
