"""Ask an ASGI application without a server in between, so that a test sees every message and may leave at any time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from neverstale.web.run import App, Message, Receive, Scope, Send

Handler = Callable[["Ask"], Awaitable["Reply"]]


@dataclass
class Reply:
    """What came back."""

    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    chunks: list[bytes] = field(default_factory=list)
    complete: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    def get(self, name: str) -> str | None:
        """Return the lines of a header as one; None if there is none."""
        found = [value for key, value in self.headers if key == name.lower()]
        return ", ".join(found) if found else None

    @property
    def cache(self) -> str:
        """What Cache-Status says of our cache; empty if it was not there."""
        return self.get("cache-status") or ""

    @property
    def hit(self) -> bool:
        return self.cache.startswith("neverstale; hit")


@dataclass
class Ask:
    """What a handler was asked."""

    scope: Scope
    receive: Receive
    send: Send

    @property
    def path(self) -> str:
        path: str = self.scope["path"]
        return path

    @property
    def method(self) -> str:
        method: str = self.scope["method"]
        return method

    def get(self, name: str) -> str | None:
        found = [
            value.decode("latin-1") for key, value in self.scope["headers"] if key == name.lower().encode()
        ]
        return ", ".join(found) if found else None


def answer(
    body: bytes | str = b"", status: int = 200, headers: Iterable[tuple[str, str]] | None = None
) -> Reply:
    """Make what a handler answers."""
    content = body.encode() if isinstance(body, str) else body
    lines = [(name.lower(), value) for name, value in headers or ()]
    return Reply(status, [*lines, ("content-length", str(len(content)))], [content])


class Application:
    """An ASGI application whose handler is a function; it counts and keeps what it was asked.

    Args:
        handler: makes the answer; it may also send by itself and return None.
    """

    def __init__(self, handler: Callable[[Ask], Any]) -> None:
        self._handler = handler
        self.asked: list[Ask] = []
        self.cancelled = 0

    @property
    def calls(self) -> int:
        return len(self.asked)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ask = Ask(scope, receive, send)
        self.asked.append(ask)
        try:
            reply = self._handler(ask)
            if asyncio.iscoroutine(reply):
                reply = await reply
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if reply is None:
            return
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in reply.headers]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        for chunk in reply.chunks[:-1]:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"".join(reply.chunks[-1:])})


async def ask(
    app: App,
    url: str,
    method: str = "GET",
    headers: Iterable[tuple[str, str]] = (),
    *,
    body: bytes = b"",
    gone: asyncio.Event | None = None,
    reply: Reply | None = None,
    host: str = "shop.example",
    **scope: Any,
) -> Reply:
    """Send one request and return the whole answer.

    Args:
        app: the application.
        url: path and query, as they are sent.
        gone: set when the client leaves.
        reply: filled while the answer comes.
        scope: more of the ASGI scope.
    """
    path, _, query = url.partition("?")
    got = reply if reply is not None else Reply()
    lines = [("host", host), *headers]
    if body:
        lines.append(("content-length", str(len(body))))
    given: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in lines],
        **scope,
    }
    asked = False
    left = gone or asyncio.Event()

    async def receive() -> Message:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": body, "more_body": False}
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            assert not got.status, "two answers"
            got.status = message["status"]
            got.headers = [
                (name.decode("latin-1"), value.decode("latin-1")) for name, value in message["headers"]
            ]
        elif message["type"] == "http.response.body":
            assert got.status, "a body without a start"
            assert not got.complete, "more after the end"
            got.chunks.append(message.get("body", b""))
            got.complete = not message.get("more_body", False)

    await app(given, receive, send)
    return got


async def until_stored(app: App, url: str) -> None:
    """Ask until there is a hit: tags that a handler names must be older than its run, by a second."""
    for _ in range(500):
        if (await ask(app, url)).hit:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("never stored")
