"""Sessions in every interleaving of small cases: what was destroyed stays destroyed, and no change is lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from neverstale.core import swap as core_swap
from neverstale.core.calls import SOURCES
from neverstale.core.commands import Flow
from neverstale.core.policy import Seen
from neverstale.core.store import store
from neverstale.drive.sim import Actor, Process, Violation, explore
from neverstale.drive.wire import SingleWire
from neverstale.sessions import kept
from tests.sim.session_world import (
    KEYS,
    OLD,
    TAG,
    Store,
    World,
    destroyer,
    destroyer_of_all,
    evictor,
    keeper,
    reader,
    rotator,
    scenario,
    updater,
)
from tests.sim.test_exploration import said, script, wire

__all__ = ["wire"]

Cast = Callable[[World], Sequence[Actor]]

DESTROYED: dict[str, Cast] = {
    "reading and destroying": lambda w: [reader(w, "r"), reader(w, "s"), destroyer(w, "d")],
    "reading and destroying all": lambda w: [reader(w, "r"), reader(w, "s"), destroyer_of_all(w, "d")],
    "changing and destroying": lambda w: [updater(w, "u"), destroyer(w, "d"), reader(w, "r")],
    "changing and destroying all": lambda w: [updater(w, "u"), destroyer_of_all(w, "d"), reader(w, "r")],
    "rotating and destroying": lambda w: [rotator(w, "o"), destroyer(w, "d"), reader(w, "r")],
    "rotating and destroying all": lambda w: [rotator(w, "o"), destroyer_of_all(w, "d"), reader(w, "r")],
    "keeping one and destroying it": lambda w: [keeper(w, "k"), destroyer(w, "d"), reader(w, "r")],
    "keeping one and destroying all": lambda w: [keeper(w, "k"), destroyer_of_all(w, "d"), reader(w, "r")],
    "a destroyer that crashes": lambda w: [
        updater(w, "u"),
        destroyer(w, "c", crash_after=2),
        destroyer(w, "d"),
    ],
}


@pytest.mark.parametrize("case", DESTROYED)
@pytest.mark.parametrize("stored", [True, False], ids=["store", "redis"])
def test_what_was_destroyed_stays_destroyed(wire: SingleWire, stored: bool, case: str) -> None:
    """No request in flight brings a session back, whatever the order of steps."""
    said(explore(scenario(wire, DESTROYED[case], stored=stored), wire))


@pytest.mark.parametrize("case", ["reading and destroying", "reading and destroying all"])
def test_a_load_in_flight(wire: SingleWire, case: str) -> None:
    """A session that was loaded from the store before it was destroyed is not cached after that."""
    alone: Cast = lambda w: [actor for actor in DESTROYED[case](w) if actor.name != "s"]  # noqa: E731
    said(explore(scenario(wire, alone, stored=True, cached=False), wire))


CHANGED: dict[str, Cast] = {
    "two fields": lambda w: [updater(w, "u"), updater(w, "v")],
    "two fields and a reader": lambda w: [updater(w, "u"), updater(w, "v"), reader(w, "r")],
    "keeping one": lambda w: [updater(w, "u"), keeper(w, "k")],
}


@pytest.mark.parametrize("case", CHANGED)
@pytest.mark.parametrize("stored", [True, False], ids=["store", "redis"])
def test_no_change_is_lost(wire: SingleWire, stored: bool, case: str) -> None:
    """Two requests that change different fields lose neither."""
    said(explore(scenario(wire, CHANGED[case], stored=stored), wire))


@pytest.mark.parametrize("key", [KEYS.entry(OLD), KEYS.stamp(TAG)], ids=["entry", "stamp"])
@pytest.mark.parametrize("stored", [True, False], ids=["store", "redis"])
def test_eviction(wire: SingleWire, stored: bool, key: str) -> None:
    """What Redis drops costs a load or, without a store, the session; it brings nothing back."""
    cast: Cast = lambda w: [updater(w, "u"), destroyer(w, "d"), evictor("redis", key)]  # noqa: E731
    said(explore(scenario(wire, cast, stored=stored), wire))


# --- the checker can fail --------------------------------------------------------------------------------------


def a_plain_set(patch: pytest.MonkeyPatch) -> None:
    """Set what was changed, whatever is there."""

    def swap(entry: str, keys: Any, seen: Seen, sealed: Any, ttl_ms: int) -> Flow[bool]:
        yield from store([(entry, sealed, (TAG,))], keys, ttl_ms, Process().memory)
        return True

    patch.setattr(kept, "swap", swap)


def a_set_on_a_miss(patch: pytest.MonkeyPatch) -> None:
    """Fill whether or not the lease still stands."""
    text = SOURCES["fill"]
    script(patch, "fill", text[text.index("local head") : text.index("redis.call('SET'")], "")


def an_update_without_a_revision(patch: pytest.MonkeyPatch) -> None:
    """Save over whatever revision is there."""
    save = Store.save
    patch.setattr(
        Store,
        "save",
        lambda self, session, _: save(
            self, session, self.rows[session.digest].revision if session.digest in self.rows else -1
        ),
    )


def a_store_that_inserts(patch: pytest.MonkeyPatch) -> None:
    """Insert where there is nothing to save over."""

    def save(self: Store, session: Any, _: int) -> Any:
        self.rows[session.digest] = session
        return self.load(session.digest)

    patch.setattr(Store, "save", save)


def destroying_without_a_claim(patch: pytest.MonkeyPatch) -> None:
    """Delete what was read, without taking it from a rotation in flight."""

    def claim(entry: str) -> Flow[None]:
        yield from ()

    patch.setattr(kept, "claim", claim)


def taking_every_stamp(patch: pytest.MonkeyPatch) -> None:
    """Change, or keep, what somebody has invalidated since it was seen."""
    patch.setattr(core_swap, "_still_valid", lambda stamps, now: True)


BROKEN: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], Cast, dict[str, Any]]] = {
    "redis: a plain SET brings a session back": (
        a_plain_set,
        DESTROYED["changing and destroying"],
        {"stored": False},
    ),
    "redis: a plain SET loses a change": (a_plain_set, CHANGED["two fields"], {"stored": False}),
    "redis: destroying one id and not its successor": (
        destroying_without_a_claim,
        DESTROYED["rotating and destroying"],
        {"stored": False},
    ),
    "redis: a successor of what was destroyed with all others": (
        taking_every_stamp,
        DESTROYED["rotating and destroying all"],
        {"stored": False},
    ),
    "redis: keeping what somebody else destroyed": (
        taking_every_stamp,
        DESTROYED["keeping one and destroying all"],
        {"stored": False},
    ),
    "store: a SET on a miss": (
        a_set_on_a_miss,
        DESTROYED["reading and destroying"],
        {"stored": True, "cached": False},
    ),
    "store: saving without the revision": (
        an_update_without_a_revision,
        CHANGED["two fields"],
        {"stored": True},
    ),
    "store: saving what is not there": (
        a_store_that_inserts,
        DESTROYED["changing and destroying"],
        {"stored": True},
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_guard_that_is_taken_out_is_found_out(
    wire: SingleWire, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """With one guard taken out the exploration finds the session that came back, or the change that was lost."""
    breaks, cast, options = BROKEN[case]
    breaks(monkeypatch)
    with pytest.raises(Violation, match=r"(?s)(destroyed|lost).*schedule:.*1\. ") as caught:
        explore(scenario(wire, cast, **options), wire)
    print(caught.value)
