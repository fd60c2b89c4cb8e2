"""Figures for Prometheus, by prometheus_client: in this process, and together with those of its siblings.

The figures of the hit path are plain numbers; a reporter adds their differences to the counters of prometheus_client,
and each scrape those that the process it reaches has not yet handed on. So prometheus_client's multi-process mode
(`PROMETHEUS_MULTIPROC_DIR`) is right for any number of workers, those that have ended included.

Names follow https://prometheus.io/docs/practices/naming/. The labels are `prefix`, of which there are as many as the
code names (and never more than fifty, of all processes together), `result` with two or three values, and `node`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache as once
from typing import Any, Final

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from neverstale.counters import LOAD_BOUNDS, REDIS_BOUNDS, CounterSnapshot

from .figures import NO_PREFIX
from .nodes import NodeStats
from .reporter import Reporter

__all__ = ["Instruments", "instruments", "scrape", "scrape_registry"]

#: What is counted: the metric, its help, and for each value of `result` the figures to add (and, with a `-`, subtract).
#: Without a `result` the key is "".
_COUNTERS: Final[tuple[tuple[str, str, dict[str, tuple[str, ...]]], ...]] = (
    (
        "reads",
        "Reads by what they found; stale is served while it is loaded anew.",
        {"hit": ("hits",), "stale": ("stale_hits",), "miss": ("misses",)},
    ),
    (
        "loads",
        "Loaders that ran, by whether they returned or raised.",
        {"ok": ("loads", "-load_errors"), "error": ("load_errors",)},
    ),
    (
        "fallbacks",
        "Misses served a value kept past its end, as the load failed or was late.",
        {"": ("fallbacks",)},
    ),
    ("load_waits", "Reads that waited for the load of another.", {"": ("waits",)}),
    (
        "fills",
        "Loaded values, by whether they were stored; dropped because of an invalidation meanwhile or of Redis.",
        {"stored": ("fills",), "dropped": ("fills_dropped",)},
    ),
    (
        "sets",
        "Values set by hand, by whether they were stored.",
        {"stored": ("sets", "-sets_dropped"), "dropped": ("sets_dropped",)},
    ),
    ("invalidations", "Calls that invalidate, by the view that was asked.", {"": ("invalidations",)}),
    ("removed_entries", "Entries that invalidations have cleared, by their own prefix.", {"": ("removed",)}),
    ("redis_errors", "Exchanges that Redis did not answer in time, or refused.", {"": ("errors",)}),
    ("decode_errors", "Stored values that did not fit their type.", {"": ("decode_errors",)}),
)

#: Of each node: the metric, its help, whether it only grows, and the figure.
_NODES: Final = (
    ("up", "Whether the node answers.", False, "up"),
    ("evicted_keys", "Keys that were evicted for want of memory.", True, "evicted"),
    ("expired_keys", "Keys that have expired.", True, "expired"),
    ("memory_used_bytes", "Memory that the node uses.", False, "memory"),
    ("memory_max_bytes", "Memory that it may use; 0 is no limit.", False, "max_memory"),
    ("connected_clients", "Connections of all its clients.", False, "clients"),
)


class Instruments:
    """The metrics of this process in one registry.

    Args:
        registry: of prometheus_client.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._counters = [
            (
                Counter(
                    name,
                    help_,
                    ("prefix",) if "" in results else ("prefix", "result"),
                    namespace="neverstale",
                    registry=registry,
                ),
                results,
            )
            for name, help_, results in _COUNTERS
        ]
        self._histograms = [
            (
                Histogram(
                    name, help_, ("prefix",), namespace="neverstale", buckets=bounds, registry=registry
                ),
                figure,
            )
            for name, help_, bounds, figure in (
                ("redis_duration_seconds", "Time that exchanges with Redis took.", REDIS_BOUNDS, "redis"),
                ("load_duration_seconds", "Time that loaders took.", LOAD_BOUNDS, "load"),
            )
        ]

    def add(self, figures: Mapping[str, CounterSnapshot]) -> None:
        """Add what was counted, by prefix."""
        for prefix, snapshot in figures.items():
            # To Prometheus a label with an empty value is a label that is not there.
            shown = prefix or NO_PREFIX
            for counter, results in self._counters:
                for result, parts in results.items():
                    # Also what is 0: of a series that begins with its first error, `rate` would not see that one.
                    child = counter.labels(*((shown, result) if result else (shown,)))
                    child.inc(max(sum(_figure(snapshot, part) for part in parts), 0))
            for histogram, figure in self._histograms:
                counts: Sequence[int] = getattr(snapshot, f"{figure}_times")
                _observe(histogram.labels(shown), counts, getattr(snapshot, f"{figure}_seconds"))


def _figure(snapshot: CounterSnapshot, part: str) -> int:
    value: int = getattr(snapshot, part.removeprefix("-"))
    return -value if part.startswith("-") else value


def _observe(histogram: Histogram, counts: Sequence[int], seconds: float) -> None:
    """Add many observations at once: `observe` takes one, and there may be 100,000 in a second."""
    child: Any = histogram
    child._sum.inc(max(seconds, 0.0))
    for bucket, count in zip(child._buckets, counts, strict=True):
        if count > 0:
            bucket.inc(count)


@once
def instruments() -> Instruments:
    """Return the metrics in the registry that all libraries share; one set for all caches of this process."""
    return Instruments(REGISTRY)


class _Scrape(Collector):
    """All that is to be shown: what this process has not yet handed on, too."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        self._reporter.connect()
        self._reporter.export()
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            siblings: Any = MultiProcessCollector
            yield from siblings(CollectorRegistry()).collect()
        else:
            yield from REGISTRY.collect()
        yield from _of_nodes(self._reporter.looks.last())


def _of_nodes(found: Sequence[NodeStats]) -> Iterator[Metric]:
    for name, help_, grows, figure in _NODES:
        kind = CounterMetricFamily if grows else GaugeMetricFamily
        family = kind(f"neverstale_redis_{name}", help_, labels=("node",))
        for node in found:
            if node.up or figure == "up":
                family.add_metric((node.node,), float(getattr(node, figure)))
        yield family


def scrape_registry(reporter: Reporter) -> CollectorRegistry:
    """Return a registry with everything that is to be shown at a scrape."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Scrape(reporter))
    return registry


def scrape(reporter: Reporter, accept: str) -> tuple[bytes, str]:
    """Return the body and the content type for what a client accepts."""
    encode, content_type = choose_encoder(accept)
    return encode(scrape_registry(reporter)), content_type
