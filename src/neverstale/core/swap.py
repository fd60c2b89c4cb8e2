"""Change entries that are nobody's copy: compare-and-swap, and a write that cannot bring back what was deleted.

Rules:
- A swap takes the lease on exactly the value that was seen, and fills while that lease stands. So of two that saw the
  same value one swaps, and whatever deletes the key in between has the last word: a swap never inserts.
- The new value is under the stamps of the old one, not under those of now: a tag that was invalidated in between
  invalidates the new value too.
- Who invalidates a tag and keeps one entry of it must know that nobody else has invalidated it since that entry was
  seen: the fresh stamp is exchanged for the one before.

A swap is made of the scripts of any refresh: `acquire` on a key that is gone grants what `fill` then refuses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final

from neverstale.lifetime import Moments

from . import entry as entries
from .calls import Acquire, Fill, Script, Stamp, Take
from .commands import Call, Drop, Flow, Random, Together
from .keys import Keys
from .plan import Sealed
from .policy import Memory, Seen, State, tag_ttl
from .store import STAMP_ID_BYTES, build, enlist
from .tags import BATCH

__all__ = ["Members", "claim", "hold", "invalidate_tag_but", "swap"]

#: Between the two steps of a swap is a round trip. Whoever takes longer than this has given up, and others go on.
_SWAP_MS: Final = 1000
#: Between seeing what must be deleted and deleting it are two, each with the long time limit of an invalidation.
_CLAIM_MS: Final = 5000


@dataclass(frozen=True, slots=True)
class Members(Call["list[bytes]"]):
    """Read the SET of a tag: the entries that carried it and were not cleared yet."""

    members: str

    @property
    def key(self) -> str:
        return self.members

    def words(self) -> tuple[Any, ...]:
        return ("SMEMBERS", self.members)

    def parse(self, reply: Any) -> list[bytes]:
        return sorted(reply or ())


@dataclass(frozen=True, slots=True)
class Exchange(Script["tuple[bytes, bytes]"]):
    """Invalidate a tag by a fresh stamp; replies the stamp before, and the fresh one."""

    name: ClassVar[str] = "exchange"
    key_fields: ClassVar[tuple[str, ...]] = ("stamp",)
    arg_fields: ClassVar[tuple[str, ...]] = ("fresh", "ttl_ms")
    stamp: str
    fresh: str
    ttl_ms: int

    def parse(self, reply: Any) -> tuple[bytes, bytes]:
        before, now = reply
        return bytes(before), bytes(now)


def swap(entry: str, keys: Keys, seen: Seen, sealed: Sealed, ttl_ms: int) -> Flow[bool]:
    """Put `sealed` in the place of the value that was seen; return whether that was still there.

    Args:
        entry: its key in Redis.
        keys: of its namespace.
        seen: what a read has just found; valid.
        sealed: the new value.
        ttl_ms: how long it lives, in milliseconds.

    Raises:
        RedisUnavailable: the new value may be there or not.
    """
    if seen.entry is None or seen.state not in (State.FRESH, State.STALE):
        return False
    stamps = seen.entry.stamps
    token = yield from Random(entries.TOKEN_BYTES)
    fresh = (yield from Random(STAMP_ID_BYTES)).hex()
    # The tags' keys must outlive the entry, whose life begins anew.
    replies = yield from Together(
        (
            Acquire(entry, "refresh", seen.head, entries.placeholder(token), _SWAP_MS),
            *(Stamp(keys.stamp(tag), fresh, tag_ttl(ttl_ms)) for tag, _ in stamps),
            *(enlist(keys, entry, tag, ttl_ms) for tag, _ in stamps),
        )
    )
    if replies[0] and entries.token_of(replies[0]) != token:
        return False
    if not _still_valid(stamps, [now for now, _ in replies[1 : 1 + len(stamps)]]):
        return False
    fill_id = yield from Random(entries.FILL_ID_BYTES)
    raw = build(sealed, fill_id, Moments(0, 0, ttl_ms), cost=0, stamps=stamps)
    (filled,) = yield from Together((Fill(entry, token, raw, ttl_ms),))
    return bool(filled)


def claim(entry: str) -> Flow[None]:
    """Take an entry from every swap and load in flight, so that what is read next is the last there is.

    The value stays, but if it would have expired in a moment anyway. For who is about to delete it.
    """
    token = yield from Random(entries.TOKEN_BYTES)
    yield from Together((Acquire(entry, "claim", b"", entries.placeholder(token), _CLAIM_MS),))


def hold(entry: str, seen: Seen) -> Flow[bytes | None]:
    """Take the lease on the value that was seen; return its token, or None if that value is not there as it was."""
    token = yield from Random(entries.TOKEN_BYTES)
    (head,) = yield from Together(
        (Acquire(entry, "refresh", seen.head, entries.placeholder(token), _CLAIM_MS),)
    )
    return token if not head or entries.token_of(head) == token else None


def invalidate_tag_but(
    tag: str, entry: str, token: bytes, seen: Seen, keys: Keys, sealed: Sealed, ttl_ms: int, memory: Memory
) -> Flow[int]:
    """Invalidate a tag, and write one of its entries anew, unless somebody else deletes or invalidates that.

    Args:
        tag: to invalidate.
        entry: that is to stay.
        token: of a lease on it, from `hold`.
        seen: what that was taken on; it carries the tag alone.
        keys: of its namespace.
        sealed: its new value.
        ttl_ms: how long that lives, in milliseconds.
        memory: of the cache.

    Returns:
        How many entries were cleared.

    Raises:
        RedisUnavailable: the tag may be invalidated or not; if it is, the entry may be lost as well.
    """
    fresh = (yield from Random(STAMP_ID_BYTES)).hex()
    ((before, stamp),) = yield from Together((Exchange(keys.stamp(tag), fresh, tag_ttl(ttl_ms)),))
    # Another one before than the entry's own: somebody else has invalidated the tag, and meant the entry as well.
    stays = bool(stamp) and seen.entry is not None and _still_valid(seen.entry.stamps, [before])
    removed, more = 0, True
    while more:
        (taken,) = yield from Together((Take(keys.members(tag), BATCH),))
        listed = tuple(key for key in taken if not (stays and key == entry.encode()))
        if listed:
            removed += yield from Drop(listed)
        more = len(taken) == BATCH
    if stays:
        fill_id = yield from Random(entries.FILL_ID_BYTES)
        raw = build(sealed, fill_id, Moments(0, 0, ttl_ms), cost=0, stamps=((tag, stamp),))
        memory.remember(entry, (tag,))
        yield from Together((enlist(keys, entry, tag, ttl_ms),))
        yield from Together((Fill(entry, token, raw, ttl_ms),))
    return removed


def _still_valid(stamps: tuple[tuple[str, bytes], ...], now: list[bytes]) -> bool:
    """Return whether nobody has invalidated an entry since it was seen, by the stamps that its tags have now."""
    return [stamp for _, stamp in stamps] == now
