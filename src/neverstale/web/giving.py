"""What is sent to a client: a stored answer, their own, or a word that there is none; with what `Cache-Status` says."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from neverstale import AsyncCache
from neverstale.errors import HeldOff
from neverstale.responses.requests import Request
from neverstale.responses.rules import Options
from neverstale.responses.serving import given_headers, not_modified, of_304, said
from neverstale.responses.stored import Flag, Stored

from .run import App, HandlerFailed, Message, Receive, Run, Scope, Send

__all__ = ["Call", "Giver"]

log = logging.getLogger("neverstale.web")


@dataclass(slots=True)
class Call:
    """One GET or HEAD on its way through here."""

    cache: AsyncCache
    scope: Scope
    receive: Receive
    send: Send
    request: Request
    options: Options | None
    tags: tuple[str, ...]
    key: str
    owner: bytes = b""
    run: Run | None = None
    made: Stored | None = None
    kept: bool = False
    again: bool = False
    failed: Exception | None = None


class Giver:
    """Sends answers.

    Args:
        name: stands in `Cache-Status`; empty: none is sent.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    async def stored(self, call: Call, stored: Stored, now: int, *what: str) -> None:
        """Send a stored answer, or that the client has it already."""
        await self._send(call, stored.status, given_headers(stored, now), stored.body, stored, what)

    async def own(self, call: Call, why: str) -> None:
        """Send the answer that this client has caused."""
        run, made = call.run, call.made
        assert run is not None
        what = [why, f"fwd-status={run.status}"]
        if call.kept:
            what.append("stored")
        headers = [(name, value) for name, value in run.headers if name != b"cache-tag"]
        if made is not None and made.flags & Flag.MADE_ETAG:
            headers = [pair for pair in headers if pair[0] != b"etag"] + [(b"etag", made.etag)]
        await self._send(call, run.status, headers, run.body, made, what)

    async def fallback(self, call: Call, stored: Stored | None, why: str, error: Exception, now: int) -> None:
        assert stored is not None
        call.cache._counters.stale_hits += 1
        what = ["hit", why]
        if isinstance(error, HandlerFailed):
            what.append(f"fwd-status={error.status}")
        elif not isinstance(error, HeldOff):
            log.warning("a stale answer is served, for its handler failed: %r", error)
        await self.stored(call, stored, now, *what)

    async def _send(
        self,
        call: Call,
        status: int,
        headers: list[tuple[bytes, bytes]],
        body: bytes,
        stored: Stored | None,
        what: Iterable[str],
    ) -> None:
        request = call.request
        if (
            stored is not None
            and (request.none_match or request.modified_since)
            and not_modified(request, stored)
        ):
            status, headers, body = 304, of_304(headers), b""
        if self._name:
            headers.append(said(self._name, *what))
        await call.send({"type": "http.response.start", "status": status, "headers": headers})
        # Also of HEAD: what compresses outside of here makes its headers of the body. Servers leave it out.
        await call.send({"type": "http.response.body", "body": body})

    async def refusal(self, call: Call, why: str) -> None:
        """Say that nothing is in the cache, to a client who would have nothing else (RFC 9111 section 5.2.1.7)."""
        headers = [(b"content-length", b"0")]
        if self._name:
            headers.append(said(self._name, why, "detail=only-if-cached"))
        await call.send({"type": "http.response.start", "status": 504, "headers": headers})
        await call.send({"type": "http.response.body", "body": b""})

    async def bypass(self, app: App, scope: Scope, receive: Receive, send: Send, why: str) -> None:
        """Have the handler answer this client alone."""

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {
                    **message,
                    "headers": self._outward(message.get("headers", ()), why, message["status"]),
                }
            await send(message)

        await app(scope, receive, sending)

    def changing(self, call: Call, why: str) -> Callable[[Message], Message]:
        """Return what becomes of the messages of a run that are handed on."""

        def change(message: Message) -> Message:
            if message["type"] == "http.response.start":
                message["headers"] = self._outward(message["headers"], why, message["status"])
            return message

        return change

    def _outward(
        self, headers: Iterable[tuple[bytes, bytes]], why: str, status: int
    ) -> list[tuple[bytes, bytes]]:
        sent = [(name, value) for name, value in headers if name.lower() != b"cache-tag"]
        if self._name:
            sent.append(said(self._name, why, f"fwd-status={status}"))
        return sent
