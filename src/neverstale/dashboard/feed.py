"""The latest invalidations of all processes, for who looks at the page.

What this process does it hears directly, what others do through Redis, while somebody looks and for a while after. An
event that comes by both ways, or is heard by several workers, has one id everywhere.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

from neverstale.cache_async import AsyncCache
from neverstale.drive.announce import Announcer
from neverstale.drive.listen import listening_async
from neverstale.events import Events, InvalidationEvent

__all__ = ["Feed"]

logger = logging.getLogger("neverstale")

#: More than anybody reads; at 10 invalidations a second, those of the last 20 s.
_KEPT: Final = 200
#: Seconds that are listened on after the last look, so that who comes back finds what happened meanwhile.
_LINGER: Final = 900.0
_NAMES: Final = 8
#: Characters of a name, and of a reason, that are kept: every look sends all, and who may publish chooses them.
_LENGTH: Final = 300
_SECRET: Final = "session:"


class Feed:
    """Keeps the latest invalidations.

    Args:
        cache: whose they are.
    """

    def __init__(self, cache: AsyncCache) -> None:
        self._cache = cache
        self._kept: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._task: asyncio.Task[None] | None = None
        self._looked = 0.0
        self._listening = False
        cache.events.subscribe(self.add, InvalidationEvent)

    def add(self, event: InvalidationEvent) -> None:
        """Keep an event, unless it is kept already."""
        ident = hashlib.sha256(event.encode()).hexdigest()[:16]
        if ident in self._kept:
            return
        self._kept[ident] = {"id": ident, "at": time.time(), **_shown(event)}
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)

    def latest(self) -> list[dict[str, Any]]:
        """Return what is kept, the newest first, and go on listening for a while."""
        self._looked = time.monotonic()
        loop = asyncio.get_running_loop()
        if not self._listening and (
            self._task is None or self._task.done() or self._task.get_loop() is not loop
        ):
            self._task = loop.create_task(self._listen())
        return list(reversed(self._kept.values()))

    @asynccontextmanager
    async def listening(self) -> AsyncGenerator[None, None]:
        """Listen to all processes while the block runs."""
        # Events of our own: whoever subscribed to those of the cache has asked for what it hears, not for what we do.
        events = Events()
        events.subscribe(self.add, InvalidationEvent)
        announcer = Announcer(events, self._cache._shared.announcer.channel)
        async with listening_async(self._cache._connections, announcer):
            self._listening = True
            try:
                yield
            finally:
                self._listening = False

    async def close(self) -> None:
        """Listen no longer."""
        task, self._task = self._task, None
        if task is not None and task.get_loop() is asyncio.get_running_loop():
            task.cancel()
            await asyncio.wait([task])

    async def _listen(self) -> None:
        async with self.listening():
            # For a time, not for an event.
            while (left := self._looked + _LINGER - time.monotonic()) > 0:  # noqa: ASYNC110
                await asyncio.sleep(left)


def _shown(event: InvalidationEvent) -> dict[str, Any]:
    names: list[str] = [f"{event.prefix}{name}" for name in event.names[:_NAMES]]
    if event.kind != "tag":
        names = [f"{_SECRET}…" if name.startswith(_SECRET) else name for name in names]
    return {
        "kind": event.kind,
        "names": [_short(name) for name in names],
        "more": max(0, len(event.names) - _NAMES),
        "removed": event.removed,
        "reason": _short(event.reason or ""),
        "origin": _short(event.origin.rpartition("-")[0] or event.origin),
        "soft": event.soft,
        "ms": round(event.duration * 1000, 2),
    }


def _short(text: str) -> str:
    return text if len(text) <= _LENGTH else f"{text[:_LENGTH]}…"
