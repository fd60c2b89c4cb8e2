"""Sessions in the bookshop's database: the seven methods of `neverstale.sessions.AsyncSessionStore`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from sqlalchemy import JSON, DateTime, String, delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Mapped, mapped_column

from neverstale.sessions import Session

from .database import Base

Data = dict[str, Any]
Moment = Annotated[datetime, mapped_column(DateTime(timezone=True))]


class Row(Base):
    __tablename__ = "sessions"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)  # SHA-256 of the id
    family: Mapped[str] = mapped_column(String(32), index=True)
    user: Mapped[str | None] = mapped_column(String(64), index=True)
    data: Mapped[Data] = mapped_column(JSON)
    device: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[Moment]
    seen_at: Mapped[Moment]
    expires_at: Mapped[Moment] = mapped_column(index=True)
    revision: Mapped[int]
    superseded: Mapped[bool]


FIELDS = [column.key for column in Row.__table__.columns]


def columns(session: Session[Data]) -> dict[str, Any]:
    return {name: getattr(session, name) for name in FIELDS}


def session_of(row: Row) -> Session[Data]:
    fields = {name: getattr(row, name) for name in FIELDS}
    for name in ("created_at", "seen_at", "expires_at"):
        if fields[name].tzinfo is None:  # SQLite keeps no zone
            fields[name] = fields[name].replace(tzinfo=UTC)
    return Session(**fields)


async def save(db: AsyncSession, session: Session[Data], revision: int) -> bool:
    """Never an insert: what was deleted stays deleted."""
    same = (Row.digest == session.digest, Row.revision == revision)
    saved = await db.scalars(update(Row).where(*same).values(**columns(session)).returning(Row.digest))
    return saved.one_or_none() is not None


class Store:
    def __init__(self, make: async_sessionmaker[AsyncSession]) -> None:
        self._make = make

    async def load(self, digest: str) -> Session[Data] | None:
        async with self._make() as db:
            row = await db.get(Row, digest)
            return None if row is None else session_of(row)

    async def create(self, session: Session[Data]) -> None:
        async with self._make.begin() as db:
            db.add(Row(**columns(session)))

    async def save(self, session: Session[Data], revision: int) -> bool:
        async with self._make.begin() as db:
            return await save(db, session, revision)

    async def rotate(self, new: Session[Data], old: Session[Data], revision: int) -> bool:
        async with self._make.begin() as db:
            saved = await save(db, old, revision)
            if saved:
                db.add(Row(**columns(new)))
            return saved

    async def delete(self, family: str) -> Sequence[str]:
        async with self._make.begin() as db:
            gone = delete(Row).where(Row.family == family).returning(Row.digest)
            return (await db.scalars(gone)).all()

    async def delete_of_user(self, user: str, keep: str | None) -> int:
        async with self._make.begin() as db:
            gone = delete(Row).where(Row.user == user)
            if keep is not None:
                gone = gone.where(Row.digest != keep)
            return len((await db.scalars(gone.returning(Row.digest))).all())

    async def of_user(self, user: str) -> Sequence[Session[Data]]:
        async with self._make() as db:
            return [session_of(row) for row in await db.scalars(select(Row).where(Row.user == user))]
