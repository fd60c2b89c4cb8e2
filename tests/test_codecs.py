"""Values to payload bytes and back: typed, exact, and safe to read whatever the bytes are."""

from __future__ import annotations

import contextlib
import datetime as dt
import decimal
import enum
import subprocess
import sys
import threading
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import msgspec
import pydantic
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from neverstale import codecs
from neverstale.codecs import (
    JSON,
    PLAIN,
    TEXT,
    TEXT_CODEC,
    ZLIB,
    ZSTD,
    Codec,
    Payload,
    Undecodable,
    json_codec,
    pack,
    settle,
    unpack,
)
from neverstale.errors import EncodingError, UsageError

MOST = 1_000_000
ANYTHING: Codec[Any] = json_codec(Any)
BODY = b'{"id":1,"name":"a lamp"}' * 400


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1


@dataclass
class Product:
    id: int
    name: str
    price: decimal.Decimal
    tags: frozenset[str] = frozenset()


@dataclass
class Reading:
    value: float | None = None
    extra: Any = None


@dataclass
class Picky:
    size: int

    def __post_init__(self) -> None:
        if self.size > 10:
            raise KeyError("neither a ValueError nor a TypeError")


class Order(msgspec.Struct):
    id: uuid.UUID
    lines: list[Product]
    placed: dt.datetime


class Row(TypedDict):
    id: int
    name: str


class Pair(NamedTuple):
    left: int
    right: str


class Customer(pydantic.BaseModel):
    id: int
    name: str
    since: dt.date | None = None


class Renamed(pydantic.BaseModel):
    """Two fields that go by each other's name outside."""

    first: int = pydantic.Field(alias="second")
    second: str = pydantic.Field(alias="first")


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True, extra="forbid")

    at: dt.datetime
    inner: Customer | None = None

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def year(self) -> int:
        return self.at.year


class Forgetful(pydantic.BaseModel):
    kept: int
    secret: str = pydantic.Field(default="none", exclude=True)


@pydantic.dataclasses.dataclass
class Checked:
    customer: Customer
    count: int


@dataclass
class Page:
    customers: list[Customer]
    next: str | None = None


NOW = dt.datetime(2024, 2, 29, 12, 30, 1, 5, tzinfo=dt.UTC)
LAMP = Product(1, "lamp", decimal.Decimal("19.90"), frozenset({"new"}))
ANNA = Customer(id=1, name="Anna", since=dt.date(2020, 1, 2))

TYPED: list[tuple[Any, Any]] = [
    (int, 2**63),
    (int, 10**30),
    (float, 1.5),
    (str, "häuser\x00\u2028"),
    (bool, True),
    (type(None), None),
    (bytes, b"\x00\xff"),
    (list[int], [1, 2]),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], ()),
    (set[int], {1, 2}),
    (frozenset[str], frozenset({"a"})),
    (dict[int, str], {1: "a"}),
    (dict[uuid.UUID, int], {uuid.UUID(int=5): 1}),
    (dict[str, Any], {"a": [1, True, None, 1.0, {"b": "c"}]}),
    (list[Any], [1, 1.0, True, "1"]),
    (dt.datetime, NOW),
    (dt.date, NOW.date()),
    (dt.time, NOW.timetz()),
    (dt.timedelta, dt.timedelta(days=-1, microseconds=3)),
    (decimal.Decimal, decimal.Decimal("1.00")),
    (uuid.UUID, uuid.UUID(int=7)),
    (Colour, Colour.RED),
    (Level, Level.LOW),
    (Literal["a", "b"], "b"),
    (int | None, None),
    (int | str, "5"),
    (Annotated[int, msgspec.Meta(ge=0)], 3),
    (Product, LAMP),
    (list[Product], [LAMP]),
    (dict[str, Product], {"a": LAMP}),
    (Product | None, LAMP),
    (Order, Order(uuid.UUID(int=1), [LAMP], NOW)),
    (Row, {"id": 1, "name": "x"}),
    (Pair, Pair(1, "a")),
    (list[Pair], [Pair(1, "a")]),
    (Customer, ANNA),
    (list[Customer], [ANNA, Customer(id=2, name="B")]),
    (dict[str, Customer], {"a": ANNA}),
    (Customer | None, None),
    (Customer | None, ANNA),
    (tuple[Customer, int], (ANNA, 1)),
    (Renamed, Renamed.model_validate({"second": 1, "first": "x"})),
    (Strict, Strict(at=NOW, inner=ANNA)),
    (list[Strict], [Strict(at=NOW)]),
    (Page, Page([ANNA], "2")),
    (Checked, Checked(ANNA, 3)),
]


