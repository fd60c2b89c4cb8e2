"""Load, hand out, and store: what the holder of a lease does, and what everybody does without Redis."""

from __future__ import annotations

from typing import Final

from neverstale.codecs import Undecodable
from neverstale.counters import Counters
from neverstale.errors import EncodingError, RedisUnavailable

from . import entry as entries
from .calls import Fill, Release, Stamp
from .commands import Clock, Flow, Given, Land, Lead, Load, Loaded, Outcome, Random, Together, Turn, Wall
from .plan import Plan, Sealed
from .policy import Memory, tag_ttl
from .store import STAMP_ID_BYTES, build, enlist

__all__ = ["AT_ONCE", "load_alone", "load_apart", "load_under_lease", "release", "share"]

#: After a failed refresh the next one waits so long, so that a broken loader is not hammered; the stale value serves.
_RETRY_MS: Final = 1000
#: Of a lease that is given back without a load that failed: its end is past, so that the next is granted.
AT_ONCE: Final = -1
#: What becomes of a load whose value may not be kept.
_APART: Final = Outcome(shareable=False, kept=False)


def load_under_lease(
    plan: Plan, token: bytes, stamps: dict[str, bytes], memory: Memory, counters: Counters
) -> Flow[Given]:
    """Load, hand the outcome to those who wait in this process, and store it if the lease still stands.

    Args:
        plan: of the read.
        token: of the lease, which the caller has just been granted.
        stamps: of the tags that were known, read before this.
        memory, counters: of the cache.
    """
    yield from Lead(plan.entry, token)
    began = yield from Clock()
    loaded, sealed = yield from _load(plan, counters, plan.lease_ms / 1000)
    if loaded.error is None and not loaded.keep:
        yield from Land(plan.entry, token, _APART)
        yield from release(plan, token, memory, 0 if loaded.forget else _RETRY_MS)
        return Given(loaded.value)
    own = {tag: stamps[tag] for tag in plan.tags}
    own.update((tag, stamps[tag]) for tag in loaded.tags if tag in stamps)
    late = tuple(tag for tag in loaded.tags if tag not in own)
    if sealed is None:
        # An exception is an answer too ("no such product"): it is shared on the same conditions as a value.
        outcome = _failed(loaded, tuple(own.items()), shareable=not late)
        yield from Land(plan.entry, token, outcome)
        yield from release(plan, token, memory)
        return Given(error=outcome.error, traceback=outcome.traceback)

    in_time = True
    if late:
        in_time = yield from _read_late(plan, late, own, began, (loaded.life or plan.life).ttl_ms)
    pairs = tuple(own.items())
    memory.remember(plan.entry, tuple(own))
    yield from Land(plan.entry, token, Outcome(sealed, None, pairs, shareable=in_time))
    filled = False
    if in_time and sealed.size <= plan.max_bytes:
        filled = yield from _fill(plan, token, loaded, sealed, pairs, memory)
    else:
        yield from release(plan, token, memory)
    counters.fills += filled
    counters.fills_dropped += not filled
    return Given(sealed.value)


def load_alone(plan: Plan, counters: Counters) -> Flow[Given]:
    """Load without Redis, or without waiting any longer: one at a time in this process, and nothing is stored."""
    token = yield from Random(entries.TOKEN_BYTES)
    while (outcome := (yield from Turn(plan.entry, token, plan.wait_limit))) is not None:
        given = share(plan, outcome)
        if given is not None:
            return given
        if not outcome.kept:
            return (yield from load_apart(plan, counters))
    loaded, sealed = yield from _load(plan, counters)
    if loaded.error is None and not loaded.keep:
        outcome = _APART
    else:
        outcome = _failed(loaded) if sealed is None else Outcome(sealed)
    yield from Land(plan.entry, token, outcome)
    return _alone(loaded, sealed, counters)


def load_apart(plan: Plan, counters: Counters) -> Flow[Given]:
    """Load for one reader alone, beside whatever others do; nothing is stored."""
    loaded, sealed = yield from _load(plan, counters)
    return _alone(loaded, sealed, counters)


def share(plan: Plan, outcome: Outcome) -> Given | None:
    """Return what a reader gets of another's load: a copy of its own, of its own type; None if it cannot be shared."""
    if not outcome.shareable:
        return None
    if outcome.error is not None:
        return Given(error=outcome.error, traceback=outcome.traceback)
    try:
        return Given(plan.sealer.share(outcome.sealed))
    except Undecodable:
        return None


