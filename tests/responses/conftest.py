"""A middleware around a handler, on a real Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import pytest

from neverstale import AsyncCache
from neverstale.testing.servers import RedisServer
from neverstale.web.asgi import ResponseCacheMiddleware
from tests.behaviour.faces import cancel_what_runs
from tests.responses.asking import Application, Ask


class Make(Protocol):
    def __call__(self, handler: Callable[[Ask], Any], *args: Any, **options: Any) -> Site: ...


class Site:
    """An application with a cache around it."""

    def __init__(self, handler: Callable[[Ask], Any], cache: AsyncCache, *args: Any, **options: Any) -> None:
        self.handler = Application(handler)
        self.cache = cache
        self.api = cache.with_prefix("api:")
        self.app = ResponseCacheMiddleware(self.handler, cache, *args, **options)

    @property
    def calls(self) -> int:
        return self.handler.calls


@pytest.fixture
async def cache(redis_server: RedisServer) -> AsyncIterator[AsyncCache]:
    async with AsyncCache.from_url(redis_server.url, namespace="web", timeout=5, patient_timeout=10) as cache:
        yield cache
        await cancel_what_runs()


@pytest.fixture
def make(cache: AsyncCache) -> Make:
    """Make a site on one cache."""

    def make(handler: Callable[[Ask], Any], *args: Any, **options: Any) -> Site:
        return Site(handler, cache, *args, **options)

    return make
