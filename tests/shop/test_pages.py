from __future__ import annotations

import re

import httpx
import pytest

from tests.shop.running import ADMIN, RunningShop

HTML = {"accept": "text/html"}


def test_every_page_says_how_it_was_made(shop: RunningShop) -> None:
    """The footer says how long it took and where it came from: load, then hit, or off."""
    client = shop.client()
    shop.product(name="Footer Lamp")
    said = [
        re.search(r'class="took" data-cache="(\w+)">Made in \d+\.\d ms', client.get("/?q=footer").text)
        for _ in range(2)
    ]

    assert [each and each[1] for each in said] == (["load", "hit"] if shop.cached else ["off", "off"])
    login = client.get("/login").text
    assert 'data-cache="none"' in login


def test_storefront_forgives(client: httpx.Client) -> None:
    """A wrong number in an address is read as if it were not there."""
    plain = client.get("/")
    odd = client.get("/?page=x&min=abc&max=-3&sort=cheapest&page=0")

    assert odd.status_code == 200
    assert re.findall(r'href="/products/\d+"', odd.text) == re.findall(r'href="/products/\d+"', plain.text)


def test_price_filter_is_in_euros(client: httpx.Client) -> None:
    """People filter by euros, with a point or a comma, in either order."""
    pages = [
        client.get(f"/?category=rugs&{query}").text for query in ("min=50&max=99.95", "min=99,95&max=50")
    ]

    prices = [int(each) for each in re.findall(r'class="price">€(\d+)\.', pages[0])]
    assert prices
    assert all(50 <= price < 100 for price in prices)
    assert re.findall(r"/products/\d+", pages[0]) == re.findall(r"/products/\d+", pages[1])


def test_pagination_keeps_the_filters(client: httpx.Client) -> None:
    """The way to the next page keeps what was asked for."""
    page = client.get("/?q=made&sort=price&min=1").text
    link = re.search(r'rel="next" href="([^"]+)"', page)

    assert link is not None
    assert link[1] == "/?q=made&amp;min=1&amp;sort=price&amp;page=2"
    assert "Price, low to high" in client.get(link[1].replace("&amp;", "&")).text


def test_nothing_found(client: httpx.Client) -> None:
    """An empty list says so."""
    assert "Nothing fits." in client.get("/?q=xyzzyplugh").text
    assert "Back to the first" in client.get("/?category=rugs&page=5000").text


def test_order_from_the_page(shop: RunningShop) -> None:
    """A customer orders from the product's page; a visitor is asked to log in."""
    number = shop.product(name="Page Lamp", stock=2)
    assert f"/login?next=/products/{number}" in shop.client().get(f"/products/{number}").text
    customer = shop.customer()
    assert f'action="/products/{number}/order"' in customer.get(f"/products/{number}").text

    placed = customer.post(f"/products/{number}/order", data={"quantity": "2"})
    again = customer.post(f"/products/{number}/order", data={"quantity": "1"}, headers=HTML)

    assert placed.status_code == 303
    assert "Page Lamp" in customer.get(placed.headers["location"]).text
    assert again.status_code == 409
    assert "Sorry, Page Lamp is sold out." in again.text
    assert shop.customer().get(placed.headers["location"], headers=HTML).status_code == 404


def test_review_from_the_page(shop: RunningShop) -> None:
    """A customer writes a review, once."""
    number = shop.product(name="Talked-about Lamp")
    customer = shop.customer()
    review = {"rating": "4", "title": "Bright", "body": "Very."}

    assert customer.post(f"/products/{number}/reviews", data=review).status_code == 303
    assert "Bright" in shop.client().get(f"/products/{number}").text
    again = customer.post(f"/products/{number}/reviews", data=review, headers=HTML)
    assert "reviewed this product already" in again.text
    assert customer.post(f"/products/{number}/reviews", data={"rating": "9"}, headers=HTML).status_code == 422