def _ids(values: list[tuple[Any, Any]]) -> list[str]:
    return [f"{kind}".rpartition(".")[2][:30] for kind, _ in values]


# types ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "value"), TYPED, ids=_ids(TYPED))
def test_a_value_of_a_type_comes_back_as_it_was(kind: Any, value: Any) -> None:
    """Everything the type can hold survives, with its own type."""
    codec = json_codec(kind)
    settled, body = settle(codec, value)
    assert settled == value
    assert type(settled) is type(value)
    assert codec.decode(memoryview(body)) == value
    assert settle(codec, settled) == (settled, body)


def test_codec_of_a_type_is_made_once() -> None:
    """The same type gives the same codec; types that only look alike do not."""
    assert json_codec(list[int]) is json_codec(list[int])
    literal_one: Any = Literal[1]
    literal_true: Any = Literal[True]
    assert json_codec(literal_one) is not json_codec(literal_true)
    assert json_codec(Product).ident == JSON


def test_codec_of_a_type_that_cannot_be_hashed() -> None:
    """An annotation that cannot be kept in a table works all the same."""
    kind: Any = Annotated[int, ["not hashable"]]
    assert settle(json_codec(kind), 5) == (5, b"5")


def test_type_that_cannot_be_stored() -> None:
    """A type that msgspec cannot read is refused when it is given."""
    kind: Any = Product | Order
    with pytest.raises(EncodingError, match=r"Product \| .*Order cannot be stored: .*union"):
        json_codec(kind)


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        (int, "5", "Expected `int`, got `str`"),
        (int, 1.5, "Expected `int`, got `float`"),
        (int, True, "Expected `int`, got `bool`"),
        (list[int], [1, "x"], r"list\[int\]: Expected `int`, got `str` - at `\$\[1\]`"),
        (Product, {"id": 1}, "Product: Object missing required field `name`"),
        (Product, object(), "object cannot be stored as Product"),
        (Customer, {"id": 1}, r"Customer: [^$]*name\n"),
        (Customer | None, object(), "object cannot be stored"),
        (float, float("nan"), "null"),
        (float | None, float("nan"), "nan, which JSON cannot hold"),
        (list[float | None], [1.0, float("inf")], r"\$\[1\] is inf"),
        (set[float | None], {float("-inf")}, "-inf"),
        (dict[str, Any], {"a": float("nan")}, r"\$\['a'\] is nan"),
        (Reading, Reading(float("nan")), r"\$\.value is nan"),
        (Reading, {"value": float("nan")}, r"\$\['value'\] is nan"),
        (Reading, Reading(extra=NOW), r"\$\.extra is datetime .* as str"),
        (Reading, Reading(extra=(1,)), r"\$\.extra is tuple .* as list"),
        (str, NOW, "as str"),
        (str, uuid.UUID(int=1), "as str"),
        (str, Colour.RED, "as str"),
        (dict[str, Any], {"a": LAMP}, r"\$\['a'\] is Product .* as dict"),
        (dict[str, Any], {1: 2}, r"\$ key is int 1 and would come back as str '1'"),
        (dict[str, Any], {1: 2, "1": 3}, "2 keys, of which 1"),
        (dict[str, Any], LAMP, "as dict"),
        (list[int], (1, 2), "as list"),
        (list[Any], [{1}], "as list"),
        (Forgetful, Forgetful(kept=1, secret="x"), r"\$\.secret is str 'x'"),
        (Picky, [], "Picky"),
        (str, "\ud800", "lone surrogate"),
        (dict[str, str], {"\udfff": ""}, "lone surrogate"),
    ],
)
def test_a_value_that_does_not_fit_its_type(kind: Any, value: Any, said: str) -> None:
    """What would come back as something else is refused, and the message says what it is."""
    with pytest.raises(EncodingError, match=said) as caught:
        settle(json_codec(kind), value)
    assert isinstance(caught.value, UsageError)


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (float, 1, 1.0),
        (Product, {"id": 1, "name": "a", "price": "2"}, Product(1, "a", decimal.Decimal(2))),
        (Customer, {"id": 1, "name": "a"}, Customer(id=1, name="a")),
        (set[int], [1, 1], {1}),
        (tuple[int, ...], [1], (1,)),
        (int, Level.LOW, 1),
        (list[tuple[int, str]], [Pair(1, "a")], [(1, "a")]),
    ],
)
def test_a_value_is_converted_to_its_type(kind: Any, value: Any, expected: Any) -> None:
    """What the type says more precisely than the value is what a miss gives too, as a hit will."""
    settled, _ = settle(json_codec(kind), value)
    assert settled == expected
    assert type(settled) is type(expected)


