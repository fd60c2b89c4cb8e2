"""Keys of calls: one key for one call however it is written, and never one for two calls that differ."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import functools
import inspect
import itertools
import math
import os
import pathlib
import re
import subprocess
import sys
import uuid
import zoneinfo
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neverstale.callkeys import CallKey, function_name
from neverstale.errors import KeyingError, UsageError
from neverstale.stabletext import stable_text

HERE = __name__
MISSING = object()


class Colour(enum.Enum):
    RED = 1
    BLUE = 2
    CRIMSON = 1  # noqa: PIE796


class Shade(enum.Enum):
    RED = 1


class Number(enum.IntEnum):
    ONE = 1


class Name(enum.StrEnum):
    A = "a"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Markup(str):
    __slots__ = ()


class Cents(int):
    pass


class Ratio(float):
    pass


class Blob(bytes):
    pass


class NotedText(str):
    """Text that carries something else."""

    note: str


class SlottedText(str):
    __slots__ = ("note",)


class Numbers(list[int]):
    pass


class DriverUUID(uuid.UUID):
    """What a database driver returns."""


@dataclasses.dataclass
class Point:
    x: Any
    y: Any = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    x: Any


@dataclasses.dataclass
class Other:
    x: Any
    y: Any = 0


class Undecorated(Point):
    def __init__(self, x: int, more: int) -> None:
        super().__init__(x)
        self.more = more


@dataclasses.dataclass
class Unset:
    x: int = dataclasses.field(init=False)


class Money(msgspec.Struct):
    amount: Any
    currency: str = "EUR"


class Pair(NamedTuple):
    left: Any
    right: Any


class Twin(NamedTuple):
    left: Any
    right: Any


class Query(pydantic.BaseModel):
    text: str
    page: int = 1


class Open(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")

    _hidden: dict[str, int] = pydantic.PrivateAttr(default_factory=dict)


T = TypeVar("T")


class Box(pydantic.BaseModel, Generic[T]):
    item: T


class User:
    """An object that says what tells it apart."""

    def __init__(self, ident: Any) -> None:
        self.ident = ident

    def __cache_key__(self) -> Any:
        return self.ident


class Admin(User):
    pass


class Nobody:
    """An object with nothing but an address."""


class Endless:
    def __cache_key__(self) -> Endless:
        return self


class Broken:
    def __cache_key__(self) -> str:
        raise ZeroDivisionError


def plain(x: Any, y: Any = "", *, z: Any = None) -> None: ...
def two(a: Any, b: Any) -> None: ...
def ordered(a: Any, b: Any = 2, /, c: Any = 3, *, d: Any, e: Any = 5) -> None: ...
def open_ended(a: Any, *args: Any, b: Any = 1, **kwargs: Any) -> None: ...
def reuses_name(a: Any, /, **kwargs: Any) -> None: ...
def nothing() -> None: ...
async def coroutine(x: Any, y: Any = 1) -> None: ...
def with_sentinel(x: Any, limit: Any = MISSING, tags: Any = []) -> None: ...  # noqa: B006


class Catalog:
    """A service whose objects have nothing but an address."""

    def product(self, id: int, lang: str = "en") -> None: ...  # noqa: A002

    @classmethod
    def all(cls, page: int = 1) -> None: ...

    @staticmethod
    def helper(x: int) -> None: ...


class SubCatalog(Catalog):
    pass


@dataclasses.dataclass
class Shop:
    name: str

    def product(self, id: int) -> None: ...  # noqa: A002


def key_of(func: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    return CallKey(func)(args, kwargs)


# what keys look like ----------------------------------------------------------------------------------------


def test_a_key_is_readable() -> None:
    """The function's full name, then every parameter by name with its value."""
    assert key_of(plain, 5, y="en") == f'{HERE}.plain(x=5,y="en",z=None)'
    assert key_of(nothing) == f"{HERE}.nothing()"
    assert key_of(coroutine, 1) == f"{HERE}.coroutine(x=1,y=1)"
    assert (
        key_of(open_ended, 1, 2, 3, k="v") == f'{HERE}.open_ended(a=1,*args=(2,3),b=1,**kwargs=dict("k":"v"))'
    )
    assert key_of(open_ended, 1) == f"{HERE}.open_ended(a=1,b=1)"
    assert repr(CallKey(plain)) == f"CallKey({HERE}.plain)"
    assert CallKey(plain).name == f"{HERE}.plain"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        (True, "True"),
        (-1, "-1"),
        (0.1, "0.1"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (1j, "1j"),
        ("", '""'),
        ('say "hi"\n\\', '"say \\"hi\\"\\n\\\\"'),
        ("häuser 😀", '"häuser 😀"'),
        (b"a'", 'b"a\'"'),
        ([1, [2]], "[1,[2]]"),
        ((), "()"),
        ((1,), "(1,)"),
        ((1, 2), "(1,2)"),
        ({3, 1}, "set(1,3)"),
        (frozenset(), "frozenset()"),
        ({"b": 1, "a": {}}, 'dict("a":dict(),"b":1)'),
        (decimal.Decimal("1.00"), "Decimal(1.00)"),
        (uuid.UUID(int=1), "UUID(00000000-0000-0000-0000-000000000001)"),
        (dt.date(2024, 2, 29), "date(2024-02-29)"),
        (dt.datetime(2024, 2, 29, 1), "datetime(2024-02-29T01:00:00)"),
        (dt.datetime(2024, 2, 29, 1, tzinfo=dt.UTC), "datetime(2024-02-29T01:00:00+00:00)"),
        (dt.datetime(2024, 2, 29, 1, fold=1), "datetime(2024-02-29T01:00:00,fold=1)"),
        (
            dt.datetime(2024, 2, 29, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
            'datetime(2024-02-29T01:00:00+01:00,"Europe/Berlin")',
        ),
        (dt.time(1, 2), "time(01:02:00)"),
        (dt.timedelta(days=1, seconds=2), "timedelta(1,2,0)"),
        (Colour.CRIMSON, f"{HERE}.Colour.RED"),
        (Rights.READ, f"{HERE}.Rights.READ"),
        (Rights(0), f"{HERE}.Rights(0)"),
        (Number.ONE, f"{HERE}.Number.ONE"),
        (Markup("a"), f'{HERE}.Markup("a")'),
        (Cents(5), f"{HERE}.Cents(5)"),
        (Ratio(5), f"{HERE}.Ratio(5.0)"),
        (Blob(b"a"), f"{HERE}.Blob(b'a')"),
        (pathlib.PurePosixPath("/a b"), 'pathlib.PurePosixPath("/a b")'),
        (Point(1, [2]), f"{HERE}.Point(x=1,y=[2])"),
        (Slotted(1), f"{HERE}.Slotted(x=1)"),
        (Money(5), f'{HERE}.Money(amount=5,currency="EUR")'),
        (Pair(1, "a"), f'{HERE}.Pair(left=1,right="a")'),
        (Query(text="x"), f'{HERE}.Query(text="x",page=1)'),
        (
            Open.model_validate({"a": 1}),
            f'{HERE}.Open()+extra=dict("a":1)+private=dict("_hidden":dict())',
        ),
        (Box[int](item=1), f"{HERE}.Box[int](item=1)"),
        (User("u1"), f'{HERE}.User("u1")'),
        (Admin(("a", 1)), f'{HERE}.Admin(("a",1))'),
        (Point, f"type({HERE}.Point)"),
        (Colour, f"type({HERE}.Colour)"),
        (int, "type(builtins.int)"),
        (msgspec.UNSET, "UNSET"),
    ],
    ids=lambda each: re.sub(r" at 0x[0-9a-f]+", "", repr(each)),
)
def test_how_values_are_written(value: Any, text: str) -> None:
    """Stored keys are found by later releases: this is how each kind of value is written."""
    assert stable_text(value) == text
    assert key_of(two, value, [value]) == f"{HERE}.two(a={text},b=[{text}])"


