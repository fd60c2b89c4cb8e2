"""Followed sessions: plain ones on SQLite, asynchronous ones on SQLite and PostgreSQL, behind one face."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from neverstale import AsyncCache, Cache
from neverstale.events import InvalidationEvent
from neverstale.testing.servers import PostgresServer, RedisServer
from neverstale.web.sqlalchemy import Following, follow_writes
from tests.orm.models import Base, answer, answers, fill, with_savepoints

KINDS = ("sync-sqlite", "async-sqlite", "async-postgres")
_numbers = itertools.count()


class World:
    """A database, a cache, and sessions that are followed; the same for both kinds of session."""

    cache: Any
    maker: Any
    engine: Any
    following: Following[Any]

    def __init__(self) -> None:
        #: What has been invalidated, in the order of its coming.
        self.told: list[InvalidationEvent] = []

    def watch(self) -> None:
        self.cache.events.subscribe(self.told.append, InvalidationEvent)

    def taken(self) -> set[str]:
        """Return the names that were invalidated since the last call."""
        names = {name for event in self.told for name in event.names}
        self.told.clear()
        return names

    async def write(self, work: Callable[[Session], Any]) -> Any:
        """Do something in a transaction and commit it."""
        raise NotImplementedError

    async def attempt(self, work: Callable[[Session], Any]) -> None:
        """Do something in a transaction and roll it back."""
        raise NotImplementedError

    async def look(self, work: Callable[[Session], Any]) -> Any:
        """Read in a session that nobody follows."""
        raise NotImplementedError

    async def cached(self, name: str, tags: tuple[str, ...]) -> Any:
        raise NotImplementedError

    async def stale(self, most: int = 12) -> dict[str, tuple[Any, Any]]:
        """Compare every cached answer with the uncached one; fills the cache on the way."""
        named = answers(most)
        fresh = await self.look(lambda session: {name: answer(session, name) for name in named})
        had = {name: await self.cached(name, tags) for name, tags in named.items()}
        return {name: (had[name], fresh[name]) for name in named if had[name] != fresh[name]}


class SyncWorld(World):
    def __init__(self, url: str, redis: str) -> None:
        super().__init__()
        self.engine = create_engine(url)
        with_savepoints(self.engine)
        Base.metadata.create_all(self.engine)
        self.maker = sessionmaker(self.engine)
        self.plain = sessionmaker(self.engine)
        with self.plain.begin() as session:
            fill(session)
        self.cache = Cache.from_url(redis, namespace="orm")
        self.watch()
        self.following = follow_writes(self.maker, self.cache)

    async def write(self, work: Callable[[Session], Any]) -> Any:
        with self.maker() as session:
            done = work(session)
            session.commit()
            return done

    async def attempt(self, work: Callable[[Session], Any]) -> None:
        with self.maker() as session:
            work(session)
            session.rollback()

    async def look(self, work: Callable[[Session], Any]) -> Any:
        with self.plain() as session:
            return work(session)

    async def cached(self, name: str, tags: tuple[str, ...]) -> Any:
        def load() -> Any:
            with self.plain() as session:
                return answer(session, name)

        return self.cache.get_or_load(name, load, tags=tags)

    async def close(self) -> None:
        self.following.detach()
        self.following.retrier.close()
        self.cache.close()
        self.engine.dispose()


class AsyncWorld(World):
    def __init__(self, engine: Any, redis: str) -> None:
        super().__init__()
        self.engine = engine
        self.maker = async_sessionmaker(engine)
        self.plain = async_sessionmaker(engine)
        self.cache = AsyncCache.from_url(redis, namespace="orm")
        self.watch()

    @classmethod
    async def open(cls, url: str, redis: str) -> AsyncWorld:
        engine = create_async_engine(url)
        if "sqlite" in url:
            with_savepoints(engine.sync_engine)
        world = cls(engine, redis)
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.drop_all)
            await connection.run_sync(Base.metadata.create_all)
        async with world.plain.begin() as session:
            await session.run_sync(fill)
            if "postgres" in url:
                await session.run_sync(_advance)
        world.following = follow_writes(world.maker, world.cache)
        return world

    async def write(self, work: Callable[[Session], Any]) -> Any:
        async with self.maker() as session:
            done = await session.run_sync(work)
            await session.commit()
            return done

    async def attempt(self, work: Callable[[Session], Any]) -> None:
        async with self.maker() as session:
            await session.run_sync(work)
            await session.rollback()

    async def look(self, work: Callable[[Session], Any]) -> Any:
        async with self.plain() as session:
            return await session.run_sync(work)

    async def cached(self, name: str, tags: tuple[str, ...]) -> Any:
        async def load() -> Any:
            async with self.plain() as session:
                return await session.run_sync(answer, name)

        return await self.cache.get_or_load(name, load, tags=tags)

    async def close(self) -> None:
        self.following.detach()
        await self.following.retrier.close()
        await self.cache.close()
        await self.engine.dispose()


def _advance(session: Session) -> None:
    """Let PostgreSQL's sequences go on behind what was put in with ids."""
    for table in Base.metadata.sorted_tables:
        if "id" in table.c:
            session.execute(
                text(
                    f"SELECT setval('{table.name}_id_seq', (SELECT coalesce(max(id), 0) + 1 FROM {table.name}))"
                )
            )


@pytest.fixture(scope="session")
def orm_database(postgres: PostgresServer) -> str:
    return postgres.create_database("orm")


@pytest.fixture(params=KINDS)
async def world(
    request: pytest.FixtureRequest, redis_server: RedisServer, tmp_path: Path
) -> AsyncIterator[World]:
    """Give each kind of session in turn, followed."""
    opened: SyncWorld | AsyncWorld
    if request.param == "sync-sqlite":
        opened = SyncWorld(f"sqlite:///{tmp_path / 'orm.db'}", redis_server.url)
    elif request.param == "async-sqlite":
        opened = await AsyncWorld.open(f"sqlite+aiosqlite:///{tmp_path / 'orm.db'}", redis_server.url)
    else:
        opened = await AsyncWorld.open(request.getfixturevalue("orm_database"), redis_server.url)
    yield opened
    await opened.close()


def only(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("world", kinds, indirect=True)


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - servers and threads tell nobody
            await asyncio.sleep(0.005)