def test_register_and_log_in_by_form(shop: RunningShop) -> None:
    """Forms say at each field what is wrong, and keep what was typed, but no password."""
    client = shop.client()
    wrong = client.post("/register", data={"email": "nobody", "name": "Ada", "password": "short"})

    assert wrong.status_code == 422
    assert 'value="nobody"' in wrong.text
    assert "is not an e-mail address" in wrong.text
    assert "must have 8 to 128 characters" in wrong.text
    assert "short" not in re.sub(r"<head>.*?</head>", "", wrong.text, flags=re.S)
    account = {"email": f"form{shop.port}@example.org", "name": "Ada Form", "password": "long enough"}
    assert client.post("/register", data=account).status_code == 303
    assert "Ada Form" in client.get("/").text
    assert client.post("/logout").status_code == 303
    assert "Ada Form" not in client.get("/").text
    assert client.post("/register", data=account).status_code == 409
    refused = client.post("/login", data={**account, "password": "not this"})
    assert refused.status_code == 401
    assert "Wrong e-mail address or password." in refused.text
    assert client.post("/login", data={**account, "next": "/?q=oak"}).headers["location"] == "/?q=oak"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("price", "abc"),
        ("price", "-1"),
        ("price", "1.234"),
        ("price", ""),
        ("price", "²"),
        ("stock", "-1"),
        ("stock", "many"),
        ("name", ""),
        ("category_id", ""),
        ("category_id", "999"),
    ],
)
def test_editor_says_what_is_wrong(shop: RunningShop, field: str, value: str) -> None:
    """What cannot be saved is marked, and what was typed stays."""
    given = {"name": "Kept <Name>", "description": "Kept.", "price": "1.50", "stock": "1", "category_id": "7"}
    answer = shop.admin.post("/admin/products/new", data={**given, field: value}, headers=HTML)

    assert answer.status_code == 422
    assert f'id="{field}-problem"' in answer.text
    if field != "name":
        assert "Kept &lt;Name&gt;" in answer.text


def test_editor(shop: RunningShop) -> None:
    """An administrator adds, changes and deletes a product by forms."""
    admin, visitor = shop.admin, shop.client()
    given = {"name": "Edited Lamp", "description": "", "price": "€ 12,5", "stock": "4", "category_id": "7"}

    assert admin.post("/admin/products/new", data=given).headers["location"] == "/admin/products?said=created"
    listed = admin.get("/admin/products?q=edited+lamp&said=created").text
    number = re.search(r'href="/admin/products/(\d+)"', listed)
    assert number is not None
    assert "The product was added." in listed
    assert "€12.50" in visitor.get(f"/products/{number[1]}").text
    edit = f"/admin/products/{number[1]}"
    assert 'value="12.50"' in admin.get(edit).text
    assert admin.post(edit, data={**given, "price": "13"}).headers["location"] == f"{edit}?said=saved"
    assert "€13.00" in visitor.get(f"/products/{number[1]}").text
    assert "Delete this product?" in admin.get(f"{edit}/delete").text
    assert admin.post(f"{edit}/delete").status_code == 303
    assert visitor.get(f"/products/{number[1]}").status_code == 404
    assert admin.get(edit, headers=HTML).status_code == 404
    assert admin.post(edit, data=given, headers=HTML).status_code == 404


def test_editor_does_not_bring_back_what_was_sold(shop: RunningShop) -> None:
    """Who changes a price does not undo the orders that came in since the form was opened."""
    number = shop.product(stock=10)
    path = f"/admin/products/{number}"
    form = dict(re.findall(r'<input[^>]* name="(\w+)"[^>]* value="([^"]*)"', shop.admin.get(path).text))
    form = {**form, "description": "", "category_id": "7", "price": "9.99"}
    shop.customer().post("/api/orders", json={"lines": [{"product_id": number, "quantity": 4}]})

    assert shop.admin.post(path, data=form).status_code == 303
    after = shop.client().get(f"/api/products/{number}").json()
    assert (after["stock"], after["price_cents"]) == (6, 999)
    assert shop.admin.post(path, data={**form, "stock": "20"}).status_code == 303
    assert shop.client().get(f"/api/products/{number}").json()["stock"] == 20


@pytest.mark.parametrize("path", ["/", "/products/1", "/api/products/1", "/nothing"])
def test_head(client: httpx.Client, path: str) -> None:
    """A HEAD is answered like the GET, without the body."""
    head, full = client.head(path), client.get(path)

    assert head.status_code == full.status_code
    assert head.content == b""
    assert abs(int(head.headers["content-length"]) - len(full.content)) < 20  # the footer's time


def test_pages_are_marked_up_well(shop: RunningShop) -> None:
    """One main heading, one main landmark, a language, a label for every field, no id twice."""
    admin = shop.admin
    for path in (
        "/",
        "/?q=oak",
        "/products/1",
        "/admin/products",
        "/admin/products/1",
        "/admin/products/new",
    ):
        page = admin.get(path).text
        assert page.count("<h1") == page.count("<main") == 1
        assert '<html lang="en">' in page
        ids = re.findall(r' id="([^"]+)"', page)
        assert len(ids) == len(set(ids)), path
        fields = re.findall(r"<(?:input|select|textarea)\b(?![^>]*type=\"hidden\")[^>]*", page)
        for each in fields:
            name = re.search(r' id="([^"]+)"', each)
            assert name is not None, each
            assert f'for="{name[1]}"' in page, each


def test_logged_in_admin_sees_the_editor(shop: RunningShop) -> None:
    """Who is logged in goes straight on from the log-in page."""
    client = shop.client()
    client.post("/login", data=ADMIN)

    assert client.get("/login?next=/admin/products").headers["location"] == "/admin/products"
    assert "/admin/products/1" in client.get("/products/1").text
