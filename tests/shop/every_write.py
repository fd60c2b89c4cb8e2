"""Every write that the shop has, by its route, and every answer that it caches, asked with the cache and without.

A world has several shops with a cache (processes, or one in this process), and one without, all on one database. What
is asked for is small enough to be compared as a whole after each write: three categories, some products of each, those
that were made or deleted last, a few customers with the sessions that they have and those that have ended.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from http.cookiejar import DefaultCookiePolicy
from itertools import count
from random import Random
from typing import Any

import httpx

from shop.app import create_app
from shop.settings import Settings
from tests.shop.running import ADMIN

CATEGORIES = (7, 9, 19)
# What a page says of itself, and the way to the cache's dashboard, which there is only with a cache.
OWN = re.compile(rb'<p class="took" .*?</p>|<li><a href="/cache/">.*?</li>\n?')
AT_ONCE = 8
#: Seconds between two requests of a reader: enough of the machine is left for the writers.
PACE = 0.005
_numbers = count(1)


@dataclass
class Member:
    """Somebody with an account: the sessions that are open, and those that have ended."""

    email: str
    password: str
    open: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)

    def end(self, *tokens: str) -> None:
        """Note sessions that have ended."""
        self.open = [each for each in self.open if each not in tokens]
        self.ended = [*self.ended, *tokens][-1:]


@dataclass(frozen=True)
class Question:
    """Something to ask for, and the session of who asks."""

    path: str
    token: str | None = None


Answer = tuple[int, str | None, bytes]


class World:
    """Shops on one database: `shops` with the cache, `plain` without."""

    def __init__(self, shops: Sequence[httpx.AsyncClient], plain: httpx.AsyncClient, random: Random) -> None:
        self.shops = shops
        self.plain = plain
        self.random = random
        self.admin = Member(ADMIN["email"], ADMIN["password"])
        self.members: list[Member] = []
        self.products: list[int] = []
        self.gone: list[int] = []
        self.slugs: dict[int, str] = {}
        self._reading: list[asyncio.Task[None]] = []

    async def begin(self) -> None:
        """Choose products, let the administrator in, and have two customers."""
        for each in (await self.plain.get("/api/categories")).json():
            self.slugs[each["id"]] = each["slug"]
        for category in CATEGORIES:
            found = (await self.plain.get(f"/api/products?category={category}&per_page=2")).json()["items"]
            self.products += [each["id"] for each in found]
        answer = await send(self.shops[0], "POST", "/api/login", None, json=ADMIN)
        self.admin.open.append(answer.cookies["shop_session"])
        for _ in range(2):
            await WRITES["POST", "/api/register"](self, self.shops[0])

    # -- asking -------------------------------------------------------------------------------------------------------

    def questions(self) -> Iterator[Question]:
        """Return every kind of answer that is cached."""
        first, second, third = CATEGORIES
        yield from map(Question, ("/api/categories", "/api/products", "/api/products?sort=rating&per_page=5"))
        yield from map(Question, ("/", "/?q=test&sort=-price", "/api/products?q=test"))
        for category in CATEGORIES:
            yield Question(f"/api/products?category={category}")
        yield Question(f"/?category={self.slugs[first]}&sort=rating")
        yield Question(f"/?category={self.slugs[second]}")
        yield Question(f"/api/products?category={self.slugs[third]}&sort=price&min_price=500")
        # The last one is there when somebody adds a product.
        for number in (*self.products, *self.gone[-2:], max((*self.products, *self.gone, 600)) + 1):
            yield Question(f"/api/products/{number}")
        for number in (*self.products[:2], *self.products[-2:], *self.gone[-1:]):
            yield Question(f"/products/{number}")
        admin = self.admin.open[0]
        for path in (
            "/api/dashboard/stats",
            "/admin/dashboard",
            "/api/reports/sales",
            "/api/reports/sales?by=category",
            "/api/reports/sales?by=product",
            "/api/reports/sales?from=2026-09-01&to=2026-10-31&by=product",
            "/api/reports/sales?from=2026-09-01&to=2026-10-31&by=category",
            "/admin/reports?range=month&by=week",
            "/admin/reports.csv?from=2026-10-01&to=2026-10-31&by=day",
        ):
            yield Question(path, admin)
        for member in (self.admin, *self.members):
            for token in (*member.open, *member.ended):
                yield Question("/api/me", token)
            for token in member.open[:1]:
                yield from (Question("/api/sessions", token), Question("/account", token))

    async def stale(self) -> list[str]:
        """Ask all questions with the cache and without; returns those that are not answered alike."""
        gate = asyncio.Semaphore(AT_ONCE)

        async def differs(question: Question) -> str | None:
            async with gate:
                had = await ask(self.random.choice(self.shops), question)
                fresh = await ask(self.plain, question)
            return None if had == fresh else _difference(question, had, fresh)

        found = await asyncio.gather(*map(differs, dict.fromkeys(self.questions())))
        return [each for each in found if each is not None]

    @asynccontextmanager
    async def hammered(self) -> AsyncIterator[None]:
        """Read at random from every shop, so that loads are in flight; what is on its way at the end goes on."""
        over = False
        asked = list(self.questions())

        async def read(shop: httpx.AsyncClient) -> None:
            while not over:
                await ask(shop, self.random.choice(asked))
                await asyncio.sleep(PACE)

        readers = [asyncio.create_task(read(shop)) for shop in self.shops]
        try:
            yield
        finally:
            over = True
            self._reading = readers  # nobody waits for them: the next comparison does not either

    async def settle(self) -> None:
        """Wait for the last answers of the readers."""
        await asyncio.gather(*self._reading)

    async def look_round(self) -> None:
        """Note which sessions several writers at once have left open: a log-in may have met a change of password."""
        for member in self.members:
            asked = [(token, await ask(self.plain, Question("/api/me", token))) for token in member.open]
            member.end(*(token for token, answer in asked if answer[0] == 401))

    # -- choosing -----------------------------------------------------------------------------------------------------

    def product(self) -> int:
        """Return one that is for sale, as far as is known."""
        return self.random.choice(self.products)

    async def member(self, shop: httpx.AsyncClient) -> Member:
        """Return a customer who is logged in, a new one if there is none."""
        if not any(each.open for each in self.members):
            await WRITES["POST", "/api/register"](self, shop)
        return self.random.choice([each for each in self.members if each.open])

    def data(self) -> dict[str, Any]:
        """Return what an administrator may say about a product."""
        return {
            "name": f"Test {self.random.choice(('Lamp', 'Rug', 'Quern'))} {next(_numbers)}",
            "description": "",
            "price_cents": self.random.randrange(100, 5000),
            "stock": self.random.randrange(0, 9),
            "category_id": self.random.choice(CATEGORIES),
        }

    def form(self) -> dict[str, str]:
        """Return the same as a form has it."""
        data = self.data()
        cents = data.pop("price_cents")
        return {name: str(value) for name, value in data.items()} | {
            "price": f"{cents // 100}.{cents % 100:02}"
        }

    def made(self, number: int) -> None:
        """Note a new product."""
        self.products = [*self.products[:6], *self.products[6:][-2:], number]

    def deleted(self, number: int) -> None:
        """Note that a product is gone."""
        self.products = [each for each in self.products if each != number]
        self.gone.append(number)

    def joined(self, member: Member) -> None:
        """Note a new customer; a few are enough to ask for."""
        self.members = [*self.members[-2:], member]


def _difference(question: Question, had: Answer, fresh: Answer) -> str:
    at = next((i for i, (a, b) in enumerate(zip(had[2], fresh[2], strict=False)) if a != b), 0)
    near = slice(max(0, at - 60), at + 60)
    return f"{question.path}: {had[0]} {had[2][near]!r}, and without the cache {fresh[0]} {fresh[2][near]!r}"


async def send(
    shop: httpx.AsyncClient, method: str, path: str, token: str | None, **given: Any
) -> httpx.Response:
    """Send a request with a session."""
    headers = {"accept": "application/json" if path.startswith("/api/") else "text/html"}
    if token is not None:
        headers["cookie"] = f"shop_session={token}"
    return await shop.request(method, path, headers=headers, **given)


async def ask(shop: httpx.AsyncClient, question: Question) -> Answer:
    """Return the answer, without what it says of itself."""
    answer = await send(shop, "GET", question.path, question.token)
    return answer.status_code, answer.headers.get("content-type"), OWN.sub(b"", answer.content)


@asynccontextmanager
async def client(where: str | Any) -> AsyncIterator[httpx.AsyncClient]:
    """Make a client of an address or an application that keeps no cookies: who asks is said each time."""
    given: dict[str, Any] = (
        # uvicorn closes what has been idle for five seconds: not just when we send something.
        {"base_url": where, "limits": httpx.Limits(keepalive_expiry=2)}
        if isinstance(where, str)
        else {"base_url": "http://shop", "transport": httpx.ASGITransport(where)}
    )
    async with httpx.AsyncClient(timeout=60, **given) as found:
        found.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        yield found


@asynccontextmanager
async def here(settings: Settings) -> AsyncIterator[tuple[Any, httpx.AsyncClient]]:
    """Run a shop in this process."""
    app = create_app(settings)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(app.router.lifespan_context(app))
        yield app.state.shop, await stack.enter_async_context(client(app))


# -- the writes -------------------------------------------------------------------------------------------------------

Write = Callable[[World, httpx.AsyncClient], Awaitable[httpx.Response]]
WRITES: dict[tuple[str, str], Write] = {}


def write(method: str, path: str) -> Callable[[Write], Write]:
    def register(function: Write) -> Write:
        WRITES[method, path] = function
        return function

    return register


def _opened(member: Member, answer: httpx.Response, *, ends: Sequence[str] = ()) -> httpx.Response:
    if answer.status_code < 400:
        member.end(*ends)
        member.open.append(answer.cookies["shop_session"])
    return answer


async def _log_in(world: World, shop: httpx.AsyncClient, path: str, how: str) -> httpx.Response:
    member = world.random.choice(world.members)
    given = {"email": member.email, "password": member.password}
    old = world.random.choice([None, *member.open])
    answer = await send(shop, "POST", path, old, **{how: given})
    return _opened(member, answer, ends=[old] if old else [])


@write("POST", "/api/login")
async def log_in(world: World, shop: httpx.AsyncClient) -> httpx.Response:
    return await _log_in(world, shop, "/api/login", "json")


@write("POST", "/login")
async def log_in_by_form(world: World, shop: httpx.AsyncClient) -> httpx.Response:
    return await _log_in(world, shop, "/login", "data")


async def _log_out(world: World, shop: httpx.AsyncClient, path: str) -> httpx.Response:
    member = world.random.choice(world.members)
    token = world.random.choice([*member.open, "unknown"])
    answer = await send(shop, "POST", path, token)
    member.end(token)
    return answer


@write("POST", "/api/logout")
async def log_out(world: World, shop: httpx.AsyncClient) -> httpx.Response:
    return await _log_out(world, shop, "/api/logout")


@write("POST", "/logout")
async def log_out_by_form(world: World, shop: httpx.AsyncClient) -> httpx.Response:
    return await _log_out(world, shop, "/logout")


async def _register(world: World, shop: httpx.AsyncClient, path: str, how: str) -> httpx.Response:
    member = Member(f"w{next(_numbers)}@example.org", "correct horse")
    given = {"email": member.email, "name": "Wanda Test", "password": member.password}
    before = world.random.choice([None, *world.members])  # whose browser it is
    old = before.open[-1] if before is not None and before.open else None
    answer = await send(shop, "POST", path, old, **{how: given})
    if answer.status_code < 400:
        if before is not None and old is not None:
            before.end(old)
        world.joined(member)
    return _opened(member, answer)


@write("POST", "/api/register")
async def register(world: World, shop: httpx.AsyncClient) -> httpx.Response:
    return await _register(world, shop, "/api/register", "json")


@write("POST", "/register")
async def register_by_form(world: World, shop: httpx.AsyncClient) -> httpx.Response:
    return await _register(world, shop, "/register", "data")


async def _change_password(world: World, shop: httpx.AsyncClient, path: str, how: str) -> httpx.Response:
    member = await world.member(shop)
    new = f"correct horse {next(_numbers)}"
    given = {"current": member.password, "new": new}
    ends = tuple(member.open)
    answer = await send(shop, "POST", path, member.open[0], **{how: given})
    if answer.status_code < 400:
        member.password = new
    return _opened(member, answer, ends=ends)


@write("POST", "/api/password")
async def change_password(world: World, shop: httpx.AsyncClient) -> httpx.Response:
    return await _change_password(world, shop, "/api/password", "json")


@write("POST", "/account/password")
async def change_password_by_form(world: World, shop: httpx.AsyncClient) -> httpx.Response:
    return await _change_password(world, shop, "/account/password", "data")


async def _another(world: World, shop: httpx.AsyncClient) -> tuple[Member, str, str]:
    """Log in once more; returns who, the session that asks, and the public id of the new one."""
    member = await world.member(shop)
    asking = member.open[0]
    given = {"email": member.email, "password": member.password}
    _opened(member, await send(shop, "POST", "/api/login", None, json=given))
    known = await send(world.plain, "GET", "/api/sessions", asking)
    found = known.json() if known.status_code == 200 else []  # another writer may have ended it
    return member, asking, next((each["id"] for each in found if not each["current"]), "0")


@write("DELETE", "/api/sessions/{session_id}")
async def end_session(world: World, shop: httpx.AsyncClient) -> httpx.Response:
    _, asking, number = await _another(world, shop)
    return await send(shop, "DELETE", f"/api/sessions/{number}", asking)


@write("POST", "/account/sessions/end")
async def end_session_by_form(world: World, shop: httpx.AsyncClient) -> httpx.Response:
    _, asking, number = await _another(world, shop)
    return await send(shop, "POST", "/account/sessions/end", asking, data={"id": number})


@write("DELETE", "/api/sessions")
async def end_others(world: World, shop: httpx.AsyncClient) -> httpx.Response:
    _, asking, _ = await _another(world, shop)
    return await send(shop, "DELETE", "/api/sessions", asking)


@write("POST", "/account/sessions/end-others")
async def end_others_by_form(world: World, shop: httpx.AsyncClient) -> httpx.Response:
    _, asking, _ = await _another(world, shop)
    return await send(shop, "POST", "/account/sessions/end-others", asking)


@write("POST", "/api/products")
async def create(world: World, shop: httpx.AsyncClient) -> httpx.Response:
    answer = await send(shop, "POST", "/api/products", world.admin.open[0], json=world.data())
    if answer.status_code < 400:
        world.made(answer.json()["id"])
    return answer


@write("POST", "/admin/products/new")
async def create_by_form(world: World, shop: httpx.AsyncClient) -> httpx.Response:
    form = world.form()
    answer = await send(shop, "POST", "/admin/products/new", world.admin.open[0], data=form)
    found = (await world.plain.get("/api/products", params={"q": form["name"]})).json()["items"]
    for each in found[:1]:
        world.made(each["id"])
    return answer


@write("PUT", "/api/products/{product_id}")
async def update(world: World, shop: httpx.AsyncClient) -> httpx.Response:
    path = f"/api/products/{world.product()}"
    return await send(shop, "PUT", path, world.admin.open[0], json=world.data())


@write("POST", "/admin/products/{product_id}")
async def update_by_form(world: World, shop: httpx.AsyncClient) -> httpx.Response:
    path = f"/admin/products/{world.product()}"
    return await send(shop, "POST", path, world.admin.open[0], data=world.form())


@write("DELETE", "/api/products/{product_id}")
async def delete(world: World, shop: httpx.AsyncClient) -> httpx.Response:
    number = world.product()
    answer = await send(shop, "DELETE", f"/api/products/{number}", world.admin.open[0])
    world.deleted(number)
    return answer


@write("POST", "/admin/products/{product_id}/delete")
async def delete_by_form(world: World, shop: httpx.AsyncClient) -> httpx.Response:
    number = world.product()
    answer = await send(shop, "POST", f"/admin/products/{number}/delete", world.admin.open[0])
    world.deleted(number)
    return answer


async def _review(world: World, shop: httpx.AsyncClient, path: str, how: str) -> httpx.Response:
    """By a customer of its own: nobody reviews twice."""
    await register(world, shop)
    member = world.members[-1]
    given = {"rating": world.random.randrange(1, 6), "title": "Said", "body": "and done"}
    return await send(shop, "POST", path, member.open[0], **{how: given})


@write("POST", "/api/products/{product_id}/reviews")
async def review(world: World, shop: httpx.AsyncClient) -> httpx.Response:
    return await _review(world, shop, f"/api/products/{world.product()}/reviews", "json")


@write("POST", "/products/{product_id}/reviews")
async def review_by_form(world: World, shop: httpx.AsyncClient) -> httpx.Response:
    return await _review(world, shop, f"/products/{world.product()}/reviews", "data")


async def _stocked(world: World, shop: httpx.AsyncClient) -> list[int]:
    """Return products of which there are two, a new one if there is none."""
    found = [(await world.plain.get(f"/api/products/{number}")).json() for number in world.products]
    there = [each["id"] for each in found if each.get("stock", 0) >= 2]
    if not there:
        given = world.data() | {"stock": 9}
        answer = await send(shop, "POST", "/api/products", world.admin.open[0], json=given)
        there.append(answer.json()["id"])
        world.made(there[0])
    return there


@write("POST", "/api/orders")
async def order(world: World, shop: httpx.AsyncClient) -> httpx.Response:
    there = await _stocked(world, shop)
    chosen = world.random.sample(there, min(3, len(there)))
    lines = [{"product_id": number, "quantity": world.random.randrange(1, 3)} for number in chosen]
    return await send(shop, "POST", "/api/orders", (await world.member(shop)).open[0], json={"lines": lines})


@write("POST", "/products/{product_id}/order")
async def order_by_form(world: World, shop: httpx.AsyncClient) -> httpx.Response:
    there = await _stocked(world, shop)
    number = world.random.choice(there)
    path = f"/products/{number}/order"
    return await send(shop, "POST", path, (await world.member(shop)).open[0], data={"quantity": "2"})
