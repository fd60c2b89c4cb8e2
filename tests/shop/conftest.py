"""The shop's tests run on SQLite and PostgreSQL, with the cache and without, always over HTTP."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from neverstale.testing.servers import PostgresServer, RedisServer, binaries
from tests.browser import OpenPage
from tests.browser import browser as browser
from tests.browser import page_of as page_of
from tests.shop.running import PATIENT, RunningShop, Shops, copy_postgres, copy_sqlite, run

KINDS = ("sqlite-cached", "sqlite-plain", "postgres-cached", "postgres-plain")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Redis for shops alone: those that run for the whole session go on reporting while other tests run."""
    found = binaries()
    with RedisServer.start(found.get("redis") or found["valkey"]) as server:
        yield server


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small shop that nobody changes."""
    path = tmp_path_factory.mktemp("shop") / "template.db"
    seeded = run("seed", "--small", DATABASE_URL=f"sqlite:///{path}", CACHE_ENABLED="0")
    assert seeded.returncode == 0, seeded.stderr
    return path


@pytest.fixture(scope="session")
def postgres_template(postgres: PostgresServer) -> str:
    """The name of a PostgreSQL database with a small shop that nobody changes."""
    url = postgres.create_database("shop_template")
    seeded = run("seed", "--small", DATABASE_URL=url, CACHE_ENABLED="0")
    assert seeded.returncode == 0, seeded.stderr
    return "shop_template"


@pytest.fixture(scope="session")
def new_database(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Return a function that makes a database with a small shop: `sqlite` or `postgres`."""

    def make(backend: str) -> str:
        if backend == "sqlite":
            return copy_sqlite(request.getfixturevalue("sqlite_template"))
        server = request.getfixturevalue("postgres")
        return copy_postgres(server, request.getfixturevalue("postgres_template"))

    return make


@pytest.fixture(scope="session")
def shops(new_database: Callable[[str], str], redis_server: RedisServer) -> Iterator[Shops]:
    found = Shops(new_database, lambda: redis_server.url)
    yield found
    for kind, said in found.stop().items():
        assert "Traceback" not in said, f"{kind} has logged:\n{said}"


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let shops in this process wait for a busy machine's Redis."""
    monkeypatch.setenv("NEVERSTALE_TIMEOUT", PATIENT)


@pytest.fixture(params=KINDS)
def shop(request: pytest.FixtureRequest, shops: Shops) -> RunningShop:
    """Give each kind of shop in turn."""
    return shops.get(request.param)


@pytest.fixture
def cached_shop(shops: Shops) -> RunningShop:
    return shops.get("sqlite-cached")


@pytest.fixture
def client(shop: RunningShop) -> httpx.Client:
    """A visitor who is not logged in."""
    return shop.client()


@pytest.fixture
def open_page(page_of: OpenPage, cached_shop: RunningShop) -> OpenPage:
    """Return a function that opens a page of the shop with a cache."""
    return functools.partial(page_of, cached_shop.base_url)
