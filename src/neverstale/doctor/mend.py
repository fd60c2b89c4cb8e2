"""Put right what has no TTL, or one that is too long.

Deleting or expiring anything of ours costs a load and never a stale read, so this may be done while everybody works.
What is in the namespace without being ours by its name is left alone: another program may count on it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import redis

from neverstale.config import Settings
from neverstale.drive.connection import REDIS_ERRORS, unavailable

from .names import Kind
from .nodes import Node
from .scan import Plain

__all__ = ["How", "Mended", "mend", "mendable"]

How = Literal["expire", "delete"]
#: Keys of one pipeline: some milliseconds of the server's time.
_BATCH: Final = 500


@dataclass
class Mended:
    """What was done: TTLs set, keys deleted, keys that needed nothing any more, and keys that were refused."""

    expired: int = 0
    deleted: int = 0
    untouched: int = 0
    refused: int = 0
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Every field, ready for JSON."""
        return asdict(self)


def mendable(found: Iterable[Plain]) -> list[Plain]:
    """Return those that are ours by their names."""
    return [each for each in found if each.name.kind not in (Kind.FOREIGN, Kind.OUTSIDE)]


def mend(nodes: list[Node], found: Iterable[Plain], settings: Settings, how: How) -> Mended:
    """Give each key a TTL, or delete it; only where its TTL is still wrong.

    Entries get `ttl`, as if they had just been stored; what belongs to tags gets `max_ttl`, for a stamp must not go
    before its entries.

    Raises:
        RedisUnavailable: a node did not answer; some may be done, some not. Doing it again is safe.
    """
    mended = Mended()
    of_node: dict[str, list[Plain]] = {}
    for each in mendable(found):
        of_node.setdefault(each.node, []).append(each)
    for node in nodes:
        plain = of_node.get(node.name, [])
        for at in range(0, len(plain), _BATCH):
            try:
                _mend(node, plain[at : at + _BATCH], settings, how, mended)
            except REDIS_ERRORS as problem:
                raise unavailable(problem) from problem
    return mended


def _mend(node: Node, batch: list[Plain], settings: Settings, how: How, mended: Mended) -> None:
    if how == "delete":
        check: Any = node.client.pipeline(transaction=False)
        for each in batch:
            check.pttl(each.key)
        told = check.execute(raise_on_error=False)
        longest = round(settings.max_ttl * 1000)
        wrong = [each for each, ttl in zip(batch, told, strict=True) if ttl == -1 or _is_above(ttl, longest)]
        mended.untouched += len(batch) - len(wrong)
        batch = wrong
    pipeline: Any = node.client.pipeline(transaction=False)
    for each in batch:
        if how == "delete":
            pipeline.unlink(each.key)
        else:
            ttl = settings.ttl if each.name.kind is Kind.ENTRY else settings.max_ttl
            # LT takes no TTL for an endless one: whoever has set a right one meanwhile keeps it.
            pipeline.pexpire(each.key, round(ttl * 1000), lt=True)
    if not batch:
        return
    for reply in pipeline.execute(raise_on_error=False):
        if isinstance(reply, redis.ResponseError):
            mended.refused += 1
            mended.reason = mended.reason or " ".join(str(reply).split())
        elif not reply:
            mended.untouched += 1
        elif how == "delete":
            mended.deleted += 1
        else:
            mended.expired += 1


def _is_above(ttl: object, longest: int) -> bool:
    return isinstance(ttl, int) and ttl > longest
