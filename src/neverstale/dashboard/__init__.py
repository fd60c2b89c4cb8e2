"""A page that shows what the cache does now, as an ASGI application to be mounted:

    app.mount("/cache", Dashboard(cache, token=os.environ["CACHE_TOKEN"]))

Without a token it is read-only, and only for clients on the loopback. docs/dashboard.md.
"""

from __future__ import annotations

from .app import Dashboard

__all__ = ["Dashboard"]
