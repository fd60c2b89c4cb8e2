"""The decorator: calls are cached by their arguments, and stay what they were for callers."""

from __future__ import annotations

import asyncio
import datetime as dt
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from neverstale import KeyingError, UsageError, add_tags
from neverstale.testing.servers import Server
from tests.behaviour.conftest import on_one_server
from tests.behaviour.faces import Face, FaceCached, until
from tests.behaviour.test_soft_ttl import SOFT

if TYPE_CHECKING:
    from somewhere import Session  # type: ignore[import-not-found]

#: What the functions below were called with; emptied before each test.
calls: list[Any] = []


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    calls.clear()


@dataclass
class Product:
    number: int
    seen: dt.date


class Unkeyable:
    """An object with an address and nothing else."""


def plain(*args: Any, **kwargs: Any) -> list[Any]:
    """Say what it was called with."""
    calls.append((args, kwargs))
    return [repr(args), repr(kwargs)]


def product(number: int, /, lang: str = "en", *, draft: bool = False) -> Product:
    """Read a product."""
    calls.append((number, lang, draft))
    return Product(number, dt.date(2026, 1, number))


def nothing(key: object) -> None:
    """Return nothing, which is a value."""
    calls.append(key)


def failing(key: object) -> int:
    """Raise."""
    calls.append(key)
    raise LookupError(key)


def names_tags(key: str) -> str:
    """Name a tag while it loads."""
    add_tags(f"late:{key}")
    calls.append(key)
    return key


def with_session(session: Session, number: int) -> Product:
    """Take something that only type checkers can import."""
    return Product(number, dt.date(2026, 1, number))


@dataclass
class Shop:
    name: str

    def price(self, number: int) -> str:
        """Tell a price."""
        calls.append((self.name, number))
        return f"{self.name} {number}"


@dataclass
class Branch:
    name: str

    price: ClassVar[Any]
    tagged: ClassVar[Any]


@on_one_server
async def test_a_call_is_loaded_once(face: Face, other: Face) -> None:
    """The function runs for the first call; the same call in any process has its result, of its type."""
    cached, elsewhere = face.cached(product), other.cached(product)
    assert [await each(5) for each in (cached, cached, elsewhere)] == [Product(5, dt.date(2026, 1, 5))] * 3
    assert calls == [(5, "en", False)]


@on_one_server
async def test_the_same_call_written_differently(face: Face) -> None:
    """Defaults and keywords make no difference where they make none to the function."""
    cached = face.cached(product)
    await cached(5)
    await cached(5, "en")
    await cached(5, lang="en", draft=False)
    assert len(calls) == 1
    await cached(5, draft=True)
    await cached(5, "de")
    assert len(calls) == 3


@on_one_server
async def test_different_calls_never_share_a_value(face: Face) -> None:
    """Arguments that differ, also only by their type, have values of their own."""
    cached = face.cached(plain)
    different: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        (("1:b:2", "3"), {}),
        (("1", "2:b:3"), {}),
        ((1,), {}),
        (("1",), {}),
        ((None,), {}),
        (("",), {}),
        ((True,), {}),
        ((1.0,), {}),
        ((b"1",), {}),
        (("None",), {}),
        (("True",), {}),
        ((), {}),
        (((),), {}),
        (([],), {}),
        (({},), {}),
        ((1, 2), {}),
        (((1, 2),), {}),
        (([1, 2],), {}),
        (("1, 2",), {}),
        (("1", "2"), {}),
        ((), {"a": 1}),
        (("a", 1), {}),
        (("a=1",), {}),
        (({"a": 1},), {}),
        (("{",), {}),
        (("%7B",), {}),
        (("x" * 600,), {}),
        (("x" * 601,), {}),
    ]
    for args, kwargs in different:
        await cached(*args, **kwargs)
    assert calls == different
    for args, kwargs in different:
        assert await cached(*args, **kwargs) == [repr(args), repr(kwargs)]
    assert len(calls) == len(different) == len({cached.key(*args, **kwargs) for args, kwargs in different})


@on_one_server
async def test_functions_never_share_a_value(face: Face) -> None:
    """Two functions with the same arguments have values of their own."""
    first, second = face.cached(nothing), face.cached(names_tags)
    assert await first("a") is None
    assert await second("a") == "a"


@on_one_server
async def test_none_and_exceptions(face: Face) -> None:
    """None is cached, an exception is not."""
    silent, broken = face.cached(nothing), face.cached(failing)
    assert [await silent(1), await silent(1)] == [None, None]
    assert calls == [1]
    for _ in range(2):
        with pytest.raises(LookupError, match="2"):
            await broken(2)
    assert calls == [1, 2, 2]


