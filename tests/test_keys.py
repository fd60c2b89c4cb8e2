"""Names in Redis: no two keys share one, and no input reaches out of its own."""

from __future__ import annotations

import fnmatch
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from redis.crc import key_slot

from neverstale.core.keys import MAX_KEY_BYTES, MAX_TAG_BYTES, Keys, check_tag, check_tags, escape_glob
from neverstale.errors import UsageError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
#: Made of the pieces that escapes and shortening are about.
PIECES = st.sampled_from(
    [
        "{",
        "\x01",
        "\x01(",
        "\x01.",
        "(",
        ".",
        "}",
        "%",
        "25",
        "7B",
        "7b",
        "%7B",
        "%257B",
        "~",
        "a",
        "é",
        "€",
        ":",
        "*",
    ]
)
TRICKY = st.lists(PIECES, min_size=1, max_size=12).map("".join)
LONG = st.builds(
    lambda piece, times, end: piece * times + end,
    PIECES,
    st.integers(100, 600),
    st.one_of(TRICKY, st.just("")),
)
KEYS = st.one_of(TEXT, TRICKY, LONG)
PREFIXES = st.one_of(st.just(""), TEXT, TRICKY)


def keys_of(prefix: str = "", namespace: str = "shop", version: int = 3) -> Keys:
    return Keys(namespace, version, prefix)


@pytest.mark.parametrize(
    ("namespace", "version", "prefix", "name"),
    [
        ("", 1, "", "v1:k"),
        ("shop", 3, "", "shop:v3:k"),
        ("shop", 3, "api:", "shop:v3:api:k"),
        ("", 12, "api:{v}:", "v12:api:\x01(v}:k"),
    ],
)
def test_entry(namespace: str, version: int, prefix: str, name: str) -> None:
    """Namespace, version and prefix stand in front."""
    assert Keys(namespace, version, prefix).entry("k") == name


@given(KEYS, KEYS, PREFIXES)
@example("{", "%7B", "")
@example("%7B", "%257B", "")
@example("{", "\x01(", "")
@example("\x01", "\x01.", "")
@example("{%7B", "%7B{", "")
def test_injective(first: str, second: str, prefix: str) -> None:
    """Two keys that differ have names that differ."""
    keys = keys_of(prefix)
    assert (keys.entry(first) == keys.entry(second)) == (first == second)


@given(st.data())
def test_nobody_can_name_a_shortened_key(data: st.DataObject) -> None:
    """The name of a shortened key, given as a key, is another name."""
    keys = keys_of(data.draw(PREFIXES))
    name = keys.entry("k" * 512 + data.draw(TRICKY))
    assert name[-65] == "~"
    assert name != keys.entry(name.removeprefix(keys.head))


@given(KEYS, PREFIXES)
def test_no_hash_tag(key: str, prefix: str) -> None:
    """No input forms a hash tag: the slot of a name is that of the whole name, and no name is too long."""
    name = keys_of(prefix).entry(key)
    raw = name.encode()
    assert "{" not in name
    assert key_slot(raw) == key_slot(b"{" + raw + b"}") if b"}" not in raw else key_slot(raw) >= 0
    assert len(raw) <= MAX_KEY_BYTES
    assert name.startswith(keys_of(prefix).head)


def test_keys_spread() -> None:
    """Keys that wear a hash tag are spread over the slots all the same."""
    assert len({key_slot(keys_of().entry(f"{{user}}:{number}").encode()) for number in range(200)}) > 150


def test_a_long_key_keeps_its_head() -> None:
    """A shortened key begins as it was, and ends in a digest."""
    name = keys_of("api:").entry("GET:/products/" + "x" * 600)
    assert name.startswith("shop:v3:api:GET:/products/xxx")
    assert len(name) == MAX_KEY_BYTES
    assert name[-65] == "~"


def test_lengths_around_the_limit() -> None:
    """Whatever the length, other keys of that length or of a shortened one have other names."""
    keys = keys_of()
    for length in range(440, 520):
        raw = "x" * length
        others = {
            raw[:-1],
            raw[:-1] + "y",
            raw + "x",
            raw[:-65] + "~" + raw[-64:],
            raw[:300] + "{" + raw[301:],
        }
        assert len({keys.entry(key) for key in {raw, *others}}) == len({raw, *others})


@pytest.mark.parametrize("key", ["", "\ud800", "a" * 1000 + "\udfff", None, 5, ("k",)])
def test_wrong_keys(key: Any) -> None:
    """What cannot be a key is refused."""
    with pytest.raises(UsageError, match="key"):
        keys_of().entry(key)


@pytest.mark.parametrize("prefix", [None, 5, "\ud800", "x" * 500])
def test_wrong_prefixes(prefix: Any) -> None:
    """A prefix is text that leaves room for keys."""
    with pytest.raises(UsageError, match="prefix"):
        keys_of(prefix)


# --- tags ---------------------------------------------------------------------------------------------------------

TAGS = st.one_of(TEXT, TRICKY)


@given(TAGS, TAGS)
def test_keys_of_tags(first: str, second: str) -> None:
    """The keys of a tag are its own, in one slot, and no entry's."""
    keys = keys_of()
    names = [(keys.members(tag), keys.stamp(tag)) for tag in (first, second)]
    assert (names[0] == names[1]) == (first == second)
    assert len({*names[0], *names[1]}) == (2 if first == second else 4)
    for members, stamp in names:
        assert key_slot(members.encode()) == key_slot(stamp.encode())
        assert members.startswith("shop:cache:tag:{")
        assert not members.startswith(keys.head)


