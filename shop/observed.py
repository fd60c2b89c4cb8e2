"""The shop for the load generator: it also says what it has asked its database and found in its cache.

Nobody else runs it: `python -m shop serve` does not have the address.
"""

from __future__ import annotations

import os
from typing import Any

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from .app import configure_logging
from .app import create_app as create_shop
from .state import Shop

__all__ = ["FIGURES", "Observed", "Seen", "create_app"]

FIGURES = "/-/figures"


class Seen(msgspec.Struct):
    """What one process has done since its start; `served` and `reads` are counted by prefix."""

    process: int
    statements: int
    served: dict[str, int]
    reads: dict[str, int]


class Observed:
    """Answers one address with how many statements there were in this process, and what the cache has counted."""

    def __init__(self, app: ASGIApp, state: Any) -> None:
        self.app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != FIGURES:
            await self.app(scope, receive, send)
            return
        body = msgspec.json.encode(self._seen())
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _seen(self) -> Seen:
        shop: Shop = self._state.shop
        stats = {} if shop.catalog.cache is None else shop.catalog.cache.stats()
        return Seen(
            os.getpid(),
            shop.db.statements.total,
            {prefix: each.hits + each.stale_hits for prefix, each in stats.items()},
            {prefix: each.reads for prefix, each in stats.items()},
        )


def create_app() -> ASGIApp:
    """Return the shop, observed; settings come from the environment."""
    configure_logging()
    shop = create_shop()
    return Observed(shop, shop.state)