async def test_invalidate(face: Face, other: Face) -> None:
    """The value of these arguments is forgotten everywhere, and no other."""
    cached, elsewhere = face.cached(product), other.cached(product)
    for each in (5, 6):
        await cached(each)
    receipt = await elsewhere.invalidate(5, lang="en")
    assert (receipt.kind, receipt.names, receipt.removed) == ("key", (cached.key(5),), 1)
    for each in (5, 6):
        await cached(each)
    assert [number for number, _, _ in calls] == [5, 6, 5]


@on_one_server
async def test_the_key(face: Face, server: Server) -> None:
    """The key tells the function and the arguments, and is that of the entry."""
    view = face.with_prefix("calls:")
    cached = view.cached(product)
    await cached(5)
    key = cached.key(5)
    assert key == f'{product.__module__}.product(number=5,lang="en",draft=False)'
    assert server.keys() == [f"v1:calls:{key}".encode()]
    assert await view.get_json(key, Product) == Product(5, dt.date(2026, 1, 5))


@on_one_server
async def test_a_key_of_ones_own(face: Face, server: Server) -> None:
    """A function of the same arguments may make the key."""
    cached = face.cached(product, key=lambda number, lang="en", **_: f"product:{number}:{lang}")
    await cached(5, draft=True)
    await cached(5, draft=False)
    assert server.keys() == [b"v1:product:5:en"]
    assert calls == [(5, "en", True)]
    assert cached.key(6, "de") == "product:6:de"
    assert (await cached.invalidate(5)).removed == 1


async def test_tags_given(face: Face) -> None:
    """Tags of the decorator are tags of every call."""
    cached = face.cached(product, tags=["products"])
    for number in (5, 6, 5):
        await cached(number)
    assert (await face.invalidate_tag("products")).removed == 2
    await cached(5)
    assert len(calls) == 3


async def test_tags_of_arguments(face: Face) -> None:
    """Tags may be a function of the arguments."""
    cached = face.cached(product, tags=lambda number, lang="en", **_: [f"product:{number}", f"lang:{lang}"])
    for number, lang in ((5, "en"), (5, "de"), (6, "de")):
        await cached(number, lang=lang)
    assert (await face.invalidate_tag("product:5")).removed == 2
    assert (await face.invalidate_tag("lang:de")).removed == 1
    assert (await face.invalidate_tags("lang:en", "product:6")).removed == 0


async def test_tags_named_by_the_function(face: Face) -> None:
    """The function may name tags while it runs."""
    cached = face.cached(names_tags)
    for _ in range(3):
        await cached("a")
    assert calls == ["a", "a"]  # once more, because the tag was new
    assert (await face.invalidate_tag("late:a")).removed == 1


async def test_ttls(face: Face, server: Server) -> None:
    """TTL and soft TTL of the decorator are those of its values."""
    cached = face.cached(product, ttl=50, soft_ttl=SOFT)
    await cached(5)
    (key,) = server.keys()
    assert 40_000 < server.client().pttl(key) <= 50_000
    while face.stats().stale_hits == 0:
        await cached(5)
    await until(lambda: len(calls) >= 2)


@on_one_server
async def test_a_type_given(face: Face) -> None:
    """The type of the values may be given; by default it is what the function's annotation says."""
    cached = face.cached(plain, type=tuple[str, str])
    assert [await cached(), await cached()] == [("()", "{}"), ("()", "{}")]


@on_one_server
async def test_an_annotation_for_type_checkers_only(face: Face) -> None:
    """The type is found though another annotation names what only type checkers import."""
    cached = face.cached(with_session, key=lambda session, number: f"product:{number}")
    assert [await cached(None, 5) for _ in range(2)] == [Product(5, dt.date(2026, 1, 5))] * 2


async def test_one_call_for_many_callers(face: Face) -> None:
    """Callers that come together share one call."""
    cached = face.cached(product)
    found = await asyncio.gather(*(cached(5) for _ in range(30)))
    assert found == [Product(5, dt.date(2026, 1, 5))] * 30
    assert len(calls) == 1


# --- methods ------------------------------------------------------------------------------------------------------


def decorated(face: Face) -> Any:
    """Give `Branch` methods as an application writes them, with this face's decorator."""
    method = face.fitting(Shop.price)
    Branch.price = face.cache.cached()(method)
    Branch.tagged = face.cache.cached(tags=lambda self, number: [self.name])(method)
    return Branch


@on_one_server
async def test_methods(face: Face) -> None:
    """`self` is part of the key of a method's call; `invalidate` and `key` are called without it."""
    branch = decorated(face)
    north, south = branch("north"), branch("south")
    for each in (north, south, north, branch("north")):
        assert await face.call(each.price, 5) == f"{each.name} 5"
    assert calls == [("north", 5), ("south", 5)]
    assert north.price.key(5) == branch.price.key(north, 5) != south.price.key(5)
    assert (await face.call(north.price.invalidate, 5)).removed == 1
    await face.call(north.price, 5)
    await face.call(branch.price, south, number=5)
    assert calls == [("north", 5), ("south", 5), ("north", 5)]


