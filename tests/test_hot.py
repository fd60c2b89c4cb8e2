"""What is asked for most: the sample, and the table that cannot grow."""

from __future__ import annotations

import math
import statistics
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neverstale import Cache
from neverstale.core.keys import Keys
from neverstale.hot import SAMPLED, Hot, Table, gap, read, written
from neverstale.sessions import Sessions
from neverstale.testing.servers import RedisServer

names = st.integers(0, 30).map(str)


@given(st.lists(names, max_size=400), st.integers(1, 12))
def test_nothing_frequent_is_missed(stream: list[str], room: int) -> None:
    """With room for n names, what is more than one in n + 1 of the stream is there; the table does not grow."""
    table = Table(room)
    for name in stream:
        table.add(name)
        assert len(table) <= room
    kept = dict(table.take(room))
    exact = Counter(stream)
    assert {name for name, count in exact.items() if count > len(stream) / (room + 1)} <= set(kept)
    assert all(count <= exact[name] for name, count in kept.items())


def test_what_is_taken_is_gone() -> None:
    """The most frequent are taken out with their counts; the others stay."""
    table = Table()
    for name in "aaabbc":
        table.add(name)
    assert table.take(2) == [("a", 3), ("b", 2)]
    table.add("c")
    assert table.take(2) == [("c", 2)]
    assert len(table) == 0


def test_about_one_of_64_reads_is_looked_at() -> None:
    """The gaps between samples differ, and are 63 on average: the 64th is looked at."""
    gaps = [gap("api:") for _ in range(20_000)]
    assert len(set(gaps)) > SAMPLED
    assert abs(statistics.mean(gaps) - (SAMPLED - 1)) < 2


def test_keys_of_sessions_are_never_looked_at() -> None:
    """However many are read."""
    assert (gap("session:"), gap("session:admin:")) == (math.inf, math.inf)
    hot = Hot()
    hot.note("", "session:0123", ())
    assert (len(hot.keys), len(hot.tags)) == (0, 0)


@pytest.mark.parametrize("prefix", ["session:", "auth:"])
def test_sessions_are_never_looked_at_under_any_prefix(redis_server: RedisServer, prefix: str) -> None:
    """An application may have given them another one."""
    with Cache.from_url(redis_server.url, namespace="shop", timeout=5) as cache:
        session_id = Sessions(cache, type=dict, prefix=prefix).create({}, user="1").id
        for _ in range(2 * SAMPLED):
            assert Sessions(cache, type=dict, prefix=prefix).get(session_id) == {}
        kept = Sessions(cache, type=dict, prefix=prefix)
        for _ in range(4 * SAMPLED):
            assert kept.get(session_id) == {}
        assert len(cache._shared.hot.keys) == 0


@given(st.text(max_size=20), st.text(min_size=1, max_size=40))
def test_names_come_back(prefix: str, key: str) -> None:
    """What is noted as Redis has it is shown as the reader of it named it, with its prefix."""
    keys = Keys("shop", 1, prefix)
    hot = Hot()
    hot.note(prefix, keys.entry(key)[len(keys.head) :], ())
    ((name, count),) = hot.keys.take(1)
    assert (read(name), count) == ((prefix, key), 1)


@given(st.text(max_size=3), st.text(max_size=3), st.text(max_size=3), st.text(max_size=3))
def test_no_two_names_are_one(prefix: str, key: str, other_prefix: str, other: str) -> None:
    """Where prefix and key end in different places, they are written differently."""
    same = written(prefix, key) == written(other_prefix, other)
    assert same == ((prefix, key) == (other_prefix, other))
