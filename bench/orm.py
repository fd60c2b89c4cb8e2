"""What following SQLAlchemy's writes costs: `python -m bench.orm`

On a Redis and a PostgreSQL of its own. Each row is the median of the same work, first with sessions that nobody
follows and then with sessions that are followed, in turns. The database does not wait for its disk, so that what is
added is not hidden behind that.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from sqlalchemy import ForeignKey, select, update
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from neverstale import AsyncCache
from neverstale.testing.servers import PostgresServer, RedisServer, binaries
from neverstale.web.sqlalchemy import follow_writes, invalidates

ROWS = 100
#: So that no two transactions write the same.
_numbers = itertools.count()


class Base(DeclarativeBase):
    pass


class Silent(Base):
    __tablename__ = "silent"
    id: Mapped[int] = mapped_column(primary_key=True)
    place: Mapped[int] = mapped_column(default=1)
    value: Mapped[int] = mapped_column(default=1)


@invalidates("keyed:{id}")
class Keyed(Base):
    __tablename__ = "keyed"
    id: Mapped[int] = mapped_column(primary_key=True)
    place: Mapped[int] = mapped_column(default=1)
    value: Mapped[int] = mapped_column(default=1)


@invalidates("placed:{id}", "place:{place}")
class Placed(Base):
    __tablename__ = "placed"
    id: Mapped[int] = mapped_column(primary_key=True)
    place: Mapped[int] = mapped_column(default=1)
    value: Mapped[int] = mapped_column(default=1)


@invalidates("placed:{placed_id}", "place:{placed.place}")
class Part(Base):
    __tablename__ = "parts"
    id: Mapped[int] = mapped_column(primary_key=True)
    placed_id: Mapped[int] = mapped_column(ForeignKey("placed.id"))
    placed: Mapped[Placed] = relationship()


def _changes(model: Any) -> Callable[[Any, int], Awaitable[Any]]:
    async def change(session: Any, number: int) -> None:
        (await session.get_one(model, number % ROWS)).value = number

    return change


async def _part(session: Any, number: int) -> None:
    session.add(Part(placed_id=number % ROWS))


async def _all(session: Any, number: int) -> None:
    await session.execute(update(Placed).where(Placed.id < ROWS).values(value=number))


async def _reads(session: Any, number: int) -> None:
    await session.execute(select(Silent.value).where(Silent.id == number % ROWS))


WORKS: dict[str, Callable[[Any, int], Awaitable[Any]]] = {
    "one SELECT": _reads,
    "one object, nothing said of it": _changes(Silent),
    "one object, names of its primary key": _changes(Keyed),
    "one object, names of other columns": _changes(Placed),
    "a new object, names by a path": _part,
    f"a statement that changes {ROWS} rows": _all,
}


async def _measure(makers: list[Any], work: Any, repeat: int) -> list[float]:
    took: list[list[float]] = [[] for _ in makers]
    for _ in range(repeat):
        for times, maker in zip(took, makers, strict=True):
            start = time.perf_counter()
            async with maker() as session:
                await work(session, next(_numbers))
                await session.commit()
            times.append(time.perf_counter() - start)
    return [statistics.median(times) * 1e3 for times in took]


async def _run(redis: str, database: str, repeat: int) -> None:
    engine = create_async_engine(database)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    plain, followed = async_sessionmaker(engine), async_sessionmaker(engine)
    async with plain.begin() as session:
        session.add_all(model(id=number) for model in (Silent, Keyed, Placed) for number in range(ROWS))
    cache = AsyncCache.from_url(redis, namespace="bench")
    following = follow_writes(followed, cache)
    print(f"{'a transaction with its commit, milliseconds':45} {'alone':>8} {'followed':>9} {'more':>7}")
    for name, work in WORKS.items():
        gc.collect()
        alone, with_us = await _measure([plain, followed], work, repeat)
        print(f"{name:45} {alone:8.2f} {with_us:9.2f} {with_us - alone:7.2f}")
    following.detach()
    await following.retrier.close()
    await cache.close()
    await engine.dispose()


def main() -> None:
    parser = argparse.ArgumentParser(description="What following SQLAlchemy's writes costs.")
    parser.add_argument(
        "--repeat", type=int, default=300, help="transactions of each kind (default: %(default)s)"
    )
    repeat = parser.parse_args().repeat
    with RedisServer.start(str(binaries()["redis"])) as redis, PostgresServer.start() as postgres:
        asyncio.run(_run(redis.url, postgres.url, repeat))


if __name__ == "__main__":
    main()
