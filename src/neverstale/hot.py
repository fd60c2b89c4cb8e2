"""Which keys and tags are asked for most: a sample of the reads, in a table that cannot grow.

About one read of 64 is looked at; a read pays for the counting down to it. In the process a table keeps what the
sample names most often, by Misra and Gries ("Finding repeated elements", 1982): with room for n names none is missed
that is more than one in n + 1 of what was added, whatever else comes. A reporter takes the most frequent out of it,
once a second, for the table that all processes have together in Redis.

Keys of sessions are never looked at, under whatever prefix: who knows one knows when its owner comes and goes.

Without locks: two threads at the same instant may lose a sample.
"""

from __future__ import annotations

import heapq
import math
import random
from typing import Final, NamedTuple

__all__ = ["SAMPLED", "Hot", "HotKey", "HotTag", "Table", "gap"]

#: One read of so many is looked at, on average. At 1,000 reads/s that is 16 a second, with which a key of one in a
#: hundred reads stands out within a minute.
SAMPLED: Final = 64
#: Names a table has room for: a second's samples of a process that is busy with 64,000 reads/s.
_ROOM: Final = 1000
#: The prefixes whose keys are nobody's business.
_SECRET: Final = ("session:",)


class HotKey(NamedTuple):
    """A key that is asked for often.

    Attributes:
        prefix: of the view.
        key: as its readers name it (one above 512 bytes as Redis does).
        reads: of it per second, estimated.
    """

    prefix: str
    key: str
    reads: float


class HotTag(NamedTuple):
    """A tag whose entries are asked for often; `reads` of them all per second, estimated."""

    tag: str
    reads: float


def gap(prefix: str) -> float:
    """Return how many reads to let pass before one is looked at; for secret prefixes all of them.

    Not always the same number: whoever reads in turn would have the same one looked at for ever.
    """
    return math.inf if prefix.startswith(_SECRET) else random.randrange(2 * SAMPLED - 1)


class Table:
    """The most frequent names of a stream, in bounded memory."""

    def __init__(self, room: int = _ROOM) -> None:
        self._room = room
        self._counts: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, name: str) -> None:
        """Count one; where there is no room for it, one of every name's count is given up for it."""
        counts = self._counts
        known = counts.get(name)
        if known is not None:
            counts[name] = known + 1
        elif len(counts) < self._room:
            counts[name] = 1
        else:
            self._counts = {other: count - 1 for other, count in list(counts.items()) if count > 1}

    def take(self, most: int) -> list[tuple[str, int]]:
        """Take out the most frequent names with their counts; the others stay."""
        taken = heapq.nlargest(most, list(self._counts.items()), key=lambda item: item[1])
        for name, _ in taken:
            self._counts.pop(name, None)
        return taken


class Hot:
    """What a process has seen asked for, since it was last taken."""

    def __init__(self) -> None:
        self.keys = Table()
        self.tags = Table()

    def note(self, prefix: str, key: str, tags: tuple[str, ...]) -> None:
        """Note a read that was looked at; `key` as Redis has it behind the prefix."""
        if f"{prefix}{key}".startswith(_SECRET):
            return
        self.keys.add(written(prefix, key))
        for tag in tags:
            self.tags.add(tag)


def written(prefix: str, key: str) -> str:
    """Write prefix and key as one name, which no other two have: the prefix' length, a colon, both."""
    return f"{len(prefix)}:{prefix}{key}"


def read(name: str) -> tuple[str, str] | None:
    """Return the prefix and the key, as its readers name it, of what `written` wrote; None of anything else."""
    length, _, both = name.partition(":")
    if not (length.isascii() and length.isdigit() and int(length[:9]) <= len(both)):
        return None
    prefix, key = both[: int(length)], both[int(length) :]
    # As `keys` writes what would form a hash tag; from left to right, so each of the pairs is its own.
    return prefix, "\x01".join(part.replace("\x01(", "{") for part in key.split("\x01."))
