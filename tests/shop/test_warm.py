"""The shop's warm-up: what it fills, what it learns, and how soon a cold shop is warm again under load."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from neverstale.hot import HotKey
from neverstale.testing.servers import RedisServer
from neverstale.warm import Warmer
from shop import warm
from shop.caching import VERSION
from shop.settings import Settings
from shop.views import ProductQuery, Sort
from tests.shop.running import PATIENT, ROOT, RunningShop, environment, run

#: What the visitors of a new version ask for first.
FIRST = (
    "/",
    "/?page=3",
    "/?category=rugs",
    "/?category=rugs&sort=price",
    "/api/products",
    "/api/products?category=aquarium",
    "/api/categories",
)


def command(shop: RunningShop, redis: RedisServer, *arguments: str, **more: str) -> dict[str, Any]:
    """Run the warm-up for a shop's database and namespace; return its summary."""
    said = run(
        "warm",
        "--json",
        *arguments,
        DATABASE_URL=shop.database_url,
        REDIS_URL=redis.url,
        NEVERSTALE_NAMESPACE=shop.namespace,
        NEVERSTALE_TIMEOUT=PATIENT,
        **more,
    )
    assert said.stdout, said.stderr
    summary: dict[str, Any] = json.loads(said.stdout)
    assert said.returncode == (1 if summary["failed"] or summary["left"] else 0)
    return summary


def test_first_visitor_gets_a_hit(cached_shop: RunningShop, redis_server: RedisServer) -> None:
    """Lists, pages and answers of the interface are there, and so are the administrator's figures."""
    summary = command(cached_shop, redis_server, "--products", "20")
    assert (summary["failed"], summary["left"], summary["ended"]) == (0, 0, "done")
    for path in FIRST:
        answer = cached_shop.client().get(path)
        assert (answer.status_code, answer.headers["shop-cache"]) == (200, "hit"), path
    assert cached_shop.admin.get("/admin/dashboard").headers["shop-cache"] == "hit"
    assert cached_shop.admin.get("/api/reports/sales").headers["shop-cache"] == "hit"
    with redis_server.client() as redis:
        products = redis.keys(f"{cached_shop.namespace}:v{VERSION}:catalog:product:*")
    assert len(products) == 20
    number = products[0].decode().rpartition(":")[2]
    for path in (f"/products/{number}", f"/api/products/{number}"):
        assert cached_shop.client().get(path).headers["shop-cache"] == "hit"


def test_leaves_what_is_there(cached_shop: RunningShop, redis_server: RedisServer) -> None:
    """A second run finds everything, and asks the database for nothing but the list of jobs."""
    first = command(cached_shop, redis_server, "--products", "20")
    again = command(cached_shop, redis_server, "--products", "20")
    assert (again["filled"], again["skipped"]) == (0, first["total"])
    assert again["statements"] <= 6
    assert first["statements"] > 100


def test_limits_are_kept(cached_shop: RunningShop, redis_server: RedisServer) -> None:
    """No more statements run at once than was said, and it ends in time; the next run goes on from there."""
    first = command(cached_shop, redis_server, "--at-once", "2", "--rate", "30", "--limit", "1")
    assert (first["ended"], first["peak"] <= 2) == ("time", True)
    assert 10 <= first["loads"] <= 35
    again = command(cached_shop, redis_server, "--products", "0", "--hot", "0")
    assert again["resumed"] > 0
    assert again["left"] == 0


def test_is_learnt_from_the_version_before(cached_shop: RunningShop, redis_server: RedisServer) -> None:
    """What the running version is asked for most is filled for the next one, though no code names it."""
    client = cached_shop.client()
    asked = ("/api/products?sort=-price&page=4", "/products/599", "/?q=lamp&sort=rating")
    for _ in range(150):  # of 64 reads one is looked at
        for path in asked:
            client.get(path)
    cached_shop.admin.get("/admin/dashboard")

    def summary() -> dict[str, Any]:
        return command(
            cached_shop, redis_server, "--products", "0", "--no-resume", NEVERSTALE_VERSION=str(VERSION + 1)
        )

    plain = command(cached_shop, redis_server, "--products", "0", "--hot", "0")
    found = [summary() for _ in range(2)]
    assert found[0]["total"] > plain["total"]
    with redis_server.client() as redis:
        keys = [key for key in redis.scan_iter(f"{cached_shop.namespace}:*", count=1000) if b"page=4" in key]
    assert any(f":v{VERSION + 1}:".encode() in key for key in keys), keys