def test_plain_tags_are_readable() -> None:
    """A tag stands in its keys as it is, where it can."""
    assert Keys("", 1, "api:").members("product:5") == "cache:tag:{product:5}"
    assert Keys("shop", 1, "").stamp("product:5") == "shop:cache:tag:{product:5}:stamp"


@given(TAGS)
def test_tags_are_spread(tag: str) -> None:
    """The whole of a tag decides about its slot."""
    members = keys_of().members(tag)
    inner = members[members.index("{") + 1 : -1]
    assert "{" not in inner
    assert "}" not in inner
    assert inner
    assert key_slot(members.encode()) == key_slot(inner.encode())


@pytest.mark.parametrize(
    "tag", ["", None, 5, b"t", "\ud800", "x" * (MAX_TAG_BYTES + 1), "é" * (MAX_TAG_BYTES // 2 + 1)]
)
def test_wrong_tags(tag: Any) -> None:
    """What cannot be a tag is refused."""
    with pytest.raises(UsageError, match="tag"):
        check_tag(tag)
    with pytest.raises(UsageError, match="tag"):
        check_tags(["fine", tag])


def test_tags_are_several() -> None:
    """Each tag once, in their order; a single text is a mistake."""
    assert check_tags(["b", "a", "b"]) == check_tags(iter(["b", "a"])) == ("b", "a")
    assert check_tags(()) == ()
    with pytest.raises(UsageError, match=r"write tags=\['products'\]"):
        check_tags("products")


# --- patterns -----------------------------------------------------------------------------------------------------


def matches(pattern: str, name: str) -> bool:
    """Match as Redis does, for globs without brackets; Python has no escape, so an escaped sign is put in brackets."""
    python, escaped = "", False
    for sign in pattern:
        if escaped:
            python += f"[{sign}]" if sign in "*?[" else sign
        elif sign != "\\":
            python += sign
        escaped = sign == "\\" and not escaped
    return fnmatch.fnmatchcase(name, python)


@given(st.one_of(TEXT, TRICKY), st.one_of(TEXT, TRICKY), PREFIXES)
def test_an_escaped_key_matches_itself(first: str, second: str, prefix: str) -> None:
    """Escaped text as a pattern finds the key that it is, and no other."""
    keys = keys_of(prefix)
    patterns = keys.patterns(escape_glob(first))
    assert sum(matches(pattern, keys.entry(first)) for pattern in patterns) == 1
    assert any(matches(pattern, keys.entry(second)) for pattern in patterns) == (first == second)


@given(st.one_of(TEXT, TRICKY), st.one_of(TEXT, TRICKY), PREFIXES)
def test_an_escaped_beginning_matches(first: str, second: str, prefix: str) -> None:
    """Escaped text and a star find what begins with it, where the text does not end inside of an escape."""
    keys = keys_of(prefix)
    patterns = keys.patterns(escape_glob(first) + ":*")
    assert any(matches(pattern, keys.entry(f"{first}:{second}")) for pattern in patterns)


@given(PREFIXES, TEXT, PREFIXES)
def test_a_pattern_stays_under_its_prefix(prefix: str, key: str, other: str) -> None:
    """Everything under a prefix is everything whose name begins with it, and nothing else."""
    keys, others = keys_of(prefix), keys_of(other)
    name = others.entry(key)
    found = any(matches(pattern, name) for pattern in keys.patterns("*"))
    assert found == name.startswith(keys.head)


@given(st.integers(1, 999_999), st.integers(1, 999_999), PREFIXES)
@example(9, 10, "")
@example(10, 9, "")
@example(1, 11, "")
@example(99, 100, "")
def test_patterns_reach_the_neighbouring_versions(version: int, other: int, prefix: str) -> None:
    """A pattern finds what this version and the two beside it have stored, each entry once, and nothing of others."""
    keys, name = keys_of(prefix, version=version), keys_of(prefix, version=other).entry("k")
    patterns = keys.patterns("*")
    assert len(patterns) <= 2
    assert sum(matches(pattern, name) for pattern in patterns) == (abs(version - other) <= 1)


@given(st.text(max_size=20), PREFIXES, st.integers(1, 999_999))
def test_everything_of_a_namespace(other: str, prefix: str, version: int) -> None:
    """Every entry of the namespace is one, and what merely begins alike is none."""
    keys = keys_of()
    name = keys_of(prefix, version=version).entry("k")
    assert matches(keys.everything, name)
    assert keys.is_entry(name.encode())
    assert not keys.is_entry(f"other:{name}".encode())
    assert not keys.is_entry(keys.stamp("t").encode())


@given(st.text())
def test_escape_glob(text: str) -> None:
    """Escaping marks each of the signs of a glob, and nothing else."""
    escaped = escape_glob(text)
    assert escaped.count("\\") == sum(text.count(sign) for sign in "*?[]\\") + text.count("\\")
    assert matches(escaped, text)


@pytest.mark.parametrize("pattern", ["", None, 5, "\ud800"])
def test_wrong_patterns(pattern: Any) -> None:
    """What cannot be a pattern is refused."""
    with pytest.raises(UsageError, match="pattern"):
        keys_of().patterns(pattern)
