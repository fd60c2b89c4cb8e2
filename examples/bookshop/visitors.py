"""Ask a bookshop as its visitors do, and look whether any answer is older than it may be.

A price is *stale* if the answer to a change of it had arrived before the request was sent, no other change of it was
under way since, and the old one is shown all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from .database import BOOKS, GENRES, READERS, price_of

#: Of a hundred requests: what a shop is asked, with one change of a price and one order among them.
MIX = {"book": 48, "shelf": 28, "bestsellers": 4, "me": 18, "price": 1, "order": 1}


@dataclass
class Asked:
    """What came of the requests.

    Attributes:
        seconds: of each request.
        stale: prices that were older than they may be.
        span: seconds that it took altogether.
        statements: that the database was sent.
        processor: seconds that the shop's process was at work.
    """

    seconds: list[float] = field(default_factory=list)
    stale: int = 0
    span: float = 0.0
    statements: int = 0
    processor: float = 0.0

    def add(self, other: Asked) -> None:
        """Add what came of further requests."""
        self.seconds += other.seconds
        self.stale += other.stale
        self.span += other.span
        self.statements += other.statements
        self.processor += other.processor


class Connection:
    """One visitor's connection: HTTP/1.1, kept alive, with the cookies that it was given."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.cookie = b""

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, port: int) -> AsyncGenerator[Connection, None]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield cls(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def ask(self, method: str, target: str) -> bytes:
        """Send a request and return the body of its answer, which is a success."""
        length = "content-length: 0\r\n" if method != "GET" else ""
        head = f"{method} {target} HTTP/1.1\r\nhost: bookshop\r\n{length}".encode()
        self._writer.write(head + b"cookie: %s\r\n\r\n" % self.cookie)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        status, *lines = answer.split(b"\r\n")
        size = 0
        for line in lines:
            name, _, value = line.partition(b": ")
            if name == b"content-length":
                size = int(value)
            elif name == b"set-cookie":
                self.cookie = value.partition(b";")[0]
        body = await self._reader.readexactly(size)
        if b" 200 " not in status:
            raise RuntimeError(f"{method} {target}: {status.decode()} {body[:200]!r}")
        return body


class Visitors:
    """What the visitors of one shop ask, and what they know about its prices."""

    def __init__(self, port: int, seed: int) -> None:
        self._port = port
        self._chance = random.Random(seed)
        self._prices = {book: price_of(book) for book in range(1, BOOKS + 1)}
        # Counted up when a change begins and when it is over: odd while it is under way.
        self._changes = dict.fromkeys(self._prices, 0)

    async def ask(self, seconds: float, connections: int) -> Asked:
        """Ask for so many seconds, on so many connections side by side."""
        asked = Asked()
        statements, processor = await self.cost()
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(connections):
                group.create_task(self._visit(asked, began + seconds))
        asked.span = time.perf_counter() - began
        now = await self.cost()
        asked.statements, asked.processor = now[0] - statements, now[1] - processor
        return asked

    async def cost(self) -> tuple[int, float]:
        """Return how many statements the shop has sent to its database, and its seconds of processor."""
        async with Connection.open(self._port) as connection:
            return msgspec.json.decode(await connection.ask("GET", "/-/cost"), type=tuple[int, float])

    async def _visit(self, asked: Asked, until: float) -> None:
        async with Connection.open(self._port) as connection:
            await connection.ask("POST", f"/login?name=reader{self._chance.randrange(READERS)}")
            for kind in self._kinds():
                began = time.perf_counter()
                if began >= until:
                    return
                asked.stale += await self._request(connection, kind)
                asked.seconds.append(time.perf_counter() - began)

    def _kinds(self) -> Iterator[str]:
        while True:
            yield self._chance.choices(list(MIX), list(MIX.values()))[0]

    def _book(self) -> int:
        # A few books are asked for often, most of them seldom.
        return min(int(self._chance.paretovariate(0.6)), BOOKS)

    async def _request(self, connection: Connection, kind: str) -> int:
        if kind == "me":
            await connection.ask("GET", "/me")
        elif kind == "bestsellers":
            await connection.ask("GET", "/bestsellers")
        elif kind == "order":
            await connection.ask("POST", f"/orders?book_id={self._book()}&copies=1")
        elif kind == "price":
            await self._change(connection, self._book())
        else:
            before = dict(self._changes)
            target = f"/books/{self._book()}" if kind == "book" else f"/genres/{self._chance.choice(GENRES)}"
            found: Any = msgspec.json.decode(await connection.ask("GET", target))
            return sum(self._is_stale(view, before) for view in (found if kind == "shelf" else [found]))
        return 0

    async def _change(self, connection: Connection, book: int) -> None:
        if self._changes[book] % 2:
            return
        self._changes[book] += 1
        price = self._chance.randrange(500, 3_000)
        await connection.ask("PUT", f"/books/{book}/price?price={price}")
        self._prices[book] = price
        self._changes[book] += 1

    def _is_stale(self, view: dict[str, Any], before: dict[int, int]) -> bool:
        book = view["id"]
        settled = before[book] % 2 == 0 and before[book] == self._changes[book]
        return settled and view["price"] != self._prices[book]
