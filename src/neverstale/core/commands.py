"""Every effect that a flow may ask for.

A flow is a generator: it yields a command and is sent the command's reply, or has thrown into it what went wrong
(`RedisUnavailable`, where Redis did not do it). A driver runs it, on threads, on an event loop, or one step at a
time in whatever order a test chooses. `reply = yield from Fetch(keys)` is typed: a command iterates to itself.

What a flow never does: ask for the time, for randomness, for sleep or for a lock by any other way than here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

from neverstale.receipt import Receipt

__all__ = [
    "Acquire",
    "Announce",
    "Call",
    "Clock",
    "Command",
    "Drop",
    "DropSlot",
    "Enlist",
    "Fetch",
    "Fill",
    "Flow",
    "Join",
    "Land",
    "Lead",
    "Load",
    "Loaded",
    "Outcome",
    "Random",
    "Release",
    "Restamp",
    "Scan",
    "Script",
    "Stamp",
    "Store",
    "Take",
    "Together",
    "Topology",
    "TopologyView",
    "Turn",
    "Wait",
    "Wall",
]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Flow: TypeAlias = Generator["Command[Any]", Any, T]


class Command(Generic[T_co]):
    """Something to be done by a driver; `T` is what it replies."""

    __slots__ = ()

    def __iter__(self) -> Generator[Command[Any], Any, T_co]:
        reply: T_co = yield self
        return reply


# --- Redis: one command on one key -------------------------------------------------------------------------------


class Call(Command[T]):
    """One Redis command, sent to the node that holds `key`."""

    __slots__ = ()

    @property
    def key(self) -> Any:
        """The key that decides which node of a cluster is asked."""
        raise NotImplementedError

    def words(self) -> tuple[Any, ...]:
        """The command as it is sent."""
        raise NotImplementedError

    def parse(self, reply: Any) -> T:
        """Turn Redis' reply into this command's."""
        raise NotImplementedError


class Script(Call[T]):
    """A Lua script of this folder; all its keys are in one slot."""

    __slots__ = ()
    name: ClassVar[str]

    def keys(self) -> tuple[Any, ...]:
        """KEYS of the script."""
        raise NotImplementedError

    def args(self) -> tuple[Any, ...]:
        """ARGV of the script."""
        raise NotImplementedError

    @property
    def key(self) -> Any:
        return self.keys()[0]

    def words(self) -> tuple[Any, ...]:
        keys = self.keys()
        return ("EVALSHA", DIGESTS[self.name], len(keys), *keys, *self.args())

    def words_with_source(self) -> tuple[Any, ...]:
        """The command for a server that does not have the script yet."""
        keys = self.keys()
        return ("EVAL", SOURCES[self.name], len(keys), *keys, *self.args())


def _sources() -> dict[str, str]:
    here = resources.files(__package__)
    return {f.name.removesuffix(".lua"): f.read_text() for f in here.iterdir() if f.name.endswith(".lua")}


#: The scripts by name, and the digests by which a server knows them.
SOURCES = _sources()
DIGESTS = {
    name: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest() for name, text in SOURCES.items()
}


@dataclass(frozen=True, slots=True)
class Acquire(Script["bytes"]):
    """Ask for the lease of an entry; replies b"" when granted, else the header of what is there."""

    name: ClassVar[str] = "acquire"
    entry: str
    seen: bytes
    lease: bytes
    lease_ms: int
    refresh: bool = False

    def keys(self) -> tuple[str, ...]:
        return (self.entry,)

    def args(self) -> tuple[Any, ...]:
        return ("refresh" if self.refresh else "fill", self.seen, self.lease, self.lease_ms)

    def parse(self, reply: Any) -> bytes:
        return bytes(reply)


@dataclass(frozen=True, slots=True)
class Fill(Script[bool]):
    """Store what was loaded if the lease still stands; replies whether it did."""

    name: ClassVar[str] = "fill"
    entry: str
    token: bytes
    raw: bytes
    ttl_ms: int

    def keys(self) -> tuple[str, ...]:
        return (self.entry,)

    def args(self) -> tuple[Any, ...]:
        return (self.token, self.raw, self.ttl_ms)

    def parse(self, reply: Any) -> bool:
        return bool(reply)


@dataclass(frozen=True, slots=True)
class Release(Script[bool]):
    """Give a lease back; the next refresh may be tried after `retry_ms`."""

    name: ClassVar[str] = "release"
    entry: str
    token: bytes
    retry_ms: int

    def keys(self) -> tuple[str, ...]:
        return (self.entry,)

    def args(self) -> tuple[Any, ...]:
        return (self.token, self.retry_ms)

    def parse(self, reply: Any) -> bool:
        return bool(reply)


@dataclass(frozen=True, slots=True)
class Stamp(Script["tuple[bytes, float | None]"]):
    """Read a stamp, made if missing; replies it with its age in seconds, None if it was made just now."""

    name: ClassVar[str] = "stamp"
    stamp: str
    fresh: str
    ttl_ms: int

    def keys(self) -> tuple[str, ...]:
        return (self.stamp,)

    def args(self) -> tuple[Any, ...]:
        return (self.fresh, self.ttl_ms)

    def parse(self, reply: Any) -> tuple[bytes, float | None]:
        stamp, age = reply
        return bytes(stamp), None if age < 0 else age / 1e6


@dataclass(frozen=True, slots=True)
class Restamp(Script[bool]):
    """Invalidate a tag by giving it a fresh stamp."""

    name: ClassVar[str] = "restamp"
    stamp: str
    fresh: str
    ttl_ms: int

    def keys(self) -> tuple[str, ...]:
        return (self.stamp,)

    def args(self) -> tuple[Any, ...]:
        return (self.fresh, self.ttl_ms)

    def parse(self, reply: Any) -> bool:
        return bool(reply)


@dataclass(frozen=True, slots=True)
class Enlist(Script[bool]):
    """Put an entry into the SET of a tag."""

    name: ClassVar[str] = "enlist"
    members: str
    stamp: str
    entry: str
    ttl_ms: int

    def keys(self) -> tuple[str, ...]:
        return (self.members, self.stamp)

    def args(self) -> tuple[Any, ...]:
        return (self.entry, self.ttl_ms)

    def parse(self, reply: Any) -> bool:
        return bool(reply)


@dataclass(frozen=True, slots=True)
class DropSlot(Script[int]):
    """Delete entries of one slot (on a single node: any); what a driver makes of `Drop`."""

    name: ClassVar[str] = "drop"
    entries: tuple[str | bytes, ...]

    def keys(self) -> tuple[Any, ...]:
        return self.entries

    def args(self) -> tuple[Any, ...]:
        return ()

    def parse(self, reply: Any) -> int:
        return int(reply)


@dataclass(frozen=True, slots=True)
class Store(Call[None]):
    """Set an entry, whatever is there; a lease that stood there is gone."""

    entry: str
    raw: bytes
    ttl_ms: int

    @property
    def key(self) -> str:
        return self.entry

    def words(self) -> tuple[Any, ...]:
        return ("SET", self.entry, self.raw, "PX", self.ttl_ms)

    def parse(self, reply: Any) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Take(Call["list[bytes]"]):
    """Take up to `count` members out of the SET of a tag."""

    members: str
    count: int

    @property
    def key(self) -> str:
        return self.members

    def words(self) -> tuple[Any, ...]:
        return ("SPOP", self.members, self.count)

    def parse(self, reply: Any) -> list[bytes]:
        return list(reply or ())


# --- Redis: many keys, many nodes --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fetch(Command["list[bytes | None]"]):
    """Read keys: one MGET on a single node, a pipeline a node on a cluster; what is no string reads as None."""

    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Together(Command["list[Any]"]):
    """Do several calls side by side, in any order; replies in theirs. If one fails, others may have been done."""

    calls: tuple[Call[Any], ...]


@dataclass(frozen=True, slots=True)
class Drop(Command[int]):
    """Delete entries, wherever they are; replies how many of them held a value."""

    keys: tuple[str | bytes, ...]


@dataclass(frozen=True, slots=True)
class TopologyView:
    """Which primaries there are, and whether slots are on the move between them."""

    nodes: tuple[str, ...]
    signature: str
    moving: bool


@dataclass(frozen=True, slots=True)
class Topology(Command[TopologyView]):
    """Ask which primaries there are now."""


@dataclass(frozen=True, slots=True)
class Scan(Command["tuple[int, list[bytes]]"]):
    """One step of SCAN on one primary; replies the next cursor (0 at the end) and the keys found."""

    node: str
    cursor: int
    pattern: str
    count: int


@dataclass(frozen=True, slots=True)
class Announce(Command[None]):
    """Tell subscribers in this process and, through Redis, in others that something was invalidated.

    Never fails the flow: an announcement is news, the invalidation itself is done.
    """

    receipt: Receipt


# --- the world outside ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Clock(Command[float]):
    """Seconds of this process's monotonic clock."""


