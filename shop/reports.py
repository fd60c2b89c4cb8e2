"""What the administrator wants to know: the dashboard's figures and sales reports, summed by the database.

Days are UTC. Weeks and months are put together here from the days: two years have 731 of them, and that is the same on
every database, where their own words for a week are not. A cancelled order counts nowhere.

Everything here is read through the cache: `caching.RUNNING` and `caching.CLOSED` say how old it may be. What was asked
for is the key, so that a range that ends with the newest order needs no look at the database to be found.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Date, case, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from . import caching
from .db import Database
from .errors import Invalid
from .models import Category, Order, OrderLine, Product, Review, User, utc_now
from .state import Shop
from .views import SalesReport, SalesRow, Stats

__all__ = ["By", "sales", "stats"]

_LOW_STOCK = 5
_TOP = 10
_PRODUCTS_SHOWN = 100
_OPEN = ("paid", "packed")
# An order belongs to the second in which it began to be placed, and is there when that is committed: no transaction
# takes an hour.
_SETTLED = timedelta(hours=1)


class By(enum.StrEnum):
    """How a sales report is grouped."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    CATEGORY = "category"
    PRODUCT = "product"


async def sales(shop: Shop, start: date | None, end: date | None, by: By) -> SalesReport:
    """Return the sales between two days, both included; by default the 30 days up to the newest order.

    By product, the hundred that sold for most. Raises `Invalid` when `start` is after `end`.
    """
    if start is not None and end is not None:
        _check(start, end)
    closed = end is not None and end < (utc_now() - _SETTLED).date()
    orders = caching.PAST_ORDERS if closed else caching.ORDERS
    tags = (orders, caching.DELETIONS) if by is By.PRODUCT else (orders,)

    async def load() -> SalesReport:
        return await _sales(shop.db, start, end, by)

    return await shop.catalog.computed(
        f"sales:{start or ''}:{end or ''}:{by.value}",
        load,
        tags,
        SalesReport,
        caching.CLOSED if closed else caching.RUNNING,
    )


async def stats(shop: Shop) -> Stats:
    """Return the figures of the dashboard."""

    async def load() -> Stats:
        return await _stats(shop.db)

    tags = (caching.ORDERS, caching.PRODUCTS, caching.REVIEWS, caching.USERS)
    return await shop.catalog.computed("stats", load, tags, Stats, caching.RUNNING)


async def _sales(db: Database, start: date | None, end: date | None, by: By) -> SalesReport:
    async with db.read() as session:
        if end is None:
            end = await _newest_day(session)
        if start is None:
            start = max(end, date(1, 2, 1)) - timedelta(days=29)
        _check(start, end)
        during = _during(start, end)
        total = (await session.execute(_sums().where(*during))).one()
        match by:
            case By.CATEGORY:
                rows = await _by_category(session, during)
            case By.PRODUCT:
                rows = await _by_product(session, during, _PRODUCTS_SHOWN)
            case _:
                rows = _roll_up(await _by_day(session, during), by)
    return SalesReport(start, end, by.value, *_numbers(total), rows)


async def _stats(db: Database) -> Stats:
    async with db.read() as session:
        today = await _newest_day(session)
        month = _during(today - timedelta(days=29), today)
        since = datetime.combine(today - timedelta(days=29), time(), UTC)
        stock = (
            await session.execute(
                select(
                    func.count(),
                    func.coalesce(func.sum(case((Product.stock == 0, 1), else_=0)), 0),
                    func.coalesce(func.sum(case((Product.stock.between(1, _LOW_STOCK), 1), else_=0)), 0),
                ).select_from(Product)
            )
        ).one()
        customers = (
            await session.execute(
                select(
                    func.count(), func.coalesce(func.sum(case((User.created_at >= since, 1), else_=0)), 0)
                ).where(User.is_admin.is_(False))
            )
        ).one()
        counted = Order.status != "cancelled"
        all_orders = (
            await session.execute(
                select(
                    func.count(),
                    func.coalesce(func.sum(Order.total_cents), 0),
                    func.coalesce(func.sum(case((Order.status.in_(_OPEN), 1), else_=0)), 0),
                ).where(counted)
            )
        ).one()
        recent = (
            await session.execute(
                select(func.count(), func.coalesce(func.sum(Order.total_cents), 0)).where(*month)
            )
        ).one()
        reviews = (await session.execute(select(func.count(), func.avg(Review.rating)))).one()
        days = {row.key: row for row in await _by_day(session, month)}
        top_products = await _by_product(session, month, _TOP)
        top_categories = (await _by_category(session, month))[:_TOP]
    return Stats(
        as_of=today,
        products=stock[0],
        out_of_stock=int(stock[1]),
        low_stock=int(stock[2]),
        customers=customers[0],
        new_customers_30d=int(customers[1]),
        orders=all_orders[0],
        orders_30d=recent[0],
        revenue_cents=int(all_orders[1]),
        revenue_30d_cents=int(recent[1]),
        average_order_cents=int(recent[1]) // recent[0] if recent[0] else 0,
        open_orders=int(all_orders[2]),
        reviews=reviews[0],
        average_rating=None if reviews[1] is None else round(float(reviews[1]), 2),
        revenue_by_day=tuple(
            days.get(str(day), SalesRow(str(day), str(day), 0, 0, 0))
            for day in (today - timedelta(days=back) for back in range(29, -1, -1))
        ),
        top_products=top_products,
        top_categories=top_categories,
    )


