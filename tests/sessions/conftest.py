"""Each test of sessions runs for both faces and both places, a store and Redis alone, on each kind of server."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from neverstale import CounterSnapshot
from neverstale.sessions import AsyncSessions, Issued, Sessions
from neverstale.testing.servers import Server
from tests.behaviour.faces import Face, Kind, open_faces
from tests.sessions.stores import AsyncMemoryStore, MemoryStore

Make = Callable[..., "SessionFace"]


class SessionFace:
    """Sessions of either face: `await sessions.get(id)`, whichever it is."""

    def __init__(self, face: Face, store: MemoryStore | None, **options: Any) -> None:
        self.face = face
        self.store = store
        options = {"type": dict[str, Any], **options}
        if face.kind == "sync":
            self.sessions: Any = Sessions(face.cache, store=store, **options)
        else:
            awaited = None
            if store is not None:
                awaited = AsyncMemoryStore()
                awaited.plain = store
            self.sessions = AsyncSessions(face.cache, store=awaited, **options)

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        return functools.partial(self.face.call, getattr(self.sessions, name))

    async def begin(self, data: Any = None, **options: Any) -> Issued[Any]:
        """Begin a session."""
        issued: Issued[Any] = await self.create({} if data is None else data, **options)
        return issued

    def stats(self) -> CounterSnapshot:
        return self.face.stats("session:")


@pytest.fixture(params=["store", "redis"])
def stored(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "store")


@pytest.fixture
async def make(kind: Kind, stored: bool, server: Server) -> AsyncIterator[Make]:
    """Make sessions with the given options; all of a test share their store, as processes do."""
    store = MemoryStore() if stored else None
    async with open_faces(kind, server.url) as faces:
        yield lambda cache=None, **options: SessionFace(faces.make(**(cache or {})), store, **options)


@pytest.fixture
def sessions(make: Make) -> SessionFace:
    return make()


@pytest.fixture
def other(make: Make, sessions: SessionFace) -> SessionFace:
    """Sessions on the same Redis and store, as another process has them."""
    return make()
