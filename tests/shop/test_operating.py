"""What the operator has of a running shop: /health, /metrics and the cache's dashboard."""

from __future__ import annotations

import asyncio
import itertools
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from neverstale.metrics.reporter import INTERVAL
from neverstale.testing.servers import PostgresServer, RedisServer, binaries, frozen, wait_until
from shop.db import POOL_SIZE, Database
from shop.settings import Settings, SettingsError
from tests.shop.running import PATIENT, RunningShop, Shops, run

TOKEN = "a-token-of-the-dashboard"
SCRAPER = "a-token-of-prometheus"
OURS = {"sec-fetch-site": "same-origin"}


@pytest.fixture(scope="module")
def guarded(new_database: Callable[[str], str], redis_server: RedisServer) -> Iterator[RunningShop]:
    """A shop of two workers, with both tokens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOP_CACHE_TOKEN", TOKEN)
        patch.setenv("SHOP_METRICS_TOKEN", SCRAPER)
        running = RunningShop(new_database("sqlite"), redis_server.url, workers=2, NEVERSTALE_TIMEOUT=PATIENT)
    yield running
    assert "Traceback" not in running.stop()


class TestHealth:
    def test_says_what_there_is(self, cached_shop: RunningShop) -> None:
        """Redis in one word, and what the cache is, has and does."""
        client = cached_shop.client()
        for _ in range(3):
            client.get("/api/categories")
        said = client.get("/health").json()
        assert (said["status"], said["database"], said["redis"]) == ("ok", "ok", "ok")
        cache = said["cache"]
        assert (cache["state"], cache["mode"], cache["nodes"], cache["version"]) == ("ok", "single", 1, 1)
        assert 0 < cache["hit_rate"] < 1
        assert cache["latency_ms"] > 0

    def test_without_a_cache(self, shops: Shops) -> None:
        """A cache that is off on purpose is no trouble."""
        said = shops.get("sqlite-plain").client().get("/health").json()
        assert (said["status"], said["cache"]) == ("ok", {"state": "off"})

    def test_redis_is_away(self, new_database: Callable[[str], str]) -> None:
        """It says so, at once, with a 200: the shop can serve."""
        found = binaries()
        with RedisServer.start(found.get("redis") or found["valkey"]) as redis:
            shop = RunningShop(new_database("sqlite"), redis.url)
            try:
                with frozen(redis):
                    began = time.monotonic()
                    answer = shop.client().get("/health")
                    took = time.monotonic() - began
                redis.kill()
                gone = shop.client().get("/health")
            finally:
                shop.stop()
        for each in (answer, gone):
            assert (each.status_code, each.json()["status"]) == (200, "degraded")
            assert each.json()["redis"] != "ok"
            assert each.json()["cache"]["state"] == "away"
            assert each.json()["cache"]["served"] == "from the database, without the cache"
        assert took < 2

    def test_database_is_away(self, redis_server: RedisServer) -> None:
        """A shop without its database cannot serve: 503, and Redis is not to blame."""
        if PostgresServer.programs() is None:
            pytest.skip("no PostgreSQL on this machine: apt-get install postgresql")
        postgres = PostgresServer.start()
        try:
            url = postgres.create_database("shop")
            assert run("seed", "--small", DATABASE_URL=url, CACHE_ENABLED="0").returncode == 0
            shop = RunningShop(url, redis_server.url)
        finally:
            postgres.stop()
        try:
            answer = shop.client().get("/health")
        finally:
            shop.stop()
        assert answer.status_code == 503
        assert (answer.json()["status"], answer.json()["redis"]) == ("down", "ok")
        assert answer.json()["database"] != "ok"


class TestMetrics:
    def test_of_all_workers(self, guarded: RunningShop) -> None:
        """Whichever worker is asked adds up what all have counted: of the cache, and of the database."""
        with httpx.Client(
            base_url=guarded.base_url, headers={"authorization": f"Bearer {SCRAPER}"}
        ) as scraper:
            before = settled(scraper)
            for number in range(1, 41):
                with guarded_client(guarded) as visitor:  # another connection, perhaps another worker
                    assert visitor.get(f"/api/products/{number % 20 + 1}").status_code == 200
            wait_until(lambda: reads(metrics(scraper)) - reads(before) >= 60, "the figures of all workers")
            found = settled(scraper)

        # Twenty products are loaded once, into the catalogue and as an answer; the rest are hits.
        assert grown(found, before, "neverstale_reads_total,api:,miss") == 20
        assert grown(found, before, "neverstale_reads_total,api:,hit") == 20
        assert grown(found, before, "neverstale_loads_total,catalog:,ok") == 20
        assert grown(found, before, "shop_database_statements_total") == 60
        assert 1 <= found["shop_database_statements_peak"] <= 2 * POOL_SIZE
        assert found["shop_database_statements_running"] == 0

    def test_are_not_for_everybody(self, guarded: RunningShop, cached_shop: RunningShop) -> None:
        """With a token for who knows it; without one for this machine alone, and no proxy speaks for it."""
        wrong: tuple[dict[str, str], ...] = (
            {},
            {"authorization": "Bearer x"},
            {"authorization": f"Basic {SCRAPER}"},
        )
        assert [guarded.client().get("/metrics", headers=each).status_code for each in wrong] == [403] * 3
        # One token does not do for the other.
        other = {"authorization": f"Bearer {TOKEN}"}
        assert guarded.client().get("/metrics", headers=other).status_code == 403
        local = cached_shop.client()
        assert local.get("/metrics").status_code == 200
        assert local.get("/metrics", headers={"x-forwarded-for": "127.0.0.1"}).status_code == 403
        assert local.get("/metrics", headers={"host": "shop.example"}).status_code == 403

    def test_are_what_prometheus_expects(self, cached_shop: RunningShop) -> None:
        """`promtool check metrics` has nothing to say."""
        promtool = shutil.which("promtool")
        if promtool is None:
            pytest.skip("no promtool on this machine: apt-get install prometheus")
        said = cached_shop.client().get("/metrics").content
        checked = subprocess.run([promtool, "check", "metrics"], input=said, capture_output=True, check=False)
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")

    def test_without_a_cache(self, shops: Shops) -> None:
        """There are none, in plain words."""
        answer = shops.get("sqlite-plain").client().get("/metrics")
        assert (answer.status_code, answer.json()["detail"]) == (404, "the cache is off (CACHE_ENABLED=0)")

    def test_leave_nothing_behind(
        self, new_database: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The workers' files are in a temporary directory that ends with them; one of the operator's stays."""
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        shop = RunningShop(new_database("sqlite"), "redis://127.0.0.1:1", workers=2)
        (place,) = tmp_path.glob("shop-metrics-*")
        assert ".db" in {path.suffix for path in place.iterdir()}
        shop.stop()
        assert list(tmp_path.glob("shop-metrics-*")) == []

        given = tmp_path / "given"
        given.mkdir()
        monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(given))
        RunningShop(new_database("sqlite"), "redis://127.0.0.1:1", workers=2).stop()
        assert ".db" in {path.suffix for path in given.iterdir()}


