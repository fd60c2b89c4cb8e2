"""The database: SQLite or PostgreSQL behind one class with two kinds of session, and its errors in plain words.

A reading session never writes. A writing session is one transaction: it commits when its block ends, and rolls back
when the block raises. Where writes are followed, what they make stale is invalidated after the commit, before the block
is left: whoever goes on from there reads the new state.

SQLite's rule for writers: a transaction that reads first and writes later is refused when another one wrote in
between, and no waiting helps (SQLITE_BUSY_SNAPSHOT). So writing sessions say `BEGIN IMMEDIATE` and queue up at once.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, event, make_url, select, text
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from neverstale import AsyncCache, InvalidationError
from neverstale.owed import AsyncRetrier
from neverstale.web.sqlalchemy import Following, follow_writes

from .models import Base, Fact
from .statements import Statements

__all__ = ["POOL_SIZE", "UNREACHABLE", "Database", "database_url", "explain", "is_unreachable"]

POOL_SIZE = 10

# What drivers raise when there is no database to talk to: asyncpg lets the socket's own errors through.
UNREACHABLE: tuple[type[Exception], ...] = (OperationalError, InterfaceError, PoolTimeout, OSError)

# SQLite: WAL lets readers go on beside a writer, and NORMAL is durable enough with it (a power cut may lose the last
# commits, never the file). Ten seconds for a queue of writers; 32 MiB of pages and a mapping for the reads.
_PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=NORMAL",
    "PRAGMA foreign_keys=ON",
    "PRAGMA busy_timeout=10000",
    "PRAGMA cache_size=-32000",
    "PRAGMA mmap_size=268435456",
    "PRAGMA temp_store=MEMORY",
)


def database_url(given: str) -> URL:
    """Return the URL with its asynchronous driver; `postgres://`, `postgresql://` and `sqlite://` are understood.

    Raises `ValueError` in one line for anything else.
    """
    try:
        url = make_url(given)
    except ArgumentError:
        examples = "sqlite:///shop.db or postgresql://user:password@host/name"
        raise ValueError(f"DATABASE_URL is not a URL; allowed are for example {examples}") from None
    match url.drivername:
        case "postgres" | "postgresql" | "postgresql+asyncpg":
            return url.set(drivername="postgresql+asyncpg")
        case "sqlite" | "sqlite+aiosqlite":
            if not url.database or url.database == ":memory:":
                raise ValueError(
                    "DATABASE_URL names no file: an SQLite database in memory has no second connection"
                )
            return url.set(drivername="sqlite+aiosqlite")
        case other:
            raise ValueError(f"DATABASE_URL is for {other!r}; the shop knows sqlite and postgresql")


class Database:
    """An engine with its two session makers.

    Arguments:
        url: as in `DATABASE_URL`.
        pool_size: connections kept, and never more: so many statements may a process have running. Ten are more
            than two cores can keep busy.
    """

    def __init__(self, url: str, pool_size: int = POOL_SIZE) -> None:
        self.url = database_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        options: dict[str, Any] = {"pool_size": pool_size, "max_overflow": 0, "pool_timeout": 10}
        if self.is_sqlite:
            options["connect_args"] = {"isolation_level": None}  # SQLAlchemy says BEGIN, not the driver
        else:
            # A restarted server must not cost its first visitors an error. JIT costs more than these queries take.
            options |= {
                "pool_pre_ping": True,
                "connect_args": {"timeout": 5, "server_settings": {"jit": "off", "timezone": "UTC"}},
            }
        self.engine: AsyncEngine = create_async_engine(self.url, **options)
        self.statements = Statements(self.engine.sync_engine)
        if self.is_sqlite:
            event.listen(self.engine.sync_engine, "connect", _set_pragmas)
            event.listen(self.engine.sync_engine, "begin", _begin)
        # One snapshot for all statements of a page. SQLite's transactions are that anyway.
        reading = (
            self.engine
            if self.is_sqlite
            else self.engine.execution_options(isolation_level="REPEATABLE READ")
        )
        self._readers = async_sessionmaker(reading, expire_on_commit=False, autoflush=False)
        writing = self.engine.execution_options(shop_writes=True)  # the same pool
        self._writers = async_sessionmaker(writing, expire_on_commit=False)

    def __repr__(self) -> str:
        return f"Database({self.url.render_as_string(hide_password=True)})"

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """Open a session that only reads, all in one snapshot."""
        async with self._readers() as session:
            yield session

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        """Open a session that is one transaction: committed when the block ends, rolled back when it raises."""
        async with self._writers() as session, session.begin():
            yield session

    def follow_writes(
        self, cache: AsyncCache, on_failure: Callable[[InvalidationError], object]
    ) -> Following[AsyncRetrier]:
        """Invalidate what writing sessions change, as models.py says.

        Not that of bulk work on the engine itself, such as seeding: who does that empties the cache in one step.

        Arguments:
            on_failure: is told when a commit could not be followed by its invalidation, which is then repeated in the
                background.
        """
        return follow_writes(self._writers, cache, on_failure=on_failure)

    def make_place(self) -> None:
        """Make the directory of an SQLite file."""
        if self.is_sqlite and self.url.database:
            Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)

    def exists(self) -> bool:
        """Say whether there is a database file to open: SQLite would otherwise make an empty one."""
        return not self.is_sqlite or Path(self.url.database or "").is_file()

    async def fact(self, name: str) -> str | None:
        """Return a fact that the database holds about itself, `None` also where it has no tables yet."""
        if not self.exists():
            return None
        async with self.engine.connect() as connection:
            if not await connection.run_sync(_has_facts):
                return None
            value: str | None = await connection.scalar(select(Fact.value).where(Fact.name == name))
            return value

    async def ping(self, timeout: float = 2.0) -> str:
        """Return `ok`, or in one line what is wrong; never later than `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout), self.read() as session:
                await session.execute(text("SELECT 1"))
        except TimeoutError:
            return f"no answer within {timeout:g} s"
        except UNREACHABLE as error:
            return explain(error)
        return "ok"

    async def close(self) -> None:
        """Close every connection."""
        await self.engine.dispose()


def _set_pragmas(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for pragma in _PRAGMAS:
        cursor.execute(pragma)
    cursor.close()


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("shop_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _has_facts(connection: Connection) -> bool:
    return connection.dialect.has_table(connection, Fact.__tablename__)


def create_tables(connection: Connection) -> None:
    """Create what is missing."""
    Base.metadata.create_all(connection)


def is_unreachable(error: BaseException) -> bool:
    """Say whether the database is away, rather than the statement wrong."""
    if isinstance(error, OperationalError) and isinstance(error.orig, sqlite3.OperationalError):
        return "no such" not in str(error.orig)  # a missing table or column is a mistake of ours
    return isinstance(error, UNREACHABLE)


def explain(error: BaseException) -> str:
    """Say in one line what went wrong with the database, without the statement and its parameters."""
    cause: BaseException = error
    if isinstance(error, DBAPIError) and error.orig is not None:
        cause = error.orig
        if cause.__cause__ is not None:  # asyncpg's own error is behind SQLAlchemy's
            cause = cause.__cause__
    said = str(cause).strip().splitlines()
    return said[0] if said else type(cause).__name__