def test_an_integer_of_any_size() -> None:
    """Python refuses to write huge integers in decimal; they have a key all the same."""
    assert stable_text(1 << 100_000) != stable_text((1 << 100_000) + 1)


def test_keys_are_the_same_in_every_process() -> None:
    """Neither hash seeds nor addresses get into a key."""
    program = (
        "from neverstale.stabletext import stable_text as t;"
        "print(t([{'a', 'b', 'c', 'd', 'e'}, {'k': 1, 'j': frozenset('xyz')}, str]))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(said) == 1


# calls that differ ------------------------------------------------------------------------------------------

DIFFERENT: list[Any] = [
    1, "1", None, "", True, False, 0, 1.0, 0.0, -0.0, b"1", b"", 1j, "None", "True", "nan", math.nan, "\ud800",
    "\\ud800",
    "\\\\ud800", "\ud83d\ude00", "😀", "a", Name.A, Markup("a"), Number.ONE, Cents(1), Ratio(1), Blob(b"1"),
    Colour.RED, Colour.BLUE, Shade.RED, Rights.READ, Rights.READ | Rights.WRITE, Colour,
    [], (), {}, set(), frozenset(), bytearray(), [1], (1,), {1}, frozenset({1}), {1: 1}, {"1": 1}, {1: "1"}, {True: 1},
    [[]], [()], ([],), [[1], 2], [1, [2]], [1, 2], [2, 1], (1, 2),
    "[1,2]", ["1,2"], ["1", "2"], ['1","2'], "(1,)", "[]",
    decimal.Decimal(1), decimal.Decimal("1.0"), decimal.Decimal("NaN"), decimal.Decimal("sNaN"), "Decimal(1)",
    uuid.UUID(int=1), str(uuid.UUID(int=1)), uuid.UUID(int=1).bytes,
    dt.date(2024, 1, 1), dt.datetime(2024, 1, 1), "2024-01-01", dt.datetime(2024, 1, 1, fold=1),
    dt.datetime(2024, 1, 1, tzinfo=dt.UTC), dt.datetime(2024, 1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1))),
    dt.datetime(2024, 1, 1, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
    dt.datetime(2024, 1, 1, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Paris")),
    dt.datetime(2024, 1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1), "CET")),
    dt.time(0), dt.time(0, tzinfo=dt.UTC), dt.timedelta(1), dt.timedelta(seconds=1), 86400,
    pathlib.PurePosixPath("a"), pathlib.PureWindowsPath("a"), pathlib.Path("a"),
    Point(1), Point(1, 1), Point("1"), Point([1]), Other(1), Slotted(1), Money(1), Money(1, ""), Pair(1, 0), Twin(1, 0),
    (1, 0), {"x": 1, "y": 0}, Point, Other, Query(text="1"), Query(text="", page=1), Box[int](item=1),
    Box[str](item="1"),
    Open(), Open.model_validate({"a": 1}), User(1), User("1"), User(None), Admin(1), User(User(1)), MISSING.__class__,
]  # fmt: skip


