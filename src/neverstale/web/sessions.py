"""Sessions for any ASGI application: Starlette, FastAPI, or none. Imports no framework.

Rules:
- What the client sends is looked for and never adopted: an id that is not known leads to no session, and the next one
  has an id of our own making.
- What a request changed is saved before its answer begins, so the client's next request sees it. An answer of 500 or
  above, or an exception, saves nothing.
- Only the fields that a request has changed are written, into what is there at that moment: two requests at the same
  time lose nothing of each other, and what was destroyed meanwhile is not brought back.
- The cookie is set only when there is a new id, and deleted only when the session was destroyed: an id that cannot be
  found because Redis is away stays with the client.
- An answer that depends on the session says so: `Vary: Cookie`, and `Cache-Control: private` where it says nothing.

Not known here: what the data mean, who may log in, where sessions live.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any, Final, Generic, Literal, TypeVar, cast

from neverstale.errors import InvalidationError, RedisUnavailable, UsageError
from neverstale.owed import AsyncRetrier
from neverstale.sessions import AsyncSessions, Issued, Session, SessionInfo
from neverstale.sessions.model import UNCHANGED, Unchanged

from .session_cookie import Cookie
from .session_dict import SessionDict

__all__ = ["SessionDict", "SessionHandle", "SessionMiddleware"]

D = TypeVar("D")
T = TypeVar("T")
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

logger = logging.getLogger("neverstale")

#: Fields by which applications are used to say who has logged in: when one changes, the id does.
LOG_IN_FIELDS: Final = ("user", "user_id")


class SessionHandle(Generic[D]):
    """`request.state.session`: the session of a request, and what may be done with it.

    Attributes:
        session: with its data and times, or None.
    """

    def __init__(
        self,
        sessions: AsyncSessions[D],
        session_id: str | None,
        device: str,
        later: Callable[[InvalidationError], None],
    ) -> None:
        self._sessions = sessions
        self._id = session_id
        self._device = device
        self._later = later
        self._session: Session[D] | None = None
        self._unread: RedisUnavailable | None = None
        self._fields = SessionDict() if sessions.of_dicts else None
        self._issued: Issued[D] | None = None
        self._destroyed = False
        self._accessed = False

    def __repr__(self) -> str:
        return f"<SessionHandle of {self._session!r}>"

    @property
    def accessed(self) -> bool:
        """Whether this request has looked at its session, or changed it."""
        return self._accessed or (self._fields is not None and self._fields.accessed)

    @property
    def session(self) -> Session[D] | None:
        """The session as it was when it was read or changed by this request; None if there is none."""
        self._accessed = True
        return self._session

    @property
    def data(self) -> D | None:
        """Its data; change them by `update`."""
        session = self.session
        return None if session is None else session.data

    @property
    def user(self) -> str | None:
        """Whose it is; None for a visitor, also for one without a session."""
        session = self.session
        return None if session is None else session.user

    async def create(self, data: D) -> None:
        """Begin a session for a visitor, with an id of its own making."""
        self._issue(await self._sessions.create(data, device=self._device))

    async def update(self, change: Callable[[D], D]) -> bool:
        """Change the data, see `AsyncSessions.update`; False if there is no session that may be changed."""
        self._accessed = True
        if self._id is None:
            return False
        try:
            session = await self._sessions.update(self._id, change)
        except InvalidationError as error:
            self._owe(error)
            session = await self._sessions.find(self._id)
        if session is not None:
            self._take(session)
        return session is not None

    async def log_in(self, user: str, data: D | None = None) -> None:
        """Give the client a new session of this user; call it when the password was right.

        Args:
            user: whose it is from now on.
            data: what it holds; None: what `request.session` holds (a visitor's cart), but nothing that is there from
                a session of another user.

        Raises:
            UsageError: no data, and the sessions are not of dicts.
        """
        issued = None
        if data is None:
            fields, there = self._fields, self._session
            if fields is None:
                raise UsageError("log_in needs data, where sessions are not of dicts")
            if there is None or there.user in (None, user):
                data = cast(D, fields.plain())
                issued = await self._rotated(user) if there is not None else None
            else:
                data = cast(D, fields.changes().put)
        if issued is None:
            issued = await self._sessions.log_in(self._id, user, data, device=self._device)
        self._issue(issued)

    async def rotate(self) -> bool:
        """Give the session another id, at a rise of privilege; False if there is none."""
        issued = await self._rotated()
        if issued is not None:
            self._issue(issued)
        return issued is not None

    async def _rotated(self, user: str | Unchanged = UNCHANGED) -> Issued[D] | None:
        """Rotate, with what this request has changed so far; what others change meanwhile stays."""
        if self._id is None:
            return None
        changes = self._fields.changes() if self._fields is not None else None
        change: Any = changes.apply if changes else None
        return await self._sessions.rotate(self._id, user=user, change=change, device=self._device)

    async def log_out(self) -> None:
        """Destroy the session, at once and in every process.

        Raises:
            InvalidationError: without a store, Redis is away: the session is still there.
        """
        self._begin(None)
        await self._leave()

    async def _leave(self) -> None:
        gone, self._id, self._session, self._issued = self._id, None, None, None
        self._destroyed = self._accessed = True
        if gone is not None:
            await self._owing(self._sessions.destroy(gone))

    async def sessions(self) -> list[SessionInfo]:
        """List the sessions of this session's user."""
        user = self.user
        return [] if user is None else await self._sessions.of_user(user, current=self._id)

    async def destroy_one(self, name: str) -> bool:
        """Destroy one session of this session's user, by the name that `sessions` gave it; as `log_out` otherwise."""
        user = self.user
        if user is None:
            return False
        done = await self._owing(self._sessions.destroy_one(user, name))
        return done is None or done

    async def destroy_others(self) -> None:
        """Destroy all sessions of this session's user but this one; as `log_out` otherwise."""
        user = self.user
        if user is not None:
            await self._owing(self._sessions.destroy_all(user, keep=self._id))

    def _owe(self, error: InvalidationError) -> None:
        """Note what is to be invalidated again.

        With a store, what was asked for is done: the database has it, and an error would make the client ask again.
        """
        if not self._sessions.has_store:
            raise error
        logger.error("a session was changed or destroyed, and a copy is not invalidated yet: %s", error)
        self._later(error)

    async def _owing(self, work: Awaitable[T]) -> T | None:
        async def owing() -> T | None:
            try:
                return await work
            except InvalidationError as error:
                self._owe(error)
                return None

        # It is done also if the client goes away, and so is what it may leave to be done.
        return await asyncio.shield(asyncio.ensure_future(owing()))

    # --- for the middleware ---------------------------------------------------------------------------------------

    async def _open(self) -> SessionDict | None:
        if self._id is not None:
            try:
                self._session = await self._sessions.find(self._id, touch=True, certain=True)
            except RedisUnavailable as error:
                self._unread = error
        self._begin(None if self._session is None else self._session.data)
        return self._fields

    def _begin(self, data: Any) -> None:
        if self._fields is not None:
            self._fields.begin(data)

    def _take(self, session: Session[D]) -> None:
        self._session = session
        if self._fields is not None:
            self._fields.rebase(session.data)

    def _issue(self, issued: Issued[D]) -> None:
        self._id, self._session, self._issued = issued.id, issued.session, issued
        self._destroyed, self._accessed = False, True
        if issued.owed is not None:
            self._owe(issued.owed)
        self._begin(issued.session.data)

    async def _save(self, log_in_fields: Collection[str]) -> None:
        """Write what the request has changed in `request.session`."""
        fields, there = self._fields, self._session
        if fields is None or not fields.accessed:
            return
        changes = fields.changes()
        if there is None:
            if changes:
                await self._begin_another(fields)
            return
        if (fields.cleared and (there.user is not None or not fields)) or fields.lost(log_in_fields):
            # Nobody may be seen as a user who has just left: so no grace, and nothing of what others change meanwhile.
            await self._leave()
            if fields:
                await self._begin_another(fields)
            return
        rises = self._issued is None and any(name in changes.put for name in log_in_fields)
        kept = not changes or await (self.rotate() if rises else self.update(cast(Any, changes.apply)))
        if not kept:
            logger.info("what a request changed in %r is dropped: the session is over", there)

    async def _begin_another(self, fields: SessionDict) -> None:
        if self._unread is not None:
            # Another session would take the place of the one that the client may well have.
            raise self._unread
        self._issue(await self._sessions.create(cast(D, fields.plain()), device=self._device))


class SessionMiddleware:
    """Give every request its session: `request.session` (for data that are dicts) and `request.state.session`.

    Args:
        app: what is wrapped.
        sessions: where sessions live.
        cookie: its name; in front of it stands `__Host-` where the browser allows it (secure, path `/`, no domain),
            so that no other host of the domain can set it.
        secure: whether the cookie is sent by https only. False is for development on plain http.
        same_site: `lax`: not sent along by other sites' forms; `strict`: nor by their links; `none`.
        path, domain: where the cookie is sent to.
        persistent: whether the cookie outlives the browser; it ends with the session in any case.
        log_in_fields: fields of `request.session` whose change gives the session another id, as a log-in does.

    A websocket can read the session; what it changes in `request.session` is not saved (use `request.state.session`),
    and it gets no cookie.
    """

    def __init__(
        self,
        app: App,
        sessions: AsyncSessions[Any],
        *,
        cookie: str = "session",
        secure: bool = True,
        same_site: Literal["lax", "strict", "none"] = "lax",
        path: str = "/",
        domain: str | None = None,
        persistent: bool = True,
        log_in_fields: Collection[str] = LOG_IN_FIELDS,
    ) -> None:
        self.app = app
        self.sessions = sessions
        self._cookie = Cookie(
            cookie, secure=secure, same_site=same_site, path=path, domain=domain, persistent=persistent
        )
        self.cookie = self._cookie.name
        self._log_in_fields = log_in_fields
        self._retrier = AsyncRetrier(sessions._cache)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] not in ("http", "websocket"):
            try:
                await self.app(scope, receive, send)
            finally:
                if scope["type"] == "lifespan":
                    await self._retrier.close()
            return
        headers = scope["headers"]
        handle: SessionHandle[Any] = SessionHandle(
            self.sessions, self._cookie.sent(headers), _device(headers), self._later
        )
        fields = await handle._open()
        if fields is not None:
            scope["session"] = fields
        scope.setdefault("state", {})["session"] = handle

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                await self._finish(handle, message)
            await send(message)

        await self.app(scope, receive, sending if scope["type"] == "http" else send)

    def _later(self, error: InvalidationError) -> None:
        self._retrier.later(self.sessions.owed(error))

    async def _finish(self, handle: SessionHandle[Any], message: Message) -> None:
        if message["status"] < 500:
            await handle._save(self._log_in_fields)
        headers = message["headers"] = list(message.get("headers", ()))
        if handle._issued is not None:
            headers.append(self._cookie.given(handle._issued))
        elif handle._destroyed:
            headers.append(self._cookie.taken())
        if handle.accessed:
            _mark_private(headers, sets_cookie=handle._issued is not None or handle._destroyed)


def _device(headers: list[tuple[bytes, bytes]]) -> str:
    return b", ".join(value for key, value in headers if key == b"user-agent").decode("latin-1")[:200]


def _mark_private(headers: list[tuple[bytes, bytes]], *, sets_cookie: bool) -> None:
    """Say that the answer depends on the session: to caches between here and the client.

    What the application says itself stands, but for an answer that sets the cookie: that is for one client.
    """
    varies = [value for key, value in headers if key.lower() == b"vary"]
    named = {part.strip().lower() for value in varies for part in value.split(b",")}
    if not named & {b"cookie", b"*"}:
        headers.append((b"vary", b"Cookie"))
    said = b",".join(value.lower() for key, value in headers if key.lower() == b"cache-control")
    if sets_cookie and b"private" not in said and b"no-store" not in said:
        headers[:] = [each for each in headers if each[0].lower() != b"cache-control"]
        said = b""
    if not said:
        headers.append((b"cache-control", b"private"))