class TestDashboard:
    def test_shows_what_all_workers_do(self, guarded: RunningShop) -> None:
        """Who has logged in with the token sees the figures, and the writes of the shop with their tags."""
        number = guarded.product(name="Watched Lamp")
        browser = guarded.client()
        assert browser.get("/cache").headers["location"].endswith("/cache/")
        assert browser.get("/cache/api/overview").status_code == 401
        log_in_to_cache(browser)
        page = browser.get("/cache/")
        assert page.status_code == 200
        assert page.headers.get_list("content-security-policy")[0].startswith("default-src 'none'")
        assert len(page.headers.get_list("content-security-policy")) == 1

        lamp = {"name": "Watched Lamp", "description": "", "stock": 10, "category_id": 7}
        prices = itertools.count(1100)

        def seen() -> bool:
            # Another price each time: a write that changes nothing invalidates nothing.
            guarded.admin.put(f"/api/products/{number}", json={**lamp, "price_cents": next(prices)})
            guarded.client().get(f"/api/products/{number}")
            events = browser.get("/cache/api/overview").json()["events"]
            return any(f"product:{number}" in str(each["names"]) for each in events)

        wait_until(seen, "the invalidation")
        wait_until(lambda: "catalog:" in str(browser.get("/cache/api/overview").json()), "figures")

    def test_invalidates_for_who_has_the_token(self, guarded: RunningShop) -> None:
        """An action needs the log-in and a second token of the page; no other site can make a browser do it."""
        client, browser = guarded.client(), guarded.client()
        for _ in range(2):
            client.get("/api/categories")
        assert "hit" in client.get("/api/categories").headers["cache-status"]
        order = {"kind": "tag", "name": "categories"}
        assert browser.post("/cache/api/invalidate", json=order, headers=OURS).status_code in (401, 403)
        log_in_to_cache(browser)
        forgery = browser.get("/cache/api/overview").json()["forgery_token"]
        assert browser.post("/cache/api/invalidate", json=order, headers=OURS).status_code == 403
        foreign = {"sec-fetch-site": "cross-site", "x-forgery-token": forgery}
        assert browser.post("/cache/api/invalidate", json=order, headers=foreign).status_code == 403
        answer = browser.post(
            "/cache/api/invalidate", json=order, headers={**OURS, "x-forgery-token": forgery}
        )
        assert answer.status_code == 200, answer.text
        assert "hit" not in client.get("/api/categories").headers["cache-status"]

    def test_without_a_token_is_to_look_at(self, cached_shop: RunningShop) -> None:
        """From this machine one may look; nothing can be done, and a proxy's visitors see nothing."""
        local = cached_shop.client()
        assert local.get("/cache/").status_code == 200
        seen = local.get("/cache/api/overview").json()
        assert (seen["acts"], seen["namespace"]) == (False, cached_shop.namespace)
        order = {"kind": "tag", "name": "products"}
        assert local.post("/cache/api/invalidate", json=order, headers=OURS).status_code == 403
        assert local.get("/cache/", headers={"x-forwarded-for": "127.0.0.1"}).status_code == 403

    def test_link_is_for_administrators(self, cached_shop: RunningShop) -> None:
        """The administrator's pages lead there, those of customers do not."""
        assert 'href="/cache/"' in cached_shop.admin.get("/").text
        assert 'href="/cache/"' not in cached_shop.customer().get("/").text

    def test_without_a_cache(self, shops: Shops) -> None:
        """There is none, and no link."""
        shop = shops.get("sqlite-plain")
        assert shop.client().get("/cache/").status_code == 404
        assert 'href="/cache/"' not in shop.admin.get("/").text


