"""The account page: password and sessions as forms."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime, timedelta
from itertools import count

import httpx
import pytest

from shop.devices import device_name
from shop.pages.accounts import _ago as ago
from tests.shop.running import RunningShop

HTML = {"accept": "text/html"}
PASSWORD = "correct horse"
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
WEBKIT = "AppleWebKit/605.1.15 (KHTML, like Gecko)"
BLINK = "AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0"
_numbers = count(1)


class Person:
    """Somebody with an account, who logs in from several places."""

    def __init__(self, shop: RunningShop) -> None:
        self.shop = shop
        self.email = f"person{shop.port}-{next(_numbers)}@example.org"
        self.here = shop.client()
        account = {"email": self.email, "name": "Paula Person", "password": PASSWORD}
        assert self.here.post("/api/register", json=account).status_code == 201

    def elsewhere(self, user_agent: str, password: str = PASSWORD) -> httpx.Client:
        """Log in from another place."""
        client = self.shop.client()
        client.headers["user-agent"] = user_agent
        given = {"email": self.email, "password": password}
        assert client.post("/api/login", json=given).status_code == 200
        return client


@pytest.fixture
def person(shop: RunningShop) -> Person:
    return Person(shop)


def devices(client: httpx.Client) -> list[str]:
    """Return the devices that the account page lists, in its order."""
    page = client.get("/account")
    assert page.status_code == 200, page.text
    return [html.unescape(each) for each in re.findall(r'<p class="where"><b[^>]*>(.*?)</b>', page.text)]


def id_of(client: httpx.Client, device: str) -> str:
    """Return the hidden id of a listed device's button."""
    for item in re.findall(r"<li>\n<p class=\"where\">.*?</li>", client.get("/account").text, re.S):
        if device in item:
            found = re.search(r'name="id" value="([^"]+)"', item)
            assert found is not None
            return found[1]
    raise AssertionError(device)


def test_account_page(person: Person) -> None:
    """It says who is logged in and where, the session that asks first and marked; visitors log in first."""
    person.elsewhere(FIREFOX)
    page = person.here.get("/account")

    assert person.email in page.text
    assert "Paula Person" in page.text
    assert devices(person.here) == ["python-httpx", "Firefox on Linux"]
    assert re.findall(r"<b[^>]*>([\w-]+)</b> <span class=\"badge\">This one</span>", page.text) == [
        "python-httpx"
    ]
    assert page.headers["cache-control"] == "private, no-cache"
    assert person.shop.client().get("/account", headers=HTML).headers["location"] == "/login?next=/account"


def test_the_page_gives_no_session_away(person: Person) -> None:
    """The cookie of a session is not on the page, and what is there opens none."""
    other = person.elsewhere(FIREFOX)
    page = person.here.get("/account").text
    number = id_of(person.here, "Firefox on Linux")

    for client in (person.here, other):
        assert client.cookies["shop_session"] not in page
    taken = person.shop.client().get("/api/me", headers={"cookie": f"shop_session={number}"})
    assert taken.status_code == 401


def test_end_one_session(person: Person) -> None:
    """A session that is ended is refused at once; the others go on."""
    phone, tablet = (
        person.elsewhere(f"Mozilla/5.0 (iPhone) {WEBKIT} Version/17 Safari/604"),
        person.elsewhere(FIREFOX),
    )
    number = id_of(person.here, "Safari on iPhone")
    ended = person.here.post("/account/sessions/end", data={"id": number})
    again = person.here.post("/account/sessions/end", data={"id": number})

    assert ended.status_code == 303
    assert "The session has ended." in person.here.get(ended.headers["location"]).text
    assert "That session had ended already." in person.here.get(again.headers["location"]).text
    assert phone.get("/api/me").status_code == 401
    assert tablet.get("/api/me").status_code == 200
    assert devices(person.here) == ["python-httpx", "Firefox on Linux"]


def test_nobody_ends_sessions_of_others(shop: RunningShop, person: Person) -> None:
    """An id of another account's session is unknown, and without a session nothing can be ended."""
    other = person.elsewhere(FIREFOX)
    number = id_of(person.here, "Firefox on Linux")
    stranger = Person(shop).here
    tried = stranger.post("/account/sessions/end", data={"id": number})

    assert "said=gone" in tried.headers["location"]
    assert stranger.post("/account/sessions/end-others").status_code == 303
    assert shop.client().post("/account/sessions/end", data={"id": number}).status_code == 401
    assert shop.client().post("/account/sessions/end-others").status_code == 401
    assert other.get("/api/me").status_code == 200


@pytest.mark.parametrize(
    "number", ["", "x", "\x00", "é" * 9, "x" * 10_000], ids=["none", "x", "nul", "é", "long"]
)
def test_odd_ids(person: Person, number: str) -> None:
    """What is no id ends nothing, and is no error of ours."""
    answer = person.here.post("/account/sessions/end", data={"id": number})

    assert answer.status_code in (303, 422)
    assert person.here.get("/api/me").status_code == 200