def test_arguments_that_differ_have_keys_that_differ() -> None:
    """None of these share a key with another, alone or one level deeper."""
    hidden = Open()
    hidden._hidden = {"a": 1}
    values = [*DIFFERENT, hidden]
    for wrap in (lambda v: v, lambda v: [v], lambda v: {"k": v}, lambda v: Point(v), lambda v: (v, 1)):
        texts: dict[str, Any] = {}
        for value in values:
            text = key_of(plain, wrap(value))
            assert text not in texts, (value, texts.get(text))
            text.encode()  # can be sent to Redis
            texts[text] = value


def test_text_cannot_pretend_to_be_another_argument() -> None:
    """Delimiters inside of arguments stay inside of them."""
    calls: list[tuple[Any, ...]] = [
        ("1:b:2", "3"), ("1", "2:b:3"), ("1", "2"), ('1",b="2', "2"), ('1"', "2"), ('1\\"', "2"),
        ("1,b=2", ""), ("", "1,b=2"),
        ("1", 2), (1, "2"), (("1", "2"), ""), (["1", "2"], ""), ("1\\", "2"), ("1\\\\", "2"), ("1)", "2"),
        ("a", "\x00"), ("a\x00", ""),
    ]  # fmt: skip
    assert len({key_of(two, *call) for call in calls}) == len(calls)


