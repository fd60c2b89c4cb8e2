"""A database of version numbers, a cache over it, and the promise that is checked.

The truth is a number that only grows. A writer commits a larger one and invalidates; when that has returned, the
*floor* is what it committed. A reader notes the floor when it begins, and must not be given less. At rest no entry
that would be served holds less than the floor.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from neverstale.codecs import Undecodable, json_codec
from neverstale.core import commands as c
from neverstale.core import lease
from neverstale.core.calls import Enlist
from neverstale.core.entry import build
from neverstale.core.keys import Keys
from neverstale.core.patterns import invalidate_keys, invalidate_pattern
from neverstale.core.plan import Plan
from neverstale.core.policy import State, examine
from neverstale.core.read import read
from neverstale.core.store import store
from neverstale.core.tags import invalidate_tags
from neverstale.drive.sim import NOW_MS, Actor, Process, Scenario, Violation
from neverstale.drive.wire import SingleWire
from neverstale.errors import HeldOff, RedisUnavailable
from neverstale.lifetime import Lifetime
from neverstale.loading import Answer
from neverstale.sealing import ValueSealer

KEYS = Keys("sim", 1, "")
ENTRY = KEYS.entry("k")
TAG = "t"
SEALER = ValueSealer(json_codec(int), 1 << 20, 1 << 20)


#: Added to what one reader alone may have.
PRIVATE = 1_000_000


class Unloadable(LookupError):
    """What the loader raises for a row that is not there."""


@dataclass
class World:
    """What one run of a scenario remembers beside Redis and its actors."""

    wire: SingleWire
    truth: int = 1
    floor: int = 0
    floors: dict[str, int] = field(default_factory=dict)

    def commit(self) -> int:
        self.truth += 1
        return self.truth

    def check(self, who: str, value: Any, floor: int, own: int | None = None) -> None:
        if value >= PRIVATE and value != own:
            raise Violation(f"{who} was given what only the one who loaded it may have")
        value %= PRIVATE
        if value < floor:
            raise Violation(
                f"{who} was given version {value}; version {floor} was invalidated before it began"
            )


def plan(world: World, tags: tuple[str, ...], load: Callable[[], Any], **options: Any) -> Plan:
    terms: dict[str, Any] = {
        "entry": ENTRY,
        "keys": KEYS,
        "tags": tags,
        "life": Lifetime(60_000),
        "lease_ms": 30_000,
        "wait_limit": 1.0,
        "max_bytes": 1 << 20,
        "sealer": SEALER,
        "loader": load,
    }
    return Plan(**(terms | options))


def reader(
    world: World,
    name: str,
    *,
    tags: tuple[str, ...] = (TAG,),
    late: tuple[str, ...] = (),
    times: int = 1,
    process: Process | None = None,
    fails_below: int = 0,
    crash_after: int | None = None,
    fail_at: tuple[int, bool] | None = None,
    spread: Literal["", "forward", "backward"] = "",
    renews: bool = False,
    keep: bool = True,
    forget: bool = True,
    **options: Any,
) -> Actor:
    """Read the key, `times` times; the loader names `late` tags, and raises for a truth below `fails_below`.

    One that `renews` does not take what it finds as it is. With `keep` False what it loads is not to be stored.
    """
    home = process or Process()
    own: list[int] = []

    def load() -> Answer:
        if world.truth < fails_below:
            raise Unloadable(world.truth)
        value = world.truth if keep else world.truth + PRIVATE
        own[:] = [value]
        return Answer(value, tags=late, keep=keep, forget=forget)

    def program() -> c.Flow[None]:
        how = plan(world, tags, load, **options)
        for _ in range(times):
            # Part of the state: of two runs that differ in nothing else the one with the higher floor promises more.
            floor = world.floors[name] = world.floor
            try:
                seen: Any = yield from read(how, home.memory)
            except RedisUnavailable:
                seen = None
            if renews and seen is not None and seen.state is State.FRESH:
                seen = seen.expired()
            if seen is not None and seen.state in (State.FRESH, State.STALE):
                try:
                    value = SEALER.open(seen.entry)
                except Undecodable:
                    pass
                else:
                    world.check(name, value, floor)
                    if seen.state is State.STALE:
                        with suppress(RedisUnavailable):  # a driver logs it
                            yield from lease.refresh(how, seen, home.memory, home.counters)
                    continue
            own.clear()
            given = yield from lease.get_or_load(how, seen, home.memory, home.counters)
            if given.error is not None and how.fallback and seen is not None and seen.state is State.EXPIRED:
                assert seen.entry is not None
                given = c.Given(SEALER.open(seen.entry))
            assert not isinstance(given.error, HeldOff)
            # "There is no such row" is an answer too: it must not be older than the floor either.
            world.check(name, given.error.args[0] if given.error else given.value, floor, *own)

    return Actor(name, program, home, crash_after=crash_after, fail_at=fail_at, spread=spread)


def writer(
    world: World,
    name: str,
    how: str = "tag",
    *,
    times: int = 1,
    tags: tuple[str, ...] = (TAG,),
    crash_after: int | None = None,
    process: Process | None = None,
) -> Actor:
    """Commit, then invalidate by tag, key or pattern; or only mark the tag stale, which promises nothing."""
    flows: dict[str, Callable[[], c.Flow[Any]]] = {
        "tag": lambda: invalidate_tags(tags, KEYS),
        "key": lambda: invalidate_keys(("k",), (ENTRY,), KEYS),
        "pattern": lambda: invalidate_pattern("*", KEYS),
        "soft": lambda: invalidate_tags(tags, KEYS, soft=True),
    }

    def program() -> c.Flow[None]:
        for _ in range(times):
            committed = (yield from c.Load(lambda: (world.commit(), ()))).value
            yield from flows[how]()
            if how != "soft":
                world.floor = max(world.floor, committed)

    return Actor(name, program, process or Process(), crash_after=crash_after)


def setter(world: World, name: str, how: str) -> Actor:
    """Set the key to an old version, and invalidate it by tag or by key when that is done or given up."""
    flows: dict[str, Callable[[], c.Flow[Any]]] = {
        "tag": lambda: invalidate_tags((TAG,), KEYS),
        "key": lambda: invalidate_keys(("k",), (ENTRY,), KEYS),
    }
    home = Process()

    def program() -> c.Flow[None]:
        yield from store([(ENTRY, SEALER.seal(world.truth), (TAG,))], KEYS, 60_000, home.memory)
        committed = (yield from c.Load(lambda: (world.commit(), ()))).value
        yield from flows[how]()
        world.floor = max(world.floor, committed)

    return Actor(name, program, home)


def evictor(name: str, key: str) -> Actor:
    """Redis drops one key, at any moment."""

    def program() -> c.Flow[None]:
        yield from c.Drop((key,))

    return Actor(name, program)


@dataclass(frozen=True, slots=True)
class _EndLease(c.Call[int]):
    """End the lease of an entry, and leave the value that it stands on."""

    key = ENTRY

    def words(self) -> tuple[Any, ...]:
        return ("EVAL", _END, 1, ENTRY)

    def parse(self, reply: Any) -> int:
        return int(reply)


_END = """
local head = redis.call('GETRANGE', KEYS[1], 0, 41)
if string.sub(head, 3, 3) == 'L' then return redis.call('DEL', KEYS[1]) end
if #head == 42 then redis.call('SETRANGE', KEYS[1], 34, string.rep('\\0', 8)) end
return 0
"""


def clock(name: str) -> Actor:
    """A lease, or a back-off, ends at any moment: its holder may still be loading."""

    def program() -> c.Flow[None]:
        yield from c.Together((_EndLease(),))

    return Actor(name, program)


def scenario(
    wire: SingleWire,
    actors: Callable[[World], Sequence[Actor]],
    *,
    tags: Sequence[str] = (TAG,),
    stamps: bool = True,
    filled: bool = False,
    soft_at: int = 0,
    hard_at: int = 0,
    patient: bool = True,
) -> Scenario:
    """Return a scenario on one key.

    Args:
        actors: makes them anew for each run.
        tags: every tag that may be named.
        stamps: whether their stamps are there at the beginning, an hour old.
        filled: whether the entry is there, valid, with the truth of the beginning.
        soft_at: when it becomes stale.
        hard_at: when it becomes a fallback only.
        patient: False where nobody may have to wait until a lease expires.
    """
    now: list[World] = []

    planted = [("FLUSHALL",), *_planted(tags if stamps else (), _an_hour_ago(wire), filled, soft_at, hard_at)]

    def begin() -> Sequence[Actor]:
        for reply in wire.exchange([(None, words) for words in planted]):
            assert not isinstance(reply, Exception), reply
        now[:] = [World(wire)]
        return actors(now[0])

    def state() -> Hashable:
        world = now[0]
        return world.truth, world.floor, tuple(sorted(world.floors.items()))

    def at_rest() -> None:
        lives = wire.exchange([(key, ("PTTL", key)) for key in keys])
        if -1 in lives:
            raise Violation(f"at rest {keys[lives.index(-1)]} has no TTL")
        served = _served(wire)
        if served is not None and served >= PRIVATE:
            raise Violation("at rest there is what may not be kept")
        if served is not None and served < now[0].floor:
            raise Violation(f"at rest version {served} is served; version {now[0].floor} was invalidated")

    keys = [ENTRY, *map(KEYS.stamp, tags), *map(KEYS.members, tags)]
    return Scenario(begin, state, at_rest, keys, patient)


def _an_hour_ago(wire: SingleWire) -> int:
    seconds, micros = wire.ask("", ("TIME",))
    return (int(seconds) - 3600) * 1_000_000 + int(micros)


def _planted(
    tags: Sequence[str], since: int, filled: bool, soft_at: int, hard_at: int
) -> list[tuple[Any, ...]]:
    """Return the commands that put there what a scenario begins with."""
    stamps = tuple((tag, b"planted@%d" % since) for tag in tags)
    commands: list[tuple[Any, ...]] = [
        ("SET", KEYS.stamp(tag), stamp, "PX", 3_600_000) for tag, stamp in stamps
    ]
    if filled:
        raw = build(
            codec=1,
            compression=0,
            fill_id=b"planted.....",
            soft_at=soft_at,
            hard_at=hard_at,
            cost=0,
            stamps=stamps,
            payload=b"1",
        )
        commands.append(("SET", ENTRY, raw, "PX", 60_000))
        commands += [Enlist(KEYS.members(tag), ENTRY, 3_600_000).words_with_source() for tag in tags]
    return commands


def _served(wire: SingleWire) -> int | None:
    """Return what a read without a loader would be given now."""
    raw = wire.fetch((ENTRY,))[0]
    seen = examine(raw, (), (), NOW_MS)
    if seen.state is State.UNSURE and seen.entry is not None:
        own = tuple(tag for tag, _ in seen.entry.stamps)
        seen = examine(raw, own, wire.fetch(tuple(map(KEYS.stamp, own))), NOW_MS)
    if seen.state not in (State.FRESH, State.STALE, State.EXPIRED) or seen.entry is None:
        return None
    return int(SEALER.open(seen.entry))
