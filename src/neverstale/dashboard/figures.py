"""What the page shows, made of what all processes have reported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import Any, Final

from neverstale.counters import CounterSnapshot
from neverstale.metrics import HotKey, HotTag, NodeStats, Span, Totals
from neverstale.metrics.totals import SPAN

__all__ = ["overview"]

#: Processes report once a second: so much of what belongs to the last moments is on average not there yet, in seconds.
_LAG: Final = 0.5
#: The shortest part of a step that is shown: of less, one late report would be a notch in the chart.
_SHORTEST: Final = 5.0
#: Figures "now" are of the last minute, in steps; of the hit rate and the requests, of the last two steps.
_MINUTE: Final = 6


def overview(
    totals: Totals,
    spans: Sequence[Span],
    keys: Iterable[HotKey],
    tags: Iterable[HotTag],
    nodes: Iterable[NodeStats],
) -> dict[str, Any]:
    """Put together the figures of the page, ready for JSON."""
    shown = list(spans)
    if shown and shown[-1].seconds < _SHORTEST:
        shown.pop()
    names = sorted(totals.prefixes, key=lambda prefix: (-totals.prefixes[prefix].reads, prefix))
    minute = _window(spans, _MINUTE)
    return {
        "at": totals.at,
        "processes": totals.processes,
        "now": _figures(*_window(spans, 2)),
        # Of invalidations how many there were: of one in a second it is not to be said that it was 60/min.
        "minute": {
            **_figures(*minute),
            "invalidations": sum(span.all.invalidations for span in spans[-_MINUTE:]),
        },
        "prefixes": [
            {
                "prefix": prefix,
                "reads": totals.prefixes[prefix].reads,
                **_figures(_of(minute[0], prefix), minute[1]),
            }
            for prefix in names
            if totals.prefixes[prefix].reads or totals.prefixes[prefix].loads
        ],
        "spans": [_step(span) for span in shown],
        "keys": _by_name((f"{key.prefix}{key.key}", key.reads) for key in keys),
        "tags": _by_name((tag.tag, tag.reads) for tag in tags),
        "nodes": [node.as_dict() for node in nodes],
    }


def _by_name(hottest: Iterable[tuple[str, float]]) -> list[dict[str, Any]]:
    """Add up what is one for people: `api:` and `k`, and no prefix and `api:k`."""
    found: dict[str, float] = {}
    for name, reads in hottest:
        found[name] = found.get(name, 0.0) + reads
    return [
        {"name": name, "rate": round(reads, 2)}
        for name, reads in sorted(found.items(), key=lambda item: -item[1])
    ]


def _window(spans: Sequence[Span], steps: int) -> tuple[Mapping[str, CounterSnapshot], float]:
    """Return what was counted in the last steps, by prefix, and the seconds that this is of."""
    last = list(spans[-steps:])
    while last and not last[0].prefixes:  # nobody reported then
        del last[0]
    found: dict[str, CounterSnapshot] = {}
    for span in last:
        for prefix, snapshot in span.prefixes.items():
            found[prefix] = found[prefix].plus(snapshot) if prefix in found else snapshot
    return found, max(sum(span.seconds for span in last) - _LAG, 1.0)


def _of(found: Mapping[str, CounterSnapshot], prefix: str) -> Mapping[str, CounterSnapshot]:
    return {prefix: found[prefix]} if prefix in found else {}


def _figures(found: Mapping[str, CounterSnapshot], seconds: float) -> dict[str, Any]:
    figures = reduce(CounterSnapshot.plus, found.values(), CounterSnapshot())
    return {
        "rate": round(figures.reads / seconds, 3),
        "hit_rate": _rounded(figures.hit_rate),
        "stale_share": _rounded(figures.stale_hits / figures.reads if figures.reads else None),
        "redis_p50": _rounded(figures.redis_time(0.5)),
        "redis_p99": _rounded(figures.redis_time(0.99)),
        "loads": round(figures.loads / seconds, 3),
        "load_p50": _rounded(figures.load_time(0.5)),
        "load_p99": _rounded(figures.load_time(0.99)),
        "load_errors": figures.load_errors,
        "errors": figures.errors + figures.decode_errors,
    }


def _step(span: Span) -> dict[str, Any]:
    all_ = span.all
    # Of the step that is not over the last moments are still to come.
    seconds = span.seconds if span.seconds >= SPAN else max(span.seconds - _LAG, 1.0)
    return {
        "at": span.at,
        "seconds": round(span.seconds, 2),
        "hit_rate": _rounded(all_.hit_rate),
        "redis_p50": _rounded(all_.redis_time(0.5)),
        "redis_p99": _rounded(all_.redis_time(0.99)),
        "loads": round(all_.loads / seconds, 3),
        "by": {
            prefix: [round(each.reads / seconds, 3), _rounded(each.hit_rate), _rounded(each.redis_time(0.99))]
            for prefix, each in span.prefixes.items()
            if each.reads
        },
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