def test_star_arguments_do_not_mix() -> None:
    """Positional surplus, keyword surplus and plain parameters are told apart."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((1,), {}), ((1, 2), {}), ((1, (2,)), {}), ((1, 2, 3), {}), ((1, (2, 3)), {}), ((1,), {"b": 2}), ((1,),
        {"c": 2}),
        ((1,), {"c": 2, "d": 3}), ((1,), {"c": {"d": 3}}), ((1, {"c": 2}), {}), ((1,), {"args": (2,)}), ((1,),
        {"kwargs": {"c": 2}}),
        ((1,), {"c=2,d": 3}), ((1,), {"": 1}), ((1,), {'c":2,"d': 3}),
    ]  # fmt: skip
    assert len({CallKey(open_ended)(*call) for call in calls}) == len(calls)
    assert key_of(reuses_name, 1, a=2) != key_of(reuses_name, 2, a=1)


def test_one_call_written_in_different_ways() -> None:
    """Positions, keywords in any order, and defaults given or left out lead to one key."""
    assert {
        key_of(plain, 1),
        key_of(plain, x=1),
        key_of(plain, 1, ""),
        key_of(plain, 1, y=""),
        key_of(plain, z=None, y="", x=1),
        key_of(plain, 1, z=None),
    } == {key_of(plain, 1)}
    assert key_of(open_ended, 1, p=1, q=2) == key_of(open_ended, q=2, p=1, a=1)
    assert (
        key_of(with_sentinel, 1)
        == key_of(with_sentinel, 1, MISSING, [])
        == key_of(with_sentinel, x=1, tags=[])
    )
    assert key_of(two, {"a": 1, "b": 2}, {1, 2}) == key_of(two, {"b": 2, "a": 1}, {2, 1})


def test_a_default_without_a_text_is_a_word_of_its_own() -> None:
    """A sentinel is the same default in every process, and no value that is given looks like it."""
    assert key_of(with_sentinel, 1) == f"{HERE}.with_sentinel(x=1,limit=default,tags=[])"
    assert key_of(with_sentinel, 1, "default") != key_of(with_sentinel, 1)
    with pytest.raises(KeyingError, match="'limit'"):
        key_of(with_sentinel, 1, object())


def test_a_driver_s_uuid_finds_the_key_of_a_plain_one() -> None:
    """UUIDs of database drivers equal plain ones, so invalidating by either works."""
    assert stable_text(DriverUUID(int=5)) == stable_text(uuid.UUID(int=5))


def test_time_zones_of_one_offset() -> None:
    """A fixed offset is the same, whichever library made it."""
    ours = dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    read = pydantic.TypeAdapter(dt.datetime).validate_python("2024-01-01T00:00:00+02:00")
    assert type(read.tzinfo) is not dt.timezone
    assert stable_text(read) == stable_text(ours)
    assert stable_text(ours.replace(tzinfo=dt.timezone(dt.timedelta(0)))) == stable_text(
        ours.replace(tzinfo=dt.UTC)
    )


# any values -------------------------------------------------------------------------------------------------

texts = st.text(st.sampled_from('a1,:"\\()[]={}Né😀\ud800\x00 '), max_size=4)
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.sampled_from([0.0, -0.0, 1.0, 2.0, math.nan, math.inf, 1e100])
    | texts
    | st.binary(max_size=2)
    | st.sampled_from([Name.A, Number.ONE, Colour.RED, Shade.RED, Markup("a"), Cents(1), int, Colour, Point])
    | st.sampled_from([decimal.Decimal("1"), decimal.Decimal("1.0"), uuid.UUID(int=1), dt.date(2024, 1, 1),
    dt.timedelta(1)])
)  # fmt: skip
hashable = st.recursive(
    leaves, lambda v: st.lists(v, max_size=2).map(tuple) | st.frozensets(v, max_size=2), max_leaves=3
)
values = st.recursive(
    leaves,
    lambda v: (
        st.lists(v, max_size=3)
        | st.lists(v, max_size=3).map(tuple)
        | st.dictionaries(hashable, v, max_size=3)
        | st.sets(hashable, max_size=3)
        | st.frozensets(hashable, max_size=3)
        | st.builds(Point, v, v)
        | st.builds(Other, v)
        | st.builds(Money, v, texts)
        | st.builds(Pair, v, v)
        | st.builds(User, v)
    ),
    max_leaves=6,
)


def same(one: Any, other: Any) -> bool:
    """Say whether two values are equal and of equal types all the way down: what keys are to tell apart."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return same_members(list(one.items()), list(other.items()))
    if isinstance(one, set | frozenset):
        return same_members(list(one), list(other))
    if isinstance(one, Point | Other | User):
        return same(vars(one), vars(other))
    if isinstance(one, Money):
        return same((one.amount, one.currency), (other.amount, other.currency))
    if isinstance(one, float | decimal.Decimal):
        return repr(one) == repr(other)
    return bool(one == other)


