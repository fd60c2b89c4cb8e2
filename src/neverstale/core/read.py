"""Read entries together with the stamps that say whether they are valid."""

from __future__ import annotations

from .commands import Fetch, Flow, Wall
from .keys import Keys
from .plan import Plan
from .policy import Memory, Seen, State, examine

__all__ = ["read", "read_many", "resolve"]


def read(plan: Plan, memory: Memory) -> Flow[Seen]:
    """Read an entry and the stamps of its tags; asks a second time for tags it did not know of.

    Raises:
        RedisUnavailable: Redis did not answer.
    """
    tags = memory.recall(plan.entry, plan.tags)
    now = yield from Wall()
    replies = yield from Fetch((plan.entry, *map(plan.keys.stamp, tags)))
    seen = examine(replies[0], tags, replies[1:], now)
    if seen.state is State.UNSURE:
        seen = yield from resolve(seen, plan.keys, now)
    if seen.entry is not None and not seen.entry.is_lease:
        memory.remember(plan.entry, tuple(tag for tag, _ in seen.entry.stamps))
    return seen


def read_many(entries_: tuple[str, ...], keys: Keys, memory: Memory) -> Flow[list[Seen]]:
    """Read several entries and the stamps of all their tags, as `read` does one.

    Raises:
        RedisUnavailable: Redis did not answer.
    """
    tags = tuple(dict.fromkeys(tag for entry in entries_ for tag in memory.recall(entry, ())))
    now = yield from Wall()
    replies = yield from Fetch((*entries_, *map(keys.stamp, tags)))
    stamps = replies[len(entries_) :]
    found = [examine(raw, tags, stamps, now) for raw in replies[: len(entries_)]]
    unsure = [seen.entry for seen in found if seen.state is State.UNSURE and seen.entry is not None]
    if unsure:
        tags = tuple(dict.fromkeys(tag for entry in unsure for tag, _ in entry.stamps))
        stamps = yield from Fetch(tuple(map(keys.stamp, tags)))
        found = [
            examine(seen.entry.raw, tags, stamps, now)
            if seen.state is State.UNSURE and seen.entry is not None
            else seen
            for seen in found
        ]
    for name, seen in zip(entries_, found, strict=True):
        if seen.entry is not None and not seen.entry.is_lease:
            memory.remember(name, tuple(tag for tag, _ in seen.entry.stamps))
    return found


def resolve(seen: Seen, keys: Keys, now_ms: int) -> Flow[Seen]:
    """Bring along the stamps that a read did not know it would need, and judge anew."""
    assert seen.entry is not None
    own = tuple(tag for tag, _ in seen.entry.stamps)
    stamps = yield from Fetch(tuple(map(keys.stamp, own)))
    judged = examine(seen.entry.raw, own, stamps, now_ms)
    # Of two readings of one stamp the earlier stays: a load may start from either, both are before it.
    return judged._replace(stamps={**judged.stamps, **seen.stamps})
