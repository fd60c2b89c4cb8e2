"""Every effect that a flow may ask for.

A flow is a generator: it yields a command and is sent the command's reply, or has thrown into it what went wrong
(`RedisUnavailable`, where Redis did not do it). A driver runs it, on threads, on an event loop, or one step at a
time in whatever order a test chooses. `reply = yield from Fetch(keys)` is typed: a command iterates to itself.

What a flow never does: ask for the time, for randomness, for sleep or for a lock by any other way than here.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Generic, TypeAlias, TypeVar

from neverstale.lifetime import Lifetime
from neverstale.receipt import Receipt

__all__ = [
    "Announce",
    "Call",
    "Clock",
    "Command",
    "Drop",
    "Fetch",
    "Flow",
    "Given",
    "Join",
    "Land",
    "Lead",
    "Load",
    "Loaded",
    "Outcome",
    "Random",
    "Scan",
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
    """One Redis command, sent to the node that holds `key`; those there are stand in `calls`."""

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
    """Delete entries, wherever they are; replies how many of `keys` held a value. Those `beside` are not counted."""

    keys: tuple[str | bytes, ...]
    beside: tuple[str, ...] = ()


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
    prefix: str
    reason: str


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
    """What a loader did: its value or its exception, the tags that it named, and how long it took in seconds.

    `life`, `keep` and `forget` are what `neverstale.loading.Answer` says.
    """

    value: Any = None
    error: BaseException | None = None
    tags: tuple[str, ...] = ()
    seconds: float = 0.0
    life: Lifetime | None = None
    keep: bool = True
    forget: bool = True


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
        sealed: what was loaded, encoded.
        error: the loader's exception, or None.
        stamps: tags with the stamps that the load was made under.
        shareable: False where nobody but the loader's own caller may have it.
        kept: False where it is not to be stored either: the next load would not be of use to others, too.
    """

    sealed: Any = None
    error: BaseException | None = None
    stamps: tuple[tuple[str, bytes], ...] = field(default=())
    shareable: bool = True
    kept: bool = True
    traceback: TracebackType | None = None


@dataclass(frozen=True, slots=True)
class Given:
    """What a read ends with: a value, or the exception of the loader with its traceback as it was when it landed."""

    value: Any = None
    error: BaseException | None = None
    traceback: TracebackType | None = None


@dataclass(frozen=True, slots=True)
class Lead(Command[None]):
    """Make known in this process that the load under this lease is in flight here, until the flow ends."""

    entry: str
    token: bytes


@dataclass(frozen=True, slots=True)
class Join(Command["Outcome | None"]):
    """Wait for the load under this lease, if it is in flight in this process, for so many seconds at most.

    Replies None at once where it is not in flight, and when it ended without an outcome or did not end in time.
    """

    entry: str
    token: bytes
    seconds: float


@dataclass(frozen=True, slots=True)
class Turn(Command["Outcome | None"]):
    """Without Redis: wait for a load of this entry that begins after this command; at most one runs at a time.

    Replies its outcome, or None for the flow that has to run it, under `token`, and to `Land` it. Also None after so
    many seconds: then it loads for itself alone.
    """

    entry: str
    token: bytes
    seconds: float


@dataclass(frozen=True, slots=True)
class Land(Command[None]):
    """Hand the outcome of a load to those who wait. What is shareable can be joined until the flow ends."""

    entry: str
    token: bytes
    outcome: Outcome
