"""Endpoints that say by themselves how they are cached, and finding the one that a request will reach.

The application's own routes are asked, in their own order: what a route that is not marked takes is never touched,
whatever stands behind it. Nothing is imported for that; routes of Starlette and FastAPI are known by what they can
do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

from neverstale.responses.rules import Options, PerUser, Span

from .run import Scope

__all__ = ["Marked", "cache_response"]

log = logging.getLogger("neverstale.web")
F = TypeVar("F", bound=Callable[..., Any])

_MARK: Final = "__neverstale_response__"
#: So many paths are remembered, none longer than this (at worst 2 MB); more are looked for anew.
_KEPT: Final = 4096
_LONGEST_KEPT: Final = 256
#: So many layers of middleware are looked through.
_DEEPEST: Final = 100
#: `Match.FULL` of Starlette.
_FULL: Final = 2


def cache_response(
    *,
    ttl: Span,
    soft_ttl: Span | None = None,
    stale_if_error: Span = 0,
    tags: Iterable[str] = (),
    public: bool = False,
    per_user: PerUser | None = None,
    vary: Iterable[str] = (),
    ignore: Iterable[str] = (),
    query: Iterable[str] | None = None,
    statuses: Iterable[int] = (200,),
) -> Callable[[F], F]:
    """Say how the answers of an endpoint are cached; for `ResponseCacheMiddleware` to find. A decorator.

    Put it next to the function, under the decorator of the route.

    Args:
        ttl, soft_ttl, stale_if_error, tags, public, per_user, vary, ignore, query, statuses: as
            `neverstale.responses.rules.Options`; `{id}` in a tag is the route's.

    Raises:
        UsageError: an option is wrong.
    """
    said = Options(
        ttl=ttl,
        soft_ttl=soft_ttl,
        stale_if_error=stale_if_error,
        tags=tags,
        public=public,
        per_user=per_user,
        vary=vary,
        ignore=ignore,
        query=query,
        statuses=statuses,
    )

    def mark(endpoint: F) -> F:
        setattr(endpoint, _MARK, said)
        return endpoint

    return mark


class Marked:
    """Finds what the endpoint says that a request will reach.

    Args:
        app: what is asked. Its routes are what stands behind the middleware between; they are looked for later, since
            some are added later.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._router: Any = None
        self._count = -1
        self._any = False
        self._kept: dict[tuple[str, str, bytes], tuple[Options, Mapping[str, Any]] | None] = {}

    def find(self, scope: Scope) -> tuple[Options, Mapping[str, Any]] | None:
        """Return the options of the endpoint and what the path says, or None if it is not marked."""
        if self._router is None:
            self._router = self._look(scope)
        routes = getattr(self._router, "routes", None)
        if routes is None:
            return None
        if len(routes) != self._count:
            self._count = len(routes)
            self._any = _any_marked(routes)
            self._kept.clear()
        if not self._any:
            return None
        host = next((value for name, value in scope["headers"] if name == b"host"), b"")
        key = (scope.get("root_path", ""), scope["path"], host)
        try:
            return self._kept[key]
        except KeyError:
            found = self._find(routes, scope)
        if len(scope["path"]) + len(host) > _LONGEST_KEPT:
            return found
        if len(self._kept) >= _KEPT:
            self._kept.clear()
        self._kept[key] = found
        return found

    def _look(self, scope: Scope) -> Any:
        app = self._app
        for _ in range(_DEEPEST):
            if isinstance(getattr(app, "routes", None), list | tuple):
                return app
            app = getattr(app, "app", None)
            if app is None:
                break
        # Around a single route. The application's are the right ones only outside of all mounts.
        return None if "app_root_path" in scope else scope.get("app")

    def _find(self, routes: Iterable[Any], scope: Scope) -> tuple[Options, Mapping[str, Any]] | None:
        # A copy: matching leaves notes there.
        asked = {**scope, "method": "GET", "fastapi": {}}
        try:
            reached = _reach(routes, asked)
        except Exception as error:  # noqa: BLE001 - routes are others' code: what they cannot say is not cached
            log.warning("cannot tell which route %r takes, it is not cached: %r", scope["path"], error)
            return None
        if reached is None:
            return None
        endpoint, params = reached
        options = getattr(endpoint, _MARK, None)
        if not isinstance(options, Options):
            return None
        options.check_params(params, f"the route of {scope['path']}")
        return options, params


def _reach(routes: Iterable[Any], scope: Scope) -> tuple[Any, Mapping[str, Any]] | None:
    for route in routes:
        match, child = route.matches(scope)
        if match.value == _FULL:
            return _inside(route, {**scope, **child})
    return None


def _inside(route: Any, scope: Scope) -> tuple[Any, Mapping[str, Any]] | None:
    # A router that FastAPI includes as a whole.
    selecting = getattr(route, "_match", None)
    if selecting is not None:
        match, child, inner, _ = selecting(scope)
        if match.value != _FULL:
            return None
        if "endpoint" not in child and inner is not None and inner is not route:
            return _inside(inner, {**scope, **child})
        return child.get("endpoint"), child.get("path_params", {})
    if hasattr(route, "methods"):
        return scope.get("endpoint"), scope.get("path_params", {})
    inside = getattr(route, "routes", None)
    return _reach(inside, scope) if inside else None


def _any_marked(routes: Iterable[Any]) -> bool:
    for route in routes:
        if hasattr(getattr(route, "endpoint", None), _MARK):
            return True
        inside = getattr(getattr(route, "original_router", route), "routes", None)
        if inside and _any_marked(inside):
            return True
    return False
