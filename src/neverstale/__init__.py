"""Neverstale: a Redis caching layer whose invalidation can be trusted.

Once an invalidation has returned, no read that starts afterwards, in any process, returns what was there before.
"""

from __future__ import annotations

from neverstale.cache import Cache
from neverstale.cache_async import AsyncCache
from neverstale.config import Settings
from neverstale.core.keys import escape_glob
from neverstale.counters import CounterSnapshot
from neverstale.errors import (
    EncodingError,
    InvalidationError,
    KeyingError,
    LoadTimeout,
    MissingDependency,
    NeverstaleError,
    RedisUnavailable,
    SettingsError,
    UsageError,
)
from neverstale.events import ConnectionEvent, Events, InvalidationEvent
from neverstale.health import Health
from neverstale.loading import add_tags
from neverstale.receipt import Receipt

__all__ = [
    "AsyncCache",
    "Cache",
    "ConnectionEvent",
    "CounterSnapshot",
    "EncodingError",
    "Events",
    "Health",
    "InvalidationError",
    "InvalidationEvent",
    "KeyingError",
    "LoadTimeout",
    "MissingDependency",
    "NeverstaleError",
    "Receipt",
    "RedisUnavailable",
    "Settings",
    "SettingsError",
    "UsageError",
    "add_tags",
    "escape_glob",
]


def _make_public(names: list[str]) -> None:
    """Let tracebacks, documentation and pickles name the public place, wherever a thing is defined."""
    for name in names:
        globals()[name].__module__ = __name__


_make_public(__all__)
