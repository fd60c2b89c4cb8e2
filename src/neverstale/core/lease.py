"""Cache-aside by leases: read, wait, load, fill, refresh, set.

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

These rules were explored in every interleaving of small cases: `tests/sim`. Change them only together.

Not known here: what a value is, how it is encoded, which client talks to Redis, threads, event loops.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from neverstale.codecs import Undecodable
from neverstale.counters import Counters
from neverstale.errors import RedisUnavailable

from . import entry as entries
from .calls import Acquire, Enlist, Fill, Release, Stamp, Store
from .commands import (
    Call,
    Clock,
    Drop,
    Fetch,
    Flow,
    Join,
    Land,
    Lead,
    Load,
    Loaded,
    Outcome,
    Random,
    Together,
    Turn,
    Wait,
    Wall,
)
from .keys import Keys
from .policy import Seen, State, TagMemory, examine, tag_ttl, valid

__all__ = ["Plan", "Sealed", "Sealer", "get_or_load", "read", "read_many", "refresh", "resolve", "store"]

#: A stamp that was set less than this before a load began is taken for one that was set during it: clocks of two
#: machines agree on the length of a second, but only about so well while one of them is being set right.
MARGIN: Final = 1.0
#: The first pause of a waiting reader, in seconds, how it grows, and where it ends: at the end a reader is on average
#: half of it behind the load.
_FIRST_PAUSE: Final = 0.001
_GROWTH: Final = 1.5
_LONGEST_PAUSE: Final = 0.010
#: After a failed refresh the next one waits so long, so that a broken loader is not hammered; the stale value serves.
_RETRY_MS: Final = 1000
_STAMP_ID_BYTES: Final = 10


class Sealed(Protocol):
    """An encoded value, and the value as a hit will give it."""

    @property
    def value(self) -> Any: ...
    @property
    def codec(self) -> int: ...
    @property
    def compression(self) -> int: ...
    @property
    def payload(self) -> bytes | memoryview: ...
    @property
    def size(self) -> int: ...


class Sealer(Protocol):
    """Turns values into payloads and back."""

    def seal(self, value: Any) -> Sealed:
        """Encode; raises `EncodingError`."""
        ...

    def open(self, entry: entries.Entry) -> Any:
        """Decode; raises `Undecodable`."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """One read with all its options, in Redis' terms; times in milliseconds, but for `wait_limit` in seconds."""

    entry: str
    keys: Keys
    tags: tuple[str, ...]
    ttl_ms: int
    soft_ms: int
    lease_ms: int
    wait_limit: float
    max_bytes: int
    sealer: Sealer
    loader: Callable[[], Any]
    margin: float = MARGIN


def read(plan: Plan, memory: TagMemory) -> Flow[Seen]:
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


def read_many(entries_: tuple[str, ...], keys: Keys, memory: TagMemory) -> Flow[list[Seen]]:
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


def get_or_load(plan: Plan, seen: Seen | None, memory: TagMemory, counters: Counters) -> Flow[Any]:
    """Return the entry's value, loaded if it must be.

    Args:
        plan: what to read and how to load it.
        seen: what a read has just found and could not use; None if that read failed.
        memory, counters: of the cache.

    Raises:
        EncodingError: what was loaded cannot be stored as its type.
        Exception: the loader's own.
    """
    if seen is None:
        return (yield from _load_alone(plan, counters))
    began = yield from Clock()
    pause, waited = _FIRST_PAUSE, False
    known: Seen | None = seen
    token, stamps = b"", dict[str, bytes]()
    while True:
        outcome: Outcome | None = None
        try:
            if known is None:
                known = yield from read(plan, memory)
            if known.state in (State.FRESH, State.STALE):
                assert known.entry is not None
                try:
                    return plan.sealer.open(known.entry)
                except Undecodable:
                    counters.decode_errors += 1
                    known = known._replace(state=State.INVALID)
            if known.state is State.LEASED:
                assert known.entry is not None
                theirs: bytes | None = known.entry.token
            else:
                token = yield from Random(entries.TOKEN_BYTES)
                head, stamps = yield from _acquire(plan, known, token, memory, refresh=False)
                if not head:
                    break
                theirs = entries.token_of(head) if head[2:3] == entries.LEASE else None
            known = None
            if theirs is None:
                continue  # a value that we have not seen yet: read again
            if not waited:
                counters.waits += 1
                waited = True
            outcome = yield from Join(plan.entry, theirs)
            if outcome is not None and not (outcome.shareable and (yield from _still_valid(plan, outcome))):
                outcome = (
                    None  # its lease may stand until its fill is refused: no reason to ask without a pause
                )
        except RedisUnavailable:
            return (yield from _load_alone(plan, counters))
        if outcome is not None:
            return _give(outcome)
        if (yield from Clock()) - began >= plan.wait_limit:
            return (yield from _load_alone(plan, counters))
        yield from Wait(plan.entry, pause)
        pause = min(pause * _GROWTH, _LONGEST_PAUSE)
    return (yield from _load_under_lease(plan, token, stamps, memory, counters))


