"""Filling the database: a shop with two years behind it, the same for the same seed.

Everything is drawn from one `random.Random(seed)`, and every date counts back from a fixed day, so two seedings give
the same rows. All of it is one transaction with the fact `seed` as its last row: an interrupted seeding leaves
nothing, and what has no such fact was not seeded.
"""

from __future__ import annotations

import random
import secrets
from bisect import bisect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import accumulate, islice
from typing import Any

from sqlalchemy import Table, delete, func, insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from .accounts import ADMIN_EMAIL
from .db import Database, create_tables
from .models import Base, Category, Fact, Order, OrderLine, Product, Review, User
from .names import CategoryWords, load_words
from .passwords import NO_PASSWORD, hash_now

__all__ = ["FULL", "SMALL", "Size", "seed", "seeded_as"]

Row = dict[str, Any]
Progress = Callable[[str, int, int], None]  # what, done, of how many

UNTIL = date(2026, 10, 31)  # "today" of the seeded shop; fixed, or no two seedings would agree
_DAYS = 730
_BATCH = 5_000
_ADMIN_ID = 1


@dataclass(frozen=True)
class Size:
    """How much to make. Lines per order come to 2.5."""

    name: str
    products: int
    customers: int
    orders: int
    reviews: int

    @property
    def lines(self) -> int:
        """How many order lines there will be."""
        return self.orders * 5 // 2


FULL = Size("full", products=20_160, customers=5_000, orders=60_000, reviews=36_000)
SMALL = Size("small", products=600, customers=150, orders=1_800, reviews=1_100)


async def seeded_as(db: Database) -> str | None:
    """Return what the database was filled with (`full, seed 1`), or `None` if it was not."""
    return await db.fact("seed")


async def seed(
    db: Database, size: Size, *, seed: int, admin_password: str, progress: Progress = lambda *_: None
) -> None:
    """Fill the database, replacing what is in it."""
    db.make_place()
    stock = Warehouse(size, random.Random(seed))
    async with db.engine.execution_options(shop_writes=True).begin() as connection:
        await connection.run_sync(create_tables)
        await _empty(connection)
        for table, total, rows in stock.tables(hash_now(admin_password)):
            done = 0
            progress(table.name, 0, total)
            # A look at the clock between batches is what keeps the progress bar moving.
            while batch := list(islice(rows, _BATCH)):
                await connection.execute(insert(table), batch)
                done += len(batch)
                progress(table.name, done, total)
        if not db.is_sqlite:
            await _set_sequences(connection)
        await _set_facts(connection, f"{size.name}, seed {seed}")
    progress("statistics", 0, 1)
    async with db.engine.connect() as connection:
        # The planner knows nothing of fresh tables.
        free = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await free.execute(text("ANALYZE"))
    progress("statistics", 1, 1)


