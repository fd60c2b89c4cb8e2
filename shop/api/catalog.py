"""Products, categories and reviews as JSON."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from shop import products
from shop.errors import Invalid, NotFound
from shop.products import ProductData
from shop.state import Shop
from shop.views import ProductQuery, Sort
from shop.web import Admin, TheShop, User, json

from .texts import Line, Text

__all__ = ["router"]

router = APIRouter(prefix="/api", tags=["catalogue"])

MAX_ID = 2**31 - 1  # what PostgreSQL's integer holds
ProductId = Annotated[int, Path(ge=1, le=MAX_ID)]
Cents = Annotated[int, Field(ge=0, le=100_000_000)]
Words = Annotated[str, StringConstraints(max_length=100, pattern=r"^[^\x00-\x1f]*$")]
# Also understood, for those who write them so.
_SORTS = {
    "price_asc": Sort.PRICE,
    "price_desc": Sort.PRICE_DOWN,
    "price-asc": Sort.PRICE,
    "price-desc": Sort.PRICE_DOWN,
}


class ProductInput(BaseModel):
    """A product as an administrator sends it."""

    model_config = ConfigDict(strict=True, extra="forbid")

    name: Annotated[Line, Field(min_length=1, max_length=200)]
    description: Annotated[Text, Field(max_length=5000)] = ""
    price_cents: Cents
    stock: Annotated[int, Field(ge=0, le=1_000_000)]
    category_id: Annotated[int, Field(ge=1, le=MAX_ID)]

    def data(self, stock_was: int | None = None) -> ProductData:
        """Return it for the catalogue."""
        return ProductData(**self.model_dump(), stock_was=stock_was)


class ReviewInput(BaseModel):
    """A review as a customer sends it."""

    model_config = ConfigDict(strict=True, extra="forbid")

    rating: Annotated[int, Field(ge=1, le=5)]
    title: Annotated[Line, Field(min_length=1, max_length=120)]
    body: Annotated[Text, Field(min_length=1, max_length=2000)]


@router.get("/products", response_model=None)
async def list_products(
    shop: TheShop,
    q: Words = "",
    category: Annotated[str | None, Query(max_length=80, description="id or slug")] = None,
    min_price: Annotated[int | None, Query(ge=0, le=100_000_000, description="in cents")] = None,
    max_price: Annotated[int | None, Query(ge=0, le=100_000_000, description="in cents")] = None,
    sort: Annotated[str, Query(description="newest, name, price, -price or rating")] = "newest",
    page: Annotated[int, Query(ge=1, le=100_000)] = 1,
    per_page: Annotated[int, Query(ge=1, le=100)] = 24,
) -> Response:
    """List products; prices in cents, as in the answer."""
    if min_price is not None and max_price is not None and min_price > max_price:
        raise Invalid(f"min_price ({min_price}) is above max_price ({max_price})")
    query = ProductQuery(
        q=ProductQuery.normal_words(q),
        category_id=await _category_id(shop, category),
        min_cents=min_price,
        max_cents=max_price,
        sort=_sort(sort),
        page=page,
        per_page=per_page,
    )
    return json(await shop.catalog.products(query))


@router.get("/products/{product_id}", response_model=None)
async def show_product(product_id: ProductId, shop: TheShop) -> Response:
    """Return one product with its latest reviews."""
    return json(await _product(shop, product_id))


@router.post("/products", status_code=201, response_model=None)
async def create_product(given: ProductInput, shop: TheShop, admin: Admin) -> Response:
    """Add a product."""
    product_id = await products.create(shop, given.data())
    return json(await _product(shop, product_id), 201, {"location": f"/api/products/{product_id}"})


@router.put("/products/{product_id}", response_model=None)
async def update_product(product_id: ProductId, given: ProductInput, shop: TheShop, admin: Admin) -> Response:
    """Change a product as a whole."""
    await products.update(shop, product_id, given.data())
    return json(await _product(shop, product_id))


@router.delete("/products/{product_id}", status_code=204, response_model=None)
async def delete_product(product_id: ProductId, shop: TheShop, admin: Admin) -> Response:
    """Remove a product."""
    await products.delete(shop, product_id)
    return Response(status_code=204)


@router.post("/products/{product_id}/reviews", status_code=201, response_model=None)
async def add_review(product_id: ProductId, given: ReviewInput, shop: TheShop, user: User) -> Response:
    """Review a product, once."""
    review_id = await products.add_review(shop, product_id, user.id, given.rating, given.title, given.body)
    return json({"id": review_id}, 201)


@router.get("/categories", response_model=None)
async def list_categories(shop: TheShop) -> Response:
    """List all categories with the number of their products."""
    return json(await shop.catalog.categories())


async def _product(shop: Shop, product_id: int) -> Any:
    product = await shop.catalog.product(product_id)
    if product is None:
        raise NotFound(f"there is no product {product_id}")
    return product


async def _category_id(shop: Shop, given: str | None) -> int | None:
    """Find a category by its id or its slug."""
    if not given:
        return None
    for each in await shop.catalog.categories():
        if given in (str(each.id), each.slug):
            return each.id
    raise Invalid(f"there is no category {given!r}")


def _sort(given: str) -> Sort:
    try:
        return _SORTS.get(given) or Sort(given)
    except ValueError:
        raise Invalid(f"sort is {given!r}; allowed are {', '.join(Sort)}") from None
