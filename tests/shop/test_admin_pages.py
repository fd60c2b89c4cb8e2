"""The administrator's figures as pages and as a file."""

from __future__ import annotations

import csv
import io
import re
from datetime import date
from typing import Any

import httpx
import pytest
from markupsafe import escape

from shop.errors import Invalid
from shop.pages.admin import _text as cell
from shop.pages.periods import MOST_PERIODS, days_of, every_period, name_of, preset, starts
from shop.reports import By
from shop.views import SalesReport, SalesRow
from tests.shop.running import RunningShop, Shops

HTML = {"accept": "text/html"}
PAGES = ("/admin/dashboard", "/admin/reports", "/admin/reports.csv")


@pytest.fixture
def admin(shop: RunningShop) -> httpx.Client:
    return shop.admin


@pytest.fixture(params=["sqlite-plain", "postgres-plain"])
def fresh_shop(request: pytest.FixtureRequest, shops: Shops) -> RunningShop:
    """A shop whose figures are never older than the question."""
    return shops.get(request.param)


def price(cents: int) -> str:
    return f"€{cents / 100:,.2f}"


def body(page: httpx.Response) -> list[list[str]]:
    """Return the cells of a page's table of figures."""
    assert page.status_code == 200, page.text
    table = re.findall(r"<tbody>(.*?)</tbody>", page.text, re.S)[-1]
    return [
        [re.sub(r"<[^>]+>", "", each).strip() for each in re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.S)]
        for row in re.findall(r"<tr.*?>(.*?)</tr>", table, re.S)
    ]


def file(client: httpx.Client, query: str) -> list[dict[str, str]]:
    answer = client.get(f"/admin/reports.csv?{query}")
    assert answer.status_code == 200, answer.text
    return list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"))))


# -- who may ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES)
def test_only_for_administrators(shop: RunningShop, client: httpx.Client, path: str) -> None:
    """Visitors are asked to log in, customers are turned away, and nobody keeps a copy for others."""
    asked = client.get(path, headers=HTML)

    assert asked.status_code == 303
    assert asked.headers["location"] == f"/login?next={path}"
    assert shop.customer().get(path, headers=HTML).status_code == 403
    assert shop.admin.get(path).headers["cache-control"] == "private, no-cache"


def test_navigation(shop: RunningShop, admin: httpx.Client) -> None:
    """Administrators find their pages on every page, customers only their account, visitors neither."""
    links = '<a href="/admin/dashboard"', '<a href="/admin/reports"', '<a href="/admin/products"'
    page, customers, visitors = (each.get("/").text for each in (admin, shop.customer(), shop.client()))

    assert all(link in page for link in links)
    assert 'href="/account"' in page
    assert "/admin/" not in customers
    assert 'href="/account"' in customers
    assert 'href="/account"' not in visitors
    assert '<a href="/admin/reports" aria-current="page">' in admin.get("/admin/reports").text
    assert '<a href="/admin/products" aria-current="true">' in admin.get("/admin/products/1").text
    assert admin.get("/admin").headers["location"] == "/admin/dashboard"


# -- dashboard --------------------------------------------------------------------------------------------------------


def test_dashboard_shows_the_figures(fresh_shop: RunningShop) -> None:
    """Page and JSON say the same, and the page says of which day it is."""
    admin = fresh_shop.admin
    stats = admin.get("/api/dashboard/stats").json()
    page = admin.get("/admin/dashboard").text

    assert f'<time datetime="{stats["as_of"]}">' in page
    for what in ("revenue_30d_cents", "revenue_cents", "average_order_cents"):
        assert price(stats[what]) in page
    for what in ("orders_30d", "customers", "products"):
        assert f"<b>{stats[what]:,}</b>" in page
    for row in (*stats["top_products"], *stats["top_categories"]):
        assert escape(row["label"]) in page
    assert page.count('class="datum"') == 30 + len(stats["top_products"]) + len(stats["top_categories"])
    assert f"<b>{stats['out_of_stock']:,}</b> products are sold out" in page
    assert len(body(admin.get("/admin/dashboard"))) == 30


# -- reports ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", list(By))
def test_page_and_file_have_all_rows(admin: httpx.Client, by: By) -> None:
    """The table, the file and the JSON have the same figures, and the page their totals."""
    query = f"from=2026-01-10&to=2026-06-20&by={by}"
    report = admin.get(f"/api/reports/sales?{query}").json()
    page = admin.get(f"/admin/reports?{query}")
    table, rows = body(page), file(admin, query)
    sold = [
        [price(each["revenue_cents"]), str(each["orders"]), str(each["units"])] for each in report["rows"]
    ]

    assert [row[1:4] for row in table if row[2] != "0"] == sold
    assert [[f"€{float(row['revenue_eur']):,.2f}", row["orders"], row["units"]] for row in rows] == [
        row[1:4] for row in table
    ]
    for total in (
        price(report["revenue_cents"]),
        f"<b>{report['orders']:,}</b>",
        f"<b>{report['units']:,}</b>",
    ):
        assert total in page.text
    link = re.search(r'href="(/admin/reports\.csv[^"]+)"', page.text)
    assert link is not None
    assert link[1].replace("&amp;", "&") == f"/admin/reports.csv?{query}"


