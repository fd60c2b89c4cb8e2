"""A dashboard to ask."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from neverstale import AsyncCache
from neverstale.dashboard import Dashboard
from neverstale.testing.servers import RedisServer
from tests.browser import browser as browser
from tests.browser import page_of as page_of

TOKEN = "the-token-of-the-dashboard"
OURS = {"sec-fetch-site": "same-origin"}

Open = Callable[..., httpx.AsyncClient]


def mounted(app: Any, root: str) -> Any:
    """Mount an application below a path, as frameworks do."""

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "root_path": root}, receive, send)

    return asgi


@pytest.fixture
async def cache(redis_server: RedisServer) -> AsyncIterator[AsyncCache]:
    async with AsyncCache.from_url(
        redis_server.url, namespace="shop", timeout=5, patient_timeout=10
    ) as opened:
        yield opened


@pytest.fixture
async def opened(cache: AsyncCache) -> AsyncIterator[Open]:
    """Return a function that makes a client of a dashboard."""
    async with AsyncExitStack() as stack:

        def make(
            token: str | None = None, client: Any = ("127.0.0.1", 5000), **options: Any
        ) -> httpx.AsyncClient:
            transport = httpx.ASGITransport(mounted(Dashboard(cache, token), "/cache"), client=client)
            made = httpx.AsyncClient(transport=transport, base_url="http://localhost/cache/", **options)
            stack.push_async_callback(made.aclose)
            return made

        yield make


async def log_in(client: httpx.AsyncClient) -> dict[str, str]:
    """Log in; return the headers of what acts."""
    answer = await client.post("login", data={"token": TOKEN}, headers=OURS)
    assert answer.status_code == 303
    seen = (await client.get("api/overview")).json()
    return {**OURS, "x-forgery-token": seen["forgery_token"]}
