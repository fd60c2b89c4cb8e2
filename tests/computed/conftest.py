"""Computed values by both faces, on Redis and on a cluster: what holds for one holds for the other."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any, Protocol

import pytest

from neverstale import CounterSnapshot
from neverstale.computed import AsyncComputed, Computed
from neverstale.core import entry
from neverstale.testing.servers import Server
from tests.behaviour.faces import Face, open_faces, until

#: For what is decided before Redis is asked, so that the kind of server makes no difference.
on_one_server = pytest.mark.parametrize("server", ["redis"], indirect=True)


class ComputedFace(Face):
    """Computed values of either face: `await face.memoize(...)`, whichever it is."""

    def __init__(self, face: Face) -> None:
        super().__init__(face.cache, face._threads, face._loaders)
        self.plain = face
        self.cache = (AsyncComputed if face.kind == "async" else Computed)(face.cache)

    def stats(self, prefix: str = "") -> CounterSnapshot:
        """Return what was counted for computed values."""
        found: CounterSnapshot = self.cache.stats()
        return found


class Make(Protocol):
    def __call__(self, **options: Any) -> ComputedFace: ...


@pytest.fixture(params=["redis", "redis-cluster"])
def server(request: pytest.FixtureRequest) -> Server:
    """Give Redis and a cluster; that the others do the same is the cache's own to show."""
    found: Server = request.getfixturevalue("redis_cluster" if "cluster" in request.param else "redis_server")
    return found


@pytest.fixture
async def make(kind: Any, server: Server) -> AsyncIterator[Make]:
    """Make computed values in a cache with the given options."""
    async with open_faces(kind, server.url) as faces:
        yield lambda **options: ComputedFace(faces.make(**options))


@pytest.fixture
def face(make: Make) -> ComputedFace:
    """Computed values."""
    return make()


@pytest.fixture
def other(make: Make, face: ComputedFace) -> ComputedFace:
    """The same in a second cache on the same Redis, as another process has one."""
    return make()


def stored(server: Server, key: str = "k") -> entry.Entry | None:
    """Return what is stored of a computed value."""
    return entry.parse(server.client().get(f"v1:computed:{key}"))


async def past_its_ttl(server: Server, key: str = "k") -> None:
    """Wait until a value is kept only as a fallback."""
    found = stored(server, key)
    assert found is not None
    hard_at = found.hard_at
    assert hard_at
    await until(lambda: time.time() * 1000 > hard_at)
