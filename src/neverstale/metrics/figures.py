"""What a process has counted since somebody last asked, and how that is written as fields of a hash in Redis."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import fields
from typing import Any, Final

from neverstale.counters import Counters, CounterSnapshot

from .siblings import alone, load, shared, store

__all__ = [
    "NO_PREFIX",
    "OTHERS",
    "PREFIXES",
    "Differences",
    "Names",
    "invalidations",
    "read_figures",
    "written_figures",
]

#: Prefixes are named by code, so there are a few. Were they made of input, they would fill Redis and Prometheus: the
#: figures of those beyond the first so many are added up under one name. report.lua knows both, too.
PREFIXES: Final = 50
OTHERS: Final = "(others)"
#: What figures without a prefix are shown under, where an empty name would read as none at all.
NO_PREFIX: Final = "(none)"

_NOTHING: Final = CounterSnapshot()
_NAMES: Final = tuple(item.name for item in fields(CounterSnapshot))
_TIMES: Final = {name for name in _NAMES if isinstance(getattr(_NOTHING, name), tuple)}
#: Redis adds whole numbers up exactly: seconds are written as microseconds.
_MICROSECONDS: Final = {"redis_seconds", "load_seconds"}

_all: weakref.WeakSet[Differences] = weakref.WeakSet()


def _forget_all() -> None:
    for each in list(_all):
        each.names.after_fork()
        each.forget()


# What a parent has counted before a fork it reports itself.
os.register_at_fork(after_in_child=_forget_all)


class Names:
    """The prefixes that are shown by their names: the first so many. Safe for threads.

    Once one is named, it stays so, and one that is not named never will be: what is shown under a name, that of the
    others included, only grows. Were it chosen anew each time, one that gives way would take its counts to the others,
    where they look as if they had just happened.

    Args:
        of_all: the first that any worker process of this machine has named, not this one alone.
    """

    def __init__(self, *, of_all: bool = False) -> None:
        self._of_all = of_all
        self._named: set[str] = set()
        self.after_fork()

    def after_fork(self) -> None:
        """Forget a lock that a thread of the parent may have held."""
        self._lock = threading.Lock()

    def name(self, prefix: str) -> str:
        """Return what the figures of a prefix are shown under."""
        # Of all that do not find their name there is no end, so when all names are given nobody looks for more.
        if prefix not in self._named and len(self._named) < PREFIXES:
            with self._lock:
                self._look_for(prefix)
        return prefix if prefix in self._named else OTHERS

    def _look_for(self, prefix: str) -> None:
        path = shared("prefixes") if self._of_all else None
        if path is None:
            self._named.update(_with(list(self._named), prefix))
            return
        # A full disk: what cannot be told to the others has no name.
        with suppress(OSError), alone(path, wait=True):
            known: list[str] = load(path) or []
            named = _with(known, prefix)
            if named != known:
                store(path, named)
            self._named.update(named)


def _with(named: list[str], prefix: str) -> list[str]:
    room = len(named) < PREFIXES and prefix not in (*named, OTHERS)
    return [*named, prefix] if room else named


class Differences:
    """What was counted since it was last taken, by prefix; each that asks has one of these. Not for several threads.

    Args:
        counters: of a cache, by prefix.
        names: under which prefixes are shown; without them the first ones that are taken here.
    """

    def __init__(self, counters: dict[str, Counters], names: Names | None = None) -> None:
        self._counters = counters
        self.names = names or Names()
        self._taken: dict[str, CounterSnapshot] = {}
        _all.add(self)

    def take(
        self, part: Callable[[CounterSnapshot], CounterSnapshot] | None = None
    ) -> dict[str, CounterSnapshot]:
        """Return what was counted since the last call; prefixes of which nothing was are left out.

        Args:
            part: picks which figures to take; the others are left for the next call.
        """
        found: dict[str, CounterSnapshot] = {}
        for prefix, counters in list(self._counters.items()):
            now, before = counters.snapshot(), self._taken.get(prefix, _NOTHING)
            since = now.minus(before)
            if part is not None:
                since = part(since)
                now = before.plus(since)
            if since == _NOTHING:
                continue
            self._taken[prefix] = now
            name = self.names.name(prefix)
            found[name] = found[name].plus(since) if name in found else since
        return found

    def forget(self) -> None:
        """Begin anew: what was counted until now is no business of this process."""
        self._taken = {prefix: counters.snapshot() for prefix, counters in list(self._counters.items())}


def invalidations(figures: CounterSnapshot) -> CounterSnapshot:
    """Return those of the figures that are about invalidations."""
    return CounterSnapshot(invalidations=figures.invalidations, removed=figures.removed)


def written_figures(figures: Mapping[str, CounterSnapshot]) -> Iterator[tuple[str, int]]:
    """Write figures as fields and whole numbers; what is 0 is left out.

    A field is `<name>:<prefix>`, and of a histogram `<name>.<bucket>:<prefix>`.
    """
    for prefix, snapshot in figures.items():
        for name in _NAMES:
            value = getattr(snapshot, name)
            if isinstance(value, tuple):
                for bucket, count in enumerate(value):
                    if count:
                        yield f"{name}.{bucket}:{prefix}", count
            elif value:
                yield f"{name}:{prefix}", round(value * 1e6) if name in _MICROSECONDS else value


def read_figures(hash_: Mapping[bytes, bytes]) -> dict[str, CounterSnapshot]:
    """Read what `written_figures` wrote, in this release or another: what is not known is left out."""
    plain: dict[str, dict[str, Any]] = {}
    for field, value in hash_.items():
        name, _, prefix = field.decode(errors="replace").partition(":")
        name, _, bucket = name.partition(".")
        if (
            name not in _NAMES
            or not value.isdigit()
            or not (bucket.isdigit() if name in _TIMES else not bucket)
        ):
            continue
        into = plain.setdefault(prefix, {})
        number = int(value)
        if bucket:
            counts = into.setdefault(name, list(getattr(_NOTHING, name)))
            if int(bucket) < len(counts):
                counts[int(bucket)] = number
        else:
            into[name] = number / 1e6 if name in _MICROSECONDS else number
    for figures in plain.values():
        figures.update({name: tuple(value) for name, value in figures.items() if isinstance(value, list)})
    return {prefix: CounterSnapshot(**figures) for prefix, figures in sorted(plain.items())}
