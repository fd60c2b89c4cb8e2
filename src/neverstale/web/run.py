"""One run of a handler whose answer others may share, and how it is handed to the client who caused it.

Rules:
- The handler is given the request, but nobody's connection: an empty body, and no news of a client who leaves. Who it
  runs for may go; who waits for its answer must not be harmed by that.
- Its answer is collected. As soon as it turns out that it will not be stored (its headers say so, or it grows too
  long), the run belongs to the one client who caused it: what was collected is handed on, then every piece as it comes,
  as fast as the client takes it, and the client's leaving is told to the handler.
- An answer in pieces without a length is a stream: its client is given each piece at once, while they are collected.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, TypeAlias

log = logging.getLogger("neverstale.web")

__all__ = ["App", "Client", "HandlerFailed", "Message", "Receive", "Run", "Scope", "Send", "Verdict"]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


class HandlerFailed(Exception):
    """The handler answered that it failed, and something older may be given instead.

    Attributes:
        status: what it answered.
    """

    def __init__(self, status: int) -> None:
        super().__init__(f"the handler answered {status}")
        self.status = status


class Verdict(enum.Enum):
    """What the start of an answer says."""

    COLLECT = "collect"
    PASS = "pass"
    FAILED = "failed"


class _State(enum.Enum):
    COLLECTING = "collecting"
    STREAMING = "streaming"  # collected, and handed on at once
    PASSING = "passing"
    OVER = "over"


class Run:
    """One run of a handler.

    Args:
        app, scope: what runs, with which request.
        judge: what to do, by status and headers.
        most: bytes of a body that may be stored.
        client: who caused it, if anybody did.
        tasks: where running handlers are kept: an event loop keeps them only weakly.
    """

    def __init__(
        self,
        app: App,
        scope: Scope,
        judge: Callable[[int, list[tuple[bytes, bytes]]], Verdict],
        most: int,
        client: Client | None,
        tasks: set[asyncio.Task[None]],
    ) -> None:
        self._app = app
        self._scope = scope
        self._judge = judge
        self._most = most
        self._client = client
        self._tasks = tasks
        self._state = _State.COLLECTING
        self._decided: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._asked = False
        self._abandoned = False
        self._passing = asyncio.Event()
        self._chunks: list[bytes] = []
        self._size = 0
        self._has_length = False
        self._task: asyncio.Task[None] | None = None
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []

    @property
    def body(self) -> bytes:
        """What was collected."""
        return self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)

    async def collect(self) -> bool:
        """Run the handler; return whether its answer was collected as a whole, False if it is passed on.

        Raises:
            HandlerFailed: it says that it failed, and that is not for the client.
            Exception: what the handler raises.
        """
        self._task = asyncio.get_running_loop().create_task(self._handle())
        self._tasks.add(self._task)
        self._task.add_done_callback(self._tasks.discard)
        if self._client is not None:
            self._client.runs(self)
        return await self._decided

    def leave(self) -> None:
        """Say that the client has gone: a run that is only theirs ends."""
        self._client = None
        if self._state is _State.PASSING and self._task is not None:
            self._task.cancel()

    async def _handle(self) -> None:
        error: BaseException | None = None
        try:
            await self._app(self._scope, self._receive, self._send)
            if not self._decided.done():
                raise RuntimeError("the handler returned without a whole answer")
        except asyncio.CancelledError as cancelled:
            error = cancelled
            if not self._decided.done():
                self._decided.cancel()
        except BaseException as raised:
            error = raised
            if not self._decided.done():
                self._decided.set_exception(raised)
            elif not self._abandoned and (self._client is None or self._state is _State.OVER):
                # After its answer (a background task) or with nobody there: a server would log it, so this does.
                log.error("a handler failed after its answer", exc_info=raised)
        if self._client is not None and self._state in (_State.PASSING, _State.STREAMING):
            self._client.ended(error)
        self._state = _State.OVER

    async def _receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._passing.wait()
        while self._client is not None:
            message = await self._client.receive()
            if message["type"] != "http.request":
                return message
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if self._state is _State.OVER:
            return
        if self._state is _State.PASSING:
            await self._forward(message)
            return
        kind = message["type"]
        if kind == "http.response.start":
            await self._start(message)
        elif kind == "http.response.body" and self.status:
            await self._body(message)
        elif kind.startswith("http.response."):
            # An extension that was not offered to it: whatever it is, it is for its client alone.
            await self._pass(message)

    async def _start(self, message: Message) -> None:
        self.status = message["status"]
        self.headers = [(bytes(name).lower(), bytes(value)) for name, value in message.get("headers", ())]
        verdict = self._judge(self.status, self.headers)
        if verdict is Verdict.FAILED:
            self._state = _State.OVER
            self._decided.set_exception(HandlerFailed(self.status))
            return
        length = next((value for name, value in self.headers if name == b"content-length"), None)
        self._has_length = length is not None
        if verdict is Verdict.PASS or (length is not None and length.isdigit() and int(length) > self._most):
            await self._pass(None)

    async def _body(self, message: Message) -> None:
        chunk, more = bytes(message.get("body", b"")), message.get("more_body", False)
        self._chunks.append(chunk)
        self._size += len(chunk)
        if self._size > self._most:
            if self._state is _State.STREAMING:
                self._chunks = [chunk]
            await self._pass(None, more=more)
            return
        if more and not self._has_length and self._state is _State.COLLECTING and self._client is not None:
            self._state = _State.STREAMING
            self._client.begin(self._start_message())
            self._client.put({"type": "http.response.body", "body": self.body, "more_body": True})
        elif self._state is _State.STREAMING and self._client is not None:
            self._client.put({"type": "http.response.body", "body": chunk, "more_body": more})
        if not more:
            self._decided.set_result(True)
            if self._state is _State.COLLECTING:
                self._state = _State.OVER

    def _start_message(self) -> Message:
        return {"type": "http.response.start", "status": self.status, "headers": self.headers}

    async def _pass(self, message: Message | None, *, more: bool = True) -> None:
        """Go over to passing on; `message` comes after what was collected."""
        begun = self._state is _State.STREAMING
        self._state = _State.PASSING
        if not self._decided.done():
            self._decided.set_result(False)
        self._passing.set()
        if self._client is None:
            raise self._left()
        if self.status and not begun:
            self._client.begin(self._start_message())
        if self._chunks:
            self._client.put({"type": "http.response.body", "body": self.body, "more_body": more})
            self._chunks = []
        if message is not None:
            self._client.put(message)
        await self._client.taken()

    def _left(self) -> OSError:
        """End a run that nobody would have anything of; what `send` raises then is said by ASGI."""
        assert self._task is not None
        self._abandoned = True
        self._task.cancel()
        return OSError("the client has left")

    async def _forward(self, message: Message) -> None:
        client = self._client
        if client is None:
            raise self._left()
        if message["type"] == "http.response.start":
            self.status = message["status"]
            client.begin({**message, "headers": list(message.get("headers", ()))})
        else:
            client.put(message)
        await client.taken()


class Client:
    """The client who caused a run, as long as it stays.

    Args:
        receive: of its connection.
    """

    def __init__(self, receive: Receive) -> None:
        self.receive = receive
        #: The first thing that it can be told before the whole answer is there.
        self.live: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.run: Run | None = None
        self._queue: asyncio.Queue[Message | BaseException | None] = asyncio.Queue()

    def runs(self, run: Run) -> None:
        """Learn which run is for this client."""
        self.run = run

    def begin(self, message: Message) -> None:
        """Be told the start of an answer that goes on."""
        self.put(message)

    def put(self, message: Message) -> None:
        """Be told something, whenever the client takes it."""
        self._queue.put_nowait(message)
        if not self.live.done():
            self.live.set_result(None)

    def ended(self, error: BaseException | None) -> None:
        """Be told that nothing more will come."""
        self._queue.put_nowait(error)
        if not self.live.done():
            self.live.set_result(None)

    async def taken(self) -> None:
        """Wait until the client has taken all that it was told."""
        await self._queue.join()

    async def pump(self, send: Send, change: Callable[[Message], Message]) -> None:
        """Send on what this client is told, until the run ends.

        Args:
            send: of its connection.
            change: what becomes of each message.

        Raises:
            BaseException: what the handler raised.
        """
        while True:
            message = await self._queue.get()
            if not isinstance(message, Mapping):
                if message is None or isinstance(message, asyncio.CancelledError):
                    return
                raise message
            await send(change(dict(message)))
            self._queue.task_done()

    def leave(self) -> None:
        """Go, whatever still comes."""
        if self.run is not None:
            self.run.leave()