def test_a_union_of_models_is_refused() -> None:
    """msgspec cannot tell two models apart; the message says so."""
    kind: Any = Customer | Renamed
    with pytest.raises(EncodingError, match="cannot be stored"):
        json_codec(kind)


# no type ----------------------------------------------------------------------------------------------------

plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inside: (
        st.lists(inside, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inside, max_size=4)
    ),
    max_leaves=20,
)


def _identical(one: object, other: object) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_identical, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(map(_identical, one.values(), other.values()))
    return repr(one) == repr(other)


@given(plain_values)
def test_plain_values_come_back_exactly(value: Any) -> None:
    """Without a type, whatever JSON can hold is the same afterwards, in every type inside."""
    settled, body = settle(ANYTHING, value)
    assert _identical(settled, value)
    assert _identical(ANYTHING.decode(body), value)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text()
        | st.binary()
        | st.dates()
        | st.decimals()
        | st.sampled_from([Level.LOW, Colour.RED, LAMP, ANNA, Pair(1, "x")]),
        lambda inside: (
            st.lists(inside, max_size=3)
            | st.tuples(inside)
            | st.dictionaries(st.text() | st.integers(), inside, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_without_a_type_it_is_exact_or_refused(value: Any) -> None:
    """There is nothing between "the same" and an EncodingError."""
    try:
        settled, _ = settle(ANYTHING, value)
    except EncodingError:
        return
    assert _identical(settled, value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ((1,), r"\$ is tuple \(1,\) and would come back as list"),
        ([{"a": (1,)}], r"\$\[0\]\['a'\] is tuple"),
        ({1: 2}, r"key is int 1 and would come back as str"),
        (LAMP, "Product .* as dict"),
        (ANNA, "Customer .* as dict"),
        (Level.LOW, "Level .* as int"),
        (float("nan"), "as NoneType"),
        ([float("inf")], "as NoneType"),
        (NOW, "datetime .* as str"),
        ({1}, "set .* as list"),
        (object(), "object cannot be stored as plain JSON"),
        pytest.param(10**5000, "int", id="huge"),
        ("\ud800", "lone surrogate"),
    ],
)
def test_without_a_type_the_message_says_what_to_do(value: Any, said: str) -> None:
    """The error names the place, what would come back, and `type=`."""
    with pytest.raises(EncodingError, match=said) as caught:
        settle(ANYTHING, value)
    assert "type=" in str(caught.value) or "surrogate" in said


def test_a_value_that_holds_itself() -> None:
    """A cycle is an EncodingError, not a crash."""
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(EncodingError, match="holds itself"):
        settle(ANYTHING, cycle)


def test_what_a_miss_gives_is_not_what_was_loaded() -> None:
    """The caller of a miss has its own object: changing it does not change the loader's, nor the cache's."""
    loaded = {"a": [1]}
    settled, body = settle(ANYTHING, loaded)
    settled["a"].append(2)
    assert loaded == {"a": [1]}
    assert body == b'{"a":[1]}'


def test_pydantic_is_not_imported_by_the_codecs() -> None:
    """Who does not use pydantic or zstandard does not load them."""
    program = (
        "import sys, typing; from neverstale.codecs import json_codec, settle;"
        "settle(json_codec(typing.Any), [1]); print({'pydantic', 'zstandard'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"


# text -------------------------------------------------------------------------------------------------------


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_text_comes_back(value: str) -> None:
    """Any text without lone surrogates is the same afterwards."""
    settled, body = settle(TEXT_CODEC, value)
    assert settled == value == TEXT_CODEC.decode(memoryview(body))
    assert TEXT_CODEC.ident == TEXT


class Markup(str):
    """Stands for the many subclasses of str."""

    __slots__ = ()


def test_text_of_a_subclass_is_plain_text() -> None:
    """A miss gives plain text, as a hit does."""
    settled, body = settle(TEXT_CODEC, Markup("<b>"))
    assert (type(settled), settled, body) == (str, "<b>", b"<b>")


@pytest.mark.parametrize(
    ("value", "said"),
    [(b"x", "not a value of type bytes"), (5, "only text"), (None, "NoneType"), ("a\ud800", "surrogate")],
)
def test_what_is_not_text(value: Any, said: str) -> None:
    """Nothing is turned to text by itself."""
    with pytest.raises(EncodingError, match=said):
        settle(TEXT_CODEC, value)


# any bytes --------------------------------------------------------------------------------------------------

KINDS: list[Any] = [Any, *dict.fromkeys(kind for kind, _ in TYPED), Picky, Reading]


@given(st.sampled_from(KINDS), st.binary() | st.text().map(lambda text: text.encode("utf-8", "replace")))
def test_any_bytes_are_a_value_or_undecodable(kind: Any, data: bytes) -> None:
    """Whatever stands in Redis, decoding raises nothing but Undecodable."""
    for codec in (TEXT_CODEC, json_codec(kind)):
        with contextlib.suppress(Undecodable):
            codec.decode(memoryview(data))


@given(st.sampled_from(KINDS), plain_values.map(msgspec.json.encode), st.data())
def test_json_of_another_type_is_a_value_or_undecodable(kind: Any, data: bytes, draw: st.DataObject) -> None:
    """JSON of something else, or damaged JSON, is a value of the type or Undecodable."""
    if draw.draw(st.booleans()):
        cut = draw.draw(st.integers(0, len(data)))
        data = data[:cut] + draw.draw(st.binary(max_size=3)) + data[cut + 1 :]
    with contextlib.suppress(Undecodable):
        json_codec(kind).decode(data)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (Any, b"[" * 100_000 + b"]" * 100_000),
        (Any, b'{"a":' * 100_000),
        (Any, b"9" * 100_000),
        (Any, b"1e999999"),
        (Any, b'"\xed\xa0\x80"'),
        (Any, b'"\\ud800"'),
        (Any, b""),
        (list[Customer], b'[{"id":' + b"[" * 50_000),
        (Picky, b'{"size":11}'),
        (dt.timedelta, b'"P99999999999D"'),
        (dt.datetime, b'"9999-12-31T23:59:60Z"'),
        (Product, b'{"id":1,"name":"x"}'),
        (Customer, b'{"id":"x"}'),
        (Customer, b"5"),
    ],
)
def test_bytes_made_to_hurt(kind: Any, data: bytes) -> None:
    """Depth, size, surrogates, and validators that raise something of their own are all Undecodable."""
    with pytest.raises(Undecodable):
        json_codec(kind).decode(data)


