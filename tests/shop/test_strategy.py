"""The two tables of the README about the shop's cache, compared with what the shop does."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta

import httpx
import pytest

from neverstale import AsyncCache
from neverstale.dashboard.acting import looked_up
from neverstale.events import InvalidationEvent
from neverstale.testing.servers import RedisServer
from shop.caching import VERSION
from shop.models import utc_now
from shop.settings import Settings
from tests.shop.every_write import WRITES, here
from tests.shop.running import ADMIN, ROOT

SPACE = "test-strategy"
OWN = {"name": "Own Lamp", "description": "", "price_cents": 1200, "stock": 9, "category_id": 7}
PASSWORD = "correct horse"
UNITS = {"s": 1, "min": 60, "h": 3600}
#: Of what is between these no more is said than its kind.
KEYS = (
    (r"catalog:products:category_id=\d+&.*", "catalog:products:category_id={category}&{query}"),
    (r"catalog:products:.*", "catalog:products:{query}"),
    (r"(.*product:|.*/products/)\d+", r"\1{id}"),
    (r"catalog:popular:\d+", "catalog:popular:{category}"),
    (r"api:GET:/api/products\?.*", "api:GET:/api/products?{query}"),
    (r"computed:sales:[^:]*:[^:]*:\w+", "computed:sales:{from}:{to}:{by}"),
    (r"session:user:\w+", "session:user:{user}"),
    (r"session:\w+", "session:{digest}"),
    (r"category:8", "category:{other category}"),
    (r"category:\d+", "category:{category}"),
)


@dataclass(frozen=True)
class Row:
    """One kind of entry: what the table calls it, its key with its prefix, its times in seconds, and its tags."""

    name: str
    key: str
    times: tuple[int, ...]
    tags: frozenset[str]


def rows(beginning: str) -> list[list[str]]:
    """Return the cells of the table after a paragraph of the README that begins so."""
    text = (ROOT / "README.md").read_text().split(f"\n**{beginning}**", 1)[1]
    table = re.search(r"\n\|[^\n]*\n\|[-|]+\n((?:\|[^\n]*\n)+)", text)
    assert table is not None
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table[1].splitlines()]


def quoted(cell: str) -> list[str]:
    """Return what stands in code quotes."""
    return re.findall(r"`([^`]+)`", cell)


def kinds() -> list[Row]:
    """Return the table of what is cached."""
    return [
        Row(
            name,
            "".join(quoted(prefix) + quoted(key)),
            tuple(int(number) * UNITS[unit] for number, unit in re.findall(r"(\d+) (s|min|h)\b", ttl)),
            frozenset(quoted(tags)),
        )
        for name, prefix, key, ttl, tags in rows("What is cached")
    ]


def generic(name: str) -> str:
    """Put placeholders where a name has ids."""
    for pattern, template in KEYS:
        if (found := re.fullmatch(pattern, name)) is not None:
            return found.expand(template)
    return name


def about(seconds: float, said: int) -> bool:
    """Say whether a time is what the table says: read a moment later, and shortened by jitter of up to a tenth."""
    return 0.85 * said < seconds <= said


@dataclass
class Shop:
    """A shop in this process, who asks it, and what it has invalidated."""

    cache: AsyncCache
    admin: httpx.AsyncClient
    visitor: httpx.AsyncClient
    heard: list[InvalidationEvent]

    async def names(self, work: Awaitable[httpx.Response]) -> set[str]:
        """Return the tags and keys that a request invalidates, with placeholders."""
        self.heard.clear()
        answer = await work
        assert answer.is_success, answer.text
        return {generic(f"{each.prefix}{name}") for each in self.heard for name in each.names}

    async def product(self) -> int:
        """Make a product and return its id."""
        answer = await self.admin.post("/api/products", json=OWN)
        number: int = answer.json()["id"]
        return number


@pytest.fixture
async def shop(
    new_database: Callable[[str], str], redis_server: RedisServer, patient: None
) -> AsyncIterator[Shop]:
    settings = Settings(
        database_url=new_database("sqlite"),
        redis_url=redis_server.url,
        namespace=SPACE,
        admin_password=ADMIN["password"],
    )
    async with AsyncExitStack() as stack:
        running, anybody = await stack.enter_async_context(here(settings))
        admin, visitor = [
            await stack.enter_async_context(
                httpx.AsyncClient(transport=anybody._transport, base_url="http://localhost")
            )
            for _ in range(2)
        ]
        cache: AsyncCache = running.catalog.cache
        heard: list[InvalidationEvent] = []
        cache.events.subscribe(heard.append, InvalidationEvent)
        assert (await admin.post("/api/login", json=ADMIN)).status_code == 200
        yield Shop(cache, admin, visitor, heard)


async def test_what_is_cached(shop: Shop, redis_server: RedisServer) -> None:
    """Prefix, key, tags and times of every kind of entry are those of the table, and there are no other kinds."""
    end = utc_now().date() - timedelta(days=30)
    past = f"from={end - timedelta(days=10)}&to={end}"
    for path in ("/?q=lamp", "/?category=rugs", "/products/5", "/api/products?q=lamp", "/api/products/5"):
        assert (await shop.visitor.get(path)).status_code == 200
    for path in (
        "/api/categories",
        "/api/dashboard/stats",
        "/api/reports/sales",
        "/api/reports/sales?by=product",
        f"/api/reports/sales?{past}",
        f"/api/reports/sales?{past}&by=product",
        "/api/me",
    ):
        assert (await shop.admin.get(path)).status_code == 200
    space = f"{SPACE}:v{VERSION}:"
    with redis_server.client() as redis:
        names = [each.decode().removeprefix(space) for each in redis.keys(f"{space}*")]
    table = {(each.key, each.tags): each for each in kinds()}
    seen = set()
    for name in names:
        look = await shop.cache._driver.run(looked_up(shop.cache, name), shop.cache._counters)
        row = table.get((generic(name), frozenset(generic(each["tag"]) for each in look["tags"])))
        assert row is not None, f"not in the table: {name} with {look['tags']}"
        now = time.time() * 1000
        times = [(each - now) / 1000 for each in (look["soft_at"], look["hard_at"]) if each is not None]
        times.append(look["ttl_ms"] / 1000)
        assert len(times) == len(row.times), name
        assert all(map(about, times, row.times)), f"{name}: {times}, {row.times}"
        seen.add(row)
    assert set(table.values()) - seen == set()


async def test_which_write_invalidates_which(shop: Shop) -> None:
    """Each write invalidates the tags and keys of its row, no less and no more, and with them those entries."""
    admin, visitor = shop.admin, shop.visitor
    account = {"email": "strategy@example.org", "name": "Sara Test", "password": PASSWORD}
    again = {"email": account["email"], "password": "battery staple"}
    review = {"rating": 4, "title": "Good", "body": "It is."}
    own = [await shop.product() for _ in range(5)]
    lines = {"lines": [{"product_id": own[4], "quantity": 1}]}

    async def end_this_session() -> httpx.Response:
        await visitor.get("/api/me")  # now it is cached
        (session,) = (await visitor.get("/api/sessions")).json()
        return await visitor.delete(f"/api/sessions/{session['id']}")

    writes: dict[str, Callable[[], Awaitable[httpx.Response]]] = {
        "POST /api/products": lambda: admin.post("/api/products", json=OWN),
        "PUT /api/products/{product_id}": lambda: admin.put(
            f"/api/products/{own[0]}", json={**OWN, "price_cents": 1300}
        ),
        "PUT /api/products/{product_id}, to another category": lambda: admin.put(
            f"/api/products/{own[1]}", json={**OWN, "category_id": 8}
        ),
        "DELETE /api/products/{product_id}": lambda: admin.delete(f"/api/products/{own[2]}"),
        "POST /api/products/{product_id}/reviews": lambda: admin.post(
            f"/api/products/{own[3]}/reviews", json=review
        ),
        "POST /api/orders": lambda: admin.post("/api/orders", json=lines),
        "POST /api/register": lambda: visitor.post("/api/register", json=account),
        "POST /api/password": lambda: visitor.post(
            "/api/password", json={"current": PASSWORD, "new": again["password"]}
        ),
        "DELETE /api/sessions": lambda: visitor.delete("/api/sessions"),
        "POST /api/logout": lambda: visitor.post("/api/logout"),
        "POST /api/login": lambda: visitor.post("/api/login", json=again),
        "DELETE /api/sessions/{session_id}": end_this_session,
    }
    said = {}
    for what, names, entries in rows("Which write invalidates which"):
        (route,) = quoted(what)
        said[what.replace("`", "")] = (
            set(quoted(names)),
            {each.strip() for each in entries.split(",")} - {"none"},
        )
        assert what.startswith(f"`{route}`")
    done = {}
    for what, work in writes.items():
        found = await shop.names(work())
        reached = {each.name for each in kinds() if each.tags & found or each.key in found}
        done[what] = (found, reached)
    assert done == said
    # Forms of the pages call the same functions; test_random_writes.py makes them all.
    routes = {f"{method} {path}" for method, path in WRITES if path.startswith("/api/")}
    assert {each.partition(",")[0] for each in said} == routes