def test_days_without_sales_are_there(admin: httpx.Client) -> None:
    """A day on which nothing was sold is in the chart, the table and the file."""
    page = admin.get("/admin/reports?from=2024-10-25&to=2024-11-05")

    assert [row[0] for row in body(page)][:2] == ["Fri 2024-10-25", "Sat 2024-10-26"]
    assert len(body(page)) == page.text.count('class="datum"') == 12
    assert file(admin, "from=2024-10-25&to=2024-11-05")[0] == {
        "day": "2024-10-25",
        "orders": "0",
        "units": "0",
        "revenue_eur": "0.00",
    }


def test_without_a_range(fresh_shop: RunningShop) -> None:
    """By default the 30 days up to the newest order are shown; other ranges count back from it too."""
    shop, admin = fresh_shop, fresh_shop.admin
    shop.customer().post("/api/orders", json={"lines": [{"product_id": shop.product(), "quantity": 1}]})
    newest = date.fromisoformat(admin.get("/api/dashboard/stats").json()["as_of"])
    plain = admin.get("/admin/reports").text
    this_year = admin.get("/admin/reports?range=year&by=month").text

    assert '<a href="/admin/reports?range=30d&amp;by=day" aria-current="true">' in plain
    assert f'name="to" type="date" min="0001-01-01" max="9999-12-31" value="{newest}"' in plain
    assert f'value="{newest.year}-01-01"' in this_year
    assert f'value="{newest}"' in this_year
    assert '<a href="/admin/reports?range=year&amp;by=month" aria-current="true">' in this_year


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("from=yesterday", "“From” must be a day"),
        ("to=2026-13-01", "“To” must be a day"),
        ("from=2026-02-01&to=2026-01-01", "From (2026-02-01) is after to (2026-01-01)."),
        ("by=hour", "Reports are by day, week, month, category or product."),
        ("range=forever", "There is no such range of days."),
        (
            "from=2000-01-01&to=2026-01-01",
            "That is too long a time day by day; look at it by week or by month.",
        ),
        ("from=0001-01-01&to=9999-12-31&by=month", "That is too long a time month by month"),
    ],
)
def test_what_makes_no_sense(admin: httpx.Client, query: str, said: str) -> None:
    """The page says what is wrong and keeps what was asked for; the file is refused."""
    page = admin.get(f"/admin/reports?{query}", headers=HTML)

    assert page.status_code == 422
    assert said in page.text
    for name, value in httpx.QueryParams(query).items():
        if name in ("from", "to"):
            assert f'value="{value}"' in page.text
    assert admin.get(f"/admin/reports.csv?{query}").status_code == 422


@pytest.mark.parametrize("by", ["category", "product"])
def test_any_time_fits_without_periods(admin: httpx.Client, by: str) -> None:
    assert body(admin.get(f"/admin/reports?from=0001-01-01&to=9999-12-31&by={by}"))


def test_names_are_only_text(fresh_shop: RunningShop) -> None:
    """A product's name is no markup on the pages, and no formula in the file."""
    shop, admin = fresh_shop, fresh_shop.admin
    number = shop.product(name='=HYPERLINK("https://evil.example","<b>Lamp</b>")', price_cents=9_000_000)
    order = {"lines": [{"product_id": number, "quantity": 10}]}
    assert shop.customer().post("/api/orders", json=order).status_code == 201
    dashboard, report = admin.get("/admin/dashboard").text, admin.get("/admin/reports?by=product").text
    found = next(row for row in file(admin, "by=product") if row["product_id"] == str(number))

    for page in (dashboard, report):
        assert "&lt;b&gt;Lamp&lt;/b&gt;" in page
        assert "<b>Lamp" not in page
    assert found["name"] == '\'=HYPERLINK("https://evil.example","<b>Lamp</b>")'


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "\n@x", "＝1", "|calc", "\t"]
)
def test_no_text_is_a_formula(text: str) -> None:
    """OWASP's list of what begins a formula, also behind blanks."""
    assert cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["Lamp", "", " Lamp", "2026-W44", "A=1", "Candles & Vases"])
def test_other_texts_stay(text: str) -> None:
    assert cell(text) == text


def test_the_file_has_a_name(admin: httpx.Client) -> None:
    """A browser saves it under a name that says what it is; spreadsheets see that it is UTF-8."""
    answer = admin.get("/admin/reports.csv?from=2026-01-01&to=2026-01-31&by=week")

    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == (
        'attachment; filename="sales-by-week-2026-01-01-to-2026-01-31.csv"'
    )
    assert answer.content.startswith(
        b"\xef\xbb\xbfmonday,week,orders,units,revenue_eur\r\n2025-12-29,2026-W01,"
    )


