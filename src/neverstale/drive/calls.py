"""What both drivers do alike, without I/O: calls to the words that are sent, replies back, and what is done at once."""

from __future__ import annotations

import logging
import os
import random
import re
import time
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final, TypeAlias, TypeVar

from hiredis import pack_command
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
    Join,
    Land,
    Lead,
    Load,
    Loaded,
    Random,
    TopologyView,
    Turn,
    Wait,
    Wall,
)
from neverstale.core.keys import check_tags
from neverstale.counters import REDIS_BOUNDS, Counters
from neverstale.errors import RedisUnavailable, UsageError
from neverstale.events import ConnectionEvent
from neverstale.flight import Flight, Flights
from neverstale.loading import Answer

from .clients import AsyncConnections, Connections
from .connection import REDIS_ERRORS, plain, unavailable

__all__ = [
    "LATER",
    "Late",
    "Words",
    "asked",
    "at_once",
    "in_chunks",
    "in_time",
    "loaded",
    "missing_scripts",
    "one_each",
    "pack",
    "redirected",
    "results",
    "run_id",
    "slot_of",
    "string",
    "to_ask",
    "topology",
]

logger = logging.getLogger("neverstale")

Words: TypeAlias = tuple[Any, ...]
T = TypeVar("T")

#: So many deletions take a server about a millisecond.
_CHUNK: Final = 500
#: Replies of a cluster that mean: ask again, elsewhere or a little later.
_REDIRECTS = (MovedError, AskError, TryAgainError, ClusterDownError)


def slot_of(key: str | bytes) -> int:
    """Return the hash slot of a key."""
    return key_slot(key.encode() if isinstance(key, str) else key)


def in_chunks(keys: Sequence[str | bytes]) -> tuple[DropSlot, ...]:
    """Divide the keys that are to be deleted on one node: while a script runs, nobody else is served."""
    return tuple(DropSlot(tuple(keys[at : at + _CHUNK])) for at in range(0, len(keys), _CHUNK))


def one_each(keys: Iterable[str | bytes]) -> tuple[DropSlot, ...]:
    """Return the calls that delete keys on a cluster: one a key, for some of a slot on the move may be elsewhere."""
    return tuple(DropSlot((key,)) for key in keys)


def to_ask(cluster: Any, node: str) -> list[Any]:
    """Return the nodes of a cluster to ask one after the other: the one that is named, or two of any.

    Raises:
        redis.ConnectionError: none is known.
    """
    if node:
        nodes = [cluster.get_node(node_name=node)]
    else:
        # The same one first, so that news arrive in their order.
        first = cluster.get_default_node()
        others = [other for other in cluster.get_primaries() if other is not first]
        nodes = [first, *random.sample(others, min(1, len(others)))]
    if nodes[0] is None:
        raise BrokenConnection(f"no node {node} of the cluster is known here")
    return nodes


def string(reply: Any) -> bytes | None:
    """Read the reply to a GET: of something that is no string it is an error, where MGET says nothing."""
    if isinstance(reply, ResponseError):
        if "WRONGTYPE" in str(reply):
            return None
        raise reply
    return reply if reply is None else bytes(reply)


def pack(words: Words) -> bytes:
    """Return a command as it is sent."""
    packed: bytes = pack_command(plain(words))
    return packed


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


def run_id(info: Any) -> str:
    """Return which run of a server an INFO tells of; nothing where it may not be asked."""
    found = None if isinstance(info, ResponseError) else re.search(rb"run_id:(\w+)", info)
    return found[1].decode() if found else ""


def topology(views: Iterable[tuple[str, bytes, Any]]) -> TopologyView:
    """Put together what the primaries say of themselves: only a node that gives or takes a slot knows that it does.

    Args:
        views: for each primary that the client knows its name there, its CLUSTER NODES and its INFO.
    """
    names, lines, moving = [], [], False
    owned, assigned = 0, 0
    for name, text, info in views:
        names.append(name)
        assigned = 0
        for line in text.decode().splitlines():
            _, _, flags, _, _, _, _, _, *slots = line.split()
            ranges = [slot for slot in slots if not slot.startswith("[")]
            size = sum(
                int(last or first) - int(first) + 1 for first, _, last in (r.partition("-") for r in ranges)
            )
            assigned += size
            if "myself" in flags.split(","):
                owned += size
                moving = moving or len(slots) > len(ranges)
                lines.append(f"{name} {run_id(info)} {' '.join(slots)}")
    # Slots of a primary that the client does not know yet: it will, soon.
    return TopologyView(tuple(names), "\n".join(sorted(lines)), moving or owned != assigned)


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


#: So many seconds before their time timers may go off: who was waked by one has no time left.
_EARLY: Final = 0.001


class Late(Exception):
    """The time of a flow's caller is up while it waits for what others do: nothing is lost if it ends here."""


def in_time(command: Command[Any], ends: float) -> Command[Any]:
    """Return a command with its waiting cut to what is left of the time of the flow's caller.

    A load under a lease is begun in any case: others may wait for it. Without one, a load for nobody is not begun: when
    Redis is away, all whose time is up while they wait for their turn would load at once.

    Args:
        command: what a flow asks for.
        ends: when the time is up, by this process's monotonic clock.

    Raises:
        Late: it is up.
    """
    match command:
        case Join() | Turn() | Wait() | Load(lease=0.0):
            left = ends - time.monotonic()
            if left <= _EARLY:
                raise Late
            return (
                command if isinstance(command, Load) else replace(command, seconds=min(command.seconds, left))
            )
        case _:
            return command


@contextmanager
def asked(counters: Counters, connections: Connections | AsyncConnections) -> Generator[None, None, None]:
    """Count what the block asks of Redis, its time and its failures, and translate these.

    Raises:
        RedisUnavailable: Redis did not answer, or refused.
    """
    began = time.perf_counter()
    try:
        yield
    except RedisUnavailable as error:
        # Redis answered, and refused: out of memory, no permission, read-only. Logged as what breaks a connection is,
        # once in a while.
        counters.errors += 1
        connections.events.emit(ConnectionEvent("error", str(connections.settings.url), str(error)))
        raise
    except REDIS_ERRORS as error:
        counters.errors += 1
        raise unavailable(error) from error
    finally:
        took = time.perf_counter() - began
        counters.redis_seconds += took
        counters.redis_times[bisect_left(REDIS_BOUNDS, took)] += 1


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
    answer = value if isinstance(value, Answer) else Answer(value)
    try:
        named = check_tags((*tags, *answer.tags))
        return Loaded(answer.value, error, named, seconds, answer.lifetime, answer.keep, answer.forget)
    except UsageError as wrong:
        return Loaded(None, error or wrong, (), seconds)
