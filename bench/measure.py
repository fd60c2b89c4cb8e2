"""Compare contenders on a machine that does other things as well.

Rules:
- Contenders take turns in short rounds, each round in another order: what slows the machine slows all of them.
- A ratio is taken within each round, and the median of the rounds counts; so does the middle half of them.
- Each contender does as much in a round as it can in about the same time.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

#: Seconds of one turn. Long against the clock and the start of a hundred tasks, short against a noisy neighbour.
TURN = 0.08


@dataclass(frozen=True)
class Target:
    """What a row shall reach: in its ratio to the first row of its section or, where it has none, in its figure."""

    bound: float
    at_least: bool = True

    def met(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        return f"{'at least' if self.at_least else 'at most'} {self.bound:g}"


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        figure: in the section's unit.
        ratio, low, high: to the first row, the median and the middle half of the rounds; None for the first.
        target: what is to be reached.
        note: what else is to be known.
    """

    name: str
    figure: float
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    target: Target | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.target is None:
            return None
        return self.target.met(self.figure if self.ratio is None else self.ratio)


@dataclass(frozen=True)
class Section:
    """One table: rows that are compared with the first of them."""

    title: str
    unit: str
    rows: tuple[Row, ...]

    def as_dict(self) -> dict[str, Any]:
        rows = [
            {**asdict(row), "target": None if row.target is None else str(row.target), "met": row.met}
            for row in self.rows
        ]
        return {"title": self.title, "unit": self.unit, "rows": rows}


@dataclass(frozen=True)
class Contender:
    """One way of doing the same.

    Attributes:
        run: does it about so many times as it is told, and returns how many times it did.
        target: the ratio to the first contender: of rates, or of times where the section is in microseconds.
    """

    run: Callable[[int], Awaitable[int]]
    target: Target | None = None
    note: str = ""


async def contest(
    title: str, contenders: Mapping[str, Contender], rounds: int, *, per_second: bool = True
) -> Section:
    """Let contenders take turns.

    Args:
        title: of the section.
        contenders: by name; the first is what the others are compared with.
        rounds: how many.
        per_second: whether the figure is a rate (more is better) or microseconds for one (less is better).
    """
    shares = {name: await _share(contender) for name, contender in contenders.items()}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append(await _time(contenders[name], shares[name]))
    base = seconds[names[0]]
    rows = []
    for name, contender in contenders.items():
        own = seconds[name]
        middle = statistics.median(own)
        figure = 1 / middle if per_second else middle * 1e6
        ratios = [b / o if per_second else o / b for b, o in zip(base, own, strict=True)]
        if name == names[0]:
            rows.append(Row(name, figure, note=contender.note))
            continue
        low, ratio, high = quartiles(ratios)
        rows.append(Row(name, figure, ratio, low, high, contender.target, contender.note))
    return Section(title, "per second" if per_second else "µs each", tuple(rows))


def quartiles(figures: list[float]) -> tuple[float, float, float]:
    """Return the quarter, the median and the three quarters."""
    if len(figures) < 2:
        return figures[0], figures[0], figures[0]
    low, middle, high = statistics.quantiles(figures, n=4, method="inclusive")
    return low, middle, high


def inline(once: Callable[[], object]) -> Callable[[int], Awaitable[int]]:
    """Make the turns of a synchronous contender."""

    async def run(times: int) -> int:
        for _ in range(times):
            once()
        return times

    return run


def sequential(once: Callable[[], Awaitable[object]]) -> Callable[[int], Awaitable[int]]:
    """Make the turns of an asynchronous contender that does one after the other."""

    async def run(times: int) -> int:
        for _ in range(times):
            await once()
        return times

    return run


def concurrent(
    readers: int, keys: int, read: Callable[[int], Awaitable[object]]
) -> Callable[[int], Awaitable[int]]:
    """Make the turns of concurrent readers: each reads keys of its own, one after the other.

    Args:
        readers: how many.
        keys: how many in all.
        read: reads the key of a number, 0 to `keys`.
    """

    async def reader(number: int, times: int) -> None:
        own = range(number, keys, readers)
        for turn in range(times):
            await read(own[turn % len(own)])

    async def run(times: int) -> int:
        each = max(1, times // readers)
        await asyncio.gather(*(reader(number, each) for number in range(readers)))
        return each * readers

    return run


async def _time(contender: Contender, share: int) -> float:
    began = time.perf_counter()
    done = await contender.run(share)
    return (time.perf_counter() - began) / done


async def _share(contender: Contender) -> int:
    """Return how often a contender does it in one turn; warms it up, too."""
    share = 100
    while True:
        one = await _time(contender, share)
        if one * share >= TURN / 2 or share >= 1_000_000:
            return max(1, round(TURN / one))
        share *= 2
