"""What an entry takes of Redis' memory, and the table of docs/production.md: `python -m bench.memory`.

Fills a server that is otherwise empty with entries of one kind and divides what its memory has grown by.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import Any

import redis

from neverstale import Cache
from neverstale.sessions import Sessions
from neverstale.testing.servers import RedisServer, binaries

HEAD = ("an entry", "value, bytes", "memory, bytes", "beside the value")
#: So many that what a server needs for itself, and the steps in which its tables grow, hardly count.
ENTRIES = 20_000
#: Entries are set so many at once.
BATCH = 500

Fill = Callable[[Cache, int], None]


def values(size: int, tags: Callable[[int], Iterable[str]] | None = None) -> Fill:
    """Return what sets entries with a value of so many bytes, under keys such as `product:12345`."""

    def fill(cache: Cache, count: int) -> None:
        products = cache.with_prefix("product:")
        # Random enough not to be compressed: what a value shrinks to is not the question here.
        text = "".join(chr(33 + (n * n + n // 7) % 90) for n in range(size))
        if tags is None:
            for first in range(0, count, BATCH):
                products.set_many({str(10_000 + n): text for n in range(first, first + BATCH)}, ttl=3600)
        else:
            for n in range(count):
                products.set(str(10_000 + n), text, ttl=3600, tags=tags(n))

    return fill


def sessions(cache: Cache, count: int) -> None:
    """Log users in, with 100 bytes of data each and nothing but Redis to keep them."""
    made = Sessions(cache, type=dict[str, Any])
    for n in range(count):
        made.log_in(None, f"user{n}", {"cart": "x" * 89})


KINDS: tuple[tuple[str, int, Fill], ...] = (
    ("without a tag", 100, values(100)),
    ("without a tag", 1_000, values(1_000)),
    ("without a tag", 10_000, values(10_000)),
    ("with a tag that a thousand share", 100, values(100, lambda n: [f"category:{n // 1000}"])),
    ("with three such tags", 100, values(100, lambda n: [f"{kind}:{n // 1000}" for kind in "abc"])),
    ("with a tag of its own", 100, values(100, lambda n: [f"product:{n}"])),
    ("a session without a store", 100, sessions),
)


def measure(server: RedisServer, count: int, fill: Fill) -> float:
    """Return the bytes that an entry takes."""
    server.flush()
    with Cache.from_url(server.url, namespace="shop", compress_above=1_000_000, timeout=10) as cache:
        fill(cache.with_prefix("warm:"), BATCH)  # connections, scripts
        server.flush()
        before = _used(server.client())
        fill(cache, count)
        return (_used(server.client()) - before) / count


def _used(client: redis.Redis) -> int:
    # Of the data alone, without the buffers of clients and without what scripts take.
    stats: Any = client.memory_stats()
    used: int = stats["dataset.bytes"] + sum(
        value["overhead.hashtable.main"] + value["overhead.hashtable.expires"]
        for name, value in stats.items()
        if name.startswith("db.") and isinstance(value, dict)
    )
    return used


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__)
    parser.add_argument("--entries", type=int, default=ENTRIES, help="of each kind (%(default)s)")
    options = parser.parse_args()
    found = binaries()
    with RedisServer.start(found.get("redis") or found["valkey"]) as server:
        info: Any = server.client().info("server")
        print(f"Redis {info['redis_version']}, {options.entries:,} entries of each kind\n")
        for cells in (HEAD, ("---",) * len(HEAD)):
            print(f"| {' | '.join(cells)} |")
        for name, size, fill in KINDS:
            taken = measure(server, options.entries, fill)
            print(f"| {name} | {size:,} | {taken:,.0f} | {taken - size:,.0f} |")


if __name__ == "__main__":
    main()
