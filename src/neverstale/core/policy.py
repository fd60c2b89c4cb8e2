"""What a read may do with what it found: pure decisions.

The rule that everything hangs on: **an entry is valid only while every one of its own tags still has the stamp that
the entry was loaded under.** A stamp that is missing matches nothing. What tags a caller names only says which stamps
are brought along; it never makes an entry valid.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from neverstale.lifetime import DAY_MS

from .entry import HEAD, Entry, parse

__all__ = ["FRESH", "STALE", "UNSURE", "Memory", "Seen", "State", "examine", "tag_ttl", "valid"]

#: How much longer than its entries a tag lives: what may pass between reading a stamp and the fill, beside the load.
_SLACK_MS: Final = 60_000
#: They end by themselves after seconds: more than these are an outage, in which nobody reads them.
_ORPHANS_KEPT: Final = 10_000


class State(enum.Enum):
    """What a key holds, for one reader."""

    FRESH = "fresh"
    STALE = "stale"  # to be served and to be renewed: past its soft TTL, or its tag was marked stale
    EXPIRED = "expired"  # valid, kept as a fallback: to be renewed before it is served
    LEASED = "leased"  # somebody is loading it
    INVALID = "invalid"  # a value that must not be served
    ABSENT = "absent"  # nothing, or nothing of ours
    UNSURE = "unsure"  # a value with tags whose stamps were not brought along


#: The states of a hit, as constants: to look a member up in its Enum takes 60 ns in Python 3.11, several times a hit.
FRESH: Final = State.FRESH
STALE: Final = State.STALE
UNSURE: Final = State.UNSURE


class Seen(NamedTuple):
    """What one read saw: the state, the entry if it parses, the stamps of the tags it asked for, and the bytes."""

    state: State
    entry: Entry | None
    stamps: Mapping[str, bytes | None]
    raw: bytes | None

    @property
    def head(self) -> bytes:
        """What `acquire` compares with: the header of what is there, whether it parses or not."""
        return (self.raw or b"")[:HEAD]

    def unusable(self) -> Seen:
        """Return the same of a value that may not be served, because it is of another type."""
        return self._replace(state=State.INVALID)

    def expired(self) -> Seen:
        """Return the same of a value that is not to be had as it is, but renewed."""
        return self._replace(state=State.EXPIRED)


def valid(own: Iterable[tuple[str, bytes]], stamps: Mapping[str, bytes | None]) -> bool:
    """Return whether every stamp that something was loaded under still stands."""
    return all(stamps.get(tag) == stamp for tag, stamp in own)


def examine(
    raw: bytes | None, tags: Sequence[str], stamps: Sequence[bytes | None], now_ms: int, early: float = 0.0
) -> Seen:
    """Judge what a key holds.

    Args:
        raw: the bytes of the entry.
        tags: the tags whose stamps were read with it, or after it.
        stamps: those stamps.
        now_ms: milliseconds since 1970.
        early: how many times the cost of its load before its end a fresh value counts as stale.
    """
    entry = parse(raw)
    known = dict(zip(tags, stamps, strict=True)) if tags else {}
    if entry is None:
        return Seen(State.ABSENT, None, known, raw)
    if entry.is_lease:
        return Seen(State.LEASED, entry, known, raw)
    state = FRESH
    for tag, stamp in entry.stamps:
        if tag not in known:
            return Seen(State.UNSURE, entry, known, raw)
        if known[tag] != stamp:
            if not _is_before(stamp, known[tag]):
                return Seen(State.INVALID, entry, known, raw)
            state = STALE
    if entry.soft_at:
        if entry.hard_at and entry.hard_at <= now_ms:
            state = State.EXPIRED
        elif entry.soft_at <= now_ms + early * entry.cost / 1000:
            state = STALE
    return Seen(state, entry, known, raw)


def _is_before(stamp: bytes, now: bytes | None) -> bool:
    """Return whether a stamp is the one before a soft one."""
    if now is None:
        return False
    before = now.partition(b"~")[2]
    return bool(before) and before == stamp.partition(b"~")[0]


def tag_ttl(ttl_ms: int, lease_ms: int = 0) -> int:
    """Return how long the keys of a tag live for the sake of an entry that lives `ttl_ms`; at most a day.

    An entry that lives a whole day outlives its stamp by moments, and is then a miss.
    """
    return min(ttl_ms + lease_ms + _SLACK_MS, DAY_MS)


class Memory:
    """What a process remembers of entries: the tags they had, and the leases that it could not give back.

    The tags are a hint, so that the next read brings their stamps along: a wrong one costs a round trip. Bounded; the
    oldest are forgotten. Single operations on dictionaries, so threads may share it.
    """

    __slots__ = ("_limit", "_orphans", "_tags")

    def __init__(self, limit: int = 50_000) -> None:
        # 50,000 entries of two tags are about 10 MB.
        self._limit = limit
        self._tags: dict[str, tuple[str, ...]] = {}
        self._orphans: dict[bytes, None] = {}

    def __len__(self) -> int:
        return len(self._tags)

    def recall(self, entry: str, given: tuple[str, ...]) -> tuple[str, ...]:
        """Return the given tags and those remembered."""
        known = self._tags.get(entry)
        if not known or known == given:
            return given
        if not given:
            return known
        return tuple(dict.fromkeys((*given, *known)))

    def remember(self, entry: str, tags: tuple[str, ...]) -> None:
        """Keep the tags that an entry was seen with; none are forgotten."""
        if self._tags.get(entry, ()) == tags:
            return
        _ = self._tags.pop(entry, None)
        if not tags:
            return
        self._tags[entry] = tags
        _trim(self._tags, self._limit)

    def orphan(self, token: bytes) -> None:
        """Note a lease that may stand although nobody holds it."""
        self._orphans[token] = None
        _trim(self._orphans, _ORPHANS_KEPT)

    def adopt(self, token: bytes) -> bool:
        """Return whether a lease is such a one; the caller is to give it back."""
        if token not in self._orphans:
            return False
        _ = self._orphans.pop(token, None)
        return True


def _trim(table: dict[Any, Any], limit: int) -> None:
    while len(table) > limit:
        try:
            _ = table.pop(next(iter(table)), None)
        except (StopIteration, RuntimeError):  # another thread was quicker
            break