def _load(plan: Plan, counters: Counters, lease: float = 0.0) -> Flow[tuple[Loaded, Sealed | None]]:
    loaded = yield from Load(plan.loader, plan.entry, lease)
    counters.count_load(loaded.seconds)
    if loaded.error is not None:
        counters.load_errors += 1
        return loaded, None
    if not loaded.keep:
        return loaded, None
    try:
        return loaded, plan.sealer.seal(loaded.value)
    except EncodingError as error:
        # The loader's value is at fault, so it ends like the loader's error.
        return Loaded(error=error, tags=loaded.tags), None


def _alone(loaded: Loaded, sealed: Sealed | None, counters: Counters) -> Given:
    if loaded.error is not None:
        return Given(error=loaded.error, traceback=loaded.error.__traceback__)
    if sealed is None:
        return Given(loaded.value)
    counters.fills_dropped += 1
    return Given(sealed.value)


def _failed(loaded: Loaded, stamps: tuple[tuple[str, bytes], ...] = (), *, shareable: bool = True) -> Outcome:
    # What ends a thread or a task (KeyboardInterrupt, CancelledError) is meant for that one alone.
    traceback = loaded.error.__traceback__ if loaded.error is not None else None
    return Outcome(
        None,
        loaded.error,
        stamps,
        shareable and loaded.keep and isinstance(loaded.error, Exception),
        traceback=traceback,
    )


def _read_late(
    plan: Plan, late: tuple[str, ...], own: dict[str, bytes], began: float, ttl_ms: int
) -> Flow[bool]:
    """Add the stamps of tags that the load named; replies whether none of them is as young as the load."""
    fresh = (yield from Random(STAMP_ID_BYTES)).hex()
    ttl_ms = tag_ttl(ttl_ms)
    try:
        replies = yield from Together(tuple(Stamp(plan.keys.stamp(tag), fresh, ttl_ms) for tag in late))
    except RedisUnavailable:
        return False
    # After the replies: the stamps were read before this, so a stamp set since the load began is younger than it.
    elapsed = (yield from Clock()) - began
    in_time = True
    for tag, (stamp, age) in zip(late, replies, strict=True):
        own[tag] = stamp
        if age is None or age <= elapsed + plan.margin:
            in_time = False
    return in_time


def _fill(
    plan: Plan,
    token: bytes,
    loaded: Loaded,
    sealed: Sealed,
    stamps: tuple[tuple[str, bytes], ...],
    memory: Memory,
) -> Flow[bool]:
    fill_id = yield from Random(entries.FILL_ID_BYTES)
    life = loaded.life or plan.life
    chance = int.from_bytes((yield from Random(4)), "big") / 2**32 if life.jitter else 0.0
    moments = life.begin((yield from Wall()), chance)
    raw = build(sealed, fill_id, moments, cost=round(loaded.seconds * 1e6), stamps=stamps)
    try:
        if stamps:
            # Before the fill: an entry that can be read is listed, so clearing its tag frees its memory.
            # The stamps are asked for once more, which lets them live as long as the entry.
            fresh, ttl_ms = (yield from Random(STAMP_ID_BYTES)).hex(), tag_ttl(moments.ttl_ms)
            yield from Together(
                (
                    *(enlist(plan.keys, plan.entry, tag, moments.ttl_ms) for tag, _ in stamps),
                    *(Stamp(plan.keys.stamp(tag), fresh, ttl_ms) for tag, _ in stamps),
                )
            )
        (filled,) = yield from Together((Fill(plan.entry, token, raw, moments.ttl_ms),))
        return bool(filled)
    except RedisUnavailable:
        memory.orphan(token)
        return False


def release(plan: Plan, token: bytes, memory: Memory, retry_ms: int = _RETRY_MS) -> Flow[bool]:
    """Give a lease back, if it stands; where that fails, the next reader of this process who meets it does.

    Of a refresh, the old value stays, and the next may be tried after `retry_ms`, or `AT_ONCE`; with 0 it goes.
    Returns whether Redis did it.
    """
    try:
        yield from Together((Release(plan.entry, token, retry_ms),))
        return True
    except RedisUnavailable:
        memory.orphan(token)
        return False
