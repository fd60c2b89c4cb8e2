"""What the shop shows: immutable values, the same for JSON, pages and cache.

Their field names are the JSON interface. A change of shape is a change of what is cached, so raise
`caching.VERSION` with it.
"""

from __future__ import annotations

import enum
from datetime import date, datetime
from urllib.parse import urlencode

import msgspec

__all__ = [
    "Account",
    "CategoryView",
    "OrderLineView",
    "OrderView",
    "ProductDetail",
    "ProductPage",
    "ProductQuery",
    "ProductView",
    "ReviewView",
    "SalesReport",
    "SalesRow",
    "SessionView",
    "Sort",
    "Stats",
]


class Sort(enum.StrEnum):
    """The orders of a product list; a minus turns one round."""

    NEWEST = "newest"
    NAME = "name"
    PRICE = "price"
    PRICE_DOWN = "-price"
    RATING = "rating"


class ProductQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A request for one page of products, checked and in its one normal form.

    Arguments:
        q: words that must all be in the name or the description; lower case, single spaces.
        min_cents, max_cents: bounds of the price, inclusive.
    """

    q: str = ""
    category_id: int | None = None
    min_cents: int | None = None
    max_cents: int | None = None
    sort: Sort = Sort.NEWEST
    page: int = 1
    per_page: int = 24

    @staticmethod
    def normal_words(q: str) -> str:
        """Return search words in the form under which equal searches are equal."""
        return " ".join(q.lower().split())

    def key(self) -> str:
        """Return a text that two queries share only if they ask for the same."""
        return urlencode(
            [
                (name, value.value if isinstance(value, Sort) else value)
                for name, value in msgspec.structs.asdict(self).items()
                if value is not None and value != ""
            ]
        )


class CategoryView(msgspec.Struct, frozen=True):
    """A category, with how many products it holds."""

    id: int
    slug: str
    name: str
    department: str
    icon: str
    hue: int
    products: int


class ProductView(msgspec.Struct, frozen=True):
    """A product as lists show it; `rating` is the mean of its reviews, null without any."""

    id: int
    name: str
    description: str
    price_cents: int
    stock: int
    category_id: int
    rating: float | None
    reviews: int


class ProductPage(msgspec.Struct, frozen=True):
    """One page of a list, with how much there is in all."""

    items: tuple[ProductView, ...]
    total: int
    page: int
    per_page: int
    pages: int


class ReviewView(msgspec.Struct, frozen=True):
    """A review as the product's page shows it."""

    id: int
    author: str
    rating: int
    title: str
    body: str
    created_at: datetime


class ProductDetail(msgspec.Struct, frozen=True):
    """Everything about one product; `ratings` counts its reviews from one star to five."""

    id: int
    name: str
    description: str
    price_cents: int
    stock: int
    category_id: int
    rating: float | None
    reviews: int
    ratings: tuple[int, int, int, int, int]
    latest_reviews: tuple[ReviewView, ...]
    created_at: datetime
    updated_at: datetime


class Account(msgspec.Struct, frozen=True):
    """Who is logged in."""

    id: int
    email: str
    name: str
    is_admin: bool


class SessionView(msgspec.Struct, frozen=True):
    """A log-in as its owner sees it: `device` is what the browser calls itself, `current` the one who asks."""

    id: str
    device: str
    created_at: datetime
    seen_at: datetime
    current: bool


class OrderLineView(msgspec.Struct, frozen=True):
    """One line of an order; `product_id` is null once the product is gone."""

    product_id: int | None
    name: str
    quantity: int
    unit_price_cents: int


class OrderView(msgspec.Struct, frozen=True):
    """An order."""

    id: int
    status: str
    total_cents: int
    created_at: datetime
    lines: tuple[OrderLineView, ...]


class SalesRow(msgspec.Struct, frozen=True):
    """One group of a sales report: a day, a week (its Monday), a month (its first), a category or a product."""

    key: str
    label: str
    orders: int
    units: int
    revenue_cents: int


class SalesReport(msgspec.Struct, frozen=True, rename={"start": "from", "end": "to"}):
    """Sales between two days, both included."""

    start: date
    end: date
    by: str
    orders: int
    units: int
    revenue_cents: int
    rows: tuple[SalesRow, ...]


class Stats(msgspec.Struct, frozen=True):
    """The figures of the dashboard. `as_of` is the day of the newest order, and the end of the 30 days."""

    as_of: date
    products: int
    out_of_stock: int
    low_stock: int
    customers: int
    new_customers_30d: int
    orders: int
    orders_30d: int
    revenue_cents: int
    revenue_30d_cents: int
    average_order_cents: int
    open_orders: int
    reviews: int
    average_rating: float | None
    revenue_by_day: tuple[SalesRow, ...]
    top_products: tuple[SalesRow, ...]
    top_categories: tuple[SalesRow, ...]
