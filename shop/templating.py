"""Pages from templates, each with its footer: how long it took and whether it came from the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from datetime import datetime
from functools import cache, lru_cache
from itertools import groupby
from pathlib import Path
from time import perf_counter
from typing import Any
from urllib.parse import urlencode

from fastapi import Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from starlette.responses import HTMLResponse

from .caching import Note, note
from .pictures import picture, stars
from .views import Account, CategoryView

__all__ = ["price", "render"]

_HERE = Path(__file__).parent
_SAID = {
    "off": "the cache is off",
    "none": "not a cached page",
    "hit": "from the cache: hit",
    "load": "from the database: load",
}


def price(cents: int) -> str:
    """Return an amount as people read it: `€1,299.00`."""
    return f"€{cents // 100:,}.{cents % 100:02}"


def _departments(categories: tuple[CategoryView, ...]) -> list[tuple[str, list[CategoryView]]]:
    """Return categories under their departments, in the order in which they come."""
    return [(name, list(group)) for name, group in groupby(categories, lambda each: each.department)]


def _took() -> Markup:
    """Return the footer's line. It is an element of its own, on a line of its own: all else is the same each time."""
    current = note.get() or Note(perf_counter())
    ms = (perf_counter() - current.began) * 1000
    return Markup('<p class="took" data-cache="{}">Made in {} ms, {}.</p>').format(
        current.cache, f"{ms:.1f}", _SAID[current.cache]
    )


def _with_query(base: dict[str, Any], **changes: Any) -> str:
    """Return a query string with some values changed; empty ones are left out."""
    merged = {name: value for name, value in {**base, **changes}.items() if value not in (None, "")}
    return f"?{urlencode(merged)}" if merged else "?"


@cache
def _static(name: str) -> str:
    """Return the address of a file, with its digest: a new version is a new address, so it can be kept for ever."""
    digest = hashlib.sha256((_HERE / "static" / name).read_bytes()).hexdigest()[:10]
    return f"/static/{name}?v={digest}"


def _day(moment: datetime) -> str:
    return f"{moment.day} {moment:%B %Y}"


@lru_cache(maxsize=8192)  # some kilobytes each: the cards of the pages that are looked at
def _part(name: str, *values: Hashable) -> Markup:
    """Render a macro of parts.html, once for the same values.

    The key is everything that the text is made of, so there is nothing to invalidate.
    """
    return Markup(getattr(_environment().get_template("parts.html").module, name)(*values))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {"price": price, "day": _day}
    environment.globals |= {
        "part": _part,
        "departments": _departments,
        "took": _took,
        "static": _static,
        "with_query": _with_query,
        "picture": picture,
        "stars": stars,
    }
    return environment


def render(
    request: Request,
    name: str,
    context: dict[str, Any],
    user: Account | None,
    status: int = 200,
    headers: dict[str, str] | None = None,
) -> HTMLResponse:
    """Answer with a page. Browsers may keep it but must ask before they show it again: prices change."""
    body = _environment().get_template(name).render(context, request=request, user=user)
    return HTMLResponse(body, status, {"cache-control": "private, no-cache", **(headers or {})})