def same_members(some: list[Any], others: list[Any]) -> bool:
    """Compare without an order."""
    if len(some) != len(others):
        return False
    if len(some) <= 1:
        return all(map(same, some, others))
    return any(all(map(same, some, order)) for order in itertools.permutations(others))


def another(value: Any) -> Any:
    """Build the value once more, with sets and dicts filled in another order."""
    if type(value) in (list, tuple):
        return type(value)(another(each) for each in value)
    if type(value) in (set, frozenset):
        return type(value)(another(each) for each in reversed(list(value)))
    if isinstance(value, dict):
        return {another(key): another(each) for key, each in reversed(value.items())}
    if isinstance(value, Point | Other):
        return type(value)(another(value.x), another(value.y))
    if isinstance(value, Pair):
        return Pair(*map(another, value))
    return value


@given(values, values)
def test_keys_are_equal_exactly_for_equal_arguments(one: Any, other: Any) -> None:
    """Two keys are equal if and only if the values are equal and of equal types."""
    assert (stable_text(one) == stable_text(other)) == same(one, other)


@given(st.lists(leaves | st.lists(leaves, max_size=2), min_size=2, max_size=30))
def test_many_small_values_have_keys_of_their_own(some: list[Any]) -> None:
    """The same, with many neighbours at once."""
    for one, other in itertools.combinations(some, 2):
        assert (stable_text(one) == stable_text(other)) == same(one, other)


@given(values)
def test_an_equal_value_has_the_same_key(value: Any) -> None:
    """Built again, in another order: the same key, and one that Redis takes."""
    assert same(value, another(value))
    assert stable_text(value) == stable_text(another(value))
    stable_text(value).encode()


@given(texts, texts, texts, texts)
def test_two_texts_are_not_two_other_texts(a: str, b: str, c: str, d: str) -> None:
    """Pairs of texts share a key only if they are the same pair."""
    assert (key_of(two, a, b) == key_of(two, c, d)) == ((a, b) == (c, d))


arguments = st.tuples(
    st.lists(st.integers(1, 5), max_size=5),
    st.dictionaries(st.sampled_from(["a", "b", "c", "d", "e", "x", "args"]), st.integers(1, 5), max_size=5),
)
FUNCTIONS = [plain, two, ordered, open_ended, reuses_name, nothing, coroutine, with_sentinel]


