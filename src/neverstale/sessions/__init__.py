"""Sessions that live in your own store with the cache aside, or in Redis alone. See docs/sessions.md."""

from __future__ import annotations

from .aio import AsyncSessions
from .model import Issued, Session, SessionConflict, SessionInfo
from .plain import Sessions
from .store import AsyncSessionStore, SessionStore

__all__ = [
    "AsyncSessionStore",
    "AsyncSessions",
    "Issued",
    "Session",
    "SessionConflict",
    "SessionInfo",
    "SessionStore",
    "Sessions",
]


def _make_public(names: list[str]) -> None:
    """Let tracebacks, documentation and pickles name the public place, wherever a thing is defined."""
    for name in names:
        globals()[name].__module__ = __name__


# Not the Struct: msgspec looks up the names in its annotations in the module that it says it is from.
_make_public([name for name in __all__ if name != "Session"])
