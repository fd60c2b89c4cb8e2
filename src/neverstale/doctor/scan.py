"""Look at every key of a namespace: what it is, how long it lives, how much memory it takes.

Rules:
- Nothing is changed and nothing large is read: of an entry the header, never the value.
- The server's other clients come first. A step of SCAN looks at some hundred keys, and between two steps there is a
  pause, so that not more than `rate` keys a second are looked at, whether they are ours or not.
- What SCAN tells of data that change meanwhile is not exact: a key may come twice, one that comes and goes not at all.
  A key that is there all the time comes. So nothing without a TTL is missed.
- MEMORY USAGE costs the server as much as a read. Up to `_EXACT` keys all are asked for, of more every n-th, and sums
  are scaled up: they are estimates then, and say so.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import redis
from redis.exceptions import AskError, MovedError, TryAgainError

from neverstale.cache import Cache
from neverstale.core.commands import Fetch, Flow
from neverstale.core.entry import MAGIC, parse
from neverstale.core.keys import Keys
from neverstale.core.policy import State, examine
from neverstale.drive.connection import REDIS_ERRORS, unavailable
from neverstale.errors import RedisUnavailable
from neverstale.lifetime import DAY_MS

from .elsewhere import namespaces_on
from .members import MemberSample, sample_members
from .names import Kind, Name, Names
from .nodes import Node

__all__ = ["Big", "Group", "Plain", "Scan", "Scanner", "shown"]

#: Keys for which MEMORY USAGE is asked of each: about a second of a server's time.
_EXACT: Final = 100_000
#: Keys that a step of SCAN looks at: a fraction of a millisecond of the server's time.
_STEP: Final = 500
#: Bytes of an entry that are read: header and a dozen tags. Of those that have more, all of it up to `_HEADER_MOST`.
_HEADER: Final = 1024
_HEADER_MOST: Final = 300 * 1024
#: So many of the largest keys are told.
_BIGGEST: Final = 20
#: So many names are kept for each thing that is found; the count goes on.
_EXAMPLES: Final = 10
#: So many keys can be mended in one run: their names are kept in memory.
_MENDABLE: Final = 200_000
#: Tags that are counted one by one: 50,000 are about 10 MB here. Those that come later are counted together.
_TAGS: Final = 50_000
#: Characters of a name that are told. Ours are shorter; Redis allows half a gigabyte.
_LENGTH: Final = 1000
OTHER_TAGS: Final = "(others)"
_REDIRECTS: Final = (AskError, MovedError, TryAgainError)


@dataclass
class Group:
    """Keys that are counted together.

    Attributes:
        keys: how many.
        measured: of how many of them the memory was asked.
        bytes: what these take.
    """

    keys: int = 0
    measured: int = 0
    bytes: int = 0

    def add(self, size: int | None) -> None:
        """Count a key; `size` is None where it was not measured."""
        self.keys += 1
        if size is not None:
            self.measured += 1
            self.bytes += size

    @property
    def memory(self) -> int | None:
        """Bytes that all of them take, estimated where not all were measured; None where none was."""
        return round(self.bytes * self.keys / self.measured) if self.measured else None

    def as_dict(self) -> dict[str, Any]:
        """What is told of it."""
        return {"keys": self.keys, "bytes": self.memory, "estimated": self.measured < self.keys}


@dataclass(frozen=True)
class Big:
    """One of the largest keys."""

    bytes: int
    key: str
    kind: str


@dataclass(frozen=True)
class Plain:
    """A key whose TTL is wrong: none (-1), or too long, in milliseconds."""

    node: str
    key: bytes
    name: Name
    ttl_ms: int


@dataclass
class Scan:
    """What was found.

    Attributes:
        expected: keys of all databases' nodes, by DBSIZE.
        looked_at: keys that SCAN went through.
        kinds, prefixes, versions, tags: groups of keys of the namespace; an entry with several tags counts for each.
        dead: entries that are not served any more, because a tag of theirs was invalidated.
        leases: entries that are being loaded.
        lasting: keys without a TTL; `lasting_count` goes on where `lasting` is full.
        long: keys with a TTL above a day.
        strange: entries by their names whose contents are not Neverstale's; examples.
        members: what became of the members of tags.
        refused: commands that were refused, with the reason.
        failed: nodes that did not answer to the end, with the reason.
        elsewhere: where nothing of the cache was found, namespaces that keys were seen of; "" is that of none.
        complete: whether it came to its end, on every node.
    """

    expected: int = 0
    looked_at: int = 0
    every: int = 1
    seconds: float = 0.0
    kinds: dict[str, Group] = field(default_factory=dict)
    prefixes: dict[str, Group] = field(default_factory=dict)
    versions: dict[int, Group] = field(default_factory=dict)
    tags: dict[str, Group] = field(default_factory=dict)
    dead: Group = field(default_factory=Group)
    leases: int = 0
    biggest: list[Big] = field(default_factory=list)
    lasting: list[Plain] = field(default_factory=list)
    lasting_count: int = 0
    long: list[Plain] = field(default_factory=list)
    long_count: int = 0
    foreign: list[str] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)
    strange_count: int = 0
    members: MemberSample = field(default_factory=MemberSample)
    refused: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    elsewhere: list[str] = field(default_factory=list)
    complete: bool = False

    @property
    def keys(self) -> int:
        """How many keys of the namespace were found."""
        return sum(group.keys for name, group in self.kinds.items() if name != Kind.OUTSIDE.value)

    @property
    def own(self) -> int:
        """How many of them are the cache's by their names."""
        theirs = self.kinds.get(Kind.FOREIGN.value)
        return self.keys - (theirs.keys if theirs else 0)

    def as_dict(self, most: int = 20) -> dict[str, Any]:
        """What is told of it; of tags the `most` that take most."""
        return {
            "complete": self.complete,
            "seconds": round(self.seconds, 3),
            "keys_in_redis": self.expected,
            "keys": self.keys,
            "measured": "every key" if self.every == 1 else f"every {self.every}th key; sums are estimates",
            "by_kind": {name: group.as_dict() for name, group in sorted(self.kinds.items())},
            "by_prefix": _told(self.prefixes, most),
            "by_version": {str(name): group.as_dict() for name, group in sorted(self.versions.items())},
            "by_tag": _told(self.tags, most),
            "not_served": self.dead.as_dict(),
            "leases": self.leases,
            "biggest": [{"bytes": big.bytes, "key": big.key, "kind": big.kind} for big in self.biggest],
            "without_ttl": {"count": self.lasting_count, "examples": _names(self.lasting)},
            "ttl_above_a_day": {"count": self.long_count, "examples": _names(self.long)},
            "foreign": self.foreign,
            "not_ours_inside": {"count": self.strange_count, "examples": self.strange},
            "tag_members": self.members.as_dict(),
            "refused": self.refused,
            "failed": self.failed,
            "namespaces_seen": self.elsewhere,
        }