def refresh(plan: Plan, seen: Seen, memory: TagMemory, counters: Counters) -> Flow[None]:
    """Load anew an entry that is past its soft TTL, if nobody else does; the old value stays until then.

    Raises:
        RedisUnavailable: Redis did not answer; nothing was loaded.
        EncodingError, Exception: as `get_or_load`.
    """
    token = yield from Random(entries.TOKEN_BYTES)
    head, stamps = yield from _acquire(plan, seen, token, memory, refresh=True)
    if not head:
        yield from _load_under_lease(plan, token, stamps, memory, counters)


def store(
    writes: list[tuple[str, Sealed, tuple[str, ...]]],
    keys: Keys,
    ttl_ms: int,
    memory: TagMemory,
    instead: tuple[str, ...] = (),
) -> Flow[None]:
    """Set entries, whatever is there: `(entry, sealed value, tags)` each; delete those of `instead`.

    The stamps are those of now: an invalidation that returned before this call does not touch what it sets. A lease
    that stood in an entry's place is gone, so a load in flight does not replace what was set.

    Raises:
        RedisUnavailable: some of them may not be set.
    """
    tags = tuple(dict.fromkeys(tag for _, _, own in writes for tag in own))
    stamps: dict[str, bytes | None] = {}
    if tags:
        stamps = yield from _make_stamps(keys, tags, tag_ttl(ttl_ms))
        yield from Together(
            tuple(_enlist(keys, entry, tag, ttl_ms) for entry, _, own in writes for tag in own)
        )
    calls = []
    for entry, sealed, own in writes:
        fill_id = yield from Random(entries.FILL_ID_BYTES)
        pairs = tuple((tag, stamps[tag] or b"") for tag in own)
        raw = _build(sealed, fill_id, soft_at=0, cost=0, stamps=pairs)
        calls.append(Store(entry, raw, ttl_ms))
        memory.remember(entry, own)
    if calls:
        yield from Together(tuple(calls))
    if instead:
        yield from Drop(instead)


def _build(
    sealed: Sealed, fill_id: bytes, *, soft_at: int, cost: int, stamps: tuple[tuple[str, bytes], ...]
) -> bytes:
    return entries.build(
        codec=sealed.codec,
        compression=sealed.compression,
        fill_id=fill_id,
        soft_at=soft_at,
        cost=cost,
        stamps=stamps,
        payload=sealed.payload,
    )


def _enlist(keys: Keys, entry: str, tag: str, ttl_ms: int) -> Enlist:
    return Enlist(keys.members(tag), keys.stamp(tag), entry, tag_ttl(ttl_ms))


def _make_stamps(keys: Keys, tags: tuple[str, ...], ttl_ms: int) -> Flow[dict[str, bytes | None]]:
    fresh = (yield from Random(_STAMP_ID_BYTES)).hex()
    replies = yield from Together(tuple(Stamp(keys.stamp(tag), fresh, ttl_ms) for tag in tags))
    return {tag: stamp for tag, (stamp, _) in zip(tags, replies, strict=True)}


def _acquire(
    plan: Plan, seen: Seen, token: bytes, memory: TagMemory, *, refresh: bool
) -> Flow[tuple[bytes, dict[str, bytes]]]:
    """Ask for the lease and, on the same way, for the stamps that are missing.

    The stamps that the read brought along serve as they are: they are from before the load, and if one has changed
    since, what is loaded is invalid at once: a load too many, never a stale read.
    """
    known = {tag: stamp for tag, stamp in seen.stamps.items() if stamp is not None}
    tags = memory.recall(plan.entry, plan.tags)
    missing = tuple(tag for tag in dict.fromkeys((*tags, *seen.stamps)) if tag not in known)
    lease = token if refresh else entries.placeholder(token)
    mode: Literal["fill", "refresh"] = "refresh" if refresh else "fill"
    calls: list[Call[Any]] = [Acquire(plan.entry, mode, seen.head, lease, plan.lease_ms)]
    if missing:
        fresh = (yield from Random(_STAMP_ID_BYTES)).hex()
        ttl_ms = tag_ttl(plan.ttl_ms, plan.lease_ms)
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