class Warehouse:
    """Draws the rows, table by table, each depending only on what was drawn before."""

    def __init__(self, size: Size, rng: random.Random) -> None:
        self._size = size
        self._rng = rng
        self._words = load_words()
        self._products: list[tuple[str, int, int, float]] = []  # name, price, category, quality
        self._since: list[int] = []  # for each product the second it went on sale
        self._popularity: list[float] = []
        self._buyers: list[float] = []
        self._end = int(datetime.combine(UNTIL, time(23, 59, 59), UTC).timestamp())
        self._begin = self._end - _DAYS * 86_400

    def tables(self, admin_hash: str) -> Iterator[tuple[Table, int, Iterator[Row]]]:
        """Return each table with its number of rows and the rows, in the order in which they can be stored."""
        size, words = self._size, self._words.categories
        yield _table(Category), len(words), self._categories()
        yield _table(Product), size.products, self._goods()
        yield _table(User), size.customers + 1, self._users(admin_hash)
        # Orders need the sums of their lines, so they are drawn together and stored one after the other.
        orders, lines = self._orders()
        yield _table(Order), len(orders), iter(orders)
        yield _table(OrderLine), len(lines), iter(lines)
        yield _table(Review), size.reviews, self._reviews()

    def _categories(self) -> Iterator[Row]:
        for number, each in enumerate(self._words.categories, 1):
            yield {
                "id": number,
                "slug": each.slug,
                "name": each.name,
                "department": each.department,
                "icon": each.icon,
                "hue": each.hue,
            }

    def _goods(self) -> Iterator[Row]:
        rng, categories = self._rng, self._words.categories
        names: set[str] = set()
        # As they came on sale: four in ten were there from the beginning, the rest arrived over the two years.
        arrivals = sorted(
            self._begin if rng.random() < 0.4 else rng.randint(self._begin, self._end - 86_400)
            for _ in range(self._size.products)
        )
        # No two categories are equally large, and none is empty; shuffled, so that a page of the newest is mixed.
        spare = self._size.products - 4 * len(categories)
        weights = [rng.uniform(0.3, 1.7) for _ in categories]
        shelf = [n % len(categories) for n in range(4 * len(categories))]
        shelf += rng.choices(range(len(categories)), weights, k=spare)
        rng.shuffle(shelf)
        for number, (place, since) in enumerate(zip(shelf, arrivals, strict=True), 1):
            words: CategoryWords = categories[place]
            goods = words.goods(rng)
            while goods.name in names:
                goods = words.goods(rng)
            names.add(goods.name)
            self._products.append((goods.name, goods.price_cents, place + 1, goods.quality))
            self._since.append(since)
            # A few sell a lot and most sell little; cheap things sell more.
            self._popularity.append(rng.paretovariate(1.3) / (1 + goods.price_cents / 20_000))
            stock = 0 if rng.random() < 0.03 else int(rng.expovariate(1 / 60)) + rng.randint(1, 12)
            yield {
                "id": number,
                "name": goods.name,
                "description": goods.description,
                "price_cents": goods.price_cents,
                "stock": stock,
                "category_id": place + 1,
                "created_at": _moment(since),
                "updated_at": _moment(since),
            }

    def _users(self, admin_hash: str) -> Iterator[Row]:
        rng, words = self._rng, self._words
        yield {
            "id": _ADMIN_ID,
            "email": ADMIN_EMAIL,
            "name": "Administrator",
            "password_hash": admin_hash,
            "is_admin": True,
            "created_at": _moment(self._begin),
        }
        seen: set[str] = set()
        for number in range(2, self._size.customers + 2):
            first, last = rng.choice(words.first_names), rng.choice(words.last_names)
            address = f"{first}.{last}".lower()
            while address in seen:
                address = f"{first}.{last}{rng.randint(2, 9999)}".lower()
            seen.add(address)
            self._buyers.append(rng.paretovariate(1.5))
            yield {
                "id": number,
                "email": f"{address}@example.com",
                "name": f"{first} {last}",
                "password_hash": NO_PASSWORD,  # they are there to have ordered, not to log in
                "is_admin": False,
                "created_at": _moment(rng.randint(self._begin, self._end)),
            }

    def _orders(self) -> tuple[list[Row], list[Row]]:
        rng, size = self._rng, self._size
        moments = sorted(self._order_moments())
        counts = _line_counts(rng, size)
        goods = list(accumulate(self._popularity))
        buyers = list(accumulate(self._buyers))
        orders: list[Row] = []
        lines: list[Row] = []
        for number, (moment, count) in enumerate(zip(moments, counts, strict=True), 1):
            basket: dict[int, int] = {}
            while len(basket) < count:
                place = bisect(goods, rng.random() * goods[-1])
                if self._since[place] <= moment:  # not before it was on sale
                    basket[place] = 1 if rng.random() < 0.8 else rng.randint(2, 4)
            total = 0
            for place, quantity in basket.items():
                name, price, category_id, _ = self._products[place]
                total += price * quantity
                lines.append(
                    {
                        "id": len(lines) + 1,
                        "order_id": number,
                        "product_id": place + 1,
                        "product_name": name,
                        "category_id": category_id,
                        "quantity": quantity,
                        "unit_price_cents": price,
                    }
                )
            orders.append(
                {
                    "id": number,
                    "user_id": 2 + bisect(buyers, rng.random() * buyers[-1]),
                    "status": self._status(moment),
                    "total_cents": total,
                    "created_at": _moment(moment),
                }
            )
        return orders, lines

    def _order_moments(self) -> Iterator[int]:
        """Draw when people ordered: more each month, more on Sundays and before Christmas, in the evening."""
        rng = self._rng
        first = UNTIL - timedelta(days=_DAYS - 1)
        weights = []
        for n in range(_DAYS):
            day = first + timedelta(days=n)
            weight = 1 + 1.2 * n / _DAYS
            weight *= (1.0, 0.95, 0.95, 1.0, 0.9, 1.15, 1.35)[day.weekday()]
            weights.append(weight * (1.9 if (11, 20) <= (day.month, day.day) <= (12, 20) else 1.0))
        start = self._end + 1 - _DAYS * 86_400
        for day_number in rng.choices(range(_DAYS), weights, k=self._size.orders):
            yield start + day_number * 86_400 + int(rng.triangular(0, 86_399, 70_000))

    def _status(self, moment: int) -> str:
        days = (self._end - moment) / 86_400
        chance = self._rng.random()
        if chance < 0.02:
            return "cancelled"
        if days < 2 and chance < 0.7:
            return "paid"
        if days < 4 and chance < 0.6:
            return "packed"
        return "shipped" if days < 9 else "delivered"

    def _reviews(self) -> Iterator[Row]:
        rng, size = self._rng, self._size
        goods = list(accumulate(self._popularity))
        seen: set[tuple[int, int]] = set()
        number = 0
        while number < size.reviews:
            # Half of the reviews are of what sells most, the other half of anything.
            often = rng.random() < 0.5
            place = bisect(goods, rng.random() * goods[-1]) if often else rng.randrange(size.products)
            user_id = rng.randint(2, size.customers + 1)
            if (place, user_id) in seen:
                continue
            seen.add((place, user_id))
            number += 1
            rating, title, body = self._words.review(rng, self._products[place][3])
            yield {
                "id": number,
                "product_id": place + 1,
                "user_id": user_id,
                "rating": rating,
                "title": title,
                "body": body,
                "created_at": _moment(rng.randint(self._since[place], self._end)),
            }


