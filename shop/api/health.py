"""Whether the shop can serve."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Response

from neverstale.counters import CounterSnapshot
from shop.state import Shop
from shop.web import TheShop, json

__all__ = ["router"]

router = APIRouter(tags=["health"])


@router.get("/health", response_model=None)
async def health(shop: TheShop) -> Response:
    """Return how database, Redis and cache are: 200 while the shop can serve, which it can without Redis."""
    database, (redis, cache) = await asyncio.gather(shop.db.ping(), _cache(shop))
    serving = database == "ok"
    status = "down" if not serving else "degraded" if cache["state"] == "away" else "ok"
    said = {"status": status, "database": database, "redis": redis, "cache": cache}
    return json(said, 200 if serving else 503, {"cache-control": "no-store"})


async def _cache(shop: Shop) -> tuple[str, dict[str, Any]]:
    """Return how Redis is, and in what state that leaves the cache."""
    cache = shop.catalog.cache
    if cache is None:
        return "not used (CACHE_ENABLED=0)", {"state": "off"}
    found = await cache.health()
    away = {} if found.redis == "ok" else {"served": "from the database, without the cache"}
    counted = sum_of(list(cache.stats().values()))
    rate = counted.hit_rate
    return found.redis, {
        "state": "away" if away else "ok",
        **away,
        "mode": found.mode,
        "nodes": found.nodes,
        "server": found.version,
        "latency_ms": found.latency_ms,
        "version": cache.settings.version,
        # Of this worker, since it was started; /metrics has those of all.
        "hit_rate": None if rate is None else round(rate, 4),
        "reads": counted.reads,
        "errors": counted.errors,
    }


def sum_of(figures: list[CounterSnapshot]) -> CounterSnapshot:
    """Add up the figures of all prefixes."""
    total = CounterSnapshot()
    for each in figures:
        total = total.plus(each)
    return total
