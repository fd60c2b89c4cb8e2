"""Pictures of the goods: a line drawing for each category on a quiet ground, made from words and an id.

The same product always looks the same. Colours are classes (static/shop.css), so that they follow light and dark;
nothing here has an id of its own, so a page can hold any number of pictures.
"""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path

from markupsafe import Markup

__all__ = ["picture", "stars"]


@cache
def _icons() -> dict[str, str]:
    return tomllib.loads((Path(__file__).parent / "icons.toml").read_text("utf-8"))


def picture(icon: str, hue: int, product_id: int) -> Markup:
    """Return the drawing of a category; shade, tilt and the two discs behind it are the product's own."""
    # Knuth's multiplicative hash: neighbours in a list look different.
    mix = product_id * 2654435761 & 0xFFFFFFFF
    x, y, r = mix % 36 + 2, (mix >> 8) % 26 + 4, (mix >> 16) % 7 + 8
    x2, y2, r2 = (x + 22) % 48, (y + 15) % 36, (mix >> 22) % 5 + 5
    shade, tilt = (hue + (mix >> 5) % 5 - 2) % 36, (mix >> 12) % 19 - 9
    drawing = _icons().get(icon) or _icons()["box"]
    return Markup(
        f'<svg class="picture hue-{shade}" viewBox="0 0 48 36" preserveAspectRatio="xMidYMid slice" '
        f'aria-hidden="true" focusable="false"><path class="ground" d="M0 0h48v36H0z"/>'
        f'<circle class="disc" cx="{x}" cy="{y}" r="{r}"/><circle class="disc far" cx="{x2}" cy="{y2}" r="{r2}"/>'
        f'<path class="drawing" transform="translate(13 7) scale(.92) rotate({tilt} 12 12)" d="{drawing}"/></svg>'
    )


def stars(rating: float | None, reviews: int) -> Markup:
    """Return a mean as stars for the eye and as words for the ear."""
    if rating is None or not reviews:
        return Markup('<span class="stars none">no reviews yet</span>')
    word = "review" if reviews == 1 else "reviews"
    return Markup(
        f'<span class="stars"><span class="row" role="img" aria-label="{rating:.1f} out of 5 stars">'
        f"{_row(round(rating))}</span> "
        f'<span class="n">{rating:.1f} ({reviews}<span class="wide"> {word}</span>)</span></span>'
    )


@cache
def _row(full: int) -> str:
    return "★" * full + "☆" * (5 - full)
