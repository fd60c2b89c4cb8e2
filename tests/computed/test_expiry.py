"""What was stored together does not expire together: jitter, early renewal by cost, and renewals that begin late."""

from __future__ import annotations

import math
import random
import statistics
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.expiry import Traffic, contenders, simulate
from neverstale.base import BaseCache
from neverstale.core import entry
from neverstale.core.policy import State, examine
from neverstale.lifetime import DAY_MS, Lifetime
from neverstale.testing.servers import Server
from tests.behaviour.faces import until
from tests.computed.conftest import ComputedFace, stored

NOW = 1_800_000_000_000
spans = st.integers(0, DAY_MS)


@given(
    fresh=st.integers(1, DAY_MS),
    stale=spans,
    kept=spans,
    beta=st.sampled_from([0.0, 1.0]),
    jitter=st.floats(0, 1),
    chance=st.floats(0, 1),
)
def test_the_moments_of_a_lifetime(
    fresh: int, stale: int, kept: int, beta: float, jitter: float, chance: float
) -> None:
    """Fresh, served and kept follow each other; jitter takes off no more than its part; a day is the most."""
    life = Lifetime(fresh, stale, kept, beta, jitter)
    moments = life.begin(NOW, chance)
    soft_at, hard_at, ttl_ms = moments.soft_at, moments.hard_at, moments.ttl_ms
    whole = fresh + stale + kept
    assert 1 <= ttl_ms <= min(whole, DAY_MS)
    assert ttl_ms >= min(math.floor(whole * (1 - jitter)) - 3, DAY_MS)
    if stale or kept or beta:
        assert NOW <= soft_at <= hard_at
        assert hard_at - NOW <= fresh + stale
        if ttl_ms < DAY_MS:
            assert hard_at - NOW <= ttl_ms or ttl_ms == 1
    if soft_at == 0:
        assert hard_at == 0


def test_jitter_spreads_evenly() -> None:
    """By chance, from nothing to its part, each as likely as the other."""
    life = Lifetime(60_000, jitter=0.1)
    chances = random.Random(1)
    found = sorted(life.begin(NOW, chances.random()).ttl_ms for _ in range(10_000))
    assert 54_000 <= found[0] < 54_100
    assert 59_900 < found[-1] <= 60_000
    assert statistics.mean(found) == pytest.approx(57_000, rel=0.005)
    quarters = statistics.quantiles(found, n=4)
    assert quarters == pytest.approx([55_500, 57_000, 58_500], rel=0.01)


@pytest.mark.parametrize("beta", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("left", [200, 1_000, 3_000])
def test_the_costlier_the_earlier(beta: float, left: int) -> None:
    """A reader renews early with the probability of the paper: e to the minus time left by cost and beta."""
    cost = 1_000  # milliseconds
    raw = entry.build(
        codec=1,
        compression=0,
        fill_id=b"x" * 12,
        soft_at=NOW + left,
        hard_at=NOW + left,
        cost=cost * 1000,
        stamps=(),
        payload=b"1",
    )
    random.seed(1)
    life, draws = Lifetime(60_000, beta=beta), 20_000
    found = [examine(raw, (), (), NOW, BaseCache._early(life)).state for _ in range(draws)]
    assert set(found) <= {State.FRESH, State.STALE}
    assert found.count(State.STALE) / draws == pytest.approx(math.exp(-left / (beta * cost)), abs=0.012)


def test_without_beta_nothing_is_early() -> None:
    """What has no `beta` is fresh to its end."""
    assert {BaseCache._early(Lifetime(60_000)) for _ in range(100)} == {0.0}


def test_hot_keys_do_not_expire_together() -> None:
    """Stored together, they are loaded one after the other, and hardly a reader waits; see `python -m bench.expiry`."""
    traffic = Traffic(keys=40, reads=20, seconds=200)
    plain, jittered, early, both = (simulate(traffic, life) for life in contenders(traffic.ttl).values())
    assert plain.peak == traffic.keys
    assert both.peak <= plain.peak / 3
    assert both.at_once <= plain.at_once / 3
    assert both.waited < plain.waited / 20
    # Each does its own part: jitter alone lets readers wait, early renewal alone has a higher peak.
    assert jittered.peak <= plain.peak / 3
    assert jittered.waited > plain.waited / 2
    assert early.waited < plain.waited / 20
    assert both.loads <= 1.35 * plain.loads


async def test_a_renewal_that_begins_late_is_stored(
    face: ComputedFace, other: ComputedFace, server: Server
) -> None:
    """While it is renewed a value outlives its TTL in Redis, is not served any more, and nobody computes it as well."""
    options = {"soft_ttl": 0.05, "ttl": 1.5, "jitter": 0.0, "beta": 0.0}
    await face.memoize("k", face.loader("old"), **options)
    new = face.loader("new", held=True)
    while not new.calls:
        assert await face.memoize("k", new, **options) == "old"
    found = stored(server)
    assert found is not None
    await until(lambda: time.time() * 1000 > found.hard_at + 50)
    assert await face.call(face.cache.cache.get_json, "k", default="a miss") == "a miss"
    waiting = [each.start("memoize", "k", new, **options) for each in (face, other)]
    await until(lambda: face.stats().waits + other.stats().waits == 2)
    new.let_go()
    assert [await each for each in waiting] == ["new"] * 2
    await until(lambda: face.stats().fills == 2)
    assert (new.calls, other.stats().loads) == (1, 0)
    assert server.client().pttl("v1:computed:k") <= 1_500


async def test_a_value_of_one_time_is_not_prolonged(face: ComputedFace, server: Server) -> None:
    """What Redis alone keeps the time of keeps it, whatever is renewed."""
    plain = face.plain
    await plain.get_or_load("k", plain.loader(1), ttl=5)
    found = await face.call(plain.cache._find, "k", plain.cache._sealer(int))
    held = plain.loader(2, held=True)
    plain.cache._renew("k", held, Lifetime(5_000), (), plain.cache._sealer(int), found)
    await held.begun()
    assert server.client().pttl("v1:k") <= 5_000
    held.let_go()
    await until(lambda: plain.stats().fills == 2)


async def test_what_is_prolonged_is_no_fallback_for_longer(face: ComputedFace, server: Server) -> None:
    """A value that stays because it is renewed serves as a fallback for as long as was said, and ends for good."""
    options = {
        "soft_ttl": 0.02,
        "ttl": 0.2,
        "stale_if_error": 0.2,
        "lease_ttl": 2,
        "jitter": 0.0,
        "beta": 0.0,
    }
    await face.memoize("k", face.loader("old"), **options)
    found = stored(server)
    assert found is not None
    broken = face.loader(LookupError())
    while (now := time.time() * 1000) < found.hard_at + 200:
        try:
            assert await face.memoize("k", broken, **options) == "old"
        except LookupError:
            assert time.time() * 1000 > found.hard_at + 200
    assert now > found.hard_at
    prolonged = server.client().pttl("v1:computed:k")
    assert 0 < prolonged <= 2_000
    # As if the pause after a failure were over: past its end it is not prolonged again.
    server.client().setrange("v1:computed:k", 34, bytes(8))
    with pytest.raises(LookupError):
        await face.memoize("k", broken, **options)
    assert server.client().pttl("v1:computed:k") <= prolonged
