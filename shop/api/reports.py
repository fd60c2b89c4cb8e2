"""The dashboard's figures and sales reports as JSON, for administrators."""

from __future__ import annotations

from datetime import date
from typing import Annotated

from fastapi import APIRouter, Query, Response

from shop import reports
from shop.reports import By
from shop.web import Admin, TheShop, json

__all__ = ["router"]

router = APIRouter(prefix="/api", tags=["reports"])


@router.get("/dashboard/stats", response_model=None)
async def stats(shop: TheShop, admin: Admin) -> Response:
    """Return the figures of the dashboard."""
    return json(await reports.stats(shop))


@router.get("/reports/sales", response_model=None)
async def sales(
    shop: TheShop,
    admin: Admin,
    start: Annotated[date | None, Query(alias="from")] = None,
    end: Annotated[date | None, Query(alias="to")] = None,
    by: By = By.DAY,
) -> Response:
    """Return the sales between two days, both included."""
    return json(await reports.sales(shop, start, end, by))
