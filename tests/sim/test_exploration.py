"""The promise, in every interleaving of small cases and in random ones of larger, by the shipping flows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import pytest
import redis

from neverstale.core import calls, fill, lease, policy, read
from neverstale.core.commands import Flow, Loaded
from neverstale.core.plan import Plan, Sealed
from neverstale.counters import Counters
from neverstale.drive.sim import Actor, Found, Process, Violation, explore, wander
from neverstale.drive.wire import SingleWire
from neverstale.flight import Flight, Flights
from neverstale.testing.servers import RedisServer, binaries
from tests.sim.totals import TOTAL
from tests.sim.world import ENTRY, KEYS, TAG, World, clock, evictor, reader, scenario, setter, writer

Cast = Callable[[World], Sequence[Actor]]
MEMBERS, STAMP = KEYS.members(TAG), KEYS.stamp(TAG)


class OneConnection(redis.ConnectionPool):
    """Hands out the same connection each time, without looking at it: there is one user, and no trouble."""

    def __init__(self, path: str) -> None:
        super().__init__(connection_class=redis.UnixDomainSocketConnection, path=path)
        self._one: Any = self.make_connection()
        self._one.connect()

    def get_connection(self, *_: Any, **__: Any) -> Any:
        """Return the connection."""
        return self._one

    def release(self, connection: Any) -> None:
        """Do nothing."""

    def disconnect(self, inuse_connections: bool = True) -> None:
        """Close it."""
        self._one.disconnect()


@pytest.fixture(scope="module")
def wire() -> Iterator[SingleWire]:
    """A wire to a server of its own, over its unix socket: hundreds of thousands of commands, nobody beside them."""
    found = binaries()
    with RedisServer.start(found.get("redis") or found["valkey"]) as server:
        pool = OneConnection(path=str(server.path))
        yield SingleWire(redis.Redis(connection_pool=pool))
        pool.disconnect()


def said(found: Found) -> None:
    TOTAL.append(found)
    print(f"{found.schedules} schedules, {found.states} states, {found.steps} steps")


def together(*makers: Callable[[World, Process], Actor]) -> Cast:
    """Put actors into one process."""

    def cast(world: World) -> Sequence[Actor]:
        process = Process()
        return [make(world, process) for make in makers]

    return cast


# --- every schedule -----------------------------------------------------------------------------------------

TWO_READERS: dict[str, Cast] = {
    "tag": lambda w: [reader(w, "a"), reader(w, "b"), writer(w, "w")],
    "key": lambda w: [reader(w, "a"), reader(w, "b"), writer(w, "w", "key")],
    "pattern": lambda w: [reader(w, "a"), reader(w, "b"), writer(w, "w", "pattern")],
    "key without tags": lambda w: [reader(w, "a", tags=()), reader(w, "b", tags=()), writer(w, "w", "key")],
    "tags that readers do not know": lambda w: [
        reader(w, "a"),
        reader(w, "b", tags=()),
        writer(w, "w", "key"),
    ],
    "tag, one process": together(
        lambda w, p: reader(w, "a", process=p),
        lambda w, p: reader(w, "b", process=p),
        lambda w, p: writer(w, "w"),
    ),
    "key, one process": together(
        lambda w, p: reader(w, "a", process=p),
        lambda w, p: reader(w, "b", process=p),
        lambda w, p: writer(w, "w", "key", process=p),
    ),
    "the loader raises": together(
        lambda w, p: reader(w, "a", process=p, fails_below=2),
        lambda w, p: reader(w, "b", process=p, fails_below=2),
        lambda w, p: writer(w, "w"),
    ),
    "readers that do not wait": lambda w: [
        reader(w, "a", wait_limit=0.0),
        reader(w, "b", wait_limit=0.0),
        writer(w, "w"),
    ],
}


@pytest.mark.parametrize("case", TWO_READERS)
@pytest.mark.parametrize("filled", [False, True], ids=["cold", "filled"])
def test_two_readers_and_a_writer(wire: SingleWire, case: str, filled: bool) -> None:
    """No reader gets what was invalidated before it began, whatever the order of steps."""
    said(explore(scenario(wire, TWO_READERS[case], filled=filled), wire))


@pytest.mark.parametrize("how", ["key", "tag"])
def test_a_reader_after_a_reader_and_two_writers(wire: SingleWire, how: str) -> None:
    """One who reads twice is never taken back, while two writers commit and invalidate."""
    cast: Cast = lambda w: [reader(w, "a", times=2), writer(w, "v", how), writer(w, "w", how)]  # noqa: E731
    said(explore(scenario(wire, cast), wire))


@pytest.mark.parametrize("order", ["forward", "backward"])
@pytest.mark.parametrize("filled", [False, True], ids=["cold", "filled"])
@pytest.mark.parametrize("how", ["tag", "key"])
def test_keys_on_different_nodes(
    wire: SingleWire, how: str, order: Literal["forward", "backward"], filled: bool
) -> None:
    """On a cluster an entry and its stamps are read one by one, in any order, with others' steps in between."""
    cast = together(
        lambda w, p: reader(w, "a", process=p, spread=order),
        lambda w, p: reader(w, "b", process=p, spread="backward" if order == "forward" else "forward"),
        lambda w, p: writer(w, "w", how),
    )
    said(explore(scenario(wire, cast, filled=filled), wire))


