"""The behaviour suite: each test runs for both faces on each kind of server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

import pytest

from neverstale.testing.servers import Server
from tests.behaviour.faces import Face, open_faces


class Make(Protocol):
    def __call__(self, **options: Any) -> Face: ...


#: For what is decided before Redis is asked, so that the kind of server makes no difference.
on_one_server = pytest.mark.parametrize("server", ["redis"], indirect=True)


@pytest.fixture
async def make(kind: Any, server: Server) -> AsyncIterator[Make]:
    """Make a cache with the given options."""
    async with open_faces(kind, server.url) as faces:
        yield faces.make


@pytest.fixture
def face(make: Make) -> Face:
    """A cache."""
    return make()


@pytest.fixture
def other(make: Make, face: Face) -> Face:
    """A second cache on the same Redis, as another process has one."""
    return make()