@pytest.mark.parametrize("name", ["SHOP_CACHE_TOKEN", "SHOP_METRICS_TOKEN"])
def test_tokens_that_can_be_guessed(name: str) -> None:
    """A short one is refused at the start, in one line, and none is shown by a traceback."""
    with pytest.raises(SettingsError, match=f"{name} has 9 characters; allowed are 16 or more"):
        Settings.from_env({name: "too short"})
    assert TOKEN not in repr(Settings.from_env({name: TOKEN}))


def guarded_client(shop: RunningShop) -> httpx.Client:
    return httpx.Client(base_url=shop.base_url, timeout=30)


def log_in_to_cache(client: httpx.Client) -> None:
    assert client.post("/cache/login", data={"token": "not the right one"}, headers=OURS).status_code == 403
    assert client.post("/cache/login", data={"token": TOKEN}, headers=OURS).status_code == 303


def metrics(client: httpx.Client) -> dict[str, float]:
    """Return all samples, each named by the values of its labels, too."""
    answer = client.get("/metrics")
    assert answer.status_code == 200, answer.text
    return {
        ",".join([sample.name, *(value for _, value in sorted(sample.labels.items()))]): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def reads(found: dict[str, float]) -> float:
    """Reads of the interface's answers and of the catalogue."""
    return sum(
        value for name, value in found.items() if re.match("neverstale_reads_total,(api|catalog):", name)
    )


def settled(client: httpx.Client) -> dict[str, float]:
    """Return all samples once the workers have handed on what they have counted, which each does every second."""
    found = metrics(client)
    while True:
        time.sleep(2 * INTERVAL)
        again = metrics(client)
        if all(found.get(name) == value for name, value in again.items() if _COUNTED.match(name)):
            return again
        found = again


_COUNTED = re.compile("neverstale_(reads|loads)_total|shop_database_statements_total")


def grown(found: dict[str, float], before: dict[str, float], name: str) -> float:
    return found[name] - before.get(name, 0.0)


async def test_statements_that_fail_or_are_given_up_end(sqlite_template: Path) -> None:
    """What is running now goes back to nothing, also after an error and after a request that was broken off."""
    db = Database(f"sqlite:///{sqlite_template}")

    async def ask(statement: str) -> None:
        async with db.read() as session:
            await session.execute(text(statement))

    try:
        with pytest.raises(OperationalError):
            await ask("SELECT nothing")
        counting = asyncio.create_task(
            ask(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1000000) SELECT max(i) FROM n"
            )
        )
        while db.statements.running == 0:  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0)
        counting.cancel()
        await asyncio.wait([counting])
        await ask("SELECT 1")
        assert (db.statements.total, db.statements.running, db.statements.peak) == (3, 0, 1)
    finally:
        await db.close()
