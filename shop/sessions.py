"""Log-ins: they live in the table `sessions`, and the cache is aside, under `session:`.

Every request that brings a cookie asks who that is: one round trip to Redis, and a query only where Redis does not
know. What the cache holds of a log-in is the account as well, so whatever changes a user ends all copies of theirs.

Redis away: who is asked is the database, and nobody notices. A log-out is done there; what could not be invalidated is
logged and done in the background once Redis is back (see caching.py for what that leaves open).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Sequence
from datetime import timedelta
from typing import Any, Final, TypeVar

from msgspec.structs import replace
from sqlalchemy import delete, select, update

from neverstale import AsyncCache, InvalidationError
from neverstale.owed import AsyncRetrier
from neverstale.sessions import AsyncSessions, Session

from .db import Database
from .models import AuthSession, User, utc_now
from .views import Account, SessionView

__all__ = ["ABSOLUTE_LIFE", "IDLE_LIFE", "ShopSessions", "Store", "digest_of"]

T = TypeVar("T")
log = logging.getLogger("shop.sessions")

ABSOLUTE_LIFE: Final = timedelta(days=30)
IDLE_LIFE: Final = timedelta(days=7)
# How exact "last seen" is: one write in five minutes at most, not one for every page.
SEEN_EVERY: Final = timedelta(minutes=5)
_NAME = 16  # digits of a digest that name a session to its owner


class Store:
    """The sessions of the database, as `neverstale.sessions` asks for them.

    A log-in is never another one's successor here: who logs in anew gets another session, and the old one ends. So a
    family is one session, and nothing but the visit ever changes in it.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    async def load(self, digest: str) -> Session[Account] | None:
        """Return a session that is not over, and whose it is."""
        async with self._db.read() as session:
            row = (await session.execute(_alive().where(AuthSession.id_hash == digest))).one_or_none()
        return None if row is None else _session(row)

    async def create(self, session: Session[Account]) -> None:
        """Insert a session. The shop does that itself, with what belongs into the same transaction."""
        async with self._db.write() as writing:
            writing.add(
                AuthSession(
                    id_hash=session.digest,
                    user_id=session.data.id,
                    created_at=session.created_at,
                    seen_at=session.seen_at,
                    expires_at=session.expires_at,
                    device=session.device,
                )
            )

    async def save(self, session: Session[Account], revision: int) -> bool:
        """Note a visit. An update, never an insert: a session that was ended meanwhile stays ended."""
        async with self._db.write() as writing:
            saved = await writing.execute(
                update(AuthSession)
                .where(AuthSession.id_hash == session.digest)
                .values(seen_at=session.seen_at.replace(microsecond=0))
                .returning(AuthSession.id_hash)
            )
            return saved.one_or_none() is not None

    async def rotate(self, new: Session[Account], old: Session[Account], revision: int) -> bool:
        """Never called: see above."""
        raise NotImplementedError

    async def delete(self, family: str) -> Sequence[str]:
        """Delete a session."""
        async with self._db.write() as writing:
            gone = delete(AuthSession).where(AuthSession.id_hash == family).returning(AuthSession.id_hash)
            return (await writing.scalars(gone)).all()

    async def delete_of_user(self, user: str, keep: str | None) -> int:
        """Delete the sessions of a user but one, and return how many of them were not over."""
        async with self._db.write() as writing:
            gone = delete(AuthSession).where(AuthSession.user_id == int(user))
            if keep is not None:
                gone = gone.where(AuthSession.id_hash != keep)
            ends = (await writing.scalars(gone.returning(AuthSession.expires_at))).all()
            return sum(end > utc_now() for end in ends)

    async def of_user(self, user: str) -> Sequence[Session[Account]]:
        """Return the sessions of a user that are not over."""
        async with self._db.read() as session:
            rows = (await session.execute(_alive().where(AuthSession.user_id == int(user)))).all()
        return [_session(row) for row in rows]


