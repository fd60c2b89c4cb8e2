"""Orders: stock is checked and taken in one transaction, so nothing is sold twice.

The check *is* the taking: `UPDATE ... SET stock = stock - n WHERE stock >= n` either changes the row or does not, and
the row stays locked until the commit. Products are taken in the order of their ids, so that two orders for the same
things never wait for each other in a ring.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from sqlalchemy import select, update

from .db import Database
from .errors import Conflict, NotFound
from .models import Order, OrderLine, Product, utc_now
from .state import Shop
from .views import OrderLineView, OrderView

__all__ = ["find", "place"]


async def place(shop: Shop, user_id: int, wanted: Iterable[tuple[int, int]]) -> OrderView:
    """Order products, given as pairs of id and quantity; the same product twice is added up.

    Raises `NotFound` for a product that does not exist and `Conflict` when there is not enough of one. Then nothing
    is taken of any.
    """
    # Invalidates, by `Product`: for each product its page and JSON, the lists of its category, and all lists: they show
    # the stock. By `Order`: the dashboard, and all reports that reach the running day.
    quantities: Counter[int] = Counter()
    for product_id, quantity in wanted:
        quantities[product_id] += quantity
    async with shop.db.write() as session:
        lines = []
        for product_id, quantity in sorted(quantities.items()):
            row = (
                await session.execute(
                    update(Product)
                    .where(Product.id == product_id, Product.stock >= quantity)
                    .values(stock=Product.stock - quantity, updated_at=Product.updated_at)
                    .returning(Product.name, Product.price_cents, Product.category_id)
                    .execution_options(synchronize_session=False)
                )
            ).one_or_none()
            if row is None:
                left = (
                    await session.execute(select(Product.name, Product.stock).where(Product.id == product_id))
                ).one_or_none()
                if left is None:
                    raise NotFound(f"there is no product {product_id}")
                raise Conflict(
                    f"only {left.stock} left of {left.name}" if left.stock else f"{left.name} is sold out"
                )
            lines.append(
                OrderLine(
                    product_id=product_id,
                    product_name=row.name,
                    category_id=row.category_id,
                    quantity=quantity,
                    unit_price_cents=row.price_cents,
                )
            )
        order = Order(
            user_id=user_id,
            status="paid",
            total_cents=sum(line.quantity * line.unit_price_cents for line in lines),
            created_at=utc_now(),
        )
        session.add(order)
        await session.flush()
        for line in lines:
            line.order_id = order.id
        session.add_all(lines)
    return _view(order, lines)


async def find(db: Database, order_id: int, user_id: int) -> OrderView:
    """Return a customer's own order. Raises `NotFound`, also for somebody else's: ids are not to be probed."""
    async with db.read() as session:
        order = await session.get(Order, order_id)
        if order is None or order.user_id != user_id:
            raise NotFound(f"there is no order {order_id}")
        lines = await session.scalars(
            select(OrderLine).where(OrderLine.order_id == order_id).order_by(OrderLine.id)
        )
        return _view(order, lines)


def _view(order: Order, lines: Iterable[OrderLine]) -> OrderView:
    return OrderView(
        id=order.id,
        status=order.status,
        total_cents=order.total_cents,
        created_at=order.created_at,
        lines=tuple(
            OrderLineView(line.product_id, line.product_name, line.quantity, line.unit_price_cents)
            for line in lines
        ),
    )
