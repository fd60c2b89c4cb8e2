"""`@cache.cached()` and `@computed.memoized()`: cache what a function returns, by its arguments.

Parameters and return type stay as they are, for callers and for type checkers; on a method, `self` is part of the key.
The decorated function is an object that can be called, with `invalidate(*args)` and `key(*args)` beside it.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from neverstale.base import BaseCache, tags_of
from neverstale.callkeys import CallKey
from neverstale.errors import UsageError
from neverstale.lifetime import Lifetime
from neverstale.limits import Limits
from neverstale.receipt import Receipt

if TYPE_CHECKING:
    from neverstale.cache import Cache
    from neverstale.cache_async import AsyncCache

__all__ = ["AsyncCached", "BoundAsyncCached", "BoundCached", "Cached", "CallOptions"]

P = ParamSpec("P")
Q = ParamSpec("Q")
T = TypeVar("T")
S = TypeVar("S")


def _mark_awaitable(func: Any) -> None:
    """Let frameworks know that what this returns is to be awaited; before Python 3.12 they look at `__call__`."""
    if sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(func)


def _returned(func: Callable[..., Any]) -> Any:
    """Return what a function's annotation says it returns; `Any` where it says nothing, or nothing to be found."""
    try:
        return typing.get_type_hints(func, include_extras=True).get("return", Any)
    except (NameError, TypeError, AttributeError):
        # Another annotation names what is imported for type checkers only: look at this one alone.
        with contextlib.suppress(NameError, TypeError, AttributeError, KeyError):
            alone = type("Alone", (), {"__annotations__": {"return": func.__annotations__["return"]}})
            space = getattr(inspect.unwrap(func), "__globals__", {})
            return typing.get_type_hints(alone, globalns=space, include_extras=True)["return"]
        return Any


@dataclass(frozen=True, slots=True)
class CallOptions:
    """How the calls of a function are to be cached.

    Attributes:
        life: how long a result lives.
        tags: names, or a function of the same arguments that returns them.
        key: a function of the same arguments that returns the key; None for one of all arguments.
        kind: the type of the result; None for what the annotation says.
        limits: the time limits of a call; None for those of the cache.
    """

    life: Lifetime
    tags: Iterable[str] | Callable[..., Iterable[str]] = ()
    key: Callable[..., str] | None = None
    kind: Any = None
    limits: Limits | None = None


class _Recipe:
    """How the calls of one function are cached: what both faces do alike."""

    def __init__(self, cache: BaseCache, func: Callable[..., Any], options: CallOptions) -> None:
        if inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func):
            raise UsageError(f"{func.__qualname__} is a generator function: what it yields cannot be cached")
        self._cache = cache
        self._func = func
        self._kind = options.kind
        self._call_key = None if options.key is not None else CallKey(func)
        self._key = options.key
        # Checked now rather than at the first call: a wrong option is found when the module is imported.
        self._tags = options.tags if callable(options.tags) else tags_of(options.tags)
        self.life = options.life
        self.limits = options.limits

    @functools.cached_property
    def sealer(self) -> Any:
        """What encodes the values; made at the first call, when all names of annotations are defined."""
        kind = self._kind
        if kind is None:
            kind = _returned(self._func)
        return self._cache._sealer(kind)

    def key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """Return the key of a call."""
        if self._call_key is not None:
            return self._call_key(args, kwargs)
        assert self._key is not None
        return self._key(*args, **kwargs)

    def tags(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, ...]:
        """Return the tags of a call."""
        return tags_of(self._tags(*args, **kwargs)) if callable(self._tags) else self._tags