LATE: dict[str, Cast] = {
    "two processes": lambda w: [
        reader(w, "a", tags=(), late=(TAG,)),
        reader(w, "b", tags=(), late=(TAG,)),
        writer(w, "w"),
    ],
    "one process": together(
        lambda w, p: reader(w, "a", tags=(), late=(TAG,), process=p),
        lambda w, p: reader(w, "b", tags=(), late=(TAG,), process=p),
        lambda w, p: writer(w, "w"),
    ),
    "one knows the tag": together(
        lambda w, p: reader(w, "a", tags=(), late=(TAG,), process=p),
        lambda w, p: reader(w, "b", process=p),
        lambda w, p: writer(w, "w"),
    ),
    "reads again": lambda w: [
        reader(w, "a", tags=(), late=(TAG,), times=2),
        writer(w, "v"),
        writer(w, "w", "key"),
    ],
    "the loader raises": together(
        lambda w, p: reader(w, "a", tags=(), late=(TAG,), process=p, fails_below=2),
        lambda w, p: reader(w, "b", tags=(), late=(TAG,), process=p, fails_below=2),
        lambda w, p: writer(w, "w", "key"),
    ),
}


@pytest.mark.parametrize("case", LATE)
@pytest.mark.parametrize("stamps", [False, True], ids=["new tag", "old tag"])
def test_tags_named_by_the_load(wire: SingleWire, case: str, stamps: bool) -> None:
    """A tag that only the load names protects as well as one that was known before."""
    said(explore(scenario(wire, LATE[case], stamps=stamps), wire))


@pytest.mark.parametrize("how", ["tag", "key", "pattern"])
@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_a_writer_that_crashes(wire: SingleWire, how: str, steps: int) -> None:
    """A writer that dies after any of its steps leaves nothing behind that a later invalidation does not reach."""
    cast: Cast = lambda w: [  # noqa: E731
        reader(w, "a"),
        writer(w, "v", how, crash_after=steps),
        writer(w, "w", how),
    ]
    said(explore(scenario(wire, cast, filled=True), wire))


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
def test_a_reader_that_crashes(wire: SingleWire, steps: int) -> None:
    """The lease of a reader that dies expires, and the next one takes over."""
    cast: Cast = lambda w: [reader(w, "a", crash_after=steps), reader(w, "b"), writer(w, "w")]  # noqa: E731
    said(explore(scenario(wire, cast), wire))


@pytest.mark.parametrize("key", [ENTRY, STAMP, MEMBERS], ids=["entry", "stamp", "set"])
@pytest.mark.parametrize("filled", [False, True], ids=["cold", "filled"])
def test_eviction(wire: SingleWire, key: str, filled: bool) -> None:
    """Whatever Redis drops, at whatever moment: a load more, never a stale read."""
    cast: Cast = lambda w: [reader(w, "a", times=2), writer(w, "w"), evictor("redis", key)]  # noqa: E731
    said(explore(scenario(wire, cast, filled=filled), wire))


