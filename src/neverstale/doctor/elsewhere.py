"""Whose keys a Redis has, for a namespace that has none in it: a wrong name looks like a clean bill otherwise."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from .names import namespace_of
from .nodes import Node

__all__ = ["MOST", "namespaces_on"]

#: So many namespaces are named: whoever has mistyped one knows it again among a few.
MOST: Final = 5
#: Keys looked at per node, as SCAN gives them, in the order of a hash: what has one key of a thousand is met for
#: certain, and at the usual rate it takes ten seconds.
_ENOUGH: Final = 100_000
#: Keys of a step, as where the namespace is scanned: a fraction of a millisecond of the server's time.
_STEP: Final = 500


def namespaces_on(node: Node, *, rate: float, sleep: Callable[[float], object]) -> set[str]:
    """Return namespaces whose keys a node has, "" for none, at most `MOST` and one: by the names of keys alone.

    Args:
        node: a primary.
        rate: keys that are looked at per second; 0 for as fast as it goes.
        sleep: waits so many seconds.
    """
    found: set[str] = set()
    scan: Any = node.client.scan  # its types allow for decoded replies
    cursor, looked_at, began = 0, 0, time.monotonic()
    while True:
        cursor, names = scan(cursor, count=_STEP)
        looked_at += _STEP
        found.update(namespace for namespace in map(namespace_of, names) if namespace is not None)
        if not cursor or looked_at >= _ENOUGH or len(found) > MOST:
            return set(sorted(found)[: MOST + 1])
        if rate:
            sleep(max(0.0, looked_at / rate - (time.monotonic() - began)))
