"""Invalidate one key, or all that match a pattern.

A lease stands in its entry's own key, so deleting the key cancels the fill that is in flight. SCAN returns every key
that is there from its beginning to its end; a lease placed after it began belongs to a load that began after it, and
sees the truth of now.

A cursor of SCAN means nothing to a server that has been restarted, or to the replica that took its place: the runs of
the servers are compared before and after, and the scan repeated where they differ.

On a cluster a key can move from a primary not yet scanned to one scanned already. So the primaries and the slots on
the move are compared before and after, and the scan repeated until it ran undisturbed, or twice under one and the same
move: a slot moves in one direction, so what the first pass missed has arrived where the second looks.
"""

from __future__ import annotations

from itertools import product
from typing import Final, Literal

from neverstale.errors import RedisUnavailable
from neverstale.receipt import Receipt

from .commands import Announce, Clock, Drop, Flow, Scan, Topology, Wait
from .keys import Keys

__all__ = ["clear", "invalidate_keys", "invalidate_pattern"]

#: Keys looked at in one step of SCAN: a fraction of a millisecond of the server's time.
_STEP: Final = 1000
#: Each pass needs a calm second or so; slots that do not come to rest in ten passes need an operator.
_PASSES: Final = 10
#: Between two passes, in seconds: what moves needs time to come to rest, and a client to learn of it.
_PAUSE: Final = 0.25


def invalidate_keys(
    names: tuple[str, ...], entries: tuple[str, ...], keys: Keys, reason: str = ""
) -> Flow[Receipt]:
    """Delete entries, given by the names that the caller knows and by their Redis keys.

    Those of the neighbouring versions go, too: while two versions run side by side, a write in one concerns both.

    Raises:
        RedisUnavailable: some of them may still be there.
    """
    began = yield from Clock()
    removed = yield from Drop(entries, tuple(other.entry(name) for other in keys.beside for name in names))
    return (yield from _receipt("key", names, removed, began, keys, reason))


def invalidate_pattern(pattern: str, keys: Keys, reason: str = "") -> Flow[Receipt]:
    """Delete every entry under the prefix of `keys` whose key matches `pattern`, of neighbouring versions, too.

    Raises:
        RedisUnavailable: Redis did not answer, or the slots of the cluster would not come to rest; entries that match
            may still be there.
    """
    began = yield from Clock()
    removed = yield from _delete_all(keys.patterns(pattern), keys)
    return (yield from _receipt("pattern", (pattern,), removed, began, keys, reason))


def clear(keys: Keys, reason: str = "") -> Flow[Receipt]:
    """Delete every entry of the namespace, of all prefixes and versions; raises as `invalidate_pattern`."""
    began = yield from Clock()
    removed = yield from _delete_all((keys.everything,), keys)
    return (yield from _receipt("pattern", ("*",), removed, began, keys, reason))


def _delete_all(globs: tuple[str, ...], keys: Keys) -> Flow[int]:
    removed = 0
    before = yield from Topology()
    for _ in range(_PASSES):
        removed += yield from _sweep(before.nodes, globs, keys)
        after = yield from Topology()
        calm = after.signature == before.signature
        if calm and not after.moving:
            return removed
        if calm:
            removed += yield from _sweep(before.nodes, globs, keys)
            if (yield from Topology()).signature == before.signature:
                return removed
        yield from Wait("", _PAUSE)
        before = yield from Topology()
    raise RedisUnavailable(f"the slots of the cluster kept moving during {_PASSES} scans")


def _sweep(nodes: tuple[str, ...], globs: tuple[str, ...], keys: Keys) -> Flow[int]:
    removed = 0
    for node, glob in product(nodes, globs):
        cursor = None
        while cursor != 0:
            cursor, found = yield from Scan(node, cursor or 0, glob, _STEP)
            ours = tuple(filter(keys.is_entry, found))
            if ours:
                removed += yield from Drop(ours)
    return removed


def _receipt(
    kind: Literal["key", "pattern"],
    names: tuple[str, ...],
    removed: int,
    began: float,
    keys: Keys,
    reason: str,
) -> Flow[Receipt]:
    receipt = Receipt(kind, names, removed, "applied", (yield from Clock()) - began)
    yield from Announce(receipt, keys.prefix, reason)
    return receipt
