"""`Sessions`: the synchronous face."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from neverstale.base import Ttl
from neverstale.cache import Cache
from neverstale.core.commands import Flow
from neverstale.errors import InvalidationError
from neverstale.receipt import Receipt

from . import changes
from .base import ABSOLUTE, GRACE, IDLE, SEEN_EVERY, TTL, BaseSessions
from .model import UNCHANGED, Issued, Session, SessionInfo, Unchanged, digest_of
from .store import SessionStore

__all__ = ["Sessions"]

D = TypeVar("D")
T = TypeVar("T")


class Sessions(BaseSessions[D]):
    """Sessions with typed data, for threads: in a store of your own with the cache aside, or in Redis alone.

    Args:
        cache: where Redis is.
        type: of the data: `dict[str, Any]`, a dataclass, Struct, TypedDict or pydantic model.
        store: your database; None: Redis is the only place, and what it loses is logged out.
        ttl: seconds that a session is at most in Redis; a day at most.
        idle: seconds without a visit after which a session is over; without a store at most `ttl`.
        absolute: seconds after a log-in at which it is over in any case.
        grace: seconds that an id which was replaced can still be read by requests in flight.
        seen_every: seconds that "last seen" may be behind.
        keys: of 32 bytes each: what is in Redis is encrypted by the first, and decrypted by any.
        prefix: of the keys in Redis.

    With a store and without Redis everything works, slower; only what destroys or changes a session raises
    `InvalidationError` *after* the store has done its part: see `invalidate_again`. Without a store and without Redis
    nobody is found, and every change raises `RedisUnavailable`.

    Raises:
        UsageError: an argument is wrong.
        MissingDependency: keys are given, and `cryptography` is not installed.
    """

    def __init__(
        self,
        cache: Cache,
        *,
        type: type[D],
        store: SessionStore[D] | None = None,
        ttl: Ttl = TTL,
        idle: Ttl = IDLE,
        absolute: Ttl = ABSOLUTE,
        grace: Ttl = GRACE,
        seen_every: Ttl = SEEN_EVERY,
        keys: Sequence[bytes] = (),
        prefix: str = "session:",
    ) -> None:
        self._cache = cache.with_prefix(prefix)
        spans = (ttl, idle, absolute, grace, seen_every)
        super().__init__(self._cache, store, type, spans, keys)

    # --- reading -------------------------------------------------------------------------------------------------

    def get(self, session_id: str) -> D | None:
        """Return the data of a session, or None if there is none with this id that may be used.

        With a store and without Redis the store is asked; what it raises is raised.
        """
        session = self.find(session_id)
        return None if session is None else session.data

    def find(self, session_id: str, *, touch: bool = False, certain: bool = False) -> Session[D] | None:
        """Return a session, or None if there is none with this id that may be used.

        Args:
            session_id: what the client sent, whatever that is.
            touch: whether its user is there, so that "last seen" is noted, at most once in `seen_every`; where that
                fails it is logged, for a copy of the session can be used while the database is away.
            certain: whether to raise, without a store, rather than to find nobody where Redis does not answer.

        Raises:
            RedisUnavailable: `certain`, and it is not known whether there is one.
        """
        digest = digest_of(session_id)
        if digest is None:
            return None
        found = self._cache._find(digest, self._sealer(self._cache._keys.entry(digest)))
        session = self._judge(found, certain)
        if session is None and self._store is not None:
            flow = self._reload(digest, found)
            session = self._cache._give(self._cache._driver.run(flow, self._cache._counters))
        if touch and session is not None and self._due(session):
            try:
                session = self._run(changes.touch(self._place, digest))
            except Exception as error:  # noqa: BLE001 - a store may raise anything; it was there a moment ago
                self._not_noted(session, error)
        return session

    # --- beginning and ending ------------------------------------------------------------------------------------

    def create(self, data: D, *, user: str | None = None, device: str = "") -> Issued[D]:
        """Begin a session, with an id of its own making.

        Args:
            data: of the type that was given.
            user: whose it is, as text; None for a visitor. At a log-in use `log_in`.
            device: what the client calls itself.

        Raises:
            RedisUnavailable: without a store: Redis did not take it.
            EncodingError: the data are not of the type.
        """
        return self._run(self._new(data, user, device))

    def log_in(self, session_id: str | None, user: str, data: D, *, device: str = "") -> Issued[D]:
        """Give the client of this session another one, which is the user's; call it when the password was right.

        The old id, if it was one, can be read for the grace with its old data. An id that is not known is not adopted.

        Raises:
            RedisUnavailable: without a store: Redis did not take it.
            EncodingError: the data are not of the type.
        """
        return self._run(self._log_in(session_id, user, data, device))

    def rotate(
        self,
        session_id: str,
        *,
        user: str | Unchanged | None = UNCHANGED,
        change: Callable[[D], D] | None = None,
        device: str = "",
    ) -> Issued[D] | None:
        """Give a session another id, at any rise of privilege; None if there is none that may be used.

        Args:
            session_id: the old id.
            user: if given this is a log-in, and the absolute lifetime begins anew.
            change: takes the data and returns those of the new id; the old one keeps what it had.
            device: what the client calls itself now.

        Raises:
            RedisUnavailable: without a store: Redis did not take it.
            EncodingError: the data are not of the type.
        """
        return self._run(self._rotate(session_id, user, change, device))

    def destroy(self, session_id: str) -> bool:
        """Destroy a session at once, in every process; return whether there was one.

        The ids that it replaced or that replaced it go with it.

        Raises:
            InvalidationError: the store has done it; a copy may still be served. Without a store: it is still there.
        """
        digest = digest_of(session_id)
        return digest is not None and self._run(self._place.remove(digest))

    def destroy_one(self, user: str, name: str) -> bool:
        """Destroy one session of a user, by the name that `of_user` gave it; return whether there was one.

        Raises:
            InvalidationError: as `destroy`.
        """
        return self._run(changes.remove_named(self._place, user, name))

    def destroy_all(self, user: str, *, keep: str | None = None) -> int:
        """Destroy all sessions of a user at once; return how many there were.

        Args:
            user: whose.
            keep: the id of the one that stays. After a change of password rather destroy all, and `log_in` anew.

        Raises:
            InvalidationError: as `destroy`.
        """
        return self._run(self._remove_user(user, keep))

    def of_user(self, user: str, *, current: str | None = None) -> list[SessionInfo]:
        """List the sessions of a user, the last seen first; without a store those that Redis still lists.

        Args:
            user: whose.
            current: the id of the one that asks.

        Raises:
            RedisUnavailable: without a store: Redis did not answer.
        """
        return self._run(self._infos(user, current))

    # --- changing ------------------------------------------------------------------------------------------------

    def set(self, session_id: str, data: D) -> bool:
        """Replace the data of a session; False if there is none that may be changed. Never begins one.

        Raises:
            InvalidationError: the store has it; an older copy may still be served.
            RedisUnavailable: without a store: it may be done or not.
        """
        return self.update(session_id, lambda _: data) is not None

    def update(self, session_id: str, change: Callable[[D], D]) -> Session[D] | None:
        """Change the data of a session; None if there is none that may be changed.

        Of two requests that change different fields at the same time neither is lost: the change is made to what is
        there, and made again if that has changed meanwhile.

        Args:
            session_id: which.
            change: takes the data and returns those that are to be; does no I/O, and may be called several times.

        Raises:
            InvalidationError: the store has it; an older copy may still be served.
            RedisUnavailable: without a store: it may be done or not.
            SessionConflict: others kept changing it for seconds; nothing is done.
        """
        digest = digest_of(session_id)
        return None if digest is None else self._run(self._update(digest, change))

    def touch(self, session_id: str) -> bool:
        """Note that the user of a session is there, at most once in `seen_every`; return whether it may be used."""
        return self.find(session_id, touch=True) is not None

    def invalidate_again(self, error: InvalidationError) -> Receipt:
        """Do what an `InvalidationError` says was not done: call it until it does not raise.

        Raises:
            InvalidationError: once more.
        """
        receipt: Receipt = self._run(self._again(error))
        return receipt

    # --- inside --------------------------------------------------------------------------------------------------

    def _run(self, flow: Flow[T]) -> T:
        return self._cache._driver.run(flow, self._cache._counters, patient=True)
