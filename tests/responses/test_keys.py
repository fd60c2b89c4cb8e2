"""Keys of requests: one for all ways to write a request, never one for two that mean different things."""

from __future__ import annotations

from urllib.parse import parse_qsl, quote, quote_from_bytes, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neverstale import UsageError
from neverstale.responses.keys import Ignored, answer_key, request_key, variant_key, without

TEXT = st.text(st.characters(codec="utf-8"), max_size=6) | st.sampled_from(
    ["", "a", "=", "&", "%", "+", " ", "/", "#"]
)
PAIRS = st.lists(st.tuples(TEXT, TEXT), max_size=4)


def key(query: str, path: str = "/p") -> str:
    return request_key(path, query.encode(), raw_path=path.encode())


def meaning(query: str) -> dict[str, list[str]]:
    """What an application reads: the values of each name, in their order."""
    read: dict[str, list[str]] = {}
    for name, value in parse_qsl(query, keep_blank_values=True, encoding="latin-1"):
        read.setdefault(name, []).append(value)
    return read


@st.composite
def spelled(draw: st.DrawFn, text: str) -> str:
    """One of the ways to write a text in a query."""
    out = []
    for byte in text.encode():
        ways = [f"%{byte:02x}", f"%{byte:02X}"]
        if byte == 0x20:
            ways.append("+")
        elif chr(byte).isascii() and (chr(byte).isalnum() or chr(byte) in "-._~/:,!"):
            ways.append(chr(byte))
        out.append(draw(st.sampled_from(ways)))
    return "".join(out)


@st.composite
def queries(draw: st.DrawFn) -> str:
    pieces = []
    for name, value in draw(PAIRS):
        bare = not value and name and draw(st.booleans())
        pieces.append(draw(spelled(name)) + ("" if bare else "=" + draw(spelled(value))))
        pieces.extend([""] * draw(st.integers(0, 1)))
    return "&".join(pieces)


@given(queries(), queries())
def test_equal_keys_mean_the_same(one: str, other: str) -> None:
    """Two queries share a key exactly if an application reads the same from both."""
    assert (key(one) == key(other)) == (meaning(one) == meaning(other))


@given(st.binary(max_size=8), st.binary(max_size=8))
def test_any_bytes(one: bytes, other: bytes) -> None:
    """Whatever bytes are sent as a value: other bytes, another key."""
    first, second = (request_key("/", b"a=" + quote_from_bytes(each, "").encode()) for each in (one, other))
    assert (first == second) == (one == other)


@given(st.binary(max_size=12))
def test_raw_bytes(query: bytes) -> None:
    """Bytes that should have been encoded make a key that is plain ASCII, and the one that the application reads."""
    made = request_key("/", query)
    made.encode("ascii")
    assert request_key("/", made.partition("?")[2].encode()) == made


@given(PAIRS, st.randoms(use_true_random=False))
def test_order_of_names(pairs: list[tuple[str, str]], random: object) -> None:
    """The order of parameters of different names makes no difference."""
    by_name: dict[str, list[str]] = {}
    for name, value in pairs:
        by_name.setdefault(name, []).append(value)
    names = list(by_name)
    random.shuffle(names)  # type: ignore[attr-defined]
    turned = [(name, value) for name in names for value in by_name[name]]
    assert key(written(pairs)) == key(written(turned))


def written(pairs: list[tuple[str, str]]) -> str:
    return "&".join(f"{quote(name, '')}={quote(value, '')}" for name, value in pairs)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("category=3&page=2", "GET:/p?category=3&page=2"),
        ("page=2&category=3", "GET:/p?category=3&page=2"),
        ("", "GET:/p"),
        ("&&", "GET:/p"),
        ("a", "GET:/p?a="),
        ("a=", "GET:/p?a="),
        ("a=1&a=2", "GET:/p?a=1&a=2"),
        ("a=2&a=1", "GET:/p?a=2&a=1"),
        ("b=1&a=2&b=0", "GET:/p?a=2&b=1&b=0"),
        ("q=a+b", "GET:/p?q=a%20b"),
        ("q=a%20b", "GET:/p?q=a%20b"),
        ("q=a%2bb", "GET:/p?q=a%2Bb"),
        ("q=%zz", "GET:/p?q=%25zz"),
        ("q=%c3%bc", "GET:/p?q=%C3%BC"),
        ("%41=b", "GET:/p?A=b"),
        ("a=b=c", "GET:/p?a=b%3Dc"),
        ("a;b", "GET:/p?a;b="),
    ],
)
def test_examples(query: str, expected: str) -> None:
    """What the normal form looks like."""
    assert key(query) == expected


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("/a%2fb", "/a%2Fb", True),
        ("/a%2fb", "/a/b", False),
        ("/%41", "/A", True),
        ("/a%23b", "/a", False),
        ("/a%3Fb", "/a?b", False),
        ("/%ff", "/%fe", False),
        ("/a//b", "/a/b", False),
        ("/a/", "/a", False),
        ("/A", "/a", False),
    ],
)
def test_paths(one: str, other: str, same: bool) -> None:
    """An encoded slash is no slash, and what does not mean the same has another key."""
    assert (answer_key(one) == answer_key(other)) == same


