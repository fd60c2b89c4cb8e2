"""Attach to sessions, and invalidate after their commits.

The invalidation happens at the very end of a transaction, when its connections are back in their pool: Redis being slow
holds up no connection of the database, and what goes wrong finds the session in order.

In an `AsyncSession` that moment is inside the greenlet in which SQLAlchemy runs a commit, so the invalidation is
awaited before `await session.commit()` returns. It runs in a task of its own: cancelling the commit does not cancel it.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar, overload

from sqlalchemy import Connection, event
from sqlalchemy.exc import MissingGreenlet
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import (
    Mapper,
    ORMExecuteState,
    Session,
    SessionTransaction,
    object_session,
    scoped_session,
    sessionmaker,
)
from sqlalchemy.util import await_only

from neverstale.base import BaseCache
from neverstale.cache import Cache
from neverstale.cache_async import AsyncCache
from neverstale.core.keys import check_tags
from neverstale.errors import InvalidationError, UsageError
from neverstale.owed import AsyncRetrier, Retrier, Work

from . import flushes, statements
from .pending import Tracker
from .rules import Names

__all__ = ["Following", "OnFailure", "follow_writes", "touch"]

logger = logging.getLogger("neverstale")
R = TypeVar("R", Retrier, AsyncRetrier)

OnFailure: TypeAlias = 'Literal["retry", "raise"] | Callable[[InvalidationError], object]'
Sessions: TypeAlias = "sessionmaker[Any] | scoped_session[Any] | type[Session] | Session"
AsyncSessions: TypeAlias = (
    "async_sessionmaker[Any] | async_scoped_session[Any] | type[AsyncSession] | AsyncSession"
)

_TRACKERS: Final = "neverstale.trackers"
_UNDO: Final = "_neverstale_undo"
#: As events and the log say it.
REASON: Final = "a committed write"
#: A thousand rows are read in a few milliseconds, and invalidated in a few more.
LIMIT: Final = 1000
#: After a COMMIT whose outcome is not known: the database may be at it still, though not for long.
_ONCE_MORE: Final = 5.0

#: By class or session; each is kept alive by its listeners, so as long as what it listens to.
_following: weakref.WeakKeyDictionary[Any, weakref.ref[Following[Any]]] = weakref.WeakKeyDictionary()


class _Trackers(dict["Following[Any]", Tracker]):
    """Those of one session: `info` may be handed on to another."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.owner = weakref.ref(session)


