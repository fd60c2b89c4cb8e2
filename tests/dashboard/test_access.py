"""Who may see the dashboard, and who may act."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neverstale import UsageError
from neverstale.dashboard.access import (
    COOKIE,
    LIFETIME,
    Guard,
    cookies_of,
    headers_of,
    is_from_another_page,
    is_from_our_page,
    is_local,
)

TOKEN = "a token of 24 characters"
NOW = 1_800_000_000.0


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.8.7", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000"])
def test_this_machine(address: str, host: str) -> None:
    """Whoever asks from the loopback, by a name of the loopback, is this machine."""
    assert is_local((address, 5000), {"host": host, "accept": "*/*"})


@pytest.mark.parametrize("client", [("10.0.0.5", 1), ("::ffff:10.0.0.5", 1), ("unix:", 0), None, ()])
def test_another_machine(client: Any) -> None:
    """Another address is not, nor what has none."""
    assert not is_local(client, {"host": "localhost"})


@pytest.mark.parametrize(
    "header",
    [
        "forwarded",
        "via",
        "x-real-ip",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-any",
        "true-client-ip",
    ],
)
@pytest.mark.parametrize("value", ["127.0.0.1", "for=127.0.0.1", ""])
def test_a_proxy_on_this_machine(header: str, value: str) -> None:
    """Who comes by a proxy is somewhere else, also one who says to be here."""
    assert not is_local(("127.0.0.1", 5000), {"host": "localhost", header: value})


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "10.0.0.5", "", "[", "a b"])
def test_a_name_that_points_here(host: str) -> None:
    """A page elsewhere that has its own name point to the loopback is not read as this machine."""
    assert not is_local(("127.0.0.1", 5000), {"host": host})


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "same-site"}, False),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "none"}, False),
        ({"sec-fetch-site": "cross-site", "origin": "http://h:1", "host": "h:1"}, False),
        ({"origin": "http://h:1", "host": "h:1"}, True),
        ({"origin": "https://h", "host": "10.0.0.5:8000", "x-forwarded-host": "h"}, True),
        ({"origin": "http://evil", "host": "h:1"}, False),
        ({"origin": "http://h:2", "host": "h:1"}, False),
        ({"origin": "null", "host": "h:1"}, False),
        ({"host": "h:1"}, False),
        ({"origin": "null"}, False),
        ({"origin": "http://["}, False),
        ({}, False),
    ],
)
def test_where_a_request_comes_from(headers: dict[str, str], expected: bool) -> None:
    """The browser's word decides; without one, it did not come from our page."""
    assert is_from_our_page(headers) is expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"sec-fetch-site": "same-origin", "origin": "null"}, False),
        ({"sec-fetch-site": "none"}, False),
        ({"sec-fetch-site": "same-site"}, True),
        ({"sec-fetch-site": "cross-site"}, True),
        ({"origin": "http://h:1", "host": "h:1"}, False),
        ({"origin": "http://evil", "host": "h:1"}, True),
        ({"origin": "null", "host": "h:1"}, True),
        ({"host": "h:1"}, False),
    ],
)
def test_another_page_that_reads(headers: dict[str, str], expected: bool) -> None:
    """The browser's word decides; what is no browser has none."""
    assert is_from_another_page(headers) is expected


def test_a_cookie_opens_for_twelve_hours() -> None:
    """It is known in every process with the same token, until it is over."""
    cookie = Guard(TOKEN).cookie(NOW)
    other = Guard(TOKEN)
    assert other.knows(cookie, NOW + LIFETIME - 1)
    assert not other.knows(cookie, NOW + LIFETIME)
    assert not Guard(TOKEN + "!").knows(cookie, NOW)
    assert not Guard(None).knows(cookie, NOW)
    assert TOKEN not in cookie
    assert cookie != Guard(TOKEN).cookie(NOW)


@given(st.text(max_size=200))
def test_no_other_cookie_opens(text: str) -> None:
    """Nothing that somebody makes up, whatever it is."""
    guard = Guard(TOKEN)
    assert not guard.knows(text, NOW)
    later = f"{int(NOW) + 10**9}.{guard.cookie(NOW).partition('.')[2]}"
    assert not guard.knows(later, NOW)
    assert guard.is_forgery(guard.cookie(NOW), text)


def test_the_second_token_belongs_to_one_cookie() -> None:
    """That of another log-in does not serve."""
    guard = Guard(TOKEN)
    mine, other = guard.cookie(NOW), guard.cookie(NOW)
    assert not guard.is_forgery(mine, guard.forgery_token(mine))
    assert guard.is_forgery(mine, guard.forgery_token(other))
    assert guard.is_forgery("", guard.forgery_token(mine))


def test_only_the_token_opens() -> None:
    """Nothing opens where there is none."""
    assert Guard(TOKEN).opens(TOKEN)
    assert not Guard(TOKEN).opens(TOKEN[:-1])
    assert not Guard(TOKEN).opens("")
    assert not Guard(None).opens("")
    assert not Guard(TOKEN).opens("\ud800")


@pytest.mark.parametrize("token", ["", "secret", "x" * 15])
def test_a_short_token_is_refused(token: str) -> None:
    """Also an empty one, as an environment variable may be."""
    with pytest.raises(UsageError, match="at least 16"):
        Guard(token)


def test_headers_and_cookies() -> None:
    """Names are in small letters; what comes twice is there twice; others' cookies are no trouble."""
    raw = [(b"Cookie", b'a="b'), (b"cookie", f"x=1; {COOKIE}=ours; y=\xff".encode("latin-1"))]
    headers = headers_of({"headers": raw})
    assert cookies_of(headers) == ["ours"]
    assert cookies_of({"cookie": "session=1"}) == []
    assert cookies_of({}) == []
