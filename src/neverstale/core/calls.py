"""The commands that Redis gets: our scripts, and the few of its own that need none."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from typing import Any, ClassVar, Final, Literal, TypeVar

from .commands import Call

__all__ = [
    "ABSENT",
    "DIGESTS",
    "SOURCES",
    "Acquire",
    "Count",
    "DropSlot",
    "Enlist",
    "Fill",
    "Release",
    "Restamp",
    "Script",
    "Stamp",
    "Take",
    "TimeLeft",
]

#: What `TimeLeft` replies for a key that is not there; one without a TTL has -1.
ABSENT: Final = -2

T = TypeVar("T")


class Script(Call[T]):
    """A Lua script of this folder; all its keys are in one slot.

    Class attributes:
        name: of the script.
        key_fields, arg_fields: the fields that are its KEYS and ARGV, in their order.
    """

    __slots__ = ()
    name: ClassVar[str]
    key_fields: ClassVar[tuple[str, ...]] = ("entry",)
    arg_fields: ClassVar[tuple[str, ...]] = ()

    def keys(self) -> tuple[Any, ...]:
        """KEYS of the script."""
        return tuple(getattr(self, field) for field in self.key_fields)

    def args(self) -> tuple[Any, ...]:
        """ARGV of the script."""
        return tuple(getattr(self, field) for field in self.arg_fields)

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

    def parse(self, reply: Any) -> T:
        result: T = reply
        return result


def _sources() -> dict[str, str]:
    here = resources.files("neverstale.core")
    return {f.name.removesuffix(".lua"): f.read_text() for f in here.iterdir() if f.name.endswith(".lua")}


#: The scripts by name, and the digests by which a server knows them.
SOURCES = _sources()
DIGESTS = {
    name: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest() for name, text in SOURCES.items()
}


@dataclass(frozen=True, slots=True)
class Acquire(Script[bytes]):
    """Ask for the lease of an entry; replies b"" when granted, else the header of what is there."""

    name: ClassVar[str] = "acquire"
    arg_fields: ClassVar[tuple[str, ...]] = ("mode", "seen", "lease", "lease_ms")
    entry: str
    mode: Literal["fill", "refresh", "claim"]
    seen: bytes
    lease: bytes
    lease_ms: int


@dataclass(frozen=True, slots=True)
class Fill(Script[int]):
    """Store what was loaded if the lease still stands; replies 1 if it did."""

    name: ClassVar[str] = "fill"
    arg_fields: ClassVar[tuple[str, ...]] = ("token", "raw", "ttl_ms")
    entry: str
    token: bytes
    raw: bytes
    ttl_ms: int


@dataclass(frozen=True, slots=True)
class Release(Script[int]):
    """Give a lease back; the next refresh may be tried after `retry_ms`, and after 0 the old value is gone."""

    name: ClassVar[str] = "release"
    arg_fields: ClassVar[tuple[str, ...]] = ("token", "retry_ms")
    entry: str
    token: bytes
    retry_ms: int


@dataclass(frozen=True, slots=True)
class Stamp(Script["tuple[bytes, float | None]"]):
    """Read a stamp, made if missing; replies it with its age in seconds, None if it was made just now."""

    name: ClassVar[str] = "stamp"
    key_fields: ClassVar[tuple[str, ...]] = ("stamp",)
    arg_fields: ClassVar[tuple[str, ...]] = ("fresh", "ttl_ms")
    stamp: str
    fresh: str
    ttl_ms: int

    def parse(self, reply: Any) -> tuple[bytes, float | None]:
        stamp, age = reply
        return bytes(stamp), None if age < 0 else age / 1e6


@dataclass(frozen=True, slots=True)
class Restamp(Script[int]):
    """Invalidate a tag by giving it a fresh stamp; a soft one names the stamp before it."""

    name: ClassVar[str] = "restamp"
    key_fields: ClassVar[tuple[str, ...]] = ("stamp",)
    arg_fields: ClassVar[tuple[str, ...]] = ("fresh", "ttl_ms", "soft")
    stamp: str
    fresh: str
    ttl_ms: int
    soft: int = 0


@dataclass(frozen=True, slots=True)
class Enlist(Script[int]):
    """Put an entry into the SET of a tag."""

    name: ClassVar[str] = "enlist"
    key_fields: ClassVar[tuple[str, ...]] = ("members",)
    arg_fields: ClassVar[tuple[str, ...]] = ("entry", "ttl_ms")
    members: str
    entry: str
    ttl_ms: int


@dataclass(frozen=True, slots=True)
class DropSlot(Script[int]):
    """Delete entries of one slot (on a single node: any); what a driver makes of `Drop`."""

    name: ClassVar[str] = "drop"
    entries: tuple[str | bytes, ...]

    def keys(self) -> tuple[Any, ...]:
        return self.entries


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


@dataclass(frozen=True, slots=True)
class Count(Call[int]):
    """Count the members of the SET of a tag; needs a right that the cache itself does without (SCARD)."""

    members: str

    @property
    def key(self) -> str:
        return self.members

    def words(self) -> tuple[Any, ...]:
        return ("SCARD", self.members)

    def parse(self, reply: Any) -> int:
        return int(reply)


@dataclass(frozen=True, slots=True)
class TimeLeft(Call[int]):
    """Ask how many milliseconds a key has left; with the rights of a cache also the way to ask if it is there."""

    name: str | bytes

    @property
    def key(self) -> str | bytes:
        return self.name

    def words(self) -> tuple[Any, ...]:
        return ("PTTL", self.name)

    def parse(self, reply: Any) -> int:
        return int(reply)
