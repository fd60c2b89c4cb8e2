"""Invalidate tags: the stamp decides, the SET only cleans up.

The fresh stamp is one round trip, whatever the tag's size, and from there the promise holds: every entry of the tag
was loaded under another stamp. What follows frees memory and counts; a crash in between leaves entries that are not
served and expire.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from neverstale.errors import RedisUnavailable
from neverstale.receipt import Receipt

from .calls import Restamp, Take
from .commands import Announce, Clock, Drop, Flow, Random, Together
from .keys import Keys

__all__ = ["invalidate_tags"]

#: How many members are taken and deleted at a time: large enough that round trips do not count, small enough that a
#: server does not stop for it (500 deletions are about a millisecond).
BATCH: Final = 500
#: A stamp needs to live as long as the entries under it, and those that come later prolong it. An hour saves the
#: first loads after it a step, and does not keep a million invalidated tags for a day.
_STAMP_TTL_MS: Final = 3_600_000


def invalidate_tags(
    tags: tuple[str, ...], keys: Keys, reason: str = "", *, soft: bool = False
) -> Flow[Receipt]:
    """Invalidate every entry that carries one of `tags`; or only mark them stale.

    Marked `soft`, an entry is served once more while one reader loads it anew. A stamp then names the one before it,
    and an entry under that one is stale. The next stamp, soft or not, makes it invalid.

    Raises:
        RedisUnavailable: a stamp could not be set; some of the tags may be invalidated, some not. If only the clearing
            afterwards fails, nothing is raised: the promise holds already.
    """
    began = yield from Clock()
    fresh = (yield from Random(10)).hex()
    yield from Together(tuple(Restamp(keys.stamp(tag), fresh, _STAMP_TTL_MS, int(soft)) for tag in tags))
    removed = 0
    left = [] if soft else [keys.members(tag) for tag in tags]
    with suppress(RedisUnavailable):
        while left:
            taken = yield from Together(tuple(Take(members, BATCH) for members in left))
            listed = tuple(dict.fromkeys(key for batch in taken for key in batch))
            if listed:
                removed += yield from Drop(listed)
            left = [members for members, batch in zip(left, taken, strict=True) if len(batch) == BATCH]
    receipt = Receipt("tag", tags, removed, "applied", (yield from Clock()) - began, soft)
    yield from Announce(receipt, "", reason)  # a tag has no prefix
    return receipt
