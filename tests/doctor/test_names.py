"""Every name that `neverstale.core.keys` writes is understood again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from neverstale.core.keys import Keys
from neverstale.doctor.names import Kind, Names

text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)


class TestNames:
    @given(key=text)
    def test_entry(self, key: str) -> None:
        """An entry's key comes back, with its version."""
        name = Names("shop").of(Keys("shop", 3, "").entry(key).encode())
        assert (name.kind, name.text, name.version) == (Kind.ENTRY, key, 3)

    @given(tag=text)
    def test_tag(self, tag: str) -> None:
        """A tag comes back from the names of its SET and of its stamp."""
        keys = Keys("shop", 3, "")
        found = [Names("shop").of(name.encode()) for name in (keys.members(tag), keys.stamp(tag))]
        # A tag that ends as a stamp's name does is still told from a stamp.
        assert [(name.kind, name.text) for name in found] == [(Kind.TAG, tag), (Kind.STAMP, tag)]

    def test_prefix(self) -> None:
        """The prefix is what stands before the first colon."""
        names = Names("shop")
        assert names.of(b"shop:v1:api:GET:/a").prefix == "api:"
        assert names.of(b"shop:v1:plain").prefix == ""

    def test_others(self) -> None:
        """What is not ours is told from what is."""
        names = Names("shop")
        assert names.of(b"shop:queue").kind is Kind.FOREIGN
        assert names.of(b"shop:cache:{shop:stats}:live").kind is Kind.OWN
        assert names.of(b"shop2:v1:a").kind is Kind.OUTSIDE
        assert names.of(b"\xff\xfe").kind is Kind.OUTSIDE

    def test_without_a_namespace(self) -> None:
        """Without a namespace nothing but our own names is ours, and the rest nobody's fault."""
        names = Names("")
        assert names.of(b"v1:a").kind is Kind.ENTRY
        assert names.of(b"cache:tag:{t}").kind is Kind.TAG
        assert names.of(b"queue").kind is Kind.OUTSIDE
        assert names.of(b"version:1").kind is Kind.OUTSIDE