class Cached(Generic[P, T]):
    """A function whose results are cached by a `Cache`."""

    def __init__(self, cache: Cache, func: Callable[P, T], options: CallOptions) -> None:
        if inspect.iscoroutinefunction(func):
            raise UsageError(f"{func.__qualname__} is a coroutine function: use AsyncCache for it")
        functools.update_wrapper(self, func)
        self._cache = cache
        self._func = func
        self._recipe = _Recipe(cache, func, options)

    def __repr__(self) -> str:
        return f"<cached {self._func!r}>"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what the function returns for these arguments, from the cache where it is there."""
        recipe = self._recipe
        result: T = self._cache._get_or_load(
            recipe.key(args, kwargs),
            functools.partial(self._func, *args, **kwargs),
            recipe.life,
            recipe.tags(args, kwargs),
            recipe.sealer,
            recipe.limits,
        )
        return result

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the key, without prefix, under which the result for these arguments is cached."""
        return self._recipe.key(args, kwargs)

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> Receipt:
        """Invalidate the result for these arguments; as `Cache.invalidate_key`."""
        return self._cache.invalidate_key(self._recipe.key(args, kwargs))

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Cached[P, T]: ...
    @overload
    def __get__(
        self: Cached[Concatenate[S, Q], T], instance: S, owner: type | None = None
    ) -> BoundCached[Q, T]: ...
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else BoundCached(self, instance)


class BoundCached(Generic[P, T]):
    """A cached method of one object."""

    def __init__(self, cached: Cached[..., T], instance: Any) -> None:
        functools.update_wrapper(self, types.MethodType(cached._func, instance))
        self._cached = cached
        self.__self__ = instance

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what the method returns for these arguments, from the cache where it is there."""
        return self._cached(self.__self__, *args, **kwargs)

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the key, without prefix, under which the result for these arguments is cached."""
        return self._cached.key(self.__self__, *args, **kwargs)

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> Receipt:
        """Invalidate the result for these arguments; as `Cache.invalidate_key`."""
        return self._cached.invalidate(self.__self__, *args, **kwargs)


class AsyncCached(Generic[P, T]):
    """A coroutine function whose results are cached by an `AsyncCache`."""

    def __init__(
        self, cache: AsyncCache, func: Callable[P, Coroutine[Any, Any, T]], options: CallOptions
    ) -> None:
        if not inspect.iscoroutinefunction(func):
            name = getattr(func, "__qualname__", repr(func))
            raise UsageError(f"{name} is not a coroutine function: write async def, or use Cache for it")
        functools.update_wrapper(self, func)
        _mark_awaitable(self)
        self._cache = cache
        self._func = func
        self._recipe = _Recipe(cache, func, options)

    def __repr__(self) -> str:
        return f"<cached {self._func!r}>"

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what the function returns for these arguments, from the cache where it is there."""
        recipe = self._recipe
        result: T = await self._cache._get_or_load(
            recipe.key(args, kwargs),
            functools.partial(self._func, *args, **kwargs),
            recipe.life,
            recipe.tags(args, kwargs),
            recipe.sealer,
            recipe.limits,
        )
        return result

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the key, without prefix, under which the result for these arguments is cached."""
        return self._recipe.key(args, kwargs)

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> Receipt:
        """Invalidate the result for these arguments; as `AsyncCache.invalidate_key`."""
        return await self._cache.invalidate_key(self._recipe.key(args, kwargs))

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> AsyncCached[P, T]: ...
    @overload
    def __get__(
        self: AsyncCached[Concatenate[S, Q], T], instance: S, owner: type | None = None
    ) -> BoundAsyncCached[Q, T]: ...
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else BoundAsyncCached(self, instance)


class BoundAsyncCached(Generic[P, T]):
    """A cached coroutine method of one object."""

    def __init__(self, cached: AsyncCached[..., T], instance: Any) -> None:
        functools.update_wrapper(self, types.MethodType(cached._func, instance))
        self._cached = cached
        self.__self__ = instance
        _mark_awaitable(self)

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what the method returns for these arguments, from the cache where it is there."""
        return await self._cached(self.__self__, *args, **kwargs)

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the key, without prefix, under which the result for these arguments is cached."""
        return self._cached.key(self.__self__, *args, **kwargs)

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> Receipt:
        """Invalidate the result for these arguments; as `AsyncCache.invalidate_key`."""
        return await self._cached.invalidate(self.__self__, *args, **kwargs)