def _told(groups: dict[str, Group], most: int) -> dict[str, Any]:
    ranked = heapq.nlargest(most, groups.items(), key=lambda item: (item[1].memory or 0, item[1].keys))
    return {name: group.as_dict() for name, group in ranked}


def _names(found: list[Plain]) -> list[str]:
    return [shown(each.key) for each in found[:_EXAMPLES]]


def shown(raw: bytes) -> str:
    """Return a name as it is told."""
    text = raw[: _LENGTH + 1].decode(errors="backslashreplace")
    return text if len(raw) <= _LENGTH else f"{text[:_LENGTH]}…"


class Scanner:
    """Goes through the keys of a cache's namespace.

    Args:
        cache: whose namespace is looked at.
        nodes: the primaries.
        rate: keys that are looked at per second; 0 for as fast as it goes.
        progress: called with the scan after each step.
        sleep: for tests.
    """

    def __init__(
        self,
        cache: Cache,
        nodes: list[Node],
        *,
        rate: float,
        progress: Callable[[Scan], object] = lambda scan: None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._cache = cache
        self._nodes = nodes
        self._rate = rate
        self._progress = progress
        self._sleep = sleep
        self._names = Names(cache.settings.namespace)
        self._keys = Keys(cache.settings.namespace, cache.settings.version, "")
        self._stamps: dict[str, bytes | None] = {}
        self._top: list[tuple[int, str, str]] = []
        self._count = 0
        self.found = Scan()

    def run(self) -> Scan:
        """Look at all keys; `found` has what was found until now, also after an interruption.

        A node that stops answering is left for the next one.
        """
        began = time.monotonic()
        try:
            for node in self._nodes:
                with self._failing(node):
                    self.found.expected += int(_allowed(self.found, "DBSIZE", node.client.dbsize) or 0)
            self.found.every = max(1, self.found.expected // _EXACT)
            for node in self._nodes:
                with self._failing(node):
                    for names in self._walk(node, began):
                        self._look_at(node, names)
            if not self.found.own:
                self._look_around()
            self.found.complete = not self.found.failed
        finally:
            self.found.seconds = time.monotonic() - began
            self.found.biggest = [Big(*each) for each in sorted(self._top, reverse=True)]
        return self.found

    def _look_around(self) -> None:
        seen: set[str] = set()
        for node in self._nodes:
            with self._failing(node):
                seen |= namespaces_on(node, rate=self._rate, sleep=self._sleep)
        # One that came since is this cache's own.
        self.found.elsewhere = sorted(seen - {self._cache.settings.namespace})

    @contextmanager
    def _failing(self, node: Node) -> Iterator[None]:
        try:
            yield
        except REDIS_ERRORS as problem:
            self.found.failed[node.name] = str(unavailable(problem))

    def _walk(self, node: Node, began: float) -> Iterator[list[bytes]]:
        cursor, found = 0, self.found
        scan: Any = node.client.scan  # its types allow for decoded replies
        while True:
            cursor, names = scan(cursor, match=self._names.pattern, count=_STEP)
            found.looked_at += _STEP
            yield list(dict.fromkeys(names))
            found.seconds = time.monotonic() - began
            self._progress(found)
            if not cursor:
                return
            if self._rate:
                self._sleep(max(0.0, found.looked_at / self._rate - found.seconds))

    def _look_at(self, node: Node, raw_names: list[bytes]) -> None:
        named = [(raw, self._names.of(raw)) for raw in raw_names]
        ours = [each for each in named if each[1].kind is not Kind.OUTSIDE]
        for _ in range(len(named) - len(ours)):
            self._group(self.found.kinds, Kind.OUTSIDE.value).add(None)
        if not ours:
            return
        pipeline: Any = node.client.pipeline(transaction=False)
        measured = []
        for raw, name in ours:
            self._count += 1
            measure = self._count % self.found.every == 0
            measured.append(measure)
            pipeline.pttl(raw)
            if name.kind is Kind.ENTRY:
                pipeline.getrange(raw, 0, _HEADER - 1)
            if measure:
                pipeline.memory_usage(raw)
        replies = iter(pipeline.execute(raise_on_error=False))
        seen = []
        for (raw, name), measure in zip(ours, measured, strict=True):
            ttl = self._reply("PTTL", next(replies))
            head = next(replies) if name.kind is Kind.ENTRY else None
            size = self._reply("MEMORY USAGE", next(replies)) if measure else None
            if ttl == -2:
                continue  # gone since SCAN named it
            seen.append((raw, name, ttl, head, size))
        self._judge(node, seen)
        sets = [raw for raw, name, *_ in seen if name.kind is Kind.TAG]
        sample_members(self._cache, node, sets, self.found.members)
        if self.found.members.refused:
            self.found.refused["SRANDMEMBER"] = self.found.members.refused

    def _judge(self, node: Node, seen: list[tuple[bytes, Name, Any, Any, Any]]) -> None:
        found = self.found
        entries = []
        for raw, name, ttl, head, size in seen:
            told = shown(raw)
            self._group(found.kinds, name.kind.value).add(size)
            if size is not None:
                push = heapq.heappushpop if len(self._top) >= _BIGGEST else heapq.heappush
                push(self._top, (size, told, name.kind.value))
            if ttl == -1:
                found.lasting_count += 1
                if len(found.lasting) < _MENDABLE:
                    found.lasting.append(Plain(node.name, raw, name, ttl))
            elif ttl is not None and ttl > DAY_MS:
                found.long_count += 1
                if len(found.long) < _MENDABLE:
                    found.long.append(Plain(node.name, raw, name, ttl))
            if name.kind is Kind.FOREIGN and len(found.foreign) < _EXAMPLES:
                found.foreign.append(told)
            if name.kind is Kind.ENTRY:
                self._group(found.prefixes, name.prefix[:_LENGTH] or "(none)").add(size)
                self._group(found.versions, name.version).add(size)
                entries.append((node, raw, told, head, size))
        self._judge_entries(entries)

    def _judge_entries(self, entries: list[tuple[Node, bytes, str, Any, Any]]) -> None:
        found, headers = self.found, []
        for node, raw, told, head, size in entries:
            if isinstance(head, redis.ResponseError) and "WRONGTYPE" not in str(head):
                self._reply("GETRANGE", head)
                continue
            header = head if isinstance(head, bytes) else b""
            entry = parse(header)
            if entry is None and header[:2] == MAGIC and len(header) == _HEADER:
                client: Any = node.client
                header = client.getrange(raw, 0, _HEADER_MOST - 1)
                entry = parse(header)
            if entry is None:
                found.strange_count += 1
                if len(found.strange) < _EXAMPLES:
                    found.strange.append(told)
            elif entry.is_lease:
                found.leases += 1
            else:
                headers.append((header, entry, size))
        wanted = {tag for _, entry, _ in headers for tag, _ in entry.stamps} - self._stamps.keys()
        self._stamps.update(self._read_stamps(sorted(wanted)))
        for header, entry, size in headers:
            tags = [tag for tag, _ in entry.stamps]
            for tag in tags:
                known = tag in found.tags or len(found.tags) < _TAGS
                self._group(found.tags, tag if known else OTHER_TAGS).add(size)
            stamps = [self._stamps[tag] for tag in tags]
            if examine(header, tags, stamps, 0).state is State.INVALID:
                found.dead.add(size)
        if len(self._stamps) > _TAGS:
            self._stamps.clear()

    def _read_stamps(self, tags: list[str]) -> dict[str, bytes | None]:
        if not tags:
            return {}
        names = tuple(self._keys.stamp(tag) for tag in tags)
        try:
            found = self._cache._driver.run(_fetched(names), self._cache._counters, patient=True)
            return dict(zip(tags, found, strict=True))
        except RedisUnavailable as problem:
            # Taken as they are asked for by applications: where that is refused, nothing can be read at all.
            self.found.refused.setdefault("MGET", str(problem))
            return dict.fromkeys(tags)

    def _reply(self, what: str, reply: Any) -> Any:
        if isinstance(reply, redis.ResponseError):
            # A key whose slot is on the move is looked at elsewhere; what is refused is said.
            if not isinstance(reply, _REDIRECTS):
                self.found.refused.setdefault(what, " ".join(str(reply).split()))
            return None
        return reply

    @staticmethod
    def _group(groups: dict[Any, Group], name: Any) -> Group:
        return groups.setdefault(name, Group())


def _fetched(names: tuple[str, ...]) -> Flow[list[bytes | None]]:
    return (yield from Fetch(names))


def _allowed(found: Scan, what: str, ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except redis.ResponseError as problem:
        found.refused[what] = " ".join(str(problem).split())
        return None
