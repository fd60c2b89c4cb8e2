from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
from sqlalchemy import func, select

from neverstale.testing.processes import free_port, wait_until
from neverstale.testing.servers import RedisServer
from shop.db import Database
from shop.differences import Differences, compare
from shop.models import AuthSession
from shop.settings import Settings, SettingsError
from shop.traffic import Member, Request
from tests.shop.running import ADMIN, ROOT, RunningShop, environment, run

_WHO = '<a class="who" href="/account">Al &amp; Co</a>'


def test_taken_port_is_one_line(new_database: Callable[[str], str]) -> None:
    """A port that somebody else has gets one clear line."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = run("serve", "--port", str(port), DATABASE_URL=new_database("sqlite"), CACHE_ENABLED="0")

    assert said.returncode == 1
    assert said.stderr == f"shop: cannot listen on 127.0.0.1 port {port}: address already in use\n"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("CACHE_ENABLED", "maybe", "CACHE_ENABLED is 'maybe'; allowed are"),
        ("SHOP_ADMIN_PASSWORD", "short", "SHOP_ADMIN_PASSWORD has 5 characters; allowed are 8 to 128"),
        ("REDIS_URL", "http://localhost", "REDIS_URL"),
        ("SHOP_LOG_LEVEL", "loud", "SHOP_LOG_LEVEL is 'loud'; allowed are DEBUG, INFO, WARNING, ERROR"),
        ("DATABASE_URL", "sqlite:////nowhere/shop.db", "there is no database /nowhere/shop.db"),
    ],
)
def test_wrong_settings_are_one_line(
    name: str, value: str, words: str, new_database: Callable[[str], str]
) -> None:
    """A wrong variable is named, with what is allowed."""
    settings = {"DATABASE_URL": new_database("sqlite"), name: value}
    said = run("serve", "--port", str(free_port()), **settings)

    assert said.returncode == 1
    assert words in said.stderr
    assert said.stderr.count("\n") == 1


def test_settings_from_the_environment() -> None:
    """Empty variables count as not set, and secrets stay out of the repr."""
    assert Settings.from_env({"CACHE_ENABLED": "", "DATABASE_URL": ""}) == Settings()
    assert Settings.from_env({"CACHE_ENABLED": "off"}).cache_enabled is False
    secret = Settings.from_env(
        {
            "SHOP_ADMIN_PASSWORD": "hunter22222",
            "DATABASE_URL": "postgres://a:hunter3@b/c",
            "REDIS_URL": "redis://:hunter4@d",
        }
    )
    assert "hunter" not in repr(secret)
    with pytest.raises(SettingsError, match="CACHE_ENABLED"):
        Settings.from_env({"CACHE_ENABLED": "2"})


def test_admin_password_is_applied_at_the_start(new_database: Callable[[str], str]) -> None:
    """Another SHOP_ADMIN_PASSWORD is the administrator's from the next start, and ends old sessions."""
    url = new_database("sqlite")
    shop = RunningShop(url, None)
    cookie = {"cookie": f"shop_session={shop.admin.cookies['shop_session']}"}
    shop.stop()
    changed = environment(DATABASE_URL=url, CACHE_ENABLED="0", SHOP_ADMIN_PASSWORD="quite another one")
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "shop", "serve", "--port", str(port)], env=changed, cwd=ROOT
    )
    base = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: _up(base), "the shop")
        assert httpx.post(f"{base}/api/login", json=ADMIN).status_code == 401
        assert (
            httpx.post(f"{base}/api/login", json={**ADMIN, "password": "quite another one"}).status_code
            == 200
        )
        assert httpx.get(f"{base}/api/me", headers=cookie).status_code == 401
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)
    assert process.returncode == 0


def _up(base: str) -> bool:
    try:
        return httpx.get(f"{base}/health").is_success
    except httpx.TransportError:
        return False


def test_warm_without_redis_is_one_line(new_database: Callable[[str], str]) -> None:
    """There is nothing to fill: one line, status 1. With the cache off: a word, status 0."""
    url = new_database("sqlite")
    away = run("warm", DATABASE_URL=url, REDIS_URL="redis://127.0.0.1:1")
    off = run("warm", DATABASE_URL=url, CACHE_ENABLED="0")

    assert away.returncode == 1
    assert away.stderr.startswith("shop: cannot warm the cache: ")
    assert off.returncode == 0
    assert "The cache is off" in off.stdout


