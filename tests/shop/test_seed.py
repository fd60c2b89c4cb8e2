from __future__ import annotations

import asyncio
import hashlib
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import func, select, text

from neverstale.testing.processes import free_port, spawn, wait_until
from neverstale.testing.servers import PostgresServer
from shop.db import Database
from shop.models import Base, Category, Order, OrderLine, Product, Review, User
from shop.names import load_words
from shop.seed import FULL, SMALL, Warehouse
from tests.shop.running import ROOT, environment, run


def digest(url: str) -> str:
    """Everything that is in a shop, but for its own id and the password."""

    async def read() -> str:
        db = Database(url)
        found = hashlib.sha256()
        try:
            async with db.read() as session:
                for table in Base.metadata.sorted_tables:
                    if table.name == "facts":
                        continue
                    columns = [each for each in table.c if each.name != "password_hash"]
                    rows = await session.execute(select(*columns).order_by(*table.primary_key.columns))
                    found.update(repr([tuple(row) for row in rows]).encode())
        finally:
            await db.close()
        return found.hexdigest()

    return asyncio.run(read())


def rows(url: str, statement: str) -> list[tuple[object, ...]]:
    async def read() -> list[tuple[object, ...]]:
        db = Database(url)
        try:
            async with db.read() as session:
                return [tuple(row) for row in await session.execute(text(statement))]
        finally:
            await db.close()

    return asyncio.run(read())


def test_same_seed_same_shop(tmp_path: Path, new_database: Callable[[str], str]) -> None:
    """The same seed gives the same rows, on both databases; another seed another shop."""
    urls = [f"sqlite:///{tmp_path}/{n}.db" for n in range(2)]
    assert run("seed", "--small", DATABASE_URL=urls[0]).returncode == 0
    assert run("seed", "--small", "--seed", "2", DATABASE_URL=urls[1]).returncode == 0

    first, other, postgres = digest(urls[0]), digest(urls[1]), digest(new_database("postgres"))

    assert first == digest(new_database("sqlite")) == postgres
    assert first != other


def test_full_size() -> None:
    """A full shop has what it promises, drawn without a database in a few seconds."""
    tables = {
        table.name: (total, list(rows))
        for table, total, rows in Warehouse(FULL, random.Random(1)).tables("x")
    }

    assert {name: len(found) for name, (_, found) in tables.items()} == {
        "categories": 60,
        "products": 20_160,
        "users": 5_001,
        "orders": 60_000,
        "order_lines": 150_000,
        "reviews": 36_000,
    }
    assert all(total == len(found) for total, found in tables.values())
    products = tables["products"][1]
    assert len({each["name"] for each in products}) == len(products)
    assert {each["category_id"] for each in products} == set(range(1, 61))


def test_goods_fit_their_category() -> None:
    """A name is of a noun of its category, and the price within what such a thing costs."""
    rng = random.Random(3)
    for category in load_words().categories:
        for _ in range(20):
            goods = category.goods(rng)
            noun = next(each for each in category.nouns if f" {each.name}, " in goods.name)
            assert noun.low * 0.8 - 100 <= goods.price_cents <= noun.high * 1.1 + 300
            assert any(point in goods.description for point in category.points)


@pytest.mark.parametrize("backend", ["sqlite", "postgres"])
def test_rows_agree(backend: str, new_database: Callable[[str], str]) -> None:
    """Totals are the sums of lines, nobody orders what was not on sale yet, and ids go on where they ended."""
    url = new_database(backend)

    async def look() -> None:
        db = Database(url)
        try:
            async with db.write() as session:
                counts = [
                    await session.scalar(select(func.count()).select_from(model))
                    for model in (Category, Product, User, Order, OrderLine, Review)
                ]
                assert counts == [
                    60,
                    SMALL.products,
                    SMALL.customers + 1,
                    SMALL.orders,
                    SMALL.lines,
                    SMALL.reviews,
                ]
                sums = select(
                    OrderLine.order_id,
                    func.sum(OrderLine.quantity * OrderLine.unit_price_cents).label("total"),
                ).group_by(OrderLine.order_id)
                lines = sums.subquery()
                wrong = select(func.count()).select_from(Order).join(lines, lines.c.order_id == Order.id)
                assert await session.scalar(wrong.where(lines.c.total != Order.total_cents)) == 0
                early = select(func.count()).select_from(OrderLine).join(Order).join(Product)
                assert await session.scalar(early.where(Product.created_at > Order.created_at)) == 0
                category = Category(slug="new", name="New", department="Home", icon="box", hue=1)
                session.add(category)
                await session.flush()
                assert category.id == 61
        finally:
            await db.close()

    asyncio.run(look())


