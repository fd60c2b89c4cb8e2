"""What is cached in the benchmarks: about 250 bytes of JSON, the size of a list's row or a small record."""

from __future__ import annotations

import msgspec


class Product(msgspec.Struct):
    """A product, as a shop's JSON has it."""

    id: int
    name: str
    description: str
    price_cents: int
    stock: int
    category_id: int
    rating: float


def product(number: int) -> Product:
    """Return the product of a number."""
    description = "Dovetailed by hand from oiled oak, with a brass handle that will outlast both of you."
    return Product(number, f"Chest of drawers no. {number}", description, 24_900, 12, number % 60, 4.5)


def text(number: int) -> str:
    """Return the same product as JSON."""
    return msgspec.json.encode(product(number)).decode()