class Following(Generic[R]):
    """Sessions whose writes are followed. Made by `follow_writes`.

    Attributes:
        retrier: repeats in the background what failed; `retrier.owed` says what is left.
    """

    def __init__(
        self,
        target: Any,
        cache: BaseCache,
        retrier: R,
        limit: int,
        on_failure: OnFailure,
        undo: Callable[[], object],
    ) -> None:
        self.retrier: R = retrier
        self._cache = cache
        # SQLAlchemy keeps what listens to a class as long as that class: held from here it would stay for ever.
        self._target = weakref.ref(target)
        setattr(target, _UNDO, undo)
        self._limit = limit
        self._on_failure = on_failure
        self._tasks: set[asyncio.Task[Any]] = set()
        self._listeners: list[tuple[str, Callable[..., Any]]] = [
            ("after_transaction_create", self._begun),
            ("after_begin", self._connected),
            ("before_flush", self._before_flush),
            ("after_flush", self._after_flush),
            ("after_flush_postexec", self._after_postexec),
            ("do_orm_execute", self._executing),
            ("before_commit", self._before_commit),
            ("after_commit", self._after_commit),
            ("after_transaction_end", self._ended),
        ]
        for name, listener in self._listeners:
            # What comes after a commit is ours before anyone else's, who might raise an error.
            first = name in ("after_commit", "after_transaction_end")
            event.listen(target, name, listener, insert=first)

    def __repr__(self) -> str:
        return f"<Following {self._target()!r}>"

    def detach(self) -> None:
        """Follow no more. What is owed is still tried again; `retrier.close()` ends that, too."""
        target = self._target()
        if target is not None and _known(target) is self:
            del _following[target]
            for name, listener in self._listeners:
                event.remove(target, name, listener)
            getattr(target, _UNDO)()

    # --- what sessions tell ------------------------------------------------------------------------------------

    def _tracker(self, session: Session) -> Tracker:
        trackers = session.info.get(_TRACKERS)
        if trackers is None or trackers.owner() is not session:
            trackers = session.info[_TRACKERS] = _Trackers(session)
        tracker: Tracker = trackers.get(self) or trackers.setdefault(self, Tracker(session, self._limit))
        return tracker

    def _begun(self, session: Session, transaction: SessionTransaction) -> None:
        self._tracker(session).begin(transaction)

    def _connected(self, session: Session, _: Any, connection: Connection) -> None:
        self._tracker(session).connected(connection)

    def _before_flush(self, session: Session, *_: Any) -> None:
        flushes.foresee(self._tracker(session))

    def _after_flush(self, session: Session, _: Any) -> None:
        tracker = self._tracker(session)
        flushes.flushed(tracker)
        tracker.forget_flush()

    def _after_postexec(self, session: Session, _: Any) -> None:
        self._written(self._tracker(session))

    def _written(self, tracker: Tracker) -> None:
        if tracker.committing or tracker.autocommit:  # nothing more is to come before the COMMIT, or none is
            tracker.resolve()
        if tracker.autocommit and (work := tracker.at_once()):
            self._deliver(work, certain=True)

    def _executing(self, state: ORMExecuteState) -> Any:
        if state.is_select:
            return None
        tracker = self._tracker(state.session)
        result = statements.executing(tracker, state)
        # In AUTOCOMMIT; or a listener of the application writes, just before the COMMIT.
        if (tracker.autocommit or tracker.committing) and tracker.owing:
            result = state.invoke_statement() if result is None else result
            self._written(tracker)
        return result

    def _before_commit(self, session: Session) -> None:
        self._tracker(session).prepare()

    def _after_commit(self, session: Session) -> None:
        tracker = self._tracker(session)
        tracker.committed()
        if isinstance(self.retrier, AsyncRetrier) and (work := tracker.take()):
            # From here on nobody can stop it: whoever is cancelled while the connection goes back to its pool is told
            # nothing more of this transaction, and neither are we.
            tracker.started = self._start(self.retrier, work)

    def _ended(self, session: Session, transaction: SessionTransaction) -> None:
        tracker = self._tracker(session)
        work, certain = tracker.end(transaction)
        if transaction.parent is None and tracker.started is not None:
            started, tracker.started = tracker.started, None
            self._failed(self._await(started))
        if not work:
            return
        if not certain:
            logger.error(
                "COMMIT ended in an error, and may have happened: invalidated as if it had: %s", work
            )
        self._deliver(work, certain=certain)

    # --- the invalidation --------------------------------------------------------------------------------------

    def _deliver(self, work: Work, *, certain: bool) -> None:
        retrier: Any = self.retrier
        error: InvalidationError | None
        if isinstance(retrier, Retrier):
            try:
                error = retrier.invalidate(work)
            except BaseException:  # the thread is told to end: someone else has to see to it
                retrier.later(work)
                raise
        else:
            error = self._deliver_async(retrier, work)
        if not certain:
            retrier.later(work, _ONCE_MORE)
        if certain:
            self._failed(error)

    def _failed(self, error: InvalidationError | None) -> None:
        if error is not None:
            if self._on_failure == "raise":
                raise error
            if callable(self._on_failure):
                self._on_failure(error)

    def _deliver_async(self, retrier: AsyncRetrier, work: Work) -> InvalidationError | None:
        started = self._start(retrier, work)
        return None if started is None else self._await(started)

    def _start(self, retrier: AsyncRetrier, work: Work) -> asyncio.Task[InvalidationError | None] | None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # a session that is thrown away when its loop is gone
            logger.error("committed where nothing can be awaited, so not invalidated: %s", work)
            retrier.later(work)
            return None
        task = loop.create_task(retrier.invalidate(work))
        self._tasks.add(task)  # the loop itself keeps tasks only weakly
        task.add_done_callback(self._tasks.discard)
        return task

    @staticmethod
    def _await(task: asyncio.Task[InvalidationError | None]) -> InvalidationError | None:
        waiting: Awaitable[InvalidationError | None] = asyncio.shield(task)
        try:
            return await_only(waiting)
        except MissingGreenlet:
            # The transaction ended outside of SQLAlchemy's own calls, where nobody can wait: it is done at once after.
            logger.error(
                "committed where the invalidation could not be awaited: it follows in the background"
            )
            return None


