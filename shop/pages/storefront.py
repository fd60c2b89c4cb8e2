"""What everybody sees: the storefront with its search, and the product's page with its reviews.

A wrong value in an address is not a visitor's fault, so pages read it as if it were not there; the JSON interface
says what is wrong instead.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response
from pydantic import Field
from starlette.responses import RedirectResponse

from shop import orders, products
from shop.api.catalog import MAX_ID
from shop.api.texts import Line, Text
from shop.errors import Conflict, NotFound
from shop.state import Shop
from shop.templating import render
from shop.views import Account, ProductQuery, Sort
from shop.web import MaybeUser, TheShop, User

__all__ = ["router"]

router = APIRouter(include_in_schema=False)

_SORTS = (
    (Sort.NEWEST, "Newest first"),
    (Sort.RATING, "Best rated"),
    (Sort.PRICE, "Price, low to high"),
    (Sort.PRICE_DOWN, "Price, high to low"),
    (Sort.NAME, "Name"),
)


@router.get("/", response_model=None)
async def storefront(request: Request, shop: TheShop, user: MaybeUser) -> Response:
    """Show a page of products, all or those that were searched for."""
    given = request.query_params
    categories = await shop.catalog.categories()
    category = None
    if given.get("category"):
        category = next((each for each in categories if each.slug == given["category"]), None)
        if category is None:
            raise NotFound("there is no such category")
    q = ProductQuery.normal_words("".join(c if c.isprintable() else " " for c in given.get("q", "")[:100]))
    low, high = _cents(given.get("min")), _cents(given.get("max"))
    if low is not None and high is not None and low > high:
        low, high = high, low
    sort = given.get("sort")
    query = ProductQuery(
        q=q,
        category_id=category.id if category else None,
        min_cents=low,
        max_cents=high,
        sort=Sort(sort) if sort in set(Sort) else Sort.NEWEST,
        page=_whole(given.get("page"), 1, 100_000) or 1,
    )
    found = await shop.catalog.products(query)
    asked = {
        "q": q,
        "category": category.slug if category else "",
        "min": _euros(low),
        "max": _euros(high),
        "sort": "" if query.sort is Sort.NEWEST else query.sort.value,
    }
    context = {
        "found": found,
        "asked": asked,
        "category": category,
        "by_id": {each.id: each for each in categories},
        "categories": categories,
        "sorts": _SORTS,
        "sort": query.sort,
    }
    return render(request, "storefront.html", context, user)


@router.get("/products/{product_id}", response_model=None)
async def product_page(request: Request, product_id: str, shop: TheShop, user: MaybeUser) -> Response:
    """Show one product."""
    return await _product_page(request, product_id, shop, user)


@router.post("/products/{product_id}/order", response_model=None)
async def order(
    request: Request,
    product_id: str,
    shop: TheShop,
    user: User,
    quantity: Annotated[int, Form(ge=1, le=1000)] = 1,
) -> Response:
    """Order from the product's page."""
    try:
        placed = await orders.place(shop, user.id, [(_id(product_id), quantity)])
    except Conflict as error:
        return await _product_page(request, product_id, shop, user, f"Sorry, {error.detail}.", 409)
    return RedirectResponse(f"/orders/{placed.id}", 303)


@router.post("/products/{product_id}/reviews", response_model=None)
async def review(
    request: Request,
    product_id: str,
    shop: TheShop,
    user: User,
    rating: Annotated[int, Form(ge=1, le=5)],
    title: Annotated[Line, Field(min_length=1, max_length=120), Form()],
    body: Annotated[Text, Field(min_length=1, max_length=2000), Form()],
) -> Response:
    """Review from the product's page."""
    try:
        await products.add_review(shop, _id(product_id), user.id, rating, title, body)
    except Conflict as error:
        return await _product_page(request, product_id, shop, user, f"Sorry, {error.detail}.", 409)
    return RedirectResponse(f"/products/{product_id}#reviews", 303)


@router.get("/orders/{order_id}", response_model=None)
async def order_page(request: Request, order_id: str, shop: TheShop, user: User) -> Response:
    """Show an order to the one who placed it."""
    return render(request, "order.html", {"order": await orders.find(shop.db, _id(order_id), user.id)}, user)


async def _product_page(
    request: Request,
    given_id: str,
    shop: Shop,
    user: Account | None,
    problem: str | None = None,
    status: int = 200,
) -> Response:
    product_id = _id(given_id)
    product = await shop.catalog.product(product_id)
    if product is None:
        raise NotFound("this product is not, or no longer, for sale")
    categories, popular = await asyncio.gather(
        shop.catalog.categories(), shop.catalog.popular(product.category_id)
    )
    context: dict[str, Any] = {
        "product": product,
        "category": next(each for each in categories if each.id == product.category_id),
        "popular": [each for each in popular if each.id != product.id][:5],
        "problem": problem,
    }
    return render(request, "product.html", context, user, status)


def _id(given: str) -> int:
    number = _whole(given, 1, MAX_ID)
    if number is None:
        raise NotFound("there is nothing at this address")
    return number


def _whole(given: str | None, low: int, high: int) -> int | None:
    """Read a whole number within bounds. Only ASCII digits: `int` would take others for the same page."""
    if given is None or len(given) > 10 or not given.isascii() or not given.isdigit():
        return None
    return int(given) if low <= int(given) <= high else None


def _cents(given: str | None) -> int | None:
    """Read an amount in euros, with a point or a comma."""
    whole, _, part = (given or "").strip().replace(",", ".").partition(".")
    euros, cents = _whole(whole or "0", 0, 1_000_000), _whole((part + "00")[:2], 0, 99)
    return None if not given or not given.strip() or euros is None or cents is None else euros * 100 + cents


def _euros(cents: int | None) -> str:
    if cents is None:
        return ""
    return str(cents // 100) if cents % 100 == 0 else f"{cents // 100}.{cents % 100:02}"