def test_force_forgets_what_was_cached(new_database: Callable[[str], str], redis_server: RedisServer) -> None:
    """A shop that is filled anew under a running server shows its new goods at once."""
    shop = RunningShop(new_database("sqlite"), redis_server.url, namespace="test-force")
    try:
        before = shop.client().get("/api/products").json()
        forced = run(
            "seed",
            "--small",
            "--force",
            "--seed",
            "9",
            DATABASE_URL=shop.database_url,
            REDIS_URL=redis_server.url,
            NEVERSTALE_NAMESPACE="test-force",
        )
        assert forced.returncode == 0, forced.stderr
        assert shop.client().get("/api/products").json() != before
    finally:
        shop.stop()


@pytest.mark.parametrize(
    ("command", "kinds"),
    [(["shop", "load"], ["product list", "dashboard page", "mix"]), (["shop.load"], ["product"])],
)
def test_load_generator(
    command: list[str], kinds: list[str], new_database: Callable[[str], str], redis_server: RedisServer
) -> None:
    """One run measures the shop off and on, and gives figures for programs; the database may be a relative path."""
    relative = os.path.relpath(new_database("sqlite").removeprefix("sqlite:///"), ROOT)
    asked = [word for kind in kinds for word in ("--kind", kind)]
    limits = ["--seconds", "0.2", "--rounds", "2", "--connections", "4"]
    said = subprocess.run(
        [sys.executable, "-m", *command, *asked, *limits, "--json"],
        env=environment(DATABASE_URL=f"sqlite:///{relative}", REDIS_URL=redis_server.url),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    figures = json.loads(said.stdout)

    assert list(figures["kinds"]) == kinds
    assert figures["wrong"] == []
    assert figures["compared"] > 60  # three times everybody who is logged in, and what is asked for
    for each in figures["kinds"].values():
        assert each["off"]["failed"] == each["on"]["failed"] == 0
        assert each["off"]["requests"] > 0
        assert each["off"]["statements_per_request"] >= 1
        assert each["off"]["hit_rates"] == {}
        assert each["on"]["statements_per_request"] < 0.1
        assert each["on"]["hit_rate"] > 0.9
        assert len(each["ratios"]) == 2
        assert each["ratio"] > 1
    rates = [each["on"]["hit_rates"] for each in figures["kinds"].values()]
    assert min(rate for each in rates for rate in each.values()) > 0.9
    by_kind = {"product list": "api:", "product": "api:", "dashboard page": "computed:", "mix": "session:"}
    assert all(by_kind[kind] in each for kind, each in zip(kinds, rates, strict=True))
    db = Database(f"sqlite:///{ROOT / relative}")
    assert asyncio.run(_logged_in(db)) == 0  # those of the generator are gone


async def _logged_in(db: Database) -> int:
    async with db.read() as session:
        count = await session.scalar(select(func.count()).select_from(AuthSession))
    await db.close()
    return count or 0


@contextlib.asynccontextmanager
async def _serving(*answers: str) -> AsyncIterator[int]:
    """Serve these bodies, one after the other, to whoever asks for whatever."""
    left = iter(answers)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = next(left).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    ("path", "member", "plain", "cached", "wrong"),
    [
        ("/api/x", None, "old", ("old", "old"), ""),
        ("/api/x", None, "new", ("new", "old"), "other bytes"),
        ("/", None, '<p class="took" a>1</p>', ('<p class="took" b>2</p>', '<p class="took" c>3</p>'), ""),
        ("/", Member("t", "Al & Co", ""), _WHO, (_WHO, _WHO), ""),
        ("/", Member("t", "Somebody", ""), _WHO, (_WHO, _WHO), "who is logged in"),
        ("/", None, _WHO, (_WHO, _WHO), "who is logged in"),
    ],
)
async def test_load_generator_finds_what_is_not_the_same(
    path: str, member: Member | None, plain: str, cached: tuple[str, str], wrong: str
) -> None:
    """Bytes that differ are named, also the second time, and so is a page that greets somebody else."""
    differences = Differences()
    async with _serving(plain) as off, _serving(*cached) as on:
        await compare({"off": off, "on": on}, [Request(path, member)], differences)

    assert bool(differences.wrong) == bool(wrong)
    assert all(wrong in each for each in differences.wrong)


def test_wrong_kind_of_load_is_one_line() -> None:
    """An unknown kind is named, with what there is."""
    said = run("load", "--kind", "everything")

    assert said.returncode == 1
    assert said.stderr.startswith("shop: --kind is 'everything'; allowed are product list, product, ")