@dataclass(frozen=True, slots=True)
class Wall(Command[int]):
    """Milliseconds since 1970. For soft expiry alone: no promise hangs on it."""


@dataclass(frozen=True, slots=True)
class Random(Command[bytes]):
    """So many unpredictable bytes."""

    count: int


@dataclass(frozen=True, slots=True)
class Wait(Command[None]):
    """Wait about so many seconds for an entry to change; a driver may wake earlier, and jitters."""

    entry: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a loader did: its value or its exception, the tags that it named, and how long it took in seconds."""

    value: Any = None
    error: BaseException | None = None
    tags: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Load(Command[Loaded]):
    """Run the loader. Its exception is in the reply.

    Attributes:
        loader: to be called without arguments.
        entry: what it loads.
        lease: seconds that its lease lasts, or 0 for none: what takes longer is not stored, which is worth a warning.
    """

    loader: Callable[[], Any]
    entry: str = ""
    lease: float = 0.0


# --- one load for many callers of this process --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a load gives to those who waited for it.

    Attributes:
        value: what was loaded, encoded and decoded as a hit would be.
        error: the loader's exception, or None.
        stamps: tags with the stamps that the load was made under.
        shareable: False where nobody but the loader's own caller may have it.
    """

    value: Any = None
    error: BaseException | None = None
    stamps: tuple[tuple[str, bytes], ...] = field(default=())
    shareable: bool = True


@dataclass(frozen=True, slots=True)
class Lead(Command[None]):
    """Make known in this process that the load under this lease is in flight here, until the flow ends."""

    entry: str
    token: bytes


@dataclass(frozen=True, slots=True)
class Join(Command["Outcome | None"]):
    """Wait for the load under this lease, if it is in flight in this process.

    Replies None at once where it is not, and when it ended without an outcome.
    """

    entry: str
    token: bytes


@dataclass(frozen=True, slots=True)
class Turn(Command["Outcome | None"]):
    """Without Redis: wait for a load of this entry that begins after this command; at most one runs at a time.

    Replies its outcome, or None for the flow that has to run it, under `token`, and to `Land` it.
    """

    entry: str
    token: bytes


@dataclass(frozen=True, slots=True)
class Land(Command[None]):
    """Hand the outcome of a load to those who wait. What is shareable can be joined until the flow ends."""

    entry: str
    token: bytes
    outcome: Outcome