@given(st.sampled_from(FUNCTIONS), arguments, arguments)
def test_calls_are_bound_as_python_binds_them(
    func: Callable[..., Any],
    one: tuple[list[int], dict[str, int]],
    other: tuple[list[int], dict[str, int]],
) -> None:
    """Two calls share a key if and only if they are the same call; a wrong one raises what the function raises."""
    key = CallKey(func)
    bound: list[Any] = []
    for args, kwargs in (one, other):
        try:
            binding = inspect.signature(func).bind(*args, **kwargs)
        except TypeError:
            with pytest.raises(TypeError) as expected:
                func(*args, **kwargs)
            with pytest.raises(TypeError) as raised:
                key(tuple(args), kwargs)
            assert str(raised.value) == str(expected.value)
            return
        binding.apply_defaults()
        bound.append(binding.arguments)
    keys = [key(tuple(args), kwargs) for args, kwargs in (one, other)]
    assert (keys[0] == keys[1]) == same(dict(bound[0]), dict(bound[1]))


# what has no key --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (object(), "of type object has nothing that tells it"),
        (Nobody(), rf"of type {HERE}\.Nobody has nothing"),
        ([1, {"a": (Nobody(),)}], rf"of type list holds a value of type {HERE}\.Nobody, which has nothing"),
        (Point(Nobody()), rf"Point holds a value of type {HERE}\.Nobody"),
        (len, "builtin_function_or_method has nothing"),
        (plain, "of type function has nothing"),
        (iter([]), "list_iterator"),
        (memoryview(b""), "memoryview"),
        (list[int], "GenericAlias"),
        (Numbers(), "Numbers is a container with more to it"),
        (OrderedDict(), "OrderedDict is a container"),
        (defaultdict(list), "defaultdict is a container"),
        (Undecorated(1, 2), "Undecorated inherits its fields"),
        (Unset(), "fields that were never set"),
        (SlottedText("a"), "attributes that its text does not show"),
        (Endless(), "holds itself"),
        (dt.datetime(2024, 1, 1, tzinfo=type("Zone", (dt.tzinfo,), {"utcoffset": lambda *_: None})()), "zone without"),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_an_argument_without_a_key(value: Any, said: str) -> None:
    """The error names the function, the parameter, the type, and what to do."""
    for call in (CallKey(plain), CallKey(open_ended), CallKey(ordered)):
        first = next(iter(inspect.signature(call._func).parameters))
        with pytest.raises(KeyingError, match=said) as caught:
            call((value,), {"d": 1} if call._func is ordered else {})
        assert str(caught.value).startswith(f"{call.name}: the argument {first!r} ")
        assert "key=" in str(caught.value)
        assert isinstance(caught.value, UsageError)


def test_text_with_attributes_is_refused() -> None:
    """A subclass of str is written as its text, so it may carry nothing else."""
    value = NotedText("a")
    assert stable_text(value) == f'{HERE}.NotedText("a")'
    value.note = "b"
    with pytest.raises(KeyingError, match="attributes that its text does not show"):
        key_of(plain, value)


def test_a_class_made_inside_of_a_function() -> None:
    """Another class may have the same name, so neither it nor its objects have a key."""

    @dataclasses.dataclass
    class Local:
        x: int

    for value in (Local(1), Local):
        with pytest.raises(KeyingError, match="made inside of a function"):
            key_of(plain, value)


def test_values_that_hold_themselves() -> None:
    """Cycles of every kind are a KeyingError."""
    in_list: list[Any] = []
    in_list.append(in_list)
    in_dict: dict[str, Any] = {}
    in_dict["a"] = (in_dict,)
    in_point = Point(None)
    in_point.x = [in_point]
    for value in (in_list, in_dict, in_point):
        for func in (plain, open_ended):
            with pytest.raises(KeyingError, match="holds itself, or is nested too deeply"):
                key_of(func, value)


def test_an_error_of_a_cache_key_method_is_not_hidden() -> None:
    """What __cache_key__ raises reaches the caller as it is."""
    with pytest.raises(ZeroDivisionError):
        key_of(plain, Broken())


def test_a_wrong_call_does_not_run_the_function() -> None:
    """A call that does not fit raises what the function says, and its body does not run."""
    ran: list[int] = []

    def body(x: int) -> None:
        ran.append(x)

    @functools.wraps(two)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        ran.append(1)

    with pytest.raises(TypeError, match=r"body\(\) got an unexpected keyword argument 'z'"):
        CallKey(body, name="body")((1,), {"z": 2})
    with pytest.raises(TypeError, match="missing a required argument: 'b'"):
        CallKey(wrapper)((1,), {})
    assert ran == []