def _line_counts(rng: random.Random, size: Size) -> list[int]:
    """Draw how many lines each order has, one to six, so that they come to exactly `size.lines`."""
    counts = rng.choices((1, 2, 3, 4, 5, 6), (28, 29, 21, 12, 6, 4), k=size.orders)
    missing = size.lines - sum(counts)
    while missing:
        place = rng.randrange(size.orders)
        step = 1 if missing > 0 else -1
        if 1 <= counts[place] + step <= 6:
            counts[place] += step
            missing -= step
    return counts


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _table(model: type[Base]) -> Table:
    table = model.__table__
    assert isinstance(table, Table)
    return table


async def _empty(connection: AsyncConnection) -> None:
    """Take out what is there, but for the database's own id: caches know it by that."""
    for table in reversed(Base.metadata.sorted_tables):
        statement = delete(table)
        await connection.execute(statement.where(Fact.name != "id") if table is _table(Fact) else statement)


async def _set_facts(connection: AsyncConnection, seeded: str) -> None:
    if await connection.scalar(select(Fact.value).where(Fact.name == "id")) is None:
        await connection.execute(insert(Fact), {"name": "id", "value": secrets.token_hex(4)})
    await connection.execute(insert(Fact), {"name": "seed", "value": seeded})


async def _set_sequences(connection: AsyncConnection) -> None:
    """Rows with ids of their own leave PostgreSQL's sequences behind: the next id must be a free one."""
    for table in Base.metadata.sorted_tables:
        if "id" in table.c and table.c.id.autoincrement:
            await connection.execute(
                select(
                    func.setval(
                        func.pg_get_serial_sequence(table.name, "id"),
                        select(func.coalesce(func.max(table.c.id), 0) + 1).scalar_subquery(),
                        False,
                    )
                )
            )
