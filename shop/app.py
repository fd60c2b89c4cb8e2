"""The application: `create_app()` puts settings, database, cache, routes and middleware together."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from neverstale import AsyncCache
from neverstale.web.asgi import ResponseCacheMiddleware

from . import accounts, operating
from .api import accounts as api_accounts
from .api import catalog as api_catalog
from .api import health as api_health
from .api import orders as api_orders
from .api import reports as api_reports
from .caching import RULES, CachedCatalog
from .db import Database
from .pages import accounts as account_pages
from .pages import admin, editor, storefront
from .sessions import ShopSessions
from .settings import Settings
from .state import Shop
from .web import Guarded, Measured, add_error_handlers

__all__ = ["configure_logging", "create_app"]

log = logging.getLogger("shop")


class KeptFiles(StaticFiles):
    """Files whose address changes with their contents (templating.py), so browsers may keep them."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Answer with a file, to be kept for a year when the address has a digest."""
        response = await super().get_response(path, scope)
        if b"v=" in scope["query_string"]:
            response.headers["cache-control"] = "public, max-age=31536000, immutable"
        return response


def configure_logging(level: str = "WARNING") -> None:
    """Write to stderr, each event on a line of its own; leaves what is configured already.

    Arguments:
        level: of the shop and its cache, whose every invalidation is an INFO. Of the rest warnings and errors are
            written.
    """
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in ("shop", "neverstale"):
        logging.getLogger(name).setLevel(level)


def _cache(scope: MutableMapping[str, Any]) -> AsyncCache | None:
    shop: Shop = scope["app"].state.shop
    return shop.catalog.cache


def create_app(settings: Settings | None = None) -> FastAPI:
    """Return the shop; settings come from the environment unless they are given."""
    chosen = settings or Settings.from_env()
    if settings is None:
        configure_logging(chosen.log_level)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        db = Database(chosen.database_url)
        catalog = await CachedCatalog.open(db, chosen)
        sessions = ShopSessions(db, catalog.cache)
        dashboard = operating.dashboard_of(chosen, catalog.cache)
        shop = app.state.shop = Shop(chosen, db, catalog, sessions, dashboard)
        if chosen.admin_password and await accounts.apply_admin_password(shop, chosen.admin_password):
            log.warning("the administrator's password was set from SHOP_ADMIN_PASSWORD")
        try:
            async with catalog.cache.reporting() if catalog.cache else nullcontext():
                yield
        finally:
            if dashboard is not None:
                await dashboard.close()
            await sessions.close()
            await catalog.close()
            await db.close()

    # No interactive documentation: its scripts would come from another host. /openapi.json is there.
    app = FastAPI(title="Wayside", lifespan=life, docs_url=None, redoc_url=None)
    # What changes a product says so, and then nobody is given the old answer: a browser's "reload" need not ask again.
    app.add_middleware(ResponseCacheMiddleware, cache=_cache, rules=RULES, ignore_reload=True)
    app.add_middleware(Guarded)
    app.add_middleware(Measured)
    add_error_handlers(app)
    # The busiest first: routes are tried in this order.
    for router in (
        api_catalog.router,
        storefront.router,
        api_orders.router,
        api_accounts.router,
        account_pages.router,
        editor.router,
        admin.router,
        api_reports.router,
        api_health.router,
        operating.router,
    ):
        app.include_router(router)
    app.mount("/cache", operating.cache_page)
    app.mount("/static", KeptFiles(directory=Path(__file__).parent / "static"))
    return app
