"""Reading header fields: what is well formed, what is not, and what is there twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neverstale.responses.fields import (
    MAX_DELTA,
    age_of,
    cookie_names,
    date_of,
    directives,
    http_date,
    members,
    seconds,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("no-store", {"no-store": None}),
        ("Max-Age=5, PUBLIC", {"max-age": "5", "public": None}),
        ('max-age="5"', {"max-age": "5"}),
        ("max-age=5, max-age=3", {"max-age": "3"}),
        ("max-age=3, max-age=5", {"max-age": "3"}),
        ("max-age=3, max-age=x", {"max-age": "x"}),
        ("max-age=x, max-age=3", {"max-age": "x"}),
        ("max-age, max-age=3", {"max-age": None}),
        ('no-cache="a, b", max-age=1', {"no-cache": "a, b", "max-age": "1"}),
        ('no-cache="a", no-cache="b"', {"no-cache": "a, b"}),
        ('no-cache="a", no-cache', {"no-cache": None}),
        ('x="max-age=9", max-age=1', {"x": "max-age=9", "max-age": "1"}),
        ('x="a\\"b, no-store"', {"x": 'a"b, no-store'}),
        ('x="open, no-store', {"x": '"open, no-store'}),
        ("max-age = 5", {}),
        ("max-age= 5", {"max-age": " 5"}),
        (" , ,no-store,", {"no-store": None}),
        ("ü=1, no-store", {"no-store": None}),
    ],
)
def test_directives(text: str, expected: dict[str, str | None]) -> None:
    """Directives as RFC 9111 section 5.2 has them; of two that differ, the more restrictive."""
    assert directives(text) == expected


@given(st.text(max_size=40))
def test_any_text(text: str) -> None:
    """Whatever a client sends, reading it ends, and gives directives."""
    assert all(name == name.lower() for name in directives(text))
    assert all(members(text))


@pytest.mark.parametrize("text", ['"' * 5000, '"\\' * 5000, ("a=" + '"' * 50 + ",") * 200])
def test_hostile_text(text: str) -> None:
    """Text that is made to take long does not."""
    directives(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0), ("0010", 10), (None, None), ("", None), ("-1", None), ("1.0", None), ("1 ", None), ("٣", None),
        ("99999999999", MAX_DELTA), ("9" * 5000, MAX_DELTA),
    ],
)  # fmt: skip
def test_seconds(text: str | None, expected: int | None) -> None:
    """A number of seconds has digits and nothing else, and an end."""
    assert seconds(text) == expected


@given(st.integers(0, 4_000_000_000))
def test_dates(moment: int) -> None:
    """A date that is written is read again."""
    assert date_of(http_date(moment).decode()) == moment


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", 784111777),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 784111777),
        ("Sun Nov  6 08:49:37 1994", 784111777),
        ("SUN, 06 NOV 1994 08:49:37 gmt", 784111777),
        ("Sun, 06 Nov 1994 08:49:37 UTC", None),
        ("Sun, 06 Nov 94 08:49:37 GMT", None),
        ("Sun, 6 Nov 1994 08:49:37 GMT", None),
        ("Sun, 06 Nov 1994 24:00:00 GMT", None),
        ("Sun, 41 Nov 1994 08:00:00 GMT", None),
        ("0", None),
        ("-1", None),
    ],
)
def test_date_forms(text: str, expected: int | None) -> None:
    """The three forms of RFC 9110 section 5.6.7, and nothing else."""
    assert date_of(text) == expected


@pytest.mark.parametrize(
    ("lines", "expected"), [(["5"], 5), (["5, 7"], 5), (["5", "7"], 5), (["x"], 0), ([], 0), (["-1"], 0)]
)
def test_age(lines: list[str], expected: int) -> None:
    """Of several ages the first counts; what is none is left out of account."""
    assert age_of([(b"age", line.encode()) for line in lines]) == expected


def test_cookie_names() -> None:
    """Names of cookies, from several lines, however they are spaced."""
    assert cookie_names([b"a=1; b=2;c", b" d = x "]) == {b"a", b"b", b"c", b"d"}
