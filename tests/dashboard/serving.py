"""A process that serves a dashboard and reads its cache: `python -m tests.dashboard.serving URL PORT [TOKEN]`."""

from __future__ import annotations

import asyncio
import random
import sys
from typing import Any

import uvicorn

from neverstale import AsyncCache
from neverstale.dashboard import Dashboard

NAMESPACE = "shop"


async def load() -> dict[str, Any]:
    return {"id": 7, "name": "Copper Desk Lamp", "price_cents": 4999}


async def read(cache: AsyncCache) -> None:
    """Read as the visitors of a shop do, until the end."""
    api, sessions, fragments = (cache.with_prefix(prefix) for prefix in ("api:", "session:", "fragment:"))
    while True:
        number = int(random.paretovariate(1))
        await api.get_or_load(
            f"GET:/products/{number}", load, ttl=600, tags=["products", f"product:{number}"]
        )
        await fragments.get_or_load(f"header:{number % 5}", load, ttl=600, soft_ttl=1)
        await sessions.get_or_load(f"{number:064x}", load, ttl=600)
        await asyncio.sleep(0.002)


async def serve(url: str, port: int, token: str | None) -> None:
    """Serve the dashboard at /cache/."""
    async with AsyncCache.from_url(url, namespace=NAMESPACE, timeout=2) as cache, cache.reporting():
        dashboard = Dashboard(cache, token)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await dashboard({**scope, "root_path": "/cache"}, receive, send)

        server = uvicorn.Server(uvicorn.Config(app, port=port, lifespan="off", log_level="warning"))
        reading = asyncio.create_task(read(cache))
        await server.serve()
        reading.cancel()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None))
