"""The shop in a real browser."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser import CONTRAST, OpenPage
from tests.shop.running import ADMIN, RunningShop


def log_in(page: Page) -> None:
    page.goto("/login")
    page.get_by_label("E-mail address").fill(ADMIN["email"])
    page.get_by_label("Password").fill(ADMIN["password"])
    page.get_by_role("main").get_by_role("button", name="Log in").click()
    expect(page.get_by_role("button", name="Log out")).to_be_visible()


def test_search_and_category(open_page: OpenPage) -> None:
    """A visitor searches, opens a category, sorts it, and comes to a product."""
    page = open_page()
    page.goto("/")
    page.get_by_label("Search the shop").fill("lamp")
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("“lamp”")
    page.get_by_text("Electronics", exact=True).click()
    page.get_by_role("link", name="Headphones").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Headphones")
    page.get_by_label("Sort by").select_option("price")
    page.get_by_role("button", name="Apply").click()
    assert "sort=price" in page.url
    name = page.locator(".card .name").first.inner_text()
    page.locator(".card a").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text(name)
    expect(page.locator(".took")).to_contain_text("Made in")


def test_a_new_price_is_on_the_storefront_at_once(open_page: OpenPage, cached_shop: RunningShop) -> None:
    """An administrator changes a price; a visitor's next look shows it, in the list and on the page."""
    number = cached_shop.product(name="Watched Barometer", price_cents=1000)
    visitor, admin = open_page(), open_page()
    for _ in range(2):
        visitor.goto("/?q=barometer")
    expect(visitor.locator(".took")).to_contain_text("hit")
    expect(visitor.locator(".card .price")).to_have_text("€10.00")
    log_in(admin)

    admin.goto(f"/products/{number}")
    admin.get_by_role("link", name="Edit this product").click()
    admin.get_by_label("Price in €").fill("12.34")
    admin.get_by_role("button", name="Save").click()
    expect(admin.get_by_role("status")).to_contain_text("Saved.")
    visitor.reload()

    expect(visitor.locator(".card .price")).to_have_text("€12.34")
    expect(visitor.locator(".took")).to_contain_text("load")
    visitor.goto(f"/products/{number}")
    expect(visitor.locator(".facts .price")).to_have_text("€12.34")


def test_add_and_delete(open_page: OpenPage) -> None:
    """An administrator adds a product, and deletes it after a question."""
    page = open_page()
    log_in(page)
    page.get_by_role("link", name="Products", exact=True).click()
    page.get_by_role("link", name="Add a product").click()
    page.get_by_label("Name").fill("Brief Candelabrum")
    page.get_by_label("Price in €").fill("20")
    page.get_by_label("Category").select_option("Candles & Vases")
    page.get_by_role("button", name="Add").click()
    page.get_by_role("link", name="Delete Brief Candelabrum").click()
    page.get_by_role("button", name="Delete it").click()
    expect(page.get_by_role("status")).to_have_text("The product was deleted.")
    page.goto("/?q=candelabrum")
    expect(page.get_by_text("Nothing fits.")).to_be_visible()


@pytest.mark.parametrize("script", [True, False])
def test_order_without_script(open_page: OpenPage, cached_shop: RunningShop, script: bool) -> None:
    """A new customer registers and orders, with JavaScript or without."""
    number = cached_shop.product(name="Ordered Kettle", price_cents=2500, stock=4)
    page = open_page(java_script_enabled=script)
    page.goto("/register")
    page.get_by_label("Your name").fill("Berta Browser")
    page.get_by_label("E-mail address").fill(f"berta{script}@example.org")
    page.get_by_label("Password").fill("long enough")
    page.get_by_role("main").get_by_role("button", name="Register").click()
    page.goto(f"/products/{number}")
    page.get_by_label("Quantity").fill("3")
    page.get_by_role("button", name="Order").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Thank you, Berta Browser")
    expect(page.locator("tfoot")).to_contain_text("€75.00")
    page.get_by_role("link", name="Ordered Kettle").click()
    expect(page.get_by_text("Only 1 left")).to_be_visible()


@pytest.mark.parametrize(
    "path", ["/", "/?category=rugs", "/products/1", "/login", "/admin/products", "/admin/products/1"]
)
def test_fits_a_phone(open_page: OpenPage, path: str) -> None:
    """Nothing is wider than a phone, and what is tapped is large enough."""
    page = open_page(width=360, height=740)
    if path.startswith("/admin"):
        log_in(page)
    page.goto(path)

    assert page.evaluate("document.documentElement.scrollWidth") == 360
    for button in page.locator("main button:visible, .pages a:visible").all():
        box = button.bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) >= 24


def test_categories_fold_on_a_phone(open_page: OpenPage) -> None:
    """On a phone the categories are one touch away; on a desktop they are there."""
    phone, desktop = open_page(width=390, height=844), open_page()
    phone.goto("/")
    desktop.goto("/")

    expect(desktop.get_by_text("Fashion", exact=True)).to_be_visible()
    expect(phone.get_by_text("Fashion", exact=True)).to_be_hidden()
    phone.get_by_text("Categories", exact=True).click()
    expect(phone.get_by_text("Fashion", exact=True)).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(open_page: OpenPage, scheme: str) -> None:
    """Every text has the contrast that WCAG 2.2 asks for (4.5 to 1), in light and in dark."""
    page = open_page(color_scheme=scheme)
    for path in ("/", "/?category=rugs", "/products/1", "/login"):
        page.goto(path)
        poor = page.evaluate(CONTRAST)
        assert poor == [], path


def test_keyboard(open_page: OpenPage) -> None:
    """The first Tab offers to skip to the content, and the focus can be seen."""
    page = open_page()
    page.goto("/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("#main$"))
    page.get_by_label("Search the shop").focus()
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