@pytest.mark.parametrize("key", [ENTRY, STAMP], ids=["entry", "stamp"])
def test_eviction_while_a_tag_is_named_late(wire: SingleWire, key: str) -> None:
    """A stamp that was dropped and made anew is as young as an invalidation."""
    cast: Cast = lambda w: [  # noqa: E731
        reader(w, "a", tags=(), late=(TAG,), times=2),
        writer(w, "w"),
        evictor("redis", key),
    ]
    said(explore(scenario(wire, cast), wire))


@pytest.mark.parametrize("done", [False, True], ids=["not sent", "reply lost"])
@pytest.mark.parametrize("step", [1, 2, 3, 4, 5])
def test_an_answer_that_is_lost(wire: SingleWire, step: int, done: bool) -> None:
    """A reader whose command fails or whose reply is lost gives nothing old, and leaves nothing old."""
    cast = together(
        lambda w, p: reader(w, "a", process=p, fail_at=(step, done)),
        lambda w, p: reader(w, "b", process=p),
        lambda w, p: writer(w, "w"),
    )
    said(explore(scenario(wire, cast), wire))


@pytest.mark.parametrize("readers", [2, 3])
def test_readers_of_one_process_without_redis(wire: SingleWire, readers: int) -> None:
    """While Redis is away readers share a load, and join only one that has not begun."""
    said(explore(scenario(wire, without_redis(readers)), wire))


@pytest.mark.parametrize("how", ["tag", "key"])
def test_a_value_that_is_set(wire: SingleWire, how: str) -> None:
    """A value that was set is not served after an invalidation that followed; a load in flight does not replace it."""
    cast: Cast = lambda w: [reader(w, "a", times=2), setter(w, "s", how)]  # noqa: E731
    said(explore(scenario(wire, cast, filled=True), wire))


@pytest.mark.parametrize("how", ["tag", "key"])
def test_refresh_past_the_soft_ttl(wire: SingleWire, how: str) -> None:
    """What is stale is served while it is refreshed; what is invalid never."""
    cast: Cast = lambda w: [reader(w, "a", times=1 + (how == "key")), reader(w, "b"), writer(w, "w", how)]  # noqa: E731
    said(explore(scenario(wire, cast, filled=True, soft_at=1), wire))


@pytest.mark.parametrize("how", ["tag", "key"])
@pytest.mark.parametrize("late", [(), (TAG,)], ids=["known", "late"])
def test_soft_invalidation(wire: SingleWire, how: str, late: tuple[str, ...]) -> None:
    """A tag that is marked stale serves nothing that was invalidated before or after."""
    tags = () if late else (TAG,)
    cast: Cast = lambda w: [  # noqa: E731
        reader(w, "a", tags=tags, late=late, times=2),
        writer(w, "s", "soft"),
        writer(w, "w", how),
    ]
    said(explore(scenario(wire, cast, filled=True), wire))


RENEWED: dict[str, Cast] = {
    "two processes": lambda w: [reader(w, "a"), reader(w, "b"), writer(w, "w", "key")],
    "by tag": lambda w: [reader(w, "a"), reader(w, "b"), writer(w, "w")],
    "one process": together(
        lambda w, p: reader(w, "a", process=p),
        lambda w, p: reader(w, "b", process=p),
        lambda w, p: writer(w, "w"),
    ),
    "what is fresh": together(
        lambda w, p: reader(w, "a", process=p, renews=True),
        lambda w, p: reader(w, "b", process=p, renews=True),
        lambda w, p: writer(w, "w", "key"),
    ),
    "the load fails": together(
        lambda w, p: reader(w, "a", process=p, fails_below=2),
        lambda w, p: reader(w, "b", fails_below=2),
        lambda w, p: writer(w, "w"),
    ),
    "the load fails, with a fallback": lambda w: [
        reader(w, "a", fails_below=3, fallback=True),
        reader(w, "b", fails_below=3, fallback=True),
        writer(w, "w", "key"),
    ],
    "a key that is set": lambda w: [reader(w, "a"), reader(w, "b"), setter(w, "s", "key")],
}


