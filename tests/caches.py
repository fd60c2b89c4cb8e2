"""Caches of an application, for what looks at them from outside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from neverstale import Cache

MakeCache = Callable[..., Cache]


@pytest.fixture
def make_cache() -> Iterator[MakeCache]:
    """Return a function that opens a cache on a URL; a busy machine is no reason for a miss in it."""
    with ExitStack() as stack:

        def make(url: str, **options: Any) -> Cache:
            settings = {"namespace": "shop", "timeout": 10.0, "patient_timeout": 10.0, **options}
            return stack.enter_context(Cache.from_url(url, **settings))

        yield make