def test_seeding_again(tmp_path: Path) -> None:
    """A second seeding changes nothing and says so; --force fills anew; the database keeps its own id."""
    url = f"sqlite:///{tmp_path}/deep/down/shop.db"
    first = run("seed", "--small", DATABASE_URL=url, CACHE_ENABLED="0")
    again = run("seed", DATABASE_URL=url, CACHE_ENABLED="0")
    assert first.returncode == again.returncode == 0
    assert "Filled in" in first.stdout
    assert "filled already (small, seed 1)" in again.stdout
    own_id = rows(url, "SELECT value FROM facts WHERE name = 'id'")
    rows(url, "SELECT 1")

    forced = run("seed", "--small", "--seed", "5", "--force", DATABASE_URL=url, CACHE_ENABLED="0")

    assert forced.returncode == 0
    assert rows(url, "SELECT value FROM facts ORDER BY name") == [*own_id, ("small, seed 5",)]


def test_random_password_is_printed_once(tmp_path: Path) -> None:
    """Without SHOP_ADMIN_PASSWORD the administrator's is made up, and shown only at seeding."""
    url = f"sqlite:///{tmp_path}/shop.db"

    first, again = (run("seed", "--small", DATABASE_URL=url, SHOP_ADMIN_PASSWORD="") for _ in range(2))

    assert "Administrator: admin@example.com, password " in first.stdout
    assert "password" not in again.stdout


def test_interrupted_seed_is_no_shop(tmp_path: Path) -> None:
    """A seeding that was killed leaves nothing that is taken for a shop, and can be done again."""
    path = tmp_path / "shop.db"
    url = f"sqlite:///{path}"
    process = spawn(
        [sys.executable, "-m", "shop", "seed"], tmp_path / "log", env=environment(DATABASE_URL=url)
    )
    log = path.with_name("shop.db-wal")
    # The tables alone are some 100 KB: beyond that rows are being written.
    wait_until(lambda: log.exists() and log.stat().st_size > 1_000_000, "rows")
    process.kill()
    process.wait()

    refused = run("serve", "--port", str(free_port()), DATABASE_URL=url)
    assert refused.returncode == 1
    assert (
        refused.stderr == "shop: there is no shop in this database yet; fill it with: python -m shop seed\n"
    )
    assert run("seed", "--small", DATABASE_URL=url).returncode == 0
    assert rows(url, "SELECT count(*) FROM products") == [(SMALL.products,)]


def test_full_disk_is_one_line(tmp_path: Path) -> None:
    """A full disk (here a limit on the size of files) is told in one line."""
    limited = [
        "/bin/sh",
        "-c",
        'ulimit -f 300; exec "$@"',
        "sh",
        sys.executable,
        "-m",
        "shop",
        "seed",
        "--small",
    ]
    url = f"sqlite:///{tmp_path}/shop.db"

    said = subprocess.run(
        limited, env=environment(DATABASE_URL=url), cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert said.returncode == 1
    assert said.stderr.startswith("shop: the database cannot be used: ")
    assert said.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://nobody@127.0.0.1:1/shop", "the database cannot be used"),
        ("postgres://nobody@host.invalid/shop", "the database cannot be used"),
        ("sqlite:////proc/nowhere/shop.db", "the database cannot be used"),
        ("sqlite://", "names no file"),
        ("mysql://localhost/shop", "the shop knows sqlite and postgresql"),
        ("shop.db", "DATABASE_URL is not a URL"),
    ],
)
@pytest.mark.parametrize("command", ["seed", "serve", "warm"])
def test_unreachable_databases_are_one_line(command: str, url: str, words: str) -> None:
    """What the operator must put right is one line and status 1, whatever the command."""
    said = run(command, DATABASE_URL=url, REDIS_URL="redis://127.0.0.1:1")

    assert said.returncode == 1
    if not (url.startswith("sqlite:///") and command != "seed"):  # a file that is not there is an empty shop
        assert words in said.stderr
    assert said.stderr.count("\n") == 1
    assert "Traceback" not in said.stderr


def test_missing_postgres_database(postgres: PostgresServer) -> None:
    """A database that does not exist is told in one line, without the address's password."""
    url = postgres.url_of("nowhere").replace("postgres@", "postgres:secret@")
    said = run("seed", "--small", DATABASE_URL=url)

    assert said.returncode == 1
    assert 'database "nowhere" does not exist' in said.stderr
    assert "secret" not in said.stderr
