"""What a request that changes something invalidates, before its client is told that it worked.

If Redis cannot be reached just then, the change has been made nevertheless, and an error would make the client
repeat it. So the answer goes out as it is, with a word in `Cache-Status`, and the invalidation is owed: see
`neverstale.owed`. (While Redis is away nobody reads old entries either: reads go to the handlers.) A process that dies
before that leaves what is stored to its TTL.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final, TypeAlias
from urllib.parse import urljoin, urlsplit

from neverstale import AsyncCache
from neverstale.owed import AsyncRetrier, Work
from neverstale.responses.fields import Headers
from neverstale.responses.keys import Ignored, answer_key, origin_of, request_key
from neverstale.responses.rules import Rule, filled
from neverstale.responses.serving import said

from .run import App, Message, Receive, Scope, Send

__all__ = ["Changes", "Naming"]

Matched: TypeAlias = tuple[Rule, dict[str, Any]]

#: So many caches are known, if a function returns several: one for each tenant, perhaps.
_CACHES: Final = 100


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
        self, scope: Scope, rule: Matched | None, ignored: Ignored, headers: Headers, prefix: str
    ) -> Work:
        """Return the tags and keys of what a change has made stale (RFC 9111 section 4.4)."""
        tags: tuple[str, ...] = ()
        keys: list[str] = []
        if rule is not None:
            tags = filled(rule[0].invalidate_parts, rule[1], canonical=True) or ()
        if rule is None or rule[0].invalidates_target:
            with suppress(UnicodeEncodeError):
                keys.append(self.key(scope, ignored))
        if rule is None:
            keys += self._named(scope, headers)
        return Work(tags, tuple(dict.fromkeys(prefix + key for key in keys)))

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


class Changes:
    """Hands on requests that change something, and invalidates what they make stale.

    Args:
        app: the application.
        naming: says what that is.
        name: stands in `Cache-Status`; empty: none is sent.
    """

    def __init__(self, app: App, naming: Naming, name: str) -> None:
        self._app = app
        self._naming = naming
        self._name = name
        self._retriers: dict[int, tuple[AsyncCache, AsyncRetrier]] = {}

    @property
    def owed(self) -> bool:
        """Whether something could not be invalidated yet."""
        return any(retrier.owed for _, retrier in self._retriers.values())

    async def hand_on(
        self,
        cache: AsyncCache,
        scope: Scope,
        receive: Receive,
        send: Send,
        rule: Matched | None,
        ignored: Ignored,
    ) -> None:
        """Let the handler change something.

        What is stale then is invalidated before the client hears of it, and once more when the handler has ended:
        some commit after their answer (dependencies of FastAPI with `yield`). Of a handler that fails nobody knows
        whether it has made its change: a rule's tags are invalidated then as well, for they are to be trusted.
        """
        retrier = self._retrier(cache)
        stale: Work | None = None
        refused = owed = False

        async def sending(message: Message) -> None:
            nonlocal stale, refused, owed
            if message["type"] == "http.response.start":
                status, headers = message["status"], list(message.get("headers", ()))
                refused = 400 <= status < (600 if rule is None else 500)
                if not refused:
                    stale = self._naming.stale(scope, rule, ignored, headers, cache.prefix)
                    owed = bool(stale) and await retrier.invalidate(stale) is not None
                    if owed and self._name:
                        headers.append(said(self._name, "fwd=method", "detail=not-invalidated-yet"))
                        message = {**message, "headers": headers}
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except asyncio.CancelledError:
            if not refused:
                retrier.later(stale or self._naming.stale(scope, rule, ignored, (), cache.prefix))
            raise
        except Exception:
            if stale is None and not refused and rule is not None:
                stale = self._naming.stale(scope, rule, ignored, (), cache.prefix)
            raise
        finally:
            if owed and stale:
                retrier.later(stale)  # what was paid meanwhile, too
            elif stale:
                await retrier.invalidate(stale)

    async def close(self) -> None:
        """Stop repeating, after a last attempt; what is still owed then is logged."""
        for _, retrier in list(self._retriers.values()):
            await retrier.close()

    def _retrier(self, cache: AsyncCache) -> AsyncRetrier:
        known = self._retriers.get(id(cache))
        if known is None:
            if len(self._retriers) >= _CACHES:
                self._retriers = {name: each for name, each in self._retriers.items() if each[1].owed}
            known = self._retriers[id(cache)] = (cache, AsyncRetrier(cache))
        return known[1]
