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

import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, MutableMapping
from datetime import UTC, datetime
from typing import Any, Final, Generic, Literal, TypeVar, cast

import msgspec

from neverstale.errors import InvalidationError, UsageError
from neverstale.owed import AsyncRetrier
from neverstale.sessions import AsyncSessions, Issued, Session, SessionInfo

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


class SessionDict(dict[str, Any]):
    """`request.session`: a dict that knows whether it was looked at.

    What was changed is found by comparing, so changes inside of a value (`session["cart"].append(5)`) count as well.
    """

    def __init__(self, data: Any = ()) -> None:
        super().__init__(data)
        self.accessed = False
        self.cleared = False

    def mark_accessed(self) -> None:
        """Note that it was looked at; Starlette's `request.session` calls this."""
        self.accessed = True

    # For who takes it from the scope, or from a Starlette that does not call that.
    def __getitem__(self, name: str) -> Any:
        self.accessed = True
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self.accessed = True
        return super().__contains__(name)

    def __iter__(self) -> Iterator[str]:
        self.accessed = True
        return super().__iter__()

    def get(self, name: str, default: Any = None) -> Any:
        """Return a field, or the default."""
        self.accessed = True
        return super().get(name, default)

    def clear(self) -> None:
        """Empty it: the session ends with this request, unless something is put there again."""
        self.accessed = self.cleared = True
        super().clear()

    def plain(self) -> dict[str, Any]:
        """Return a copy that is a dict and nothing else."""
        return dict(dict.items(self))


