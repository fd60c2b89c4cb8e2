"""The tables of the bookshop, and its database: a file of SQLite unless DATABASE_URL says else."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from importlib import import_module
from typing import Any

from sqlalchemy import ForeignKey, Insert, insert
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

BOOKS, READERS, SALES = 2_000, 100, 20_000
GENRES = ("crime", "fantasy", "history", "nature", "poetry", "science", "travel", "war")

engine = create_async_engine(os.environ.get("DATABASE_URL", "sqlite+aiosqlite:///bookshop.db"))
make_session = async_sessionmaker(engine, expire_on_commit=False)


class Base(DeclarativeBase):
    pass


class Book(Base):
    __tablename__ = "books"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    genre: Mapped[str] = mapped_column(index=True)
    price: Mapped[int]  # cents
    stock: Mapped[int]


class Sale(Base):
    __tablename__ = "sales"

    id: Mapped[int] = mapped_column(primary_key=True)
    book_id: Mapped[int] = mapped_column(ForeignKey("books.id"), index=True)
    copies: Mapped[int]
    sold_at: Mapped[datetime]


class Login(Base):
    __tablename__ = "logins"

    token: Mapped[str] = mapped_column(primary_key=True)
    reader: Mapped[str]


def price_of(book_id: int) -> int:
    """Return what a book costs at first."""
    return 500 + book_id % 2_000


async def fill() -> None:
    """Make the tables, those of the sessions too, and put books and sales there."""
    import_module(".store", __package__)

    async with engine.begin() as connection:
        if engine.dialect.name == "sqlite":  # readers do not wait for a writer then
            await connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        await connection.run_sync(Base.metadata.create_all)
        for statement, rows in _rows():
            await connection.execute(statement, rows)
    await engine.dispose()


def _rows() -> list[tuple[Insert, list[dict[str, Any]]]]:
    books = [
        {"id": n, "title": f"Book {n}", "genre": GENRES[n % 8], "price": price_of(n), "stock": 1_000_000}
        for n in range(1, BOOKS + 1)
    ]
    day = datetime(2026, 1, 1)
    sales = [
        {"book_id": n * n % BOOKS + 1, "copies": n % 3 + 1, "sold_at": day + timedelta(minutes=n)}
        for n in range(SALES)
    ]
    return [(insert(Book), books), (insert(Sale), sales)]
