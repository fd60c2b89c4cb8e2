"""Where sessions live: in a store with the cache aside, or in Redis alone. What each step of a change is there.

Both places offer the same flows, so what a change *is* stands once, in `changes`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from neverstale.codecs import Undecodable
from neverstale.core.commands import Clock, Flow, Given, Load, Together, Wait, Wall
from neverstale.core.entry import Entry
from neverstale.core.keys import Keys
from neverstale.core.lease import get_or_load
from neverstale.core.patterns import invalidate_keys
from neverstale.core.plan import Plan, Sealed
from neverstale.core.policy import Memory, Seen, State
from neverstale.core.read import read, read_many
from neverstale.core.store import store
from neverstale.core.swap import Members, claim, hold, invalidate_tag_but, swap
from neverstale.core.tags import invalidate_tags
from neverstale.counters import Counters
from neverstale.errors import EncodingError, InvalidationError, RedisUnavailable, UsageError
from neverstale.lifetime import Lifetime
from neverstale.loading import Answer
from neverstale.receipt import Receipt
from neverstale.sealing import ValueSealer

from .model import Rules, Session, SessionConflict, tag_of

__all__ = [
    "Aside",
    "Attempt",
    "Frame",
    "Held",
    "Kept",
    "Place",
    "ask",
    "checked",
    "invalidate",
    "read_through",
    "then",
]

#: So many members of a tag are read at a time: a command of some 60 KB.
_BATCH: Final = 500
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


class Aside:
    """Sessions in a store of the application; Redis holds copies."""

    def __init__(self, frame: Frame, store: Any) -> None:
        self.frame = frame
        self._store = store

    def create(self, session: Session[Any]) -> Flow[None]:
        # As a load of the new entry: the stamp of the user is read before the store has the session, so whatever
        # destroys all of the user's sessions after that destroys the copy, too.
        frame = self.frame
        life = Lifetime(max(1, frame.rules.left_ms(session, (yield from Wall()))))
        plan = replace(
            frame.plan_of(session.digest),
            loader=lambda: then(self._store.create(session), lambda _: Answer(session, life)),
            tags=frame.tags(session.user),
        )
        absent = Seen(State.ABSENT, None, {}, None)
        given = yield from get_or_load(plan, absent, frame.memory, frame.counters)
        if given.error is not None:
            raise given.error

    def load(self, digest: str) -> Flow[Held | None]:
        session = yield from ask(lambda: self._store.load(digest))
        return None if session is None else Held(checked(session))

    def save(self, held: Held, new: Session[Any]) -> Flow[bool]:
        _ = self.frame.sealed(new)  # what cannot be encoded could not be read through the cache
        return bool((yield from ask(lambda: self._store.save(new, held.session.revision))))

    def rotate(self, held: Held, old: Session[Any], new: Session[Any]) -> Flow[bool]:
        _ = self.frame.sealed(new)
        return bool((yield from ask(lambda: self._store.rotate(new, old, held.session.revision))))

    def settle(self, digest: str) -> Flow[None]:
        yield from invalidate("key", (digest,), self.frame)

    def rest(self, digest: str, seconds: float) -> Flow[None]:
        yield from ()  # who was quicker has committed: the store knows it already

    def remove(self, digest: str) -> Flow[bool]:
        session = yield from ask(lambda: self._store.load(digest))
        digests = {digest: None}
        if session is not None:
            # Until nothing is left: a rotation that was not committed when a statement began may be missed by it.
            while gone := (yield from ask(lambda: self._store.delete(session.family))):
                digests.update(dict.fromkeys(gone))
        # Also where the store has none: whoever deleted it may not have come to this.
        yield from invalidate("key", tuple(digests), self.frame)
        return session is not None

    def remove_user(self, user: str, keep: str | None) -> Flow[int]:
        count = 0
        while gone := (yield from ask(lambda: self._store.delete_of_user(user, keep))):
            count += gone
        yield from invalidate("tag", self.frame.tags(user), self.frame)
        return count

    def of_user(self, user: str) -> Flow[list[Session[Any]]]:
        return [checked(each) for each in (yield from ask(lambda: self._store.of_user(user)))]


class Kept:
    """Sessions in Redis alone. A change is a swap, so it never inserts."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame

    def load(self, digest: str) -> Flow[Held | None]:
        frame = self.frame
        seen = yield from read(frame.plan_of(digest), frame.memory)
        return self._held(frame.keys.entry(digest), seen)

    def create(self, session: Session[Any]) -> Flow[None]:
        """Insert a session whose id is new.

        Raises:
            RedisUnavailable: it may be there or not; nobody has its id.
            SessionConflict: somebody has deleted it meanwhile: all sessions, by a pattern.
        """
        if not (yield from self._insert(session)):
            raise SessionConflict(f"session {session.name} was deleted while it was made")

    def save(self, held: Held, new: Session[Any]) -> Flow[bool]:
        frame = self.frame
        ttl_ms = max(1, frame.rules.left_ms(new, (yield from Wall())))
        assert held.seen is not None
        entry = frame.keys.entry(new.digest)
        return (yield from swap(entry, frame.keys, held.seen, self._fitting(new), ttl_ms))

    def rotate(self, held: Held, old: Session[Any], new: Session[Any]) -> Flow[bool]:
        # The new one first: until the old one has given way, nobody has its id.
        if not (yield from self._insert(new)):
            return False
        done = yield from self.save(held, old)
        if not done:
            yield from invalidate("key", (new.digest,), self.frame)
        return done

    def settle(self, digest: str) -> Flow[None]:
        yield from ()

    def rest(self, digest: str, seconds: float) -> Flow[None]:
        yield from Wait(self.frame.keys.entry(digest), seconds)

    def remove(self, digest: str) -> Flow[bool]:
        frame = self.frame
        found, ahead, gone = False, [digest], dict[str, None]()
        try:
            while ahead:
                name = ahead.pop()
                gone[name] = None
                held = yield from self.load(name)
                if held is not None and not held.session.superseded:
                    found = True
                    # A rotation in flight is cancelled, or it is done and seen now.
                    yield from claim(frame.keys.entry(name))
                    held = (yield from self.load(name)) or held
                if held is not None:
                    ahead += (kin for kin in held.session.kin if kin not in gone)
        except RedisUnavailable as error:
            raise InvalidationError("key", tuple(gone), str(error)) from error
        yield from invalidate("key", tuple(gone), frame)
        return found

    def remove_user(self, user: str, keep: str | None) -> Flow[int]:
        frame = self.frame
        (tag,) = frame.tags(user)
        try:
            if keep is not None and (held := (yield from self._hold(keep, user))) is not None:
                entry, token, session, seen = held
                ttl_ms = max(1, frame.rules.left_ms(session, (yield from Wall())))
                sealed = self._fitting(session)
                removed = yield from invalidate_tag_but(
                    tag, entry, token, seen, frame.keys, sealed, ttl_ms, frame.memory
                )
                frame.counters.invalidations += 1
                frame.counters.removed += removed
                return removed
        except RedisUnavailable as error:
            raise InvalidationError("tag", (tag,), str(error)) from error
        return (yield from invalidate("tag", (tag,), frame)).removed

    def of_user(self, user: str) -> Flow[list[Session[Any]]]:
        frame = self.frame
        (tag,) = frame.tags(user)
        (members,) = yield from Together((Members(frame.keys.members(tag)),))
        names = [name.decode() for name in members]
        found = []
        for at in range(0, len(names), _BATCH):
            part = tuple(names[at : at + _BATCH])
            for entry, seen in zip(part, (yield from read_many(part, frame.keys, frame.memory)), strict=True):
                held = self._held(entry, seen)
                if held is not None and held.session.user == user:
                    found.append(held.session)
        return found

    def _insert(self, session: Session[Any]) -> Flow[bool]:
        """Return whether it is there: not if somebody destroyed all of the user's meanwhile."""
        frame = self.frame
        entry, sealed = frame.keys.entry(session.digest), self._fitting(session)
        writes = [(entry, sealed, frame.tags(session.user))]
        ttl_ms = max(1, frame.rules.left_ms(session, (yield from Wall())))
        return not (yield from store(writes, frame.keys, ttl_ms, frame.memory))

    def _hold(self, digest: str, user: str) -> Flow[tuple[str, bytes, Session[Any], Seen] | None]:
        """Take the lease on a session of this user, as it is; None if there is none that may stay."""
        entry, attempt = self.frame.keys.entry(digest), Attempt()
        while True:
            held = yield from self.load(digest)
            if held is None or held.session.user != user or held.session.superseded:
                return None
            assert held.seen is not None
            token = yield from hold(entry, held.seen)
            if token is not None:
                return entry, token, held.session, held.seen
            yield from attempt.again(self, digest)

    def _held(self, entry: str, seen: Seen) -> Held | None:
        if seen.entry is None or seen.state not in (State.FRESH, State.STALE):
            return None
        session = self._open(entry, seen.entry)
        return None if session is None else Held(session, seen)

    def _open(self, entry: str, found: Entry) -> Session[Any] | None:
        try:
            session: Session[Any] = self.frame.sealer_of(entry).open(found)
        except Undecodable:
            self.frame.counters.decode_errors += 1
            return None
        return session

    def _fitting(self, session: Session[Any]) -> Sealed:
        sealed = self.frame.sealed(session)
        if sealed.size > self.frame.max_bytes:
            raise EncodingError(f"a session of {sealed.size} bytes is more than max_value_bytes")
        return sealed


def read_through(frame: Frame, plan: Plan, seen: Seen | None) -> Flow[Given]:
    """Load a session from the store, and fill the cache with it.

    Whose it is only the store knows, so its tag is named by the load. Where the stamp of that is too young to be
    trusted (nobody has read a session of this user for a while), nothing is stored: then a second load follows at once,
    with the tag known before it. Without that the second request of a user would be a miss as well.
    """
    knew = frame.memory.recall(plan.entry, ())
    given = yield from get_or_load(plan, seen, frame.memory, frame.counters)
    if given.error is not None or given.value is None or seen is None:
        return given
    tags = frame.tags(given.value.user)
    if not tags or knew == tags:
        return given
    try:
        again = yield from read(replace(plan, tags=tags), frame.memory)
    except RedisUnavailable:
        return given
    if again.state is not State.ABSENT:
        return given
    return (yield from get_or_load(replace(plan, tags=tags), again, frame.memory, frame.counters))


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
