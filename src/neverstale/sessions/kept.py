"""Sessions in Redis alone: a change is a swap, and what Redis loses is over."""

from __future__ import annotations

from typing import Any, Final

from neverstale.codecs import Undecodable
from neverstale.core.commands import Flow, Together, Wait, Wall
from neverstale.core.entry import Entry
from neverstale.core.plan import Sealed
from neverstale.core.policy import Seen, State
from neverstale.core.read import read, read_many
from neverstale.core.store import store
from neverstale.core.swap import Members, claim, hold, invalidate_tag_but, swap
from neverstale.errors import EncodingError, InvalidationError, RedisUnavailable

from .model import Session, SessionConflict
from .places import Attempt, Frame, Held, invalidate

__all__ = ["Kept"]

#: So many members of a tag are read at a time: a command of some 60 KB.
_BATCH: Final = 500


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
                if held is not None and not frame.rules.alive(held.session, (yield from Wall())):
                    continue  # an id that is over ends nothing else
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
