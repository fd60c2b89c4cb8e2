"""What an application implements on its own database, so that its sessions live there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from .model import Session

__all__ = ["AsyncSessionStore", "SessionStore"]

D = TypeVar("D")


class SessionStore(Protocol[D]):
    """The truth about sessions. Each method is one transaction, committed when it returns.

    Whatever a method raises reaches the caller as it is. Times are aware, in UTC. A store may leave `kin` out.
    """

    def load(self, digest: str, /) -> Session[D] | None:
        """Return the session with this digest."""
        ...

    def create(self, session: Session[D], /) -> None:
        """Insert a new session."""
        ...

    def save(self, session: Session[D], revision: int, /) -> bool:
        """Replace the session with this digest *and* this revision; return whether there was one. Never insert."""
        ...

    def rotate(self, new: Session[D], old: Session[D], revision: int, /) -> bool:
        """In one transaction `save(old, revision)` and, if that found it, insert `new`; return whether it did."""
        ...

    def delete(self, family: str, /) -> Sequence[str]:
        """Delete all sessions of a family, and return their digests."""
        ...

    def delete_of_user(self, user: str, keep: str | None, /) -> int:
        """Delete all sessions of a user but the one with the digest `keep`, and return how many that were."""
        ...

    def of_user(self, user: str, /) -> Sequence[Session[D]]:
        """Return all sessions of a user."""
        ...


class AsyncSessionStore(Protocol[D]):
    """The truth about sessions. Each method is one transaction, committed when it returns.

    Whatever a method raises reaches the caller as it is. Times are aware, in UTC. A store may leave `kin` out.
    """

    async def load(self, digest: str, /) -> Session[D] | None:
        """Return the session with this digest."""
        ...

    async def create(self, session: Session[D], /) -> None:
        """Insert a new session."""
        ...

    async def save(self, session: Session[D], revision: int, /) -> bool:
        """Replace the session with this digest *and* this revision; return whether there was one. Never insert."""
        ...

    async def rotate(self, new: Session[D], old: Session[D], revision: int, /) -> bool:
        """In one transaction `save(old, revision)` and, if that found it, insert `new`; return whether it did."""
        ...

    async def delete(self, family: str, /) -> Sequence[str]:
        """Delete all sessions of a family, and return their digests."""
        ...

    async def delete_of_user(self, user: str, keep: str | None, /) -> int:
        """Delete all sessions of a user but the one with the digest `keep`, and return how many that were."""
        ...

    async def of_user(self, user: str, /) -> Sequence[Session[D]]:
        """Return all sessions of a user."""
        ...
