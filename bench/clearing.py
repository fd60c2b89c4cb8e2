"""What an invalidation takes, whatever its size."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from bench.measure import Row, Section
from neverstale import Cache
from neverstale.testing.servers import Server

ENTRIES = 1000


def invalidations(server: Server, rounds: int) -> Section:
    """Measure invalidations of a tag with many entries, of one with none, of a key, and of a pattern."""
    client = server.client()
    turns = max(3, rounds // 3)

    with Cache.from_url(server.url, namespace="bench", timeout=5) as cache:

        def fill() -> None:
            cache.set_many({f"many:{n}": "x" * 250 for n in range(ENTRIES)}, ttl=60, tags=["many"])

        def by_hand() -> int:
            members = list(client.smembers("bench:cache:tag:{many}"))
            for key in members:  # one command a key: on a cluster each has a slot of its own
                client.delete(key)
            return len(members)

        def timed(name: str, prepare: Callable[[], object], clear: Callable[[], int], note: str = "") -> Row:
            taken, removed = [], 0
            for _ in range(turns):
                prepare()
                began = time.perf_counter()
                removed = clear()
                taken.append(time.perf_counter() - began)
            return Row(name, statistics.median(taken) * 1e3, note=note or f"{removed} removed")

        rows = (
            timed("SMEMBERS, DEL one by one by hand", fill, by_hand, "forgets members, serves what is stale"),
            timed(f"invalidate_tag, {ENTRIES} entries", fill, lambda: cache.invalidate_tag("many").removed),
            timed("invalidate_tag, no entry", lambda: None, lambda: cache.invalidate_tag("none").removed),
            timed("invalidate_key", fill, lambda: cache.invalidate_key("many:1").removed),
            timed(
                f"invalidate_pattern, {ENTRIES} entries",
                fill,
                lambda: cache.invalidate_pattern("many:*").removed,
            ),
        )
    where = f"a cluster of {len(server.primaries())}" if server.is_cluster else "one node"
    server.flush()
    return Section(f"one thread, invalidations, {where}", "milliseconds", rows)
