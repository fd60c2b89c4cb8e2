"""What people ask for: requests for the load generator, drawn as people make them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import accumulate
from urllib.parse import quote

from .client import HOST

__all__ = ["KINDS", "Member", "Request", "Visitors"]

KINDS = (
    "product list",
    "product",
    "categories",
    "list page",
    "product page",
    "dashboard",
    "report",
    "dashboard page",
    "report page",
    "mix",
)
# Product pages first, then lists; people see pages, applications and phones ask for JSON. Once in a while the
# administrator looks.
MIX = {
    "product page": 40,
    "list page": 20,
    "product": 23,
    "product list": 13,
    "categories": 2,
    "dashboard page": 1,
    "report page": 1,
}
_OF_ADMIN = frozenset(("dashboard", "report", "dashboard page", "report page"))
_LOGGED_IN = 0.3  # of those who look at pages
_WORDS = (
    "oak",
    "linen",
    "steel",
    "lamp",
    "wool",
    "small",
    "chair",
    "black",
    "cotton",
    "set",
    "glass",
    "garden",
)
_SORTS = ("", "", "", "price", "-price", "name", "rating")
_GROUPINGS = ("day", "week", "month", "category", "product")


@dataclass(frozen=True)
class Member:
    """Somebody who is logged in."""

    token: str
    name: str
    email: str


@dataclass(frozen=True)
class Request:
    """What is asked, and by whom."""

    path: str
    member: Member | None = None

    def encode(self, method: str = "GET") -> bytes:
        """Return it as it is sent."""
        kind = "application/json" if self.path.startswith("/api/") else "text/html"
        cookie = "" if self.member is None else f"Cookie: shop_session={self.member.token}\r\n"
        return f"{method} {self.path} HTTP/1.1\r\nHost: {HOST}\r\nAccept: {kind}\r\n{cookie}\r\n".encode()


class Visitors:
    """Draws requests as people make them: a few products and lists often, most of them seldom.

    Arguments:
        product_ids, slugs: of what there is; which of them are asked for often is drawn, of products only if they are
            not `ranked`, with those first that are asked for most.
        admin, members: who is logged in.
        newest: the day of the newest order: reports are asked for up to it.
        seed: another number, other requests.
    """

    def __init__(
        self,
        product_ids: Sequence[int],
        slugs: Sequence[str],
        admin: Member,
        members: Sequence[Member],
        newest: date,
        seed: int = 7,
        ranked: bool = False,
    ) -> None:
        self._rng = random.Random(seed)
        self._products = list(product_ids)
        self._slugs = list(slugs)
        self._admin = admin
        self._members = list(members)
        if not ranked:
            self._rng.shuffle(self._products)
        self._rng.shuffle(self._slugs)
        self._product_weights = list(accumulate(1 / rank for rank in range(1, len(self._products) + 1)))
        self._slug_weights = list(accumulate(1 / rank for rank in range(1, len(self._slugs) + 1)))
        self._reports = list(_reports(newest))

    def requests(self, kind: str, count: int) -> list[Request]:
        """Draw requests of a kind."""
        return [self._request(kind) for _ in range(count)]

    def _request(self, kind: str) -> Request:
        if kind == "mix":
            kind = self._rng.choices(list(MIX), list(MIX.values()))[0]
        if kind in _OF_ADMIN:
            return Request(self._path(kind), self._admin)
        somebody = kind.endswith("page") and self._members and self._rng.random() < _LOGGED_IN
        return Request(self._path(kind), self._rng.choice(self._members) if somebody else None)

    def _path(self, kind: str) -> str:
        match kind:
            case "product":
                return f"/api/products/{self._product()}"
            case "product page":
                return f"/products/{self._product()}"
            case "product list":
                return f"/api/products?{self._list()}"
            case "list page":
                return f"/?{self._list()}"
            case "categories":
                return "/api/categories"
            case "dashboard":
                return "/api/dashboard/stats"
            case "dashboard page":
                return "/admin/dashboard"
            case "report":
                return f"/api/reports/sales?{self._rng.choice(self._reports)}"
            case _:
                return f"/admin/reports?{self._rng.choice(self._reports)}"

    def _product(self) -> int:
        return self._rng.choices(self._products, cum_weights=self._product_weights)[0]

    def _list(self) -> str:
        """Most come by a category, some stay on the front page, some search."""
        rng = self._rng
        parts = []
        chance = rng.random()
        if chance < 0.65:
            parts.append(f"category={rng.choices(self._slugs, cum_weights=self._slug_weights)[0]}")
        elif chance < 0.80:
            parts.append(f"q={quote(rng.choice(_WORDS))}")
        sort = rng.choice(_SORTS)
        if sort:
            parts.append(f"sort={sort}")
        page = min(int(rng.paretovariate(1.2)), 10)
        if page > 1:
            parts.append(f"page={page}")
        return "&".join(parts)


def _reports(newest: date) -> Sequence[str]:
    """Return what administrators look at: the last 30 days in every grouping, and the months before by day."""
    asked = [f"by={by}" for by in _GROUPINGS]
    first = newest.replace(day=1)
    for _ in range(4):
        last = first - timedelta(days=1)
        first = last.replace(day=1)
        asked.append(f"from={first}&to={last}&by=day")
    return asked
