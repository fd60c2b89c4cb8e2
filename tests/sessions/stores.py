"""A store in memory that does what a database does: each method a transaction, and revisions compared."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from neverstale.sessions import Session

__all__ = ["AsyncMemoryStore", "MemoryStore"]


class MemoryStore:
    """Rows in a dict. `calls` counts what was asked; `before` is called with the name of each method."""

    def __init__(self) -> None:
        self.rows: dict[str, Session[Any]] = {}
        self.calls: dict[str, int] = {}
        self.before: Callable[[str], None] = lambda _: None
        self._lock = threading.RLock()

    def _count(self, name: str) -> None:
        self.before(name)
        with self._lock:
            self.calls[name] = self.calls.get(name, 0) + 1

    def load(self, digest: str) -> Session[Any] | None:
        self._count("load")
        return self.rows.get(digest)

    def create(self, session: Session[Any]) -> None:
        self._count("create")
        assert session.digest not in self.rows
        self.rows[session.digest] = session

    def save(self, session: Session[Any], revision: int) -> bool:
        self._count("save")
        return self._save(session, revision)

    def _save(self, session: Session[Any], revision: int) -> bool:
        with self._lock:
            there = self.rows.get(session.digest)
            if there is None or there.revision != revision:
                return False
            self.rows[session.digest] = session
            return True

    def rotate(self, new: Session[Any], old: Session[Any], revision: int) -> bool:
        self._count("rotate")
        with self._lock:
            if not self._save(old, revision):
                return False
            self.rows[new.digest] = new
            return True

    def delete(self, family: str) -> list[str]:
        self._count("delete")
        with self._lock:
            gone = [digest for digest, row in self.rows.items() if row.family == family]
            for digest in gone:
                del self.rows[digest]
            return gone

    def delete_of_user(self, user: str, keep: str | None) -> int:
        self._count("delete_of_user")
        with self._lock:
            gone = [digest for digest, row in self.rows.items() if row.user == user and digest != keep]
            for digest in gone:
                del self.rows[digest]
            return len(gone)

    def of_user(self, user: str) -> list[Session[Any]]:
        self._count("of_user")
        return [row for row in self.rows.values() if row.user == user]


class AsyncMemoryStore:
    """The same, to be awaited."""

    def __init__(self) -> None:
        self.plain = MemoryStore()

    async def load(self, digest: str) -> Session[Any] | None:
        return self.plain.load(digest)

    async def create(self, session: Session[Any]) -> None:
        self.plain.create(session)

    async def save(self, session: Session[Any], revision: int) -> bool:
        return self.plain.save(session, revision)

    async def rotate(self, new: Session[Any], old: Session[Any], revision: int) -> bool:
        return self.plain.rotate(new, old, revision)

    async def delete(self, family: str) -> list[str]:
        return self.plain.delete(family)

    async def delete_of_user(self, user: str, keep: str | None) -> int:
        return self.plain.delete_of_user(user, keep)

    async def of_user(self, user: str) -> list[Session[Any]]:
        return self.plain.of_user(user)
