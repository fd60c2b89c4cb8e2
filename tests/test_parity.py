"""The two faces are one: the same names, parameters, defaults, types and words, but for `await`."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import neverstale
from neverstale import AsyncCache, Cache
from neverstale.computed import AsyncComputed, Computed
from neverstale.decorate import AsyncCached, BoundAsyncCached, BoundCached, Cached
from neverstale.drive.aio import AsyncDriver
from neverstale.drive.clients import AsyncConnections, Connections
from neverstale.drive.lanes import AsyncWire, ClusterLanes, SingleLane
from neverstale.drive.threads import ThreadDriver
from neverstale.drive.wire import ClusterWire, SingleWire, Wire

FACES = [
    (Cache, AsyncCache),
    (Cached, AsyncCached),
    (BoundCached, BoundAsyncCached),
    (Computed, AsyncComputed),
]
#: Each pair below a face, with what only one of the two has.
DRIVERS: list[tuple[type, type, set[str]]] = [
    (Connections, AsyncConnections, set()),
    # A thread is not cancelled: its flow needs no task of its own. Each event loop has
    # flights of its own.
    (ThreadDriver, AsyncDriver, {"run_apart", "flights"}),
    (Wire, AsyncWire, set()),
    (SingleWire, SingleLane, set()),
    (ClusterWire, ClusterLanes, set()),
]

#: What the asynchronous face says in other words for the same thing.
WORDS = {
    "AsyncGenerator": "Generator",
    "AsyncIterator": "Iterator",
    "asynccontextmanager": "contextmanager",
    "Generator[None, None]": "Generator[None, None, None]",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__aiter__": "__iter__",
}
#: Does no I/O, so nobody awaits it; the same for both.
PLAIN = {
    "from_env",
    "from_url",
    "with_prefix",
    "cached",
    "memoized",
    "cache",
    "stats",
    "settings",
    "prefix",
    "events",
    "key",
    "listen",
    "__get__",
    "__init__",
    "__repr__",
}


def same(text: str) -> str:
    """Write what the asynchronous face says as the other does."""
    for theirs, ours in WORDS.items():
        text = text.replace(theirs, ours)
    text = re.sub(r"Coroutine\[Any, Any, (\w+)\]", r"\1", text)
    text = re.sub(r"Callable\[\[\], Awaitable\[T\]\] \| ", "", text)
    text = re.sub(r"Awaitable\[((?:[^][]|\[(?:[^][]|\[[^][]*\])*\])*)\]", r"\1", text)
    return text.replace("Async", "")


def members(kind: type) -> dict[str, Any]:
    """Return what a class offers, its own and what it has from our bases, under the names of the plain face."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.startswith("neverstale") or base.__module__ == "neverstale":
            found.update(vars(base))
    special = (
        "__init__",
        "__call__",
        "__get__",
        "__repr__",
        "__enter__",
        "__exit__",
        "__aenter__",
        "__aexit__",
    )
    return {
        WORDS.get(name, name): value
        for name, value in found.items()
        if not name.startswith("_") or name in special
    }


def signature(member: Any) -> list[tuple[str, Any, Any, str]]:
    """Return name, kind, default and annotation of each parameter, and what is returned."""
    function = inspect.unwrap(getattr(member, "__func__", member))
    if isinstance(function, property):
        assert function.fget is not None
        function = function.fget
    found = inspect.signature(function)
    parts: list[tuple[str, Any, Any, str]] = [
        (parameter.name, parameter.kind, parameter.default, same(str(parameter.annotation)))
        for parameter in found.parameters.values()
    ]
    return [*parts, ("return", None, None, same(str(found.return_annotation)))]


