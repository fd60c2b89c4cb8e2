"""What both drivers do alike, without I/O: calls to the words that are sent, replies back, and what is done at once."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeAlias, TypeVar

from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    NoScriptError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as BrokenConnection

from neverstale.core.calls import DropSlot, Script
from neverstale.core.commands import (
    Call,
    Clock,
    Command,
    Land,
    Lead,
    Load,
    Loaded,
    Random,
    TopologyView,
    Wall,
)
from neverstale.core.keys import check_tags
from neverstale.errors import UsageError
from neverstale.flight import Flight, Flights

__all__ = [
    "LATER",
    "Words",
    "at_once",
    "by_slot",
    "loaded",
    "missing_scripts",
    "redirected",
    "results",
    "slot_of",
    "string",
    "to_ask",
    "topology",
]

logger = logging.getLogger("neverstale")

Words: TypeAlias = tuple[Any, ...]
T = TypeVar("T")

#: Replies of a cluster that mean: ask again, elsewhere or a little later.
_REDIRECTS = (MovedError, AskError, TryAgainError, ClusterDownError)


def slot_of(key: str | bytes) -> int:
    """Return the hash slot of a key."""
    return key_slot(key.encode() if isinstance(key, str) else key)


def by_slot(keys: Iterable[str | bytes]) -> tuple[DropSlot, ...]:
    """Group the keys that are to be deleted on a cluster, where a script's keys must be of one slot."""
    slots: dict[int, list[str | bytes]] = {}
    for key in keys:
        slots.setdefault(slot_of(key), []).append(key)
    return tuple(DropSlot(tuple(group)) for group in slots.values())


def to_ask(cluster: Any, node: str) -> list[Any]:
    """Return the nodes of a cluster to ask one after the other: the one that is named, or any two primaries.

    Raises:
        redis.ConnectionError: none is known.
    """
    if node:
        nodes = [cluster.get_node(node_name=node)]
    else:
        primaries = cluster.get_primaries()
        nodes = random.sample(primaries, min(2, len(primaries)))
    if not nodes or nodes[0] is None:
        raise BrokenConnection(f"no node {node} of the cluster is known here")
    return nodes


def string(reply: Any) -> bytes | None:
    """Read the reply to a GET: of something that is no string it is an error, where MGET says nothing."""
    if isinstance(reply, ResponseError):
        if "WRONGTYPE" in str(reply):
            return None
        raise reply
    return reply if reply is None else bytes(reply)


def missing_scripts(calls: Sequence[Call[Any]], replies: Sequence[Any]) -> dict[int, Words]:
    """Return what is to be sent again, with the script's text, because the server did not know its digest."""
    return {
        index: call.words_with_source()
        for index, (call, reply) in enumerate(zip(calls, replies, strict=True))
        if isinstance(reply, NoScriptError) and isinstance(call, Script)
    }


def redirected(replies: Iterable[Any]) -> list[int]:
    """Return which replies say that another node of the cluster is to be asked."""
    return [index for index, reply in enumerate(replies) if isinstance(reply, _REDIRECTS)]


def results(
    calls: Sequence[Call[Any]], replies: Sequence[Any], translate: Callable[[BaseException], Exception]
) -> list[Any]:
    """Parse the replies.

    Raises:
        RedisUnavailable: one of them is an error, by `translate`.
    """
    for reply in replies:
        if isinstance(reply, RedisError):
            raise translate(reply) from reply
    return [call.parse(reply) for call, reply in zip(calls, replies, strict=True)]


def topology(raw: bytes | str) -> TopologyView:
    """Read which primaries there are, which slots they hold, and whether any are on the move, from CLUSTER NODES."""
    text = raw.decode() if isinstance(raw, bytes) else raw
    nodes, lines, moving = [], [], False
    for line in text.splitlines():
        _, address, flags, _, _, _, _, _, *slots = line.split()
        if "master" not in flags.split(",") or "noaddr" in flags or not slots:
            continue
        moving = moving or any(slot.startswith("[") for slot in slots)
        name = address.partition("@")[0].partition(",")[0]
        nodes.append(name)
        lines.append(f"{name} {' '.join(slots)}")
    return TopologyView(tuple(nodes), "\n".join(sorted(lines)), moving)


class _Later:
    """Stands for "a driver has to do this"."""


#: What `at_once` replies to a command that needs Redis, the loader, or waiting.
LATER: Final = _Later()


def at_once(command: Command[Any], flights: Flights[Any], mine: list[Flight[Any]]) -> Any:
    """Do a command that concerns this process alone and waits for nothing; `LATER` for any other.

    Args:
        command: what a flow asks for.
        flights: the loads in flight in this process, or on this event loop.
        mine: those of them that this flow leads.
    """
    match command:
        case Clock():
            return time.monotonic()
        case Wall():
            return time.time_ns() // 1_000_000
        case Random(count):
            return os.urandom(count)
        case Lead(entry, token):
            mine.append(flights.lead(entry, token))
        case Land(_, token, outcome):
            for flight in mine:
                if flight.token == token:
                    flights.land(flight, outcome)
        case _:
            return LATER
    return None


def loaded(
    command: Load, value: Any, error: BaseException | None, tags: Sequence[str], seconds: float
) -> Loaded:
    """Return what a loader did; a tag that it may not name is its error."""
    if 0 < command.lease < seconds:
        logger.warning(
            "the load of %r took %.1f s, longer than its lease of %.1f s: it is not stored. Raise lease_ttl.",
            command.entry,
            seconds,
            command.lease,
        )
    try:
        return Loaded(value, error, check_tags(tags), seconds)
    except UsageError as wrong:
        return Loaded(None, error or wrong, (), seconds)
