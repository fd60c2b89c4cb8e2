"""Two releases of the shop at once, on one database and one Redis, as for some minutes of every deploy.

The newer one (next_version.py) caches another shape under the next version number. A third shop, without a cache, says
what is true.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from neverstale.testing.servers import RedisServer
from tests.shop.next_version import LABEL, MARK
from tests.shop.running import ADMIN, RunningShop

WRITES = 15


@dataclass
class Deploy:
    """The release that is going, the one that is coming, and the truth."""

    old: RunningShop
    new: RunningShop
    plain: RunningShop

    @property
    def both(self) -> tuple[RunningShop, RunningShop]:
        return self.old, self.new


def started(database: str, redis: RedisServer) -> Iterator[Deploy]:
    plain = RunningShop(database, None)
    old = RunningShop(database, redis.url, namespace="test-deploy")
    new = RunningShop(database, redis.url, namespace="test-deploy", module="tests.shop.next_version")
    yield Deploy(old, new, plain)
    for shop in (old, new, plain):
        assert "Traceback" not in shop.stop()


@pytest.fixture(params=["sqlite", "postgres"])
def deploy(
    request: pytest.FixtureRequest, new_database: Callable[[str], str], redis_server: RedisServer
) -> Iterator[Deploy]:
    yield from started(new_database(request.param), redis_server)


def as_before(said: Any) -> Any:
    """Return JSON of the next release as the present one says it; fails if any of it is not of the next release."""
    if isinstance(said, dict):
        if "description" in said:
            assert said["label"] == LABEL, said
            assert said["description"].startswith(MARK), said
            said = {**said, "description": said["description"].removeprefix(MARK)}
            del said["label"]
        return {name: as_before(value) for name, value in said.items()}
    return [as_before(each) for each in said] if isinstance(said, list) else said


def differences(deploy: Deploy, paths: list[str], pages: list[tuple[str, str]]) -> list[str]:
    """Compare what both releases say with the truth, and look for the same words on pages."""
    wrong = []
    for path in paths:
        answers = [each.admin.get(path) for each in (deploy.plain, *deploy.both)]
        true, old, new = (each.json() for each in answers)
        assert MARK not in answers[1].text, path
        assert "label" not in answers[1].text or "/products" not in path, path
        if path.startswith("/api/products"):
            new = as_before(new) if answers[2].status_code == 200 else new
        if [each.status_code for each in answers] != [answers[0].status_code] * 3 or not true == old == new:
            wrong.append(f"{path}: {[each.text[:300] for each in answers]}")
    for path, words in pages:
        for name, shop in (("old", deploy.old), ("new", deploy.new)):
            text = shop.client().get(path).text
            if words not in text:
                wrong.append(f"{path} of the {name} release does not say {words!r}")
            assert (MARK in text) <= (name == "new"), path
    return wrong


@contextmanager
def readers(deploy: Deploy, number: int, confirmed: list[int]) -> Iterator[list[str]]:
    """Have both releases read all the time; gives what was wrong."""
    over, wrong = threading.Event(), list[str]()

    def read(shop: RunningShop, is_new: bool) -> None:
        with httpx.Client(base_url=shop.base_url, timeout=30) as client:
            while not over.wait(0.01):  # the shops share the machine with the readers
                known = confirmed[-1]
                said = client.get(f"/api/products/{number}").json()
                if said["price_cents"] < known:
                    wrong.append(f"{said['price_cents']} was read after {known} was saved")
                if (said.get("label") == LABEL) is not is_new or said["description"].startswith(
                    MARK
                ) is not is_new:
                    wrong.append(f"of another release: {said}")

    threads = [threading.Thread(target=read, args=(shop, shop is deploy.new)) for shop in deploy.both]
    for each in threads:
        each.start()
    try:
        yield wrong
    finally:
        over.set()
        for each in threads:
            each.join()


def test_a_write_through_either_is_seen_in_both(deploy: Deploy) -> None:
    """Whichever release writes, neither says anything old afterwards, and none takes the other's data for its own."""
    rng = random.Random(4)
    number = deploy.plain.product(name="Rolling Lamp", price_cents=1000, stock=500)
    confirmed = [1000]
    reviewers = 0
    paths = [
        f"/api/products/{number}",
        "/api/products?q=rolling",
        "/api/products?category=7&sort=-price",
        "/api/products?category=8&sort=rating",
        "/api/categories",
        "/api/dashboard/stats",
        "/api/reports/sales?by=product",
    ]
    customers = {id(shop): shop.customer() for shop in deploy.both}
    differences(deploy, paths, [])
    with readers(deploy, number, confirmed) as wrong:
        for _ in range(WRITES):
            # Both have it all cached: from the comparison before.
            shop = rng.choice(deploy.both)
            kind = rng.choice(["price", "move", "order", "review", "come and go"])
            price = confirmed[-1]
            match kind:
                case "price" | "move":
                    price += 1
                    data = {
                        "name": "Rolling Lamp",
                        "description": "Rolls.",
                        "price_cents": price,
                        "stock": 500,
                        "category_id": 7 if kind == "price" else rng.choice([7, 8]),
                    }
                    answer = shop.admin.put(f"/api/products/{number}", json=data)
                    confirmed.append(price)
                case "order":
                    lines = [{"product_id": number, "quantity": 1}]
                    answer = customers[id(shop)].post("/api/orders", json={"lines": lines})
                case "review":
                    reviewers += 1
                    review = {"rating": rng.randint(1, 5), "title": "Rolls", "body": "It does."}
                    answer = shop.customer().post(f"/api/products/{number}/reviews", json=review)
                case _:
                    other = shop.product(name="Rolling Chair", price_cents=9_000)
                    assert differences(deploy, [*paths, f"/api/products/{other}"], []) == []
                    answer = shop.admin.delete(f"/api/products/{other}")
                    assert differences(deploy, [f"/api/products/{other}"], []) == []
            assert answer.is_success, answer.text
            euros = f"{price / 100:,.2f}"
            pages = [(f"/products/{number}", euros), ("/?q=rolling+lamp", euros)]
            assert differences(deploy, paths, pages) == [], f"after {kind} through {shop.base_url}"
    assert wrong == []


