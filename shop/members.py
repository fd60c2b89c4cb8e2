"""Sessions for the load generator: of the administrator and of some customers, for as long as it runs.

Nobody's password is known here, and none is changed: the sessions are put into the database, and deleted again.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator
from datetime import timedelta

from sqlalchemy import delete, select

from .db import Database
from .models import AuthSession, User, utc_now
from .sessions import digest_of
from .traffic import Member

__all__ = ["logged_in"]

_CUSTOMERS = 20
_LIFE = timedelta(hours=6)  # should they not be deleted


@contextlib.asynccontextmanager
async def logged_in(db: Database) -> AsyncIterator[tuple[Member, list[Member]]]:
    """Log in the administrator and some customers for the length of a block.

    Raises `ValueError` where there is no administrator.
    """
    async with db.write() as session:
        admin = await session.scalar(select(User).where(User.is_admin).order_by(User.id).limit(1))
        if admin is None:
            raise ValueError("there is no administrator in this database")
        chosen = select(User).where(User.is_admin.is_(False)).order_by(User.id).limit(_CUSTOMERS)
        members = []
        for user in (admin, *await session.scalars(chosen)):
            token = secrets.token_urlsafe(32)
            now = utc_now()
            session.add(
                AuthSession(
                    id_hash=digest_of(token),
                    user_id=user.id,
                    created_at=now,
                    seen_at=now,
                    expires_at=now + _LIFE,
                    device="load generator",
                )
            )
            members.append(Member(token, user.name, user.email))
    try:
        yield members[0], members[1:]
    finally:
        async with db.write() as session:
            digests = [digest_of(each.token) for each in members]
            await session.execute(delete(AuthSession).where(AuthSession.id_hash.in_(digests)))