def _check(start: date, end: date) -> None:
    if start > end:
        raise Invalid(f"from ({start}) is after to ({end})")


async def _newest_day(session: AsyncSession) -> date:
    newest = await session.scalar(select(func.max(Order.created_at)))
    return (newest or utc_now()).date()


def _during(start: date, end: date) -> tuple[ColumnElement[bool], ...]:
    return (
        Order.created_at >= datetime.combine(start, time(), UTC),
        # The day's last second (times have no fractions), not the next day's first: there is none after 9999-12-31.
        Order.created_at <= datetime.combine(end, time(23, 59, 59), UTC),
        Order.status != "cancelled",
    )


def _sums(*keys: Any) -> Any:
    return select(
        *keys,
        func.count(Order.id.distinct()).label("orders"),
        func.coalesce(func.sum(OrderLine.quantity), 0).label("units"),
        func.coalesce(func.sum(OrderLine.quantity * OrderLine.unit_price_cents), 0).label("revenue"),
    ).join_from(Order, OrderLine, OrderLine.order_id == Order.id)


def _numbers(row: Any) -> tuple[int, int, int]:
    return row.orders, int(row.units), int(row.revenue)


async def _by_day(session: AsyncSession, during: Iterable[ColumnElement[bool]]) -> tuple[SalesRow, ...]:
    day = func.date(Order.created_at, type_=Date).label("day")
    rows = await session.execute(_sums(day).where(*during).group_by(day).order_by(day))
    return tuple(SalesRow(str(row.day), str(row.day), *_numbers(row)) for row in rows)


async def _by_category(session: AsyncSession, during: Iterable[ColumnElement[bool]]) -> tuple[SalesRow, ...]:
    rows = await session.execute(
        _sums(Category.slug, Category.name)
        .join(Category, Category.id == OrderLine.category_id)
        .where(*during)
        .group_by(Category.id)
        .order_by(func.sum(OrderLine.quantity * OrderLine.unit_price_cents).desc(), Category.id)
    )
    return tuple(SalesRow(row.slug, row.name, *_numbers(row)) for row in rows)


async def _by_product(
    session: AsyncSession, during: Iterable[ColumnElement[bool]], limit: int
) -> tuple[SalesRow, ...]:
    revenue = func.sum(OrderLine.quantity * OrderLine.unit_price_cents)
    # A product may have been renamed between two orders.
    name = func.max(OrderLine.product_name).label("name")
    rows = await session.execute(
        _sums(OrderLine.product_id, name)
        .where(*during, OrderLine.product_id.is_not(None))
        .group_by(OrderLine.product_id)
        .order_by(revenue.desc(), OrderLine.product_id)
        .limit(limit)
    )
    return tuple(SalesRow(str(row.product_id), row.name, *_numbers(row)) for row in rows)


def _roll_up(days: Iterable[SalesRow], by: By) -> tuple[SalesRow, ...]:
    """Add up days to weeks (ISO: from Monday) or months. An order is of one day, so counts can be added."""
    if by is By.DAY:
        return tuple(days)
    sums: dict[date, tuple[int, int, int]] = {}
    for row in days:
        day = date.fromisoformat(row.key)
        first = day.replace(day=1) if by is By.MONTH else day - timedelta(days=day.weekday())
        orders, units, revenue = sums.get(first, (0, 0, 0))
        sums[first] = (orders + row.orders, units + row.units, revenue + row.revenue_cents)
    return tuple(SalesRow(str(first), _label(first, by), *total) for first, total in sums.items())


def _label(first: date, by: By) -> str:
    if by is By.MONTH:
        return f"{first:%B %Y}"
    week = first.isocalendar()
    return f"{week.year}-W{week.week:02}"