@pytest.mark.parametrize("case", RENEWED)
def test_renewal_of_a_fallback(wire: SingleWire, case: str) -> None:
    """What is kept past its end is replaced under a lease, and is not served after it was invalidated."""
    ended = int(case != "what is fresh")
    said(explore(scenario(wire, RENEWED[case], filled=True, soft_at=ended, hard_at=ended), wire))


def renewal(wire: SingleWire, cast: Cast, *, patient: bool = True) -> Found:
    """Explore what becomes of a value past its end."""
    return explore(scenario(wire, cast, filled=True, soft_at=1, hard_at=1, patient=patient), wire)


FAILING: Cast = lambda w: [  # noqa: E731
    reader(w, "a", fails_below=3, fallback=True),
    reader(w, "b", fails_below=3, fallback=True),
    writer(w, "w"),
]


@pytest.mark.parametrize("how", ["key", "tag"])
def test_a_fallback_where_no_load_succeeds(wire: SingleWire, how: str) -> None:
    """Nobody waits for a renewal that has failed, or is given what was invalidated."""
    cast: Cast = lambda w: [*FAILING(w)[:2], writer(w, "w", how)]  # noqa: E731
    said(renewal(wire, cast, patient=False))


@pytest.mark.parametrize("steps", [2, 3])
def test_a_renewal_that_crashes(wire: SingleWire, steps: int) -> None:
    """Its lease on the value ends, and the next one takes over."""
    cast: Cast = lambda w: [reader(w, "a", crash_after=steps), reader(w, "b"), writer(w, "w", "key")]  # noqa: E731
    said(renewal(wire, cast))


OUTLIVED: dict[str, Cast] = {
    "and another one": lambda w: [reader(w, "a"), clock("time"), reader(w, "b")],
    "and a writer": lambda w: [reader(w, "a"), clock("time"), writer(w, "w", "key")],
}


@pytest.mark.parametrize("case", OUTLIVED)
def test_a_renewal_that_outlives_its_lease(wire: SingleWire, case: str) -> None:
    """Another takes over, and of the two who load only one stores."""
    said(renewal(wire, OUTLIVED[case]))


def lost(step: int, done: bool) -> Cast:
    """Two readers of one process, of which one asks in vain, and a writer."""
    return together(
        lambda w, p: reader(w, "a", process=p, fail_at=(step, done)),
        lambda w, p: reader(w, "b", process=p),
        lambda w, p: writer(w, "w", "key"),
    )


@pytest.mark.parametrize("done", [False, True], ids=["not sent", "reply lost"])
@pytest.mark.parametrize("step", [2, 6])
def test_a_renewal_whose_answer_is_lost(wire: SingleWire, step: int, done: bool) -> None:
    """What is left of it is given back by the next one of its process, who does not wait until it expires."""
    said(renewal(wire, lost(step, done), patient=False))


APART: dict[str, Cast] = {
    "two processes": lambda w: [
        reader(w, "a", keep=False),
        reader(w, "b", keep=False),
        writer(w, "w", "key"),
    ],
    "one process": together(
        lambda w, p: reader(w, "a", keep=False, process=p),
        lambda w, p: reader(w, "b", process=p),
        lambda w, p: writer(w, "w"),
    ),
    "the old value stays": together(
        lambda w, p: reader(w, "a", keep=False, forget=False, renews=True, process=p),
        lambda w, p: reader(w, "b", renews=True, process=p),
        lambda w, p: writer(w, "w"),
    ),
    "one does not wait": together(
        lambda w, p: reader(w, "a", process=p),
        lambda w, p: reader(w, "b", wait_limit=0.0, renews=True, process=p),
        lambda w, p: writer(w, "w", "key"),
    ),
}


@pytest.mark.parametrize("case", APART)
@pytest.mark.parametrize("filled", [False, True], ids=["cold", "filled"])
def test_what_may_not_be_kept(wire: SingleWire, case: str, filled: bool) -> None:
    """A load whose value may not be kept is neither stored nor shared, and holds nobody up."""
    said(explore(scenario(wire, APART[case], filled=filled), wire))


