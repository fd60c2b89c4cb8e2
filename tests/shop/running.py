"""Shops as processes of their own, as they run in production: started once for a session, each with its database."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import asyncpg
import httpx

from neverstale.testing.processes import spawn, wait_until
from neverstale.testing.servers import PostgresServer

ROOT = Path(__file__).parents[2]
ADMIN = {"email": "admin@example.com", "password": "test-admin-password"}
#: Seconds. On a busy machine a Redis that is asked by many at once may be late, and what is late is no hit.
PATIENT = "5"
_VARIABLES = ("DATABASE_URL", "REDIS_URL", "CACHE_ENABLED", "SHOP_ADMIN_PASSWORD", "NEVERSTALE_NAMESPACE")
_numbers = count(1)


def environment(**settings: str) -> dict[str, str]:
    """Our environment with these settings of the shop and no others."""
    base = {name: value for name, value in os.environ.items() if name not in _VARIABLES}
    path = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    return {**base, "PYTHONPATH": path, "SHOP_ADMIN_PASSWORD": ADMIN["password"], "NO_COLOR": "1", **settings}


def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the shop to its end."""
    return subprocess.run(
        [sys.executable, "-m", "shop", *arguments],
        env=environment(**settings),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def copy_sqlite(template: Path) -> str:
    """Copy a database that nobody has open, and return its URL."""
    copy = template.with_name(f"shop-{next(_numbers)}.db")
    shutil.copy(template, copy)
    return f"sqlite:///{copy}"


def copy_postgres(server: PostgresServer, template: str) -> str:
    """Copy a database that nobody is connected to, and return its URL."""
    name = f"shop_{next(_numbers)}"

    async def copy() -> None:
        connection = await asyncpg.connect(server.url.replace("+asyncpg", ""))
        try:
            await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        finally:
            await connection.close()

    asyncio.run(copy())
    return server.url_of(name)


class RunningShop:
    """A shop that serves.

    Args:
        settings: more of its environment.
    """

    def __init__(
        self,
        database_url: str,
        redis_url: str | None,
        *,
        workers: int = 1,
        namespace: str = "",
        module: str = "shop",
        **settings: str,
    ) -> None:
        self.database_url = database_url
        self.cached = redis_url is not None
        self.namespace = namespace or f"test-{os.getpid()}-{next(_numbers)}"
        self.port, self.base_url = 0, ""
        self.log = Path(tempfile.gettempdir()) / f"shop-test-{os.getpid()}-{next(_numbers)}.log"
        self._clients = ExitStack()
        self._admin: httpx.Client | None = None
        self._process = spawn(
            # Any free port: one that was chosen here might be another's by the time that the shop is up.
            [sys.executable, "-m", module, "serve", "--port", "0", "--workers", str(workers)],
            self.log,
            env=environment(
                DATABASE_URL=database_url,
                REDIS_URL=redis_url or "redis://127.0.0.1:1",
                CACHE_ENABLED="1" if redis_url else "0",
                NEVERSTALE_NAMESPACE=self.namespace,
                **settings,
            ),
        )
        try:
            wait_until(self._is_up, "a shop")
        except BaseException:
            self.stop()
            raise

    def _is_up(self) -> bool:
        assert self._process.poll() is None, self.log.read_text()
        told = re.search(r"open at (http://\S+:(\d+)) ", self.log.read_text())
        if told is None:
            return False
        self.base_url, self.port = told[1], int(told[2])
        try:
            return httpx.get(f"{self.base_url}/health").status_code == 200
        except httpx.TransportError:
            return False

    def client(self) -> httpx.Client:
        """Make a client that has no session yet."""
        return self._clients.enter_context(httpx.Client(base_url=self.base_url, timeout=30))

    @property
    def admin(self) -> httpx.Client:
        """The administrator's client."""
        if self._admin is None:
            self._admin = self.client()
            assert self._admin.post("/api/login", json=ADMIN).status_code == 200
        return self._admin

    def customer(self) -> httpx.Client:
        """Make a client with an account of its own, logged in."""
        client = self.client()
        account = {
            "email": f"c{next(_numbers)}@example.org",
            "name": "Cora Test",
            "password": "correct horse",
        }
        assert client.post("/api/register", json=account).status_code == 201
        return client

    def product(self, **changes: object) -> int:
        """Make a product and return its id."""
        data = {"name": "Test Lamp", "description": "", "price_cents": 1000, "stock": 10, "category_id": 7}
        answer = self.admin.post("/api/products", json={**data, **changes})
        assert answer.status_code == 201, answer.text
        number: int = answer.json()["id"]
        return number

    def stop(self) -> str:
        """End the shop and return what it has logged."""
        self._clients.close()
        self._process.terminate()
        self._process.wait(20)
        said = self.log.read_text() if self.log.exists() else ""
        self.log.unlink(missing_ok=True)
        return said


class Shops:
    """The shops of a session, by name, each started when it is asked for first."""

    def __init__(self, database: Callable[[str], str], redis_url: Callable[[], str]) -> None:
        self._database = database
        self._redis_url = redis_url
        self._running: dict[str, RunningShop] = {}

    def get(self, kind: str) -> RunningShop:
        """Return a shop such as `sqlite-cached` or `postgres-plain`."""
        if kind not in self._running:
            backend, _, mode = kind.partition("-")
            redis_url = self._redis_url() if mode == "cached" else None
            self._running[kind] = RunningShop(self._database(backend), redis_url, NEVERSTALE_TIMEOUT=PATIENT)
        return self._running[kind]

    def stop(self) -> Mapping[str, str]:
        """End them all; returns what they have logged."""
        return {kind: shop.stop() for kind, shop in self._running.items()}