def test_sessions_go_on_in_both(deploy: Deploy) -> None:
    """Who has logged in with one release is known to the other, and who has logged out with one is out in both."""
    for first, second in (deploy.both, deploy.both[::-1]):
        customer = first.customer()
        cookie = {"cookie": f"shop_session={customer.cookies['shop_session']}"}
        known = [httpx.get(f"{shop.base_url}/api/me", headers=cookie) for shop in deploy.both * 2]
        assert [each.status_code for each in known] == [200] * 4
        assert len({each.text for each in known}) == 1
        assert httpx.post(f"{second.base_url}/api/logout", headers=cookie).status_code == 204
        after = [httpx.get(f"{shop.base_url}/api/me", headers=cookie).status_code for shop in deploy.both]
        assert after == [401, 401]


def test_password_changed_in_one_ends_sessions_in_both(deploy: Deploy) -> None:
    """All sessions of a user but the one that asked are over, whichever release has them cached."""
    changing = deploy.old.customer()
    email = changing.get("/api/me").json()["email"]
    elsewhere = deploy.new.client()
    password = {"email": email, "password": "correct horse"}
    assert elsewhere.post("/api/login", json=password).status_code == 200
    assert elsewhere.get("/api/me").status_code == 200
    new = {"current": "correct horse", "new": "battery staple"}
    assert changing.post("/api/password", json=new).status_code == 200
    cookie = {"cookie": f"shop_session={elsewhere.cookies['shop_session']}"}
    for shop in deploy.both:
        assert httpx.get(f"{shop.base_url}/api/me", headers=cookie).status_code == 401
    assert deploy.new.client().post("/api/login", json=ADMIN).status_code == 200
