"""For who runs the shop: `/metrics` for Prometheus, and the cache's dashboard at `/cache/`.

| address | without a token | with one |
|---|---|---|
| `/metrics` | only this machine itself | `SHOP_METRICS_TOKEN`, as `Authorization: Bearer ...` |
| `/cache/` | only this machine itself, and only to look | `SHOP_CACHE_TOKEN`: who logs in with it may invalidate |

Behind a proxy nobody counts as this machine itself, whatever the proxy says of them. The two tokens are different
ones: what Prometheus knows shall not be enough to empty the cache.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import MutableMapping
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from starlette.types import Receive, Scope, Send

from neverstale import AsyncCache
from neverstale.dashboard import Dashboard
from neverstale.dashboard.access import headers_of, is_local
from neverstale.metrics import exposition

from .settings import Settings
from .state import Shop
from .web import TheShop

__all__ = ["cache_page", "dashboard_of", "router"]

router = APIRouter(include_in_schema=False)


@router.get("/metrics", response_model=None)
async def metrics(request: Request, shop: TheShop) -> Response:
    """Return the figures of all workers: the cache's, and the database's statements."""
    if not _may_scrape(shop.settings, request.scope):
        raise HTTPException(403, "metrics are for this machine itself, or for who has SHOP_METRICS_TOKEN")
    cache = shop.catalog.cache
    if cache is None:
        raise HTTPException(404, "the cache is off (CACHE_ENABLED=0)")
    # On a thread: with several workers it reads a file of each.
    body, kind = await asyncio.to_thread(exposition, cache, request.headers.get("accept", ""))
    return Response(body, headers={"content-type": kind, "cache-control": "no-store"})


def _may_scrape(settings: Settings, scope: MutableMapping[str, Any]) -> bool:
    headers = headers_of(scope)
    if settings.metrics_token is None:
        return is_local(scope.get("client"), headers)
    scheme, _, given = headers.get("authorization", "").partition(" ")
    # As bytes: digits of other scripts cannot be compared as text.
    return scheme.lower() == "bearer" and hmac.compare_digest(
        given.strip().encode(errors="replace"), settings.metrics_token.encode()
    )


def dashboard_of(settings: Settings, cache: AsyncCache | None) -> Dashboard | None:
    """Make the cache's dashboard; it listens to the invalidations of all processes while somebody looks."""
    return None if cache is None else Dashboard(cache, settings.cache_token)


async def cache_page(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the cache's dashboard: an ASGI application to be mounted before there is a cache."""
    shop: Shop = scope["app"].state.shop
    if shop.dashboard is None:
        raise HTTPException(404, "the cache is off (CACHE_ENABLED=0)")
    await shop.dashboard(scope, receive, send)
