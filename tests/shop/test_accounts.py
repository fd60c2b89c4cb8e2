from __future__ import annotations

import sqlite3

import httpx
import pytest

from tests.shop.running import ADMIN, RunningShop

PASSWORD = "correct horse"


def register(client: httpx.Client, email: str, password: str = PASSWORD) -> httpx.Response:
    return client.post("/api/register", json={"email": email, "name": "Ada Test", "password": password})


def cookie(client: httpx.Client) -> str:
    return client.cookies["shop_session"]


def test_log_in_and_out(client: httpx.Client) -> None:
    """A log-in sets a cookie that scripts and other sites cannot use; a log-out ends the session at once."""
    assert client.get("/api/me").status_code == 401

    answer = client.post("/api/login", json=ADMIN)

    assert answer.status_code == 200
    flags = answer.headers["set-cookie"].lower()
    assert "httponly" in flags
    assert "samesite=lax" in flags
    me = client.get("/api/me").json()
    assert me == answer.json()
    assert (me["email"], me["is_admin"]) == (ADMIN["email"], True)
    kept = cookie(client)
    assert client.post("/api/logout").status_code == 204
    assert client.get("/api/me").status_code == 401
    assert client.get("/api/me", headers={"cookie": f"shop_session={kept}"}).status_code == 401


@pytest.mark.parametrize(
    ("email", "password"),
    [
        (ADMIN["email"], "wrong-password"),
        ("nobody@example.com", "wrong-password"),
        ("", ""),
        ("ada.", "!"),
        ("\x00", "!"),
    ],
)
def test_wrong_log_in(client: httpx.Client, email: str, password: str) -> None:
    """A wrong address and a wrong password are told the same, and get no cookie."""
    answer = client.post("/api/login", json={"email": email, "password": password})

    assert answer.status_code == 401
    assert answer.json() == {"detail": "wrong e-mail address or password"}
    assert "set-cookie" not in answer.headers


def test_seeded_customers_have_no_password(client: httpx.Client) -> None:
    """Nobody logs in as one of the made-up customers."""
    answer = client.post("/api/login", json={"email": "ada.abbott@example.com", "password": "!"})
    assert answer.status_code == 401


def test_register(shop: RunningShop) -> None:
    """An account is logged in when it is made; its address is taken then, whatever its case."""
    client = shop.client()
    answer = register(client, "New.One@Example.org")

    assert answer.status_code == 201
    assert answer.json()["email"] == "new.one@example.org"
    assert client.get("/api/me").json()["is_admin"] is False
    assert register(shop.client(), "new.one@example.ORG").status_code == 409
    login = {"email": "NEW.one@example.org", "password": PASSWORD}
    assert shop.client().post("/api/login", json=login).status_code == 200


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("email", "nobody"),
        ("email", "a b@example.org"),
        ("email", "x" * 250 + "@example.org"),
        ("name", ""),
        ("name", "x" * 101),
        ("password", "short"),
        ("password", "x" * 129),
        ("is_admin", 1),
    ],
)
def test_wrong_registrations(client: httpx.Client, field: str, value: object) -> None:
    """Each field has its rule; nobody makes himself an administrator; a password is never sent back."""
    body = {"email": "rules@example.org", "name": "Rule", "password": "long enough", field: value}
    answer = client.post("/api/register", json=body)

    if field == "is_admin":
        assert answer.json()["is_admin"] is False
    else:
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"] == ["body", field]
        assert str(value) not in answer.text or not value


def test_ids_are_never_adopted(shop: RunningShop) -> None:
    """A session id that the client made up is not taken over by a log-in."""
    client = shop.client()
    client.cookies.set("shop_session", "planted", domain="127.0.0.1")
    assert client.get("/api/me").status_code == 401

    client.post("/api/login", json=ADMIN, headers={"cookie": "shop_session=planted"})

    assert shop.client().get("/api/me", headers={"cookie": "shop_session=planted"}).status_code == 401


def test_log_in_makes_a_new_id(shop: RunningShop) -> None:
    """The session that the browser had ends when it logs in again."""
    client = shop.client()
    register(client, f"again{shop.port}@example.org")
    first = cookie(client)
    client.post("/api/login", json={"email": f"again{shop.port}@example.org", "password": PASSWORD})

    assert cookie(client) != first
    assert shop.client().get("/api/me", headers={"cookie": f"shop_session={first}"}).status_code == 401


def test_change_of_password_ends_every_session(shop: RunningShop) -> None:
    """All sessions of the user die, and who changed it has a new one."""
    email = f"change{shop.port}@example.org"
    here, elsewhere = shop.client(), shop.client()
    register(here, email)
    elsewhere.post("/api/login", json={"email": email, "password": PASSWORD})
    before = cookie(here)

    assert here.post("/api/password", json={"current": "wrong one", "new": "even better"}).status_code == 401
    assert here.post("/api/password", json={"current": PASSWORD, "new": "short"}).status_code == 422
    assert here.post("/api/password", json={"current": PASSWORD, "new": "even better"}).status_code == 200

    assert here.get("/api/me").status_code == 200
    assert cookie(here) != before
    assert elsewhere.get("/api/me").status_code == 401
    assert shop.client().get("/api/me", headers={"cookie": f"shop_session={before}"}).status_code == 401
    assert shop.client().post("/api/login", json={"email": email, "password": PASSWORD}).status_code == 401
    assert (
        shop.client().post("/api/login", json={"email": email, "password": "even better"}).status_code == 200
    )


def test_the_database_holds_no_secret(cached_shop: RunningShop) -> None:
    """Neither a session's id nor a password can be read in the database."""
    client = cached_shop.client()
    register(client, "secret@example.org", "very secret words")
    with sqlite3.connect(cached_shop.database_url.removeprefix("sqlite:///")) as connection:
        dump = "\n".join(connection.iterdump())
    connection.close()

    assert "secret@example.org" in dump
    assert cookie(client) not in dump
    assert "very secret words" not in dump


def test_registering_ends_the_session_that_the_browser_had(shop: RunningShop) -> None:
    """As a log-in does: its cookie is replaced, so nobody could log out of it any more."""
    client = shop.customer()
    kept = client.cookies["shop_session"]
    account = {"email": "second@example.org", "name": "Second", "password": "correct horse"}
    assert client.post("/api/register", json=account).status_code == 201
    assert client.cookies["shop_session"] != kept
    asked = shop.client().get("/api/me", headers={"cookie": f"shop_session={kept}"})
    assert asked.status_code == 401