def without_redis(readers: int) -> Cast:
    """Readers of one process whose every command to Redis fails, and a writer whose own do not."""
    names = ("a", "b", "c")[:readers]
    return lambda w: (
        lambda process: [
            *(reader(w, name, process=process, fail_at=(1, False)) for name in names),
            writer(w, "w", "key"),
        ]
    )(Process())


# --- random schedules ------------------------------------------------------------------------------------------


def crowd(world: World) -> Sequence[Actor]:
    """Two processes of readers of all kinds, writers of all kinds, and a Redis that drops things."""
    first, second = Process(), Process()
    return [
        reader(world, "a", times=2, process=first),
        reader(world, "b", times=2, process=first, tags=(TAG, "u")),
        reader(world, "c", times=2, process=second, tags=(), late=(TAG,)),
        reader(world, "d", times=2, process=second, late=("u",)),
        reader(world, "e", process=first, crash_after=4),
        reader(world, "f", process=second, fail_at=(3, True)),
        writer(world, "tag", times=2),
        writer(world, "tags", tags=(TAG, "u")),
        writer(world, "soft", "soft", times=2),
        writer(world, "key", "key", times=2, process=first),
        writer(world, "pattern", "pattern"),
        writer(world, "crash", crash_after=2),
        evictor("entry", ENTRY),
        evictor("stamp", STAMP),
        evictor("set", MEMBERS),
    ]


def test_random_schedules_of_a_crowd(wire: SingleWire) -> None:
    """Five hundred random schedules of fifteen actors; a failure names its seed."""
    found = wander(scenario(wire, crowd, tags=(TAG, "u"), filled=True, soft_at=1), wire, seeds=range(500))
    said(found)
    assert found.schedules == 500


# --- the checker can fail --------------------------------------------------------------------------------------


def script(patch: pytest.MonkeyPatch, name: str, old: str, new: str) -> None:
    """Send a script with one line changed."""
    source = calls.SOURCES[name]
    assert source.count(old) == 1
    changed = source.replace(old, new)
    patch.setitem(calls.SOURCES, name, changed)
    patch.setitem(calls.DIGESTS, name, hashlib.sha1(changed.encode()).hexdigest())


def without_lease(patch: pytest.MonkeyPatch) -> None:
    """Fill whether or not the lease still stands."""
    text = calls.SOURCES["fill"]
    body = text[text.index("local head") : text.index("redis.call('SET'")]
    script(patch, "fill", body, "")


def without_stamps(patch: pytest.MonkeyPatch) -> None:
    """Take every entry for valid."""

    def examine(
        raw: bytes | None,
        tags: Sequence[str],
        stamps: Sequence[bytes | None],
        now_ms: int,
        early: float = 0.0,
    ) -> policy.Seen:
        seen = policy.examine(raw, tags, stamps, now_ms, early)
        blind = seen.state in (policy.State.INVALID, policy.State.UNSURE)
        return seen._replace(state=policy.State.FRESH) if blind else seen

    patch.setattr(read, "examine", examine)


def as_it_is(patch: pytest.MonkeyPatch) -> None:
    """Leave the code as it is: the readers' own option takes the check out."""


def without_join_check(patch: pytest.MonkeyPatch) -> None:
    """Join any load whose lease is alive."""
    patch.setattr(lease, "valid", lambda own, stamps: True)


def joining_what_runs(patch: pytest.MonkeyPatch) -> None:
    """Without Redis, join a load that has begun."""

    def turn(self: Flights[Any], entry: str, token: bytes) -> tuple[Flight[Any], Flight[Any] | None]:
        running = self._running.get(entry)
        if running is None:
            running = self._running[entry] = Flight(entry, token, self._event())
        return running, None

    patch.setattr(Flights, "turn", turn)


def without_adoption(patch: pytest.MonkeyPatch) -> None:
    """Leave leases that could not be given back to themselves."""
    patch.setattr(policy.Memory, "adopt", lambda self, token: False)


def fallbacks_unchecked(patch: pytest.MonkeyPatch) -> None:
    """Take what was invalidated for something to fall back on."""

    def examine(*args: Any) -> policy.Seen:
        seen = policy.examine(*args)
        return seen.expired() if seen.state is policy.State.INVALID else seen

    patch.setattr(read, "examine", examine)


