"""The administrator's product editor. It reads past the cache: who edits must see what is in the database."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response
from pydantic import ValidationError
from starlette.responses import RedirectResponse

from shop import catalog, products
from shop.api.catalog import MAX_ID, ProductInput
from shop.errors import NotFound, ShopError
from shop.state import Shop
from shop.templating import render
from shop.views import Account, ProductQuery, Sort
from shop.web import Admin, TheShop

__all__ = ["router"]

router = APIRouter(prefix="/admin/products", include_in_schema=False)

Given = Annotated[str, Form(max_length=6000)]
_SAID = {"created": "The product was added.", "saved": "Saved.", "deleted": "The product was deleted."}
_EMPTY = {"name": "", "description": "", "price": "", "stock": "0", "category_id": "", "stock_was": ""}
_LABELS = {
    "name": "The name",
    "description": "The description",
    "price_cents": "The price",
    "stock": "The stock",
}


@router.get("", response_model=None)
async def product_list(
    request: Request, shop: TheShop, admin: Admin, q: str = "", page: int = 1, said: str = ""
) -> Response:
    """List products, newest first."""
    words = ProductQuery.normal_words("".join(c if c.isprintable() else " " for c in q[:100]))
    query = ProductQuery(q=words, sort=Sort.NEWEST, page=min(max(page, 1), 100_000), per_page=30)
    context = {
        "found": await catalog.products(shop.db, query),
        "by_id": {each.id: each for each in await catalog.categories(shop.db)},
        "asked": {"q": words},
        "said": _SAID.get(said),
    }
    return render(request, "editor_list.html", context, admin)


@router.get("/new", response_model=None)
async def new_product(request: Request, shop: TheShop, admin: Admin) -> Response:
    """Show an empty form."""
    return await _form(request, shop, admin, None, _EMPTY, {})


@router.post("/new", response_model=None)
async def create_product(
    request: Request,
    shop: TheShop,
    admin: Admin,
    name: Given = "",
    description: Given = "",
    price: Given = "",
    stock: Given = "",
    category_id: Given = "",
) -> Response:
    """Add a product."""
    given = _given(name, description, price, stock, category_id, "")
    checked, problems = _check(given)
    if checked is None:
        return await _form(request, shop, admin, None, given, problems, 422)
    try:
        await products.create(shop, checked.data())
    except ShopError as error:
        return await _form(request, shop, admin, None, given, {"category_id": error.detail}, error.status)
    return RedirectResponse("/admin/products?said=created", 303)


@router.get("/{product_id}", response_model=None)
async def edit_product(
    request: Request, product_id: str, shop: TheShop, admin: Admin, said: str = ""
) -> Response:
    """Show a product in the form."""
    product = await _find(shop, product_id)
    given = {
        "name": product.name,
        "description": product.description,
        "price": f"{product.price_cents // 100}.{product.price_cents % 100:02}",
        "stock": str(product.stock),
        "category_id": str(product.category_id),
        "stock_was": str(product.stock),
    }
    return await _form(request, shop, admin, product.id, given, {}, said=_SAID.get(said))


@router.post("/{product_id}", response_model=None)
async def save_product(
    request: Request,
    product_id: str,
    shop: TheShop,
    admin: Admin,
    name: Given = "",
    description: Given = "",
    price: Given = "",
    stock: Given = "",
    category_id: Given = "",
    stock_was: Given = "",
) -> Response:
    """Change a product."""
    number = _number(product_id)
    given = _given(name, description, price, stock, category_id, stock_was)
    checked, problems = _check(given)
    if checked is None:
        return await _form(request, shop, admin, number, given, problems, 422)
    try:
        await products.update(shop, number, checked.data(int(stock_was) if stock_was.isdecimal() else None))
    except NotFound:
        raise
    except ShopError as error:
        return await _form(request, shop, admin, number, given, {"category_id": error.detail}, error.status)
    return RedirectResponse(f"/admin/products/{number}?said=saved", 303)


@router.get("/{product_id}/delete", response_model=None)
async def ask_to_delete(request: Request, product_id: str, shop: TheShop, admin: Admin) -> Response:
    """Ask whether it should really go."""
    return render(request, "editor_delete.html", {"product": await _find(shop, product_id)}, admin)


@router.post("/{product_id}/delete", response_model=None)
async def delete_product(product_id: str, shop: TheShop, admin: Admin) -> Response:
    """Delete a product."""
    await products.delete(shop, _number(product_id))
    return RedirectResponse("/admin/products?said=deleted", 303)


async def _form(
    request: Request,
    shop: Shop,
    admin: Account,
    product_id: int | None,
    given: dict[str, str],
    problems: dict[str, str],
    status: int = 200,
    said: str | None = None,
) -> Response:
    context: dict[str, Any] = {
        "product_id": product_id,
        "given": given,
        "problems": problems,
        "categories": await catalog.categories(shop.db),
        "said": said,
    }
    return render(request, "editor_form.html", context, admin, status)


async def _find(shop: Shop, given: str) -> Any:
    product = await catalog.product(shop.db, _number(given))
    if product is None:
        raise NotFound("there is no such product")
    return product


def _number(given: str) -> int:
    if not (given.isascii() and given.isdigit() and len(given) <= 10 and 1 <= int(given) <= MAX_ID):
        raise NotFound("there is no such product")
    return int(given)


def _given(*values: str) -> dict[str, str]:
    return dict(zip(_EMPTY, values, strict=True))


def _check(given: dict[str, str]) -> tuple[ProductInput | None, dict[str, str]]:
    """Turn what was typed into a product, or into a problem for each field."""
    problems: dict[str, str] = {}
    price = given["price"].strip().removeprefix("€").strip().replace(",", ".")
    whole, _, part = price.partition(".")
    cents = 0
    if (
        whole.isascii()
        and whole.isdigit()
        and len(whole) <= 8
        and (part.isdigit() or not part)
        and len(part) <= 2
    ):
        cents = int(whole) * 100 + int(f"{part:0<2}")
    else:
        problems["price"] = "The price must be an amount such as 24.90."
    numbers: dict[str, int] = {}
    for field, words in (
        ("stock", "The stock must be a whole number."),
        ("category_id", "Choose a category."),
    ):
        value = given[field].strip()
        if value.isascii() and value.isdigit() and len(value) <= 9:
            numbers[field] = int(value)
        else:
            problems[field] = words
    if problems:
        return None, problems
    try:
        return ProductInput(
            name=given["name"].strip(), description=given["description"], price_cents=cents, **numbers
        ), {}
    except ValidationError as error:
        for each in error.errors():
            field = str(each["loc"][0])
            said = each["msg"].removeprefix("Value error, ").lower()
            problems[field.removesuffix("_cents")] = f"{_LABELS.get(field, 'The category')}: {said}."
    return None, problems