class SessionHandle(Generic[D]):
    """`request.state.session`: the session of a request, and what may be done with it.

    Attributes:
        session: with its data and times, or None.
    """

    def __init__(self, sessions: AsyncSessions[D], session_id: str | None, device: str) -> None:
        self._sessions = sessions
        self._id = session_id
        self._device = device
        self._session: Session[D] | None = None
        self._fields: SessionDict | None = None
        self._before: dict[str, bytes] = {}
        self._issued: Issued[D] | None = None
        self._destroyed = False
        self._accessed = False
        self._owed: list[InvalidationError] = []

    def __repr__(self) -> str:
        return f"<SessionHandle of {self._session!r}>"

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
            data: what it holds; None: what `request.session` holds (a visitor's cart).

        Raises:
            UsageError: no data, and the sessions are not of dicts.
        """
        if data is None:
            if self._fields is None:
                raise UsageError("log_in needs data, where sessions are not of dicts")
            data = cast(D, self._fields.plain())
        self._issue(await self._sessions.log_in(self._id, user, data, device=self._device))

    async def rotate(self) -> bool:
        """Give the session another id, at a rise of privilege; False if there is none."""
        issued = None if self._id is None else await self._sessions.rotate(self._id, device=self._device)
        if issued is not None:
            self._issue(issued)
        return issued is not None

    async def log_out(self) -> None:
        """Destroy the session, at once and in every process.

        Raises:
            InvalidationError: without a store, Redis is away: the session is still there.
        """
        gone, self._id, self._session, self._issued = self._id, None, None, None
        self._destroyed = self._accessed = True
        self._begin(None)
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
        self._owed.append(error)

    async def _owing(self, work: Awaitable[T]) -> T | None:
        try:
            return await work
        except InvalidationError as error:
            self._owe(error)
            return None

    # --- for the middleware ---------------------------------------------------------------------------------------

    async def _open(self, as_dict: bool) -> SessionDict | None:
        if self._id is not None:
            self._session = await self._sessions.find(self._id, touch=True)
        if as_dict:
            self._fields = SessionDict()
            self._begin(None if self._session is None else self._session.data)
        return self._fields

    def _begin(self, data: Any) -> None:
        """Let `request.session` hold these data, and remember them."""
        if self._fields is not None:
            dict.clear(self._fields)
            self._fields.update(data or {})
            self._fields.cleared = False
            self._before = _written(self._fields)

    def _take(self, session: Session[D]) -> None:
        self._session = session
        if self._fields is not None:
            pending = self._changes()
            self._begin(session.data)
            _apply(self._fields, *pending)

    def _issue(self, issued: Issued[D]) -> None:
        self._id, self._session, self._issued = issued.id, issued.session, issued
        self._destroyed, self._accessed = False, True
        if issued.owed is not None:
            self._owed.append(issued.owed)
        self._begin(issued.session.data)

    def _changes(self) -> tuple[dict[str, Any], list[str]]:
        """Return the fields that this request has set, and those that it has removed."""
        assert self._fields is not None
        now = _written(self._fields)
        plain = self._fields.plain()
        changed = {name: plain[name] for name, text in now.items() if self._before.get(name) != text}
        return changed, [name for name in self._before if name not in now]

    async def _save(self, log_in_fields: Collection[str]) -> None:
        """Write what the request has changed in `request.session`."""
        fields = self._fields
        if fields is None or not (fields.accessed or fields or self._before):
            return
        changed, removed = self._changes()
        if not changed and not removed:
            return
        self._accessed = True
        if not fields and self._session is not None and (fields.cleared or self._session.user is None):
            await self.log_out()
            return
        data: Any = fields.plain()
        if self._session is None:
            self._issue(await self._sessions.create(data, device=self._device))
            return

        def change(there: Any) -> Any:
            return _apply(dict(there), changed, removed)

        rises = any(name in changed or name in removed for name in log_in_fields)
        if rises and self._issued is None and self._id is not None:
            issued = await self._sessions.rotate(self._id, change=change, device=self._device)
            if issued is not None:
                self._issue(issued)
        elif not await self.update(change):
            logger.info("what a request changed in %r is dropped: the session is over", self._session)


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
        if same_site == "none" and not secure:
            raise UsageError("browsers refuse a cookie with SameSite=None that is not secure")
        self.app = app
        self.sessions = sessions
        self.cookie = f"__Host-{cookie}" if secure and path == "/" and domain is None else cookie
        self._flags = f"; Path={path}; HttpOnly; SameSite={same_site.capitalize()}"
        self._flags += ("; Secure" if secure else "") + (f"; Domain={domain}" if domain else "")
        self._persistent = persistent
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
        handle: SessionHandle[Any] = SessionHandle(
            self.sessions, _cookie(scope, self.cookie), _header(scope, b"user-agent")[:200]
        )
        fields = await handle._open(self.sessions.of_dicts)
        if fields is not None:
            scope["session"] = fields
        scope.setdefault("state", {})["session"] = handle

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                await self._finish(handle, message)
            await send(message)

        try:
            await self.app(scope, receive, sending if scope["type"] == "http" else send)
        finally:
            for error in handle._owed:
                self._retrier.later(self.sessions.owed(error))

    async def _finish(self, handle: SessionHandle[Any], message: Message) -> None:
        if message["status"] < 500:
            await handle._save(self._log_in_fields)
        headers = message["headers"] = list(message.get("headers", ()))
        if handle._issued is not None:
            headers.append((b"set-cookie", self._set(handle._issued).encode("latin-1")))
        elif handle._destroyed:
            headers.append((b"set-cookie", f"{self.cookie}=; Max-Age=0{self._flags}".encode("latin-1")))
        if handle._accessed or (handle._fields is not None and handle._fields.accessed):
            _mark_private(headers, new=handle._issued is not None)

    def _set(self, issued: Issued[Any]) -> str:
        age = ""
        if self._persistent:
            left = (issued.session.expires_at - datetime.now(UTC)).total_seconds()
            age = f"; Max-Age={max(0, int(left))}"
        return f"{self.cookie}={issued.id}{age}{self._flags}"


def _written(data: dict[str, Any]) -> dict[str, bytes]:
    return {name: msgspec.json.encode(value) for name, value in dict.items(data)}


def _apply(data: dict[str, Any], changed: dict[str, Any], removed: Iterable[str]) -> dict[str, Any]:
    for name in removed:
        data.pop(name, None)
    data.update(changed)
    return data


def _header(scope: Scope, name: bytes) -> str:
    return b", ".join(value for key, value in scope["headers"] if key == name).decode("latin-1")


def _cookie(scope: Scope, name: str) -> str | None:
    """Return the value of a cookie, if it was sent; of two of one name none: one of them is not ours."""
    sent = [value for key, value in scope["headers"] if key == b"cookie"]
    found = [
        value
        for header in sent
        for key, _, value in (part.strip().partition("=") for part in header.decode("latin-1").split(";"))
        if key == name
    ]
    return found[0] if len(found) == 1 else None


def _mark_private(headers: list[tuple[bytes, bytes]], *, new: bool) -> None:
    """Say that the answer depends on the session: to caches between here and the client.

    What the application says itself stands, but for an answer with a `new` id: that is for one client.
    """
    varies = [value for key, value in headers if key.lower() == b"vary"]
    named = {part.strip().lower() for value in varies for part in value.split(b",")}
    if not named & {b"cookie", b"*"}:
        headers.append((b"vary", b"Cookie"))
    said = b",".join(value.lower() for key, value in headers if key.lower() == b"cache-control")
    if new and b"private" not in said and b"no-store" not in said:
        headers[:] = [each for each in headers if each[0].lower() != b"cache-control"]
        said = b""
    if not said:
        headers.append((b"cache-control", b"private"))
