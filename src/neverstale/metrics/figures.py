"""What a process has counted since somebody last asked, and how that is written as fields of a hash in Redis."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, Final

from neverstale.counters import Counters, CounterSnapshot

__all__ = ["OTHERS", "Differences", "read_figures", "written_figures"]

#: Prefixes are named by code, so there are a few. Were they made of input, they would fill Redis and Prometheus: the
#: figures of those beyond the first so many are added up under one name.
_PREFIXES: Final = 50
OTHERS: Final = "(others)"

_NOTHING: Final = CounterSnapshot()
_NAMES: Final = tuple(item.name for item in fields(CounterSnapshot))
_TIMES: Final = {name for name in _NAMES if isinstance(getattr(_NOTHING, name), tuple)}
#: Redis adds whole numbers up exactly: seconds are written as microseconds.
_MICROSECONDS: Final = {"redis_seconds", "load_seconds"}

_all: weakref.WeakSet[Differences] = weakref.WeakSet()


def _forget_all() -> None:
    for each in list(_all):
        each.forget()


# What a parent has counted before a fork it reports itself.
os.register_at_fork(after_in_child=_forget_all)


class Differences:
    """What was counted since it was last taken, by prefix; each that asks has one of these. Not for several threads.

    Args:
        counters: of a cache, by prefix.
    """

    def __init__(self, counters: dict[str, Counters]) -> None:
        self._counters = counters
        self._taken: dict[str, CounterSnapshot] = {}
        self._named: dict[str, None] = {}
        _all.add(self)

    def take(self) -> dict[str, CounterSnapshot]:
        """Return what was counted since the last call; prefixes of which nothing was are left out."""
        found: dict[str, CounterSnapshot] = {}
        for prefix, counters in list(self._counters.items()):
            now = counters.snapshot()
            since = now.minus(self._taken.get(prefix, _NOTHING))
            if since == _NOTHING:
                continue
            self._taken[prefix] = now
            name = self._name(prefix)
            found[name] = found[name].plus(since) if name in found else since
        return found

    def forget(self) -> None:
        """Begin anew: what was counted until now is no business of this process."""
        self._taken = {prefix: counters.snapshot() for prefix, counters in list(self._counters.items())}

    def _name(self, prefix: str) -> str:
        if prefix not in self._named:
            if len(self._named) >= _PREFIXES:
                return OTHERS
            self._named[prefix] = None
        return prefix


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
