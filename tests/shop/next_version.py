"""The shop as its next release might be: what it caches has another shape, so its version is raised.

`python -m tests.shop.next_version serve ...` is that release's `python -m shop serve ...`. What is changed here is what
a branch of the code would change: two views have one field more, and another field says something else than before. A
process of either release that took the other's cached data for its own would show it: by the mark, or by the field.
"""

from __future__ import annotations

import os
from typing import Any

import msgspec

from shop import views

#: In front of every description of the next release, and of no other.
MARK = "As of the next release: "
LABEL = "made by the next release"


class ProductView(views.ProductView, frozen=True, kw_only=True):
    """With one field more."""

    label: str = "made by another release"


class ProductDetail(views.ProductDetail, frozen=True, kw_only=True):
    """With one field more."""

    label: str = "made by another release"


def marked(view: Any) -> Any:
    """Return a view as the next release says it."""
    return msgspec.structs.replace(view, description=f"{MARK}{view.description}", label=LABEL)


def main() -> None:
    """Run a command of the next release."""
    for view in (ProductView, ProductDetail):
        setattr(views, view.__name__, view)
    from shop import caching, catalog, cli  # they take the names of views when they are imported

    if not os.environ.get("VERSION_WAS_FORGOTTEN"):
        caching.VERSION += 1
    product, products, popular = catalog.product, catalog.products, catalog.popular

    async def next_product(*args: Any) -> Any:
        found = await product(*args)
        return None if found is None else marked(found)

    async def next_products(*args: Any) -> Any:
        page = await products(*args)
        return msgspec.structs.replace(page, items=tuple(map(marked, page.items)))

    async def next_popular(*args: Any) -> Any:
        return tuple(map(marked, await popular(*args)))

    for name, function in (("product", next_product), ("products", next_products), ("popular", next_popular)):
        setattr(catalog, name, function)
    cli.main()


if __name__ == "__main__":
    main()