class ShopSessions:
    """Who is logged in, through the cache where there is one.

    Arguments:
        db: where sessions live.
        cache: None: every question goes to the database (`CACHE_ENABLED=0`).
    """

    def __init__(self, db: Database, cache: AsyncCache | None) -> None:
        self.store = Store(db)
        self.cached: AsyncSessions[Account] | None = None
        if cache is not None:
            self.cached = AsyncSessions(
                cache,
                type=Account,
                store=self.store,
                idle=IDLE_LIFE,
                absolute=ABSOLUTE_LIFE,
                seen_every=SEEN_EVERY,
            )
            self._retrier = AsyncRetrier(cache)

    async def find(self, token: str) -> Account | None:
        """Return whose session this is, or `None` for one that is unknown or over."""
        if self.cached is not None:
            found = await self.cached.find(token, touch=True)
            return None if found is None else found.data
        session = await self.store.load(digest_of(token))
        if session is None:
            return None
        now = utc_now()
        if now - session.seen_at >= SEEN_EVERY:
            await self.store.save(replace(session, seen_at=now), 0)
        return session.data

    async def of(self, account: Account, token: str) -> list[SessionView]:
        """Return where an account is logged in: the session that asks first, then the one seen last, and so on."""
        current = digest_of(token)
        found = sorted(await self.store.of_user(str(account.id)), key=lambda each: each.digest)
        found.sort(key=lambda each: (each.digest == current, each.seen_at, each.created_at), reverse=True)
        return [
            SessionView(
                each.digest[:_NAME], each.device, each.created_at, each.seen_at, each.digest == current
            )
            for each in found
        ]

    async def end(self, token: str) -> None:
        """End a session, at once and for every process."""
        if self.cached is None:
            await self.store.delete(digest_of(token))
        else:
            await self._owing(self.cached.destroy(token))

    async def end_one(self, account: Account, name: str) -> bool:
        """End one session of an account, by the id that `of` gave it; say whether there was such a one."""
        for each in await self.store.of_user(str(account.id)):
            if each.digest[:_NAME] == name:
                if self.cached is None:
                    return bool(await self.store.delete(each.digest))
                return await self._owing(self.cached.destroy_one(str(account.id), name)) is not False
        return False

    async def end_all(self, user_id: int, *, but: str | None = None) -> int:
        """End every session of a user, in the database and in every process, but the one with this token."""
        keep = None if but is None else digest_of(but)
        gone = await self.store.delete_of_user(str(user_id), keep)
        if self.cached is not None:
            # Also what another transaction has deleted already.
            await self._owing(self.cached.destroy_all(str(user_id), keep=but))
        return gone

    async def close(self) -> None:
        """Try once more what is owed."""
        if self.cached is not None:
            await self._retrier.close()

    async def _owing(self, work: Awaitable[T]) -> T | None:
        """Leave to the background what was done in the database and could not be invalidated."""
        assert self.cached is not None
        try:
            return await work
        except InvalidationError as error:
            log.error("committed, but not invalidated yet: %s", error)
            self._retrier.later(self.cached.owed(error))
            return None


def digest_of(token: str) -> str:
    """Return what a session is stored under."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def _alive() -> Any:  # a SELECT of sessions that are not over, each with its user
    now = utc_now()
    return (
        select(AuthSession, User)
        .join(User, AuthSession.user_id == User.id)
        .where(AuthSession.expires_at > now, AuthSession.seen_at > now - IDLE_LIFE)
    )


def _session(row: Any) -> Session[Account]:
    found: AuthSession
    user: User
    found, user = row
    return Session(
        digest=found.id_hash,
        family=found.id_hash,
        data=Account(user.id, user.email, user.name, user.is_admin),
        user=str(user.id),
        device=found.device,
        created_at=found.created_at,
        seen_at=found.seen_at,
        expires_at=found.expires_at,
    )