# --- attaching -----------------------------------------------------------------------------------------------------


@overload
def follow_writes(
    sessions: Sessions, cache: Cache, *, limit: int = LIMIT, on_failure: OnFailure = "retry"
) -> Following[Retrier]: ...
@overload
def follow_writes(
    sessions: AsyncSessions, cache: AsyncCache, *, limit: int = LIMIT, on_failure: OnFailure = "retry"
) -> Following[AsyncRetrier]: ...
def follow_writes(
    sessions: Sessions | AsyncSessions,
    cache: Cache | AsyncCache,
    *,
    limit: int = LIMIT,
    on_failure: OnFailure = "retry",
) -> Following[Any]:
    """Invalidate what sessions change, after each commit.

    Once `commit()` has returned, no read that starts afterwards returns what was there before. Said again of the same
    sessions and cache, it changes nothing.

    Args:
        sessions: a session maker, a scoped session, a class of sessions, or one session. Sessions that a maker has made
            before are not followed.
        cache: an `AsyncCache` for asynchronous sessions, a `Cache` for others; any view of it.
        limit: rows that a statement may change before a model's `whole` tag takes their place.
        on_failure: what follows a commit whose invalidation fails, beside the error in the log and the repetition in
            the background, which there always are: nothing (`retry`), the error out of `commit()` (`raise`), or a
            function of it, which may raise.

    Raises:
        UsageError: sessions and cache do not fit, or they follow another cache.
    """
    if on_failure not in ("retry", "raise") and not callable(on_failure):
        raise UsageError(f"on_failure is 'retry', 'raise' or a function of the error, not {on_failure!r}")
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
        raise UsageError(f"limit is a number of rows, not {limit!r}")
    if not isinstance(cache, AsyncCache if _is_async(sessions) else Cache):
        raise UsageError(
            f"{sessions!r} goes with {'an AsyncCache' if _is_async(sessions) else 'a Cache'}, not with {cache!r}: "
            "the invalidation has to be over when `commit` returns"
        )
    target, undo = _target(sessions)
    known = _known(target)
    if known is not None:
        if known._cache._shared is not cache._shared:
            raise UsageError(f"{sessions!r} follows {known._cache!r} already: detach it first")
        return known
    for name, listener in _LISTENERS.items():
        if not event.contains(Mapper, name, listener):
            event.listen(Mapper, name, listener)
    retrier: Any = AsyncRetrier(cache, REASON) if isinstance(cache, AsyncCache) else Retrier(cache, REASON)
    following: Following[Any] = Following(target, cache, retrier, limit, on_failure, undo)
    _following[target] = weakref.ref(following)
    return following


