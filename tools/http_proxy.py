"""A plain reverse proxy as an ASGI application: what a cache is wrapped around to test it.

Rules:

- Everything passes as it is: the target with its escapes, every header line with its duplicates and their order,
  bodies as they arrive, 304s, `Content-Encoding`. Nothing is added: no `Via`, no `Date`, no `X-Forwarded-For`.
- Only what belongs to one connection is taken away, on both sides (RFC 9110 section 7.6.1). Bodies without a
  length are chunked anew.
- An origin that cannot be reached or fails before its answer has begun is a 502. One that fails in mid-answer
  cuts the connection to the client too: a shortened body must not pass for a whole one.
- A client that leaves ends the request to the origin.

Informational answers (1xx) end here: ASGI has no message for them. It has no time limits and trusts its client,
so it is not for the open network.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from pathlib import Path
from typing import Any, Self

import httpx

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
HeaderLines = list[tuple[bytes, bytes]]

#: Of one connection, whether or not `Connection` names them (RFC 9110 section 7.6.1).
HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade"}
)
#: Without one of them a request has no body (RFC 9112 section 6.3).
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})


class ReverseProxy:
    """Pass every request to one origin. Use it as an async context manager."""

    def __init__(self, origin: str, socket: Path | None = None) -> None:
        """Make a proxy; does no I/O.

        Args:
            origin: scheme, host and port.
            socket: the unix socket on which the origin listens, instead of its host and port.
        """
        self._origin = httpx.URL(origin)
        # A connection for each request: none is reused that the origin is about to close.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._transport = httpx.AsyncHTTPTransport(limits=limits, uds=str(socket) if socket else None)

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(self, *exc: Any) -> None:
        await self._transport.__aexit__(*exc)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises:
            httpx.TransportError: the origin failed in mid-answer.
        """
        if scope["type"] != "http":
            raise ValueError(f"a proxy of http, not of {scope['type']}")
        uploaded = asyncio.Event()
        if not _FRAMING.isdisjoint(name.lower() for name, _ in scope["headers"]):
            body: httpx.AsyncByteStream = _Upload(_body(receive, uploaded))
        else:  # not asked for: a cache that asks twice, with a condition and without, may have none for the second
            body = httpx.ByteStream(b"")
            uploaded.set()
        relay = asyncio.create_task(self._relay(scope, body, send))
        left = asyncio.create_task(_left(receive, uploaded))
        try:
            await asyncio.wait({relay, left}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            relay.cancel()
            left.cancel()
            ends = await asyncio.gather(relay, left, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception) and not isinstance(end, ClientLeft):
                raise end

    async def _relay(self, scope: Scope, body: httpx.AsyncByteStream, send: Send) -> None:
        try:
            answer = await self._transport.handle_async_request(self._request(scope, body))
        except httpx.TransportError as error:
            text = f"the origin failed: {type(error).__name__}\n".encode()
            headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(text))]
            await send({"type": "http.response.start", "status": 502, "headers": headers})
            await send({"type": "http.response.body", "body": text})
            return
        try:
            lines = [(name.lower(), value) for name, value in end_to_end(answer.headers.raw)]
            await send({"type": "http.response.start", "status": answer.status_code, "headers": lines})
            async for chunk in answer.aiter_raw():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            await answer.aclose()

    def _request(self, scope: Scope, body: httpx.AsyncByteStream) -> httpx.Request:
        target = scope["raw_path"]
        if scope["query_string"]:
            target += b"?" + scope["query_string"]
        headers = end_to_end(scope["headers"])
        names = {name.lower() for name, _ in scope["headers"]}
        if b"transfer-encoding" in names:
            headers.append((b"transfer-encoding", b"chunked"))
        return httpx.Request(
            scope["method"],
            self._origin,
            headers=headers,
            stream=body,  # given as a stream, httpx adds no header of its own
            extensions={"target": target},
        )


class ClientLeft(Exception):
    """The client closed its connection before its request was whole."""


class _Upload(httpx.AsyncByteStream):
    def __init__(self, body: AsyncIterator[bytes]) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._body:
            yield chunk


def end_to_end(lines: Iterable[tuple[bytes, bytes]]) -> HeaderLines:
    """Return the header lines that are not of one connection, in their order."""
    lines = list(lines)
    named = {
        token.strip().lower()
        for name, value in lines
        if name.lower() == b"connection"
        for token in value.split(b",")
    }
    return [
        (name, value) for name, value in lines if name.lower() not in HOP_BY_HOP and name.lower() not in named
    ]


async def _body(receive: Receive, uploaded: asyncio.Event) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        if message.get("body"):
            yield message["body"]
        more = message.get("more_body", False)
    uploaded.set()


async def _left(receive: Receive, uploaded: asyncio.Event) -> None:
    """Wait until the client has left. Until the body is there, `_body` is the one who listens."""
    await uploaded.wait()
    while (await receive())["type"] != "http.disconnect":
        pass
