"""Sessions under the scheduler: a store of rows or Redis alone, actors that change them, and what must hold.

When a destruction has returned, the session that it destroyed is *gone*: no read that begins after that may be given
it, by any id of its family, and nothing may be served at rest. What an update that returned has written must be there
at rest, unless the session is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import msgspec

from neverstale.codecs import Undecodable, json_codec
from neverstale.core import commands as c
from neverstale.core.calls import Enlist
from neverstale.core.entry import build
from neverstale.core.keys import Keys
from neverstale.core.plan import Plan
from neverstale.core.policy import State, examine
from neverstale.core.read import read
from neverstale.drive.sim import NOW_MS, Actor, Process, Scenario, Violation
from neverstale.drive.wire import SingleWire
from neverstale.errors import RedisUnavailable
from neverstale.lifetime import Lifetime
from neverstale.loading import Answer
from neverstale.sealing import ValueSealer
from neverstale.sessions import changes
from neverstale.sessions.aside import Aside, read_through
from neverstale.sessions.kept import Kept
from neverstale.sessions.model import UNCHANGED, Rules, Session, tag_of, when
from neverstale.sessions.places import Frame, Place

KEYS = Keys("sim", 1, "session:")
RULES = Rules(60_000, 86_400_000, 86_400_000, 10_000, 300_000)
#: Names of the fields that are set: something that can be hashed, as all that a state is made of.
Data = tuple[str, ...]
SEALER = ValueSealer(json_codec(Session[Data]), 1 << 20, 1 << 20)
#: The session that there is at the beginning, and the one that a rotation makes of it.
OLD, NEW = "a" * 64, "b" * 64
USER = "7"
TAG = tag_of("session:", USER)


class Gone(LookupError):
    """The store has no such session."""


@dataclass
class World:
    """What one run remembers beside Redis: the rows of the store, and what was promised."""

    wire: SingleWire
    rows: dict[str, Session[Data]] | None
    gone: bool = False
    promised: set[str] = field(default_factory=set)
    began_gone: dict[str, bool] = field(default_factory=dict)

    def frame(self, process: Process) -> Frame:
        return Frame(KEYS, RULES, lambda _: SEALER, self.plan, 1 << 20, process.memory, process.counters)

    def place(self, process: Process) -> Place:
        frame = self.frame(process)
        return Kept(frame) if self.rows is None else Aside(frame, Store(self.rows))

    def plan(self, digest: str) -> Plan:
        def load() -> Answer:
            session = (self.rows or {}).get(digest)
            if session is None:
                raise Gone(digest)
            return Answer(session, None, (TAG,) if session.user else ())

        return Plan(KEYS.entry(digest), KEYS, (), Lifetime(60_000), 30_000, 1.0, 1 << 20, SEALER, load)


class Store:
    """The store of an application, each method one transaction."""

    def __init__(self, rows: dict[str, Session[Data]]) -> None:
        self.rows = rows

    def load(self, digest: str) -> Answer:
        return Answer(self.rows.get(digest))

    def save(self, session: Session[Data], revision: int) -> Answer:
        there = self.rows.get(session.digest)
        if there is None or there.revision != revision:
            return Answer(False)
        self.rows[session.digest] = session
        return Answer(True)

    def rotate(self, new: Session[Data], old: Session[Data], revision: int) -> Answer:
        saved = self.save(old, revision)
        if saved.value:
            self.rows[new.digest] = new
        return saved

    def delete(self, family: str) -> Answer:
        digests = tuple(digest for digest, row in self.rows.items() if row.family == family)
        for digest in digests:
            del self.rows[digest]
        return Answer(digests)

    def delete_of_user(self, user: str, keep: str | None) -> Answer:
        digests = [digest for digest, row in self.rows.items() if row.user == user and digest != keep]
        for digest in digests:
            del self.rows[digest]
        return Answer(len(digests))


# --- actors -----------------------------------------------------------------------------------------------------


def reader(world: World, name: str, digest: str = OLD, times: int = 1) -> Actor:
    """Read a session as the faces do."""
    home = Process()

    def program() -> c.Flow[None]:
        for _ in range(times):
            gone = world.began_gone[name] = world.gone
            plan, session = world.plan(digest), None
            try:
                seen: Any = yield from read(plan, home.memory)
            except RedisUnavailable:
                seen = None
            if seen is not None and seen.state is State.FRESH:
                session = SEALER.open(seen.entry)
            elif world.rows is not None:
                session = (yield from read_through(world.frame(home), plan, seen)).value
            if session is not None and gone:
                raise Violation(f"{name} was given a session that was destroyed before it began")

    return Actor(name, program, home)


def updater(world: World, name: str, digest: str = OLD) -> Actor:
    """Set a field of its own."""
    home = Process()

    def change(session: Session[Data]) -> Session[Data]:
        return msgspec.structs.replace(session, data=(*session.data, name))

    def program() -> c.Flow[None]:
        if (yield from changes.update(world.place(home), digest, change)) is not None:
            world.promised.add(name)

    return Actor(name, program, home)


def destroyer(world: World, name: str, digest: str = OLD, *, crash_after: int | None = None) -> Actor:
    """Destroy the session, by this id."""
    home = Process()

    def program() -> c.Flow[None]:
        yield from world.place(home).remove(digest)
        world.gone = True

    return Actor(name, program, home, crash_after=crash_after)


def destroyer_of_all(world: World, name: str) -> Actor:
    """Destroy all sessions of the user."""
    home = Process()

    def program() -> c.Flow[None]:
        yield from world.place(home).remove_user(USER, None)
        world.gone = True

    return Actor(name, program, home)


def keeper(world: World, name: str, digest: str = OLD) -> Actor:
    """Destroy all sessions of the user but this one."""
    home = Process()

    def program() -> c.Flow[None]:
        yield from world.place(home).remove_user(USER, digest)

    return Actor(name, program, home)


def rotator(world: World, name: str) -> Actor:
    """Give the session another id."""
    home = Process()

    def program() -> c.Flow[None]:
        yield from changes.rotate(world.place(home), OLD, NEW, UNCHANGED, lambda data: data, "")

    return Actor(name, program, home)


def evictor(name: str, key: str) -> Actor:
    """Redis drops one key, at any moment."""

    def program() -> c.Flow[None]:
        yield from c.Drop((key,))

    return Actor(name, program)


# --- scenarios ----------------------------------------------------------------------------------------------------


def scenario(
    wire: SingleWire,
    actors: Callable[[World], Sequence[Actor]],
    *,
    stored: bool,
    cached: bool = True,
    keeps: bool = True,
) -> Scenario:
    """Return a scenario on one session of one user.

    Args:
        actors: makes them anew for each run.
        stored: whether there is a store; Redis alone otherwise.
        cached: whether a copy is in Redis at the beginning.
        keeps: whether what an update has promised must be there at rest.
    """
    now: list[World] = []
    at = when(NOW_MS)
    first = Session[Data](
        digest=OLD,
        family="f",
        data=(),
        user=USER,
        created_at=at,
        seen_at=at,
        expires_at=at + timedelta(hours=1),
    )
    planted = _planted(wire, first) if cached else ()

    def begin() -> Sequence[Actor]:
        for reply in wire.exchange([(None, words) for words in (("FLUSHALL",), *planted)]):
            assert not isinstance(reply, Exception), reply
        now[:] = [World(wire, {OLD: first} if stored else None)]
        return actors(now[0])

    def state() -> Hashable:
        world = now[0]
        rows = () if world.rows is None else tuple((key, row) for key, row in sorted(world.rows.items()))
        return rows, world.gone, tuple(sorted(world.promised)), tuple(sorted(world.began_gone.items()))

    def at_rest() -> None:
        world = now[0]
        lives = wire.exchange([(key, ("PTTL", key)) for key in keys])
        if -1 in lives:
            raise Violation(f"at rest {keys[lives.index(-1)]} has no TTL")
        served = {name: found for name in (OLD, NEW) if (found := _served(wire, name)) is not None}
        rows = served if world.rows is None else world.rows
        if world.gone and (served or rows):
            raise Violation(
                f"at rest {', '.join(name[:4] for name in served or rows)} is there, and was destroyed"
            )
        for name, copy in served.items():
            if copy != rows.get(name):
                raise Violation(f"at rest a copy of {name[:4]} is served that is not what the store has")
        there = {key for row in rows.values() for key in row.data}
        if keeps and not world.gone and not world.promised <= there:
            raise Violation(f"at rest {sorted(world.promised - there)} is lost")

    keys = [KEYS.entry(OLD), KEYS.entry(NEW), KEYS.stamp(TAG), KEYS.members(TAG)]
    return Scenario(begin, state, at_rest, keys)


def _planted(wire: SingleWire, first: Session[Data]) -> list[tuple[Any, ...]]:
    """Return the commands that put a session there, under an old stamp."""
    seconds, _ = wire.ask("", ("TIME",))
    stamp = b"planted@%d" % ((int(seconds) - 3600) * 1_000_000)
    entry = KEYS.entry(OLD)
    raw = build(
        codec=1,
        compression=0,
        fill_id=b"planted.....",
        soft_at=0,
        cost=0,
        stamps=((TAG, stamp),),
        payload=SEALER.write(first).payload,
    )
    return [
        ("SET", KEYS.stamp(TAG), stamp, "PX", 3_600_000),
        ("SET", entry, raw, "PX", 60_000),
        Enlist(KEYS.members(TAG), entry, 3_600_000).words_with_source(),
    ]


def _served(wire: SingleWire, digest: str) -> Session[Data] | None:
    """Return what a read without a store would be given now."""
    raw = wire.fetch((KEYS.entry(digest),))[0]
    seen = examine(raw, (), (), NOW_MS)
    if seen.state is State.UNSURE and seen.entry is not None:
        own = tuple(tag for tag, _ in seen.entry.stamps)
        seen = examine(raw, own, wire.fetch(tuple(map(KEYS.stamp, own))), NOW_MS)
    if seen.state is not State.FRESH or seen.entry is None:
        return None
    try:
        session: Session[Data] = SEALER.open(seen.entry)
    except Undecodable:
        return None
    return session
