"""Traffic for the load generator: what people ask for, and a client that asks it fast.

The client is a bare `asyncio.Protocol` over kept connections: it must not be the bottleneck that it measures.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from urllib.parse import quote

__all__ = ["HOST", "KINDS", "Figures", "Visitors", "ask", "is_up"]

HOST = "127.0.0.1"
KINDS = ("product", "product list", "product page", "list page", "mix")
# Product pages first, then lists; people see pages, applications and phones ask for JSON.
MIX = {"product page": 40, "list page": 20, "product": 25, "product list": 15}
_WORDS = (
    "oak",
    "linen",
    "steel",
    "lamp",
    "wool",
    "small",
    "chair",
    "black",
    "cotton",
    "set",
    "glass",
    "garden",
)
_SORTS = ("", "", "", "price", "-price", "name", "rating")
_HEALTH = f"GET /health HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()


@dataclass
class Figures:
    """What a number of requests took; latencies in seconds."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    cache: Counter[str] = field(default_factory=Counter)
    broken: int = 0

    def add(self, other: Figures) -> None:
        """Take in another round."""
        self.seconds += other.seconds
        self.latencies += other.latencies
        self.statuses += other.statuses
        self.cache += other.cache
        self.broken += other.broken

    def summary(self) -> dict[str, float | int]:
        """Return requests per second, percentiles in milliseconds, and what was not a 200."""
        ordered = sorted(self.latencies)

        def percentile(share: float) -> float:
            return (
                round(ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000, 2) if ordered else 0.0
            )

        asked = sum(self.cache.values())
        return {
            "requests_per_second": round(len(ordered) / self.seconds, 1) if self.seconds else 0.0,
            "p50_ms": percentile(0.5),
            "p99_ms": percentile(0.99),
            "requests": len(ordered),
            "failed": self.broken + sum(n for status, n in self.statuses.items() if status != 200),
            "hit_rate": round(self.cache["hit"] / asked, 4) if asked else 0.0,
        }


# -- the client -------------------------------------------------------------------------------------------------------


class _Connection(asyncio.Protocol):
    """One kept connection: sends a request, waits for the whole answer, sends the next."""

    def __init__(self, requests: Iterator[bytes], figures: Figures, deadline: float) -> None:
        self._requests = requests
        self._figures = figures
        self._deadline = deadline
        self._buffer = b""
        self._missing = -1  # bytes of the body still to come; below zero the head is not complete
        self._sent = 0.0
        self._over = False
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._next()

    def _next(self) -> None:
        self._sent = time.perf_counter()
        request = next(self._requests, None) if self._sent < self._deadline else None
        if request is None:
            self._over = True
            self._transport.close()
        else:
            self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self._missing < 0:
            self._buffer += data
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self._buffer[:end]
            self._figures.statuses[int(head[9:12])] += 1
            where = _header(head, b"\r\nshop-cache: ")
            if where:
                self._figures.cache[where.decode()] += 1
            self._missing = int(_header(head, b"\r\ncontent-length: ") or 0) - (len(self._buffer) - end - 4)
            self._buffer = b""
        else:
            self._missing -= len(data)
        if self._missing == 0:
            self._missing = -1
            self._figures.latencies.append(time.perf_counter() - self._sent)
            self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._over:
            self._figures.broken += 1
        if not self.done.done():
            self.done.set_result(None)


def _header(head: bytes, name: bytes) -> bytes:
    start = head.find(name)
    if start < 0:
        return b""
    start += len(name)
    end = head.find(b"\r\n", start)
    return head[start:] if end < 0 else head[start:end]


async def ask(port: int, requests: Iterator[bytes], connections: int, seconds: float) -> Figures:
    """Ask over some connections until the time is over or the requests are, and return what it took."""
    figures = Figures()
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    clients = []
    for _ in range(connections):
        _, client = await loop.create_connection(
            lambda: _Connection(requests, figures, began + seconds), HOST, port
        )
        clients.append(client)
    await asyncio.wait([client.done for client in clients], timeout=seconds + 30)
    figures.seconds = time.perf_counter() - began
    return figures


# -- what is asked ----------------------------------------------------------------------------------------------------


class Visitors:
    """Draws requests as people make them: a few products and lists often, most of them seldom."""

    def __init__(self, product_ids: Sequence[int], slugs: Sequence[str], seed: int = 7) -> None:
        self._rng = random.Random(seed)
        self._products = list(product_ids)
        self._slugs = list(slugs)
        self._rng.shuffle(self._products)
        self._rng.shuffle(self._slugs)
        self._product_weights = list(accumulate(1 / rank for rank in range(1, len(self._products) + 1)))
        self._slug_weights = list(accumulate(1 / rank for rank in range(1, len(self._slugs) + 1)))

    def requests(self, kind: str, count: int) -> list[bytes]:
        """Draw requests of a kind."""
        return [self._request(kind) for _ in range(count)]

    def _request(self, kind: str) -> bytes:
        if kind == "mix":
            kind = self._rng.choices(list(MIX), list(MIX.values()))[0]
        match kind:
            case "product":
                path, accept = f"/api/products/{self._product()}", "application/json"
            case "product page":
                path, accept = f"/products/{self._product()}", "text/html"
            case "product list":
                path, accept = f"/api/products?{self._list()}", "application/json"
            case _:
                path, accept = f"/?{self._list()}", "text/html"
        return f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nAccept: {accept}\r\n\r\n".encode()

    def _product(self) -> int:
        return self._rng.choices(self._products, cum_weights=self._product_weights)[0]

    def _list(self) -> str:
        """Most come by a category, some stay on the front page, some search."""
        rng = self._rng
        parts = []
        chance = rng.random()
        if chance < 0.65:
            parts.append(f"category={rng.choices(self._slugs, cum_weights=self._slug_weights)[0]}")
        elif chance < 0.80:
            parts.append(f"q={quote(rng.choice(_WORDS))}")
        sort = rng.choice(_SORTS)
        if sort:
            parts.append(f"sort={sort}")
        page = min(int(rng.paretovariate(1.2)), 10)
        if page > 1:
            parts.append(f"page={page}")
        return "&".join(parts)


async def is_up(port: int) -> bool:
    """Say whether a shop answers at a port that it can serve."""
    try:
        reader, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return False
    writer.write(_HEALTH)
    try:
        return b" 200 " in await reader.readline()
    except OSError:
        return False
    finally:
        writer.close()