def _load_alone(plan: Plan, counters: Counters) -> Flow[Any]:
    """Load without Redis; nothing is stored."""
    token = yield from Random(entries.TOKEN_BYTES)
    outcome = yield from Turn(plan.entry, token)
    while outcome is not None:
        if outcome.shareable:
            if outcome.error is not None:
                raise outcome.error
            return outcome.value
        outcome = yield from Turn(plan.entry, token)
    loaded, sealed = yield from _load(plan, counters)
    outcome = _failed(loaded) if sealed is None else Outcome(sealed.value)
    yield from Land(plan.entry, token, outcome)
    counters.fills_dropped += sealed is not None
    return _give(outcome)


def _load_under_lease(
    plan: Plan, token: bytes, stamps: dict[str, bytes], memory: TagMemory, counters: Counters
) -> Flow[Any]:
    yield from Lead(plan.entry, token)
    began = yield from Clock()
    loaded, sealed = yield from _load(plan, counters, plan.lease_ms / 1000)
    own = {tag: stamps[tag] for tag in plan.tags}
    own.update((tag, stamps[tag]) for tag in loaded.tags if tag in stamps)
    late = tuple(tag for tag in loaded.tags if tag not in own)
    if sealed is None:
        # An exception is an answer too ("no such product"): it is shared on the same conditions as a value.
        outcome = _failed(loaded, tuple(own.items()), shareable=not late)
        yield from Land(plan.entry, token, outcome)
        yield from _release(plan, token)
        return _give(outcome)

    in_time = True
    if late:
        in_time = yield from _read_late(plan, late, own, began)
    pairs = tuple(own.items())
    outcome = Outcome(sealed.value, None, pairs, shareable=in_time)
    memory.remember(plan.entry, tuple(own))
    yield from Land(plan.entry, token, outcome)
    filled = False
    if in_time and sealed.size <= plan.max_bytes:
        filled = yield from _fill(plan, token, loaded, sealed, pairs)
    else:
        yield from _release(plan, token)
    counters.fills += filled
    counters.fills_dropped += not filled
    return sealed.value


def _load(plan: Plan, counters: Counters, lease: float = 0.0) -> Flow[tuple[Loaded, Sealed | None]]:
    loaded = yield from Load(plan.loader, plan.entry, lease)
    counters.loads += 1
    counters.load_seconds += loaded.seconds
    if loaded.error is not None:
        counters.load_errors += 1
        return loaded, None
    try:
        return loaded, plan.sealer.seal(loaded.value)
    except (
        ValueError
    ) as error:  # EncodingError: the loader's value is at fault, so it ends like the loader's error
        return Loaded(error=error), None


def _failed(loaded: Loaded, stamps: tuple[tuple[str, bytes], ...] = (), *, shareable: bool = True) -> Outcome:
    # What ends a thread or a task (KeyboardInterrupt, CancelledError) is meant for that one alone.
    return Outcome(None, loaded.error, stamps, shareable and isinstance(loaded.error, Exception))


def _give(outcome: Outcome) -> Any:
    if outcome.error is not None:
        raise outcome.error
    return outcome.value


def _read_late(plan: Plan, late: tuple[str, ...], own: dict[str, bytes], began: float) -> Flow[bool]:
    """Add the stamps of tags that the load named; replies whether none of them is as young as the load."""
    fresh = (yield from Random(_STAMP_ID_BYTES)).hex()
    ttl_ms = tag_ttl(plan.ttl_ms)
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
    plan: Plan, token: bytes, loaded: Loaded, sealed: Sealed, stamps: tuple[tuple[str, bytes], ...]
) -> Flow[bool]:
    fill_id = yield from Random(entries.FILL_ID_BYTES)
    soft_at = ((yield from Wall()) + plan.soft_ms) if plan.soft_ms else 0
    raw = _build(sealed, fill_id, soft_at=soft_at, cost=round(loaded.seconds * 1e6), stamps=stamps)
    try:
        if stamps:
            # Before the fill: an entry that can be read is listed, so clearing its tag frees its memory.
            yield from Together(tuple(_enlist(plan.keys, plan.entry, tag, plan.ttl_ms) for tag, _ in stamps))
        (filled,) = yield from Together((Fill(plan.entry, token, raw, plan.ttl_ms),))
        return bool(filled)
    except RedisUnavailable:
        return False


def _release(plan: Plan, token: bytes) -> Flow[None]:
    with suppress(RedisUnavailable):  # it ends by itself
        yield from Together((Release(plan.entry, token, _RETRY_MS),))