def touch(session: Session | AsyncSession, *, tags: Iterable[str] = (), keys: Iterable[str] = ()) -> None:
    """Invalidate tags and keys after the commit of the transaction that is open, together with what it changes.

    For what cannot be seen: SQL as text, triggers, `ON DELETE CASCADE`. A rollback, of a savepoint too, drops it.

    Args:
        session: a session whose writes are followed, inside its transaction.
        tags: names of tags.
        keys: whole keys, their prefix in front.

    Raises:
        UsageError: the session is not followed, or there is no transaction.
    """
    plain = session.sync_session if isinstance(session, AsyncSession) else session
    trackers = _trackers_of(plain)
    if isinstance(keys, str):
        raise UsageError(f"keys is a list of strings, not one string: write [{keys!r}]")
    if not plain.in_transaction():
        raise UsageError(
            "touch() belongs into the transaction, and none is open: begin one, or execute first"
        )
    if not trackers:
        raise UsageError("the writes of this session are not followed: see follow_writes")
    names = Names(check_tags(tags), tuple(keys))
    for tracker in trackers:
        tracker.level.touched.append(names)


def _is_async(sessions: Any) -> bool:
    return isinstance(sessions, async_sessionmaker | async_scoped_session | AsyncSession) or (
        isinstance(sessions, type) and issubclass(sessions, AsyncSession)
    )


def _known(target: Any) -> Following[Any] | None:
    """Return what follows a session or a class, or one that it inherits from, already."""
    for each in target.__mro__ if isinstance(target, type) else (target, *type(target).__mro__):
        found = _following.get(each)
        if found is not None:
            return found()
    return None


def _target(sessions: Any) -> tuple[Any, Callable[[], object]]:
    """Return what to listen to, and how to undo what had to be changed for it."""
    if isinstance(sessions, scoped_session | async_scoped_session):
        return _target(sessions.session_factory)
    if isinstance(sessions, AsyncSession):
        return sessions.sync_session, _nothing
    if isinstance(sessions, sessionmaker):
        return sessions.class_, _nothing  # a class that each maker makes for itself
    if isinstance(sessions, Session) or (isinstance(sessions, type) and issubclass(sessions, Session)):
        return sessions, _nothing
    used: Any
    restore: partial[Any]
    # Asynchronous sessions share the plain class that they are built upon: these get one of their own.
    name = "sync_session_class"
    if isinstance(sessions, async_sessionmaker):
        options = sessions.kw
        used = options.get(name, sessions.class_.sync_session_class)
        restore = partial(options.__setitem__, name, used) if name in options else partial(options.pop, name)
        return _separate(used, partial(options.__setitem__, name), restore)
    if isinstance(sessions, type) and issubclass(sessions, AsyncSession):
        used = sessions.sync_session_class
        restore = (
            partial(setattr, sessions, name, used)
            if name in sessions.__dict__
            else partial(delattr, sessions, name)
        )
        return _separate(used, partial(setattr, sessions, name), restore)
    raise UsageError(f"a session maker, a class of sessions or a session is followed, not {sessions!r}")


def _separate(
    used: Any, put: Callable[[Any], object], restore: Callable[[], object]
) -> tuple[Any, Callable[[], object]]:
    if isinstance(used, sessionmaker):
        return used.class_, _nothing
    if _known(used) is not None:
        return used, _nothing
    own = type(used.__name__, (used,), {})
    put(own)
    return own, restore


def _nothing() -> None:
    pass


# --- what mappers tell: of all sessions, for a flush says it to nobody else ------------------------------------------


def _trackers_of(session: Session | None) -> list[Tracker]:
    found = None if session is None else session.info.get(_TRACKERS)
    return [] if found is None or found.owner() is not session else list(found.values())


def _before_insert(mapper: Mapper[Any], _connection: Any, target: Any) -> None:
    for tracker in _trackers_of(object_session(target)):
        flushes.inserting(tracker, mapper, target)


def _before_update(mapper: Mapper[Any], _connection: Any, target: Any) -> None:
    for tracker in _trackers_of(object_session(target)):
        flushes.updating(tracker, mapper, target)


def _before_delete(mapper: Mapper[Any], _connection: Any, target: Any) -> None:
    for tracker in _trackers_of(object_session(target)):
        flushes.deleting(tracker, mapper, target)


_LISTENERS: Final = {
    "before_insert": _before_insert,
    "before_update": _before_update,
    "before_delete": _before_delete,
}
