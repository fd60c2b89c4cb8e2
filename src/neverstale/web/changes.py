"""What a request that changes something invalidates, before its client is told that it worked.

If Redis cannot be reached just then, the change has been made nevertheless, and an error would make the client
repeat it. So the answer goes out as it is, with a word in `Cache-Status`; the failure is logged as an error, and the
invalidation is repeated in the background until it works. (While Redis is away nobody reads old entries either:
reads go to the handlers.) A process that dies before that leaves what is stored to its TTL.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

from neverstale import AsyncCache, InvalidationError
from neverstale.lifetime import DAY_MS
from neverstale.responses.fields import Headers
from neverstale.responses.keys import NOTHING, Ignored, answer_key, origin_of, request_key
from neverstale.responses.rules import Rule, filled

from .run import Scope

__all__ = ["Naming", "Owed"]

log = logging.getLogger("neverstale.web")

#: Redis comes back after a restart in less than a second, or after minutes: in between, a try each second costs
#: nothing.
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 1.0
#: More than this is owed only after a long outage; then the oldest are given up, and logged.
_MOST: Final = 10_000


class Naming:
    """Says which keys and tags a request is about.

    Args:
        with_host: whether scheme and host are part of keys.
    """

    def __init__(self, with_host: bool) -> None:
        self._with_host = with_host

    def key(self, scope: Scope, ignore: Ignored) -> str:
        origin = ""
        if self._with_host:
            host = next((value for name, value in scope["headers"] if name == b"host"), b"")
            origin = origin_of(scope.get("scheme", "http"), host)
        return request_key(
            scope["path"],
            scope.get("query_string", b""),
            raw_path=scope.get("raw_path"),
            root_path=scope.get("root_path", ""),
            origin=origin,
            ignore=ignore,
        )

    def stale(
        self, scope: Scope, rule: tuple[Rule, dict[str, Any]] | None, headers: Headers
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the tags and keys of what a change has made stale (RFC 9111 section 4.4)."""
        tags: tuple[str, ...] = ()
        keys: list[str] = []
        ignore = NOTHING
        if rule is not None:
            tags = filled(rule[0].invalidate_parts, rule[1], canonical=True) or ()
            ignore = rule[0].ignored
        if rule is None or rule[0].invalidates_target:
            with suppress(UnicodeEncodeError):
                keys.append(self.key(scope, ignore))
        if rule is None:
            keys += self._named(scope, headers)
        return tags, tuple(dict.fromkeys(keys))

    def _named(self, scope: Scope, headers: Headers) -> list[str]:
        """Return the keys of what `Location` and `Content-Location` name on this host."""
        host = next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1")
        raw: bytes = scope.get("raw_path") or scope["path"].encode(errors="replace")
        here = f"{scope.get('scheme', 'http')}://{host}{raw.partition(b'?')[0].decode('latin-1')}"
        keys = []
        for name, value in headers:
            if name.lower() in (b"location", b"content-location"):
                try:
                    there = urljoin(here, value.decode("latin-1"))
                    parts = urlsplit(there)
                    if parts.netloc.lower() != host.lower():
                        continue
                    if not self._with_host:
                        there = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
                    keys.append(answer_key(there))
                except ValueError:
                    continue
        return keys


class Owed:
    """Invalidates, at once or as soon as that works."""

    def __init__(self) -> None:
        self._owed: dict[tuple[str, str], float] = {}
        self._paying: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._owed)

    async def invalidate(self, cache: AsyncCache, tags: tuple[str, ...], keys: tuple[str, ...]) -> bool:
        """Invalidate tags and keys; return whether that has been done. Never raises for Redis' sake."""
        try:
            await _now(cache, tags, keys)
        except InvalidationError as error:
            log.error("changed, but not invalidated yet: %s", error)
        else:
            return True
        until = asyncio.get_running_loop().time() + DAY_MS / 1000  # nothing lives longer
        for item in (*(("tag", tag) for tag in tags), *(("key", key) for key in keys)):
            self._owed[item] = until
        while len(self._owed) > _MOST:
            given_up = next(iter(self._owed))
            del self._owed[given_up]
            log.error("never invalidated: %s %s", *given_up)
        if self._paying is None or self._paying.done():
            self._paying = asyncio.create_task(self._pay(cache))
        return False

    async def close(self) -> None:
        """Stop repeating; what is still owed is logged."""
        if self._paying is not None:
            self._paying.cancel()
            with suppress(asyncio.CancelledError):
                await self._paying
        if self._owed:
            log.error("never invalidated: %s", ", ".join(name for _, name in self._owed))

    async def _pay(self, cache: AsyncCache) -> None:
        clock, pause = asyncio.get_running_loop().time, _FIRST_PAUSE
        while self._owed:
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
            due = {item: until for item, until in self._owed.items() if until > clock()}
            tags = tuple(name for kind, name in due if kind == "tag")
            keys = tuple(name for kind, name in due if kind == "key")
            try:
                await _now(cache, tags, keys)
            except InvalidationError:
                continue
            log.warning("invalidated at last: %s", ", ".join((*tags, *keys)))
            # What was added meanwhile is owed still.
            self._owed = {
                item: until for item, until in self._owed.items() if due.get(item) != until > clock()
            }


async def _now(cache: AsyncCache, tags: tuple[str, ...], keys: tuple[str, ...]) -> None:
    if tags:
        await cache.invalidate_tags(*tags)
    for key in keys:
        await cache.invalidate_key(key)
