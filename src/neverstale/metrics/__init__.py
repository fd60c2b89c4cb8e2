"""Figures: of this process for Prometheus, and of all processes together.

    async with cache.reporting():                 # in the application's lifespan
        app.mount("/metrics", metrics_app(cache))     # an ASGI application; `metrics_wsgi` for WSGI
        ...
        totals = await cache.totals()             # all processes together, by prefix
        hottest = await cache.hottest(20)         # the keys that are asked for most

docs/metrics.md says what there is, and what to alert on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from neverstale.errors import MissingDependency
from neverstale.hot import HotKey, HotTag

from .nodes import NodeStats
from .totals import Span, Totals

if TYPE_CHECKING:
    from types import ModuleType

    from neverstale.base import BaseCache

__all__ = [
    "HotKey",
    "HotTag",
    "NodeStats",
    "Span",
    "Totals",
    "exposition",
    "metrics_app",
    "metrics_wsgi",
]


def exposition(cache: BaseCache, accept: str = "") -> tuple[bytes, str]:
    """Return what `/metrics` answers: the body and its content type. For a route of the application's own.

    With `PROMETHEUS_MULTIPROC_DIR` it is that of all worker processes. Everything that prometheus_client's usual
    registry has is among it. Never asks Redis, so it does not hang when that is away.

    Args:
        cache: any view of it, also one that is not `reporting()`.
        accept: the request's `Accept`; Prometheus asks for OpenMetrics by it.

    Raises:
        MissingDependency: prometheus_client is not installed.
    """
    body, content_type = _prometheus().scrape(cache._shared.reporter, accept)
    return body, content_type


def metrics_app(cache: BaseCache) -> Callable[..., Any]:
    """Return an ASGI application that answers as `exposition`; mount it where Prometheus asks.

    Raises:
        MissingDependency: prometheus_client is not installed.
    """
    registry = _prometheus().scrape_registry(cache._shared.reporter)
    from prometheus_client import make_asgi_app

    return make_asgi_app(registry)


def metrics_wsgi(cache: BaseCache) -> Callable[..., Any]:
    """Return a WSGI application that answers as `exposition`.

    Raises:
        MissingDependency: prometheus_client is not installed.
    """
    registry = _prometheus().scrape_registry(cache._shared.reporter)
    from prometheus_client import make_wsgi_app

    return make_wsgi_app(registry)


def _prometheus() -> ModuleType:
    try:
        from . import prometheus
    except ImportError as error:
        raise MissingDependency(
            "metrics for Prometheus need prometheus_client: pip install 'neverstale[prometheus]'"
        ) from error
    return prometheus
