"""From the keys that are asked for most to the jobs that fill them: what only the application knows, said once."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

from neverstale.errors import UsageError
from neverstale.hot import HotKey

from .running import Job

__all__ = ["Recipes"]

F = TypeVar("F", bound=Callable[..., Any])


class Recipes:
    """How to read, through the cache, what a key stands for::

        recipes = Recipes()

        @recipes.on(r"product:(?P<product_id>[0-9]+)")
        async def product(product_id: str) -> None:
            await catalog.product(int(product_id))

        jobs = recipes.jobs(hottest)

    Keys come from Redis, so from whoever may ask for something: a recipe must do no more than a request for the same
    may do, and a pattern should say exactly which keys it means.
    """

    def __init__(self) -> None:
        self._recipes: list[tuple[re.Pattern[str], Callable[..., Any]]] = []

    def on(self, pattern: str) -> Callable[[F], F]:
        """Register a function for all keys that match a regular expression as a whole; the first that matches counts.

        Args:
            pattern: for prefix and key together, like `product:(?P<product_id>[0-9]+)`. Its named groups become
                arguments of the function, as text.

        Raises:
            UsageError: it is no regular expression, or the function does not take its groups.
        """
        try:
            compiled = re.compile(pattern, re.DOTALL)
        except re.error as error:
            raise UsageError(f"{pattern!r} is no regular expression: {error}") from error

        def register(func: F) -> F:
            try:
                inspect.signature(func).bind(**dict.fromkeys(compiled.groupindex, ""))
            except TypeError as error:
                raise UsageError(
                    f"{func!r} cannot be called with the groups of {pattern!r}: {error}"
                ) from error
            self._recipes.append((compiled, func))
            return func

        return register

    def job(self, key: str) -> Job | None:
        """Return the job that fills a key, prefix included; None where there is no recipe for it."""
        for pattern, func in self._recipes:
            if found := pattern.fullmatch(key):
                return Job(key, _bound(func, found.groupdict(default="")))
        return None

    def jobs(self, keys: Iterable[HotKey | str]) -> list[Job]:
        """Return the jobs for keys, in their order, without those that no recipe is for."""
        names = (key if isinstance(key, str) else key.prefix + key.key for key in keys)
        return [job for name in dict.fromkeys(names) if (job := self.job(name)) is not None]


def _bound(func: Callable[..., Any], arguments: dict[str, str]) -> Callable[[], Any]:
    # Of a coroutine function, partial() makes one that inspect still knows as such.
    return partial(func, **arguments)