def test_decoding_does_not_copy_the_payload() -> None:
    """Plain payloads are handed on as the memoryview that they came as."""
    data = memoryview(BODY)
    assert unpack(PLAIN, data, MOST) is data


# compression ------------------------------------------------------------------------------------------------


@pytest.fixture
def no_zstandard(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine without zstandard."""
    codecs._zstandard.cache_clear()
    monkeypatch.setitem(sys.modules, "zstandard", None)
    yield
    codecs._zstandard.cache_clear()


def test_a_small_body_stays_plain() -> None:
    """At the limit nothing is compressed, one byte above it is."""
    assert pack(JSON, BODY, len(BODY)) == Payload(JSON, PLAIN, BODY)
    assert pack(JSON, BODY, len(BODY) - 1).compression == ZSTD


def test_what_does_not_get_smaller_stays_plain() -> None:
    """Noise is stored as it is."""
    noise = bytes(zlib.compress(BODY, 9))
    assert pack(TEXT, noise, 0) == Payload(TEXT, PLAIN, noise)
    assert pack(TEXT, b"", -1) == Payload(TEXT, PLAIN, b"")


def test_without_zstandard_zlib_is_used(no_zstandard: None) -> None:
    """Writing goes on with zlib, and what others wrote by Zstandard is a miss."""
    payload = pack(JSON, BODY, 100)
    assert payload.compression == ZLIB
    assert unpack(payload.compression, payload.data, MOST) == BODY
    with pytest.raises(Undecodable, match="not installed"):
        unpack(ZSTD, b"", MOST)


def _compressed(compression: int, body: bytes) -> bytes:
    return zlib.compress(body) if compression == ZLIB else zstandard.ZstdCompressor().compress(body)


@pytest.mark.parametrize("compression", [ZLIB, ZSTD])
@given(body=st.binary(max_size=200).map(lambda body: body * 5))
def test_compressed_bodies_come_back(compression: int, body: bytes) -> None:
    """Whatever was compressed is the same afterwards, from bytes and from a memoryview."""
    data = _compressed(compression, body)
    assert unpack(compression, memoryview(data), MOST) == body == unpack(compression, data, len(body))


@pytest.mark.parametrize("compression", [ZLIB, ZSTD])
def test_a_decompression_bomb_is_not_unpacked(compression: int) -> None:
    """A body above the limit is refused, by one byte or by a thousand times."""
    for size in (MOST + 1, 50 * MOST):
        with pytest.raises(Undecodable, match=str(MOST)):
            unpack(compression, _compressed(compression, bytes(size)), MOST)
    assert len(unpack(compression, _compressed(compression, bytes(MOST)), MOST)) == MOST


def test_zstandard_that_declares_no_or_a_huge_size() -> None:
    """A declared size is looked at before anything is allocated, and must be there."""
    stream = zstandard.ZstdCompressor(write_content_size=False).compress(BODY)
    with pytest.raises(Undecodable, match="declares no size"):
        unpack(ZSTD, stream, MOST)
    huge = b"\x28\xb5\x2f\xfd\xe0" + (2**62).to_bytes(8, "little") + b"\x01\x00\x00"
    with pytest.raises(Undecodable, match="declares"):
        unpack(ZSTD, huge, MOST)


@pytest.mark.parametrize("compression", [ZLIB, ZSTD])
@given(data=st.data())
def test_damaged_data_are_undecodable_or_harmless(compression: int, data: st.DataObject) -> None:
    """Cut off, changed or prolonged: Undecodable, or at least never another exception or too large a body."""
    whole = _compressed(compression, BODY)
    cut = data.draw(st.integers(0, len(whole) - 1))
    assert whole != whole[:cut]
    with pytest.raises(Undecodable):
        unpack(compression, whole[:cut], MOST)
    with pytest.raises(Undecodable):
        unpack(compression, whole + data.draw(st.binary(min_size=1, max_size=20)), MOST)
    changed = whole[:cut] + bytes([whole[cut] ^ data.draw(st.integers(1, 255))]) + whole[cut + 1 :]
    with contextlib.suppress(Undecodable):
        assert len(unpack(compression, changed, MOST)) <= MOST


@given(st.integers(0, 255), st.binary())
def test_any_compression_and_bytes(compression: int, data: bytes) -> None:
    """No number of a compression and no bytes raise anything else."""
    with contextlib.suppress(Undecodable):
        assert len(unpack(compression, data, 1000)) <= max(1000, len(data))


def test_threads_decompress_side_by_side() -> None:
    """Decompressors are not shared: many threads read the same payload correctly."""
    data = _compressed(ZSTD, BODY)
    wrong: list[int] = []

    def read() -> None:
        wrong.extend(1 for _ in range(200) if unpack(ZSTD, data, MOST) != BODY)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# what is stored ---------------------------------------------------------------------------------------------


def test_stored_numbers_never_change() -> None:
    """Entries of earlier releases are read by these."""
    assert (TEXT, JSON) == (0, 1)
    assert (PLAIN, ZLIB, ZSTD) == (0, 1, 2)


@pytest.mark.parametrize(
    ("compression", "data"),
    [
        (PLAIN, '{"id":1,"name":"h\u00e4user","price":"1.50","tags":["a"]}'.encode()),
        (
            ZLIB,
            bytes.fromhex(
                "7801ab56ca4c51b232d451ca4bcc4d55b252ca38bca4b438b5484947a9a02833192462a8"
                "676a00e49624a6172b59452b252ac5d60200bc41100d"
            ),
        ),
        (
            ZSTD,
            bytes.fromhex(
                "28b52ffd2035a901007b226964223a312c226e616d65223a2268c3a475736572222c2270"
                "72696365223a22312e3530222c2274616773223a5b2261225d7d"
            ),
        ),
    ],
)
def test_payloads_of_release_0_1_are_read(compression: int, data: bytes) -> None:
    """The bytes that a release stores are decoded by later ones."""
    assert json_codec(Product).decode(unpack(compression, data, MOST)) == Product(
        1, "häuser", decimal.Decimal("1.50"), frozenset({"a"})
    )


@dataclass
class Deep:
    """A type that holds itself."""

    inside: list[Deep] = field(default_factory=list)


def test_a_type_that_holds_itself() -> None:
    """Recursive types settle, and bytes nested without end are Undecodable."""
    value = Deep([Deep(), Deep([Deep()])])
    assert settle(json_codec(Deep), value)[0] == value
    with pytest.raises(Undecodable):
        json_codec(Deep).decode(b'{"inside":[' * 50_000)
