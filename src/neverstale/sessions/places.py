"""What a place of sessions offers: a store with the cache aside (`aside`), or Redis alone (`kept`).

Both places offer the same flows, so what a change *is* stands once, in `changes`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from neverstale.core.commands import Clock, Flow, Load
from neverstale.core.keys import Keys
from neverstale.core.patterns import invalidate_keys
from neverstale.core.plan import Plan, Sealed
from neverstale.core.policy import Memory, Seen
from neverstale.core.tags import invalidate_tags
from neverstale.counters import Counters
from neverstale.errors import InvalidationError, RedisUnavailable, UsageError
from neverstale.receipt import Receipt
from neverstale.sealing import ValueSealer

from .model import Rules, Session, SessionConflict, tag_of

__all__ = [
    "Attempt",
    "Frame",
    "Held",
    "Place",
    "ask",
    "checked",
    "invalidate",
    "then",
]

#: Seconds between two attempts of a change: a swap holds the entry for a round trip or two.
_FIRST_PAUSE: Final = 0.001
_GROWTH: Final = 1.5
_LONGEST_PAUSE: Final = 0.050
#: After so many seconds of others being quicker, something is wrong: a lease ends after one.
_PATIENCE: Final = 5.0


class Held(NamedTuple):
    """A session as it is at this moment in its place; `seen` is what it was read from in Redis."""

    session: Session[Any]
    seen: Seen | None = None


@dataclass(frozen=True)
class Frame:
    """What every flow of sessions needs.

    Attributes:
        keys: of the namespace, under the prefix of sessions.
        rules: how long sessions live.
        sealer_of: encodes the session whose key in Redis is given.
        plan_of: makes the plan of a read.
        max_bytes: the largest session that Redis takes.
        memory, counters: of the cache.
    """

    keys: Keys
    rules: Rules
    sealer_of: Callable[[str], ValueSealer]
    plan_of: Callable[[str], Plan]
    max_bytes: int
    memory: Memory
    counters: Counters

    def tags(self, user: str | None) -> tuple[str, ...]:
        """Return the tags of a session of this user."""
        return () if user is None else (tag_of(self.keys.prefix, user),)

    def sealed(self, session: Session[Any]) -> Sealed:
        """Encode a session.

        Raises:
            EncodingError: its data are not of the type that was given for them.
        """
        return self.sealer_of(self.keys.entry(session.digest)).seal(session)


class Place(Protocol):
    """Where sessions live."""

    @property
    def frame(self) -> Frame:
        """What its flows need."""
        ...

    def create(self, session: Session[Any]) -> Flow[None]:
        """Insert a session whose id is new."""
        ...

    def load(self, digest: str) -> Flow[Held | None]:
        """Return a session as it is now, over or not."""
        ...

    def save(self, held: Held, new: Session[Any]) -> Flow[bool]:
        """Put `new` where `held` was read, if that is still there."""
        ...

    def rotate(self, held: Held, old: Session[Any], new: Session[Any]) -> Flow[bool]:
        """Do `save(held, old)` and, if that was done, have `new` as well."""
        ...

    def settle(self, digest: str) -> Flow[None]:
        """Let no read that starts from here on see what was there before a change."""
        ...

    def rest(self, digest: str, seconds: float) -> Flow[None]:
        """Wait until it may be worth another attempt."""
        ...

    def remove(self, digest: str) -> Flow[bool]:
        """Remove a session and its family; return whether there was one."""
        ...

    def remove_user(self, user: str, keep: str | None) -> Flow[int]:
        """Remove all sessions of a user, but one; return how many there were."""
        ...

    def of_user(self, user: str) -> Flow[list[Session[Any]]]:
        """Return all sessions of a user."""
        ...


class Attempt:
    """The pauses between the attempts of one change, and their end."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._pause = _FIRST_PAUSE

    def again(self, place: Place, digest: str) -> Flow[None]:
        """Wait for the next attempt.

        Raises:
            SessionConflict: it has been long enough.
        """
        now = yield from Clock()
        if self._began is None:
            self._began = now
        if now - self._began >= _PATIENCE:
            raise SessionConflict(f"session {digest[:16]} could not be changed: others kept changing it")
        yield from place.rest(digest, self._pause)
        self._pause = min(self._pause * _GROWTH, _LONGEST_PAUSE)


def then(reply: Any, use: Callable[[Any], Any]) -> Any:
    """Use what a store replies; where that is to be awaited, so is what this returns."""
    if not inspect.isawaitable(reply):
        return use(reply)

    async def awaited() -> Any:
        return use(await reply)

    return awaited()


def ask(call: Callable[[], Any]) -> Flow[Any]:
    """Call a method of a store; raises what it raises."""
    loaded = yield from Load(call)
    if loaded.error is not None:
        raise loaded.error
    return loaded.value


def invalidate(kind: str, names: Iterable[str], frame: Frame) -> Flow[Receipt]:
    """Invalidate sessions by their digests (`key`), or by tags.

    Raises:
        InvalidationError: Redis did not do it; it says what to invalidate again.
    """
    names = tuple(names)
    try:
        if kind == "tag":
            receipt = yield from invalidate_tags(names, frame.keys)
        else:
            receipt = yield from invalidate_keys(names, tuple(map(frame.keys.entry, names)), frame.keys)
    except RedisUnavailable as error:
        raise InvalidationError(kind, names, str(error)) from error
    frame.counters.invalidations += 1
    frame.counters.removed += receipt.removed
    return receipt


def checked(session: Session[Any]) -> Session[Any]:
    """Refuse what a store may not return.

    Raises:
        UsageError: a time without a zone: it cannot be compared.
    """
    if any(at.tzinfo is None for at in (session.created_at, session.seen_at, session.expires_at)):
        raise UsageError("a session store returns aware times: datetime.replace(tzinfo=UTC)")
    return session if not session.kin else msgspec.structs.replace(session, kin=())
