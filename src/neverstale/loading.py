"""What a loader may say beside the value: tags, how long it lives, whether it may be kept.

A loader returns the value, or an `Answer` with all that it says; tags it can also name by `add_tags`, from wherever in
its call stack it learns them.

A load opens a collector, held in a context variable, so that it is found from nested calls, from child tasks
and from `asyncio.to_thread` (both copy the context, and with it the reference to the same collector). A load
inside of another load has a collector of its own, and the innermost one gets the tags: an entry carries the
tags that were named while it was loaded itself.

What this does not know: threads that a loader starts by hand do not copy the context (use
`contextvars.copy_context`), and tags named by a task that outlives its load come too late for the entry. Both
name tags outside of any load.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

from neverstale.errors import UsageError
from neverstale.lifetime import Lifetime

__all__ = ["Answer", "Collector", "Tally", "add_tags", "collecting", "tallying"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a loader returns that says more than the value.

    Attributes:
        value: what was loaded.
        lifetime: how long it lives, instead of what the reader said.
        tags: beside those that the reader gave and those of `add_tags`.
        keep: whether it may be stored and given to others. Who waited for what may not be kept loads for itself, all
            side by side.
        forget: where it may not be kept: whether an older value goes, too, or stays for as long as it may.
    """

    value: Any
    lifetime: Lifetime | None = None
    tags: tuple[str, ...] = ()
    keep: bool = True
    forget: bool = True


class Collector:
    """The tags that one load has named so far: each once, in the order of their first naming."""

    __slots__ = ("_tags",)

    def __init__(self) -> None:
        # A dict keeps the order, and adding a key is one atomic step for threads.
        self._tags: dict[str, None] = {}

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags named until now."""
        return tuple(self._tags)

    def add(self, tag: str) -> None:
        """Add one tag; a second time does nothing."""
        self._tags[tag] = None

    def __iter__(self) -> Iterator[str]:
        return iter(self.tags)

    def __len__(self) -> int:
        return len(self._tags)

    def __repr__(self) -> str:
        return f"Collector({', '.join(map(repr, self._tags))})"


_current: Final[ContextVar[Collector | None]] = ContextVar("neverstale_load", default=None)


def add_tags(*tags: str) -> None:
    """Name tags for the entry that is being loaded at this moment.

    Outside of a load this does nothing: a function that names tags works unchanged where no cache is around
    it. It also does nothing for the tags of an outer load: those are named by the outer loader itself.

    Arguments:
        tags: the names, not empty. All are checked before the first one is added.

    Raises:
        UsageError: a tag is not text, or is empty; also outside of a load.
    """
    for tag in tags:
        if not isinstance(tag, str):
            raise UsageError(
                f"a tag is text, not {type(tag).__qualname__}: add_tags('a', 'b') or add_tags(*names)"
            )
        if not tag:
            raise UsageError("a tag may not be empty")
    collector = _current.get()
    if collector is not None:
        for tag in tags:
            collector.add(str.__str__(tag))


@dataclass(slots=True)
class Tally:
    """How many loads were begun."""

    loads: int = 0


_tally: Final[ContextVar[Tally | None]] = ContextVar("neverstale_tally", default=None)


@contextlib.contextmanager
def tallying() -> Iterator[Tally]:
    """Count the loads that are begun by what runs in the `with` block, in its tasks and its copies of the context."""
    tally = Tally()
    token = _tally.set(tally)
    try:
        yield tally
    finally:
        _tally.reset(token)


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    """Collect the tags that are named until the end of the `with` block, by this load and not by loads inside of it."""
    tally = _tally.get()
    if tally is not None:
        tally.loads += 1
    collector = Collector()
    token = _current.set(collector)
    try:
        yield collector
    finally:
        _current.reset(token)
