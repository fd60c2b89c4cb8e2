"""Accounts and log-ins: who is asking.

A session's id is 256 random bits from `secrets`; the client has it in a cookie, the database only its SHA-256. An id
that is not known is never adopted, every log-in makes a new one, and a session ends at log-out, at a change of
password (all of the user's), after a week without a visit, and after thirty days in any case.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError

from .errors import Conflict, NotLoggedIn
from .models import AuthSession, User, utc_now
from .passwords import hash_password, verify_password
from .sessions import ABSOLUTE_LIFE, digest_of
from .state import Shop
from .views import Account, SessionView

__all__ = [
    "ABSOLUTE_LIFE",
    "ADMIN_EMAIL",
    "LogIn",
    "apply_admin_password",
    "change_password",
    "end_other_sessions",
    "end_session",
    "find",
    "log_in",
    "log_out",
    "register",
    "sessions",
]

ADMIN_EMAIL = "admin@example.com"


@dataclass(frozen=True)
class LogIn:
    """An account, and the token that opens it from now on."""

    account: Account
    token: str


async def find(shop: Shop, token: str) -> Account | None:
    """Return whose session this is, or `None` for one that is unknown or over."""
    return await shop.sessions.find(token)


async def log_in(shop: Shop, email: str, password: str, *, old_token: str | None, device: str) -> LogIn:
    """Check a password and open a session, ending the one that the browser had.

    Raises `NotLoggedIn`, with the same words for a wrong address and a wrong password.
    """
    address = _normal(email)
    async with shop.db.read() as session:
        # Nobody's address has characters that cannot be printed, and some of them PostgreSQL refuses to compare.
        known = address.isprintable()
        user = await session.scalar(select(User).where(User.email == address)) if known else None
    if not await verify_password(user.password_hash if user else None, password) or user is None:
        raise NotLoggedIn("wrong e-mail address or password")
    token = _new_token()
    async with shop.db.write() as session:
        # Only with the password that was checked: a change meanwhile has ended all sessions, and would miss this one.
        checked = select(User.id).where(User.id == user.id, User.password_hash == user.password_hash)
        if await session.scalar(checked.with_for_update()) is None:
            raise NotLoggedIn("wrong e-mail address or password")
        await session.execute(delete(AuthSession).where(AuthSession.expires_at <= utc_now()))
        session.add(_session(user.id, token, device))
    if old_token:
        await shop.sessions.end(old_token)
    return LogIn(_account(user), token)


async def register(
    shop: Shop, email: str, name: str, password: str, *, old_token: str | None, device: str
) -> LogIn:
    """Make an account and log in, ending the session that the browser had.

    Raises `Conflict` when the address has an account.
    """
    # Invalidates, by `User`: the number of customers on the dashboard.
    user = User(email=_normal(email), name=name, password_hash=await hash_password(password), is_admin=False)
    token = _new_token()
    try:
        async with shop.db.write() as session:
            session.add(user)
            await session.flush()
            session.add(_session(user.id, token, device))
    except IntegrityError:
        raise Conflict("this e-mail address has an account already") from None
    if old_token:
        await shop.sessions.end(old_token)
    return LogIn(_account(user), token)


async def log_out(shop: Shop, token: str) -> None:
    """End a session, at once and for every process."""
    # Invalidates, by sessions.py: what the cache holds of it. So does all that ends sessions here.
    await shop.sessions.end(token)


async def sessions(shop: Shop, account: Account, token: str) -> list[SessionView]:
    """Return where an account is logged in: the session that asks first, then the one seen last, and so on."""
    return await shop.sessions.of(account, token)


async def end_session(shop: Shop, account: Account, session_id: str) -> bool:
    """End one session of an account by its id in `sessions`, and say whether there was such a one."""
    return await shop.sessions.end_one(account, session_id)


async def end_other_sessions(shop: Shop, account: Account, token: str) -> int:
    """End all sessions of an account but the one that asks, and say how many there were."""
    return await shop.sessions.end_all(account.id, but=token)


async def change_password(shop: Shop, account: Account, current: str, new: str, *, device: str) -> LogIn:
    """Set a new password, end every session of the user, and open a new one for who asked.

    Raises `NotLoggedIn` when the current password is wrong.
    """
    async with shop.db.read() as session:
        stored = await session.scalar(select(User.password_hash).where(User.id == account.id))
    if not await verify_password(stored, current):
        raise NotLoggedIn("the current password is wrong")
    new_hash = await hash_password(new)
    token = _new_token()
    async with shop.db.write() as session:
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
    # Invalidates, by sessions.py: every cached session of the user. A password itself is shown nowhere.
    await shop.sessions.end_all(account.id, but=token)
    return LogIn(account, token)


async def apply_admin_password(shop: Shop, password: str) -> bool:
    """Make this the administrator's password, and say whether that changed anything.

    Every worker does it at its start; the first one changes, the others find it done.
    """
    async with shop.db.read() as session:
        admin = await session.scalar(select(User).where(User.email == ADMIN_EMAIL))
    if admin is not None and await verify_password(admin.password_hash, password):
        return False
    new_hash = await hash_password(password)
    async with shop.db.write() as session:
        if admin is None:
            session.add(User(email=ADMIN_EMAIL, name="Administrator", password_hash=new_hash, is_admin=True))
        else:
            await session.execute(update(User).where(User.id == admin.id).values(password_hash=new_hash))
            await session.execute(delete(AuthSession).where(AuthSession.user_id == admin.id))
    if admin is not None:
        await shop.sessions.end_all(admin.id)
    return True


def _session(user_id: int, token: str, device: str) -> AuthSession:
    now = utc_now()
    return AuthSession(
        id_hash=digest_of(token),
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