def back_offs_as_leases(patch: pytest.MonkeyPatch) -> None:
    """Take the zeros of a renewal that has failed for somebody's token."""
    entries = vars(lease)["entries"]
    patch.setattr(entries, "token_of", lambda head: head[18:34] or None)


def keeping_everything(patch: pytest.MonkeyPatch) -> None:
    """Take what may not be kept for any other value."""
    load = fill._load

    def keeping(plan: Plan, counters: Counters, lease: float = 0.0) -> Flow[tuple[Loaded, Sealed | None]]:
        loaded, sealed = yield from load(plan, counters, lease)
        if loaded.error is None and sealed is None:
            return replace(loaded, keep=True), plan.sealer.seal(loaded.value)
        return loaded, sealed

    patch.setattr(fill, "_load", keeping)


def all_soft(patch: pytest.MonkeyPatch) -> None:
    """Let every stamp name the one before it."""
    script(patch, "restamp", "if ARGV[3] == '1' then", "if true then")


def any_stamp_before(patch: pytest.MonkeyPatch) -> None:
    """Take every entry under another stamp for one of the stamp before."""
    patch.setattr(policy, "_is_before", lambda stamp, now: True)


Explore = Callable[[SingleWire], Found]
ALSO_BROKEN: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], Explore]] = {
    "fallbacks without checking stamps": (
        fallbacks_unchecked,
        # Without the SET, nothing but the stamp says that the value was invalidated.
        lambda w: renewal(w, lambda world: [*FAILING(world)[1:], evictor("set", MEMBERS)]),
    ),
    "a back-off taken for a lease": (
        back_offs_as_leases,
        lambda w: renewal(w, lambda world: FAILING(world)[:2]),
    ),
    "renewals that nobody gives back": (
        without_adoption,
        lambda w: renewal(w, lost(6, False), patient=False),
    ),
    "renewals filled without comparing the lease": (
        without_lease,
        lambda w: renewal(w, RENEWED["two processes"]),
    ),
    "what may not be kept is kept": (
        keeping_everything,
        lambda w: explore(scenario(w, APART["two processes"]), w),
    ),
    "what may not be kept is shared": (
        keeping_everything,
        lambda w: explore(scenario(w, APART["one process"]), w),
    ),
    "hard stamps like soft ones": (all_soft, lambda w: explore(scenario(w, TWO_READERS["tag"]), w)),
    "soft stamps without looking at the one before": (
        any_stamp_before,
        lambda w: explore(scenario(w, TWO_READERS["tag"]), w),
    ),
}


@pytest.mark.parametrize("case", ALSO_BROKEN)
def test_renewal_that_is_broken_on_purpose_is_found_out(
    wire: SingleWire, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """Each of the guards of renewals, fallbacks, soft stamps and of what may not be kept is needed."""
    breaks, explores = ALSO_BROKEN[case]
    breaks(monkeypatch)
    with pytest.raises(Violation, match=r"(?s)schedule:.*1\. ") as caught:
        explores(wire)
    print(caught.value)


BROKEN: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], Cast, bool]] = {
    "fill without comparing the lease": (without_lease, TWO_READERS["key without tags"], True),
    "entries without checking stamps": (without_stamps, TWO_READERS["tag"], True),
    "late tags without checking their age": (
        as_it_is,
        lambda w: [
            reader(w, "a", tags=(), late=(TAG,), margin=-1e9),
            reader(w, "b", tags=(), late=(TAG,), margin=-1e9),
            writer(w, "w"),
        ],
        True,
    ),
    "joining a load that runs, without Redis": (joining_what_runs, without_redis(2), True),
    "joining a load by its lease alone": (without_join_check, TWO_READERS["tag, one process"], True),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_protocol_that_is_broken_on_purpose_is_found_out(
    wire: SingleWire, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """With one check taken out the exploration finds the stale read and prints the schedule."""
    breaks, cast, stamps = BROKEN[case]
    breaks(monkeypatch)
    with pytest.raises(Violation, match=r"(?s)schedule:.*1\. ") as caught:
        explore(scenario(wire, cast, stamps=stamps), wire)
    print(caught.value)
