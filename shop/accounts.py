"""Accounts and log-ins: who is asking.

A session's id is 256 random bits from `secrets`; the client has it in a cookie, the database only its SHA-256. An id
that is not known is never adopted, every log-in makes a new one, and a session ends at log-out, at a change of
password (all of the user's), after a week without a visit, and after thirty days in any case.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError

from .db import Database
from .errors import Conflict, NotLoggedIn
from .models import AuthSession, User, utc_now
from .passwords import hash_password, verify_password
from .views import Account

__all__ = [
    "ABSOLUTE_LIFE",
    "ADMIN_EMAIL",
    "LogIn",
    "apply_admin_password",
    "change_password",
    "find",
    "log_in",
    "log_out",
    "register",
]

ADMIN_EMAIL = "admin@example.com"
ABSOLUTE_LIFE = timedelta(days=30)
IDLE_LIFE = timedelta(days=7)
# How exact "last seen" is: one write in five minutes at most, not one for every page.
_SEEN_EVERY = timedelta(minutes=5)


@dataclass(frozen=True)
class LogIn:
    """An account, and the token that opens it from now on."""

    account: Account
    token: str


async def find(db: Database, token: str) -> Account | None:
    """Return whose session this is, or `None` for one that is unknown or over."""
    now = utc_now()
    async with db.read() as session:
        row = (
            await session.execute(
                select(User.id, User.email, User.name, User.is_admin, AuthSession.seen_at)
                .join(AuthSession, AuthSession.user_id == User.id)
                .where(
                    AuthSession.id_hash == _digest(token),
                    AuthSession.expires_at > now,
                    AuthSession.seen_at > now - IDLE_LIFE,
                )
            )
        ).one_or_none()
    if row is None:
        return None
    if now - row.seen_at > _SEEN_EVERY:
        async with db.write() as session:
            # An update, never an insert: a session that was ended meanwhile stays ended.
            await session.execute(
                update(AuthSession).where(AuthSession.id_hash == _digest(token)).values(seen_at=now)
            )
    return Account(*row[:4])


async def log_in(db: Database, email: str, password: str, *, old_token: str | None, device: str) -> LogIn:
    """Check a password and open a session, ending the one that the browser had.

    Raises `NotLoggedIn`, with the same words for a wrong address and a wrong password.
    """
    async with db.read() as session:
        user = await session.scalar(select(User).where(User.email == _normal(email)))
    if not await verify_password(user.password_hash if user else None, password) or user is None:
        raise NotLoggedIn("wrong e-mail address or password")
    token = _new_token()
    async with db.write() as session:
        if old_token:
            await session.execute(delete(AuthSession).where(AuthSession.id_hash == _digest(old_token)))
        await session.execute(delete(AuthSession).where(AuthSession.expires_at <= utc_now()))
        session.add(_session(user.id, token, device))
    return LogIn(_account(user), token)


async def register(db: Database, email: str, name: str, password: str, *, device: str) -> LogIn:
    """Make an account and log in. Raises `Conflict` when the address has one."""
    user = User(email=_normal(email), name=name, password_hash=await hash_password(password), is_admin=False)
    token = _new_token()
    try:
        async with db.write() as session:
            session.add(user)
            await session.flush()
            session.add(_session(user.id, token, device))
    except IntegrityError:
        raise Conflict("this e-mail address has an account already") from None
    return LogIn(_account(user), token)


async def log_out(db: Database, token: str) -> None:
    """End a session, at once and for every process."""
    async with db.write() as session:
        await session.execute(delete(AuthSession).where(AuthSession.id_hash == _digest(token)))


async def change_password(db: Database, account: Account, current: str, new: str, *, device: str) -> LogIn:
    """Set a new password, end every session of the user, and open a new one for who asked.

    Raises `NotLoggedIn` when the current password is wrong.
    """
    async with db.read() as session:
        stored = await session.scalar(select(User.password_hash).where(User.id == account.id))
    if not await verify_password(stored, current):
        raise NotLoggedIn("the current password is wrong")
    new_hash = await hash_password(new)
    token = _new_token()
    async with db.write() as session:
        changed = await session.execute(
            # Only if it still is the one that was checked: of two changes at once, the second is refused.
            update(User)
            .where(User.id == account.id, User.password_hash == stored)
            .values(password_hash=new_hash)
            .returning(User.id)
        )
        if changed.one_or_none() is None:
            raise Conflict("the password was changed by somebody else meanwhile")
        await session.execute(delete(AuthSession).where(AuthSession.user_id == account.id))
        session.add(_session(account.id, token, device))
    return LogIn(account, token)


async def apply_admin_password(db: Database, password: str) -> bool:
    """Make this the administrator's password, and say whether that changed anything.

    Every worker does it at its start; the first one changes, the others find it done.
    """
    async with db.read() as session:
        admin = await session.scalar(select(User).where(User.email == ADMIN_EMAIL))
    if admin is not None and await verify_password(admin.password_hash, password):
        return False
    new_hash = await hash_password(password)
    async with db.write() as session:
        if admin is None:
            session.add(User(email=ADMIN_EMAIL, name="Administrator", password_hash=new_hash, is_admin=True))
        else:
            await session.execute(update(User).where(User.id == admin.id).values(password_hash=new_hash))
            await session.execute(delete(AuthSession).where(AuthSession.user_id == admin.id))
    return True


def _session(user_id: int, token: str, device: str) -> AuthSession:
    now = utc_now()
    return AuthSession(
        id_hash=_digest(token),
        user_id=user_id,
        created_at=now,
        seen_at=now,
        expires_at=now + ABSOLUTE_LIFE,
        device=device[:200],
    )


def _account(user: User) -> Account:
    return Account(user.id, user.email, user.name, user.is_admin)


def _normal(email: str) -> str:
    return email.strip().lower()


def _new_token() -> str:
    return secrets.token_urlsafe(32)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
