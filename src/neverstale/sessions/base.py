"""What `Sessions` and `AsyncSessions` have in common: everything but asking Redis and the store."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar, get_origin

import msgspec

from neverstale.base import MISS, BaseCache, Found, Ttl
from neverstale.codecs import json_codec
from neverstale.core.commands import Flow, Given, Wall
from neverstale.core.plan import Plan
from neverstale.core.policy import valid
from neverstale.errors import InvalidationError, RedisUnavailable, UsageError
from neverstale.lifetime import DAY_MS, Lifetime
from neverstale.loading import Answer
from neverstale.owed import Work
from neverstale.sealing import ValueSealer

from . import changes
from .aside import Aside, read_through
from .doubt import Doubt
from .kept import Kept
from .model import (
    UNCHANGED,
    Issued,
    Rules,
    Session,
    SessionInfo,
    Unchanged,
    digest_of,
    new_family,
    new_id,
    tag_of,
)
from .places import Frame, Place, checked, invalidate, then
from .secret import Keyring, SecretSealer

__all__ = ["ABSOLUTE", "GRACE", "IDLE", "SEEN_EVERY", "TTL", "BaseSessions"]

D = TypeVar("D")

logger = logging.getLogger("neverstale")

#: A day is the longest that anything lives in Redis.
TTL = 86_400.0
#: As long as Redis can keep a session, so that with a store and without one it is the same.
IDLE = 86_400.0
#: Thirty days: the longest that NIST SP 800-63B (section 4.1.3) lets pass without a log-in.
ABSOLUTE = 30 * 86_400.0
#: Longer than nearly every request, shorter than an attacker needs to make something of an old id.
GRACE = 10.0
#: At most one write in five minutes for a user who is there, and nobody asks for "last seen" more exactly.
SEEN_EVERY = 300.0


class BaseSessions(Generic[D]):
    """The part of sessions that does no I/O."""

    def __init__(
        self,
        cache: BaseCache,
        store: Any,
        kind: Any,
        spans: tuple[Ttl, Ttl, Ttl, Ttl, Ttl],
        keys: Sequence[bytes],
    ) -> None:
        ttl_ms, *others = (_milliseconds(each) for each in spans)
        self._base = cache
        # Under another prefix, too: who knows which keys are asked for knows when somebody comes and goes.
        cache._until_sample = math.inf
        self._rules = Rules(min(ttl_ms, DAY_MS), *others)
        self._codec = json_codec(Session[kind])
        self._ring = Keyring(keys) if keys else None
        self._plain = self._sealer_of_any()
        self._store = store
        self._doubt = Doubt()
        self._of_dicts = (get_origin(kind) or kind) is dict
        frame = Frame(
            cache._keys,
            self._rules,
            self._sealer,
            self._plan,
            cache.settings.max_value_bytes,
            cache._memory,
            cache._counters,
        )
        self._place: Place = Kept(frame) if store is None else Aside(frame, store)

    def __repr__(self) -> str:
        where = "in Redis alone" if self._store is None else f"in {type(self._store).__name__}"
        return f"<{type(self).__name__} {self._base.prefix!r} {where}>"

    @property
    def has_store(self) -> bool:
        """Whether the sessions live in a store; in Redis alone otherwise."""
        return self._store is not None

    @property
    def of_dicts(self) -> bool:
        """Whether the data are dicts, whose fields can be changed one by one."""
        return self._of_dicts

    def owed(self, error: InvalidationError) -> Work:
        """Return what an `InvalidationError` says was not done, for `neverstale.owed` to do in the background."""
        if error.kind == "tag":
            return Work(tags=error.names)
        return Work(keys=tuple(self._base.prefix + name for name in error.names))

    # --- encoding ------------------------------------------------------------------------------------------------

    def _sealer_of_any(self) -> ValueSealer:
        settings = self._base.settings
        return ValueSealer(self._codec, settings.compress_above, settings.max_value_bytes)

    def _sealer(self, entry: str) -> ValueSealer:
        if self._ring is None:
            return self._plain
        settings = self._base.settings
        return SecretSealer(
            self._codec,
            settings.compress_above,
            settings.max_value_bytes,
            ring=self._ring,
            name=entry.encode(),
        )

    # --- reading -------------------------------------------------------------------------------------------------

    def _plan(self, digest: str) -> Plan:
        entry = self._base._keys.entry(digest)

        def load() -> Any:
            return then(self._store.load(digest), self._answer)

        return self._base._plan(entry, load, Lifetime(self._rules.ttl_ms), (), self._sealer(entry))

    def _answer(self, session: Session[Any] | None) -> Answer:
        """Return what a load gives to the cache: a session that may be used. What there is not is not kept, either.

        Otherwise whoever sends random ids would fill Redis.
        """
        if session is None:
            return Answer(None, keep=False)
        left = self._rules.left_ms(checked(session), _now_ms())
        if left <= 0:
            return Answer(None, keep=False)
        return Answer(session, Lifetime(left), self._place.frame.tags(session.user))

    def _judge(self, found: Found, certain: bool) -> Session[D] | None:
        """Return the session that a read found, if it may be used; count what it was."""
        counters = self._base._counters
        # Redis alone is asked whatever has been: it is the truth.
        believed = self._doubt.note(found.seen is not None) or self._store is None
        if believed and found.value is not MISS and self._rules.alive(found.value, _now_ms()):
            counters.hits += 1
            session: Session[D] = found.value
            return session
        counters.misses += 1
        if certain and found.state is None and self._store is None:
            raise RedisUnavailable("Redis did not answer, so it is not known whether there is such a session")
        seen = found.seen
        if found.value is MISS and seen is not None and seen.entry is not None and not seen.entry.is_lease:
            counters.decode_errors += valid(seen.entry.stamps, seen.stamps)
        return None

    def _reload(self, digest: str, found: Found) -> Flow[Given]:
        """Ask the store, also about a session that is over by a copy of it: it may have been seen since."""
        seen = found.seen
        if seen is not None and found.value is not MISS:
            seen = None if self._doubt.holds else seen.expired()
        return read_through(self._place.frame, self._plan(digest), seen)

    def _due(self, session: Session[D]) -> bool:
        return self._rules.due(session, _now_ms())

    @staticmethod
    def _not_noted(session: Session[Any] | None, error: Exception) -> None:
        logger.warning("the visit of %r could not be noted: %r", session, error)

    # --- changing ------------------------------------------------------------------------------------------------

    def _new(self, data: D, user: str | None, device: str) -> Flow[Issued[D]]:
        fresh, digest = _fresh()
        return Issued(fresh, (yield from self._create(digest, data, user, device)))

    def _create(self, digest: str, data: D, user: str | None, device: str) -> Flow[Session[D]]:
        frame = self._place.frame
        frame.tags(user)
        now = yield from Wall()
        session: Session[D] = self._rules.begin(digest, new_family(), data, user, device, now)
        frame.sealed(session)  # before anything is stored: data of another type are the caller's mistake
        yield from self._place.create(session)
        return session

    def _update(self, digest: str, change: Callable[[D], D]) -> Flow[Session[D] | None]:
        def changed(session: Session[Any]) -> Session[Any]:
            return msgspec.structs.replace(session, data=change(session.data))

        return changes.update(self._place, digest, changed)

    def _rotate(
        self,
        session_id: str,
        user: str | Unchanged | None,
        change: Callable[[D], D] | None,
        device: str,
    ) -> Flow[Issued[D] | None]:
        if user is not UNCHANGED:
            self._place.frame.tags(user)
        digest = digest_of(session_id)
        if digest is None:
            return None
        fresh, name = _fresh()
        flow = changes.rotate(self._place, digest, name, user, change or _as_it_is, device)
        rotated = yield from flow
        return None if rotated is None else Issued(fresh, *rotated)

    def _log_in(self, session_id: str | None, user: str, data: D, device: str) -> Flow[Issued[D]]:
        tag_of("", user)
        if session_id is not None:
            issued = yield from self._rotate(session_id, user, lambda _: data, device)
            if issued is not None:
                return issued
        return (yield from self._new(data, user, device))

    def _infos(self, user: str, current: str | None) -> Flow[list[SessionInfo]]:
        tag_of("", user)
        return changes.infos(self._place, user, digest_of(current))

    def _remove_user(self, user: str, keep: str | None) -> Flow[int]:
        tag_of("", user)
        return self._place.remove_user(user, digest_of(keep))

    def _again(self, error: InvalidationError) -> Flow[Any]:
        return invalidate(error.kind, error.names, self._place.frame)


def _milliseconds(span: Ttl) -> int:
    seconds = span if isinstance(span, int | float) else span.total_seconds()
    if isinstance(span, bool) or not 0 < seconds < 1e10:
        raise UsageError(f"how long sessions live is told in seconds, more than none: {span!r}")
    return max(1, round(seconds * 1000))


def _fresh() -> tuple[str, str]:
    """Return a new id, and what its session is stored under."""
    fresh = new_id()
    digest = digest_of(fresh)
    assert digest is not None
    return fresh, digest


def _as_it_is(data: Any) -> Any:
    return data


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
