"""The load generator's client: it must not be the bottleneck that it measures.

A bare `asyncio.Protocol` over kept connections. Each connection asks its process for its figures (observed.py) before
the first request and after the last one, so the figures are those of the processes that have served, and of that time.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from .observed import FIGURES, Seen

__all__ = ["HOST", "Answer", "Figures", "ask", "fetch", "is_up"]

HOST = "127.0.0.1"
_HEALTH = f"GET /health HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
_FIGURES = f"GET {FIGURES} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
_PATIENCE = 30.0  # seconds that an answer may take before the round is given up


@dataclass
class Figures:
    """What a number of requests took; latencies in seconds."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    cache: Counter[str] = field(default_factory=Counter)
    broken: int = 0
    statements: int = 0
    served: Counter[str] = field(default_factory=Counter)
    reads: Counter[str] = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        """Requests per second."""
        return len(self.latencies) / self.seconds if self.seconds else 0.0

    def add(self, other: Figures) -> None:
        """Take in another round."""
        self.seconds += other.seconds
        self.latencies += other.latencies
        self.statuses += other.statuses
        self.cache += other.cache
        self.broken += other.broken
        self.statements += other.statements
        self.served += other.served
        self.reads += other.reads

    def observe(self, seen: list[Seen]) -> None:
        """Take in what processes have done between the first and the last time that each was asked."""
        for process in {each.process for each in seen}:
            own = sorted((each for each in seen if each.process == process), key=lambda each: each.statements)
            first, last = own[0], own[-1]
            self.statements += last.statements - first.statements
            for ours, name in ((self.served, "served"), (self.reads, "reads")):
                for prefix in last.reads:
                    counts = [getattr(each, name).get(prefix, 0) for each in own]
                    ours[prefix] += max(counts) - min(counts)

    def summary(self) -> dict[str, Any]:
        """Return requests per second, percentiles in milliseconds, what was not a 200, and what it took inside."""
        ordered = sorted(self.latencies)

        def percentile(share: float) -> float:
            return (
                round(ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000, 2) if ordered else 0.0
            )

        asked = sum(self.cache.values())
        return {
            "requests_per_second": round(self.rate, 1),
            "p50_ms": percentile(0.5),
            "p99_ms": percentile(0.99),
            "requests": len(ordered),
            "failed": self.broken + sum(n for status, n in self.statuses.items() if status != 200),
            "hit_rate": round(self.cache["hit"] / asked, 4) if asked else 0.0,
            "hit_rates": {
                prefix: round(self.served[prefix] / reads, 4)
                for prefix, reads in sorted(self.reads.items())
                if reads
            },
            "statements_per_request": round(self.statements / len(ordered), 3) if ordered else 0.0,
        }


class _Connection(asyncio.Protocol):
    """One kept connection: sends a request, waits for the whole answer, sends the next."""

    def __init__(self, requests: Iterator[bytes], figures: Figures, seen: list[Seen]) -> None:
        self._requests = requests
        self._figures = figures
        self._seen = seen
        self._deadline = 0.0
        self._buffer = b""
        self._missing = -1  # bytes of the body still to come; below zero the head is not complete
        self._sent = 0.0
        self._asking = True  # for the process's own figures
        self._over = False
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.done: asyncio.Future[None] = loop.create_future()
        self.last = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(_FIGURES)

    def start(self, deadline: float) -> None:
        """Begin to ask."""
        self._deadline = deadline
        self._next()

    def _next(self) -> None:
        self._sent = time.perf_counter()
        request = next(self._requests, None) if self._sent < self._deadline else None
        self._asking = request is None
        self._transport.write(_FIGURES if request is None else request)

    def data_received(self, data: bytes) -> None:
        if self._missing < 0 or self._asking:
            self._buffer += data
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self._buffer[:end]
            length = _header(head, b"\r\ncontent-length: ")
            if not length.isdigit():  # nothing of the shop is
                self._transport.abort()
                return
            self._missing = int(length) - (len(self._buffer) - end - 4)
            if self._asking:
                if self._missing == 0:
                    self._take(self._buffer[end + 4 :])
                return
            self._figures.statuses[int(head[9:12])] += 1
            where = _header(head, b"\r\nshop-cache: ")
            if where:
                self._figures.cache[where.decode()] += 1
            self._buffer = b""
        else:
            self._missing -= len(data)
        if self._missing == 0:
            self._missing = -1
            self.last = time.perf_counter()
            self._figures.latencies.append(self.last - self._sent)
            self._next()

    def _take(self, body: bytes) -> None:
        self._seen.append(msgspec.json.decode(body, type=Seen))
        self._buffer, self._missing = b"", -1
        if self.ready.done():
            self._over = True
            self._transport.close()
        else:
            self._asking = False
            self.ready.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._over:
            self._figures.broken += 1
        for each in (self.ready, self.done):
            if not each.done():
                each.set_result(None)


def _header(head: bytes, name: bytes) -> bytes:
    start = head.lower().find(name)
    if start < 0:
        return b""
    start += len(name)
    end = head.find(b"\r\n", start)
    return head[start:] if end < 0 else head[start:end]


async def ask(port: int, requests: Iterator[bytes], connections: int, seconds: float) -> Figures:
    """Ask over some connections until the time is over or the requests are, and return what it took."""
    figures, seen = Figures(), list[Seen]()
    loop = asyncio.get_running_loop()
    clients = []
    for _ in range(connections):
        _, client = await loop.create_connection(lambda: _Connection(requests, figures, seen), HOST, port)
        clients.append(client)
    await asyncio.wait([client.ready for client in clients], timeout=_PATIENCE)
    began = time.perf_counter()
    for client in clients:
        client.start(began + seconds)
    _, hanging = await asyncio.wait([client.done for client in clients], timeout=seconds + _PATIENCE)
    figures.broken += len(hanging)
    figures.seconds = max([client.last for client in clients] + [began]) - began
    figures.observe(seen)
    return figures


@dataclass(frozen=True)
class Answer:
    """One answer, for who looks into it."""

    status: int
    headers: dict[str, str]
    body: bytes


async def fetch(port: int, request: bytes) -> Answer:
    """Ask once, over a connection of its own. Raises `OSError` or `EOFError` for an answer that does not come."""
    async with asyncio.timeout(_PATIENCE):
        reader, writer = await asyncio.open_connection(HOST, port)
        try:
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {
                name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)
            }
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            return Answer(int(head[0].split(" ")[1]), headers, body)
        finally:
            writer.close()


async def is_up(port: int) -> bool:
    """Say whether a shop answers at a port that it can serve."""
    try:
        return (await fetch(port, _HEALTH)).status == 200
    except (OSError, EOFError):
        return False