# functions and methods --------------------------------------------------------------------------------------


def test_functions_without_a_name_of_their_own() -> None:
    """Lambdas, inner functions and partials are refused, unless they are given a name."""

    def inner(x: int) -> None: ...

    for func in (lambda x: x, inner, functools.partial(plain, 1), "".upper):
        with pytest.raises(KeyingError, match="key="):
            CallKey(func)
    with pytest.raises(KeyingError, match="each holds its own variables"):
        function_name(inner)
    assert CallKey(inner, name="mine")((1,), {}) == "mine(x=1)"


def test_a_decorated_function_has_the_name_and_parameters_of_the_inner_one() -> None:
    """functools.wraps is enough."""

    @functools.wraps(plain)
    def wrapper(*args: Any, **kwargs: Any) -> None: ...

    assert key_of(wrapper, 1) == key_of(plain, 1)


def test_a_program_that_is_no_file() -> None:
    """What is typed in has no other name than `__main__`."""
    source = "from neverstale.callkeys import CallKey\ndef f(x): ...\nprint(CallKey(f)((1,), {}))"
    run = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert run.stdout == "__main__.f(x=1)\n"


@pytest.mark.parametrize("as_module", [True, False])
def test_a_program_that_is_a_file(as_module: bool, tmp_path: pathlib.Path) -> None:
    """A file that is run has the name under which it would be imported."""
    source = (
        "from neverstale.callkeys import CallKey\nclass C: ...\ndef f(x): ...\nprint(CallKey(f)((C,), {}))"
    )
    (tmp_path / "report.py").write_text(source)
    how = ["-m", "report"] if as_module else ["report.py"]
    run = subprocess.run([sys.executable, *how], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout == "report.f(x=type(report.C))\n"


def test_self_is_part_of_the_key() -> None:
    """Objects that can be told apart have keys of their own; others get an error that says so."""
    method = CallKey(Shop.product)
    assert method((Shop("a"), 1), {}) == f'{HERE}.Shop.product(self={HERE}.Shop(name="a"),id=1)'
    assert method((Shop("a"), 1), {}) != method((Shop("b"), 1), {})
    with pytest.raises(
        KeyingError, match=r"'self' of type .*Catalog has nothing .* self is in the key of a method"
    ):
        CallKey(Catalog.product)((Catalog(), 1), {})


def test_a_bound_method_has_its_object_in_the_key() -> None:
    """Methods of two objects do not share keys, and are the same as the unbound one with the object."""
    one, other = Shop("a"), Shop("b")
    assert key_of(one.product, 1) == key_of(Shop.product, one, 1)
    assert key_of(one.product, id=1) != key_of(other.product, id=1)
    assert key_of(Catalog.all) == f"{HERE}.Catalog.all(cls=type({HERE}.Catalog),page=1)"
    assert key_of(Catalog.all) != key_of(SubCatalog.all)
    assert key_of(Catalog.helper, 1) == f"{HERE}.Catalog.helper(x=1)"
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'id'"):
        key_of(one.product)


def test_the_first_parameter_can_be_left_out() -> None:
    """`skip_first` keeps it out of the key, but it must be given."""
    key = CallKey(Catalog.product, skip_first=True)
    expected = f'{HERE}.Catalog.product(id=1,lang="en")'
    assert key((Catalog(), 1), {}) == expected
    assert key((Catalog(),), {"id": 1}) == expected
    assert key((), {"self": Catalog(), "id": 1}) == expected
    with pytest.raises(TypeError, match="'self'"):
        key((), {"id": 1})
    with pytest.raises(TypeError):
        key((Catalog(),), {"self": Catalog(), "id": 1})
    assert CallKey(open_ended, skip_first=True)((Nobody(), 2), {}) == f"{HERE}.open_ended(*args=(2,),b=1)"
