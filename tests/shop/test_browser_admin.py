"""Dashboard, reports and account in a real browser."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from playwright.sync_api import expect

from tests.browser import CONTRAST, OpenPage
from tests.shop.running import ADMIN, RunningShop
from tests.shop.test_browser import log_in

YEARS = "from=2024-11-01&to=2026-10-31"
PAGES = (
    "/admin/dashboard",
    "/admin/reports",
    f"/admin/reports?{YEARS}&by=day",
    f"/admin/reports?{YEARS}&by=week",
    f"/admin/reports?{YEARS}&by=product",
    "/admin/reports?from=1990-01-01&to=1990-01-07",
    "/account",
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(open_page: OpenPage, scheme: str) -> None:
    """Every text has the contrast that WCAG 2.2 asks for, in light and in dark."""
    page = open_page(color_scheme=scheme)
    log_in(page)
    for path in PAGES:
        page.goto(path)
        assert page.evaluate(CONTRAST) == [], path


@pytest.mark.parametrize("width", [360, 640, 1024])
def test_fits(open_page: OpenPage, width: int) -> None:
    """Nothing is wider than the screen, and the labels of a chart do not run into each other."""
    page = open_page(width=width, height=740)
    log_in(page)
    for path in PAGES:
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth") == width, path
        labels = page.evaluate(
            """() => [...document.querySelectorAll('.over-time .when')].map(each => each.getBoundingClientRect())
            .filter(box => box.width > 0).map(box => [box.left, box.right])"""
        )
        assert bool(labels) == ("/admin/" in path and "by=product" not in path), path
        for one, other in pairwise(sorted(labels)):
            assert one[1] + 4 <= other[0], path
        for left, right in labels:
            assert left >= 0, path
            assert right <= width, path


def test_charts_at_phone_size_are_readable(open_page: OpenPage) -> None:
    """Letters in a chart are as large on a phone as on a desktop."""
    for width in (360, 1280):
        page = open_page(width=width)
        log_in(page)
        page.goto("/admin/dashboard")
        for label in page.locator(".chart text:visible").all()[:8]:
            box = label.bounding_box()
            assert box is not None
            assert box["height"] >= 12


def test_pointing_at_a_chart(open_page: OpenPage) -> None:
    """A mouse over a column shows what it stands for, inside the page; away from it the tip is gone."""
    page = open_page()
    log_in(page)
    page.goto("/admin/reports?from=2026-10-01&to=2026-10-31")
    tip = page.locator(".tip")
    expect(tip).to_be_hidden()
    for which, day in ((0, "Thursday, 1 October 2026"), (30, "Saturday, 31 October 2026")):
        page.locator(".over-time .datum").nth(which).hover()
        expect(tip).to_contain_text(day)
        expect(tip).to_contain_text(re.compile(r"€[\d,]+\.\d\d.*orders?, .*units?"))
        box = tip.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 1280
        expect(page.locator(".datum.on")).to_have_count(1)
    page.get_by_role("heading", level=1).hover()
    expect(tip).to_be_hidden()


def test_touching_a_chart(open_page: OpenPage) -> None:
    """A finger on a column shows what it stands for until another place is touched."""
    page = open_page(width=390, height=844, has_touch=True)
    log_in(page)
    page.goto(f"/admin/reports?{YEARS}&by=month")
    page.locator(".over-time .datum").nth(3).tap()
    expect(page.locator(".tip")).to_contain_text("February 2025")
    page.get_by_role("heading", level=1).tap()
    expect(page.locator(".tip")).to_be_hidden()


def test_keys_on_a_chart(open_page: OpenPage) -> None:
    """Arrow keys go along the values and say them, for eyes and for ears."""
    page = open_page()
    log_in(page)
    page.goto(f"/admin/reports?{YEARS}&by=month")
    chart, tip = page.get_by_role("slider"), page.locator(".tip")
    page.get_by_role("link", name="This year").focus()
    page.keyboard.press("Tab")
    expect(chart).to_be_focused()
    expect(tip).to_contain_text("October 2026")
    for key, month in (
        ("ArrowLeft", "September 2026"),
        ("ArrowRight", "October 2026"),
        ("ArrowRight", "October 2026"),
        ("Home", "November 2024"),
        ("PageUp", "January 2025"),
        ("End", "October 2026"),
    ):
        page.keyboard.press(key)
        expect(tip).to_contain_text(month)
        expect(chart).to_have_attribute("aria-valuetext", re.compile(f"^{month}, €"))
    page.keyboard.press("Escape")
    expect(tip).to_be_hidden()


def test_bars_lead_to_what_they_stand_for(open_page: OpenPage) -> None:
    """A name beside a bar is a link; reached by keyboard it shows all about it."""
    page = open_page()
    log_in(page)
    page.goto(f"/admin/reports?{YEARS}&by=category")
    name = page.locator(".bars a").first
    said = name.inner_text()
    name.focus()
    expect(page.locator(".tip")).to_contain_text(re.compile(r"orders, .* units, \d+\.\d% of revenue"))
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text(said)


@pytest.mark.parametrize("script", [True, False])
def test_a_report_is_asked_for(open_page: OpenPage, script: bool) -> None:
    """The form and the ranges work with JavaScript and without; the chart is there, and its words too."""
    page = open_page(java_script_enabled=script)
    log_in(page)
    page.get_by_role("link", name="Reports", exact=True).click()
    page.get_by_label("From", exact=True).fill("2026-03-01")
    page.get_by_label("to", exact=True).fill("2026-03-31")
    page.get_by_label("by", exact=True).select_option("week")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("heading", name="Revenue by week")).to_be_visible()
    expect(page.locator(".over-time .col")).to_have_count(6)
    expect(page.locator("tbody tr")).to_have_count(6)
    expect(page.locator(".datum title")).to_have_count(0 if script else 6)
    expect(
        page.get_by_role("img", name="Revenue by week") if not script else page.get_by_role("slider")
    ).to_be_visible()
    page.get_by_role("link", name="This year").click()
    expect(page.get_by_label("by", exact=True)).to_have_value("week")
    expect(page.get_by_role("link", name="This year")).to_have_attribute("aria-current", "true")


def test_a_report_is_downloaded(open_page: OpenPage) -> None:
    """The link saves the figures that are on the page."""
    page = open_page()
    log_in(page)
    page.goto(f"/admin/reports?{YEARS}&by=month")
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download as CSV").click()
    saved = waiting.value

    assert saved.suggested_filename == "sales-by-month-2024-11-01-to-2026-10-31.csv"
    assert len(saved.path().read_text("utf-8-sig").splitlines()) == 25


def test_sessions_are_ended(open_page: OpenPage, cached_shop: RunningShop) -> None:
    """Somebody looks where they are logged in, ends one session, and that browser is out at once."""
    here, there = open_page(), open_page(user_agent="Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Firefox/128.0")
    here.goto("/register")
    here.get_by_label("Your name").fill("Sesam Open")
    here.get_by_label("E-mail address").fill("sesam@example.org")
    here.get_by_label("Password").fill(ADMIN["password"])
    here.get_by_role("main").get_by_role("button", name="Register").click()
    there.goto("/login")
    there.get_by_label("E-mail address").fill("sesam@example.org")
    there.get_by_label("Password").fill(ADMIN["password"])
    there.get_by_role("main").get_by_role("button", name="Log in").click()
    here.get_by_role("link", name="Sesam Open").click()
    expect(here.locator(".sessions li")).to_have_count(2)
    here.get_by_role("button", name="End the session of Firefox on Linux").click()

    expect(here.get_by_role("status")).to_have_text("The session has ended.")
    expect(here.locator(".sessions li")).to_have_count(1)
    there.goto("/account")
    expect(there.get_by_role("heading", level=1)).to_have_text("Log in")


def test_the_password_is_changed(open_page: OpenPage) -> None:
    """A wrong password is said at its field, the right one changes it, and nobody has to log in again."""
    page = open_page()
    page.goto("/register")
    page.get_by_label("Your name").fill("Paula New")
    page.get_by_label("E-mail address").fill("paula@example.org")
    page.get_by_label("Password").fill("first password")
    page.get_by_role("main").get_by_role("button", name="Register").click()
    page.get_by_role("link", name="Paula New").click()
    page.get_by_label("Current password").fill("another password")
    page.get_by_label("New password").fill("second password")
    page.route(
        "**/account/password", lambda route: route.fulfill(response=route.fetch(), status=200)
    )  # 422: no error
    page.get_by_role("button", name="Change password").click()
    expect(page.get_by_label("Current password")).to_be_focused()
    expect(page.get_by_text("This is not your current password.")).to_be_visible()
    page.unroute("**/account/password")
    page.get_by_label("Current password").fill("first password")
    page.get_by_label("New password").fill("second password")
    page.get_by_role("button", name="Change password").click()
    expect(page.get_by_role("status")).to_contain_text("Your password was changed.")
    expect(page.get_by_role("link", name="Paula New")).to_be_visible()
