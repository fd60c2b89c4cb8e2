"""What of an answer is stored, for how long, and in which form."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neverstale.codecs import RESPONSE, Undecodable
from neverstale.lifetime import DAY_MS, Lifetime
from neverstale.responses.fields import http_date
from neverstale.responses.requests import Request, selected
from neverstale.responses.rules import Options
from neverstale.responses.stored import CODEC, Flag, Stored
from neverstale.responses.storing import HeaderPolicy, Keep, by_headers, by_rule, make

NOW = 1_800_000_000_000
DATE = ("date", http_date(NOW // 1000).decode())
HOUR = HeaderPolicy(keep_ms=3_600_000)


def lines(*headers: tuple[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers]


def judged(*headers: tuple[str, str], status: int = 200, policy: HeaderPolicy = HOUR) -> Keep | None:
    return by_headers(status, lines(*headers), Request([]), policy, NOW, NOW)


def cc(text: str) -> tuple[str, str]:
    return "cache-control", text


@pytest.mark.parametrize(
    ("headers", "life"),
    [
        ([cc("max-age=60")], Lifetime(60_000)),
        ([cc("max-age=1, s-maxage=60")], Lifetime(60_000)),
        ([cc("max-age=60"), ("age", "20")], Lifetime(40_000)),
        ([cc("max-age=60, stale-while-revalidate=30")], Lifetime(60_000, 30_000)),
        ([cc("max-age=60, stale-if-error=30")], Lifetime(60_000, 0, 30_000)),
        ([cc("max-age=60, stale-while-revalidate=30, stale-if-error=50")], Lifetime(60_000, 30_000, 20_000)),
        ([cc("max-age=60, must-revalidate, stale-if-error=50")], Lifetime(60_000)),
        ([cc("max-age=60"), ("etag", '"1"')], Lifetime(60_000, 0, 3_600_000)),
        ([cc("no-cache"), ("etag", '"1"')], Lifetime(1, 0, 3_599_999)),
        ([cc("max-age=99999999999")], Lifetime(DAY_MS)),
        ([("expires", http_date(NOW // 1000 + 60).decode()), DATE], Lifetime(60_000)),
        ([("expires", http_date(NOW // 1000 + 60).decode())], Lifetime(60_000)),
        ([cc("no-store, must-understand, max-age=60")], Lifetime(60_000)),
    ],
)
def test_lifetimes(headers: list[tuple[str, str]], life: Lifetime) -> None:
    """How long an answer lives, by what it says itself."""
    keep = judged(*headers)
    assert keep is not None
    assert keep.life == life


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("etag", '"1"')],
        [("last-modified", DATE[1])],
        [cc("public")],
        [cc("no-cache")],
        [cc("max-age=0")],
        [cc("max-age=60"), ("age", "60")],
        [cc("max-age=x")],
        [cc("max-age=60, no-store")],
        [cc('max-age=60, private="x"')],
        [cc("max-age=60"), ("vary", "accept, *")],
        [cc("max-age=60"), ("set-cookie", "a=1")],
        [("expires", "0")],
        [("expires", DATE[1]), DATE],
    ],
)
def test_not_stored(headers: list[tuple[str, str]]) -> None:
    """What says nothing, or that it may not be stored, or could never be used, is not."""
    assert judged(*headers) is None


@pytest.mark.parametrize("status", [100, 206, 304])
def test_not_stored_statuses(status: int) -> None:
    """Parts of answers, and words about stored ones, are no answers."""
    assert judged(cc("max-age=60"), status=status) is None


def test_heuristics() -> None:
    """Only where they are asked for, an answer is fresh for a tenth of the time since it changed."""
    changed = ("last-modified", http_date(NOW // 1000 - 1000).decode())
    keep = judged(changed, DATE, policy=HeaderPolicy(heuristics=True))
    assert keep is not None
    assert keep.fresh_ms == 100_000
    assert judged(changed, DATE, status=201, policy=HeaderPolicy(heuristics=True)) is None


def test_targeted() -> None:
    """A targeted field that is well formed is stronger than Cache-Control; one that is not counts for nothing."""
    policy = HeaderPolicy(targeted=(b"cdn-cache-control",))
    assert judged(cc("no-store"), ("cdn-cache-control", "max-age=60"), policy=policy) is not None
    assert judged(cc("max-age=60"), ("cdn-cache-control", "no-store"), policy=policy) is None
    for wrong in ('max-age="60"', "max-age=60, &", "Max-Age=60"):
        assert judged(cc("no-store"), ("cdn-cache-control", wrong), policy=policy) is None


@pytest.mark.parametrize(
    ("options", "headers", "life"),
    [
        ({"ttl": 60}, [], Lifetime(60_000)),
        ({"ttl": 60, "soft_ttl": 20}, [], Lifetime(20_000, 40_000)),
        ({"ttl": 60, "stale_if_error": 20}, [], Lifetime(60_000, 0, 20_000)),
        ({"ttl": 60}, [cc("max-age=5")], Lifetime(60_000)),
        ({"ttl": 60}, [cc("s-maxage=5")], Lifetime(5_000)),
        ({"ttl": 60}, [cc("s-maxage=500")], Lifetime(60_000)),
        ({"ttl": 60, "soft_ttl": 20}, [cc("s-maxage=30")], Lifetime(20_000, 10_000)),
        ({"ttl": 1e6}, [], Lifetime(DAY_MS)),
        ({"ttl": 60}, [cc("s-maxage=0")], None),
        ({}, [], None),
    ],
)
def test_rules(options: dict[str, Any], headers: list[tuple[str, str]], life: Lifetime | None) -> None:
    """A rule's TTL is stronger than what is meant for clients, and weaker than a shorter s-maxage."""
    keep = by_rule(200, lines(*headers), Options(**options), NOW, NOW)
    assert (None if keep is None else keep.life) == life


