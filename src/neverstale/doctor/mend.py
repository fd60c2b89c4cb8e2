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
from neverstale.lifetime import DAY_MS

from .names import Kind
from .nodes import Node
from .scan import Plain

__all__ = ["How", "Mended", "mend", "mendable"]

How = Literal["expire", "delete"]
#: Keys of one pipeline: some milliseconds of the server's time.
_BATCH: Final = 500
# KEYS: a key. ARGV: the longest TTL that is right, in milliseconds. Deletes it if its TTL is wrong now; returns 1 then.
_DELETE: Final = """
local left = redis.call('PTTL', KEYS[1])
if left == -1 or left > tonumber(ARGV[1]) then return redis.call('UNLINK', KEYS[1]) end
return 0
"""


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
    before its entries. A TTL that is too long is cut to a day. Each key is looked at and mended in one step of the
    server.

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
    pipeline: Any = node.client.pipeline(transaction=False)
    for each in batch:
        _mend_one(pipeline, each, settings, how)
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


def _mend_one(pipeline: Any, each: Plain, settings: Settings, how: How) -> None:
    """Send one command that does nothing where the TTL is right: whoever has stored the key meanwhile keeps it."""
    if how == "delete":
        pipeline.eval(_DELETE, 1, each.key, DAY_MS)
    elif each.ttl_ms == -1:
        ttl = settings.ttl if each.name.kind is Kind.ENTRY else settings.max_ttl
        pipeline.pexpire(each.key, round(ttl * 1000), nx=True)
    else:
        # LT takes no TTL for an endless one, so that is mended, too.
        pipeline.pexpire(each.key, DAY_MS, lt=True)
