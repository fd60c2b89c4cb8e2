"""Writing the catalogue: products and their reviews.

What a write makes stale is said once, on the models (models.py), and invalidated after the commit, before the block of
`shop.db.write()` is left. Each function says here what that comes to.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from .errors import Conflict, Invalid, NotFound
from .models import Category, Product, Review
from .state import Shop
from .tags import DELETIONS

__all__ = ["ProductData", "add_review", "create", "delete", "update"]


@dataclass(frozen=True)
class ProductData:
    """What an administrator says about a product."""

    name: str
    description: str
    price_cents: int
    stock: int
    category_id: int
    stock_was: int | None = (
        None  # what the form showed: a stock that was not changed there is left as it is now
    )


async def create(shop: Shop, data: ProductData) -> int:
    """Add a product and return its id. Raises `Invalid` when there is no such category."""
    # Invalidates, by `Product`: all lists and the category's own; the product's page and JSON, which may be cached as
    # "there is none"; the categories, whose counts changed; the dashboard, as everything here does by the tag of all
    # lists.
    async with shop.db.write() as session:
        if await session.get(Category, data.category_id) is None:
            raise Invalid(f"there is no category {data.category_id}")
        product = Product(
            name=data.name,
            description=data.description,
            price_cents=data.price_cents,
            stock=data.stock,
            category_id=data.category_id,
        )
        session.add(product)
        await session.flush()
        return product.id


async def update(shop: Shop, product_id: int, data: ProductData) -> None:
    """Change a product. Raises `NotFound`, or `Invalid` when there is no such category."""
    # Invalidates, by `Product`: the product's page and JSON, all lists, those of its category; of both categories when
    # it moved, and then the counts. Nothing when nothing was changed.
    async with shop.db.write() as session:
        product = await session.get(Product, product_id, with_for_update=True)
        if product is None:
            raise NotFound(f"there is no product {product_id}")
        if await session.get(Category, data.category_id) is None:
            raise Invalid(f"there is no category {data.category_id}")
        product.name = data.name
        product.description = data.description
        product.price_cents = data.price_cents
        if data.stock != data.stock_was:
            product.stock = data.stock  # else customers may have bought some since the form was opened
        product.category_id = data.category_id


async def delete(shop: Shop, product_id: int) -> None:
    """Remove a product with its reviews; what was sold stays in the books. Raises `NotFound`."""
    # Invalidates, by `Product`: the product's page and JSON, all lists, those of its category, the categories' counts,
    # the dashboard. Its reviews go with it (ON DELETE CASCADE), and are shown nowhere else.
    async with shop.db.write() as session:
        product = await session.get(Product, product_id, with_for_update=True)
        if product is None:
            raise NotFound(f"there is no product {product_id}")
        await session.delete(product)
        # Reports by product: it leaves them, for the database itself empties `order_lines.product_id` (ON DELETE SET
        # NULL), which no session sees.
        shop.catalog.touch(session, DELETIONS)


async def add_review(shop: Shop, product_id: int, user_id: int, rating: int, title: str, body: str) -> int:
    """Add a customer's review and return its id. Raises `NotFound`, or `Conflict` at the second one."""
    # Invalidates, by `Review`: the product's page and JSON; every list that may show or sort by its rating; what is
    # popular in its category; the number of reviews and their average on the dashboard.
    try:
        async with shop.db.write() as session:
            if await session.scalar(select(Product.id).where(Product.id == product_id)) is None:
                raise NotFound(f"there is no product {product_id}")
            review = Review(product_id=product_id, user_id=user_id, rating=rating, title=title, body=body)
            session.add(review)
            await session.flush()
            return review.id
    except IntegrityError:
        # Two causes, told apart by looking again: the customer's second review, or a product that has just gone.
        async with shop.db.read() as session:
            if await session.get(Product, product_id) is None:
                raise NotFound(f"there is no product {product_id}") from None
        raise Conflict("you have reviewed this product already") from None
