"""The administrator's figures: the dashboard, and sales reports as a page and as a file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.responses import RedirectResponse

from shop import charts, reports
from shop.errors import Invalid
from shop.reports import By
from shop.state import Shop
from shop.templating import render
from shop.views import SalesReport, SalesRow
from shop.web import Admin, TheShop

from .periods import PRESETS, days_of, every_period, is_whole_month, name_of, preset, starts

__all__ = ["router"]

router = APIRouter(prefix="/admin", include_in_schema=False)

_DEFAULT = "30d"  # what `reports.sales` takes by itself
_GROUPINGS = {
    By.DAY: "Day",
    By.WEEK: "Week",
    By.MONTH: "Month",
    By.CATEGORY: "Category",
    By.PRODUCT: "Product",
}
_OVER_TIME = (By.DAY, By.WEEK, By.MONTH)
_BARS = 15  # as many as a screen shows at once; the table has the rest
_COLUMNS = {
    By.DAY: ("day",),
    By.WEEK: ("monday", "week"),
    By.MONTH: ("first_day", "month"),
    By.CATEGORY: ("category", "name"),
    By.PRODUCT: ("product_id", "name"),
}


@router.get("", response_model=None)
async def start(admin: Admin) -> Response:
    """Lead to the dashboard."""
    return RedirectResponse("/admin/dashboard", 303)


# -- dashboard --------------------------------------------------------------------------------------------------------


@router.get("/dashboard", response_model=None)
async def dashboard(request: Request, shop: TheShop, admin: Admin) -> Response:
    """Show how the shop does."""
    stats = await reports.stats(shop)
    days = [date.fromisoformat(row.key) for row in stats.revenue_by_day]
    context = {
        "stats": stats,
        "revenue": charts.columns(
            "revenue",
            "Revenue of the last 30 days",
            [
                charts.Mark(f"{day:%A}, {day.day} {day:%B} {day.year}", row.revenue_cents, _note(row))
                for day, row in zip(days, stats.revenue_by_day, strict=True)
            ],
            days,
        ),
        "products": charts.bars("Products that sold for most", _bars(stats.top_products, By.PRODUCT)),
        "categories": charts.bars(
            "Categories that sold for most", _bars(stats.top_categories, By.CATEGORY, stats.revenue_30d_cents)
        ),
    }
    return render(request, "dashboard.html", context, admin)


# -- reports ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Asked:
    """What a report is asked for: days that were given, or the name of a range."""

    start: date | None
    end: date | None
    by: By
    preset: str


@router.get("/reports", response_model=None)
async def report_page(request: Request, shop: TheShop, admin: Admin) -> Response:
    """Show a sales report."""
    given = request.query_params
    context: dict[str, Any] = {
        "given": {name: given.get(name, "") for name in ("from", "to", "by")},
        "groupings": _GROUPINGS,
        "presets": PRESETS,
        "preset": "",
        "problem": None,
        "report": None,
    }
    try:
        asked = _read(given)
        report = await _report(shop, asked)
        rows = every_period(report)
    except Invalid as error:
        context["problem"] = f"{error.detail[0].upper()}{error.detail[1:]}."
        return render(request, "reports.html", context, admin, 422)
    by = By(report.by)
    asked_for = {"from": str(report.start), "to": str(report.end), "by": report.by}
    context |= {
        "given": asked_for,
        "preset": asked.preset,
        "report": report,
        "grouping": _GROUPINGS[by],
        "over_time": by in _OVER_TIME,
        "average_cents": report.revenue_cents // report.orders if report.orders else 0,
        "lines": [_line(row, report) for row in rows],
        "chart": _chart(report, rows),
        "bars": min(len(rows), _BARS),
    }
    return render(request, "reports.html", context, admin)


@router.get("/reports.csv", response_model=None)
async def report_file(request: Request, shop: TheShop, admin: Admin) -> Response:
    """Give a sales report as a file for a spreadsheet."""
    report = await _report(shop, _read(request.query_params))
    by = By(report.by)
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow((*_COLUMNS[by], "orders", "units", "revenue_eur"))
    for row in every_period(report):
        names = (row.key, row.label)[: len(_COLUMNS[by])]
        revenue = f"{row.revenue_cents // 100}.{row.revenue_cents % 100:02}"
        writer.writerow((*(_text(name) for name in names), row.orders, row.units, revenue))
    name = f"sales-by-{report.by}-{report.start}-to-{report.end}.csv"
    headers = {
        "cache-control": "private, no-cache",
        "content-disposition": f'attachment; filename="{name}"',
    }
    # With a byte order mark: without it Excel reads UTF-8 as something else.
    return Response("\ufeff" + file.getvalue(), 200, headers, "text/csv; charset=utf-8")


def _read(given: Mapping[str, str]) -> _Asked:
    """Read an address. Raises `Invalid` for what is no day, no grouping or no range."""
    by = given.get("by") or By.DAY.value
    if by not in set(By):
        raise Invalid("reports are by day, week, month, category or product")
    first, last = (_date(given.get(name, ""), name) for name in ("from", "to"))
    chosen = given.get("range", "")
    if chosen and chosen not in PRESETS:
        raise Invalid("there is no such range of days")
    if first or last:
        chosen = ""
    return _Asked(first, last, By(by), chosen if chosen or first or last else _DEFAULT)


def _date(given: str, name: str) -> date | None:
    if not given.strip():
        return None
    try:
        return date.fromisoformat(given.strip())
    except ValueError:
        raise Invalid(f"“{name.capitalize()}” must be a day such as 2026-01-31") from None


async def _report(shop: Shop, asked: _Asked) -> SalesReport:
    first, last = asked.start, asked.end
    if asked.preset not in ("", _DEFAULT):
        first, last = preset(asked.preset, (await reports.stats(shop)).as_of)
    return await reports.sales(shop, first, last, asked.by)


def _chart(report: SalesReport, rows: tuple[SalesRow, ...]) -> Any:
    by = By(report.by)
    title = f"Revenue by {report.by}"
    if by not in _OVER_TIME:
        return charts.bars(title, _bars(rows[:_BARS], by, report.revenue_cents))
    return charts.columns(
        "sales",
        title,
        [charts.Mark(name_of(row, report), row.revenue_cents, _note(row)) for row in rows],
        list(starts(report.start, report.end, by)),
        # Whole weeks, or a mean would go up and down with the week.
        mean_of=0 if by is not By.DAY else 7 if len(rows) <= 366 else 28,
    )


def _line(row: SalesRow, report: SalesReport) -> dict[str, Any]:
    """Return a line of the table: name, what else to say of it, address, figures, share of the revenue."""
    by = By(report.by)
    share = row.revenue_cents / report.revenue_cents if report.revenue_cents else 0
    return {
        "name": f"{date.fromisoformat(row.key):%a} {row.label}" if by is By.DAY else row.label,
        "days": "" if by not in (By.WEEK, By.MONTH) or is_whole_month(row, report) else days_of(row, report),
        "href": _address(row, by),
        "row": row,
        "share": f"{share:.1%}",
    }


def _bars(rows: Iterable[SalesRow], by: By, revenue_cents: int = 0) -> list[charts.Mark]:
    return [
        charts.Mark(
            row.label,
            row.revenue_cents,
            _note(row) + (f", {row.revenue_cents / revenue_cents:.1%} of revenue" if revenue_cents else ""),
            _address(row, by),
        )
        for row in rows
    ]


def _address(row: SalesRow, by: By) -> str:
    match by:
        case By.PRODUCT:
            return f"/products/{row.key}"
        case By.CATEGORY:
            return f"/?category={row.key}"
        case _:
            return ""


def _note(row: SalesRow) -> str:
    return f"{_counted(row.orders, 'order')}, {_counted(row.units, 'unit')}"


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _text(value: str) -> str:
    """Return a text that no spreadsheet takes for a formula (OWASP, CSV injection): a quote in front of it.

    Spreadsheets look past blanks and line ends in front, so this does too.
    """
    first = value.lstrip()[:1] or value[:1]
    return f"'{value}" if first and first in "=+-@\t\r\n|%＝＋－＠" else value
