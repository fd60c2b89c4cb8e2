"""Every address of the shop, asked by nobody, by those whose session has ended, and by those who may not."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import httpx

from tests.shop.running import RunningShop

COOKIE = "shop_session"
PAGES = {"accept": "text/html"}
#: What needs an account; forms and bodies are right, so that nothing but who asks is wrong.
OF_USERS: list[tuple[str, str, dict[str, Any]]] = [
    ("GET", "/account", {}),
    ("POST", "/account/password", {"data": {"current": "correct horse", "new": "another horse"}}),
    ("POST", "/account/sessions/end", {"data": {"id": "0" * 16}}),
    ("POST", "/account/sessions/end-others", {}),
    ("GET", "/orders/1", {}),
    ("POST", "/products/1/order", {"data": {"quantity": "1"}}),
    ("POST", "/products/1/reviews", {"data": {"rating": "5", "text": "good"}}),
    ("GET", "/api/me", {}),
    ("GET", "/api/sessions", {}),
    ("DELETE", "/api/sessions/" + "0" * 16, {}),
    ("DELETE", "/api/sessions", {}),
    ("POST", "/api/password", {"json": {"current": "correct horse", "new": "another horse"}}),
    ("POST", "/api/orders", {"json": {"lines": [{"product_id": 1, "quantity": 1}]}}),
    ("GET", "/api/orders/1", {}),
    ("POST", "/api/products/1/reviews", {"json": {"rating": 5, "text": "good"}}),
]
OF_ADMINISTRATORS: list[tuple[str, str, dict[str, Any]]] = [
    ("GET", "/admin", {}),
    ("GET", "/admin/dashboard", {}),
    ("GET", "/admin/reports", {}),
    ("GET", "/admin/reports.csv", {}),
    ("GET", "/admin/products", {}),
    ("GET", "/admin/products/new", {}),
    ("POST", "/admin/products/new", {"data": {"name": "x"}}),
    ("GET", "/admin/products/1", {}),
    ("POST", "/admin/products/1", {"data": {"name": "x"}}),
    ("GET", "/admin/products/1/delete", {}),
    ("POST", "/admin/products/1/delete", {}),
    ("GET", "/api/dashboard/stats", {}),
    ("GET", "/api/reports/sales", {}),
    ("POST", "/api/products", {"json": {"name": "x"}}),
    ("PUT", "/api/products/1", {"json": {"name": "x"}}),
    ("DELETE", "/api/products/1", {}),
]


def refused(answer: httpx.Response) -> bool:
    """Return whether an answer sends its client to the log-in."""
    to_login = answer.status_code == 303 and answer.headers["location"].startswith("/login?next=")
    return to_login or answer.status_code == 401


def ask(client: httpx.Client, address: tuple[str, str, dict[str, Any]], cookie: str | None) -> httpx.Response:
    method, path, given = address
    headers = {} if path.startswith("/api/") else dict(PAGES)
    if cookie is not None:
        headers["cookie"] = f"{COOKIE}={cookie}"
    return client.request(method, path, headers=headers, **given)


def test_nobody_is_let_in(shop: RunningShop) -> None:
    """Without a session, with one that has ended, with an id of one's own making and with nonsense."""
    client, asking = shop.customer(), shop.client()
    ended = client.cookies[COOKIE]
    assert client.get("/api/me").status_code == 200
    assert client.post("/api/logout").status_code == 204
    for address in OF_USERS + OF_ADMINISTRATORS:
        for cookie in (None, ended, "x" * 43, "x" * 5000, "\"';--", f"{ended}x", ""):
            answer = ask(asking, address, cookie)
            assert refused(answer), (address, cookie, answer.status_code, answer.text[:200])
            assert COOKIE not in answer.cookies


def test_customers_administrate_nothing(shop: RunningShop) -> None:
    """Who is logged in and no administrator is told so."""
    cookie, asking = shop.customer().cookies[COOKIE], shop.client()
    found = {address[:2]: ask(asking, address, cookie).status_code for address in OF_ADMINISTRATORS}
    assert found == dict.fromkeys(found, 403)


def test_two_change_the_password_at_once(shop: RunningShop) -> None:
    """One of them does, and is the only one who is still logged in."""
    here = shop.customer()
    account = here.get("/api/me").json()
    there, third = shop.client(), shop.client()
    for client in (there, third):
        given = {"email": account["email"], "password": "correct horse"}
        assert client.post("/api/login", json=given).status_code == 200
    barrier = Barrier(2)

    def change(client: httpx.Client, new: str) -> int:
        barrier.wait(20)
        return client.post("/api/password", json={"current": "correct horse", "new": new}).status_code

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(change, (here, there), ("battery staple", "staple battery")))
    assert sorted(found) in ([200, 401], [200, 409])
    assert [each.get("/api/me").status_code for each in (here, there)] == [
        200 if each == 200 else 401 for each in found
    ]
    assert third.get("/api/me").status_code == 401
