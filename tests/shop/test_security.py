from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from tests.shop.running import ADMIN, ROOT, RunningShop

HTML = {"accept": "text/html"}


@pytest.fixture
def shop(cached_shop: RunningShop) -> RunningShop:
    """Nothing here depends on the database."""
    return cached_shop


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
    ],
    ids=str,
)
def test_other_sites_change_nothing(shop: RunningShop, headers: dict[str, str]) -> None:
    """What another site makes a browser send is refused, also with the right cookie."""
    number = shop.product(name="Not For You")
    cookie = {"cookie": f"shop_session={shop.admin.cookies['shop_session']}"}
    client = shop.client()

    assert client.post(f"/admin/products/{number}/delete", headers={**headers, **cookie}).status_code == 403
    assert client.delete(f"/api/products/{number}", headers={**headers, **cookie}).status_code == 403
    assert client.post("/logout", headers={**headers, **cookie}).status_code == 403
    assert client.get("/api/me", headers=cookie).status_code == 200
    assert client.get(f"/api/products/{number}").status_code == 200


@pytest.mark.parametrize("headers", [{"sec-fetch-site": "same-origin"}, {"origin": "self"}, {}], ids=str)
def test_our_own_forms_work(shop: RunningShop, headers: dict[str, str]) -> None:
    """Forms of our own pages, and clients that are no browsers, are served."""
    sent = {name: shop.base_url if value == "self" else value for name, value in headers.items()}
    assert shop.client().post("/login", data=ADMIN, headers=sent).status_code == 303


def test_json_routes_take_only_json(client: httpx.Client) -> None:
    """A form cannot be posted at the JSON interface."""
    answer = client.post("/api/login", data=ADMIN)

    assert answer.status_code == 415
    assert answer.json()["detail"] == "send application/json"
    assert (
        client.post("/api/login", content=b"{", headers={"content-type": "application/json"}).status_code
        == 422
    )


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/api/nothing", 404), ("PATCH", "/api/products/1", 405), ("GET", "/api/me", 401)],
)
def test_errors_of_the_interface_are_json(client: httpx.Client, method: str, path: str, status: int) -> None:
    """Under /api/ every error is JSON with a detail, also for a browser."""
    answer = client.request(method, path, headers=HTML)

    assert answer.status_code == status
    assert isinstance(answer.json()["detail"], str)


@pytest.mark.parametrize(
    "path", ["/nothing", "/products/999999", "/products/0", "/products/x", "/?category=nowhere"]
)
def test_errors_of_pages_are_pages(client: httpx.Client, path: str) -> None:
    """A browser gets a page, anything else JSON."""
    page = client.get(path, headers=HTML)

    assert page.status_code == 404
    assert "<h1>Not found</h1>" in page.text
    assert client.get(path).json()["detail"]


def test_pages_of_administrators(shop: RunningShop, client: httpx.Client) -> None:
    """The editor asks visitors to log in, and customers to leave."""
    asked = client.get("/admin/products?q=lamp", headers=HTML)

    assert asked.status_code == 303
    assert asked.headers["location"] == "/login?next=/admin/products%3Fq%3Dlamp"
    assert shop.customer().get("/admin/products", headers=HTML).status_code == 403
    for path in ("/admin/products/new", "/admin/products/1", "/admin/products/1/delete"):
        assert shop.customer().post(path, data={"name": "x"}, headers=HTML).status_code == 403


@pytest.mark.parametrize("target", ["https://evil.example/", "//evil.example", "/\\evil.example", "evil", ""])
def test_log_in_stays_here(shop: RunningShop, target: str) -> None:
    """A log-in goes on to a page of the shop, wherever the link wanted it to go."""
    answer = shop.client().post("/login", data={**ADMIN, "next": target})
    assert answer.headers["location"] == "/"


def test_text_is_only_text(shop: RunningShop, client: httpx.Client) -> None:
    """Nothing that was typed becomes markup."""
    number = shop.product(name="<script>alert(1)</script>", description='"><img src=x onerror=alert(1)>')
    for path in (f"/products/{number}", "/?category=lamps-lighting", "/?q=<script>alert(1)</script>"):
        page = client.get(path).text
        assert "<script>" not in page
        assert "<img" not in page
    shop.admin.delete(f"/api/products/{number}")


def test_pages_name_no_other_host(client: httpx.Client) -> None:
    """Everything that a page needs is here, and the policy says so to the browser."""
    page = client.get("/")
    files = [*(ROOT / "shop" / "templates").iterdir(), *(ROOT / "shop" / "static").iterdir()]

    assert "default-src 'self'" in page.headers["content-security-policy"]
    for text in (page.text, *(Path(each).read_text() for each in files)):
        assert not re.search(r"(src|href|url)\W{1,3}(https?:)?//", text)


def test_static_files_can_be_kept(client: httpx.Client) -> None:
    """An address with a digest may be kept for ever; it is not outside its folder."""
    link = re.search(r'href="(/static/shop\.css\?v=[0-9a-f]+)"', client.get("/").text)
    assert link is not None
    assert "immutable" in client.get(link[1]).headers["cache-control"]
    assert client.get("/static/%2e%2e/settings.py").status_code == 404


def test_health(client: httpx.Client) -> None:
    """All is well, and says so."""
    said = client.get("/health").json()
    assert {name: said[name] for name in ("status", "database", "redis")} == dict.fromkeys(
        ("status", "database", "redis"), "ok"
    )
