from __future__ import annotations

import dataclasses

import pytest

from neverstale.counters import LOAD_BOUNDS, Counters, CounterSnapshot, quantile


def test_a_snapshot_has_the_same_figures_and_stays_as_it_is() -> None:
    """A snapshot does not go on counting."""
    counters = Counters()
    counters.hits += 3
    counters.redis_seconds += 0.5
    snapshot = counters.snapshot()
    counters.hits += 1
    assert snapshot == CounterSnapshot(hits=3, redis_seconds=0.5)
    assert counters.snapshot().hits == 4
    with pytest.raises(dataclasses.FrozenInstanceError):
        snapshot.hits = 5  # type: ignore[misc]


def test_snapshots_and_counters_have_the_same_fields() -> None:
    """What is counted is shown, under the same name and with the same type; histograms as tuples."""
    counted, shown = (
        [(f.name, f.type, f.default) for f in dataclasses.fields(c) if not f.name.endswith("_times")]
        for c in (Counters, CounterSnapshot)
    )
    assert counted == shown
    assert [f.name for f in dataclasses.fields(Counters)] == [
        f.name for f in dataclasses.fields(CounterSnapshot)
    ]
    assert not hasattr(Counters(), "__dict__")


@pytest.mark.parametrize(
    ("snapshot", "expected"),
    [
        (CounterSnapshot(), None),
        (CounterSnapshot(misses=4), 0.0),
        (CounterSnapshot(hits=4), 1.0),
        (CounterSnapshot(hits=1, stale_hits=1, misses=2), 0.5),
    ],
)
def test_the_hit_rate_counts_stale_hits_and_needs_a_read(
    snapshot: CounterSnapshot, expected: float | None
) -> None:
    """A stale hit was answered without a load; without reads there is no rate."""
    assert snapshot.hit_rate == expected


def test_as_dict_has_every_figure_and_the_rate() -> None:
    """The exporter gets plain numbers."""
    shown = CounterSnapshot(hits=1, misses=1).as_dict()
    assert shown["hit_rate"] == 0.5
    times = {"redis_times", "load_times"}
    assert set(shown) == {field.name for field in dataclasses.fields(CounterSnapshot)} - times | {"hit_rate"}


def test_times_are_counted_by_their_bounds() -> None:
    """What took up to a bound is counted at it, and what took longer than the last one behind it."""
    counters = Counters()
    for seconds in (0.0005, LOAD_BOUNDS[0], 0.0011, LOAD_BOUNDS[-1], 60.0):
        counters.count_load(seconds)
    shown = counters.snapshot()
    assert (shown.loads, sum(shown.load_times)) == (5, 5)
    assert (shown.load_times[:2], shown.load_times[-2:]) == ((2, 1), (1, 1))
    assert shown.load_seconds == pytest.approx(70.0026)


def test_quantiles() -> None:
    """A quantile lies in the bucket that holds it, and there where it would be if values were evenly spread."""
    bounds = (1.0, 2.0, 4.0)
    assert quantile(bounds, (0, 0, 0, 0), 0.5) is None
    assert quantile(bounds, (4, 0, 0, 0), 0.5) == 0.5
    assert quantile(bounds, (1, 0, 2, 1), 0.75) == 4.0
    assert quantile(bounds, (1, 0, 2, 1), 0.5) == 3.0
    assert quantile(bounds, (0, 0, 0, 5), 0.5) == 4.0
    assert CounterSnapshot().redis_time(0.99) is None


def test_sums_and_differences() -> None:
    """Two snapshots add up, and a later one less an earlier is what was counted in between."""
    counters = Counters()
    counters.hits, counters.redis_times[3] = 5, 5
    earlier = counters.snapshot()
    counters.hits, counters.redis_times[3], counters.redis_seconds = 8, 8, 0.25
    between = counters.snapshot().minus(earlier)
    assert (between.hits, between.redis_times[3], between.redis_seconds) == (3, 3, 0.25)
    assert earlier.plus(between) == counters.snapshot()
    assert between.reads == 3


def test_a_difference_to_what_was_lost() -> None:
    """When counting has begun anew since, everything was counted since."""
    assert CounterSnapshot(hits=3).minus(CounterSnapshot(hits=5, loads=1)) == CounterSnapshot(hits=3)
