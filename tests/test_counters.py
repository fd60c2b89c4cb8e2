from __future__ import annotations

import dataclasses

import pytest

from neverstale.counters import Counters, CounterSnapshot


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
    """What is counted is shown, under the same name and with the same type."""
    counted, shown = (
        [(f.name, f.type, f.default) for f in dataclasses.fields(c)] for c in (Counters, CounterSnapshot)
    )
    assert counted == shown
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
    assert set(shown) == {field.name for field in dataclasses.fields(CounterSnapshot)} | {"hit_rate"}