@on_one_server
async def test_tags_of_methods(face: Face) -> None:
    """A function that makes tags is given `self`, as the method is."""
    branch = decorated(face)
    await face.call(branch("north").tagged, 5)
    assert (await face.invalidate_tag("north")).removed == 1


@on_one_server
async def test_a_method_of_an_object_without_a_key(face: Face) -> None:
    """An object with only an address cannot be part of a key: an error that names it and says what to do."""

    class Service:
        price = face.cache.cached()(face.fitting(Shop.price))

    with pytest.raises(KeyingError, match=r"self.*Service") as caught:
        await face.call(Service().price, 5)
    assert "__cache_key__" in str(caught.value)
    assert calls == []


# --- errors, and what is kept -------------------------------------------------------------------------------------


@on_one_server
async def test_arguments_without_a_key(face: Face, server: Server) -> None:
    """An argument that has no stable key is a clear error before anything is done, nested or not."""
    cached = face.cached(plain)
    for argument in (Unkeyable(), [Unkeyable()], {"k": Unkeyable()}, lambda: 1, object()):
        for call in (cached, cached.invalidate):
            with pytest.raises(KeyingError, match="args"):
                await call(argument)
    assert (calls, server.keys()) == ([], [])


@on_one_server
async def test_wrong_arguments(face: Face) -> None:
    """A call that the function would refuse is refused with its own error."""
    cached = face.cached(product)
    for call in (cached, cached.invalidate):
        with pytest.raises(TypeError, match="lamp"):
            await call(5, lamp=1)


@on_one_server
async def test_wrong_options(face: Face) -> None:
    """A wrong option is found where the function is decorated."""
    wrong: list[dict[str, Any]] = [
        {"ttl": -1},
        {"ttl": "5"},
        {"soft_ttl": 0},
        {"tags": "text"},
        {"tags": [5]},
    ]
    for options in wrong:
        with pytest.raises(UsageError):
            face.cached(product, **options)


@on_one_server
async def test_without_parentheses(face: Face) -> None:
    """`@cache.cached` without parentheses is an error that says how to write it."""
    with pytest.raises(UsageError, match="parentheses"):
        face.cache.cached(face.fitting(product))


@on_one_server
async def test_wrong_tags_of_arguments(face: Face) -> None:
    """A function that makes tags must return several texts."""
    cached = face.cached(product, tags=lambda number: "text")
    with pytest.raises(UsageError, match="not one string"):
        await cached(5)


@on_one_server
async def test_a_wrong_key_of_ones_own(face: Face) -> None:
    """A function that makes keys must return text."""
    cached = face.cached(product, key=lambda number: number)
    with pytest.raises(UsageError, match="a key is a string"):
        await cached(5)


@on_one_server
async def test_the_other_kind_of_function(face: Face) -> None:
    """A coroutine function on the synchronous face, or a plain one on the other, is an error that says so."""
    with pytest.raises(UsageError, match="AsyncCache" if face.kind == "sync" else "async def"):
        face.cache.cached()(inspect.unwrap(product) if face.kind == "async" else asyncio.sleep)


@on_one_server
async def test_functions_without_a_name_of_their_own(face: Face) -> None:
    """Lambdas and inner functions may share a name, so they need a key."""

    def inner(number: int) -> int:
        return number

    for function in (inner, lambda number: number):
        with pytest.raises(KeyingError, match="pass key="):
            face.cached(function)
    assert await face.cached(inner, key=lambda number: f"inner:{number}")(5) == 5


@on_one_server
def test_what_is_kept(face: Face) -> None:
    """Name, docstring and signature are those of the function, and frameworks see what kind of function it is."""
    cached: FaceCached = face.cached(product)
    function: Callable[..., Any] = cached.decorated
    assert (function.__name__, function.__doc__) == ("product", "Read a product.")
    assert function.__module__ == product.__module__
    assert inspect.signature(function) == inspect.signature(product)
    assert "product" in repr(function)
    if hasattr(inspect, "markcoroutinefunction"):
        assert inspect.iscoroutinefunction(function) == (face.kind == "async")


@on_one_server
def test_what_is_kept_of_a_method(face: Face) -> None:
    """A cached method of an object has the name, the docstring and the signature of the method."""
    bound = decorated(face)("north").price
    assert (bound.__name__, bound.__doc__) == ("price", "Tell a price.")
    assert inspect.signature(bound) == inspect.signature(Shop("north").price)
