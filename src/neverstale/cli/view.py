"""What `stats` and `top` show: readings of what all processes report, and how they look."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import reduce
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from neverstale.cache import Cache
from neverstale.counters import CounterSnapshot
from neverstale.hot import HotKey, HotTag
from neverstale.metrics.nodes import NodeStats
from neverstale.metrics.totals import Totals

from .output import count, duration, fitted, plain, share, size, table

__all__ = ["Frame", "Reading", "frame_of", "prefix_table", "processes", "rendered"]

#: What is hot is looked for so far back, in seconds.
_HOT: Final = 300.0
#: From this width on, keys and tags stand side by side.
_WIDE: Final = 100
#: Columns whose title says that they are rates, where they are.
_RATED: Final = ("READS", "LOADS")
#: What a narrow terminal does without, the least important first; reads and hits stay.
_LEAST: Final = ("INV", "STALE", "REDIS", "LOAD", "LOADS", "LOADS/s", "ERR", "FAIL")
_LEAST_OF_NODES: Final = ("CLIENTS", "KEYS", "EVICTED", "OPS/s", "OF")


@dataclass(frozen=True)
class Reading:
    """Figures of all processes together.

    Attributes:
        at: when, by Redis' clock.
        seconds: what they cover; 0: since the first report.
        processes: that report now.
        prefixes: the figures.
    """

    at: float
    seconds: float
    processes: int
    prefixes: Mapping[str, CounterSnapshot] = field(default_factory=dict)

    @staticmethod
    def take(cache: Cache, *, last: float | None = None) -> Reading:
        """Read the totals, or the figures of the `last` seconds.

        Raises:
            RedisUnavailable: Redis did not answer.
        """
        found = cache.totals()
        if last is None:
            return Reading(found.at, 0.0, found.processes, found.prefixes)
        spans = cache.series(last)
        summed: dict[str, CounterSnapshot] = {}
        for span in spans:
            for prefix, figures in span.prefixes.items():
                summed[prefix] = summed[prefix].plus(figures) if prefix in summed else figures
        seconds = sum(span.seconds for span in spans)
        return Reading(found.at, seconds, found.processes, dict(sorted(summed.items())))

    def since(self, earlier: Reading) -> Reading:
        """Return what was counted between two readings."""
        between = Totals(self.at, self.processes, self.prefixes).since(
            Totals(earlier.at, earlier.processes, earlier.prefixes)
        )
        return Reading(self.at, max(self.at - earlier.at, 0.001), self.processes, between.prefixes)

    @property
    def all(self) -> CounterSnapshot:
        """All prefixes together."""
        return reduce(CounterSnapshot.plus, self.prefixes.values(), CounterSnapshot())

    def as_dict(self) -> dict[str, Any]:
        """Every figure, ready for JSON."""
        return {
            "at": self.at,
            "seconds": self.seconds or None,
            "processes": self.processes,
            "all": _figures(self.all),
            "prefixes": {prefix: _figures(figures) for prefix, figures in self.prefixes.items()},
        }


def _figures(figures: CounterSnapshot) -> dict[str, Any]:
    return {**asdict(figures), "hit_rate": figures.hit_rate}


@dataclass(frozen=True)
class Frame:
    """One look at everything.

    Attributes:
        reading: the figures of some seconds.
        keys, tags: what is asked for most.
        nodes: what each primary says of itself.
    """

    reading: Reading
    keys: Sequence[HotKey]
    tags: Sequence[HotTag]
    nodes: Sequence[NodeStats]

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            **self.reading.as_dict(),
            "hot_keys": [each._asdict() for each in self.keys],
            "hot_tags": [each._asdict() for each in self.tags],
            "nodes": [each.as_dict() for each in self.nodes],
        }


def frame_of(cache: Cache, reading: Reading, most: int) -> Frame:
    """Add to a reading what is hot and what the nodes say; raises `RedisUnavailable`."""
    primaries = [node for node in cache.nodes() if node.role != "replica"]
    return Frame(reading, cache.hottest(most, _HOT), cache.hottest_tags(most, _HOT), primaries)


# --- how it looks ---------------------------------------------------------------------------------------------------


def prefix_table(reading: Reading, seconds: float, width: int) -> Table:
    """Return the figures by prefix, the busiest first, for a terminal of so many columns.

    Counts, or rates where they cover some `seconds`.
    """
    right: tuple[str, ...] = (
        "READS",
        "HITS",
        "STALE",
        "LOADS",
        "FAIL",
        "LOAD",
        "REDIS",
        "INV",
        "ERR",
    )
    if seconds:
        right = tuple(f"{name}/s" if name in _RATED else name for name in right)
    made = table("PREFIX", *right, right=right)
    ranked = sorted(reading.prefixes.items(), key=lambda item: (-_reads(item[1]), item[0]))
    rows = [(prefix or "(none)", figures) for prefix, figures in ranked if _is_busy(figures)]
    if len(rows) > 1:
        rows.append(("all", reading.all))
    for name, figures in rows:
        loads, reads = figures.loads, _reads(figures)
        made.add_row(
            Text(plain(name), "bold" if name == "all" else ""),
            _rate(reads, seconds),
            share(figures.hit_rate),
            _rate(figures.stale_hits, seconds),
            _rate(loads, seconds),
            Text(_rate(figures.load_errors, seconds), "red" if figures.load_errors else ""),
            duration(figures.load_seconds / loads * 1000 if loads else None),
            duration(figures.redis_seconds / reads * 1000 if reads else None),
            _rate(figures.invalidations, seconds),
            Text(_rate(figures.errors, seconds), "red" if figures.errors else ""),
        )
    return fitted(made, width, _LEAST)


def _is_busy(figures: CounterSnapshot) -> bool:
    return bool(_reads(figures) or figures.loads or figures.sets or figures.invalidations or figures.errors)


def _reads(figures: CounterSnapshot) -> int:
    return figures.hits + figures.stale_hits + figures.misses


def _rate(number: float, seconds: float) -> str:
    if not seconds:
        return count(number)
    rate = number / seconds
    return f"{rate:,.0f}" if rate >= 10 or not rate else f"{rate:.1f}" if rate >= 0.05 else "<0.1"


def processes(reading: Reading) -> str:
    """Say how many processes report."""
    return f"{count(reading.processes)} process{'' if reading.processes == 1 else 'es'}"


def rendered(frame: Frame, cache: Cache, width: int, hint: str = "") -> Group:
    """Return a frame as it is shown on a terminal of so many columns, with a hint below."""
    reading, settings = frame.reading, cache.settings
    figures = reading.all
    rate = _reads(figures) / reading.seconds if reading.seconds else 0.0
    head = Text.assemble(
        (f"{plain(settings.namespace or 'neverstale')} v{settings.version}", "bold"),
        f"   {rate:,.0f} reads/s   hits ",
        share(figures.hit_rate),
        f"   {processes(reading)}   {time.strftime('%H:%M:%S', time.gmtime(reading.at))} UTC",
    )
    parts: list[Any] = [head, Text(f"rates per second, of the last {reading.seconds:.0f} s", "dim"), ""]
    if reading.prefixes:
        parts.append(prefix_table(reading, reading.seconds, width))
    else:
        parts.append(Text("No process reports figures: see 'neverstale stats --help'.", "yellow"))
    hot = [
        _hot("HOTTEST KEYS", [(each.prefix + each.key, each.reads) for each in frame.keys]),
        _hot("HOTTEST TAGS", [(each.tag, each.reads) for each in frame.tags]),
    ]
    if frame.keys or frame.tags:
        parts.append("")
        if width >= _WIDE:
            side = Table.grid(padding=(0, 4), expand=True)
            side.add_column(ratio=1)
            side.add_column(ratio=1)
            side.add_row(*hot)
            parts.append(side)
        else:
            parts += [hot[0], "", hot[1]]
    parts += ["", *_nodes(frame.nodes, width)]
    if hint:
        parts += ["", Text(hint, "dim")]
    return Group(*parts)


def _hot(title: str, names: Sequence[tuple[str, float]]) -> Table:
    made = Table(box=None, pad_edge=False, header_style="bold")
    made.add_column("READS/s", justify="right", no_wrap=True)
    made.add_column(title, no_wrap=True, overflow="ellipsis")
    for name, reads in names:
        made.add_row(_rate(reads, 1), plain(name))
    return made


def _nodes(nodes: Sequence[NodeStats], width: int) -> list[RenderableType]:
    right = ("MEMORY", "OF", "OPS/s", "CLIENTS", "KEYS", "EVICTED")
    made = table("NODE", *right, right=right)
    wrong: list[RenderableType] = []
    for node in nodes:
        if node.error:
            wrong.append(Text.assemble(plain(node.node), "  ", (plain(node.error), "red")))
            continue
        made.add_row(
            plain(node.node),
            size(node.memory),
            size(node.max_memory) if node.max_memory else Text("unset", "yellow"),
            count(node.commands),
            count(node.clients),
            count(node.keys),
            count(node.evicted),
        )
    return [fitted(made, width, _LEAST_OF_NODES), *wrong]
