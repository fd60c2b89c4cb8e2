"""Reading the catalogue: the queries behind lists, product pages and navigation, without any cache.

Each function opens its own session, so it can serve as a loader that outlives the request that started it.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, or_, select

from .db import Database
from .models import Category, Product, Review, User
from .views import CategoryView, ProductDetail, ProductPage, ProductQuery, ProductView, ReviewView, Sort

__all__ = ["categories", "popular", "product", "products"]

_COLUMNS = (
    Product.id,
    Product.name,
    Product.description,
    Product.price_cents,
    Product.stock,
    Product.category_id,
)
_REVIEWS_SHOWN = 8
_POPULAR_SHOWN = 6


async def products(db: Database, query: ProductQuery) -> ProductPage:
    """Return one page of the products that match; a page past the end is empty."""
    where = _matching(query)
    async with db.read() as session:
        total = await session.scalar(select(func.count()).select_from(Product).where(*where)) or 0
        rows = (await session.execute(_page(query, where))).all()
    return ProductPage(
        items=tuple(_view(row) for row in rows),
        total=total,
        page=query.page,
        per_page=query.per_page,
        pages=-(-total // query.per_page),
    )


async def product(db: Database, product_id: int) -> ProductDetail | None:
    """Return a product with its latest reviews, or `None`."""
    async with db.read() as session:
        row = (
            await session.execute(
                select(*_COLUMNS, Product.created_at, Product.updated_at).where(Product.id == product_id)
            )
        ).one_or_none()
        if row is None:
            return None
        ratings = select(Review.rating, func.count()).where(Review.product_id == product_id)
        counts = {each[0]: each[1] for each in await session.execute(ratings.group_by(Review.rating))}
        latest = await session.execute(
            select(Review.id, User.name, Review.rating, Review.title, Review.body, Review.created_at)
            .join(User, User.id == Review.user_id)
            .where(Review.product_id == product_id)
            .order_by(Review.created_at.desc(), Review.id.desc())
            .limit(_REVIEWS_SHOWN)
        )
        reviews = tuple(ReviewView(each[0], _short(each[1]), *each[2:]) for each in latest)
    n = sum(counts.values())
    return ProductDetail(
        *row[:6],
        rating=_mean(sum(rating * count for rating, count in counts.items()) / n if n else None),
        reviews=n,
        ratings=(counts.get(1, 0), counts.get(2, 0), counts.get(3, 0), counts.get(4, 0), counts.get(5, 0)),
        latest_reviews=reviews,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


async def popular(db: Database, category_id: int) -> tuple[ProductView, ...]:
    """Return the products of a category that have the most reviews."""
    n = func.count(Review.id)
    statement = (
        select(*_COLUMNS, func.avg(Review.rating).label("rating"), n.label("reviews"))
        .join(Review, Review.product_id == Product.id)
        .where(Product.category_id == category_id)
        .group_by(Product.id)
        .order_by(n.desc(), Product.id)
        .limit(_POPULAR_SHOWN)
    )
    async with db.read() as session:
        return tuple(_view(row) for row in await session.execute(statement))


async def categories(db: Database) -> tuple[CategoryView, ...]:
    """Return all categories by department, each with the number of its products."""
    counts = select(Product.category_id, func.count().label("n")).group_by(Product.category_id).subquery()
    statement = (
        select(
            Category.id,
            Category.slug,
            Category.name,
            Category.department,
            Category.icon,
            Category.hue,
            func.coalesce(counts.c.n, 0),
        )
        .outerjoin(counts, counts.c.category_id == Category.id)
        .order_by(Category.id)
    )
    async with db.read() as session:
        return tuple(CategoryView(*row) for row in await session.execute(statement))


def _matching(query: ProductQuery) -> list[ColumnElement[bool]]:
    where: list[ColumnElement[bool]] = []
    if query.category_id is not None:
        where.append(Product.category_id == query.category_id)
    if query.min_cents is not None:
        where.append(Product.price_cents >= query.min_cents)
    if query.max_cents is not None:
        where.append(Product.price_cents <= query.max_cents)
    where += [
        or_(
            Product.name.icontains(word, autoescape=True),
            Product.description.icontains(word, autoescape=True),
        )
        for word in query.q.split()
    ]
    return where


def _page(query: ProductQuery, where: list[ColumnElement[bool]]) -> Select[Any]:
    """Choose the page first, then aggregate the reviews of only these products."""
    offset = (query.page - 1) * query.per_page
    if query.sort is Sort.RATING:  # the one order that needs every product's reviews
        stats = (
            select(Review.product_id, func.avg(Review.rating).label("rating"), func.count().label("reviews"))
            .group_by(Review.product_id)
            .subquery()
        )
        rating, reviews = stats.c.rating, func.coalesce(stats.c.reviews, 0)
        return (
            select(*_COLUMNS, rating.label("rating"), reviews.label("reviews"))
            .outerjoin(stats, stats.c.product_id == Product.id)
            .where(*where)
            .order_by(func.coalesce(rating, 0).desc(), reviews.desc(), Product.id.desc())
            .limit(query.per_page)
            .offset(offset)
        )
    page = (
        select(*_COLUMNS, Product.created_at)
        .where(*where)
        .order_by(*_order(query.sort, Product))
        .limit(query.per_page)
        .offset(offset)
        .subquery("page")
    )
    of_product = and_(Review.product_id == page.c.id)
    return select(
        *(page.c[column.key] for column in _COLUMNS),
        select(func.avg(Review.rating)).where(of_product).scalar_subquery().label("rating"),
        select(func.count()).select_from(Review).where(of_product).scalar_subquery().label("reviews"),
    ).order_by(*_order(query.sort, page.c))


def _order(sort: Sort, of: Any) -> tuple[Any, ...]:
    match sort:
        case Sort.NAME:
            return of.name, of.id
        case Sort.PRICE:
            return of.price_cents, of.id
        case Sort.PRICE_DOWN:
            return of.price_cents.desc(), of.id.desc()
        case _:
            return of.created_at.desc(), of.id.desc()


def _view(row: Any) -> ProductView:
    return ProductView(
        row.id,
        row.name,
        row.description,
        row.price_cents,
        row.stock,
        row.category_id,
        rating=_mean(row.rating),
        reviews=row.reviews,
    )


def _mean(value: float | Decimal | None) -> float | None:
    """Two digits, the same on a database that averages to a float and one that averages to a decimal."""
    return None if value is None else round(float(value), 2)


def _short(name: str) -> str:
    """`Ada Lambert` signs her review as `Ada L.`."""
    first, _, last = name.partition(" ")
    return f"{first} {last[0]}." if last else first
