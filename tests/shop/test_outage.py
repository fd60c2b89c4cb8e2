"""Redis goes and comes back under a shop of several processes that is in use: nobody fails, nobody notices."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import httpx
import pytest

from neverstale.testing.servers import RedisServer, binaries, wait_until
from tests.shop.crowd import PATHS, PRICED, SLOWEST, Crowd
from tests.shop.running import RunningShop

#: Seconds of each part at least: it is an outage after half a second, and what changed in it is invalidated within
#: some three seconds after it (see LATE).
BEFORE, AWAY, AFTER = 0.5, 2.0, 4.0
#: Seconds after Redis is back within which pages may show what was there before a change that was answered with a
#: warning: a second between two tries to invalidate it, two for a try that was under way; the rest is for a busy
#: machine.
LATE = 6.0
STOCK = 100_000
CASES = (("sqlite", "killed"), ("postgres", "frozen"))
TOOK = re.compile(rb'<p class="took" .*?</p>')


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """A server of this test's own, to be stopped and started."""
    found = binaries()
    with RedisServer.start(found.get("redis") or found["valkey"]) as server:
        yield server


@pytest.fixture(params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest, new_database: Callable[[str], str]) -> tuple[str, str]:
    """Return the URL of a database, and how Redis goes: with what it holds, or only out of reach."""
    backend, how = request.param
    return new_database(backend), how


async def test_nobody_notices(case: tuple[str, str], redis: RedisServer) -> None:
    """No request fails; who is logged in stays that and who logs out is out; nothing stale is left."""
    url, how = case
    with ExitStack() as stack:
        shop = RunningShop(url, redis.url, workers=2)
        stack.callback(shop.stop)
        crowd = Crowd(shop, shop.product(name="Plain Lamp", stock=STOCK), shop.product(**PRICED))
        async with crowd.about():
            await crowd.busy(BEFORE, log_outs=1, writes=1)
            away = time.monotonic()
            redis.kill() if how == "killed" else redis.freeze()
            crowd.leave.set()
            await crowd.busy(AWAY, log_outs=6, writes=2)
            redis.revive()
            back = time.monotonic()
            await crowd.rush()
            await crowd.busy(AFTER, log_outs=1, writes=1)

        assert crowd.wrong == []
        assert crowd.slowest < SLOWEST
        assert crowd.let_in == []
        late = [each for each in crowd.stale if each.ended < back or each.began > back + LATE]
        assert late == []
        assert any(each.warned for each in crowd.written if away < each.at < back)  # else nothing was shown
        assert crowd.ordered
        wait_until(lambda: _all_from_the_cache(shop, redis), "every process reads from the cache")
        plain = RunningShop(url, None)
        stack.callback(plain.stop)
        _compare(shop, plain, [*PATHS, f"/api/products/{crowd.priced}", f"/products/{crowd.ordered_product}"])
        left = plain.client().get(f"/api/products/{crowd.ordered_product}").json()["stock"]
        assert left == STOCK - crowd.ordered
        assert "Traceback" not in shop.log.read_text()


def _all_from_the_cache(shop: RunningShop, redis: RedisServer) -> bool:
    """Say whether twenty connections in a row, some to each process, find the answer and the session in the cache."""
    customer = shop.admin.cookies["shop_session"]
    for _ in range(20):
        with httpx.Client(base_url=shop.base_url, timeout=SLOWEST, verify=False, trust_env=False) as client:
            if client.get("/api/products/1").headers["shop-cache"] != "hit":
                return False
            assert client.get("/api/me", headers={"cookie": f"shop_session={customer}"}).status_code == 200
    keys = redis.keys()
    return any(b":session:" in key for key in keys)


def _compare(cached: RunningShop, plain: RunningShop, paths: list[str]) -> None:
    """Compare what every process of a shop has cached with what its database says."""
    client, other = cached.client(), plain.client()
    for path in paths:
        expected = TOOK.sub(b"", other.get(path).content)
        answers = [client.get(path) for _ in range(3)]
        assert [each.status_code for each in answers] == [200] * 3
        assert [TOOK.sub(b"", each.content) for each in answers] == [expected] * 3, path
        assert answers[-1].headers["shop-cache"] == "hit", path
