"""Orders as JSON."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel, ConfigDict, Field

from shop import orders
from shop.web import TheShop, User, json

from .catalog import MAX_ID

__all__ = ["router"]

router = APIRouter(prefix="/api", tags=["orders"])


class LineInput(BaseModel):
    """A product, and how many of it."""

    model_config = ConfigDict(strict=True)

    product_id: Annotated[int, Field(ge=1, le=MAX_ID)]
    quantity: Annotated[int, Field(ge=1, le=1000)]


class OrderInput(BaseModel):
    """An order as a customer sends it."""

    model_config = ConfigDict(strict=True)

    lines: Annotated[list[LineInput], Field(min_length=1, max_length=50)]


@router.post("/orders", status_code=201, response_model=None)
async def place_order(given: OrderInput, shop: TheShop, user: User) -> Response:
    """Order: all lines or none."""
    order = await orders.place(shop, user.id, [(line.product_id, line.quantity) for line in given.lines])
    return json(order, 201, {"location": f"/api/orders/{order.id}"})


@router.get("/orders/{order_id}", response_model=None)
async def show_order(order_id: Annotated[int, Path(ge=1, le=MAX_ID)], shop: TheShop, user: User) -> Response:
    """Return one of the customer's own orders."""
    return json(await orders.find(shop.db, order_id, user.id))
