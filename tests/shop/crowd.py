"""People who use a shop at the same time, and what must never happen to them.

Everybody writes down what they were told and when; what is wrong is found by comparing that, afterwards or at once:

- every answer has the status that it must have, and comes: `slowest` is what the slowest took;
- who did not log out stays logged in, as the one that they are;
- who has logged out is refused, on every connection, for good;
- who reads a price after a change of it has been answered reads that price or a later one.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.shop.running import ADMIN, RunningShop

__all__ = ["PATHS", "PRICED", "SLOWEST", "Crowd"]

#: Seconds that no answer may take. A read waits for Redis for 50 ms at most and a few times, an invalidation for two
#: seconds (`patient_timeout`), and a log-in may have two of them; the rest is for passwords, which take their time on
#: purpose, and for a busy machine.
SLOWEST = 10.0
#: Seconds between the requests of one person: the crowd shares the machine with the shop.
_PAUSE = 0.02
#: Seconds that a part of a test may take until enough has happened, on a machine that is very busy.
_LONGEST = 60.0
PATHS = (
    "/api/products",
    "/api/products?sort=price&page=2",
    "/api/products?category=rugs",
    "/api/products/1",
    "/api/products/2",
    "/api/categories",
    "/",
    "/?category=headphones",
    "/products/1",
    "/products/3",
)
#: What the administrator changes the price of.
PRICED = {"name": "Lasting Lamp", "description": "", "price_cents": 1000, "stock": 0, "category_id": 7}
_numbers = itertools.count(1)


def _as(token: str) -> dict[str, str]:
    return {"cookie": f"shop_session={token}"}


@dataclass(frozen=True)
class Written:
    """A price that was answered as saved: when, and whether the answer said that the old one may still be seen."""

    price: int
    at: float
    warned: bool


@dataclass(frozen=True)
class Wrong:
    """Something that somebody was told and should not have been told: what they asked when, and when they knew."""

    what: str
    began: float
    ended: float


@dataclass
class Crowd:
    """The people of one shop."""

    shop: RunningShop
    ordered_product: int
    priced: int
    wrong: list[Wrong] = field(default_factory=list)
    stale: list[Wrong] = field(default_factory=list)
    let_in: list[Wrong] = field(default_factory=list)
    written: list[Written] = field(default_factory=list)
    over: dict[str, float] = field(default_factory=dict)
    answers: int = 0
    slowest: float = 0.0
    ordered: int = 0
    arrived: int = 0
    here: bool = True
    leave: asyncio.Event = field(default_factory=asyncio.Event)

    # -- asking -------------------------------------------------------------------------------------------------------

    async def ask(
        self, client: httpx.AsyncClient, method: str, path: str, expected: int, **given: Any
    ) -> httpx.Response | None:
        """Ask, and write down an answer that has another status, or does not come."""
        began = time.monotonic()
        try:
            answer = await client.request(method, path, **given)
        except httpx.HTTPError as error:
            self._wrong(f"{method} {path}: {error!r}", began)
            return None
        took = time.monotonic() - began
        self.answers += 1
        self.slowest = max(self.slowest, took)
        if answer.status_code != expected:
            self._wrong(f"{method} {path}: {answer.status_code} {answer.text[:200]}", began)
            return None
        return answer

    def client(self, **options: Any) -> httpx.AsyncClient:
        """Make a client without a session."""
        # No TLS: to load the certificates takes longer than all of a client's requests.
        return httpx.AsyncClient(
            base_url=self.shop.base_url, timeout=SLOWEST * 2, verify=False, trust_env=False, **options
        )

    # -- who there is -------------------------------------------------------------------------------------------------

    async def visitor(self) -> None:
        """Look around without being anybody."""
        rng = random.Random(next(_numbers))
        async with self.client() as client:
            while self.here:
                await self.ask(client, "GET", rng.choice(PATHS), 200)
                await self._price(client)
                await asyncio.sleep(_PAUSE)

    async def customer(self) -> None:
        """Stay logged in, look around, and order one of the product now and then."""
        rng = random.Random(next(_numbers))
        async with self._member() as (client, email):
            while self.here:
                await self._is(client, email)
                await self.ask(client, "GET", rng.choice(PATHS), 200)
                await self._price(client)
                if rng.random() < 0.2:
                    lines = [{"product_id": self.ordered_product, "quantity": 1}]
                    placed = await self.ask(client, "POST", "/api/orders", 201, json={"lines": lines})
                    if placed is not None:
                        self.ordered += 1
                        await self.ask(client, "GET", f"/api/orders/{placed.json()['id']}", 200)
                await asyncio.sleep(_PAUSE)

    async def comer_and_goer(self) -> None:
        """Log in, look, log out, and never be let in again by what was given for that."""
        async with self._member() as (client, email):
            while self.here:
                await self._is(client, email)
                token = client.cookies["shop_session"]
                if await self.ask(client, "POST", "/api/logout", 204) is not None:
                    self.over[token] = time.monotonic()
                client.cookies.clear()
                await self.try_again(token)
                password = {"email": email, "password": "correct horse"}
                await self.ask(client, "POST", "/api/login", 200, json=password)
                await asyncio.sleep(_PAUSE)

    async def administrator(self) -> None:
        """Raise the product's price by a cent, look at the figures, and so on."""
        price = 1000
        looks = itertools.cycle(("/api/dashboard/stats", "/api/reports/sales", "/admin/dashboard"))
        async with self.client() as client:
            assert await self.ask(client, "POST", "/api/login", 200, json=ADMIN)
            self.arrived += 1
            while self.here:
                price += 1
                data = {**PRICED, "price_cents": price}
                saved = await self.ask(client, "PUT", f"/api/products/{self.priced}", 200, json=data)
                if saved is not None:
                    self.written.append(Written(price, time.monotonic(), "warning" in saved.headers))
                await self.ask(client, "GET", next(looks), 200)
                await asyncio.sleep(_PAUSE)

    async def leavers(self, count: int, gone: asyncio.Event) -> None:
        """Be logged in several times, and log out everywhere, one after the other, when it is time to."""
        async with self._member() as (client, email):
            password = {"email": email, "password": "correct horse"}
            tokens = [client.cookies["shop_session"]]
            for _ in range(count - 1):
                client.cookies.clear()
                await self.ask(client, "POST", "/api/login", 200, json=password)
                tokens.append(client.cookies["shop_session"])
            while not gone.is_set():
                for token in tokens:
                    await self.ask(self._anybody, "GET", "/api/me", 200, headers=_as(token))
                await asyncio.sleep(_PAUSE)
            for token in tokens:
                if await self.ask(self._anybody, "POST", "/api/logout", 204, headers=_as(token)) is not None:
                    self.over[token] = time.monotonic()
                await asyncio.sleep(_PAUSE)

    async def prowler(self) -> None:
        """Try what others have been given before they logged out, on new connections: they reach every process."""
        while self.here:
            for token in list(self.over)[-20:]:
                await self.try_again(token)
            await asyncio.sleep(_PAUSE)

    async def rush(self) -> None:
        """Try what everybody has been given, all at the same time."""
        for _ in range(3):
            await asyncio.gather(*map(self.try_again, list(self.over)[-20:]))

    async def try_again(self, token: str) -> None:
        """Use a session that is over; `let_in` tells where that worked."""
        began = time.monotonic()
        try:
            answer = await self._anybody.get("/api/me", headers=_as(token))
        except httpx.HTTPError as error:
            self._wrong(f"/api/me: {error!r}", began)
            return
        self.answers += 1
        if answer.status_code == 200:
            what = f"{began - self.over[token]:.2f} s after the log-out"
            self.let_in.append(Wrong(what, began, time.monotonic()))
        elif answer.status_code != 401:
            self._wrong(f"/api/me: {answer.status_code}", began)

    # -- parts --------------------------------------------------------------------------------------------------------

    def _wrong(self, what: str, began: float) -> None:
        self.wrong.append(Wrong(what, began, time.monotonic()))

    @asynccontextmanager
    async def _member(self) -> AsyncIterator[tuple[httpx.AsyncClient, str]]:
        email = f"crowd{next(_numbers)}@example.org"
        account = {"email": email, "name": "Cora Crowd", "password": "correct horse"}
        async with self.client() as client:
            assert await self.ask(client, "POST", "/api/register", 201, json=account)
            self.arrived += 1
            yield client, email

    async def _is(self, client: httpx.AsyncClient, email: str) -> None:
        began = time.monotonic()
        answer = await self.ask(client, "GET", "/api/me", 200)
        if answer is not None and answer.json()["email"] != email:
            self._wrong(f"{email} was taken for {answer.text}", began)

    async def _price(self, client: httpx.AsyncClient) -> None:
        began = time.monotonic()
        answer = await self.ask(client, "GET", f"/api/products/{self.priced}", 200)
        if answer is not None:
            price = answer.json()["price_cents"]
            missed = [each for each in self.written if each.at < began and each.price > price]
            if any(not each.warned for each in missed):
                self._wrong(f"the price was {price}, and {missed[-1].price} was saved", began)
            elif missed:
                self.stale.append(
                    Wrong(f"{began - missed[0].at:.2f} s after a change", began, time.monotonic())
                )

    async def busy(self, at_least: float, *, answers: int = 100, log_outs: int = 0, writes: int = 0) -> None:
        """Wait until so many seconds have gone and all has happened so often, but not for ever."""
        began = time.monotonic()
        before = self.answers, len(self.over), len(self.written)
        while True:
            await asyncio.sleep(_PAUSE)
            took = time.monotonic() - began
            now = self.answers, len(self.over), len(self.written)
            done = [n - m for n, m in zip(now, before, strict=True)]
            if took >= at_least and all(map(int.__ge__, done, (answers, log_outs, writes))):
                return
            assert took < _LONGEST, f"the crowd is too slow: {done} in {took:.0f} s"

    @asynccontextmanager
    async def about(self) -> AsyncIterator[None]:
        """Have them all about for the length of a block."""
        kinds: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self.visitor, 2),
            (self.customer, 2),
            (self.comer_and_goer, 1),
            (self.administrator, 1),
            (lambda: self.leavers(5, self.leave), 1),
            (self.prowler, 1),
        ]
        # A connection for each request: these reach every process.
        self._anybody = self.client(limits=httpx.Limits(max_keepalive_connections=0))
        tasks = [asyncio.ensure_future(each()) for each, count in kinds for _ in range(count)]
        try:
            while self.arrived < 5:
                await asyncio.sleep(_PAUSE)
                assert not any(task.done() for task in tasks), tasks
            # Until here processes have started, and people have had their passwords hashed at once.
            self.slowest = 0.0
            yield
        finally:
            # Nobody is cut off: an order that was placed and not heard of would be missing in `ordered`.
            self.here = False
            self.leave.set()
            await asyncio.gather(*tasks)
            await self._anybody.aclose()
