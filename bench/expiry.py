"""Do hot keys that were stored together expire together? `python -m bench.expiry`

A simulation in which time passes by itself: nothing waits, nothing sleeps, and Redis is not asked. What it calls is
what ships: the bytes of an entry, the decision of a reader, the spans of a lifetime. Keys are stored at one moment, as
after a deployment or an invalidation of all of them, and read at random from then on.
"""

from __future__ import annotations

import argparse
import heapq
import random
from collections import Counter
from dataclasses import dataclass, replace

from neverstale.base import BaseCache
from neverstale.computed import BETA, JITTER, LEASE_TTL
from neverstale.core import entry
from neverstale.core.policy import State, examine
from neverstale.lifetime import Lifetime

__all__ = ["Figures", "Traffic", "main", "simulate"]


@dataclass(frozen=True)
class Traffic:
    """What happens in the simulation.

    Attributes:
        keys: stored together at the beginning.
        reads: of each key and second, on average.
        ttl: seconds.
        cost: seconds that a load takes.
        seconds: that pass.
    """

    keys: int = 100
    reads: float = 10.0
    ttl: float = 60.0
    cost: float = 0.5
    seconds: float = 300.0


@dataclass(frozen=True)
class Figures:
    """What came of it.

    Attributes:
        peak: loads begun in the busiest second.
        at_once: loads that ran at a time, at most.
        loads: all of them.
        waited: readers that found nothing to serve.
    """

    peak: int
    at_once: int
    loads: int
    waited: int


@dataclass
class _Key:
    raw: bytes
    ends: float  # when Redis drops it
    loading: bool = False


def simulate(traffic: Traffic, life: Lifetime, seed: int = 1) -> Figures:
    """Let time pass.

    Args:
        traffic: what is asked.
        life: of every key; the chance that `jitter` and `beta` leave things to is that of `seed`.
        seed: of all chance.
    """
    random.seed(seed)
    keys = [_stored(0.0, traffic, life) for _ in range(traffic.keys)]
    reads = [(random.expovariate(traffic.reads), number) for number in range(traffic.keys)]
    heapq.heapify(reads)
    landing: list[tuple[float, int]] = []
    begun: Counter[int] = Counter()
    at_once = waited = 0
    while reads[0][0] < traffic.seconds:
        now, number = reads[0]
        heapq.heapreplace(reads, (now + random.expovariate(traffic.reads), number))
        while landing and landing[0][0] <= now:
            ended, done = heapq.heappop(landing)
            keys[done] = _stored(ended, traffic, life)
        key = keys[number]
        raw = key.raw if now < key.ends else None
        state = examine(raw, (), (), round(now * 1000), BaseCache._early(life)).state
        waited += state not in (State.FRESH, State.STALE)
        if state is not State.FRESH and not key.loading:
            key.loading = True
            if raw is not None:  # a value stays while it is renewed
                key.ends = max(key.ends, now + LEASE_TTL)
            heapq.heappush(landing, (now + traffic.cost, number))
            begun[int(now)] += 1
            at_once = max(at_once, len(landing))
    return Figures(max(begun.values()), at_once, begun.total(), waited)


def _stored(now: float, traffic: Traffic, life: Lifetime) -> _Key:
    moments = life.begin(round(now * 1000), random.random())
    raw = entry.build(
        codec=0,
        compression=0,
        fill_id=bytes(entry.FILL_ID_BYTES),
        soft_at=moments.soft_at,
        hard_at=moments.hard_at,
        cost=round(traffic.cost * 1e6),
        stamps=(),
        payload=b"",
    )
    return _Key(raw, now + moments.ttl_ms / 1000)


def contenders(ttl: float) -> dict[str, Lifetime]:
    """Return the lifetimes that are compared, by name."""
    plain = Lifetime(round(ttl * 1000))
    return {
        "a plain TTL": plain,
        f"jitter {JITTER:g}": replace(plain, jitter=JITTER),
        f"beta {BETA:g}": replace(plain, beta=BETA),
        "both (the defaults of neverstale.computed)": replace(plain, beta=BETA, jitter=JITTER),
    }


def main() -> None:
    """Print the figures of each contender."""
    parser = argparse.ArgumentParser(prog="python -m bench.expiry", description=__doc__)
    default = Traffic()
    for name, meaning in (
        ("keys", "hot keys"),
        ("reads", "reads of each a second"),
        ("ttl", "seconds"),
        ("cost", "seconds of a load"),
        ("seconds", "that pass"),
    ):
        value = getattr(default, name)
        parser.add_argument(f"--{name}", type=type(value), default=value, help=f"{meaning} (%(default)g)")
    traffic = Traffic(**vars(parser.parse_args()))
    print(
        f"{traffic.keys} keys stored together, {traffic.reads:g} reads/s each, TTL {traffic.ttl:g} s, "
        f"a load takes {traffic.cost:g} s, {traffic.seconds:g} s pass\n"
    )
    print(f"{'':45} {'peak loads/s':>12} {'at once':>8} {'loads':>6} {'readers who waited':>19}")
    for name, life in contenders(traffic.ttl).items():
        found = simulate(traffic, life)
        print(f"{name:45} {found.peak:>12} {found.at_once:>8} {found.loads:>6} {found.waited:>19}")


if __name__ == "__main__":
    main()
