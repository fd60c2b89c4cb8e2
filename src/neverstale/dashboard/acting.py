"""Look an entry up, count what an invalidation would reach, and invalidate."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any, Final, Literal

import msgspec

from neverstale.cache_async import AsyncCache
from neverstale.core.calls import Count
from neverstale.core.commands import Flow, Scan, Together, Topology
from neverstale.core.keys import Keys
from neverstale.errors import UsageError
from neverstale.lookup import Lookup, look_up

__all__ = ["ASKED_ABOVE", "Order", "count", "invalidate", "looked_up"]

#: An invalidation of more entries than these is asked about first: their loads all go to the database.
ASKED_ABOVE: Final = 1000
_STEP: Final = 1000
_SECRET: Final = "session:"
#: Characters of a value: some pages of text, of what may be megabytes.
_MOST_SHOWN: Final = 20_000


@dataclass(frozen=True)
class Order:
    """What somebody wants invalidated.

    Attributes:
        kind: of `name`.
        name: a key or a pattern with its prefix, or a tag.
        reason: why, for the others to read.
        soft: only mark the entries of a tag stale.
        confirmed: how many entries were agreed to.
    """

    kind: Literal["key", "pattern", "tag"]
    name: str
    reason: str = ""
    soft: bool = False
    confirmed: int = 0


def _keys(cache: AsyncCache) -> Keys:
    return Keys(cache.settings.namespace, cache.settings.version, "")


def looked_up(cache: AsyncCache, key: str) -> Flow[dict[str, Any]]:
    """Look at an entry; of sessions everything but the value, and of a long value its beginning, as text.

    Raises:
        RedisUnavailable: Redis did not answer.
        UsageError: this is no key.
    """
    found: Lookup = yield from look_up(key, _keys(cache), cache.settings)
    if key.startswith(_SECRET) and found.there:
        found = replace(found, value=None, hidden="it belongs to a session")
    value = found.value
    if not isinstance(value, str | None):
        text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
        value = value if len(text) <= _MOST_SHOWN else text
    else:
        text = value or ""
    if len(text) > _MOST_SHOWN:
        value = text[:_MOST_SHOWN]
    return {**found.as_dict(), "value": value, "value_length": len(text)}


def count(cache: AsyncCache, order: Order) -> Flow[int]:
    """Return how many entries an order reaches; of a tag, how many are listed for it."""
    keys = _keys(cache)
    if order.kind == "key":
        return 1
    if order.kind == "tag":
        (listed,) = yield from Together((Count(keys.members(order.name)),))
        return int(listed)
    found, nodes = 0, (yield from Topology()).nodes
    for node, glob in product(nodes, keys.patterns(order.name)):
        cursor = None
        while cursor != 0:
            cursor, names = yield from Scan(node, cursor or 0, glob, _STEP)
            found += len(names)
    return found


async def invalidate(cache: AsyncCache, order: Order) -> dict[str, Any]:
    """Do it.

    Raises:
        InvalidationError: Redis did not answer; what is there may still be served.
        UsageError: this is no key, pattern or tag.
    """
    view = cache.with_prefix("")
    reason = f"dashboard: {order.reason}" if order.reason else "dashboard"
    if order.kind == "key":
        return asdict(await view.invalidate_key(order.name, reason=reason))
    if order.kind == "pattern":
        return asdict(await view.invalidate_pattern(order.name, reason=reason))
    if order.kind == "tag":
        return asdict(await view.invalidate_tag(order.name, reason=reason, soft=order.soft))
    raise UsageError(f"kind is key, pattern or tag, not {order.kind!r}")
