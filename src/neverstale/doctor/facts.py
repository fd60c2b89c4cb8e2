"""Ask a node everything that the checks want to know. What it refuses to say is noted, and is no failure."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import redis

from neverstale.core.calls import DIGESTS
from neverstale.drive.connection import REDIS_ERRORS, unavailable

from .nodes import Node, version_of

__all__ = ["DANGEROUS", "Facts", "SlowCommand", "gather"]

T = TypeVar("T")

#: So many PINGs tell the latency, and so many TIMEs the clock: the quickest of each counts, which is the one that
#: waited least on the way.
_SAMPLES: Final = 7
#: As many entries of the slow log as Redis keeps unless told otherwise (slowlog-max-len).
_SLOW: Final = 128
#: What the cache never needs and anybody who gets hold of its password could do with it, each with arguments that
#: would be valid; none is carried out (ACL DRYRUN).
DANGEROUS: Final[tuple[tuple[str, ...], ...]] = (
    ("FLUSHALL",),
    ("FLUSHDB",),
    ("KEYS", "*"),
    ("CONFIG", "SET", "maxmemory", "0"),
    ("SHUTDOWN",),
    ("REPLICAOF", "NO", "ONE"),
    ("ACL", "SETUSER", "somebody"),
    ("MODULE", "LOAD", "/somewhere"),
)


@dataclass(frozen=True)
class SlowCommand:
    """One line of a node's slow log.

    Attributes:
        command: its name and the beginning of its arguments.
        milliseconds: that it took.
        ours: whether it was one of Neverstale's scripts, or named a key of the namespace.
    """

    command: str
    milliseconds: float
    ours: bool


@dataclass
class Facts:
    """What one node said.

    Attributes:
        unreachable: why it did not answer at all, or "".
        refused: what it would not tell, with its reason.
        offset: seconds that its clock is ahead of this machine's; None if it was not told.
        doubt: by how much that may be wrong: half of the round trip.
        latency: milliseconds of the quickest and of the middle round trip.
        allowed: which of `DANGEROUS` the cache's user may do.
    """

    name: str
    role: str
    loopback: bool
    unreachable: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    offset: float | None = None
    doubt: float = 0.0
    latency: tuple[float, float] | None = None
    slow: tuple[SlowCommand, ...] = ()
    cluster: Mapping[str, str] = field(default_factory=dict)
    map: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    user: str = ""
    user_flags: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    keys: int = 0

    @property
    def server(self) -> tuple[str, str]:
        """Its name and version."""
        return version_of(dict(self.info))

    def number(self, name: str) -> float:
        """Return a figure of INFO, 0 where it is not told."""
        value = self.info.get(name, 0)
        return float(value) if isinstance(value, int | float) else 0.0


def gather(node: Node, namespace: str, *, is_cluster: bool) -> Facts:
    """Ask one node; never raises because of it."""
    facts = Facts(node.name, node.role, node.loopback)
    client = node.client
    try:
        _measure(client, facts)
        facts.info = _asked(facts, "INFO", lambda: _info(client)) or {}
        # RESP 2 tells a replica's role only here, also without a cluster.
        if facts.info.get("role") == "slave":
            facts.role = "replica"
        config: Any = _asked(facts, "CONFIG GET", lambda: client.config_get("*"))
        facts.config = config or {}
        facts.keys = int(_asked(facts, "DBSIZE", client.dbsize) or 0)
        slow = _asked(facts, "SLOWLOG GET", lambda: client.slowlog_get(_SLOW)) or []
        facts.slow = tuple(_slow(each, f"{namespace}:" if namespace else "") for each in slow)
        _ask_rights(client, facts)
        if is_cluster:
            facts.cluster = (
                _asked(facts, "CLUSTER INFO", lambda: client.execute_command("CLUSTER INFO")) or {}
            )
            facts.map = _asked(facts, "CLUSTER NODES", lambda: client.execute_command("CLUSTER NODES")) or {}
    except REDIS_ERRORS as problem:
        facts.unreachable = str(unavailable(problem))
    return facts


def _asked(facts: Facts, what: str, ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except redis.ResponseError as problem:
        facts.refused[what] = " ".join(str(problem).split())
        return None


def _info(client: redis.Redis) -> Mapping[str, Any]:
    found: Mapping[str, Any] = client.info("everything")
    return found


def _measure(client: redis.Redis, facts: Facts) -> None:
    """Measure the way there and, on the way, the clock."""
    trips, offsets = [], []
    for _ in range(_SAMPLES):
        began, wall = time.perf_counter(), time.time()
        told = _asked(facts, "TIME", client.time)
        took = time.perf_counter() - began
        trips.append(took)
        if told is not None:
            offsets.append((took, told[0] + told[1] / 1e6 - (wall + took / 2)))
    trips.sort()
    facts.latency = (trips[0] * 1000, trips[len(trips) // 2] * 1000)
    if offsets:
        took, facts.offset = min(offsets)
        facts.doubt = took / 2


def _ask_rights(client: redis.Redis, facts: Facts) -> None:
    user = _asked(facts, "ACL WHOAMI", client.acl_whoami)
    if user is None:
        return
    facts.user = user.decode() if isinstance(user, bytes) else str(user)
    told: Any = _asked(facts, "ACL GETUSER", lambda: client.acl_getuser(facts.user))
    if told:
        facts.user_flags = tuple(_text(flag) for flag in told.get("flags", ()))
    allowed = []
    for words in DANGEROUS:
        reply = _asked(facts, "ACL DRYRUN", lambda words=words: client.acl_dryrun(facts.user, *words))  # type: ignore[misc]
        if reply is None:
            # Who may not ask is no administrator: that is as it should be.
            return
        if _text(reply) == "OK":
            allowed.append(" ".join(words[:2] if words[0] in ("CONFIG", "ACL", "MODULE") else words[:1]))
    facts.allowed = tuple(allowed)


def _slow(entry: Mapping[str, Any], space: str) -> SlowCommand:
    command = _text(entry.get("command", b""))
    ours = bool(space) and f" {space}" in command
    ours = ours or any(digest in command for digest in DIGESTS.values())
    return SlowCommand(command[:120], float(entry.get("duration", 0)) / 1000, ours)


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
