"""The days of a sales report: ranges to choose from, the periods they fall into, and their names.

A report has only periods in which something was sold; a chart and a table need the others as well.
"""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Iterator
from datetime import date, timedelta

from shop.errors import Invalid
from shop.reports import By
from shop.views import SalesReport, SalesRow

__all__ = [
    "MOST_PERIODS",
    "PRESETS",
    "days_of",
    "every_period",
    "is_whole_month",
    "name_of",
    "preset",
    "starts",
]

PRESETS = {
    "7d": "Last 7 days",
    "30d": "Last 30 days",
    "90d": "Last 90 days",
    "month": "This month",
    "last-month": "Last month",
    "year": "This year",
}
# Three years of days: a table that a browser shows at once. Longer times fit as weeks or months.
MOST_PERIODS = 1100
_DAYS = {By.DAY: 1, By.WEEK: 7, By.MONTH: 28}


def preset(name: str, newest: date) -> tuple[date, date]:
    """Return the first and last day of a range of `PRESETS`, counted back from the day of the newest order."""
    first = newest.replace(day=1)
    match name:
        case "month":
            return first, newest
        case "last-month":
            if first == date(1, 1, 1):
                return first, newest
            last = first - timedelta(days=1)
            return last.replace(day=1), last
        case "year":
            return date(newest.year, 1, 1), newest
        case _:
            days = int(name.removesuffix("d"))
            return date.fromordinal(max(1, newest.toordinal() - days + 1)), newest


def starts(start: date, end: date, by: By) -> Iterator[date]:
    """Yield the first day of each period between two days: of weeks their Monday, of months their first."""
    day = start
    if by is By.WEEK:
        day -= timedelta(days=start.weekday())
    elif by is By.MONTH:
        day = start.replace(day=1)
    while True:
        yield day
        length = monthrange(day.year, day.month)[1] if by is By.MONTH else _DAYS[by]
        if (end - day).days < length:
            return
        day += timedelta(days=length)


def every_period(report: SalesReport) -> tuple[SalesRow, ...]:
    """Return a report's rows with those between them in which nothing was sold.

    Raises `Invalid` when there are more than `MOST_PERIODS`.
    """
    by = By(report.by)
    if by not in _DAYS:
        return report.rows
    if ((report.end - report.start).days + 1) / _DAYS[by] > MOST_PERIODS:
        coarser = "by week or by month" if by is By.DAY else "by month" if by is By.WEEK else "in parts"
        raise Invalid(f"that is too long a time {by.value} by {by.value}; look at it {coarser}")
    sold = {row.key: row for row in report.rows}
    return tuple(
        sold.get(str(day), SalesRow(str(day), _label(day, by), 0, 0, 0))
        for day in starts(report.start, report.end, by)
    )


def name_of(row: SalesRow, report: SalesReport) -> str:
    """Return what a row is called in full: `Saturday, 31 October 2026`, `Week 44, 26–31 October 2026`."""
    match By(report.by):
        case By.DAY:
            day = date.fromisoformat(row.key)
            return f"{day:%A}, {_written(day)}"
        case By.WEEK:
            week = date.fromisoformat(row.key).isocalendar().week
            return f"Week {week}, {days_of(row, report)}"
        case By.MONTH:
            return row.label if is_whole_month(row, report) else days_of(row, report)
        case _:
            return row.label


def days_of(row: SalesRow, report: SalesReport) -> str:
    """Return which days of a week or month are in the report: at its ends they may be cut."""
    first, last = _cut(row, report)
    if first == last:
        return _written(first)
    if (first.year, first.month) == (last.year, last.month):
        return f"{first.day}–{_written(last)}"
    if first.year == last.year:
        return f"{first.day} {first:%B} – {_written(last)}"
    return f"{_written(first)} – {_written(last)}"


def is_whole_month(row: SalesRow, report: SalesReport) -> bool:
    """Say whether a row is a month of which no day is cut off."""
    if report.by != By.MONTH:
        return False
    first, last = _cut(row, report)
    return first.day == 1 and last.day == monthrange(last.year, last.month)[1]


def _cut(row: SalesRow, report: SalesReport) -> tuple[date, date]:
    first = date.fromisoformat(row.key)
    length = monthrange(first.year, first.month)[1] if report.by == By.MONTH else _DAYS[By(report.by)]
    last = date.fromordinal(min(first.toordinal() + length - 1, report.end.toordinal()))
    return max(first, report.start), last


def _label(day: date, by: By) -> str:
    if by is By.MONTH:
        return f"{day:%B} {day.year}"
    if by is By.WEEK:
        week = day.isocalendar()
        return f"{week.year}-W{week.week:02}"
    return str(day)


def _written(day: date) -> str:
    return f"{day.day} {day:%B} {day.year}"