async def test_every_kind_of_key_has_its_recipe(sqlite_template: Any, redis_server: RedisServer) -> None:
    """Whatever the shop caches and the sample may name can be read again; what is not the shop's is left out."""
    query = ProductQuery(q="oak lamp", category_id=3, min_cents=5, sort=Sort.PRICE_DOWN, page=2)
    keys = [
        "catalog:categories",
        f"catalog:products:{query.key()}",
        "catalog:product:12",
        "catalog:popular:3",
        "computed:stats",
        "computed:sales:::month",
        "api:GET:/api/categories",
        "api:GET:/api/products?category=3&q=oak%20lamp",
        "api:GET:/api/products/12",
    ]
    strange = ["session:abc", "catalog:product:x", "api:GET:/admin", "api:POST:/api/products", "catalog:"]
    settings = Settings(
        database_url=f"sqlite:///{sqlite_template}", redis_url=redis_server.url, namespace="test-recipes"
    )
    async with warm.opened(settings) as shop:
        hottest = [HotKey("", key, 1.0) for key in keys + strange]
        named = {job.name: job for job in await warm.jobs_of(shop, hottest, pages=1, products=0)}
        assert [key for key in keys if key not in named] == []
        assert [key for key in strange if key in named] == []
        await shop.catalog.forget_everything()
        for expected in ((True, False), (False, True)):  # filled, and then there
            summary = await Warmer([named[key] for key in keys]).run()
            assert (summary.filled > 0, summary.skipped == len(keys)) == expected, summary
            assert summary.failures == ()
    with redis_server.client() as redis:
        stored = {each.decode().removeprefix("test-recipes:v1:") for each in redis.keys("test-recipes:v1:*")}
    # The very entries, not others beside them.
    assert [key for key in keys if key not in stored] == []


def test_progress_comes_to_its_end(cached_shop: RunningShop, redis_server: RedisServer) -> None:
    """What two of the lists name is one job, so the bar ends at as many as there are."""
    pid, terminal = pty.fork()
    if pid == 0:
        found = environment(
            DATABASE_URL=cached_shop.database_url,
            REDIS_URL=redis_server.url,
            NEVERSTALE_NAMESPACE=cached_shop.namespace,
            TERM="xterm-256color",
        )
        os.execve(sys.executable, [sys.executable, "-m", "shop", "warm", "--products", "5"], found)
    seen = b""
    with suppress(OSError):  # what Linux says at the end of a terminal
        while read := os.read(terminal, 65536):
            seen += read
    os.close(terminal)
    assert os.waitpid(pid, 0)[1] == 0, seen
    done, total = re.findall(rb"(\d+)/(\d+)", seen)[-1]
    assert done == total


def test_library_command(cached_shop: RunningShop, redis_server: RedisServer) -> None:
    """`neverstale warm shop.warm:jobs` does the same."""
    said = subprocess.run(
        [sys.executable, "-m", "neverstale", "--json", "warm", "shop.warm:jobs"],
        env=environment(
            DATABASE_URL=cached_shop.database_url,
            REDIS_URL=redis_server.url,
            NEVERSTALE_NAMESPACE=cached_shop.namespace,
        ),
        cwd=ROOT, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    summary = json.loads(said.stdout)
    assert (summary["failed"], summary["filled"] > 500) == (0, True)


@pytest.fixture
def curve(new_database: Callable[[str], str], redis_server: RedisServer) -> Callable[..., dict[str, Any]]:
    def measured(*arguments: str) -> dict[str, Any]:
        said = subprocess.run(
            [sys.executable, "-m", "shop", "curve", "--json", "--steady", "10", *arguments],
            env=environment(
                DATABASE_URL=new_database("sqlite"), REDIS_URL=redis_server.url, NEVERSTALE_TIMEOUT=PATIENT
            ),
            cwd=ROOT, capture_output=True, text=True, timeout=200, check=False,
        )  # fmt: skip
        assert said.stdout, said.stderr
        found: dict[str, Any] = json.loads(said.stdout)
        assert (said.returncode == 0) == (found["back_after"] is not None and found["within_limits"])
        return found

    return measured


def test_cold_start_under_load(curve: Callable[..., dict[str, Any]]) -> None:
    """The hit rate is back to 95 % of its steady state within 60 s, and the database sees no more than was stated."""
    found = curve("--visitors", "40", "--seconds", "30", "--rate", "60")
    assert found["failed"] == 0
    assert found["back_after"] is not None
    assert found["seconds"][0]["hit_rate"] < 0.5 * found["steady"]
    assert found["within_limits"] is True
    assert found["warmed"]["failed"] == 0
    assert max(each["at_once"] for each in found["seconds"]) <= found["at_once_limit"] == 14


def test_without_a_warm_up_it_takes_longer(curve: Callable[..., dict[str, Any]]) -> None:
    """The same start without the warm-up is not back as soon: the test above shows what the warm-up does."""
    found = curve("--visitors", "20", "--seconds", "10", "--no-warm")
    assert found["back_after"] is None
    assert found["warmed"] is None
