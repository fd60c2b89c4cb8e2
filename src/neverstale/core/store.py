"""Write entries: what `set` does, and what every fill has in common with it."""

from __future__ import annotations

from typing import Any, Final

from neverstale.lifetime import Moments

from . import entry as entries
from .calls import Acquire, Enlist, Fill, Stamp
from .commands import Call, Drop, Flow, Random, Together
from .keys import Keys
from .plan import Sealed
from .policy import Memory, tag_ttl

__all__ = ["STAMP_ID_BYTES", "build", "enlist", "store"]

STAMP_ID_BYTES: Final = 10
#: Between claiming and filling is one round trip, and on a machine that is short of time perhaps seconds. Of a process
#: that is killed in between, readers wait no longer for the claim than they wait for any lease by default.
_CLAIM_MS: Final = 5000
#: More for each entry that is set: thousands take a busy machine 0.3 ms each to claim, build and send.
_CLAIM_MS_EACH: Final = 1


def store(
    writes: list[tuple[str, Sealed, tuple[str, ...]]],
    keys: Keys,
    ttl_ms: int,
    memory: Memory,
    instead: tuple[str, ...] = (),
) -> Flow[int]:
    """Set entries, whatever is there: `(entry, sealed value, tags)` each; delete those of `instead`.

    The stamps are those of now: an invalidation that returned before this call does not touch what it sets. A load in
    flight does not replace what was set.

    Setting is claiming first, then filling while the claim stands. A bare SET that was given up, because Redis did not
    answer in time, may still arrive: then perhaps after an invalidation.

    Returns:
        How many were not set, because something invalidated or set them meanwhile.

    Raises:
        RedisUnavailable: some of them may not be set.
    """
    tags = tuple(dict.fromkeys(tag for _, _, own in writes for tag in own))
    tokens = []
    for _ in writes:
        tokens.append((yield from Random(entries.TOKEN_BYTES)))
    fresh = (yield from Random(STAMP_ID_BYTES)).hex()
    calls: list[Call[Any]] = [Stamp(keys.stamp(tag), fresh, tag_ttl(ttl_ms)) for tag in tags]
    calls += [enlist(keys, entry, tag, ttl_ms) for entry, _, own in writes for tag in own]
    claim_ms = _CLAIM_MS + _CLAIM_MS_EACH * len(writes)
    calls += [
        Acquire(entry, "claim", b"", entries.placeholder(token), claim_ms)
        for (entry, _, _), token in zip(writes, tokens, strict=True)
    ]
    dropped, moments = 0, Moments(0, 0, ttl_ms)
    if calls:
        replies = yield from Together(tuple(calls))
        stamps = {tag: stamp for tag, (stamp, _) in zip(tags, replies, strict=False)}
        fills = []
        for (entry, sealed, own), token in zip(writes, tokens, strict=True):
            fill_id = yield from Random(entries.FILL_ID_BYTES)
            pairs = tuple((tag, stamps[tag]) for tag in own)
            raw = build(sealed, fill_id, moments, cost=0, stamps=pairs)
            fills.append(Fill(entry, token, raw, ttl_ms))
            memory.remember(entry, own)
        dropped = (yield from Together(tuple(fills))).count(0)
    if instead:
        yield from Drop(instead)
    return dropped


def build(
    sealed: Sealed, fill_id: bytes, moments: Moments, *, cost: int, stamps: tuple[tuple[str, bytes], ...]
) -> bytes:
    """Return the bytes of an entry that holds `sealed`."""
    return entries.build(
        codec=sealed.codec,
        compression=sealed.compression,
        fill_id=fill_id,
        soft_at=moments.soft_at,
        hard_at=moments.hard_at,
        cost=cost,
        stamps=stamps,
        payload=sealed.payload,
    )


def enlist(keys: Keys, entry: str, tag: str, ttl_ms: int) -> Enlist:
    """Return the call that puts an entry into the SET of a tag."""
    return Enlist(keys.members(tag), entry, tag_ttl(ttl_ms))
