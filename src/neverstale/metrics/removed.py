"""Count what invalidations clear, each entry under its own prefix, whoever invalidates.

A tag has no prefix, and a key or a pattern may be given whole to a view without one; the entries that go have theirs.
A key in Redis does not say where its prefix ends: it is the longest that a view of this process has. An entry under
none of these is of no prefix.

Redis tells how many of the keys of one call held a value. So the keys of each prefix are a call of their own, side by
side in the one exchange there is anyway.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeVar

from neverstale.config import Settings
from neverstale.core.calls import DropSlot
from neverstale.core.commands import Drop, Flow, Together
from neverstale.core.keys import Keys
from neverstale.counters import Counters
from neverstale.drive.calls import in_chunks, one_each
from neverstale.errors import RedisUnavailable

__all__ = ["Removed"]

T = TypeVar("T")


class Removed:
    """Counts what the invalidations of one cache clear.

    Args:
        settings: of the cache.
        counters: of its views, by prefix.
    """

    def __init__(self, settings: Settings, counters: dict[str, Counters]) -> None:
        self._divide = one_each if settings.mode == "cluster" else in_chunks
        self._counters = counters
        space = f"{settings.namespace}:" if settings.namespace else ""
        self._head = re.compile(rf"{re.escape(space)}v[0-9]+:".encode())
        self._known: dict[bytes, str] = {}
        self._lengths: tuple[int, ...] = ()

    def counting(self, flow: Flow[T]) -> Flow[T]:
        """Do a flow, and count under their prefixes the entries that it deletes."""
        reply: Any = None
        trouble: RedisUnavailable | None = None
        try:
            while True:
                try:
                    command = flow.send(reply) if trouble is None else flow.throw(trouble)
                except StopIteration as stop:
                    result: T = stop.value
                    return result
                reply, trouble = None, None
                try:
                    reply = (yield from self._drop(command)) if isinstance(command, Drop) else (yield command)
                except RedisUnavailable as error:
                    trouble = error
        finally:
            flow.close()

    def _drop(self, drop: Drop) -> Flow[int]:
        calls: list[DropSlot] = []
        whose: list[str] = []
        for prefix, keys in self._by_prefix(drop.keys).items():
            divided = self._divide(keys)
            calls += divided
            whose += [prefix] * len(divided)
        replies = yield from Together((*calls, *self._divide(drop.beside)))
        for prefix, removed in zip(whose, replies, strict=False):
            if removed:
                self._counters.setdefault(prefix, Counters()).removed += removed
        return sum(replies[: len(calls)])

    def _by_prefix(self, keys: Sequence[str | bytes]) -> dict[str, list[str | bytes]]:
        if len(self._known) != len(self._counters):
            self._learn()
        found: dict[str, list[str | bytes]] = {}
        for key in keys:
            found.setdefault(self._prefix(key), []).append(key)
        return found

    def _learn(self) -> None:
        # As `Keys` writes them: some characters are others in Redis.
        known = {Keys("", 1, prefix).head[len("v1:") :].encode(): prefix for prefix in list(self._counters)}
        # The table before the lengths that are looked up in it: another thread may be reading.
        self._known = known
        self._lengths = tuple(sorted(set(map(len, known)) - {0}, reverse=True))

    def _prefix(self, key: str | bytes) -> str:
        raw = key.encode() if isinstance(key, str) else key
        head = self._head.match(raw)
        if head is not None:
            begin = head.end()
            for length in self._lengths:
                found = self._known.get(raw[begin : begin + length])
                if found is not None:
                    return found
        return ""
