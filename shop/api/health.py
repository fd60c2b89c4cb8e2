"""Whether the shop can serve."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Response

from shop.web import TheShop, json

__all__ = ["router"]

router = APIRouter(tags=["health"])


@router.get("/health", response_model=None)
async def health(shop: TheShop) -> Response:
    """Return how database and Redis are: 200 while the shop can serve, which it can without Redis."""
    database, redis = await asyncio.gather(shop.db.ping(), shop.catalog.health())
    serving = database == "ok"
    degraded = serving and shop.settings.cache_enabled and redis != "ok"
    status = "degraded" if degraded else "ok" if serving else "down"
    return json({"status": status, "database": database, "redis": redis}, 200 if serving else 503)
