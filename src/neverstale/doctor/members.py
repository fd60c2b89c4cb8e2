"""What became of the members of tags: a sample.

The SET of a tag lists the entries that carried it, until they are cleared by an invalidation or the SET expires.
Entries that expired or were evicted are still listed: memory for nothing, and work for the next invalidation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import redis
from redis.exceptions import NoPermissionError

from neverstale.cache import Cache
from neverstale.core.calls import ABSENT, TimeLeft
from neverstale.core.commands import Flow, Together
from neverstale.errors import RedisUnavailable

from .nodes import Node

__all__ = ["MemberSample", "sample_members"]

#: SETs that are looked into, and members of each: enough to tell a third from a half.
_SETS: Final = 500
_MEMBERS: Final = 20


@dataclass
class MemberSample:
    """What the sample says.

    Attributes:
        sets: SETs that were looked into.
        listed: members of all of those.
        looked_at, gone: members that were looked for, and those that are not there any more.
        refused: why nothing could be looked into, or "".
        worst: the name of the SET with the most members that are gone, and how many these are, estimated.
    """

    sets: int = 0
    listed: int = 0
    looked_at: int = 0
    gone: int = 0
    orphans: float = 0.0
    worst: tuple[str, int] = ("", 0)
    refused: str = ""

    def as_dict(self) -> dict[str, Any]:
        """What is told of it."""
        return {
            "sets_sampled": self.sets,
            "members_listed": self.listed,
            "members_looked_for": self.looked_at,
            "gone": self.gone,
            "orphans_estimated": round(self.orphans),
            "worst_set": self.worst[0] or None,
        }


def _are_there(names: tuple[bytes, ...]) -> Flow[list[bool]]:
    # Not EXISTS: a user with the rights of the cache alone may ask for this.
    left = yield from Together(tuple(TimeLeft(name) for name in names))
    return [each != ABSENT for each in left]


def sample_members(cache: Cache, node: Node, sets: list[bytes], sample: MemberSample) -> None:
    """Look for members of some SETs; stops by itself when enough were looked into.

    Args:
        cache: finds the members, wherever they are.
        node: that has the SETs.
        sets: their keys.
        sample: is added to.
    """
    sets = sets[: max(0, _SETS - sample.sets)]
    if not sets:
        return
    pipeline: Any = node.client.pipeline(transaction=False)
    for name in sets:
        pipeline.scard(name)
        pipeline.srandmember(name, _MEMBERS)
    replies = pipeline.execute(raise_on_error=False)
    picked: list[tuple[bytes, int, tuple[bytes, ...]]] = []
    for name, size, members in zip(sets, replies[::2], replies[1::2], strict=True):
        refused = next((each for each in (size, members) if isinstance(each, NoPermissionError)), None)
        if refused is not None:
            sample.refused = " ".join(str(refused).split())
            return
        if isinstance(size, redis.ResponseError) or isinstance(members, redis.ResponseError) or not members:
            continue  # no SET, or gone meanwhile
        picked.append((name, size, tuple(members)))
    wanted = tuple(member for _, _, members in picked for member in members)
    if not wanted:
        return
    try:
        there = iter(cache._driver.run(_are_there(wanted), cache._counters, patient=True))
    except RedisUnavailable:
        return
    for name, size, members in picked:
        gone = sum(not next(there) for _ in members)
        orphans = size * gone / len(members)
        sample.sets += 1
        sample.listed += size
        sample.looked_at += len(members)
        sample.gone += gone
        sample.orphans += orphans
        if orphans > sample.worst[1]:
            sample.worst = (name.decode(errors="backslashreplace"), round(orphans))
