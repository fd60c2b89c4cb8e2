"""Believable names, descriptions, prices, people and reviews, out of the word lists in words.toml.

Pure: everything is drawn from the `random.Random` that is passed in, so the same seed gives the same shop.
"""

from __future__ import annotations

import random
import re
import tomllib
import unicodedata
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["CategoryWords", "Goods", "Words", "load_words"]

_LEADS = (
    "Made for {}.",
    "Designed with {} in mind.",
    "Good company for {}.",
    "Our choice for {}.",
    "Just right for {}.",
)


@dataclass(frozen=True)
class Noun:
    """What a thing is, and what such a thing costs, in cents."""

    name: str
    low: int
    high: int


@dataclass(frozen=True)
class CategoryWords:
    """The words of one category, with those of its department."""

    name: str
    slug: str
    department: str
    icon: str
    hue: int
    brands: tuple[str, ...]
    nouns: tuple[Noun, ...]
    traits: tuple[str, ...]
    variants: tuple[str, ...]
    uses: tuple[str, ...]
    points: tuple[str, ...]
    care: tuple[str, ...]

    def goods(self, rng: random.Random) -> Goods:
        """Draw one thing that could be on sale in this category."""
        noun = rng.choice(self.nouns)
        trait = rng.choice(self.traits)
        brand = rng.choice(self.brands)
        name = f"{brand} {trait} {noun.name}, {rng.choice(self.variants)}"
        lead = rng.choice(_LEADS).format(rng.choice(self.uses))
        first, second, third = rng.sample(self.points, 3)
        description = f"{lead} {first} {second} {third} {rng.choice(self.care)}"
        # Most things cost little for what they are: squaring leans towards the lower end.
        euros = (noun.low + (noun.high - noun.low) * rng.random() ** 2) / 100
        return Goods(name, description, _price(rng, euros), rng.triangular(2.6, 4.9, 4.3))


@dataclass(frozen=True)
class Goods:
    """A product as it is drawn; `quality` is what its reviews will centre on, 1 to 5."""

    name: str
    description: str
    price_cents: int
    quality: float


@dataclass(frozen=True)
class Words:
    """All word lists."""

    categories: tuple[CategoryWords, ...]
    first_names: tuple[str, ...]
    last_names: tuple[str, ...]
    reviews: dict[int, tuple[tuple[str, ...], tuple[str, ...]]]

    def review(self, rng: random.Random, quality: float) -> tuple[int, str, str]:
        """Draw a rating around a product's quality, with a title and a text that fit it."""
        rating = min(5, max(1, round(rng.gauss(quality, 0.9))))
        titles, bodies = self.reviews[rating]
        return rating, rng.choice(titles), rng.choice(bodies)


def slugify(name: str) -> str:
    """Return a name as part of an address: `Knives & Boards` is `knives-boards`."""
    plain = unicodedata.normalize("NFKD", name.replace("'", "")).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")


def _price(rng: random.Random, euros: float) -> int:
    """Round as shops do: 7.49 and 24.90 for small things, 129.00 for large ones."""
    if euros < 15:
        return max(1, round(euros)) * 100 - rng.choice((1, 5, 51))
    if euros < 100:
        return round(euros) * 100 - rng.choice((1, 5, 10))
    return round(euros / 5) * 500 - rng.choice((0, 0, 100))


@cache
def load_words() -> Words:
    """Read words.toml."""
    with (Path(__file__).parent / "words.toml").open("rb") as file:
        data = tomllib.load(file)
    categories = tuple(
        CategoryWords(
            name=entry["name"],
            slug=slugify(entry["name"]),
            department=department["name"],
            icon=entry["icon"],
            hue=(department["hue"] + place) % 36,
            brands=tuple(department["brands"]),
            nouns=tuple(_noun(line) for line in entry["nouns"]),
            traits=tuple(entry["traits"]),
            variants=tuple(entry["variants"]),
            uses=tuple(entry["uses"]),
            points=tuple(entry["points"]),
            care=tuple(department["care"]),
        )
        for department in data["department"]
        for place, entry in enumerate(department["category"])
    )
    reviews = {each["rating"]: (tuple(each["titles"]), tuple(each["bodies"])) for each in data["review"]}
    return Words(categories, tuple(data["people"]["first"]), tuple(data["people"]["last"]), reviews)


def _noun(line: str) -> Noun:
    name, _, prices = line.rpartition(" ")
    low, high = prices.split("-")
    return Noun(name, int(low) * 100, int(high) * 100)