def test_end_all_others(person: Person) -> None:
    """All sessions end but the one that asks; with nothing more to end, there is no button for it."""
    others = [person.elsewhere(FIREFOX) for _ in range(3)]
    assert "End all other sessions" in person.here.get("/account").text
    answer = person.here.post("/account/sessions/end-others")
    page = person.here.get(answer.headers["location"]).text

    assert "All other sessions have ended." in page
    assert "End all other sessions" not in page
    assert [each.get("/api/me").status_code for each in others] == [401, 401, 401]
    assert devices(person.here) == ["python-httpx"]


def test_change_the_password(person: Person) -> None:
    """A new password ends every other session; who changed it stays logged in, with a new id."""
    other, before = person.elsewhere(FIREFOX), person.here.cookies["shop_session"]
    given = {"current": PASSWORD, "new": "even better horse"}
    answer = person.here.post("/account/password", data=given)

    assert answer.status_code == 303
    assert "Your password was changed." in person.here.get(answer.headers["location"]).text
    assert person.here.cookies["shop_session"] != before
    assert other.get("/api/me").status_code == 401
    assert person.elsewhere(FIREFOX, "even better horse").get("/api/me").status_code == 200


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"current": "wrong", "new": "even better horse"}, "This is not your current password."),
        ({"current": PASSWORD, "new": "short"}, "The password must have 8 to 128 characters."),
        ({}, "The password must have 8 to 128 characters."),
    ],
)
def test_wrong_passwords(person: Person, given: dict[str, str], said: str) -> None:
    """The page says at the field what is wrong, shows no password, and nothing has changed."""
    answer = person.here.post("/account/password", data=given, headers=HTML)

    assert answer.status_code == 422
    assert said in answer.text
    assert not any(f'value="{each}"' in answer.text for each in given.values())
    assert person.here.get("/api/me").status_code == 200
    assert person.elsewhere(FIREFOX).get("/api/me").status_code == 200


def test_devices_are_only_text(person: Person) -> None:
    """What a browser calls itself is shown as text."""
    person.elsewhere('<script>alert(1)</script>" onclick="x')
    page = person.here.get("/account").text

    assert "<script>alert" not in page
    assert 'onclick="x' not in page
    assert '<script>alert(1)</script>" onclick="x' in devices(person.here)


def test_many_sessions(cached_shop: RunningShop) -> None:
    """A page lists twenty sessions and counts the others."""
    person = Person(cached_shop)  # one kind of shop is enough: checking a password takes its time
    for _ in range(21):
        person.elsewhere("curl/8")

    assert len(devices(person.here)) == 20
    assert "And 2 more." in person.here.get("/account").text


# -- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user_agent", "name"),
    [
        (FIREFOX, "Firefox on Linux"),
        (f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {BLINK} Safari/537.36", "Chrome on Windows"),
        (f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {BLINK} Safari/537.36 Edg/130.0.0.0", "Edge on Windows"),
        (f"Mozilla/5.0 (X11; Linux x86_64) {BLINK} Safari/537.36 OPR/115.0", "Opera on Linux"),
        (f"Mozilla/5.0 (X11; CrOS x86_64 14541) {BLINK} Safari/537.36", "Chrome on ChromeOS"),
        (f"Mozilla/5.0 (Linux; Android 14; Pixel 8) {BLINK} Mobile Safari/537.36", "Chrome on Android"),
        ("Mozilla/5.0 (Android 14; Mobile; rv:128.0) Gecko/128.0 Firefox/128.0", "Firefox on Android"),
        (
            f"Mozilla/5.0 (Linux; Android 14) {BLINK} SamsungBrowser/26.0 Mobile Safari/537.36",
            "Samsung Internet on Android",
        ),
        (
            f"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) {WEBKIT} Version/17.5 Safari/605.1",
            "Safari on macOS",
        ),
        (
            f"Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) {WEBKIT} Version/17.5 Mobile/15E Safari/604",
            "Safari on iPhone",
        ),
        (
            f"Mozilla/5.0 (iPad; CPU OS 17_5 like Mac OS X) {WEBKIT} CriOS/130 Mobile Safari/604",
            "Chrome on iPad",
        ),
        ("Mozilla/5.0 (compatible; Examplebot/2.1)", "Mozilla/5.0 (compatible; Examplebot/2.1)"),
        ("curl/8.5.0", "curl"),
        ("python-httpx/0.28.1", "python-httpx"),
        ("Firefox on Linux", "Firefox on Linux"),
        ("", "Unknown device"),
        ("  ", "Unknown device"),
        ("x" * 200, "x" * 59 + "…"),
    ],
)
def test_names_of_devices(user_agent: str, name: str) -> None:
    """Common browsers have a name; what is not known is shown as it is, and no crawler is called a browser."""
    assert device_name(user_agent) == name


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-5, "a moment ago"),
        (299, "a moment ago"),
        (300, "5 minutes ago"),
        (3599, "59 minutes ago"),
        (3600, "1 hour ago"),
        (86_399, "23 hours ago"),
        (86_400, "1 day ago"),
        (6 * 86_400, "6 days ago"),
    ],
)
def test_how_long_ago(seconds: int, said: str) -> None:
    """No time is said more exactly than it is known."""
    now = datetime(2026, 11, 1, tzinfo=UTC)
    assert ago(now - timedelta(seconds=seconds), now) == said