def test_headers_that_are_left_out() -> None:
    """What is of a connection, or to be validated before use, or for this cache alone, is not stored."""
    headers = lines(
        cc('max-age=60, no-cache="secret"'), ("connection", "x-hop"), ("x-hop", "1"), ("secret", "1"), ("x", "1"),
        ("keep-alive", "1"), ("cache-tag", "a"), ("age", "3"), ("warning", "110"), ("x", "2"),
    )  # fmt: skip
    keep = by_headers(200, headers, Request([]), HOUR, NOW, NOW)
    assert keep is not None
    stored = make("id", 200, headers, b"body", keep, Request([]), NOW, validators=False)
    assert stored.headers == (
        (b"cache-control", b'max-age=60, no-cache="secret"'),
        (b"x", b"1"),
        (b"x", b"2"),
    )


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ([("x", "1, 2")], [("x", "1"), ("x", "2")], True),
        ([("x", " 1 ,2 ")], [("x", "1,2")], True),
        ([("x", '"a, b"')], [("x", '"a,b"')], False),
        ([("x", "1")], [("x", "2")], False),
        ([("x", "")], [], False),
        ([("x", "1")], [("x", "1"), ("y", "1")], True),
        ([("accept-language", "EN, de")], [("accept-language", "en,DE")], True),
        ([("accept-language", "en, de")], [("accept-language", "de, en")], False),
        ([("cookie", "a=1")], [("cookie", "A=1")], False),
    ],
)
def test_selecting(one: list[tuple[str, str]], other: list[tuple[str, str]], same: bool) -> None:
    """Requests select the same answer if the headers that it varies by say the same."""
    names = (b"accept-language", b"cookie", b"x")
    assert (selected(lines(*one), names) == selected(lines(*other), names)) == same


VALUES = st.lists(st.tuples(st.sampled_from((b"a", b"b", b"ab")), st.binary(max_size=4)), max_size=4)


@given(VALUES, VALUES)
def test_selecting_is_injective(one: list[tuple[bytes, bytes]], other: list[tuple[bytes, bytes]]) -> None:
    """No value of one header can pass for that of another."""
    names = (b"a", b"b")

    def said(headers: list[tuple[bytes, bytes]]) -> list[object]:
        return [[value for key, value in headers if key == name] for name in names]

    if selected(one, names) == selected(other, names):
        merged = [[b",".join(each) for each in said(headers)] for headers in (one, other)]  # type: ignore[arg-type]
        squeezed = [[b"".join(each.split()).replace(b",", b"") for each in side] for side in merged]
        assert squeezed[0] == squeezed[1]


STORED = Stored(
    "0123456789abcdef", Flag.FOR_ALL, 200, ((b"content-type", b"text/plain"),), b"body", NOW, 60_000, 1, 2,
    (b"accept",), b"\1\2", b"", b'"1"', 5,
)  # fmt: skip
#: As the first release writes it: later ones read it.
BYTES = (
    "9eb03031323334353637383961626364656608ccc89192c40c636f6e74656e742d74797065c40a746578742f706c6169"
    "6ec404626f6479cf000001a3185c5000cdea60010291c406616363657074c4020102c400c40322312205"
)


def test_form() -> None:
    """What is stored is read again, also what the first release has stored."""
    assert CODEC.ident == RESPONSE == 3
    assert CODEC.encode(STORED).hex() == BYTES
    assert CODEC.decode(bytes.fromhex(BYTES)) == STORED


@given(st.binary(max_size=60))
def test_any_bytes(data: bytes) -> None:
    """Whatever lies in Redis is an answer or a miss."""
    for each in (data, CODEC.encode(STORED)[: len(data)] + data[:3]):
        with contextlib.suppress(Undecodable):
            assert isinstance(CODEC.decode(each), Stored)
