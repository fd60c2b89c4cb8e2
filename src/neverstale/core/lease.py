"""Cache-aside by leases: who loads, who waits, and who may have what.

Theory (after Nishtala and others, "Scaling Memcache at Facebook", NSDI 2013, section 3.2.1, with the lease kept in
the entry's own key):

- A reader that misses puts a lease where the entry would be, loads, and fills only while its lease stands. Whatever
  deletes the key cancels the fill. So a value that was loaded before an invalidation of its key is never stored
  after it.
- An entry carries the stamps of its tags as they were *before* its load began. An invalidation of a tag replaces the
  stamp. So a value that was loaded before it is never valid after it, stored or not, listed in the SET or not.
- Tags that only the load names are known too late for that. Their stamps are read after the load; one that is not
  older than the load may have been replaced during it, and then the value is not stored and not shared.
- A reader may have the value of another's load in this process if it saw that load's lease alive after it began
  itself (so no invalidation of the key that it knows of came after the load began), and finds the load's stamps
  unchanged (so no invalidation of a tag did).
- Whatever goes wrong with Redis ends in the loader: at most one at a time for an entry in this process, and shared
  only by readers that came before it began.

Reading is in `read`, loading and filling in `fill`, setting in `store`. These rules were explored in every interleaving
of small cases: `tests/sim`. Change them only together.

Not known here: what a value is, how it is encoded, which client talks to Redis, threads, event loops.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from neverstale.codecs import Undecodable
from neverstale.counters import Counters
from neverstale.errors import HeldOff, RedisUnavailable

from . import entry as entries
from .calls import Acquire, Stamp
from .commands import Call, Clock, Fetch, Flow, Given, Join, Outcome, Random, Together, Wait
from .fill import AT_ONCE, load_alone, load_apart, load_under_lease, release, share
from .plan import Plan
from .policy import Memory, Seen, State, tag_ttl, valid
from .read import read
from .store import STAMP_ID_BYTES

__all__ = ["get_or_load", "refresh"]

#: The first pause of a waiting reader, in seconds, how it grows, and where it ends: at the end a reader is on average
#: half of it behind the load.
_FIRST_PAUSE: Final = 0.001
_GROWTH: Final = 1.5
_LONGEST_PAUSE: Final = 0.010


def get_or_load(plan: Plan, seen: Seen | None, memory: Memory, counters: Counters) -> Flow[Given]:
    """Return the entry's value, loaded if it must be, or the exception of the loader.

    Args:
        plan: what to read and how to load it.
        seen: what a read has just found and could not use; None if that read failed.
        memory, counters: of the cache.

    Never raises because of Redis. The loader's exception is returned, not raised: a generator cannot raise all of them.
    """
    if seen is None:
        return (yield from load_alone(plan, counters))
    began = yield from Clock()
    pause, waited, asked = _FIRST_PAUSE, False, False
    known: Seen | None = seen
    # What the caller would not have as it is.
    old = entries.fill_id_of(seen.head) if seen.state is State.EXPIRED else None
    token, stamps = b"", dict[str, bytes]()
    while True:
        given: Given | None = None
        try:
            if known is None:
                known = _again((yield from read(plan, memory)), old)
            if known.state in (State.FRESH, State.STALE):
                assert known.entry is not None
                try:
                    return Given(plan.sealer.open(known.entry))
                except Undecodable:
                    counters.decode_errors += 1
                    known = known.unusable()
            if known.state is State.LEASED:
                assert known.entry is not None
                theirs: bytes | None = known.entry.token
            else:
                token = yield from Random(entries.TOKEN_BYTES)
                asked = True
                mode: Literal["fill", "refresh"] = "refresh" if known.state is State.EXPIRED else "fill"
                head, stamps = yield from _acquire(plan, known, token, memory, mode)
                asked = False
                if not head:
                    break
                theirs = None
                if head[2:3] == entries.LEASE or entries.fill_id_of(head) == old:
                    theirs = entries.token_of(head)
                    if theirs is None and head == known.head:
                        # It is still the old value, and its last refresh has just failed.
                        if plan.fallback:
                            return Given(error=HeldOff(plan.entry))
                        return (yield from load_alone(plan, counters))
            known = None
            # Another value than we have seen, or one whose lease has come and gone, or a lease that nobody holds: read
            # again. But one that cannot be given back is waited for, or a Redis that refuses would be asked forever.
            if theirs is None:
                continue
            if memory.adopt(theirs) and (yield from release(plan, theirs, memory, AT_ONCE)):
                continue
            if not plan.wait_limit:
                return (yield from load_apart(plan, counters))
            if not waited:
                counters.waits += 1
                waited = True
            left = plan.wait_limit - ((yield from Clock()) - began)
            outcome = yield from Join(plan.entry, theirs, max(left, 0.0))
            if outcome is not None and not outcome.kept:
                return (yield from load_apart(plan, counters))
            if outcome is not None and (yield from _still_valid(plan, outcome)):
                given = share(plan, outcome)
        except RedisUnavailable:
            if asked:
                # The lease may have been granted without our hearing of it, and others would wait for us. Noted first:
                # a caller whose time is up ends this flow while it waits for its turn.
                memory.orphan(token)
            alone = yield from load_alone(plan, counters)
            if asked and memory.adopt(token):
                yield from release(plan, token, memory, AT_ONCE)
            return alone
        if given is not None:
            return given
        # Also after an outcome that is of no use: its lease may stand until its fill is refused, and to ask without a
        # pause would not hasten that.
        if (yield from Clock()) - began >= plan.wait_limit:
            return (yield from load_alone(plan, counters))
        yield from Wait(plan.entry, pause)
        pause = min(pause * _GROWTH, _LONGEST_PAUSE)
    return (yield from load_under_lease(plan, token, stamps, memory, counters))


def refresh(plan: Plan, seen: Seen, memory: Memory, counters: Counters) -> Flow[Given | None]:
    """Load anew an entry that is past its soft TTL; the old value stays until then. None if somebody else does.

    Raises:
        RedisUnavailable: Redis did not answer; nothing was loaded.
    """
    token = yield from Random(entries.TOKEN_BYTES)
    try:
        head, stamps = yield from _acquire(plan, seen, token, memory, "refresh")
    except RedisUnavailable:
        memory.orphan(token)  # it may have been granted without our hearing of it
        raise
    if head:
        theirs = entries.token_of(head)
        if theirs is not None and memory.adopt(theirs):
            yield from release(plan, theirs, memory, AT_ONCE)  # for the next reader
        return None
    return (yield from load_under_lease(plan, token, stamps, memory, counters))


def _again(seen: Seen, old: bytes | None) -> Seen:
    """Judge what was read after waiting: only the value that the caller would not have is still to be renewed."""
    if seen.entry is None or seen.state not in (State.FRESH, State.STALE, State.EXPIRED):
        return seen
    if entries.fill_id_of(seen.head) == old:
        return seen.expired()
    # It has just been loaded: nothing newer can be had, even if its time is over already.
    return seen._replace(state=State.STALE) if seen.state is State.EXPIRED else seen


def _acquire(
    plan: Plan, seen: Seen, token: bytes, memory: Memory, mode: Literal["fill", "refresh"]
) -> Flow[tuple[bytes, dict[str, bytes]]]:
    """Ask for the lease and, on the same way, for the stamps that are missing.

    The stamps that the read brought along serve as they are: they are from before the load, and if one has changed
    since, what is loaded is invalid at once: a load too many, never a stale read.
    """
    known = {tag: stamp for tag, stamp in seen.stamps.items() if stamp is not None}
    tags = memory.recall(plan.entry, plan.tags)
    missing = tuple(tag for tag in dict.fromkeys((*tags, *seen.stamps)) if tag not in known)
    calls: list[Call[Any]] = [Acquire(plan.entry, mode, seen.head, entries.placeholder(token), plan.lease_ms)]
    if missing:
        fresh = (yield from Random(STAMP_ID_BYTES)).hex()
        ttl_ms = tag_ttl(plan.life.ttl_ms, plan.lease_ms)
        calls += (Stamp(plan.keys.stamp(tag), fresh, ttl_ms) for tag in missing)
    head, *made = yield from Together(tuple(calls))
    if entries.token_of(head) == token:
        head = b""  # the call was repeated after its first reply was lost
    known.update((tag, stamp) for tag, (stamp, _) in zip(missing, made, strict=True))
    return head, known


def _still_valid(plan: Plan, outcome: Outcome) -> Flow[bool]:
    if not outcome.stamps:
        return True
    tags = tuple(tag for tag, _ in outcome.stamps)
    stamps = yield from Fetch(tuple(map(plan.keys.stamp, tags)))
    return valid(outcome.stamps, dict(zip(tags, stamps, strict=True)))