SEGMENTS = st.lists(st.binary(max_size=4), max_size=3)


@given(SEGMENTS, SEGMENTS)
def test_any_path(one: list[bytes], other: list[bytes]) -> None:
    """Paths of any bytes share a key only if they are the same."""
    made = []
    for segments in (one, other):
        raw = "/" + "/".join(quote_from_bytes(segment, "") for segment in segments)
        made.append(request_key(unquote(raw), b"", raw_path=raw.encode()))
    assert (made[0] == made[1]) == ((one or [b""]) == (other or [b""]))


def test_rewritten_path() -> None:
    """Where something has changed the path, what the application sees counts."""
    assert request_key("/tenant/a", b"", raw_path=b"/a") != request_key("/a", b"", raw_path=b"/a")


def test_root_path() -> None:
    """Two mounts share no key, whether the server puts the root path into the path or not."""
    keys = [
        request_key("/x", b""),
        request_key("/one/x", b"", root_path="/one"),
        request_key("/x", b"", root_path="/one"),
        request_key("/x", b"", root_path="/two"),
    ]
    assert len(set(keys)) == 4


def test_origin() -> None:
    """A host cannot name itself into another's key; the usual port makes no other host."""
    assert answer_key("http://a.example/b") != answer_key("http://a.example/b?")[:-1] + "c"
    odd = {
        answer_key(url)
        for url in ("http://a/b", "https://a/b", "http://a:81/b", "http://b/a/b", "/b", "http://a/b/")
    }
    assert len(odd) == 6
    assert answer_key("http://SHOP.example/b") == answer_key("http://shop.example:80/b")
    assert answer_key("https://shop.example/b") == answer_key("https://shop.example:443/b")
    assert answer_key("https://shop.example/b") != answer_key("https://shop.example:80/b")


def test_ignored() -> None:
    """Named parameters are left out, however they are written."""
    ignore = ["utm_*", "ref"]
    assert answer_key("/p?%75tm_source=x&page=2&ref=1&ref", ignore=ignore) == "GET:/p?page=2"
    assert answer_key("/p?utm=1&reference=2", ignore=ignore) == "GET:/p?reference=2&utm=1"
    assert answer_key("/p?utm_x=1", ignore=ignore) == "GET:/p"


def test_only() -> None:
    """Where the parameters that count are named, the others are left out."""
    query = ["page", "by_*"]
    assert answer_key("/p?%70age=2&utm_x=1&by_name=3&pages=4", query=query) == "GET:/p?by_name=3&page=2"
    assert answer_key("/p?utm_x=1", query=query) == answer_key("/p?a=b", query=()) == "GET:/p"


@pytest.mark.parametrize("wrong", ["utm_*", ["a*b"], [""], [3]])
def test_wrong_ignored(wrong: object) -> None:
    """Patterns that would not do what they say are refused."""
    with pytest.raises(UsageError):
        Ignored.of(wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        Ignored.of((), wrong)  # type: ignore[arg-type]


def test_ignored_and_only() -> None:
    """Either what counts is named, or what does not."""
    with pytest.raises(UsageError, match="nothing left to ignore"):
        Ignored.of(["a"], ["b"])


@given(queries())
def test_no_request_names_a_variant(query: str) -> None:
    """No client can ask for another's variant by its key, and no key has what a glob or a hash tag is made of."""
    made = key(query)
    assert "#" not in made
    assert not set(made.partition("?")[2]) & set("*[]{}\\?")
    assert variant_key(made, "0", b"x").startswith(made + "#0.")


def test_what_the_handler_is_told() -> None:
    """A query comes to the handler as it was sent, but for what is ignored."""
    assert without(b"&&a=%31", Ignored.of(())) == b"&&a=%31"
    assert without(b"&a=%31&%75tm=2&b", Ignored.of(["utm"])) == b"&a=%31&b"