def awaited(member: Any) -> bool:
    function = inspect.unwrap(getattr(member, "__func__", member))
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def overloads(kind: type) -> dict[str, list[str]]:
    """Return the overloaded signatures of a class, as they are written."""
    function = next(member for member in vars(kind).values() if inspect.isfunction(member))
    (tree,) = [
        node
        for node in ast.parse(Path(function.__code__.co_filename).read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == kind.__name__
    ]
    found: dict[str, list[str]] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and any(
            isinstance(decorator, ast.Name) and decorator.id == "overload"
            for decorator in node.decorator_list
        ):
            said = f"({ast.unparse(node.args)}) -> {ast.unparse(node.returns) if node.returns else None}"
            found.setdefault(node.name, []).append(same(said))
    return found


PUBLIC = [
    pytest.param(plain, other, name, id=f"{plain.__name__}.{name}")
    for plain, other in FACES
    for name in sorted({*members(plain), *members(other)})
]


@pytest.mark.parametrize(("plain", "other", "name"), PUBLIC)
def test_faces(plain: type, other: type, name: str) -> None:
    """Both have it, with the same parameters, kinds, defaults and types, and say the same of it."""
    mine, theirs = members(plain)[name], members(other)[name]
    assert type(theirs) is type(mine) or callable(theirs)
    if callable(mine) or isinstance(mine, classmethod | property):
        assert signature(theirs) == signature(mine)
    assert same(inspect.getdoc(theirs) or "") == (inspect.getdoc(mine) or "")


@pytest.mark.parametrize(("plain", "other", "name"), PUBLIC)
def test_what_is_awaited(plain: type, other: type, name: str) -> None:
    """Everything that asks Redis is awaited, and nothing else is."""
    mine, theirs = members(plain)[name], members(other)[name]
    if callable(mine) or isinstance(mine, classmethod):
        assert (awaited(mine), awaited(theirs)) == (False, name not in PLAIN or name == "listen")


@pytest.mark.parametrize(("plain", "other"), FACES, ids=lambda kind: kind.__name__)
def test_overloads(plain: type, other: type) -> None:
    """What type checkers are told is the same as well."""
    mine, theirs = overloads(plain), overloads(other)
    for name in mine:
        assert theirs[name] == mine[name]
    assert set(theirs) - set(mine) <= {"get_or_load"}  # whose loader may be a coroutine function


@pytest.mark.parametrize(("plain", "other", "more"), DRIVERS, ids=lambda kind: getattr(kind, "__name__", ""))
def test_drivers(plain: type, other: type, more: set[str]) -> None:
    """Below the faces the names and parameters are the same too."""
    mine, theirs = members(plain), members(other)
    assert set(theirs) - set(mine) == more
    assert set(mine) - set(theirs) == set()
    for name, member in mine.items():
        if not name.startswith("_") and inspect.isfunction(member):
            assert [part[:3] for part in signature(theirs[name])] == [
                part[:3] for part in signature(member)
            ], name


def test_methods_of_the_contract() -> None:
    """The names that users are promised are there."""
    promised = """
        from_env from_url with_prefix get set get_json set_json get_many set_many
        delete get_or_load cached invalidate_key invalidate_pattern invalidate_tag
        invalidate_tags events listen ping health stats close
    """
    for kind in (Cache, AsyncCache):
        assert set(promised.split()) <= set(members(kind))


def test_public_names() -> None:
    """Everything exported is there, says that it is the package's, and has a docstring."""
    for name in neverstale.__all__:
        exported = getattr(neverstale, name)
        assert (exported.__module__, bool(inspect.getdoc(exported))) == ("neverstale", True), name


@pytest.mark.parametrize("kind", [Cache, AsyncCache, Cached, AsyncCached, Computed, AsyncComputed])
def test_everything_public_is_explained(kind: type) -> None:
    """Each public method has a docstring that begins with one sentence."""
    for name, member in members(kind).items():
        if not name.startswith("_") and (callable(member) or isinstance(member, property | classmethod)):
            first = (inspect.getdoc(member) or "").split("\n\n")[0]
            assert first.endswith("."), name
