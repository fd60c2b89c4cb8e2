"""Sessions in a store of the application, with the cache aside: the store is the truth, Redis holds copies."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from neverstale.core.commands import Flow, Given, Wall
from neverstale.core.lease import get_or_load
from neverstale.core.plan import Plan
from neverstale.core.policy import Seen, State
from neverstale.core.read import read
from neverstale.errors import RedisUnavailable
from neverstale.lifetime import Lifetime
from neverstale.loading import Answer

from .model import Session
from .places import Frame, Held, ask, checked, invalidate, then

__all__ = ["Aside", "read_through"]


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
        now = yield from Wall()
        # An id that is over ends nothing: who planted it before a log-in could end the session long afterwards.
        if session is not None and not self.frame.rules.alive(checked(session), now):
            session = None
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