# -- periods ----------------------------------------------------------------------------------------------------------


def report(start: str, end: str, by: By, *sold: str) -> SalesReport:
    rows = tuple(SalesRow(key, key, 1, 1, 100) for key in sold)
    first, last = date.fromisoformat(start), date.fromisoformat(end)
    return SalesReport(first, last, by.value, len(sold), len(sold), 100 * len(sold), rows)


@pytest.mark.parametrize(
    ("name", "newest", "days"),
    [
        ("7d", "2026-03-03", ("2026-02-25", "2026-03-03")),
        ("90d", "2026-03-31", ("2026-01-01", "2026-03-31")),
        ("month", "2026-03-03", ("2026-03-01", "2026-03-03")),
        ("last-month", "2026-03-31", ("2026-02-01", "2026-02-28")),
        ("last-month", "2026-01-15", ("2025-12-01", "2025-12-31")),
        ("year", "2026-03-03", ("2026-01-01", "2026-03-03")),
        ("30d", "0001-01-05", ("0001-01-01", "0001-01-05")),
        ("last-month", "0001-01-05", ("0001-01-01", "0001-01-05")),
    ],
)
def test_presets(name: str, newest: str, days: tuple[str, str]) -> None:
    """Ranges end on the day of the newest order, or with the month before it."""
    assert tuple(map(str, preset(name, date.fromisoformat(newest)))) == days


@pytest.mark.parametrize(
    ("start", "end", "by", "keys"),
    [
        ("2026-10-31", "2026-10-31", By.DAY, ["2026-10-31"]),
        ("2026-02-27", "2026-03-01", By.DAY, ["2026-02-27", "2026-02-28", "2026-03-01"]),
        ("2026-10-31", "2026-11-02", By.WEEK, ["2026-10-26", "2026-11-02"]),
        ("2026-10-26", "2026-11-01", By.WEEK, ["2026-10-26"]),
        ("2026-01-31", "2026-03-01", By.MONTH, ["2026-01-01", "2026-02-01", "2026-03-01"]),
        ("9999-12-30", "9999-12-31", By.DAY, ["9999-12-30", "9999-12-31"]),
        ("9999-12-30", "9999-12-31", By.WEEK, ["9999-12-27"]),
        ("9999-11-30", "9999-12-31", By.MONTH, ["9999-11-01", "9999-12-01"]),
        ("0001-01-01", "0001-01-08", By.WEEK, ["0001-01-01", "0001-01-08"]),
    ],
)
def test_every_period(start: str, end: str, by: By, keys: list[str]) -> None:
    """Between two days there are all periods, also at the ends of the calendar."""
    found = report(start, end, by, keys[0])
    rows = every_period(found)

    assert [row.key for row in rows] == keys
    assert [row.orders for row in rows] == [1, *[0] * (len(keys) - 1)]
    assert list(map(str, starts(found.start, found.end, by))) == keys
    assert all(name_of(row, found) for row in rows)


def test_there_may_be_so_many_periods() -> None:
    """As many periods as a browser shows at once are shown, and no more."""
    assert len(every_period(report("2024-01-01", "2027-01-04", By.DAY))) == MOST_PERIODS
    with pytest.raises(Invalid):
        every_period(report("2024-01-01", "2027-01-05", By.DAY))


@pytest.mark.parametrize(
    ("by", "key", "name", "days"),
    [
        (By.DAY, "2026-10-31", "Saturday, 31 October 2026", None),
        (By.WEEK, "2026-10-05", "Week 41, 5–11 October 2026", "5–11 October 2026"),
        (By.WEEK, "2026-09-28", "Week 40, 1–4 October 2026", "1–4 October 2026"),
        (By.WEEK, "2026-10-26", "Week 44, 26 October – 1 November 2026", "26 October – 1 November 2026"),
        (
            By.WEEK,
            "2026-12-28",
            "Week 53, 28 December 2026 – 3 January 2027",
            "28 December 2026 – 3 January 2027",
        ),
        (By.WEEK, "2027-01-18", "Week 3, 18 January 2027", "18 January 2027"),
        (By.MONTH, "2026-11-01", "November 2026", "1–30 November 2026"),
        (By.MONTH, "2027-01-01", "1–18 January 2027", "1–18 January 2027"),
    ],
)
def test_names_of_periods(by: By, key: str, name: str, days: str | None) -> None:
    """A period has the days that are in the report: at its ends they may be cut."""
    found = report("2026-10-01", "2027-01-18", by)
    row: Any = next(each for each in every_period(found) if each.key == key)

    assert name_of(row, found) == name
    if days:
        assert days_of(row, found) == days
