"""The tables. Money is whole cents, times are UTC, and every foreign key that is looked up has its index.

Each model says which cached answers show its rows: by the tags that these answers have in caching.py. What a committed
transaction changes invalidates the tags of the rows as they were and as they are.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Date,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from neverstale.sessions.model import tag_of
from neverstale.web.sqlalchemy import invalidates

from .tags import CATEGORIES, ORDERS, PAST_ORDERS, PRODUCTS, REVIEWS, USERS

__all__ = [
    "AuthSession",
    "Base",
    "Category",
    "Fact",
    "Order",
    "OrderLine",
    "Product",
    "Review",
    "User",
    "UtcDateTime",
    "utc_now",
]


def utc_now() -> datetime:
    """Return the time in UTC, to the second: no page shows more, and answers stay the same on every database."""
    return datetime.now(UTC).replace(microsecond=0)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime, stored as plain UTC: SQLite keeps no zone, and PostgreSQL's would depend on the session."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse a naive time rather than guess its zone."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a naive datetime: {value!r}")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Give the zone back."""
        return None if value is None else value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    """Base of the shop's tables."""

    type_annotation_map = {datetime: UtcDateTime, date: Date}  # noqa: RUF012 (SQLAlchemy's way)


class Fact(Base):
    """What the database says about itself: which seed filled it, and its own id."""

    __tablename__ = "facts"

    name: Mapped[str] = mapped_column(String(50), primary_key=True)
    value: Mapped[str] = mapped_column(Text)


@invalidates(PRODUCTS, columns=["slug"])  # JSON lists may be asked for by the slug
@invalidates(ORDERS, PAST_ORDERS, columns=["slug", "name"])  # reports by category, and the dashboard
@invalidates(CATEGORIES)
class Category(Base):
    """One of the sixty kinds of goods."""

    __tablename__ = "categories"

    id: Mapped[int] = mapped_column(primary_key=True)
    slug: Mapped[str] = mapped_column(String(80), unique=True)
    name: Mapped[str] = mapped_column(String(80), unique=True)
    department: Mapped[str] = mapped_column(String(80))
    icon: Mapped[str] = mapped_column(String(20))
    hue: Mapped[int] = mapped_column(Integer)


# That it comes or goes: its JSON by key as well, a kept "there is none" included.
@invalidates(keys=["api:GET:/api/products/{id}"], columns=["id"])
@invalidates(CATEGORIES, columns=["category_id"])  # the counts
# Its page and JSON; the lists over all categories and the dashboard; those of its category, and what is popular there.
@invalidates("product:{id}", PRODUCTS, "category:{category_id}")
class Product(Base):
    """A thing for sale. Deleting one keeps the order lines that sold it."""

    __tablename__ = "products"
    __table_args__ = (
        # The storefront's filters and orders; `id` makes every order total, so no page repeats a product.
        Index("products_by_category_newest", "category_id", "created_at", "id"),
        Index("products_by_category_price", "category_id", "price_cents", "id"),
        Index("products_by_newest", "created_at", "id"),
        Index("products_by_price", "price_cents", "id"),
        Index("products_by_name", "name", "id"),
        CheckConstraint("stock >= 0", name="stock_not_negative"),
        CheckConstraint("price_cents >= 0", name="price_not_negative"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    description: Mapped[str] = mapped_column(Text)
    price_cents: Mapped[int] = mapped_column(Integer)
    stock: Mapped[int] = mapped_column(Integer)
    category_id: Mapped[int] = mapped_column(ForeignKey("categories.id"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now, onupdate=utc_now)


def _copies_of_sessions(user: Any) -> str:
    return tag_of("session:", str(user.id))


@invalidates("product:{reviews.product_id}", columns=["name"])  # signed reviews
@invalidates(_copies_of_sessions, columns=["email", "name", "is_admin"])  # a cached log-in holds the account
@invalidates(USERS, columns=["is_admin", "created_at"])  # the dashboard counts customers, and new ones
class User(Base):
    """A customer, or the administrator.

    Nothing deletes one. Whoever adds that deletes the reviews first, which changes ratings: what the database deletes
    along (ON DELETE CASCADE) no session sees.
    """

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(String(254), unique=True)
    name: Mapped[str] = mapped_column(String(100))
    password_hash: Mapped[str] = mapped_column(String(200))
    is_admin: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = mapped_column(default=utc_now, index=True)

    # The way from a name to the products that show it; never loaded.
    reviews: Mapped[list[Review]] = relationship(viewonly=True, lazy="raise")


class AuthSession(Base):
    """A log-in. Only the SHA-256 of its id is stored: a stolen database opens no session.

    It says nothing here: who ends one goes through sessions.py, which knows its copies, or all of a user's.
    """

    __tablename__ = "sessions"

    id_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    seen_at: Mapped[datetime] = mapped_column(default=utc_now)
    expires_at: Mapped[datetime] = mapped_column(index=True)
    device: Mapped[str] = mapped_column(String(200), default="")


def _days_that_are_over(order: Any) -> tuple[str, ...]:
    """Name the reports of past days for an order of one: an order of today is in none of these.

    A day's reports are taken for closed an hour after midnight (reports.py), which no transaction lasts.
    """
    return (PAST_ORDERS,) if order.created_at.date() < utc_now().date() else ()


@invalidates(ORDERS, _days_that_are_over)  # placed, cancelled, corrected: the dashboard and the sales reports
class Order(Base):
    """What a customer bought at one time."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    status: Mapped[str] = mapped_column(String(20))
    total_cents: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(default=utc_now, index=True)


@invalidates(ORDERS)  # with their order, which says whether its day is over: a correction changes its total
class OrderLine(Base):
    """One product of an order, with the name, category and price of that day: history outlives the product."""

    __tablename__ = "order_lines"

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id", ondelete="CASCADE"), index=True)
    product_id: Mapped[int | None] = mapped_column(ForeignKey("products.id", ondelete="SET NULL"), index=True)
    product_name: Mapped[str] = mapped_column(String(200))
    category_id: Mapped[int] = mapped_column(ForeignKey("categories.id"))
    quantity: Mapped[int] = mapped_column(Integer)
    unit_price_cents: Mapped[int] = mapped_column(Integer)


# The product's page and JSON; every list that may show or sort by its rating, and what is popular; the dashboard.
@invalidates("product:{product_id}", PRODUCTS, "category:{product.category_id}", REVIEWS)
class Review(Base):
    """What one customer says about one product, once."""

    __tablename__ = "reviews"
    __table_args__ = (
        UniqueConstraint("product_id", "user_id", name="one_review_each"),
        Index("reviews_for_average", "product_id", "rating"),
        Index("reviews_by_newest", "product_id", "created_at", "id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    product_id: Mapped[int] = mapped_column(ForeignKey("products.id", ondelete="CASCADE"))
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    rating: Mapped[int] = mapped_column(Integer)
    title: Mapped[str] = mapped_column(String(120))
    body: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)

    # The way to the product's category; never loaded.
    product: Mapped[Product] = relationship(viewonly=True, lazy="raise")
